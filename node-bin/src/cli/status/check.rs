//! `quorate status --check`: whether a cluster is as it should be, for who restarts nodes one after the other, or
//! watches over them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::DiskSpace;
use quorate::kv::NodeStatus;
use quorate_consensus::{NodeId, Role, Term};

use super::{Report, answers, expiry, leader};
use crate::cli::exit;

/// How many entries a node may lack unless told otherwise: more than a busy cluster writes between the answers of two
/// nodes, and less than a second of that.
pub(super) const BEHIND_DEFAULT: u64 = 10_000;

/// How long certificates have to be good for unless told otherwise: a week, so that whoever renews them hears of it on
/// a working day. Those of nodes live for 90 days unless told otherwise; for lives of days, less has to be accepted, and
/// how long a node's certificate lives in all it does not say.
pub(super) const EXPIRES_WITHIN_DEFAULT: &str = "7d";

/// What is accepted.
pub(super) struct Bounds {
    /// How many entries a node may lack.
    pub(super) behind: u64,
    /// A certificate that ends sooner is to be renewed.
    pub(super) expires_within: Duration,
}

/// Why a cluster is not as it should be, a line each, with the exit code for a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: u8,
    pub(super) line: String,
}

/// All reasons; none when every node answers, all know the same leader, nobody lacks more entries than `bounds` say, no
/// state machine hangs, no disk is nearly full, and no certificate ends soon after `now_s`.
pub(super) fn reasons(reports: &[Report], bounds: &Bounds, now_s: u64) -> Vec<Reason> {
    let behind = bounds.behind;
    let leads = leader(reports);
    // What another cluster has committed says nothing of this one.
    let founding = leads.map(|(term, _)| term.founding());
    let same = answers(reports).filter(|status| Some(status.term.founding()) == founding);
    let committed = same.map(|status| status.commit.value()).max();
    let mut reasons = Vec::new();
    if let Some(line) = two_clusters(reports) {
        reasons.push(Reason {
            code: exit::TEMPORARY,
            line,
        });
    }
    for report in reports {
        let number = report.node.value();
        let mut add = |code, what: String| {
            let line = format!("node {number}: {what}");
            reasons.push(Reason { code, line });
        };
        if let Ok(status) = &report.status {
            for what in of_itself(status, bounds, now_s) {
                add(exit::TEMPORARY, what);
            }
        }
        let (code, what) = match &report.status {
            Err(silent) => (exit::UNAVAILABLE, silent.why.clone()),
            Ok(status) => {
                let lacks = committed
                    .unwrap_or_default()
                    .saturating_sub(status.applied.value());
                match (status.leader, leads) {
                    (None, None) => (exit::UNAVAILABLE, "knows of no leader".into()),
                    (None, Some(_)) => (exit::TEMPORARY, "knows of no leader".into()),
                    (Some(own), Some(leads)) if !agree((status.term, own), leads) => {
                        (exit::TEMPORARY, other_leader((status.term, own), leads))
                    }
                    (Some(_), _) if lacks > behind => (
                        exit::TEMPORARY,
                        format!("lacks {lacks} entries; at most {behind} are accepted"),
                    ),
                    (Some(_), _) => continue,
                }
            }
        };
        add(code, what);
    }
    reasons
}

/// What is wrong with a node, whatever the others say.
fn of_itself(status: &NodeStatus, bounds: &Bounds, now_s: u64) -> impl Iterator<Item = String> {
    let disk = status.disk.as_ref().filter(|disk| disk.nearly_full);
    let stalled = status.state_machine_stalled_ms;
    let ends = status.certificate_not_after;
    let soon = ends.saturating_sub(now_s) < bounds.expires_within.as_secs();
    [
        disk.map(nearly_full),
        stalled.map(hangs),
        soon.then(|| ends_soon(ends, now_s)),
    ]
    .into_iter()
    .flatten()
}

fn ends_soon(not_after_s: u64, now_s: u64) -> String {
    format!(
        "its certificate: {}; renew it (`quorate certs renew`, or `issue` and `install`), or accept that by --expires-within",
        expiry(not_after_s, now_s)
    )
}

fn nearly_full(disk: &DiskSpace) -> String {
    let [free, reserve] = [disk.free_bytes, disk.reserve_bytes].map(|bytes| bytes >> 20);
    format!(
        "its disk is nearly full, {free} MiB are free of the {reserve} MiB that it keeps: as the leader it refuses \
         what grows, as a follower it goes on and stops when nothing is left"
    )
}

fn hangs(stalled_ms: u64) -> String {
    format!(
        "its state machine has not come back for {} s with what it was given to apply: it answers nobody until it does, \
         and as the leader hands over to a node where it goes on, if there is one",
        stalled_ms / 1000
    )
}

