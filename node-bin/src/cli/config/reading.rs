//! From texts and where they stand to settings, collecting every mistake on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use quorate_consensus::{Config, NodeId};
use toml::de::{DeTable, DeValue};

use super::value::{count, folder, node_id, size, size_or_none, time};
use super::{Flags, Settings};
use crate::cli::places::Place;
use crate::cli::runtime::Runtime;
use crate::cli::{Failure, exit, logging};

/// A value as it was given.
#[derive(Debug, Clone)]
struct Given {
    /// `n1.toml:3: listen` or `--listen`.
    origin: String,
    /// The line in the file; flags come after all of them.
    line: usize,
    text: String,
}

/// The "line" of what stands in no file.
const NO_LINE: usize = usize::MAX;

/// A key of the file, in the order of the README.
struct Key {
    name: &'static str,
    integer: bool,
    expects: &'static str,
}

const fn text(name: &'static str, expects: &'static str) -> Key {
    Key {
        name,
        integer: false,
        expects,
    }
}

const KEYS: &[Key] = &[
    Key {
        name: "node",
        integer: true,
        expects: "this node's number, such as 1",
    },
    text("cluster", "the cluster's name, such as \"c1\""),
    text("listen", "an address, such as \"127.0.0.1:7001\""),
    text("data-dir", "a folder, such as \"n1/data\""),
    text("cert", "a folder with key.pem, cert.pem and ca.pem"),
    text("runtime", "a runtime, such as \"async-std\""),
    text("log", "a level, such as \"info\""),
    text("log-format", "\"human\" or \"json\""),
    text("election-timeout", "a time, such as \"250ms\""),
    text("heartbeat-interval", "a time, such as \"50ms\""),
    text("log-tail", "a size, such as \"64MiB\""),
    text("disk-reserve", "a size, such as \"512MiB\", or \"0\""),
    Key {
        name: "priority",
        integer: true,
        expects: "a number from 0 to 255, such as 1",
    },
    Key {
        name: "connections-max",
        integer: true,
        expects: "a number of connections, such as 12000",
    },
    Key {
        name: "connections-per-client-max",
        integer: true,
        expects: "a number of connections, such as 64",
    },
];

/// The shortest interval between heartbeats that the consensus crate allows.
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);

const PEERS: &str = "peers";
const PEER_EXPECTS: &str = "a node's number and its address, such as 2 = \"127.0.0.1:7002\"";

/// What has been read so far, and what was wrong with it.
#[derive(Default)]
pub(super) struct Reading {
    values: BTreeMap<&'static str, Given>,
    /// By number, however it was written, so that `02` is the peer that `2` is. What is no number is
    /// kept as it is, and becomes a mistake.
    peers: BTreeMap<String, Given>,
    /// Keys that were there but could not be used: they are wrong, not missing.
    unusable: BTreeSet<&'static str>,
    /// By line, so that they are reported in the order in which they are read.
    pub(super) mistakes: Vec<(usize, String)>,
}

