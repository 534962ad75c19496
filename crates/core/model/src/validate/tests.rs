use std::collections::BTreeMap;

use super::*;
use crate::gang::Gang;
use crate::ids::InstanceIndex;
use crate::name::Name;
use crate::node::{Device, DeviceHealth, DeviceSlice, DeviceWay, NodeSpec, PcieWay, PortRange};
use crate::policy::Policy;
use crate::quantity::CpuMilli;
use crate::spec::{ArraySpec, Constraints};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn job(kind: JobKind) -> JobSpec {
    JobSpec {
        name: name("probe"),
        namespace: name("default"),
        kind,
        priority: 50,
        policy: Policy::default(),
        constraints: Constraints::default(),
        tasks: vec![TaskSpec::new(name("main"), kind, vec!["true".to_owned()])],
        deadline: None,
        max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
        policy_origin: Default::default(),
        on_return: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: crate::Preemption::default(),
        route: crate::Route::default(),
        autoscale: None,
    }
}

fn fields(spec: &JobSpec) -> Vec<String> {
    validate(spec).into_iter().map(|violation| violation.field).collect()
}

/// Changes the one task of a job and names the fields complained about.
fn complaints(kind: JobKind, change: impl FnOnce(&mut TaskSpec)) -> Vec<String> {
    let mut spec = job(kind);
    change(&mut spec.tasks[0]);
    fields(&spec)
}

fn check(path: &str) -> HealthCheck {
    HealthCheck {
        probe: HealthProbe::Http { path: path.to_owned(), port: name("http") },
        interval: DurationMs(2000),
        timeout: DurationMs(1000),
        failures: 3,
        start_period: DurationMs::ZERO,
    }
}

#[test]
fn a_plain_job_of_each_kind_passes() {
    for kind in [JobKind::Batch, JobKind::Service, JobKind::Daemon] {
        assert_eq!(fields(&job(kind)), Vec::<String>::new());
    }
}

#[test]
fn every_problem_is_listed_at_once() {
    let found = complaints(JobKind::Batch, |task| {
        task.command.clear();
        task.count = 0;
        task.gpu = Some(GpuRequest {
            count: 0,
            models: vec![],
            memory_min: None,
            share: crate::ShareMilli::WHOLE,
        });
        task.env.insert("BERTH_FENCE".to_owned(), String::new());
        task.env.insert("A=B".to_owned(), String::new());
    });
    assert_eq!(
        found,
        [
            "tasks.main.command",
            "tasks.main.env.A=B",
            "tasks.main.env.BERTH_FENCE",
            "tasks.main.count",
            "tasks.main.gpu.count"
        ]
    );
}

#[test]
fn a_service_may_be_stopped_by_zero_replicas() {
    assert_eq!(complaints(JobKind::Service, |task| task.count = 0), Vec::<String>::new());
    assert_eq!(complaints(JobKind::Service, |task| task.count = 10_001), ["tasks.main.count"]);
}

#[test]
fn a_gang_is_as_large_as_one_entry_of_the_log_can_hold() {
    let check = |kind, count, gpus: u32, expected: &[&str]| {
        let found = complaints(kind, |task| {
            task.gang = Some(Gang {});
            task.count = count;
            task.gpu = (gpus > 0).then(|| GpuRequest::whole(gpus));
        });
        assert_eq!(found, expected, "{kind:?}: {count} of {gpus}");
    };
    check(JobKind::Batch, 128, 8, &[]);
    check(JobKind::Service, 1024, 1, &[]);
    check(JobKind::Batch, 1024, 0, &[]);
    check(JobKind::Batch, 1025, 0, &["tasks.main.gang"]);
    check(JobKind::Batch, 500, 4, &[]);
    check(JobKind::Batch, 1024, 2, &["tasks.main.gang"]);
    check(JobKind::Batch, 400, 8, &["tasks.main.gang"]);
    check(JobKind::Daemon, 1, 0, &["tasks.main.gang"]);
    let array = |parallel_max| ArraySpec { start: 0, step: 1, parallel_max };
    for (parallel_max, expected) in [(None, vec![]), (Some(2), vec!["tasks.main.gang"])] {
        let found = complaints(JobKind::Batch, |task| {
            (task.gang, task.count) = (Some(Gang {}), 4);
            task.array = Some(array(parallel_max));
        });
        assert_eq!(found, expected);
    }
    let ports = |task: &mut TaskSpec| {
        (task.gang, task.ports) = (Some(Gang {}), vec![name("http"), name("Master")]);
    };
    assert_eq!(complaints(JobKind::Batch, ports), ["tasks.main.ports"]);
}