/// Those that the leader says are not members, and that are not of another cluster of the same name.
pub(super) fn outsiders(reports: &[Report]) -> BTreeSet<NodeId> {
    let of_leader = leader(reports).and_then(|(term, leads)| {
        let mut its_own = answers(reports).filter(|status| status.node == leads);
        its_own.find(|status| status.term == term && status.role == Role::Leader)
    });
    let Some(of_leader) = of_leader else {
        return BTreeSet::new();
    };
    let is_outside = |report: &&Report| {
        let same = report.status.as_ref().map_or(true, |status| {
            status.term.founding() == of_leader.term.founding()
        });
        same && !of_leader.members.contains(report.node)
    };
    let outside = reports.iter().filter(is_outside);
    outside.map(|report| report.node).collect()
}

/// What to do about a node that was given and is not a member.
pub(super) fn outside(node: NodeId) -> String {
    format!(
        "node {} is not a member (any more): take it out of --node or QUORATE_NODES",
        node.value()
    )
}

/// A leader is the same in later terms as well, but not in those of another founding.
fn agree((term, own): (Term, NodeId), (highest, leads): (Term, NodeId)) -> bool {
    own == leads && term.founding() == highest.founding()
}

fn other_leader((term, own): (Term, NodeId), (highest, leads): (Term, NodeId)) -> String {
    let (own, leads) = (own.value(), leads.value());
    format!("says that node {own} leads term {term}, and not node {leads} in term {highest}")
}

/// That some of the nodes have other leaders in terms of another founding: one of them was recovered or restored, and
/// the others go on.
pub(super) fn two_clusters(reports: &[Report]) -> Option<String> {
    let mut foundings: BTreeMap<u64, (NodeId, Vec<String>)> = BTreeMap::new();
    for status in answers(reports) {
        let Some(leader) = status.leader else {
            continue;
        };
        let founding = status.term.founding();
        let (_, nodes) = foundings.entry(founding).or_insert((leader, Vec::new()));
        nodes.push(status.node.value().to_string());
    }
    let (older, newer) = (
        foundings.first_key_value()?.1,
        foundings.last_key_value()?.1,
    );
    let told = |(leader, nodes): &(NodeId, Vec<String>)| {
        format!(
            "{} with node {} as the leader",
            nodes.join(", "),
            leader.value()
        )
    };
    (older.0 != newer.0).then(|| {
        format!(
            "these are two clusters of one name: nodes {}, and nodes {}, which was recovered or restored later",
            told(older),
            told(newer)
        )
    })
}

#[cfg(test)]
mod tests {
    use quorate_consensus::Membership;

    use super::super::tests::{NOW, disk, node, silent, status};
    use super::*;

    const HOUR: u64 = 3600;

    fn lines(reports: &[Report]) -> Vec<(u8, String)> {
        let bounds = Bounds {
            behind: 10,
            expires_within: Duration::from_secs(7 * 24 * HOUR),
        };
        let reasons = reasons(reports, &bounds, NOW);
        reasons.into_iter().map(|it| (it.code, it.line)).collect()
    }

    fn cluster() -> [Report; 3] {
        [
            status(1, Role::Leader, 4, 1, 1007),
            status(2, Role::Follower, 4, 1, 1000),
            status(3, Role::Follower, 4, 1, 997),
        ]
    }

    /// A cluster as it should be gives no reason, also right after an election that not all have heard of the end of;
    /// one entry more behind is one too many.
    #[test]
    fn all_is_well() {
        assert_eq!(lines(&cluster()), []);
        let [one, _, three] = cluster();
        let older = status(2, Role::Follower, 3, 1, 1000);
        assert_eq!(lines(&[one, older, three]), []);
        let [one, two, _] = cluster();
        let behind = status(3, Role::Follower, 4, 1, 996);
        let why = "node 3: lacks 11 entries; at most 10 are accepted";
        assert_eq!(lines(&[one, two, behind]), [(75, why.into())]);
    }

    /// Each node that is not as it should be is a line of its own.
    #[test]
    fn every_reason_is_said() {
        let [one, ..] = cluster();
        let dead = Report {
            node: node(2),
            status: Err(silent(false)),
        };
        let alone = status(3, Role::PreCandidate, 4, 0, 1007);
        let expected = [
            (69, "node 2: unreachable: refused".to_owned()),
            (75, "node 3: knows of no leader".to_owned()),
        ];
        assert_eq!(lines(&[one, dead, alone]), expected);
        let none = [
            status(1, Role::Follower, 4, 0, 9),
            status(2, Role::Follower, 4, 0, 9),
        ];
        assert!(lines(&none).iter().all(|(code, _)| *code == 69));
        let [one, two, _] = cluster();
        let deposed = status(3, Role::Leader, 3, 3, 1007);
        let why = "node 3: says that node 3 leads term 3, and not node 1 in term 4";
        assert_eq!(lines(&[one, two, deposed]), [(75, why.into())]);
    }

