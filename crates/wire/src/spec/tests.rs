use std::collections::BTreeMap;

use berth_model::{
    HealthCheck, HealthProbe, JobKind, JobSpec, MemoryBytes, Name, PortClaim, ShareMilli, TaskSpec,
};
use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::problem::PROBLEMS_MAX;

fn read_form(proto: v1::JobSpec) -> Result<JobSpec, Vec<Violation>> {
    let mut problems = Problems::default();
    let spec = read_job(Field::ROOT, proto, &mut problems);
    problems.verdict(spec)
}

fn sample() -> JobSpec {
    let name = |text: &str| Name::new(text).unwrap();
    let mut task = TaskSpec::new(name("main"), JobKind::Service, vec!["serve".into()]);
    task.ports = vec![name("http")];
    task.env = BTreeMap::from([("B".into(), "2".into()), ("A".into(), "1".into())]);
    task.health = Some(HealthCheck {
        probe: HealthProbe::Http { path: "/health".into(), port: name("http") },
        interval: berth_model::DurationMs(2000),
        timeout: berth_model::DurationMs(1000),
        failures: 3,
        start_period: berth_model::DurationMs(300_000),
    });
    JobSpec {
        name: name("llama-8b"),
        namespace: name("research"),
        kind: JobKind::Service,
        priority: 50,
        policy: berth_model::Policy::BestFit,
        constraints: berth_model::Constraints::default(),
        tasks: vec![task],
        deadline: None,
        max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
        on_return: Default::default(),
        policy_origin: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
    }
}

