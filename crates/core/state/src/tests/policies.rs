//! Policies that stand for what jobs leave out: of whom, since when, and for how long.

use berth_model::{
    Constraints, JobId, JobKind, JobSpec, POOL_POLICIES_MAX, Policy, PolicyOrigin, StateMs, WallMs,
};

use super::world::{World, job, name, submit};
use crate::{Command, Entry, EventKind, JobChange, Refusal, Reply};

fn set(world: &mut World, pool: Option<&str>, policy: Option<Policy>) {
    let pool = pool.map(name);
    assert_eq!(world.one(Command::SetPolicyDefault { pool, policy }), Ok(Reply::Done));
}

fn silent(kind: JobKind, pool: Option<&str>) -> JobSpec {
    let constraints = Constraints { pool: pool.map(name), ..Constraints::default() };
    JobSpec { policy_origin: PolicyOrigin::LeftOut, constraints, ..job(kind, "a", 1, 0) }
}

fn policy_of(world: &World, job: JobId) -> (Policy, PolicyOrigin) {
    let row = world.state.jobs().get(&job).unwrap();
    (row.spec.policy, row.spec.policy_origin)
}

/// The version that a submit comes to, and whether that was there before.
fn again(world: &mut World, spec: &JobSpec, key: Option<&str>) -> (u32, bool) {
    let reply = world.one(submit(spec, key)).unwrap();
    let Reply::Submitted { version, existed, .. } = reply else { panic!("unexpected {reply:?}") };
    (version, existed)
}

#[test]
fn a_job_gets_what_was_set_when_it_was_submitted() {
    let mut world = World::new(1);
    let batch = |world: &mut World, pool| world.submit(&silent(JobKind::Batch, pool));
    let before = batch(&mut world, None);
    set(&mut world, None, Some(Policy::Fgd));
    set(&mut world, Some("gold"), Some(Policy::Spread));
    let (any, gold) = (batch(&mut world, None), batch(&mut world, Some("gold")));
    let tin = batch(&mut world, Some("tin"));
    let said = JobSpec { policy_origin: PolicyOrigin::Job, ..silent(JobKind::Batch, Some("gold")) };
    let said = world.submit(&JobSpec { policy: Policy::RoundRobin, ..said });
    set(&mut world, Some("gold"), None);
    set(&mut world, None, None);
    let after = batch(&mut world, Some("gold"));
    for (job, expected) in [
        (before, (Policy::Berth, PolicyOrigin::Berth)),
        (any, (Policy::Fgd, PolicyOrigin::Cluster)),
        (gold, (Policy::Spread, PolicyOrigin::Pool)),
        (tin, (Policy::Fgd, PolicyOrigin::Cluster)),
        (said, (Policy::RoundRobin, PolicyOrigin::Job)),
        (after, (Policy::Berth, PolicyOrigin::Berth)),
    ] {
        assert_eq!(policy_of(&world, job), expected, "job {job}");
    }
}

#[test]
fn the_same_file_under_another_default_is_another_version_of_a_service() {
    let mut world = World::new(1);
    let spec = silent(JobKind::Service, None);
    let id = world.submit(&spec);
    assert_eq!(again(&mut world, &spec, None), (1, true));
    // What is set says what it had anyway.
    set(&mut world, None, Some(Policy::Berth));
    assert_eq!(again(&mut world, &spec, None), (1, true));
    set(&mut world, None, Some(Policy::Fgd));
    assert_eq!(policy_of(&world, id), (Policy::Berth, PolicyOrigin::Berth));
    assert_eq!(again(&mut world, &spec, None), (2, false));
    assert_eq!(policy_of(&world, id), (Policy::Fgd, PolicyOrigin::Cluster));
    assert_eq!(again(&mut world, &spec, None), (2, true));
    let digest = |world: &World| world.state.jobs().get(&id).unwrap().digest;
    let with_fgd = digest(&world);
    set(&mut world, None, Some(Policy::Spread));
    assert_eq!(again(&mut world, &spec, None), (3, false));
    assert_ne!(digest(&world), with_fgd, "agents know it by this alone");
    // What was a version stays what it was.
    let change = JobChange::Rollback { to_version: 2 };
    world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
    assert_eq!(policy_of(&world, id), (Policy::Fgd, PolicyOrigin::Cluster));
}

