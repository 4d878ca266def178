//! `quorate status`: what each node says about itself, side by side.

mod check;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use quorate::DiskSpace;
use quorate::kv::{Client, ClientError, NodeStatus, PeerStatus};
use quorate_consensus::{NodeId, Term};
use quorate_persist::seconds_now;
use serde_json::{Value as Json, json};

use self::check::{Bounds, Reason};
use super::certs::parse_life;
use super::connect::{ConnectArgs, FOR_GOOD, Network};
use super::{Failure, exit};

/// A node that is up answers in milliseconds; nobody wants to wait longer to see that one is not.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Show what each node says about itself: those given, and the other members that these name.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON, with all that the nodes say, how they see each other included
    #[arg(long)]
    json: bool,
    /// Also show how each node sees the others: round trip, lost packets, waiting messages
    #[arg(long, conflicts_with = "json")]
    peers: bool,
    /// Show it again and again, every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Exit with 0 only if every node answers, all name one leader, none lags or hangs, disks have room, and no
    /// certificate ends soon; say why not
    #[arg(long, conflicts_with_all = ["json", "peers", "watch"])]
    check: bool,
    /// How many entries a node may lack for that
    #[arg(long, value_name = "ENTRIES", requires = "check", default_value_t = check::BEHIND_DEFAULT)]
    behind: u64,
    /// How soon certificates may not end for that; 0s: they may
    #[arg(long, value_name = "TIME", requires = "check", default_value = check::EXPIRES_WITHIN_DEFAULT)]
    #[arg(value_parser = parse_life)]
    expires_within: Duration,
}

/// What one node said, or why it said nothing.
struct Report {
    node: NodeId,
    status: Result<NodeStatus, Silent>,
}

struct Silent {
    why: String,
    /// Whether waiting does not change it.
    for_good: bool,
}

pub(crate) fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    // Names are looked up once: whoever watches would wait for those that stand for nothing, and never see them.
    let network = match args.watch {
        None => args.connect.open_for_each(TIMEOUT)?,
        Some(_) => args.connect.open(TIMEOUT)?,
    };
    network.with_client(async |client| {
        loop {
            let reports = ask_all(&network, client.clone()).await;
            let outsiders = check::outsiders(&reports);
            if args.check {
                let given: Vec<NodeId> = network.given().collect();
                let bounds = Bounds {
                    behind: args.behind,
                    expires_within: args.expires_within,
                };
                return checked(&bounds, reports, &given, &outsiders, out);
            }
            if args.watch.is_some() && io::stdout().is_terminal() {
                write!(out, "{CLEAR}").map_err(Failure::output)?;
            }
            show(args, &reports, out).map_err(Failure::output)?;
            if let Some(warning) = check::two_clusters(&reports) {
                // Not part of the table, nor of the JSON.
                let _ = writeln!(io::stderr(), "quorate: {warning}\n  help: {STOP_ONE}");
            }
            note(network.given().filter(|node| outsiders.contains(node)));
            let Some(seconds) = args.watch else {
                return verdict(&reports);
            };
            out.flush().map_err(Failure::output)?;
            async_io::Timer::after(Duration::from_secs(seconds)).await;
        }
    })
}

const STOP_ONE: &str = "stop the nodes of the older one, and join them to the other under new numbers (docs/recovery.md)";

/// Says which of the nodes that were given are not members. Not part of what is asked for.
fn note(outside: impl Iterator<Item = NodeId>) {
    for node in outside {
        let _ = writeln!(io::stderr(), "quorate: {}", check::outside(node));
    }
}

/// A line for each reason why not all is well, and the gravest one's exit code: that a node cannot be reached at all.
/// `outsiders` do not count: a node that was removed may stay away for ever, unless it is all that was asked about.
fn checked(
    bounds: &Bounds,
    mut reports: Vec<Report>,
    given: &[NodeId],
    outsiders: &BTreeSet<NodeId>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    reports.retain(|report| !outsiders.contains(&report.node));
    let mut reasons = check::reasons(&reports, bounds, seconds_now());
    let outside = given
        .iter()
        .copied()
        .filter(|node| outsiders.contains(node));
    if given.iter().all(|node| outsiders.contains(node)) {
        reasons.extend(outside.map(|node| Reason {
            code: exit::TEMPORARY,
            line: check::outside(node),
        }));
    } else {
        note(outside);
    }
    for reason in &reasons {
        writeln!(out, "{}", reason.line).map_err(Failure::output)?;
    }
    let code = reasons.iter().map(|reason| reason.code).min();
    match (code, leader(&reports)) {
        (Some(code), _) => Err(Failure::new(code, "")),
        (None, Some((_, leader))) => {
            let (leader, nodes) = (leader.value(), reports.len());
            writeln!(out, "ok: node {leader} leads, as all {nodes} nodes say")
                .map_err(Failure::output)
        }
        (None, None) => unreachable!("nobody is there without a reason"),
    }
}

