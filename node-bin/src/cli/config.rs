//! What a node is told: a TOML file, flags over it, and every mistake in both at once.
//!
//! Both sources become the same thing first (a text and where it stands) and are then read by one
//! function, so a flag and a key can never differ in what they accept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_consensus::{Config, NodeId};
use toml::de::{DeTable, DeValue};

use super::runtime::Runtime;
use super::{Failure, exit, logging};

/// A configuration is a page of text; anything this long is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What `quorate start` needs to know, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Must be what the certificate says, when given.
    pub(crate) node: Option<NodeId>,
    /// Must be what the certificate says, when given.
    pub(crate) cluster: Option<String>,
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// The folder with `key.pem`, `cert.pem` and `ca.pem`.
    pub(crate) cert: PathBuf,
    /// The other founding members. This node's own entry is allowed, so that all nodes can share
    /// one list.
    pub(crate) peers: BTreeMap<NodeId, SocketAddr>,
    pub(crate) runtime: Runtime,
    pub(crate) log: Option<String>,
    pub(crate) log_format: logging::Format,
    pub(crate) election_timeout: Option<Duration>,
    pub(crate) heartbeat_interval: Option<Duration>,
}

/// The same by flags. Texts, because they are read by the code that reads the file's.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Flags {
    /// TOML file; flags override it, its relative paths start at its folder
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of this node's log and data; created when missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// UDP address for peers and clients, such as 127.0.0.1:7001
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Another founding member; once for each
    #[arg(long = "peer", value_name = "ID=HOST:PORT")]
    pub(crate) peers: Vec<String>,
    /// Folder with key.pem, cert.pem and ca.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) cert: Option<PathBuf>,
    /// Refuse any certificate but this node's
    #[arg(long, value_name = "ID")]
    pub(crate) node: Option<String>,
    /// async-std (default), smol, tokio or bare
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// error, warn, info (default), debug, trace, or a filter such as `info,quinn=debug`
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// human (default) or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Time without a leader before an election, such as 250ms (default)
    #[arg(long, value_name = "TIME")]
    pub(crate) election_timeout: Option<String>,
    /// Time between a leader's signs of life, such as 50ms (default)
    #[arg(long, value_name = "TIME")]
    pub(crate) heartbeat_interval: Option<String>,
}

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
];

const PEERS: &str = "peers";
const PEER_EXPECTS: &str = "a node's number and its address, such as 2 = \"127.0.0.1:7002\"";

impl Flags {
    /// The settings, or every mistake in the file and the flags.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let mut reading = Reading::default();
        if let Some(path) = &self.config {
            reading.file(path, &read(path)?);
        }
        reading.flags(self);
        let settings = reading.settings();
        match (settings, reading.mistakes.is_empty()) {
            (Some(settings), true) => Ok(settings),
            _ => Err(reading.failure(self.config.as_deref())),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let mut content = Vec::new();
    let file = File::open(path).map_err(|error| {
        Failure::new(exit::NO_INPUT, format!("cannot open {name}: {error}"))
            .help("name an existing file with --config, or give the settings as flags")
    })?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(|error| Failure::new(exit::NO_INPUT, format!("cannot read {name}: {error}")))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::new(
            exit::CONFIG,
            format!("{name} is longer than {FILE_BYTES_MAX} bytes: that is no node configuration"),
        ));
    }
    String::from_utf8(content).map_err(|error| {
        Failure::new(
            exit::CONFIG,
            format!(
                "{name} is not text: byte {} is not UTF-8",
                error.utf8_error().valid_up_to()
            ),
        )
    })
}

/// What has been read so far, and what was wrong with it.
#[derive(Default)]
struct Reading {
    values: BTreeMap<&'static str, Given>,
    peers: BTreeMap<String, Given>,
    /// Keys that were there but could not be used: they are wrong, not missing.
    unusable: BTreeSet<&'static str>,
    /// By line, so that they are reported in the order in which they are read.
    mistakes: Vec<(usize, String)>,
}

impl Reading {
    fn file(&mut self, path: &Path, content: &str) {
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
        let text = match key.name {
            "data-dir" | "cert" if !text.is_empty() => {
                folder.join(text).to_string_lossy().into_owned()
            }
            _ => text,
        };
        self.values.insert(key.name, Given { origin, line, text });
    }

    fn peer(&mut self, id: &str, origin: String, line: usize, address: &DeValue<'_>) {
        match address {
            DeValue::String(text) => {
                let text = text.clone().into_owned();
                self.peers
                    .insert(id.to_owned(), Given { origin, line, text });
            }
            other => self.mistake(line, wrong_type(&origin, other, PEER_EXPECTS)),
        }
    }

