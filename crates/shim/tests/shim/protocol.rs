//! `shim/1` byte by byte, and against peers that do not speak it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use berth_shim::ExitRecord;
use berth_shim::protocol::*;
use prost::Message;

use crate::rig::{ID, Rig, ended, refusal};

/// One line per message: its name and its bytes. Never edit a line; a new field is a new line.
const FIXTURES: &str = include_str!("../fixtures/shim-1.txt");

fn request(body: RequestBody) -> Request {
    Request { id: 300, body: Some(body) }
}

fn answer(body: ServerBody) -> ServerMessage {
    ServerMessage { reply_to: 300, body: Some(body) }
}

fn start() -> StartRequest {
    StartRequest {
        allocation_id: ID.to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned()],
        env: vec![EnvironmentVariable { name: "A".to_owned(), value: "b".to_owned() }],
        working_dir: "/w".to_owned(),
        stdout_path: "/o".to_owned(),
        stderr_path: "/e".to_owned(),
        logs: Some(LogLimits { file_bytes_max: 1, file_count: 2, bytes_per_second: 3 }),
        umask: Some(0o27),
        stop: Some(StopSettings {
            signal: Some(2),
            grace_ms: Some(500),
            leftover_grace_ms: Some(0),
            unkillable_after_ms: Some(7),
        }),
        user: Some(UserIds { uid: 1000, gid: 1001 }),
        limits: vec![ResourceLimit {
            resource: Resource::OpenFiles.into(),
            soft: 1,
            hard: u64::MAX,
        }],
        cgroup_dirs: vec!["/c".to_owned()],
        record_dir: "/r".to_owned(),
        oom_score_adjust: Some(-5),
        retire_allocation_id: "6".to_owned(),
        ..StartRequest::default()
    }
}

fn record() -> ExitRecord {
    ExitRecord {
        version: 1,
        allocation_id: ID.to_owned(),
        exit_code: Some(0),
        signal: Some(9),
        start_error: Some("x".to_owned()),
        started_at_unix_ms: 1,
        finished_at_unix_ms: 2,
        main_ended_at_unix_ms: 3,
        stderr_tail: vec![0xff],
        log_bytes_dropped: 4,
        cpu_time_us: 5,
        resident_bytes_max: 6,
        oom_killed: true,
        stop_requested: true,
        killed_after_grace: true,
        leftover_count: 7,
        boot_id: "b".to_owned(),
        lane_sequence: 8,
        ..ExitRecord::default()
    }
}

