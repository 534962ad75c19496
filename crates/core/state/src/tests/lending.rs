//! What is guaranteed is taken back from those to whom it was lent, and from nobody else.

use std::sync::Arc;

use berth_model::{
    AllocationId, Amounts, DurationMs, Gang, Guarantee, JobId, JobKind, JobSpec, Limit,
    NamespaceSpec, NodeId, Quota, Resource, StateMs, StopIntent, WallMs,
};

use super::reservations::reservation;
use super::world::{World, job, name, submit};
use crate::{Command, NotAVictim, Observed, Refusal, Reply, Right};

const NODE: NodeId = NodeId(1);

/// So many GPUs, in thousandths, are guaranteed to a namespace.
pub fn guarantees(namespace: &str, gpu_milli: u64) -> NamespaceSpec {
    let guaranteed = Guarantee { amounts: [(Resource::Gpus, gpu_milli)].into() };
    let quota = Quota { limit: Limit::default(), guaranteed };
    NamespaceSpec { quota, ..NamespaceSpec::new(name(namespace)) }
}

fn guarantee(world: &mut World, namespace: &str, gpus: u64) {
    let spec = Arc::new(guarantees(namespace, gpus * 1000));
    world.one(Command::ApplyNamespace { spec, if_version: None }).unwrap();
}

fn spec(namespace: &str, priority: u8, count: u32, gpus: u32) -> JobSpec {
    JobSpec { priority, namespace: name(namespace), ..job(JobKind::Batch, "a", count, gpus) }
}

/// Submits a job of which each instance gets its place, and runs.
fn running(world: &mut World, spec: &JobSpec) -> Vec<AllocationId> {
    let job = world.submit(spec);
    let ids: Vec<AllocationId> = match spec.tasks[0].gang {
        Some(_) => {
            let placements = world.gang(job, 0);
            let Reply::Placed { granted, .. } = world.one(Command::Place { placements }).unwrap()
            else {
                panic!("it is placed")
            };
            granted
        }
        None => (0..spec.tasks[0].count).map(|at| world.place(job, at).unwrap()).collect(),
    };
    for id in &ids {
        world.observe(*id, Observed::Running { ready: true, started_at: WallMs(1) });
    }
    ids
}

fn reserve(world: &mut World, job: JobId, victims: &[AllocationId]) -> Result<(), Refusal> {
    let reservations = vec![reservation(world, (job, 0), NODE, victims)];
    let Reply::Placed { refused, .. } = world.one(Command::Reserve { reservations }).unwrap()
    else {
        panic!("it is answered")
    };
    refused.into_iter().next().map_or(Ok(()), Err)
}

fn guaranteed(victim: AllocationId) -> Refusal {
    Refusal::NotAVictim { victim, why: NotAVictim::Guaranteed }
}

/// A node of two GPUs, both lent to `b`, to which one is guaranteed, as one is to `a`.
fn lent() -> (World, Vec<AllocationId>) {
    let mut world = World::new(1);
    guarantee(&mut world, "a", 1);
    guarantee(&mut world, "b", 1);
    let held = running(&mut world, &spec("b", 90, 2, 1));
    world.now += 60_000;
    (world, held)
}

#[test]
fn what_is_lent_is_taken_back_whatever_its_priority_and_no_more() {
    let (mut world, held) = lent();
    let job = world.submit(&spec("a", 0, 2, 1));
    assert_eq!(reserve(&mut world, job, &held), Err(guaranteed(held[0])));
    reserve(&mut world, job, &held[..1]).unwrap();
    let row = world.state.allocations().get(&held[0]).unwrap();
    assert_eq!(row.state.stop_intent(), Some(StopIntent::Preempt));
    let told = "preempted for 2.0.0.1 of another namespace: that one has less than is guaranteed \
                to it, and this one more; what it did in 60.000 s on 1.000 GPUs is lost";
    assert_eq!(row.reason, told);
    // What ends already is lent no more, so that `b` is sure of the rest.
    let next = world.submit(&spec("a", 100, 1, 1));
    assert_eq!(reserve(&mut world, next, &held[1..]), Err(guaranteed(held[1])));
    world.exit(held[0], 143);
    assert_eq!(world.state.namespace_use(&name("a")).of(Resource::Gpus), 1000);
    // What was taken back stands at its old place in the queue, and nothing is held against it.
    let task = world.state.tasks().get(&(held[0].job, held[0].task)).unwrap();
    assert_eq!(task.pending.len(), 1);
    assert!(task.retries.values().all(|retry| retry.failures == 0));
}

