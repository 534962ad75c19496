//! Which keys there are where.

/// The keys of one kind of table.
pub(super) struct Keys {
    pub(super) known: &'static [&'static str],
    /// Part of the job file's language, but not built in this version.
    pub(super) later: &'static [&'static str],
    /// Keys that people look for here and that stand elsewhere, with the place.
    pub(super) elsewhere: &'static [&'static str],
    pub(super) elsewhere_is: &'static str,
    /// What the file is of, where these are its own keys.
    pub(super) of: &'static str,
}

const fn keys(known: &'static [&'static str]) -> Keys {
    Keys { known, later: &[], elsewhere: &[], elsewhere_is: "", of: "a job" }
}

const TASK_KEYS: &[&str] = &[
    "array",
    "artifacts",
    "command",
    "count",
    "cpu",
    "driver",
    "env",
    "gang",
    "gpu",
    "health",
    "image",
    "limits",
    "memory",
    "ports",
    "restart",
    "stop",
    "time_limit",
    "workdir",
];
const JOB_KEYS: &[&str] = &[
    "autoscale",
    "constraints",
    "deadline",
    "exclusive",
    "health",
    "kind",
    "max_disconnect",
    "name",
    "namespace",
    "on_return",
    "policy",
    "preemption",
    "priority",
    "replicas",
    "route",
    "task",
    "tasks",
    "update",
];

pub(super) const JOB: Keys = Keys {
    known: JOB_KEYS,
    later: &[
        "affinity",
        "checkpoint",
        "depends_on",
        "quota",
        "reservation",
        "schedule",
        "secrets",
        "spread",
        "volumes",
    ],
    elsewhere: TASK_KEYS,
    elsewhere_is: "under `[task]`",
    of: "a job",
};
pub(super) const TASK: Keys = Keys {
    known: TASK_KEYS,
    later: &["checkpoint", "depends_on", "max_batch", "mig", "mps", "secrets", "user", "volumes"],
    elsewhere: JOB_KEYS,
    elsewhere_is: "at the top of the file",
    of: "a job",
};
pub(super) const GPU: Keys = Keys {
    later: &["compute_capability", "mig", "mps", "topology"],
    ..keys(&["count", "share", "type", "vram"])
};
pub(super) const ARTIFACT: Keys = Keys {
    elsewhere: &["url"],
    elsewhere_is: "as `source`",
    ..keys(&["checksum", "source", "to"])
};
pub(super) const GANG: Keys = Keys { later: &["min"], ..keys(&[]) };
pub(super) const LIMITS: Keys = keys(&["cpu", "disk", "memory", "open_files", "processes"]);
pub(super) const REPLICAS: Keys = keys(&["max", "min"]);
pub(super) const AUTOSCALE: Keys = keys(&[
    "alpha",
    "average",
    "down",
    "gains",
    "idle",
    "policy",
    "step",
    "target",
    "tolerance",
    "up",
]);
pub(super) const TARGETS: Keys = Keys {
    later: &["cpu", "memory", "time-to-first-token"],
    ..keys(&["concurrency", "gpu", "kv-cache", "latency", "queue", "requests"])
};
pub(super) const PACE: Keys = keys(&["every", "percent", "replicas", "window"]);
pub(super) const GAINS: Keys = keys(&["d", "i", "p"]);
pub(super) const CONSTRAINTS: Keys = Keys {
    later: &["affinity", "anti_affinity", "topology", "zone"],
    ..keys(&["labels", "node", "pool"])
};
pub(super) const PREEMPTION: Keys = keys(&["min_run", "preemptible", "preempts"]);
pub(super) const ROUTE: Keys = Keys {
    later: &["cache", "key", "limits"],
    ..keys(&[
        "balance",
        "drain",
        "in_flight_max",
        "model",
        "port",
        "timeout",
        "wait",
        "waiting_max",
    ])
};
pub(super) const STOP: Keys = keys(&["grace", "signal"]);
pub(super) const RESTART: Keys = keys(&["attempts", "backoff", "backoff_max"]);
pub(super) const UPDATE: Keys = Keys {
    later: &["max_surge", "max_unavailable", "steps", "weight"],
    ..keys(&["min_ready", "on_failure", "progress_deadline", "strategy"])
};
pub(super) const HEALTH: Keys = Keys { later: &["grpc"], ..keys(&["command", "http", "tcp"]) };
pub(super) const HTTP: Keys =
    keys(&["failures", "interval", "path", "port", "start_period", "timeout"]);
pub(super) const TCP: Keys = keys(&["failures", "interval", "port", "start_period", "timeout"]);
pub(super) const COMMAND: Keys =
    keys(&["command", "failures", "interval", "start_period", "timeout"]);

const QUOTA_LIMIT_KEYS: &[&str] =
    &["cpu", "gpu_memory", "gpus", "memory", "queued_jobs", "running_tasks", "submits_per_second"];
pub(super) const NAMESPACE: Keys = Keys {
    elsewhere: QUOTA_LIMIT_KEYS,
    elsewhere_is: "under `[quota.limit]`",
    of: "a namespace",
    ..keys(&["description", "name", "quota", "range", "weight"])
};
pub(super) const QUOTA: Keys = Keys {
    later: &["borrow"],
    elsewhere: QUOTA_LIMIT_KEYS,
    elsewhere_is: "under `[quota.limit]`",
    ..keys(&["guaranteed", "limit"])
};
pub(super) const QUOTA_LIMIT: Keys = keys(QUOTA_LIMIT_KEYS);
pub(super) const QUOTA_GUARANTEED: Keys = keys(&["cpu", "gpu_memory", "gpus", "memory"]);
pub(super) const RANGE: Keys = keys(&["cpu", "gpu_memory", "gpus", "memory"]);
pub(super) const BOUNDS: Keys = keys(&["default", "max", "min"]);
