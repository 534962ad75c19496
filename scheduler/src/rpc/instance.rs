//! One copy of a task, as people name it, and which of its attempts is meant.

use berth_model::{AllocationId, Attempt, InstanceIndex, JobId, NodeId, TaskIndex};
use berth_state::ClusterState;
use berth_state::rows::{FailureDetail, JobRow};
use tonic::Status;

use super::Shared;

/// One copy of a task.
#[derive(Clone, Copy)]
pub struct Instance {
    pub job: JobId,
    pub task: TaskIndex,
    pub index: InstanceIndex,
}

impl Instance {
    pub fn attempt(self, attempt: Attempt) -> AllocationId {
        let Instance { job, task, index } = self;
        AllocationId { job, task, instance: index, attempt }
    }
}

impl Shared {
    /// The allocation that is meant, and where it is or was: the newest that has begun unless an
    /// attempt is named.
    pub fn shown(
        &self,
        view: &ClusterState,
        instance: Instance,
        attempt: u32,
    ) -> Option<(AllocationId, NodeId)> {
        let place = |id: AllocationId| {
            let live = view.allocations().get(&id).map(|row| row.node);
            let ended = || self.published.history.get(id).map(|ended| ended.row.node);
            live.or_else(ended)
                .or_else(|| failure(view, id).map(|failure| failure.node))
                .map(|node| (id, node))
        };
        if attempt > 0 {
            return place(instance.attempt(Attempt(attempt)));
        }
        // What waits has no allocation yet, and what has ended is counted by its task no more.
        let (first, last) = (instance.attempt(Attempt(0)), instance.attempt(Attempt(u32::MAX)));
        let live = view.allocations().range(first..=last).next_back();
        if let Some((id, row)) = live {
            return Some((*id, row.node));
        }
        let ended =
            self.published.history.newest(first).map(|ended| (ended.row.id, ended.row.node));
        let failures = view.tasks().get(&(instance.job, instance.task)).map(|row| &row.failures);
        let failed = failures.into_iter().flatten().map(|one| (one.allocation, one.node));
        let failed = failed.filter(|(id, _)| (first..=last).contains(id));
        failed.chain(ended).max()
    }
}

/// What the state keeps of an attempt that failed.
pub fn failure(view: &ClusterState, id: AllocationId) -> Option<&FailureDetail> {
    let task = view.tasks().get(&(id.job, id.task))?;
    task.failures.iter().find(|failure| failure.allocation == id)
}

/// There was never such an attempt, or nobody remembers it.
pub fn nothing_to_show(job: &JobRow, index: u32, attempt: u32) -> Status {
    let what = if attempt > 0 {
        format!("attempt {attempt} of instance {index}")
    } else {
        format!("instance {index}")
    };
    Status::not_found(format!(
        "{what} of job {} has not started, or is no longer remembered here",
        job.id
    ))
}

/// A node's name, for people.
pub fn node_name(view: &ClusterState, node: NodeId) -> String {
    view.nodes().get(&node).map_or_else(|| node.to_string(), |row| row.name.to_string())
}
