//! Why a job waits, or why it is where it is. Recomputed from the view whenever
//! somebody asks, by the same filters that planning uses, and never stored.

use berth_model::{AllocationId, AllocationState, JobId, Name, StateMs, TaskIndex};
use berth_state::{ClusterState, JobRow, NodeRow, QueueKey, ScoreParts};

use crate::budget::Budget;
use crate::change;
use crate::expected::expected_start;
use crate::fair;
use crate::filters::{Request, admits};
use crate::never::task_never_fits;
use crate::places::places_now;
use crate::plan::plan_jobs;
use crate::reasons::{Reason, node_reasons, own_hindrances, uncovered, waiting_count};
use crate::soft::SoftView;
use crate::sure::help;
use crate::urgency::priority_enough;

/// Live allocations that an explanation shows; the rest are counted.
pub const RUNNING_SHOWN_MAX: usize = 100;

/// Enough to see where the first instance of a task would go, also behind some
/// of the job's other tasks.
const FIRST_CHOICE: Budget =
    Budget { candidates_examined_max: 100_000, placements_max: 256, reservations_max: 0 };

/// Why a task of a job waits, and where the job runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    pub job: JobId,
    /// The log index of the view.
    pub view_index: u64,
    /// The task that the reasons are about.
    pub task: TaskIndex,
    pub task_name: Name,
    /// Instances of it that wait.
    pub waiting: u64,
    /// From 1 among the tasks in the queue; `None` when it is not in it.
    pub position: Option<u64>,
    pub queue_len: u64,
    /// When the next instance of it starts at the latest, by time limits; `None` where that is
    /// not known, or nothing waits.
    pub expected_start: Option<StateMs>,
    pub nodes_total: u64,
    /// Each node counted once, by the first thing against it; before those,
    /// what holds the task back whatever the nodes. Empty when nothing waits.
    pub reasons: Vec<Reason>,
    /// Empty when nothing waits.
    pub smallest_change: String,
    /// Some node could run it if it were empty and ready.
    pub can_ever_fit: bool,
    pub summary: String,
    /// At most `RUNNING_SHOWN_MAX`.
    pub running: Vec<Running>,
    pub running_left_off: u64,
}

/// A live allocation and why it is where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    pub allocation: AllocationId,
    pub node: Name,
    pub state: AllocationState,
    pub score: ScoreParts,
}

/// Explains the first task of the job that waits, else its first task; `None`
/// for a job that is not there. Costs O(nodes + queue).
pub fn explain(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    job: JobId,
) -> Option<Explanation> {
    let row = view.jobs().get(&job)?;
    let tasks = (0..row.spec.tasks.len()).filter_map(|at| u16::try_from(at).ok()).map(TaskIndex);
    let mut waiting = tasks.filter(|task| waiting_count(view, row, *task) > 0);
    let task = waiting.next().unwrap_or_default();
    let (mut explanation, waiting) = reasoned(view, now, job, task)?;
    if let Some(waiting) = waiting {
        add_help(&mut explanation, &waiting, (view, soft, now));
    }
    Some(explanation)
}

/// Why a task of a job waits, in one sentence, without what would help; `None` when there is no
/// such task.
pub(crate) fn why_waiting(
    view: &ClusterState,
    now: StateMs,
    job: JobId,
    task: TaskIndex,
) -> Option<String> {
    reasoned(view, now, job, task).map(|(explanation, _)| explanation.summary)
}

/// What is known of a task that waits before anything is tried.
struct Waiting<'v> {
    row: &'v JobRow,
    request: Request<'v>,
    open: Vec<&'v NodeRow>,
    /// What holds the task back whatever the nodes, the first of it.
    hindrance: Option<String>,
    shortage: Option<GangShortage>,
}

