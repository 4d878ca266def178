//! What a node is told: a TOML file, flags over it, and every mistake in both at once.
//!
//! Both sources become the same thing first (a text and where it stands) and are then read by one
//! function, so a flag and a key can never differ in what they accept.

mod reading;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_consensus::NodeId;

use reading::Reading;
pub(crate) use value::{node_id, time};

use super::places::Place;
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
    pub(crate) listen: Place,
    pub(crate) data_dir: PathBuf,
    /// The folder with `key.pem`, `cert.pem` and `ca.pem`.
    pub(crate) cert: PathBuf,
    /// The other founding members. This node's own entry is allowed, so that all nodes can share
    /// one list.
    pub(crate) peers: BTreeMap<NodeId, Place>,
    pub(crate) runtime: Runtime,
    pub(crate) log: Option<String>,
    pub(crate) log_format: logging::Format,
    pub(crate) election_timeout: Option<Duration>,
    pub(crate) heartbeat_interval: Option<Duration>,
    /// How many bytes of the log stay for members that were away.
    pub(crate) log_tail: Option<u64>,
    /// How many bytes of the disk are kept free.
    pub(crate) disk_reserve: Option<u64>,
    /// How much the node is preferred as the leader.
    pub(crate) priority: Option<u8>,
    /// How many connections the node accepts, and of one client's, reader's or admin's certificate.
    pub(crate) connections_max: Option<usize>,
    pub(crate) connections_per_client_max: Option<usize>,
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
    /// Another founding member; once for each. A name is looked up until the two are connected
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
    /// How much of the log stays for members that were away, such as 64MiB (default); others get a snapshot
    #[arg(long, value_name = "SIZE")]
    pub(crate) log_tail: Option<String>,
    /// With less free on the disk, a leader refuses to store more, such as 512MiB (default); 0: never
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_reserve: Option<String>,
    /// 0 (default) to 255: who leads hands over to a node with more that has caught up
    #[arg(long, value_name = "NUMBER")]
    pub(crate) priority: Option<String>,
}

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
3 = "n3.not-there-yet.invalid:7003"
"#;

    /// A good file is read whole; its relative paths start at its own folder.
    #[test]
    fn a_good_file() {
        let settings = from_file(GOOD).unwrap();
        assert_eq!(settings.node, NodeId::new(1));
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7001");
        assert!(settings.data_dir.is_absolute() && settings.data_dir.ends_with("n1/data"));
        assert_eq!(settings.cert, Path::new("/etc/quorate/n1"));
        assert_eq!(settings.peers.len(), 2);
        assert_eq!(settings.runtime.name, "smol");
        assert_eq!(settings.election_timeout, Some(Duration::from_millis(500)));
        assert_eq!(settings.heartbeat_interval, None);
    }

    /// Every mistake is reported at once, each with its line, its key and what is expected.
    #[test]
    fn k6_all_mistakes_at_once() {
        let failure = from_file(
            r#"node = "one"
data_dir = "x"
colour = "red"
listen = "127.0.0.1"
runtime = "green threads"
election-timeout = "250"
log = "inof"
log-tail = "some"
disk-reserve = "none"
priority = 256
connections-max = 0
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
            "15 mistakes in the configuration",
            "n1.toml:1: node: a value of type string; expected this node's number",
            "n1.toml:2: data_dir: unknown key; did you mean `data-dir`?",
            "n1.toml:3: colour: unknown key; known are node, ",
            "n1.toml:4: listen: `127.0.0.1` has no port",
            "n1.toml:5: runtime: `green threads` is not one of ",
            "n1.toml:6: election-timeout: `250` is not a time",
            "n1.toml:7: log: `inof` is no log filter: unknown level; use error, ",
            "n1.toml:8: log-tail: `some` is not a size",
            "n1.toml:9: disk-reserve: `none` is not a size",
            "n1.toml:10: priority: `256` is not a number from 0 to 255",
            "n1.toml:11: connections-max: `0` is not a number of 1 or more",
            "n1.toml:13: peers.0: `0` is not a node's number",
            "n1.toml:14: peers.2: `127.0.0.1:99999` is not HOST:PORT",
            "n1.toml:15: peers.3: a value of type integer",
            "cert or --cert is missing",
        ] {
            let Some(at) = failure.message[read..].find(expected) else {
                panic!("not there, or not in order: {expected}\n---\n{failure}");
            };
            read += at;
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
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8001");
        let peers: Vec<String> = settings.peers.values().map(Place::to_string).collect();
        assert_eq!(peers, ["127.0.0.1:7002", "127.0.0.1:8003"]);
        assert_eq!(reading.mistakes, []);
    }

    /// A path that cannot be told is not taken for another one.
    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/da\xffta"));
        let mut reading = Reading::default();
        reading.file(Path::new("n1.toml"), GOOD);
        reading.flags(&Flags {
            data_dir: Some(odd.to_owned()),
            ..Flags::default()
        });
        reading.file(&odd.join("n2.toml"), "cert = \"n2\"");
        let mistakes: Vec<&str> = reading
            .mistakes
            .iter()
            .map(|(_, text)| text.as_str())
            .collect();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(
            mistakes[0].starts_with("--data-dir: `/da\u{fffd}ta` is not UTF-8"),
            "{mistakes:?}"
        );
        assert!(mistakes[1].contains("n2.toml:1: cert: "), "{mistakes:?}");
    }

    /// One peer with two addresses is a mistake, within the flags and within the file, however its number
    /// is written; a flag over the file is not.
    #[test]
    fn k6_a_peer_given_twice() {
        let mut reading = Reading::default();
        let again = GOOD.replace(
            "3 = \"n3.not-there-yet.invalid:7003\"",
            "02 = \"127.0.0.1:7009\"",
        );
        reading.file(Path::new("n1.toml"), &again);
        reading.flags(&Flags {
            peers: ["2=127.0.0.1:1", "3=127.0.0.1:2", "03=127.0.0.1:3"]
                .map(str::to_owned)
                .into(),
            ..Flags::default()
        });
        let mistakes: Vec<&str> = reading
            .mistakes
            .iter()
            .map(|(_, text)| text.as_str())
            .collect();
        assert_eq!(
            mistakes,
            [
                "n1.toml:12: peers.02: node 2 is given twice, first as n1.toml:11: peers.2; give it once",
                "--peer 03=127.0.0.1:3: node 3 is given twice, first as --peer 3=127.0.0.1:2; give it once",
            ]
        );
        let settings = reading.settings().unwrap();
        let second = settings.peers[&NodeId::new(2).unwrap()].to_string();
        assert_eq!(second, "127.0.0.1:1");
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
    fn k6_timing_out_of_range() {
        let failure = from_file(&GOOD.replace("\"500ms\"", "\"10ms\"")).unwrap_err();
        assert!(
            failure.message.contains("election timeout 10ms is outside"),
            "{failure}"
        );
    }

    /// Every election timeout within the bounds is taken: what has to be longer follows it.
    #[test]
    fn long_election_timeouts() {
        for (timeout, is_taken) in [("8s", true), ("60s", true), ("61s", false)] {
            let read = from_file(&GOOD.replace("500ms", timeout));
            assert_eq!(read.is_ok(), is_taken, "{timeout}: {:?}", read.err());
        }
    }

    /// Of the two times, the one that is wrong is named; one that cannot be judged without the other is
    /// not blamed for it.
    #[test]
    fn the_wrong_time_is_named() {
        for (timeout, heartbeat, blamed) in [
            (Some("1ms"), Some("30ms"), "--election-timeout"),
            (Some("1ms"), Some("0ms"), "--election-timeout"),
            (Some("soon"), Some("200ms"), "--election-timeout"),
            (Some("250ms"), Some("200ms"), "--heartbeat-interval"),
            (None, Some("200ms"), "--heartbeat-interval"),
            (Some("100ms"), None, "--election-timeout"),
        ] {
            let mut reading = Reading::default();
            reading.file(Path::new("n1.toml"), &GOOD.replace("election-timeout", "#"));
            reading.flags(&Flags {
                election_timeout: timeout.map(str::to_owned),
                heartbeat_interval: heartbeat.map(str::to_owned),
                ..Flags::default()
            });
            reading.settings();
            let [(_, mistake)] = &reading.mistakes[..] else {
                panic!("{timeout:?}, {heartbeat:?}: {:?}", reading.mistakes);
            };
            assert!(mistake.starts_with(&format!("{blamed}: ")), "{mistake}");
        }
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
}
