//! `berth node defrag`: makes the moves that leave less of the GPUs of no use, or shows them.

use std::time::Duration;

use berth_proto::v1::{DefragRequest, PlanDefragReply, PlanDefragRequest, PlannedMove};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, ago, claims_json};
use crate::session::Session;

/// As a plan has them.
const MOVES_MAX_DEFAULT: u32 = 32;
/// What moves takes seconds at least.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Two hours: eight rounds with the longest grace that is usual. What is under way then goes on
/// without whoever asked.
const LOOKS_MAX: u32 = 28_800;

#[derive(Debug, Args)]
pub struct DefragArgs {
    /// Show the moves; none is made
    #[arg(long)]
    pub plan: bool,

    /// At most so many moves [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub moves_max: Option<u32>,
}

pub(crate) async fn run(args: DefragArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    if !args.plan {
        return make(args.moves_max.unwrap_or(MOVES_MAX_DEFAULT), session).await;
    }
    let request = PlanDefragRequest { moves_max: args.moves_max };
    let reply = session.client.plan_defrag(request).await?;
    session.print(&answer(&reply))?;
    Ok(Exit::Done)
}

/// A move that was begun, and what has become of it.
struct Made {
    one: PlannedMove,
    state: String,
}

impl Made {
    fn is_settled(&self) -> bool {
        !matches!(self.state.as_str(), "ending" | "starting")
    }
}

/// Makes moves, a few at a time, each few planned anew, until none is worth it any more.
async fn make(moves_max: u32, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let mut made: Vec<Made> = Vec::new();
    let mut looks_left = LOOKS_MAX;
    loop {
        let open = made.iter().filter(|one| !one.is_settled());
        let watched: Vec<String> = open.map(|one| one.one.next_id.clone()).collect();
        let left = moves_max.saturating_sub(u32::try_from(made.len()).unwrap_or(u32::MAX));
        // What was begun is seen through first: then it shows what else is worth it.
        let begins = if watched.is_empty() { left } else { 0 };
        let is_idle = begins == 0 && watched.is_empty();
        if is_idle {
            break;
        }
        let request = DefragRequest { moves_max: Some(begins), watched };
        let reply = session.client.defrag(request).await?;
        for state in &reply.states {
            let of = made.iter_mut().filter(|one| one.one.next_id == state.next_id);
            of.for_each(|one| one.state.clone_from(&state.state));
        }
        for why in &reply.refused {
            session.note(&format!("note: not moved, the cluster has changed: {why}"));
        }
        for one in &reply.moves {
            let PlannedMove { allocation_id, job_name, from, to, .. } = one;
            session.note(&format!("moves {allocation_id} of {job_name} from {from} to {to}"));
        }
        let is_over = begins > 0 && reply.moves.is_empty() && reply.under_way == 0;
        let begun = |one| Made { one, state: "ending".to_owned() };
        made.extend(reply.moves.into_iter().map(begun));
        looks_left -= 1;
        if is_over || looks_left == 0 {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    session.print(&made_answer(&made))?;
    match made.iter().all(Made::is_settled) {
        true => Ok(Exit::Done),
        false => Err(CliError::TimedOut {
            message: "moves are still under way".to_owned(),
            hint: Some(
                "they go on without this command; run it again to go on after them".to_owned(),
            ),
        }),
    }
}

fn made_answer(made: &[Made]) -> Answer {
    let mut table =
        Table::new(&["ALLOCATION", "JOB", "NAMESPACE", "FROM", "TO", "GOES ON AS", "STATE"], &[]);
    for Made { one, state } in made {
        table.row(row_of(one, [one.next_id.clone(), state.clone()]));
    }
    let json: Vec<Value> = made
        .iter()
        .map(|Made { one, state }| {
            let mut json = move_json(one);
            json["next"] = json!(one.next_id);
            json["state"] = json!(state);
            json
        })
        .collect();
    let said = match made.len() {
        0 => "nothing was moved: no move is worth it".to_owned(),
        count => format!("moves: {count}"),
    };
    Answer {
        json: json!({ "moves": json }),
        pieces: vec![Piece::Table(table), Piece::Text(said)],
        ids: made.iter().map(|one| one.one.next_id.clone()).collect(),
    }
}

/// Who moves, from where to where, and what else is said of it.
fn row_of(one: &PlannedMove, more: [String; 2]) -> Vec<String> {
    let PlannedMove { allocation_id, job_name, namespace, from, to, .. } = one;
    let cells = [allocation_id, job_name, namespace, from, to].map(Clone::clone);
    cells.into_iter().chain(more).collect()
}

fn answer(reply: &PlanDefragReply) -> Answer {
    let mut table =
        Table::new(&["ALLOCATION", "JOB", "NAMESPACE", "FROM", "TO", "GPUS", "GPU-TIME LOST"], &[]);
    for one in &reply.moves {
        let milli: u64 = one.devices.iter().map(|device| u64::from(device.share_milli)).sum();
        table.row(row_of(one, [gpus(milli), ago(one.lost_gpu_ms, 0)]));
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