/// Everything but what would help, and for that what it needs, if the task waits.
fn reasoned(
    view: &ClusterState,
    now: StateMs,
    job: JobId,
    task: TaskIndex,
) -> Option<(Explanation, Option<Waiting<'_>>)> {
    let row = view.jobs().get(&job)?;
    let spec = row.spec.tasks.get(usize::from(task.0))?;
    let request = Request::of(view, &row.spec, spec);
    let nodes: Vec<&NodeRow> = view.nodes().values().map(|node| node.as_ref()).collect();
    let never = task_never_fits(|| nodes.iter().copied(), request);
    let key = QueueKey::new(row.spec.priority, row.submitted_ms, job, task);
    let position = fair::position(view, key);
    let (running, running_left_off) = running_of(view, job);
    let mut explanation = Explanation {
        job,
        view_index: view.applied_index(),
        task,
        task_name: spec.name.clone(),
        waiting: waiting_count(view, row, task),
        position: position.map(|ahead| ahead as u64 + 1),
        queue_len: view.queue_len() as u64,
        expected_start: None,
        nodes_total: nodes.len() as u64,
        reasons: Vec::new(),
        smallest_change: String::new(),
        can_ever_fit: never.is_none(),
        summary: String::new(),
        running,
        running_left_off,
    };
    if row.is_ended() || explanation.waiting == 0 {
        explanation.summary = settled_summary(row, &explanation);
        return Some((explanation, None));
    }
    let open = uncovered(view, row, task, &nodes);
    let hindrances = own_hindrances(view, row, task, now);
    let shortage = gang_shortage(&open, now, request).filter(|_| hindrances.is_empty());
    let hindrance = hindrances.first().map(|hindrance| hindrance.detail.clone());
    explanation.reasons = hindrances;
    explanation.reasons.extend(shortage.as_ref().map(GangShortage::reason));
    explanation.reasons.extend(node_reasons(&nodes, &open, now, request));
    explanation.summary = waiting_summary(&explanation, never);
    Some((explanation, Some(Waiting { row, request, open, hindrance, shortage })))
}

/// What would help, and when it starts without: tried on copies of the view.
fn add_help(
    explanation: &mut Explanation,
    waiting: &Waiting<'_>,
    (view, soft, now): (&ClusterState, &SoftView, StateMs),
) {
    let Waiting { row, request, open, hindrance, shortage } = waiting;
    let task = (explanation.job, explanation.task);
    explanation.smallest_change = match (hindrance, shortage) {
        (Some(hindrance), _) => hindrance.clone(),
        (None, Some(shortage)) => shortage.smallest_change(),
        (None, None) => smallest_change(view, soft, now, task, (open, *request)),
    };
    if !explanation.can_ever_fit {
        return;
    }
    let fits_now = shortage.is_none() && open.iter().any(|row| fits(row, now, *request));
    if hindrance.is_none() && !fits_now {
        let urgent = priority_enough(view, soft, now, row, explanation.task);
        let said = &mut explanation.smallest_change;
        urgent.iter().for_each(|priority| {
            said.push_str(&format!(
                "; or priority {priority}, so that less urgent work ends for it"
            ));
        });
    }
    let sure = help(view, soft, now, (row, explanation.task));
    let sure = sure.filter(|_| hindrance.is_none() && !fits_now);
    sure.iter().for_each(|help| explanation.smallest_change.push_str(&help.words));
    if explanation.position.is_some() {
        let taken_back = sure.and_then(|help| help.starts_by);
        explanation.expected_start =
            expected_start(view, soft, now, task).into_iter().chain(taken_back).min();
    }
}

fn fits(row: &NodeRow, now: StateMs, request: Request<'_>) -> bool {
    admits(row, &row.used, now, request).is_ok()
}

/// A gang for which there are too few places.
struct GangShortage {
    members: u32,
    places: u64,
}

fn gang_shortage(open: &[&NodeRow], now: StateMs, request: Request<'_>) -> Option<GangShortage> {
    let members = request.task.count;
    request.task.gang?;
    let places = places_now(open, now, request);
    (places < u64::from(members)).then_some(GangShortage { members, places })
}

