use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{
    Artifact, Constraints, CpuMilli, Device, DeviceClaim, Driver, DurationMs, GpuRequest,
    HealthCheck, HealthProbe, JobId, JobKind, JobSpec, MemoryBytes, Name, NodeId, NodeSpec,
    PortClaim, PortRange, ShareMilli, SpecDigest, TaskIndex, TaskSpec,
};
use berth_proto::log::v1;
use berth_proto::log::v1::capture_record::Record;
use berth_state::decision::{
    Asked, GaveUp, Inputs, Made, NodeLoad, Scope, Seen, Stop, Waiting, WorkBounds,
};
use berth_state::{
    CLUSTER_VERSION_MAX, ClusterState, Command, Entry, Permit, Placement, Reservation, Right,
    Stored, SubmitJob, Table,
};
use proptest::prelude::*;
use prost::Message as _;

use super::frames::FrameWriter;
use super::keep::kept;
use super::names::{Gathered, in_row};
use super::*;
use crate::snapshot::v1::rows;
use crate::snapshot::v1::tests::fixture;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Everything that a job can say beside what a decision needs begins with `secret-`; what is
/// replaced on request begins with `name-`.
fn spec() -> JobSpec {
    let text = |text: &str| format!("secret-{text}");
    let health = HealthCheck {
        probe: HealthProbe::Http { path: "/secret-path".to_owned(), port: name("name-port") },
        interval: DurationMs(1),
        timeout: DurationMs(1),
        failures: 1,
        start_period: DurationMs(1),
    };
    let artifact = Artifact {
        source: "https://secret-host/x".to_owned(),
        checksum: None,
        to: "secret-to".to_owned(),
    };
    let task = TaskSpec {
        driver: Driver::Docker { image: text("image") },
        env: [("KEY".to_owned(), text("value"))].into(),
        workdir: Some(text("workdir")),
        artifacts: vec![artifact],
        health: Some(health),
        ports: vec![name("name-port"), name("master")],
        gpu: Some(GpuRequest { models: vec!["H100".to_owned()], ..GpuRequest::whole(1) }),
        count: 2,
        ..TaskSpec::new(name("name-task"), JobKind::Batch, vec![text("program"), text("argument")])
    };
    let constraints = Constraints {
        labels: [("name-label".to_owned(), "name-value".to_owned())].into(),
        pool: Some(name("name-pool")),
        node: Some(name("name-node")),
    };
    let spec = JobSpec::new(name("name-job"), name("name-space"), JobKind::Batch, vec![task]);
    JobSpec { constraints, ..spec }
}

fn node_spec() -> NodeSpec {
    let mut device = Device::new("name-GPU-1".to_owned(), 0, "NVIDIA H100", MemoryBytes(80 << 30));
    device.reason = "secret-reason".to_owned();
    NodeSpec {
        labels: [("name-label".to_owned(), "name-value".to_owned())].into(),
        pool: name("name-pool"),
        zone: name("name-zone"),
        cpu: CpuMilli(64_000),
        memory: MemoryBytes(256 << 30),
        devices: vec![device],
        ports: PortRange::DEFAULT,
        agent_version: "secret-agent".to_owned(),
        docker_version: "secret-docker".to_owned(),
        tasks_per_device_max: 4,
        address: "secret-address:1".to_owned(),
    }
}

fn state() -> ClusterState {
    let mut state = ClusterState::default();
    let key = Some("secret-idempotency".to_owned());
    let digest = SpecDigest([0x5e; 32]);
    let submit = SubmitJob { key, spec: Arc::new(spec()), digest, if_version: None };
    let node = Command::RegisterNode {
        name: name("name-node"),
        instance_key: *b"secret-sixteen-b",
        spec: Arc::new(node_spec()),
    };
    let cluster_id = *b"secret-cluster-i";
    let found = Command::Found { cluster_id, security: None };
    for (index, command) in (1..).zip([found, node, Command::Submit(submit)]) {
        let proposer = "secret-proposer".to_owned();
        let (state_ms, wall_ms) = (StateMs(5), WallMs(1_790_000_000_000));
        let entry = Entry { state_ms, wall_ms, proposer, commands: vec![command] };
        let applied = state.apply(index, &entry);
        assert!(applied.replies.iter().all(Result::is_ok), "{:?}", applied.replies);
    }
    state
}