/// Moves to the top of the terminal and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

fn show(args: &StatusArgs, reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{}", in_json(reports));
    }
    for_people(reports, seconds_now(), out)?;
    if args.peers {
        writeln!(out)?;
        peers_for_people(reports, out)?;
    }
    Ok(())
}

fn verdict(reports: &[Report]) -> Result<(), Failure> {
    let is_for_good = |report: &Report| matches!(&report.status, Err(silent) if silent.for_good);
    match leader(reports) {
        Some(_) => Ok(()),
        None if reports.iter().all(is_for_good) => {
            Err(Failure::new(exit::NOT_ALLOWED, "no node can be used").help(FOR_GOOD))
        }
        None => Err(Failure::new(exit::UNAVAILABLE, "no node knows of a leader")
            .help("a majority of the nodes must run and reach each other")),
    }
}

/// All nodes that were given, and every other one that these know to be a member.
async fn ask_all(network: &Network, client: Client) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    loop {
        let asked: BTreeSet<NodeId> = reports.iter().map(|report| report.node).collect();
        let rest: Vec<NodeId> = client
            .nodes()
            .filter(|node| !asked.contains(node))
            .collect();
        if rest.is_empty() {
            reports.sort_by_key(|report| report.node);
            return reports;
        }
        reports.extend(ask(network, &client, rest).await);
    }
}

/// All at once, so that two dead nodes cost no more time than one.
async fn ask(network: &Network, client: &Client, nodes: Vec<NodeId>) -> Vec<Report> {
    let (answer, answers) = async_channel::bounded(nodes.len());
    for node in nodes {
        let (client, answer) = (client.clone(), answer.clone());
        network.runtime().spawn(Box::pin(async move {
            let status = client.status(node).await.map_err(|error| match error {
                ClientError::Unreachable { why, for_good, .. } => Silent {
                    why: format!("unreachable: {why}"),
                    for_good,
                },
                error => Silent {
                    why: error.to_string(),
                    for_good: false,
                },
            });
            // The receiver waits for all of them.
            let _ = answer.send(Report { node, status }).await;
        }));
    }
    drop(answer);
    let mut reports = Vec::new();
    while let Ok(mut report) = answers.recv().await {
        // Others may have said where it is.
        if let Err(silent) = &mut report.status
            && let Some(why) = network.why_unknown(report.node)
        {
            silent.why += &format!("; {why}");
        }
        reports.push(report);
    }
    reports
}

/// Who leads the highest term that any node is in.
fn leader(reports: &[Report]) -> Option<(Term, NodeId)> {
    answers(reports)
        .filter_map(|status| Some((status.term, status.leader?)))
        .max_by_key(|(term, _)| *term)
}

fn answers(reports: &[Report]) -> impl Iterator<Item = &NodeStatus> {
    reports
        .iter()
        .filter_map(|report| report.status.as_ref().ok())
}

const COLUMNS: [&str; 10] = [
    "NODE",
    "ROLE",
    "TERM",
    "LEADER",
    "LAST",
    "COMMIT",
    "APPLIED",
    "LAG",
    "CERTIFICATE",
    "DISK",
];

fn for_people(reports: &[Report], now_s: u64, out: &mut dyn Write) -> io::Result<()> {
    let committed = answers(reports)
        .map(|status| status.commit.value())
        .max()
        .unwrap_or(0);
    let rows: Vec<Result<[String; COLUMNS.len()], &str>> = reports
        .iter()
        .map(|report| {
            let status = report.status.as_ref().map_err(|silent| &*silent.why)?;
            Ok(row(status, committed, now_s))
        })
        .collect();
    let widths = widths(&COLUMNS, rows.iter().flatten());
    line(out, &COLUMNS.map(str::to_owned), &widths)?;
    for (report, row) in reports.iter().zip(&rows) {
        match row {
            Ok(cells) => line(out, cells, &widths)?,
            Err(why) => {
                let node = report.node.value().to_string();
                writeln!(out, "{node:<width$}  {why}", width = widths[0])?;
            }
        }
    }
    Ok(())
}

/// How wide each column has to be.
fn widths<'a, const N: usize>(
    columns: &[&str; N],
    rows: impl Iterator<Item = &'a [String; N]>,
) -> [usize; N] {
    let mut widths = columns.map(str::len);
    for cells in rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.len());
        }
    }
    widths
}