fn fields(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

proptest! {
    #[test]
    fn a_job_survives_the_wire(spec in arbitrary::spec::job()) {
        let bytes = job_spec_to_proto(&spec).encode_to_vec();
        let proto = v1::JobSpec::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(proto.encoded_len(), bytes.len());
        prop_assert_eq!(read_form(proto), Ok(spec));
    }

    #[test]
    fn a_node_survives_the_wire(spec in arbitrary::spec::node()) {
        let bytes = node_spec_to_proto(&spec).encode_to_vec();
        let proto = v1::NodeSpec::decode(bytes.as_slice()).unwrap();
        let mut problems = Problems::default();
        let read = read_node(Field::ROOT, proto, &mut problems);
        prop_assert_eq!(problems.verdict(read), Ok(spec));
    }

    #[test]
    fn claims_survive_the_wire(
        device in arbitrary::spec::device_claim(),
        port in arbitrary::spec::port_claim(),
    ) {
        prop_assert_eq!(&read_device_claim(device_claim_to_proto(&device)), &device);
        prop_assert_eq!(port_claim_from_proto(port_claim_to_proto(&port)), Ok(port));
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(proto) = v1::JobSpec::decode(bytes.as_slice()) {
            let refused = job_spec_from_proto(proto).unwrap_err();
            prop_assert!(!refused.is_empty());
        }
        if let Ok(proto) = v1::NodeSpec::decode(bytes.as_slice()) {
            prop_assert!(!node_spec_from_proto(proto).unwrap_err().is_empty());
        }
    }

    /// Whatever is changed in a good message, it is read or refused for a
    /// reason; and what is read encodes again to something that is read alike.
    #[test]
    fn damaged_messages_are_read_or_refused(
        spec in arbitrary::spec::job(),
        position in any::<prop::sample::Index>(),
        bits in 1..=255u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = job_spec_to_proto(&spec).encode_to_vec();
        let at = position.index(bytes.len());
        bytes[at] ^= bits;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(proto) = v1::JobSpec::decode(bytes.as_slice()) {
            match read_form(proto) {
                Ok(read) => prop_assert_eq!(read_form(job_spec_to_proto(&read)), Ok(read)),
                Err(violations) => prop_assert!(!violations.is_empty()),
            }
        }
    }
}

#[test]
fn a_sensible_job_is_accepted() {
    assert_eq!(job_spec_from_proto(job_spec_to_proto(&sample())), Ok(sample()));
}

#[test]
fn every_problem_of_form_is_listed_at_its_path() {
    let mut proto = job_spec_to_proto(&sample());
    proto.name = "17".into();
    proto.kind = 99;
    proto.policy = 0;
    proto.priority = 70_000;
    proto.constraints = Some(v1::Constraints { pool: Some("a b".into()), ..Default::default() });
    let task = &mut proto.tasks[0];
    task.stop.as_mut().unwrap().signal = -1;
    task.restart = None;
    task.ports = vec![String::new()];
    task.health.as_mut().unwrap().probe = None;
    proto.tasks.push(v1::TaskSpec { name: "-rf".into(), ..Default::default() });
    let violations = job_spec_from_proto(proto).unwrap_err();
    assert_eq!(
        fields(&violations),
        [
            "name",
            "kind",
            "priority",
            "policy",
            "constraints.pool",
            "tasks.main.ports[0]",
            "tasks.main.stop.signal",
            "tasks.main.restart",
            "tasks.main.health.probe",
            "tasks[1].name",
            "tasks[1].stop",
            "tasks[1].restart",
        ]
    );
    assert_eq!(violations[1].message, "the value 99 is not known to this version");
    assert_eq!(violations[2].message, "expected 0 to 100, found 70000");
    assert_eq!(violations[3].message, "is not specified");
    assert_eq!(violations[7].message, "is missing");
}

#[test]
fn sense_is_checked_once_the_form_is_right() {
    let mut proto = job_spec_to_proto(&sample());
    proto.priority = 101;
    proto.tasks[0].command.clear();
    let violations = job_spec_from_proto(proto).unwrap_err();
    assert_eq!(fields(&violations), ["priority", "tasks.main.command"]);
}

#[test]
fn a_long_specification_is_refused_with_its_length() {
    let mut spec = sample();
    let padding = SPEC_BYTES_MAX - job_spec_to_proto(&spec).encoded_len();
    spec.tasks[0].env.insert("PADDING".into(), "x".repeat(padding - 20));
    assert_eq!(job_spec_from_proto(job_spec_to_proto(&spec)), Ok(spec.clone()));
    spec.tasks[0].env.insert("PADDING".into(), "x".repeat(padding));
    let violations = job_spec_from_proto(job_spec_to_proto(&spec)).unwrap_err();
    assert_eq!(violations.len(), 1);
    assert!(violations[0].message.contains("at most 49152 are allowed"), "{violations:?}");
}

#[test]
fn thousands_of_problems_are_answered_shortly() {
    let mut proto = job_spec_to_proto(&sample());
    proto.tasks[0].ports = vec![String::new(); 20_000];
    let violations = job_spec_from_proto(proto).unwrap_err();
    assert_eq!(violations.len(), PROBLEMS_MAX + 1);
}

#[test]
fn unknown_fields_are_passed_over_at_the_edge() {
    let mut bytes = BytesMut::new();
    for field in 1000..11_000u32 {
        prost::encoding::encode_varint(u64::from(field) << 3, &mut bytes);
        bytes.put_u8(1);
    }
    bytes.extend_from_slice(&job_spec_to_proto(&sample()).encode_to_vec());
    let proto = v1::JobSpec::decode(bytes.freeze()).unwrap();
    assert_eq!(job_spec_from_proto(proto), Ok(sample()));
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    // A group start (wire type 3) of field 100, a hundred thousand times.
    let mut bytes = Vec::new();
    for _ in 0..100_000 {
        prost::encoding::encode_varint(100 << 3 | 3, &mut bytes);
    }
    assert!(v1::JobSpec::decode(bytes.as_slice()).is_err());
}

#[test]
fn a_truncated_message_is_refused_or_misses_something() {
    let bytes = job_spec_to_proto(&sample()).encode_to_vec();
    for length in 0..bytes.len() {
        if let Ok(proto) = v1::JobSpec::decode(&bytes[..length]) {
            assert_ne!(job_spec_from_proto(proto), Ok(sample()), "cut at {length}");
        }
    }
}

#[test]
fn claims_are_checked_at_the_edge() {
    let claim = v1::DeviceClaim { uuid: String::new(), share_milli: 1001, memory_bytes: 1 };
    let violations = device_claim_from_proto(claim).unwrap_err();
    assert_eq!(fields(&violations), ["uuid", "share_milli"]);
    let claim = v1::DeviceClaim { uuid: "GPU-0".into(), share_milli: 500, memory_bytes: 1 };
    let read = device_claim_from_proto(claim).unwrap();
    assert_eq!((read.share, read.memory), (ShareMilli(500), MemoryBytes(1)));
    let claim = v1::PortClaim { name: "http".into(), port: 70_000 };
    let violations = port_claim_from_proto(claim).unwrap_err();
    assert_eq!(violations[0].message, "expected 0 to 65535, found 70000");
    let claim = v1::PortClaim { name: "http".into(), port: 65_535 };
    let name = Name::new("http").unwrap();
    assert_eq!(port_claim_from_proto(claim), Ok(PortClaim { name, port: 65_535 }));
}

#[test]
fn a_node_is_checked_in_form_and_sense() {
    let mut proto = v1::NodeSpec {
        pool: "default".into(),
        zone: "a".into(),
        cpu_milli: 8000,
        memory_bytes: 1 << 30,
        port_first: 20_000,
        port_last: 70_000,
        ..Default::default()
    };
    let way = |pcie| v1::DeviceWay { pcie, nvlinks: 0 };
    proto.devices.push(v1::Device { health: 6, ..Default::default() });
    proto.devices.push(v1::Device { health: 1, ways: vec![way(8)], ..Default::default() });
    proto.devices.push(v1::Device { health: 1, ways: vec![way(1), way(0)], ..Default::default() });
    let violations = node_spec_from_proto(proto.clone()).unwrap_err();
    assert_eq!(
        fields(&violations),
        ["devices[0].health", "devices[1].ways[0].pcie", "devices[2].ways[1].pcie", "port_last"]
    );
    proto.port_last = 19_999;
    proto.devices.clear();
    assert_eq!(fields(&node_spec_from_proto(proto).unwrap_err()), ["ports"]);
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_insertion_nor_on_the_build() {
    let mut other = sample();
    other.tasks[0].env = BTreeMap::from([("A".into(), "1".into()), ("B".into(), "2".into())]);
    assert_eq!(spec_digest(&other), spec_digest(&sample()));
    other.priority = 51;
    assert_ne!(spec_digest(&other), spec_digest(&sample()));
    // Frozen: digests are compared between versions.
    assert_eq!(spec_digest(&sample()).to_string(), "87673bff9d76a557");
}
