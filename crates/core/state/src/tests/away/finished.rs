//! Work that finished on a node that was silent is not done again.

use berth_model::{ArraySpec, DeviceHealth, Drain, EndCause, JobKind, JobSpec, OnReturn, Outcome};

use super::{Case, RUNS, ended, spec};
use crate::tests::world::{World, exited, job, node_spec};
use crate::{Command, EventKind, JobChange, Observed, Purpose};

#[test]
fn f30_batch_work_that_was_finished_meanwhile_counts() {
    for (on_return, counts) in
        [(OnReturn::KeepLongestRunning, true), (OnReturn::KeepReplacement, false)]
    {
        let mut case = Case::new(&spec(JobKind::Batch, on_return));
        let rival = case.replace();
        case.world.observe(rival, RUNS);
        case.comes_back();
        assert_eq!(case.says(Observed::Ended(exited(0))), 1);
        assert_eq!(case.used_gpus(case.silent), 0);
        let (live, state) = if counts { (vec![], "succeeded") } else { (vec![rival], "running") };
        assert_eq!((case.live(), case.world.job_state(rival.job)), (live, state));
    }
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepLongestRunning));
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(3))), 1);
    assert_eq!(case.live(), [], "one that failed meanwhile is as lost as it was");
    assert_eq!(case.world.job_state(case.original.job), "queued");
}

/// A batch job of one instance whose worker has finished, or was about to, when its node fell
/// silent; the second node has the replacement.
fn finished(act: impl FnOnce(&mut Case)) {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    act(&mut case);
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.used_gpus(case.silent)), (vec![], 0));
    assert_eq!(case.world.job_state(case.original.job), "succeeded");
    let last = case.world.events.iter().rev().find_map(|event| {
        let EventKind::AllocationEnded { outcome, row, .. } = &event.kind else { return None };
        (row.id == case.original).then_some(*outcome)
    });
    assert_eq!(last, Some(Outcome::Succeeded));
}

#[test]
fn f30_what_has_finished_is_not_done_again_wherever_it_finished() {
    let drain = |case: &mut Case| {
        let purpose = Purpose::Draining(Drain { deadline: None });
        let node = case.silent;
        case.world.one(Command::SetSchedulable { node, purpose }).unwrap();
    };
    finished(|case| {
        case.replace();
        drain(case);
        case.comes_back();
    });
    finished(|case| {
        case.replace();
        case.comes_back();
        let node = case.silent;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
    });
    finished(|case| {
        let mut spec = node_spec("node-0", 2);
        spec.devices[0].health = DeviceHealth::Lost;
        case.world.now += 1_000;
        case.register(spec);
    });
    // An order to end that came too late.
    finished(|case| {
        case.comes_back();
        let job = case.original.job;
        let change = JobChange::Restart;
        case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    });
    // The one whose place the original took has finished first.
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let rival = case.replace();
    case.world.observe(rival, RUNS);
    let node = case.row(rival).unwrap().node;
    case.comes_back();
    case.says(RUNS);
    assert_eq!(case.live(), [case.original]);
    assert_eq!(case.world.observe_from(node, rival, Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.world.job_state(rival.job)), (vec![], "succeeded"));
    assert_eq!((case.used_gpus(node), case.leaving(case.silent).len()), (0, 1));
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!(case.used_gpus(case.silent), 0);
}

#[test]
fn f30_what_had_hardly_begun_when_it_was_given_up_and_has_finished_is_done() {
    let mut world = World::new(2);
    let id = world.submit(&spec(JobKind::Batch, OnReturn::KeepLongestRunning));
    let original = world.place(id, 0).unwrap();
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.replace();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.world.job_state(id)), (vec![], "succeeded"));
}

#[test]
fn f30_a_limit_of_instances_does_not_forget_what_has_finished() {
    let mut one_at_once = JobSpec { ..job(JobKind::Batch, "a", 2, 1) };
    one_at_once.tasks[0].array = Some(ArraySpec { start: 0, step: 1, parallel_max: Some(1) });
    let mut case = Case::new(&one_at_once);
    let other = case.world.place(case.original.job, 1).unwrap();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.live(), [other]);
    case.world.exit(other, 0);
    assert_eq!(case.world.job_state(other.job), "succeeded");
}
