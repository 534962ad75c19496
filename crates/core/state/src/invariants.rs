//! What must hold of every state, whatever was proposed. Checked in full by
//! tests and on restore, and for the nodes that an entry touched in every
//! running scheduler.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, AllocationState, Amounts, Grant, JobId, JobKind, JobSpec, JobState,
    NODE_RESERVATIONS_MAX, Name, NodeId, NodeState, NodeUse, POOL_POLICIES_MAX, PolicyOrigin,
    Resource, ShareMilli, TaskIndex, TokenId, validate_grant, validate_namespace,
    validate_node_reservation,
};
use thiserror::Error;

use crate::access::{
    AUTHORITY_BYTES_MAX, CREATED_BY_BYTES_MAX, LABEL_BYTES_MAX, MACHINE_NAME_BYTES_MAX,
    REVOCATIONS_MAX, TOKENS_MAX,
};
use crate::node::NodeRow;
use crate::rows::TaskRow;
use crate::state::ClusterState;

/// Something that must never be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Broken {
    #[error("device `{uuid}` of node {node} is given out {milli} thousandths")]
    DeviceOverCapacity { node: NodeId, uuid: String, milli: u32 },
    #[error("device `{uuid}` of node {node} is another node's too")]
    DeviceElsewhere { node: NodeId, uuid: String },
    #[error("node {node} has more given out than it has: {what}")]
    NodeOverCapacity { node: NodeId, what: &'static str },
    #[error("node {0}: what is given out is not the sum over its allocations")]
    WrongSum(NodeId),
    #[error("allocation {0} is not where its node, job or task says")]
    Misplaced(AllocationId),
    #[error("callers of allocation {0} are let go, and it is not stopping")]
    NotStopping(AllocationId),
    #[error("instance {instance} of task {} of job {job} is in {places} places", .task.0)]
    InstanceCount { job: JobId, task: TaskIndex, instance: u32, places: usize },
    #[error("a gang of task {} of job {job} is not whole", .task.0)]
    GangSplit { job: JobId, task: TaskIndex },
    #[error("job {0} counts its live allocations wrongly")]
    LiveCount(JobId),
    #[error("task {} of job {job} has no job or no specification", .task.0)]
    StrayTask { job: JobId, task: TaskIndex },
    #[error("job {0} has ended with something alive or waiting")]
    EndedAlive(JobId),
    #[error("allocation {0} is an orphan of the node that it is known to be on")]
    KnownOrphan(AllocationId),
    #[error("allocation {0} was given up on its node and is live")]
    AwayAlive(AllocationId),
    #[error("the place kept for {0} is not what it waits for")]
    Reserved(AllocationId),
    #[error("node {0} is down and something on it counts")]
    AliveOnDown(NodeId),
    #[error("an index does not follow from the rows")]
    WrongIndex,
    #[error("a table's hash does not follow from its rows")]
    WrongHash,
    #[error("an id is above its counter")]
    Counter,
    #[error("no scheduler is to have a vote")]
    NoVoter,
    #[error("token {0} is not what a token can be")]
    Token(TokenId),
    #[error("the revocation of {0} is not where its machine says")]
    Revocation(String),
    #[error("there is access without an authority, or an authority that cannot be one")]
    Authority,
    #[error("what namespace `{0}` uses is not the sum over its allocations and queued jobs")]
    WrongUse(Name),
    #[error("what is set for namespace `{0}` is not what can be set for it")]
    Namespace(Name),
    #[error("the row of the reservation `{0}` of nodes is not valid")]
    NodeReservation(Name),
    #[error("job {0} was let in without a policy")]
    NoPolicy(JobId),
    #[error("retention is not bounded: {0}")]
    Unbounded(&'static str),
}

/// Everything wrong with `state`. Costs a pass over all of it.
pub fn check(state: &ClusterState) -> Vec<Broken> {
    let mut broken = Vec::new();
    for node in state.nodes.values() {
        broken.extend(check_node(state, node));
    }
    check_allocations(state, &mut broken);
    check_tasks(state, &mut broken);
    check_jobs(state, &mut broken);
    let counters = state.jobs.iter().all(|(id, _)| id.0 <= state.cluster.job_counter)
        && state.nodes.iter().all(|(id, _)| id.0 <= state.cluster.node_counter);
    if !counters {
        broken.push(Broken::Counter);
    }
    if state.cluster.voter_count() == 0 {
        broken.push(Broken::NoVoter);
    }
    check_access(state, &mut broken);
    check_namespaces(state, &mut broken);
    check_derived(state, &mut broken);
    broken
}

/// Everything wrong with one node. Costs a pass over its allocations.
pub fn check_node(state: &ClusterState, node: &NodeRow) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut sum = NodeUse::default();
    let mut settled = NodeUse::default();
    for id in &node.live {
        match state.allocations.get(id).filter(|row| row.node == node.id) {
            Some(row) => {
                sum.add(&row.claim);
                if row.state.stop_intent().is_none() {
                    settled.add(&row.claim);
                }
            }
            None => broken.push(Broken::Misplaced(*id)),
        }
    }
    for (id, orphan) in &node.orphans {
        sum.add(&orphan.claim);
        if state.allocations.get(id).is_some_and(|row| row.node == node.id) {
            broken.push(Broken::KnownOrphan(*id));
        }
    }
    for (id, away) in &node.away {
        if node.state == NodeState::Ready {
            sum.add(&away.row.claim);
        }
        if state.allocations.get(id).is_some() || away.row.id != *id || away.row.node != node.id {
            broken.push(Broken::AwayAlive(*id));
        }
    }
    check_reservations(state, node, &mut sum, &mut broken);
    if node.state == NodeState::Down && !(node.live.is_empty() && node.orphans.is_empty()) {
        broken.push(Broken::AliveOnDown(node.id));
    }
    for device in node.devices_in_use() {
        if state.index.device_nodes.get(&device.uuid) != Some(&node.id) {
            let (node, uuid) = (node.id, device.uuid.clone());
            broken.push(Broken::DeviceElsewhere { node, uuid });
        }
    }
    if sum != node.used {
        broken.push(Broken::WrongSum(node.id));
    }
    for (uuid, held) in &sum.devices {
        if held.share > ShareMilli::WHOLE {
            let (uuid, milli) = (uuid.clone(), held.share.0);
            broken.push(Broken::DeviceOverCapacity { node: node.id, uuid, milli });
        }
    }
    // An inventory may shrink; what no longer fits is then being stopped.
    if settled.cpu > node.spec.cpu {
        broken.push(Broken::NodeOverCapacity { node: node.id, what: "cpu" });
    }
    if settled.memory > node.spec.memory {
        broken.push(Broken::NodeOverCapacity { node: node.id, what: "memory" });
    }
    broken
}

