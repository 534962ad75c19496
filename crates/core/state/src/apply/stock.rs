//! What a node says is on it after the cluster was restored: what the backup
//! knows is settled first, what it can still make sense of is taken back, and
//! the rest becomes orphans, whose devices nobody else gets.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Attempt, Claim, DeviceClaim, JobId, JobKind, Name, NodeId,
    NodeSpec, NodeState, NodeUse, ShareMilli, SpecDigest, StateMs, TaskIndex,
};

use super::ends::End;
use super::{Step, bounded};
use crate::command::{Stock, Unknown};
use crate::event::EventKind;
use crate::node::{NodeRow, OrphanRow};
use crate::refusal::Refusal;
use crate::rows::{AllocationRow, JobPhase, JobRow, REASON_BYTES_MAX, TaskRow};
use crate::state::{ClusterState, Reply};

/// Names travel as texts that nobody has checked.
const NAME_BYTES_MAX: usize = 128;
const ABSENT: &str = "nothing of it was on its node when the cluster was restored";

impl ClusterState {
    /// Nodes of the backup that a restored cluster still waits for.
    pub fn awaited(&self) -> usize {
        self.cluster.restore.as_ref().map_or(0, |restore| restore.awaited.len())
    }

    /// Whether this node is one of them.
    pub fn awaits(&self, node: NodeId) -> bool {
        self.cluster.restore.as_ref().is_some_and(|restore| restore.awaited.contains(&node))
    }

    /// Whether nothing is placed because what waits may be running somewhere.
    pub fn waits_after_restore(&self, now: StateMs) -> bool {
        let restore = self.cluster.restore.as_ref();
        restore.is_some_and(|restore| !restore.awaited.is_empty() || now < restore.place_from)
    }

    /// The attempt that an instance that waits begins next.
    pub fn next_attempt(&self, job: JobId, task: &TaskRow, instance: u32) -> Attempt {
        let floor = self.cluster.restore.as_ref().filter(|restore| job <= restore.floor_jobs);
        let counted = task.attempt_counted(instance);
        floor.map_or(counted, |restore| counted.max(restore.attempt_floor))
    }

    /// The attempt that comes after one that is live; `None` of what is not there.
    pub fn attempt_after(&self, id: AllocationId) -> Option<Attempt> {
        let task = self.tasks.get(&(id.job, id.task))?;
        Some(self.next_attempt(id.job, task, id.instance.0).max(id.attempt.next()))
    }

    /// Whether an orphan runs any instance of this task.
    pub fn has_orphan_of_task(&self, job: JobId, task: TaskIndex) -> bool {
        self.cluster.restore.is_some()
            && self.nodes.values().any(|row| row.has_orphan_of_task(job, task))
    }

    /// Whether an orphan runs what this instance is. Costs a pass over the
    /// nodes of a cluster that was restored.
    pub fn has_orphan_of(&self, id: AllocationId) -> bool {
        let of_instance = AllocationId { attempt: Attempt(0), ..id }..=AllocationId {
            attempt: Attempt(u32::MAX),
            ..id
        };
        self.cluster.restore.is_some()
            && self
                .nodes
                .values()
                .any(|row| row.orphans.range(of_instance.clone()).next().is_some())
    }
}

