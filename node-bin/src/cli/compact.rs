//! `quorate compact`: gives back what a stopped node's state holds free.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use quorate::kv::{CompactError, KvStore, STATE_FILE};
use quorate_persist::OsFiles;

use super::check::{check, failure};
use super::{Failure, exit};

/// For its help: when, and how in a cluster that goes on.
const HELP: &str = "\
The file of the state does not shrink by itself when keys are deleted. Stop one node after the other,
compact its folder, start it again: the others go on meanwhile. Everything is checked first, as by
`quorate check`; whatever interrupts it, the content stays the same.";

/// Make the key-value store's file of a stopped node as small as what is in it.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct CompactArgs {
    /// The data folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &CompactArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let checked = check(&args.dir, false)?;
    let path = args.dir.join(STATE_FILE);
    if !checked.has_kv() {
        let message = format!(
            "{} is not there: there is nothing to compact",
            path.display()
        );
        return Err(Failure::new(exit::NO_INPUT, message));
    }
    let before = size(&path)?;
    KvStore::compact_in(&OsFiles, &path, &checked.log.identity).map_err(|error| match error {
        CompactError::Open(error) => failure(&error),
        error => Failure::new(exit::IO, format!("{}: {error}", path.display()))
            .help("what is in it is the same; give the disk some MiB of room, and run it again"),
    })?;
    let after = size(&path)?;
    let [before, after] = [before, after].map(|bytes| bytes.div_ceil(1 << 20));
    writeln!(out, "{STATE_FILE}: {before} MiB before, {after} MiB now").map_err(Failure::output)
}

fn size(path: &Path) -> Result<u64, Failure> {
    let data = fs::metadata(path);
    data.map(|data| data.len()).map_err(|error| {
        Failure::new(
            exit::NO_INPUT,
            format!("cannot read {}: {error}", path.display()),
        )
    })
}
