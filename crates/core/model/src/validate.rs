//! Whether a well-formed job makes sense. The server's word: a client may ask
//! earlier, never instead.

use std::collections::BTreeSet;

use crate::artifact::{Location, check_place, places_collide, shown_source};
use crate::fits::names_slice;
use crate::limits::Limits;
use crate::node::DEVICES_MAX;
use crate::quantity::{DiskBytes, MemoryBytes, ShareMilli};
use crate::spec::{Driver, GpuRequest, HealthCheck, HealthProbe, JobKind, JobSpec, TaskSpec};
use crate::time::DurationMs;
use crate::update::{OnFailure, UpdatePolicy};

/// Tasks in a job.
pub const TASKS_MAX: usize = 64;
/// Instances of one task: the most that the finished-instance retention of a
/// cluster could ever show, ten times over.
pub const INSTANCES_MAX: u32 = 1_000_000;
/// Named ports of one task.
pub const PORTS_MAX: usize = 16;
/// Files of one task.
pub const ARTIFACTS_MAX: usize = 32;
/// Arguments of a command, and entries of an environment.
pub const ARGUMENTS_MAX: usize = 1024;
/// An encoded specification; larger ones would not fit a log entry with room
/// for what travels beside them.
pub const SPEC_BYTES_MAX: usize = 48 << 10;
/// Who starts a worker counts as one of its processes while it does so.
pub const PROCESSES_LEAST: u32 = 2;
/// Processes and threads of one instance: as many as Linux can number.
pub const PROCESSES_MAX: u32 = 1 << 22;
/// A shell with its pipes, and libraries that are being loaded.
pub const OPEN_FILES_LEAST: u32 = 64;
/// What kernels let any process have (`fs.nr_open`).
pub const OPEN_FILES_MAX: u32 = 1 << 20;
/// Less would be gone with a directory or two.
const DISK_LEAST: DiskBytes = DiskBytes(1 << 20);
const DISK_MAX: DiskBytes = DiskBytes(1 << 50);
/// The name of an image: a registry's, a repository's, a tag's and a digest's limit together.
const IMAGE_BYTES_MAX: usize = 512;
/// Replicas of a service.
pub const REPLICAS_MAX: u32 = 10_000;
const CPU_MILLI_MAX: u64 = 4_096_000;
const MEMORY_MAX: MemoryBytes = MemoryBytes(64 << 40);
const DURATION_MAX: DurationMs = DurationMs::from_secs(366 * 24 * 3600);
const GRACE_MAX: DurationMs = DurationMs::from_secs(24 * 3600);
const RESERVED_PREFIX: &str = "BERTH_";

mod autoscale;
mod gang;
mod grant;
mod node;
mod route;

pub use grant::validate_grant;
pub use node::validate_node;

/// One thing wrong with a specification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The path of the value, such as `tasks.main.gpu.count`.
    pub field: String,
    pub message: String,
    pub hint: Option<String>,
}

struct Complaints(Vec<Violation>);

impl Complaints {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation { field: field.into(), message: message.into(), hint: None });
    }

    fn add_with_hint(&mut self, field: impl Into<String>, message: impl Into<String>, hint: &str) {
        let hint = Some(hint.to_owned());
        self.0.push(Violation { field: field.into(), message: message.into(), hint });
    }
}

/// Everything wrong with `spec`; empty when it may be submitted.
pub fn validate(spec: &JobSpec) -> Vec<Violation> {
    let mut complaints = Complaints(Vec::new());
    if spec.priority > JobSpec::PRIORITY_MAX {
        complaints.add(
            "priority",
            format!("expected 0 to {}, found {}", JobSpec::PRIORITY_MAX, spec.priority),
        );
    }
    if spec.tasks.is_empty() {
        complaints.add("task", "a job needs at least one task");
    }
    if spec.tasks.len() > TASKS_MAX {
        complaints.add("tasks", format!("at most {TASKS_MAX} tasks, found {}", spec.tasks.len()));
    }
    let mut names = BTreeSet::new();
    for task in &spec.tasks {
        if !names.insert(&task.name) {
            complaints.add(format!("tasks.{}", task.name), "two tasks have this name");
        }
        check_task(spec, task, &mut complaints);
    }
    check_job_times(spec, &mut complaints);
    route::check(spec, &mut complaints);
    autoscale::check(spec, &mut complaints);
    complaints.0
}

