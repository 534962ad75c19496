//! What has happened, each in a sentence.

use berth_model::{AllocationState, Guards, Name, Outcome, Policy, WallMs};
use berth_proto::v1;
use berth_state::{ClusterState, DevicePurpose, Event, EventKind, Purpose, Seat};

use super::allocation::phase;
use super::node_name;

/// An event as watchers get it. `state` names the node; `token` is where a
/// watcher may resume.
pub fn event(state: &ClusterState, event: &Event, token: &str, at: WallMs) -> v1::Event {
    let node = event.node.map(|node| node_name(state, node)).unwrap_or_default();
    v1::Event {
        token: token.to_owned(),
        at_ms: at.0,
        kind: event.kind.name().to_owned(),
        job_id: event.job.map(|job| job.0),
        allocation_id: event.allocation.map(|id| id.to_string()).unwrap_or_default(),
        message: sentence(&event.kind, &node),
        node,
    }
}

fn sentence(kind: &EventKind, node: &str) -> String {
    match kind {
        EventKind::JobSubmitted { namespace, name } => {
            format!("job {name} was submitted to namespace {namespace}")
        }
        EventKind::JobUpdated { version } => format!("the job is now at version {version}"),
        EventKind::ReplicasScaled { from, to, reason } => scaled(*from, *to, reason),
        EventKind::UpdateFailed { version, reason } => update_failed(*version, reason),
        EventKind::JobHeld => "nothing more of the job is placed until it is released".to_owned(),
        EventKind::JobReleased => "the job may be placed again".to_owned(),
        EventKind::JobStopping { reason } => because("the job is being stopped", reason),
        EventKind::JobStateChanged { state, reason } => {
            because(&format!("the job is now {}", spoken(state.name())), reason)
        }
        EventKind::JobReaped => "the ended job was forgotten".to_owned(),
        EventKind::InstancesQueued { count } => queued(*count),
        EventKind::AllocationPlanned => format!("placed on node {node}"),
        EventKind::PlaceReserved { awaited } => place_reserved(*awaited, node),
        EventKind::ReservationDropped { reason } => {
            because(&format!("no place on node {node} is kept any more"), reason)
        }
        EventKind::AllocationStateChanged { state } => allocation_sentence(*state),
        EventKind::AllocationStopping { reason } => because("is being stopped", reason),
        EventKind::AllocationEnded { outcome, reason, .. } => {
            because(outcome_phrase(*outcome), reason)
        }
        EventKind::RetryScheduled { wait_ms } => tried_again(*wait_ms),
        EventKind::NodeRegistered { name } => format!("node {name} has registered"),
        EventKind::NodeStateChanged { state } => format!("node {node} is {}", state.name()),
        EventKind::NodePurposeChanged { purpose } => purpose_sentence(*purpose, node),
        EventKind::DevicePurposeChanged { uuid, purpose } => what_it_takes(uuid, *purpose, node),
        EventKind::DeviceHealthChanged { uuid, health, reason } => {
            because(&format!("GPU {uuid} of node {node} is {}", health.name()), reason)
        }
        EventKind::NodeGuarded { guards } => guarded(*guards, node),
        EventKind::NodeReaped => format!("node {node} was forgotten"),
        EventKind::AllocationReturned { reason } => because("goes on", reason),
        EventKind::AllocationAdopted => format!("was found on node {node} and taken back"),
        EventKind::OrphanFound { why } => because(&format!("is an orphan on node {node}"), why),
        EventKind::OrphanStopping { reason } => because("the orphan is being ended", reason),
        EventKind::OrphanEnded => format!("the orphan on node {node} is gone"),
        EventKind::AwaitingEnded { missing } => awaiting_ended(*missing),
        EventKind::DesiredChanged { generation } => {
            format!("what should be on node {node} has generation {generation}")
        }
        EventKind::ClusterFounded => "the cluster was founded".to_owned(),
        EventKind::SchedulerAdmitted { scheduler, seat: Seat::Voter } => {
            format!("scheduler {scheduler} was admitted")
        }
        EventKind::SchedulerAdmitted { scheduler, seat: Seat::Learner } => {
            format!("scheduler {scheduler} was admitted without a vote")
        }
        EventKind::SchedulerPromoted { scheduler } => scheduler_promoted(*scheduler),
        EventKind::SchedulerRemoved { scheduler } => format!("scheduler {scheduler} was removed"),
        EventKind::ClusterVersionRaised { version } => version_raised(*version),
        EventKind::TokenCreated { id, label } => because(&format!("token {id} was created"), label),
        EventKind::TokenRevoked { id, label } => because(&format!("token {id} was revoked"), label),
        EventKind::MachineJoined { machine, name } => format!("{machine} {name} was let in"),
        EventKind::MachineRevoked { machine, name } => {
            format!("what was certified for {machine} {name} until now counts no more")
        }
        EventKind::NamespaceChanged { name, version } => namespace_changed(name, *version),
        EventKind::NamespaceDeleted { name } => format!("namespace {name} was deleted"),
        EventKind::NodesReserved { name, version } => nodes_reserved(name, *version),
        EventKind::ReservationBegun { name } => reservation_begun(name),
        EventKind::NodesFreed { name, over: true } => reservation_over(name),
        EventKind::NodesFreed { name, over: false } => reservation_ended(name),
        EventKind::PolicyDefaultChanged { pool, policy } => policy_default(pool.as_ref(), *policy),
    }
}

