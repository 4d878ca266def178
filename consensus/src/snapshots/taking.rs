//! The side that gets a snapshot.

use bytes::Bytes;

use super::{STALLED_TICKS, Take, TakeStep};
use crate::config::ELECTION_TICKS;
use crate::membership::Membership;
use crate::message::Transfer;
use crate::planted;
use crate::types::{EntryId, NodeId};

/// The first wait for a piece before it is asked for again, a second by default, and the longest one.
const WAIT_TICKS_MIN: u64 = 4 * ELECTION_TICKS as u64;
const WAIT_TICKS_MAX: u64 = 16 * WAIT_TICKS_MIN;

/// The snapshot that this node is getting, if it is.
///
/// There is one thing at a time that a transfer waits for: a step of the sink, or a piece. So each answer can only be
/// that to the last question. What the sink does for a transfer that was given up bears another number.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    transfers: u64,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    number: u64,
    from: NodeId,
    last: EntryId,
    membership: Membership,
    /// The place after the last piece that is kept.
    after: Bytes,
    state: State,
    /// The tick of the last piece.
    progress: u64,
}

#[derive(Debug)]
enum State {
    /// The sink gets ready.
    Beginning,
    /// A piece was asked for.
    Asking { at: u64, wait_ticks: u64 },
    /// A piece is being kept; then comes this place.
    Keeping { next: Option<Bytes> },
    /// All pieces are kept; the whole is being checked.
    Finishing,
}

/// What follows from an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask this member.
    Ask(NodeId, Transfer),
    /// Have this done.
    Do(Take),
    /// The snapshot is there.
    Whole(EntryId, Membership),
}

impl Taking {
    /// `from`, which leads now, says that this node needs the snapshot up to `last`. One that is on its way
    /// already goes on, from now on with what `from` gives. Another one takes the place of what a former leader
    /// gives: that one may have failed, and the leader waits for its own to arrive, whatever else does. While the
    /// leader's own is on its way, none is begun.
    pub(crate) fn offered(
        &mut self,
        from: NodeId,
        last: EntryId,
        membership: Membership,
        now: u64,
    ) -> Option<Next> {
        self.current.take_if(|it| {
            let is_former = it.from != from && !planted::is("former-leaders-snapshot-kept");
            it.last != last && is_former && it.needs_its_giver()
        });
        if let Some(current) = &mut self.current {
            if current.last != last {
                return None;
            }
            let State::Asking { at, wait_ticks } = current.state else {
                current.from = from;
                return None;
            };
            let waits = from == current.from && now < at + wait_ticks;
            current.from = from;
            return if waits {
                None
            } else {
                current.ask(now, WAIT_TICKS_MIN)
            };
        }
        self.transfers += 1;
        let current = Current {
            number: self.transfers,
            from,
            last,
            membership,
            after: Bytes::new(),
            state: State::Beginning,
            progress: now,
        };
        let begin = current.take(TakeStep::Begin(last));
        self.current = Some(current);
        Some(Next::Do(begin))
    }

    /// A piece has come; or nothing of the kind was asked for.
    pub(crate) fn arrived(
        &mut self,
        from: NodeId,
        last: EntryId,
        after: &Bytes,
        data: Bytes,
        next: Option<Bytes>,
        now: u64,
    ) -> Option<Next> {
        let current = self.current.as_mut()?;
        let asked = matches!(current.state, State::Asking { .. });
        if !asked || (from, last, after) != (current.from, current.last, &current.after) {
            return None;
        }
        current.progress = now;
        current.state = State::Keeping { next };
        Some(Next::Do(current.take(TakeStep::Add(data))))
    }

    /// The step of the transfer `number` is done, if `kept`; else what came could not be read.
    pub(crate) fn done(&mut self, number: u64, kept: bool, now: u64) -> Option<Next> {
        let current = self.current.as_mut().filter(|it| it.number == number)?;
        match &mut current.state {
            State::Beginning if kept => Some(current.ask_first(now)),
            State::Keeping { next } if kept => match next.take() {
                Some(next) => {
                    current.after = next;
                    Some(current.ask_first(now))
                }
                None => {
                    current.state = State::Finishing;
                    Some(Next::Do(current.take(TakeStep::Finish)))
                }
            },
            State::Finishing if kept => {
                let current = self.current.take()?;
                Some(Next::Whole(current.last, current.membership))
            }
            _ => {
                self.current = None;
                None
            }
        }
    }

    /// `from` does not have the snapshot any more. Where nothing is asked for, that is late, and what was asked for
    /// has come.
    pub(crate) fn gone(&mut self, from: NodeId, last: EntryId) {
        self.current.take_if(|it| {
            let asked = matches!(it.state, State::Asking { .. });
            asked && (it.from, it.last) == (from, last)
        });
    }

