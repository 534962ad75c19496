//! Nothing of a tree is left, however it was forked.

use berth_shim::protocol::{Phase, SignalScope};
use berth_shim::{kill_all, processes_of};

use crate::rig::{ID, PATIENCE, Rig, await_phase, ended, stop, stop_settings};

#[test]
fn a_stop_ends_a_grandchild_of_another_session() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("detach", &["hold"])).unwrap();
    let (first, second) = (rig.report(), rig.report());
    assert_eq!(rig.shim.stats(ID).unwrap().process_count, 2);
    rig.shim.stop(stop(60_000)).unwrap();
    first.await_end();
    second.await_end();
    let record = ended(&mut rig.shim, ID);
    assert_eq!(record.signal, Some(15));
    assert!(record.stop_requested && !record.killed_after_grace);
    assert_eq!(processes_of(&rig.mark()).unwrap(), []);
}

#[test]
fn an_end_by_itself_takes_the_grandchild_along() {
    for (kind, killed) in [("hold", false), ("hold-deaf", true)] {
        let mut rig = Rig::new();
        let mut request = rig.worker("detach", &[kind]);
        request.stop = Some(stop_settings(if killed { 1 } else { 60_000 }));
        let main_pid = rig.shim.start(request).unwrap().pid;
        rig.shim.attach(ID).unwrap();
        let (one, two) = (rig.report(), rig.report());
        let (mut main, grandchild) = if one.pid == main_pid { (one, two) } else { (two, one) };
        main.exit(4);
        let state = await_phase(&mut rig.shim, Phase::Clearing);
        assert_eq!(state.record.unwrap().exit_code, Some(4), "the code is known before the end");
        grandchild.await_end();
        let record = ended(&mut rig.shim, ID);
        assert_eq!((record.exit_code, record.leftover_count), (Some(4), 1));
        assert_eq!(record.killed_after_grace, killed);
        assert!(!record.stop_requested);
        assert_eq!(processes_of(&rig.mark()).unwrap(), []);
    }
}

#[test]
fn without_a_mark_parent_links_find_the_grandchild() {
    let mut rig = Rig::new();
    let mut request = rig.worker("detach", &["hold-deaf"]);
    request.env.clear();
    request.record_dir.clear();
    request.stop = Some(stop_settings(1));
    let main_pid = rig.shim.start(request).unwrap().pid;
    let (one, two) = (rig.report(), rig.report());
    let (mut main, grandchild) = if one.pid == main_pid { (one, two) } else { (two, one) };
    main.exit(0);
    let record = ended(&mut rig.shim, ID);
    grandchild.await_end();
    assert_eq!((record.exit_code, record.leftover_count), (Some(0), 1));
    assert!(record.killed_after_grace);
}

#[test]
fn a_deaf_worker_is_killed_after_the_grace() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold-deaf", &[])).unwrap();
    let worker = rig.report();
    rig.shim.stop(stop(60_000)).unwrap();
    let state = rig.shim.stop(stop(20)).unwrap();
    assert_eq!(
        Phase::try_from(state.phase),
        Ok(Phase::Stopping),
        "the second stop shortens the grace"
    );
    worker.await_end();
    let record = ended(&mut rig.shim, ID);
    assert_eq!(record.signal, Some(9));
    assert!(record.stop_requested && record.killed_after_grace);
}

#[test]
fn a_stopped_worker_still_gets_the_stop_signal() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let worker = rig.report();
    rig.shim.signal(ID, 19, SignalScope::Tree).unwrap();
    rig.shim.stop(stop(60_000)).unwrap();
    worker.await_end();
    assert_eq!(ended(&mut rig.shim, ID).signal, Some(15));
}

/// In the middle of an exec a process shows no environment, and so no mark.
#[test]
fn a_process_that_execs_without_end_is_found_each_time() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("restless", &[])).unwrap();
    let expected = processes_of(&rig.mark()).unwrap();
    assert_eq!(expected.len(), 1);
    for scan in 0..500 {
        assert_eq!(processes_of(&rig.mark()).unwrap(), expected, "scan {scan}");
    }
    assert_eq!(kill_all(&rig.mark(), PATIENCE).unwrap(), 1);
    assert_eq!(ended(&mut rig.shim, ID).signal, Some(9));
}

#[test]
fn without_its_shim_an_orphan_is_found_and_killed() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("detach", &["hold-deaf"])).unwrap();
    let (one, two) = (rig.report(), rig.report());
    let shim = berth_shim::ProcessIdentity::of(rig.shim.hello().pid).unwrap();
    assert!(shim.signal(rustix::process::Signal::KILL).unwrap());
    crate::rig::await_death(&shim);
    let mut found: Vec<u32> =
        processes_of(&rig.mark()).unwrap().iter().map(|process| process.pid).collect();
    let mut expected = vec![one.pid, two.pid];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let elsewhere = berth_shim::Mark { task_dir: Some("/elsewhere".to_owned()), ..rig.mark() };
    assert_eq!(
        kill_all(&elsewhere, PATIENCE).unwrap(),
        0,
        "the same id of another agent is not touched"
    );
    assert_eq!(kill_all(&rig.mark(), PATIENCE).unwrap(), 2);
    one.await_end();
    two.await_end();
    assert_eq!(processes_of(&rig.mark()).unwrap(), []);
}

#[test]
fn a_process_that_only_carries_the_mark_is_ended_too() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut main = rig.report();
    // As `exec` into a running allocation would: a child of somebody else with the same environment.
    let request = rig.worker("hold", &[]);
    let mut command = std::process::Command::new(crate::rig::EXE);
    command.args(&request.command[1..]).env_clear();
    command.envs(request.env.iter().map(|variable| (&variable.name, &variable.value)));
    let mut stranger = command.spawn().unwrap();
    let reported = rig.report();
    main.exit(0);
    reported.await_end();
    stranger.wait().unwrap();
    assert_eq!(ended(&mut rig.shim, ID).leftover_count, 1);
}
