use berth_model::{AllocationId, CpuMilli, MemoryBytes, Name, NodeSpec, SpecDigest};
use berth_model::{
    Attempt, EndCause, EndReport, InstanceIndex, JobId, PortRange, TaskIndex, WallMs,
};
use berth_proto::v1;
use berth_proto::v1::observation::State;
use berth_state::{Observation, Observed};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::arbitrary;

fn decoded<M: prost::Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn end() -> v1::Ended {
    v1::Ended { cause: 1, exit_code: Some(0), finished_at_ms: 7, ..Default::default() }
}

fn hello() -> Hello {
    Hello {
        name: Name::new("gpu-01").unwrap(),
        instance_key: [7; 16],
        spec: NodeSpec {
            labels: Default::default(),
            pool: Name::new("default").unwrap(),
            zone: Name::new("a").unwrap(),
            cpu: CpuMilli(8000),
            memory: MemoryBytes(1 << 30),
            devices: Vec::new(),
            ports: PortRange::DEFAULT,
            agent_version: "0.1.0".into(),
            docker_version: String::new(),
            tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: "127.0.0.1:9".into(),
        },
        held: Some(Held { incarnation: 1, generation: 9, digest: [3; 32] }),
        boot_id: "b".into(),
    }
}

proptest! {
    #[test]
    fn observations_survive_the_wire(observation in arbitrary::agent::observation()) {
        let proto = decoded(&observation_to_proto(&observation));
        prop_assert_eq!(observation_from_proto(proto), Ok(observation));
    }

    #[test]
    fn desired_state_survives_the_wire(
        full in arbitrary::agent::full(),
        delta in arbitrary::agent::delta(),
    ) {
        prop_assert_eq!(full_from_proto(decoded(&full_to_proto(&full))), Ok(full));
        prop_assert_eq!(delta_from_proto(decoded(&delta_to_proto(&delta))), Ok(delta));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(proto) = v1::Observation::decode(bytes.as_slice()) {
            let _ = observation_from_proto(proto);
        }
        if let Ok(proto) = v1::Hello::decode(bytes.as_slice()) {
            prop_assert!(hello_from_proto(proto).is_err());
        }
        if let Ok(proto) = v1::Full::decode(bytes.as_slice()) {
            let _ = full_from_proto(proto);
        }
        if let Ok(proto) = v1::Delta::decode(bytes.as_slice()) {
            let _ = delta_from_proto(proto);
        }
    }

    /// Both sides hold rows in an order of their own, and the agent's copies
    /// have been over the wire.
    #[test]
    fn the_digest_is_the_same_on_both_sides(
        rows in proptest::collection::vec(arbitrary::agent::desired_row(), 0..6),
    ) {
        let mut there: Vec<DesiredRow> = rows
            .iter()
            .map(|row| desired_row_from_proto(decoded(&desired_row_to_proto(row))).unwrap())
            .collect();
        let distinct: std::collections::BTreeSet<_> =
            rows.iter().map(|row| row.allocation).collect();
        prop_assume!(distinct.len() == rows.len());
        there.reverse();
        let digest = desired_digest(&rows);
        prop_assert_eq!(digest, desired_digest(&there));
        if let Some(row) = there.first_mut() {
            row.stop = row.stop.is_none().then(String::new);
            prop_assert_ne!(digest, desired_digest(&there));
        }
    }
}

#[test]
fn the_digest_sorts_by_number_and_is_the_same_in_every_build() {
    let row = |instance| DesiredRow {
        allocation: AllocationId {
            job: JobId(1),
            task: TaskIndex(0),
            instance: InstanceIndex(instance),
            attempt: Attempt::FIRST,
        },
        spec: SpecDigest([1; 32]),
        devices: Vec::new(),
        ports: Vec::new(),
        seat: None,
        stop: None,
    };
    let hex = |digest: [u8; 32]| SpecDigest(digest).to_string();
    assert_eq!(hex(desired_digest(&[row(10), row(9)])), "3b1ad5f5d192a150");
    assert_eq!(hex(desired_digest([])), "e3b0c44298fc1c14", "SHA-256 of nothing");
}

