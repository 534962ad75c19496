//! A task of a job.

use berth_model::{
    ArraySpec, Artifact, Checksum, CpuMilli, DiskBytes, Driver, DurationMs, Gang, GpuRequest,
    HealthCheck, HealthProbe, LeftOut, Limits, MemoryBytes, Name, RestartPolicy, ShareMilli,
    StopPolicy, TaskSpec,
};
use berth_proto::v1;
use berth_proto::v1::health_check::Probe;

use crate::enumeration;
use crate::problem::{Field, Problems};

pub(super) fn task_to_proto(task: &TaskSpec) -> v1::TaskSpec {
    v1::TaskSpec {
        name: task.name.to_string(),
        command: task.command.clone(),
        env: task.env.clone(),
        workdir: task.workdir.clone(),
        count: task.count,
        array: task.array.map(|array| v1::ArraySpec {
            start: array.start,
            step: array.step,
            parallel_max: array.parallel_max,
        }),
        gang: task.gang.map(|Gang {}| v1::Gang {}),
        cpu_milli: task.cpu.0,
        memory_bytes: task.memory.0,
        gpu: task.gpu.as_ref().map(gpu_to_proto),
        ports: task.ports.iter().map(Name::to_string).collect(),
        stop: Some(v1::StopPolicy {
            signal: enumeration::number::<v1::Signal, _>(task.stop.signal),
            grace_ms: task.stop.grace.0,
        }),
        restart: Some(v1::RestartPolicy {
            attempts: task.restart.attempts,
            backoff_ms: task.restart.backoff.0,
            backoff_max_ms: task.restart.backoff_max.0,
        }),
        health: task.health.as_ref().map(health_to_proto),
        time_limit_ms: task.time_limit.map(|limit| limit.0),
        limits: limits_to_proto(task.limits),
        image: task.driver.image().map(str::to_owned),
        artifacts: task.artifacts.iter().map(artifact_to_proto).collect(),
        cpu_left_out: task.left_out.cpu,
        memory_left_out: task.left_out.memory,
    }
}

pub(crate) fn gpu_to_proto(gpu: &GpuRequest) -> v1::GpuRequest {
    v1::GpuRequest {
        count: gpu.count,
        models: gpu.models.clone(),
        memory_min_bytes: gpu.memory_min.map(|least| least.0),
        share_milli: (gpu.share != ShareMilli::WHOLE).then_some(gpu.share.0),
    }
}

pub(crate) fn gpu_from_proto(gpu: v1::GpuRequest) -> GpuRequest {
    GpuRequest {
        count: gpu.count,
        models: gpu.models,
        memory_min: gpu.memory_min_bytes.map(MemoryBytes),
        share: gpu.share_milli.map_or(ShareMilli::WHOLE, ShareMilli),
    }
}

fn artifact_to_proto(artifact: &Artifact) -> v1::Artifact {
    let checksum = artifact.checksum.map(|checksum| checksum.0.to_vec());
    v1::Artifact {
        source: artifact.source.clone(),
        checksum: checksum.unwrap_or_default().into(),
        to: artifact.to.clone(),
    }
}

fn read_artifact(at: Field<'_>, proto: v1::Artifact, problems: &mut Problems) -> Option<Artifact> {
    let checksum = match proto.checksum.is_empty() {
        true => None,
        false => Some(Checksum(problems.bytes(at.named("checksum"), &proto.checksum)?)),
    };
    Some(Artifact { source: proto.source, checksum, to: proto.to })
}

fn limits_to_proto(limits: Limits) -> Option<v1::Limits> {
    let told = v1::Limits {
        cpu_milli: limits.cpu.map(|cpu| cpu.0),
        memory_bytes: limits.memory.map(|memory| memory.0),
        processes: limits.processes,
        open_files: limits.open_files,
        disk_bytes: limits.disk.map(|disk| disk.0),
    };
    // One way to say nothing, so that a digest says the same of the same.
    (limits != Limits::default()).then_some(told)
}

fn limits_from_proto(proto: v1::Limits) -> Limits {
    Limits {
        cpu: proto.cpu_milli.map(CpuMilli),
        memory: proto.memory_bytes.map(MemoryBytes),
        processes: proto.processes,
        open_files: proto.open_files,
        disk: proto.disk_bytes.map(DiskBytes),
    }
}

