//! Agent and shim in one executable, as `berth` is, for the tests of this
//! crate: `shim --dir DIR`, `gpu-prober …`, `gpu-self-test …`, `container-runner …`, or `agent --server ADDR --data-dir DIR --name NAME
//! [--simulate GPUS]`, which ends everything when its standard input ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use berth_agent::{AgentOptions, GpuTest, Hold, Pace, run};
use berth_model::DurationMs;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|mode| mode == "shim") {
        return berth_shim::run(Path::new(&arguments[2]));
    }
    if arguments.first().is_some_and(|mode| mode == "gpu-prober") {
        return berth_agent::probe(arguments.into_iter().skip(1));
    }
    if arguments.first().is_some_and(|mode| mode == "gpu-self-test") {
        return berth_agent::self_test(arguments.into_iter().skip(1));
    }
    if arguments.first().is_some_and(|mode| mode == "confined") {
        return berth_agent::confined(arguments.into_iter().skip(1));
    }
    if arguments.first().is_some_and(|mode| mode == "container-runner") {
        return berth_agent::run_container(arguments.into_iter().skip(1));
    }
    if arguments.first().is_some_and(|mode| mode == "artifact-fetcher") {
        return berth_agent::fetch_artifact();
    }
    let _log = berth_telemetry::init_log("info", berth_telemetry::LogFormat::Text);
    let outcome = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(options(&arguments))));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> AgentOptions {
    let value = |flag: &str| {
        let position = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(position + 1).cloned()
    };
    let needed = |flag: &str| value(flag).unwrap_or_else(|| panic!("{flag} is missing"));
    let name = needed("--name").parse().expect("a name");
    let mut options =
        AgentOptions::new(vec![needed("--server")], PathBuf::from(needed("--data-dir")), name);
    options.simulate = value("--simulate")
        .map(|text| berth_config::units::simulated_gpus(&text).expect("simulated GPUs"));
    options.stop_after =
        value("--stop-after-ms").map(|ms| Duration::from_millis(ms.parse().expect("a number")));
    options.http = value("--http");
    let pace = |flag: &str, usual: Duration| {
        value(flag).map_or(usual, |ms| Duration::from_millis(ms.parse().expect("a number")))
    };
    let usual = Pace::default();
    options.gpu_pace = Pace {
        every: usual.every,
        silent_after: pace("--gpus-silent-after-ms", usual.silent_after),
        retry: pace("--gpus-retry-ms", usual.retry),
    };
    if let Some(script) = value("--list-devices") {
        let deadline = Duration::from_secs(2);
        options.lister = Some(berth_agent::Lister { command: vec![script], deadline });
    }
    if let Some(program) = value("--gpus-test-program") {
        options.repair.test = GpuTest::Program(program.into());
    }
    if value("--gpus-self-test").is_some_and(|wanted| wanted == "off") {
        options.repair.test = GpuTest::Nothing;
    }
    if let Some(ms) = value("--gpus-test-within-ms") {
        options.repair.test_within = Duration::from_millis(ms.parse().expect("a number"));
    }
    options.repair.kernel_log = value("--gpus-kernel-log").map(PathBuf::from);
    if let Some(ms) = value("--gpus-soak-ms") {
        options.repair.soak = DurationMs(ms.parse().expect("a number"));
    }
    if let Some(ms) = value("--gpus-stuck-after-ms") {
        options.repair.stuck_after = DurationMs(ms.parse().expect("a number"));
    }
    if let Some(socket) = value("--docker-socket") {
        options.docker.socket = socket.into();
        // The engine of the tests makes no networks of its own.
        options.docker.network = "host".to_owned();
        options.docker.gpus = berth_agent::Gpus::Simulated;
        options.docker.nodes = value("--docker-node").map(PathBuf::from).into_iter().collect();
        options.docker.look_every = Duration::from_millis(200);
    }
    if value("--hold").is_some_and(|hold| hold == "always") {
        options.hold = Hold::Always;
    }
    // Most tests look at the processes of a worker, which has its own alone without.
    let confined = value("--confine").is_some_and(|confine| confine == "always");
    options.confinement.hold = if confined { Hold::Always } else { Hold::Never };
    options.confinement.writable = value("--writable").map(PathBuf::from).into_iter().collect();
    options.worker_user = value("--worker-user");
    options.mps_directory = value("--mps").map(PathBuf::from);
    // Its rules are the host's.
    options.metadata_service = berth_agent::MetadataService::Open;
    if let Some(allow) = value("--artifacts-allow") {
        options.artifacts.allow = allow.split(',').map(str::to_owned).collect();
    }
    if let Some(ms) = value("--artifacts-stall-ms") {
        options.artifacts.stall_after = Duration::from_millis(ms.parse().expect("a number"));
    }
    if let Some(bytes) = value("--artifacts-keep") {
        options.artifacts.keep_bytes = bytes.parse().expect("a number");
    }
    options.stop_on_fd_close = Some(0);
    options
}
