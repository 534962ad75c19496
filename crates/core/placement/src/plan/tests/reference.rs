//! A planner that does the same in the plainest way: every node anew for every
//! instance, granted by the `fits` that apply uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AtBegin, EndCause, EndReport, NodeReservation, NodeUse, ReservedNodes, WallMs, eligible, fits,
};
use berth_state::NodeRow;

use super::*;
use crate::host::Host;
use crate::kinds::Kinds;
use crate::policies::{Score, score, turn};
use crate::scarcity::{Basis, Prices, Stock};
use crate::terms::{Inputs, Look, Term, cost, terms_of};
use crate::unusable::MixTable;
use crate::what_if::stopped;

pub(super) fn exit(code: i32) -> EndReport {
    EndReport { cause: EndCause::Exited, exit_code: Some(code), ..stopped(WallMs(0)) }
}

pub(super) fn port_taken() -> EndReport {
    EndReport { cause: EndCause::PortTaken, ..stopped(WallMs(0)) }
}

pub(super) fn host_fault() -> EndReport {
    EndReport { cause: EndCause::HostFault, ..stopped(WallMs(0)) }
}

/// What a placement is, its score aside.
pub(super) type Placed = (AllocationId, NodeId, Vec<String>, Vec<u16>);

pub(super) fn essence(placement: &Placement) -> Placed {
    let id = placement.allocation();
    let devices = placement.devices.iter().map(|claim| claim.uuid.clone()).collect();
    let ports = placement.ports.iter().map(|claim| claim.port).collect();
    (id, placement.node, devices, ports)
}

pub(super) fn reference_plan(view: &ClusterState, soft: &SoftView, now: StateMs) -> Vec<Placed> {
    let mut used: BTreeMap<NodeId, NodeUse> =
        view.nodes().iter().map(|(id, row)| (*id, row.used.clone())).collect();
    let mut keys: Vec<QueueKey> = Vec::new();
    for row in view.jobs().values().filter(|row| row.places()) {
        for position in 0..row.spec.tasks.len() {
            let task = TaskIndex(position as u16);
            keys.push(QueueKey::new(row.spec.priority, row.submitted_ms, row.id, task));
        }
    }
    keys.sort();
    let mut placed: Vec<Placed> = Vec::new();
    for key in keys {
        for instance in wanted(view, key) {
            let row = view.tasks().get(&(key.job, key.task)).unwrap();
            let job = view.jobs().get(&key.job).unwrap();
            let task = &job.spec.tasks[usize::from(key.task.0)];
            let here = placed.iter().filter(|one| (one.0.job, one.0.task) == (key.job, key.task));
            let live = u64::from(row.live) + here.count() as u64;
            let due = row.retries.get(&instance).is_none_or(|retry| retry.not_before <= now);
            if !due || live >= u64::from(task.parallel_max()) {
                continue;
            }
            let id = AllocationId {
                job: key.job,
                task: key.task,
                instance: InstanceIndex(instance),
                attempt: view.next_attempt(key.job, row, instance),
            };
            if let Some((node, granted)) = best(view, soft, now, (job, task, id), &used, &placed) {
                used.get_mut(&node).unwrap().add(&granted);
                let devices = granted.devices.iter().map(|one| one.uuid.clone()).collect();
                let ports = granted.ports.iter().map(|one| one.port).collect();
                placed.push((id, node, devices, ports));
            }
        }
    }
    placed
}

fn wanted(view: &ClusterState, key: QueueKey) -> Vec<u32> {
    let job = view.jobs().get(&key.job).unwrap();
    let row = view.tasks().get(&(key.job, key.task)).unwrap();
    match job.kind() {
        JobKind::Batch | JobKind::Service => row.pending.iter().collect(),
        JobKind::Daemon => {
            let live: Vec<u32> = view
                .allocations_of_task(key.job, key.task)
                .map(|allocation| allocation.id.instance.0)
                .collect();
            let nodes = view.nodes().values().map(|node| node.id.0 as u32);
            nodes.filter(|id| !live.contains(id) && !row.failed.contains(*id)).collect()
        }
    }
}