    fn mistake(&mut self, line: usize, mistake: String) {
        self.mistakes.push((line, mistake));
    }

    fn flags(&mut self, flags: &Flags) {
        let path = |path: &Option<PathBuf>| {
            path.as_ref()
                .map(|path| path.to_string_lossy().into_owned())
        };
        let given = [
            ("node", "--node", flags.node.clone()),
            ("listen", "--listen", flags.listen.clone()),
            ("data-dir", "--data-dir", path(&flags.data_dir)),
            ("cert", "--cert", path(&flags.cert)),
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
                    self.peers
                        .insert(id.to_owned(), Given { origin, line, text });
                }
                None => self.mistake(
                    NO_LINE,
                    format!("{origin}: expected ID=HOST:PORT, such as 2=127.0.0.1:7002"),
                ),
            }
        }
    }

    fn settings(&mut self) -> Option<Settings> {
        let node = self.value("node", node_id);
        let cluster = self.value("cluster", |text| Ok(text.to_owned()));
        let listen = self.required("listen", address);
        let data_dir = self.required("data-dir", folder);
        let cert = self.required("cert", folder);
        let runtime = self.value("runtime", |text| {
            Runtime::named(text)
                .ok_or_else(|| format!("`{text}` is not one of {}", Runtime::names()))
        });
        let log = self.value("log", |text| Ok(text.to_owned()));
        let log_format = self.value("log-format", |text| {
            clap::ValueEnum::from_str(text, false)
                .map_err(|_| format!("`{text}` is neither human nor json"))
        });
        let election_timeout = self.value("election-timeout", time);
        let heartbeat_interval = self.value("heartbeat-interval", time);
        self.intervals(election_timeout, heartbeat_interval);
        let mut peers = BTreeMap::new();
        for (id, given) in std::mem::take(&mut self.peers) {
            match node_id(&id).and_then(|id| Ok((id, address(&given.text)?))) {
                Ok((id, address)) => drop(peers.insert(id, address)),
                Err(mistake) => self.mistake(given.line, format!("{}: {mistake}", given.origin)),
            }
        }
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
        })
    }

    /// The consensus crate owns the bounds; this only says where the numbers came from.
    fn intervals(&mut self, election_timeout: Option<Duration>, heartbeat: Option<Duration>) {
        let mut config = Config::new(NodeId::new(1).expect("one is not zero"));
        config.election_timeout = election_timeout.unwrap_or(config.election_timeout);
        config.heartbeat_interval = heartbeat.unwrap_or(config.heartbeat_interval);
        let (line, origin) = ["heartbeat-interval", "election-timeout"]
            .into_iter()
            .find_map(|key| self.values.get(key))
            .map(|given| (given.line, given.origin.clone()))
            .unwrap_or((NO_LINE, String::new()));
        for mistake in config.mistakes() {
            self.mistake(line, format!("{origin}: {mistake}"));
        }
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

    fn failure(mut self, file: Option<&Path>) -> Failure {
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
            .help("correct them and start again; `quorate start --help` lists every setting")
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

pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse()
        .ok()
        .and_then(NodeId::new)
        .ok_or_else(|| format!("`{text}` is not a node's number (1 or more)"))
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("an empty path; expected a folder".into());
    }
    Ok(text.into())
}

/// `HOST:PORT`; a name is resolved here, once, and its first address is taken.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if !text.contains(':') {
        return Err(format!("`{text}` has no port; expected HOST:PORT"));
    }
    text.to_socket_addrs()
        .map_err(|error| format!("`{text}` is not HOST:PORT, or cannot be resolved: {error}"))?
        .next()
        .ok_or_else(|| format!("`{text}` resolves to no address"))
}

/// A whole number and a unit: `250ms`, `5s`, `2m`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis_per_unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(millis_per_unit)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a time; expected a whole number of ms, s or m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &str) -> Result<Settings, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n1.toml");
        std::fs::write(&path, content).unwrap();
        let flags = Flags {
            config: Some(path),
            ..Flags::default()
        };
        flags.settings().map_err(|mut failure| {
            let prefix = format!("{}/", folder.path().display());
            failure.message = failure.message.replace(&prefix, "");
            failure
        })
    }

    const GOOD: &str = r#"
node = 1
cluster = "c1"
listen = "127.0.0.1:7001"
data-dir = "n1/data"
cert = "/etc/quorate/n1"
runtime = "smol"
election-timeout = "500ms"

