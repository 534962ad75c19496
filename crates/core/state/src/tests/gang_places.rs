//! Places that are kept for gangs: all members or none, on all nodes together.

use std::collections::BTreeMap;

use berth_model::{AllocationId, JobId, JobKind, JobSpec, NodeId, Outcome, StopIntent, TaskIndex};

use super::gangs::{gang, live, place};
use super::world::{World, job};
use crate::{
    Command, Event, EventKind, JobChange, Placement, Purpose, Refusal, Reply, Reservation,
};

/// Two nodes of two GPUs, three of which are held by a job of priority 20, and a gang of four
/// members of priority 60 for which all three end.
pub fn urgent_gang() -> (World, Vec<AllocationId>, JobId, Vec<Reservation>) {
    let mut world = World::new(2);
    let low = world.submit(&JobSpec { priority: 20, ..job(JobKind::Batch, "low", 3, 1) });
    let mut held = Vec::new();
    for (instance, node) in [(0, 1), (1, 1), (2, 2)] {
        let placement = world.placement(low, instance, NodeId(node));
        held.extend(place(&mut world, vec![placement]).0);
    }
    world.now += 60_000;
    let urgent = world.submit(&JobSpec { priority: 60, ..gang(JobKind::Batch, 4) });
    let kept = kept_for_gang(&world, (urgent, 0), &held);
    assert_eq!(kept.len(), 4);
    (world, held, urgent, kept)
}

/// Where a gang would be placed, from a node on, if these were not there. The first on each node
/// says who ends there.
pub fn kept_for_gang(
    world: &World,
    (job, from): (JobId, usize),
    awaits: &[AllocationId],
) -> Vec<Reservation> {
    let mut without = World::of(world.state.clone());
    let mut awaited: BTreeMap<NodeId, Vec<AllocationId>> = BTreeMap::new();
    for id in awaits {
        let row = without.state.allocations().get(id).cloned().unwrap();
        without.state.nodes.edit(&row.node, |node| node.used.remove(&row.claim));
        awaited.entry(row.node).or_default().push(*id);
    }
    let keep = |placement: Placement| {
        let awaits = awaited.remove(&placement.node).unwrap_or_default();
        Reservation { placement, awaits, patient: false }
    };
    without.gang(job, from).into_iter().map(keep).collect()
}

