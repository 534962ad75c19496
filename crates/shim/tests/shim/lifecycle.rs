//! From start to retire: exit codes, refusals, failed starts, lanes.

use berth_shim::lane::read_lane_records;
use berth_shim::protocol::{Phase, RefusalCode, SignalScope, StartRequest};
use berth_shim::{Event, ExitRecord, read_exit_record};

use crate::rig::{ID, PATIENCE, Rig, ended, phase, refusal, spawn, stop};

fn shell(rig: &Rig, script: &str) -> StartRequest {
    rig.request(&["/bin/sh", "-c", script])
}

#[test]
fn exit_codes_and_signals_are_told_and_recorded() {
    for (script, exit_code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 255", Some(255), None),
        ("kill -SEGV $$", None, Some(11)),
    ] {
        let mut rig = Rig::new();
        let record = rig.run(shell(&rig, script));
        assert_eq!((record.exit_code, record.signal), (exit_code, signal), "{script}");
        assert_eq!(read_exit_record(&rig.path("record")).unwrap(), record, "{script}");
        assert!(!record.stop_requested && !record.killed_after_grace && !record.oom_killed);
        assert!(
            record.started_at_unix_ms > 0
                && record.started_at_unix_ms <= record.main_ended_at_unix_ms
        );
        assert!(record.main_ended_at_unix_ms <= record.finished_at_unix_ms);
        assert!(record.resident_bytes_max > 0);
    }
}

#[test]
fn a_start_that_cannot_work_is_an_end_with_a_reason() {
    let check = |change: &dyn Fn(&Rig, &mut StartRequest), reason: &str| {
        let mut rig = Rig::new();
        let mut request = rig.request(&["/bin/true"]);
        change(&rig, &mut request);
        let state = rig.shim.start(request).unwrap();
        assert_eq!(phase(&state), Phase::Ended);
        assert_eq!(state.record.as_ref().unwrap().start_error.as_deref(), Some(reason));
        assert_eq!(read_exit_record(&rig.path("record")).unwrap(), state.record.unwrap());
        rig.shim.retire(ID).unwrap();
    };
    let command = |words: &'static [&'static str]| {
        move |_: &Rig, request: &mut StartRequest| {
            request.command = words.iter().map(|word| (*word).to_owned()).collect()
        }
    };
    check(&command(&["/no/such"]), "cannot execute `/no/such`: no such file or directory");
    check(
        &command(&["no-such-program"]),
        "cannot execute `no-such-program`: no such file or directory",
    );
    check(&command(&["/etc/passwd"]), "cannot execute `/etc/passwd`: permission denied");
    check(
        &|rig, request| {
            std::fs::write(rig.path("garbage"), b"\x7fnot a program").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(rig.path("garbage"), mode).unwrap();
            request.command = vec!["./garbage".to_owned()];
            request.working_dir = rig.path("").to_str().unwrap().to_owned();
        },
        "cannot execute `./garbage`: exec format error",
    );
    check(
        &|_, request| request.working_dir = "/no/such".to_owned(),
        "cannot enter working directory `/no/such`: no such file or directory",
    );
    check(
        &|_, request| request.working_dir = "/etc/passwd".to_owned(),
        "cannot enter working directory `/etc/passwd`: not a directory",
    );
}

#[test]
fn impossible_requests_are_refused_and_nothing_is_held() {
    let mut rig = Rig::new();
    let changes: [fn(&mut StartRequest); 6] = [
        |request| request.allocation_id.clear(),
        |request| request.command.clear(),
        |request| request.working_dir = "relative".to_owned(),
        |request| request.stdout_path = "relative".to_owned(),
        |request| request.env[0].name = "A=B".to_owned(),
        |request| request.env[0].value = "a\0b".to_owned(),
    ];
    for change in changes {
        let mut request = rig.request(&["/bin/true"]);
        change(&mut request);
        assert_eq!(refusal(rig.shim.start(request)), RefusalCode::BadRequest);
    }
    rig.reconnect();
    assert_eq!(phase(rig.shim.hello().state.as_ref().unwrap()), Phase::Idle);
}

#[test]
fn a_second_start_is_no_second_process() {
    let mut rig = Rig::new();
    let first = rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let second = rig.shim.start(rig.worker("hold", &[])).unwrap();
    assert_eq!((second.pid, second.start_ticks), (worker.pid, first.start_ticks));
    assert_eq!(rig.shim.stats(ID).unwrap().process_count, 1);
    worker.exit(0);
    ended(&mut rig.shim, ID);
    let third = rig.shim.start(rig.worker("hold", &[])).unwrap();
    assert_eq!(phase(&third), Phase::Ended, "an ended allocation answers its end");
    rig.shim.retire(ID).unwrap();
    assert_eq!(refusal(rig.shim.start(rig.worker("hold", &[]))), RefusalCode::AlreadyEnded);
}