#[test]
fn nobody_takes_back_more_than_is_guaranteed_to_it() {
    let (mut world, held) = lent();
    let two = world.submit(&spec("a", 0, 1, 2));
    let too_urgent = NotAVictim::TooUrgent { found: 90, asked: 0 };
    let refused = Err(Refusal::NotAVictim { victim: held[0], why: too_urgent });
    assert_eq!(reserve(&mut world, two, &held), refused, "two are more than one");
    let stranger = world.submit(&spec("c", 0, 1, 1));
    assert_eq!(reserve(&mut world, stranger, &held[..1]), refused, "nothing is guaranteed to it");
    let own = world.submit(&spec("b", 0, 1, 1));
    assert_eq!(reserve(&mut world, own, &held[..1]), refused, "a namespace lends itself nothing");
    let right = |namespace: &str, milli| {
        world.state.right_to(&name(namespace), Amounts::default().with(Resource::Gpus, milli), None)
    };
    assert_eq!(right("a", 1000), Right::Guarantee);
    assert_eq!(right("a", 1001), Right::Priority);
    assert_eq!(right("c", 1), Right::Priority);
}

#[test]
fn priority_takes_from_others_only_what_is_lent() {
    let (mut world, held) = lent();
    // Beyond its guarantee it has its priority, like anybody.
    let urgent = world.submit(&spec("c", 100, 1, 2));
    assert_eq!(reserve(&mut world, urgent, &held), Err(guaranteed(held[0])));
    let urgent = world.submit(&spec("c", 100, 1, 1));
    reserve(&mut world, urgent, &held[..1]).unwrap();
    // In its own namespace nothing is kept from what is more urgent.
    let own = world.submit(&spec("b", 100, 1, 1));
    reserve(&mut world, own, &held[1..]).unwrap();
}

#[test]
fn what_is_lent_is_left_alone_for_ten_minutes_at_the_most() {
    let mut world = World::new(1);
    guarantee(&mut world, "a", 2);
    let mut long = spec("b", 50, 1, 2);
    long.preemption.min_run = DurationMs::from_secs(86_400);
    let held = running(&mut world, &long);
    let since = world.state.allocations().get(&held[0]).unwrap().running_since.unwrap();
    let job = world.submit(&spec("a", 0, 1, 2));
    world.now = since.0 + 599_999;
    let until = StateMs(since.0 + 600_000);
    let why = NotAVictim::TooYoung { until };
    assert_eq!(reserve(&mut world, job, &held), Err(Refusal::NotAVictim { victim: held[0], why }));
    world.now += 1;
    reserve(&mut world, job, &held).unwrap();
}

#[test]
fn what_may_not_be_ended_is_lent_nothing() {
    let mut world = World::new(1);
    guarantee(&mut world, "b", 1);
    let mut kept = spec("b", 50, 2, 1);
    kept.preemption.preemptible = false;
    let job = world.submit(&kept);
    world.place(job, 0).unwrap();
    let refusal = world.place(job, 1).unwrap_err();
    let said = "namespace `b`: GPUs 1 of 1 that are guaranteed in use by what may not be ended for \
                others, 1 asked for, and it is lent nothing";
    assert_eq!(refusal[0].to_string(), said);
    // What may be ended is lent the rest.
    running(&mut world, &spec("b", 50, 1, 1));
}

#[test]
fn a_service_that_could_never_be_whole_is_told_what_its_kind_holds() {
    let mut world = World::new(1);
    guarantee(&mut world, "b", 1);
    running(&mut world, &spec("b", 50, 2, 1));
    let mut service = JobSpec { namespace: name("b"), ..job(JobKind::Service, "s", 2, 1) };
    service.preemption.preemptible = false;
    let refusal = world.one(submit(&service, None)).unwrap_err();
    let said = "namespace `b`: GPUs 0 of 1 that are guaranteed in use by what may not be ended for \
                others, 2 asked for, and it is lent nothing";
    assert_eq!(refusal.to_string(), said);
}

#[test]
fn a_gang_is_taken_back_as_a_whole() {
    let mut world = World::new(1);
    guarantee(&mut world, "a", 2);
    guarantee(&mut world, "b", 1);
    let mut gang = spec("b", 90, 2, 1);
    gang.tasks[0].gang = Some(Gang {});
    let held = running(&mut world, &gang);
    world.now += 60_000;
    // One of it is within what is guaranteed, and cannot go on alone.
    let job = world.submit(&spec("a", 0, 1, 1));
    reserve(&mut world, job, &held[..1]).unwrap();
    for id in held {
        let row = world.state.allocations().get(&id).unwrap();
        assert_eq!(row.state.stop_intent(), Some(StopIntent::Preempt));
    }
}
