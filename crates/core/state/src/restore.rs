//! The state as rows, for snapshots, and back. Rows that do not belong
//! together are refused: a wrong state must not be served.

use std::sync::Arc;

use thiserror::Error;

use crate::invariants;
use crate::node::NodeRow;
use crate::rows::Stored;
use crate::state::ClusterState;
use crate::version::{self, NewerCluster};

/// Why rows do not make a state.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RestoreError {
    #[error("the cluster row is missing")]
    NoCluster,
    #[error("two rows have the key {0}")]
    Twice(String),
    #[error("the rows break an invariant: {0}")]
    Broken(String),
    #[error(transparent)]
    NewerCluster(#[from] NewerCluster),
}

impl ClusterState {
    /// Every row, tables one after the other, in key order.
    pub fn rows(&self) -> impl Iterator<Item = Stored> + '_ {
        std::iter::once(Stored::Cluster(self.cluster.clone()))
            .chain(self.nodes.values().map(|row| Stored::Node(row.clone())))
            .chain(self.jobs.values().map(|row| Stored::Job(row.clone())))
            .chain(
                self.tasks.iter().map(|((job, task), row)| Stored::Task(*job, *task, row.clone())),
            )
            .chain(self.allocations.values().map(|row| Stored::Allocation(row.clone())))
            .chain(
                self.keys
                    .iter()
                    .map(|((name, key), row)| Stored::Key(name.clone(), key.clone(), row.clone())),
            )
            .chain(self.tokens.values().map(|row| Stored::Token(row.clone())))
            .chain(self.revocations.values().map(|row| Stored::Revocation(row.clone())))
            .chain(self.namespaces.values().map(|row| Stored::Namespace(row.clone())))
            .chain(
                self.averages.iter().map(|(name, row)| Stored::Average(name.clone(), row.clone())),
            )
            .chain(self.node_reservations.values().map(|row| Stored::NodeReservation(row.clone())))
    }

    /// The state that `rows` describe, at `applied_index`.
    ///
    /// # Errors
    /// `RestoreError` where rows are missing, doubled, contradict each other, or
    /// follow rules that this build does not know.
    pub fn from_rows(
        applied_index: u64,
        rows: impl IntoIterator<Item = Stored>,
    ) -> Result<ClusterState, RestoreError> {
        let mut state = ClusterState { applied_index, ..ClusterState::default() };
        let mut founded = None;
        for row in rows {
            let doubled = match row {
                Stored::Cluster(row) => founded.replace(row).map(|_| "cluster".to_owned()),
                Stored::Job(row) => {
                    let id = row.id;
                    state.jobs.insert(id, row).map(|_| format!("job {id}"))
                }
                Stored::Task(job, task, row) => state
                    .tasks
                    .insert((job, task), row)
                    .map(|_| format!("task {} of job {job}", task.0)),
                Stored::Allocation(row) => {
                    let id = row.id;
                    state.allocations.insert(id, row).map(|_| format!("allocation {id}"))
                }
                Stored::Node(row) => {
                    let id = row.id;
                    state.nodes.insert(id, row).map(|_| format!("node {id}"))
                }
                Stored::Token(row) => {
                    let id = row.id;
                    state.tokens.insert(id, row).map(|_| format!("token {id}"))
                }
                Stored::Revocation(row) => {
                    let key = (row.machine, row.name.clone());
                    let doubled = format!("revocation of {} {}", key.0, key.1);
                    state.revocations.insert(key, row).map(|_| doubled)
                }
                Stored::Namespace(row) => {
                    let name = row.spec.name.clone();
                    let doubled = format!("namespace {name}");
                    state.namespaces.insert(name, row).map(|_| doubled)
                }
                Stored::Average(name, row) => {
                    let doubled = format!("average use of {name}");
                    state.averages.insert(name, row).map(|_| doubled)
                }
                Stored::NodeReservation(row) => {
                    let name = row.spec.name.clone();
                    let doubled = format!("reservation `{name}` of nodes");
                    state.node_reservations.insert(name, row).map(|_| doubled)
                }
                Stored::Key(namespace, key, row) => {
                    let doubled = state.keys.contains(&(namespace.clone(), key.clone()));
                    state.put_key(namespace, key.clone(), Arc::unwrap_or_clone(row));
                    doubled.then(|| format!("key `{key}`"))
                }
            };
            if let Some(key) = doubled {
                return Err(RestoreError::Twice(key));
            }
        }
        state.cluster = founded.ok_or(RestoreError::NoCluster)?;
        version::check(state.cluster.cluster_version)?;
        state.rebuild_indices();
        match invariants::check(&state).first() {
            Some(broken) => Err(RestoreError::Broken(broken.to_string())),
            None => Ok(state),
        }
    }

    /// Fills the indices from the rows; `stale_keys` follow the keys already.
    pub(crate) fn rebuild_indices(&mut self) {
        let jobs: Vec<_> = self.jobs.values().cloned().collect();
        for job in jobs {
            self.index_job(&job);
            for task in self.task_indices(job.id) {
                self.requeue(&job, task);
            }
        }
        let names: Vec<_> = self.nodes.values().map(|row| (row.name.clone(), row.id)).collect();
        for (name, id) in names {
            self.index.node_names.insert(name, id);
        }
        let nodes: Vec<_> = self.nodes.values().map(|row| row.id).collect();
        nodes.into_iter().for_each(|node| self.index_devices(node));
        let kept = |row: &Arc<NodeRow>| {
            let members = row.reservations.iter().flat_map(|one| one.members.keys());
            let (ids, node) = (members.copied(), row.id);
            ids.map(move |id| (id, node)).collect::<Vec<_>>()
        };
        self.index.reserved = self.nodes.values().flat_map(kept).collect();
        let expiries = self.tokens.values().filter_map(|row| Some((row.expires?.at, row.id)));
        self.index.token_expiries = expiries.collect();
        self.rebuild_usage();
    }
}
