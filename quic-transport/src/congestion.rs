//! How much may be on its way to a peer: CUBIC (RFC 9438), which takes every lost packet for congestion, and under it
//! a floor that does not.
//!
//! Where one packet in a hundred is lost whatever the load, CUBIC alone comes to about ten packets for each round trip:
//! a follower that way, 10 ms off, is kept up with at 1.6 MB a second, on a link that could take a hundred times as
//! much. But what arrived in a round trip of late fits on the path, whoever was lost beside it. So that much may be sent
//! in the next one too, as in Westwood (Mascolo et al., MobiCom 2001), and a little more to see whether there is room
//! (as BBR does, draft-cardwell-iccrg-bbr-congestion-control-02), unless there are signs of congestion other than
//! some loss: round trips that grow, marks (RFC 3168), much loss, or a silence.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use crate::planted;

/// For how many round trips what arrived in one counts: as long as BBR remembers a bandwidth. Larger: a path that has
/// become narrower is noticed later. Smaller: a round trip with bad luck counts for more.
const ROUNDS: usize = 10;

/// How much more than arrived is tried, as a part of that. Lost with it, at a path that is full and holds nothing
/// back, is a fifth at most, until [`LOSS_MAX`] ends it. Less: more round trips to fill a path, and below a few percent
/// not as much as is lost.
const PROBE: u64 = 4;

/// As much as may be sent on a path of which nothing is known yet (RFC 9002, section 7.2): who sends less for a while
/// should not have to begin below that.
const PACKETS_MIN: u64 = 10;

/// How much longer than the shortest round trip one may take, as a part of that, without being a sign of a queue: half
/// of what [`PROBE`] makes it longer where it is too much.
const QUEUE: u32 = 8;

/// How many round trips in a row must have been so short for that to be believed. Single ones seem to be shorter than
/// light allows where a thread looks at the clock, has to wait for a processor, and only then finds what arrived
/// meanwhile; with a shortest one that is none, all others seem to have waited in a queue.
const SHORT_ROUNDS: usize = 4;

/// And how much longer in any case: to be woken takes that long on a busy machine.
const JITTER: Duration = Duration::from_millis(1);

/// Which part of what was sent may be lost, as one in so many, before it is taken for congestion: more than bad links
/// lose that anybody would put a cluster on, less than what [`PROBE`] loses where it is too much.
pub(crate) const LOSS_MAX: u64 = 16;

/// For how many round trips nothing is tried after too much was lost. Larger: a path that was full for a moment stays
/// unused for longer. Smaller: more is lost at one that is full and holds nothing back.
const PAUSE_ROUNDS: usize = 64;

/// Over how many packets, and up to twice as many, the lost ones are counted: at [`LOSS_MAX`] that is sixteen or more,
/// and bad luck seldom makes half as many look like it.
const COUNTED_PACKETS: u64 = 256;

/// Makes controllers.
pub(crate) fn factory() -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(Factory(Arc::new(CubicConfig::default())))
}

struct Factory(Arc<CubicConfig>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(CubicWithFloor {
            cubic: Arc::clone(&self.0).build(now, current_mtu),
            floor: Floor::new(current_mtu),
        })
    }
}

struct CubicWithFloor {
    cubic: Box<dyn Controller>,
    floor: Floor,
}

impl Controller for CubicWithFloor {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.floor.last_sent = last_packet_number;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let round_trip = now.saturating_duration_since(sent);
        self.floor.acknowledged(round_trip, bytes, app_limited);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.floor.acknowledged_up_to(largest_packet_num_acked);
        let largest = largest_packet_num_acked;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let is_marked = lost_bytes == 0;
        let is_each = planted::is("each-loss-is-congestion");
        if is_persistent_congestion || is_marked || is_each {
            self.floor.congested();
        } else {
            self.floor.lost(lost_bytes);
        }
        let is_persistent = is_persistent_congestion;
        self.cubic
            .on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.floor.mtu = new_mtu.into();
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor.bytes())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            floor: self.floor.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What may be on its way although packets are lost. It counts in rounds: one ends when a packet is acknowledged that
/// was sent after it began, so that what is acknowledged in it is what was on its way at its beginning.
#[derive(Clone, Debug)]
struct Floor {
    mtu: u64,
    last_sent: u64,
    round: Round,
    /// How much of what arrived in each of the last rounds was on the path, of those that say what it can take; the next one
    /// takes the place of the oldest.
    arrived: [u64; ROUNDS],
    oldest: usize,
    /// The largest of them: it is asked for with every packet.
    arrived_most: u64,
    /// The shortest round trip of each of the last rounds, and what they were not above at best: of a path that becomes
    /// longer, all seem to have waited, and CUBIC is alone.
    last: [Duration; SHORT_ROUNDS],
    shortest: Duration,
    /// Whether those of the last round were longer.
    has_queue: bool,
    /// Of how many bytes it is known whether they arrived, and how many of them did not.
    counted: u64,
    lost: u64,
    /// For how many more rounds there is no floor, since the path was congested.
    congested: usize,
    /// For how many more rounds it does not grow, since too much was lost.
    pause: usize,
}

