//! The state of a backup made into the first state of a new incarnation. What
//! happened after the backup is not known, so every counter moves beyond what
//! that time can have used, and every node is awaited.

use std::collections::BTreeSet;

use berth_model::{Attempt, DurationMs, JobId, NodeState};
use thiserror::Error;

use crate::rows::{FOUNDER, RestoreRow, SchedulerRow, Seat};
use crate::state::ClusterState;

/// Job ids, node ids and attempts go on at a multiple of this that is at least
/// half of it away: more than any cluster uses between two backups.
const ID_STEP: u64 = 1_000_000;
/// Ids of schedulers likewise; a cluster admits at most
/// [`SCHEDULERS_MAX`](crate::rows::SCHEDULERS_MAX) of them in its life.
const SCHEDULER_STEP: u64 = 1_000;
/// Generations of desired state: a node's changes in between.
const GENERATION_STEP: u64 = 1 << 20;
/// No backup is restored so often.
pub const INCARNATION_STEPS_MAX: u64 = 1_000;
/// Instances of daemons are numbered as nodes are, and both in 32 bits.
const NUMBER_MAX: u64 = u32::MAX as u64 / 2;

/// What a restore decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restoration {
    /// Above that of the backup, and above every one that was ever restored
    /// from it.
    pub incarnation: u64,
    /// 16 random bytes.
    pub id: [u8; 16],
    /// Those of the one scheduler that the new incarnation begins with.
    pub instance_key: [u8; 16],
    pub address: String,
    /// How long the cluster waits for its nodes at most.
    pub await_for: DurationMs,
    /// How long it waits at least: also for nodes that the backup does not know.
    pub await_at_least: DurationMs,
}

/// Why a backup cannot be restored like this.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RestorationError {
    #[error("the backup is of a cluster that was not founded yet")]
    NotFounded,
    #[error("the backup is of incarnation {found}: the new one must be above it, not {asked}")]
    Incarnation { found: u64, asked: u64 },
    #[error(
        "incarnation {asked} is too far from {found}, that of the backup: at most {} beyond it",
        INCARNATION_STEPS_MAX
    )]
    TooFar { found: u64, asked: u64 },
    #[error("the ids of this cluster are used up: {what} would be {number}")]
    UsedUp { what: &'static str, number: u64 },
}

impl ClusterState {
    /// The same cluster in a new incarnation, and the id of its only
    /// scheduler. The cluster clock goes on from the backup. Costs a pass over
    /// nodes, tasks and allocations.
    ///
    /// # Errors
    /// See [`RestorationError`].
    pub fn restored(
        &self,
        restoration: &Restoration,
    ) -> Result<(ClusterState, u64), RestorationError> {
        let mut state = self.clone();
        if state.cluster.id == [0; 16] {
            return Err(RestorationError::NotFounded);
        }
        let (found, asked) = (state.cluster.incarnation, restoration.incarnation);
        let steps = asked.checked_sub(found).filter(|steps| *steps > 0);
        let steps = steps.ok_or(RestorationError::Incarnation { found, asked })?;
        if steps > INCARNATION_STEPS_MAX {
            return Err(RestorationError::TooFar { found, asked });
        }
        let attempt = state.highest_attempt();
        let cluster = &mut state.cluster;
        cluster.incarnation = asked;
        cluster.job_counter = beyond(cluster.job_counter, ID_STEP, steps);
        cluster.node_counter = within("a node", beyond(cluster.node_counter, ID_STEP, steps))?;
        let floor = within("an attempt", beyond(u64::from(attempt.0), ID_STEP, steps) + 1)?;
        cluster.restore = Some(RestoreRow {
            id: restoration.id,
            awaited: BTreeSet::new(),
            place_from: cluster.state_ms.after(restoration.await_at_least),
            await_until: cluster.state_ms.after(restoration.await_for),
            floor_jobs: JobId(cluster.job_counter),
            attempt_floor: Attempt(u32::try_from(floor).unwrap_or(u32::MAX)),
        });
        let last = cluster.schedulers.keys().next_back().copied().unwrap_or(FOUNDER);
        let scheduler = beyond(last, SCHEDULER_STEP, steps) + 1;
        for row in cluster.schedulers.values_mut() {
            row.seat = None;
        }
        let gone = || SchedulerRow { instance_key: [0; 16], address: String::new(), seat: None };
        cluster.schedulers.entry(FOUNDER).or_insert_with(gone);
        cluster.schedulers.insert(
            scheduler,
            SchedulerRow {
                instance_key: restoration.instance_key,
                address: restoration.address.clone(),
                seat: Some(Seat::Voter),
            },
        );
        state.drop_join_tokens();
        state.await_nodes();
        Ok((state, scheduler))
    }

    fn await_nodes(&mut self) {
        let now = self.cluster.state_ms;
        let nodes: Vec<_> = self.nodes.iter().map(|(id, row)| (*id, row.state)).collect();
        for (id, state) in &nodes {
            self.nodes.edit(id, |row| {
                row.generation = row.generation.saturating_add(GENERATION_STEP);
                // Whatever is still there will be told.
                for orphan in std::mem::take(&mut row.orphans).into_values() {
                    row.used.remove(&orphan.claim);
                }
                for away in std::mem::take(&mut row.away).into_values() {
                    if *state == NodeState::Ready {
                        row.used.remove(&away.row.claim);
                    }
                }
                // Who would have started there may do so anywhere.
                row.drop_reservations();
                if *state == NodeState::Ready {
                    row.state = NodeState::Disconnected;
                    row.since = now;
                }
            });
        }
        self.index.reserved.clear();
        let awaited = nodes.into_iter().filter(|(_, state)| *state != NodeState::Down);
        if let Some(restore) = self.cluster.restore.as_mut() {
            restore.awaited = awaited.map(|(id, _)| id).collect();
        }
    }

    /// Of all that are remembered, and of the floor of an earlier restore.
    fn highest_attempt(&self) -> Attempt {
        let floor = self.cluster.restore.as_ref().map(|restore| restore.attempt_floor);
        let counted = self.tasks.values().flat_map(|row| row.retries.values());
        let live = self.allocations.iter().map(|(id, _)| id.attempt);
        counted.map(|retry| retry.attempt).chain(live).chain(floor).max().unwrap_or(Attempt::FIRST)
    }
}

/// A multiple of `step` well above `last`, a different one for each number of
/// steps: two restores of one backup with two incarnations give out different
/// ids.
fn beyond(last: u64, step: u64, steps: u64) -> u64 {
    let next = (last / step).saturating_add(1).saturating_mul(step);
    let near = next.saturating_sub(last) < step / 2;
    next.saturating_add(step.saturating_mul(steps - 1 + u64::from(near)))
}

fn within(what: &'static str, number: u64) -> Result<u64, RestorationError> {
    let fits = number <= NUMBER_MAX;
    if fits { Ok(number) } else { Err(RestorationError::UsedUp { what, number }) }
}
