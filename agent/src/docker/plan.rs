//! From a wish to what the engine is asked for. Touches neither.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HostConfig, HostConfigLogConfig, Mount,
    MountType, PortBinding, ResourcesUlimits,
};

use berth_shim::protocol::UserIds;

use crate::cgroups::shares;
use crate::clock;
use crate::environment::{Environment, substitute};
use crate::options::Program;
use crate::request::{open_files_max, out_of_memory_score};
use crate::wanted::Wanted;

/// Where the engine listens unless it is told otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Each look is a process of some milliseconds; a container that has lost its devices is to be
/// replaced within a minute, and two looks must say so.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// `BERTH_TASK_DIR` in a container. Not where it is on the host: what a container's processes
/// carry must not make them look like the host's.
pub const TASK_DIR: &str = "/berth";

/// How the agent reaches Docker, and what containers get.
#[derive(Clone, Debug)]
pub struct Docker {
    pub socket: PathBuf,
    /// `bridge` or another of the engine's networks, whose ports are published; `host`;
    /// `none`.
    pub network: String,
    pub gpus: Gpus,
    /// Device nodes that every container with GPUs gets besides what its runtime gives it.
    pub nodes: Vec<PathBuf>,
    /// How often it is looked from inside whether a container can use its devices.
    pub look_every: Duration,
    /// Tells this run of the agent from those before it.
    pub run: String,
    /// `exe arguments… more` must end in [`crate::run_container`] of all that is more.
    pub runner: Program,
}

/// Whether containers are given GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gpus {
    Real,
    /// The engine could not give what is not there, or is not NVIDIA's.
    Simulated,
}

impl Default for Docker {
    fn default() -> Docker {
        Docker {
            socket: DOCKER_SOCKET.into(),
            network: "bridge".to_owned(),
            gpus: Gpus::Real,
            nodes: Vec::new(),
            look_every: LOOK_EVERY,
            run: format!("{}-{}", clock::wall().0, std::process::id()),
            runner: Program::of_this_executable("container-runner"),
        }
    }
}

/// Says whose a container is: [`crate::data_dir::DataDir::key`].
pub const AGENT_LABEL: &str = "berth.agent";
/// Which run of that agent has made it.
pub const RUN_LABEL: &str = "berth.run";
pub const ALLOCATION_LABEL: &str = "berth.allocation";

/// What of the host a container depends on.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// What [`TASK_DIR`] is there.
    pub task_dir: &'a Path,
    pub docker: &'a Docker,
    /// The agent's, by its data directory.
    pub key: &'a str,
    pub user: Option<UserIds>,
    /// Where it finds MPS, if it is a client of it.
    pub mps_directory: Option<&'a Path>,
    /// The engine takes no larger quota.
    pub cores: u64,
}

/// What the engine is asked to make. `environment` is the worker's, with [`TASK_DIR`].
pub fn body(wanted: &Wanted, environment: &Environment, host: Host<'_>) -> ContainerCreateBody {
    let docker = host.docker;
    let task = wanted.task();
    let text = |words: &[String]| words.iter().map(|word| substitute(word, environment)).collect();
    let env = environment
        .iter()
        // An image knows best where its programs are.
        .filter(|(name, _)| *name != "PATH" || task.env.contains_key("PATH"))
        .filter(|(name, _)| *name != VISIBLE)
        .map(|(name, value)| format!("{name}={value}"))
        .chain([format!("{VISIBLE}={}", visible(wanted))]);
    let (exposed_ports, port_bindings) = ports(wanted, &docker.network);
    let labels = [
        (ALLOCATION_LABEL.to_owned(), wanted.row.allocation.to_string()),
        (AGENT_LABEL.to_owned(), host.key.to_owned()),
        (RUN_LABEL.to_owned(), docker.run.clone()),
    ];
    ContainerCreateBody {
        image: task.driver.image().map(str::to_owned),
        // The whole command, as for a process: an image's entry point is for its own.
        entrypoint: (!task.command.is_empty()).then(Vec::new),
        cmd: (!task.command.is_empty()).then(|| text(&task.command)),
        env: Some(env.collect()),
        working_dir: task.workdir.as_ref().map(|workdir| substitute(workdir, environment)),
        labels: Some(labels.into()),
        user: host.user.map(|user| format!("{}:{}", user.uid, user.gid)),
        exposed_ports,
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(mounts(host)),
            // MPS and its clients share memory by its names.
            ipc_mode: host.mps_directory.map(|_| "host".to_owned()),
            network_mode: Some(docker.network.clone()),
            port_bindings,
            device_requests: devices(wanted, docker.gpus),
            devices: nodes(wanted, &docker.nodes),
            // Whoever is number 1 there reaps orphans and dies of signals as others do.
            init: Some(true),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            cap_drop: Some(vec!["NET_RAW".to_owned()]),
            // The shim keeps the output.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            oom_score_adj: Some(i64::from(out_of_memory_score(task.quality()))),
            ..limits(wanted, host.cores)
        }),
        ..ContainerCreateBody::default()
    }
}

