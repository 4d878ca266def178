//! `quorate kv`: read and write keys.

mod delete;
mod lease;
mod lock;
mod range;
mod transaction;
mod watch;

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use quorate::kv::{
    Answer, Client, Query, REQUEST_TIMEOUT, Swap, VALUE_BYTES_MAX, Value, end_of_prefix,
};
use quorate_consensus::NodeId;
use serde_json::{Map, Value as Json, json};

use self::delete::DelArgs;
use self::lease::{LeaseAction, lease_number, time_to_live};
use self::lock::LockArgs;
use self::range::RangeArgs;
use self::transaction::TransactionArgs;
use self::watch::WatchArgs;
use super::connect::{ConnectArgs, failure};
use super::text::{field, printable, printable_line};
use super::{Failure, config, exit};

/// Read and write keys.
#[derive(Args, Debug)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON; bytes that are not UTF-8 appear in base64, in fields named ..._base64; numbers may be
    /// above 2^53, which jq before 1.7 rounds
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Set KEY to VALUE
    Put {
        key: OsString,
        /// `-` reads standard input
        value: OsString,
        /// Until this lease ends, or it is written again
        #[arg(long, value_name = "NUMBER", conflicts_with = "ttl", value_parser = lease_number)]
        lease: Option<u64>,
        /// Until so much time has passed, from `1s` to `30d`, or it is written again; makes a lease
        #[arg(long, value_parser = time_to_live)]
        ttl: Option<Duration>,
    },
    /// Print the value of KEY
    Get {
        key: OsString,
        /// Print the bytes as they are, without a newline
        #[arg(long, conflicts_with = "json")]
        raw: bool,
        #[command(flatten)]
        at: At,
        /// Whatever that node has, however old; says how old on standard error
        #[arg(long, requires = "at")]
        stale: bool,
    },
    /// Remove KEY, or all keys that begin with PREFIX
    Del(DelArgs),
    /// Change KEY only if it is as expected
    Cas(CasArgs),
    /// Print the keys from START up to but without END, in the order of their bytes
    Range(RangeArgs),
    /// Do several things in one moment, if everything is as it is to be
    Txn(TransactionArgs),
    /// Print what happens to keys, as it happens
    #[command(after_help = watch::HELP)]
    Watch(WatchArgs),
    /// Keys that go away by themselves
    #[command(subcommand)]
    Lease(LeaseAction),
    /// Run COMMAND while holding the lock NAME, in turn with all who want it, and exit as it does
    #[command(after_help = lock::HELP)]
    Lock(LockArgs),
}

/// Where to read.
#[derive(Args, Debug, Clone, Copy)]
struct At {
    /// Ask this node instead of the leader; as linearizable, and less for the leader to do
    #[arg(long, value_name = "NODE", value_parser = config::node_id)]
    at: Option<NodeId>,
}

#[derive(Args, Debug)]
struct CasArgs {
    key: OsString,
    #[command(flatten)]
    expected: Expected,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Expected {
    /// The value it must have; `-` reads standard input
    #[arg(long, value_name = "VALUE")]
    expect: Option<OsString>,
    /// It must not exist
    #[arg(long)]
    absent: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Wanted {
    /// The value it gets; `-` reads standard input
    #[arg(long, value_name = "VALUE")]
    set: Option<OsString>,
    /// It is removed
    #[arg(long)]
    delete: bool,
}

/// One operation with everything it needs, standard input included.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Put(Bytes, Bytes, Option<Life>),
    Get(Bytes),
    GetStale(Bytes, NodeId),
    Delete(Bytes),
    CompareAndSet(Bytes, Option<Bytes>, Option<Bytes>),
}

/// How long a key is to live, if not for ever.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Lease(u64),
    Ttl(Duration),
}

/// How old an answer may be.
#[derive(Debug)]
struct Age {
    revision: u64,
    leader_silent_for: Option<Duration>,
}

/// What came of it, and how to say so.
#[derive(Debug)]
enum Done {
    Put(u64),
    /// With the revision of the state that answered.
    Get(Bytes, Option<Value>, u64),
    GetStale(Bytes, Option<Value>, Age),
    Delete(bool),
    CompareAndSet(Swap),
}

