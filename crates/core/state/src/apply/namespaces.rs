//! What is set for a namespace, as administrators change it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_model::{
    Amounts, JobKind, JobSpec, Name, NamespaceSpec, OverQuota, Quota, QuotaPart, Shortage,
    SpecDigest, Used, validate_namespace,
};

use super::Step;
use crate::command::SubmitJob;
use crate::event::EventKind;
use crate::namespace::{NAMESPACE_ROWS_MAX, NamespaceRow};
use crate::refusal::Refusal;
use crate::rows::{JobPhase, JobRow};
use crate::state::Reply;
use crate::table::StableHasher;

impl Step<'_> {
    /// Ends nothing, also where less is allowed now than is in use.
    pub(super) fn apply_namespace(
        &mut self,
        spec: &NamespaceSpec,
        if_version: Option<u32>,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        if let Some(first) = validate_namespace(spec).first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        let name = spec.name.clone();
        let known = self.state.namespaces.get(&name);
        let found = known.map_or(0, |row| row.version);
        // Whoever repeats it, not knowing that it was done, is answered like the first time.
        if known.is_some_and(|row| row.spec == *spec) {
            return Ok(Reply::NamespaceSet { version: found });
        }
        check_version(&name, if_version, found)?;
        if found == 0 && self.state.namespaces.len() >= NAMESPACE_ROWS_MAX {
            return Err(Refusal::TooManyNamespaces);
        }
        let version = found.saturating_add(1);
        let row = NamespaceRow { spec: spec.clone(), version, changed_at: self.wall };
        self.state.put_namespace(Arc::new(row));
        self.emit(None, None, None, EventKind::NamespaceChanged { name, version });
        Ok(Reply::NamespaceSet { version })
    }

    /// Its jobs would have no limits any more, so it must have none.
    pub(super) fn delete_namespace(
        &mut self,
        name: &Name,
        if_version: Option<u32>,
    ) -> Result<Reply, Refusal> {
        let known = self.state.namespaces.get(name);
        let found = known.ok_or_else(|| Refusal::NoSuchNamespace(name.clone()))?.version;
        check_version(name, if_version, found)?;
        let jobs = self.state.unfinished_jobs(name);
        if jobs > 0 {
            return Err(Refusal::NamespaceInUse { name: name.clone(), jobs });
        }
        self.state.remove_namespace(name);
        self.emit(None, None, None, EventKind::NamespaceDeleted { name: name.clone() });
        Ok(Reply::Done)
    }

    /// A submit with the defaults of its namespace, if all of it is within its bounds.
    pub(super) fn in_range(&self, submit: &SubmitJob) -> Result<SubmitJob, Refusal> {
        let mut submit = submit.clone();
        let Some(row) = self.state.namespaces.get(&submit.spec.namespace) else {
            return Ok(submit);
        };
        let range = &row.spec.range;
        if !range.0.is_empty() {
            let mut spec = JobSpec::clone(&submit.spec);
            if range.fill(&mut spec) {
                submit.digest = digest_of_filled(submit.digest, &spec);
                submit.spec = Arc::new(spec);
            }
            range.check(&submit.spec)?;
        }
        self.check_replicas(&submit.spec, &row.spec.quota)?;
        Ok(submit)
    }

    /// A service runs with all of its replicas or is not what was asked for: one that could
    /// not even if the namespace held nothing else is refused. What of a batch job has no room
    /// waits for its turn.
    fn check_replicas(&self, spec: &JobSpec, quota: &Quota) -> Result<(), OverQuota> {
        match spec.kind {
            JobKind::Service => {}
            JobKind::Batch | JobKind::Daemon => return Ok(()),
        }
        let tasks = spec.tasks.iter().map(|task| task.amounts_least().times(task.count));
        let asked = tasks.fold(Amounts::default(), Amounts::plus);
        quota.check(Used::default(), asked, spec.borrowing()).map_err(|shortage| {
            let used = self.state.used(&spec.namespace, spec.borrowing(), None);
            let used = match shortage.part {
                QuotaPart::Limit => used.all,
                QuotaPart::Guarantee => used.barred,
            };
            Shortage { used: used.of(shortage.resource), ..shortage }.of(&spec.namespace)
        })
    }

    /// Whether a job that is over, or ends, may be queued again.
    pub(super) fn may_revive(&self, row: &JobRow) -> Result<(), Refusal> {
        let comes_back = row.phase != JobPhase::Active && row.live == 0;
        if comes_back { Ok(self.state.check_queue(row.namespace())?) } else { Ok(()) }
    }
}

/// Agents know a specification by its digest alone, so that what was filled in makes another one
/// of it: the same file under other defaults is another version.
fn digest_of_filled(asked: SpecDigest, spec: &JobSpec) -> SpecDigest {
    let mut hasher = StableHasher::default();
    for task in &spec.tasks {
        (task.cpu, task.memory, &task.gpu).hash(&mut hasher);
    }
    let SpecDigest(mut digest) = asked;
    for (byte, mixed) in digest.iter_mut().zip(hasher.finish().to_le_bytes()) {
        *byte ^= mixed;
    }
    SpecDigest(digest)
}

fn check_version(name: &Name, if_version: Option<u32>, found: u32) -> Result<(), Refusal> {
    match if_version.filter(|asked| *asked != found) {
        Some(asked) => Err(Refusal::NamespaceConflict { name: name.clone(), asked, found }),
        None => Ok(()),
    }
}