/// Where MPS listens is the same inside, so that one variable is right for all.
fn mounts(host: Host<'_>) -> Vec<Mount> {
    let bind = |source: &Path, target: String| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target),
        ..Mount::default()
    };
    let mps = host.mps_directory.map(|path| bind(path, path.to_string_lossy().into_owned()));
    [bind(host.task_dir, TASK_DIR.to_owned())].into_iter().chain(mps).collect()
}

/// The same bounds as a process has, in the engine's words.
fn limits(wanted: &Wanted, cores: u64) -> HostConfig {
    let task = wanted.task();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let memory = task.memory_max().map(|most| number(most.0));
    HostConfig {
        cpu_shares: Some(number(shares(task.cpu))),
        nano_cpus: task
            .limits
            .cpu
            .map(|most| number(most.0.min(cores.saturating_mul(1000)).saturating_mul(1_000_000))),
        memory,
        // Swap included, so that no limit is outrun by swapping.
        memory_swap: memory,
        pids_limit: Some(i64::from(task.processes_max())),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(number(open_files_max(task))),
            hard: Some(number(open_files_max(task))),
        }]),
        ..HostConfig::default()
    }
}

/// Whether ports are published there: the engine calls by these names what is no network of
/// its own.
fn publishes(network: &str) -> bool {
    !matches!(network, "host" | "none")
}

type Ports = (Option<Vec<String>>, Option<HashMap<String, Option<Vec<PortBinding>>>>);

/// Each allotted port is the same inside and outside.
fn ports(wanted: &Wanted, to: &str) -> Ports {
    if !publishes(to) || wanted.row.ports.is_empty() {
        return (None, None);
    }
    let named = || wanted.row.ports.iter().map(|claim| format!("{}/tcp", claim.port));
    let bound = wanted.row.ports.iter().map(|claim| {
        let binding =
            PortBinding { host_ip: Some(String::new()), host_port: Some(claim.port.to_string()) };
        Some(vec![binding])
    });
    (Some(named().collect()), Some(named().zip(bound).collect()))
}

/// What NVIDIA's runtime goes by.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

fn visible(wanted: &Wanted) -> String {
    let uuids: Vec<&str> = wanted.row.devices.iter().map(|claim| claim.uuid.as_str()).collect();
    if uuids.is_empty() { "void".to_owned() } else { uuids.join(",") }
}

fn devices(wanted: &Wanted, gpus: Gpus) -> Option<Vec<DeviceRequest>> {
    if wanted.row.devices.is_empty() || gpus == Gpus::Simulated {
        return None;
    }
    let uuids = wanted.row.devices.iter().map(|claim| claim.uuid.clone()).collect();
    Some(vec![DeviceRequest {
        device_ids: Some(uuids),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }])
}

fn nodes(wanted: &Wanted, nodes: &[PathBuf]) -> Option<Vec<DeviceMapping>> {
    if wanted.row.devices.is_empty() || nodes.is_empty() {
        return None;
    }
    let mapping = |node: &PathBuf| {
        let path = node.to_string_lossy().into_owned();
        DeviceMapping {
            path_on_host: Some(path.clone()),
            path_in_container: Some(path),
            cgroup_permissions: Some("rwm".to_owned()),
        }
    };
    Some(nodes.iter().map(mapping).collect())
}

#[cfg(test)]
mod tests {
    use berth_model::{
        Constraints, CpuMilli, DeviceClaim, Driver, DurationMs, JobKind, JobSpec, MemoryBytes,
        Name, Policy, PortClaim, ShareMilli, SpecDigest, TaskSpec,
    };
    use berth_wire::agent::DesiredRow;