pub(crate) fn run(args: KvArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let KvArgs {
        action,
        connect,
        json,
    } = args;
    let at = match &action {
        Action::Get { at, .. }
        | Action::Range(RangeArgs { at, .. })
        | Action::Watch(WatchArgs { at, .. }) => at.at,
        _ => None,
    };
    let with_client = async |client: Client| {
        let client = &at.map_or(client.clone(), |node| client.reading_at(node));
        match action {
            Action::Range(args) => range::run(client, args, json, out).await,
            Action::Del(args @ DelArgs { key: None, .. }) => {
                delete::run(client, args, json, out).await
            }
            Action::Txn(args) => transaction::run(client, args, json, out).await,
            Action::Watch(args) => watch::run(client, args, json, out).await,
            Action::Lease(action) => lease::run(client, action, json, out).await,
            Action::Lock(args) => lock::run(client, args).await,
            action => run_one(client, action, json, out).await,
        }
    };
    connect.open(REQUEST_TIMEOUT)?.with_client(with_client)
}

/// One of the operations on keys.
async fn run_one(
    client: &Client,
    action: Action,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let raw = matches!(action, Action::Get { raw: true, .. });
    let work = work(action, &mut io::stdin().lock())?;
    let done = carry_out(client, work)
        .await
        .map_err(|error| failure(&error))?;
    if let Some(remark) = remark(&done, json) {
        let _ = writeln!(io::stderr(), "{remark}");
    }
    match (json, raw, &done) {
        (true, _, done) => writeln!(out, "{}", in_json(done)),
        (false, true, Done::Get(_, Some(value), _) | Done::GetStale(_, Some(value), _)) => {
            out.write_all(&value.data)
        }
        (false, _, done) => for_people(done, out),
    }
    .map_err(Failure::output)?;
    verdict(&done, json)
}

/// The arguments as an operation. Reads `stdin` where one of them is `-`.
fn work(action: Action, stdin: &mut dyn Read) -> Result<Work, Failure> {
    let stdin = Cell::new(Some(stdin));
    let bytes = |argument: OsString| Bytes::from(argument.into_encoded_bytes());
    let value = |argument: OsString| {
        if argument == "-" {
            read_value(stdin.take())
        } else {
            Ok(bytes(argument))
        }
    };
    Ok(match action {
        Action::Put {
            key,
            value: data,
            lease,
            ttl,
        } => {
            let life = lease.map(Life::Lease).or(ttl.map(Life::Ttl));
            Work::Put(bytes(key), value(data)?, life)
        }
        Action::Get { key, at, stale, .. } => match (at.at, stale) {
            (Some(node), true) => Work::GetStale(bytes(key), node),
            _ => Work::Get(bytes(key)),
        },
        Action::Del(DelArgs { key: Some(key), .. }) => Work::Delete(bytes(key)),
        Action::Cas(cas) => Work::CompareAndSet(
            bytes(cas.key),
            cas.expected.expect.map(&value).transpose()?,
            cas.wanted.set.map(&value).transpose()?,
        ),
        Action::Del(_)
        | Action::Range(_)
        | Action::Txn(_)
        | Action::Watch(_)
        | Action::Lease(_)
        | Action::Lock(_) => unreachable!("these have their own modules"),
    })
}

/// The keys that are meant, all of them without any argument.
fn keys(
    start: Option<OsString>,
    end: Option<OsString>,
    prefix: Option<OsString>,
) -> (Bytes, Option<Bytes>) {
    let bytes = |argument: OsString| Bytes::from(argument.into_encoded_bytes());
    match prefix {
        Some(prefix) => {
            let prefix = bytes(prefix);
            let end = end_of_prefix(&prefix);
            (prefix, end)
        }
        None => (start.map(bytes).unwrap_or_default(), end.map(bytes)),
    }
}

/// Standard input, up to just over the largest value: enough to say that it is too large.
fn read_value(stdin: Option<&mut dyn Read>) -> Result<Bytes, Failure> {
    let stdin = stdin.ok_or_else(|| {
        Failure::new(exit::USAGE, "standard input cannot be two values")
            .help("write at most one of them as `-`")
    })?;
    let mut value = Vec::new();
    stdin
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::new(exit::IO, format!("cannot read standard input: {error}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(
            exit::DATA,
            format!("standard input has more than {VALUE_BYTES_MAX} bytes"),
        )
        .help("split the value over several keys"));
    }
    Ok(value.into())
}

