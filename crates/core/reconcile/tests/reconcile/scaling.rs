//! Services whose replicas follow their load.

use std::collections::BTreeMap;

use berth_autoscale::{Measure, Measured, Why};
use berth_model::{
    Autoscale, DurationMs, JobId, JobKind, JobSpec, ScalingMetric, ScalingPace, StateMs,
};
use berth_reconcile::{Reason, Scaled, Scaling};
use berth_state::{Command, JobChange};

use crate::world::{World, job, name};

/// Eight requests at once for each replica, and none when nobody asks for ten seconds.
fn chat(min: u32, max: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "chat", 1);
    spec.tasks[0].ports = vec![name("http")];
    spec.route.drain = DurationMs::ZERO;
    let rule = Autoscale {
        average: DurationMs::from_secs(2),
        down: ScalingPace { window: DurationMs::from_secs(5), ..ScalingPace::DOWN_DEFAULT },
        idle: DurationMs::from_secs(10),
        ..Autoscale::between(min, max)
    };
    spec.tasks[0].count = rule.count(None);
    spec.autoscale = Some(rule);
    spec
}

fn requests(total: f64) -> Option<Measured> {
    let metrics = BTreeMap::from([(ScalingMetric::Concurrency, Measure { total, missing: 0 })]);
    Some(Measured { metrics, busy: total > 0.0 })
}

/// A second more of so many requests at once; what was changed.
fn second(world: &mut World, scaling: &mut Scaling, total: f64) -> Vec<(u32, u32)> {
    let commands = scaling.look(&world.state, |_| requests(total), StateMs(world.now));
    let again = scaling.look(&world.state, |_| requests(total), StateMs(world.now));
    assert_eq!(again, [], "once a second");
    let mut changed = Vec::new();
    for command in commands {
        if let Command::Scale { from, count, .. } = &command {
            changed.push((*from, *count));
        }
        world.one(command).unwrap();
    }
    world.pass(1_000);
    changed
}

fn seconds(world: &mut World, scaling: &mut Scaling, total: f64, count: usize) -> Vec<(u32, u32)> {
    (0..count).flat_map(|_| second(world, scaling, total)).collect()
}

fn count(world: &World, job: JobId) -> u32 {
    world.state.jobs().get(&job).unwrap().spec.tasks[0].count
}

#[test]
fn a_service_follows_its_load_up_down_and_to_nothing() {
    let (mut world, mut scaling) = (World::new(2), Scaling::default());
    let job = world.submit(chat(0, 4));
    assert_eq!(seconds(&mut world, &mut scaling, 8.0, 10), []);
    assert_eq!(seconds(&mut world, &mut scaling, 30.0, 3), [(1, 4)]);
    assert_eq!(seconds(&mut world, &mut scaling, 6.0, 4), [], "it may come again");
    // The mean of two seconds was between the two loads for a moment.
    assert_eq!(seconds(&mut world, &mut scaling, 6.0, 8), [(4, 3), (3, 1)]);
    assert_eq!(seconds(&mut world, &mut scaling, 0.0, 9), []);
    assert_eq!(seconds(&mut world, &mut scaling, 0.0, 2), [(1, 0)]);
    assert_eq!(scaling.found(job).unwrap().why, Why::Idle(DurationMs::from_secs(11)));
    assert_eq!(seconds(&mut world, &mut scaling, 1.0, 1), [(0, 1)]);
}

#[test]
fn only_what_is_scaled_and_may_run_is_looked_at() {
    let (mut world, mut scaling) = (World::new(2), Scaling::default());
    let scaled = world.submit(chat(1, 4));
    let mut fixed = JobSpec { autoscale: None, ..chat(1, 4) };
    fixed.name = name("fixed");
    world.submit(fixed);
    let running = world.run(scaled, 0, 1);
    let mut seen = Vec::new();
    let look = |service: &Scaled<'_>| {
        seen.push((service.job.id, service.ready.iter().map(|row| row.id).collect::<Vec<_>>()));
        None
    };
    assert_eq!(scaling.look(&world.state, look, StateMs(world.now)), []);
    assert_eq!(seen, [(scaled, vec![running])]);
    world
        .one(Command::ChangeJob { job: scaled, if_version: None, change: JobChange::Hold })
        .unwrap();
    world.pass(1_000);
    let none = |_: &Scaled<'_>| panic!("nobody is to be looked at");
    assert_eq!(scaling.look(&world.state, none, StateMs(world.now)), []);
    assert_eq!(scaling.found(scaled), None, "it begins anew when it is released");
}

/// A leader that has just begun knows nothing of what was before.
#[test]
fn a_new_leader_adds_and_takes_nothing_away_at_first() {
    let (mut world, mut scaling) = (World::new(2), Scaling::default());
    let job = world.submit(chat(0, 4));
    seconds(&mut world, &mut scaling, 30.0, 3);
    assert_eq!(count(&world, job), 4);
    let mut next = Scaling::default();
    assert_eq!(seconds(&mut world, &mut next, 0.0, 5), []);
    assert_eq!(seconds(&mut world, &mut next, 0.0, 1).len(), 1);
    let mut next = Scaling::default();
    assert_eq!(second(&mut world, &mut next, 60.0).len(), 1, "it adds at once");
}

#[test]
fn reasons_are_words() {
    let check = |why, expected: &str| assert_eq!(Reason(why).to_string(), expected);
    let load = |metric, total, target| Why::Load { metric, total, target };
    check(
        load(ScalingMetric::Concurrency, 29.0, 8.0),
        "concurrency is 29.00 in all, and 8.00 for each replica",
    );
    check(
        load(ScalingMetric::Latency, 2.5, 0.5),
        "latency is 2.50 s in all, and 0.50 s for each replica",
    );
    check(
        load(ScalingMetric::Requests, 9.0, 3.0),
        "requests is 9.00/s in all, and 3.00/s for each replica",
    );
    check(Why::Idle(DurationMs(300_500)), "nobody has asked it anything for 300 s");
    check(Why::Woken, "it is asked, and there is none");
    check(Why::Range, "its job allows no other number");
    check(Why::Unknown, "nobody tells what its load is");
}
