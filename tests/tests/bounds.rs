//! The bounds that SECURITY.md and docs/guarantees.md state are those of the code.

use std::fs;
use std::path::Path;

use quorate::NodeId;
use quorate::kv::{
    BACKUP_IDLE_MAX, BACKUPS_MAX, KEY_BYTES_MAX, LEASE_KEYS_COUNTED_MAX, LEASE_TTL_MAX,
    LEASE_TTL_MIN, LEASES_MAX, LEASES_OF_ONE_MAX, RANGE_BYTES_MAX, RANGE_LIMIT_MAX,
    REQUEST_TIMEOUT, SESSION_TTL, SESSIONS_MAX, TRANSACTION_STEPS_MAX, VALUE_BYTES_MAX,
    WATCH_HISTORY_BYTES_DEFAULT, WATCH_WAIT_MAX, WATCHERS_MAX,
};
use quorate::saved::STATE_BYTES_MAX;
use quorate_certs::{BUNDLE_BYTES_MAX, CHAIN_CERTIFICATES_MAX, FILE_BYTES_MAX, ROOTS_MAX};
use quorate_consensus::{
    Config, INBOX_BYTES_MAX, INBOX_REQUESTS_MAX, MESSAGES_BYTES_MAX, MESSAGES_MAX,
    NODE_ID_STEP_MAX, READS_BYTES_MAX, READS_MAX,
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

/// What docs/guarantees.md says of limits and times, written here a second time, from the code.
#[test]
fn guarantees_md_states_the_limits() {
    let text = document("docs/guarantees.md");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let stated = [of_writes(), of_watches_and_leases(), of_locks(), of_nodes()];
    let missing: Vec<String> = stated
        .into_iter()
        .flatten()
        .filter(|stated| !text.contains(stated))
        .collect();
    assert!(missing.is_empty(), "does not say: {missing:#?}");
}

fn of_writes() -> Vec<String> {
    let steps = number(TRANSACTION_STEPS_MAX);
    let page = RANGE_BYTES_MAX as u64;
    let session = SESSION_TTL.as_secs();
    let renewed = session / constant("node-bin/src/kv/store/timed.rs", "SESSION_RENEWED");
    let minutes = |seconds: u64| format!("{}:{:02}", seconds / 60, seconds % 60);
    vec![
        format!("A transaction looks at up to {steps} keys"),
        format!("one of two lists of up to {steps} steps"),
        format!("`kv del --prefix` removes {steps} keys at a time"),
        format!(
            "A key has 1 to {} bytes, a value at most {} ({} less {})",
            number(KEY_BYTES_MAX),
            number(VALUE_BYTES_MAX),
            bytes(page),
            bytes(page - VALUE_BYTES_MAX as u64)
        ),
        format!("what it reads that of a page ({})", bytes(page)),
        format!(
            "**Sessions end** {} to {} minutes after they were last used",
            minutes(session - renewed),
            minutes(session)
        ),
        format!("a use renews a session when {renewed} s have passed"),
        format!(
            "An answer of more than {} is not kept",
            bytes(constant(
                "node-bin/src/kv/store/apply.rs",
                "KEPT_ANSWER_BYTES_MAX"
            ))
        ),
        format!("more than {}, the one ends", number(SESSIONS_MAX)),
        format!("its deadline ({} s unless set)", REQUEST_TIMEOUT.as_secs()),
    ]
}

fn of_watches_and_leases() -> Vec<String> {
    let timekeeper = "node-bin/src/kv/timekeeper.rs";
    let parts = constant(timekeeper, "TOLD_PARTS");
    assert_eq!(parts, 4, "a quarter");
    let days = LEASE_TTL_MAX.as_secs() / (24 * 60 * 60);
    vec![
        format!(
            "Every {} seconds without a change",
            word(WATCH_WAIT_MAX.as_secs())
        ),
        format!(
            "A node remembers {} of changes",
            bytes(WATCH_HISTORY_BYTES_DEFAULT as u64)
        ),
        format!("A node answers {} who wait", number(WATCHERS_MAX)),
        format!(
            "Where up to {} wait, they are told how far it is",
            constant("node-bin/src/kv/history.rs", "REMINDED_MAX")
        ),
        format!("({} s to {days} days)", LEASE_TTL_MIN.as_secs()),
        format!(
            "at most {} of the {} leases",
            number(LEASES_OF_ONE_MAX),
            number(LEASES_MAX)
        ),
        format!(
            "one moment for up to {} keys",
            number(constant("node-bin/src/kv/store/apply.rs", "ENDED_ROWS_MAX") as usize)
        ),
        format!(
            "up to a quarter of what remained, at most {} seconds",
            word(constant(timekeeper, "TOLD_AT_LATEST"))
        ),
        format!(
            "up to {} are counted for a page",
            number(LEASE_KEYS_COUNTED_MAX as usize)
        ),
    ]
}

fn of_locks() -> Vec<String> {
    let code = constant("node-bin/src/cli/exit.rs", "TEMPORARY");
    let kept = constant("node-bin/src/kv/client/keeping.rs", "KEPT_TIMES");
    let digits = constant("node-bin/src/kv/client/lock/place.rs", "NUMBER_DIGITS");
    let command = document("node-bin/src/cli/kv/lock.rs");
    let default = command.split("default_value = \"").nth(1);
    let default = default.and_then(|text| text.split("s\"").next());
    vec![
        format!("the number of its lease in {digits} digits"),
        format!("kept {} times in its time to live", word(kept)),
        format!("`kv lock` exits with {code}"),
        format!("({} s is the default)", default.expect("in seconds")),
    ]
}

fn of_nodes() -> Vec<String> {
    let raft = Config::new(NodeId::new(1).expect("one is not zero"));
    let election = raft.election_timeout.as_millis() as u64;
    let stalled = elections("consensus/src/stall_watch.rs", "STALLED_TICKS");
    let given_up = elections("consensus/src/snapshots/mod.rs", "STALLED_TICKS");
    let preference = "consensus/src/node/preference.rs";
    assert_eq!(elections(preference, "ASK_TICKS") * election, 1000);
    let rounds = constant("consensus/src/node/membership.rs", "ROUNDS_MIN");
    let compared = word(raft.compare_interval.as_secs() / 60);
    vec![
        format!("but for a tail ({})", bytes(raft.log_tail_bytes)),
        format!("still need (up to {})", bytes(raft.log_bytes_max)),
        format!(
            "not get on for {} s ({given_up} election timeouts)",
            given_up * election / 1000
        ),
        format!("limited ({}/s)", bytes(raft.snapshot_bytes_per_second)),
        format!("Every {compared} minutes in which something was written"),
        format!("states are compared every {compared} minutes"),
        format!("{} rounds of an election timeout on end", word(rounds)),
        format!("after {election} to {} ms", 2 * election),
        format!(
            "ever used, by {} at most",
            number(usize::try_from(NODE_ID_STEP_MAX).expect("it fits"))
        ),
        format!("(`priority`, 0 to {})", u8::MAX),
        "asks for leadership once a second".into(),
        format!(
            "after {} election timeouts ({} s)",
            word(stalled),
            stalled * election / 1000
        ),
        format!("after {} s it stops", raft.disk_hang_timeout.as_secs()),
        format!(
            "after {} s (`apply_stall_timeout`) that node says so",
            raft.apply_stall_timeout.as_secs()
        ),
        format!(
            "the last checkpoint ({} s or {} of commands, unless set",
            raft.checkpoint_interval.as_secs(),
            bytes(raft.checkpoint_bytes)
        ),
        format!("at most {} (`STATE_BYTES_MAX`)", bytes(STATE_BYTES_MAX)),
    ]
}

fn rows() -> Vec<String> {
    let limits = Limits::default();
    let timings = Timings::default();
    let raft = Config::new(NodeId::new(1).expect("one is not zero"));
    let row = |what: &str, bound: String| format!("| {what} | {bound} |");
    let pair = |one: String, two: String| format!("{one}; {two}");
    let quic = |name: &str| constant("quic-transport/src/quic.rs", name);
    let copies =
        |file: &str, name: &str| constant(&format!("quic-transport/src/copies/{file}"), name);
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
            "datagrams of a connection not yet taken, not yet sent; copies waiting to be sent; of a lane, waiting to be read",
            format!(
                "{0}, {0}; {1}; {2}",
                bytes(copies("mod.rs", "DATAGRAMS_BYTES_MAX")),
                bytes(copies("sending.rs", "WAITING_BYTES_MAX")),
                bytes(copies("arrived.rs", "ARRIVED_BYTES_MAX"))
            ),
        ),
        row(
            "of a lane, what lies behind a gap; of a client or somebody unknown; time for more than that",
            format!(
                "{}; {}; {} s",
                bytes(quic("STREAM_WINDOW_BYTES")),
                bytes(constant(
                    "quic-transport/src/reader.rs",
                    "CLIENT_HELD_BYTES_MAX"
                )),
                copies("input.rs", "FULL_MAX")
            ),
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
            "an answer kept for who sends a command again",
            bytes(constant(
                "node-bin/src/kv/store/apply.rs",
                "KEPT_ANSWER_BYTES_MAX",
            )),
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
            "messages of members waiting for consensus",
            format!("{} and {}", number(MESSAGES_MAX), bytes(MESSAGES_BYTES_MAX)),
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

/// What the private constant `name` is, read from its source.
fn value_of(path: &str, name: &str) -> String {
    let text = document(path);
    let named = format!("const {name}: ");
    let line = text
        .lines()
        .find(|line| line.contains(&named))
        .unwrap_or_else(|| panic!("{path} has no {name}"));
    let value = line.split(" = ").nth(1).expect("a value");
    value.trim_end_matches(';').to_owned()
}

/// A number, also of the form `2 << 20`, or the seconds of a duration.
fn constant(path: &str, name: &str) -> u64 {
    let value = value_of(path, name);
    let seconds = value.strip_prefix("Duration::from_secs(");
    let number = seconds.map_or(&*value, |rest| rest.trim_end_matches(')'));
    let parts: Vec<u64> = number
        .split(" << ")
        .map(|part| part.parse().expect("a number"))
        .collect();
    match parts[..] {
        [value] => value,
        [value, shift] => value << shift,
        _ => panic!("{name} = {value} is of another form"),
    }
}

/// How many election timeouts, of the form `4 * ELECTION_TICKS as u64`.
fn elections(path: &str, name: &str) -> u64 {
    let value = value_of(path, name);
    let times = value.strip_suffix(" * ELECTION_TICKS as u64");
    let times = times.unwrap_or_else(|| panic!("{name} = {value} is of another form"));
    times.parse().expect("a number")
}

/// As text has it where no unit follows.
fn word(number: u64) -> &'static str {
    match number {
        3 => "three",
        4 => "four",
        5 => "five",
        10 => "ten",
        other => panic!("no word for {other}"),
    }
}

/// As people write it: `8 MiB`.
fn bytes(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
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
