use berth_model::{
    AllocationState, DurationMs, EndCause, EndReport, JobKind, Outcome, RestartPolicy, StopIntent,
    TaskIndex,
};

use super::world::{World, exited, job, name, submit};
use crate::{Command, EventKind, JobChange, Observed, Refusal, Reply};

fn stop(job: berth_model::JobId) -> Command {
    let change = JobChange::Stop { reason: "asked".to_owned() };
    Command::ChangeJob { job, if_version: None, change }
}

#[test]
fn a_batch_job_runs_to_its_end() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 0));
    assert_eq!(world.job_state(id), "queued");
    let first = world.place(id, 0).unwrap();
    let second = world.place(id, 1).unwrap();
    assert_eq!(world.job_state(id), "running");
    assert_eq!(world.exit(first, 0), 1);
    assert_eq!(world.job_state(id), "running");
    assert_eq!(world.exit(second, 0), 1);
    assert_eq!(world.job_state(id), "succeeded");
    assert!(world.state.nodes().values().all(|node| node.live.is_empty()));
}

#[test]
fn a_key_answers_with_the_same_job_and_refuses_another_spec() {
    let mut world = World::new(0);
    let spec = job(JobKind::Batch, "a", 1, 0);
    let first = world.one(submit(&spec, Some("k"))).unwrap();
    let again = world.one(submit(&spec, Some("k"))).unwrap();
    let Reply::Submitted { job: id, existed: false, .. } = first else { panic!("{first:?}") };
    assert_eq!(again, Reply::Submitted { job: id, version: 1, existed: true });
    let other = job(JobKind::Batch, "a", 2, 0);
    let refused = world.one(submit(&other, Some("k"))).unwrap_err();
    assert_eq!(refused, Refusal::KeyConflict { key: "k".to_owned(), job: id });
    assert_eq!(world.state.jobs().len(), 1);
}

#[test]
fn a_device_is_not_given_twice_by_two_plans_on_one_view() {
    let mut world = World::new(1);
    let one = world.submit(&job(JobKind::Batch, "a", 1, 2));
    let two = world.submit(&job(JobKind::Batch, "b", 1, 1));
    let node = *world.state.nodes().iter().next().unwrap().0;
    let placements = vec![world.placement(one, 0, node), world.placement(two, 0, node)];
    let reply = world.one(Command::Place { placements }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("{reply:?}") };
    assert_eq!(granted.len(), 1);
    assert!(matches!(refused.as_slice(), [Refusal::DoesNotFit { .. }]), "{refused:?}");
}

#[test]
fn an_instance_is_granted_once_and_only_its_next_attempt() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 0));
    let node = *world.state.nodes().iter().next().unwrap().0;
    let placement = world.placement(id, 0, node);
    let mut stale = placement.clone();
    stale.attempt = stale.attempt.next();
    let reply = world.one(Command::Place { placements: vec![stale, placement.clone(), placement] });
    let Ok(Reply::Placed { granted, refused }) = reply else { panic!("{reply:?}") };
    assert_eq!((granted.len(), refused.len()), (1, 2));
}

#[test]
fn f38_a_failed_attempt_waits_its_backoff_and_counts() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "a", 1, 0);
    spec.tasks[0].restart = RestartPolicy {
        attempts: Some(1),
        backoff: DurationMs(1000),
        backoff_max: DurationMs(60_000),
    };
    let id = world.submit(&spec);
    let first = world.place(id, 0).unwrap();
    world.exit(first, 3);
    assert_eq!(world.job_state(id), "queued");
    assert!(world.place(id, 0).is_err(), "before the backoff is over");
    world.now += 1250;
    let second = world.place(id, 0).unwrap();
    assert_eq!(second.attempt.0, 2);
    world.exit(second, 3);
    assert_eq!(world.job_state(id), "failed");
    let task = world.state.tasks().get(&(id, TaskIndex(0))).unwrap();
    let codes: Vec<_> = task.failures.iter().map(|failure| failure.exit_code).collect();
    assert_eq!(codes, [Some(3), Some(3)]);
}

#[test]
fn a_command_that_does_not_exist_is_tried_once() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "a", 1, 0);
    spec.tasks[0].restart.attempts = None;
    let id = world.submit(&spec);
    let allocation = world.place(id, 0).unwrap();
    let reason = "cannot execute `x`: no such file".to_owned();
    let report = EndReport { cause: EndCause::CannotStart, exit_code: None, reason, ..exited(0) };
    world.observe(allocation, Observed::Ended(report));
    assert_eq!(world.job_state(id), "failed");
}

