//! `berth scheduler`: from settings to a running scheduler.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_config::units::Address;
use berth_config::{Flags, Guards, Scheduler, Setting};
use berth_model::DurationMs;
use berth_raft::Timers;
use berth_reconcile::{GuardRules, LivenessRules, Marks};
use berth_scheduler::{
    CopyOptions, Formation, Leave, MemoryDisk, SchedulerOptions, Seat, Transport,
};

use crate::arguments::SchedulerArguments;
use crate::limits::raise_open_files;
use crate::process::Process;
use crate::{settings, stop};

/// After its owner has gone a scheduler ends within this, whatever hangs.
const LAST_LIMIT: Duration = Duration::from_secs(4);

pub fn run(arguments: &SchedulerArguments, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut flags = Flags::new();
    flags.set_if_given("scheduler.data_dir", "--data-dir", arguments.data_dir.clone());
    flags.set_if_given("scheduler.listen", "--listen", arguments.listen.clone());
    flags.set_if_given("scheduler.advertise", "--advertise", arguments.advertise.clone());
    flags.set_if_given("scheduler.http", "--http", arguments.http.clone());
    flags.set_if_given("scheduler.join", "--join", arguments.join.clone());
    flags.set_if_given("scheduler.tls_dir", "--tls-dir", arguments.tls_dir.clone());
    flags.set_if_given(
        "scheduler.join_token_file",
        "--join-token-file",
        arguments.join_token_file.clone(),
    );
    if arguments.plain_text {
        flags.set("scheduler.plain_text", "--plain-text", "true");
    }
    if arguments.learner {
        flags.set("scheduler.learner", "--learner", "true");
    }
    if arguments.bootstrap {
        flags.set("scheduler.bootstrap", "--bootstrap", "true");
    }
    let (loaded, inputs) = settings::load(config, &arguments.process, flags)?;
    settings::require(&loaded.config.scheduler.missing_to_start())?;
    let options = options(&loaded.config.scheduler)?;
    raise_open_files();
    let process = Process::start("scheduler", loaded, inputs)?;
    let owner = stop::owner_pipe(arguments.process.stop_on_fd_close)?;
    let metrics = Arc::clone(&process.metrics_text);
    process.run(async {
        let asked = async {
            tokio::select! {
                _ = stop::on_signal() => Leave::HandOver,
                _ = stop::on_close(owner) => {
                    last_resort();
                    Leave::AtOnce
                }
            }
        };
        berth_scheduler::run(options, metrics, asked).await
    })
}

/// Ends the process in a while even if ending in order hangs.
fn last_resort() {
    std::thread::spawn(|| {
        std::thread::sleep(LAST_LIMIT);
        std::process::exit(1);
    });
}

fn options(settings: &Scheduler) -> anyhow::Result<SchedulerOptions> {
    refuse_unbuilt(settings)?;
    let data_dir = settings.data_dir.as_ref().context("the data directory is missing")?;
    let join: Vec<String> = settings.join.value.iter().map(ToString::to_string).collect();
    let seat = if settings.learner.value { Seat::Learner } else { Seat::Voter };
    let formation = match (settings.bootstrap.value, join.is_empty()) {
        (true, _) => Formation::Bootstrap,
        (false, false) => {
            let token_file = settings.join_token_file.as_ref().map(|file| file.value.clone());
            Formation::Join { servers: join, seat, token_file }
        }
        (false, true) => Formation::Existing,
    };
    let timers = settings.raft.timers(settings.raft.profile.value);
    let liveness = LivenessRules {
        heartbeat: DurationMs(settings.lease.heartbeat.value),
        suspect_after: DurationMs(settings.lease.suspect_after.value),
        down_after: DurationMs(settings.lease.lost_after.value),
        lease: DurationMs(settings.lease.lost_after.value),
        ..LivenessRules::default()
    };
    let (listen, http) = (socket(&settings.listen.value)?, socket(&settings.http.value)?);
    refuse_unreachable(settings, listen)?;
    let guards = guard_rules(&settings.guards)?;
    Ok(SchedulerOptions {
        data_dir: data_dir.value.clone(),
        listen,
        advertise: settings.advertise.as_ref().map_or_else(String::new, |at| at.value.to_string()),
        http,
        formation,
        timers: Timers {
            heartbeat_ms: timers.heartbeat_ms,
            election_min_ms: timers.election_min_ms,
            election_max_ms: timers.election_max_ms,
        },
        liveness,
        guards,
        submits_per_second: u32::try_from(settings.submits_per_second.value)
            .ok()
            .and_then(NonZeroU32::new),
        snapshot_log_bytes: settings.raft.snapshot_log_bytes.value,
        disk_soft_bytes: settings.disk.soft_free.value,
        disk_hard_bytes: settings.disk.hard_free.value,
        disk_ballast_bytes: settings.disk.ballast.value,
        copies: settings.backup.folder.as_ref().map(|folder| CopyOptions {
            folder: folder.value.clone(),
            every: Duration::from_millis(settings.backup.every.value),
            keep: usize::try_from(settings.backup.keep.value).unwrap_or(usize::MAX),
        }),
        transport: transport(settings, &data_dir.value, [listen, http])?,
        memory_disk: match settings.disk.allow_memory.value {
            true => MemoryDisk::Allowed,
            false => MemoryDisk::Refused,
        },
    })
}

