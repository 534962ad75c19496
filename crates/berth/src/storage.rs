//! A stopped scheduler's data, offline: looked at, and made from a backup.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use berth_cli::{Offline, RestoreArgs, RestoreReport};
use berth_model::DurationMs;
use berth_scheduler::restore::{self, RestoreOptions, Trust};
use berth_scheduler::storage::{self, Moved, Verified};

use crate::arguments::{StorageCarryArguments, StorageVerifyArguments};

/// Exit code 0 if a scheduler can start from the directory, else 1.
#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub fn verify(arguments: &StorageVerifyArguments) -> anyhow::Result<ExitCode> {
    let verified = storage::verify(&arguments.data_dir)?;
    print!("{}", report(&verified));
    Ok(if verified.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub fn export(arguments: &StorageCarryArguments) -> anyhow::Result<ExitCode> {
    let moved = storage::export(&arguments.data_dir, &arguments.file)?;
    println!("{} written to {}", shown(&moved), arguments.file.display());
    eprintln!(
        "note: whoever goes on from this file votes as scheduler {}: never start the directory that \
         it came from again",
        moved.scheduler_id
    );
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub fn import(arguments: &StorageCarryArguments) -> anyhow::Result<ExitCode> {
    let moved = storage::import(&arguments.data_dir, &arguments.file)?;
    println!("{} is in {}", shown(&moved), arguments.data_dir.display());
    Ok(ExitCode::SUCCESS)
}

fn shown(moved: &Moved) -> String {
    let Moved { scheduler_id, last_index, entries, snapshots } = moved;
    format!(
        "the store of scheduler {scheduler_id}, with {entries} entries up to index {last_index} and \
         {snapshots} snapshots,"
    )
}

/// What client commands do without a cluster.
pub const OFFLINE: Offline = Offline { restore, salvage };

/// Writes the newest state that a stopped scheduler knows to a file.
fn salvage(data_dir: &Path, file: &Path) -> Result<String, String> {
    let reached = storage::salvage(data_dir, file).map_err(|error| format!("{error:#}"))?;
    let known = reached.committed.map_or(0, |committed| committed.index);
    Ok(format!(
        "its log ends at index {} of term {}, of which it knew {known} to be committed; where several \
         directories are left, take the one that ends at the highest term, then index",
        reached.last.index, reached.last.term,
    ))
}

/// Makes the data directory of a new scheduler from a backup.
fn restore(args: &RestoreArgs) -> Result<RestoreReport, String> {
    let RestoreArgs { file, data_dir, advertise, incarnation, await_ms, await_at_least_ms, .. } =
        args;
    let trust = match (&args.seal_key, &args.authority, args.new_authority) {
        (Some(file), _, _) => Trust::SealKey(file.clone()),
        (None, Some(folder), _) => Trust::Authority(folder.clone()),
        (None, None, true) => Trust::New,
        (None, None, false) => Trust::PlainText,
    };
    let options = RestoreOptions {
        backup: file.clone(),
        data_dir: data_dir.clone(),
        advertise: advertise.clone(),
        incarnation: *incarnation,
        await_for: DurationMs(*await_ms),
        await_at_least: DurationMs(*await_at_least_ms),
        trust,
    };
    let restored = restore::restore(&options).map_err(|error| format!("{error:#}"))?;
    Ok(RestoreReport {
        cluster_id: restored.backup.cluster_id,
        incarnation: restored.incarnation,
        scheduler_id: restored.scheduler_id,
        awaited: restored.awaited,
        saved_at_ms: restored.backup.saved_at.0,
    })
}

fn report(verified: &Verified) -> String {
    let Verified { cluster_id, scheduler_id, address, problems } = verified;
    let mut text = format!("scheduler {scheduler_id} of cluster {cluster_id}, at {address}\n");
    for problem in problems {
        let at = problem.index.map_or_else(String::new, |index| format!(", index {index}"));
        let _ = writeln!(text, "{}{at}: {}", problem.file.display(), problem.what);
        let _ = writeln!(text, "  hint: {}", problem.way_out);
    }
    if problems.is_empty() {
        text.push_str("whole: log, snapshots and high-water mark agree\n");
    }
    text
}
