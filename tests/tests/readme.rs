//! What the README and the table of the configuration tell a newcomer to type exists and is accepted, word by word.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quorate_tests::process::{Cluster, quorate};

/// Every `quorate` command line in the README names a command that exists and flags that it takes.
#[test]
fn commands_exist() {
    let readme = readme();
    let commands = command_lines(&readme);
    assert!(
        commands.len() > 10,
        "the README shows its commands: {commands:#?}"
    );
    for command in commands {
        assert_eq!(unknown_in(command), Vec::<String>::new(), "in `{command}`");
    }
}

/// The configuration file in the README is complete and correct: with one wrong key added, that key is
/// the only mistake found.
#[test]
fn the_configuration_is_accepted() {
    let readme = readme();
    let config = fenced(&readme, "toml").expect("the README shows a configuration");
    let cluster = Cluster::new();
    fs::write(cluster.path("n1.toml"), format!("nonsense = 1\n{config}")).unwrap();
    quorate(["start", "--config", &cluster.text("n1.toml")])
        .failed(78, &["one mistake", "n1.toml:1: nonsense: unknown key"]);
}

/// The table of the configuration has exactly the keys that there are and their flags, and the file below it has all of
/// them, each with a value that is accepted: one wrong key more is the only mistake, and its message lists the right ones.
#[test]
fn the_configuration_is_documented() {
    let text = document("docs/configuration.md");
    let cluster = Cluster::new();
    let config = fenced(&text, "toml").expect("it shows a configuration");
    fs::write(cluster.path("all.toml"), format!("nonsense = 1\n{config}")).unwrap();
    let said = quorate(["start", "--config", &cluster.text("all.toml")]);
    let said = said.failed(78, &["one mistake", "all.toml:1: nonsense: unknown key"]);
    let known = said.err.split_once("known are ").expect("the keys").1;
    let known: BTreeSet<&str> = known.lines().next().unwrap().split(", ").collect();

    let written = config.parse::<toml::Table>().unwrap();
    let written = written.keys().map(|key| match key.as_str() {
        "peers" => "[peers]",
        key => key,
    });
    assert_eq!(written.collect::<BTreeSet<_>>(), known);
    let mut described = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        described.insert(cells[1]);
        let flag = format!("quorate start {}", cells[2]);
        assert_eq!(unknown_in(&flag), Vec::<String>::new(), "in {row}");
        // What has no flag is told apart, so that one that gets one is written down.
        let would_be = format!("quorate start --{}", cells[1]);
        assert_eq!(
            cells[2].is_empty(),
            !unknown_in(&would_be).is_empty() && cells[1] != "[peers]"
        );
    }
    assert_eq!(described, known);
}

/// Negative control: a command, a subcommand and a flag that do not exist are found.
#[test]
fn control_unknown_commands() {
    assert_eq!(unknown_in("quorate frobnicate --help"), ["frobnicate"]);
    assert_eq!(
        unknown_in("quorate certs forge --node 1"),
        ["forge", "--node"]
    );
    assert_eq!(
        unknown_in("quorate start --colour red --config n1.toml"),
        ["--colour"]
    );
    assert_eq!(
        command_lines("text quorate kv\n```\n$ quorate status\nquorate: no\n```").len(),
        1
    );
}

fn readme() -> String {
    document("README.md")
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(path).expect("the document is readable")
}

/// The first fenced block in `language`.
fn fenced<'a>(text: &'a str, language: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("```{language}\n"))?;
    rest.split("```").next()
}

/// The lines of plain fenced blocks that run this program, directly or through Cargo.
fn command_lines(text: &str) -> Vec<&str> {
    let mut commands = Vec::new();
    let mut fence = None;
    for line in text.lines() {
        if line.starts_with("```") {
            fence = match fence {
                Some(_) => None,
                None => Some(line),
            };
        } else if fence == Some("```") {
            let line = line.strip_prefix("$ ").unwrap_or(line);
            let through_cargo = line.starts_with("cargo run ") && line.contains(" -- ");
            if through_cargo || line.starts_with("quorate ") {
                commands.push(line);
            }
        }
    }
    commands
}

/// The words of `command` that this program does not know.
fn unknown_in(command: &str) -> Vec<String> {
    let arguments = match command.split_once(" -- ") {
        Some((_, arguments)) => arguments,
        None => command.strip_prefix("quorate ").unwrap_or_default(),
    };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let mut unknown = Vec::new();
    let mut path = Vec::new();
    let mut help = quorate(["--help"]).succeeded().out;
    for word in &words {
        // The commands come first; what follows them is a flag or an argument.
        if word.starts_with('-') || !help.contains("Commands:") {
            break;
        }
        path.push(*word);
        let deeper = quorate(path.iter().copied().chain(["--help"]));
        if deeper.code != 0 {
            unknown.push((*word).to_owned());
            break;
        }
        help = deeper.out;
    }
    for word in words.iter().filter(|word| word.starts_with("--")) {
        let flag = word.split('=').next().unwrap_or(word);
        let known = |text: &str| text.split([' ', ',', '\n']).any(|part| part == flag);
        if !known(&help) {
            unknown.push(flag.to_owned());
        }
    }
    unknown
}
