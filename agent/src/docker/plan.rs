//! From a wish to what the engine is asked for. Touches neither.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, PortBinding,
};

use crate::environment::{Environment, substitute};
use crate::options::Program;
use crate::request::out_of_memory_score;
use crate::wanted::Wanted;

/// Where the engine listens unless it is told otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
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
    /// `exe arguments… more` must end in [`crate::run_container`] of all that is more.
    pub runner: Program,
}

/// Whether containers are given GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gpus {
    Real,
    /// The engine could not give what is not there.
    Simulated,
}

impl Default for Docker {
    fn default() -> Docker {
        Docker {
            socket: DOCKER_SOCKET.into(),
            network: "bridge".to_owned(),
            gpus: Gpus::Real,
            runner: Program::of_this_executable("container-runner"),
        }
    }
}

/// What the engine is asked to make. `environment` is the worker's, with [`TASK_DIR`];
/// `task_dir` is what that is on the host.
pub fn body(
    wanted: &Wanted,
    environment: &Environment,
    task_dir: &Path,
    docker: &Docker,
    node: &str,
) -> ContainerCreateBody {
    let task = wanted.task();
    let text = |words: &[String]| words.iter().map(|word| substitute(word, environment)).collect();
    let env = environment
        .iter()
        // An image knows best where its programs are.
        .filter(|(name, _)| *name != "PATH" || task.env.contains_key("PATH"))
        .map(|(name, value)| format!("{name}={value}"))
        .chain([format!("NVIDIA_VISIBLE_DEVICES={}", visible(wanted))]);
    let (exposed_ports, port_bindings) = ports(wanted, &docker.network);
    let labels = [
        ("berth.allocation".to_owned(), wanted.row.allocation.to_string()),
        ("berth.node".to_owned(), node.to_owned()),
    ];
    ContainerCreateBody {
        image: task.driver.image().map(str::to_owned),
        // The whole command, as for a process: an image's entry point is for its own.
        entrypoint: (!task.command.is_empty()).then(Vec::new),
        cmd: (!task.command.is_empty()).then(|| text(&task.command)),
        env: Some(env.collect()),
        working_dir: task.workdir.as_ref().map(|workdir| substitute(workdir, environment)),
        labels: Some(labels.into()),
        exposed_ports,
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{}:{TASK_DIR}", task_dir.display())]),
            network_mode: Some(docker.network.clone()),
            port_bindings,
            device_requests: devices(wanted, docker.gpus),
            // Whoever is number 1 there reaps orphans and dies of signals as others do.
            init: Some(true),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            cap_drop: Some(vec!["NET_RAW".to_owned()]),
            // The shim keeps the output.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            oom_score_adj: Some(i64::from(out_of_memory_score(task.quality()))),
            ..limits(wanted)
        }),
        ..ContainerCreateBody::default()
    }
}

/// The same bounds as a process has, in the engine's words.
fn limits(wanted: &Wanted) -> HostConfig {
    let task = wanted.task();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let memory = task.memory_max().map(|most| number(most.0));
    HostConfig {
        cpu_shares: Some(number((task.cpu.0.saturating_mul(1024) / 1000).clamp(2, 262_144))),
        nano_cpus: task.limits.cpu.map(|most| number(most.0.saturating_mul(1_000_000))),
        memory,
        // Swap included, so that no limit is outrun by swapping.
        memory_swap: memory,
        pids_limit: Some(i64::from(task.processes_max())),
        ..HostConfig::default()
    }
}

/// As the engine names networks that are not its bridges: nothing is published there.
fn network(text: &str) -> Option<&str> {
    matches!(text, "host" | "none").then_some(text)
}

type Ports = (Option<Vec<String>>, Option<HashMap<String, Option<Vec<PortBinding>>>>);

/// Each allotted port is the same inside and outside.
fn ports(wanted: &Wanted, to: &str) -> Ports {
    if network(to).is_some() || wanted.row.ports.is_empty() {
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
