//! Services as their callers reach them.

use berth_config::units::format_duration;
use berth_model::ScalingPolicy;
use berth_proto::v1::{ReplicaStatus, ReplicaUse, Service, ServiceScaling, ServiceUse};
use berth_wire::spec::{
    routing_policy_from_proto, scaling_metric_from_proto, scaling_policy_from_proto,
};
use serde_json::{Value, json};

use super::{Answer, Piece, Table};

const NOTHING: &str = "-";

pub(crate) fn services_answer(all: &[Service]) -> Answer {
    let mut table = Table::new(
        &["NAME", "MODEL", "POLICY", "READY", "IN FLIGHT", "WAITING", "REQUESTS", "SENT AGAIN"],
        &["RANGE", "NAMESPACE", "JOB", "VERSION", "DRAINING"],
    );
    for one in all {
        table.row(vec![
            one.name.clone(),
            one.model.clone(),
            policy(one).to_owned(),
            format!("{}/{}", one.replicas_ready, one.replicas_wanted),
            sum(&one.uses, |used| used.in_flight),
            sum(&one.uses, |used| used.waiting),
            sum(&one.uses, |used| used.requests),
            sum(&one.uses, |used| used.retries),
            range(one),
            one.namespace.clone(),
            one.job_id.to_string(),
            one.version.to_string(),
            one.replicas_draining.to_string(),
        ]);
    }
    let piece = match all.is_empty() {
        true => Piece::Text("no service can be asked".to_owned()),
        false => Piece::Table(table),
    };
    Answer {
        json: all.iter().map(service_json).collect(),
        pieces: vec![piece],
        ids: all.iter().map(|one| one.job_id.to_string()).collect(),
    }
}

pub(crate) fn service_answer(one: &Service) -> Answer {
    let draining = match one.replicas_draining {
        0 => String::new(),
        count => format!(", {count} more let their callers go"),
    };
    let text = format!(
        "service {} (job {}), version {}: {} of {} replicas ready{draining}\n\
         model {}, by port {}; policy {}; an answer may take {} to begin or to go on, and keeps a \
         replica that is to end for {}\n{}{}",
        one.name,
        one.job_id,
        one.version,
        one.replicas_ready,
        one.replicas_wanted,
        one.model,
        one.port,
        policy(one),
        format_duration(one.timeout_ms),
        format_duration(one.drain_ms),
        one.scaling.as_ref().map(scaled).unwrap_or_default(),
        through_gateways(one),
    );
    let mut pieces = vec![Piece::Text(text)];
    if !one.replicas.is_empty() {
        pieces.push(Piece::Table(replica_table(one)));
    }
    Answer { json: service_json(one), pieces, ids: vec![one.job_id.to_string()] }
}

/// `1 to 8`, of one whose replicas follow its load.
fn range(one: &Service) -> String {
    let of = |scaling: &ServiceScaling| format!("{} to {}", scaling.min, scaling.max);
    one.scaling.as_ref().map_or_else(|| NOTHING.to_owned(), of)
}

/// A line that says how many there may be, and why there are as many as there are.
fn scaled(scaling: &ServiceScaling) -> String {
    let targets: Vec<String> =
        targets(scaling).map(|(metric, value)| format!("{metric} {value}")).collect();
    let because = match scaling.because.as_str() {
        "" => "the leader has not looked yet",
        because => because,
    };
    format!(
        "replicas follow the load, {} to {} of them, by {} with {} for each: {because}\n",
        scaling.min,
        scaling.max,
        scaling_policy(scaling),
        targets.join(", "),
    )
}

fn scaling_policy(scaling: &ServiceScaling) -> &'static str {
    scaling_policy_from_proto(scaling.policy)
        .map_or("a policy of a newer version", ScalingPolicy::name)
}

fn targets(scaling: &ServiceScaling) -> impl Iterator<Item = (&'static str, f64)> {
    scaling.targets.iter().filter_map(|target| {
        let metric = scaling_metric_from_proto(target.metric)?;
        Some((metric.name(), f64::from(target.milli) / 1_000.0))
    })
}

fn through_gateways(one: &Service) -> String {
    if one.uses.is_empty() {
        return "no gateway has told of it".to_owned();
    }
    format!(
        "requests through gateways: {} under way, {} wait for a replica, {} sent, {} of them again",
        sum(&one.uses, |used| used.in_flight),
        sum(&one.uses, |used| used.waiting),
        sum(&one.uses, |used| used.requests),
        sum(&one.uses, |used| used.retries),
    )
}

/// A row for each replica and each gateway that knows it.
fn replica_table(one: &Service) -> Table {
    let mut table = Table::new(
        &["REPLICA", "NODE", "VERSION", "STATE", "GATEWAY", "IN FLIGHT", "ANSWER", "SAYS"],
        &["SEEN", "ADDRESS", "WAITING TOKENS", "ANSWERS", "BY"],
    );
    for replica in &one.replicas {
        let uses = uses_of(one, replica);
        let rows = match uses.is_empty() {
            true => vec![None],
            false => uses.into_iter().map(Some).collect(),
        };
        for used in rows {
            table.row(replica_row(replica, used));
        }
    }
    table
}