fn state() -> AllocationState {
    AllocationState {
        allocation_id: ID.to_owned(),
        phase: Phase::Unkillable.into(),
        pid: 1,
        start_ticks: 2,
        started_at_unix_ms: 3,
        record: Some(record()),
        surviving: vec![SurvivingProcess { pid: 4, state: "D".to_owned() }],
        record_error: "full".to_owned(),
        lease_ends_at_boot_ms: None,
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let allocation_id = || ID.to_owned();
    let scope = SignalScope::Tree.into();
    let leased = StartRequest { lease_ends_at_boot_ms: Some(9), ..start() };
    vec![
        ("hello", request(RequestBody::Hello(HelloRequest { protocol: 1 }))),
        ("start", request(RequestBody::Start(start()))),
        (
            "signal",
            request(RequestBody::Signal(SignalRequest {
                allocation_id: allocation_id(),
                signal: 15,
                scope,
            })),
        ),
        (
            "stop",
            request(RequestBody::Stop(StopRequest {
                allocation_id: allocation_id(),
                signal: Some(2),
                grace_ms: Some(0),
            })),
        ),
        ("stats", request(RequestBody::Stats(StatsRequest { allocation_id: allocation_id() }))),
        ("attach", request(RequestBody::Attach(AttachRequest { allocation_id: allocation_id() }))),
        ("wait", request(RequestBody::Wait(WaitRequest { allocation_id: allocation_id() }))),
        ("retire", request(RequestBody::Retire(RetireRequest { allocation_id: allocation_id() }))),
        ("exit", request(RequestBody::Exit(ExitRequest {}))),
        ("start-leased", request(RequestBody::Start(leased))),
        (
            "lease",
            request(RequestBody::Lease(LeaseRequest {
                allocation_id: allocation_id(),
                ends_at_boot_ms: 10,
            })),
        ),
    ]
}

fn answers() -> Vec<(&'static str, ServerMessage)> {
    let hello = HelloReply {
        protocol: 1,
        version: "0.1.0".to_owned(),
        pid: 1,
        start_ticks: 2,
        boot_id: "b".to_owned(),
        state: Some(AllocationState::default()),
    };
    let stats = StatsReply {
        allocation_id: ID.to_owned(),
        cpu_time_us: 1,
        resident_bytes: 2,
        process_count: 3,
        log_bytes_dropped: 4,
    };
    let refusal = Refusal {
        code: RefusalCode::Busy.into(),
        message: "m".to_owned(),
        held_allocation_id: ID.to_owned(),
    };
    let unleased = ExitRecord { lease_ended: true, ..record() };
    let leased =
        AllocationState { lease_ends_at_boot_ms: Some(11), record: Some(unleased), ..state() };
    vec![
        ("hello-reply", answer(ServerBody::Hello(hello))),
        ("state", answer(ServerBody::State(state()))),
        ("stats-reply", answer(ServerBody::Stats(stats))),
        ("done", answer(ServerBody::Done(Done {}))),
        ("refused", answer(ServerBody::Refused(refusal))),
        ("started", answer(ServerBody::Started(state()))),
        ("changed", answer(ServerBody::Changed(state()))),
        ("ended", answer(ServerBody::Ended(state()))),
        ("state-leased", answer(ServerBody::State(leased))),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_message_has_its_frozen_bytes() {
    let encoded_requests =
        requests().into_iter().map(|(name, message)| (name, message.encode_to_vec()));
    let encoded_answers =
        answers().into_iter().map(|(name, message)| (name, message.encode_to_vec()));
    let actual: Vec<String> = encoded_requests
        .chain(encoded_answers)
        .map(|(name, bytes)| format!("{name} {}", hex(&bytes)))
        .collect();
    assert_eq!(actual, FIXTURES.lines().collect::<Vec<_>>(), "\n{}\n", actual.join("\n"));
}

#[test]
fn the_frozen_bytes_are_read_back() {
    let bytes = |name: &str| -> Vec<u8> {
        let hex = FIXTURES.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    };
    for (name, message) in requests() {
        assert_eq!(Request::decode(bytes(name).as_slice()).unwrap(), message);
    }
    for (name, message) in answers() {
        assert_eq!(ServerMessage::decode(bytes(name).as_slice()).unwrap(), message);
    }
}

#[test]
fn the_numbers_of_every_enumeration_are_frozen() {
    let phases = [
        Phase::Idle,
        Phase::Running,
        Phase::Stopping,
        Phase::Clearing,
        Phase::Unkillable,
        Phase::Recording,
        Phase::Ended,
    ];
    assert_eq!(phases.map(i32::from), [0, 1, 2, 3, 4, 5, 6]);
    let codes = [
        RefusalCode::BadRequest,
        RefusalCode::UnsupportedProtocol,
        RefusalCode::WrongAllocation,
        RefusalCode::Busy,
        RefusalCode::NotRunning,
        RefusalCode::NotEnded,
        RefusalCode::AlreadyEnded,
        RefusalCode::RecordUnavailable,
        RefusalCode::UnknownRequest,
    ];
    assert_eq!(codes.map(i32::from), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!([SignalScope::Main, SignalScope::Tree].map(i32::from), [0, 1]);
}

#[test]
fn bytes_that_are_no_protocol_harm_nobody() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let mut worker = rig.report();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..300 {
        let mut stream = UnixStream::connect(rig.path("shims/0/shim.sock")).unwrap();
        let mut noise: Vec<u8> = (0..round)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[0]
            })
            .collect();
        if round % 2 == 0 && noise.len() > 4 {
            // A fitting length, so that the noise reaches the decoder.
            let body = u32::try_from(noise.len() - 4).unwrap();
            noise[..4].copy_from_slice(&body.to_le_bytes());
        }
        // The shim may have closed the connection before all was written.
        let _ = stream.write_all(&noise);
    }
    rig.reconnect();
    assert_eq!(rig.shim.hello().state.as_ref().unwrap().pid, worker.pid);
    worker.exit(1);
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(1));
}

#[test]
fn a_frame_too_long_is_answered_and_closes_only_its_connection() {
    let mut rig = Rig::new();
    let mut stream = UnixStream::connect(rig.path("shims/0/shim.sock")).unwrap();
    stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let message = ServerMessage::decode(&reply[4..]).unwrap();
    match message.body {
        Some(ServerBody::Refused(refused)) => assert_eq!(refused.code(), RefusalCode::BadRequest),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.run(rig.request(&["/bin/true"])).exit_code, Some(0));
}

#[test]
fn what_a_later_client_asks_is_refused_by_kind() {
    let mut rig = Rig::new();
    let id = rig.shim.send(RequestBody::Hello(HelloRequest { protocol: 2 })).unwrap();
    crate::rig::await_readable(&rig.shim);
    let message = rig.shim.try_receive().unwrap().unwrap();
    assert_eq!(message.reply_to, id);
    match message.body {
        Some(ServerBody::Refused(refused)) => {
            assert_eq!(refused.code(), RefusalCode::UnsupportedProtocol)
        }
        other => panic!("{other:?}"),
    }
    // Field 100, a message that this shim has never heard of.
    let mut stream = UnixStream::connect(rig.path("shims/0/shim.sock")).unwrap();
    stream.write_all(&[5, 0, 0, 0, 0x08, 0x05, 0xa2, 0x06, 0x00]).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
    stream.read_exact(&mut body).unwrap();
    let message = ServerMessage::decode(body.as_slice()).unwrap();
    assert_eq!(message.reply_to, 5);
    match message.body {
        Some(ServerBody::Refused(refused)) => {
            assert_eq!(refused.code(), RefusalCode::UnknownRequest)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ninth_connection_replaces_the_oldest() {
    let mut rig = Rig::new();
    let mut later: Vec<_> =
        (0..8).map(|_| berth_shim::ShimHandle::connect(&rig.path("shims/0")).unwrap()).collect();
    assert!(matches!(rig.shim.attach(""), Err(berth_shim::ShimError::Closed { .. })));
    assert_eq!(refusal(later[7].retire(ID)), RefusalCode::WrongAllocation);
}