    /// A tick has passed: a piece that did not come is asked for again, and a transfer that does not get
    /// on is given up.
    pub(crate) fn tick(&mut self, now: u64) -> Option<Next> {
        let current = self.current.as_mut()?;
        let State::Asking { at, wait_ticks } = current.state else {
            return None;
        };
        if now >= current.progress + STALLED_TICKS {
            self.current = None;
            return None;
        }
        if now < at + wait_ticks {
            return None;
        }
        current.ask(now, WAIT_TICKS_MAX.min(2 * wait_ticks))
    }
}

impl Current {
    /// Whether there are pieces to come. What is all here is only to be finished.
    fn needs_its_giver(&self) -> bool {
        match self.state {
            State::Beginning | State::Asking { .. } | State::Keeping { next: Some(_) } => true,
            State::Keeping { next: None } | State::Finishing => false,
        }
    }

    /// Asks for the piece after what is kept.
    fn ask_first(&mut self, now: u64) -> Next {
        self.state = State::Asking {
            at: now,
            wait_ticks: WAIT_TICKS_MIN,
        };
        Next::Ask(self.from, self.request())
    }

    /// Asks again, unless what was asked for is there.
    fn ask(&mut self, now: u64, wait_ticks: u64) -> Option<Next> {
        let State::Asking { .. } = self.state else {
            return None;
        };
        self.state = State::Asking {
            at: now,
            wait_ticks,
        };
        Some(Next::Ask(self.from, self.request()))
    }

    fn request(&self) -> Transfer {
        Transfer::Request {
            last: self.last,
            after: self.after.clone(),
        }
    }