fn health_to_proto(health: &HealthCheck) -> v1::HealthCheck {
    let probe = match &health.probe {
        HealthProbe::Http { path, port } => {
            Probe::Http(v1::HttpProbe { path: path.clone(), port: port.to_string() })
        }
        HealthProbe::Tcp { port } => Probe::Tcp(v1::TcpProbe { port: port.to_string() }),
        HealthProbe::Command { command } => {
            Probe::Command(v1::CommandProbe { command: command.clone() })
        }
    };
    v1::HealthCheck {
        probe: Some(probe),
        interval_ms: health.interval.0,
        timeout_ms: health.timeout.0,
        failures: health.failures,
        start_period_ms: health.start_period.0,
    }
}

/// Reads the task at `position`. Problems name it by its name where it has one.
pub(super) fn read_task(
    tasks: Field<'_>,
    position: usize,
    proto: v1::TaskSpec,
    problems: &mut Problems,
) -> Option<TaskSpec> {
    let name = problems.name(tasks.item(position).named("name"), &proto.name);
    let at = match &name {
        Some(name) => tasks.named(name.as_str()),
        None => tasks.item(position),
    };
    let mut ports = Vec::with_capacity(proto.ports.len());
    for (position, port) in proto.ports.iter().enumerate() {
        ports.extend(problems.name(at.named("ports").item(position), port));
    }
    let mut artifacts = Vec::with_capacity(proto.artifacts.len());
    for (position, artifact) in proto.artifacts.into_iter().enumerate() {
        let at = at.named("artifacts");
        artifacts.extend(read_artifact(at.item(position), artifact, problems));
    }
    let stop = read_stop(at.named("stop"), proto.stop, problems);
    let restart = problems.present(at.named("restart"), proto.restart);
    let health = match proto.health {
        None => Some(None),
        Some(health) => read_health(at.named("health"), health, problems).map(Some),
    };
    let restart = restart?;
    let (stop, health) = (stop?, health?);
    Some(TaskSpec {
        driver: proto.image.map_or(Driver::Exec, |image| Driver::Docker { image }),
        command: proto.command,
        env: proto.env,
        workdir: proto.workdir,
        artifacts,
        count: proto.count,
        array: proto.array.map(|array| ArraySpec {
            start: array.start,
            step: array.step,
            parallel_max: array.parallel_max,
        }),
        gang: proto.gang.map(|v1::Gang {}| Gang {}),
        cpu: CpuMilli(proto.cpu_milli),
        memory: MemoryBytes(proto.memory_bytes),
        left_out: LeftOut { cpu: proto.cpu_left_out, memory: proto.memory_left_out },
        limits: proto.limits.map(limits_from_proto).unwrap_or_default(),
        gpu: proto.gpu.map(gpu_from_proto),
        ports,
        stop,
        restart: RestartPolicy {
            attempts: restart.attempts,
            backoff: DurationMs(restart.backoff_ms),
            backoff_max: DurationMs(restart.backoff_max_ms),
        },
        health,
        time_limit: proto.time_limit_ms.map(DurationMs),
        name: name?,
    })
}

fn read_stop(
    at: Field<'_>,
    proto: Option<v1::StopPolicy>,
    problems: &mut Problems,
) -> Option<StopPolicy> {
    let proto = problems.present(at, proto)?;
    let signal = enumeration::read::<v1::Signal, _>(at.named("signal"), proto.signal, problems);
    Some(StopPolicy { signal: signal?, grace: DurationMs(proto.grace_ms) })
}

fn read_health(
    at: Field<'_>,
    proto: v1::HealthCheck,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    let probe = match problems.present(at.named("probe"), proto.probe)? {
        Probe::Http(http) => {
            let port = problems.name(at.named("http").named("port"), &http.port)?;
            HealthProbe::Http { path: http.path, port }
        }
        Probe::Tcp(tcp) => {
            HealthProbe::Tcp { port: problems.name(at.named("tcp").named("port"), &tcp.port)? }
        }
        Probe::Command(probe) => HealthProbe::Command { command: probe.command },
    };
    Some(HealthCheck {
        probe,
        interval: DurationMs(proto.interval_ms),
        timeout: DurationMs(proto.timeout_ms),
        failures: proto.failures,
        start_period: DurationMs(proto.start_period_ms),
    })
}
