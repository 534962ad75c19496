//! A specification in the keys of a job file.

use std::collections::BTreeMap;

use berth_config::units::{format_cpu, format_duration, format_size};
use berth_model::{
    Artifact, Autoscale, Constraints, GpuRequest, HealthCheck, HealthProbe, JobSpec, ScalingPace,
    TaskSpec, UpdatePolicy, shown_source,
};
use serde_json::{Map, Value, json};

/// What stands for the value of an environment variable: it may be a secret, and
/// the output of a command ends up in logs.
const HIDDEN: &str = "***";

pub(crate) fn spec_json(spec: &JobSpec) -> Value {
    let tasks: Map<String, Value> =
        spec.tasks.iter().map(|task| (task.name.to_string(), task_json(task))).collect();
    json!({
        "name": spec.name.as_str(),
        "namespace": spec.namespace.as_str(),
        "kind": spec.kind.name(),
        "priority": spec.priority,
        "policy": spec.policy.name(),
        "policy_origin": spec.policy_origin.name(),
        "constraints": constraints_json(&spec.constraints),
        "deadline": spec.deadline.map(|deadline| format_duration(deadline.0)),
        "max_disconnect": format_duration(spec.max_disconnect.0),
        "on_return": spec.on_return.name(),
        "update": spec.kind.is_named().then(|| update_json(spec.update)),
        "exclusive": spec.exclusive,
        "preemption": {
            "preempts": spec.preemption.preempts,
            "preemptible": spec.preemption.preemptible,
            "min_run": format_duration(spec.preemption.min_run.0),
        },
        "route": route_json(spec),
        "autoscale": spec.autoscale.as_ref().map(|rule| autoscale_json(rule, spec)),
        "tasks": tasks,
    })
}

fn update_json(update: UpdatePolicy) -> Value {
    json!({
        "progress_deadline": update.progress_deadline.map(|limit| format_duration(limit.0)),
        "min_ready": format_duration(update.min_ready.0),
        "on_failure": update.on_failure.name(),
    })
}

/// Nothing where nobody asks it anything.
fn route_json(spec: &JobSpec) -> Option<Value> {
    let reached = spec.reached()?;
    Some(json!({
        "model": spec.model(),
        "port": reached.port.as_str(),
        "balance": spec.route.balance.name(),
        "timeout": format_duration(spec.route.timeout.0),
        "drain": format_duration(spec.route.drain.0),
        "wait": format_duration(spec.route.wait.0),
        "waiting_max": spec.route.waiting_max,
        "in_flight_max": spec.route.in_flight_max,
    }))
}

/// With what it did not say.
fn autoscale_json(rule: &Autoscale, spec: &JobSpec) -> Value {
    let part = |milli: u32| f64::from(milli) / 1_000.0;
    let pace = |pace: ScalingPace| {
        json!({
            "window": format_duration(pace.window.0),
            "percent": pace.percent,
            "replicas": pace.replicas,
            "every": format_duration(pace.every.0),
        })
    };
    let targets = rule.targets(spec.route.in_flight_max);
    let targets = targets.into_iter().map(|(metric, milli)| (metric.name(), part(milli)));
    json!({
        "min": rule.min,
        "max": rule.max,
        "policy": rule.policy.name(),
        "target": targets.collect::<BTreeMap<_, _>>(),
        "tolerance": part(rule.tolerance),
        "average": format_duration(rule.average.0),
        "up": pace(rule.up),
        "down": pace(rule.down),
        "idle": format_duration(rule.idle.0),
        "step": rule.step,
        "alpha": rule.alpha.map(part),
        "gains": {
            "p": part(rule.gains.proportional),
            "i": part(rule.gains.integral),
            "d": part(rule.gains.derivative),
        },
    })
}

fn constraints_json(constraints: &Constraints) -> Value {
    json!({
        "labels": constraints.labels,
        "pool": constraints.pool.as_ref().map(|pool| pool.as_str()),
        "node": constraints.node.as_ref().map(|node| node.as_str()),
    })
}

