//! What a run is made of: parameters and faults, drawn up front from the seed, as data.
//!
//! A plan can be printed, saved, replayed and shrunk. Every fault ends by itself, so that any of them
//! can be left out without leaving another one open.
//!
//! To add a fault: a variant of [`Fault`], a line in `PALETTE`, and an arm where each level injects it.

use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::params::Params;
use crate::rng::Rng;

/// Everything that decides a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Decides what the plan leaves open: each delay, each loss, each client's next step.
    pub seed: u64,
    /// The cluster, its surroundings and its clients.
    pub params: Params,
    /// What goes wrong, in order of time.
    pub faults: Vec<PlannedFault>,
}

/// A fault and its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedFault {
    /// When it begins, in milliseconds since the start.
    pub at_ms: u64,
    /// How long it lasts. Those that are over at once ignore it.
    pub lasts_ms: u64,
    /// What goes wrong.
    pub fault: Fault,
}

/// Something that goes wrong. Nodes are counted from one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A process ends between two instructions, and is started again at the end.
    Kill {
        /// Whose.
        node: u64,
        /// Whether the write it had begun got to the disk, though nobody was told.
        written: bool,
    },
    /// All processes end at once.
    KillAll {
        /// Whether the writes they had begun got to the disks.
        written: bool,
    },
    /// A process is told to stop, and is started again at the end.
    Stop {
        /// Whose.
        node: u64,
    },
    /// A process is frozen (SIGSTOP, a virtual machine on the move).
    Pause {
        /// Whose.
        node: u64,
    },
    /// Nothing that is written becomes durable.
    StallDisk {
        /// Whose disk.
        node: u64,
    },
    /// The next write fails, so that the node stops; it is started again at the end.
    FailDisk {
        /// Whose disk.
        node: u64,
    },
    /// A process ends, and a bit on its disk is another one when it is started again at the end. On as many
    /// disks at most as a minority has.
    TurnBit {
        /// Whose disk.
        node: u64,
    },
    /// A process ends, and one sector of its disk lies where another belongs when it is started again at the
    /// end. On as many disks at most as a minority has.
    MisplaceSector {
        /// Whose disk.
        node: u64,
    },
    /// The state machine applies nothing.
    StallMachine {
        /// Whose.
        node: u64,
    },
    /// A clock goes forward in one step.
    ClockJump {
        /// Whose.
        node: u64,
        /// By how much.
        by_ms: u64,
    },
    /// A clock runs fast or slow.
    ClockRate {
        /// Whose.
        node: u64,
        /// Of the true rate; 1000 is right.
        permille: u64,
    },
    /// The time of day is wrong, until somebody sets it right at the end.
    WallClock {
        /// Whose.
        node: u64,
        /// By how many seconds, in either direction.
        by_s: i64,
    },
    /// Nothing passes between these nodes and the others.
    Partition {
        /// One side.
        side: Vec<u64>,
        /// Whether senders are told, as after a refused connection, or messages just vanish.
        noticed: bool,
    },
    /// Nothing passes in one direction.
    CutOneWay {
        /// From this node,
        from: u64,
        /// to this one.
        to: u64,
    },
    /// Only one node is in touch with all others, who hear nothing of each other.
    Bridge {
        /// The one.
        node: u64,
    },
    /// A direction loses messages and delays them.
    Degrade {
        /// From this node,
        from: u64,
        /// to this one.
        to: u64,
        /// How many of a thousand messages are lost.
        loss_permille: u64,
        /// How much longer the others take at most.
        delay_ms: u64,
    },
    /// A direction carries few bytes a second; what would have to wait for long is lost.
    Throttle {
        /// From this node,
        from: u64,
        /// to this one.
        to: u64,
        /// How many.
        bytes_per_second: u64,
    },
    /// Nothing passes in a direction, and all of it at the end.
    Clog {
        /// From this node,
        from: u64,
        /// to this one.
        to: u64,
    },
    /// A direction swallows long datagrams, and tells nobody (a black hole of path MTU discovery).
    ShrinkMtu {
        /// From this node,
        from: u64,
        /// to this one.
        to: u64,
        /// The longest that passes: QUIC needs 1,200.
        datagram_bytes: u64,
    },
    /// A link between two nodes comes and goes, in both directions.
    Flap {
        /// One of them.
        one: u64,
        /// The other.
        other: u64,
        /// How long it is gone, and how long it is there.
        every_ms: u64,
    },
    /// Whoever leads is asked to hand over.
    Transfer {
        /// To this node, or to whom it likes.
        to: Option<u64>,
    },
    /// Whoever leads is asked to have these nodes vote, and the others only follow.
    ChangeVoters {
        /// Those who vote then.
        voters: Vec<u64>,
    },
    /// A node calls an election for no reason.
    Campaign {
        /// Which.
        node: u64,
    },
    /// A process ends, and its disk is empty when it comes back.
    Wipe {
        /// Whose.
        node: u64,
    },
    /// A process ends, and its disk is as it was some time ago when it comes back.
    RestoreImage {
        /// Whose.
        node: u64,
    },
}