/// Adds what is held for those that places are kept for.
fn check_reservations(
    state: &ClusterState,
    node: &NodeRow,
    sum: &mut NodeUse,
    broken: &mut Vec<Broken>,
) {
    let mut seen = BTreeSet::new();
    for one in &node.reservations {
        sum.add_held(&one.held);
        let ends = |awaited: &AllocationId| {
            let row = state.allocations.get(awaited);
            let row = row.filter(|row| (row.node != node.id) == one.is_move());
            row.is_some_and(|row| one.patient || row.state.stop_intent().is_some())
                && seen.insert(*awaited)
        };
        let first = one.members.keys().next().copied();
        let waits = match first.and_then(|id| gang_waits(state, id)) {
            Some(waits) => waits,
            None => !one.awaits.is_empty(),
        };
        let sound = waits && one.awaits.iter().all(ends);
        if !sound || !node.accepts_work() || one.held != one.to_hold(state) || first.is_none() {
            broken.push(Broken::Reserved(first.unwrap_or_default()));
        }
    }
}

/// Whether places are kept for all of a gang, and it waits for somebody on one of its nodes;
/// `None` of what is no gang.
fn gang_waits(state: &ClusterState, member: AllocationId) -> Option<bool> {
    let job = state.jobs.get(&member.job).filter(|job| job.is_gang(member.task))?;
    let kept = || state.reservations_of(member.job, member.task);
    let nodes: BTreeSet<NodeId> = kept().map(|(_, node)| node).collect();
    let mut rows = nodes.iter().filter_map(|node| state.nodes.get(node));
    let is_awaited = rows.any(|node| node.awaits_for(member.job, member.task));
    Some(kept().count() == job.count_of(member.task) as usize && is_awaited)
}

