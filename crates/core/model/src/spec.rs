//! What a user asks for: a job and its tasks. Values here are already checked
//! for form; `validate` checks them for sense.

use std::collections::BTreeMap;
use std::fmt;

use crate::artifact::Artifact;
use crate::autoscale::Autoscale;
use crate::gang::Gang;
use crate::limit_range::LeftOut;
use crate::limits::Limits;
use crate::name::Name;
use crate::policy::{Policy, PolicyOrigin};
use crate::preemption::Preemption;
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};
use crate::route::Route;
use crate::time::DurationMs;
use crate::update::UpdatePolicy;

/// SHA-256 over the canonical encoding of a job specification.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpecDigest(pub [u8; 32]);

/// What kind of life a job has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JobKind {
    /// Every instance runs to its end once.
    Batch,
    /// A number of replicas is kept running.
    Service,
    /// One instance is kept running on every matching node.
    Daemon,
}

/// Which of two attempts goes on: the original, whose node was silent for too long and is
/// back, or its replacement. Where there is no replacement yet the original always does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum OnReturn {
    #[default]
    KeepReplacement,
    KeepOriginal,
    /// The one that has run longer, unless the other alone is ready to serve.
    KeepLongestRunning,
}

/// A job as submitted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JobSpec {
    pub name: Name,
    pub namespace: Name,
    pub kind: JobKind,
    /// 0 to 100; higher is placed first.
    pub priority: u8,
    pub policy: Policy,
    /// Why it is this one.
    pub policy_origin: PolicyOrigin,
    pub constraints: Constraints,
    /// 1 to 64 tasks with distinct names.
    pub tasks: Vec<TaskSpec>,
    /// From submit to the end of the whole job; what is left then is timed out.
    pub deadline: Option<DurationMs>,
    /// How long an instance on a silent node is left alone before it is
    /// replaced.
    pub max_disconnect: DurationMs,
    /// Which goes on when the node of a replaced instance comes back.
    pub on_return: OnReturn,
    /// Of what comes as new versions of itself: a service or daemon.
    pub update: UpdatePolicy,
    /// Never two at once: the agent stops the worker itself when its node's
    /// lease ends, and it is replaced only after that is certain.
    pub exclusive: bool,
    pub preemption: Preemption,
    /// Of a service.
    pub route: Route,
    /// Of a service whose replicas follow its load: the `count` of the task that is reached is how
    /// many it has now.
    pub autoscale: Option<Autoscale>,
}

/// Where a job may run at all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Constraints {
    /// Node labels that must have exactly these values.
    pub labels: BTreeMap<String, String>,
    pub pool: Option<Name>,
    /// Only the node of this name.
    pub node: Option<Name>,
}

/// What starts a worker.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Driver {
    /// A process of the host.
    #[default]
    Exec,
    /// A container of Docker's engine, from this image.
    Docker { image: String },
}

impl Driver {
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Exec => "exec",
            Driver::Docker { .. } => "docker",
        }
    }

    /// The image of a container.
    pub fn image(&self) -> Option<&str> {
        match self {
            Driver::Exec => None,
            Driver::Docker { image } => Some(image),
        }
    }
}

/// A named template; `count` instances of it are placed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TaskSpec {
    pub name: Name,
    pub driver: Driver,
    /// Program and arguments; `${NAME}` is replaced from the worker's
    /// environment. Empty for what an image runs by itself.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// Files that are there before a worker starts.
    pub artifacts: Vec<Artifact>,
    /// Instances, replicas for a service; unused by a daemon.
    pub count: u32,
    pub array: Option<ArraySpec>,
    /// Its instances are placed all or none.
    pub gang: Option<Gang>,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    /// What of the two the job says nothing of; nothing in what was submitted before it was
    /// asked.
    pub left_out: LeftOut,
    pub limits: Limits,
    pub gpu: Option<GpuRequest>,
    /// Names of ports to allot.
    pub ports: Vec<Name>,
    pub stop: StopPolicy,
    pub restart: RestartPolicy,
    pub health: Option<HealthCheck>,
    /// The longest that one attempt may run.
    pub time_limit: Option<DurationMs>,
}

/// Array positions: instance `i` has the array index `start + i * step`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArraySpec {
    pub start: u32,
    pub step: u32,
    /// At most this many instances at once, if given.
    pub parallel_max: Option<u32>,
}