#[test]
fn the_first_of_a_gang_asks_for_one_port_more() {
    let mut task = TaskSpec { ports: vec![name("http")], ..job(JobKind::Batch).tasks.remove(0) };
    let ports = |task: &TaskSpec, instance| task.of_instance(InstanceIndex(instance)).ports.len();
    assert_eq!((ports(&task, 0), ports(&task, 1)), (1, 1));
    task.gang = Some(Gang {});
    assert_eq!((ports(&task, 0), ports(&task, 1)), (2, 1));
    assert_eq!(task.of_instance(InstanceIndex(0)).ports[1], name(TaskSpec::MASTER_PORT));
}

#[test]
fn array_indices_stay_numbers() {
    let array = |start, step, parallel_max| Some(ArraySpec { start, step, parallel_max });
    let with = |value, count| {
        complaints(JobKind::Batch, |task| {
            task.array = value;
            task.count = count;
        })
    };
    assert!(with(array(0, 1, Some(10)), 100).is_empty());
    assert_eq!(with(array(u32::MAX, 1, None), 2), ["tasks.main.array"]);
    assert_eq!(with(array(0, 0, None), 2), ["tasks.main.array"]);
    assert_eq!(with(array(0, 1, Some(0)), 2), ["tasks.main.array"]);
}

#[test]
fn a_health_check_names_a_port_of_its_task_and_fits_its_interval() {
    let with = |check: HealthCheck, ports: Vec<Name>| {
        complaints(JobKind::Service, |task| {
            task.health = Some(check);
            task.ports = ports;
        })
    };
    assert!(with(check("/health"), vec![name("http")]).is_empty());
    assert_eq!(with(check("/health"), vec![]), ["tasks.main.health.port"]);
    assert_eq!(with(check("health"), vec![name("http")]), ["tasks.main.health.http.path"]);
    let slow = HealthCheck { timeout: DurationMs(3000), ..check("/") };
    assert_eq!(with(slow, vec![name("http")]), ["tasks.main.health.timeout"]);
    let never = HealthCheck { interval: DurationMs(0), failures: 0, ..check("/") };
    assert_eq!(
        with(never, vec![name("http")]),
        ["tasks.main.health.interval", "tasks.main.health.timeout", "tasks.main.health.failures"]
    );
}

#[test]
fn names_are_told_apart() {
    let mut spec = job(JobKind::Batch);
    spec.tasks.push(spec.tasks[0].clone());
    assert_eq!(fields(&spec), ["tasks.main"]);
    let doubled = complaints(JobKind::Batch, |task| task.ports = vec![name("http"), name("HTTP")]);
    assert_eq!(doubled, ["tasks.main.ports"]);
}

#[test]
fn a_device_says_its_way_to_each_before_it_or_to_none() {
    let way = |nvlinks| DeviceWay { pcie: PcieWay::Switch, nvlinks };
    let ways = |ways: [Vec<DeviceWay>; 3]| -> Vec<String> {
        let devices = (0..).zip(ways).map(|(index, ways)| Device {
            uuid: format!("GPU-{index}"),
            index,
            model: "H100".to_owned(),
            memory: MemoryBytes(80 << 30),
            health: DeviceHealth::Healthy,
            reason: String::new(),
            numa_node: Some(0),
            ways,
            slice: None,
        });
        let spec = NodeSpec {
            labels: BTreeMap::new(),
            pool: name("default"),
            zone: name("default"),
            cpu: CpuMilli(1000),
            memory: MemoryBytes(1 << 30),
            devices: devices.collect(),
            ports: PortRange::DEFAULT,
            agent_version: String::new(),
            docker_version: String::new(),
            tasks_per_device_max: crate::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: String::new(),
        };
        validate_node(&spec).into_iter().map(|violation| violation.message).collect()
    };
    assert_eq!(ways([vec![], vec![way(18)], vec![way(0), way(256)]]), Vec::<String>::new());
    assert_eq!(ways([vec![], vec![way(18)], vec![]]), Vec::<String>::new());
    let asymmetric = "device `GPU-1`: expected none, or one to each of the 1 devices before it, \
                      found 2";
    assert_eq!(ways([vec![], vec![way(1), way(1)], vec![]]), [asymmetric]);
    let first = "device `GPU-0`: expected none, or one to each of the 0 devices before it, found 1";
    assert_eq!(ways([vec![way(1)], vec![], vec![]]), [first]);
    let many = "device `GPU-1`: expected at most 256 NVLinks, found 257";
    assert_eq!(ways([vec![], vec![way(257)], vec![]]), [many]);
}

