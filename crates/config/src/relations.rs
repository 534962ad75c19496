//! Relations that must hold between settings.

use crate::problem::Problem;
use crate::reader::Reader;
use crate::sections::Config;
use crate::source::{Setting, Source};
use crate::units::{format_duration, format_size};

/// One side of a relation.
#[derive(Clone, Copy)]
struct Side<'a> {
    key: &'static str,
    amount: u64,
    source: &'a Source,
}

impl<'a> Side<'a> {
    fn of(key: &'static str, setting: &'a Setting<u64>) -> Self {
        Self { key, amount: setting.value, source: &setting.source }
    }
}

/// Every relation of `config` that does not hold. Those with a side that could
/// not be read are left out: the reader has complained about that already.
pub(crate) fn check(config: &Config, reader: &Reader<'_>) -> Vec<Problem> {
    let mut found = Found { problems: Vec::new(), reader };
    raft_timers(config, &mut found);
    let disk = &config.scheduler.disk;
    found.below(
        Side::of("scheduler.disk.hard_free", &disk.hard_free),
        Side::of("scheduler.disk.soft_free", &disk.soft_free),
        format_size,
    );
    let lease = &config.scheduler.lease;
    let heartbeat = || Side::of("scheduler.lease.heartbeat", &lease.heartbeat);
    let suspect = || Side::of("scheduler.lease.suspect_after", &lease.suspect_after);
    let lost = || Side::of("scheduler.lease.lost_after", &lease.lost_after);
    found.below(heartbeat(), suspect(), format_duration);
    found.below(suspect(), lost(), format_duration);
    let guards = &config.scheduler.guards;
    found.below(
        Side::of("scheduler.guards.cpu_low", &guards.cpu_low),
        Side::of("scheduler.guards.cpu_high", &guards.cpu_high),
        |percent| percent.to_string(),
    );
    found.below(
        Side::of("scheduler.guards.memory_low", &guards.memory_low),
        Side::of("scheduler.guards.memory_high", &guards.memory_high),
        |percent| percent.to_string(),
    );
    let disconnect = &config.agent.disconnect;
    found.below(
        Side::of("agent.disconnect.retry_min", &disconnect.retry_min),
        Side::of("agent.disconnect.retry_max", &disconnect.retry_max),
        format_duration,
    );
    let gpus = &config.agent.gpus;
    found.below(
        Side::of("agent.gpus.report_every", &gpus.report_every),
        Side::of("agent.gpus.silent_after", &gpus.silent_after),
        format_duration,
    );
    bootstrap_or_join(config, &mut found);
    let keep = &config.scheduler.backup.keep;
    if keep.value == 0 {
        let message = "scheduler.backup.keep (0) must be at least 1: without scheduler.backup.folder \
                       no copies are made";
        found.add(Problem::at(&keep.source, message.to_owned()));
    }
    found.problems
}

/// What a relation turned out to be.
#[derive(PartialEq, Eq)]
enum Order {
    Holds,
    Broken,
}

struct Found<'a, 'b> {
    problems: Vec<Problem>,
    reader: &'a Reader<'b>,
}

impl Found<'_, '_> {
    /// Whether `low < high`; if not, says so at the side that somebody chose.
    fn below(&mut self, low: Side<'_>, high: Side<'_>, show: fn(u64) -> String) -> Order {
        if self.unreadable(low.key) || self.unreadable(high.key) || low.amount < high.amount {
            return Order::Holds;
        }
        let (place, other) = match low.source {
            Source::Default => (&high, &low),
            Source::File { .. } | Source::Environment { .. } | Source::Flag { .. } => (&low, &high),
        };
        let message = format!(
            "{} ({}) must be below {} ({}); {} is from: {}",
            low.key,
            show(low.amount),
            high.key,
            show(high.amount),
            other.key,
            other.source
        );
        self.add(Problem::at(place.source, message));
        Order::Broken
    }

    fn unreadable(&self, key: &str) -> bool {
        self.reader.failed.contains(key)
    }

    fn add(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// A leader counts on whoever it heard within three times as long.
const HEARTBEAT_MS_MAX: u64 = 500;

/// The timers must be in order, those that the profile gives too.
fn raft_timers(config: &Config, found: &mut Found<'_, '_>) {
    let raft = &config.scheduler.raft;
    let profile = raft.profile.value;
    let timers = raft.timers(profile);
    let heartbeat = Side {
        key: "scheduler.raft.heartbeat",
        amount: timers.heartbeat_ms,
        source: source_of(raft.heartbeat.as_ref()),
    };
    let low = Side {
        key: "scheduler.raft.election_min",
        amount: timers.election_min_ms,
        source: source_of(raft.election_min.as_ref()),
    };
    let high = Side {
        key: "scheduler.raft.election_max",
        amount: timers.election_max_ms,
        source: source_of(raft.election_max.as_ref()),
    };
    if timers.heartbeat_ms > HEARTBEAT_MS_MAX {
        let message = format!(
            "scheduler.raft.heartbeat ({}) must be at most {}: members that are not heard for \
             1.5s count as silent",
            format_duration(timers.heartbeat_ms),
            format_duration(HEARTBEAT_MS_MAX),
        );
        found.add(Problem::at(heartbeat.source, message));
    }
    let first = found.below(heartbeat, low, format_duration);
    let second = found.below(low, high, format_duration);
    if first == Order::Broken || second == Order::Broken {
        let hint = format!("these are the timers of profile `{}`, where not set", profile.as_str());
        for problem in &mut found.problems {
            problem.hint.get_or_insert_with(|| hint.clone());
        }
    }
}

fn source_of(setting: Option<&Setting<u64>>) -> &Source {
    setting.map_or(&Source::Default, |setting| &setting.source)
}

fn bootstrap_or_join(config: &Config, found: &mut Found<'_, '_>) {
    let scheduler = &config.scheduler;
    let both = scheduler.bootstrap.value && !scheduler.join.value.is_empty();
    if both {
        let message = format!(
            "scheduler.bootstrap and scheduler.join ({}) exclude each other: \
             a node either forms a new cluster or joins one",
            scheduler.join.source
        );
        found.add(Problem::at(&scheduler.bootstrap.source, message));
    }
    if scheduler.learner.value && scheduler.join.value.is_empty() {
        let message = "scheduler.learner needs scheduler.join: only who joins can be a learner";
        found.add(Problem::at(&scheduler.learner.source, message.to_owned()));
    }
}
