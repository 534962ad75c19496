//! The top of a job file.

use std::collections::BTreeMap;

use berth_model::{
    Autoscale, Constraints, JobKind, JobSpec, Name, OnFailure, OnReturn, Policy, PolicyOrigin,
    Preemption, Route, RoutingPolicy, TaskSpec, WAITING_MAX, validate,
};

use super::autoscale::Replicas;
use super::walk::{Field, Walk, join};
use super::{autoscale, health, keys, task};
use crate::problem::{Complaint, Complaints};
use crate::text::{Span, shown};
use crate::tree::Table;

const KINDS: &[(&str, JobKind)] =
    &[("batch", JobKind::Batch), ("service", JobKind::Service), ("daemon", JobKind::Daemon)];
/// Policies of the job file's language that this version does not have.
const POLICIES_LATER: &[&str] = &["response-time"];
/// The name of a lone `[task]`.
const LONE_TASK: &str = "main";

/// The job in `tree`. With complaints, what is returned is not to be used.
pub(crate) fn read_job(
    tree: &Table,
    whole: Span,
    namespace: &Name,
    complaints: &mut Complaints,
) -> Option<JobSpec> {
    let mut walk = Walk::new(complaints);
    walk.refuse_unknown(tree, "", &keys::JOB);
    let (kind, kind_is_known) = match walk.field(tree, "", "kind") {
        Some(kind) => {
            let read = walk.word(&kind, KINDS, &["workflow", "cron"]);
            (read.unwrap_or(JobKind::Batch), read.is_some())
        }
        None => (JobKind::Batch, true),
    };
    if tree.get("name").is_none() {
        walk.complaints.add_with_hint(
            whole,
            "name",
            "`name` is missing",
            "a job needs a name, as in name = \"llama-8b\"",
        );
    }
    let name = walk.field(tree, "", "name").and_then(|field| walk.name(&field));
    let namespace = match walk.field(tree, "", "namespace") {
        Some(field) => walk.name(&field),
        None => Some(namespace.clone()),
    };
    let mut tasks = read_tasks(&mut walk, tree, whole, kind);
    let autoscale = read_for_lone_task(&mut walk, tree, &mut tasks);
    // A placeholder where the name was refused: the rest is still checked.
    let name = name.unwrap_or_else(placeholder);
    let namespace = namespace.unwrap_or_else(placeholder);
    let mut spec = JobSpec { autoscale, ..JobSpec::new(name, namespace, kind, tasks) };
    read_rest(&mut walk, tree, &mut spec);
    if kind_is_known {
        check_sense(&mut walk, &spec, whole);
    }
    walk.complaints.is_empty().then_some(spec)
}

fn placeholder() -> Name {
    Name::new("unnamed").expect("letters make a name")
}

fn read_rest(walk: &mut Walk<'_>, tree: &Table, spec: &mut JobSpec) {
    if let Some(priority) = walk.field(tree, "", "priority") {
        let read = walk.integer(&priority, 0, 100).and_then(|read| u8::try_from(read).ok());
        spec.priority = read.unwrap_or(spec.priority);
    }
    if let Some(policy) = walk.field(tree, "", "policy") {
        let words = Policy::ALL.map(|policy| (policy.name(), policy));
        spec.policy = walk.word(&policy, &words, POLICIES_LATER).unwrap_or(spec.policy);
    } else {
        spec.policy_origin = PolicyOrigin::LeftOut;
    }
    if let Some(constraints) = walk.field(tree, "", "constraints") {
        spec.constraints = read_constraints(walk, &constraints).unwrap_or_default();
    }
    if let Some(deadline) = walk.field(tree, "", "deadline") {
        spec.deadline = walk.duration(&deadline);
    }
    if let Some(wait) = walk.field(tree, "", "max_disconnect") {
        spec.max_disconnect = walk.duration(&wait).unwrap_or(spec.max_disconnect);
    }
    if let Some(on_return) = walk.field(tree, "", "on_return") {
        let words = OnReturn::ALL.map(|on_return| (on_return.name(), on_return));
        spec.on_return = walk.word(&on_return, &words, &[]).unwrap_or(spec.on_return);
    }
    if let Some(exclusive) = walk.field(tree, "", "exclusive") {
        spec.exclusive = walk.boolean(&exclusive).unwrap_or(spec.exclusive);
    }
    if let Some(preemption) = walk.field(tree, "", "preemption") {
        read_preemption(walk, &preemption, &mut spec.preemption);
    }
    if let Some(route) = walk.field(tree, "", "route") {
        read_route(walk, &route, &mut spec.route);
    }
    if let Some(field) = walk.field(tree, "", "autoscale") {
        autoscale::read(walk, &field, spec);
    }
    if let Some(update) = walk.field(tree, "", "update") {
        read_update(walk, &update, spec);
    }
}