/// GPUs of one node, or a part of one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GpuRequest {
    pub count: u32,
    /// Acceptable models; empty means any. A model matches if it equals the
    /// device's model or one of the words in it, letter case aside.
    pub models: Vec<String>,
    /// The least memory of each device; of a part, how much of the device's memory it is
    /// given, its share of it if absent.
    pub memory_min: Option<MemoryBytes>,
    /// Of each device; less than the whole only of a single one.
    pub share: ShareMilli,
}

/// How a worker is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StopPolicy {
    pub signal: Signal,
    /// From the signal to SIGKILL.
    pub grace: DurationMs,
}

/// What happens when an attempt fails.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RestartPolicy {
    /// Further attempts after a failed one; `None` is without end.
    pub attempts: Option<u32>,
    /// Before the first further attempt; doubled for each one after it, up to
    /// `backoff_max`.
    pub backoff: DurationMs,
    pub backoff_max: DurationMs,
}

/// A check that decides whether an instance is ready and alive.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HealthCheck {
    pub probe: HealthProbe,
    pub interval: DurationMs,
    pub timeout: DurationMs,
    /// Consecutive failures that make a ready instance unhealthy.
    pub failures: u32,
    /// After the start, failures do not count for this long.
    pub start_period: DurationMs,
}

/// How health is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HealthProbe {
    /// GET; any status from 200 to 399 is healthy.
    Http { path: String, port: Name },
    /// A connection is accepted.
    Tcp { port: Name },
    /// A command in the instance's environment exits 0.
    Command { command: Vec<String> },
}

/// A signal that may end a worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Signal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
    Kill,
}

impl Signal {
    pub const ALL: [Signal; 7] = [
        Signal::Term,
        Signal::Int,
        Signal::Quit,
        Signal::Hup,
        Signal::Usr1,
        Signal::Usr2,
        Signal::Kill,
    ];

    /// The name with its `SIG`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Term => "SIGTERM",
            Signal::Int => "SIGINT",
            Signal::Quit => "SIGQUIT",
            Signal::Hup => "SIGHUP",
            Signal::Usr1 => "SIGUSR1",
            Signal::Usr2 => "SIGUSR2",
            Signal::Kill => "SIGKILL",
        }
    }

    /// The number on Linux.
    pub fn number(self) -> i32 {
        match self {
            Signal::Hup => 1,
            Signal::Int => 2,
            Signal::Quit => 3,
            Signal::Kill => 9,
            Signal::Usr1 => 10,
            Signal::Usr2 => 12,
            Signal::Term => 15,
        }
    }

    /// Reads `SIGTERM` or `TERM`.
    pub fn parse(text: &str) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.name() == text || signal.name()[3..] == *text)
    }
}

impl Default for StopPolicy {
    fn default() -> StopPolicy {
        StopPolicy { signal: Signal::Term, grace: DurationMs::from_secs(30) }
    }
}

impl RestartPolicy {
    /// The policy of a kind whose job file says nothing: a batch instance is
    /// tried once, anything else is restarted for ever.
    pub fn default_for(kind: JobKind) -> RestartPolicy {
        RestartPolicy {
            attempts: match kind {
                JobKind::Batch => Some(0),
                JobKind::Service | JobKind::Daemon => None,
            },
            backoff: DurationMs::from_secs(1),
            backoff_max: DurationMs::from_secs(60),
        }
    }

    /// The wait after the `failures`-th failure, counted from 1.
    pub fn backoff_after(&self, failures: u32) -> DurationMs {
        let doublings = failures.saturating_sub(1).min(32);
        let grown = self.backoff.0.saturating_mul(1 << doublings);
        DurationMs(grown.min(self.backoff_max.0.max(self.backoff.0)))
    }
}

impl JobSpec {
    pub const PRIORITY_DEFAULT: u8 = 50;
    pub const PRIORITY_MAX: u8 = 100;
    /// A silent node is given up after this unless the job says otherwise.
    pub const MAX_DISCONNECT_DEFAULT: DurationMs = DurationMs::from_secs(10);
    /// What a job file that says nothing asks for: hours of work are worth more than the
    /// minutes of a replacement, and a warm replica more than one that loads its model.
    pub const ON_RETURN_DEFAULT: OnReturn = OnReturn::KeepLongestRunning;
    pub const CPU_DEFAULT: CpuMilli = CpuMilli(100);
    pub const MEMORY_DEFAULT: MemoryBytes = MemoryBytes(128 << 20);

