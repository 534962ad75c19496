//! `berth orphan list|stop`: workers that a restored cluster does not know.

use berth_proto::v1::{ListOrphansRequest, Orphan, StopOrphansRequest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, ago, claims_json, rfc3339};
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

/// A command about orphans.
#[derive(Debug, Subcommand)]
pub enum OrphanCommand {
    /// List workers that the cluster does not know since it was restored
    List(OrphanListArgs),
    /// End orphans
    Stop(OrphanStopArgs),
}

#[derive(Debug, Args)]
pub struct OrphanListArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct OrphanStopArgs {
    /// Allocation ids, as `berth orphan list` shows them; or name a --node
    #[arg(value_name = "ID", required_unless_present = "node")]
    pub ids: Vec<String>,
    /// All orphans of this node
    #[arg(long, value_name = "NODE", value_parser = values::reference)]
    pub node: Option<String>,
}

impl OrphanCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            OrphanCommand::List(args) => list(args, session).await,
            OrphanCommand::Stop(args) => stop(args, session).await,
        }
    }
}

async fn list(args: OrphanListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = ListOrphansRequest { consistency: consistency(args.stale) };
    let reply = session.client.list_orphans(request).await?;
    let mut table =
        Table::new(&["ID", "NODE", "NAMESPACE", "JOB", "GPUS", "FOUND", "STATE", "WHY"], &[]);
    for orphan in &reply.orphans {
        table.row(vec![
            orphan.allocation_id.clone(),
            orphan.node.clone(),
            orphan.namespace.clone(),
            orphan.job_name.clone(),
            orphan.devices.len().to_string(),
            ago(session.host.now_ms, orphan.found_at_ms),
            if orphan.stop_reason.is_some() { "stopping" } else { "kept" }.to_owned(),
            orphan.stop_reason.clone().unwrap_or_else(|| orphan.why.clone()),
        ]);
    }
    let answer = Answer {
        json: reply.orphans.iter().map(orphan_json).collect(),
        pieces: vec![Piece::Table(table)],
        ids: reply.orphans.iter().map(|orphan| orphan.allocation_id.clone()).collect(),
    };
    session.print(&answer)?;
    session.note_age(reply.stale_ms);
    Ok(Exit::Done)
}

fn orphan_json(orphan: &Orphan) -> Value {
    let devices = claims_json(&orphan.devices);
    let ports: serde_json::Map<String, Value> =
        orphan.ports.iter().map(|port| (port.name.clone(), json!(port.port))).collect();
    json!({
        "id": orphan.allocation_id,
        "node": orphan.node,
        "namespace": orphan.namespace,
        "job_name": orphan.job_name,
        "why": orphan.why,
        "found_at": rfc3339(orphan.found_at_ms),
        "stop_reason": orphan.stop_reason,
        "resources": { "cpu_milli": orphan.cpu_milli, "memory_bytes": orphan.memory_bytes },
        "devices": devices,
        "ports": ports,
    })
}

async fn stop(args: OrphanStopArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let OrphanStopArgs { ids, node } = args;
    let request =
        StopOrphansRequest { allocation_ids: ids.clone(), node: node.unwrap_or_default() };
    let reply = session.client.stop_orphans(request).await?;
    let text = match reply.stopping {
        1 => "1 orphan is being ended".to_owned(),
        count => format!("{count} orphans are being ended"),
    };
    let answer = Answer {
        json: json!({ "stopping": reply.stopping }),
        pieces: vec![Piece::Text(text)],
        ids,
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
