//! Golden scripts of the core: what is done to a cluster, and what becomes of it, as text.
//!
//! A file in `tests/scripts` opens with what it shows. Then come steps: a line that says what is done, a line
//! `----`, and what changed by it: how nodes stand, in their short form, and how whatever was asked for
//! ended. `BLESS=1 cargo test -p quorate-tests --test scripts` writes down what happens now; the difference is
//! to be read before it is committed. Nothing is left to chance: all delays are zero, and the election
//! timeouts come from the seed.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

#[path = "../../../consensus/tests/rig/mod.rs"]
mod rig;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use stage::Stage;

/// Set, it writes down what happens.
const BLESS: &str = "BLESS";
const RULE: &str = "----";
/// As many are promised.
const SCRIPTS_MIN: usize = 60;

/// A script: what it shows, and its steps.
struct Script {
    opening: String,
    steps: Vec<(String, String)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

fn parse(text: &str) -> Script {
    let (opening, rest) = text
        .split_once("\n\n")
        .expect("an opening, then a blank line");
    assert!(
        opening.lines().all(|line| line.starts_with("# ")),
        "a script opens with what it shows: {opening}"
    );
    let blocks = rest.trim_end().split("\n\n");
    let step = |block: &str| {
        let (step, outcome) = block.split_once(RULE).unwrap_or((block, ""));
        (step.trim().to_owned(), outcome.trim().to_owned())
    };
    Script {
        opening: opening.to_owned(),
        steps: blocks.map(step).collect(),
    }
}

/// The text of a script whose steps have these outcomes.
fn print(script: &Script, outcomes: &[String]) -> String {
    let mut text = script.opening.clone();
    text.push('\n');
    for ((step, _), outcome) in script.steps.iter().zip(outcomes) {
        text.push_str(&format!("\n{step}\n{RULE}\n"));
        if !outcome.is_empty() {
            text.push_str(outcome);
            text.push('\n');
        }
    }
    text
}

fn run(script: &Script) -> Vec<String> {
    let mut stage: Option<Stage> = None;
    let steps = script.steps.iter();
    steps
        .map(|(step, _)| match &mut stage {
            Some(stage) => stage.step(step),
            None => {
                let (new, outcome) = Stage::open(step);
                stage = Some(new);
                outcome
            }
        })
        .collect()
}

/// Every script happens as it is written.
#[test]
fn every_script_happens_as_it_is_written() {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let script = parse(&text);
        let now = print(&script, &run(&script));
        if std::env::var_os(BLESS).is_some() {
            fs::write(path, &now).unwrap();
        } else if now != text {
            let lines = now.lines().zip(text.lines());
            let differs = lines.clone().find(|(now, then)| now != then);
            wrong.push(format!("{}: {differs:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(paths.len() >= SCRIPTS_MIN, "only {} scripts", paths.len());
}

/// Control: another outcome is noticed, and so is a step that is none.
#[test]
fn a_script_that_says_something_else_fails() {
    let text = "# A control.\n\ncluster voters=1\n----\n\ncampaign 1\n----\nn1 stays a follower\n";
    let script = parse(text);
    assert_ne!(print(&script, &run(&script)), text);
    let nonsense = parse("# A control.\n\ncluster voters=1\n----\n\ndance 1\n----\n");
    let outcome = std::panic::catch_unwind(|| run(&nonsense));
    assert!(outcome.is_err());
}