#[test]
fn stopping_a_job_ends_what_lives_and_what_waits() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 3, 0));
    let live = world.place(id, 0).unwrap();
    world.one(stop(id)).unwrap();
    assert_eq!(world.job_state(id), "running");
    assert_eq!(
        world.state.allocations().get(&live).unwrap().state,
        AllocationState::Stopping(StopIntent::Cancel)
    );
    assert!(world.place(id, 1).is_err());
    world.observe(
        live,
        Observed::Ended(EndReport {
            cause: EndCause::Stopped,
            exit_code: None,
            signal: Some(15),
            ..exited(0)
        }),
    );
    assert_eq!(world.job_state(id), "cancelled");
    assert_eq!(world.one(stop(id)).unwrap_err(), Refusal::JobEnded(id));
    let task = world.state.tasks().get(&(id, TaskIndex(0))).unwrap();
    assert_eq!(task.cancelled.len(), 3);
}

#[test]
fn reports_about_old_attempts_and_from_other_nodes_change_nothing() {
    let mut world = World::new(2);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 0));
    let allocation = world.place(id, 0).unwrap();
    let here = world.state.allocations().get(&allocation).unwrap().node;
    let there = *world.state.nodes().iter().map(|(id, _)| id).find(|id| **id != here).unwrap();
    let hash = world.state.hash();
    assert_eq!(world.observe_from(there, allocation, Observed::Ended(exited(0))), 0);
    let mut unknown = allocation;
    unknown.attempt = unknown.attempt.next();
    assert_eq!(world.observe_from(here, unknown, Observed::Ended(exited(0))), 0);
    assert_eq!(world.state.hash(), hash);
    assert_eq!(world.exit(allocation, 0), 1);
    assert_eq!(world.observe_from(here, allocation, Observed::Ended(exited(1))), 0);
    assert_eq!(world.job_state(id), "succeeded");
}

#[test]
fn a_service_is_updated_rolled_back_and_never_reuses_an_allocation_id() {
    let mut world = World::new(1);
    let v1 = job(JobKind::Service, "web", 2, 0);
    let id = world.submit(&v1);
    let first = world.place(id, 0).unwrap();
    let mut v2 = v1.clone();
    v2.tasks[0].count = 0;
    assert_eq!(world.submit(&v2), id);
    assert_eq!(
        world.state.allocations().get(&first).unwrap().state,
        AllocationState::Stopping(StopIntent::Cancel)
    );
    world.exit(first, 0);
    assert_eq!(world.job_state(id), "queued");
    let back = JobChange::Rollback { to_version: 0 };
    let reply = world.one(Command::ChangeJob { job: id, if_version: Some(2), change: back });
    assert_eq!(reply, Ok(Reply::Submitted { job: id, version: 3, existed: false }));
    let again = world.place(id, 0).unwrap();
    assert_eq!(again.attempt.0, 2);
    let row = world.state.jobs().get(&id).unwrap();
    assert_eq!(row.versions.iter().map(|old| old.version).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_update_of_a_version_that_is_gone_by_is_refused() {
    let mut world = World::new(0);
    let spec = job(JobKind::Service, "web", 2, 0);
    let id = world.submit(&spec);
    let mut newer = spec.clone();
    newer.priority = 60;
    let Command::Submit(mut wish) = submit(&newer, None) else { unreachable!() };
    wish.if_version = Some(7);
    let refused = world.one(Command::Submit(wish)).unwrap_err();
    assert_eq!(refused, Refusal::VersionConflict { job: id, asked: 7, found: 1 });
    let mut daemon = job(JobKind::Daemon, "web", 1, 0);
    daemon.priority = 1;
    assert!(matches!(world.one(submit(&daemon, None)), Err(Refusal::KindChanged { .. })));
}

#[test]
fn a_crashed_replica_comes_back_and_a_drained_one_is_not_blamed() {
    let mut world = World::new(2);
    let id = world.submit(&job(JobKind::Service, "web", 1, 0));
    let first = world.place(id, 0).unwrap();
    let command = Command::StopAllocations {
        allocations: vec![first],
        intent: StopIntent::Drain,
        reason: "drain".to_owned(),
    };
    world.one(command).unwrap();
    world.exit(first, 1);
    let task = world.state.tasks().get(&(id, TaskIndex(0))).unwrap().clone();
    assert!(task.pending.contains(0));
    assert_eq!(task.retries[&0].failures, 0);
    let second = world.place(id, 0).unwrap();
    world.exit(second, 0);
    let task = world.state.tasks().get(&(id, TaskIndex(0))).unwrap().clone();
    assert_eq!(task.retries[&0].failures, 1, "a service that exits has failed");
    assert!(world.events.iter().any(|event| matches!(
        event.kind,
        EventKind::AllocationEnded { outcome: Outcome::Failed, .. }
    )));
}

#[test]
fn a_deadline_ends_the_whole_job() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "a", 2, 0);
    spec.deadline = Some(DurationMs(5000));
    let id = world.submit(&spec);
    let live = world.place(id, 0).unwrap();
    assert_eq!(world.one(Command::ExpireJob { job: id }), Err(Refusal::TooEarly));
    world.now += 5000;
    assert_eq!(world.state.overdue(berth_model::StateMs(world.now)).collect::<Vec<_>>(), [id]);
    world.one(Command::ExpireJob { job: id }).unwrap();
    world.observe(
        live,
        Observed::Ended(EndReport {
            cause: EndCause::Stopped,
            exit_code: None,
            signal: Some(15),
            ..exited(0)
        }),
    );
    assert_eq!(world.job_state(id), "timed_out");
}

