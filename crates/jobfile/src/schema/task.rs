//! `[task]` and `[tasks.NAME]`.

use std::collections::BTreeMap;

use berth_config::units;
use berth_model::validate::{
    INSTANCES_MAX, OPEN_FILES_LEAST, OPEN_FILES_MAX, PROCESSES_LEAST, PROCESSES_MAX,
};
use berth_model::{
    CpuMilli, DiskBytes, Driver, Gang, JobKind, LeftOut, Limits, Name, RestartPolicy, Signal,
    StopPolicy, TaskSpec,
};

use super::walk::{Field, Walk};
use super::{array, artifact, gpu, health, keys};
use crate::text::shown;
use crate::tree::{Table, Value};

/// Reads one task. What is complained about keeps its default, so that the rest
/// can be checked.
pub(super) fn read(
    walk: &mut Walk<'_>,
    field: &Field<'_>,
    name: Name,
    kind: JobKind,
) -> Option<TaskSpec> {
    let table = walk.table(field, &keys::TASK)?;
    let path = field.path.as_str();
    let mut task = TaskSpec::new(name, kind, Vec::new());
    read_process(walk, table, path, &mut task);
    read_count(walk, table, path, &mut task);
    if let Some(gang) = walk.field(table, path, "gang") {
        task.gang = read_gang(walk, &gang);
    }
    read_resources(walk, table, path, &mut task);
    if let Some(stop) = walk.field(table, path, "stop") {
        task.stop = read_stop(walk, &stop).unwrap_or(task.stop);
    }
    if let Some(restart) = walk.field(table, path, "restart") {
        task.restart = read_restart(walk, &restart, task.restart);
    }
    if let Some(check) = walk.field(table, path, "health") {
        task.health = health::read(walk, &check);
    }
    if let Some(limit) = walk.field(table, path, "time_limit") {
        task.time_limit = walk.duration(&limit);
    }
    Some(task)
}

fn read_process(walk: &mut Walk<'_>, table: &Table, path: &str, task: &mut TaskSpec) {
    read_driver(walk, table, path, task);
    if let Some(command) = walk.field(table, path, "command") {
        if let Value::Text(text) = &command.node.value {
            let words: Vec<String> =
                text.split_whitespace().take(8).map(|word| format!("{:?}", shown(word))).collect();
            walk.complain_with_hint(
                &command,
                format!("expected list of strings, found string `{}`", shown(text)),
                format!("write command = [{}]", words.join(", ")),
            );
        } else {
            task.command = walk.texts(&command, "list of strings").unwrap_or_default();
        }
    }
    if let Some(artifacts) = walk.field(table, path, "artifacts") {
        task.artifacts = artifact::read(walk, &artifacts);
    }
    if let Some(env) = walk.field(table, path, "env") {
        task.env = read_env(walk, &env).unwrap_or_default();
    }
    if let Some(workdir) = walk.field(table, path, "workdir") {
        let text = walk.text(&workdir);
        if text.is_some_and(|text| text.is_empty() || text.contains('\0')) {
            walk.complain(&workdir, "expected the path of a directory");
        }
        task.workdir = text.map(str::to_owned);
    }
}

fn read_driver(walk: &mut Walk<'_>, table: &Table, path: &str, task: &mut TaskSpec) {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Word {
        Exec,
        Docker,
    }
    let words = [("exec", Word::Exec), ("docker", Word::Docker)];
    let driver = walk.field(table, path, "driver");
    let image = walk.field(table, path, "image");
    let word = driver.as_ref().map(|driver| walk.word(driver, &words, &[]));
    match (word, driver, image) {
        // A misspelt driver beside an image is not one more mistake.
        (Some(Some(Word::Docker) | None), _, Some(image)) => {
            let image = walk.text(&image).unwrap_or_default().to_owned();
            task.driver = Driver::Docker { image };
        }
        (Some(Some(Word::Docker)), Some(driver), None) => {
            let hint = "write image = \"NAME:TAG\" beside it";
            walk.complain_with_hint(&driver, "`docker` needs an `image`", hint);
        }
        (None | Some(Some(Word::Exec)), _, Some(image)) => {
            let hint = "write driver = \"docker\" beside it";
            walk.complain_with_hint(&image, "only `driver = \"docker\"` has an image", hint);
        }
        _ => {}
    }
}