fn check_job_times(spec: &JobSpec, complaints: &mut Complaints) {
    if spec.max_disconnect > DURATION_MAX {
        complaints.add("max_disconnect", "expected at most 366d");
    }
    if spec.preemption.min_run > DURATION_MAX {
        complaints.add("preemption.min_run", "expected at most 366d");
    }
    check_update(spec, complaints);
    let Some(deadline) = spec.deadline else {
        return;
    };
    if deadline == DurationMs::ZERO || deadline > DURATION_MAX {
        complaints.add("deadline", "expected more than zero and at most 366d");
    }
    if spec.kind != JobKind::Batch {
        complaints.add(
            "deadline",
            format!("a {} has no end; only batch jobs have a deadline", spec.kind.name()),
        );
    }
}

fn check_update(spec: &JobSpec, complaints: &mut Complaints) {
    let UpdatePolicy { progress_deadline, min_ready, on_failure } = spec.update;
    if progress_deadline.is_some_and(|limit| limit == DurationMs::ZERO || limit > DURATION_MAX) {
        complaints.add("update.progress_deadline", "expected more than zero and at most 366d");
    }
    if min_ready > DURATION_MAX {
        complaints.add("update.min_ready", "expected at most 366d");
    }
    if spec.kind.is_named() {
        return;
    }
    let given = [
        (progress_deadline.is_some(), "update.progress_deadline"),
        (min_ready > DurationMs::ZERO, "update.min_ready"),
        (on_failure != OnFailure::Hold, "update.on_failure"),
    ];
    for (_, field) in given.into_iter().filter(|(is_given, _)| *is_given) {
        complaints.add(field, "a batch job is not updated");
    }
}

fn check_task(spec: &JobSpec, task: &TaskSpec, complaints: &mut Complaints) {
    let at = |field: &str| format!("tasks.{}.{field}", task.name);
    check_driver(task, complaints);
    check_env(task, complaints);
    check_artifacts(task, complaints);
    let count_max = match spec.kind {
        JobKind::Batch => INSTANCES_MAX,
        JobKind::Service => REPLICAS_MAX,
        JobKind::Daemon => 1,
    };
    if task.count > count_max {
        complaints.add(at("count"), format!("expected at most {count_max}, found {}", task.count));
    }
    if task.count == 0 && spec.kind == JobKind::Batch {
        complaints.add_with_hint(
            at("count"),
            "a batch task needs at least one instance",
            "remove the task, or set count = 1",
        );
    }
    if let Some(array) = task.array {
        let last = u64::from(array.start)
            + u64::from(task.count.saturating_sub(1)) * u64::from(array.step);
        if spec.kind != JobKind::Batch {
            complaints.add(at("array"), "only batch jobs have arrays");
        }
        if array.step == 0 || last > u64::from(u32::MAX) || array.parallel_max == Some(0) {
            complaints.add(
                at("array"),
                "expected a step and a parallel limit of at least 1, and indices below 2^32",
            );
        }
    }
    gang::check(spec, task, complaints);
    if task.cpu.0 == 0 || task.cpu.0 > CPU_MILLI_MAX {
        complaints.add(
            at("cpu"),
            format!("expected 1m to {} cores, found {}", CPU_MILLI_MAX / 1000, task.cpu),
        );
    }
    if task.memory.0 == 0 || task.memory > MEMORY_MAX {
        complaints.add(at("memory"), format!("expected 1B to {MEMORY_MAX}, found {}", task.memory));
    }
    check_limits(task, complaints);
    if let Some(gpu) = &task.gpu {
        check_gpu(&at("gpu"), gpu, complaints);
    }
    check_ports(task, complaints);
    if task.stop.grace > GRACE_MAX {
        complaints.add(at("stop.grace"), "expected at most 24h");
    }
    if task.restart.backoff > DURATION_MAX || task.restart.backoff_max > DURATION_MAX {
        complaints.add(at("restart.backoff"), "expected at most 366d");
    }
    if task.time_limit.is_some_and(|limit| limit == DurationMs::ZERO || limit > DURATION_MAX) {
        complaints.add(at("time_limit"), "expected more than zero and at most 366d");
    }
    if let Some(health) = &task.health {
        check_health(task, health, complaints);
    }
}

