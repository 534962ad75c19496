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
        // Not the one that would begin next: after a restore that one is far
        // beyond those that were.
        let newest = view
            .tasks()
            .get(&(instance.job, instance.task))
            .map_or(Attempt::FIRST, |row| row.attempt_counted(instance.index.0));
        // The newest attempt may be one that still waits: then the one before
        // it is what can be shown.
        let earlier = Attempt(newest.0.saturating_sub(1));
        let earlier = (earlier.0 > 0).then(|| instance.attempt(earlier));
        place(instance.attempt(newest)).or_else(|| place(earlier?))
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
