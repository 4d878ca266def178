//! The bounds that SECURITY.md and docs/guarantees.md state are those of the code.

use std::fs;
use std::path::Path;

use quorate::NodeId;
use quorate::kv::{
    BACKUP_IDLE_MAX, BACKUPS_MAX, KEY_BYTES_MAX, RANGE_BYTES_MAX, RANGE_LIMIT_MAX, REQUEST_TIMEOUT,
    VALUE_BYTES_MAX,
};
use quorate_certs::{BUNDLE_BYTES_MAX, CHAIN_CERTIFICATES_MAX, FILE_BYTES_MAX, ROOTS_MAX};
use quorate_consensus::{
    Config, INBOX_BYTES_MAX, INBOX_REQUESTS_MAX, NODE_ID_STEP_MAX, READS_BYTES_MAX, READS_MAX,
};
use quorate_quic_transport::{Limits, Timings};

/// Every row of the table in SECURITY.md is written here a second time, from the code.
#[test]
fn security_md_states_the_bounds() {
    let text = document("SECURITY.md");
    let table = text.split("| what | bound |").nth(1).expect("the table");
    let stated: Vec<&str> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(stated, rows());
}

/// What clients are told of limits and times.
#[test]
fn guarantees_md_states_the_limits() {
    let text = document("docs/guarantees.md");
    let raft = Config::new(NodeId::new(1).unwrap());
    let elections = raft.election_timeout.as_millis();
    for stated in [
        format!(
            "A key has 1 to {} bytes, a value at most {}",
            number(KEY_BYTES_MAX),
            number(VALUE_BYTES_MAX)
        ),
        format!("its deadline ({} s unless set)", REQUEST_TIMEOUT.as_secs()),
        format!("after {elections} to {} ms", 2 * elections),
        format!(
            "ever used, by {} at most",
            number(usize::try_from(NODE_ID_STEP_MAX).unwrap())
        ),
    ] {
        assert!(text.contains(&stated), "does not say: {stated}");
    }
}

fn rows() -> Vec<String> {
    let limits = Limits::default();
    let timings = Timings::default();
    let raft = Config::new(NodeId::new(1).expect("one is not zero"));
    let row = |what: &str, bound: String| format!("| {what} | {bound} |");
    let pair = |one: String, two: String| format!("{one}; {two}");
    let quic = |name: &str| constant("quic-transport/src/quic.rs", name);
    let places_of_nodes = constant("quic-transport/src/accept.rs", "PLACES_OF_NODES");
    let lanes = [
        limits.control_frame_bytes_max,
        limits.append_frame_bytes_max,
        limits.call_frame_bytes_max,
    ];
    vec![
        row(
            "inbound connections; of one client, reader or admin identity",
            pair(
                number(limits.connections_max),
                number(limits.connections_per_client_max),
            ),
        ),
        row(
            "handshakes at once; proof of address from",
            pair(number(limits.handshakes_max), number(limits.retry_above)),
        ),
        row(
            "more of both for those who come from where the node dials another one",
            places_of_nodes.to_string(),
        ),
        row(
            "handshakes from one IPv4 address or one /64 of IPv6",
            number(limits.handshakes_per_address_max),
        ),
        row(
            "a handshake, hello included",
            format!("{} s", timings.handshake_timeout.as_secs()),
        ),
        row(
            "frame: control, append, call",
            lanes.map(|lane| bytes(lane as u64)).join(", "),
        ),
        row(
            "receive window: a stream, a connection; of a client or somebody unknown",
            format!(
                "{}, {}; {}",
                bytes(quic("STREAM_WINDOW_BYTES")),
                // One for each lane.
                bytes(4 * quic("STREAM_WINDOW_BYTES")),
                bytes(quic("NEWCOMER_WINDOW_BYTES"))
            ),
        ),
        row(
            "streams a peer may open: both ways, one way",
            format!("{}, 4", quic("BIDI_STREAMS_MAX")),
        ),
        row(
            "first packets of handshakes not yet accepted: one, all",
            format!(
                "{}, {}",
                bytes(quic("INCOMING_BYTES_MAX")),
                bytes(quic("INCOMING_BYTES_TOTAL_MAX"))
            ),
        ),
        row(
            "calls without an answer, of one connection",
            number(limits.calls_in_flight_max),
        ),
        row(
            "messages waiting for the service",
            format!(
                "{} and {}",
                number(limits.inbox_messages_max),
                bytes(limits.inbox_bytes_max as u64)
            ),
        ),
        row(
            "messages waiting for one peer, per lane",
            format!(
                "{} and {}; control: {}",
                number(limits.lane_messages_max),
                bytes(limits.lane_bytes_max as u64),
                number(limits.control_messages_max)
            ),
        ),
        row(
            "answers waiting for their callers: of one identity, of all",
            pair(
                bytes(limits.lane_bytes_max as u64),
                bytes(limits.replies_bytes_max as u64),
            ),
        ),
        row(
            "large frames that clients have begun: of one identity, of all; time for one",
            format!(
                "{}; {}; {} s",
                bytes(limits.lane_bytes_max as u64),
                bytes(limits.frames_bytes_max as u64),
                timings.large_frame_timeout.as_secs()
            ),
        ),
        row(
            "certificates in a chain; roots; revocation lists",
            // As many lists as roots: of each root one.
            format!(
                "{}; {}; {}",
                number(CHAIN_CERTIFICATES_MAX),
                number(ROOTS_MAX),
                number(ROOTS_MAX)
            ),
        ),
        row(
            "a file of a key, certificates or one list; of roots and lists",
            pair(bytes(FILE_BYTES_MAX), bytes(BUNDLE_BYTES_MAX)),
        ),
        row(
            "key; value",
            format!(
                "{}; {} bytes",
                number(KEY_BYTES_MAX),
                number(VALUE_BYTES_MAX)
            ),
        ),
        row(
            "pairs in a page; bytes",
            pair(
                number(RANGE_LIMIT_MAX as usize),
                bytes(RANGE_BYTES_MAX as u64),
            ),
        ),
        row(
            "requests waiting for consensus",
            format!(
                "{} and {}",
                number(INBOX_REQUESTS_MAX),
                bytes(INBOX_BYTES_MAX)
            ),
        ),
        row(
            "entries not yet committed",
            bytes(raft.uncommitted_bytes_max),
        ),
        row("reads waiting for a majority", number(raft.reads_max)),
        row(
            "reads waiting for their answers",
            format!("{} and {}", number(READS_MAX), bytes(READS_BYTES_MAX)),
        ),
        row("entries in memory", bytes(raft.log_view_bytes_max)),
        row(
            "states held for backups; without a question",
            pair(
                number(BACKUPS_MAX),
                format!("{} s", BACKUP_IDLE_MAX.as_secs()),
            ),
        ),
    ]
}

/// A private constant of the form `const NAME: u32 = 2 << 20;`, read from its source.
fn constant(path: &str, name: &str) -> u64 {
    let text = document(path);
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("const {name}: ")))
        .unwrap_or_else(|| panic!("{path} has no {name}"));
    let value = line.split(" = ").nth(1).expect("a value");
    let parts: Vec<u64> = value
        .trim_end_matches(';')
        .split(" << ")
        .map(|part| part.parse().expect("a number"))
        .collect();
    match parts[..] {
        [value] => value,
        [value, shift] => value << shift,
        _ => panic!("{name} = {value} is of another form"),
    }
}

/// As people write it: `8 MiB`.
fn bytes(bytes: u64) -> String {
    for (unit, name) in [(1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}

/// With commas between thousands.
fn number(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(path).expect("the file is readable")
}
