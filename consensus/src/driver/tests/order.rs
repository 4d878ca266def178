//! In what order the parts of a `Ready` reach those who carry them out.

use super::*;
use crate::durability::{Append, Cut};
use crate::log_view::Fetch;
use crate::ready::Committed;
use crate::types::HardState;

/// Entries that are wanted are asked for before the write that removes them from the log; a snapshot replaces the
/// state before what comes after it is applied, and who reads sees all of that; new members are known before
/// anything is sent to them.
#[test]
fn what_depends_on_something_comes_after_it() {
    let seams = Seams::default();
    let Running {
        mut driver,
        writer,
        applier,
        ..
    } = assembled(&seams);
    let membership = Membership::new([node(1), node(2)], [node(3)]).unwrap();
    let token = ReadToken(1);
    let done = Done::new(ReadError::Stopped, |_| {});
    let query = (Bytes::new(), done);
    driver.waiting.queries.insert(token, query);
    let mut write = LogWrite::new(vec![command(9)], HardState::default());
    write.cut = Some(Cut::Compact {
        index: LogIndex::new(5),
        membership: membership.clone(),
    });
    let (term, body) = (Term::new(2), Body::TimeoutNow);
    let ready = Ready {
        messages: vec![(node(3), Message { term, body })],
        fetches: vec![Fetch::of(2, 4)],
        append: Some(Append { number: 1, write }),
        install: Some(at(7)),
        committed: vec![Committed {
            entry: command(8),
            token: None,
        }],
        reads: vec![token],
        membership: Some(membership),
        ..Ready::default()
    };
    let before = [Called::SetMembers].as_slice();
    assert_eq!(seams.calls(&[Called::SetMembers, Called::Send]), before);
    assert!(driver.carry(ready).is_empty());

    let to_writer: Vec<_> = std::iter::from_fn(|| writer.jobs.try_recv().ok()).collect();
    assert!(
        matches!(to_writer[..], [WriterJob::Fetch(_), WriterJob::Append(_)]),
        "the read first"
    );
    let to_applier: Vec<_> = std::iter::from_fn(|| applier.jobs.try_recv().ok()).collect();
    assert!(
        matches!(
            to_applier[..],
            [
                ApplierJob::Install(_),
                ApplierJob::Apply(_),
                ApplierJob::Query(..)
            ]
        ),
        "the snapshot, what comes after it, and then who reads"
    );
    let sent = [Called::SetMembers, Called::SetMembers, Called::Send].as_slice();
    assert_eq!(seams.calls(&[Called::SetMembers, Called::Send]), sent);
}