fn read_preemption(walk: &mut Walk<'_>, field: &Field<'_>, preemption: &mut Preemption) {
    let Some(table) = walk.table(field, &keys::PREEMPTION) else { return };
    if let Some(preempts) = walk.field(table, &field.path, "preempts") {
        preemption.preempts = walk.boolean(&preempts).unwrap_or(preemption.preempts);
    }
    if let Some(preemptible) = walk.field(table, &field.path, "preemptible") {
        preemption.preemptible = walk.boolean(&preemptible).unwrap_or(preemption.preemptible);
    }
    if let Some(min_run) = walk.field(table, &field.path, "min_run") {
        preemption.min_run = walk.duration(&min_run).unwrap_or(preemption.min_run);
    }
}

fn read_route(walk: &mut Walk<'_>, field: &Field<'_>, route: &mut Route) {
    let Some(table) = walk.table(field, &keys::ROUTE) else { return };
    if let Some(model) = walk.field(table, &field.path, "model") {
        route.model = walk.text(&model).map(str::to_owned);
    }
    if let Some(port) = walk.field(table, &field.path, "port") {
        route.port = walk.name(&port);
    }
    if let Some(balance) = walk.field(table, &field.path, "balance") {
        let words = RoutingPolicy::ALL.map(|policy| (policy.name(), policy));
        route.balance = walk.word(&balance, &words, &[]).unwrap_or(route.balance);
    }
    if let Some(timeout) = walk.field(table, &field.path, "timeout") {
        route.timeout = walk.duration(&timeout).unwrap_or(route.timeout);
    }
    if let Some(drain) = walk.field(table, &field.path, "drain") {
        route.drain = walk.duration(&drain).unwrap_or(route.drain);
    }
    if let Some(wait) = walk.field(table, &field.path, "wait") {
        route.wait = walk.duration(&wait).unwrap_or(route.wait);
    }
    if let Some(most) = walk.field(table, &field.path, "waiting_max") {
        route.waiting_max = walk.integer(&most, 0, WAITING_MAX).unwrap_or(route.waiting_max);
    }
    if let Some(most) = walk.field(table, &field.path, "in_flight_max") {
        route.in_flight_max = walk.integer(&most, 1, WAITING_MAX);
    }
}

/// Only one way of updating exists so far.
fn read_update(walk: &mut Walk<'_>, update: &Field<'_>, spec: &mut JobSpec) {
    let Some(table) = walk.table(update, &keys::UPDATE) else { return };
    if let Some(strategy) = walk.field(table, &update.path, "strategy") {
        walk.word(&strategy, &[("rolling", ())], &["blue-green", "canary"]);
    }
    if let Some(limit) = walk.field(table, &update.path, "progress_deadline") {
        spec.update.progress_deadline = walk.duration(&limit).or(spec.update.progress_deadline);
    }
    if let Some(span) = walk.field(table, &update.path, "min_ready") {
        spec.update.min_ready = walk.duration(&span).unwrap_or(spec.update.min_ready);
    }
    if let Some(word) = walk.field(table, &update.path, "on_failure") {
        let words = OnFailure::ALL.map(|on_failure| (on_failure.name(), on_failure));
        spec.update.on_failure = walk.word(&word, &words, &[]).unwrap_or(spec.update.on_failure);
    }
}

