//! `berth storage`: a stopped scheduler's data, offline.

use std::fmt::Write as _;
use std::process::ExitCode;

use berth_scheduler::storage::{self, Verified};

use crate::arguments::StorageVerifyArguments;

/// Exit code 0 if a scheduler can start from the directory, else 1.
#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub fn verify(arguments: &StorageVerifyArguments) -> anyhow::Result<ExitCode> {
    let verified = storage::verify(&arguments.data_dir)?;
    print!("{}", report(&verified));
    Ok(if verified.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
