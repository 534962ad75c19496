//! Desired state with everything that carrying it out needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{AllocationId, Claim, JobSpec, SpecDigest, TaskSpec};
use berth_supervise::desired::Offer;
use berth_supervise::{Desired, DesiredRow, Order, Version};
use berth_wire::agent::{Delta, DesiredRow as WireRow, Full, WorkerHere, desired_digest};

/// A row with its specification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub row: WireRow,
    pub job: Arc<JobSpec>,
    /// Position of its task in the job; checked to exist.
    task_index: usize,
}

/// The desired state of this node.
pub type Wishes = Desired<Arc<Wanted>>;
/// The digest by which both sides know that they mean the same.
pub type Digest = [u8; 32];
/// Specifications that rows refer to.
pub type Specs = BTreeMap<SpecDigest, Arc<JobSpec>>;

impl Wanted {
    /// Of the first task.
    #[cfg(test)]
    pub fn first(row: WireRow, job: JobSpec) -> Wanted {
        Wanted { row, job: Arc::new(job), task_index: 0 }
    }

    pub fn task(&self) -> &TaskSpec {
        &self.job.tasks[self.task_index]
    }

    /// What its worker is and holds.
    pub fn here(&self) -> WorkerHere {
        let task = self.task();
        WorkerHere {
            allocation: self.row.allocation,
            namespace: self.job.namespace.to_string(),
            job_name: self.job.name.to_string(),
            spec_digest: self.row.spec,
            claim: Claim {
                cpu: task.cpu,
                memory: task.memory,
                devices: self.row.devices.clone(),
                ports: self.row.ports.clone(),
            },
        }
    }
}

/// The digest of `rows`.
pub fn digest_of(_: Version, rows: &BTreeMap<AllocationId, DesiredRow<Arc<Wanted>>>) -> Digest {
    desired_digest(rows.values().map(|row| &row.payload.row))
}

/// A full state as an offer. `None`: a row refers to what is not known.
pub fn offer_of_full(full: Full, specs: &mut Specs) -> Option<Offer<Arc<Wanted>, Digest>> {
    specs.extend(full.specs);
    Some(Offer::Full {
        version: Version { incarnation: full.incarnation, generation: full.generation },
        rows: rows(full.rows, specs)?,
        digest: full.digest,
    })
}

/// A change as an offer. `None`: a row refers to what is not known.
pub fn offer_of_delta(delta: Delta, specs: &mut Specs) -> Option<Offer<Arc<Wanted>, Digest>> {
    specs.extend(delta.specs);
    Some(Offer::Delta {
        incarnation: delta.incarnation,
        from: delta.from,
        to: delta.to,
        upserts: rows(delta.upserts, specs)?,
        removed: delta.removed,
        digest: delta.digest,
    })
}

/// All of `wishes`, with the specifications that they need.
pub fn full_of(wishes: &Wishes) -> Full {
    let specs: Specs =
        wishes.rows.values().map(|row| (row.payload.row.spec, row.payload.job.clone())).collect();
    Full {
        incarnation: wishes.version.incarnation,
        generation: wishes.version.generation,
        rows: wishes.rows.values().map(|row| row.payload.row.clone()).collect(),
        specs: specs.into_iter().collect(),
        digest: digest_of(wishes.version, &wishes.rows),
    }
}

/// Drops specifications that nothing refers to any more.
pub fn drop_unused(specs: &mut Specs, wishes: &Wishes) {
    let used: std::collections::BTreeSet<SpecDigest> =
        wishes.rows.values().map(|row| row.payload.row.spec).collect();
    specs.retain(|digest, _| used.contains(digest));
}

fn rows(
    rows: Vec<WireRow>,
    specs: &Specs,
) -> Option<BTreeMap<AllocationId, DesiredRow<Arc<Wanted>>>> {
    rows.into_iter()
        .map(|row| {
            let job = specs.get(&row.spec)?.clone();
            let task_index = usize::from(row.allocation.task.0);
            let task = job.tasks.get(task_index)?;
            let order = if row.stop.is_some() { Order::Stop } else { Order::Run };
            let (id, exclusive, stop) = (row.allocation, job.exclusive, task.stop);
            let payload = Arc::new(Wanted { row, job, task_index });
            Some((id, DesiredRow { order, exclusive, stop, payload }))
        })
        .collect()
}