impl Step<'_> {
    pub(super) fn take_stock(
        &mut self,
        name: &Name,
        instance_key: [u8; 16],
        spec: &Arc<NodeSpec>,
        stock: &Stock,
    ) -> Result<Reply, Refusal> {
        let incarnation = self.state.cluster.incarnation;
        let known = self.known_node(name, instance_key, spec)?;
        let spec = &self.without_devices_elsewhere(known, spec);
        let node = match known {
            Some(node) => node,
            None if incarnation > 1 => {
                self.new_node(name, instance_key, spec, NodeState::Disconnected)
            }
            None => return Ok(Reply::Done),
        };
        let row = self.state.node_row(node)?.clone();
        if !row.needs_stock(incarnation) {
            return Ok(Reply::Done);
        }
        let spec = &self.brake_fences(&row, spec);
        if row.state == NodeState::Down {
            // What is taken back on it must be given up like any other, should
            // it not register after all. What it had may be elsewhere by now.
            self.state.edit_node_devices(node, |row| row.spec = spec.clone());
            self.set_node_state(node, NodeState::Disconnected);
        }
        // A smaller inventory is looked at when the node registers: until all
        // has been told it may be what has ended that fits no more.
        if covers(spec, &row.spec) {
            self.state.edit_node_devices(node, |row| row.spec = spec.clone());
        }
        let is_here = |state: &ClusterState, id: &AllocationId| {
            state.allocations.get(id).is_some_and(|row| row.node == node)
        };
        for (id, report) in &stock.ended {
            if is_here(self.state, id) {
                self.end_allocation(*id, &End::Reported(report));
            }
        }
        for id in &stock.absent {
            if is_here(self.state, id) {
                self.end_allocation(*id, &End::Lost(ABSENT));
            }
        }
        for unknown in &stock.unknown {
            if !is_here(self.state, &unknown.allocation) {
                self.take_in(node, unknown);
            }
        }
        if stock.complete {
            let now = self.now;
            self.state.nodes.edit(&node, |row| {
                row.stock_incarnation = incarnation;
                row.since = now;
            });
        }
        Ok(Reply::Done)
    }

    fn take_in(&mut self, node: NodeId, unknown: &Unknown) {
        let Ok(row) = self.state.node_row(node).cloned() else { return };
        let id = &unknown.allocation;
        if let Some(away) = row.away.get(id) {
            if self.state.names(&away.row) {
                return self.found_away(node, *id);
            }
            // It could be told neither to go on nor to end.
            self.forget_away(node, *id);
        }
        if row.orphans.contains_key(id) {
            return;
        }
        let Unknown { allocation: id, spec_digest, claim, .. } = unknown;
        match self.state.adoptable(&row, *id, *spec_digest, claim) {
            Ok((job, version)) => self.adopt(&job, version, &row, (*id, *spec_digest, claim)),
            Err(why) => self.keep_as_orphan(&row, unknown, why),
        }
    }

    /// It is again what its id says, as if it had been placed before the
    /// backup.
    fn adopt(
        &mut self,
        job: &JobRow,
        version: u32,
        node: &NodeRow,
        (id, spec_digest, claim): (AllocationId, SpecDigest, &Claim),
    ) {
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(claim);
            node.live.insert(id);
        });
        self.bump_generation(node.id);
        self.state.edit_task(id.job, id.task, |task| {
            task.pending.remove(id.instance.0);
            task.live += 1;
            task.count_attempt(id.instance.0, id.attempt);
        });
        self.state.edit_job(id.job, |job| job.live += 1);
        let row = AllocationRow {
            id,
            node: node.id,
            job_version: version,
            spec_digest,
            claim: claim.clone(),
            state: AllocationState::Planned,
            reason: String::new(),
            planned_at: self.now,
            running_since: None,
            started_at: None,
            score: Default::default(),
            seat: None,
            draining: None,
        };
        self.state.insert_allocation(row);
        self.emit_allocation(id, node.id, EventKind::AllocationAdopted);
        self.announce_state(id.job, job.state());
    }

    fn keep_as_orphan(&mut self, node: &NodeRow, unknown: &Unknown, mut why: String) {
        let mut claim = not_held_by_others(&node.used, &unknown.claim);
        // Amounts that no node has would not come out right when they are
        // given back.
        claim.cpu = claim.cpu.min(node.spec.cpu);
        claim.memory = claim.memory.min(node.spec.memory);
        let whole = claim == unknown.claim;
        if !whole {
            // Its agent lets nothing else begin on what it holds.
            why.push_str("; a part of what it holds is given out already");
        }
        let id = unknown.allocation;
        let orphan = OrphanRow {
            claim,
            spec_digest: whole.then_some(unknown.spec_digest),
            namespace: bounded(&unknown.namespace, NAME_BYTES_MAX),
            job_name: bounded(&unknown.job_name, NAME_BYTES_MAX),
            found_at: self.wall,
            why: bounded(&why, REASON_BYTES_MAX),
            stop: None,
        };
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(&orphan.claim);
            node.orphans.insert(id, orphan);
        });
        self.bump_generation(node.id);
        self.emit_allocation(id, node.id, EventKind::OrphanFound { why });
    }

    /// What one node tells may free an instance that runs on another: the order
    /// in which they come must not matter. An exclusive one that is still an
    /// orphan when all have come is ended.
    pub(super) fn look_at_orphans_again(&mut self) {
        let complete = self.state.awaited() == 0;
        let orphans: Vec<_> = self
            .state
            .nodes
            .values()
            .flat_map(|row| row.orphans.iter().map(|(id, orphan)| (row.id, *id, orphan.clone())))
            .collect();
        for (node, id, orphan) in orphans {
            if orphan.stop.is_some() || self.take_back(node, id, &orphan) {
                continue;
            }
            let job = self.state.jobs.get(&id.job);
            if complete && job.is_some_and(|job| job.spec.exclusive) {
                self.stop_orphan(node, id, "its job is exclusive: it must not run twice");
            }
        }
    }

    /// Whether the orphan is none any more.
    fn take_back(&mut self, node: NodeId, id: AllocationId, orphan: &OrphanRow) -> bool {
        let Some(digest) = orphan.spec_digest else { return false };
        let incarnation = self.state.cluster.incarnation;
        let Ok(row) = self.state.node_row(node).cloned() else { return false };
        // A silent one may be gone: what is taken back there would be given up
        // at once, and its agent could not be told.
        if row.state != NodeState::Ready || row.needs_stock(incarnation) {
            return false;
        }
        let mut without = NodeRow::clone(&row);
        without.orphans.remove(&id);
        without.used.remove(&orphan.claim);
        let Ok((job, version)) = self.state.adoptable(&without, id, digest, &orphan.claim) else {
            return false;
        };
        self.state.nodes.edit(&node, |row| {
            row.orphans.remove(&id);
            row.used.remove(&orphan.claim);
        });
        self.adopt(&job, version, &without, (id, digest, &orphan.claim));
        true
    }

    /// Whether the orphan was there.
    pub(super) fn end_orphan(&mut self, node: NodeId, id: AllocationId) -> bool {
        let row = self.state.nodes.get(&node);
        let Some(orphan) = row.and_then(|row| row.orphans.get(&id)).cloned() else { return false };
        self.state.nodes.edit(&node, |row| {
            row.orphans.remove(&id);
            row.used.remove(&orphan.claim);
        });
        self.bump_generation(node);
        self.emit_allocation(id, node, EventKind::OrphanEnded);
        true
    }

    /// One that has ended meanwhile is as was wished.
    pub(super) fn stop_orphans(
        &mut self,
        node: NodeId,
        orphans: &[AllocationId],
        reason: &str,
    ) -> Result<Reply, Refusal> {
        let row = self.state.node_row(node)?.clone();
        let is_kept =
            |id: &&AllocationId| row.orphans.get(id).is_some_and(|orphan| orphan.stop.is_none());
        for id in orphans.iter().filter(is_kept) {
            self.stop_orphan(node, *id, reason);
        }
        Ok(Reply::Done)
    }

    fn stop_orphan(&mut self, node: NodeId, id: AllocationId, reason: &str) {
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.nodes.edit(&node, |row| {
            if let Some(orphan) = row.orphans.get_mut(&id) {
                orphan.stop = Some(reason.clone());
            }
        });
        self.bump_generation(node);
        self.emit_allocation(id, node, EventKind::OrphanStopping { reason });
    }

    pub(super) fn forget_orphans(
        &mut self,
        node: NodeId,
        session: u64,
        orphans: &[AllocationId],
    ) -> Result<Reply, Refusal> {
        if self.state.node_row(node)?.session != session {
            return Err(Refusal::StaleSession { node });
        }
        for id in orphans {
            if !self.end_orphan(node, *id) {
                self.forget_away(node, *id);
            }
        }
        Ok(Reply::Done)
    }

    /// It has registered.
    pub(super) fn await_no_longer(&mut self, node: NodeId) {
        let Some(restore) = self.state.cluster.restore.as_mut() else { return };
        if restore.awaited.remove(&node) && restore.awaited.is_empty() {
            self.emit(None, None, None, EventKind::AwaitingEnded { missing: 0 });
        }
        self.look_at_orphans_again();
    }

    /// Its orphans hold nothing that counts any more.
    pub(super) fn forget_orphans_of(&mut self, node: NodeId) {
        let orphans = self.state.nodes.get(&node).map(|row| row.orphans.clone());
        for id in orphans.unwrap_or_default().keys() {
            self.end_orphan(node, *id);
        }
    }

    /// Something on it was given up. In a cluster that was restored its agent
    /// may not have heard before that it was wanted, and would keep it for an
    /// orphan of which nobody knows: it says again what is there.
    pub(super) fn doubt_stock(&mut self, node: NodeId) {
        self.state.nodes.edit(&node, |row| row.stock_incarnation = 0);
    }

    /// From now on the nodes that have not come are as silent as any other.
    pub(super) fn stop_awaiting(&mut self) -> Reply {
        let now = self.now;
        let Some(restore) = self.state.cluster.restore.as_mut() else { return Reply::Done };
        restore.place_from = restore.place_from.min(now);
        let missing = std::mem::take(&mut restore.awaited);
        if missing.is_empty() {
            return Reply::Done;
        }
        for node in &missing {
            self.state.nodes.edit(node, |row| row.since = now);
        }
        self.emit(None, None, None, EventKind::AwaitingEnded { missing: missing.len() });
        self.look_at_orphans_again();
        Reply::Done
    }
}