fn read_env(walk: &mut Walk<'_>, env: &Field<'_>) -> Option<BTreeMap<String, String>> {
    let Value::Table(table) = &env.node.value else {
        let message = format!("expected table of strings, found {}", env.node.kind());
        walk.complain_with_hint(env, message, "write env = { NAME = \"value\" }");
        return None;
    };
    let mut variables = BTreeMap::new();
    for entry in table.entries() {
        let Some(field) = walk.field(table, &env.path, &entry.key) else { continue };
        // The check of sense writes the name as it is.
        walk.note(format!("{}.{}", env.path, entry.key.escape_debug()), field.node.span);
        // Not the value: it may be a secret.
        if let Some(text) = field.node.as_text() {
            variables.insert(entry.key.clone(), text.to_owned());
        } else {
            let message = format!("expected string, found {}", field.node.kind());
            walk.complain_with_hint(&field, message, "put the value in quotes");
        }
    }
    Some(variables)
}

fn read_count(walk: &mut Walk<'_>, table: &Table, path: &str, task: &mut TaskSpec) {
    let count = walk.field(table, path, "count");
    let range = walk.field(table, path, "array");
    if let (Some(_), Some(range)) = (&count, &range) {
        walk.complain_with_hint(
            range,
            "both `count` and `array` are given",
            "an array tells the count itself",
        );
        return;
    }
    if let Some(count) = count {
        task.count = walk.integer(&count, 0, INSTANCES_MAX).unwrap_or(task.count);
    }
    let Some(range) = range else { return };
    walk.note(format!("{path}.count"), range.node.span);
    let Some(text) = walk.text(&range) else { return };
    match array::parse_array(text) {
        Ok(read) => {
            task.array = Some(read.spec);
            task.count = read.count;
        }
        Err(message) => walk.complain(&range, message),
    }
}

/// `true`, or a table of what there is to say about it.
fn read_gang(walk: &mut Walk<'_>, gang: &Field<'_>) -> Option<Gang> {
    let is_one = match &gang.node.value {
        Value::Table(_) => walk.table(gang, &keys::GANG).is_some(),
        Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Null
        | Value::Boolean(_)
        | Value::Date
        | Value::List(_) => walk.boolean(gang)?,
    };
    is_one.then_some(Gang {})
}

fn read_resources(walk: &mut Walk<'_>, table: &Table, path: &str, task: &mut TaskSpec) {
    task.left_out =
        LeftOut { cpu: table.get("cpu").is_none(), memory: table.get("memory").is_none() };
    if let Some(cpu) = walk.field(table, path, "cpu") {
        task.cpu = read_cpu(walk, &cpu).unwrap_or(task.cpu);
    }
    if let Some(limits) = walk.field(table, path, "limits") {
        task.limits = read_limits(walk, &limits);
    }
    if let Some(memory) = walk.field(table, path, "memory") {
        task.memory = walk.size(&memory).unwrap_or(task.memory);
    }
    if let Some(request) = walk.field(table, path, "gpu") {
        task.gpu = gpu::read(walk, &request);
    }
    if let Some(ports) = walk.field(table, path, "ports") {
        task.ports = read_ports(walk, &ports);
    }
}