    /// A disk that is nearly full is told of, beside whatever else there is to say of the node.
    #[test]
    fn a_disk_that_is_nearly_full() {
        let [one, mut two, mut three] = cluster();
        for report in [&mut two, &mut three] {
            let status = report.status.as_mut().unwrap_or_else(|_| unreachable!());
            status.disk = Some(disk(100 << 20, true));
        }
        if let Ok(status) = &mut three.status {
            status.leader = None;
        }
        let told = lines(&[one, two, three]);
        let codes: Vec<u8> = told.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [75; 3], "{told:?}");
        let [(_, second), (_, third), (_, lost)] = &told[..] else {
            panic!("{told:?}");
        };
        assert!(
            second.starts_with("node 2: its disk is nearly full, 100 MiB are free of the 512 MiB")
        );
        assert!(
            third.starts_with("node 3: its disk is nearly full"),
            "{third}"
        );
        assert_eq!(lost, "node 3: knows of no leader");
    }

    /// A state machine that hangs is told of, though its node answers and may not be far behind yet.
    #[test]
    fn a_state_machine_that_hangs() {
        let [mut one, two, three] = cluster();
        if let Ok(status) = &mut one.status {
            status.state_machine_stalled_ms = Some(31_900);
        }
        let told = lines(&[one, two, three]);
        let [(75, line)] = &told[..] else {
            panic!("{told:?}");
        };
        assert!(line.starts_with("node 1: its state machine has not come back for 31 s"));
    }

    /// A certificate that ends within a week is told of, and one that lasts for a week is not.
    #[test]
    fn a_certificate_that_ends_soon() {
        let ending = |left: u64| {
            let [one, mut two, three] = cluster();
            if let Ok(status) = &mut two.status {
                status.certificate_not_after = NOW + left;
            }
            lines(&[one, two, three])
        };
        assert_eq!(ending(7 * 24 * HOUR), []);
        for (left, said) in [
            (7 * 24 * HOUR - 1, "6 d left"),
            (9 * 60, "9 min left"),
            (0, "EXPIRED"),
        ] {
            let told = ending(left);
            let [(75, line)] = &told[..] else {
                panic!("{told:?}");
            };
            assert!(
                line.starts_with(&format!("node 2: its certificate: {said}; renew it")),
                "{line}"
            );
        }
    }

    /// Who is a member says the leader; without its word, and of another cluster, nobody is left out.
    #[test]
    fn who_is_not_a_member() {
        let dead = || Report {
            node: node(1),
            status: Err(silent(false)),
        };
        let led = |term| {
            let mut leading = status(2, Role::Leader, term, 2, 1007);
            if let Ok(status) = &mut leading.status {
                status.members = Membership::new([2, 3].map(node), []).unwrap();
            }
            leading
        };
        let follows = || status(3, Role::Follower, 4, 2, 1007);
        assert_eq!(outsiders(&[dead(), led(4), follows()]), [node(1)].into());
        let waits = status(1, Role::PreCandidate, 4, 0, 1007);
        assert_eq!(outsiders(&[waits, led(4), follows()]), [node(1)].into());
        assert_eq!(outsiders(&[dead(), follows()]), [].into());
        assert_eq!(outsiders(&[dead(), led(3), follows()]), [].into());
        assert_eq!(outsiders(&cluster()), [].into());
        let anew = Term::new(4).founded_anew(1_800_000_000).value() + 1;
        let other = status(1, Role::Follower, 4, 3, 1007);
        assert_eq!(outsiders(&[other, led(anew)]), [].into());
    }

    /// What was recovered beside a cluster that goes on is told from a mere election.
    #[test]
    fn two_clusters_of_one_name() {
        let anew = Term::new(4).founded_anew(1_800_000_000).value() + 1;
        let [one, two, _] = cluster();
        let other = status(3, Role::Leader, anew, 3, 5);
        let told = two_clusters(&[one, two, other]).unwrap();
        assert!(told.contains("nodes 1, 2 with node 1"), "{told}");
        assert!(told.contains("nodes 3 with node 3"), "{told}");
        let [one, two, _] = cluster();
        let other = || status(3, Role::Leader, anew, 3, 5);
        // Of the older one, both name another leader than the newer one has.
        assert_eq!(lines(&[one, two, other()]).len(), 3);
        let [one, two, _] = cluster();
        let deposed = status(3, Role::Leader, 3, 3, 1007);
        assert_eq!(two_clusters(&[one, two, deposed]), None);
        assert_eq!(two_clusters(&[other()]), None);
        assert_eq!(two_clusters(&[]), None);
        let silent_one = status(1, Role::Follower, 4, 0, 9);
        assert_eq!(two_clusters(&[silent_one, other()]), None);
    }
}
