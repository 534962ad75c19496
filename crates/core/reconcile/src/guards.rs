//! Nodes whose hosts run short of processor or memory take nothing new until there is enough
//! again. What agents report stays here, in the leader's memory; only that a mark was passed is
//! proposed. What nobody has measured closes nothing.

use std::collections::BTreeMap;

use berth_model::{DurationMs, Guards, NodeId, NodeState, Shut, StateMs};
use berth_state::{ClusterState, Command, NodeRow};

/// A host of which nothing was heard for so long is of unknown load. Twice as long as a heartbeat
/// takes to be missed three times: a host that is short of processor is late to say so.
const UNKNOWN_AFTER: DurationMs = DurationMs::from_secs(15);
/// What a node says of itself changes no more often: whatever load does, it is four entries of
/// the log in a minute at the most, and as many events.
const CHANGES_APART: DurationMs = DurationMs::from_secs(15);
/// Nodes that change in one entry of the log; others wait for the next look, a quarter of a second.
const CHANGES_MAX: usize = 256;
/// Parts of the whole, in which means are kept.
const WHOLE: u64 = 1_000_000;

/// When a host has too little left, in percent of it that are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Above this the node is closed.
    pub high_percent: u8,
    /// Below this it is open again; lower than `high_percent`.
    pub low_percent: u8,
}

/// What an operator sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardRules {
    /// `None`: nobody watches the processors.
    pub cpu: Option<Marks>,
    /// `None`: nobody watches the memory.
    pub memory: Option<Marks>,
    /// Over how long processors are watched before a mark counts as passed: the constant of an
    /// exponential mean. Two heartbeats are not enough to tell load from a start, and a minute
    /// would let dozens of tasks in.
    pub window: DurationMs,
}

/// How much of a host was in use, in thousandths; each absent where nobody measured it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostUse {
    pub cpu_milli: Option<u32>,
    pub memory_milli: Option<u32>,
}

/// What one leader has heard of the hosts.
#[derive(Clone, Debug, Default)]
pub struct HostWatch {
    hosts: BTreeMap<NodeId, Host>,
    watching_since: StateMs,
}

#[derive(Clone, Copy, Debug, Default)]
struct Host {
    cpu: Option<Gauge>,
    memory: Option<Gauge>,
    changed_at: Option<StateMs>,
    /// When something on it was last seen to end, or was asked to.
    ending_at: Option<StateMs>,
}

/// One resource of one host.
#[derive(Clone, Copy, Debug)]
struct Gauge {
    /// The first measurement of an unbroken series, and the last one.
    since: StateMs,
    at: StateMs,
    /// The mean, in millionths of all that there is.
    mean: u64,
}

impl Default for GuardRules {
    fn default() -> GuardRules {
        GuardRules {
            cpu: Some(Marks { high_percent: 85, low_percent: 80 }),
            memory: Some(Marks { high_percent: 90, low_percent: 85 }),
            window: DurationMs::from_secs(10),
        }
    }
}

impl HostWatch {
    /// One that begins at `now` and knows nothing.
    #[must_use]
    pub fn new(now: StateMs) -> HostWatch {
        HostWatch { hosts: BTreeMap::new(), watching_since: now }
    }

    /// An agent has said how much of its host is in use. What it does not say it does not know.
    pub fn hear(&mut self, node: NodeId, used: HostUse, rules: &GuardRules, now: StateMs) {
        let host = self.hosts.entry(node).or_default();
        host.cpu = used.cpu_milli.map(|milli| Gauge::heard(host.cpu, milli, rules.window, now));
        // What is taken of memory is taken, and what room there is is needed at once: no mean.
        let at_once = DurationMs(0);
        host.memory = used.memory_milli.map(|milli| Gauge::heard(host.memory, milli, at_once, now));
    }

    /// Looks at what ends where memory is short, and forgets nodes that are not there any more.
    pub fn look(&mut self, view: &ClusterState, now: StateMs) {
        self.hosts.retain(|node, _| view.nodes().contains(node));
        let short = view.nodes().values().filter(|node| node.guards.memory.is_some());
        for node in short.filter(|node| has_ending(view, node)) {
            self.has_moved(node.id, now);
        }
    }

    /// Something on a node was asked to end.
    pub fn has_moved(&mut self, node: NodeId, now: StateMs) {
        self.hosts.entry(node).or_default().ending_at = Some(now);
    }

    /// What its guards are was proposed for a node.
    pub fn has_proposed(&mut self, node: NodeId, now: StateMs) {
        self.hosts.entry(node).or_default().changed_at = Some(now);
    }

    /// How much of a host is in use, in percent, as far as it is known.
    pub fn used_percent(&self, node: NodeId, now: StateMs) -> (Option<u8>, Option<u8>) {
        let host = self.hosts.get(&node).copied().unwrap_or_default();
        let percent = |gauge: Option<Gauge>| known(gauge, now).map(Gauge::percent);
        (percent(host.cpu), percent(host.memory))
    }