fn task_json(task: &TaskSpec) -> Value {
    let env: Map<String, Value> =
        task.env.keys().map(|name| (name.clone(), json!(HIDDEN))).collect();
    let ports: Vec<&str> = task.ports.iter().map(|port| port.as_str()).collect();
    json!({
        "driver": task.driver.name(),
        "image": task.driver.image(),
        "command": task.command,
        "env": env,
        "workdir": task.workdir,
        "artifacts": task.artifacts.iter().map(artifact_json).collect::<Vec<_>>(),
        "count": task.count,
        "array": task.array.map(|array| {
            let last = u64::from(array.start)
                + u64::from(array.step) * u64::from(task.count.saturating_sub(1));
            let at_once = array.parallel_max.map(|most| format!("%{most}")).unwrap_or_default();
            format!("{}-{last}:{}{at_once}", array.start, array.step)
        }),
        "gang": task.gang.is_some(),
        "cpu": format_cpu(task.cpu.0),
        "memory": format_size(task.memory.0),
        "limits": limits_json(task),
        "quality": task.quality().name(),
        "gpu": task.gpu.as_ref().map(gpu_json),
        "ports": ports,
        "stop": {
            "signal": task.stop.signal.name(),
            "grace": format_duration(task.stop.grace.0),
        },
        "restart": {
            "attempts": task.restart.attempts,
            "backoff": format_duration(task.restart.backoff.0),
            "backoff_max": format_duration(task.restart.backoff_max.0),
        },
        "health": task.health.as_ref().map(health_json),
        "time_limit": task.time_limit.map(|limit| format_duration(limit.0)),
    })
}

/// What follows a `?` may be a signature.
fn artifact_json(artifact: &Artifact) -> Value {
    let shown = shown_source(&artifact.source);
    let hidden = if shown == artifact.source { "" } else { "?***" };
    json!({
        "source": format!("{shown}{hidden}"),
        "checksum": artifact.checksum.map(|checksum| checksum.to_string()),
        "to": artifact.to,
    })
}

/// What holds, also where the job file says nothing of it.
fn limits_json(task: &TaskSpec) -> Value {
    json!({
        "cpu": task.limits.cpu.map(|cpu| format_cpu(cpu.0)),
        "memory": task.memory_max().map(|most| format_size(most.0)),
        "processes": task.processes_max(),
        "open_files": task.open_files_max(),
        "disk": task.limits.disk.map(|most| format_size(most.0)),
    })
}

fn gpu_json(gpu: &GpuRequest) -> Value {
    json!({
        "count": gpu.count,
        "type": gpu.models,
        "vram": gpu.memory_min.map(|least| format_size(least.0)),
        "share": f64::from(gpu.share.0) / 1000.0,
    })
}

fn health_json(health: &HealthCheck) -> Value {
    let (kind, mut probe) = match &health.probe {
        HealthProbe::Http { path, port } => {
            ("http", json!({ "path": path, "port": port.as_str() }))
        }
        HealthProbe::Tcp { port } => ("tcp", json!({ "port": port.as_str() })),
        HealthProbe::Command { command } => ("command", json!({ "command": command })),
    };
    probe["interval"] = json!(format_duration(health.interval.0));
    probe["timeout"] = json!(format_duration(health.timeout.0));
    probe["failures"] = json!(health.failures);
    probe["start_period"] = json!(format_duration(health.start_period.0));
    json!({ kind: probe })
}

#[cfg(test)]
mod tests {
    use berth_model::{JobKind, Name, TaskSpec};

    use super::*;