/// The one that goes on.
#[derive(Clone, Debug)]
struct Round {
    /// Packets up to this one were sent before it began.
    sent_before: u64,
    acknowledged: u64,
    shortest: Duration,
    /// Whether there was at any time no more to send than the path would have taken.
    is_limited_by_application: bool,
}

impl Round {
    fn after(sent_before: u64) -> Self {
        Self {
            sent_before,
            acknowledged: 0,
            shortest: Duration::MAX,
            is_limited_by_application: false,
        }
    }
}

impl Floor {
    fn new(mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            last_sent: 0,
            round: Round::after(0),
            arrived: [0; ROUNDS],
            oldest: 0,
            arrived_most: 0,
            last: [Duration::MAX; SHORT_ROUNDS],
            shortest: Duration::MAX,
            has_queue: false,
            counted: 0,
            lost: 0,
            congested: 0,
            pause: 0,
        }
    }

    fn acknowledged(&mut self, round_trip: Duration, bytes: u64, is_limited_by_application: bool) {
        self.round.acknowledged += bytes;
        self.round.shortest = self.round.shortest.min(round_trip);
        self.round.is_limited_by_application |= is_limited_by_application;
        self.count(bytes, 0);
    }

    fn acknowledged_up_to(&mut self, packet: Option<u64>) {
        if packet.is_some_and(|packet| packet > self.round.sent_before) {
            let next = Round::after(self.last_sent);
            let ended = std::mem::replace(&mut self.round, next);
            // Of what carries acknowledgements and nothing else, none is counted.
            if ended.acknowledged > 0 {
                self.end(&ended);
            }
        }
    }

    fn end(&mut self, round: &Round) {
        self.last.rotate_left(1);
        self.last[SHORT_ROUNDS - 1] = round.shortest;
        let longest = self.last.iter().max().expect("there are some");
        self.shortest = self.shortest.min(*longest);
        self.congested = self.congested.saturating_sub(1);
        let without_queue = (self.shortest / QUEUE).max(JITTER);
        self.has_queue = round.shortest.saturating_sub(self.shortest) > without_queue;
        self.pause = match self.loses_much() {
            true => PAUSE_ROUNDS,
            false => self.pause.saturating_sub(1),
        };
        // What waits in a queue is not on the path.
        let on_path = self.shortest.saturating_add(JITTER);
        let share = match planted::is("queue-taken-for-path") {
            true => 1.0,
            false => on_path.div_duration_f64(round.shortest),
        };
        let arrived = (round.acknowledged as f64 * share.min(1.0)) as u64;
        // Who had little to send has not learned that the path takes less (the same rule as BBR's).
        if round.is_limited_by_application && arrived < self.arrived_most {
            return;
        }
        self.arrived[self.oldest] = arrived;
        self.oldest = (self.oldest + 1) % ROUNDS;
        self.arrived_most = self.arrived.into_iter().max().expect("there are some");
    }

    fn lost(&mut self, bytes: u64) {
        self.count(bytes, bytes);
    }

    fn count(&mut self, bytes: u64, lost: u64) {
        self.counted += bytes;
        self.lost += lost;
        if self.counted > 2 * COUNTED_PACKETS * self.mtu {
            self.counted /= 2;
            self.lost /= 2;
        }
    }

    /// Something other than some loss says that it was too much.
    fn congested(&mut self) {
        (self.arrived, self.arrived_most) = ([0; ROUNDS], 0);
        self.congested = ROUNDS;
    }

    fn loses_much(&self) -> bool {
        let too_much = self.lost * LOSS_MAX > self.counted.max(COUNTED_PACKETS * self.mtu);
        too_much && !planted::is("much-loss-is-none")
    }

    /// Never more than was on its way of late, and a [`PROBE`]th of that, but for [`PACKETS_MIN`].
    fn bytes(&self) -> u64 {
        if self.congested > 0 || self.loses_much() {
            return 0;
        }
        let arrived = self.arrived_most;
        match self.has_queue || self.pause > 0 {
            true => arrived,
            false => (arrived + arrived / PROBE).max(PACKETS_MIN * self.mtu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1_200;
    const ROUND_TRIP: Duration = Duration::from_millis(10);

    /// A path on which so many packets are in a round trip; as many as `holds` more wait where it is narrow, and the
    /// rest is dropped there. Besides, one in `loses` is lost.
    #[derive(Clone, Copy)]
    struct Path {
        takes: u64,
        holds: u64,
        loses: u64,
    }

    const NONE: u64 = u64::MAX;

    /// A good path, but for one packet in a hundred.
    const LOSSY: Path = Path {
        takes: 1_000,
        holds: 1_000,
        loses: 100,
    };

    /// Who sends all it may on a path.
    struct Sender {
        path: Path,
        round_trip: Duration,
        floor: Floor,
        has_floor: bool,
        /// In packets: what a lost packet makes smaller by three tenths, and a round trip larger by one, as CUBIC where
        /// round trips are short.
        window: u64,
        sent: u64,
        lost: u64,
    }

    impl Sender {
        fn on(path: Path, has_floor: bool) -> Self {
            Self {
                path,
                round_trip: ROUND_TRIP,
                floor: Floor::new(MTU as u16),
                has_floor,
                window: 10,
                sent: 0,
                lost: 0,
            }
        }

        fn may_send(&self) -> u64 {
            match self.has_floor {
                true => self.window.max(self.floor.bytes() / MTU),
                false => self.window,
            }
        }

        /// All that is there, or `wants` at most.
        fn round(&mut self, wants: u64) {
            let Path {
                takes,
                holds,
                loses,
            } = self.path;
            let sends = self.may_send().min(wants);
            let until = self.sent + sends;
            let enters = self.sent + sends.min(takes + holds);
            let waits = sends.min(takes + holds).saturating_sub(takes);
            let round_trip = self.round_trip * (takes + waits) as u32 / takes as u32;
            self.floor.last_sent = until;
            let mut lost = 0;
            for packet in self.sent + 1..=until {
                if packet > enters || packet % loses == 0 {
                    self.floor.lost(MTU);
                    lost += 1;
                } else {
                    self.floor.acknowledged(round_trip, MTU, sends == wants);
                }
            }
            self.floor.acknowledged_up_to(Some(until));
            if lost > 0 {
                self.window = (self.window * 7 / 10).max(2);
            } else {
                self.window += 1;
            }
            (self.sent, self.lost) = (until, self.lost + lost);
        }

        fn rounds(&mut self, count: usize) -> &mut Self {
            (0..count).for_each(|_| self.round(NONE));
            self
        }

        fn lost_permille(&self) -> u64 {
            self.lost * 1_000 / self.sent
        }
    }

    /// One packet in a hundred, or in thirty, is no reason to leave a path empty, and a full one is not overrun.
    #[test]
    fn some_loss_does_not_keep_a_path_empty() {
        for loses in [100, 30] {
            let path = Path { loses, ..LOSSY };
            let mut sender = Sender::on(path, true);
            for round in 0..1_000 {
                sender.round(NONE);
                let sends = sender.may_send();
                let full = path.takes..=path.takes * 14 / 10;
                assert!(round < 40 || full.contains(&sends), "{round}: {sends}");
            }
            let mut control = Sender::on(path, false);
            assert!(control.rounds(1_000).may_send() < 40);
        }
    }

    /// A round trip now and then that seems to be shorter than the path is long does not make a queue of the path.
    #[test]
    fn impossibly_short_round_trips_are_not_believed() {
        for (in_a_row, is_believed) in [(SHORT_ROUNDS - 1, false), (SHORT_ROUNDS, true)] {
            let mut sender = Sender::on(LOSSY, true);
            for round in 0..1_000 {
                sender.round_trip = match round % 100 < in_a_row {
                    true => ROUND_TRIP * 7 / 10,
                    false => ROUND_TRIP,
                };
                sender.round(NONE);
            }
            assert_eq!(sender.may_send() < LOSSY.takes, is_believed, "{in_a_row}");
        }
    }

    /// Where a path holds nothing back, what is too much is lost: that stays within a bound, and the path is used.
    #[test]
    fn a_path_that_holds_nothing_is_overrun_for_short_times_only() {
        let path = Path {
            holds: 0,
            loses: NONE,
            ..LOSSY
        };
        let mut sender = Sender::on(path, true);
        sender.rounds(1_000);
        assert!(sender.lost_permille() < 20, "{}", sender.lost_permille());
        let arrived = sender.sent - sender.lost;
        assert!(arrived > 1_000 * path.takes * 8 / 10, "{arrived}");
    }

    /// A queue is not what the path takes, however much it holds.
    #[test]
    fn a_queue_makes_no_floor() {
        let path = Path {
            holds: 4_000,
            loses: NONE,
            ..LOSSY
        };
        let mut sender = Sender::on(path, true);
        let (mut highest, mut queue) = (0, 0);
        for _ in 0..10_000 {
            sender.round(NONE);
            highest = highest.max(sender.floor.bytes() / MTU);
            queue = queue.max(sender.window.saturating_sub(path.takes));
        }
        assert!(queue > 3_000, "{queue}");
        assert!(highest <= path.takes * 14 / 10, "{highest}");
    }

    /// A mark, or a long silence, is no loss like others: for some round trips there is no floor, and then it begins
    /// with what arrives by then.
    #[test]
    fn signs_of_congestion_are_heeded() {
        let mut sender = Sender::on(LOSSY, true);
        let much = sender.rounds(100).floor.bytes();
        assert!(much >= LOSSY.takes * MTU);
        sender.floor.congested();
        for _ in 1..ROUNDS {
            sender.round(NONE);
            assert_eq!(sender.floor.bytes(), 0);
        }
        sender.round(NONE);
        let anew = sender.floor.bytes();
        assert!(0 < anew && anew < much / 10, "{anew} after {much}");
    }

    /// Who has little to send may send as much at once as at the beginning.
    #[test]
    fn a_path_with_little_on_it_stays_as_wide_as_it_began() {
        let mut sender = Sender::on(LOSSY, true);
        (0..100).for_each(|_| sender.round(1));
        assert_eq!(sender.floor.bytes(), PACKETS_MIN * MTU);
    }

    /// What is lost beyond a share is for CUBIC alone.
    #[test]
    fn much_loss_is_congestion() {
        let mut sender = Sender::on(LOSSY, true);
        assert_ne!(sender.rounds(100).floor.bytes(), 0);
        sender.path.loses = 10;
        assert_eq!(sender.rounds(100).floor.bytes(), 0);
    }

    /// Who has little to send learns nothing of the path, and one that has become narrower is noticed.
    #[test]
    fn what_is_remembered_is_what_the_path_took() {
        let mut sender = Sender::on(LOSSY, true);
        let much = sender.rounds(100).floor.bytes();
        (0..100).for_each(|_| sender.round(5));
        assert!(sender.floor.bytes() >= much * 8 / 10);
        sender.path.takes = 100;
        sender.rounds(2 * PAUSE_ROUNDS);
        let less = sender.floor.bytes() / MTU;
        assert!((100..=140).contains(&less), "{less}");
    }

    /// Who only acknowledges what the other one sends learns nothing either.
    #[test]
    fn acknowledgements_are_no_rounds() {
        let mut sender = Sender::on(LOSSY, true);
        let before = sender.rounds(100).floor.bytes();
        for packet in 0..100 {
            let packet = sender.sent + packet;
            sender.floor.last_sent = packet;
            sender.floor.acknowledged_up_to(Some(packet));
        }
        assert_eq!(sender.floor.bytes(), before);
    }

    /// quinn is told the larger of both, and a mark or a silence is told apart from a loss.
    #[test]
    fn the_window_is_the_larger_of_both() {
        let now = Instant::now();
        let later = now + ROUND_TRIP;
        let with_floor = || CubicWithFloor {
            cubic: Arc::new(CubicConfig::default()).build(now, MTU as u16),
            floor: Sender::on(LOSSY, true).rounds(100).floor.clone(),
        };
        let cubic = with_floor().cubic.window();
        assert!(with_floor().window() > 50 * cubic);
        for (what, is_persistent, lost, is_kept) in [
            ("a loss", false, MTU, true),
            ("a mark", false, 0, false),
            ("a silence", true, MTU, false),
        ] {
            let mut controller = with_floor().clone_box();
            controller.on_congestion_event(later, now, is_persistent, lost);
            assert_eq!(controller.window() > cubic, is_kept, "{what}");
        }
    }
}
