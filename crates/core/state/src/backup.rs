//! The state of a backup made into the first state of a new incarnation. What
//! happened after the backup is not known, so every counter moves beyond what
//! that time can have used, and every node is awaited.

use std::collections::BTreeSet;

use berth_model::{Attempt, DurationMs, NodeState, StateMs};
use thiserror::Error;

use crate::rows::{FOUNDER, RestoreRow, SchedulerRow, Seat};
use crate::state::ClusterState;

/// Job ids, node ids and attempts go on at the next multiple of this: more than
/// any cluster uses between two backups.
const ID_STEP: u64 = 1_000_000;
/// Ids of schedulers likewise; a cluster admits at most
/// [`SCHEDULERS_MAX`](crate::rows::SCHEDULERS_MAX) of them in its life.
const SCHEDULER_STEP: u64 = 1_000;
/// Generations of desired state: a node's changes in between.
const GENERATION_SHIFT: u32 = 20;

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
}

/// Why a backup cannot be restored like this.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RestorationError {
    #[error("the backup is of a cluster that was not founded yet")]
    NotFounded,
    #[error("the backup is of incarnation {found}: the new one must be above it, not {asked}")]
    Incarnation { found: u64, asked: u64 },
}

impl ClusterState {
    /// The same cluster in a new incarnation, and the id of its only
    /// scheduler. The cluster clock goes on from the backup. Costs a pass over
    /// nodes and unfinished tasks.
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
        let at = state.cluster.state_ms;
        let cluster = &mut state.cluster;
        cluster.incarnation = asked;
        cluster.job_counter = beyond(cluster.job_counter, ID_STEP, steps);
        cluster.node_counter = beyond(cluster.node_counter, ID_STEP, steps);
        // What is placed from now on is placed after `at`.
        cluster.state_ms = StateMs(at.0.saturating_add(1));
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
        state.await_nodes(at, steps, restoration);
        state.raise_attempts(steps);
        Ok((state, scheduler))
    }

    fn await_nodes(&mut self, at: StateMs, steps: u64, restoration: &Restoration) {
        let now = self.cluster.state_ms;
        let mut awaited = BTreeSet::new();
        let nodes: Vec<_> = self.nodes.iter().map(|(id, row)| (*id, row.state)).collect();
        for (id, state) in nodes {
            self.nodes.edit(&id, |row| {
                let lifted = steps.saturating_mul(1 << GENERATION_SHIFT);
                row.generation = row.generation.saturating_add(lifted);
                if state == NodeState::Ready {
                    row.state = NodeState::Disconnected;
                    row.since = now;
                }
            });
            if state != NodeState::Down {
                awaited.insert(id);
            }
        }
        let await_until = now.after(restoration.await_for);
        self.cluster.restore = Some(RestoreRow { id: restoration.id, at, awaited, await_until });
    }

    fn raise_attempts(&mut self, steps: u64) {
        let open: Vec<_> = self
            .tasks
            .iter()
            .filter(|((job, _), _)| self.jobs.get(job).is_some_and(|row| !row.is_ended()))
            .map(|((job, task), row)| {
                let highest = row.retries.values().map(|retry| retry.attempt).max();
                let highest = highest.unwrap_or(Attempt::FIRST).max(row.attempt_floor);
                (*job, *task, beyond(u64::from(highest.0), ID_STEP, steps) + 1)
            })
            .collect();
        for (job, task, floor) in open {
            let floor = Attempt(u32::try_from(floor).unwrap_or(u32::MAX));
            self.edit_task(job, task, |row| row.attempt_floor = floor);
        }
    }
}

/// The `steps`-th multiple of `step` above `last`: two restores of one backup
/// with two incarnations give out different ids.
fn beyond(last: u64, step: u64, steps: u64) -> u64 {
    (last / step).saturating_add(steps).saturating_mul(step)
}