const PEER_COLUMNS: [&str; 7] = ["NODE", "PEER", "RTT", "LOST", "QUEUED", "MATCHED", "STATE"];

fn peers_for_people(reports: &[Report], out: &mut dyn Write) -> io::Result<()> {
    let peers = answers(reports).flat_map(|status| {
        let peers = status.peers.iter();
        peers.map(|peer| peer_row(status.node, peer))
    });
    let rows: Vec<_> = peers.collect();
    let widths = widths(&PEER_COLUMNS, rows.iter());
    line(out, &PEER_COLUMNS.map(str::to_owned), &widths)?;
    rows.iter().try_for_each(|row| line(out, row, &widths))
}

fn peer_row(node: NodeId, peer: &PeerStatus) -> [String; PEER_COLUMNS.len()] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        node.value().to_string(),
        peer.node.value().to_string(),
        or_none(
            peer.rtt_us
                .map(|rtt| format!("{:.1} ms", rtt as f64 / 1000.0)),
        ),
        peer.lost_packets.to_string(),
        peer.queued.to_string(),
        or_none(peer.matched.map(|matched| matched.to_string())),
        peer.state.clone(),
    ]
}

fn line(out: &mut dyn Write, cells: &[String], widths: &[usize]) -> io::Result<()> {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    writeln!(out, "{}", padded.join("  ").trim_end())
}

fn row(status: &NodeStatus, committed: u64, now_s: u64) -> [String; COLUMNS.len()] {
    let leader = status
        .leader
        .map_or_else(|| "-".into(), |leader| leader.value().to_string());
    [
        status.node.value().to_string(),
        status.role.to_string(),
        status.term.to_string(),
        leader,
        status.last.to_string(),
        status.commit.to_string(),
        applied(status),
        committed.saturating_sub(status.applied.value()).to_string(),
        expiry(status.certificate_not_after, now_s),
        status.disk.map_or_else(|| "-".into(), |disk| room(&disk)),
    ]
}

/// How far its state machine is, which stands out where it does not come back.
fn applied(status: &NodeStatus) -> String {
    let applied = status.applied;
    match status.state_machine_stalled_ms {
        Some(stalled) => format!("{applied} STALLED {} s", stalled / 1000),
        None => applied.to_string(),
    }
}

/// In whole units, rounded down.
fn room(disk: &DiskSpace) -> String {
    let free = match disk.free_bytes >> 20 {
        mib if mib >= 10 << 10 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    };
    match disk.nearly_full {
        true => format!("NEARLY FULL: {free}"),
        false => format!("{free} free"),
    }
}

/// In the unit that matters to whoever has to renew it.
fn expiry(not_after_s: u64, now_s: u64) -> String {
    const HOUR: u64 = 3600;
    match not_after_s.checked_sub(now_s) {
        None | Some(0) => "EXPIRED".into(),
        Some(left) if left >= 48 * HOUR => format!("{} d left", left / (24 * HOUR)),
        Some(left) if left >= HOUR => format!("{} h left", left / HOUR),
        Some(left) => format!("{} min left", left / 60),
    }
}

