use berth_model::{
    AllocationId, AllocationState, DurationMs, JobId, JobKind, JobSpec, NodeId, Outcome,
    StopIntent, WallMs,
};

use super::world::{World, job};
use crate::{
    Command, Event, EventKind, JobChange, NotAVictim, Observed, Placement, Purpose, Refusal, Reply,
    Reservation,
};

const NODE: NodeId = NodeId(1);

fn spec(text: &str, priority: u8, count: u32, gpus: u32) -> JobSpec {
    JobSpec { priority, ..job(JobKind::Batch, text, count, gpus) }
}

/// What would be placed on the node if these were not there.
pub fn reservation(
    world: &World,
    (job, instance): (JobId, u32),
    node: NodeId,
    awaits: &[AllocationId],
) -> Reservation {
    let mut without = World::of(world.state.clone());
    without.state.nodes.edit(&node, |row| {
        for id in awaits {
            if let Some(row_of) = world.state.allocations.get(id).filter(|of| of.node == node) {
                row.used.remove(&row_of.claim);
            }
        }
    });
    let placement: Placement = without.placement(job, instance, node);
    Reservation { placement, awaits: awaits.to_vec(), patient: false }
}

fn reserve(
    world: &mut World,
    job: JobId,
    awaits: &[AllocationId],
) -> Result<AllocationId, Refusal> {
    let reservation = reservation(world, (job, 0), NODE, awaits);
    place_kept(world, reservation)
}