#[test]
fn what_was_let_in_keeps_its_policy_when_it_is_scaled() {
    let mut world = World::new(1);
    let id = world.submit(&silent(JobKind::Service, None));
    set(&mut world, None, Some(Policy::Fgd));
    // As a scale does it: the specification that stands, with another number.
    let mut spec = JobSpec::clone(&world.state.jobs().get(&id).unwrap().spec);
    spec.tasks[0].count = 2;
    assert_eq!(again(&mut world, &spec, None), (2, false));
    assert_eq!(policy_of(&world, id), (Policy::Berth, PolicyOrigin::Berth));
}

#[test]
fn a_key_is_known_by_what_was_asked_although_the_default_is_another() {
    let mut world = World::new(1);
    let spec = silent(JobKind::Batch, Some("gold"));
    let first = world.one(submit(&spec, Some("key"))).unwrap();
    let Reply::Submitted { job, existed: false, .. } = first else { panic!("{first:?}") };
    for policy in [Some(Policy::Fgd), Some(Policy::Spread), None] {
        set(&mut world, Some("gold"), policy);
        set(&mut world, None, policy);
        let repeated = world.one(submit(&spec, Some("key"))).unwrap();
        assert_eq!(repeated, Reply::Submitted { job, version: 1, existed: true });
    }
    assert_eq!(policy_of(&world, job), (Policy::Berth, PolicyOrigin::Berth));
    // To say what was filled in is to ask for something else.
    let said = JobSpec { policy_origin: PolicyOrigin::Job, ..spec };
    let refused = world.one(submit(&said, Some("key"))).unwrap_err();
    assert_eq!(refused, Refusal::KeyConflict { key: "key".to_owned(), job });
}

#[test]
fn defaults_are_told_once_and_are_bounded() {
    let mut world = World::new(0);
    for policy in [Some(Policy::Fgd), Some(Policy::Fgd), None, None] {
        set(&mut world, Some("gold"), policy);
    }
    let told: Vec<_> =
        world.events.iter().filter(|one| one.kind.name() == "policy-default").collect();
    let kind = |policy| EventKind::PolicyDefaultChanged { pool: Some(name("gold")), policy };
    let kinds: Vec<_> = told.iter().map(|event| event.kind.clone()).collect();
    assert_eq!(kinds, [kind(Some(Policy::Fgd)), kind(None)]);

    for number in 0..POOL_POLICIES_MAX {
        set(&mut world, Some(&format!("pool-{number}")), Some(Policy::Fgd));
    }
    let (pool, policy) = (Some(name("more")), Some(Policy::Fgd));
    let refused = world.one(Command::SetPolicyDefault { pool, policy });
    assert_eq!(refused, Err(Refusal::TooManyPoolPolicies));
    // One that is there may change, and one that goes makes room.
    set(&mut world, Some("pool-7"), Some(Policy::Spread));
    set(&mut world, Some("pool-8"), None);
    set(&mut world, Some("more"), Some(Policy::Fgd));

    let mut nothing = crate::ClusterState::default();
    let commands = vec![Command::SetPolicyDefault { pool: None, policy: Some(Policy::Fgd) }];
    let (state_ms, wall_ms) = (StateMs(1), WallMs(1));
    let entry = Entry { state_ms, wall_ms, proposer: String::new(), commands };
    assert_eq!(nothing.apply(1, &entry).replies, [Err(Refusal::NotFounded)]);
    assert_eq!(nothing.cluster().policies, Default::default());
}