#[test]
fn a_part_of_a_device_is_offered_in_its_place() {
    let device = |uuid: &str, parent: Option<&str>| Device {
        uuid: uuid.to_owned(),
        index: 0,
        model: "H100".to_owned(),
        memory: MemoryBytes(10 << 30),
        health: DeviceHealth::Healthy,
        reason: String::new(),
        numa_node: None,
        ways: Vec::new(),
        slice: parent
            .map(|parent| DeviceSlice { parent: parent.to_owned(), profile: "1g.10gb".to_owned() }),
    };
    let complaints = |devices: Vec<Device>| {
        let mut complaints = Complaints(Vec::new());
        super::node::check_devices(&devices, &mut complaints);
        complaints.0.into_iter().map(|violation| violation.message).collect::<Vec<String>>()
    };
    let (one, other) = (device("MIG-a", Some("GPU-0")), device("MIG-b", Some("GPU-0")));
    assert_eq!(complaints(vec![one.clone(), other, device("GPU-1", None)]), Vec::<String>::new());
    let both = "device `MIG-a` is a part of `GPU-0`, which is offered too";
    assert_eq!(complaints(vec![device("GPU-0", None), one]), [both]);
    let nobody = "device `MIG-a`: expected a parent, and at most 128 characters";
    assert_eq!(complaints(vec![device("MIG-a", Some(""))]), [nobody]);
}

#[test]
fn b25_a_share_is_of_one_whole_gpu() {
    let check = |count: u32, model: &str, share: u32, expected: Option<&str>| {
        let mut job = job(JobKind::Batch);
        let task = &mut job.tasks[0];
        task.gpu = Some(GpuRequest {
            models: vec![model.to_owned()],
            share: crate::ShareMilli(share),
            ..GpuRequest::whole(count)
        });
        let found = validate(&job).into_iter().map(|one| format!("{}: {}", one.field, one.message));
        let found: Vec<String> = found.collect();
        assert_eq!(found.first().map(String::as_str), expected, "{count} {model} {share}");
        assert!(found.len() < 2, "{found:?}");
    };
    check(1, "H100", 500, None);
    check(2, "H100", 1000, None);
    check(1, "MIG", 1000, None);
    let range = "tasks.main.gpu.share: expected 1 to 1000 thousandths of a GPU, found";
    check(1, "H100", 0, Some(&format!("{range} 0")));
    check(1, "H100", 1500, Some(&format!("{range} 1500")));
    let several = "tasks.main.gpu.share: expected the whole of 2 GPUs, or a part of one";
    check(2, "H100", 500, Some(several));
    check(1, "1g.10gb", 300, Some("tasks.main.gpu.share: a slice (MIG) is not shared"));
}