/// Two decisions on two views that share all but one row.
fn capture() -> Capture {
    let view = state();
    let mut later = view.clone();
    let hold = berth_state::JobChange::Hold;
    let command = Command::ChangeJob { job: JobId(1), if_version: None, change: hold };
    let (state_ms, wall_ms, proposer) = (StateMs(6), WallMs(7), String::new());
    later.apply(4, &Entry { state_ms, wall_ms, proposer, commands: vec![command] });
    let header = CaptureHeader {
        writer: "0.1.0".to_owned(),
        cluster_version: 1,
        captured_at: WallMs(1_790_000_000_000),
        captured_ms: StateMs(9),
        applied_index: 4,
        cluster_id: Some(*b"secret-cluster-i"),
    };
    let decisions = vec![
        Captured { origin: Origin::Entry, decision: decision(view) },
        Captured { origin: Origin::Planner, decision: decision(later.clone()) },
        Captured {
            origin: Origin::Capture,
            decision: Decision { made: Made::default(), ..decision(later) },
        },
    ];
    Capture { header, decisions }
}

fn decision(view: ClusterState) -> Decision {
    let mut loads = Table::default();
    let load = NodeLoad { gpu_util_milli: Some(7), cpu_used: Some(CpuMilli(0)), ..<_>::default() };
    loads.insert(NodeId(1), Arc::new(load));
    let gpu = spec().tasks[0].gpu.clone();
    let gave_up = GaveUp {
        cpu: CpuMilli(1),
        memory: MemoryBytes(2),
        port_count: 3,
        in_container: true,
        gpu: gpu.clone(),
        constraints: spec().constraints,
        permit: Permit { lets_in: 5, lasts: Some(DurationMs(7)) },
        priority: 50,
        members: 4,
        by: Some((name("name-space"), Right::Guarantee)),
        until: StateMs(99),
    };
    let inputs = Inputs {
        view,
        now: StateMs(5),
        scope: Scope::Jobs(vec![JobId(1)]),
        bounds: WorkBounds {
            candidates_examined_max: 4096,
            placements_max: 64,
            reservations_max: 0,
        },
        loads,
        asked: vec![Asked { cpu: CpuMilli(100), gpu, instances: 2 }],
        gave_up: vec![gave_up],
        stop: Some(Stop { step: 2, seen: Some(Seen { first: 0, of: 1, count: 1 }) }),
    };
    Decision { inputs, made: made() }
}

fn made() -> Made {
    let placement = Placement {
        job: JobId(1),
        task: TaskIndex(0),
        instance: Default::default(),
        attempt: berth_model::Attempt::FIRST,
        node: NodeId(1),
        devices: vec![DeviceClaim {
            uuid: "name-GPU-1".to_owned(),
            share: ShareMilli::WHOLE,
            memory: MemoryBytes(80 << 30),
        }],
        ports: vec![
            PortClaim { name: name("name-port"), port: 20_000 },
            PortClaim { name: name("master"), port: 20_001 },
        ],
        score: Default::default(),
    };
    let awaits = vec![placement.allocation()];
    let waiting =
        Waiting { job: JobId(1), task: TaskIndex(0), placed: 1, left: 1, why: "budget".to_owned() };
    Made {
        placements: vec![placement.clone()],
        reservations: vec![Reservation { placement, awaits, patient: false }],
        waiting: vec![waiting],
        waiting_left_off: 2,
        next_wakeup: Some(StateMs(77)),
        held_back: true,
        exhausted: true,
    }
}