[peers]
2 = "127.0.0.1:7002"
3 = "localhost:7003"
"#;

    /// A good file is read whole; its relative paths start at its own folder.
    #[test]
    fn a_good_file() {
        let settings = from_file(GOOD).unwrap();
        assert_eq!(settings.node, NodeId::new(1));
        assert_eq!(settings.listen.port(), 7001);
        assert!(settings.data_dir.is_absolute() && settings.data_dir.ends_with("n1/data"));
        assert_eq!(settings.cert, Path::new("/etc/quorate/n1"));
        assert_eq!(settings.peers.len(), 2);
        assert_eq!(settings.runtime.name, "smol");
        assert_eq!(settings.election_timeout, Some(Duration::from_millis(500)));
        assert_eq!(settings.heartbeat_interval, None);
    }

    /// Every mistake is reported at once, each with its line, its key and what is expected.
    #[test]
    fn all_mistakes_at_once() {
        let failure = from_file(
            r#"node = "one"
data_dir = "x"
colour = "red"
listen = "127.0.0.1"
runtime = "green threads"
election-timeout = "250"
[peers]
0 = "127.0.0.1:7002"
2 = "127.0.0.1:99999"
3 = 7003
"#,
        )
        .unwrap_err();
        assert_eq!(failure.code, exit::CONFIG);
        let mut read = 0;
        for expected in [
            "10 mistakes in the configuration",
            "n1.toml:1: node: a value of type string; expected this node's number",
            "n1.toml:2: data_dir: unknown key; did you mean `data-dir`?",
            "n1.toml:3: colour: unknown key; known are node, ",
            "n1.toml:4: listen: `127.0.0.1` has no port",
            "n1.toml:5: runtime: `green threads` is not one of ",
            "n1.toml:6: election-timeout: `250` is not a time",
            "n1.toml:8: peers.0: `0` is not a node's number",
            "n1.toml:9: peers.2: `127.0.0.1:99999` is not HOST:PORT",
            "n1.toml:10: peers.3: a value of type integer",
        ] {
            assert!(
                failure.message.contains(expected),
                "{expected}\n---\n{failure}"
            );
        }
    }

    /// Text that is no TOML gives the line; what can be read around it is still checked.
    #[test]
    fn broken_toml() {
        let failure = from_file("node = 1\nlisten == \"x\"\n").unwrap_err();
        assert_eq!(failure.code, exit::CONFIG);
        assert!(
            failure.message.contains("n1.toml:2: not TOML: "),
            "{failure}"
        );
    }

    /// Flags win over the file, key by key and peer by peer.
    #[test]
    fn flags_override_the_file() {
        let mut reading = Reading::default();
        reading.file(Path::new("n1.toml"), GOOD);
        reading.flags(&Flags {
            listen: Some("127.0.0.1:8001".into()),
            peers: vec!["3=127.0.0.1:8003".into()],
            ..Flags::default()
        });
        let settings = reading.settings().unwrap();
        assert_eq!(settings.listen.port(), 8001);
        let ports: Vec<u16> = settings.peers.values().map(SocketAddr::port).collect();
        assert_eq!(ports, [7002, 8003]);
        assert_eq!(reading.mistakes, []);
    }

    /// Without a file, what is missing is a mistake of the command line and names the flag.
    #[test]
    fn missing_settings() {
        let failure = Flags::default().settings().unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        for flag in ["--listen", "--data-dir", "--cert"] {
            assert!(failure.message.contains(flag), "{failure}");
        }
    }

    /// Timing that cannot work is refused with the consensus crate's own bounds.
    #[test]
    fn timing_out_of_range() {
        let failure = from_file(&GOOD.replace("\"500ms\"", "\"10ms\"")).unwrap_err();
        assert!(
            failure.message.contains("election timeout 10ms is outside"),
            "{failure}"
        );
    }

    /// A missing file and one that is not text are named; neither is a panic.
    #[test]
    fn unreadable_files() {
        let flags = Flags {
            config: Some("/nonexistent/n1.toml".into()),
            ..Flags::default()
        };
        assert_eq!(flags.settings().unwrap_err().code, exit::NO_INPUT);
        let mut binary = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut binary, &[b'a', 0xff]).unwrap();
        let flags = Flags {
            config: Some(binary.path().into()),
            ..Flags::default()
        };
        let failure = flags.settings().unwrap_err();
        assert_eq!(failure.code, exit::CONFIG);
        assert!(failure.message.contains("byte 1 is not UTF-8"));
    }

    /// Times are whole numbers with a unit; nothing overflows.
    #[test]
    fn times() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "ms", "5", "-5s", "1.5s", "5 s", "18446744073709551615m"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
