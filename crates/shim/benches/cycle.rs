//! How fast a shim is: `cargo bench -p berth-shim`. Prints the latency of a start and the rate of whole cycles (start,
//! worker runs and ends, durable record, retire) of `/bin/true` over two shims, beside the machine's own rate of
//! spawning and waiting for `/bin/true`, and the memory of a shim.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_shim::protocol::StartRequest;
use berth_shim::{Event, ShimHandle};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const EXE: &str = env!("CARGO_BIN_EXE_berth-shim-test");
const STARTS: usize = 500;
const CYCLES_PER_SHIM: usize = 500;
const ROUNDS: usize = 5;

fn main() -> Outcome<()> {
    // In the build folder, which is on a disk; a temporary folder may be in memory, where syncing costs nothing.
    let root = tempfile::Builder::new()
        .prefix("shim-bench")
        .tempdir_in(Path::new(EXE).parent().ok_or("no parent")?)?;
    let mut out = io::stdout();
    let mut shims = Vec::new();
    for index in 0..2 {
        shims.push(spawn(&root.path().join(format!("shims/{index}")))?);
    }
    let idle = memory(shims[0].hello().pid)?;
    let mut latencies = start_latencies(&mut shims[0])?;
    latencies.sort();
    writeln!(
        out,
        "start request to answer (exec has succeeded): p50 {:?}, p99 {:?}, max {:?}",
        latencies[STARTS / 2],
        latencies[STARTS * 99 / 100],
        latencies[STARTS - 1]
    )?;
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rates[0].push(bare_rate()?);
        rates[1].push(cycle_rate(&mut shims, None)?);
        rates[2].push(cycle_rate(&mut shims, Some(root.path()))?);
    }
    for (name, mut rates) in [
        "spawn and wait only, two threads",
        "cycles by lane journal, two shims",
        "cycles by record file, two shims",
    ]
    .into_iter()
    .zip(rates)
    {
        rates.sort_by(f64::total_cmp);
        writeln!(
            out,
            "{name}: min {:.0}/s, median {:.0}/s, max {:.0}/s",
            rates[0],
            rates[ROUNDS / 2],
            rates[ROUNDS - 1]
        )?;
    }
    writeln!(out, "memory of an idle shim: {idle}")?;
    writeln!(
        out,
        "memory after {} cycles: {}",
        2 * ROUNDS * CYCLES_PER_SHIM,
        memory(shims[0].hello().pid)?
    )?;
    for shim in shims {
        shim.exit()?;
    }
    Ok(())
}

fn spawn(dir: &Path) -> Outcome<ShimHandle> {
    let mut shim = ShimHandle::spawn(Path::new(EXE), ["shim".as_ref(), dir.as_os_str()], dir)?;
    shim.attach("")?;
    Ok(shim)
}

fn request(allocation_id: String, retired: String, record_dir: Option<PathBuf>) -> StartRequest {
    StartRequest {
        allocation_id,
        retire_allocation_id: retired,
        command: vec!["/bin/true".to_owned()],
        working_dir: "/".to_owned(),
        stdout_path: "/nowhere/stdout".to_owned(),
        stderr_path: "/nowhere/stderr".to_owned(),
        record_dir: record_dir.map_or_else(String::new, |dir| dir.display().to_string()),
        ..StartRequest::default()
    }
}

fn start_latencies(shim: &mut ShimHandle) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::new();
    for index in 0..STARTS {
        let id = format!("latency.{index}");
        let begun = Instant::now();
        shim.start(request(id.clone(), String::new(), None))?;
        latencies.push(begun.elapsed());
        await_end(shim)?;
        shim.retire(&id)?;
    }
    Ok(latencies)
}

fn cycle_rate(shims: &mut [ShimHandle], record_root: Option<&Path>) -> Outcome<f64> {
    let begun = Instant::now();
    let shim_count = shims.len();
    std::thread::scope(|scope| {
        let runs: Vec<_> = shims
            .iter_mut()
            .map(|shim| scope.spawn(move || cycles(shim, begun, record_root)))
            .collect();
        runs.into_iter().try_for_each(|run| run.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(rate(shim_count * CYCLES_PER_SHIM, begun))
}

fn cycles(shim: &mut ShimHandle, begun: Instant, record_root: Option<&Path>) -> Outcome<()> {
    let mut previous = String::new();
    for index in 0..CYCLES_PER_SHIM {
        // An id, and with it a directory, of its own in every round and shim.
        let id =
            format!("{begun:?}.{}.{index}", shim.hello().pid).replace([' ', '{', '}', ':'], "");
        let record_dir = record_root.map(|root| root.join(&id));
        record_dir.as_ref().map(std::fs::create_dir).transpose()?;
        shim.start(request(id.clone(), previous, record_dir))?;
        await_end(shim)?;
        previous = id;
    }
    Ok(shim.retire(&previous)?)
}

fn await_end(shim: &mut ShimHandle) -> Outcome<()> {
    loop {
        if let Some(Event::Ended(state)) = shim.next_event(None)? {
            let record = state.record.ok_or("an end without a record")?;
            return if record.exit_code == Some(0) {
                Ok(())
            } else {
                Err(format!("{record:?}").into())
            };
        }
    }
}

fn bare_rate() -> Outcome<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let run = || -> Outcome<()> {
            for _ in 0..CYCLES_PER_SHIM {
                Command::new("/bin/true").env_clear().status()?;
            }
            Ok(())
        };
        let runs = [scope.spawn(run), scope.spawn(run)];
        runs.into_iter().try_for_each(|run| run.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(rate(2 * CYCLES_PER_SHIM, begun))
}

fn rate(count: usize, begun: Instant) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64()
}

fn memory(pid: u32) -> Outcome<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let wanted = ["VmRSS:", "RssAnon:", "RssFile:"];
    let rows = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(rows
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", "))
}
