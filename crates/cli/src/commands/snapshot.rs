//! `berth operator snapshot save|show|restore|take`: the cluster's state as a
//! file, and back.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use berth_proto::v1::SnapshotRequest;
use berth_wire::backup::{Backup, read_backup};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, rfc3339};
use crate::session::Session;
use crate::values;

/// Snapshots of the cluster's state.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write a backup of the cluster to a file, and read it back
    Save(SaveArgs),
    /// Read a backup file whole and tell what is in it
    Show(ShowArgs),
    /// Make the data directory of a new scheduler from a backup file
    Restore(RestoreArgs),
    /// Have the scheduler that answers write its own snapshot now
    Take,
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// The file to write; must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Not of the running cluster, but of this directory of a stopped scheduler
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The directory to make; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the others and the agents will find the new scheduler
    #[arg(long, value_name = "ADDR")]
    pub advertise: String,
    /// The new incarnation, where the backup was restored before [default: the next one]
    #[arg(long, value_name = "N")]
    pub incarnation: Option<u64>,
    /// Place nothing for so long at least: nodes that the backup does not know may come
    #[arg(long = "await-at-least", value_name = "DURATION", default_value = "30s", value_parser = values::duration_ms)]
    pub await_at_least_ms: u64,
    /// Place nothing until all nodes of the backup have come back, or for so long
    #[arg(long = "await", value_name = "DURATION", default_value = "10m", value_parser = values::duration_ms)]
    pub await_ms: u64,
    /// Of a cluster with TLS: the file tls/seal.key of any of its schedulers
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authority", "new_authority"])]
    pub seal_key: Option<PathBuf>,
    /// Of a cluster with TLS: the folder of its authority
    #[arg(long, value_name = "DIR", conflicts_with = "new_authority")]
    pub authority: Option<PathBuf>,
    /// Of a cluster with TLS whose keys are lost: every machine joins anew
    #[arg(long)]
    pub new_authority: bool,
}

/// What a restore came to.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    pub cluster_id: String,
    pub incarnation: u64,
    pub scheduler_id: u64,
    /// Nodes that the cluster will wait for.
    pub awaited: usize,
    pub saved_at_ms: u64,
}

/// What only the binary knows how to do; errors are in words.
#[derive(Debug, Clone, Copy)]
pub struct Offline {
    /// Makes a data directory from a backup.
    pub restore: fn(&RestoreArgs) -> Result<RestoreReport, String>,
    /// Writes the newest state of a stopped scheduler's data directory to a
    /// file, and says how far that was.
    pub salvage: fn(data_dir: &Path, file: &Path) -> Result<String, String>,
}

impl SnapshotCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            SnapshotCommand::Save(args) => save(args, session).await,
            SnapshotCommand::Show(args) => show(&args, session),
            SnapshotCommand::Restore(args) => restore(&args, session),
            SnapshotCommand::Take => take(session).await,
        }
    }
}

async fn save(args: SaveArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let SaveArgs { file, data_dir } = args;
    if file.exists() {
        let message = format!("{} exists already", file.display());
        let hint = Some("choose another name, or remove it first".to_owned());
        return Err(CliError::Failed { message, hint });
    }
    let partial = partial(&file)?;
    let written = match &data_dir {
        None => receive(&partial, session).await.map(|()| None),
        Some(dir) => {
            (session.host.offline.salvage)(dir, &partial).map(Some).map_err(CliError::failed)
        }
    };
    let saved = written.and_then(|reached| {
        let backup = read(&partial)?;
        put_in_place(&partial, &file)?;
        Ok((backup, reached))
    });
    let (backup, reached) = saved.inspect_err(|_| {
        // What is left of it is of no use.
        let _ = fs::remove_file(&partial);
    })?;
    let bytes = fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let mut answer = described(&file, &backup, bytes);
    answer.pieces.extend(reached.map(Piece::Text));
    let text = format!("{bytes} bytes written and read back");
    answer.pieces.push(Piece::Text(text));
    session.print(&answer)?;
    Ok(Exit::Done)
}