fn written(capture: &Capture, privacy: Privacy) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_capture(capture, privacy, &mut bytes).unwrap();
    bytes
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn a_capture_reads_back_as_what_was_written() {
    let capture = capture();
    let read = read_capture(written(&capture, Privacy::Named).as_slice()).unwrap();
    assert_eq!(read.header, capture.header);
    assert_eq!(read.decisions.len(), 3);
    for (read, written) in read.decisions.iter().zip(&capture.decisions) {
        assert_eq!(read.origin, written.origin);
        let (read, written) = (&read.decision, &written.decision);
        assert_eq!(read.made, written.made);
        let inputs = |one: &Decision| {
            let one = one.inputs.clone();
            let loads: Vec<_> = one.loads.iter().map(|(id, load)| (*id, **load)).collect();
            let index = one.view.applied_index();
            (index, one.now, one.scope, one.bounds, loads, one.asked, one.gave_up, one.stop)
        };
        assert_eq!(inputs(read), inputs(written));
        let rows: Vec<Stored> = read.inputs.view.rows().collect();
        let expected: Vec<Stored> =
            written.inputs.view.rows().filter_map(|row| kept(&row, &|_| false)).collect();
        assert_eq!(rows, expected);
    }
    // A row that has not changed is there once.
    let file = written(&capture, Privacy::Named);
    let count = |text: &[u8]| file.windows(text.len()).filter(|window| *window == text).count();
    assert_eq!((count(b"name-zone"), count(b"name-task")), (1, 2));
}

#[test]
fn what_no_decision_needs_is_never_written_nor_a_name_on_request() {
    let capture = capture();
    let named = written(&capture, Privacy::Named);
    assert!(has(&named, b"name-job"));
    assert!(!has(&named, &[0x5e; 32]), "a digest is a means to guess");
    let id = b"secret-cluster-i";
    let rest: Vec<u8> = {
        let at = named.windows(id.len()).position(|window| window == id).unwrap();
        named[..at].iter().chain(&named[at + id.len()..]).copied().collect()
    };
    assert!(!has(&rest, b"secret-"));
    let redacted = written(&capture, Privacy::Redacted);
    assert!(!has(&redacted, b"secret-") && !has(&redacted, b"name-"));
    let read = read_capture(redacted.as_slice()).unwrap();
    assert!(read.header.is_redacted());
    // What belongs together still does, and stands in the same order.
    let view = &read.decisions[0].decision.inputs.view;
    let node = view.nodes().values().next().unwrap();
    let spec = &view.jobs().values().next().unwrap().spec;
    assert_eq!(spec.constraints.pool.as_ref(), Some(&node.spec.pool));
    assert_eq!(spec.constraints.node.as_ref(), Some(&node.name));
    assert_eq!(spec.constraints.labels, node.spec.labels);
    assert!(spec.name < spec.namespace && node.spec.pool < node.spec.zone);
    let placed = &read.decisions[0].decision.made.placements[0];
    assert_eq!(placed.devices[0].uuid, node.spec.devices[0].uuid);
    assert_eq!(placed.ports[0].name, spec.tasks[0].ports[0]);
    assert_eq!(placed.ports[1].name, name("master"));
    assert_eq!(node.spec.devices[0].model, "NVIDIA H100");
}

/// Texts in an encoded message, however deep.
fn texts(mut bytes: &[u8], found: &mut BTreeSet<String>) {
    use prost::encoding::{WireType, decode_key, decode_varint, skip_field};
    while !bytes.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut bytes) else { return };
        if wire != WireType::LengthDelimited {
            if skip_field(wire, tag, &mut bytes, Default::default()).is_err() {
                return;
            }
            continue;
        }
        let Ok(length) = decode_varint(&mut bytes) else { return };
        let Some((field, rest)) = bytes.split_at_checked(length as usize) else { return };
        bytes = rest;
        let text = std::str::from_utf8(field).unwrap_or_default();
        if text.len() > 2 && text.chars().all(|one| one.is_ascii_graphic() || one == ' ') {
            found.insert(text.to_owned());
        }
        texts(field, found);
    }
}

fn texts_of(row: &Stored) -> BTreeSet<String> {
    let record = v1::SnapshotRecord { record: Some(rows::to_proto(row)) };
    let mut found = BTreeSet::new();
    texts(&record.encode_to_vec(), &mut found);
    found
}

