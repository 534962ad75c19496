//! What is submitted: jobs drawn at random. A command says how its workers
//! behave: least and longest time in milliseconds, and how many of a thousand
//! fail.

use berth_model::{
    ArraySpec, Constraints, CpuMilli, DurationMs, Gang, GpuRequest, HealthCheck, HealthProbe,
    JobKind, JobSpec, MemoryBytes, Name, NamespaceSpec, OnReturn, Policy, Preemption, Resource,
    RestartPolicy, ShareMilli, StopPolicy, TaskSpec,
};

use crate::rng::Rng;

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const ENDLESS_MS: u64 = 1_000_000;
pub const GPUS_OF_A_NODE_MAX: u64 = 4;

fn job(rng: &mut Rng, kind: JobKind, text: &str, worker: [u64; 3]) -> JobSpec {
    let numbers = worker.iter().map(u64::to_string);
    let command = std::iter::once("work".to_owned()).chain(numbers).collect();
    let mut task = TaskSpec::new(name("main"), kind, command);
    task.cpu = CpuMilli(rng.pick(&[100, 500, 1_000]));
    task.memory = MemoryBytes(rng.pick(&[128 << 20, 1 << 30]));
    task.stop = StopPolicy { grace: DurationMs(rng.pick(&[50, 500, 1_500, 2_500])), ..task.stop };
    task.restart =
        RestartPolicy { backoff: DurationMs(200), backoff_max: DurationMs(1_000), ..task.restart };
    JobSpec {
        name: name(text),
        namespace: name("default"),
        kind,
        priority: u8::try_from(rng.range(30, 70)).unwrap(),
        policy: rng.pick(&Policy::ALL),
        constraints: Constraints::default(),
        tasks: vec![task],
        deadline: None,
        max_disconnect: DurationMs(rng.pick(&[1_000, 3_000, 8_000])),
        policy_origin: Default::default(),
        on_return: rng.pick(&OnReturn::ALL),
        update: Default::default(),
        exclusive: false,
        preemption: Preemption {
            preempts: true,
            preemptible: rng.chance(700),
            min_run: DurationMs(rng.pick(&[0, 300, 2_000])),
        },
        route: Default::default(),
        autoscale: None,
    }
}

/// For a cluster of so many nodes.
pub fn batch(rng: &mut Rng, text: &str, nodes: usize) -> JobSpec {
    let longest = rng.pick(&[100, 800, 3_000, 8_000]);
    let fails = rng.pick(&[0, 0, 100, 400]);
    let mut spec = job(rng, JobKind::Batch, text, [20, longest, fails]);
    spec.exclusive = rng.chance(300);
    spec.deadline = rng.chance(60).then_some(DurationMs(4_000));
    let task = &mut spec.tasks[0];
    let many = if longest > 3_000 { 1 } else { 8 };
    task.count = u32::try_from(rng.pick(&[1, 1, 1, 2, 4, 8]).min(many)).unwrap();
    if task.count > 1 && rng.chance(300) {
        task.array = Some(ArraySpec { start: 0, step: 1, parallel_max: Some(2) });
    }
    // Two fit on every node beside the one that a service holds for ever.
    let gpus = rng.pick(&[0, 1, 1, 2]);
    let share = ShareMilli(rng.pick(&[1000, 1000, 500, 300]));
    task.gpu = (gpus > 0).then_some(match gpus {
        1 => GpuRequest { share, ..GpuRequest::whole(1) },
        several => GpuRequest::whole(several),
    });
    task.restart.attempts = Some(rng.pick(&[0, 1, 3]));
    task.time_limit = rng.chance(60).then_some(DurationMs(2_000));
    if spec.priority.is_multiple_of(3) {
        spec.namespace = name(SURE);
    }
    gang(spec, nodes)
}

/// A namespace that is sure of every GPU, and takes them back from all others.
const SURE: &str = "sure";
pub const NAMESPACES: [&str; 2] = ["default", SURE];

/// What is set for it in a cluster of so many nodes.
pub fn guarantee(nodes: usize) -> NamespaceSpec {
    let mut spec = NamespaceSpec::new(name(SURE));
    let gpu_milli = nodes as u64 * GPUS_OF_A_NODE_MAX * 1_000;
    spec.quota.guaranteed.amounts.insert(Resource::Gpus, gpu_milli);
    spec
}

/// Half of those that can be are gangs, none larger than what is sure to be free at one moment
/// some day: those with GPUs take two of each node, so that they are spread over several.
fn gang(mut spec: JobSpec, nodes: usize) -> JobSpec {
    let task = &mut spec.tasks[0];
    let is_shared = task.gpu.as_ref().is_some_and(|gpu| gpu.is_shared());
    if task.count > 1 && task.array.is_none() && !is_shared && spec.priority.is_multiple_of(2) {
        task.gang = Some(Gang {});
        task.count = 4;
        if task.gpu.is_some() {
            task.gpu = Some(GpuRequest::whole(2));
            task.count = u32::try_from(nodes).unwrap().min(3);
        }
    }
    spec
}

/// A new version of one of two services.
pub fn service(rng: &mut Rng) -> JobSpec {
    let which = rng.pick(&["chat", "search"]);
    let fails = rng.pick(&[0, 0, 100]);
    let mut spec = job(rng, JobKind::Service, which, [ENDLESS_MS, ENDLESS_MS, fails]);
    spec.exclusive = rng.chance(500);
    let task = &mut spec.tasks[0];
    task.count = u32::try_from(rng.range(1, 4)).unwrap();
    if which == "chat" && rng.chance(500) {
        task.count = 1;
        task.gpu = Some(GpuRequest::whole(1));
    }
    if rng.chance(500) {
        task.ports = vec![name("http")];
        task.health = Some(HealthCheck {
            probe: HealthProbe::Tcp { port: name("http") },
            interval: DurationMs(500),
            timeout: DurationMs(200),
            failures: 2,
            start_period: DurationMs(2_000),
        });
    }
    spec
}

pub fn daemon(rng: &mut Rng) -> JobSpec {
    let mut spec = job(rng, JobKind::Daemon, "watcher", [ENDLESS_MS, ENDLESS_MS, 0]);
    spec.tasks[0].cpu = CpuMilli(rng.pick(&[100, 200]));
    spec
}