pub(super) fn partial(file: &Path) -> Result<PathBuf, CliError> {
    let Some(name) = file.file_name() else {
        return Err(CliError::bad_input(format!("{} names no file", file.display())));
    };
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(file.with_file_name(name))
}

async fn receive(partial: &Path, session: &mut Session<'_, '_>) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format!("write {}: {error}", partial.display()));
    let mut stream = session.client.backup().await?;
    let mut file = private_file(partial).map_err(refused)?;
    while let Some(piece) = stream.next().await? {
        file.write_all(&piece).map_err(refused)?;
    }
    file.sync_all().map_err(refused)
}

/// Specifications hold environments: nobody else is to read them.
pub(super) fn private_file(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(super) fn put_in_place(partial: &Path, file: &Path) -> Result<(), CliError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let put = || -> std::io::Result<()> {
        fs::rename(partial, file)?;
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    put().map_err(|error| CliError::failed(format!("write {}: {error}", file.display())))
}

fn read(file: &Path) -> Result<Backup, CliError> {
    let failed = |problem: String| CliError::failed(format!("read {}: {problem}", file.display()));
    let source = File::open(file).map_err(|error| failed(error.to_string()))?;
    read_backup(BufReader::new(source)).map_err(|error| {
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            words.push_str(&format!(": {inner}"));
            source = inner.source();
        }
        failed(words)
    })
}

fn show(args: &ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let backup = read(&args.file)?;
    let bytes = fs::metadata(&args.file).map_or(0, |metadata| metadata.len());
    session.print(&described(&args.file, &backup, bytes))?;
    Ok(Exit::Done)
}

fn described(file: &Path, backup: &Backup, bytes: u64) -> Answer {
    let state = &backup.state;
    let cluster = state.cluster();
    let id: String = cluster.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (jobs, nodes) = (state.jobs().len(), state.nodes().len());
    let allocations = state.allocations().len();
    let saved_at = rfc3339(backup.saved_at.0);
    let text = format!(
        "{}: cluster {id}, incarnation {}, at index {}, saved {saved_at} by version {}\n\
         {nodes} nodes, {jobs} jobs, {allocations} allocations",
        file.display(),
        cluster.incarnation,
        state.applied_index(),
        backup.writer,
    );
    let json = json!({
        "file": file.to_string_lossy(),
        "bytes": bytes,
        "cluster_id": id,
        "incarnation": cluster.incarnation,
        "index": state.applied_index(),
        "saved_at": saved_at,
        "version": backup.writer,
        "nodes": nodes,
        "jobs": jobs,
        "allocations": allocations,
    });
    let ids = vec![file.to_string_lossy().into_owned()];
    Answer { json, pieces: vec![Piece::Text(text)], ids }
}

fn restore(args: &RestoreArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let report = (session.host.offline.restore)(args).map_err(CliError::failed)?;
    let RestoreReport { cluster_id, incarnation, scheduler_id, awaited, saved_at_ms } = report;
    let data_dir = args.data_dir.display();
    let text = format!(
        "{data_dir} holds scheduler {scheduler_id} of cluster {cluster_id}, incarnation \
         {incarnation}, as of {}\n\
         start it: berth scheduler --data-dir {data_dir} --listen {} …\n\
         then join others to it with --join; it waits for {awaited} nodes to say what is on them",
        rfc3339(saved_at_ms),
        args.advertise,
    );
    let json: Value = json!({
        "data_dir": args.data_dir.to_string_lossy(),
        "cluster_id": cluster_id,
        "incarnation": incarnation,
        "scheduler_id": scheduler_id,
        "awaited": awaited,
        "saved_at": rfc3339(saved_at_ms),
    });
    let answer =
        Answer { json, pieces: vec![Piece::Text(text)], ids: vec![scheduler_id.to_string()] };
    session.print(&answer)?;
    Ok(Exit::Done)
}

async fn take(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let reply = session.client.snapshot(SnapshotRequest {}).await?;
    let answer = Answer {
        json: json!({ "index": reply.index }),
        pieces: vec![Piece::Text(format!("snapshot written at index {}", reply.index))],
        ids: vec![reply.index.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