fn check_allocations(state: &ClusterState, broken: &mut Vec<Broken>) {
    for (id, row) in state.allocations.iter() {
        let on_node = state.nodes.get(&row.node).is_some_and(|node| node.live.contains(id));
        let job = state.jobs.get(&id.job);
        let versioned = job.is_some_and(|job| {
            job.version == row.job_version
                || job.versions.iter().any(|old| old.version == row.job_version)
        });
        if row.draining.is_some() && !matches!(row.state, AllocationState::Stopping(_)) {
            broken.push(Broken::NotStopping(*id));
        }
        if !on_node || !versioned || row.id != *id {
            broken.push(Broken::Misplaced(*id));
        }
    }
}

fn check_tasks(state: &ClusterState, broken: &mut Vec<Broken>) {
    for ((job, task), row) in state.tasks.iter() {
        let Some(owner) = state.jobs.get(job) else {
            broken.push(Broken::StrayTask { job: *job, task: *task });
            continue;
        };
        let live: Vec<u32> =
            state.allocations_of_task(*job, *task).map(|row| row.id.instance.0).collect();
        if live.len() != row.live as usize {
            broken.push(Broken::LiveCount(*job));
        }
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        for instance in live {
            *places.entry(instance).or_default() += 1;
        }
        for set in sets(row) {
            for instance in set.iter() {
                *places.entry(instance).or_default() += 1;
            }
        }
        if owner.kind() == JobKind::Batch
            && let Some(spec) = owner.spec.tasks.get(usize::from(task.0))
        {
            for instance in 0..spec.count {
                places.entry(instance).or_insert(0);
            }
        }
        // A batch instance is in exactly one place: none is lost, none twice.
        let exact = owner.kind() == JobKind::Batch;
        let wrong = places.iter().find(|(_, count)| **count > 1 || (exact && **count != 1));
        if let Some((instance, count)) = wrong {
            let (instance, places) = (*instance, *count);
            broken.push(Broken::InstanceCount { job: *job, task: *task, instance, places });
        }
        if !state.gang_is_whole(owner, *task) {
            broken.push(Broken::GangSplit { job: *job, task: *task });
        }
        if row.failures.len() > crate::rows::FAILURES_MAX {
            broken.push(Broken::Unbounded("failures"));
        }
    }
}

fn sets(row: &TaskRow) -> [&berth_model::RangeSet; 6] {
    [&row.pending, &row.succeeded, &row.failed, &row.cancelled, &row.timed_out, &row.lost]
}

fn check_jobs(state: &ClusterState, broken: &mut Vec<Broken>) {
    for (id, row) in state.jobs.iter() {
        let live = state.allocations_of(*id).count();
        if live != row.live as usize {
            broken.push(Broken::LiveCount(*id));
        }
        let waiting = state
            .task_indices(*id)
            .iter()
            .any(|task| state.tasks.get(&(*id, *task)).is_some_and(|row| !row.pending.is_empty()));
        if row.is_ended() && (live > 0 || waiting) {
            broken.push(Broken::EndedAlive(*id));
        }
        for position in 0..row.spec.tasks.len() {
            let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
            if state.tasks.get(&(*id, task)).is_none() {
                broken.push(Broken::StrayTask { job: *id, task });
            }
        }
        let in_use: std::collections::BTreeSet<u32> =
            state.allocations_of(*id).map(|row| row.job_version).collect();
        if row.versions.len() + 1 > crate::rows::VERSIONS_MAX + in_use.len() {
            broken.push(Broken::Unbounded("versions"));
        }
    }
}

fn check_access(state: &ClusterState, broken: &mut Vec<Broken>) {
    let sound = match &state.cluster.authority {
        None => state.tokens.is_empty() && state.revocations.is_empty(),
        Some(authority) => {
            authority.certificate.len() <= AUTHORITY_BYTES_MAX
                && authority.sealed_key.len() <= AUTHORITY_BYTES_MAX
        }
    };
    if !sound {
        broken.push(Broken::Authority);
    }
    for (id, row) in state.tokens.iter() {
        let of_kind = match row.grant {
            Grant::Person { .. } => row.used_by.is_none(),
            Grant::Join(_) => row.expires.is_some(),
        };
        let texts =
            row.label.len() <= LABEL_BYTES_MAX && row.created_by.len() <= CREATED_BY_BYTES_MAX;
        if row.id != *id || !of_kind || !texts || !validate_grant(&row.grant).is_empty() {
            broken.push(Broken::Token(*id));
        }
    }
    for ((machine, name), row) in state.revocations.iter() {
        let at_home = (row.machine, &row.name) == (*machine, name);
        if !at_home || row.times == 0 || name.len() > MACHINE_NAME_BYTES_MAX {
            broken.push(Broken::Revocation(name.clone()));
        }
    }
    if state.tokens.len() > TOKENS_MAX {
        broken.push(Broken::Unbounded("tokens"));
    }
    if state.revocations.len() > REVOCATIONS_MAX {
        broken.push(Broken::Unbounded("revocations"));
    }
}