/// A node as it is looked at, made anew.
struct Fresh {
    host: Host,
    suits: Vec<bool>,
    mix: Arc<crate::mix::Mix>,
    table: MixTable,
    core_price: u32,
}

impl Fresh {
    fn new(
        node: &NodeRow,
        used: &NodeUse,
        soft: &SoftView,
        now: StateMs,
        task: &TaskSpec,
    ) -> Fresh {
        let mut kinds = Kinds::default();
        let row = NodeRow { used: used.clone(), ..node.clone() };
        let load = soft.loads.get(&node.id).map(|load| **load);
        let host = Host::new(Arc::new(row), load, now, &mut kinds);
        let suits = task.gpu.as_ref().map_or_else(Vec::new, |gpu| kinds.suiting(gpu));
        let table = MixTable::new(&soft.mix, &kinds);
        Fresh { host, suits, mix: soft.mix.clone(), table, core_price: 0 }
    }

    fn look<'a>(&'a self, task: &'a TaskSpec, on_node: u32) -> Look<'a> {
        let Fresh { mix, table, core_price, .. } = self;
        let inputs = Inputs { mix, table, core_price: *core_price };
        Look { host: &self.host, task, suits: &self.suits, inputs, on_node }
    }
}

/// What taking the first kind of device of each node costs, and an idle core: all nodes
/// looked at anew.
fn price_steps(
    view: &ClusterState,
    (soft, now): (&SoftView, StateMs),
    used: &BTreeMap<NodeId, NodeUse>,
    task: &TaskSpec,
) -> (BTreeMap<NodeId, u32>, u32) {
    let mut kinds = Kinds::default();
    let mut hosts = Vec::new();
    for node in view.nodes().values() {
        let row = NodeRow { used: used[&node.id].clone(), ..node.as_ref().clone() };
        hosts.push(Host::new(Arc::new(row), None, now, &mut kinds));
    }
    let mut stocks = vec![Stock::default(); kinds.len()];
    for spot in hosts.iter().flat_map(|host| &host.spots).filter(|spot| spot.takes_work) {
        stocks[spot.kind].capacity_milli += 1000;
        stocks[spot.kind].idle_milli += if spot.is_free() { 1000 } else { 0 };
    }
    let sum = |of: fn(&Host) -> u64| hosts.iter().map(of).sum();
    let cpu = Stock {
        capacity_milli: sum(|host| host.row.spec.cpu.0),
        idle_milli: sum(|host| host.cpu_free),
    };
    let prices = Prices::new(&Basis::of(&stocks, cpu), &soft.mix, &kinds);
    let of_host = |host: &Host| {
        let steps = |kind| cost::price_steps(task.gpu.as_ref(), prices.of(kind));
        (host.row.id, host.spots.first().map_or(0, |spot| steps(spot.kind)))
    };
    (hosts.iter().map(of_host).collect(), prices.of_core())
}

/// Whether its host is short of nothing that the job has to wait for.
fn has_enough(node: &NodeRow, job: &JobRow) -> bool {
    match job.kind() {
        JobKind::Batch | JobKind::Service => node.guards.are_open(),
        JobKind::Daemon => true,
    }
}

/// Whether the reservations of a node let an instance in.
fn is_let_in(
    view: &ClusterState,
    now: StateMs,
    node: &NodeRow,
    job: &JobRow,
    task: &TaskSpec,
) -> bool {
    let wall = view.cluster().wall_ms.0 + now.0 - view.cluster().state_ms.0;
    view.node_reservations().values().all(|row| {
        let NodeReservation { nodes, namespaces, priority_min, from, running, .. } = &row.spec;
        let is_on_it = match nodes {
            ReservedNodes::Named(names) => names.contains(&node.name),
            ReservedNodes::Pool(pool) => *pool == node.spec.pool,
        };
        let is_for_it = (!namespaces.is_empty() || priority_min.is_some())
            && (namespaces.is_empty() || namespaces.contains(job.namespace()))
            && job.spec.priority >= priority_min.unwrap_or(0);
        let ends_by = task.time_limit.map(|limit| wall + 30_000 + limit.0 + task.stop.grace.0);
        let is_before =
            !row.begun && (*running == AtBegin::End || ends_by.is_some_and(|ends| ends <= from.0));
        !is_on_it || is_for_it || is_before || job.kind() == JobKind::Daemon
    })
}

