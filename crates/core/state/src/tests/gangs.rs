//! Gangs: granted whole, and what one member's end means for the others.

use berth_model::{
    AllocationId, AllocationState, EndCause, EndReport, Gang, GangSeat, InstanceIndex, JobId,
    JobKind, JobSpec, NodeId, StopIntent, TaskIndex,
};

use super::restores::{orphans, restored, stock_of, take_stock};
use super::world::{World, exited, job, submit};
use crate::{
    Command, EventKind, JobChange, Observation, Observed, Placement, Purpose, Refusal, Reply,
    TaskRow,
};

/// A gang of so many members of a GPU each.
pub fn gang(kind: JobKind, count: u32) -> JobSpec {
    let mut spec = job(kind, "train", count, 1);
    spec.tasks[0].gang = Some(Gang {});
    spec
}

pub fn place(world: &mut World, placements: Vec<Placement>) -> (Vec<AllocationId>, Vec<Refusal>) {
    let reply = world.one(Command::Place { placements }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
    (granted, refused)
}

/// Places the whole gang and has all of it run.
fn start(world: &mut World, id: JobId) -> Vec<AllocationId> {
    let placements = world.gang(id, 0);
    let (members, refused) = place(world, placements);
    assert_eq!(refused, []);
    for member in &members {
        let started_at = berth_model::WallMs(5);
        world.observe(*member, Observed::Running { ready: true, started_at });
    }
    members
}

fn task(world: &World, id: JobId) -> &TaskRow {
    world.state.tasks().get(&(id, TaskIndex(0))).unwrap()
}

pub fn live(world: &World, id: JobId) -> Vec<(u32, Option<StopIntent>)> {
    let rows = world.state.allocations_of(id);
    rows.map(|row| (row.id.instance.0, row.state.stop_intent())).collect()
}

fn stopped() -> Observed {
    Observed::Ended(EndReport { cause: EndCause::Stopped, exit_code: None, ..exited(0) })
}

const REPLACED: Option<StopIntent> = Some(StopIntent::Replace);

#[test]
fn a_gang_is_granted_whole_or_leaves_no_trace() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 4));
    let whole = world.gang(id, 0);
    assert_eq!(whole.len(), 4);
    let mut check =
        |placements: Vec<Placement>, what: &str, expected: &dyn Fn(&Refusal) -> bool| {
            world.events.clear();
            let before = world.state.hash();
            let (granted, refused) = place(&mut world, placements);
            assert_eq!(granted, [], "{what}");
            assert!(refused.len() == 1 && expected(&refused[0]), "{what}: {refused:?}");
            assert_eq!(world.events, [], "{what}");
            assert_eq!(world.state.hash(), before, "{what}");
        };
    let incomplete =
        |refusal: &Refusal| matches!(refusal, Refusal::GangIncomplete { found: 3, .. });
    check(whole[..3].to_vec(), "three of four", &incomplete);
    let mut taken = whole.clone();
    taken[3].devices = taken[2].devices.clone();
    let does_not_fit = |refusal: &Refusal| {
        let Refusal::GangRefused { cause, .. } = refusal else { return false };
        matches!(&**cause, Refusal::DoesNotFit { allocation, .. } if allocation.instance.0 == 3)
    };
    check(taken, "a device given twice", &does_not_fit);
    let mut twice = whole.clone();
    twice[3].instance = InstanceIndex(2);
    let refused = |refusal: &Refusal| matches!(refusal, Refusal::GangRefused { .. });
    check(twice, "a member given twice", &refused);
    let mut portless = whole.clone();
    portless[0].ports.clear();
    check(
        portless,
        "no port to meet at",
        &|refusal| matches!(refusal, Refusal::DoesNotFit { allocation, .. } if allocation.instance.0 == 0),
    );
    let (granted, refused) = place(&mut world, whole);
    assert_eq!((granted.len(), refused.len()), (4, 0));
}

