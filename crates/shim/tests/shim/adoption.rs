//! Agents come and go; shims, workers and exit codes stay.

use std::time::Duration;

use berth_shim::protocol::{Phase, RefusalCode, RequestBody, ServerBody, WaitRequest};
use berth_shim::{
    ProcessIdentity, ShimError, ShimHandle, read_exit_record, remove_stale_socket, scan,
};
use rustix::process::Signal;

use crate::rig::{
    ID, PATIENCE, Rig, await_death, await_phase, await_readable, ended, phase, refusal, spawn,
};

fn identity(shim: &ShimHandle) -> ProcessIdentity {
    let hello = shim.hello();
    ProcessIdentity {
        pid: hello.pid,
        start_ticks: hello.start_ticks,
        boot_id: hello.boot_id.clone(),
    }
}

#[test]
fn a_new_client_adopts_the_same_process_and_gets_its_code() {
    let mut rig = Rig::new();
    let started = rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let shim = identity(&rig.shim);
    rig.reconnect();
    assert_eq!(identity(&rig.shim), shim);
    let held = rig.shim.hello().state.clone().unwrap();
    assert_eq!(
        (held.allocation_id.as_str(), held.pid, held.start_ticks),
        (ID, worker.pid, started.start_ticks)
    );
    worker.exit(42);
    assert_eq!(rig.shim.wait(ID).unwrap().record.unwrap().exit_code, Some(42));
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(42));
}

#[test]
fn an_end_without_any_client_is_recorded_and_told_later() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let other_dir = rig.path("shims/1");
    // Replacing the only connection leaves the shim without one.
    rig.shim = spawn(&other_dir).unwrap();
    let main = ProcessIdentity::of(worker.pid).unwrap();
    worker.exit(3);
    await_death(&main);
    let mut found = scan(&rig.path("shims"), PATIENCE).unwrap();
    assert_eq!(found.len(), 2);
    let mut shim = found.remove(0).shim.unwrap();
    assert_eq!(ended(&mut shim, ID).exit_code, Some(3));
    assert_eq!(read_exit_record(&rig.path("record")).unwrap().exit_code, Some(3));
    shim.retire(ID).unwrap();
    shim.exit().unwrap();
}

#[test]
fn terminating_signals_do_not_end_a_shim() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let shim = identity(&rig.shim);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1] {
        assert!(shim.signal(signal).unwrap());
    }
    rig.reconnect();
    assert_eq!(identity(&rig.shim), shim);
    worker.exit(6);
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(6));
}

#[test]
fn a_shim_is_nobodys_child_and_leads_its_session() {
    let rig = Rig::new();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.shim.hello().pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    assert_ne!(fields[1], std::process::id().to_string(), "the parent is not the starter");
    assert_eq!(fields[3], rig.shim.hello().pid.to_string(), "the session is its own");
}

#[test]
fn one_directory_has_one_shim() {
    let rig = Rig::new();
    match spawn(&rig.path("shims/0")) {
        Err(ShimError::NotStarted { message }) => {
            assert!(message.contains("another shim serves this directory"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn killed_and_hanging_shims_are_told_apart_and_replaced() {
    let mut rig = Rig::new();
    let hanging = spawn(&rig.path("shims/1")).unwrap();
    let killed = spawn(&rig.path("shims/2")).unwrap();
    std::fs::create_dir(rig.path("shims/3")).unwrap();
    identity(&hanging).signal(Signal::STOP).unwrap();
    identity(&killed).signal(Signal::KILL).unwrap();
    await_death(&identity(&killed));
    let found = scan(&rig.path("shims"), Duration::from_millis(200)).unwrap();
    assert_eq!(found.len(), 3);
    assert!(found[0].shim.is_ok());
    assert!(matches!(found[1].shim, Err(ShimError::TimedOut { .. })));
    assert!(matches!(found[2].shim, Err(ShimError::Stale { .. })));
    identity(&hanging).signal(Signal::KILL).unwrap();

    assert!(remove_stale_socket(&rig.path("shims/0")).is_err(), "a serving shim keeps its socket");
    remove_stale_socket(&rig.path("shims/2")).unwrap();
    assert!(matches!(ShimHandle::connect(&rig.path("shims/2")), Err(ShimError::Absent { .. })));
    await_death(&identity(&hanging));
    rig.shim = spawn(&rig.path("shims/1")).expect("a stale socket does not hinder a new shim");
    assert_eq!(phase(rig.shim.hello().state.as_ref().unwrap()), Phase::Idle);
}

#[test]
fn a_directory_longer_than_a_socket_address_works() {
    let rig = Rig::new();
    let dir = rig.path(&format!("shims/{}", "long-name/".repeat(20)));
    let shim = spawn(&dir).unwrap();
    assert!(dir.to_str().unwrap().len() > 200);
    ShimHandle::connect(&dir).unwrap();
    shim.exit().unwrap();
}

#[test]
fn an_idle_shim_leaves_with_its_directory_and_a_busy_one_stays() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let idle = spawn(&rig.path("shims/1")).unwrap();
    let busy = identity(&rig.shim);
    std::fs::remove_dir_all(rig.path("shims")).unwrap();
    await_death(&identity(&idle));
    assert!(busy.open().unwrap().is_some());
    worker.exit(8);
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(8));
    assert_eq!(read_exit_record(&rig.path("record")).unwrap().exit_code, Some(8));
}

#[test]
fn an_exit_leaves_no_socket() {
    let rig = Rig::new();
    let shim = spawn(&rig.path("shims/1")).unwrap();
    let process = identity(&shim);
    shim.exit().unwrap();
    await_death(&process);
    assert!(matches!(ShimHandle::connect(&rig.path("shims/1")), Err(ShimError::Absent { .. })));
}

#[test]
fn every_attached_client_hears_the_end_and_a_retire_may_be_repeated() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let mut other = ShimHandle::connect(&rig.path("shims/0")).unwrap();
    let waiting =
        other.send(RequestBody::Wait(WaitRequest { allocation_id: ID.to_owned() })).unwrap();
    let mut third = ShimHandle::connect(&rig.path("shims/0")).unwrap();
    third.attach("").unwrap();
    rig.shim.attach(ID).unwrap();
    worker.exit(9);
    for shim in [&mut rig.shim, &mut third] {
        let state = await_phase(shim, Phase::Ended);
        assert_eq!(state.record.unwrap().exit_code, Some(9));
    }
    await_readable(&other);
    let answer = other.try_receive().unwrap().unwrap();
    assert_eq!(answer.reply_to, waiting);
    assert!(matches!(answer.body, Some(ServerBody::State(state)) if phase(&state) == Phase::Ended));
    rig.shim.retire(ID).unwrap();
    third.retire(ID).expect("its answer may have been lost");
    assert_eq!(refusal(other.wait(ID)), RefusalCode::WrongAllocation);
}
