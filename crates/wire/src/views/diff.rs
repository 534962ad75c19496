//! What a new version of a job would change, in lines for people.

use std::collections::BTreeMap;

use berth_model::{Gang, HealthProbe, JobSpec, TaskSpec, shown_source};

/// Lines of a difference; a longer one says how many more there are.
const LINES_MAX: usize = 200;
/// Characters of a value that a line shows.
const VALUE_CHARS_MAX: usize = 80;

/// A value as it is compared, and whether it may be shown.
#[derive(PartialEq)]
enum Value {
    Shown(String),
    /// Of an environment: often a secret.
    Hidden(String),
}

type Fields = BTreeMap<String, Value>;

/// The fields that differ, a line each, such as `tasks.main.count: 2 -> 3`.
/// Values of environment variables are compared and never shown.
pub fn spec_diff(old: &JobSpec, new: &JobSpec) -> Vec<String> {
    let (old, new) = (fields(old), fields(new));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut lines: Vec<String> =
        paths.into_iter().filter_map(|path| line(path, old.get(path), new.get(path))).collect();
    let more = lines.len().saturating_sub(LINES_MAX);
    if more > 0 {
        lines.truncate(LINES_MAX);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn line(path: &str, old: Option<&Value>, new: Option<&Value>) -> Option<String> {
    let change = match (old, new) {
        (old, new) if old == new => return None,
        (None, Some(Value::Hidden(_))) => "added".to_owned(),
        (Some(Value::Hidden(_)), None) => "removed".to_owned(),
        (Some(Value::Hidden(_)), Some(_)) | (Some(_), Some(Value::Hidden(_))) => {
            "changed".to_owned()
        }
        (old, new) => format!("{} -> {}", shown(old), shown(new)),
    };
    Some(format!("{path}: {change}"))
}

fn shown(value: Option<&Value>) -> String {
    let Some(Value::Shown(text)) = value else {
        return "(none)".to_owned();
    };
    let mut shown: String = text.chars().take(VALUE_CHARS_MAX).collect();
    if text.chars().nth(VALUE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Every field under its path, those that are absent left out.
fn fields(spec: &JobSpec) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "kind", spec.kind.name());
    put(&mut fields, "priority", spec.priority);
    put(&mut fields, "policy", spec.policy.name());
    put(&mut fields, "policy.origin", spec.policy_origin.name());
    for (key, value) in &spec.constraints.labels {
        // Free texts are quoted, so that a line stays a line.
        put(&mut fields, &format!("constraints.labels.{}", key.escape_debug()), quoted(value));
    }
    put_some(&mut fields, "constraints.pool", spec.constraints.pool.as_ref());
    put_some(&mut fields, "constraints.node", spec.constraints.node.as_ref());
    put_some(&mut fields, "deadline", spec.deadline.map(|span| milliseconds(span.0)));
    put(&mut fields, "max_disconnect", milliseconds(spec.max_disconnect.0));
    put(&mut fields, "on_return", spec.on_return.name());
    let limit = spec.update.progress_deadline.map(|span| milliseconds(span.0));
    put_some(&mut fields, "update.progress_deadline", limit);
    put(&mut fields, "update.min_ready", milliseconds(spec.update.min_ready.0));
    put(&mut fields, "update.on_failure", spec.update.on_failure.name());
    put(&mut fields, "exclusive", spec.exclusive);
    put(&mut fields, "preemption.preempts", spec.preemption.preempts);
    put(&mut fields, "preemption.preemptible", spec.preemption.preemptible);
    put(&mut fields, "preemption.min_run", milliseconds(spec.preemption.min_run.0));
    put_some(&mut fields, "route.model", spec.route.model.as_ref().map(|model| quoted(model)));
    put_some(&mut fields, "route.port", spec.route.port.as_ref());
    put(&mut fields, "route.balance", spec.route.balance.name());
    put(&mut fields, "route.timeout", milliseconds(spec.route.timeout.0));
    put(&mut fields, "route.drain", milliseconds(spec.route.drain.0));
    put(&mut fields, "route.wait", milliseconds(spec.route.wait.0));
    put(&mut fields, "route.waiting_max", spec.route.waiting_max);
    put_some(&mut fields, "route.in_flight_max", spec.route.in_flight_max);
    autoscale_fields(spec, &mut fields);
    for task in &spec.tasks {
        task_fields(task, &mut fields);
    }
    // As many as there are now: nothing that a version says.
    if let Some((position, _)) = spec.scaled() {
        fields.remove(&format!("tasks.{}.count", spec.tasks[position].name));
    }
    fields
}

fn autoscale_fields(spec: &JobSpec, fields: &mut Fields) {
    let Some(rule) = &spec.autoscale else { return };
    put(fields, "replicas.min", rule.min);
    put(fields, "replicas.max", rule.max);
    put(fields, "autoscale.policy", rule.policy.name());
    for (metric, milli) in rule.targets(spec.route.in_flight_max) {
        put(fields, &format!("autoscale.target.{}", metric.name()), thousandths(milli));
    }
    put(fields, "autoscale.tolerance", thousandths(rule.tolerance));
    put(fields, "autoscale.average", milliseconds(rule.average.0));
    for (direction, pace) in [("up", rule.up), ("down", rule.down)] {
        let at = |field: &str| format!("autoscale.{direction}.{field}");
        put(fields, &at("window"), milliseconds(pace.window.0));
        put(fields, &at("percent"), pace.percent);
        put(fields, &at("replicas"), pace.replicas);
        put(fields, &at("every"), milliseconds(pace.every.0));
    }
    put(fields, "autoscale.idle", milliseconds(rule.idle.0));
    put(fields, "autoscale.step", rule.step);
    put_some(fields, "autoscale.alpha", rule.alpha.map(thousandths));
    put(fields, "autoscale.gains.p", thousandths(rule.gains.proportional));
    put(fields, "autoscale.gains.i", thousandths(rule.gains.integral));
    put(fields, "autoscale.gains.d", thousandths(rule.gains.derivative));
}

fn thousandths(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1_000, milli % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn task_fields(task: &TaskSpec, fields: &mut Fields) {
    let at = |field: &str| format!("tasks.{}.{field}", task.name);
    put_some(fields, &at("image"), task.driver.image().map(quoted));
    put(fields, &at("command"), format!("{:?}", task.command));
    for (key, value) in &task.env {
        fields.insert(at(&format!("env.{}", key.escape_debug())), Value::Hidden(value.clone()));
    }
    put_some(fields, &at("workdir"), task.workdir.as_ref().map(|workdir| quoted(workdir)));
    for (position, artifact) in task.artifacts.iter().enumerate() {
        let at = |field: &str| at(&format!("artifacts[{position}].{field}"));
        // Some sources hold a signature.
        let source = match shown_source(&artifact.source) {
            shown if shown == artifact.source => Value::Shown(quoted(&shown)),
            _ => Value::Hidden(artifact.source.clone()),
        };
        fields.insert(at("source"), source);
        put_some(fields, &at("checksum"), artifact.checksum);
        put(fields, &at("to"), quoted(&artifact.to));
    }
    put(fields, &at("count"), task.count);
    if let Some(array) = task.array {
        put(fields, &at("array.start"), array.start);
        put(fields, &at("array.step"), array.step);
        put_some(fields, &at("array.parallel_max"), array.parallel_max);
    }
    put_some(fields, &at("gang"), task.gang.map(|Gang {}| true));
    put(fields, &at("cpu"), task.cpu);
    put(fields, &at("memory"), task.memory);
    put_some(fields, &at("cpu.left_out"), task.left_out.cpu.then_some(true));
    put_some(fields, &at("memory.left_out"), task.left_out.memory.then_some(true));
    put_some(fields, &at("limits.cpu"), task.limits.cpu);
    put_some(fields, &at("limits.memory"), task.limits.memory);
    put_some(fields, &at("limits.processes"), task.limits.processes);
    put_some(fields, &at("limits.open_files"), task.limits.open_files);
    put_some(fields, &at("limits.disk"), task.limits.disk);
    if let Some(gpu) = &task.gpu {
        put(fields, &at("gpu.count"), gpu.count);
        put(fields, &at("gpu.type"), format!("{:?}", gpu.models));
        put_some(fields, &at("gpu.vram"), gpu.memory_min);
        put_some(fields, &at("gpu.share"), Some(gpu.share).filter(|_| gpu.is_shared()));
    }
    put(fields, &at("ports"), format!("{:?}", task.ports));
    put(fields, &at("stop.signal"), task.stop.signal.name());
    put(fields, &at("stop.grace"), milliseconds(task.stop.grace.0));
    let attempts = task.restart.attempts.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    put(fields, &at("restart.attempts"), attempts);
    put(fields, &at("restart.backoff"), milliseconds(task.restart.backoff.0));
    put(fields, &at("restart.backoff_max"), milliseconds(task.restart.backoff_max.0));
    put_some(fields, &at("time_limit"), task.time_limit.map(|limit| milliseconds(limit.0)));
    if let Some(health) = &task.health {
        let probe = match &health.probe {
            HealthProbe::Http { path, port } => format!("http {} at {port}", quoted(path)),
            HealthProbe::Tcp { port } => format!("tcp at {port}"),
            HealthProbe::Command { command } => format!("command {command:?}"),
        };
        put(fields, &at("health.probe"), probe);
        put(fields, &at("health.interval"), milliseconds(health.interval.0));
        put(fields, &at("health.timeout"), milliseconds(health.timeout.0));
        put(fields, &at("health.failures"), health.failures);
        put(fields, &at("health.start_period"), milliseconds(health.start_period.0));
    }
}

fn put(fields: &mut Fields, path: &str, value: impl ToString) {
    fields.insert(path.to_owned(), Value::Shown(value.to_string()));
}

fn put_some(fields: &mut Fields, path: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        put(fields, path, value);
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn milliseconds(span: u64) -> String {
    format!("{span} ms")
}