#[test]
fn what_is_planned_beside_a_gang_is_granted_by_itself() {
    let mut world = World::new(2);
    let (first, second) =
        (world.submit(&gang(JobKind::Batch, 2)), world.submit(&gang(JobKind::Batch, 3)));
    let alone = world.submit(&job(JobKind::Batch, "alone", 1, 1));
    let mut placements = world.gang(first, 0);
    // Its third member has no place beside the first gang.
    placements.extend(world.gang(second, 0));
    placements.push(world.placement(alone, 0, NodeId(2)));
    let (granted, refused) = place(&mut world, placements);
    let jobs: Vec<JobId> = granted.iter().map(|id| id.job).collect();
    assert_eq!(jobs, [first, first, alone]);
    assert!(matches!(refused[..], [Refusal::GangRefused { job, .. }] if job == second));
}

#[test]
fn each_member_has_its_seat() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 4));
    // Rank 0 on the second node, rank 1 on the first, and so on.
    let mut placements = world.gang(id, 0);
    placements.swap(0, 2);
    for (placement, instance) in placements.iter_mut().zip([0, 1, 2, 3]) {
        placement.instance = InstanceIndex(instance);
    }
    let master = placements[2].ports[0].clone();
    placements[2].ports.clear();
    placements[0].ports = vec![master];
    let (granted, refused) = place(&mut world, placements);
    assert_eq!((granted.len(), refused), (4, vec![]));
    let seats: Vec<GangSeat> =
        world.state.allocations_of(id).filter_map(|row| row.seat.clone()).collect();
    let places: Vec<_> =
        seats.iter().map(|seat| (seat.rank, seat.node_rank, seat.local_rank)).collect();
    assert_eq!(places, [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 0, 1)]);
    let master = |seat: &GangSeat| (seat.master_address.clone(), seat.master_port);
    assert!(seats.iter().all(|seat| master(seat) == ("node-1".to_owned(), 20_000)));
    let sizes = |seat: &GangSeat| (seat.world_size, seat.node_count, seat.local_world_size);
    assert!(seats.iter().all(|seat| sizes(seat) == (4, 2, 2)));
}

#[test]
fn a_member_that_fails_takes_the_others_with_it_and_is_counted_once() {
    let mut world = World::new(2);
    let mut spec = gang(JobKind::Batch, 4);
    spec.tasks[0].restart.attempts = Some(1);
    let id = world.submit(&spec);
    let members = start(&mut world, id);
    world.exit(members[2], 1);
    assert_eq!(live(&world, id), [(0, REPLACED), (1, REPLACED), (3, REPLACED)]);
    let reason = &world.state.allocations().get(&members[0]).unwrap().reason;
    assert_eq!(reason, "member 2 of its gang has ended: exit code 1");
    // Those that fail because it did count no more.
    world.exit(members[0], 1);
    world.exit(members[1], 0);
    let begins_early = world.gang(id, 0);
    let (granted, refused) = place(&mut world, begins_early);
    assert_eq!(granted, []);
    assert!(matches!(refused[..], [Refusal::GangIncomplete { found: 0, .. }]), "{refused:?}");
    world.observe(members[3], stopped());
    let task_row = task(&world, id);
    assert_eq!(task_row.pending.len(), 4);
    let failures: Vec<u32> = task_row.retries.values().map(|retry| retry.failures).collect();
    assert_eq!(failures, [1, 1, 1, 1]);
    let placements = world.gang(id, 0);
    let (_, refused) = place(&mut world, placements);
    assert!(matches!(refused[..], [Refusal::GangRefused { .. }]), "the backoff: {refused:?}");
    world.now += 2_000;
    let again = start(&mut world, id);
    assert!(again.iter().all(|member| member.attempt.0 == 2));
    assert_eq!(world.job_state(id), "running");
    // The policy allows no further one, whichever member it is.
    world.exit(again[0], 1);
    let cancelled = Some(StopIntent::Cancel);
    assert_eq!(live(&world, id), [(1, cancelled), (2, cancelled), (3, cancelled)]);
    for member in &again[1..] {
        world.observe(*member, stopped());
    }
    assert_eq!(world.job_state(id), "failed");
    assert_eq!((task(&world, id).failed.len(), task(&world, id).cancelled.len()), (1, 3));
}

