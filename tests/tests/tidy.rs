//! Holds the arrows and the "never"s of ARCHITECTURE.md, and the facts the README states.
//!
//! Each checker is a function from text to complaints, so that each has a negative control: a test
//! in which it must complain. A checker that cannot find anything would otherwise look like order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

/// A file this long has a second reason to change. The longest ones are printed by the test.
const LINES_MAX: usize = 700;

/// Where the demonstration's output must have begun, so that it is seen without scrolling.
const README_DEMO_LINE_MAX: usize = 30;

/// The folders of the workspace, what each may not depend on, and the words its sources may not use.
/// A name that ends in `*` stands for all that begin so.
const CRATES: &[Rules] = &[
    Rules {
        folder: "certs",
        package: "quorate-certs",
        never_depends_on: &[
            "quorate*", "raft", "redb", "quinn*", "tokio*", "smol*", "async-*", "futures*",
        ],
        never_says: &["async fn", ".await", "raft::", "eraftpb"],
    },
    Rules {
        folder: "quic-transport",
        package: "quorate-quic-transport",
        never_depends_on: &[
            "quorate",
            "quorate-consensus",
            "quorate-persist",
            "raft",
            "redb",
            "protobuf",
        ],
        never_says: &["raft::", "eraftpb", "redb::"],
    },
    Rules {
        folder: "consensus",
        package: "quorate-consensus",
        never_depends_on: &[
            "quorate*",
            "quinn*",
            "rustls*",
            "rcgen",
            "redb",
            "postcard",
            "tokio*",
            "smol*",
            "async-std",
            "async-io",
            "getrandom",
            "rand*",
        ],
        never_says: &[
            "quinn::",
            "redb::",
            "postcard::",
            "tokio::",
            "smol::",
            "async_std::",
        ],
    },
    Rules {
        folder: "persist",
        package: "quorate-persist",
        never_depends_on: &[
            "quorate",
            "quorate-quic-transport",
            "quorate-certs",
            "quinn*",
            "raft",
            "tokio*",
            "smol*",
            "async-*",
            "futures*",
        ],
        never_says: &[
            "async fn",
            "async move",
            ".await",
            "raft::",
            "eraftpb",
            "quinn::",
        ],
    },
    Rules {
        folder: "node-bin",
        package: "quorate",
        never_depends_on: &["raft", "protobuf", "quorate-tests"],
        never_says: &["raft::", "eraftpb"],
    },
    Rules {
        folder: "tests",
        package: "quorate-tests",
        never_depends_on: &["raft", "protobuf"],
        never_says: &["raft::", "eraftpb"],
    },
];

/// What the deciding part of `consensus` (everything outside `driver/`) may not know.
const PURE_NEVER_SAYS: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "Instant",
    "SystemTime",
    "thread::",
    "std::fs",
    "std::io",
    "std::net",
    "HashMap",
    "HashSet",
    "thread_rng",
];

/// Besides the crates. Everything else at the top level is a file or begins with a dot.
const OTHER_FOLDERS: &[&str] = &["docs", "scripts"];

struct Rules {
    folder: &'static str,
    package: &'static str,
    never_depends_on: &'static [&'static str],
    never_says: &'static [&'static str],
}

// What the workspace is.