fn queued(count: u64) -> String {
    match count {
        1 => "1 instance waits for a place".to_owned(),
        _ => format!("{count} instances wait for a place"),
    }
}

fn awaiting_ended(missing: usize) -> String {
    match missing {
        0 => "every node of the backup has said what is on it".to_owned(),
        _ => format!("the cluster waits no longer for {missing} of its nodes"),
    }
}

fn place_reserved(awaited: u32, node: &str) -> String {
    match awaited {
        1 => format!("a place is kept on node {node} until 1 other has ended"),
        _ => format!("a place is kept on node {node} until {awaited} others have ended"),
    }
}

fn namespace_changed(name: &Name, version: u32) -> String {
    format!("what is set for namespace {name} is now at version {version}")
}

fn nodes_reserved(name: &Name, version: u32) -> String {
    format!("the reservation {name} of nodes is now at version {version}")
}

fn reservation_begun(name: &Name) -> String {
    format!("the reservation {name} of nodes is in force")
}

fn reservation_over(name: &Name) -> String {
    format!("the reservation {name} of nodes is over")
}

fn reservation_ended(name: &Name) -> String {
    format!("the reservation {name} of nodes was ended by somebody")
}

fn scheduler_promoted(scheduler: u64) -> String {
    format!("scheduler {scheduler} is to have a vote")
}

fn version_raised(version: u32) -> String {
    format!("the cluster is now at version {version}")
}

fn policy_default(pool: Option<&Name>, policy: Option<Policy>) -> String {
    let whose = pool.map_or_else(|| "the cluster".to_owned(), |pool| format!("pool {pool}"));
    match policy {
        Some(policy) => {
            format!("what {whose} gives a job that says no policy is now {}", policy.name())
        }
        None => format!("{whose} has no policy of its own any more for jobs that say none"),
    }
}

fn tried_again(wait_ms: u64) -> String {
    match wait_ms {
        0 => "will be tried again at once".to_owned(),
        _ => format!("will be tried again in {}.{:03} s", wait_ms / 1000, wait_ms % 1000),
    }
}

fn scaled(from: u32, to: u32, reason: &str) -> String {
    because(&format!("scaled from {from} to {to} replicas"), reason)
}

fn update_failed(version: u32, reason: &str) -> String {
    because(&format!("the update to version {version} has failed"), reason)
}

fn guarded(guards: Guards, node: &str) -> String {
    match guards.are_open() {
        true => format!("the host of node {node} has enough of everything again"),
        false => format!("node {node}: {guards}"),
    }
}

fn what_it_takes(uuid: &str, purpose: DevicePurpose, node: &str) -> String {
    let what = match purpose {
        DevicePurpose::Work => "work",
        DevicePurpose::Cordoned => "nothing new",
    };
    format!("GPU {uuid} of node {node} takes {what}")
}

fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

/// The name of a state as one says it.
fn spoken(name: &str) -> String {
    name.replace('_', " ")
}

fn allocation_sentence(state: AllocationState) -> String {
    match state {
        AllocationState::Starting(_) => format!("is starting ({})", phase(state)),
        AllocationState::Running { ready: true } => "is running and ready".to_owned(),
        AllocationState::Running { ready: false } => "is running, not yet ready".to_owned(),
        AllocationState::Unkillable(_) => {
            "does not end although it was killed, and keeps its devices".to_owned()
        }
        AllocationState::Planned | AllocationState::Stopping(_) => format!("is {}", state.name()),
    }
}

fn outcome_phrase(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "was cancelled",
        Outcome::TimedOut => "ran out of time",
        Outcome::Preempted => "was displaced",
        Outcome::Lost => "was lost",
    }
}

fn purpose_sentence(purpose: Purpose, node: &str) -> String {
    match purpose {
        Purpose::Work => format!("node {node} takes work"),
        Purpose::Cordoned => format!("node {node} takes nothing new"),
        Purpose::Draining(_) => format!("node {node} is being emptied"),
    }
}