#[test]
fn a_gang_succeeds_when_all_members_of_one_world_have() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 3));
    let members = start(&mut world, id);
    world.exit(members[0], 0);
    assert_eq!((live(&world, id).len(), task(&world, id).succeeded.len()), (2, 1));
    // What has succeeded runs again with the others, and never under an id that was used.
    world.observe(
        members[1],
        Observed::Ended(EndReport { cause: EndCause::HostFault, ..exited(0) }),
    );
    world.exit(members[2], 0);
    assert_eq!((task(&world, id).pending.len(), task(&world, id).succeeded.len()), (3, 0));
    assert_eq!(world.job_state(id), "queued");
    world.now += 31_000;
    let again = start(&mut world, id);
    assert!(again.iter().all(|member| member.attempt.0 == 2), "{again:?}");
    for member in &again {
        world.exit(*member, 0);
    }
    assert_eq!(world.job_state(id), "succeeded");
}

#[test]
fn a_member_that_is_told_to_end_takes_the_others_with_it() {
    let check = |kind, intent, others, state: &str| {
        let mut world = World::new(2);
        let id = world.submit(&gang(kind, 3));
        let members = start(&mut world, id);
        let (allocations, reason) = (vec![members[1]], "so".to_owned());
        world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
        let expected = [(0, Some(others)), (1, Some(intent)), (2, Some(others))];
        assert_eq!(live(&world, id), expected, "{intent:?}");
        for member in &members {
            world.observe(*member, stopped());
        }
        assert_eq!(world.job_state(id), state, "{kind:?} {intent:?}");
    };
    use StopIntent as S;
    check(JobKind::Batch, S::Drain, S::Replace, "queued");
    check(JobKind::Batch, S::TimeOut, S::TimeOut, "timed_out");
    check(JobKind::Batch, S::Cancel, S::Cancel, "cancelled");
    check(JobKind::Batch, S::Unhealthy, S::Replace, "failed");
    check(JobKind::Service, S::Drain, S::Replace, "queued");
    check(JobKind::Service, S::TimeOut, S::Replace, "queued");
    check(JobKind::Service, S::Unhealthy, S::Replace, "queued");
}

#[test]
fn failures_of_two_members_are_counted_once() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Service, 3));
    let members = start(&mut world, id);
    // Both time limits pass in one tick.
    let allocations = vec![members[0], members[1]];
    let reason = "its time limit passed".to_owned();
    let intent = StopIntent::TimeOut;
    world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
    for member in &members {
        world.observe(*member, stopped());
    }
    let failures: Vec<u32> = task(&world, id).retries.values().map(|row| row.failures).collect();
    assert_eq!(failures, [1, 1, 1]);
}

#[test]
fn a_service_whose_gang_may_not_begin_again_has_failed() {
    let mut world = World::new(2);
    let mut spec = gang(JobKind::Service, 3);
    spec.tasks[0].restart.attempts = Some(0);
    let id = world.submit(&spec);
    let members = start(&mut world, id);
    world.exit(members[1], 0);
    for member in [members[0], members[2]] {
        world.observe(member, stopped());
    }
    assert_eq!(world.job_state(id), "failed");
}

#[test]
fn a_lost_member_begins_its_gang_again_and_never_comes_back() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 4));
    let members = start(&mut world, id);
    let node = world.state.allocations().get(&members[3]).unwrap().node;
    let session = world.state.nodes().get(&node).unwrap().session;
    world.one(Command::DisconnectNode { node, session }).unwrap();
    assert!(live(&world, id).iter().all(|(_, stop)| stop.is_none()), "silence alone is no end");
    let (allocations, reason) = (vec![members[3]], "node is silent".to_owned());
    world.one(Command::LoseAllocations { node, session, allocations, reason }).unwrap();
    assert_eq!(live(&world, id), [(0, REPLACED), (1, REPLACED), (2, REPLACED)]);
    let failures = task(&world, id).retries.values().map(|retry| retry.failures).max();
    assert_eq!(failures, Some(0), "a lost node costs no attempt");
    // Its node comes back: what was given up there is told to end.
    world.register(1);
    let row = world.state.nodes().get(&node).unwrap();
    let away: Vec<_> = world.state.away(row).map(|(row, stop)| (row.id, stop.is_some())).collect();
    assert_eq!(away, [(members[3], true)]);
    let started_at = berth_model::WallMs(5);
    world.observe_from(node, members[3], Observed::Running { ready: true, started_at });
    assert!(!world.state.is_live(members[3]));
    world.observe_from(node, members[3], Observed::Ended(exited(0)));
    assert_eq!(task(&world, id).succeeded.len(), 0, "its world is over");
    for member in &members[..3] {
        world.observe(*member, stopped());
    }
    let again = start(&mut world, id);
    assert_eq!(again.len(), 4);
}