/// A kind of fault: what a run is given, or spared.
struct Kind {
    draw: fn(&mut Rng, &Params) -> Fault,
    /// On which levels it is drawn, and how often compared with others.
    weight: fn(Level) -> u64,
    lasts_max_ms: u64,
}

const fn often(_: Level) -> u64 {
    4
}

const fn sometimes(_: Level) -> u64 {
    2
}

const fn seldom(_: Level) -> u64 {
    1
}

const fn seldom_on_the_stack(level: Level) -> u64 {
    match level {
        Level::Consensus => 0,
        Level::Stack => 1,
    }
}

const HOUR_S: i64 = 60 * 60;
/// Certificates of nodes live for 90 days, the CA's for ten years.
const YEAR_S: i64 = 365 * 24 * HOUR_S;

/// The kinds of faults that are drawn.
///
/// Only those under which something is promised. A wiped disk and an old image are kept out by peers that
/// have ever met the store, so nothing is promised where one that never did makes a majority with it; a disk that
/// lies about what it synced, or loses a write, may take back what it promised until there is a witness
/// beside the log. These are scripted instead (`e1_`, `e4_`, `b13_`).
const PALETTE: &[Kind] = &[
    Kind {
        draw: |rng, params| Fault::Kill {
            node: params.some_node(rng),
            written: rng.chance(50),
        },
        weight: often,
        lasts_max_ms: 3_000,
    },
    Kind {
        draw: |rng, _| Fault::KillAll {
            written: rng.chance(50),
        },
        weight: seldom,
        lasts_max_ms: 1_000,
    },
    Kind {
        draw: |rng, params| Fault::Stop {
            node: params.some_node(rng),
        },
        weight: seldom,
        lasts_max_ms: 1_000,
    },
    Kind {
        draw: |rng, params| Fault::Pause {
            node: params.some_node(rng),
        },
        weight: often,
        lasts_max_ms: 5_000,
    },
    Kind {
        draw: |rng, params| Fault::StallDisk {
            node: params.some_node(rng),
        },
        weight: often,
        lasts_max_ms: 3_000,
    },
    Kind {
        draw: |rng, params| Fault::FailDisk {
            node: params.some_node(rng),
        },
        weight: seldom,
        lasts_max_ms: 2_000,
    },
    Kind {
        draw: |rng, params| Fault::TurnBit {
            node: params.some_node(rng),
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 2_000,
    },
    Kind {
        draw: |rng, params| Fault::MisplaceSector {
            node: params.some_node(rng),
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 2_000,
    },
    Kind {
        draw: |rng, params| Fault::StallMachine {
            node: params.some_node(rng),
        },
        weight: seldom,
        lasts_max_ms: 3_000,
    },
    Kind {
        draw: |rng, params| Fault::ClockJump {
            node: params.some_node(rng),
            by_ms: rng.within(1..5_000),
        },
        weight: seldom,
        lasts_max_ms: 1,
    },
    Kind {
        draw: |rng, params| Fault::ClockRate {
            node: params.some_node(rng),
            permille: *rng.pick(&[500, 900, 990, 1010, 1100, 2000]),
        },
        weight: seldom,
        lasts_max_ms: 10_000,
    },
    Kind {
        draw: |rng, params| Fault::WallClock {
            node: params.some_node(rng),
            by_s: *rng.pick(&[-10 * YEAR_S, -HOUR_S, HOUR_S, YEAR_S, 10 * YEAR_S]),
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 10_000,
    },
    Kind {
        draw: |rng, params| Fault::Partition {
            side: params.some_side(rng),
            noticed: rng.chance(50),
        },
        weight: often,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| {
            let (from, to) = params.some_link(rng);
            Fault::CutOneWay { from, to }
        },
        weight: often,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| Fault::Bridge {
            node: params.some_node(rng),
        },
        weight: seldom,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| {
            let (from, to) = params.some_link(rng);
            Fault::Degrade {
                from,
                to,
                loss_permille: *rng.pick(&[0, 50, 300, 800]),
                delay_ms: *rng.pick(&[0, 20, 300, 3_000]),
            }
        },
        weight: often,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| {
            let (from, to) = params.some_link(rng);
            Fault::Throttle {
                from,
                to,
                bytes_per_second: *rng.pick(&[8_000, 50_000, 500_000]),
            }
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| {
            let (from, to) = params.some_link(rng);
            Fault::Clog { from, to }
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 3_000,
    },
    Kind {
        draw: |rng, params| {
            let (from, to) = params.some_link(rng);
            Fault::ShrinkMtu {
                from,
                to,
                datagram_bytes: rng.within(1_200..1_472),
            }
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 10_000,
    },
    Kind {
        draw: |rng, params| {
            let (one, other) = params.some_link(rng);
            Fault::Flap {
                one,
                other,
                every_ms: *rng.pick(&[20, 100, 400]),
            }
        },
        weight: seldom_on_the_stack,
        lasts_max_ms: 6_000,
    },
    Kind {
        draw: |rng, params| Fault::Transfer {
            to: rng.chance(70).then(|| params.some_node(rng)),
        },
        weight: seldom,
        lasts_max_ms: 1,
    },
    Kind {
        draw: |rng, params| Fault::ChangeVoters {
            voters: params.some_voters(rng),
        },
        weight: sometimes,
        lasts_max_ms: 1,
    },
    Kind {
        draw: |rng, params| Fault::Campaign {
            node: params.some_node(rng),
        },
        weight: seldom,
        lasts_max_ms: 1,
    },
];

/// Of a hundred runs, so many are without any fault: what fails then is no fault's doing.
const CALM_PERCENT: u64 = 10;
/// And so many with faults of one kind only, which no other kind can mask.
const SINGLE_PERCENT: u64 = 10;

impl Plan {
    /// The plan of `seed` at `level`.
    #[must_use]
    pub fn draw(level: Level, seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "plan");
        let params = Params::draw(level, &mut rng);
        let kinds = draw_kinds(&mut rng, level);
        let faults = draw_faults(&mut rng, level, &params, &kinds);
        Self {
            seed,
            params,
            faults,
        }
    }
}

/// The kinds of one run. Leaving out half of them at random finds what all of them together hide
/// (swarm testing: Groce and others, 2012).
fn draw_kinds(rng: &mut Rng, level: Level) -> Vec<&'static Kind> {
    let here: Vec<&Kind> = PALETTE
        .iter()
        .filter(|kind| (kind.weight)(level) > 0)
        .collect();
    match rng.within(0..100) {
        draw if draw < CALM_PERCENT => Vec::new(),
        draw if draw < CALM_PERCENT + SINGLE_PERCENT => vec![*rng.pick(&here)],
        _ => here.into_iter().filter(|_| rng.chance(50)).collect(),
    }
}

fn draw_faults(rng: &mut Rng, level: Level, params: &Params, kinds: &[&Kind]) -> Vec<PlannedFault> {
    let weights: u64 = kinds.iter().map(|kind| (kind.weight)(level)).sum();
    let mut faults = Vec::new();
    if weights == 0 {
        return faults;
    }
    let gap_max_ms = *rng.pick(&[400, 1_500, 4_000, 10_000]);
    let mut at_ms = rng.within(0..2_000);
    while at_ms < params.chaos_ms {
        let mut draw = rng.within(0..weights);
        let kind = kinds.iter().find(|kind| {
            let weight = (kind.weight)(level);
            let found = draw < weight;
            draw = draw.saturating_sub(weight);
            found
        });
        let kind = kind.expect("the weights add up");
        faults.push(PlannedFault {
            at_ms,
            lasts_ms: rng.within(1..kind.lasts_max_ms + 1),
            fault: (kind.draw)(rng, params),
        });
        at_ms += rng.within(1..gap_max_ms);
    }
    faults
}