fn check_limits(task: &TaskSpec, complaints: &mut Complaints) {
    let at = |field: &str| format!("tasks.{}.limits.{field}", task.name);
    let Limits { cpu, memory, processes, open_files, disk } = task.limits;
    if let Some(cpu) = cpu.filter(|cpu| *cpu < task.cpu || cpu.0 > CPU_MILLI_MAX) {
        let (least, most) = (task.cpu, CPU_MILLI_MAX / 1000);
        let what =
            format!("expected at least `cpu` ({least}) and at most {most} cores, found {cpu}");
        complaints.add(at("cpu"), what);
    }
    if let Some(memory) = memory.filter(|most| *most < task.memory || *most > MEMORY_MAX) {
        let least = task.memory;
        let what = format!(
            "expected at least `memory` ({least}) and at most {MEMORY_MAX}, found {memory}"
        );
        complaints.add(at("memory"), what);
    }
    if let Some(processes) =
        processes.filter(|most| !(PROCESSES_LEAST..=PROCESSES_MAX).contains(most))
    {
        let what = format!("expected {PROCESSES_LEAST} to {PROCESSES_MAX}, found {processes}");
        complaints.add(at("processes"), what);
    }
    if let Some(files) =
        open_files.filter(|most| !(OPEN_FILES_LEAST..=OPEN_FILES_MAX).contains(most))
    {
        let what = format!("expected {OPEN_FILES_LEAST} to {OPEN_FILES_MAX}, found {files}");
        complaints.add(at("open_files"), what);
    }
    if let Some(disk) = disk.filter(|most| *most < DISK_LEAST || *most > DISK_MAX) {
        complaints.add(at("disk"), format!("expected {DISK_LEAST} to {DISK_MAX}, found {disk}"));
    }
}

fn check_artifacts(task: &TaskSpec, complaints: &mut Complaints) {
    let artifacts = &task.artifacts;
    let at = format!("tasks.{}.artifacts", task.name);
    if artifacts.len() > ARTIFACTS_MAX {
        let message = format!("expected at most {ARTIFACTS_MAX}, found {}", artifacts.len());
        return complaints.add(at, message);
    }
    for (position, artifact) in artifacts.iter().enumerate() {
        let at = |key: &str| format!("{at}[{position}].{key}");
        if let Err(error) = Location::parse(&artifact.source) {
            let shown = shown_source(&artifact.source);
            let message = format!("{error}; found `{}`", shortened(&shown));
            complaints.add(at("source"), message);
        }
        if let Err(error) = check_place(&artifact.to) {
            let message = format!("{error}; found `{}`", shortened(&artifact.to));
            complaints.add(at("to"), message);
            continue;
        }
        let before = artifacts.iter().take(position);
        if let Some(first) = before.map(|one| &one.to).find(|to| places_collide(to, &artifact.to)) {
            let message = format!(
                "`{}` and `{}` cannot both be there",
                shortened(first),
                shortened(&artifact.to)
            );
            complaints.add(at("to"), message);
        }
    }
}

/// Enough to know which is meant.
fn shortened(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn check_driver(task: &TaskSpec, complaints: &mut Complaints) {
    let at = |field: &str| format!("tasks.{}.{field}", task.name);
    let Driver::Docker { image } = &task.driver else {
        return check_command(&at("command"), &task.command, complaints);
    };
    if image.len() > IMAGE_BYTES_MAX || !is_image(image) {
        complaints.add_with_hint(
            at("image"),
            format!("expected the name of an image, at most {IMAGE_BYTES_MAX} characters"),
            "such as \"vllm/vllm-openai:v0.11.0\"",
        );
    }
    if !task.command.is_empty() {
        check_command(&at("command"), &task.command, complaints);
    }
    if let Some(HealthCheck { probe: HealthProbe::Command { .. }, .. }) = &task.health {
        complaints.add_with_hint(
            at("health.command"),
            "a command is run on the host, not in a container",
            "use http",
        );
    }
}

/// What may name an image: words of letters, digits and a few marks, between slashes.
fn is_image(text: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@".contains(c))
    };
    text.split('/').all(is_word)
}

fn check_command(field: &str, command: &[String], complaints: &mut Complaints) {
    match command.first() {
        None => complaints.add_with_hint(
            field,
            "a command is missing",
            "give the program and its arguments as a list of strings",
        ),
        Some(program) if program.is_empty() => {
            complaints.add(field, "the program is an empty string")
        }
        Some(_) => {}
    }
    if command.len() > ARGUMENTS_MAX {
        complaints
            .add(field, format!("at most {ARGUMENTS_MAX} arguments, found {}", command.len()));
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        complaints.add(field, "an argument holds a NUL byte");
    }
}

