//! What one that was given up holds, until its agent has said that it has ended.

use berth_model::{AllocationState, EndCause, JobKind, NodeSpec, OnReturn};

use super::{Case, RUNS, WARMS_UP, ended, job_named, spec};
use crate::tests::restores::{orphans, restored, take_stock};
use crate::tests::world::{World, exited, node_spec, submit};
use crate::{Command, EventKind, JobChange, Observed, Reply, Stock, Unknown};

#[test]
fn f30_what_has_no_room_any_more_is_told_to_end_and_counts_until_it_has() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let mut smaller = node_spec("node-0", 2);
    smaller.devices.remove(0);
    case.world.now += 1_000;
    case.register(smaller);
    let cpu = |case: &Case| case.world.state.nodes().get(&case.silent).unwrap().used.cpu.0;
    assert!(cpu(&case) > 0, "its worker may run on");
    let leaving = case.leaving(case.silent);
    assert!(leaving[0].1.contains("no room"), "{leaving:?}");
    let told = |event: &crate::Event| {
        event.allocation == Some(case.original)
            && matches!(&event.kind, EventKind::AllocationStopping { reason } if reason.contains("no room"))
    };
    assert!(case.world.events.iter().any(told));
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!((cpu(&case), case.leaving(case.silent).len()), (0, 0));
}

#[test]
fn f30_what_is_to_end_takes_no_room_from_what_lives() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let job = case.original.job;
    let change = JobChange::Restart;
    case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    case.comes_back();
    let node = case.silent;
    // Beside what ends there is room, until the inventory shrinks.
    let other = case.world.submit(&job_named("b"));
    let placement = case.world.placement(other, 0, node);
    let placed = case.world.one(Command::Place { placements: vec![placement] }).unwrap();
    let Reply::Placed { granted, .. } = placed else { panic!("unexpected {placed:?}") };
    let mut smaller = node_spec("node-0", 2);
    smaller.cpu = case.row(granted[0]).unwrap().claim.cpu;
    case.register(smaller);
    assert_eq!(case.row(granted[0]).unwrap().state, AllocationState::Planned);
}

#[test]
fn f30_what_the_job_does_not_want_any_more_ends() {
    let change = |change| {
        move |case: &mut Case| {
            let job = case.original.job;
            case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
        }
    };
    let update = |case: &mut Case| {
        let mut newer = spec(JobKind::Service, OnReturn::KeepOriginal);
        newer.tasks[0].command.push("newer".to_owned());
        case.world.one(submit(&newer, None)).unwrap();
    };
    let stop = change(JobChange::Stop { reason: "by hand".to_owned() });
    let restart = change(JobChange::Restart);
    type Act = Box<dyn FnOnce(&mut Case)>;
    let cases: [(&str, Act); 3] =
        [("stop", Box::new(stop)), ("restart", Box::new(restart)), ("update", Box::new(update))];
    for (what, act) in cases {
        let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
        act(&mut case);
        case.comes_back();
        case.says(RUNS);
        assert_eq!(case.live(), [], "{what}");
        assert_eq!(case.leaving(case.silent).len(), 1, "{what}");
        assert_eq!(case.used_gpus(case.silent), 1, "{what}");
        assert_eq!(case.says(Observed::Ended(exited(0))), 1, "{what}");
        assert_eq!(case.used_gpus(case.silent), 0, "{what}");
    }
}

#[test]
fn f30_what_is_exclusive_or_had_not_begun_does_not_come_back() {
    let mut exclusive = spec(JobKind::Batch, OnReturn::KeepOriginal);
    exclusive.exclusive = true;
    let mut case = Case::new(&exclusive);
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(case.silent)), (0, 1));
    assert_eq!(case.leaving(case.silent).len(), 1);
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.world.job_state(case.original.job), "succeeded", "before its lease was over");

    let mut case = Case::new(&exclusive);
    let rival = case.replace();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.live(), [rival], "one that lives is not given up");

    let mut world = World::new(1);
    let id = world.submit(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let original = world.place(id, 0).unwrap();
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(case.silent)), (0, 1));
    assert_eq!(case.leaving(case.silent).len(), 1);
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!((case.live().len(), case.used_gpus(case.silent)), (0, 0));
}