impl ClusterState {
    /// The job that a worker belongs to and the version it runs; else why it
    /// cannot be taken back.
    fn adoptable(
        &self,
        node: &NodeRow,
        id: AllocationId,
        spec_digest: SpecDigest,
        claim: &Claim,
    ) -> Result<(Arc<JobRow>, u32), String> {
        let Some(job) = self.jobs.get(&id.job) else {
            return Err("the backup does not know its job".to_owned());
        };
        let Some(version) = version_of(job, spec_digest) else {
            return Err("the backup knows its job by another specification".to_owned());
        };
        if let Some(row) = self.allocations.get(&id) {
            return Err(format!("the backup has it on node {}", row.node));
        }
        let Some(task) = self.tasks.get(&(id.job, id.task)) else {
            return Err("its job has no such task in the backup".to_owned());
        };
        let instance = id.instance.0;
        let waits = job.phase == JobPhase::Active
            && match job.kind() {
                JobKind::Batch | JobKind::Service => task.pending.contains(instance),
                // A node that joined after the backup has another id now: then its
                // daemons are orphans, and keep others of their job away.
                JobKind::Daemon => {
                    u64::from(instance) == node.id.0
                        && !task.failed.contains(instance)
                        && !self.is_live(id)
                }
            };
        if !waits {
            return Err("its instance does not wait for a place in the backup".to_owned());
        }
        if job.is_gang(id.task) {
            return Err(
                "it is of a gang, and the backup does not know its other members".to_owned()
            );
        }
        if id.attempt < task.attempt_counted(instance) {
            return Err("its instance is at a later attempt in the backup".to_owned());
        }
        let fits = not_held_by_others(&node.used, claim) == *claim
            && node.used.cpu.0.saturating_add(claim.cpu.0) <= node.spec.cpu.0
            && node.used.memory.0.saturating_add(claim.memory.0) <= node.spec.memory.0;
        if !fits {
            return Err("its node has no room for it beside what the backup knows".to_owned());
        }
        Ok((job.clone(), version))
    }
}