fn place_kept(world: &mut World, reservation: Reservation) -> Result<AllocationId, Refusal> {
    let reservations = vec![reservation];
    let reply = world.one(Command::Reserve { reservations }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
    granted.first().copied().ok_or_else(|| refused[0].clone())
}

/// A node of two GPUs, each held by an instance of a job of priority 50 that has run for an hour.
fn full() -> (World, [AllocationId; 2]) {
    let mut world = World::new(1);
    let low = world.submit(&spec("low", 50, 2, 1));
    let held = [0, 1].map(|instance| world.place(low, instance).unwrap());
    for id in held {
        let started_at = WallMs(1);
        world.observe(id, Observed::Running { ready: true, started_at });
    }
    world.now += 3_600_000;
    (world, held)
}

#[test]
fn a_place_is_kept_until_those_who_hold_it_have_ended() {
    let (mut world, held) = full();
    let urgent = world.submit(&spec("urgent", 60, 1, 2));
    let third = world.submit(&spec("third", 90, 1, 1));
    let id = reserve(&mut world, urgent, &held).unwrap();
    for victim in held {
        let row = world.state.allocations().get(&victim).unwrap();
        assert_eq!(row.state, AllocationState::Stopping(StopIntent::Preempt));
        let told = "preempted for 2.0.0.1 of job `urgent`: priority 60 against 50, and a gap of 10 is \
                    enough; what it did in 3600.000 s on 1.000 GPUs is lost";
        assert_eq!(row.reason, told);
    }
    assert!(!world.state.is_live(id));
    world.exit(held[0], 143);
    assert!(!world.state.is_live(id));
    world.place(third, 0).expect_err("what is free of a place that is kept is nobody else's");
    let again = world.placement(urgent, 0, NODE);
    assert_eq!(again.devices.len(), 0, "it is not to be had twice either");
    world.exit(held[1], 143);
    assert!(world.state.is_live(id), "it starts in the same step");
    assert_eq!(world.state.reservations().count(), 0);
    let is_preempted = |event: &&Event| {
        matches!(event.kind, EventKind::AllocationEnded { outcome: Outcome::Preempted, .. })
    };
    assert_eq!(world.events.iter().filter(is_preempted).count(), 2);
    // They wait as before, at their old age, and nothing is held against them.
    let task = world.state.tasks().get(&(held[0].job, held[0].task)).unwrap();
    assert_eq!(task.pending.len(), 2);
    assert!(task.retries.values().all(|retry| retry.failures == 0));
    let queue: Vec<JobId> = world.state.queue().map(|key| key.job).collect();
    assert_eq!(queue, [held[0].job, third]);
}

#[test]
fn nobody_ends_for_what_may_not_end_it_or_could_not_start() {
    let check = |of: &str, change: &dyn Fn(&mut JobSpec, &mut JobSpec), expected: NotAVictim| {
        let mut world = World::new(1);
        let (mut low, mut urgent) = (spec("low", 50, 1, 2), spec("urgent", 60, 1, 2));
        change(&mut low, &mut urgent);
        let low = world.submit(&low);
        let held = match world.state.jobs().get(&low).unwrap().kind() {
            JobKind::Daemon => world.place(low, 1).unwrap(),
            JobKind::Batch | JobKind::Service => world.place(low, 0).unwrap(),
        };
        world.observe(held, Observed::Running { ready: true, started_at: WallMs(1) });
        world.now += 30_000;
        let urgent = world.submit(&urgent);
        let before = world.state.hash();
        let refusal = reserve(&mut world, urgent, &[held]).unwrap_err();
        assert_eq!(refusal, Refusal::NotAVictim { victim: held, why: expected }, "{of}");
        assert_eq!(world.state.hash(), before, "{of}: nothing has changed");
    };
    let too_urgent = |found, asked| NotAVictim::TooUrgent { found, asked };
    check("a gap of nine", &|_, urgent| urgent.priority = 59, too_urgent(50, 59));
    check("an equal", &|low, _| low.priority = 60, too_urgent(60, 60));
    check("no wish", &|_, urgent| urgent.preemption.preempts = false, too_urgent(50, 60));
    check("its word", &|low, _| low.preemption.preemptible = false, NotAVictim::NotPreemptible);
    let later = |low: &mut JobSpec, _: &mut JobSpec| {
        low.preemption.min_run = DurationMs(40_000);
    };
    let until = berth_model::StateMs(41_000);
    check("its first minute", &later, NotAVictim::TooYoung { until });
    let daemon = |low: &mut JobSpec, _: &mut JobSpec| {
        *low = JobSpec { priority: 0, ..job(JobKind::Daemon, "low", 1, 2) };
    };
    check("a daemon", &daemon, NotAVictim::Daemon);
}

#[test]
fn what_one_end_makes_room_for_starts_together() {
    let mut world = World::new(1);
    let low = world.submit(&spec("low", 50, 1, 2));
    let held = world.place(low, 0).unwrap();
    world.now += 60_000;
    let jobs = ["first", "second", "third"].map(|text| world.submit(&spec(text, 90, 1, 1)));
    let first = reserve(&mut world, jobs[0], &[held]).unwrap();
    // The other GPU: what the one before has taken is not there.
    let mut other = reservation(&world, (jobs[1], 0), NODE, &[held]);
    let refusal = place_kept(&mut world, other.clone()).unwrap_err();
    assert!(matches!(refusal, Refusal::DoesNotFit { .. }), "{refusal}");
    other.placement.devices[0].uuid = "GPU-node-0-1".to_owned();
    let second = place_kept(&mut world, other).unwrap();
    let refusal = reserve(&mut world, jobs[2], &[held]).unwrap_err();
    assert!(matches!(refusal, Refusal::DoesNotFit { .. }), "{refusal}");
    let refusal = reserve(&mut world, jobs[0], &[held]).unwrap_err();
    assert!(matches!(refusal, Refusal::NotPending(_)), "{refusal}");
    world.exit(held, 143);
    assert!(world.state.is_live(first) && world.state.is_live(second));
}

#[test]
fn what_is_awaited_is_awaited_as_a_whole_and_what_is_gone_not_at_all() {
    let (mut world, held) = full();
    let [both, one] = ["both", "one"].map(|text| world.submit(&spec(text, 90, 1, 1)));
    reserve(&mut world, both, &held).unwrap();
    let refusal = reserve(&mut world, one, &held[..1]).unwrap_err();
    assert_eq!(refusal, Refusal::NotAVictim { victim: held[0], why: NotAVictim::Awaited });
    // What had ended before the wish came in is not waited for.
    world.exit(held[0], 143);
    let mut rest = reservation(&world, (one, 0), NODE, &held);
    let members = &world.state.nodes().get(&NODE).unwrap().reservations[0].members;
    let taken = members.values().any(|place| place.claim.devices[0].uuid == "GPU-node-0-0");
    rest.placement.devices[0].uuid = format!("GPU-node-0-{}", u8::from(taken));
    let id = place_kept(&mut world, rest).unwrap();
    world.exit(held[1], 143);
    assert!(world.state.is_live(id));
}

#[test]
fn what_ends_anyway_is_waited_for_under_the_same_rule() {
    let (mut world, held) = full();
    let allocations = vec![held[0]];
    let reason = "drained".to_owned();
    world.one(Command::StopAllocations { allocations, intent: StopIntent::Drain, reason }).unwrap();
    let equal = world.submit(&spec("equal", 50, 1, 1));
    let why = NotAVictim::TooUrgent { found: 50, asked: 50 };
    let refusal = reserve(&mut world, equal, &held[..1]).unwrap_err();
    assert_eq!(refusal, Refusal::NotAVictim { victim: held[0], why });
    let urgent = world.submit(&spec("urgent", 60, 1, 1));
    let id = reserve(&mut world, urgent, &held[..1]).unwrap();
    let row = world.state.allocations().get(&held[0]).unwrap();
    assert_eq!(
        (row.state.stop_intent(), row.reason.as_str()),
        (Some(StopIntent::Drain), "drained")
    );
    world.exit(held[0], 0);
    assert!(world.state.is_live(id));
}

#[test]
fn a_place_is_not_kept_where_nothing_can_start() {
    let check = |of: &str, happens: &dyn Fn(&mut World, AllocationId)| {
        let (mut world, held) = full();
        let urgent = world.submit(&spec("urgent", 60, 1, 2));
        let id = reserve(&mut world, urgent, &held).unwrap();
        happens(&mut world, id);
        for victim in held {
            world.exit(victim, 143);
        }
        assert!(!world.state.is_live(id), "{of}");
        assert_eq!(world.state.reservations().count(), 0, "{of}");
        let dropped = world
            .events
            .iter()
            .filter(|event| matches!(event.kind, EventKind::ReservationDropped { .. }));
        assert_eq!(dropped.count(), 1, "{of}");
    };
    let set = |purpose| {
        move |world: &mut World, _: AllocationId| {
            world.one(Command::SetSchedulable { node: NODE, purpose }).unwrap();
        }
    };
    check("its node is cordoned", &set(Purpose::Cordoned));
    check("its node is silent", &|world, _| {
        let session = world.state.nodes().get(&NODE).unwrap().session;
        world.one(Command::DisconnectNode { node: NODE, session }).unwrap();
    });
    check("its job is stopped", &|world, id| {
        let change = JobChange::Stop { reason: String::new() };
        world.one(Command::ChangeJob { job: id.job, if_version: None, change }).unwrap();
    });
    check("its leader lets it go", &|world, id| {
        let (allocations, reason) = (vec![id], "it takes too long".to_owned());
        world.one(Command::Unreserve { allocations, reason }).unwrap();
    });
}