    #[test]
    fn a_specification_reads_like_its_job_file_without_its_secrets() {
        let text = r#"{
            "name": "a", "namespace": "default", "kind": "batch", "priority": 50,
            "policy": "best-fit", "constraints": {"labels": {"disk": "nvme"}},
            "max_disconnect": "10s", "on_return": "keep-original", "exclusive": false, "deadline": "5m",
            "preemption": {"preempts": true, "preemptible": false, "min_run": "5m"},
            "tasks": {"main": {
                "driver": "docker", "image": "a:1",
                "command": ["x"], "env": {"HF_TOKEN": "hf_secret"}, "array": "0-8:2", "gang": true,
                "artifacts": [{"source": "https://h/a/b.bin?sig=secret"}],
                "cpu": "500m", "memory": "4GiB",
                "limits": {"cpu": "1500m", "memory": "8GiB", "processes": 100, "open_files": 99,
                    "disk": "3GiB"},
                "gpu": {"count": 2, "type": ["A100"], "vram": "40GB",
                    "share": 1.0}, "ports": ["http"],
                "stop": {"signal": "SIGINT", "grace": "10s"},
                "restart": {"attempts": 2, "backoff": "1s", "backoff_max": "1m"},
                "health": {"http": {"path": "/", "port": "http", "interval": "2s",
                    "timeout": "1s", "failures": 3, "start_period": "5m"}},
                "time_limit": "1h"
            }}
        }"#;
        let input = berth_jobfile::Input {
            file_name: "job.json",
            syntax: berth_jobfile::Syntax::Json,
            bytes: text.as_bytes(),
            overrides: &[],
            namespace: Name::new("default").unwrap(),
        };
        let shown = spec_json(&berth_jobfile::parse(&input).unwrap());
        let mut expected: Value = serde_json::from_str(text).unwrap();
        let task = &mut expected["tasks"]["main"];
        task["env"]["HF_TOKEN"] = json!("***");
        task["artifacts"][0]["source"] = json!("https://h/a/b.bin?***");
        task["artifacts"][0]["checksum"] = Value::Null;
        task["artifacts"][0]["to"] = json!("b.bin");
        task["count"] = json!(5);
        task["quality"] = json!("burstable");
        task["workdir"] = Value::Null;
        expected["constraints"]["pool"] = Value::Null;
        expected["constraints"]["node"] = Value::Null;
        expected["update"] = Value::Null;
        expected["policy_origin"] = json!("job");
        expected["route"] = Value::Null;
        expected["autoscale"] = Value::Null;
        assert_eq!(shown, expected);
    }

    #[test]
    fn how_a_service_is_reached_is_told_with_what_it_did_not_say() {
        let mut task = TaskSpec::new(Name::new("main").unwrap(), JobKind::Service, Vec::new());
        task.ports = vec![Name::new("grpc").unwrap()];
        let (name, namespace) = (Name::new("chat").unwrap(), Name::new("default").unwrap());
        let mut spec = JobSpec::new(name, namespace, JobKind::Service, vec![task]);
        let usual = json!({"model": "chat", "port": "grpc", "balance": "auto", "timeout": "10m",
            "drain": "10m", "wait": "30s", "waiting_max": 1000, "in_flight_max": null});
        assert_eq!(spec_json(&spec)["route"], usual);
        spec.route.model = Some("org/model".to_owned());
        assert_eq!(spec_json(&spec)["route"]["model"], "org/model");
        spec.tasks[0].ports.clear();
        assert_eq!(spec_json(&spec)["route"], Value::Null);
    }

    #[test]
    fn other_probes_are_told_by_name() {
        let name = Name::new("main").unwrap();
        let mut task = TaskSpec::new(name.clone(), JobKind::Service, vec!["x".to_owned()]);
        let mut health = HealthCheck {
            probe: HealthProbe::Tcp { port: name },
            interval: berth_model::DurationMs(500),
            timeout: berth_model::DurationMs(500),
            failures: 1,
            start_period: berth_model::DurationMs::ZERO,
        };
        task.health = Some(health.clone());
        assert_eq!(task_json(&task)["health"]["tcp"]["interval"], "500ms");
        health.probe = HealthProbe::Command { command: vec!["true".to_owned()] };
        task.health = Some(health);
        assert_eq!(task_json(&task)["health"]["command"]["command"], json!(["true"]));
        assert_eq!(task_json(&task)["restart"]["attempts"], Value::Null);
    }
}
