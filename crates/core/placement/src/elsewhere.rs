//! Whether what is to leave its node would find another place now: tried on a copy of the
//! view by the very code that would do it. It knows nothing of others that wait, some of
//! which may come first.

use berth_model::{AllocationId, NodeId, StateMs, StopIntent};
use berth_state::{ClusterState, Command, Observation, Observed, Refusal};

use crate::budget::Budget;
use crate::explain::why_waiting;
use crate::plan::plan_task;
use crate::soft::SoftView;
use crate::what_if::{apply_one, stopped};

/// Of one question: some milliseconds at the most, as the leader asks while it has else to do.
const BUDGET: Budget =
    Budget { candidates_examined_max: 20_000, placements_max: 64, reservations_max: 0 };

/// What became of the search for a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Place,
    None,
    /// It was not looked at everything: so much waits of its task, or so many nodes there are.
    Unknown,
}

impl Taken {
    /// Whether what asked may move: what nobody knows keeps no node from being emptied.
    pub fn may_move(self) -> bool {
        match self {
            Taken::Place | Taken::Unknown => true,
            Taken::None => false,
        }
    }
}

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

    /// Takes a place for the successor of an allocation, as if that had ended. Costs O(nodes).
    pub fn take(&mut self, id: AllocationId) -> Taken {
        self.take_within(id, BUDGET)
    }

    fn take_within(&mut self, id: AllocationId, budget: Budget) -> Taken {
        let Ok(mut copy) = self.without(id) else { return Taken::None };
        let planned = plan_task(&copy, self.soft, self.now, budget, (id.job, id.task));
        let mut placements = planned.placements;
        let is_gang = self.others_of_gang(id).is_some();
        placements.retain(|one| {
            (one.job, one.task) == (id.job, id.task) && (is_gang || one.instance == id.instance)
        });
        if placements.is_empty() {
            return if planned.exhausted { Taken::Unknown } else { Taken::None };
        }
        if apply_one(&mut copy, self.now, Command::Place { placements }).is_err() {
            return Taken::None;
        }
        self.copy = copy;
        Taken::Place
    }

    /// Why there is no place for it, for people.
    pub fn why_not(&self, id: AllocationId) -> String {
        let explained = self
            .without(id)
            .map(|copy| why_waiting(&copy, self.now, id.job, id.task).unwrap_or_default());
        explained.unwrap_or_else(|refusal| refusal.to_string())
    }

    /// The view once an allocation has left.
    fn without(&self, id: AllocationId) -> Result<ClusterState, Refusal> {
        let mut copy = self.copy.clone();
        let row = copy.allocations().get(&id).ok_or(Refusal::NoSuchAllocation(id))?;
        let mut ends = vec![(row.node, id)];
        // The others end with it.
        ends.extend(self.others_of_gang(id).into_iter().flatten());
        let (allocations, reason) = (vec![id], String::new());
        let intent = StopIntent::Drain;
        apply_one(&mut copy, self.now, Command::StopAllocations { allocations, intent, reason })?;
        for (node, allocation) in ends {
            let observed = Observed::Ended(stopped(copy.cluster().wall_ms));
            let observations = vec![Observation { allocation, observed }];
            apply_one(&mut copy, self.now, Command::Observe { node, observations })?;
        }
        Ok(copy)
    }

    /// The other members of its gang, with their nodes; `None` if it is of none.
    fn others_of_gang(&self, id: AllocationId) -> Option<Vec<(NodeId, AllocationId)>> {
        let job = self.copy.jobs().get(&id.job)?;
        job.spec.tasks.get(usize::from(id.task.0))?.gang?;
        let members = self.copy.allocations_of_task(id.job, id.task);
        let others = members.filter(|row| row.id != id);
        Some(others.map(|row| (row.node, row.id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{
        CpuMilli, Drain, JobKind, JobSpec, MemoryBytes, Policy, TaskIndex, TaskSpec,
    };
    use berth_state::Purpose;

    use super::*;
    use crate::fixture::{Cluster, gpu_node, gpu_task, job, name, task};

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
        let planned = crate::plan_jobs(&cluster.state, &soft, cluster.now, BUDGET, &[id]);
        cluster.place(planned.placements);
        cluster.set_purpose(2, Purpose::Work);
        cluster.set_purpose(1, Purpose::Draining(Drain { deadline: None }));
        let ids: Vec<AllocationId> =
            cluster.state.allocations().iter().map(|(id, _)| *id).collect();
        let before = cluster.state.hash();
        let mut elsewhere = Elsewhere::new(&cluster.state, &soft, cluster.now);
        let taken: Vec<Taken> = ids.iter().map(|id| elsewhere.take(*id)).collect();
        assert_eq!(taken, [Taken::Place, Taken::None]);
        let why = elsewhere.why_not(ids[1]);
        assert!(why.contains("GPU"), "{why}");
        assert_eq!(cluster.state.hash(), before, "it was tried on a copy");
        let ended = AllocationId { attempt: berth_model::Attempt(9), ..ids[0] };
        assert_eq!(elsewhere.take(ended), Taken::None);
        assert!(elsewhere.why_not(ended).contains("no allocation"));
    }

    #[test]
    fn f45_a_member_moves_if_all_of_its_gang_can() {
        let check = |spare: u32, expected: Taken| {
            let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(1), gpu_node(spare)]);
            cluster.set_purpose(3, Purpose::Cordoned);
            let gang = TaskSpec { count: 3, gang: Some(berth_model::Gang {}), ..gpu_task(1) };
            let service = JobSpec { kind: JobKind::Service, ..job(Policy::BestFit, gang) };
            let id = cluster.submit(service);
            let soft = SoftView::default();
            let planned = crate::plan_jobs(&cluster.state, &soft, cluster.now, BUDGET, &[id]);
            cluster.place(planned.placements);
            cluster.set_purpose(3, Purpose::Work);
            cluster.set_purpose(2, Purpose::Draining(Drain { deadline: None }));
            let ids: Vec<AllocationId> =
                cluster.state.allocations().iter().map(|(id, _)| *id).collect();
            let mut elsewhere = Elsewhere::new(&cluster.state, &soft, cluster.now);
            assert_eq!(elsewhere.take(ids[2]), expected, "{spare} to spare");
        };
        check(1, Taken::Place);
        check(0, Taken::None);
    }

    /// A service of two tasks; what waits of the first, and of the second before the replica
    /// that is to move, is more than one question looks at.
    #[test]
    fn f45_a_search_that_was_cut_short_keeps_nobody_where_it_is() {
        let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(8)]);
        let many = TaskSpec { count: 70, cpu: CpuMilli(1), memory: MemoryBytes(1 << 20), ..task() };
        let one = TaskSpec { name: name("one"), count: 1, ..gpu_task(1) };
        let mut service = JobSpec { kind: JobKind::Service, ..job(Policy::BestFit, many) };
        service.tasks.push(one);
        cluster.set_purpose(2, Purpose::Cordoned);
        let id = cluster.submit(service);
        let soft = SoftView::default();
        let planned = plan_task(&cluster.state, &soft, cluster.now, BUDGET, (id, TaskIndex(1)));
        cluster.place(planned.placements);
        cluster.set_purpose(2, Purpose::Work);
        cluster.set_purpose(1, Purpose::Draining(Drain { deadline: None }));
        let one = *cluster.state.allocations().iter().next().unwrap().0;
        let mut elsewhere = Elsewhere::new(&cluster.state, &soft, cluster.now);
        assert_eq!(elsewhere.take(one), Taken::Place, "others of its job wait");
        let mut elsewhere = Elsewhere::new(&cluster.state, &soft, cluster.now);
        let nothing = Budget { placements_max: 0, ..BUDGET };
        assert_eq!(elsewhere.take_within(one, nothing), Taken::Unknown);
        assert!(Taken::Unknown.may_move() && Taken::Place.may_move() && !Taken::None.may_move());
    }
}
