//! The order in which tasks are visited: the queue's, with daemons at the place
//! that their priority and age give them.

use berth_model::{JobId, TaskIndex};
use berth_state::{ClusterState, JobRow, QueueKey};

/// All tasks that may want a place, most urgent first.
pub(crate) fn everything(view: &ClusterState) -> impl Iterator<Item = QueueKey> + '_ {
    let mut daemons: Vec<QueueKey> = view
        .daemons()
        .filter_map(|job| view.jobs().get(&job))
        .flat_map(|job| keys_of(job))
        .collect();
    daemons.sort_unstable();
    let mut daemons = daemons.into_iter().peekable();
    let mut queue = view.queue().copied().peekable();
    std::iter::from_fn(move || match (queue.peek(), daemons.peek()) {
        (Some(waiting), Some(daemon)) if daemon < waiting => daemons.next(),
        (None, _) => daemons.next(),
        (Some(_), _) => queue.next(),
    })
}

/// The tasks of some jobs, most urgent first.
pub(crate) fn of_jobs(
    view: &ClusterState,
    jobs: &[JobId],
) -> impl Iterator<Item = QueueKey> + use<> {
    let found = jobs.iter().filter_map(|job| view.jobs().get(job));
    let mut keys: Vec<QueueKey> = found.flat_map(|job| keys_of(job)).collect();
    keys.sort_unstable();
    // A job may be named twice: by two submits of one key.
    keys.dedup();
    keys.into_iter()
}

fn keys_of(job: &JobRow) -> impl Iterator<Item = QueueKey> + '_ {
    (0..job.spec.tasks.len()).filter_map(|position| {
        let task = TaskIndex(u16::try_from(position).ok()?);
        Some(QueueKey::new(job.spec.priority, job.submitted_ms, job.id, task))
    })
}
