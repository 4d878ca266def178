//! `quorate snapshot`: backups of a cluster that runs, and new clusters from them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use futures_lite::future;
use indicatif::{HumanBytes, ProgressBar};
use quorate::kv::{
    Backup, BackupError, BackupHeader, BackupReader, BackupSummary, BackupWriter, Client,
    RestoreError, Restored, restore,
};
use quorate_consensus::{EntryId, NodeId};
use quorate_persist::{Files, OsFiles, StoreIdentity};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connect::{ConnectArgs, failure};
use super::stop::Stop;
use super::{Failure, config, exit};

/// How long a node has for one piece of about a mebibyte, with all repetitions, unless `--timeout` says otherwise:
/// it fits a slow link, and a node that is restarted meanwhile has forgotten the state anyway.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// What takes longer than this shows how far it is.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Save the whole state of a running cluster to a file, as it is at one moment; needs an admin's certificate
    Save(SaveArgs),
    /// Check every byte of such a file, and say what it has in it
    Inspect(InspectArgs),
    /// Make the data folder of a node that is a new cluster, with the state of such a file
    ///
    /// The node is the only member; others join it with `quorate start --join` and `quorate members add`, under
    /// numbers above its own. The new cluster and the one that the file is of refuse each other, whatever their names.
    Restore(RestoreArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// Where to save it; must not exist. It has all keys and values in it, not encrypted
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Read at this node instead of the leader; as up to date, and less for the leader to do
    #[arg(long, value_name = "NODE", value_parser = config::node_id)]
    at: Option<NodeId>,
    /// Whatever that node has, however old: when there is no leader any more
    #[arg(long, requires = "at")]
    stale: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder with the certificate of the node: the cluster's name and the node's number are in it
    #[arg(long, value_name = "DIR")]
    cert: PathBuf,
    /// The data folder to make; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &SnapshotCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save(args) => save(args, out),
        SnapshotCommand::Inspect(args) => inspect(args, out),
        SnapshotCommand::Restore(args) => make_node(args, out),
    }
}

fn save(args: &SaveArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = &args.file;
    if path == Path::new("-") {
        let message = "a snapshot is not written to standard output";
        return Err(Failure::new(exit::USAGE, message)
            .help("name a file, or ./- for one of that name: it is complete or not there"));
    }
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let folder = quorate_persist::directory(path);
    let stop = Stop::listen(false)?;
    // Readable by its user only, and gone unless it is complete.
    let draft = tempfile::Builder::new()
        .prefix(".quorate-snapshot-")
        .tempfile_in(folder)
        .map_err(|error| cannot_create(path, &error))?;
    let network = args.connect.open(TIMEOUT)?;
    let (header, summary) = network.with_client(async |client| {
        let interrupted = async {
            let why = stop.requested().await;
            let message = format!("nothing was saved: {why}");
            Err(Failure::new(exit::INTERRUPTED, message))
        };
        future::or(interrupted, fetch(args, client, draft.as_file())).await
    })?;
    draft
        .persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => cannot_create(path, &error.error),
        })?;
    OsFiles.sync_directory(folder).map_err(|error| {
        let path = path.display();
        let message = format!("saved {path}, but a power loss may take its name: {error}");
        Failure::new(exit::IO, message)
    })?;
    if args.json {
        return writeln!(out, "{}", in_json(&header, &summary)).map_err(Failure::output);
    }
    let (last, node) = (header.last, header.node.value());
    writeln!(
        out,
        "saved {} as of entry {last} of cluster {:?}, read at node {node}",
        in_words(&summary),
        header.cluster,
    )
    .map_err(Failure::output)
}

/// Reads the state into `file`, and makes that durable.
async fn fetch(
    args: &SaveArgs,
    client: Client,
    file: &File,
) -> Result<(BackupHeader, BackupSummary), Failure> {
    let failed = |error| failure(&error);
    let backup = match args.at {
        None => client.backup().await,
        Some(node) if args.stale => client.backup_stale(node).await,
        Some(node) => client.reading_at(node).backup().await,
    };
    let backup = backup.map_err(failed)?;
    let header = backup.header();
    let path = &args.file;
    let summary = copy(backup, &header, file, path).await?;
    file.sync_all()
        .map_err(|error| cannot_write(path, &error))?;
    Ok((header, summary))
}

async fn copy(
    mut backup: Backup,
    header: &BackupHeader,
    file: &File,
    path: &Path,
) -> Result<BackupSummary, Failure> {
    let failed = |error: BackupError| match error {
        BackupError::Io(error) => cannot_write(path, &error),
        error => Failure::new(exit::DATA, error.to_string()),
    };
    let mut writer = BackupWriter::new(BufWriter::new(file), header).map_err(failed)?;
    let mut progress = Progress::new();
    while let Some(piece) = backup.next_piece().await.map_err(|error| failure(&error))? {
        writer.add(piece).map_err(failed)?;
        progress.show(&writer.summary());
    }
    let (_, summary) = writer.finish().map_err(failed)?;
    Ok(summary)
}

/// How far it is, for a person who waits: on standard error, and only if that is a terminal.
struct Progress {
    begun: Instant,
    spinner: Option<ProgressBar>,
}

impl Progress {
    fn new() -> Self {
        let begun = Instant::now();
        let spinner = None;
        Self { begun, spinner }
    }