#[test]
fn an_allocation_with_a_record_never_starts_again_under_another_shim() {
    let mut rig = Rig::new();
    rig.run(shell(&rig, "exit 0"));
    let mut other = spawn(&rig.path("shims/1")).unwrap();
    assert_eq!(refusal(other.start(shell(&rig, "exit 1"))), RefusalCode::AlreadyEnded);
    std::fs::write(rig.path("record/exit"), b"garbled").unwrap();
    assert_eq!(refusal(other.start(shell(&rig, "exit 1"))), RefusalCode::RecordUnavailable);
    other.exit().unwrap();
}

#[test]
fn every_request_for_another_allocation_is_refused() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let worker = rig.report();
    let other = "8.main.0.1";
    let shim = &mut rig.shim;
    assert_eq!(refusal(shim.signal(other, 9, SignalScope::Tree)), RefusalCode::WrongAllocation);
    let stop_other =
        berth_shim::protocol::StopRequest { allocation_id: other.to_owned(), ..stop(0) };
    assert_eq!(refusal(shim.stop(stop_other)), RefusalCode::WrongAllocation);
    assert_eq!(refusal(shim.stats(other)), RefusalCode::WrongAllocation);
    assert_eq!(refusal(shim.attach(other)), RefusalCode::WrongAllocation);
    assert_eq!(refusal(shim.wait(other)), RefusalCode::WrongAllocation);
    assert_eq!(refusal(shim.retire(other)), RefusalCode::WrongAllocation);
    assert_eq!(refusal(shim.retire(ID)), RefusalCode::NotEnded);
    let request = StartRequest { allocation_id: other.to_owned(), ..rig.worker("hold", &[]) };
    assert_eq!(refusal(rig.shim.start(request)), RefusalCode::Busy);
    rig.reconnect();
    assert_eq!(
        rig.shim.hello().state.as_ref().unwrap().pid,
        worker.pid,
        "the worker was not touched"
    );
}

#[test]
fn signals_reach_the_main_process() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let worker = rig.report();
    assert_eq!(refusal(rig.shim.signal(ID, 500, SignalScope::Main)), RefusalCode::BadRequest);
    rig.shim.signal(ID, 10, SignalScope::Main).unwrap();
    worker.await_end();
    let record = ended(&mut rig.shim, ID);
    assert_eq!((record.exit_code, record.signal), (None, Some(10)));
    assert_eq!(refusal(rig.shim.signal(ID, 10, SignalScope::Main)), RefusalCode::NotRunning);
}

#[test]
fn a_lane_runs_many_and_keeps_the_last_ends() {
    let mut rig = Rig::new();
    rig.shim.attach("").unwrap();
    let mut previous = String::new();
    for index in 0..40 {
        let id = format!("9.lane.{index}.1");
        let request = StartRequest {
            allocation_id: id.clone(),
            record_dir: String::new(),
            retire_allocation_id: previous,
            ..shell(&rig, &format!("exit {index}"))
        };
        rig.shim.start(request).unwrap();
        let record = next_end(&mut rig);
        assert_eq!((record.allocation_id.as_str(), record.exit_code), (id.as_str(), Some(index)));
        previous = id;
    }
    let kept = read_lane_records(&rig.path("shims/0")).unwrap();
    assert_eq!(kept.len(), 32);
    let expected: Vec<_> =
        (8..40).map(|index| (format!("9.lane.{index}.1"), Some(index))).collect();
    let kept: Vec<_> =
        kept.into_iter().map(|record| (record.allocation_id, record.exit_code)).collect();
    assert_eq!(kept, expected);
    let again = StartRequest { allocation_id: "9.lane.3.1".to_owned(), ..shell(&rig, "exit 0") };
    assert_eq!(refusal(rig.shim.start(again)), RefusalCode::AlreadyEnded);
}

fn next_end(rig: &mut Rig) -> ExitRecord {
    loop {
        if let Event::Ended(state) = rig.shim.next_event(Some(PATIENCE)).unwrap().expect("it ends")
        {
            return state.record.unwrap();
        }
    }
}

#[test]
fn a_record_that_cannot_be_written_is_kept_and_tried_again() {
    let mut rig = Rig::new();
    rig.shim.attach("").unwrap();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    std::fs::remove_dir(rig.path("record")).unwrap();
    worker.exit(5);
    let state = crate::rig::await_phase(&mut rig.shim, Phase::Recording);
    assert_eq!(state.record_error, "no such file or directory");
    assert_eq!(state.record.unwrap().exit_code, Some(5));
    assert_eq!(refusal(rig.shim.retire(ID)), RefusalCode::NotEnded);
    std::fs::create_dir(rig.path("record")).unwrap();
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(5));
    assert_eq!(read_exit_record(&rig.path("record")).unwrap().exit_code, Some(5));
}