impl GangShortage {
    fn reason(&self) -> Reason {
        let GangShortage { members, places } = self;
        let detail = format!("needs {members} places at once; {places} fit now");
        Reason { code: "gang", nodes: 0, detail, also: Vec::new() }
    }

    fn smallest_change(&self) -> String {
        let missing = u64::from(self.members).saturating_sub(self.places);
        let more = if missing == 1 { "place" } else { "places" };
        match self.places {
            0 => format!("free {missing} {more}"),
            places => format!("free {missing} more {more}, or make it a gang of {places}"),
        }
    }
}

fn running_of(view: &ClusterState, job: JobId) -> (Vec<Running>, u64) {
    let node_name = |id| view.nodes().get(&id).map(|row| row.name.clone());
    let mut live = view.allocations_of(job);
    let shown = live
        .by_ref()
        .take(RUNNING_SHOWN_MAX)
        .filter_map(|row| {
            let (state, score) = (row.state, row.score.clone());
            Some(Running { allocation: row.id, node: node_name(row.node)?, state, score })
        })
        .collect();
    (shown, live.count() as u64)
}

/// What would have to change on one of the nodes in question.
fn smallest_change(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    (job, task): (JobId, TaskIndex),
    (open, request): (&[&NodeRow], Request<'_>),
) -> String {
    if open.iter().any(|row| fits(row, now, request)) {
        let planned = plan_jobs(view, soft, now, FIRST_CHOICE, &[job]).placements;
        let first = planned.iter().find(|placement| placement.task == task);
        let name = first.and_then(|first| view.nodes().get(&first.node)).map(|row| &row.name);
        return match name {
            Some(name) => format!("nothing: it fits now, first on node {name}"),
            None => "nothing: it fits now, once the job's other tasks have their places".to_owned(),
        };
    }
    match change::smallest(open, now, request) {
        Some(change) => change.to_string(),
        None => no_single_change(open, now, request),
    }
}

fn no_single_change(open: &[&NodeRow], now: StateMs, request: Request<'_>) -> String {
    let nearest = open
        .iter()
        .filter_map(|row| Some((admits(row, &row.used, now, request).err()?, &row.name)))
        .max();
    match nearest {
        Some((misfit, name)) => {
            format!("no single change is enough; nearest is node {name}: {misfit}")
        }
        None => "register a node".to_owned(),
    }
}

fn settled_summary(row: &JobRow, explanation: &Explanation) -> String {
    if row.is_ended() {
        return format!("the job has ended: {}", row.state().name());
    }
    let live = explanation.running.len() as u64 + explanation.running_left_off;
    if row.rollout.is_some_and(|rollout| rollout.failed) {
        return format!("the update has failed: {}", row.reason);
    }
    match live {
        0 => "nothing waits for a place".to_owned(),
        1 => "nothing waits for a place; 1 instance is live".to_owned(),
        _ => format!("nothing waits for a place; {live} instances are live"),
    }
}

fn waiting_summary(explanation: &Explanation, never: Option<String>) -> String {
    let Explanation { task_name, waiting, .. } = explanation;
    let waits = if *waiting == 1 {
        format!("1 instance of task {task_name} waits")
    } else {
        format!("{waiting} instances of task {task_name} wait")
    };
    if let Some(reason) = never {
        return format!("{waits}: no host can ever fit: {reason}");
    }
    let reasons: Vec<String> = explanation
        .reasons
        .iter()
        .map(|reason| match reason.nodes {
            0 => reason.detail.clone(),
            1 => format!("1 node: {}", reason.detail),
            nodes => format!("{nodes} nodes: {}", reason.detail),
        })
        .collect();
    format!("{waits}; {}", reasons.join("; "))
}

#[cfg(test)]
mod tests;