#[test]
fn of_each_kind_of_row_only_names_and_known_words_are_kept() {
    // Models of GPUs, profiles of their slices, policies and the terms of a score.
    let words = [
        "NVIDIA H100",
        "NVIDIA H100 80GB HBM3",
        "H100",
        "1g.10gb",
        "round-robin",
        "turn",
        "berth",
        "some",
        "master",
    ];
    let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
    let mut rows = fixture::rows();
    rows.extend(state().rows());
    for row in rows {
        let (kind, expected) = match &row {
            Stored::Cluster(_) => ("cluster", true),
            Stored::Job(_) => ("job", true),
            Stored::Task(..) => ("task", true),
            Stored::Allocation(_) => ("allocation", true),
            Stored::Node(_) => ("node", true),
            Stored::Namespace(_) => ("namespace", true),
            Stored::Average(..) => ("average", true),
            Stored::NodeReservation(_) => ("node reservation", true),
            Stored::Key(..) => ("key", false),
            Stored::Token(_) => ("token", false),
            Stored::Revocation(_) => ("revocation", false),
        };
        kinds.insert(kind, expected);
        let is_over = matches!(&row, Stored::Job(job) if job.is_ended());
        let after = kept(&row, &|_| false);
        assert_eq!(after.is_some(), expected && !is_over, "{kind}");
        let Some(mut after) = after else { continue };
        let mut names = Gathered::default();
        in_row(&mut after.clone(), &mut names);
        let mut others = names.others();
        let plain = texts_of(&after);
        in_row(&mut after, &mut others);
        for text in texts_of(&after).intersection(&plain) {
            assert!(words.contains(&text.as_str()), "{kind} keeps {text:?}");
        }
    }
    assert_eq!(kinds.len(), 11);
    // A task goes with its job.
    let task = Stored::Task(JobId(1), TaskIndex(0), Arc::default());
    assert_eq!(kept(&task, &|_| true), None);
}

#[test]
fn others_stand_in_the_order_of_the_names() {
    let all = ["", "a", "b.c", "l", "master", "masters", "n", "Zebra", "10a"];
    let mut gathered = Gathered::default();
    for text in all {
        names::Names::text(&mut gathered, &mut text.to_owned());
    }
    let mut others = gathered.others();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in all {
        let mut other = text.to_owned();
        names::Names::text(&mut others, &mut other);
        assert_eq!(other == text, text.is_empty() || text == "master", "{text}");
        pairs.push((text.to_owned(), other));
    }
    pairs.sort();
    assert!(pairs.is_sorted_by(|one, other| one.1 < other.1), "{pairs:?}");
}

#[test]
fn damage_at_any_byte_is_told_with_its_place() {
    let whole = written(&capture(), Privacy::Named);
    let end = whole.len() as u64;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        let error = read_capture(damaged.as_slice()).unwrap_err();
        let told = match at {
            0..8 => matches!(error, CaptureError::NoCapture),
            8..10 => matches!(error, CaptureError::Format { .. }),
            // A length may say more than there is.
            _ => {
                matches!(error, CaptureError::Damaged { offset, .. } if offset as usize <= at)
                    || matches!(error, CaptureError::CutShort { offset, .. } if offset == end)
            }
        };
        assert!(told, "{at}: {error}");
    }
}

#[test]
fn a_cut_anywhere_is_told_with_its_place() {
    let whole = written(&capture(), Privacy::Named);
    for length in 0..whole.len() {
        let error = read_capture(&whole[..length]).unwrap_err();
        let told = match length {
            0..8 => matches!(error, CaptureError::NoCapture),
            _ => matches!(error, CaptureError::CutShort { offset, .. } if offset == length as u64),
        };
        assert!(told, "{length}: {error}");
    }
    let longer: Vec<u8> = whole.iter().copied().chain([0]).collect();
    let error = read_capture(longer.as_slice()).unwrap_err();
    let at = whole.len() as u64;
    assert!(matches!(error, CaptureError::Trailing { offset } if offset == at), "{error}");
}