impl Reading {
    pub(super) fn file(&mut self, path: &Path, content: &str) {
        let name = path.display();
        let line_at = |at: usize| {
            let before = &content.as_bytes()[..at.min(content.len())];
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        };
        let (table, errors) = DeTable::parse_recoverable(content);
        for error in errors {
            let line = error.span().map_or(1, |span| line_at(span.start));
            let what = error.message().trim();
            self.mistake(line, format!("{name}:{line}: not TOML: {what}"));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for (key, value) in table.get_ref() {
            let line = line_at(key.span().start);
            let written = key.get_ref().as_ref();
            let origin = format!("{name}:{line}: {written}");
            match value.get_ref() {
                DeValue::Table(peers) if written == PEERS => {
                    let mut peers: Vec<_> = peers.iter().collect();
                    peers.sort_by_key(|(id, _)| id.span().start);
                    for (id, address) in peers {
                        let line = line_at(id.span().start);
                        let id = id.get_ref().as_ref();
                        let origin = format!("{name}:{line}: {PEERS}.{id}");
                        self.peer(id, origin, line, address.get_ref());
                    }
                }
                other if written == PEERS => {
                    self.mistake(line, wrong_type(&origin, other, PEER_EXPECTS));
                }
                value => self.key(written, origin, line, value, folder),
            }
        }
    }

    fn key(
        &mut self,
        written: &str,
        origin: String,
        line: usize,
        value: &DeValue<'_>,
        folder: &Path,
    ) {
        let Some(key) = KEYS.iter().find(|key| key.name == written) else {
            let meant = KEYS.iter().find(|key| {
                let dashed = written.replace('_', "-");
                dashed.eq_ignore_ascii_case(key.name)
            });
            self.unusable.extend(meant.map(|key| key.name));
            return self.mistake(line, unknown(&origin, meant));
        };
        let text = match value {
            DeValue::Integer(number) if key.integer => number.as_str().to_owned(),
            DeValue::String(text) if !key.integer => text.clone().into_owned(),
            other => {
                self.unusable.insert(key.name);
                return self.mistake(line, wrong_type(&origin, other, key.expects));
            }
        };
        match key.name {
            "data-dir" | "cert" if !text.is_empty() => {
                self.path(key.name, origin, line, &folder.join(text));
            }
            name => drop(self.values.insert(name, Given { origin, line, text })),
        }
    }

    /// Another folder than the one that was meant would be taken for a new one.
    fn path(&mut self, key: &'static str, origin: String, line: usize, path: &Path) {
        match path.to_str() {
            Some(text) => {
                let text = text.to_owned();
                self.values.insert(key, Given { origin, line, text });
            }
            None => {
                self.unusable.insert(key);
                let path = path.display();
                self.mistake(
                    line,
                    format!("{origin}: `{path}` is not UTF-8; use another path"),
                );
            }
        }
    }

    fn peer(&mut self, id: &str, origin: String, line: usize, address: &DeValue<'_>) {
        match address {
            DeValue::String(text) => {
                let text = text.clone().into_owned();
                self.add_peer(id, Given { origin, line, text });
            }
            other => self.mistake(line, wrong_type(&origin, other, PEER_EXPECTS)),
        }
    }

    /// A flag overrides the file, but neither may contradict itself: the last of two addresses is as
    /// likely the wrong one as the first.
    fn add_peer(&mut self, id: &str, given: Given) {
        let number = node_id(id).map_or_else(|_| id.to_owned(), |id| id.value().to_string());
        let (line, again) = (given.line, given.origin.clone());
        let Some(before) = self.peers.insert(number.clone(), given) else {
            return;
        };
        if (before.line == NO_LINE) == (line == NO_LINE) {
            let first = before.origin;
            self.mistake(
                line,
                format!("{again}: node {number} is given twice, first as {first}; give it once"),
            );
        }
    }

    fn mistake(&mut self, line: usize, mistake: String) {
        self.mistakes.push((line, mistake));
    }

    pub(super) fn flags(&mut self, flags: &Flags) {
        let paths = [
            ("data-dir", "--data-dir", &flags.data_dir),
            ("cert", "--cert", &flags.cert),
        ];
        for (key, flag, path) in paths {
            if let Some(path) = path {
                self.path(key, flag.to_owned(), NO_LINE, path);
            }
        }
        let given = [
            ("node", "--node", flags.node.clone()),
            ("listen", "--listen", flags.listen.clone()),
            ("runtime", "--runtime", flags.runtime.clone()),
            ("log", "--log", flags.log.clone()),
            ("log-format", "--log-format", flags.log_format.clone()),
            (
                "election-timeout",
                "--election-timeout",
                flags.election_timeout.clone(),
            ),
            (
                "heartbeat-interval",
                "--heartbeat-interval",
                flags.heartbeat_interval.clone(),
            ),
            ("log-tail", "--log-tail", flags.log_tail.clone()),
            ("disk-reserve", "--disk-reserve", flags.disk_reserve.clone()),
            ("priority", "--priority", flags.priority.clone()),
        ];
        for (key, flag, text) in given {
            if let Some(text) = text {
                let (origin, line) = (flag.to_owned(), NO_LINE);
                self.values.insert(key, Given { origin, line, text });
            }
        }
        for peer in &flags.peers {
            let origin = format!("--peer {peer}");
            match peer.split_once('=') {
                Some((id, address)) => {
                    let (line, text) = (NO_LINE, address.to_owned());
                    self.add_peer(id, Given { origin, line, text });
                }
                None => self.mistake(
                    NO_LINE,
                    format!("{origin}: expected ID=HOST:PORT, such as 2=127.0.0.1:7002"),
                ),
            }
        }
    }

    pub(super) fn settings(&mut self) -> Option<Settings> {
        let node = self.value("node", node_id);
        let cluster = self.value("cluster", |text| Ok(text.to_owned()));
        let listen = self.required("listen", Place::parse);
        let data_dir = self.required("data-dir", folder);
        let cert = self.required("cert", folder);
        let runtime = self.value("runtime", |text| {
            Runtime::named(text)
                .ok_or_else(|| format!("`{text}` is not one of {}", Runtime::names()))
        });
        let log = self.value("log", |text| logging::check(text).map(|()| text.to_owned()));
        let log_format = self.value("log-format", |text| {
            clap::ValueEnum::from_str(text, false)
                .map_err(|_| format!("`{text}` is neither human nor json"))
        });
        let election_timeout = self.value("election-timeout", time);
        let heartbeat_interval = self.value("heartbeat-interval", time);
        self.intervals(election_timeout, heartbeat_interval);
        let mut peers = BTreeMap::new();
        for (id, given) in std::mem::take(&mut self.peers) {
            match node_id(&id).and_then(|id| Ok((id, Place::to_dial(&given.text)?))) {
                Ok((id, place)) => drop(peers.insert(id, place)),
                Err(mistake) => self.mistake(given.line, format!("{}: {mistake}", given.origin)),
            }
        }
        let log_tail = self.value("log-tail", size);
        let disk_reserve = self.value("disk-reserve", size_or_none);
        let priority = self.value("priority", |text| {
            text.parse()
                .map_err(|_| format!("`{text}` is not a number from 0 to 255"))
        });
        let connections_max = self.value("connections-max", count);
        let connections_per_client_max = self.value("connections-per-client-max", count);
        // All of them have been looked at by now, so that every mistake is told.
        Some(Settings {
            node,
            cluster,
            listen: listen?,
            data_dir: data_dir?,
            cert: cert?,
            peers,
            runtime: runtime.unwrap_or_default(),
            log,
            log_format: log_format.unwrap_or_default(),
            election_timeout,
            heartbeat_interval,
            log_tail,
            disk_reserve,
            priority,
            connections_max,
            connections_per_client_max,
        })
    }

    /// The consensus crate owns the bounds; this only says which of the two settings is to be mended.
    fn intervals(&mut self, election_timeout: Option<Duration>, heartbeat: Option<Duration>) {
        let (timeout_key, heartbeat_key) = ("election-timeout", "heartbeat-interval");
        let mut config = Config::new(NodeId::new(1).expect("one is not zero"));
        let usual_heartbeat = config.heartbeat_interval;
        match election_timeout {
            Some(timeout) => config.set_election_timeout(timeout),
            // Given, but no time: what else is judged by it cannot be judged.
            None if self.values.contains_key(timeout_key) => return,
            None => {}
        }
        // The shortest there is fits every timeout that is allowed, so what is wrong is the timeout.
        config.heartbeat_interval = HEARTBEAT_MIN;
        if let Some(mistake) = config.mistakes().into_iter().next() {
            return self.blame(timeout_key, &mistake);
        }
        config.heartbeat_interval = heartbeat.unwrap_or(usual_heartbeat);
        let to_mend = match heartbeat {
            Some(_) => heartbeat_key,
            None => timeout_key,
        };
        for mistake in config.mistakes() {
            self.blame(to_mend, &mistake);
        }
    }

    fn blame(&mut self, key: &str, mistake: &str) {
        let (line, origin) = match self.values.get(key) {
            Some(given) => (given.line, given.origin.clone()),
            None => (NO_LINE, key.to_owned()),
        };
        self.mistake(line, format!("{origin}: {mistake}"));
    }

    fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.values.contains_key(key) && !self.unusable.contains(key) {
            let expects = KEYS
                .iter()
                .find_map(|known| (known.name == key).then_some(known.expects))
                .unwrap_or_default();
            self.mistake(NO_LINE, format!("{key} or --{key} is missing: {expects}"));
        }
        self.value(key, parse)
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.values.get(key)?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(mistake) => {
                let mistake = (given.line, format!("{}: {mistake}", given.origin));
                self.mistakes.push(mistake);
                None
            }
        }
    }

    pub(super) fn failure(mut self, file: Option<&Path>) -> Failure {
        let code = if file.is_some() {
            exit::CONFIG
        } else {
            exit::USAGE
        };
        let count = match self.mistakes.len() {
            1 => "one mistake".to_owned(),
            several => format!("{several} mistakes"),
        };
        self.mistakes.sort_by_key(|(line, _)| *line);
        let list: String = self
            .mistakes
            .iter()
            .map(|(_, mistake)| format!("\n  {mistake}"))
            .collect();
        Failure::new(code, format!("{count} in the configuration:{list}"))
            .help("correct them and start again; docs/configuration.md and `quorate start --help` list the settings")
    }
}

fn unknown(origin: &str, meant: Option<&Key>) -> String {
    match meant {
        Some(key) => format!("{origin}: unknown key; did you mean `{}`?", key.name),
        None => {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            let names = names.join(", ");
            format!("{origin}: unknown key; known are {names}, [{PEERS}]")
        }
    }
}

fn wrong_type(origin: &str, value: &DeValue<'_>, expects: &str) -> String {
    format!(
        "{origin}: a value of type {}; expected {expects}",
        value.type_str()
    )
}