    use super::*;
    use crate::environment::environment;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn wanted() -> Wanted {
        let command = ["serve", "--port=${PORT}"].map(str::to_owned).into();
        let mut task = TaskSpec::new(name("main"), JobKind::Service, command);
        task.driver = Driver::Docker { image: "a:1".to_owned() };
        task.env = [("NVIDIA_VISIBLE_DEVICES".to_owned(), "all".to_owned())].into();
        task.memory = MemoryBytes(1 << 30);
        task.limits.cpu = Some(CpuMilli(64_000));
        let job = JobSpec {
            name: name("job"),
            namespace: name("default"),
            kind: JobKind::Service,
            priority: 50,
            policy: Policy::BestFit,
            constraints: Constraints::default(),
            tasks: vec![task],
            deadline: None,
            max_disconnect: DurationMs(1),
            on_return: Default::default(),
            policy_origin: Default::default(),
            update: Default::default(),
            exclusive: false,
            preemption: berth_model::Preemption::default(),
            route: berth_model::Route::default(),
            autoscale: None,
        };
        let device = DeviceClaim {
            uuid: "GPU-7".to_owned(),
            share: ShareMilli::WHOLE,
            memory: MemoryBytes(1 << 34),
        };
        let row = DesiredRow {
            allocation: "7.0.0.1".parse().unwrap(),
            spec: SpecDigest::default(),
            devices: vec![device],
            ports: vec![PortClaim { name: name("http"), port: 20_000 }],
            seat: None,
            stop: None,
        };
        Wanted::first(row, job)
    }

    /// As the runner reads it.
    fn asked(wanted: &Wanted, docker: &Docker, user: Option<UserIds>) -> ContainerCreateBody {
        let inside = environment(wanted, &name("node-a"), Path::new(TASK_DIR));
        let mps_directory = None;
        let task_dir = Path::new("/data:1/task");
        let host = Host { task_dir, docker, key: "key", user, mps_directory, cores: 8 };
        let text = serde_json::to_vec(&body(wanted, &inside, host)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_container_gets_what_a_process_would() {
        let wanted = wanted();
        let user = Some(UserIds { uid: 7, gid: 8 });
        let asked = asked(&wanted, &Docker::default(), user);
        assert_eq!(asked.cmd.unwrap(), ["serve", "--port=20000"]);
        assert_eq!(asked.entrypoint, Some(Vec::new()));
        assert_eq!(asked.user.as_deref(), Some("7:8"));
        assert_eq!(asked.exposed_ports.unwrap(), ["20000/tcp"]);
        let env = asked.env.unwrap();
        let of = |name: &str| -> Vec<_> {
            let begin = format!("{name}=");
            env.iter().filter_map(|line| line.strip_prefix(&begin)).collect()
        };
        // Not what the job says of it, and once.
        assert_eq!(of("NVIDIA_VISIBLE_DEVICES"), ["GPU-7"]);
        assert_eq!((of("BERTH_TASK_DIR"), of("PATH")), (vec!["/berth"], vec![]));
        let host = asked.host_config.unwrap();
        let published = host.port_bindings.unwrap().remove("20000/tcp").flatten().unwrap();
        assert_eq!(published[0].host_port.as_deref(), Some("20000"));
        let mounted = &host.mounts.unwrap()[0];
        assert_eq!(mounted.source.as_deref(), Some("/data:1/task"));
        let devices = &host.device_requests.unwrap()[0];
        assert_eq!(devices.device_ids.as_deref(), Some(&["GPU-7".to_owned()][..]));
        assert_eq!(host.devices, None);
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        // The engine takes no more than the host has.
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(8_000_000_000), Some(16_384)));
    }

    #[test]
    fn on_the_hosts_network_nothing_is_published_and_no_gpu_is_pretended() {
        let docker =
            Docker { network: "host".to_owned(), gpus: Gpus::Simulated, ..Docker::default() };
        let mut wanted = wanted();
        wanted.row.devices.clear();
        let asked = asked(&wanted, &docker, None);
        let host = asked.host_config.unwrap();
        assert_eq!((asked.exposed_ports, host.port_bindings), (None, None));
        assert_eq!((host.device_requests, asked.user), (None, None));
        assert!(asked.env.unwrap().contains(&"NVIDIA_VISIBLE_DEVICES=void".to_owned()));
    }
}