    fn take(&self, step: TakeStep) -> Take {
        Take {
            number: self.number,
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, Term};

    fn id(node: u64) -> NodeId {
        NodeId::new(node).unwrap()
    }

    fn last() -> EntryId {
        EntryId::new(Term::new(3), LogIndex::new(9))
    }

    /// What another leader has.
    fn other() -> EntryId {
        EntryId::new(Term::new(4), LogIndex::new(20))
    }

    fn membership() -> Membership {
        Membership::new([id(1), id(2)], []).unwrap()
    }

    fn request(after: &'static str) -> Transfer {
        Transfer::Request {
            last: last(),
            after: Bytes::from(after),
        }
    }

    fn step(number: u64, step: TakeStep) -> Take {
        Take { number, step }
    }

    /// In which node 2 has offered a snapshot at tick 0.
    fn taking() -> Taking {
        let mut taking = Taking::default();
        let begun = taking.offered(id(2), last(), membership(), 0);
        let begin = step(1, TakeStep::Begin(last()));
        assert_eq!(begun, Some(Next::Do(begin)));
        let asked = taking.done(1, true, 0);
        assert_eq!(asked, Some(Next::Ask(id(2), request(""))));
        taking
    }

    fn arrives(
        taking: &mut Taking,
        after: &'static str,
        next: Option<&'static str>,
    ) -> Option<Next> {
        let (after, next) = (Bytes::from(after), next.map(Bytes::from));
        taking.arrived(id(2), last(), &after, Bytes::from("piece"), next, 5)
    }

    /// Each piece is asked for when the one before it is kept, and the whole is told once it is checked.
    #[test]
    fn piece_after_piece_and_then_the_whole() {
        let mut taking = taking();
        let add = || Some(Next::Do(step(1, TakeStep::Add(Bytes::from("piece")))));
        assert_eq!(arrives(&mut taking, "k", None), None, "not asked for");
        assert_eq!(arrives(&mut taking, "", Some("k")), add());
        assert_eq!(arrives(&mut taking, "", Some("k")), None, "came twice");
        assert_eq!(
            taking.done(1, true, 6),
            Some(Next::Ask(id(2), request("k")))
        );
        assert_eq!(arrives(&mut taking, "k", None), add());
        let finish = Some(Next::Do(step(1, TakeStep::Finish)));
        assert_eq!(taking.done(1, true, 7), finish);
        let whole = Some(Next::Whole(last(), membership()));
        assert_eq!(taking.done(1, true, 8), whole);
        assert!(taking.current.is_none());
    }

    /// A piece that does not come is asked for again after waits that double, and not for ever.
    #[test]
    fn a_lost_piece_is_asked_for_again() {
        let mut taking = taking();
        let asked: Vec<u64> = (1..2 * STALLED_TICKS)
            .filter(|&now| taking.tick(now).is_some())
            .collect();
        assert_eq!(asked, [100, 300, 700, 1_500]);
        assert!(taking.current.is_none(), "given up");
        assert_eq!(taking.done(1, true, 0), None, "what is over is over");
    }

    /// A second offer of the same snapshot resumes it, also from another member; one of another snapshot by the same
    /// leader waits until this one is over.
    #[test]
    fn an_offer_resumes_what_it_offers() {
        let mut taking = taking();
        arrives(&mut taking, "", Some("k"));
        taking.done(1, true, 6);
        let resumed = taking.offered(id(3), last(), membership(), 7);
        assert_eq!(resumed, Some(Next::Ask(id(3), request("k"))));
        assert_eq!(taking.offered(id(3), other(), membership(), 8), None);
        taking.gone(id(2), last());
        assert!(taking.current.is_some(), "that one is not asked any more");
        let piece = Bytes::from("piece");
        taking.arrived(
            id(3),
            last(),
            &Bytes::from("k"),
            piece,
            Some(Bytes::from("m")),
            8,
        );
        taking.gone(id(3), last());
        assert!(taking.current.is_some(), "that came before, and late");
        taking.done(1, true, 8);
        taking.gone(id(3), last());
        let begun = taking.offered(id(3), other(), membership(), 9);
        let begin = step(2, TakeStep::Begin(other()));
        assert_eq!(begun, Some(Next::Do(begin)));
    }

    /// In which node 2, of which `state` is waited for, is followed by node 3, which offers another snapshot.
    fn succeeded(state: &str) -> (Taking, Option<Next>) {
        let mut taking = Taking::default();
        taking.offered(id(2), last(), membership(), 0);
        if state != "beginning" {
            taking.done(1, true, 0);
        }
        match state {
            "keeping" => drop(arrives(&mut taking, "", Some("k"))),
            "keeping the last" | "finishing" => drop(arrives(&mut taking, "", None)),
            _ => {}
        }
        if state == "finishing" {
            taking.done(1, true, 5);
        }
        let next = taking.offered(id(3), other(), membership(), 6);
        (taking, next)
    }

    /// What a former leader gives does not keep the leader's waiting, and nothing of it is taken any more.
    #[test]
    fn the_leaders_snapshot_takes_the_place_of_a_former_leaders() {
        for state in ["beginning", "asking", "keeping"] {
            let (mut taking, next) = succeeded(state);
            let begin = step(2, TakeStep::Begin(other()));
            assert_eq!(next, Some(Next::Do(begin)), "{state}");
            let again = taking.offered(id(3), other(), membership(), 7);
            assert_eq!(again, None, "{state}: it is being begun");
            // What is said and done of the former one comes late.
            assert_eq!(arrives(&mut taking, "", Some("k")), None, "{state}");
            taking.gone(id(2), last());
            assert_eq!(taking.done(1, true, 8), None, "{state}");
            assert_eq!(taking.done(1, false, 8), None, "{state}");
            let request = Transfer::Request {
                last: other(),
                after: Bytes::new(),
            };
            let asked = taking.done(2, true, 9);
            assert_eq!(asked, Some(Next::Ask(id(3), request)), "{state}");
            assert_eq!(arrives(&mut taking, "", Some("k")), None, "{state}");
        }
    }

    /// What is all here needs no giver: it is finished, whoever leads.
    #[test]
    fn what_is_here_is_finished() {
        for state in ["keeping the last", "finishing"] {
            let (mut taking, next) = succeeded(state);
            assert_eq!(next, None, "{state}");
            if state != "finishing" {
                taking.done(1, true, 7);
            }
            let whole = Some(Next::Whole(last(), membership()));
            assert_eq!(taking.done(1, true, 8), whole, "{state}");
        }
    }

    /// Nothing is asked for before the sink is ready, however late that is: what the sink has done is told
    /// from what it is still to do by its order alone.
    #[test]
    fn a_slow_beginning_is_waited_for() {
        let mut taking = Taking::default();
        taking.offered(id(2), last(), membership(), 0);
        assert_eq!(taking.offered(id(2), last(), membership(), 100), None);
        assert_eq!(taking.tick(500), None);
        assert_eq!(arrives(&mut taking, "", None), None, "not asked for");
        let asked = taking.done(1, true, 501);
        assert_eq!(asked, Some(Next::Ask(id(2), request(""))));
    }

    /// Pieces that cannot be read, and a whole that is not, end the transfer.
    #[test]
    fn what_is_not_accepted_ends_it() {
        let mut taking = taking();
        arrives(&mut taking, "", Some("k"));
        assert_eq!(taking.done(1, false, 6), None);
        assert!(taking.current.is_none());
    }
}
