//! Whether what is to leave its node would find another place now: tried on a copy of the
//! view by the very code that would do it. It knows nothing of others that wait, some of
//! which may come first.

use berth_model::{AllocationId, EndCause, EndReport, StateMs, StopIntent};
use berth_state::{ClusterState, Command, Observation, Observed, Refusal};

use crate::budget::Budget;
use crate::explain::explain_task;
use crate::plan::plan_jobs;
use crate::soft::SoftView;
use crate::what_if::apply_one;

/// Of one question: some milliseconds at the most, as the leader asks while it has else to do.
const BUDGET: Budget = Budget { candidates_examined_max: 20_000, placements_max: 64 };

/// Places that are free; each that was found is taken, so that no two count on the same.
pub struct Elsewhere<'a> {
    copy: ClusterState,
    soft: &'a SoftView,
    now: StateMs,
}

impl<'a> Elsewhere<'a> {
    pub fn new(view: &ClusterState, soft: &'a SoftView, now: StateMs) -> Elsewhere<'a> {
        Elsewhere { copy: view.clone(), soft, now }
    }

    /// Takes a place for the successor of an allocation, as if that had ended; none where
    /// there is no place. Costs O(nodes).
    pub fn take(&mut self, id: AllocationId) -> Option<()> {
        let mut copy = self.without(id).ok()?;
        let mut placements = plan_jobs(&copy, self.soft, self.now, BUDGET, &[id.job]).placements;
        placements
            .retain(|one| (one.job, one.task, one.instance) == (id.job, id.task, id.instance));
        if placements.is_empty() {
            return None;
        }
        apply_one(&mut copy, self.now, Command::Place { placements }).ok()?;
        self.copy = copy;
        Some(())
    }

    /// Why there is no place for it, for people.
    pub fn why_not(&self, id: AllocationId) -> String {
        let explained = self.without(id).map(|copy| {
            let why = explain_task(&copy, self.soft, self.now, id.job, id.task);
            why.map_or_else(String::new, |why| why.summary)
        });
        explained.unwrap_or_else(|refusal| refusal.to_string())
    }

    /// The view once an allocation has left.
    fn without(&self, id: AllocationId) -> Result<ClusterState, Refusal> {
        let mut copy = self.copy.clone();
        let row = copy.allocations().get(&id).ok_or(Refusal::NoSuchAllocation(id))?;
        let node = row.node;
        let observation = Observation { allocation: id, observed: Observed::Ended(stopped(&copy)) };
        let (allocations, reason) = (vec![id], String::new());
        let intent = StopIntent::Drain;
        apply_one(&mut copy, self.now, Command::StopAllocations { allocations, intent, reason })?;
        let observations = vec![observation];
        apply_one(&mut copy, self.now, Command::Observe { node, observations })?;
        Ok(copy)
    }
}

fn stopped(view: &ClusterState) -> EndReport {
    EndReport {
        cause: EndCause::Stopped,
        exit_code: None,
        signal: None,
        reason: String::new(),
        stderr_tail: String::new(),
        started_at: None,
        finished_at: view.cluster().wall_ms,
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{Drain, JobKind, JobSpec, Policy, TaskSpec};
    use berth_state::Purpose;

    use super::*;
    use crate::fixture::{Cluster, gpu_node, gpu_task, job};

    #[test]
    fn f45_a_place_is_counted_on_once() {
        // Two replicas on the first node; the second has one GPU to spare.
        let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(1)]);
        let service = JobSpec {
            kind: JobKind::Service,
            ..job(Policy::BestFit, TaskSpec { count: 2, ..gpu_task(1) })
        };
        cluster.set_purpose(2, Purpose::Cordoned);
        let id = cluster.submit(service);
        let soft = SoftView::default();
        let planned = plan_jobs(&cluster.state, &soft, cluster.now, BUDGET, &[id]);
        cluster.place(planned.placements);
        cluster.set_purpose(2, Purpose::Work);
        cluster.set_purpose(1, Purpose::Draining(Drain { deadline: None }));
        let ids: Vec<AllocationId> =
            cluster.state.allocations().iter().map(|(id, _)| *id).collect();
        let before = cluster.state.hash();
        let mut elsewhere = Elsewhere::new(&cluster.state, &soft, cluster.now);
        assert_eq!(ids.iter().map(|id| elsewhere.take(*id)).collect::<Vec<_>>(), [Some(()), None]);
        let why = elsewhere.why_not(ids[1]);
        assert!(why.contains("GPU"), "{why}");
        assert_eq!(cluster.state.hash(), before, "it was tried on a copy");
        let ended = AllocationId { attempt: berth_model::Attempt(9), ..ids[0] };
        assert_eq!(elsewhere.take(ended), None);
        assert!(elsewhere.why_not(ended).contains("no allocation"));
    }
}
