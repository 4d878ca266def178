//! The page: tables of what the ledgers say, and what they do not show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Bug, Evidence, PLANTED, ProcessRun};
use crate::level::Level;

const INTRODUCTION: &str = "\
<!-- Made of tests/evidence; after a change there: cargo run -p quorate-tests --release -- evidence -->

# Testing

What was run so far, what it found, and what it cannot show. The figures are sums over ledgers in
[`tests/evidence`](../tests/evidence) that only grow: a line for each sweep, with its commit and its seeds, so
that any of it can be run again. What each failure scenario is shown by: [scenarios.md](scenarios.md). What
must hold: [guarantees.md](guarantees.md).

";

const LEVELS: &str = "\
Level 0 is the log alone on a disk that loses power at every operation; it runs with every `cargo test` and
is not counted here. Level 1 is the consensus crate with its driver over a network and a log in memory.
Level 2 is the whole stack in one thread: the key-value store and its client, Raft, QUIC, TLS and redb, over
simulated time, sockets and files; every byte of a run follows from its seed. Level 3 is real processes of the
real executable.
";

const MODELLED_AWAY: &str = "\
- **The kernel and the hardware**: system calls, UDP offloads (several packets in one call), file systems,
  page cache, real fsync. Level 3 has them, on one machine and one kind of disk, and its kills lose nothing
  that the system still holds in memory; power losses are simulated only.
- **Threads**: at levels 1 and 2 the tasks of a node take turns on one thread, and a write to disk is one step
  whose time passes before it. Data races and priorities between threads can show at level 3 only.
- **Time that computing takes**: simulated time stands still while code runs, so a simulation says nothing of
  throughput, and overload is a matter of queues alone.
- **Disks**: damage is a turned bit or a misplaced sector on a stopped node's disk, on a minority. A write that
  is lost, or a sync that lies, may take back what a node promised, which only those to whom it was promised notice;
  that is scripted (B13, B14) and not drawn.
- **Identity**: wiped disks and old images are scripted (E1, E4) and not drawn: a peer that never met the
  store before does not know that it is another one, and may make a majority with it.
- **Certificates**: one CA that never changes. Renewal and the change of a CA are tested on real processes only.
- **Members that change**: the simulations change who votes among nodes that stay; nodes that join and leave are scripted
  (F1, F4), and join and leave real processes in one test.
- **Seeds are samples.** No failure in so many hours is not a proof.
";

pub(super) fn page(evidence: &Evidence) -> String {
    let mut page = String::from(INTRODUCTION);
    simulation(&mut page, evidence);
    processes(&mut page, &evidence.processes);
    planted(&mut page, evidence);
    page.push_str("\n## Bugs found\n\n");
    bugs(&mut page, &evidence.bugs.bug);
    page.push_str("\nAnd what the harness took for one, and was its own mistake:\n\n");
    bugs(&mut page, &evidence.bugs.false_alarm);
    let _ = write!(page, "\n## What this cannot show\n\n{MODELLED_AWAY}");
    page.push_str(HOW);
    page
}

const HOW: &str = "
## Run it

```
alias sim='cargo run -p quorate-tests --release --'
sim sweep --level 2 --seeds 0..1000 --json tests/evidence/sweeps.jsonl   # adds a line to the ledger
sim chaos --runtime tokio --json tests/evidence/processes.jsonl          # likewise, real processes
sim evidence                                                             # makes this page of them
```
";