#[test]
fn only_a_service_with_a_port_is_asked_by_callers() {
    let routed = |kind: JobKind, ports: &[&str], change: fn(&mut crate::Route)| {
        let mut spec = job(kind);
        spec.tasks[0].ports = ports.iter().map(|port| name(port)).collect();
        change(&mut spec.route);
        fields(&spec)
    };
    let named = |model: &'static str| {
        let mut spec = job(JobKind::Service);
        spec.tasks[0].ports = vec![name("http")];
        spec.route.model = Some(model.to_owned());
        fields(&spec)
    };
    let none = Vec::<String>::new();
    let llama: fn(&mut crate::Route) = |route| route.model = Some("llama".to_owned());
    assert_eq!(routed(JobKind::Service, &["http"], llama), none);
    assert_eq!(routed(JobKind::Service, &[], llama), ["route"]);
    assert_eq!(routed(JobKind::Service, &[], |_| ()), none);
    for kind in [JobKind::Batch, JobKind::Daemon] {
        assert_eq!(routed(kind, &["http"], llama), ["route"]);
        assert_eq!(routed(kind, &["http"], |_| ()), none);
    }
    let port: fn(&mut crate::Route) = |route| route.port = Some(name("grpc"));
    assert_eq!(routed(JobKind::Service, &["http"], port), ["route.port"]);
    assert_eq!(routed(JobKind::Service, &["http", "grpc"], port), none);
    let times: fn(&mut crate::Route) = |route| {
        route.timeout = crate::DurationMs::ZERO;
        route.drain = crate::DurationMs::from_secs(367 * 24 * 3600);
    };
    assert_eq!(routed(JobKind::Service, &["http"], times), ["route.timeout", "route.drain"]);
    let bounds: fn(&mut crate::Route) = |route| {
        route.wait = crate::DurationMs::from_secs(367 * 24 * 3600);
        route.waiting_max = 100_001;
        route.in_flight_max = Some(0);
    };
    let fields = ["route.wait", "route.waiting_max", "route.in_flight_max"];
    assert_eq!(routed(JobKind::Service, &["http"], bounds), fields);
    let nobody: fn(&mut crate::Route) = |route| {
        (route.wait, route.waiting_max) = (crate::DurationMs::ZERO, 0);
        route.in_flight_max = Some(1);
    };
    assert_eq!(routed(JobKind::Service, &["http"], nobody), none);
    let at_once: fn(&mut crate::Route) = |route| route.drain = crate::DurationMs::ZERO;
    assert_eq!(routed(JobKind::Service, &["http"], at_once), none);
    assert_eq!(named("meta-llama/Llama-3.1-8B:fp8"), none);
    for wrong in ["", " ", "a b", "a\"b", "a\\b", "a\nb", "mod\u{e8}le", &"m".repeat(257)] {
        assert_eq!(named(wrong.to_owned().leak()), ["route.model"], "{wrong:?}");
    }
}

#[test]
fn only_a_service_with_a_port_is_scaled_and_within_its_range() {
    use crate::{Autoscale, PidGains, ScalingMetric, ScalingPace, ScalingPolicy};
    let scaled = |change: fn(&mut JobSpec, &mut Autoscale)| {
        let mut spec = job(JobKind::Service);
        spec.tasks[0].ports = vec![name("http")];
        spec.tasks[0].count = 2;
        let mut rule = Autoscale::between(1, 4);
        change(&mut spec, &mut rule);
        spec.autoscale = Some(rule);
        fields(&spec)
    };
    let none = Vec::<String>::new();
    assert_eq!(scaled(|_, _| ()), none);
    assert_eq!(scaled(|spec, _| spec.kind = JobKind::Batch), ["autoscale"]);
    assert_eq!(scaled(|spec, _| spec.tasks[0].ports.clear()), ["autoscale"]);
    assert_eq!(scaled(|_, rule| rule.min = 4), ["replicas"]);
    assert_eq!(scaled(|_, rule| rule.max = 10_001), ["replicas"]);
    assert_eq!(scaled(|spec, _| spec.tasks[0].count = 5), ["tasks.main.count"]);
    assert_eq!(scaled(|spec, _| spec.tasks[0].gang = Some(crate::Gang {})), ["replicas"]);
    let targets: fn(&mut JobSpec, &mut Autoscale) = |_, rule| {
        rule.targets =
            [(ScalingMetric::Queue, 0), (ScalingMetric::Gpu, 1_001), (ScalingMetric::Latency, 9)]
                .into();
    };
    assert_eq!(scaled(targets), ["autoscale.target.queue", "autoscale.target.gpu"]);
    let law: fn(&mut JobSpec, &mut Autoscale) = |_, rule| {
        (rule.tolerance, rule.step, rule.alpha) = (1_000, 0, Some(0));
    };
    assert_eq!(scaled(law), ["autoscale.tolerance", "autoscale.step", "autoscale.alpha"]);
    let still: fn(&mut JobSpec, &mut Autoscale) = |_, rule| {
        rule.policy = ScalingPolicy::Pid;
        rule.gains = PidGains { proportional: 0, integral: 0, derivative: 1 };
        let pace = ScalingPace { percent: 0, replicas: 0, ..rule.up };
        (rule.up, rule.down.every, rule.idle) = (pace, crate::DurationMs(0), crate::DurationMs(0));
    };
    let expected = ["autoscale.gains", "autoscale.up", "autoscale.down.every", "autoscale.idle"];
    assert_eq!(scaled(still), expected);
}
