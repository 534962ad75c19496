//! `[health]` with `http`, `tcp` or `command`.

use berth_model::{DurationMs, HealthCheck, HealthProbe, Name};

use super::keys;
use super::walk::{Field, Walk};
use crate::tree::{Table, Value};

/// Often enough to notice within seconds, seldom enough to cost a worker nothing.
const INTERVAL: DurationMs = DurationMs::from_secs(2);
const TIMEOUT: DurationMs = DurationMs::from_secs(1);
const FAILURES: u32 = 3;
/// Loading the weights of a large model takes minutes, and a worker that is
/// replaced meanwhile begins again.
const START_PERIOD: DurationMs = DurationMs::from_secs(300);

pub(super) fn read(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<HealthCheck> {
    let table = walk.table(field, &keys::HEALTH)?;
    let probes: Vec<Field<'_>> = ["http", "tcp", "command"]
        .into_iter()
        .filter_map(|key| walk.field(table, &field.path, key))
        .collect();
    let [probe] = probes.as_slice() else {
        if probes.len() > 1 || table.is_empty() {
            let message = format!("expected one of http, tcp and command, found {}", probes.len());
            walk.complain(field, message);
        }
        return None;
    };
    match probe.path.rsplit('.').next() {
        Some("http") => read_http(walk, probe, &field.path),
        Some("tcp") => read_tcp(walk, probe, &field.path),
        Some(_) | None => read_command(walk, probe, &field.path),
    }
}

fn read_http(walk: &mut Walk<'_>, probe: &Field<'_>, health: &str) -> Option<HealthCheck> {
    let table = walk.table(probe, &keys::HTTP)?;
    let path = match walk.field(table, &probe.path, "path") {
        Some(path) => walk.text(&path).map(str::to_owned),
        None => Some("/".to_owned()),
    };
    let port = read_port(walk, table, probe, health);
    let timing = read_timing(walk, table, &probe.path, health);
    Some(timing?.with(HealthProbe::Http { path: path?, port: port? }))
}

fn read_tcp(walk: &mut Walk<'_>, probe: &Field<'_>, health: &str) -> Option<HealthCheck> {
    let table = walk.table(probe, &keys::TCP)?;
    let port = read_port(walk, table, probe, health);
    let timing = read_timing(walk, table, &probe.path, health);
    Some(timing?.with(HealthProbe::Tcp { port: port? }))
}

fn read_command(walk: &mut Walk<'_>, probe: &Field<'_>, health: &str) -> Option<HealthCheck> {
    const EXPECTED: &str = "list of strings, or a table with one under `command`";
    if let Value::List(_) = &probe.node.value {
        let command = walk.texts(probe, EXPECTED)?;
        return Some(Timing::default().with(HealthProbe::Command { command }));
    }
    let table = walk.table(probe, &keys::COMMAND)?;
    let command = match walk.field(table, &probe.path, "command") {
        Some(command) => walk.texts(&command, "list of strings"),
        None => {
            walk.complain(probe, "`command` is missing");
            None
        }
    };
    let timing = read_timing(walk, table, &probe.path, health);
    Some(timing?.with(HealthProbe::Command { command: command? }))
}

fn read_port(walk: &mut Walk<'_>, table: &Table, probe: &Field<'_>, health: &str) -> Option<Name> {
    let Some(port) = walk.field(table, &probe.path, "port") else {
        walk.complain_with_hint(
            probe,
            "`port` is missing",
            "name one of the task's `ports`, as in port = \"http\"",
        );
        return None;
    };
    walk.note(format!("{health}.port"), port.node.span);
    walk.name(&port)
}

struct Timing {
    interval: DurationMs,
    timeout: DurationMs,
    failures: u32,
    start_period: DurationMs,
}

impl Default for Timing {
    fn default() -> Timing {
        let (interval, timeout) = (INTERVAL, TIMEOUT);
        Timing { interval, timeout, failures: FAILURES, start_period: START_PERIOD }
    }
}

impl Timing {
    fn with(self, probe: HealthProbe) -> HealthCheck {
        HealthCheck {
            probe,
            interval: self.interval,
            timeout: self.timeout,
            failures: self.failures,
            start_period: self.start_period,
        }
    }
}

fn read_timing(walk: &mut Walk<'_>, table: &Table, path: &str, health: &str) -> Option<Timing> {
    let mut fits = true;
    let mut duration = |key: &str, unset: DurationMs| {
        let Some(field) = walk.field(table, path, key) else { return unset };
        // The check of sense knows no kind of probe in its paths.
        walk.note(format!("{health}.{key}"), field.node.span);
        walk.duration(&field).unwrap_or_else(|| {
            fits = false;
            unset
        })
    };
    let interval = duration("interval", INTERVAL);
    let timeout = duration("timeout", TIMEOUT.min(interval));
    let start_period = duration("start_period", START_PERIOD);
    let failures = match walk.field(table, path, "failures") {
        Some(field) => {
            walk.note(format!("{health}.failures"), field.node.span);
            walk.integer(&field, 0, 1_000)?
        }
        None => FAILURES,
    };
    fits.then_some(Timing { interval, timeout, failures, start_period })
}
