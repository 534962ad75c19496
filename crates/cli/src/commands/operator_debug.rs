//! `berth operator debug capture`: the leader's last decisions with all that they were made on.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_proto::v1::CaptureRequest;
use berth_wire::capture::Capture;
use clap::{Args, Subcommand};
use serde_json::json;

use super::snapshot::{partial, private_file, put_in_place};
use crate::captures::{self, FILE_BYTES_MAX};
use crate::error::{CliError, Exit};
use crate::output::{Answer, rfc3339};
use crate::session::Session;

/// What helps somebody else to see what is wrong.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Write the leader's last decisions, and all that they were made on, to a file
    Capture(CaptureArgs),
}

#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "berth.capture")]
    pub out: PathBuf,
    /// Replace the names of jobs, tasks, namespaces, nodes, pools, zones, ports, labels and GPUs
    #[arg(long)]
    pub redact: bool,
    /// Write it in the place of a file that is there
    #[arg(long)]
    pub overwrite: bool,
}

impl DebugCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            DebugCommand::Capture(args) => capture(&args, session).await,
        }
    }
}

async fn capture(args: &CaptureArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let file = &args.out;
    if file.exists() && !args.overwrite {
        let message = format!("{} exists already", file.display());
        let hint = Some("name another file with --out, or say --overwrite".to_owned());
        return Err(CliError::Failed { message, hint });
    }
    let partial = partial(file)?;
    let request = CaptureRequest { redact: args.redact };
    let written = receive(&partial, request, session).await.and_then(|()| {
        let capture = captures::read(&partial)?;
        put_in_place(&partial, file)?;
        Ok(capture)
    });
    let capture = written.inspect_err(|_| {
        // What is left of it is of no use.
        let _ = fs::remove_file(&partial);
    })?;
    let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
    tell(file, &capture, bytes, session)?;
    Ok(Exit::Done)
}

async fn receive(
    partial: &Path,
    request: CaptureRequest,
    session: &mut Session<'_, '_>,
) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format!("write {}: {error}", partial.display()));
    let mut stream = session.client.capture(request).await?;
    let mut file = private_file(partial).map_err(refused)?;
    let mut length: u64 = 0;
    while let Some(piece) = stream.next().await? {
        length += piece.len() as u64;
        if length > FILE_BYTES_MAX {
            let message = format!("the capture has more than {FILE_BYTES_MAX} bytes");
            return Err(CliError::failed(message));
        }
        file.write_all(&piece).map_err(refused)?;
    }
    file.sync_all().map_err(refused)
}

fn tell(
    file: &Path,
    capture: &Capture,
    bytes: u64,
    session: &mut Session<'_, '_>,
) -> Result<(), CliError> {
    let header = &capture.header;
    let newest = capture.decisions.last().map(|one| &one.decision.inputs.view);
    let (jobs, nodes) = newest.map_or((0, 0), |view| (view.jobs().len(), view.nodes().len()));
    let decisions = capture.decisions.len();
    let names = if header.is_redacted() { "names replaced" } else { "with all names" };
    session.note(&format!(
        "{}: {bytes} bytes, at index {}, {jobs} jobs that have not ended, {nodes} nodes, {decisions} decisions, \
         {names}",
        file.display(),
        header.applied_index,
    ));
    let json = json!({
        "file": file.to_string_lossy(),
        "bytes": bytes,
        "index": header.applied_index,
        "jobs": jobs,
        "nodes": nodes,
        "decisions": decisions,
        "redacted": header.is_redacted(),
        "captured_at": rfc3339(header.captured_at.0),
        "version": header.writer,
    });
    // To read for people there is only the note: on stdout stands nothing but data.
    session.print(&Answer { json, pieces: Vec::new(), ids: vec![file.to_string_lossy().into()] })
}
