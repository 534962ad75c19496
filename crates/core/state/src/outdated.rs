//! What runs an older version than its job asks for, and which version a job could go back to.

use berth_model::{JobSpec, OnFailure, TaskSpec};

use crate::rows::{AllocationRow, JobRow};

impl JobRow {
    /// Whether an allocation of the job runs something else than the current version asks for. The
    /// number of replicas does not matter to one of them.
    #[must_use]
    pub fn is_outdated(&self, row: &AllocationRow) -> bool {
        if row.job_version == self.version {
            return false;
        }
        let position = usize::from(row.id.task.0);
        let old = self.versions.iter().find(|old| old.version == row.job_version);
        old.is_none_or(|old| differ(&old.spec, &self.spec, position))
    }

    /// The version that takes the place of the current one if that fails.
    ///
    /// # Errors
    /// Why there is none, to be said after what has failed.
    pub fn way_back(&self) -> Result<u32, String> {
        if self.spec.update.on_failure == OnFailure::Hold {
            return Err("it stays as it is until a new version or a rollback".to_owned());
        }
        let Some(proven) = self.proven else {
            return Err("no earlier version was seen to serve that could take its place".to_owned());
        };
        match self.versions.iter().find(|old| old.version == proven) {
            None => Err(format!("version {proven}, which served before, is not kept any more")),
            Some(old) if self.runs_like(&old.spec) => {
                Err(format!("it runs what version {proven} ran, which served before"))
            }
            Some(_) => Ok(proven),
        }
    }

    fn runs_like(&self, old: &JobSpec) -> bool {
        let count = self.spec.tasks.len();
        old.tasks.len() == count && !(0..count).any(|task| differ(old, &self.spec, task))
    }
}

/// Whether a replica of the task at `position` would notice that its job has another version.
fn differ(old: &JobSpec, new: &JobSpec, position: usize) -> bool {
    let (Some(old_task), Some(new_task)) = (old.tasks.get(position), new.tasks.get(position))
    else {
        return true;
    };
    // A worker of a version that was not exclusive ends with no lease: only
    // one of the new version keeps the promise.
    let same_terms = old.constraints == new.constraints && old.exclusive == new.exclusive;
    !same_terms || without_count(old_task) != without_count(new_task)
}

fn without_count(task: &TaskSpec) -> TaskSpec {
    TaskSpec { count: 0, ..task.clone() }
}
