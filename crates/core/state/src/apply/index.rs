//! Keeping the indices equal to what the rows imply. Every change of a job or
//! a task goes through here.

use std::sync::Arc;

use berth_model::{JobId, JobKind, Name, NodeId, StateMs, TaskIndex};

use crate::node::NodeRow;
use crate::reservation::endable;
use crate::rows::{JobPhase, JobRow, KeyRow, TaskRow};
use crate::state::{ClusterState, QueueKey};

impl ClusterState {
    /// Puts a new job in.
    pub(crate) fn insert_job(&mut self, row: JobRow) {
        self.index_job(&row);
        self.count_queued(None, Some(&row));
        self.jobs.insert(row.id, Arc::new(row));
    }

    /// Changes a job; its tasks' places in the queue follow.
    pub(crate) fn edit_job(&mut self, id: JobId, change: impl FnOnce(&mut JobRow)) {
        let Some(before) = self.jobs.get(&id).cloned() else { return };
        self.jobs.edit(&id, change);
        let Some(after) = self.jobs.get(&id).cloned() else { return };
        let (was, is) = (endable(&before), endable(&after));
        if was != is {
            was.map(|key| self.index.endable.remove(&key));
            is.map(|key| self.index.endable.insert(key));
        }
        self.count_queued(Some(&before), Some(&after));
        self.count_barred(&before, &after);
        let same_place = before.phase == after.phase
            && before.held == after.held
            && before.spec.priority == after.spec.priority
            && before.spec.deadline == after.spec.deadline;
        if same_place {
            return;
        }
        self.unindex_job(&before);
        self.index_job(&after);
        for task in self.task_indices(id) {
            self.dequeue(&before, task);
            self.requeue(&after, task);
        }
    }

    /// Takes a job and its tasks out.
    pub(crate) fn remove_job(&mut self, id: JobId) -> Option<Arc<JobRow>> {
        let row = self.jobs.get(&id).cloned()?;
        self.unindex_job(&row);
        self.count_queued(Some(&row), None);
        for task in self.task_indices(id) {
            self.dequeue(&row, task);
            self.tasks.remove(&(id, task));
        }
        self.index.names.remove(&(row.namespace().clone(), row.name().clone(), id));
        self.jobs.remove(&id)
    }

    /// Changes a node's inventory or state; where its devices are follows.
    pub(crate) fn edit_node_devices(&mut self, id: NodeId, change: impl FnOnce(&mut NodeRow)) {
        let Some(before) = self.nodes.get(&id).cloned() else { return };
        for device in before.devices_in_use() {
            self.index.device_nodes.remove(&device.uuid);
        }
        self.nodes.edit(&id, change);
        self.index_devices(id);
    }

    pub(crate) fn index_devices(&mut self, id: NodeId) {
        let Some(row) = self.nodes.get(&id).cloned() else { return };
        for device in row.devices_in_use() {
            self.index.device_nodes.insert(device.uuid.clone(), id);
        }
    }

    /// Puts a task in, or another in its place.
    pub(crate) fn insert_task(&mut self, job: JobId, task: TaskIndex, row: TaskRow) {
        self.tasks.insert((job, task), Arc::new(row));
        if let Some(owner) = self.jobs.get(&job).cloned() {
            self.requeue(&owner, task);
        }
    }

    /// Changes a task; its place in the queue follows.
    pub(crate) fn edit_task(
        &mut self,
        job: JobId,
        task: TaskIndex,
        change: impl FnOnce(&mut TaskRow),
    ) {
        let waited = self.tasks.get(&(job, task)).is_some_and(|row| !row.pending.is_empty());
        self.tasks.edit(&(job, task), change);
        let waits = self.tasks.get(&(job, task)).is_some_and(|row| !row.pending.is_empty());
        if waited != waits
            && let Some(owner) = self.jobs.get(&job).cloned()
        {
            self.requeue(&owner, task);
        }
    }

