//! What is on a node, told to a cluster that was restored from a backup.

use berth_model::{AllocationId, Claim, CpuMilli, EndReport, MemoryBytes, SpecDigest, Violation};
use berth_proto::v1;
use berth_state::Unknown;
use bytes::Bytes;

use super::observation::{end_report_to_proto, read_allocation, read_end};
use crate::problem::{Field, Problems};
use crate::spec::{
    device_claim_to_proto, port_claim_to_proto, read_device_claim, read_port_claims,
};

/// Longer than any name that a job may have.
const NAME_BYTES_MAX: usize = 128;

/// A worker that has not ended, with all that its node knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerHere {
    pub allocation: AllocationId,
    pub namespace: String,
    pub job_name: String,
    pub spec_digest: SpecDigest,
    pub claim: Claim,
}

/// Everything that an agent says is on its node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StockTold {
    /// What has not ended, whether the cluster knows it or not.
    pub here: Vec<WorkerHere>,
    /// What has ended of all that the cluster expected.
    pub ended: Vec<(AllocationId, EndReport)>,
}

impl From<WorkerHere> for Unknown {
    fn from(worker: WorkerHere) -> Unknown {
        let WorkerHere { allocation, namespace, job_name, spec_digest, claim } = worker;
        Unknown { allocation, namespace, job_name, spec_digest, claim }
    }
}

/// The message for a worker.
pub fn worker_to_proto(worker: &WorkerHere) -> v1::WorkerHere {
    v1::WorkerHere {
        allocation_id: worker.allocation.to_string(),
        namespace: worker.namespace.clone(),
        job_name: worker.job_name.clone(),
        spec_digest: Bytes::copy_from_slice(&worker.spec_digest.0),
        cpu_milli: worker.claim.cpu.0,
        memory_bytes: worker.claim.memory.0,
        devices: worker.claim.devices.iter().map(device_claim_to_proto).collect(),
        ports: worker.claim.ports.iter().map(port_claim_to_proto).collect(),
    }
}

/// Reads a worker.
///
/// # Errors
/// Everything wrong with it.
pub fn worker_from_proto(proto: v1::WorkerHere) -> Result<WorkerHere, Vec<Violation>> {
    let mut problems = Problems::default();
    let worker = read_worker(Field::ROOT, proto, &mut problems);
    problems.verdict(worker)
}

/// The message for what is on a node.
pub fn stock_to_proto(stock: &StockTold) -> v1::Stock {
    let here = stock.here.iter().map(worker_to_proto);
    let ended = stock.ended.iter().map(|(id, report)| v1::EndedWorker {
        allocation_id: id.to_string(),
        end: Some(end_report_to_proto(report)),
    });
    v1::Stock { here: here.collect(), ended: ended.collect() }
}

/// Reads what is on a node. All of it or nothing: a worker that is passed over
/// could have its devices given away.
///
/// # Errors
/// Everything wrong with it.
pub fn stock_from_proto(proto: v1::Stock) -> Result<StockTold, Vec<Violation>> {
    let mut problems = Problems::default();
    let mut told = StockTold::default();
    let here_at = Field::ROOT.named("here");
    for (position, worker) in proto.here.into_iter().enumerate() {
        told.here.extend(read_worker(here_at.item(position), worker, &mut problems));
    }
    let ended_at = Field::ROOT.named("ended");
    for (position, ended) in proto.ended.into_iter().enumerate() {
        let at = ended_at.item(position);
        let id = read_allocation(at.named("allocation_id"), &ended.allocation_id, &mut problems);
        let end = problems.present(at.named("end"), ended.end);
        let report = end.and_then(|end| read_end(at.named("end"), end, &mut problems));
        told.ended.extend(id.zip(report));
    }
    problems.verdict(Some(told))
}

fn read_worker(
    at: Field<'_>,
    proto: v1::WorkerHere,
    problems: &mut Problems,
) -> Option<WorkerHere> {
    let allocation = read_allocation(at.named("allocation_id"), &proto.allocation_id, problems);
    let namespace = problems.short(at.named("namespace"), proto.namespace, NAME_BYTES_MAX);
    let job_name = problems.short(at.named("job_name"), proto.job_name, NAME_BYTES_MAX);
    let spec_digest = problems.bytes(at.named("spec_digest"), &proto.spec_digest);
    let ports = read_port_claims(at.named("ports"), proto.ports, problems);
    Some(WorkerHere {
        allocation: allocation?,
        namespace: namespace?,
        job_name: job_name?,
        spec_digest: SpecDigest(spec_digest?),
        claim: Claim {
            cpu: CpuMilli(proto.cpu_milli),
            memory: MemoryBytes(proto.memory_bytes),
            devices: proto.devices.into_iter().map(read_device_claim).collect(),
            ports,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arbitrary;

    proptest! {
        #[test]
        fn a_stock_reads_back_as_told(
            here in proptest::collection::vec(arbitrary::agent::worker_here(), 0..4),
            ended in proptest::collection::vec(arbitrary::agent::ended(), 0..4),
        ) {
            let told = StockTold { here, ended };
            prop_assert_eq!(stock_from_proto(stock_to_proto(&told)), Ok(told));
        }
    }

    #[test]
    fn a_stock_with_one_bad_row_is_refused_with_its_place() {
        let row = |id: &str| v1::WorkerHere {
            allocation_id: id.to_owned(),
            spec_digest: Bytes::from_static(&[0; 32]),
            ..Default::default()
        };
        let told = v1::Stock { here: vec![row("1.0.0.1"), row("one")], ended: Vec::new() };
        let violations = stock_from_proto(told).unwrap_err();
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, "here[1].allocation_id");
    }
}
