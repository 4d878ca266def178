//! The commands of the simulation: many seeds, one seed, a smaller plan, the pinned ones.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use quorate_tests::case::Case;
use quorate_tests::chaos::{self, ChaosOptions, Runtime};
use quorate_tests::crowd::{self, Crowd};
use quorate_tests::evidence::{self, Evidence, ProcessRun};
use quorate_tests::level::Level;
use quorate_tests::report::{Failed, commit};
use quorate_tests::shrink::shrink;
use quorate_tests::sweep::{self, Sweep};
use quorate_tests::worker::{self, Worker};
use quorate_tests::{check, corpus, log, planted};

/// Simulations of Quorate: run many seeds, look at one, make it smaller.
#[derive(Parser)]
#[command(name = "quorate-tests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; print what breaks, and what they add up to.
    Sweep(SweepArguments),
    /// Run one seed, or the plan in a file, and print what happens.
    Replay {
        #[command(flatten)]
        what: What,
        /// Print every event.
        #[arg(long)]
        trace: bool,
        /// Print what the nodes log, with the time inside: `debug`, or `info,quorate_quic_transport=trace`.
        #[arg(long)]
        log: Option<String>,
    },
    /// Print the plan of a seed, as `replay` and `shrink` read it.
    Plan {
        #[command(flatten)]
        what: What,
    },
    /// Leave out of a failing plan what is not needed for the failure.
    Shrink {
        #[command(flatten)]
        what: What,
        /// Where the smaller plan goes.
        #[arg(long, default_value = "shrunk.json")]
        out: PathBuf,
    },
    /// Run every pinned plan.
    Corpus,
    /// Let each planted bug loose and see who notices. For scripts/planted.sh.
    Mutants {
        /// Only these; nothing is written then.
        names: Vec<String>,
        /// How many at the same time; as many as there are cores unless said.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Check a history of operations that was saved.
    Check {
        /// A file of JSON lines.
        file: PathBuf,
    },
    /// Run real processes behind a bad network, and check what their clients see.
    Chaos(ChaosArguments),
    /// Connect many clients to a cluster of real processes, let some of them write, and print what that takes.
    Crowd {
        /// How many connect.
        #[arg(long, default_value_t = 10_000)]
        clients: u64,
        /// How many of them write.
        #[arg(long, default_value_t = 200)]
        active: u64,
        /// How many of them watch, half of them one and the same key.
        #[arg(long, default_value_t = 0)]
        watchers: u64,
        /// For how long they write.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Make docs/testing.md of the ledgers in tests/evidence.
    Evidence,
    /// Run the cases that come in on the standard input. For the commands above.
    #[command(hide = true, name = worker::SUBCOMMAND)]
    Worker,
}

#[derive(Args)]
struct SweepArguments {
    /// 1: the consensus crate; 2: the whole stack.
    #[arg(long)]
    level: Level,
    /// The seeds, as `0..1000`, or `0..` together with `--seconds`.
    #[arg(long, value_parser = seeds)]
    seeds: Range<u64>,
    /// How many at the same time; as many as there are cores unless said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no run after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Run each seed in two processes, which must give the same.
    #[arg(long)]
    twice: bool,
    /// Append the totals to this file as a line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A file, or a level and a seed.
#[derive(Args)]
struct What {
    /// A file with a plan: from `shrink`, from `plan`, or from the corpus.
    #[arg(conflicts_with_all = ["level", "seed"], required_unless_present = "seed")]
    file: Option<PathBuf>,
    /// The level of the seed.
    #[arg(long, requires = "seed")]
    level: Option<Level>,
    /// The seed.
    #[arg(long, requires = "level")]
    seed: Option<u64>,
}

#[derive(Args)]
struct ChaosArguments {
    /// async-std, smol or tokio.
    #[arg(long)]
    runtime: Runtime,
    /// After how many operations it ends.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// After how many seconds it ends all the same.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Decides faults and operations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nothing but SIGKILL, several a second.
    #[arg(long)]
    kills: bool,
    /// Let the nodes compact their logs to this size, such as 64KiB, so that who was away gets a snapshot; the
    /// logs are whole otherwise, and every operation is held against them
    #[arg(long)]
    log_tail: Option<String>,
    /// Append what came of it to this file as a line of JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl What {
    fn case(&self) -> io::Result<Case> {
        match (&self.file, self.level, self.seed) {
            (Some(file), _, _) => Case::load(file),
            (None, Some(level), Some(seed)) => Ok(Case::of(level, seed)),
            _ => Err(io::Error::other("name a file, or a level and a seed")),
        }
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is not a range of seeds such as 0..1000");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let end = if end.is_empty() {
        u64::MAX
    } else {
        number(end)?
    };
    Ok(number(first)?..end)
}

fn main() -> ExitCode {
    let good = match Arguments::parse().command {
        Command::Sweep(arguments) => run_sweep(&arguments),
        Command::Replay { what, trace, log } => run_replay(&what, trace, log.as_deref()),
        Command::Plan { what } => print_plan(&what),
        Command::Shrink { what, out } => run_shrink(&what, &out),
        Command::Corpus => run_corpus(),
        Command::Mutants { names, jobs } => run_mutants(&names, jobs),
        Command::Check { file } => Ok(run_check(&file)),
        Command::Chaos(arguments) => run_chaos(&arguments),
        Command::Crowd {
            clients,
            active,
            watchers,
            seconds,
        } => {
            let measured = crowd::measure(Crowd {
                clients,
                active,
                watchers,
                seconds,
            });
            println!("{measured}");
            Ok(true)
        }
        Command::Evidence => write_evidence(),
        Command::Worker => worker::serve().map(|()| true),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn run_sweep(arguments: &SweepArguments) -> io::Result<bool> {
    let totals = sweep::run(&Sweep {
        level: arguments.level,
        seeds: arguments.seeds.clone(),
        jobs: arguments.jobs.unwrap_or_else(cores),
        within: arguments.seconds.map(Duration::from_secs),
        twice: arguments.twice,
    })?;
    println!("{totals}");
    if let Some(path) = &arguments.json {
        evidence::append(path, &totals)?;
    }
    // A sweep that ran nothing has shown nothing.
    Ok(totals.failures.is_empty() && totals.runs > 0)
}

fn run_replay(what: &What, trace: bool, log: Option<&str>) -> io::Result<bool> {
    log.map(log::print).transpose()?;
    Ok(replay(&what.case()?, trace))
}

fn replay(case: &Case, trace: bool) -> bool {
    let Case { level, plan } = case;
    println!("level {level}, seed {}, commit {}", plan.seed, commit());
    println!("{:?}", plan.params);
    for planned in &plan.faults {
        let (at, lasts) = (planned.at_ms, planned.lasts_ms);
        println!("{at:>7} ms, for {lasts:>5} ms: {:?}", planned.fault);
    }
    let outcome = level.run(plan, trace);
    for (name, count) in outcome.counts.named() {
        println!("{count:>12} {}", name.replace('_', " "));
    }
    println!("hash {:016x} after {:?}", outcome.hash, outcome.simulated);
    match &outcome.failure {
        Some(failure) => println!("FAILED {failure}"),
        None => println!("every promise held"),
    }
    outcome.failure.is_none()
}

fn print_plan(what: &What) -> io::Result<bool> {
    println!("{}", serde_json::to_string_pretty(&what.case()?)?);
    Ok(true)
}

fn run_shrink(what: &What, out: &std::path::Path) -> io::Result<bool> {
    let case = what.case()?;
    let mut worker = Worker::default();
    let shrunk = shrink(&case, |case| {
        worker.run(case).map(|outcome| outcome.failure)
    })?;
    let Some(shrunk) = shrunk else {
        println!("it does not fail: nothing to shrink");
        return Ok(false);
    };
    shrunk.case.save(out)?;
    let (before, after) = (case.plan.faults.len(), shrunk.case.plan.faults.len());
    println!("{}", shrunk.failure);
    println!(
        "{before} faults are now {after}, after {} runs",
        shrunk.runs
    );
    let file = out.display();
    println!("cargo run -p quorate-tests --release -- replay {file} --trace");
    Ok(true)
}

fn run_corpus() -> io::Result<bool> {
    let mut worker = Worker::default();
    let mut good = true;
    for (path, pinned) in corpus::load()? {
        let outcome = worker.run(&pinned.case)?;
        let name = path.file_stem().unwrap_or_default().display();
        println!("{name}: {}", pinned.found);
        if let Some(failure) = outcome.failure {
            good = false;
            let Case { level, plan } = pinned.case;
            let seed = plan.seed;
            let failed = Failed {
                commit: commit(),
                level,
                seed,
                failure,
            };
            println!("{failed}\n  or replay {}", path.display());
        }
    }
    Ok(good)
}

fn run_mutants(names: &[String], jobs: Option<usize>) -> io::Result<bool> {
    let table = planted::hunt(names, jobs.unwrap_or_else(cores)).map_err(io::Error::other)?;
    if names.is_empty() {
        table.save()?;
    }
    Ok(table.is_good())
}

fn run_check(file: &std::path::Path) -> bool {
    match check::check_file(file) {
        Ok(report) => {
            println!("{report}");
            report.is_good()
        }
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            false
        }
    }
}

fn write_evidence() -> io::Result<bool> {
    let evidence = Evidence::load()?;
    let page = evidence::page_path();
    std::fs::write(&page, evidence.page())?;
    // Of the checkout that this executable was built in, which need not be the one it runs in.
    println!("{} is written", page.display());
    Ok(evidence.open().is_empty())
}

fn run_chaos(arguments: &ChaosArguments) -> io::Result<bool> {
    let outcome = chaos::run(&ChaosOptions {
        runtime: arguments.runtime,
        operations: arguments.operations,
        seconds: arguments.seconds,
        seed: arguments.seed,
        kills_only: arguments.kills,
        log_tail: arguments.log_tail.clone(),
        stale_reads: false,
    });
    match outcome {
        Ok(report) => {
            println!("{report}");
            if let Some(path) = &arguments.json {
                evidence::append(path, &ProcessRun::of(&report))?;
            }
            Ok(true)
        }
        Err(error) => {
            println!("FAILED at commit {}: {error}", commit());
            Ok(false)
        }
    }
}
