//! Which moves would leave less of the cluster of no use: planned at the leader, shown, and made a
//! few at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{AllocationId, AllocationState, Attempt, JobId, StateMs};
use berth_placement::defragment::{Batch, BatchLimits, Board, Move, may_move};
use berth_placement::{MixCounts, SoftView};
use berth_proto::v1;
use berth_state::{
    AllocationRow, ClusterState, Command, JobRow, Placement, Reply, Reservation, ScoreParts,
};
use berth_wire::spec::device_claim_to_proto;
use tonic::Status;

use super::{Shared, settle, status};
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
/// Moves at once in the whole cluster, so that what begins does not crowd networks and disks.
const UNDER_WAY_MAX: u32 = 4;

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
            let batch = planned(&view, soft, now, limits, &|_| true);
            (view, batch)
        };
        let planned = tokio::task::spawn_blocking(planning).await;
        let (view, batch) = planned.map_err(|error| Status::internal(error.to_string()))?;
        Ok(reply(granted, &view, &batch, now))
    }
}

impl Shared {
    /// Begins moves. Nothing of it stands in the leader: what is under way is in the state, and
    /// goes on whoever leads.
    pub async fn defrag(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::DefragRequest,
    ) -> Result<v1::DefragReply, Status> {
        if asked.watched.len() > MOVES_MAX as usize {
            let message = format!("expected at most {MOVES_MAX}");
            return Err(status::invalid_field("watched", message));
        }
        // One at a time begins some, so that no two begin as many as may be under way together.
        let _turn = match asked.moves_max {
            Some(0) => None,
            Some(_) | None => {
                let turn = leader.defrags.clone().try_acquire_owned();
                Some(turn.map_err(|_| status::other_defrag())?)
            }
        };
        let view = self.read(granted, 0).await?.state;
        let (soft, now) = (leader.loads(), leader.clock.now());
        let states = asked.watched.iter().map(|id| state_of(granted, &view, id)).collect();
        let busy: Vec<AllocationId> = under_way(&view);
        let under_way = u32::try_from(busy.len()).unwrap_or(u32::MAX);
        let moves_max = UNDER_WAY_MAX.saturating_sub(under_way);
        let moves_max = moves_max.min(asked.moves_max.unwrap_or(moves_max));
        let mut begun = v1::DefragReply { under_way, states, ..v1::DefragReply::default() };
        if moves_max == 0 {
            return Ok(begun);
        }
        let limits =
            BatchLimits { moves_max, of_job_milli: OF_JOB_MILLI, worth_milli: WORTH_MILLI };
        let seen = granted.clone();
        let planning = move || {
            let restless = restless(&view, &busy);
            let may_go = |job: &JobRow| seen.sees(job.namespace()) && !restless.contains(&job.id);
            let batch = planned(&view, soft, now, limits, &may_go);
            (view, batch)
        };
        let planned = tokio::task::spawn_blocking(planning).await;
        let (view, batch) = planned.map_err(|error| Status::internal(error.to_string()))?;
        for one in &batch.moves {
            let Some(reservation) = reservation(&view, one) else { continue };
            let next_id = reservation.placement.allocation().to_string();
            let command = Command::Reserve { reservations: vec![reservation] };
            let Reply::Placed { granted, refused } = settle(&leader, command).await? else {
                return Err(Status::internal("an answer to something else"));
            };
            let refused = refused.iter().map(|why| format!("{}: {why}", one.allocation));
            begun.refused.extend(refused);
            let is_begun = !granted.is_empty();
            begun.moves.extend(is_begun.then(|| v1::PlannedMove { next_id, ..shown(&view, one) }));
        }
        let ids = begun.moves.iter().map(|one| one.allocation_id.as_str());
        granted.about(format!("moves of {}", ids.collect::<Vec<_>>().join(", ")));
        Ok(begun)
    }
}

fn state_of(granted: &Granted, view: &ClusterState, next_id: &str) -> v1::MoveState {
    let sees = |id: &AllocationId| {
        view.jobs().get(&id.job).is_some_and(|job| granted.sees(job.namespace()))
    };
    let state = next_id.parse::<AllocationId>().ok().filter(sees).map_or("over", |id| {
        let live = view.allocations().get(&id).map(|row| row.state);
        let pending = || {
            let task = view.tasks().get(&(id.job, id.task));
            task.is_some_and(|task| task.pending.contains(id.instance.0))
        };
        match live {
            Some(AllocationState::Running { ready: true }) => "running",
            Some(_) => "starting",
            None if view.is_reserved(id.job, id.task, id.instance) => "ending",
            None if view.is_live(id) || pending() => "elsewhere",
            None => "over",
        }
    });
    v1::MoveState { next_id: next_id.to_owned(), state: state.to_owned() }
}

/// Those that move.
fn under_way(view: &ClusterState) -> Vec<AllocationId> {
    view.reservations().filter(|(.., one)| one.is_move()).map(|(id, ..)| id).collect()
}

/// Jobs of which something is on its way, or has yet to begin where it went: no more of one than
/// may is away at once. Costs O(live allocations).
fn restless(view: &ClusterState, busy: &[AllocationId]) -> BTreeSet<JobId> {
    let begins = |row: &&Arc<AllocationRow>| {
        row.id.attempt != Attempt::FIRST && row.state != AllocationState::Running { ready: true }
    };
    let begin = view.allocations().values().filter(begins).map(|row| row.id.job);
    busy.iter().map(|id| id.job).chain(begin).collect()
}

/// The next attempt has the place there, and the one that runs is to end.
fn reservation(view: &ClusterState, one: &Move) -> Option<Reservation> {
    let attempt = view.attempt_after(one.allocation)?;
    let score = ScoreParts {
        policy: "defragment".to_owned(),
        parts: Vec::new(),
        view_index: view.applied_index(),
    };
    let id = AllocationId { attempt, ..one.allocation };
    let placement = Placement::new(id, one.to, one.claim.clone(), score);
    Some(Reservation { placement, awaits: vec![one.allocation], patient: false })
}

fn planned(
    view: &ClusterState,
    mut soft: SoftView,
    now: StateMs,
    limits: BatchLimits,
    may_go: &dyn Fn(&JobRow) -> bool,
) -> Batch {
    if soft.mix.is_empty() {
        // A leader of a moment ago has not counted yet what the cluster is asked for.
        soft.mix = Arc::new(MixCounts::of(view).mix());
    }
    let mut board = Board::default();
    let cost = |job: &JobRow, row: &AllocationRow| {
        may_move(view, job, row, now).ok().filter(|_| may_go(job))
    };
    board.observe(view, &soft, now, &cost);
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
        next_id: String::new(),
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