fn in_json(reports: &[Report]) -> Json {
    let nodes: Vec<Json> = reports
        .iter()
        .map(|report| match &report.status {
            Ok(status) => {
                let mut fields =
                    serde_json::to_value(status).expect("a status has only plain fields");
                fields["role"] = status.role.to_string().into();
                fields["reachable"] = true.into();
                fields
            }
            Err(Silent { why, .. }) => {
                json!({ "node": report.node, "reachable": false, "why": why })
            }
        })
        .collect();
    json!({ "leader": leader(reports).map(|(_, leader)| leader), "nodes": nodes })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use quorate_certs::{Ca, CaOptions, ClusterName, IssueOptions, Subject};
    use quorate_consensus::{EntryId, LogIndex, Membership, Role};

    use super::*;
    use crate::cli::args::{Cli, Command};

    pub(super) const NOW: u64 = 1_000_000_000;

    pub(super) fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    pub(super) fn status(id: u64, role: Role, term: u64, leader: u64, applied: u64) -> Report {
        let status = NodeStatus {
            node: node(id),
            cluster: "c1".into(),
            listen: ([127, 0, 0, 1], 7000).into(),
            term: Term::new(term),
            role,
            leader: NodeId::new(leader),
            last: EntryId::new(Term::new(term), LogIndex::new(applied + 1)),
            commit: LogIndex::new(applied),
            applied: LogIndex::new(applied),
            members: Membership::new([1, 2, 3].map(node), []).unwrap(),
            peers: Vec::new(),
            log_bytes: None,
            state_bytes: None,
            certificate_not_after: NOW + 89 * 24 * 3600,
            uptime_ms: 1,
            version: "0.1.0".into(),
            disk: Some(disk(77 << 30, false)),
            state_machine_stalled_ms: None,
        };
        Report {
            node: node(id),
            status: Ok(status),
        }
    }

    pub(super) fn disk(free_bytes: u64, nearly_full: bool) -> DiskSpace {
        DiskSpace {
            free_bytes,
            reserve_bytes: 512 << 20,
            nearly_full,
        }
    }

    pub(super) fn silent(for_good: bool) -> Silent {
        Silent {
            why: "unreachable: refused".into(),
            for_good,
        }
    }

    fn cluster() -> Vec<Report> {
        vec![
            status(1, Role::Leader, 4, 1, 1007),
            Report {
                node: node(2),
                status: Err(silent(false)),
            },
            status(3, Role::Follower, 4, 1, 1005),
        ]
    }

    /// Columns line up, a node that cannot be asked has its reason, and lag is against the furthest.
    #[test]
    fn a_table_for_people() {
        let mut out = Vec::new();
        for_people(&cluster(), NOW, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
NODE  ROLE      TERM  LEADER  LAST    COMMIT  APPLIED  LAG  CERTIFICATE  DISK
1     leader    4     1       1008@4  1007    1007     0    89 d left    77 GiB free
2     unreachable: refused
3     follower  4     1       1006@4  1005    1005     2    89 d left    77 GiB free
"
        );
    }

    /// A node whose name stands for nothing has a row that says so, also for machines.
    #[test]
    fn a_name_that_stands_for_nothing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = ClusterName::new("names").unwrap();
        let ca = Ca::generate(&cluster, &CaOptions::default()).unwrap();
        let client = Subject::client("asks").unwrap();
        let issued = ca.issue(&client, &IssueOptions::default()).unwrap();
        issued.write(folder.path()).unwrap();
        let cert = format!("--cert={}", folder.path().display());
        let shared = ["quorate", "status", "--timeout=300ms", &cert];
        let (dead, unknown) = ("--node=1=127.0.0.1:9", "--node=3=nosuch.invalid:7003");
        let said =
            "unreachable: no address is known for it; `nosuch.invalid:7003` cannot be resolved";
        let row = format!("3     {said}");
        for (rest, row) in [
            (vec![unknown, dead], &row),
            // It is all that was asked about.
            (vec![unknown], &row),
            (vec![unknown, dead, "--json"], &format!(r#""why":"{said}"#)),
            (vec![unknown, dead, "--check"], &format!("node 3: {said}")),
        ] {
            let args = shared.into_iter().chain(rest);
            let Command::Status(args) = Cli::parse_from(args).command else {
                panic!("it is the status that was asked for");
            };
            let mut out = Vec::new();
            assert_eq!(run(&args, &mut out).unwrap_err().code, exit::UNAVAILABLE);
            let out = String::from_utf8(out).unwrap();
            assert!(out.contains(row), "{out}");
        }
    }

    /// Who is not a member does not count, unless that is all that was asked about.
    #[test]
    fn outsiders_do_not_count() {
        let bounds = Bounds {
            behind: 10,
            expires_within: Duration::ZERO,
        };
        let said = |given: &[u64], outside: &[u64]| {
            let given: Vec<NodeId> = given.iter().copied().map(node).collect();
            let outsiders = outside.iter().copied().map(node).collect();
            let mut out = Vec::new();
            let checked = checked(&bounds, cluster(), &given, &outsiders, &mut out);
            let code = checked.map_or_else(|failure| failure.code, |()| 0);
            (code, String::from_utf8(out).unwrap())
        };
        let unreachable = "node 2: unreachable: refused\n".to_owned();
        assert_eq!(said(&[1, 2, 3], &[]), (exit::UNAVAILABLE, unreachable));
        let well = "ok: node 1 leads, as all 2 nodes say\n".to_owned();
        assert_eq!(said(&[1, 2, 3], &[2]), (0, well));
        let (code, line) = said(&[2], &[2]);
        assert_eq!(code, exit::TEMPORARY);
        assert!(line.starts_with("node 2 is not a member"), "{line}");
    }

    /// A state machine that does not come back stands out.
    #[test]
    fn a_state_machine_that_hangs_stands_out() {
        let mut reports = cluster();
        if let Ok(status) = &mut reports[0].status {
            status.state_machine_stalled_ms = Some(42_700);
        }
        let mut out = Vec::new();
        for_people(&reports, NOW, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("  1007 STALLED 42 s  0    89 d"), "{out}");
        assert!(out.contains("  1005               2    89 d"), "{out}");
        let json = in_json(&reports);
        assert_eq!(json["nodes"][0]["state_machine_stalled_ms"], 42_700);
    }

    /// Who sees whom how; without a connection there is no round trip.
    #[test]
    fn a_table_of_peers() {
        let mut reports = cluster();
        let peer = |id, rtt_us: Option<u64>, state: &str| PeerStatus {
            node: node(id),
            address: None,
            state: state.into(),
            matched: rtt_us.map(|_| LogIndex::new(1007)),
            rtt_us,
            lost_packets: 3,
            queued: 0,
        };
        if let Ok(status) = &mut reports[0].status {
            status.peers = vec![
                peer(2, None, "no answer yet"),
                peer(3, Some(1_234), "connected"),
            ];
        }
        let mut out = Vec::new();
        peers_for_people(&reports, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
NODE  PEER  RTT     LOST  QUEUED  MATCHED  STATE
1     2     -       3     0       -        no answer yet
1     3     1.2 ms  3     0       1007     connected
"
        );
    }

    /// The leader of the highest term counts, and a term without one does not hide an older leader's.
    #[test]
    fn the_leader_of_the_highest_term() {
        assert_eq!(leader(&cluster()), Some((Term::new(4), node(1))));
        let split = [
            status(1, Role::Leader, 4, 1, 9),
            status(2, Role::Leader, 6, 2, 9),
            status(3, Role::Candidate, 7, 0, 9),
        ];
        assert_eq!(leader(&split), Some((Term::new(6), node(2))));
        assert_eq!(leader(&[status(3, Role::Candidate, 7, 0, 9)]), None);
    }

    /// Where all nodes are out of reach for good, more of them would not help; otherwise that is what is missing.
    #[test]
    fn what_is_missing_is_told() {
        let of = |fates: [bool; 2]| {
            let report = |(n, for_good)| Report {
                node: node(n),
                status: Err(silent(for_good)),
            };
            let reports: Vec<Report> = (1..).zip(fates).map(report).collect();
            verdict(&reports).unwrap_err()
        };
        let all = of([true, true]);
        assert_eq!(all.code, exit::NOT_ALLOWED);
        assert!(all.to_string().contains("waiting will not change it"));
        let some = of([true, false]);
        assert_eq!(some.code, exit::UNAVAILABLE);
        assert!(some.to_string().contains("a majority"), "{some}");
        assert_eq!(verdict(&cluster()), Ok(()));
    }

    /// Time left is in days, then hours, then minutes; nothing underflows.
    #[test]
    fn certificate_expiry() {
        for (left, text) in [
            (90 * 86_400, "90 d left"),
            (47 * 3600, "47 h left"),
            (90 * 60, "1 h left"),
            (59 * 60, "59 min left"),
        ] {
            assert_eq!(expiry(NOW + left, NOW), text);
        }
        assert_eq!(expiry(NOW, NOW), "EXPIRED");
        assert_eq!(expiry(0, NOW), "EXPIRED");
    }

    /// Free room is in the unit in which it matters; a disk that is nearly full stands out.
    #[test]
    fn room_on_the_disk() {
        for (free, nearly_full, text) in [
            (77 << 30, false, "77 GiB free"),
            ((10 << 30) - 1, false, "10239 MiB free"),
            (500 << 20, true, "NEARLY FULL: 500 MiB"),
            (0, true, "NEARLY FULL: 0 MiB"),
        ] {
            assert_eq!(room(&disk(free, nearly_full)), text);
        }
    }

    /// JSON has numbers as numbers, the role in Raft's words, and the reason of an absent node.
    #[test]
    fn json_for_machines() {
        let json = in_json(&cluster());
        assert_eq!(json["leader"], 1);
        assert_eq!(json["nodes"][0]["role"], "leader");
        assert_eq!(json["nodes"][0]["last"]["index"], 1008);
        assert_eq!(json["nodes"][0]["disk"]["nearly_full"], false);
        assert_eq!(json["nodes"][0]["disk"]["free_bytes"], 77_u64 << 30);
        assert_eq!(json["nodes"][1]["reachable"], false);
        assert_eq!(json["nodes"][1]["why"], "unreachable: refused");
        assert_eq!(json["nodes"][2]["members"]["voters"], json!([1, 2, 3]));
    }
}