    /// A job with every default in place, as of a job file that says nothing more.
    pub fn new(name: Name, namespace: Name, kind: JobKind, tasks: Vec<TaskSpec>) -> JobSpec {
        JobSpec {
            name,
            namespace,
            kind,
            priority: JobSpec::PRIORITY_DEFAULT,
            policy: Policy::default(),
            policy_origin: PolicyOrigin::default(),
            constraints: Constraints::default(),
            tasks,
            deadline: None,
            max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
            on_return: JobSpec::ON_RETURN_DEFAULT,
            update: UpdatePolicy::default_for(kind),
            exclusive: false,
            preemption: Preemption::default(),
            route: Route::default(),
            autoscale: None,
        }
    }
}

impl GpuRequest {
    /// So many whole devices of any kind.
    pub fn whole(count: u32) -> GpuRequest {
        GpuRequest { count, models: Vec::new(), memory_min: None, share: ShareMilli::WHOLE }
    }

    /// Whether others may use the same device at the same time.
    pub fn is_shared(&self) -> bool {
        self.share.is_part()
    }

    /// What it takes of a device with so much memory: all of it, unless it is shared.
    pub fn memory_of(&self, device_memory: MemoryBytes) -> MemoryBytes {
        if !self.is_shared() {
            return device_memory;
        }
        let by_share = u128::from(device_memory.0) * u128::from(self.share.0) / 1000;
        self.memory_min.unwrap_or(MemoryBytes(u64::try_from(by_share).unwrap_or(u64::MAX)))
    }
}

impl TaskSpec {
    /// A task with every default in place.
    pub fn new(name: Name, kind: JobKind, command: Vec<String>) -> TaskSpec {
        TaskSpec {
            name,
            driver: Driver::Exec,
            command,
            env: BTreeMap::new(),
            workdir: None,
            artifacts: Vec::new(),
            count: 1,
            array: None,
            gang: None,
            cpu: JobSpec::CPU_DEFAULT,
            memory: JobSpec::MEMORY_DEFAULT,
            left_out: LeftOut::default(),
            limits: Limits::default(),
            gpu: None,
            ports: Vec::new(),
            stop: StopPolicy::default(),
            restart: RestartPolicy::default_for(kind),
            health: None,
            time_limit: None,
        }
    }

    /// How many instances may be live at once.
    pub fn parallel_max(&self) -> u32 {
        self.array.and_then(|array| array.parallel_max).unwrap_or(u32::MAX)
    }
}

impl JobKind {
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Batch => "batch",
            JobKind::Service => "service",
            JobKind::Daemon => "daemon",
        }
    }

    /// Whether a name stands for one job that is updated, rather than for many.
    pub fn is_named(self) -> bool {
        match self {
            JobKind::Batch => false,
            JobKind::Service | JobKind::Daemon => true,
        }
    }
}

impl OnReturn {
    pub const ALL: [OnReturn; 3] =
        [OnReturn::KeepReplacement, OnReturn::KeepOriginal, OnReturn::KeepLongestRunning];

    pub fn name(self) -> &'static str {
        match self {
            OnReturn::KeepReplacement => "keep-replacement",
            OnReturn::KeepOriginal => "keep-original",
            OnReturn::KeepLongestRunning => "keep-longest-running",
        }
    }
}

impl fmt::Debug for SpecDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for SpecDigest {
    /// The first eight bytes in hex: enough to tell specs apart on a screen.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let policy = RestartPolicy::default_for(JobKind::Service);
        let waits: Vec<u64> = (1..=8).map(|failures| policy.backoff_after(failures).0).collect();
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(policy.backoff_after(u32::MAX).0, 60000);
    }

    #[test]
    fn signals_are_read_with_and_without_sig() {
        assert_eq!(Signal::parse("SIGUSR1"), Some(Signal::Usr1));
        assert_eq!(Signal::parse("INT"), Some(Signal::Int));
        assert_eq!(Signal::parse("sigterm"), None);
        assert_eq!(Signal::parse("SIGSTOP"), None);
    }
}