fn replica_row(replica: &ReplicaStatus, used: Option<(&str, &ReplicaUse)>) -> Vec<String> {
    let allocation = replica.allocation.clone().unwrap_or_default();
    let state = match (allocation.state.as_str(), allocation.ready) {
        ("running", true) => "ready".to_owned(),
        ("running", false) => "not ready".to_owned(),
        (other, _) => other.to_owned(),
    };
    let nothing = || NOTHING.to_owned();
    let of = |told: fn(&ReplicaUse) -> String| used.map_or_else(nothing, |(_, used)| told(used));
    let gateway = used.map_or_else(nothing, |(gateway, _)| gateway.to_owned());
    let answer = |used: &ReplicaUse| {
        used.answer_us.map_or_else(|| NOTHING.to_owned(), |micros| format!("{} ms", micros / 1_000))
    };
    vec![
        allocation.id,
        allocation.node,
        allocation.job_version.to_string(),
        state,
        gateway,
        of(|used| used.in_flight.to_string()),
        of(answer),
        of(says),
        of(|used| used.state.clone()),
        replica.address.clone(),
        of(|used| used.waiting_tokens.to_string()),
        of(|used| used.answers.to_string()),
        of(|used| used.metrics.join(", ")),
    ]
}

/// `3 running, 0 waiting, cache 12 %`.
fn says(used: &ReplicaUse) -> String {
    let running = used.running.map(|count| format!("{count} running"));
    let waiting = used.waiting.map(|count| format!("{count} waiting"));
    let cache = used.kv_milli.map(|milli| format!("cache {} %", milli / 10));
    let said: Vec<String> = [running, waiting, cache].into_iter().flatten().collect();
    if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
}

fn uses_of<'a>(one: &'a Service, replica: &ReplicaStatus) -> Vec<(&'a str, &'a ReplicaUse)> {
    let id = replica.allocation.as_ref().map(|allocation| allocation.id.as_str());
    let of_gateway = |used: &'a ServiceUse| {
        let mut replicas = used.replicas.iter();
        let found = replicas.find(|used| Some(used.allocation_id.as_str()) == id);
        found.map(|found| (used.gateway.as_str(), found))
    };
    one.uses.iter().filter_map(of_gateway).collect()
}

/// Over all gateways; nothing where none has told.
fn sum(uses: &[ServiceUse], of: fn(&ServiceUse) -> u64) -> String {
    if uses.is_empty() { NOTHING.to_owned() } else { uses.iter().map(of).sum::<u64>().to_string() }
}

fn policy(one: &Service) -> &'static str {
    routing_policy_from_proto(one.balance).map_or("unknown", |policy| policy.name())
}

fn scaling_json(scaling: &ServiceScaling) -> Value {
    json!({
        "min": scaling.min,
        "max": scaling.max,
        "policy": scaling_policy(scaling),
        "target": targets(scaling).collect::<std::collections::BTreeMap<_, _>>(),
        "because": scaling.because,
    })
}

fn service_json(one: &Service) -> Value {
    let gateway = |used: &ServiceUse| {
        json!({
            "gateway": used.gateway,
            "in_flight": used.in_flight,
            "waiting": used.waiting,
            "requests": used.requests,
            "retries": used.retries,
        })
    };
    let replica = |replica: &ReplicaStatus| {
        let allocation = replica.allocation.clone().unwrap_or_default();
        let gateways: Vec<Value> =
            uses_of(one, replica).into_iter().map(|(id, used)| use_json(id, used)).collect();
        json!({
            "allocation_id": allocation.id,
            "node": allocation.node,
            "version": allocation.job_version,
            "state": allocation.state,
            "ready": allocation.ready,
            "address": replica.address,
            "gateways": gateways,
        })
    };
    json!({
        "job_id": one.job_id,
        "namespace": one.namespace,
        "name": one.name,
        "version": one.version,
        "model": one.model,
        "port": one.port,
        "balance": policy(one),
        "timeout": format_duration(one.timeout_ms),
        "drain": format_duration(one.drain_ms),
        "replicas": {
            "wanted": one.replicas_wanted,
            "ready": one.replicas_ready,
            "draining": one.replicas_draining,
        },
        "scaling": one.scaling.as_ref().map(scaling_json),
        "gateways": one.uses.iter().map(gateway).collect::<Vec<_>>(),
        "allocations": one.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

/// What is not known is null.
fn use_json(gateway: &str, used: &ReplicaUse) -> Value {
    json!({
        "gateway": gateway,
        "state": used.state,
        "in_flight": used.in_flight,
        "waiting_tokens": used.waiting_tokens,
        "answers": used.answers,
        "answer_us": used.answer_us,
        "running": used.running,
        "waiting": used.waiting,
        "kv_milli": used.kv_milli,
        "metrics": used.metrics,
    })
}
