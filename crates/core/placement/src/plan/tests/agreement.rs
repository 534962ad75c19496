//! What a dry run says of a cluster in which nothing else happens is what the leader then does,
//! down to devices, ports and victims.

use std::collections::BTreeMap;

use berth_model::{AllocationId, DeviceClaim, Policy, PortClaim, Preemption};
use berth_state::Reservation;
use proptest::prelude::*;

use super::anew::plan_and_again;
use super::gangs::gang;
use super::preemption::{Move, a_move, make, reserve, urgent};
use super::*;
use crate::fixture::share_task;
use crate::what_if::what_would_happen;

/// A leader's two planners, with what they have reckoned before.
#[derive(Default)]
struct Leader {
    /// Plans while an entry is formed.
    inline: Planner,
    planner: Planner,
}

/// Where each instance is put, and after whose end.
type Decided = BTreeMap<AllocationId, (u64, Claimed, Vec<AllocationId>)>;

/// Devices and ports, by name and number.
type Claimed = (Vec<DeviceClaim>, Vec<PortClaim>);

fn decided(placements: &[Placement], reservations: &[Reservation]) -> Decided {
    let claimed = |one: &Placement| (one.devices.clone(), one.ports.clone());
    let placed = placements.iter().map(|one| (one, Vec::new()));
    let kept = reservations.iter().map(|one| (&one.placement, one.awaits.clone()));
    placed
        .chain(kept)
        .map(|(one, awaits)| (one.allocation(), (one.node.0, claimed(one), awaits)))
        .collect()
}

impl Leader {
    /// Plans until nothing more is to be had.
    fn decide(&mut self, cluster: &mut Cluster) -> Decided {
        let soft = SoftView::default();
        let mut all = Decided::new();
        let outcome = plan_and_again(&mut self.inline, cluster, &soft, Budget::INLINE);
        all.extend(decided(&outcome.placements, &[]));
        cluster.place(outcome.placements);
        let budget = Budget { reservations_max: 64, ..Budget::UNLIMITED };
        loop {
            let outcome = plan_and_again(&mut self.planner, cluster, &soft, budget);
            if outcome.placements.is_empty() && outcome.reservations.is_empty() {
                return all;
            }
            all.extend(decided(&outcome.placements, &outcome.reservations));
            reserve(cluster, outcome.reservations);
            cluster.place(outcome.placements);
        }
    }

    /// Until nothing happens without something new.
    fn rest(&mut self, cluster: &mut Cluster) {
        self.decide(cluster);
        loop {
            // Who has found nobody looks again after a second.
            cluster.now = cluster.now.after(DurationMs(1_000));
            if self.decide(cluster).is_empty() {
                return;
            }
        }
    }
}

fn any_job() -> impl Strategy<Value = JobSpec> {
    let policies = prop::sample::select(Policy::ALL.to_vec());
    (policies, 0..10_u8, 0..3_u32, 100..1_000_u32, 0..20_u64, 1..4_u32, any::<bool>()).prop_map(
        |(policy, priority, gpus, milli, cpu, count, is_gang)| {
            let task = if gpus == 1 { share_task(milli) } else { gpu_task(gpus) };
            let gpu = task.gpu.clone().filter(|_| gpus > 0);
            let ports = vec![name("http")];
            let task = TaskSpec { cpu: CpuMilli(1 + cpu * 1_000), gpu, ports, ..task };
            let task = if is_gang { gang(count, task) } else { counted(count, task) };
            JobSpec { policy, ..urgent(priority * 10, task) }
        },
    )
}

/// What a dry run says after these moves, and what the leader then does, are the same.
fn agree(nodes: &[u32], moves: Vec<Move>, spec: JobSpec) {
    let mut cluster = Cluster::with_nodes(nodes.iter().map(|gpus| gpu_node(*gpus)));
    let mut leader = Leader::default();
    for one in moves {
        make(&mut cluster, one);
        leader.decide(&mut cluster);
    }
    leader.rest(&mut cluster);
    let spec = Arc::new(spec);
    let soft = SoftView::default();
    let said = what_would_happen(&cluster.state, &soft, cluster.now, &spec).unwrap();
    let id = cluster.submit(JobSpec::clone(&spec));
    assert_eq!(said.job, id);
    let done = leader.decide(&mut cluster);
    assert_eq!(decided(&said.placements, &said.reservations), done);
    let row = cluster.state.tasks().get(&(id, TaskIndex(0))).unwrap();
    assert_eq!(said.waiting, row.pending.len());
}

/// Four tasks share a GPU at most. The places of two of the three are free, and that of the third
/// is somebody's who ends: it takes no seat of theirs meanwhile.
#[test]
fn a_place_that_is_kept_on_a_shared_gpu_has_the_seat_of_who_ends() {
    let submit = |priority, milli, preemptible, count| Move::Submit {
        priority,
        gpus: 1,
        milli,
        cpu: 1,
        preemption: Preemption { preempts: false, preemptible, min_run: DurationMs(0) },
        count,
    };
    let moves = vec![submit(10, 100, true, 2), submit(0, 828, false, 1)];
    let task = TaskSpec { cpu: CpuMilli(1), ..counted(3, share_task(173)) };
    agree(&[2], moves, JobSpec { policy: Policy::LeastLoaded, ..urgent(20, task) });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dry_run_says_what_the_leader_does(
        nodes in prop::collection::vec(0..5_u32, 1..5),
        moves in prop::collection::vec(a_move(), 1..25),
        spec in any_job(),
    ) {
        agree(&nodes, moves, spec);
    }
}