#[test]
fn a_new_version_takes_the_place_of_the_whole_gang() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Service, 2));
    let members = start(&mut world, id);
    // Only its size is another.
    world.one(submit(&gang(JobKind::Service, 3), None)).unwrap();
    assert_eq!(live(&world, id), [(0, REPLACED), (1, REPLACED)]);
    for member in &members {
        world.observe(*member, stopped());
    }
    let members = start(&mut world, id);
    world.one(submit(&gang(JobKind::Service, 1), None)).unwrap();
    for member in &members {
        world.observe(*member, stopped());
    }
    assert_eq!(task(&world, id).pending.len(), 1);
    assert_eq!(start(&mut world, id).len(), 1);
}

#[test]
fn a_job_that_is_stopped_or_restarted_takes_its_gang_along() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 3));
    let change = |change| Command::ChangeJob { job: id, if_version: None, change };
    let members = start(&mut world, id);
    world.one(change(JobChange::Restart)).unwrap();
    for member in &members {
        world.observe(*member, stopped());
    }
    assert_eq!(task(&world, id).pending.len(), 3);
    let members = start(&mut world, id);
    world.one(change(JobChange::Stop { reason: "asked".to_owned() })).unwrap();
    let observations =
        members.iter().map(|member| Observation { allocation: *member, observed: stopped() });
    let observations: Vec<Observation> = observations.collect();
    for node in [NodeId(1), NodeId(2)] {
        world.one(Command::Observe { node, observations: observations.clone() }).unwrap();
    }
    assert_eq!(world.job_state(id), "cancelled");
    let queued = world.events.iter().rev().take(10);
    let mut queued = queued.filter(|event| matches!(event.kind, EventKind::InstancesQueued { .. }));
    assert_eq!(queued.next(), None, "nothing of it waits");
}

#[test]
fn a_cordoned_node_refuses_the_whole_gang() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 4));
    let placements = world.gang(id, 0);
    let (node, purpose) = (NodeId(2), Purpose::Cordoned);
    world.one(Command::SetSchedulable { node, purpose }).unwrap();
    let (granted, refused) = place(&mut world, placements);
    assert_eq!(granted, []);
    assert!(matches!(refused[..], [Refusal::GangRefused { .. }]), "{refused:?}");
    assert!(world.state.allocations().iter().next().is_none());
    let planned = AllocationState::Planned;
    world.one(Command::SetSchedulable { node, purpose: Purpose::Work }).unwrap();
    let placements = world.gang(id, 0);
    place(&mut world, placements);
    assert!(world.state.allocations_of(id).all(|row| row.state == planned));
}

#[test]
fn a_gang_waits_for_members_that_its_backup_does_not_know() {
    let mut world = World::new(2);
    let id = world.submit(&gang(JobKind::Batch, 3));
    let backup = world.state.clone();
    let members = start(&mut world, id);
    let reality = world.state;
    let mut world = restored(&backup);
    for number in 0..2 {
        let stock = stock_of(&backup, &reality, &format!("node-{number}"));
        take_stock(&mut world, number, stock).unwrap();
        world.register(number);
    }
    world.now += 600_000;
    assert_eq!(orphans(&world).len(), 3, "no member is taken back without the others");
    // Rank 2 ends first: there is room for nobody yet, and two are there still.
    let node = |member: &AllocationId| reality.allocations().get(member).unwrap().node;
    let attempt = berth_model::Attempt(members[0].attempt.0);
    for (ended, member) in members.iter().enumerate().rev() {
        let mut placements = world.gang(id, 0);
        placements.resize(3, world.placement(id, 0, NodeId(1)));
        let (granted, refused) = place(&mut world, placements);
        assert_eq!(granted, []);
        assert!(matches!(refused[..], [Refusal::GangOrphans { .. }]), "{ended}: {refused:?}");
        world.observe_from(node(member), *member, Observed::Ended(exited(0)));
    }
    let again = start(&mut world, id);
    assert!(again.iter().all(|member| member.attempt > attempt));
}