async fn carry_out(client: &Client, work: Work) -> Result<Done, quorate::kv::ClientError> {
    Ok(match work {
        Work::Put(key, value, None) => Done::Put(client.put(key, value).await?),
        Work::Put(key, value, Some(life)) => {
            let lease = match life {
                Life::Lease(lease) => lease,
                Life::Ttl(ttl) => client.grant_lease(ttl).await?,
            };
            Done::Put(client.put_with_lease(key, value, lease).await?)
        }
        Work::Get(key) => {
            let (value, revision) = client.get_as_of(key.clone()).await?;
            Done::Get(key, value, revision)
        }
        Work::GetStale(key, node) => {
            let query = Query::Get { key: key.clone() };
            let stale = client.query_stale(node, query).await?;
            let Answer::Value { value, revision } = stale.answer else {
                return Err(quorate::kv::ClientError::Nonsense { node });
            };
            let leader_silent_for = stale.leader_silent_for;
            let age = Age {
                revision,
                leader_silent_for,
            };
            Done::GetStale(key, value, age)
        }
        Work::Delete(key) => Done::Delete(client.delete(key).await?),
        Work::CompareAndSet(key, expected, wanted) => {
            Done::CompareAndSet(client.compare_and_set(key, expected, wanted).await?)
        }
    })
}

/// What is not part of the data, so not on stdout; if nobody reads it, nothing is lost. JSON has it in its fields.
fn remark(done: &Done, json: bool) -> Option<String> {
    match done {
        Done::GetStale(_, _, age) if !json => Some(age.to_string()),
        _ => None,
    }
}

fn for_people(done: &Done, out: &mut dyn Write) -> io::Result<()> {
    match done {
        Done::Put(revision) => writeln!(out, "written at revision {revision}"),
        Done::Get(_, Some(value), _) | Done::GetStale(_, Some(value), _) => {
            writeln!(out, "{}", printable(&value.data))
        }
        Done::Get(_, None, _) | Done::GetStale(_, None, _) | Done::Delete(false) => Ok(()),
        Done::Delete(true) => writeln!(out, "deleted"),
        Done::CompareAndSet(Swap::Swapped { revision }) => {
            writeln!(out, "swapped at revision {revision}")
        }
        Done::CompareAndSet(Swap::NotSwapped { .. }) => Ok(()),
    }
}

impl Age {
    fn silent_ms(&self) -> Option<u64> {
        let silent = self.leader_silent_for?;
        Some(u64::try_from(silent.as_millis()).unwrap_or(u64::MAX))
    }
}

impl std::fmt::Display for Age {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let revision = self.revision;
        match self.leader_silent_for {
            Some(silent) => write!(
                f,
                "as of revision {revision}; the node heard of its leader {} ms ago",
                silent.as_millis()
            ),
            None => write!(f, "as of revision {revision}; the node knows no leader"),
        }
    }
}

fn in_json(done: &Done) -> Json {
    match done {
        Done::Put(revision) => json!({ "revision": revision }),
        Done::GetStale(key, value, age) => {
            let mut fields = in_json(&Done::Get(key.clone(), value.clone(), age.revision));
            fields["leader_silent_for_ms"] = age.silent_ms().into();
            fields
        }
        Done::Get(key, value, revision) => {
            let mut fields = match value {
                Some(value) => pair_in_json(key, value),
                None => Json::Object(Map::from_iter([
                    field("key", key),
                    ("value".into(), Json::Null),
                ])),
            };
            fields["as_of_revision"] = (*revision).into();
            fields
        }
        Done::Delete(existed) => json!({ "existed": existed }),
        Done::CompareAndSet(Swap::Swapped { revision }) => {
            json!({ "swapped": true, "revision": revision })
        }
        Done::CompareAndSet(Swap::NotSwapped { current }) => {
            let current = match current {
                Some(current) => field("current", current),
                None => ("current".into(), Json::Null),
            };
            Json::Object(Map::from_iter([("swapped".into(), false.into()), current]))
        }
    }
}

