//! What is accepted, and what it means.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use berth_jobfile::{Input, Syntax, parse};
use berth_model::{
    ArraySpec, Autoscale, CpuMilli, DurationMs, Gang, GpuRequest, HealthProbe, JobKind, JobSpec,
    LeftOut, MemoryBytes, Name, OnFailure, OnReturn, PidGains, Policy, Route, RoutingPolicy,
    ScalingMetric, ScalingPace, ScalingPolicy, Signal, UpdatePolicy,
};

fn read(syntax: Syntax, text: &str, overrides: &[&str]) -> JobSpec {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let input = Input {
        file_name: "job",
        syntax,
        bytes: text.as_bytes(),
        overrides: &overrides,
        namespace: Name::new("research").unwrap(),
    };
    parse(&input).unwrap_or_else(|refused| panic!("{refused}\nfor\n{text}"))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const TOML: &str = r#"
name = "llama-8b"
kind = "service"
priority = 70
policy = "spread"
replicas = { min = 2, max = 2 }
max_disconnect = "1m"
on_return = "keep-original"
exclusive = true

[constraints]
labels = { disk = "nvme" }
pool = "large"
node = "gpu-01"

[task]
driver = "exec"
command = ["vllm", "serve", "--port", "${PORT}"]
env = { HF_HUB_OFFLINE = "1" }
workdir = "/srv"
gang = true
cpu = 4
memory = "32GiB"
gpu = { count = 1, type = ["H100", "A100"], vram = "40GB" }
ports = ["http"]
stop = { signal = "SIGINT", grace = "10s" }
restart = { attempts = 3, backoff = "2s", backoff_max = "8s" }

[health]
http = { path = "/health", port = "http", interval = "3s", timeout = "1s", failures = 4, start_period = "5m" }

[preemption]
preempts = false
preemptible = false
min_run = "10m"

[update]
strategy = "rolling"
progress_deadline = "20m"
min_ready = "2s"
on_failure = "hold"

[route]
model = "meta-llama/Llama-3.1-8B"
port = "http"
balance = "least-outstanding"
timeout = "5m"
drain = "90s"
wait = "2m"
waiting_max = 50
in_flight_max = 8
"#;

const YAML: &str = r#"
name: llama-8b
kind: service
priority: 70
policy: spread
replicas: {min: 2, max: 2}
max_disconnect: 1m
on_return: keep-original
exclusive: true
constraints:
  labels: {disk: nvme}
  pool: large
  node: gpu-01
task:
  driver: exec
  command: [vllm, serve, --port, "${PORT}"]
  env: {HF_HUB_OFFLINE: "1"}
  workdir: /srv
  gang: {}
  cpu: 4
  memory: 32GiB
  gpu: {count: 1, type: [H100, A100], vram: 40GB}
  ports: [http]
  stop: {signal: SIGINT, grace: 10s}
  restart: {attempts: 3, backoff: 2s, backoff_max: 8s}
health:
  http: {path: /health, port: http, interval: 3s, timeout: 1s, failures: 4, start_period: 5m}
preemption: {preempts: false, preemptible: false, min_run: 10m}
update:
  strategy: rolling
  progress_deadline: 20m
  min_ready: 2s
  on_failure: hold
route: {model: meta-llama/Llama-3.1-8B, port: http, balance: least-outstanding, timeout: 5m, drain: 90s, wait: 2m, waiting_max: 50, in_flight_max: 8}
"#;

const JSON: &str = r#"{
  "name": "llama-8b", "kind": "service", "priority": 70, "policy": "spread",
  "replicas": {"min": 2, "max": 2}, "max_disconnect": "1m", "exclusive": true,
  "on_return": "keep-original",
  "constraints": {"labels": {"disk": "nvme"}, "pool": "large", "node": "gpu-01"},
  "task": {
    "driver": "exec", "command": ["vllm", "serve", "--port", "${PORT}"],
    "env": {"HF_HUB_OFFLINE": "1"}, "workdir": "\/srv", "gang": true, "cpu": 4, "memory": "32GiB",
    "gpu": {"count": 1, "type": ["H100", "A100"], "vram": "40GB"}, "ports": ["http"],
    "stop": {"signal": "SIGINT", "grace": "10s"},
    "restart": {"attempts": 3, "backoff": "2s", "backoff_max": "8s"}
  },
  "health": {"http": {"path": "/health", "port": "http", "interval": "3s", "timeout": "1s",
    "failures": 4, "start_period": "5m"}},
  "preemption": {"preempts": false, "preemptible": false, "min_run": "10m"},
  "update": {"strategy": "rolling", "progress_deadline": "20m", "min_ready": "2s", "on_failure": "hold"},
  "route": {"model": "meta-llama/Llama-3.1-8B", "port": "http", "balance": "least-outstanding",
    "timeout": "5m", "drain": "90s", "wait": "2m", "waiting_max": 50, "in_flight_max": 8}
}"#;

