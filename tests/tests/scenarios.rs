//! The register of failure scenarios, `tests/scenarios.toml`, agrees with the tests in the tree, and
//! `docs/scenarios.md` says what it says. After a change to the register:
//!
//! ```text
//! BLESS=1 cargo test -p quorate-tests --test scenarios
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The kinds of failure and how many scenarios each has. Numbers are never given twice.
const KINDS: &[(char, u8, &str)] = &[
    ('A', 16, "Crashes around a write"),
    ('B', 19, "Disk faults"),
    ('C', 10, "Time"),
    ('D', 17, "Network"),
    ('E', 10, "Identity, amnesia, backups"),
    ('F', 12, "Membership"),
    ('G', 14, "Log and snapshots"),
    ('H', 14, "Clients, reads, retries"),
    ('I', 17, "Hostile input, denial of service"),
    ('J', 24, "Certificates"),
    ('K', 12, "Operation and upgrade"),
];

/// Where tests are.
const FOLDERS: &[&str] = &[
    "certs",
    "quic-transport",
    "consensus",
    "persist",
    "node-bin",
    "tests",
];

const BLESS: &str = "BLESS=1 cargo test -p quorate-tests --test scenarios";

/// A scenario's letter and number, as `A1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Id(char, u8);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let letter = text.chars().next()?.to_ascii_uppercase();
        let digits = text.get(1..)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let number = digits.parse().ok().filter(|_| plain)?;
        letter.is_ascii_uppercase().then_some(Self(letter, number))
    }

    fn all() -> impl Iterator<Item = Self> {
        KINDS
            .iter()
            .flat_map(|(letter, count, _)| (1..=*count).map(|number| Self(*letter, number)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
enum Status {
    #[serde(rename = "automated")]
    Automated,
    #[serde(rename = "waits")]
    Waits,
    #[serde(rename = "out of reach")]
    OutOfReach,
}

/// One entry of the register.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    title: String,
    status: Status,
    /// What it waits for.
    #[serde(rename = "for")]
    waits_for: Option<String>,
    /// Why it is out of reach.
    because: Option<String>,
    #[serde(default)]
    tests: Vec<String>,
    note: Option<String>,
}

type Register = BTreeMap<String, Scenario>;

/// Every test in the tree whose name begins with a number, as `folder::name`, and its file.
type Numbered = BTreeMap<String, PathBuf>;

/// Every scenario is there once and says what its status needs, every test it names exists, and no
/// test carries a number that the register does not know of.
#[test]
fn the_register_and_the_tests_agree() {
    let complaints = disagreements(&register(), &numbered_tests());
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The page for readers is made of the register and never typed.
#[test]
fn the_page_is_made_of_the_register() {
    let page = page(&register(), &numbered_tests());
    let path = root().join("docs/scenarios.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, page).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/scenarios.md is not what the register says; run\n\n    {BLESS}\n"
    );
}

/// Negative control: each kind of disagreement is found.
#[test]
fn control_disagreements() {
    let good = Scenario {
        title: "t".into(),
        status: Status::Automated,
        waits_for: None,
        because: None,
        tests: vec!["persist::a1_b2_x".into()],
        note: None,
    };
    let register: Register = Id::all()
        .map(|id| {
            let mut scenario = good.clone();
            if id != Id('A', 1) && id != Id('B', 2) {
                (scenario.status, scenario.tests) = (Status::Waits, Vec::new());
                scenario.waits_for = Some("x".into());
            }
            (id.to_string(), scenario)
        })
        .collect();
    let tree = Numbered::from([("persist::a1_b2_x".into(), PathBuf::new())]);
    assert_eq!(disagreements(&register, &tree), Vec::<String>::new());

    let found = |change: &dyn Fn(&mut Register, &mut Numbered), word: &str| {
        let (mut register, mut tree) = (register.clone(), tree.clone());
        change(&mut register, &mut tree);
        let complaints = disagreements(&register, &tree);
        assert!(
            complaints.iter().any(|complaint| complaint.contains(word)),
            "{word}: {complaints:#?}"
        );
    };
    found(&|register, _| drop(register.remove("K12")), "K12: missing");
    found(
        &|register, _| drop(register.insert("L1".into(), good.clone())),
        "L1: no such",
    );
    found(&|_, tree| tree.clear(), "does not exist");
    let named = |register: &mut Register, id: &str, test: &str| {
        let scenario = register.get_mut(id).unwrap();
        scenario.tests.push(test.into());
    };
    found(
        &|register, _| named(register, "A2", "persist::a1_b2_x"),
        "A2: `persist::a1_b2_x` does not carry the number",
    );
    found(
        &|register, _| register.get_mut("B2").unwrap().tests.clear(),
        "B2: `persist::a1_b2_x` is not named",
    );
    found(
        &|register, _| register.get_mut("B2").unwrap().tests.clear(),
        "B2: automated without a test",
    );
    found(
        &|register, _| register.get_mut("C1").unwrap().waits_for = None,
        "C1: does not say what it waits for",
    );
    found(
        &|_, tree| drop(tree.insert("certs::a17_x".into(), PathBuf::new())),
        "A17, which does not exist",
    );
}

/// Negative control: numbers are read from the beginning of a name only, and from tests only.
#[test]
fn control_numbers() {
    assert_eq!(carried("a1_j24_k3x_b2"), [Id('A', 1), Id('J', 24)]);
    assert_eq!(carried("a_b5_store"), []);
    assert_eq!(carried("a01_x"), []);
    let text = "#[test]\nfn a1_x() {}\nfn a2_x() {}\n#[test]\n#[should_panic]\nfn a3_x() {}\n";
    assert_eq!(tests_in(text), ["a1_x", "a3_x"]);
}

fn disagreements(register: &Register, tree: &Numbered) -> Vec<String> {
    let mut complaints = Vec::new();
    let expected: BTreeSet<String> = Id::all().map(|id| id.to_string()).collect();
    for id in expected.iter().filter(|id| !register.contains_key(*id)) {
        complaints.push(format!("{id}: missing"));
    }
    for (id, scenario) in register {
        if !expected.contains(id) {
            complaints.push(format!("{id}: no such scenario"));
        }
        let mistakes = mistakes(id, scenario, tree);
        complaints.extend(mistakes.iter().map(|mistake| format!("{id}: {mistake}")));
    }
    for test in tree.keys() {
        for id in carried(test_name(test)) {
            match register.get(&id.to_string()) {
                Some(scenario) if scenario.tests.contains(test) => {}
                Some(_) => complaints.push(format!("{id}: `{test}` is not named")),
                None => complaints.push(format!("`{test}` carries {id}, which does not exist")),
            }
        }
    }
    complaints
}

fn mistakes(id: &str, scenario: &Scenario, tree: &Numbered) -> Vec<String> {
    let mut mistakes = Vec::new();
    let (waits, because) = (scenario.waits_for.is_some(), scenario.because.is_some());
    match scenario.status {
        Status::Automated if scenario.tests.is_empty() => {
            mistakes.push("automated without a test".into());
        }
        Status::Automated if waits || because => {
            mistakes.push("automated, and still gives a reason why it is not".into());
        }
        Status::Waits if !waits => mistakes.push("does not say what it waits for".into()),
        Status::OutOfReach if !because => mistakes.push("does not say why".into()),
        Status::Automated | Status::Waits | Status::OutOfReach => {}
    }
    for test in &scenario.tests {
        if !tree.contains_key(test) {
            mistakes.push(format!("`{test}` does not exist"));
        }
        if !carried(test_name(test)).contains(&Id::parse(id).unwrap_or(Id('?', 0))) {
            mistakes.push(format!("`{test}` does not carry the number"));
        }
    }
    mistakes
}

/// The numbers that the name of a test begins with: `a1_j24_damage` carries A1 and J24.
fn carried(name: &str) -> Vec<Id> {
    name.split('_').map_while(Id::parse).collect()
}

fn test_name(test: &str) -> &str {
    test.split_once("::").map_or(test, |(_, name)| name)
}

/// The names of the test functions in a source.
fn tests_in(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("fn ") {
            if is_test {
                names.extend(rest.split('(').next());
            }
            is_test = false;
        } else if line == "#[test]" {
            is_test = true;
        }
    }
    names
}

fn numbered_tests() -> Numbered {
    let mut tests = Numbered::new();
    for folder in FOLDERS {
        for path in sources(&root().join(folder)) {
            let text = fs::read_to_string(&path).expect("a source is readable");
            let names = tests_in(&text).into_iter();
            for name in names.filter(|name| !carried(name).is_empty()) {
                let inside = path.strip_prefix(root()).expect("below the root");
                let former = tests.insert(format!("{folder}::{name}"), inside.into());
                assert_eq!(former, None, "{folder}::{name} is there twice");
            }
        }
    }
    assert!(tests.len() > 50, "the tests are found: {tests:#?}");
    tests
}

/// All Rust sources below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn register() -> Register {
    let path = root().join("tests/scenarios.toml");
    let text = fs::read_to_string(path).expect("the register is readable");
    toml::from_str(&text).expect("the register is TOML, each scenario once")
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the workspace").into()
}

// The page.

fn page(register: &Register, tree: &Numbered) -> String {
    let mut page = String::from(INTRODUCTION);
    summary(&mut page, register);
    for (letter, count, kind) in KINDS {
        let _ = write!(page, "\n## {letter}. {kind}\n\n");
        page.push_str("| | scenario | status |\n|---|---|---|\n");
        for id in (1..=*count).map(|number| Id(*letter, number).to_string()) {
            if let Some(scenario) = register.get(&id) {
                let status = status(scenario, tree);
                let _ = writeln!(page, "| {id} | {} | {status} |", scenario.title);
            }
        }
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Made of tests/scenarios.toml; change that, then: BLESS=1 cargo test -p quorate-tests --test scenarios -->

# Failure scenarios

Everything that is known to break systems of this kind, each with a number. A test that shows what happens
carries the number at the beginning of its name: `cargo test --workspace a13_` runs those of A13. A scenario
is *automated* when tests show all of it; it *waits* when something has to be built first, and then the tests
named show a part; it is *out of reach* when it cannot arise or cannot be shown.

";

fn summary(page: &mut String, register: &Register) {
    page.push_str("| | automated | wait | out of reach | of |\n|---|---|---|---|---|\n");
    let statuses = [Status::Automated, Status::Waits, Status::OutOfReach];
    let mut totals = [0; 3];
    for (letter, count, kind) in KINDS {
        let counts = statuses.map(|status| {
            let of_kind = register.iter().filter(|(id, _)| id.starts_with(*letter));
            of_kind
                .filter(|(_, scenario)| scenario.status == status)
                .count()
        });
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
        let [automated, waits, out] = counts;
        let _ = writeln!(
            page,
            "| {letter}. {kind} | {automated} | {waits} | {out} | {count} |"
        );
    }
    let [automated, waits, out] = totals;
    let all = Id::all().count();
    let _ = writeln!(
        page,
        "| **all** | **{automated}** | **{waits}** | **{out}** | **{all}** |"
    );
}

fn status(scenario: &Scenario, tree: &Numbered) -> String {
    let mut status = match (scenario.status, &scenario.waits_for, &scenario.because) {
        (Status::Waits, Some(what), _) => format!("waits for {what}"),
        (Status::OutOfReach, _, Some(why)) => format!("out of reach: {why}"),
        _ => "automated".to_owned(),
    };
    if let Some(note) = &scenario.note {
        let _ = write!(status, ". {note}");
    }
    for test in &scenario.tests {
        let path = tree.get(test).map(|path| path.display().to_string());
        let path = path.unwrap_or_default();
        let _ = write!(status, "<br>[`{}`](../{path})", test_name(test));
    }
    status
}
