//! Quotas under whatever comes in whatever order: no namespace gets more than its own.

use std::collections::BTreeMap;

use berth_model::{AllocationId, JobId, JobKind, JobSpec, Name, NodeId, Resource, StopIntent};
use proptest::prelude::*;

use super::namespaces::set;
use super::reservations::reservation;
use super::world::{World, job, name};
use crate::{ClusterState, Command, Placement};

#[derive(Clone, Debug)]
enum Move {
    /// One of the placements that were planned when nothing was placed.
    Stale {
        which: u16,
    },
    Place {
        job: u8,
        instance: u32,
    },
    Keep {
        job: u8,
        victim: u8,
    },
    End {
        which: u8,
    },
    Stop {
        which: u8,
    },
    Limit {
        gpus: u64,
    },
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => any::<u16>().prop_map(|which| Move::Stale { which }),
        6 => (any::<u8>(), 0..3u32).prop_map(|(job, instance)| Move::Place { job, instance }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(job, victim)| Move::Keep { job, victim }),
        4 => any::<u8>().prop_map(|which| Move::End { which }),
        1 => any::<u8>().prop_map(|which| Move::Stop { which }),
        1 => (0..9u64).prop_map(|gpus| Move::Limit { gpus }),
    ]
}

/// The use of every namespace by each resource.
fn all_use(state: &ClusterState) -> BTreeMap<(Name, Resource), u64> {
    let names = [name("default"), name("other")];
    let of = |name: &Name| {
        let amounts = state.quota_use(name);
        Resource::ALL.map(|resource| ((name.clone(), resource), amounts.of(resource)))
    };
    names.iter().flat_map(of).collect()
}

fn play(world: &mut World, step: &Move, stale: &[Placement]) {
    let live: Vec<AllocationId> = world.state.allocations().iter().map(|(id, _)| *id).collect();
    let pick = |seed: u8| live.get(usize::from(seed) % live.len().max(1)).copied();
    let jobs: Vec<JobId> = world.state.jobs().iter().map(|(id, _)| *id).collect();
    match *step {
        Move::Stale { which } => {
            let placements = vec![stale[usize::from(which) % stale.len()].clone()];
            world.one(Command::Place { placements }).unwrap();
        }
        Move::Place { job, instance } => {
            drop(world.place(jobs[usize::from(job) % jobs.len()], instance));
        }
        Move::Keep { job, victim } => {
            let job = jobs[usize::from(job) % jobs.len()];
            let Some(victim) = pick(victim) else { return };
            let node = world.state.allocations().get(&victim).unwrap().node;
            let reservations = vec![reservation(world, (job, 0), node, &[victim])];
            world.one(Command::Reserve { reservations }).unwrap();
        }
        Move::End { which } => {
            if let Some(id) = pick(which) {
                world.exit(id, 0);
            }
        }
        Move::Stop { which } => {
            let (allocations, reason) = (pick(which).into_iter().collect(), "r".to_owned());
            let intent = StopIntent::Replace;
            world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
        }
        Move::Limit { gpus } => set(world, &[(Resource::Gpus, gpus * 1000)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Clients that all saw the same room, ends, places that are kept, and limits that move:
    /// use beyond a limit is never new.
    #[test]
    fn no_interleaving_takes_more_than_the_quota(
        limit in 0..6u64,
        steps in prop::collection::vec(moves(), 1..120),
    ) {
        let mut world = World::new(4);
        let mut stale = Vec::new();
        for number in 0..12u32 {
            let namespace = name(if number % 3 == 2 { "other" } else { "default" });
            let priority = [10, 50, 90][number as usize % 3 ];
            let text = format!("job-{number}");
            let spec = job(JobKind::Batch, &text, 3, 1 + number % 2);
            let mut spec = JobSpec { namespace, priority, ..spec };
            spec.preemption.min_run = berth_model::DurationMs(0);
            let id = world.submit(&spec);
            let nodes: Vec<NodeId> = world.state.nodes().iter().map(|(id, _)| *id).collect();
            stale.extend(nodes.into_iter().map(|node| world.placement(id, 0, node)));
        }
        set(&mut world, &[(Resource::Gpus, limit * 1000)]);
        for step in &steps {
            let before = all_use(&world.state);
            play(&mut world, step, &stale);
            let after = all_use(&world.state);
            for ((name, resource), is) in &after {
                let row = world.state.namespace(name);
                let limit = row.and_then(|row| row.spec.quota.limit.amounts.get(resource));
                let was = before[&(name.clone(), *resource)];
                prop_assert!(
                    limit.is_none_or(|limit| is <= limit) || *is <= was,
                    "{name} {resource:?}: {was}, now {is}, of {limit:?} after {step:?}"
                );
            }
        }
    }
}