#[test]
fn impossible_ends_are_refused() {
    let check = |ended: v1::Ended, field: &str, message: &str| {
        let violations = end_report_from_proto(ended).unwrap_err();
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(
            (violations[0].field.as_str(), violations[0].message.as_str()),
            (field, message)
        );
    };
    check(v1::Ended { exit_code: Some(300), ..end() }, "exit_code", "expected 0 to 255, found 300");
    check(v1::Ended { exit_code: Some(-1), ..end() }, "exit_code", "expected 0 to 255, found -1");
    let signalled = v1::Ended { exit_code: None, ..end() };
    check(v1::Ended { signal: Some(65), ..signalled }, "signal", "expected 1 to 64, found 65");
    check(v1::Ended { signal: Some(9), ..end() }, "", "has both an exit code and a signal");
    check(v1::Ended { cause: 99, ..end() }, "cause", "the value 99 is not known to this version");
    check(v1::Ended { cause: 0, ..end() }, "cause", "is not specified");
    let reason = "r".repeat(1025);
    check(v1::Ended { reason, ..end() }, "reason", "expected at most 1024 bytes, found 1025");
    check(
        v1::Ended { finished_at_ms: 253_402_300_800_000, ..end() },
        "finished_at_ms",
        "expected a time before the year 10000, found 253402300800000",
    );
}

#[test]
fn a_long_end_is_cut_by_its_sender_and_accepted() {
    let report = EndReport {
        cause: EndCause::Exited,
        exit_code: Some(1),
        signal: None,
        reason: "é".repeat(1000),
        stderr_tail: format!("{}last", "é".repeat(5000)),
        started_at: None,
        finished_at: WallMs(1),
    };
    let read = end_report_from_proto(end_report_to_proto(&report)).unwrap();
    assert_eq!(read.reason.len(), 1024);
    assert_eq!(read.stderr_tail.len(), 4096);
    assert!(read.stderr_tail.ends_with("last"));
}

#[test]
fn an_observation_needs_an_id_and_a_state() {
    let nothing = v1::Observation { allocation_id: "17.0.3".into(), state: None };
    let violations = observation_from_proto(nothing).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["allocation_id", "state"]);
    let both = v1::Running { ready: true, unhealthy: true, ..Default::default() };
    let both =
        v1::Observation { allocation_id: "17.0.3.1".into(), state: Some(State::Running(both)) };
    assert_eq!(observation_from_proto(both).unwrap_err()[0].field, "running");
    let starting = v1::Observation {
        allocation_id: "17.0.3.1".into(),
        state: Some(State::Starting(v1::Starting { phase: 4 })),
    };
    assert_eq!(observation_from_proto(starting).unwrap_err()[0].field, "starting.phase");
    let id = "17.0.3.1".parse().unwrap();
    assert_eq!(
        observation_from_proto(unkillable(id, "in the driver")),
        Ok(Observation { allocation: id, observed: Observed::Unkillable })
    );
}

#[test]
fn a_hello_is_read_whole() {
    assert_eq!(hello_from_proto(decoded(&hello_to_proto(&hello()))), Ok(hello()));
    let fresh = Hello { held: None, ..hello() };
    assert_eq!(hello_from_proto(decoded(&hello_to_proto(&fresh))), Ok(fresh));
}

#[test]
fn a_bad_hello_is_refused_with_every_problem() {
    let mut proto = hello_to_proto(&hello());
    proto.name = "17".into();
    proto.instance_key = vec![1; 15].into();
    proto.digest = vec![].into();
    proto.boot_id = "b".repeat(65);
    proto.spec.as_mut().unwrap().port_last = 1 << 16;
    let violations = hello_from_proto(proto).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["name", "instance_key", "spec.port_last", "boot_id", "digest"]);
    let mut proto = hello_to_proto(&hello());
    proto.spec.as_mut().unwrap().cpu_milli = 0;
    assert_eq!(hello_from_proto(proto).unwrap_err()[0].field, "spec.cpu");
    let mut proto = hello_to_proto(&hello());
    proto.spec = None;
    assert_eq!(hello_from_proto(proto).unwrap_err()[0].field, "spec");
    let mut proto = hello_to_proto(&hello());
    proto.spec.as_mut().unwrap().agent_version = "v".repeat(1 << 20);
    assert!(hello_from_proto(proto).unwrap_err()[0].message.contains("at most 49152 bytes"));
}

#[test]
fn desired_rows_are_checked() {
    let proto = v1::DesiredAllocation {
        allocation_id: "x".into(),
        spec_digest: vec![1; 31].into(),
        devices: vec![v1::DeviceClaim::default()],
        ports: vec![v1::PortClaim { name: "http".into(), port: 1 << 16 }],
        stop: false,
        stop_reason: "why".into(),
        seat: None,
    };
    let violations = desired_row_from_proto(proto).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "allocation_id",
            "spec_digest",
            "devices[0].uuid",
            "devices[0].share_milli",
            "ports[0].port",
            "stop",
        ]
    );
    let spec_row = v1::SpecRow { digest: vec![0; 32].into(), spec: None };
    assert_eq!(spec_row_from_proto(spec_row).unwrap_err()[0].field, "spec");
}