    pub(crate) fn task_indices(&self, job: JobId) -> Vec<TaskIndex> {
        let range = (job, TaskIndex(0))..=(job, TaskIndex(u16::MAX));
        self.tasks.range(range).map(|((_, task), _)| *task).collect()
    }

    pub(crate) fn put_key(&mut self, namespace: Name, key: String, row: KeyRow) {
        if let Some(at) = row.forget_at {
            self.index.stale_keys.insert((at, namespace.clone(), key.clone()));
        }
        let old = self.keys.insert((namespace.clone(), key.clone()), Arc::new(row));
        if let Some(at) = old.and_then(|old| old.forget_at) {
            self.index.stale_keys.remove(&(at, namespace, key));
        }
    }

    pub(crate) fn remove_key(&mut self, namespace: &Name, key: &str) {
        let id = (namespace.clone(), key.to_owned());
        if let Some(at) = self.keys.remove(&id).and_then(|old| old.forget_at) {
            self.index.stale_keys.remove(&(at, id.0, id.1));
        }
    }

    /// What a finished job weighs against the limits of retention: its ended
    /// instances, and at least one, or jobs without any would never be too many.
    pub fn finished_weight(&self, job: JobId) -> u64 {
        let range = (job, TaskIndex(0))..=(job, TaskIndex(u16::MAX));
        self.tasks.range(range).map(|(_, task)| task.ended()).sum::<u64>().max(1)
    }

    pub(crate) fn index_job(&mut self, row: &JobRow) {
        self.index.names.insert((row.namespace().clone(), row.name().clone(), row.id));
        if let JobPhase::Ended { at, .. } = row.phase {
            let namespace = row.namespace().clone();
            self.index.finished.insert((at, row.id));
            self.index.finished_in.insert((namespace.clone(), at, row.id));
            let count = self.finished_weight(row.id);
            *self.index.finished_instances.entry(namespace).or_insert(0) += count;
        }
        if row.kind() == JobKind::Daemon && row.places() {
            self.index.daemons.insert(row.id);
        }
        self.index.endable.extend(endable(row));
        if let Some(at) = deadline_of(row) {
            self.index.deadlines.insert((at, row.id));
        }
    }

    fn unindex_job(&mut self, row: &JobRow) {
        if let JobPhase::Ended { at, .. } = row.phase {
            let namespace = row.namespace().clone();
            self.index.finished.remove(&(at, row.id));
            self.index.finished_in.remove(&(namespace.clone(), at, row.id));
            let count = self.finished_weight(row.id);
            let left = self.index.finished_instances.get(&namespace).copied().unwrap_or(0);
            match left.saturating_sub(count) {
                0 => self.index.finished_instances.remove(&namespace),
                left => self.index.finished_instances.insert(namespace, left),
            };
        }
        self.index.daemons.remove(&row.id);
        endable(row).map(|key| self.index.endable.remove(&key));
        if let Some(at) = deadline_of(row) {
            self.index.deadlines.remove(&(at, row.id));
        }
    }

    fn dequeue(&mut self, job: &JobRow, task: TaskIndex) {
        self.index.queue.remove(&queue_key(job, task));
    }

    pub(crate) fn requeue(&mut self, job: &JobRow, task: TaskIndex) {
        let waits = job.places()
            && self.tasks.get(&(job.id, task)).is_some_and(|row| !row.pending.is_empty());
        if waits {
            self.index.queue.insert(queue_key(job, task));
        } else {
            self.dequeue(job, task);
        }
    }
}

fn queue_key(job: &JobRow, task: TaskIndex) -> QueueKey {
    QueueKey::new(job.spec.priority, job.submitted_ms, job.id, task)
}

/// When the job's time is over, while that still matters.
fn deadline_of(row: &JobRow) -> Option<StateMs> {
    let span = row.spec.deadline.filter(|_| row.phase == JobPhase::Active)?;
    Some(row.submitted_ms.after(span))
}