/// Every dependency edge goes the way ARCHITECTURE.md draws it.
#[test]
fn arrows_go_one_way() {
    let mut complaints = Vec::new();
    for rules in CRATES {
        let manifest = manifest(rules.folder);
        assert_eq!(package_name(&manifest), rules.package);
        for complaint in forbidden_dependencies(&manifest, rules.never_depends_on) {
            complaints.push(format!("{}: {complaint}", rules.folder));
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// No source uses a word that its crate must not know, `consensus` decides without clock, thread,
/// entropy, I/O or hash order, and every crate root forbids unsafe code.
#[test]
fn sources_keep_the_nevers() {
    let mut complaints = Vec::new();
    for rules in CRATES {
        for (path, text) in sources(rules.folder) {
            complain(&mut complaints, &path, &said(&text, rules.never_says));
            let inside = path
                .strip_prefix(root())
                .expect("sources are below the root");
            if inside.starts_with("consensus/src") && !inside.starts_with("consensus/src/driver") {
                let decides = without_tests(&text);
                complain(&mut complaints, &path, &said(decides, PURE_NEVER_SAYS));
            }
            if is_crate_root(inside) && !text.contains("#![forbid(unsafe_code)]") {
                complaints.push(format!("{}: does not forbid unsafe code", path.display()));
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Nothing is left for later without a trace: no markers, no unfinished bodies, no skipped tests,
/// and no file that has outgrown its concept.
#[test]
fn nothing_is_left_unfinished() {
    let mut complaints = Vec::new();
    let mut lengths = Vec::new();
    for rules in CRATES {
        for (path, text) in sources(rules.folder) {
            complain(&mut complaints, &path, &unfinished(&text));
            lengths.push((text.lines().count(), path));
        }
    }
    lengths.sort();
    for (lines, path) in lengths.iter().rev().take(10) {
        println!("{lines:5} {}", path.display());
        if *lines > LINES_MAX {
            complaints.push(format!(
                "{}: {lines} lines, at most {LINES_MAX}",
                path.display()
            ));
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The top level is what was commissioned and nothing else, and all crates share one set of lints.
#[test]
fn the_top_level_is_as_commissioned() {
    let crates: BTreeSet<String> = CRATES.iter().map(|rules| rules.folder.into()).collect();
    let mut allowed = crates.clone();
    allowed.extend(OTHER_FOLDERS.iter().map(ToString::to_string));
    let strange: Vec<String> = top_level_folders().difference(&allowed).cloned().collect();
    assert!(strange.is_empty(), "not commissioned: {strange:?}");

    let workspace = manifest(".");
    let members = strings(&workspace["workspace"]["members"]);
    assert_eq!(members.into_iter().collect::<BTreeSet<_>>(), crates);
    for folder in &crates {
        let inherits = manifest(folder)["lints"]["workspace"].as_bool();
        assert_eq!(inherits, Some(true), "{folder} has lints of its own");
    }
}

/// What is released ends at a panic, as docs/guarantees.md says: it does not unwind into further writes.
#[test]
fn a_panic_ends_what_is_released() {
    let workspace = manifest(".");
    assert_eq!(at_a_panic(&workspace, "release"), Some("abort"));
    // The others unwind, so that a test that fails is not the end of those after it.
    assert_eq!(at_a_panic(&workspace, "planted"), Some("unwind"));
    let promise = "In the shipped binary a panic aborts the process.";
    let guarantees = std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    assert!(guarantees.contains(promise), "no such promise any more");
}

/// Every exception in deny.toml says why it is one.
#[test]
fn every_exception_has_a_reason() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: Table = text.parse().unwrap();
    assert_eq!(without_reason(&deny), Vec::<String>::new());
}

/// The README shows the demonstration early, and states the versions and names that are true.
#[test]
fn the_readme_states_facts() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let workspace = manifest(".");
    let rust = workspace["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    let mut complaints = demo_is_shown_early(&readme);
    complaints.extend(rust_version_is(&readme, rust));
    for rules in CRATES.iter().filter(|rules| rules.folder != "tests") {
        if !readme.contains(&format!("`{}`", rules.package)) {
            complaints.push(format!("does not name the crate `{}`", rules.package));
        }
    }
    for (_, file) in linked_files(&readme) {
        if !root().join(&file).exists() {
            complaints.push(format!("links to {file}, which does not exist"));
        }
    }
    assert!(complaints.is_empty(), "README.md: {complaints:#?}");
}

// The checkers.

fn package_name(manifest: &Table) -> &str {
    manifest["package"]["name"]
        .as_str()
        .expect("a name is a string")
}

/// What `profile` of a workspace does at a panic, where it says so itself.
fn at_a_panic<'a>(workspace: &'a Table, profile: &str) -> Option<&'a str> {
    let profiles = workspace.get("profile")?;
    profiles.get(profile)?.get("panic")?.as_str()
}

/// The dependencies of any kind (also of tests, builds and single targets) that match `never`.
fn forbidden_dependencies(manifest: &Table, never: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (section, value) in manifest {
        let Value::Table(table) = value else { continue };
        match section.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => {
                for (name, how) in table {
                    // `alias = { package = "raft" }` is a dependency on raft.
                    let renamed = how.get("package").and_then(Value::as_str);
                    for name in renamed.into_iter().chain([name.as_str()]) {
                        if never.iter().any(|pattern| matches(pattern, name)) {
                            found.push(format!("[{section}] {name}"));
                        }
                    }
                }
            }
            "target" => {
                for target in table.values().filter_map(Value::as_table) {
                    found.extend(forbidden_dependencies(target, never));
                }
            }
            _ => {}
        }
    }
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// Lines of code (comments do not count) that use one of `words` as a word of its own.
fn said(text: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for word in words.iter().filter(|word| uses(code, word)) {
            found.push(format!("{}: says `{word}`: {}", number + 1, line.trim()));
        }
    }
    found
}

/// Whether `word` stands in `code` on its own: `raft::` does in `raft::Config`, not in `my_raft::`,
/// and not in a string.
fn uses(code: &str, word: &str) -> bool {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = !word.starts_with(name) || !before.is_some_and(name);
        let ends = !word.ends_with(name) || !after.is_some_and(name);
        let quotes = |text: &str| text.matches('"').count() - text.matches("\\\"").count();
        let quoted = quotes(&code[..at]) % 2 == 1;
        starts && ends && !quoted
    })
}

fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]").map_or(text, |at| &text[..at])
}

/// Markers of unfinished work. Spelt apart, so that this file does not find itself.
fn unfinished(text: &str) -> Vec<String> {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("Place", "holder while"),
    ];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for marker in markers.iter().filter(|marker| line.contains(**marker)) {
            found.push(format!("{}: {marker}", number + 1));
        }
    }
    found
}