/// The claim with which an instance fits a node.
pub(super) fn grant(
    node: &NodeRow,
    used: &NodeUse,
    (view, soft, now): (&ClusterState, &SoftView, StateMs),
    (job, task, id): (&JobRow, &TaskSpec, AllocationId),
) -> Option<Claim> {
    let own = job.kind() != JobKind::Daemon || u64::from(id.instance.0) == node.id.0;
    let suits = node.accepts_work()
        && !node.rests(now)
        && has_enough(node, job)
        && is_let_in(view, now, node, job, task)
        && own
        && eligible(&node.name, &node.spec, &job.spec.constraints, task).is_ok();
    let fresh = Fresh::new(node, used, soft, now, task);
    let look = fresh.look(task, 0);
    let chosen = match (&task.gpu, job.kind()) {
        (Some(gpu), JobKind::Daemon) => devices::tightest(look.host, gpu, look.suits),
        (Some(_) | None, _) => devices::choose(job.spec.policy, look),
    };
    let claim = claim(node, used, now, task, id, &chosen.filter(|_| suits)?)?;
    fits(node.capacity(used), task, &claim).ok()?;
    Some(claim)
}

fn best(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    (job, task, id): (&JobRow, &TaskSpec, AllocationId),
    used: &BTreeMap<NodeId, NodeUse>,
    placed: &[Placed],
) -> Option<(NodeId, Claim)> {
    let ring: Vec<NodeId> = view
        .nodes()
        .values()
        .filter(|node| node.accepts_work() && !node.rests(now) && has_enough(node, job))
        .filter(|node| is_let_in(view, now, node, job, task))
        .filter(|node| eligible(&node.name, &node.spec, &job.spec.constraints, task).is_ok())
        .map(|node| node.id)
        .collect();
    let start = turn(id, ring.len());
    let homes: Vec<NodeId> = view
        .allocations_of(id.job)
        .map(|row| row.node)
        .chain(placed.iter().filter(|one| one.0.job == id.job).map(|one| one.1))
        .collect();
    let zone_of = |node: &NodeId| view.nodes().get(node).unwrap().spec.zone.clone();
    let terms = terms_of(job.spec.policy, task);
    let (price_steps, core_price) = price_steps(view, (soft, now), used, task);
    let scored = view.nodes().values().filter_map(|node| {
        let claim = grant(node, &used[&node.id], (view, soft, now), (job, task, id))?;
        let rank = ring.iter().position(|one| *one == node.id)?;
        let same_zone = |home: &&NodeId| zone_of(home) == node.spec.zone;
        let on_node = homes.iter().filter(|home| **home == node.id).count() as u32;
        let in_zone = homes.iter().filter(same_zone).count() as u32;
        let passed_over = ((rank + ring.len() - start) % ring.len()) as u32;
        let mut fresh = Fresh::new(node, &used[&node.id], soft, now, task);
        fresh.core_price = core_price;
        fresh.host.tasks += placed.iter().filter(|one| one.1 == node.id).count() as u32;
        let by_itself: Score = score(terms, fresh.look(task, on_node));
        let with_price = by_itself.0[0].saturating_add(price_steps[&node.id]);
        let score = by_itself
            .with(terms, Term::Cost, with_price)
            .with(terms, Term::InZone, in_zone)
            .with(terms, Term::Turn, passed_over);
        Some((score, node.id, claim))
    });
    let (_, node, claim) = scored.min_by_key(|(score, node, _)| (*score, *node))?;
    Some((node, claim))
}
