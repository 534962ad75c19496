//! How callers reach a service through gateways.

use std::str::FromStr;

use crate::ids::TaskIndex;
use crate::name::Name;
use crate::spec::{JobKind, JobSpec, TaskSpec};
use crate::time::DurationMs;

/// The longest name of a model, in bytes: those of the Hugging Face hub have 96 characters for each
/// of their two parts.
pub const MODEL_BYTES_MAX: usize = 256;

/// Requests that may wait at a gateway for one service, and that a replica may have at once.
pub const WAITING_MAX: u32 = 100_000;

/// The port by which a service is reached, where it has several and says nothing.
const PORT_USUAL: &str = "http";

/// How a service's requests are spread over its replicas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum RoutingPolicy {
    /// Stays with who holds the prompt until it has too much to do; else the least work.
    #[default]
    Auto,
    RoundRobin,
    Weighted,
    LeastOutstanding,
    ResponseTime,
    PowerOfTwo,
    ShortestExpectedDelay,
    ConsistentHash,
    PrefixAffinity,
    Priority,
}

/// What a service says of its callers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// What callers put into `model`; `None`: the service's name. At most [`MODEL_BYTES_MAX`].
    pub model: Option<String>,
    /// The port by which it is reached; `None`: `http`, else the first of the first task that has
    /// any.
    pub port: Option<Name>,
    pub balance: RoutingPolicy,
    /// No answer takes longer than that to begin, or to go on.
    pub timeout: DurationMs,
    /// A replica that is to make room for another ends when nothing that it was asked is under way
    /// any more, or after this.
    pub drain: DurationMs,
    /// A request that finds no replica waits for one for so long.
    pub wait: DurationMs,
    /// So many wait at once at each gateway; at most [`WAITING_MAX`].
    pub waiting_max: u32,
    /// So many requests a replica is sent at once, over all gateways; at least 1.
    pub in_flight_max: Option<u32>,
}

/// Where a service is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached<'a> {
    pub position: TaskIndex,
    pub task: &'a TaskSpec,
    pub port: &'a Name,
}

impl RoutingPolicy {
    pub const ALL: [RoutingPolicy; 10] = [
        RoutingPolicy::Auto,
        RoutingPolicy::RoundRobin,
        RoutingPolicy::Weighted,
        RoutingPolicy::LeastOutstanding,
        RoutingPolicy::ResponseTime,
        RoutingPolicy::PowerOfTwo,
        RoutingPolicy::ShortestExpectedDelay,
        RoutingPolicy::ConsistentHash,
        RoutingPolicy::PrefixAffinity,
        RoutingPolicy::Priority,
    ];

    /// As it is written in a job file.
    pub fn name(self) -> &'static str {
        match self {
            RoutingPolicy::Auto => "auto",
            RoutingPolicy::RoundRobin => "round-robin",
            RoutingPolicy::Weighted => "weighted",
            RoutingPolicy::LeastOutstanding => "least-outstanding",
            RoutingPolicy::ResponseTime => "response-time",
            RoutingPolicy::PowerOfTwo => "power-of-two",
            RoutingPolicy::ShortestExpectedDelay => "shortest-expected-delay",
            RoutingPolicy::ConsistentHash => "consistent-hash",
            RoutingPolicy::PrefixAffinity => "prefix-affinity",
            RoutingPolicy::Priority => "priority",
        }
    }
}

impl FromStr for RoutingPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<RoutingPolicy, ()> {
        RoutingPolicy::ALL.into_iter().find(|policy| policy.name() == text).ok_or(())
    }
}

impl Route {
    /// As long as the clients of OpenAI's API wait.
    pub const TIMEOUT_DEFAULT: DurationMs = DurationMs::from_secs(600);
    /// As long as an answer may take.
    pub const DRAIN_DEFAULT: DurationMs = Route::TIMEOUT_DEFAULT;
    /// A replica that is begun anew has mostly come so far by then.
    pub const WAIT_DEFAULT: DurationMs = DurationMs::from_secs(30);
    pub const WAITING_MAX_DEFAULT: u32 = 1_000;
}

impl Default for Route {
    fn default() -> Route {
        Route {
            model: None,
            port: None,
            balance: RoutingPolicy::default(),
            timeout: Route::TIMEOUT_DEFAULT,
            drain: Route::DRAIN_DEFAULT,
            wait: Route::WAIT_DEFAULT,
            waiting_max: Route::WAITING_MAX_DEFAULT,
            in_flight_max: None,
        }
    }
}

impl JobSpec {
    /// Where gateways reach it: `None` for what is no service, and where no task has such a port.
    pub fn reached(&self) -> Option<Reached<'_>> {
        if self.kind != JobKind::Service {
            return None;
        }
        let find = |name: &str| {
            let ports = |task: &TaskSpec| task.ports.iter().position(|port| port.as_str() == name);
            let mut tasks = (0..).zip(&self.tasks);
            tasks.find_map(|(position, task)| Some((position, task, ports(task)?)))
        };
        let (position, task, port) = match &self.route.port {
            Some(port) => find(port.as_str())?,
            None => find(PORT_USUAL).or_else(|| {
                let mut tasks = (0..).zip(&self.tasks);
                let found = tasks.find(|(_, task)| !task.ports.is_empty());
                found.map(|(position, task)| (position, task, 0))
            })?,
        };
        Some(Reached { position: TaskIndex(position), task, port: task.ports.get(port)? })
    }

    /// What callers put into `model`.
    pub fn model(&self) -> &str {
        self.route.model.as_deref().unwrap_or(self.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn service(tasks: &[(&str, &[&str])]) -> JobSpec {
        let tasks = tasks.iter().map(|(task, ports)| {
            let mut task = TaskSpec::new(name(task), JobKind::Service, vec!["x".to_owned()]);
            task.ports = ports.iter().map(|port| name(port)).collect();
            task
        });
        JobSpec::new(name("chat"), name("default"), JobKind::Service, tasks.collect())
    }

    #[test]
    fn a_service_is_reached_by_the_port_it_says_else_by_http_else_by_its_first() {
        let check = |spec: &JobSpec, expected: Option<(u16, &str, &str)>| {
            let found = spec.reached().map(|reached| {
                (reached.position.0, reached.task.name.as_str(), reached.port.as_str())
            });
            assert_eq!(found, expected, "{spec:?}");
        };
        check(&service(&[("a", &[])]), None);
        let two = service(&[("a", &["admin"]), ("b", &["grpc", "http"])]);
        check(&two, Some((1, "b", "http")));
        let admin = Route { port: Some(name("admin")), ..Route::default() };
        check(&JobSpec { route: admin, ..two.clone() }, Some((0, "a", "admin")));
        let none = Route { port: Some(name("metrics")), ..Route::default() };
        check(&JobSpec { route: none, ..two.clone() }, None);
        check(&service(&[("a", &[]), ("b", &["grpc", "raw"])]), Some((1, "b", "grpc")));
        for kind in [JobKind::Batch, JobKind::Daemon] {
            check(&JobSpec { kind, ..two.clone() }, None);
        }
    }

    #[test]
    fn every_policy_has_a_name_that_reads_back() {
        for policy in RoutingPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert_eq!("Auto".parse::<RoutingPolicy>(), Err(()));
    }
}