fn reserve(world: &mut World, reservations: Vec<Reservation>) -> (Vec<AllocationId>, Vec<Refusal>) {
    let reply = world.one(Command::Reserve { reservations }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
    (granted, refused)
}

#[test]
fn a_gang_starts_when_the_last_has_ended_for_it_on_any_node() {
    let (mut world, held, urgent, kept) = urgent_gang();
    let small = world.submit(&JobSpec { priority: 90, ..job(JobKind::Batch, "small", 1, 1) });
    let (granted, refused) = reserve(&mut world, kept);
    assert_eq!((granted.len(), refused), (4, Vec::new()));
    let preempt = Some(StopIntent::Preempt);
    assert_eq!(live(&world, held[0].job), [(0, preempt), (1, preempt), (2, preempt)]);
    let first = world.state.allocations().get(&held[0]).unwrap();
    assert!(first.reason.contains("preempted for 2.0.0.1 of job `train`"), "{}", first.reason);
    for victim in [held[2], held[0]] {
        world.exit(victim, 143);
        assert_eq!(live(&world, urgent), []);
        // Also where nobody is awaited any more the places are nobody else's.
        for node in [1, 2] {
            world.place(small, node).unwrap_err();
        }
    }
    world.exit(held[1], 143);
    assert_eq!(live(&world, urgent), [(0, None), (1, None), (2, None), (3, None)]);
    assert_eq!(world.state.reservations().count(), 0);
    assert!(world.state.allocations_of(urgent).all(|row| row.seat.is_some()));
}

#[test]
fn a_gang_has_places_for_all_its_members_or_nobody_ends() {
    let check = |change: &dyn Fn(&mut World, &mut Vec<Reservation>), what: &str| {
        let (mut world, _, _, mut kept) = urgent_gang();
        change(&mut world, &mut kept);
        let before = world.state.hash();
        let (granted, refused) = reserve(&mut world, kept);
        assert_eq!((granted.len(), refused.len()), (0, 1), "{what}: {refused:?}");
        assert_eq!(world.state.hash(), before, "{what}");
    };
    check(&|_, kept| kept.truncate(3), "three of four");
    check(&|_, kept| kept[2].awaits.clear(), "one who is not awaited holds the place");
    check(&|_, kept| kept[0].placement.ports.clear(), "no port to meet at");
    check(&|_, kept| kept[1].placement.devices = kept[0].placement.devices.clone(), "given twice");
    let twice = |_: &mut World, kept: &mut Vec<Reservation>| {
        kept[3].placement.instance = kept[0].placement.instance;
        kept[3].placement.ports = kept[0].placement.ports.clone();
    };
    check(&twice, "a member given twice");
    let other = |world: &mut World, kept: &mut Vec<Reservation>| {
        let one = world.submit(&JobSpec { priority: 60, ..job(JobKind::Batch, "one", 1, 1) });
        let mut placement = world.placement(one, 0, NodeId(2));
        placement.devices = kept.last().unwrap().placement.devices.clone();
        let awaits =
            kept.iter().find(|one| one.placement.node == NodeId(2)).unwrap().awaits.clone();
        let (granted, _) = reserve(world, vec![Reservation { placement, awaits, patient: false }]);
        assert_eq!(granted.len(), 1);
    };
    check(&other, "one who ends for another");
}

#[test]
fn nobody_joins_a_gang_in_its_place_and_it_goes_as_a_whole() {
    let (mut world, held, urgent, kept) = urgent_gang();
    reserve(&mut world, kept.clone());
    let one = world.submit(&JobSpec { priority: 60, ..job(JobKind::Batch, "one", 1, 0) });
    let placement = world.placement(one, 0, NodeId(1));
    let (_, refused) = reserve(
        &mut world,
        vec![Reservation { placement, awaits: held[..2].to_vec(), patient: false }],
    );
    assert!(matches!(refused[..], [Refusal::NotAVictim { .. }]), "{refused:?}");
    world.exit(held[2], 143);
    let member = kept[3].placement.allocation();
    let reason = "r".to_owned();
    world.one(Command::Unreserve { allocations: vec![member], reason }).unwrap();
    assert_eq!(world.state.reservations().count(), 0);
    world.exit(held[0], 143);
    world.exit(held[1], 143);
    assert_eq!(live(&world, urgent), []);
    // All of it is free again.
    let (granted, refused) = place(&mut world, kept.into_iter().map(|one| one.placement).collect());
    assert_eq!((granted.len(), refused), (4, Vec::new()));
}

#[test]
fn a_gang_lets_its_places_go_with_a_node_its_job_or_a_new_version() {
    let check = |end: &dyn Fn(&mut World, JobId)| {
        let (mut world, _, urgent, kept) = urgent_gang();
        reserve(&mut world, kept);
        end(&mut world, urgent);
        assert_eq!(world.state.reservations().count(), 0);
        assert!(world.state.nodes().values().all(|row| row.reservations.is_empty()));
    };
    check(&|world, _| {
        let (node, purpose) = (NodeId(2), Purpose::Cordoned);
        world.one(Command::SetSchedulable { node, purpose }).unwrap();
    });
    check(&|world, urgent| {
        let change = JobChange::Stop { reason: String::new() };
        world.one(Command::ChangeJob { job: urgent, if_version: None, change }).unwrap();
        world
            .one(Command::ChangeJob { job: urgent, if_version: None, change: JobChange::Purge })
            .unwrap();
    });
}

#[test]
fn a_gang_that_ends_for_others_ends_as_a_whole_and_waits_again() {
    let mut world = World::new(2);
    let low = world.submit(&JobSpec { priority: 20, ..gang(JobKind::Batch, 4) });
    let placements = world.gang(low, 0);
    let (members, _) = place(&mut world, placements);
    world.now += 60_000;
    let urgent = world.submit(&JobSpec { priority: 60, ..job(JobKind::Batch, "one", 1, 2) });
    let (here, there) = (members[..2].to_vec(), members[2..].to_vec());
    let kept = super::reservations::reservation(&world, (urgent, 0), NodeId(1), &here);
    let (granted, refused) = reserve(&mut world, vec![kept]);
    assert_eq!((granted.len(), refused), (1, Vec::new()));
    let preempt = Some(StopIntent::Preempt);
    let all_end = [(0, preempt), (1, preempt), (2, preempt), (3, preempt)];
    assert_eq!(live(&world, low), all_end);
    let other = world.state.allocations().get(&there[0]).unwrap();
    let told = "member 0 of its gang is stopped: preempted for 2.0.0.1 of job `one`: priority 60 \
                against 20";
    assert!(other.reason.starts_with(told), "{}", other.reason);
    // It starts where it waits, whatever takes longer elsewhere.
    world.exit(here[1], 143);
    assert_eq!(live(&world, urgent), []);
    world.exit(here[0], 143);
    assert_eq!(live(&world, urgent), [(0, None)]);
    there.iter().for_each(|member| {
        world.exit(*member, 143);
    });
    let task = world.state.tasks().get(&(low, TaskIndex(0))).unwrap();
    assert_eq!((task.pending.len(), task.live), (4, 0));
    assert!(task.retries.values().all(|retry| retry.failures == 0));
    let is_preempted = |event: &&Event| {
        matches!(event.kind, EventKind::AllocationEnded { outcome: Outcome::Preempted, .. })
    };
    assert_eq!(world.events.iter().filter(is_preempted).count(), 4);
}
