//! A network in memory that loses, delays and reorders only what it is told to.

use std::collections::BTreeSet;

use quorate_consensus::Message;

use super::rng::Rng;

/// Decides about one message; the default lets everything pass.
pub(crate) type Rule = Box<dyn FnMut(u64, u64, &Message) -> Fate>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    Drop,
    /// There is no room for it, and the sender is told so.
    Refuse,
    /// Arrives so many ticks later.
    Delay(u64),
}

#[derive(Default)]
pub(crate) struct Net {
    pub(crate) in_flight: Vec<InFlight>,
    cut: BTreeSet<(u64, u64)>,
    pub(crate) rule: Option<Rule>,
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    /// Messages take between nothing and this many ticks.
    pub(crate) latency_max: u64,
    sent: u64,
}

#[derive(Clone)]
pub(crate) struct InFlight {
    pub(crate) due: u64,
    pub(crate) number: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) message: Message,
}

impl Net {
    /// Returns false when the link is cut or has no room, as a transport would.
    pub(crate) fn send(
        &mut self,
        now: u64,
        rng: &mut Rng,
        (from, to): (u64, u64),
        message: &Message,
    ) -> bool {
        if self.cut.contains(&(from, to)) {
            return false;
        }
        let fate = match &mut self.rule {
            Some(rule) => rule(from, to, message),
            None => Fate::Deliver,
        };
        let delay = match fate {
            Fate::Drop => return true,
            Fate::Refuse => return false,
            Fate::Delay(ticks) => ticks,
            Fate::Deliver => 0,
        };
        if rng.chance(self.loss_percent) {
            return true;
        }
        let copies = 1 + usize::from(rng.chance(self.duplicate_percent));
        for _ in 0..copies {
            self.sent += 1;
            self.in_flight.push(InFlight {
                due: now + delay + rng.within(0..self.latency_max + 1),
                number: self.sent,
                from,
                to,
                message: message.clone(),
            });
        }
        true
    }

    /// What arrives now, in the order of arrival.
    pub(crate) fn take_due(&mut self, now: u64) -> Vec<InFlight> {
        let all = std::mem::take(&mut self.in_flight);
        let (mut due, later) = all.into_iter().partition(|message| message.due <= now);
        self.in_flight = later;
        let cut = &self.cut;
        let due_now: &mut Vec<InFlight> = &mut due;
        due_now.retain(|message| !cut.contains(&(message.from, message.to)));
        due_now.sort_by_key(|message| (message.due, message.number));
        due
    }

    /// Nothing passes from `from` to `to` any more, nor what is on its way.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(crate) fn connects(&self, one: u64, other: u64) -> bool {
        !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one))
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }
}
