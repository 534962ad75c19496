//! `berth agent`: from settings to a running agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use berth_agent::{
    AgentOptions, Artifacts, Docker, GpuTest, Gpus, Hold, HostLoad, Lister, MetadataService, Pace,
    Repair, Transport, Wish,
};
use berth_config::units::Address;
use berth_config::{Agent, Flags, HostUse, Setting};
use berth_identity::folder::Folder;
use berth_model::{CpuMilli, DurationMs, MemoryBytes, Name, PortRange};

use crate::arguments::{AgentArguments, ProcessArguments};
use crate::process::Process;
use crate::settings;

pub fn run(arguments: &AgentArguments, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (loaded, inputs) = settings::load(config, &arguments.process, flags(arguments))?;
    settings::require(&loaded.config.agent.missing_to_start())?;
    let mut options = options(&loaded.config.agent)?;
    let process = Process::start("agent", loaded, inputs)?;
    options.metrics = Some(process.metrics.clone());
    options.stop_on_fd_close = arguments.process.stop_on_fd_close;
    outlive_workers();
    process.run(berth_agent::run(options))
}

/// When the host runs out of memory its kernel ends workers, not those who know what became
/// of them; shims inherit this. Only root may ask for it.
fn outlive_workers() {
    const LATE: &str = "-900";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", LATE) {
        tracing::debug!(%error, "the kernel may end this agent when memory runs out");
    }
}

/// Where this host's devices are asked for, as the settings of its agent say: NVIDIA's library, if
/// they name one, and the command, if there is one.
pub fn device_sources(config: Option<&Path>) -> anyhow::Result<(Option<PathBuf>, Option<Lister>)> {
    let nothing = ProcessArguments { log_level: None, stop_on_fd_close: None };
    let (loaded, _) = settings::load(config, &nothing, Flags::new())?;
    let agent = loaded.config.agent;
    let lister = lister(&agent);
    Ok((agent.gpus.nvml_library.map(|path| path.value), lister))
}

fn flags(arguments: &AgentArguments) -> Flags {
    let mut flags = Flags::new();
    let given = [
        ("agent.servers", "--servers", &arguments.servers),
        ("agent.data_dir", "--data-dir", &arguments.data_dir),
        ("agent.name", "--name", &arguments.name),
        ("agent.advertise", "--advertise", &arguments.advertise),
        ("agent.http", "--http", &arguments.http),
        ("agent.tls_dir", "--tls-dir", &arguments.tls_dir),
        ("agent.join_token_file", "--join-token-file", &arguments.join_token_file),
        ("agent.cpus", "--cpus", &arguments.cpus),
        ("agent.memory", "--memory", &arguments.memory),
        ("agent.ports", "--ports", &arguments.ports),
        ("agent.simulate", "--simulate", &arguments.simulate),
        ("agent.pool", "--pool", &arguments.pool),
        ("agent.zone", "--zone", &arguments.zone),
        ("agent.worker_user", "--worker-user", &arguments.worker_user),
        ("agent.artifacts.allow", "--artifacts-allow", &arguments.artifacts_allow),
    ];
    for (key, flag, value) in given {
        flags.set_if_given(key, flag, value.clone());
    }
    if arguments.plain_text {
        flags.set("agent.plain_text", "--plain-text", "true");
    }
    for label in &arguments.labels {
        flags.set("agent.labels", "--label", label.clone());
    }
    flags
}

fn options(settings: &Agent) -> anyhow::Result<AgentOptions> {
    let data_dir = settings.data_dir.as_ref().context("the data directory is missing")?;
    let servers = settings.servers.value.iter().map(ToString::to_string).collect();
    let name = match &settings.name {
        Some(name) => name.value.clone(),
        None => host_name()?,
    };
    let mut options =
        AgentOptions::new(servers, data_dir.value.clone(), checked(&name, "agent.name")?);
    options.transport = transport(settings, &data_dir.value)?;
    options.address =
        settings.advertise.as_ref().map_or_else(String::new, |at| at.value.to_string());
    options.http = Some(settings.http.value.to_string());
    options.cpu = settings.cpus.as_ref().map(|cpus| CpuMilli(cpus.value));
    options.memory = settings.memory.as_ref().map(|memory| MemoryBytes(memory.value));
    let ports = settings.ports.value;
    options.ports = PortRange { first: ports.first, last: ports.last };
    options.simulate = settings.simulate.as_ref().map(|gpus| gpus.value.clone());
    if !settings.measure_host.value {
        options.host_load = HostLoad::Pretended;
    }
    options.nvml_library = settings.gpus.nvml_library.as_ref().map(|path| path.value.clone());
    options.lister = lister(settings);
    options.gpu_pace = pace(settings, options.lister.as_ref());
    let path = |setting: &Option<Setting<PathBuf>>| setting.as_ref().map(|path| path.value.clone());
    options.repair = Repair {
        xids: path(&settings.gpus.xids),
        // What this host's kernel says is not of GPUs that are only pretended.
        kernel_log: path(&settings.gpus.kernel_log)
            .or_else(|| options.simulate.is_none().then(|| berth_agent::KERNEL_LOG.into())),
        soak: DurationMs(settings.gpus.soak.value),
        stuck_after: DurationMs(settings.gpus.stuck_after.value),
        reset: path(&settings.gpus.reset_program),
        test: gpu_test(&settings.gpus),
        ..Repair::default()
    };
    options.tasks_per_gpu_max = u32::try_from(settings.gpus.max_tasks_per_gpu.value)?;
    options.mps_directory = path(&settings.gpus.mps_pipe_directory);
    options.labels = settings
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.value.clone()))
        .collect::<BTreeMap<_, _>>();
    options.pool = checked(&settings.pool.value, "agent.pool")?;
    if let Some(zone) = &settings.zone {
        options.zone = checked(&zone.value, "agent.zone")?;
    }
    options.hold = hold(settings.cgroups.value);
    let confinement = &settings.confinement;
    options.confinement = Wish {
        hold: hold(confinement.mode.value),
        writable: confinement.writable.value.clone(),
        hidden: confinement.hidden.value.clone(),
        devices: confinement.devices.value.clone(),
    };
    if confinement.metadata_service.value {
        options.metadata_service = MetadataService::Open;
    }
    let gpus = if options.simulate.is_some() { Gpus::Simulated } else { Gpus::Real };
    options.docker = Docker {
        socket: settings.docker.socket.value.clone(),
        network: settings.docker.network.value.clone(),
        gpus,
        ..Docker::default()
    };
    options.artifacts = artifacts(settings);
    options.worker_user = settings.worker_user.as_ref().map(|user| user.value.clone());
    options.retry_min = Duration::from_millis(settings.disconnect.retry_min.value);
    options.retry_max = Duration::from_millis(settings.disconnect.retry_max.value);
    options.stop_after =
        settings.disconnect.stop_after.as_ref().map(|after| Duration::from_millis(after.value));
    Ok(options)
}

