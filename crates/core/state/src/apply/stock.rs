//! What a node says is on it after the cluster was restored: what the backup
//! knows is settled first, what it can still make sense of is taken back, and
//! the rest becomes orphans, whose devices nobody else gets.

use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Claim, JobKind, Name, NodeCapacity, NodeId, NodeSpec, NodeState,
    SpecDigest, has_room, validate_node,
};

use super::ends::End;
use super::{Step, bounded};
use crate::command::{Stock, Unknown};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{AllocationRow, JobPhase, JobRow, NodeRow, OrphanRow, REASON_BYTES_MAX};
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
}

impl Step<'_> {
    pub(super) fn take_stock(
        &mut self,
        name: &Name,
        instance_key: [u8; 16],
        spec: &Arc<NodeSpec>,
        stock: &Stock,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        if let Some(first) = validate_node(spec).first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        let incarnation = self.state.cluster.incarnation;
        let node = match self.state.node_named(name) {
            Some(node) => node,
            None if incarnation > 1 => {
                self.new_node(name, instance_key, spec, NodeState::Disconnected)
            }
            None => return Ok(Reply::Done),
        };
        let row = self.state.node_row(node)?.clone();
        if row.instance_key != instance_key {
            return Err(Refusal::NodeNameTaken { name: name.clone(), node });
        }
        if !row.needs_stock(incarnation) {
            return Ok(Reply::Done);
        }
        self.state.nodes.edit(&node, |row| row.spec = spec.clone());
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
            self.state.nodes.edit(&node, |row| row.stock_incarnation = incarnation);
            self.await_no_longer(node);
        }
        Ok(Reply::Done)
    }

    fn take_in(&mut self, node: NodeId, unknown: &Unknown) {
        let Ok(row) = self.state.node_row(node).cloned() else { return };
        if row.orphans.contains_key(&unknown.allocation) {
            return;
        }
        match self.state.adoptable(&row, unknown) {
            Ok((job, version)) => self.adopt(&job, version, &row, unknown),
            Err(why) => self.keep_as_orphan(&row, unknown, why),
        }
    }

    /// It is again what its id says, as if it had been placed before the
    /// backup.
    fn adopt(&mut self, job: &JobRow, version: u32, node: &NodeRow, unknown: &Unknown) {
        let Unknown { allocation: id, claim, spec_digest, .. } = unknown;
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(claim);
            node.live.insert(*id);
        });
        self.bump_generation(node.id);
        self.state.edit_task(id.job, id.task, |task| {
            task.pending.remove(id.instance.0);
            task.live += 1;
            task.count_attempt(id.instance.0, id.attempt);
        });
        self.state.edit_job(id.job, |job| job.live += 1);
        let row = AllocationRow {
            id: *id,
            node: node.id,
            job_version: version,
            spec_digest: *spec_digest,
            claim: claim.clone(),
            state: AllocationState::Planned,
            reason: String::new(),
            planned_at: self.now,
            running_since: None,
            started_at: None,
            score: Default::default(),
        };
        self.state.allocations.insert(*id, Arc::new(row));
        self.emit_allocation(*id, node.id, EventKind::AllocationAdopted);
        self.announce_state(id.job, job.state());
    }

    fn keep_as_orphan(&mut self, node: &NodeRow, unknown: &Unknown, mut why: String) {
        let capacity = NodeCapacity { spec: &node.spec, used: &node.used };
        let claim = match has_room(capacity, &unknown.claim) {
            Ok(()) => unknown.claim.clone(),
            // Its agent lets nothing else begin on what it holds.
            Err(misfit) => {
                why.push_str(&format!("; what it holds is not kept free: {misfit}"));
                Claim::default()
            }
        };
        let id = unknown.allocation;
        let exclusive = self.state.jobs.get(&id.job).is_some_and(|job| job.spec.exclusive);
        let orphan = OrphanRow {
            claim,
            namespace: bounded(&unknown.namespace, NAME_BYTES_MAX),
            job_name: bounded(&unknown.job_name, NAME_BYTES_MAX),
            found_at: self.wall,
            why: bounded(&why, REASON_BYTES_MAX),
            stop: exclusive.then(|| "its job is exclusive: it must not run twice".to_owned()),
        };
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(&orphan.claim);
            node.orphans.insert(id, orphan);
        });
        self.bump_generation(node.id);
        self.emit_allocation(id, node.id, EventKind::OrphanFound { why });
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
            let reason = bounded(reason, REASON_BYTES_MAX);
            self.state.nodes.edit(&node, |row| {
                if let Some(orphan) = row.orphans.get_mut(id) {
                    orphan.stop = Some(reason.clone());
                }
            });
            self.bump_generation(node);
            self.emit_allocation(*id, node, EventKind::OrphanStopping { reason });
        }
        Ok(Reply::Done)
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
            self.end_orphan(node, *id);
        }
        Ok(Reply::Done)
    }

    fn await_no_longer(&mut self, node: NodeId) {
        let Some(restore) = self.state.cluster.restore.as_mut() else { return };
        if restore.awaited.remove(&node) && restore.awaited.is_empty() {
            self.emit(None, None, None, EventKind::AwaitingEnded { missing: 0 });
        }
    }

    /// From now on the nodes that have not come are as silent as any other.
    pub(super) fn stop_awaiting(&mut self) -> Reply {
        let Some(restore) = self.state.cluster.restore.as_mut() else { return Reply::Done };
        let missing = std::mem::take(&mut restore.awaited);
        if missing.is_empty() {
            return Reply::Done;
        }
        let now = self.now;
        for node in &missing {
            self.state.nodes.edit(node, |row| row.since = now);
        }
        self.emit(None, None, None, EventKind::AwaitingEnded { missing: missing.len() });
        Reply::Done
    }
}

impl ClusterState {
    /// The job that an unknown worker belongs to and the version it runs; else
    /// why it cannot be taken back.
    fn adoptable(&self, node: &NodeRow, unknown: &Unknown) -> Result<(Arc<JobRow>, u32), String> {
        let id = unknown.allocation;
        let Some(job) = self.jobs.get(&id.job) else {
            return Err("the backup does not know its job".to_owned());
        };
        let Some(version) = version_of(job, unknown.spec_digest) else {
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
                JobKind::Daemon => {
                    u64::from(instance) == node.id.0
                        && !task.failed.contains(instance)
                        && !self.is_live(id)
                }
            };
        if !waits {
            return Err("its instance does not wait for a place in the backup".to_owned());
        }
        if id.attempt < task.attempt_counted(instance) {
            return Err("its instance is at a later attempt in the backup".to_owned());
        }
        has_room(NodeCapacity { spec: &node.spec, used: &node.used }, &unknown.claim)
            .map_err(|misfit| format!("its node has no room for it: {misfit}"))?;
        Ok((job.clone(), version))
    }
}

fn version_of(job: &JobRow, digest: SpecDigest) -> Option<u32> {
    if job.digest == digest {
        return Some(job.version);
    }
    job.versions.iter().find(|old| old.digest == digest).map(|old| old.version)
}
