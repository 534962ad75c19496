//! A job without its tasks.

use berth_model::{
    Constraints, DurationMs, JobSpec, Name, OnFailure, OnReturn, Preemption, UpdatePolicy,
};
use berth_proto::v1;

use super::autoscale::{autoscale_to_proto, read_autoscale};
use super::policy::{policy_origin_to_proto, read_origin};
use super::route::{read_route, route_to_proto};
use super::task::{read_task, task_to_proto};
use crate::enumeration;
use crate::problem::{Cause, Field, Problems};

/// The message for a specification.
pub fn job_spec_to_proto(spec: &JobSpec) -> v1::JobSpec {
    v1::JobSpec {
        name: spec.name.to_string(),
        namespace: spec.namespace.to_string(),
        kind: enumeration::number::<v1::JobKind, _>(spec.kind),
        priority: u32::from(spec.priority),
        policy: enumeration::number::<v1::Policy, _>(spec.policy),
        constraints: constraints_to_proto(&spec.constraints),
        tasks: spec.tasks.iter().map(task_to_proto).collect(),
        deadline_ms: spec.deadline.map(|span| span.0),
        max_disconnect_ms: spec.max_disconnect.0,
        exclusive: spec.exclusive,
        on_return: on_return_to_proto(spec.on_return).into(),
        progress_deadline_ms: spec.update.progress_deadline.map(|span| span.0),
        min_ready_ms: spec.update.min_ready.0,
        on_failure: on_failure_to_proto(spec.update.on_failure).into(),
        preemption: preemption_to_proto(spec.preemption),
        route: route_to_proto(&spec.route),
        autoscale: spec.autoscale.as_ref().map(autoscale_to_proto),
        policy_origin: policy_origin_to_proto(spec.policy_origin),
    }
}

/// Its zero is what was done before the field was there, so that a specification of then has
/// the digest that it had.
fn on_return_to_proto(on_return: OnReturn) -> v1::OnReturn {
    match on_return {
        OnReturn::KeepReplacement => v1::OnReturn::KeepReplacement,
        OnReturn::KeepOriginal => v1::OnReturn::KeepOriginal,
        OnReturn::KeepLongestRunning => v1::OnReturn::KeepLongestRunning,
    }
}

/// Its zero likewise.
fn on_failure_to_proto(on_failure: OnFailure) -> v1::OnFailure {
    match on_failure {
        OnFailure::Hold => v1::OnFailure::Hold,
        OnFailure::Rollback => v1::OnFailure::Rollback,
    }
}

fn read_on_failure(at: Field<'_>, number: i32, problems: &mut Problems) -> Option<OnFailure> {
    let Ok(proto) = v1::OnFailure::try_from(number) else {
        problems.add(at, Cause::UnknownValue(number));
        return None;
    };
    Some(match proto {
        v1::OnFailure::Hold => OnFailure::Hold,
        v1::OnFailure::Rollback => OnFailure::Rollback,
    })
}

fn read_on_return(at: Field<'_>, number: i32, problems: &mut Problems) -> Option<OnReturn> {
    let Ok(proto) = v1::OnReturn::try_from(number) else {
        problems.add(at, Cause::UnknownValue(number));
        return None;
    };
    Some(match proto {
        v1::OnReturn::KeepReplacement => OnReturn::KeepReplacement,
        v1::OnReturn::KeepOriginal => OnReturn::KeepOriginal,
        v1::OnReturn::KeepLongestRunning => OnReturn::KeepLongestRunning,
    })
}

/// What a job file that says nothing asks for is an absent message.
fn preemption_to_proto(preemption: Preemption) -> Option<v1::Preemption> {
    let Preemption { preempts, preemptible, min_run } = preemption;
    let told = v1::Preemption { preempts, preemptible, min_run_ms: min_run.0 };
    (preemption != Preemption::default()).then_some(told)
}

fn read_preemption(proto: v1::Preemption) -> Preemption {
    let v1::Preemption { preempts, preemptible, min_run_ms } = proto;
    Preemption { preempts, preemptible, min_run: DurationMs(min_run_ms) }
}

/// No constraints are an absent message, so that there is one encoding.
pub(crate) fn constraints_to_proto(constraints: &Constraints) -> Option<v1::Constraints> {
    let Constraints { labels, pool, node } = constraints;
    if labels.is_empty() && pool.is_none() && node.is_none() {
        return None;
    }
    Some(v1::Constraints {
        labels: labels.clone(),
        pool: pool.as_ref().map(Name::to_string),
        node: node.as_ref().map(Name::to_string),
    })
}

/// Reads the form of a specification, not its sense.
pub(crate) fn read_job(
    at: Field<'_>,
    proto: v1::JobSpec,
    problems: &mut Problems,
) -> Option<JobSpec> {
    let name = problems.name(at.named("name"), &proto.name);
    let namespace = problems.name(at.named("namespace"), &proto.namespace);
    let kind = enumeration::read::<v1::JobKind, _>(at.named("kind"), proto.kind, problems);
    let priority = problems.narrow(at.named("priority"), "0 to 100", proto.priority);
    let policy = enumeration::read::<v1::Policy, _>(at.named("policy"), proto.policy, problems);
    let constraints =
        read_constraints(at.named("constraints"), proto.constraints.unwrap_or_default(), problems);
    let on_return = read_on_return(at.named("on_return"), proto.on_return, problems);
    let on_failure = read_on_failure(at.named("on_failure"), proto.on_failure, problems);
    let policy_origin = read_origin(at.named("policy_origin"), proto.policy_origin, problems);
    let route = read_route(at.named("route"), proto.route, problems);
    let autoscale = read_autoscale(at.named("autoscale"), proto.autoscale, problems);
    let mut tasks = Vec::with_capacity(proto.tasks.len());
    let tasks_at = at.named("tasks");
    for (position, task) in proto.tasks.into_iter().enumerate() {
        tasks.extend(read_task(tasks_at, position, task, problems));
    }
    Some(JobSpec {
        name: name?,
        namespace: namespace?,
        kind: kind?,
        priority: priority?,
        policy: policy?,
        policy_origin: policy_origin?,
        constraints: constraints?,
        tasks,
        deadline: proto.deadline_ms.map(DurationMs),
        max_disconnect: DurationMs(proto.max_disconnect_ms),
        on_return: on_return?,
        update: UpdatePolicy {
            progress_deadline: proto.progress_deadline_ms.map(DurationMs),
            min_ready: DurationMs(proto.min_ready_ms),
            on_failure: on_failure?,
        },
        exclusive: proto.exclusive,
        preemption: proto.preemption.map_or_else(Preemption::default, read_preemption),
        route: route?,
        autoscale: autoscale?,
    })
}

pub(crate) fn read_constraints(
    at: Field<'_>,
    proto: v1::Constraints,
    problems: &mut Problems,
) -> Option<Constraints> {
    let pool = problems.optional_name(at.named("pool"), proto.pool.as_deref());
    let node = problems.optional_name(at.named("node"), proto.node.as_deref());
    Some(Constraints { labels: proto.labels, pool: pool?, node: node? })
}