fn check_env(task: &TaskSpec, complaints: &mut Complaints) {
    if task.env.len() > ARGUMENTS_MAX {
        complaints.add(
            format!("tasks.{}.env", task.name),
            format!("at most {ARGUMENTS_MAX} variables, found {}", task.env.len()),
        );
    }
    for (key, value) in &task.env {
        let field = format!("tasks.{}.env.{}", task.name, key.escape_debug());
        let letters = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if key.is_empty() || !letters || key.starts_with(|c: char| c.is_ascii_digit()) {
            complaints.add_with_hint(
                &field,
                "not the name of a variable",
                "letters, digits and `_`, not beginning with a digit",
            );
        }
        if key.starts_with(RESERVED_PREFIX) {
            complaints.add(&field, "names beginning with `BERTH_` are set by Berth itself");
        }
        if value.contains('\0') {
            complaints.add(&field, "the value holds a NUL byte");
        }
    }
}

fn check_gpu(field: &str, gpu: &GpuRequest, complaints: &mut Complaints) {
    if gpu.count == 0 || gpu.count as usize > DEVICES_MAX {
        complaints.add(
            format!("{field}.count"),
            format!("expected 1 to {DEVICES_MAX} GPUs on one node, found {}", gpu.count),
        );
    }
    if gpu.models.iter().any(|model| model.trim().is_empty()) {
        complaints.add(format!("{field}.type"), "a model is an empty string");
    }
    if gpu.memory_min.is_some_and(|least| least.0 == 0 || least > MEMORY_MAX) {
        complaints.add(format!("{field}.vram"), format!("expected 1B to {MEMORY_MAX}"));
    }
    check_share(field, gpu, complaints);
}

fn check_share(field: &str, gpu: &GpuRequest, complaints: &mut Complaints) {
    let field = format!("{field}.share");
    if gpu.share == ShareMilli::ZERO || gpu.share > ShareMilli::WHOLE {
        let share = gpu.share.0;
        complaints.add(&field, format!("expected 1 to 1000 thousandths of a GPU, found {share}"));
        return;
    }
    if gpu.is_shared() && gpu.count != 1 {
        let hint = "share one GPU, or ask for several whole ones";
        let message = format!("expected the whole of {} GPUs, or a part of one", gpu.count);
        complaints.add_with_hint(&field, message, hint);
    }
    if gpu.is_shared() && gpu.models.iter().any(|model| names_slice(model)) {
        let hint = "ask for a smaller slice, or for a share of a whole GPU";
        complaints.add_with_hint(&field, "a slice (MIG) is not shared", hint);
    }
}

fn check_ports(task: &TaskSpec, complaints: &mut Complaints) {
    let field = format!("tasks.{}.ports", task.name);
    if task.ports.len() > PORTS_MAX {
        complaints.add(&field, format!("at most {PORTS_MAX} ports, found {}", task.ports.len()));
    }
    let mut seen = BTreeSet::new();
    for port in &task.ports {
        if !seen.insert(port.as_str().to_ascii_uppercase()) {
            complaints.add(&field, format!("two ports are named `{port}`"));
        }
    }
}

fn check_health(task: &TaskSpec, health: &HealthCheck, complaints: &mut Complaints) {
    let at = |field: &str| format!("tasks.{}.health.{field}", task.name);
    let mut named = |port: &crate::name::Name| {
        if !task.ports.contains(port) {
            complaints.add_with_hint(
                at("port"),
                format!("the task has no port named `{port}`"),
                "list it under `ports`",
            );
        }
    };
    match &health.probe {
        HealthProbe::Http { path, port } => {
            named(port);
            let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
            if !path.starts_with('/') || !plain {
                complaints.add(
                    at("http.path"),
                    format!(
                        "expected a path that begins with `/`, found `{}`",
                        path.escape_debug()
                    ),
                );
            }
        }
        HealthProbe::Tcp { port } => named(port),
        HealthProbe::Command { command } => check_command(&at("command"), command, complaints),
    }
    if health.interval == DurationMs::ZERO || health.interval > DURATION_MAX {
        complaints.add(at("interval"), "expected more than zero");
    }
    if health.timeout == DurationMs::ZERO || health.timeout > health.interval {
        complaints.add(
            at("timeout"),
            format!(
                "expected more than zero and at most the interval of {} ms, found {} ms",
                health.interval.0, health.timeout.0
            ),
        );
    }
    if health.failures == 0 {
        complaints.add(at("failures"), "expected at least 1");
    }
    if health.start_period > DURATION_MAX {
        complaints.add(at("start_period"), "expected at most 366d");
    }
}

#[cfg(test)]
mod tests;