    /// Whether a host that is short of memory has been for so long, and nothing that could have
    /// given some back has ended meanwhile.
    pub(crate) fn is_short_for(
        &self,
        node: NodeId,
        marks: Marks,
        span: DurationMs,
        now: StateMs,
    ) -> bool {
        let Some(host) = self.hosts.get(&node) else { return false };
        let settled = host.ending_at.is_none_or(|at| at.after(span) <= now);
        let short = known(host.memory, now).is_some_and(|gauge| {
            gauge.since.after(span) <= now && !gauge.is_below(marks.low_percent)
        });
        settled && short
    }

    /// The nodes whose guards are to change.
    pub fn commands(&self, view: &ClusterState, rules: &GuardRules, now: StateMs) -> Vec<Command> {
        let of = |node: &NodeRow| {
            let guards = self.guards_of(node, rules, now);
            (guards != node.guards).then_some(Command::SetGuards { node: node.id, guards })
        };
        view.nodes().values().filter_map(|node| of(node)).take(CHANGES_MAX).collect()
    }

    /// What a node's guards should be. Of one that is silent nothing is said: it takes nothing as
    /// it is, and is judged anew when it is back.
    fn guards_of(&self, node: &NodeRow, rules: &GuardRules, now: StateMs) -> Guards {
        let host = self.hosts.get(&node.id).copied().unwrap_or_default();
        let was = node.guards;
        let changed = host.changed_at.is_some_and(|at| now < at.after(CHANGES_APART));
        // A new leader leaves what its predecessor closed until it would have heard.
        let is_new = now < self.watching_since.after(UNKNOWN_AFTER);
        let judged = |was: Option<Shut>, gauge, marks: Option<Marks>, window| {
            let gauge = known(gauge, now);
            match is_new && gauge.is_none() && marks.is_some() {
                true => was,
                false => verdict(was, gauge, marks, window, now),
            }
        };
        if node.state != NodeState::Ready || changed {
            return was;
        }
        Guards {
            cpu: judged(was.cpu, host.cpu, rules.cpu, rules.window),
            memory: judged(was.memory, host.memory, rules.memory, DurationMs(0)),
        }
    }
}

impl Gauge {
    /// After one more measurement. The first one of a series is its own mean.
    fn heard(before: Option<Gauge>, milli: u32, constant: DurationMs, now: StateMs) -> Gauge {
        let value = u64::from(milli.min(1000)) * (WHOLE / 1000);
        let Some(before) = known(before, now) else {
            return Gauge { since: now, at: now, mean: value };
        };
        let passed = now.since(before.at).0;
        // The weight of what is new; of an old measurement e^(-passed / constant) would be left,
        // of which this is the first term, and no float.
        let weight = (passed * WHOLE).checked_div(passed + constant.0).unwrap_or(WHOLE);
        let mean = (before.mean * (WHOLE - weight) + value * weight) / WHOLE;
        Gauge { since: before.since, at: now, mean }
    }

    /// Rounded up: what is above a mark is said to be.
    fn percent(self) -> u8 {
        u8::try_from((self.mean * 100).div_ceil(WHOLE)).unwrap_or(100)
    }

    fn is_above(self, percent: u8) -> bool {
        self.mean * 100 > u64::from(percent) * WHOLE
    }

    fn is_below(self, percent: u8) -> bool {
        self.mean * 100 < u64::from(percent) * WHOLE
    }
}

/// What was measured, unless that is too long ago.
fn known(gauge: Option<Gauge>, now: StateMs) -> Option<Gauge> {
    gauge.filter(|gauge| now.since(gauge.at) <= UNKNOWN_AFTER)
}

/// Open or closed. Between the marks it stays what it was; closed it stays as it closed, with
/// what was in use then, so that nothing is said anew for each percent.
fn verdict(
    was: Option<Shut>,
    gauge: Option<Gauge>,
    marks: Option<Marks>,
    window: DurationMs,
    now: StateMs,
) -> Option<Shut> {
    let (gauge, marks) = (gauge?, marks?);
    let opens_below_percent = marks.low_percent;
    match was {
        Some(_) if gauge.is_below(marks.low_percent) => None,
        Some(was) => Some(Shut { opens_below_percent, ..was }),
        // As long as that it has to be watched: the first measurement may be of a moment.
        None if now < gauge.since.after(window) => None,
        None => gauge
            .is_above(marks.high_percent)
            .then(|| Shut { used_percent: gauge.percent(), opens_below_percent }),
    }
}

/// Whether something on the node was asked to end and has not.
fn has_ending(view: &ClusterState, node: &NodeRow) -> bool {
    let mut rows = node.live.iter().filter_map(|id| view.allocations().get(id));
    rows.any(|row| row.state.stop_intent().is_some())
}
