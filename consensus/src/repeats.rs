//! Entries that a member may still be about to receive are not sent to it again and again.

use std::collections::BTreeMap;

use raft::eraftpb::{Message, MessageType};

use crate::config::ELECTION_TICKS;

/// The first wait for an answer before the same entries are sent again, a second by default: a link that
/// carries a message within it sees no copies.
const WAIT_TICKS_MIN: u64 = 4 * ELECTION_TICKS as u64;

/// The longest such wait: what a message of 256 KiB then takes of a link is little, and a transport
/// that loses without telling is not waited for without end.
const WAIT_TICKS_MAX: u64 = 16 * ELECTION_TICKS as u64;

/// Fewer bytes of commands than this are sent again with every heartbeat: a packet more or less.
const SMALL_BYTES: usize = 1_000;

/// What was sent last to each member and has had no answer.
///
/// `raft` sends a member whose log it is looking for the same entries again with every response to a
/// heartbeat: where heartbeats follow entries on one way, a response shows that the entries were lost.
/// Ours overtake them, so on a slow link every heartbeat would add another copy to a queue that is
/// longer already than what the link can carry, and the member would never catch up (level 2, seed
/// 1954). The transport tells what it has no room for or has lost, and the member when it has room again for
/// what it refused. Where neither says anything, entries are sent again after waits that double.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    unanswered: BTreeMap<u64, Sent>,
}

#[derive(Debug)]
struct Sent {
    /// The entry before the first one sent, and the term of the leader.
    place: (u64, u64),
    at: u64,
    wait_ticks: u64,
}

impl Repeats {
    /// The member has said what became of what it got, or what it was sent is lost.
    pub(crate) fn forget(&mut self, member: u64) {
        self.unanswered.remove(&member);
    }

    /// Whether `message` only repeats, and too early.
    pub(crate) fn hold_back(&mut self, message: &Message, now: u64) -> bool {
        let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
        if message.get_msg_type() != MessageType::MsgAppend || bytes < SMALL_BYTES {
            return false;
        }
        let place = (message.term, message.index);
        let before = self.unanswered.get(&message.to);
        let before = before.filter(|sent| sent.place == place);
        if before.is_some_and(|sent| now < sent.at + sent.wait_ticks) {
            return true;
        }
        let doubled = |sent: &Sent| WAIT_TICKS_MAX.min(2 * sent.wait_ticks);
        let wait_ticks = before.map_or(WAIT_TICKS_MIN, doubled);
        let sent = Sent {
            place,
            at: now,
            wait_ticks,
        };
        self.unanswered.insert(message.to, sent);
        false
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn entries_after(index: u64) -> Message {
        let mut message = Message {
            to: 2,
            term: 7,
            index,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        let entry = Entry {
            data: vec![0; SMALL_BYTES].into(),
            ..Entry::default()
        };
        message.set_entries(vec![entry].into());
        message
    }

    fn sent_at(repeats: &mut Repeats, ticks: std::ops::Range<u64>) -> Vec<u64> {
        let message = entries_after(9);
        ticks
            .filter(|&now| !repeats.hold_back(&message, now))
            .collect()
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut repeats = Repeats::default();
        let sent = sent_at(&mut repeats, 0..1_600);
        assert_eq!(sent, [0, 100, 300, 700, 1_100, 1_500]);
    }

    #[test]
    fn what_is_new_or_lost_goes_at_once() {
        let mut repeats = Repeats::default();
        assert_eq!(sent_at(&mut repeats, 0..3), [0]);
        assert!(!repeats.hold_back(&entries_after(10), 3), "other entries");
        assert!(repeats.hold_back(&entries_after(10), 4), "the same");
        repeats.forget(2);
        assert!(!repeats.hold_back(&entries_after(10), 4), "they were lost");
        let mut heartbeat = entries_after(10);
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        assert!(!repeats.hold_back(&heartbeat, 4), "not entries");
        let mut small = entries_after(10);
        small.entries[0].data = "x".into();
        assert!(!repeats.hold_back(&small, 4), "it costs nothing");
    }
}