#[test]
fn names_and_prefixes_find_jobs() {
    use crate::query::Found;
    let mut world = World::new(1);
    let space = name("default");
    let ids: Vec<_> = (0..12).map(|_| world.submit(&job(JobKind::Batch, "same", 1, 0))).collect();
    assert!(matches!(world.state.find_job(&space, "same"), Found::Several(_)));
    assert!(matches!(world.state.find_job(&space, "1"), Found::One(row) if row.id == ids[0]));
    for id in &ids[1..] {
        world.one(stop(*id)).unwrap();
    }
    assert!(matches!(world.state.find_job(&space, "same"), Found::One(row) if row.id == ids[0]));
    world.one(stop(ids[0])).unwrap();
    assert!(matches!(world.state.find_job(&space, "same"), Found::One(row) if row.id == ids[11]));
    assert_eq!(world.state.find_job(&name("other"), "1"), Found::None);
    assert_eq!(world.state.find_job(&space, "77"), Found::None);
}

#[test]
fn retention_forgets_only_what_is_old_or_too_much() {
    let mut world = World::new(0);
    let spec = job(JobKind::Batch, "a", 1, 0);
    let reply = world.one(submit(&spec, Some("k"))).unwrap();
    let Reply::Submitted { job: id, .. } = reply else { panic!("{reply:?}") };
    world.one(stop(id)).unwrap();
    let reap = |jobs, keys| Command::Reap { jobs, nodes: Vec::new(), keys };
    world.one(reap(vec![id], vec![(name("default"), "k".to_owned())])).unwrap();
    assert_eq!(world.state.jobs().len(), 1);
    world.now += 7 * 24 * 3_600_000;
    world.one(reap(vec![id], Vec::new())).unwrap();
    assert_eq!(world.state.jobs().len(), 0);
    assert_eq!(world.state.tasks().len(), 0);
    assert_eq!(world.state.keys().len(), 1, "the key outlives its job by a day");
    let kept = world.one(submit(&spec, Some("k"))).unwrap();
    assert_eq!(kept, Reply::Submitted { job: id, version: 1, existed: true });
    world.now += 24 * 3_600_000;
    world.one(reap(Vec::new(), vec![(name("default"), "k".to_owned())])).unwrap();
    assert_eq!(world.state.keys().len(), 0);

    let big: Vec<_> =
        (0..3).map(|_| world.submit(&job(JobKind::Batch, "big", 10_000, 0))).collect();
    for id in &big {
        world.one(stop(*id)).unwrap();
        world.now += 1;
    }
    world.one(reap(vec![big[2], big[1]], Vec::new())).unwrap();
    assert_eq!(world.state.jobs().len(), 3, "only the oldest may go early");
    world.one(reap(big.clone(), Vec::new())).unwrap();
    assert_eq!(world.state.jobs().len(), 2, "and only while there are too many");
}

#[test]
fn the_job_that_ended_last_is_kept_whatever_it_weighs() {
    let mut world = World::new(0);
    let reap = |jobs| Command::Reap { jobs, nodes: Vec::new(), keys: Vec::new() };
    let big = world.submit(&job(JobKind::Batch, "big", 200_000, 0));
    world.one(stop(big)).unwrap();
    world.one(reap(vec![big])).unwrap();
    assert!(world.state.jobs().contains(&big));
    world.now += 1;
    let next = world.submit(&job(JobKind::Batch, "next", 1, 0));
    world.one(stop(next)).unwrap();
    world.one(reap(vec![big, next])).unwrap();
    assert!(!world.state.jobs().contains(&big));
    assert!(world.state.jobs().contains(&next));
}