#[test]
fn every_key_is_read() {
    let job = read(Syntax::Toml, TOML, &[]);
    assert_eq!(job.name, name("llama-8b"));
    assert_eq!(job.namespace, name("research"));
    assert_eq!((job.kind, job.priority, job.policy), (JobKind::Service, 70, Policy::Spread));
    assert_eq!(job.max_disconnect, DurationMs::from_secs(60));
    assert_eq!(job.on_return, OnReturn::KeepOriginal);
    let update = UpdatePolicy {
        progress_deadline: Some(DurationMs::from_secs(1_200)),
        min_ready: DurationMs::from_secs(2),
        on_failure: OnFailure::Hold,
    };
    assert_eq!(job.update, update);
    assert!(job.exclusive);
    assert!(!job.preemption.preempts && !job.preemption.preemptible);
    assert_eq!(job.preemption.min_run, DurationMs::from_secs(600));
    let route = Route {
        model: Some("meta-llama/Llama-3.1-8B".to_owned()),
        port: Some(name("http")),
        balance: RoutingPolicy::LeastOutstanding,
        timeout: DurationMs::from_secs(300),
        drain: DurationMs::from_secs(90),
        wait: DurationMs::from_secs(120),
        waiting_max: 50,
        in_flight_max: Some(8),
    };
    assert_eq!(job.route, route);
    assert_eq!(job.constraints.labels["disk"], "nvme");
    assert_eq!(job.constraints.pool, Some(name("large")));
    assert_eq!(job.constraints.node, Some(name("gpu-01")));
    let [task] = job.tasks.as_slice() else { panic!("one task: {:?}", job.tasks) };
    assert_eq!(task.name, name("main"));
    assert_eq!(task.command, ["vllm", "serve", "--port", "${PORT}"]);
    assert_eq!(task.env["HF_HUB_OFFLINE"], "1");
    assert_eq!(task.workdir.as_deref(), Some("/srv"));
    assert_eq!(task.gang, Some(Gang {}));
    assert_eq!((task.count, task.cpu, task.memory), (2, CpuMilli(4000), MemoryBytes(32 << 30)));
    let gpu = GpuRequest {
        count: 1,
        models: vec!["H100".into(), "A100".into()],
        memory_min: Some(MemoryBytes(40_000_000_000)),
        share: berth_model::ShareMilli::WHOLE,
    };
    assert_eq!(task.gpu, Some(gpu));
    assert_eq!(task.ports, [name("http")]);
    assert_eq!((task.stop.signal, task.stop.grace), (Signal::Int, DurationMs::from_secs(10)));
    assert_eq!(task.restart.attempts, Some(3));
    assert_eq!(task.restart.backoff, DurationMs::from_secs(2));
    assert_eq!(task.restart.backoff_max, DurationMs::from_secs(8));
    let health = task.health.as_ref().unwrap();
    assert_eq!(health.probe, HealthProbe::Http { path: "/health".into(), port: name("http") });
    assert_eq!((health.interval.0, health.timeout.0, health.failures), (3000, 1000, 4));
    assert_eq!(health.start_period, DurationMs::from_secs(300));
}

#[test]
fn the_three_syntaxes_mean_the_same() {
    let toml = read(Syntax::Toml, TOML, &[]);
    assert_eq!(read(Syntax::Yaml, YAML, &[]), toml);
    assert_eq!(read(Syntax::Json, JSON, &[]), toml);
    // JSON is YAML too.
    assert_eq!(read(Syntax::Yaml, &JSON.replace("\\/", "/"), &[]), toml);
    // Line ends and byte order marks carry no meaning.
    for (syntax, text) in [(Syntax::Toml, TOML), (Syntax::Yaml, YAML), (Syntax::Json, JSON)] {
        let odd = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(read(syntax, &odd, &[]), toml);
    }
}

fn task_with(line: &str) -> berth_model::TaskSpec {
    let text = format!("name = \"a\"\n[task]\ncommand = [\"x\"]\n{line}\n");
    read(Syntax::Toml, &text, &[]).tasks.remove(0)
}