/// What tests a mended GPU: a program that somebody has named is wanted, whatever else is said.
fn gpu_test(settings: &berth_config::Gpus) -> GpuTest {
    let library = settings.cuda_library.as_ref().map(|path| path.value.clone());
    match &settings.test_program {
        Some(program) => GpuTest::Program(program.value.clone()),
        None if settings.self_test.value => GpuTest::BuiltIn { library },
        None => GpuTest::Nothing,
    }
}

/// How often the devices are looked at.
fn pace(settings: &Agent, lister: Option<&Lister>) -> Pace {
    let (every, silent_after) = match lister {
        // A run that takes as long as it may is not silence.
        Some(lister) => {
            let every = Duration::from_millis(settings.devices.every.value);
            (every, every + 2 * lister.deadline)
        }
        None => (
            Duration::from_millis(settings.gpus.report_every.value),
            Duration::from_millis(settings.gpus.silent_after.value),
        ),
    };
    Pace { every, silent_after, ..Pace::default() }
}

/// What lists the host's devices, where it is not NVIDIA's library.
fn lister(settings: &Agent) -> Option<Lister> {
    let command = settings.devices.command.value.clone();
    let deadline = Duration::from_millis(settings.devices.deadline.value);
    (!command.is_empty()).then_some(Lister { command, deadline })
}

fn artifacts(settings: &Agent) -> Artifacts {
    Artifacts {
        allow: settings.artifacts.allow.value.clone(),
        keep_bytes: settings.artifacts.keep.value,
        size_max_bytes: settings.artifacts.max_size.value,
        stall_after: Duration::from_millis(settings.artifacts.stall_after.value),
        ..Artifacts::default()
    }
}

fn hold(wanted: HostUse) -> Hold {
    match wanted {
        HostUse::Auto => Hold::IfPossible,
        HostUse::Required => Hold::Always,
        HostUse::Off => Hold::Never,
    }
}

/// With TLS where there is a certificate or a token to get one with. Without,
/// an agent takes orders from its own machine only, unless it is told
/// otherwise: an order is a command line to run.
fn transport(settings: &Agent, data_dir: &Path) -> Result<Transport, settings::BadSettings> {
    let usual = Folder::new(data_dir.join("tls"));
    let join_token_file = settings.join_token_file.as_ref().map(|file| file.value.clone());
    let folder = match &settings.tls_dir {
        Some(folder) => Some(folder.value.clone()),
        None if join_token_file.is_some() || usual.has_certificate() => {
            Some(usual.path().to_owned())
        }
        None => None,
    };
    let plain_text = settings.plain_text.value;
    match folder {
        Some(_) if plain_text => Err(settings::BadSettings(
            "`agent.plain_text` excludes `agent.tls_dir`, `agent.join_token_file` and a \
             certificate in the data directory"
                .to_owned(),
        )),
        Some(folder) => Ok(Transport::Tls { folder, join_token_file }),
        None if plain_text => Ok(Transport::PlainText),
        None => {
            let servers = settings.servers.value.iter().map(|address| ("agent.servers", address));
            let all = servers.chain([("agent.http", &settings.http.value)]);
            for (key, address) in all {
                if !is_loopback(address) {
                    return Err(settings::BadSettings(format!(
                        "`{key}` {address} is not on loopback, and there is neither a certificate \
                         nor a token to get one with; give --join-token-file, or --plain-text on a \
                         network that you trust as this host"
                    )));
                }
            }
            Ok(Transport::PlainText)
        }
    }
}

fn is_loopback(address: &Address) -> bool {
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn checked(text: &str, key: &str) -> Result<Name, settings::BadSettings> {
    Name::new(text).map_err(|error| settings::BadSettings(format!("`{key}`: {error}")))
}

fn host_name() -> anyhow::Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    Ok(name.trim().to_owned())
}