fn is_crate_root(inside: &Path) -> bool {
    inside.ends_with("src/lib.rs") || inside.ends_with("src/main.rs")
}

/// Exceptions in a cargo-deny configuration that carry no reason.
fn without_reason(deny: &Table) -> Vec<String> {
    let list = |section: &str, key: &str| -> Vec<Value> {
        let value = deny.get(section).and_then(|section| section.get(key));
        value.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut exceptions = list("advisories", "ignore");
    for key in ["skip", "skip-tree", "deny"] {
        exceptions.extend(list("bans", key));
    }
    exceptions.extend(list("licenses", "exceptions"));
    exceptions
        .iter()
        .filter(|exception| {
            let reason = exception.get("reason").and_then(Value::as_str);
            reason.is_none_or(|reason| reason.split(' ').count() < 3)
        })
        .map(ToString::to_string)
        .collect()
}

/// The first fenced block after the demonstration's command must begin early and be its output.
fn demo_is_shown_early(readme: &str) -> Vec<String> {
    let early: Vec<&str> = readme.lines().take(README_DEMO_LINE_MAX - 1).collect();
    let early = early.join("\n");
    let command = "cargo run --release -p quorate -- demo";
    let mut complaints = Vec::new();
    if !early.contains(command) {
        complaints.push(format!(
            "`{command}` is not above line {README_DEMO_LINE_MAX}"
        ));
    }
    let shown = early.split(command).nth(1).unwrap_or_default();
    if !(shown.contains("leader") && shown.contains(" ms")) {
        complaints.push(format!("no output of it above line {README_DEMO_LINE_MAX}"));
    }
    complaints
}

/// Each Rust version the README names is the one of the manifests, and it names it.
fn rust_version_is(readme: &str, expected: &str) -> Vec<String> {
    let named: Vec<&str> = readme
        .split("Rust 1.")
        .skip(1)
        .map(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            &rest[..digits]
        })
        .collect();
    let wrong = |minor: &&&str| format!("1.{minor}") != expected;
    match named.iter().find(wrong) {
        Some(minor) => vec![format!("says Rust 1.{minor}, the manifests say {expected}")],
        None if named.is_empty() => vec![format!("does not say that it needs Rust {expected}")],
        None => Vec::new(),
    }
}

/// Relative targets of Markdown links.
fn linked_files(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', '#']).next().unwrap_or_default();
        if !target.is_empty() && !target.contains("://") {
            found.push((at, target.to_owned()));
        }
    }
    found
}

// Reading the checkout.

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the workspace").into()
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).expect("a manifest is readable");
    text.parse().expect("a manifest is TOML")
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|value| value.as_str().expect("of strings").to_owned())
        .collect()
}