#[test]
fn what_is_not_given_has_its_default() {
    let job = read(Syntax::Toml, "name = \"a\"\n[task]\ncommand = [\"x\"]\n", &[]);
    let expected = berth_model::TaskSpec::new(name("main"), JobKind::Batch, vec!["x".to_owned()]);
    // A namespace may have other defaults: the server is told what was left out.
    let left_out = LeftOut { cpu: true, memory: true };
    assert_eq!(job.tasks, [berth_model::TaskSpec { left_out, ..expected }]);
    let left_out = |line| task_with(line).left_out;
    assert_eq!(left_out("cpu = \"100m\""), LeftOut { cpu: false, memory: true });
    assert_eq!(left_out("memory = \"128MiB\""), LeftOut { cpu: true, memory: false });
    assert_eq!((job.kind, job.priority), (JobKind::Batch, JobSpec::PRIORITY_DEFAULT));
    assert_eq!(job.max_disconnect, JobSpec::MAX_DISCONNECT_DEFAULT);
    assert_eq!((job.on_return, job.update), (JobSpec::ON_RETURN_DEFAULT, UpdatePolicy::default()));
    let text = "name = \"a\"\nkind = \"service\"\n[task]\ncommand = [\"x\"]\n";
    let service = read(Syntax::Toml, text, &[]);
    assert_eq!(service.update, UpdatePolicy::default_for(JobKind::Service));
    assert!(!job.exclusive && job.deadline.is_none());
    assert_eq!(job.preemption, berth_model::Preemption::default());
}

#[test]
fn short_forms_are_read() {
    let any = |count| GpuRequest::whole(count);
    assert_eq!(task_with("gpu = 2").gpu, Some(any(2)));
    let a100 = GpuRequest {
        count: 2,
        models: vec!["A100".into()],
        memory_min: None,
        share: berth_model::ShareMilli::WHOLE,
    };
    assert_eq!(task_with("gpu = \"A100:2\"").gpu, Some(a100.clone()));
    assert_eq!(task_with("gpu = \"A100\"").gpu, Some(GpuRequest { count: 1, ..a100 }));
    let part = |milli| GpuRequest { share: berth_model::ShareMilli(milli), ..GpuRequest::whole(1) };
    assert_eq!(task_with("gpu = 0.5").gpu, Some(part(500)));
    assert_eq!(task_with("gpu = 1.0").gpu, Some(any(1)));
    assert_eq!(task_with("gpu = { share = 0.125 }").gpu, Some(part(125)));
    assert_eq!(task_with("gpu = { share = 0.0010 }").gpu, Some(part(1)));
    assert_eq!(task_with("gpu = { count = 2, share = 1 }").gpu, Some(any(2)));
    let models = vec!["A100".into()];
    assert_eq!(task_with("gpu = \"A100:0.25\"").gpu, Some(GpuRequest { models, ..part(250) }));
    let memory_min = Some(MemoryBytes(20 << 30));
    let given = task_with("gpu = { share = 0.5, vram = \"20GiB\" }").gpu;
    assert_eq!(given, Some(GpuRequest { memory_min, ..part(500) }));
    assert_eq!(task_with("gpu = { type = \"H100\" }").gpu.unwrap().models, ["H100"]);
    assert_eq!(task_with("cpu = \"500m\"").cpu, CpuMilli(500));
    assert_eq!(task_with("cpu = \"4\"").cpu, CpuMilli(4000));
    let task = task_with("array = \"0-99:2%10\"");
    assert_eq!(task.count, 50);
    assert_eq!(task.array, Some(ArraySpec { start: 0, step: 2, parallel_max: Some(10) }));
    assert_eq!(task_with("count = 7").count, 7);
    let health = task_with("ports = [\"a\"]\n[task.health]\ntcp = { port = \"a\" }").health;
    assert_eq!(health.unwrap().probe, HealthProbe::Tcp { port: name("a") });
    let health = task_with("[task.health]\ncommand = [\"true\"]").health;
    assert_eq!(health.unwrap().probe, HealthProbe::Command { command: vec!["true".into()] });
}

#[test]
fn a_stopped_service_is_a_service_of_no_replicas() {
    let text = "name = \"a\"\nkind = \"service\"\nreplicas = 0\n[task]\ncommand = [\"x\"]\n";
    assert_eq!(read(Syntax::Toml, text, &[]).tasks[0].count, 0);
}