fn check_namespaces(state: &ClusterState, broken: &mut Vec<Broken>) {
    for (name, row) in state.namespaces.iter() {
        if row.spec.name != *name || row.version == 0 || !validate_namespace(&row.spec).is_empty() {
            broken.push(Broken::Namespace(name.clone()));
        }
    }
    if state.namespaces.len() > crate::namespace::NAMESPACE_ROWS_MAX {
        broken.push(Broken::Unbounded("namespaces"));
    }
    for (name, row) in state.node_reservations.iter() {
        let valid = validate_node_reservation(&row.spec).is_empty();
        if row.spec.name != *name || row.version == 0 || !valid {
            broken.push(Broken::NodeReservation(name.clone()));
        }
    }
    if state.node_reservations.len() > NODE_RESERVATIONS_MAX {
        broken.push(Broken::Unbounded("reservations of nodes"));
    }
    if state.cluster.policies.pools.len() > POOL_POLICIES_MAX {
        broken.push(Broken::Unbounded("policies of pools"));
    }
    let filled = |spec: &JobSpec| spec.policy_origin != PolicyOrigin::LeftOut;
    let unfilled = state.jobs.values().find(|job| !filled(&job.spec));
    broken.extend(unfilled.map(|job| Broken::NoPolicy(job.id)));
    let idle = state.index.idle.len();
    if idle > crate::fair::IDLE_REMEMBERED_MAX + 1 {
        broken.push(Broken::Unbounded("averages of use"));
    }
    let mut sums: BTreeMap<&Name, Amounts> = BTreeMap::new();
    for row in state.allocations.values() {
        let Some(job) = state.jobs.get(&row.id.job) else { continue };
        let sum = sums.entry(job.namespace()).or_default();
        *sum = sum.plus(row.claim.amounts());
    }
    let one = Amounts::default().with(Resource::QueuedJobs, 1);
    for job in state.jobs.values().filter(|job| job.state() == JobState::Queued) {
        let sum = sums.entry(job.namespace()).or_default();
        *sum = sum.plus(one);
    }
    let known = state.index.usage.keys().chain(sums.keys().copied());
    let wrong = known.filter(|name| state.index.usage.get(*name) != sums.get(*name));
    broken.extend(wrong.cloned().collect::<BTreeSet<Name>>().into_iter().map(Broken::WrongUse));
}

fn check_derived(state: &ClusterState, broken: &mut Vec<Broken>) {
    let mut rebuilt = ClusterState {
        index: crate::state::Indices {
            stale_keys: state.index.stale_keys.clone(),
            ..Default::default()
        },
        ..state.clone()
    };
    rebuilt.rebuild_indices();
    if rebuilt.index != state.index {
        broken.push(Broken::WrongIndex);
    }
    let stale = state.keys.iter().filter(|(_, row)| row.forget_at.is_some()).count();
    if stale != state.index.stale_keys.len() {
        broken.push(Broken::WrongIndex);
    }
    let hashes = state.jobs.hash() == state.jobs.hash_from_rows()
        && state.tasks.hash() == state.tasks.hash_from_rows()
        && state.allocations.hash() == state.allocations.hash_from_rows()
        && state.nodes.hash() == state.nodes.hash_from_rows()
        && state.keys.hash() == state.keys.hash_from_rows()
        && state.tokens.hash() == state.tokens.hash_from_rows()
        && state.revocations.hash() == state.revocations.hash_from_rows()
        && state.namespaces.hash() == state.namespaces.hash_from_rows()
        && state.averages.hash() == state.averages.hash_from_rows()
        && state.node_reservations.hash() == state.node_reservations.hash_from_rows();
    if !hashes {
        broken.push(Broken::WrongHash);
    }
}