/// Every Rust file of a crate with its text: sources, tests and examples.
fn sources(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = path.read_dir().expect("a folder can be listed");
            open.extend(entries.map(|entry| entry.expect("and its entries").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            found.insert(path, text);
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// Folders with something in them that is part of the project. Git knows; without it (an unpacked
/// archive) everything that is there is.
fn top_level_folders() -> BTreeSet<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let paths: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.split('\0').map(str::to_owned).collect()
        }
        _ => {
            let entries = root().read_dir().expect("the root can be listed");
            let entries = entries.map(|entry| entry.expect("and its entries"));
            let folders = entries.filter(|entry| entry.path().is_dir());
            folders
                .map(|entry| format!("{}/", entry.file_name().display()))
                .filter(|name| name != "target/")
                .collect()
        }
    };
    paths
        .iter()
        .filter_map(|path| Some(path.split_once('/')?.0.to_owned()))
        .filter(|folder| !folder.starts_with('.'))
        .collect()
}

fn complain(complaints: &mut Vec<String>, path: &Path, found: &[String]) {
    complaints.extend(
        found
            .iter()
            .map(|what| format!("{}:{what}", path.display())),
    );
}

// Negative controls: each checker finds what it is for.

/// A forbidden edge is found wherever it hides; an allowed one is not.
#[test]
fn control_dependencies() {
    let manifest: Table = r#"
        [dependencies]
        serde.workspace = true
        harmless = { package = "raft", version = "1" }
        [dev-dependencies]
        tokio-util = "1"
        [target.'cfg(unix)'.build-dependencies]
        smol = "2"
    "#
    .parse()
    .unwrap();
    let found = forbidden_dependencies(&manifest, &["raft", "tokio*", "smol", "serd"]);
    let found: BTreeSet<String> = found.into_iter().collect();
    let expected = [
        "[build-dependencies] smol",
        "[dependencies] raft",
        "[dev-dependencies] tokio-util",
    ];
    assert_eq!(found, expected.map(String::from).into());
}

/// A forbidden word is found in code only, and only as a word.
#[test]
fn control_words() {
    let words = &["raft::", ".await", "Instant"];
    for guilty in [
        "use raft::Config;",
        "x.await?;",
        "let t = Instant::now();",
        "(raft::x)",
    ] {
        assert_eq!(said(guilty, words).len(), 1, "{guilty}");
    }
    for innocent in [
        "// raft::Config says so",
        "use quorate_raft::X;",
        "Instantly",
        "\"raft::\"",
        "let x = 1; // .await",
    ] {
        assert_eq!(said(innocent, words), Vec::<String>::new(), "{innocent}");
    }
    assert_eq!(without_tests("a\n#[cfg(test)]\nHashMap"), "a\n");
}

/// Markers, missing reasons, a late demonstration and a wrong version are found.
#[test]
fn control_facts() {
    assert_eq!(
        unfinished(concat!("fn a() { to", "do!() }\n// TO", "DO")).len(),
        2
    );
    assert_eq!(unfinished("fn a() {}"), Vec::<String>::new());

    let deny: Table = r#"
        [advisories]
        ignore = ["RUSTSEC-1", { id = "RUSTSEC-2", reason = "because" },
                  { id = "RUSTSEC-3", reason = "it is never reached from outside" }]
    "#
    .parse()
    .unwrap();
    assert_eq!(without_reason(&deny).len(), 2);

    let demo = "cargo run --release -p quorate -- demo\nnode 1 is leader after 300 ms\n";
    assert_eq!(demo_is_shown_early(demo), Vec::<String>::new());
    assert_eq!(demo_is_shown_early(&("\n".repeat(30) + demo)).len(), 2);
    assert_eq!(
        demo_is_shown_early("cargo run --release -p quorate -- demo\n").len(),
        1
    );

    assert_eq!(
        rust_version_is("needs Rust 1.90 or newer", "1.90"),
        Vec::<String>::new()
    );
    assert_eq!(rust_version_is("needs Rust 1.85 or newer", "1.90").len(), 1);
    assert_eq!(rust_version_is("needs Rust", "1.90").len(), 1);
    assert_eq!(
        linked_files("[a](docs/a.md#x) [b](https://b)")[0].1,
        "docs/a.md"
    );
}
