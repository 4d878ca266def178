//! Holds the list of planted bugs, the places where they are planted and the table of who noticed them
//! together, and keeps them all out of ordinary builds. `scripts/planted.sh` lets them loose.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::planted::table::{self, Table};
use quorate_tests::planted::{BUGS, Finder, PLANTED};

/// How a bug is asked for: spelt apart, so that this file does not find itself.
const ASKS: &str = concat!("is", "(\"");
const SWITCH: &str = concat!("quorate", "_planted");

/// Files of the workspace that may speak of the switch, besides the crates' `planted.rs`.
const MAY_NAME_THE_SWITCH: &[&str] = &[
    "CONTRIBUTING.md",
    "Cargo.toml",
    "docs/planted-bugs.md",
    "scripts/planted.sh",
    "tests/src/planted/mod.rs",
    "tests/src/planted/switch.rs",
    "tests/src/planted/table.rs",
];

/// Every bug of the list is planted somewhere, and none that is not in the list.
#[test]
fn every_bug_is_planted() {
    let listed: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
    assert_eq!(listed.len(), BUGS.len(), "a name is there twice");
    let sources = files(&root(), "rs");
    let planted: BTreeSet<&str> = sources
        .iter()
        .flat_map(|(_, text)| asked_for(text))
        .collect();
    let unlisted: Vec<_> = planted.difference(&listed).collect();
    assert!(unlisted.is_empty(), "not in the list: {unlisted:?}");
    let outside = |name: &str| {
        let list = "tests/src/planted/bugs.rs";
        let quoted = format!("\"{name}\"");
        sources
            .iter()
            .any(|(path, text)| !path.ends_with(list) && text.contains(&quoted))
    };
    let missing: Vec<_> = listed.iter().filter(|name| !outside(name)).collect();
    assert!(missing.is_empty(), "planted nowhere: {missing:?}");
}

/// Every test that is to notice a bug is there.
#[test]
fn every_test_of_the_list_exists() {
    for bug in BUGS {
        let Finder::Test { folder, test, .. } = bug.finder else {
            continue;
        };
        let name = test.rsplit("::").next().unwrap();
        let function = format!("fn {name}()");
        // Some are beside the code.
        let sources = files(&root().join(folder), "rs");
        let found = sources.iter().any(|(_, text)| text.contains(&function));
        assert!(found, "{}: {folder} has no {name}", bug.name);
    }
}

/// The table has every bug of the list as the list has it, each was noticed in time, nothing was found
/// where nothing was, and the page is made of it.
#[test]
fn the_table_is_the_list_and_the_page_is_the_table() {
    let table = Table::load().unwrap();
    assert!(table.is_good(), "{table}");
    let measured: Vec<_> = table
        .bugs
        .iter()
        .map(|bug| (&*bug.name, &*bug.breaks))
        .collect();
    let listed: Vec<_> = BUGS.iter().map(|bug| (bug.name, bug.breaks)).collect();
    assert_eq!(measured, listed, "run scripts/planted.sh");
    for bug in &table.bugs {
        let in_time = bug
            .seeds
            .is_none_or(|seeds| bug.allowed.is_some_and(|max| seeds <= max));
        assert!(in_time, "{bug}");
    }
    assert_eq!(table.controls.len(), 2, "both levels");
    assert_eq!(
        fs::read_to_string(table::page()).unwrap(),
        table.to_string()
    );
}

/// No ordinary build has a bug: nothing but the script sets the switch, and nothing but one file of each
/// crate asks for it.
#[test]
fn only_the_script_plants() {
    let mut named = Vec::new();
    for ending in ["rs", "toml", "sh", "md", "run"] {
        for (path, text) in files(&root(), ending) {
            let inside = path.strip_prefix(root()).unwrap().display().to_string();
            let switch = inside.ends_with("/src/planted.rs");
            if text.contains(SWITCH) && !switch && !MAY_NAME_THE_SWITCH.contains(&&*inside) {
                named.push(inside);
            }
        }
    }
    assert!(named.is_empty(), "these speak of the switch: {named:?}");
    assert!(!root().join(".cargo").exists(), "no flags that nobody sees");
    let asked = std::env::var("RUSTFLAGS").is_ok_and(|flags| flags.contains(SWITCH));
    assert_eq!(
        PLANTED, asked,
        "the switch is set for this build by whoever runs it, or not at all"
    );
}

/// The names in quotes behind the question, where that is a word of its own.
fn asked_for(text: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let asks = text.match_indices(ASKS);
    let words = asks.filter(move |(at, _)| !text[..*at].ends_with(name));
    words.filter_map(|(at, asks)| text[at + asks.len()..].split('"').next())
}

/// All files below `folder` whose names end in `ending`, with what they say, without what git ignores.
fn files(folder: &Path, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && name != ".git" {
            found.extend(files(&path, ending));
        } else if path.is_file() && name.rsplit('.').next() == Some(ending) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().into()
}

/// Negative control: names are read where they are asked for.
#[test]
fn control_names() {
    let text = format!("if planted::{ASKS}a-bug\") || !{ASKS}another\") {{}}");
    assert_eq!(asked_for(&text).collect::<Vec<_>>(), ["a-bug", "another"]);
    assert_eq!(asked_for("is(bug)").count(), 0);
    assert_eq!(asked_for(&format!("rust_{ASKS}1.90\")")).count(), 0);
}