pub(super) fn read_cpu(walk: &mut Walk<'_>, cpu: &Field<'_>) -> Option<CpuMilli> {
    let text = match &cpu.node.value {
        Value::Integer(Some(cores)) => cores.to_string(),
        Value::Float(text) | Value::Text(text) => text.clone(),
        Value::Integer(None)
        | Value::Null
        | Value::Boolean(_)
        | Value::Date
        | Value::List(_)
        | Value::Table(_) => {
            walk.wrong_kind(cpu, "cores such as 4, or \"500m\"");
            return None;
        }
    };
    match units::cpu_milli(&text) {
        Ok(milli) => Some(CpuMilli(milli)),
        Err(error) => {
            walk.complain(cpu, error.to_string());
            None
        }
    }
}

fn read_limits(walk: &mut Walk<'_>, limits: &Field<'_>) -> Limits {
    let Some(table) = walk.table(limits, &keys::LIMITS) else { return Limits::default() };
    let at = |walk: &mut Walk<'_>, key| walk.field(table, &limits.path, key);
    let (cpu, memory) = (at(walk, "cpu"), at(walk, "memory"));
    let (processes, open_files) = (at(walk, "processes"), at(walk, "open_files"));
    let disk = at(walk, "disk");
    Limits {
        cpu: cpu.and_then(|cpu| read_cpu(walk, &cpu)),
        memory: memory.and_then(|memory| walk.size(&memory)),
        processes: processes.and_then(|most| walk.integer(&most, PROCESSES_LEAST, PROCESSES_MAX)),
        open_files: open_files
            .and_then(|most| walk.integer(&most, OPEN_FILES_LEAST, OPEN_FILES_MAX)),
        disk: disk.and_then(|disk| walk.size(&disk)).map(|most| DiskBytes(most.0)),
    }
}

fn read_ports(walk: &mut Walk<'_>, ports: &Field<'_>) -> Vec<Name> {
    let items = walk.list(ports, "list of names").unwrap_or_default();
    let mut names = Vec::new();
    for item in items {
        if let Value::Integer(_) = &item.node.value {
            let message = "expected the name of a port, found integer";
            let hint = "Berth allots the number: write ports = [\"http\"] and use ${PORT}";
            walk.complain_with_hint(&item, message, hint);
        } else {
            names.extend(walk.name(&item));
        }
    }
    names
}

fn read_stop(walk: &mut Walk<'_>, stop: &Field<'_>) -> Option<StopPolicy> {
    let table = walk.table(stop, &keys::STOP)?;
    let mut policy = StopPolicy::default();
    if let Some(signal) = walk.field(table, &stop.path, "signal") {
        let text = walk.text(&signal)?;
        match Signal::parse(text) {
            Some(read) => policy.signal = read,
            None => {
                let names: Vec<&str> = Signal::ALL.into_iter().map(Signal::name).collect();
                let message =
                    format!("expected one of {}, found `{}`", names.join(", "), shown(text));
                walk.complain(&signal, message);
            }
        }
    }
    if let Some(grace) = walk.field(table, &stop.path, "grace") {
        policy.grace = walk.duration(&grace).unwrap_or(policy.grace);
    }
    Some(policy)
}

fn read_restart(walk: &mut Walk<'_>, restart: &Field<'_>, unset: RestartPolicy) -> RestartPolicy {
    let mut policy = unset;
    let Some(table) = walk.table(restart, &keys::RESTART) else { return policy };
    if let Some(attempts) = walk.field(table, &restart.path, "attempts") {
        policy.attempts = walk.integer(&attempts, 0, 1_000_000).or(policy.attempts);
    }
    if let Some(backoff) = walk.field(table, &restart.path, "backoff") {
        policy.backoff = walk.duration(&backoff).unwrap_or(policy.backoff);
        policy.backoff_max = policy.backoff_max.max(policy.backoff);
    }
    if let Some(limit) = walk.field(table, &restart.path, "backoff_max") {
        let read = walk.duration(&limit).unwrap_or(policy.backoff_max);
        if read < policy.backoff {
            walk.complain(&limit, "expected at least `backoff`");
        }
        policy.backoff_max = read;
    }
    policy
}