fn read_tasks(walk: &mut Walk<'_>, tree: &Table, whole: Span, kind: JobKind) -> Vec<TaskSpec> {
    let lone = walk.field(tree, "", "task");
    let several = walk.field(tree, "", "tasks");
    match (lone, several) {
        (Some(_), Some(several)) => {
            let message = "both `task` and `tasks` are given";
            walk.complain_with_hint(&several, message, "make it [tasks.NAME] for each task");
            Vec::new()
        }
        (Some(lone), None) => {
            let path = join("tasks", LONE_TASK);
            walk.note(path.clone(), lone.node.span);
            let name = Name::new(LONE_TASK).expect("letters make a name");
            task::read(walk, &Field { node: lone.node, path }, name, kind).into_iter().collect()
        }
        (None, Some(several)) => {
            let Some(table) = walk.any_table(&several) else { return Vec::new() };
            let read = |entry| read_named(walk, table, entry, kind);
            table.entries().iter().filter_map(read).collect()
        }
        (None, None) => {
            walk.complaints.add_with_hint(
                whole,
                "task",
                "a job needs at least one task",
                "add [task] with command = [\"program\", \"argument\"]",
            );
            Vec::new()
        }
    }
}

fn read_named(
    walk: &mut Walk<'_>,
    tasks: &Table,
    entry: &crate::tree::Entry,
    kind: JobKind,
) -> Option<TaskSpec> {
    let field = walk.field(tasks, "tasks", &entry.key)?;
    match Name::new(&entry.key) {
        Ok(name) => {
            let path = format!("tasks.{name}");
            walk.note(path.clone(), field.node.span);
            task::read(walk, &Field { node: field.node, path }, name, kind)
        }
        Err(error) => {
            let message = format!("`{}` is not a name: {error}", shown(&entry.key));
            walk.complaints.add(entry.key_span, &field.path, message);
            None
        }
    }
}

/// `replicas` and `[health]` stand at the top for a job of one task. Returns by which rule it is
/// scaled, if its replicas are a range.
fn read_for_lone_task(
    walk: &mut Walk<'_>,
    tree: &Table,
    tasks: &mut [TaskSpec],
) -> Option<Autoscale> {
    let mut scaled = None;
    for (key, own) in [("replicas", "count"), ("health", "health")] {
        let Some(field) = walk.field(tree, "", key) else { continue };
        let [task] = tasks else {
            if tasks.len() > 1 {
                let message = format!("which task is `{key}` for? This job has {}", tasks.len());
                walk.complain_with_hint(&field, message, format!("set tasks.NAME.{own} instead"));
            }
            continue;
        };
        let path = format!("tasks.{}.{own}", task.name);
        if walk
            .place_of(&path)
            .is_some_and(|place| Some(place) != walk.place_of(&format!("tasks.{}", task.name)))
        {
            walk.complain(&field, format!("both `{key}` and `{path}` are given"));
            continue;
        }
        walk.note(path.clone(), field.node.span);
        if key == "replicas" {
            match autoscale::read_replicas(walk, &field) {
                Some(Replicas::Count(count)) => task.count = count,
                Some(Replicas::Between(min, max)) => {
                    let rule = Autoscale::between(min, max);
                    task.count = rule.count(None);
                    scaled = Some(rule);
                    // Where it may be found fault with if it says no more of that.
                    walk.note("autoscale".to_owned(), field.node.span);
                }
                None => {}
            }
        } else {
            task.health = health::read(walk, &Field { node: field.node, path });
        }
    }
    scaled
}

fn read_constraints(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<Constraints> {
    let table = walk.table(field, &keys::CONSTRAINTS)?;
    let mut name = |key: &str| {
        let field = walk.field(table, &field.path, key)?;
        walk.name(&field)
    };
    let (pool, node) = (name("pool"), name("node"));
    let mut labels = BTreeMap::new();
    if let Some(field) = walk.field(table, &field.path, "labels")
        && let Some(table) = walk.any_table(&field)
    {
        for entry in table.entries() {
            let Some(label) = walk.field(table, &field.path, &entry.key) else { continue };
            if let Some(value) = walk.text(&label) {
                labels.insert(entry.key.clone(), value.to_owned());
            }
        }
    }
    Some(Constraints { labels, pool, node })
}

/// What the server would refuse, in its words, with places of the file.
fn check_sense(walk: &mut Walk<'_>, spec: &JobSpec, whole: Span) {
    for violation in validate(spec) {
        let is_repeated = walk.complaints.covers(&violation.field)
            // Tasks that were refused are missing here.
            || (violation.field == "task" && !walk.complaints.is_empty());
        if is_repeated {
            continue;
        }
        let span = walk.place_of(&violation.field).unwrap_or(whole);
        walk.complaints.push(Complaint {
            span,
            path: violation.field,
            message: violation.message,
            hint: violation.hint,
        });
    }
}
