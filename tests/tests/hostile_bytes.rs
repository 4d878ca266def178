//! Bodies that peers and clients send, damaged in every place: decoding them is an error or another
//! value, and never a panic or a demand for memory.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::fs;

use quorate::kv::{AsOf, Command, Directory, Notice, Query, Refusal, Request, Response};
use quorate::{EntryId, LogIndex, NodeId, Term};
use quorate_consensus::{Body, Entry, Message};
use serde::de::DeserializeOwned;

/// 2^60 and more, as postcard writes a length.
const HUGE: [&[u8]; 3] = [
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
];

/// What decoding may take at its peak, for all of these bodies together.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// A length or count in any place may claim any number of bytes or elements: nothing is set aside for
/// what has not arrived. No type on the wire has elements of no size, of which 2^60 would fit.
#[test]
fn i3_a_count_that_lies_is_refused_without_its_memory() {
    let before = peak_memory();
    let mut refused = 0;
    for_each_body(|body, decode| {
        for place in 0..body.len() {
            for huge in HUGE {
                for replaced in 0..=2.min(body.len() - place) {
                    let (start, end) = (&body[..place], &body[place + replaced..]);
                    refused += u64::from(!decode(&[start, huge, end].concat()));
                }
            }
        }
    });
    assert!(refused > 500, "{refused} refused");
    let grown = peak_memory() - before;
    assert!(grown < MEMORY_BYTES_MAX, "{grown} bytes more than before");
}

/// A body cut anywhere is refused, and no byte of it, whatever it becomes, makes a panic.
#[test]
fn i2_a_body_cut_or_changed_anywhere_is_an_error_or_a_value() {
    for_each_body(|body, decode| {
        assert!(decode(body), "the control");
        for length in 0..body.len() {
            assert!(!decode(&body[..length]), "{length} of {} bytes", body.len());
        }
        for place in 0..body.len() {
            for byte in 0..=u8::MAX {
                let mut changed = body.to_vec();
                changed[place] = byte;
                decode(&changed);
            }
        }
    });
}

/// Calls `with` for one body of each kind, and a function that says whether bytes decode as its type.
fn for_each_body(mut with: impl FnMut(&[u8], &dyn Fn(&[u8]) -> bool)) {
    fn decodes<T: DeserializeOwned>(bytes: &[u8]) -> bool {
        postcard::from_bytes::<T>(bytes).is_ok()
    }
    let bytes = |request: &Request| postcard::to_stdvec(request).unwrap();
    let key = || bytes::Bytes::from_static(b"a key");
    for request in [
        Request::Write(Command::Put {
            key: key(),
            value: key(),
        }),
        Request::Write(Command::CompareAndSet {
            key: key(),
            expected: Some(key()),
            value: None,
        }),
        Request::Read(Query::Range {
            start: key(),
            end: Some(key()),
            limit: 7,
        }),
        Request::ReadHere(Query::Leases {
            from: 1 << 40,
            limit: 7,
        }),
        Request::TransferLeader { to: NodeId::new(3) },
    ] {
        with(&bytes(&request), &decodes::<Request>);
    }
    let refusal = Response::Refused(Refusal::malformed("no such thing"));
    with(
        &postcard::to_stdvec(&refusal).unwrap(),
        &decodes::<Response>,
    );
    let notice = Notice::Leader {
        term: Term::new(300),
        leader: NodeId::new(2),
    };
    with(&postcard::to_stdvec(&notice).unwrap(), &decodes::<Notice>);
    let members = Notice::Members(Directory {
        as_of: AsOf {
            founding: 300,
            index: LogIndex::new(9),
        },
        members: [(NodeId::new(2).unwrap(), Some(([127, 0, 0, 1], 7).into()))].into(),
    });
    with(&postcard::to_stdvec(&members).unwrap(), &decodes::<Notice>);
    let append = Message {
        term: Term::new(300),
        body: Body::Append {
            previous: id(3, 9),
            entries: (10..14)
                .map(|index| Entry::command(id(3, index), key()))
                .collect(),
            commit: LogIndex::new(9),
        },
    };
    with(&postcard::to_stdvec(&append).unwrap(), &decodes::<Message>);
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

/// The most memory that this process has had so far.
fn peak_memory() -> u64 {
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        // Elsewhere than on Linux, a demand of 2^60 bytes ends the process, which is as good a test.
        return 0;
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.expect("VmHWM in kB").parse::<u64>().unwrap() << 10
}
