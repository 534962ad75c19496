//! Which moves would leave less of the cluster of no use: planned at the leader, shown, not made.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::StateMs;
use berth_placement::defragment::{Batch, BatchLimits, Board, Move, may_move};
use berth_placement::{MixCounts, SoftView};
use berth_proto::v1;
use berth_state::ClusterState;
use berth_wire::spec::device_claim_to_proto;
use tonic::Status;

use super::{Shared, status};
use crate::access::Granted;
use crate::leader::Leader;

/// Of a call that names no number: what a person reads, and few enough that what a cluster loses
/// by restarts is little beside what it gains.
const MOVES_MAX_DEFAULT: u32 = 32;
/// Each is a look at every node and all that runs: a tenth of a second on 10,000 full nodes.
const MOVES_MAX: u32 = 256;
/// A job goes on with nine tenths of what runs of it, whatever is moved at once.
const OF_JOB_MILLI: u32 = 100;
/// A move that brings less than a tenth of a GPU is not worth a restart.
const WORTH_MILLI: i64 = 100;

impl Shared {
    pub async fn plan_defrag(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::PlanDefragRequest,
    ) -> Result<v1::PlanDefragReply, Status> {
        let moves_max = asked.moves_max.unwrap_or(MOVES_MAX_DEFAULT);
        if moves_max > MOVES_MAX {
            let message = format!("expected at most {MOVES_MAX}");
            return Err(status::invalid_field("moves_max", message));
        }
        let view = self.read(granted, 0).await?.state;
        let (soft, now) = (leader.loads(), leader.clock.now());
        let limits =
            BatchLimits { moves_max, of_job_milli: OF_JOB_MILLI, worth_milli: WORTH_MILLI };
        let planning = move || {
            let batch = planned(&view, soft, now, limits);
            (view, batch)
        };
        let planned = tokio::task::spawn_blocking(planning).await;
        let (view, batch) = planned.map_err(|error| Status::internal(error.to_string()))?;
        Ok(reply(granted, &view, &batch, now))
    }
}

fn planned(view: &ClusterState, mut soft: SoftView, now: StateMs, limits: BatchLimits) -> Batch {
    if soft.mix.is_empty() {
        // A leader of a moment ago has not counted yet what the cluster is asked for.
        soft.mix = Arc::new(MixCounts::of(view).mix());
    }
    let mut board = Board::default();
    board.observe(view, &soft, now, &|job, row| may_move(view, job, row, now).ok());
    board.batch(view, now, limits)
}

fn reply(
    granted: &Granted,
    view: &ClusterState,
    batch: &Batch,
    now: StateMs,
) -> v1::PlanDefragReply {
    let sees = |one: &&Move| {
        let job = view.jobs().get(&one.allocation.job);
        job.is_some_and(|job| granted.sees(job.namespace()))
    };
    let moves: Vec<v1::PlannedMove> =
        batch.moves.iter().filter(sees).map(|one| shown(view, one)).collect();
    let devices = view.nodes().values().flat_map(|row| &row.spec.devices);
    let milli = |milli: i64| u64::try_from(milli).unwrap_or(0);
    v1::PlanDefragReply {
        moves_unseen: u32::try_from(batch.moves.len() - moves.len()).unwrap_or(u32::MAX),
        moves,
        lost_before_milli: milli(batch.lost_before_milli),
        lost_after_milli: milli(batch.lost_after_milli),
        capacity_milli: devices.count() as u64 * 1000,
        staying: staying(granted, view, now),
    }
}

fn shown(view: &ClusterState, one: &Move) -> v1::PlannedMove {
    let job = view.jobs().get(&one.allocation.job);
    let node = |id| view.nodes().get(&id).map_or_else(String::new, |row| row.name.to_string());
    v1::PlannedMove {
        allocation_id: one.allocation.to_string(),
        namespace: job.map_or_else(String::new, |job| job.namespace().to_string()),
        job_name: job.map_or_else(String::new, |job| job.spec.name.to_string()),
        from: node(one.from),
        to: node(one.to),
        devices: one.claim.devices.iter().map(device_claim_to_proto).collect(),
        lost_gpu_ms: one.cost / 1000,
    }
}

/// How much of what the caller sees may not be moved, by the reason. Costs O(live allocations).
fn staying(granted: &Granted, view: &ClusterState, now: StateMs) -> Vec<v1::Staying> {
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    for row in view.allocations().values() {
        let Some(job) = view.jobs().get(&row.id.job) else { continue };
        if let Some(why) = may_move(view, job, row, now).err()
            && granted.sees(job.namespace())
        {
            *counts.entry(why).or_default() += 1;
        }
    }
    let spoken = |(why, allocations): (berth_placement::defragment::Stays, u32)| v1::Staying {
        why: why.text().to_owned(),
        allocations,
    };
    counts.into_iter().map(spoken).collect()
}