fn pair_in_json(key: &[u8], value: &Value) -> Json {
    Json::Object(Map::from_iter([
        field("key", key),
        field("value", &value.data),
        ("revision".into(), value.revision.into()),
    ]))
}

/// The exit code: a negative answer is not a success. In JSON the answer itself has said so.
fn verdict(done: &Done, json: bool) -> Result<(), Failure> {
    let negative = match done {
        Done::Get(_, None, _) | Done::GetStale(_, None, _) | Done::Delete(false) => {
            "no such key".to_owned()
        }
        Done::CompareAndSet(Swap::NotSwapped { current }) => match current {
            Some(current) => format!("not swapped: its value is {}", printable_line(current)),
            None => "not swapped: there is no such key".to_owned(),
        },
        Done::Put(_)
        | Done::Get(_, Some(_), _)
        | Done::GetStale(_, Some(_), _)
        | Done::Delete(true)
        | Done::CompareAndSet(Swap::Swapped { .. }) => return Ok(()),
    };
    Err(Failure::new(
        exit::NEGATIVE,
        if json { String::new() } else { negative },
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        kv: KvArgs,
    }

    fn parse(line: &[&str]) -> Result<KvArgs, clap::Error> {
        TestCli::try_parse_from([&["kv"], line].concat()).map(|cli| cli.kv)
    }

    fn work_of(line: &[&str], stdin: &str) -> Result<Work, Failure> {
        work(parse(line).unwrap().action, &mut stdin.as_bytes())
    }

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Each action becomes the operation it names.
    #[test]
    fn arguments_become_operations() {
        let some = |text| Some(bytes(text));
        for (line, expected) in [
            (
                &["put", "k", "v"][..],
                Work::Put(bytes("k"), bytes("v"), None),
            ),
            (&["put", "k", "-"], Work::Put(bytes("k"), bytes("in"), None)),
            (
                &["put", "k", "v", "--lease", "7"],
                Work::Put(bytes("k"), bytes("v"), Some(Life::Lease(7))),
            ),
            (
                &["put", "k", "v", "--ttl", "5s"],
                Work::Put(
                    bytes("k"),
                    bytes("v"),
                    Some(Life::Ttl(Duration::from_secs(5))),
                ),
            ),
            (&["get", "k", "--raw"], Work::Get(bytes("k"))),
            (&["del", "k", "--json"], Work::Delete(bytes("k"))),
            (
                &["cas", "k", "--expect", "a", "--set", "b"],
                Work::CompareAndSet(bytes("k"), some("a"), some("b")),
            ),
            (
                &["cas", "k", "--absent", "--set", "-"],
                Work::CompareAndSet(bytes("k"), None, some("in")),
            ),
            (
                &["cas", "k", "--expect", "a", "--delete"],
                Work::CompareAndSet(bytes("k"), some("a"), None),
            ),
        ] {
            assert_eq!(work_of(line, "in").unwrap(), expected, "{line:?}");
        }
    }

    /// What cannot be meant is refused before anything is sent.
    #[test]
    fn contradictions_are_refused() {
        for line in [
            &["cas", "k", "--expect", "a", "--absent", "--set", "b"][..],
            &["cas", "k", "--set", "b"],
            &["cas", "k", "--absent"],
            &["cas", "k", "--absent", "--set", "b", "--delete"],
            &["range", "a", "--prefix", "b"],
            &["range", "--limit", "0"],
            &["watch", "--limit", "0"],
            &["txn", "--then", "put k"],
            &["get", "k", "--raw", "--json"],
            &["put", "k"],
            &["put", "k", "v", "--lease", "7", "--ttl", "5s"],
            &["put", "k", "v", "--lease", "x"],
            &["watch", "k", "--prefix", "a"],
            &["txn", "--then", "incr k"],
            &["del"],
            &["del", "k", "--prefix", "a"],
            &["del", "--all", "--prefix", "a"],
            &["lock", "a"],
            &["lock", "a", "--"],
            &["lock", "a", "true"],
            &["lock", "a", "--ttl", "0s", "--", "true"],
            &["lock", "a", "--wait", "0s", "--", "true"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        let twice = work_of(&["cas", "k", "--expect", "-", "--set", "-"], "in").unwrap_err();
        assert_eq!(twice.code, exit::USAGE);
    }

    /// Standard input is read up to the largest value and not one byte more is accepted.
    #[test]
    fn standard_input_is_bounded() {
        let largest = "x".repeat(VALUE_BYTES_MAX);
        let Work::Put(_, value, _) = work_of(&["put", "k", "-"], &largest).unwrap() else {
            panic!("put");
        };
        assert_eq!(value.len(), VALUE_BYTES_MAX);
        let failure = work_of(&["put", "k", "-"], &(largest + "x")).unwrap_err();
        assert_eq!(failure.code, exit::DATA);
    }

    /// Without any argument all keys are meant; of a prefix, those that begin with it.
    #[test]
    fn which_keys_are_meant() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(keys(None, None, None), (bytes(""), None));
        let (start, end) = keys(some("a"), some("b"), None);
        assert_eq!((start, end), (bytes("a"), Some(bytes("b"))));
        let (start, end) = keys(None, None, some("ab"));
        assert_eq!((start, end), (bytes("ab"), Some(bytes("ac"))));
    }

    fn value(data: &'static [u8], revision: u64) -> Value {
        Value {
            data: Bytes::from_static(data),
            revision,
        }
    }

    /// What is printed for people, and the exit code that goes with it.
    #[test]
    fn answers_for_people() {
        for (done, text, code) in [
            (Done::Put(7), "written at revision 7\n", 0),
            (Done::Get(bytes("k"), Some(value(b"v", 7)), 9), "v\n", 0),
            (Done::Get(bytes("k"), None, 9), "", exit::NEGATIVE),
            (Done::Delete(true), "deleted\n", 0),
            (Done::Delete(false), "", exit::NEGATIVE),
            (
                Done::CompareAndSet(Swap::Swapped { revision: 8 }),
                "swapped at revision 8\n",
                0,
            ),
            (
                Done::CompareAndSet(Swap::NotSwapped { current: None }),
                "",
                exit::NEGATIVE,
            ),
        ] {
            let mut out = Vec::new();
            for_people(&done, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
            let verdict = verdict(&done, false).map_err(|failure| failure.code);
            assert_eq!(verdict.err().unwrap_or(0), code, "{done:?}");
        }
    }

    /// How old a stale answer is is said apart from it, also where that is empty; in JSON it is a field.
    #[test]
    fn the_age_of_a_stale_answer() {
        let age = || Age {
            revision: 7,
            leader_silent_for: Some(Duration::from_millis(3)),
        };
        for found in [Some(value(b"v", 7)), None] {
            let done = Done::GetStale(bytes("k"), found, age());
            let said = "as of revision 7; the node heard of its leader 3 ms ago";
            assert_eq!(remark(&done, false).as_deref(), Some(said));
            assert_eq!(remark(&done, true), None);
            assert_eq!(in_json(&done)["leader_silent_for_ms"], 3);
        }
    }

    /// JSON says everything on standard output, negative answers included, and loses no byte.
    #[test]
    fn answers_in_json() {
        for (done, text) in [
            (Done::Put(7), r#"{"revision":7}"#),
            (
                Done::Get(bytes("k"), Some(value(b"\xff", 7)), 9),
                r#"{"as_of_revision":9,"key":"k","revision":7,"value_base64":"/w=="}"#,
            ),
            (
                Done::Get(bytes("k"), None, 9),
                r#"{"as_of_revision":9,"key":"k","value":null}"#,
            ),
            (Done::Delete(false), r#"{"existed":false}"#),
            (
                Done::CompareAndSet(Swap::NotSwapped {
                    current: Some(bytes("x")),
                }),
                r#"{"current":"x","swapped":false}"#,
            ),
        ] {
            assert_eq!(in_json(&done).to_string(), text);
        }
        let silent = verdict(&Done::Delete(false), true).unwrap_err();
        assert_eq!((silent.code, silent.message.as_str()), (exit::NEGATIVE, ""));
    }
}
