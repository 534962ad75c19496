//! What is on this node, told to a cluster that was restored from a backup and
//! has forgotten the time since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{AllocationId, Claim, EndReport, SpecDigest};
use berth_proto::v1;
use berth_supervise::Order;
use berth_wire::agent::{StockTold, WorkerHere, stock_to_proto};
use tokio::sync::oneshot;
use tracing::info;

use super::{Node, ends};
use crate::allocation_dir::AllocationDir;
use crate::data_dir::DataDir;
use crate::ended_log;

/// Last outputs that are told, in bytes.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

impl Node {
    /// Answers with all that has not ended, and with the ends of what the
    /// cluster expects here; those are looked up beside the loop.
    pub(super) fn tell_stock(&self, expected: &[String], answer: oneshot::Sender<v1::Stock>) {
        let mut told = StockTold { here: self.everything_here(), ended: Vec::new() };
        let here: BTreeSet<AllocationId> =
            told.here.iter().map(|worker| worker.allocation).collect();
        let mut forgotten = BTreeSet::new();
        for id in expected.iter().filter_map(|id| id.parse::<AllocationId>().ok()) {
            let end = self.workers.get(&id).and_then(|worker| worker.end.clone());
            match end {
                Some(end) => told.ended.push((id, end)),
                None if here.contains(&id) => {}
                None => {
                    forgotten.insert(id);
                }
            }
        }
        info!(
            here = here.len(),
            expected = expected.len(),
            forgotten = forgotten.len(),
            "the cluster was restored and asks what is here"
        );
        let settings = Arc::clone(&self.settings);
        tokio::task::spawn_blocking(move || {
            told.ended.extend(remembered_ends(&settings.dir, &forgotten));
            cut_outputs(&mut told.ended);
            // The session that asked may be gone.
            let _ = answer.send(stock_to_proto(&told));
        });
    }

    /// Wishes that are still to be begun included: they may be begun before the
    /// cluster's answer is here.
    fn everything_here(&self) -> Vec<WorkerHere> {
        let begun = self.workers_here();
        let begun = begun.map(|(id, worker)| worker.here().unwrap_or_else(|| unknown(*id)));
        let unbegun = self.wishes.rows.iter().filter(|(id, row)| {
            row.order == Order::Run && !self.observed.allocations.contains_key(id)
        });
        begun.chain(unbegun.map(|(_, row)| row.payload.here())).collect()
    }
}

/// A message holds 4 MiB; the last outputs of a few hundred failures go along.
fn cut_outputs(ended: &mut [(AllocationId, EndReport)]) {
    let mut left = OUTPUT_BYTES_MAX;
    for (_, end) in ended {
        match left.checked_sub(end.stderr_tail.len()) {
            Some(rest) => left = rest,
            None => end.stderr_tail.clear(),
        }
    }
}

/// The ends that this node still knows of. Reads files.
fn remembered_ends(
    dir: &DataDir,
    wanted: &BTreeSet<AllocationId>,
) -> BTreeMap<AllocationId, EndReport> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let mut ends = ended_log::read(&dir.ended_log(), |id| wanted.contains(&id));
    let mut lanes = ends::lane_records(&dir.shims());
    for id in wanted {
        let of_lane = || lanes.remove(id).map(|record| ends::from_record(&record, None));
        let of_dir = AllocationDir::of(&dir.allocations(), *id);
        // The richest word on it is the one in its own directory.
        let end = ends::recorded_beside(&of_dir, *id).or_else(of_lane);
        ends.extend(end.map(|end| (*id, end)));
    }
    ends
}

/// One whose record is gone: that it is here is all that can be said.
fn unknown(id: AllocationId) -> WorkerHere {
    WorkerHere {
        allocation: id,
        namespace: String::new(),
        job_name: String::new(),
        spec_digest: SpecDigest([0; 32]),
        claim: Claim::default(),
    }
}