fn guard_rules(settings: &Guards) -> anyhow::Result<GuardRules> {
    let marks = |is_on: &Setting<bool>, low: &Setting<u64>, high: &Setting<u64>| {
        let (low_percent, high_percent) = (u8::try_from(low.value)?, u8::try_from(high.value)?);
        anyhow::Ok(is_on.value.then_some(Marks { high_percent, low_percent }))
    };
    Ok(GuardRules {
        cpu: marks(&settings.cpu, &settings.cpu_low, &settings.cpu_high)?,
        memory: marks(&settings.memory, &settings.memory_low, &settings.memory_high)?,
        window: DurationMs(settings.window.value),
    })
}

/// Others must be told an address of this host, and not "all of them".
fn refuse_unreachable(
    settings: &Scheduler,
    listen: SocketAddr,
) -> Result<(), settings::BadSettings> {
    let told = settings.advertise.as_ref().map(|at| at.value.to_string());
    let told = told.and_then(|at| at.parse::<SocketAddr>().ok()).unwrap_or(listen);
    if told.ip().is_unspecified() {
        return Err(settings::BadSettings(format!(
            "{told} is every address of this host, and the others need one of them to reach it by\n  \
             hint: give --advertise (`scheduler.advertise`), such as 10.0.0.1:{}",
            if told.port() == 0 { 7070 } else { told.port() },
        )));
    }
    Ok(())
}

/// Beyond loopback there is TLS, unless plain text was asked for by name; on
/// loopback there is if somebody says so, or said so when the cluster was
/// founded.
fn transport(
    settings: &Scheduler,
    data_dir: &Path,
    listeners: [SocketAddr; 2],
) -> Result<Transport, settings::BadSettings> {
    let usual = data_dir.join("tls");
    let beyond = listeners.iter().any(|address| !address.ip().is_loopback());
    match (&settings.tls_dir, settings.plain_text.value) {
        (Some(_), true) => Err(settings::BadSettings(
            "`scheduler.tls_dir` and `scheduler.plain_text` exclude each other".to_owned(),
        )),
        (Some(folder), false) => Ok(Transport::Tls(folder.value.clone())),
        (None, true) => Ok(Transport::PlainTextAnywhere),
        (None, false) if beyond || settings.join_token_file.is_some() || usual.exists() => {
            Ok(Transport::Tls(usual))
        }
        (None, false) => Ok(Transport::PlainTextOnLoopback),
    }
}

fn refuse_unbuilt(settings: &Scheduler) -> Result<(), settings::BadSettings> {
    let unbuilt = [("scheduler.gateway", settings.gateway.is_some())];
    match unbuilt.iter().find(|(_, given)| *given) {
        Some((key, _)) => {
            Err(settings::BadSettings(format!("`{key}` is not supported by this version")))
        }
        None => Ok(()),
    }
}

/// The socket address of a setting.
pub fn socket(address: &Address) -> anyhow::Result<SocketAddr> {
    let text = address.to_string();
    let mut found = text.to_socket_addrs().with_context(|| format!("resolve {text}"))?;
    match found.next() {
        Some(address) => Ok(address),
        None => bail!("{text} resolves to no address"),
    }
}