#[test]
fn f30_of_a_node_that_is_silent_again_only_an_end_is_believed() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    case.comes_back();
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    case.world.one(Command::DisconnectNode { node, session }).unwrap();
    assert_eq!((case.says(RUNS), case.used_gpus(node)), (0, 0));
    assert_eq!(case.says(ended(EndCause::Exited)), 1);
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(node), case.live().len()), (0, 0, 0));
}

#[test]
fn f30_a_device_that_has_moved_meanwhile_is_not_given_twice() {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    case.world.one(Command::DownNode { node, session }).unwrap();
    assert_eq!(case.used_gpus(node), 0, "nothing counts on a node that is down");
    let was = node_spec("node-0", 2);
    let mut other = node_spec("node-1", 0);
    other.devices = was.devices.clone();
    let register = Command::RegisterNode {
        name: crate::tests::world::name("node-1"),
        instance_key: [1; 16],
        spec: other.into(),
    };
    assert!(matches!(case.world.one(register), Ok(Reply::Registered { .. })));
    let again = case.replace();
    let row = case.row(again).unwrap();
    let (moved_to, uuid) = (row.node, row.claim.devices[0].uuid.clone());
    assert_ne!(moved_to, node);
    assert_eq!(uuid, was.devices[0].uuid, "the device that the original had");
    case.world.observe(again, RUNS);
    case.register(NodeSpec { devices: Vec::new(), ..was });
    assert_eq!((case.says(RUNS), case.used_gpus(node)), (0, 0));
    assert_eq!((case.live(), case.used_gpus(moved_to)), (vec![again], 1));
    assert_eq!(case.leaving(node).len(), 1, "its worker is to end");
}

#[test]
fn f30_what_the_agent_no_longer_knows_is_forgotten() {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    case.comes_back();
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    let orphans = vec![case.original];
    case.world.one(Command::ForgetOrphans { node, session, orphans }).unwrap();
    assert_eq!(case.used_gpus(node), 0);
    case.world.now += 5_000;
    let again = case.replace();
    assert_eq!(case.row(again).map(|row| row.state), Some(AllocationState::Planned));
}

#[test]
fn f30_of_what_nobody_can_be_told_an_operator_is() {
    let backup = World::new(2);
    let mut world = restored(&backup.state);
    for number in 0..2 {
        take_stock(&mut world, number, Stock { complete: true, ..Stock::default() }).unwrap();
        world.register(number);
    }
    world.now += 600_000;
    let job = world.submit(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let original = world.place(job, 0).unwrap();
    world.observe(original, RUNS);
    let row = world.state.allocations().get(&original).unwrap().clone();
    let mut case = Case { world, original, silent: row.node };
    case.lose();
    let change = JobChange::Stop { reason: "by hand".to_owned() };
    case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    case.world.now += crate::retention::JOBS_KEPT.0;
    case.world.one(Command::Reap { jobs: vec![job], nodes: vec![], keys: vec![] }).unwrap();
    assert!(case.world.state.jobs().get(&job).is_none());
    assert_eq!(case.leaving(case.silent), [], "its agent could not make sense of it");
    let worker = Unknown {
        allocation: original,
        namespace: "default".to_owned(),
        job_name: "a".to_owned(),
        spec_digest: row.spec_digest,
        claim: row.claim.clone(),
    };
    let stock = Stock { unknown: vec![worker], complete: true, ..Stock::default() };
    take_stock(&mut case.world, 0, stock).unwrap();
    case.world.register(0);
    assert_eq!(orphans(&case.world).into_keys().collect::<Vec<_>>(), [original]);
    assert_eq!(case.used_gpus(case.silent), 1);
}

#[test]
fn f30_a_replica_that_is_back_and_ready_is_progress_of_its_version() {
    let mut world = World::new(2);
    let first = spec(JobKind::Service, OnReturn::KeepOriginal);
    let job = world.submit(&first);
    let mut newer = first.clone();
    newer.tasks[0].command.push("newer".to_owned());
    world.one(submit(&newer, None)).unwrap();
    let original = world.place(job, 0).unwrap();
    world.observe(original, WARMS_UP);
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.comes_back();
    case.says(RUNS);
    let rollout = case.world.state.jobs().get(&job).unwrap().rollout.unwrap();
    assert_eq!((rollout.ready_max, rollout.progressed_at.0), (1, case.world.now));
}
