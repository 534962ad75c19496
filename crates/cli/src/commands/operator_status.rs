//! `berth operator status`: leader, members and counts.

use berth_proto::v1::{ClusterStatus, StatusRequest};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::status_answer;
use crate::session::{Session, StaleArgs, consistency};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(args: StatusArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = StatusRequest { consistency: consistency(args.stale) };
    let status = session.client.status(request).await?;
    session.print(&status_answer(&status))?;
    session.note_age(status.stale_ms);
    for warning in &status.warnings {
        session.note(&format!("warning: {warning}"));
    }
    for note in unfinished_upgrade(&status).into_iter().chain(after_a_restore(&status)) {
        session.note(&note);
    }
    Ok(Exit::Done)
}

/// The last step of an upgrade, when it can be taken.
fn unfinished_upgrade(status: &ClusterStatus) -> Option<String> {
    let known = status.members.iter().map(|member| member.cluster_version_max.unwrap_or(0));
    let ready = known.min().filter(|known| *known > status.cluster_version)?;
    Some(format!(
        "hint: every scheduler knows cluster version {ready}; `berth operator finalize` raises it, \
         and until then all can go back"
    ))
}

/// What a restore has left to be done, each with the next step.
fn after_a_restore(status: &ClusterStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if !status.awaited_nodes.is_empty() {
        let left = status.awaited_for_ms.map_or_else(String::new, |left_ms| {
            format!(", for {} s at most", left_ms.div_ceil(1_000))
        });
        notes.push(format!(
            "warning: restored as incarnation {}; nothing is placed until these nodes have said \
             what is on them{left}: {}",
            status.incarnation,
            status.awaited_nodes.join(", "),
        ));
        notes.push("hint: `berth operator resume` waits no longer".to_owned());
    }
    if let Some(left_ms) = status.places_in_ms {
        notes.push(format!(
            "warning: restored as incarnation {}; nothing is placed for {} s, in which nodes that \
             the backup does not know may come",
            status.incarnation,
            left_ms.div_ceil(1_000),
        ));
        notes.push("hint: `berth operator resume` waits no longer".to_owned());
    }
    if status.orphans > 0 {
        let run = match status.orphans {
            1 => "1 worker runs".to_owned(),
            count => format!("{count} workers run"),
        };
        notes.push(format!(
            "warning: {run} that the restored backup did not know; nobody else gets what they hold"
        ));
        notes
            .push("hint: `berth orphan list` shows them, `berth orphan stop` ends them".to_owned());
    }
    notes
}
