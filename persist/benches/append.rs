//! What a durable append costs, beside bare redb with the same tables and the same durability, and beside
//! one write and `fdatasync` of the same bytes. The three take turns in one run, for a disk is not the
//! same from one minute to the next.
//!
//! `cargo bench -p quorate-persist [-- FOLDER]`; the folder decides which disk is measured.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate_consensus::{
    Entry, EntryId, HardState, LogIndex, LogStore, LogWrite, Membership, NodeId, Term,
};
use quorate_persist::{Options, Store, StoreIdentity};
use redb::{Database, Durability, TableDefinition};

type Failure = Box<dyn std::error::Error>;

/// A command of the key-value store with a key of 16 bytes and a value of 256.
const COMMAND_BYTES: usize = 280;
/// Entries in one append.
const BATCHES: [usize; 5] = [1, 8, 64, 256, 1024];
/// How often each takes its turn with each batch, and for how long.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(400);

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Makes entries durable, a batch at a time.
trait Contender {
    fn append(&mut self, entries: usize) -> Result<(), Failure>;
}

struct Quorate {
    store: Store,
    last: u64,
}

impl Quorate {
    fn new(path: &Path) -> Result<Self, Failure> {
        let node = NodeId::new(1).ok_or("node 0")?;
        let cluster = "bench".to_owned();
        let identity = StoreIdentity { cluster, node };
        let membership = Membership::new([node], [])?;
        Store::create(path, &identity, &membership, Options::default())?;
        let opened = Store::open(path, &identity, Options::default())?;
        Ok(Self {
            store: opened.store,
            last: opened.recovered.last.value(),
        })
    }
}

impl Contender for Quorate {
    fn append(&mut self, entries: usize) -> Result<(), Failure> {
        let (term, commit) = (Term::new(2), LogIndex::new(self.last));
        let entry = |index| {
            let id = EntryId::new(term, LogIndex::new(index));
            Entry::command(id, vec![7; COMMAND_BYTES].into())
        };
        let first = self.last + 1;
        self.last += entries as u64;
        let write = LogWrite {
            cut: None,
            entries: (first..=self.last).map(entry).collect(),
            hard_state: HardState {
                term,
                vote: NodeId::new(1),
                commit,
            },
        };
        Ok(self.store.append(&[write])?)
    }
}

/// One transaction with two phases, as [`Store`] has it: with one, redb cannot tell a commit that a crash
/// interrupted from one that the disk lost.
struct BareRedb {
    database: Database,
    last: u64,
}

impl BareRedb {
    fn new(path: &Path) -> Result<Self, Failure> {
        let database = Database::create(path)?;
        Ok(Self { database, last: 0 })
    }
}

impl Contender for BareRedb {
    fn append(&mut self, entries: usize) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        {
            let mut log = transaction.open_table(LOG)?;
            for _ in 0..entries {
                self.last += 1;
                log.insert(self.last, [7; COMMAND_BYTES + 13].as_slice())?;
            }
            let state = [self.last.to_le_bytes(); 4].concat();
            let mut meta = transaction.open_table(META)?;
            meta.insert("hard_state", state.as_slice())?;
        }
        Ok(transaction.commit()?)
    }
}

/// The least that anything durable can cost.
struct WriteAndSync(File);

impl Contender for WriteAndSync {
    fn append(&mut self, entries: usize) -> Result<(), Failure> {
        self.0.write_all(&vec![7; entries * COMMAND_BYTES])?;
        Ok(self.0.sync_data()?)
    }
}

/// Appends for a while, and notes how many microseconds each append takes.
fn turn(
    contender: &mut dyn Contender,
    entries: usize,
    times: &mut Histogram<u64>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < TURN {
        let one = Instant::now();
        contender.append(entries)?;
        times.record(u64::try_from(one.elapsed().as_micros())?)?;
    }
    Ok(())
}

fn measure(folder: &Path) -> Result<(), Failure> {
    let mut out = io::stdout();
    writeln!(
        out,
        "{:>7}  {:>32}  {:>20}  {:>20}  {:>14}",
        "entries",
        "quorate: p50, p99, entries/s",
        "redb: p50, p99",
        "fdatasync: p50, p99",
        "to redb, sync"
    )?;
    let mut contenders: [Box<dyn Contender>; 3] = [
        Box::new(Quorate::new(&folder.join("quorate"))?),
        Box::new(BareRedb::new(&folder.join("redb"))?),
        Box::new(WriteAndSync(File::create(folder.join("plain"))?)),
    ];
    for entries in BATCHES {
        let mut times: [Histogram<u64>; 3] = [(); 3].map(|()| Histogram::new(3).expect("3 digits"));
        for _ in 0..TURNS {
            for (contender, times) in contenders.iter_mut().zip(&mut times) {
                turn(&mut **contender, entries, times)?;
            }
        }
        let at = |which: usize, quantile| times[which].value_at_quantile(quantile);
        let [ours, redb, plain] = [0, 1, 2].map(|which| at(which, 0.5) as f64);
        let rate = entries as f64 / times[0].mean() * 1e6;
        writeln!(
            out,
            "{entries:>7}  {:>8} us {:>7} us {:>8.0}/s  {:>6} us {:>7} us  {:>6} us {:>7} us  {:>5.2}  {:>5.2}",
            at(0, 0.5),
            at(0, 0.99),
            rate,
            at(1, 0.5),
            at(1, 0.99),
            at(2, 0.5),
            at(2, 0.99),
            ours / redb,
            ours / plain
        )?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    // Cargo adds arguments of its own.
    let folder = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let parent = folder.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    measure(folder.path())
}
