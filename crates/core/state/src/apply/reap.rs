//! Retention: nothing in the state grows without bound, and nothing is
//! forgotten before its time, whoever asks.

use berth_model::{DurationMs, JobId, Name, NodeId, NodeState};

use super::Step;
use crate::event::EventKind;
use crate::rows::JobPhase;
use crate::state::Reply;

/// Ended jobs are kept this long.
pub const JOBS_KEPT: DurationMs = DurationMs::from_secs(7 * 24 * 3600);
/// Beyond so many finished instances the oldest jobs go earlier.
pub const FINISHED_INSTANCES_MAX: u64 = 100_000;
/// The same, in one namespace.
pub const FINISHED_INSTANCES_IN_NAMESPACE_MAX: u64 = 20_000;
/// Down nodes without allocations are kept this long.
pub const DOWN_NODES_KEPT: DurationMs = DurationMs::from_secs(24 * 3600);
/// An idempotency key is remembered this long after its job is gone.
pub const KEY_KEPT: DurationMs = DurationMs::from_secs(24 * 3600);

impl Step<'_> {
    pub(super) fn reap(
        &mut self,
        jobs: &[JobId],
        nodes: &[NodeId],
        keys: &[(Name, String)],
    ) -> Reply {
        for job in jobs {
            if self.may_forget_job(*job) {
                self.forget_job(*job);
            }
        }
        for node in nodes {
            self.forget_node(*node);
        }
        for (namespace, key) in keys {
            let row = self.state.keys.get(&(namespace.clone(), key.clone()));
            let over = row.and_then(|row| row.forget_at).is_some_and(|at| at <= self.now);
            if over {
                self.state.remove_key(namespace, key);
            }
        }
        Reply::Done
    }

    fn may_forget_job(&self, job: JobId) -> bool {
        let Some(row) = self.state.jobs.get(&job) else { return false };
        let JobPhase::Ended { at, .. } = row.phase else { return false };
        if self.now.since(at) >= JOBS_KEPT {
            return true;
        }
        let index = &self.state.index;
        let total: u64 = index.finished_instances.values().sum();
        let here = index.finished_instances.get(row.namespace()).copied().unwrap_or(0);
        // The last that ended stays whatever it weighs: somebody is about to
        // look at it.
        if self.state.newest_finished() == Some(job) {
            return false;
        }
        let oldest = index.finished.get_min().is_some_and(|(_, oldest)| *oldest == job);
        let from = (row.namespace().clone(), berth_model::StateMs(0), JobId(0));
        let oldest_here =
            index.finished_in.range(from..).next().is_some_and(|(_, _, oldest)| *oldest == job);
        (total > FINISHED_INSTANCES_MAX && oldest)
            || (here > FINISHED_INSTANCES_IN_NAMESPACE_MAX && oldest_here)
    }

    pub(super) fn forget_job(&mut self, job: JobId) {
        self.drop_places_of(job, "its job is gone");
        let Some(row) = self.state.remove_job(job) else { return };
        if let Some(key) = &row.key {
            self.release_key(row.namespace(), key);
        }
        self.emit_job(job, EventKind::JobReaped);
    }

    /// What daemons remember of a node that is gone for good; its id, and so
    /// their instance of it, never comes again.
    fn forget_daemons_of(&mut self, node: NodeId) {
        let Ok(instance) = u32::try_from(node.0) else { return };
        let daemons: Vec<JobId> = self.state.daemons().collect();
        for job in daemons {
            for task in self.state.task_indices(job) {
                self.state.edit_task(job, task, |row| {
                    row.retries.remove(&instance);
                    row.failed.remove(instance);
                });
            }
        }
    }

    fn forget_node(&mut self, node: NodeId) {
        let Some(row) = self.state.nodes.get(&node).cloned() else { return };
        let over = row.state == NodeState::Down
            && row.live.is_empty()
            && self.now.since(row.since) >= DOWN_NODES_KEPT;
        if over {
            self.state.nodes.remove(&node);
            self.state.index.node_names.remove(&row.name);
            self.forget_daemons_of(node);
            self.emit_node(node, EventKind::NodeReaped);
        }
    }
}