    fn show(&mut self, so_far: &BackupSummary) {
        if self.begun.elapsed() >= PATIENCE {
            let spinner = self.spinner.get_or_insert_with(ProgressBar::new_spinner);
            spinner.set_message(in_words(so_far));
            spinner.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

fn open(path: &Path) -> Result<BackupReader<BufReader<Input>>, Failure> {
    let stop = Stop::listen(false)?;
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let input = BufReader::new(Input { file, stop });
    BackupReader::new(input).map_err(|error| not_usable(path, &error))
}

/// A file whose end is in order, and leaves nothing behind, also where somebody does not want to wait for it.
struct Input {
    file: File,
    stop: Stop,
}

/// Why such a file ends early.
#[derive(Debug, thiserror::Error)]
#[error("told to stop by a signal")]
struct Interrupted;

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_requested() {
            return Err(io::Error::other(Interrupted));
        }
        self.file.read(bytes)
    }
}

fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = &args.file;
    let mut reader = open(path)?;
    let header = reader.header().clone();
    let mut progress = Progress::new();
    let summary = loop {
        let piece = reader
            .next_piece()
            .map_err(|error| not_usable(path, &error))?;
        let so_far = reader.so_far();
        if piece.is_none() {
            break so_far;
        }
        progress.show(&so_far);
    };
    drop(progress);
    if args.json {
        return writeln!(out, "{}", in_json(&header, &summary)).map_err(Failure::output);
    }
    let begun = i64::try_from(header.begun).unwrap_or(i64::MAX);
    let begun = OffsetDateTime::from_unix_timestamp(begun).ok();
    let begun = begun.and_then(|begun| begun.format(&Rfc3339).ok());
    writeln!(
        out,
        "complete and in order: {}\n\
         of cluster {:?} as of entry {}, read at node {} by version {}\n\
         begun {}, digest {:016x}",
        in_words(&summary),
        header.cluster,
        header.last,
        header.node.value(),
        super::text::printable_line(header.version.as_bytes()),
        begun.as_deref().unwrap_or("at no time that there is"),
        summary.digest,
    )
    .map_err(Failure::output)
}

fn make_node(args: &RestoreArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let credentials = super::credentials(&args.cert)?;
    let identity = credentials.identity();
    let Some(node) = identity.node_id().map(NodeId::from) else {
        let message = format!("{identity} is no node");
        return Err(Failure::new(exit::NOT_ALLOWED, message)
            .help("use --cert with a folder made by `quorate certs issue --node ID`"));
    };
    let identity = StoreIdentity {
        cluster: identity.cluster.to_string(),
        node,
    };
    let mut reader = open(&args.file)?;
    let restored = restore(&mut reader, &identity, &args.data_dir);
    let Restored { summary, last } = restored.map_err(|error| not_restored(&args.file, &error))?;
    if args.json {
        let told = json!({
            "cluster": identity.cluster,
            "node": node.value(),
            "last": id_in_json(last),
            "keys": summary.keys,
            "bytes": summary.bytes,
            "digest": format!("{:016x}", summary.digest),
        });
        return writeln!(out, "{told}").map_err(Failure::output);
    }
    writeln!(
        out,
        "restored {} to {}\n\
         Node {} is the only member of a new cluster {:?}, as of entry {last}. Start it with that data folder, and add\n\
         others with `quorate start --join` and `quorate members add`.",
        in_words(&summary),
        args.data_dir.display(),
        node.value(),
        identity.cluster,
    )
    .map_err(Failure::output)
}

fn in_words(summary: &BackupSummary) -> String {
    let BackupSummary { keys, bytes, .. } = *summary;
    let plural = if keys == 1 { "" } else { "s" };
    format!("{keys} key{plural}, {}", HumanBytes(bytes))
}

fn in_json(header: &BackupHeader, summary: &BackupSummary) -> Json {
    json!({
        "cluster": header.cluster,
        "node": header.node.value(),
        "last": id_in_json(header.last),
        "begun": header.begun,
        "version": header.version,
        "keys": summary.keys,
        "bytes": summary.bytes,
        "digest": format!("{:016x}", summary.digest),
    })
}

fn id_in_json(id: EntryId) -> Json {
    json!({ "index": id.index.value(), "term": id.term.value() })
}

fn exists(path: &Path) -> Failure {
    let message = format!("{} exists already, and is not overwritten", path.display());
    Failure::new(exit::CANNOT_CREATE, message).help("name another file, or move it away")
}

fn cannot_create(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot create {}: {error}", path.display());
    Failure::new(exit::CANNOT_CREATE, message)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    let message = format!("cannot write {path}: {error}; nothing was saved");
    Failure::new(exit::IO, message)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.get_ref() {
        Some(why) if why.is::<Interrupted>() => Failure::new(
            exit::INTERRUPTED,
            format!("did not read all of {path}: {why}"),
        ),
        _ => Failure::new(exit::NO_INPUT, format!("cannot read {path}: {error}")),
    }
}

fn not_usable(path: &Path, error: &BackupError) -> Failure {
    match error {
        BackupError::Io(error) => cannot_read(path, error),
        error => {
            let message = format!("cannot use {}: {error}", path.display());
            Failure::new(exit::DATA, message)
        }
    }
}

fn not_restored(file: &Path, error: &RestoreError) -> Failure {
    let code = match error {
        RestoreError::Backup(error) => return not_usable(file, error),
        RestoreError::NotEmpty { .. }
        | RestoreError::FileSystem { .. }
        | RestoreError::Directory { .. } => exit::CANNOT_CREATE,
        _ => exit::IO,
    };
    Failure::new(code, format!("nothing was restored: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever ends a command by a signal is not told that a file is missing.
    #[test]
    fn an_interruption_is_no_missing_file() {
        let path = Path::new("monday.quorate");
        let code = |error: io::Error| not_usable(path, &BackupError::Io(error)).code;
        assert_eq!(code(io::Error::other(Interrupted)), exit::INTERRUPTED);
        assert_eq!(code(io::ErrorKind::NotFound.into()), exit::NO_INPUT);
    }
}
