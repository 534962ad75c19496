//! `berth node defrag --plan`: which moves would leave less of the GPUs of no use.

use berth_proto::v1::{PlanDefragReply, PlanDefragRequest, PlannedMove};
use clap::Args;
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, ago, claims_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct DefragArgs {
    /// Show the moves; none is made
    #[arg(long, required = true)]
    pub plan: bool,

    /// At most so many moves
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub moves_max: Option<u32>,
}

pub(crate) async fn run(args: DefragArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = PlanDefragRequest { moves_max: args.moves_max };
    let reply = session.client.plan_defrag(request).await?;
    session.print(&answer(&reply))?;
    Ok(Exit::Done)
}

fn answer(reply: &PlanDefragReply) -> Answer {
    let mut table =
        Table::new(&["ALLOCATION", "JOB", "NAMESPACE", "FROM", "TO", "GPUS", "GPU-TIME LOST"], &[]);
    for one in &reply.moves {
        let milli: u64 = one.devices.iter().map(|device| u64::from(device.share_milli)).sum();
        table.row(vec![
            one.allocation_id.clone(),
            one.job_name.clone(),
            one.namespace.clone(),
            one.from.clone(),
            one.to.clone(),
            gpus(milli),
            ago(one.lost_gpu_ms, 0),
        ]);
    }
    let lost = format!(
        "moves: {}; of {} GPUs {} are expected to be of no use, {} after them",
        reply.moves.len(),
        gpus(reply.capacity_milli),
        gpus(reply.lost_before_milli),
        gpus(reply.lost_after_milli),
    );
    let mut pieces = vec![Piece::Table(table), Piece::Text(lost)];
    if reply.moves_unseen > 0 {
        let unseen = reply.moves_unseen;
        pieces.push(Piece::Text(format!("and {unseen} moves in namespaces that you do not see")));
    }
    for one in &reply.staying {
        pieces.push(Piece::Text(format!("stays: {} ({})", one.allocations, one.why)));
    }
    let ids = reply.moves.iter().map(|one| one.allocation_id.clone()).collect();
    Answer { json: reply_json(reply), pieces, ids }
}

fn reply_json(reply: &PlanDefragReply) -> Value {
    let staying: Vec<Value> = reply
        .staying
        .iter()
        .map(|one| json!({ "why": one.why, "allocations": one.allocations }))
        .collect();
    json!({
        "moves": reply.moves.iter().map(move_json).collect::<Vec<Value>>(),
        "moves_unseen": reply.moves_unseen,
        "gpu_capacity_milli": reply.capacity_milli,
        "gpu_expected_loss_milli": {
            "before": reply.lost_before_milli,
            "after": reply.lost_after_milli,
        },
        "staying": staying,
    })
}

fn move_json(one: &PlannedMove) -> Value {
    let devices = claims_json(&one.devices);
    json!({
        "allocation": one.allocation_id,
        "namespace": one.namespace,
        "job_name": one.job_name,
        "from": one.from,
        "to": one.to,
        "devices": devices,
        "lost_gpu_ms": one.lost_gpu_ms,
    })
}

/// Thousandths as GPUs, with as many digits as it takes.
fn gpus(milli: u64) -> String {
    let (whole, part) = (milli / 1000, milli % 1000);
    if part == 0 {
        return whole.to_string();
    }
    format!("{whole}.{part:03}").trim_end_matches('0').to_owned()
}