#[test]
fn several_tasks_keep_the_order_of_the_file() {
    let text = "name = \"a\"\n[tasks.zeta]\ncommand = [\"z\"]\n[tasks.alpha]\ncommand = [\"a\"]\n";
    let names: Vec<Name> =
        read(Syntax::Toml, text, &[]).tasks.into_iter().map(|task| task.name).collect();
    assert_eq!(names, [name("zeta"), name("alpha")]);
}

#[test]
fn a_short_interval_shortens_the_unset_timeout() {
    let line = "ports = [\"a\"]\n[task.health]\ntcp = { port = \"a\", interval = \"500ms\" }";
    assert_eq!(task_with(line).health.unwrap().timeout, DurationMs(500));
}

#[test]
fn how_replicas_follow_the_load_is_read() {
    let text = |rest: &str| {
        format!(
            "name = \"a\"\nkind = \"service\"\nreplicas = {{ min = 0, max = 8 }}\n\
             [task]\ncommand = [\"x\"]\nports = [\"http\"]\n{rest}"
        )
    };
    let plain = read(Syntax::Toml, &text(""), &[]);
    assert_eq!(plain.autoscale, Some(Autoscale::between(0, 8)));
    assert_eq!(plain.tasks[0].count, 1, "one is begun in any case");
    let said = "[autoscale]
policy = \"proportional\"
target = { concurrency = 6.5, latency = \"1500ms\", kv-cache = 0.8 }
tolerance = 0.05
average = \"1m\"
up = { window = \"10s\", percent = 50, replicas = 2, every = \"30s\" }
down = { window = \"10m\" }
idle = \"15m\"
step = 2
alpha = 0.25
gains = { p = 0.4, i = 0.05, d = 0.01 }
";
    let expected = Autoscale {
        policy: ScalingPolicy::Proportional,
        targets: BTreeMap::from([
            (ScalingMetric::Concurrency, 6_500),
            (ScalingMetric::Latency, 1_500),
            (ScalingMetric::KvCache, 800),
        ]),
        tolerance: 50,
        average: DurationMs::from_secs(60),
        up: ScalingPace {
            window: DurationMs::from_secs(10),
            percent: 50,
            replicas: 2,
            every: DurationMs::from_secs(30),
        },
        down: ScalingPace { window: DurationMs::from_secs(600), ..ScalingPace::DOWN_DEFAULT },
        idle: DurationMs::from_secs(900),
        step: 2,
        alpha: Some(250),
        gains: PidGains { proportional: 400, integral: 50, derivative: 10 },
        ..Autoscale::between(0, 8)
    };
    assert_eq!(read(Syntax::Toml, &text(said), &[]).autoscale, Some(expected));
}

#[test]
fn overrides_replace_and_add() {
    let text = "name = \"a\"\n[task]\ncommand = [\"x\"]\ncpu = 1\n";
    let overrides = [
        "name=b-2",
        "task.cpu=500m",
        "task.gpu.count=2",
        "task.command=[\"y\", \"z\"]",
        "task.env.KEY=\"5\"",
        "priority=9",
    ];
    let job = read(Syntax::Toml, text, &overrides);
    assert_eq!((job.name, job.priority), (name("b-2"), 9));
    let task = &job.tasks[0];
    assert_eq!((task.cpu, task.gpu.as_ref().unwrap().count), (CpuMilli(500), 2));
    assert_eq!((&task.command, &task.env["KEY"]), (&vec!["y".into(), "z".into()], &"5".into()));
    // A job may consist of overrides alone.
    let job = read(Syntax::Toml, "", &["name=c", "task.command=[\"x\"]"]);
    assert_eq!(job.name, name("c"));
}

#[test]
fn the_ending_of_a_name_tells_the_syntax() {
    for (path, syntax) in [
        ("a.toml", Syntax::Toml),
        ("a.yaml", Syntax::Yaml),
        ("a.yml", Syntax::Yaml),
        ("a.json", Syntax::Json),
        ("/dev/fd/63", Syntax::Toml),
    ] {
        assert_eq!(Syntax::of_path(path.as_ref()), syntax, "{path}");
    }
}

#[test]
fn the_shipped_examples_are_jobs() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (file, kind) in [
        ("array.toml", JobKind::Batch),
        ("batch.toml", JobKind::Batch),
        ("daemon.toml", JobKind::Daemon),
        ("service.toml", JobKind::Service),
    ] {
        let bytes = berth_jobfile::read_path(&folder.join(file)).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(read(Syntax::Toml, text, &[]).kind, kind, "{file}");
    }
}