fn simulation(page: &mut String, evidence: &Evidence) {
    let _ = write!(page, "## Simulation\n\n{LEVELS}\n");
    let sums: Vec<_> = Level::ALL
        .iter()
        .map(|&level| (level, evidence.sum(level)))
        .collect();
    row(
        page,
        "",
        sums.iter().map(|(level, _)| format!("level {level}")),
    );
    row(page, "---", sums.iter().map(|_| "---:".to_owned()));
    let mut figure = |name: &str, figure: &dyn Fn(usize) -> String| {
        row(page, name, (0..sums.len()).map(figure));
    };
    let hours = |index: usize| sums[index].1.simulated.as_secs_f64() / 3600.0;
    figure("simulated hours", &|index| format!("{:.1}", hours(index)));
    figure("runs", &|index| grouped(sums[index].1.runs));
    figure(
        "of them run in a second process as well, which has to give the same",
        &|index| grouped(sums[index].1.twice),
    );
    for place in 0..sums.first().map_or(0, |(_, sum)| sum.counts.named().len()) {
        let name = sums[0].1.counts.named()[place].0.replace('_', " ");
        figure(&name, &|index| {
            grouped(sums[index].1.counts.named()[place].1)
        });
    }
    let commits: BTreeSet<&str> = evidence
        .sweeps
        .iter()
        .map(|sweep| sweep.commit.as_str())
        .collect();
    let (sweeps, commits) = (evidence.sweeps.len(), commits.len());
    let _ = writeln!(page, "\nIn {sweeps} sweeps of {commits} commits.");
    let open = evidence.open();
    match open.is_empty() {
        true => page.push_str("No failure is open.\n"),
        false => page.push_str("**Open failures:**\n\n"),
    }
    for failed in open {
        let (level, seed, commit) = (failed.level, failed.seed, &failed.commit);
        let _ = writeln!(
            page,
            "- level {level}, seed {seed}, at commit {commit}: {}",
            failed.failure
        );
    }
}

fn processes(page: &mut String, runs: &[ProcessRun]) {
    page.push_str(
        "\n## Real processes\n\nThree processes of the executable behind a network that loses, delays, doubles and \
         cuts, under\nSIGKILL, SIGSTOP and SIGTERM. What every client saw is checked for linearizability, and held \
         against the\nlogs on the disks. A run that finds anything fails, and is not counted here.\n\n",
    );
    let mut by_runtime: BTreeMap<&str, Vec<&ProcessRun>> = BTreeMap::new();
    for run in runs {
        by_runtime.entry(&run.runtime).or_default().push(run);
    }
    let columns = ["operations", "answered", "unknown", "minutes", "faults"];
    row(page, "runtime", columns.map(str::to_owned));
    row(page, "---", columns.map(|_| "---:".to_owned()));
    for (runtime, runs) in by_runtime {
        let sum = |of: fn(&ProcessRun) -> u64| grouped(runs.iter().map(|run| of(run)).sum());
        let minutes: f64 = runs
            .iter()
            .map(|run| run.elapsed.as_secs_f64() / 60.0)
            .sum();
        let figures = [
            sum(|run| run.operations),
            sum(|run| run.answered),
            sum(|run| run.unknown),
            format!("{minutes:.1}"),
            sum(|run| run.faults.values().sum()),
        ];
        row(page, runtime, figures);
    }
}

fn planted(page: &mut String, evidence: &Evidence) {
    page.push_str("\n## Planted bugs\n\n");
    let name = PLANTED.trim_start_matches("docs/");
    match evidence.planted {
        true => {
            let _ = writeln!(
                page,
                "Bugs that are put in on purpose, and how soon each is noticed: [{name}]({name})."
            );
        }
        false => page.push_str("None yet.\n"),
    }
}

fn bugs(page: &mut String, bugs: &[Bug]) {
    page.push_str("| what | found by | mended in | pinned |\n|---|---|---|---|\n");
    for bug in bugs {
        let seed = bug
            .seed
            .map_or(String::new(), |seed| format!(", seed {seed}"));
        let pinned = bug.pinned.iter().map(|file| {
            let name = file.trim_end_matches(".json");
            format!("[{name}](../tests/corpus/{file})")
        });
        let pinned: Vec<String> = pinned.collect();
        let _ = writeln!(
            page,
            "| {} | {}{seed} | {} | {} |",
            bug.what,
            bug.found_by,
            bug.fixed_by,
            pinned.join(", ")
        );
    }
}

fn row(page: &mut String, name: &str, figures: impl IntoIterator<Item = String>) {
    let _ = write!(page, "| {name} |");
    for figure in figures {
        let _ = write!(page, " {figure} |");
    }
    page.push('\n');
}

/// A number as people read it: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