/// A file of these records, each in a sound frame.
fn file(records: Vec<Record>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::begin(&mut bytes).unwrap();
    records.into_iter().for_each(|record| writer.put(record).unwrap());
    bytes
}

#[test]
fn sound_frames_that_make_no_capture_are_refused() {
    let header = |change: fn(&mut v1::CaptureHeader)| {
        let mut header = v1::CaptureHeader {
            writer: "7.1.0".to_owned(),
            cluster_version: 1,
            redacted: true,
            ..Default::default()
        };
        change(&mut header);
        Record::Header(header)
    };
    let end = |rows, decisions| Record::End(v1::CaptureEnd { rows, decisions });
    let decision = |change: fn(&mut v1::CapturedDecision)| {
        let made = Some(v1::CapturedMade::default());
        let mut one = v1::CapturedDecision { origin: 1, made, ..Default::default() };
        change(&mut one);
        Record::Decision(one)
    };
    let check = |records: Vec<Record>, expected: &str| {
        let error = read_capture(file(records).as_slice()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        error
    };
    assert!(read_capture(file(vec![header(|_| ()), end(0, 0)]).as_slice()).is_ok());
    let misplaced = |record, offset| {
        format!(
            "record {record} of the capture, at byte {offset}, is not the one that belongs there"
        )
    };
    check(vec![end(0, 0)], &misplaced(0, 10));
    check(vec![header(|_| ()), header(|_| ())], &misplaced(1, 43));
    check(vec![header(|_| ()), end(1, 0)], &misplaced(1, 43));
    check(vec![header(|head| head.redacted = false), end(0, 0)], &misplaced(0, 10));
    let rows = |one: &mut v1::CapturedDecision| one.rows = vec![0, 1];
    check(vec![header(|_| ()), decision(rows), end(0, 1)], &misplaced(1, 43));
    let rows = |one: &mut v1::CapturedDecision| one.rows = vec![0];
    check(vec![header(|_| ()), decision(rows), end(0, 1)], &misplaced(1, 43));
    let expected = "the rows of decision 1 do not belong together";
    check(vec![header(|_| ()), decision(|_| ()), end(0, 1)], expected);
    let pending = Some(v1::Ranges { spans: vec![0, u32::MAX] });
    let task = v1::TaskRow { job: 1, pending, ..Default::default() };
    let row = v1::snapshot_record::Record::Task(task);
    let row = Record::Row(v1::SnapshotRecord { record: Some(row) });
    check(vec![header(|_| ()), row], "the capture has more than 50000000 instances");
    let cannot = "record 1 of the capture, at byte 43, cannot be read";
    let error = check(vec![header(|_| ()), decision(|one| one.origin = 9), end(0, 1)], cannot);
    assert!(error.needs_another_build());
    let error = check(vec![header(|_| ()), decision(|one| one.made = None), end(0, 1)], cannot);
    assert!(!error.needs_another_build());
    let newer = CLUSTER_VERSION_MAX + 1;
    let mut capture = capture();
    capture.header.cluster_version = newer;
    let error = read_capture(written(&capture, Privacy::Named).as_slice()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the capture follows the rules of cluster version {newer}, and this build knows \
             versions up to {CLUSTER_VERSION_MAX}; it was made by version 0.1.0 of berth"
        )
    );
    assert!(error.needs_another_build());
    let mut other = written(&self::capture(), Privacy::Named);
    other[8] = 2;
    let error = read_capture(other.as_slice()).unwrap_err();
    assert_eq!(error.to_string(), "the capture has format 2, and this build reads 1");
}

/// A later release must read what this one wrote.
#[test]
fn version_1_is_written_as_it_was() {
    let bytes = written(&capture(), Privacy::Named);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> =
        hex.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    assert_eq!(lines.join("\n") + "\n", include_str!("../../fixtures/capture-v1.hex"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_capture(bytes.as_slice());
        let mut framed = file(Vec::new());
        framed.extend(bytes);
        let _ = read_capture(framed.as_slice());
    }
}