/// Whether everything that fits `known` fits `told`.
fn covers(told: &NodeSpec, known: &NodeSpec) -> bool {
    told.cpu >= known.cpu
        && told.memory >= known.memory
        && known.devices.iter().all(|device| told.device(&device.uuid).is_some())
}

/// The part of a claim that nobody else is known to hold: whatever the inventory
/// says of it, a worker that runs has it.
pub(super) fn not_held_by_others(used: &NodeUse, claim: &Claim) -> Claim {
    let is_free = |device: &&DeviceClaim| {
        let held = used.devices.get(&device.uuid).copied().unwrap_or_default();
        held.share.0.saturating_add(device.share.0) <= ShareMilli::WHOLE.0
            && held.memory.0.checked_add(device.memory.0).is_some()
    };
    let mut seen = BTreeSet::new();
    let devices = claim.devices.iter().filter(is_free);
    let devices = devices.filter(|device| seen.insert(device.uuid.clone())).cloned().collect();
    let ports = claim.ports.iter().filter(|port| !used.ports.contains(&port.port));
    Claim { cpu: claim.cpu, memory: claim.memory, devices, ports: ports.cloned().collect() }
}

fn version_of(job: &JobRow, digest: SpecDigest) -> Option<u32> {
    if job.digest == digest {
        return Some(job.version);
    }
    job.versions.iter().find(|old| old.digest == digest).map(|old| old.version)
}
