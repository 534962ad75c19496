//! Applying an entry: each command in turn, each all or nothing, each with an
//! answer. Total: a command that does not fit is refused, never a panic.

mod access;
mod away;
mod ends;
mod fate;
mod fences;
mod gangs;
mod index;
mod jobs;
mod let_go;
mod moves;
mod namespaces;
mod node_reservations;
mod nodes;
mod observe;
mod patience;
mod place;
mod policies;
mod reap;
mod reserve;
mod rollouts;
mod scale;
mod schedulers;
mod settle;
mod stock;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{AllocationId, JobId, NodeId, StateMs, WallMs};

use crate::access::Security;
use crate::command::{Command, Entry, JobChange};
use crate::event::{Event, EventKind};
use crate::refusal::Refusal;
use crate::state::{Applied, ClusterState, Reply};

pub mod retention {
    //! How long what is over is remembered.
    pub use super::reap::{
        DOWN_NODES_KEPT, FINISHED_INSTANCES_IN_NAMESPACE_MAX, FINISHED_INSTANCES_MAX, JOBS_KEPT,
        KEY_KEPT,
    };
}

/// One entry being applied.
pub(crate) struct Step<'a> {
    pub state: &'a mut ClusterState,
    pub events: Vec<Event>,
    pub now: StateMs,
    pub wall: WallMs,
    /// Nodes whose desired state changed, with its generation now.
    pub desired_changed: BTreeMap<NodeId, u64>,
}

impl ClusterState {
    /// Applies the entry at `index` of the log. Deterministic: the same state
    /// and entry give the same state, replies and events on every replica.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        // A new leader's clock continues from the last entry that it saw; a
        // clock that went back all the same must not move time backwards.
        let now = entry.state_ms.max(self.cluster.state_ms);
        self.cluster.state_ms = now;
        self.cluster.wall_ms = entry.wall_ms;
        let mut step = Step {
            state: self,
            events: Vec::new(),
            now,
            wall: entry.wall_ms,
            desired_changed: BTreeMap::new(),
        };
        let replies = entry.commands.iter().map(|command| step.command(command)).collect();
        for (node, generation) in std::mem::take(&mut step.desired_changed) {
            step.emit_node(node, EventKind::DesiredChanged { generation });
        }
        let events = step.events;
        self.applied_index = index;
        Applied { replies, events }
    }
}

impl Step<'_> {
    fn command(&mut self, command: &Command) -> Result<Reply, Refusal> {
        match command {
            Command::Found { cluster_id, security } => self.found(*cluster_id, security.as_deref()),
            Command::AdmitScheduler { instance_key, address, seat, proof } => {
                self.admit_scheduler(*instance_key, address, *seat, proof.as_ref())
            }
            Command::PromoteScheduler { scheduler } => self.promote_scheduler(*scheduler),
            Command::RemoveScheduler { scheduler } => self.remove_scheduler(*scheduler),
            Command::RaiseClusterVersion { version } => self.raise_cluster_version(*version),
            Command::Submit(submit) => self.submit(submit),
            Command::ChangeJob { job, if_version, change } => {
                self.change_job(*job, *if_version, change)
            }
            Command::RegisterNode { name, instance_key, spec } => {
                self.register_node(name, *instance_key, spec)
            }
            Command::TakeStock { name, instance_key, spec, stock } => {
                self.take_stock(name, *instance_key, spec, stock)
            }
            Command::StopOrphans { node, orphans, reason } => {
                self.stop_orphans(*node, orphans, reason)
            }
            Command::ForgetOrphans { node, session, orphans } => {
                self.forget_orphans(*node, *session, orphans)
            }
            Command::StopAwaiting => Ok(self.stop_awaiting()),
            Command::DisconnectNode { node, session } => self.disconnect_node(*node, *session),
            Command::DownNode { node, session } => self.down_node(*node, *session),
            Command::SetSchedulable { node, purpose } => self.set_purpose(*node, *purpose),
            Command::SetDevicePurpose { node, uuid, purpose } => {
                self.set_device_purpose(*node, uuid, *purpose)
            }
            Command::SetGuards { node, guards } => self.set_guards(*node, *guards),
            Command::LoseAllocations { node, session, allocations, reason } => {
                self.lose_allocations(*node, *session, allocations, reason)
            }
            Command::Place { placements } => Ok(self.place(placements)),
            Command::Reserve { reservations } => Ok(self.reserve(reservations)),
            Command::Unreserve { allocations, reason } => Ok(self.drop_named(allocations, reason)),
            Command::StopAllocations { allocations, intent, reason } => {
                for id in allocations {
                    self.stop_allocation(*id, *intent, reason);
                }
                Ok(Reply::Done)
            }
            Command::LetGo { allocations, reason } => Ok(self.let_go(allocations, reason)),
            Command::Scale { job, from, count, reason } => self.scale(*job, *from, *count, reason),
            Command::Observe { node, observations } => Ok(self.observe(*node, observations)),
            Command::ExpireJob { job } => self.expire_job(*job),
            Command::FailUpdate { job, version, reason } => {
                self.fail_update(*job, *version, reason)
            }
            Command::Reap { jobs, nodes, keys } => Ok(self.reap(jobs, nodes, keys)),
            Command::CreateToken(new) => self.create_token(new),
            Command::RevokeToken { token } => self.revoke_token(*token),
            Command::UseJoinToken { proof, machine, name, pool } => {
                self.use_join_token(proof, *machine, name, pool.as_ref())
            }
            Command::RevokeMachine { machine, name } => self.revoke_machine(*machine, name),
            Command::ApplyNamespace { spec, if_version } => self.apply_namespace(spec, *if_version),
            Command::DeleteNamespace { name, if_version } => {
                self.delete_namespace(name, *if_version)
            }
            Command::ReserveNodes { spec, if_version } => self.reserve_nodes(spec, *if_version),
            Command::FreeNodes { name, if_version } => self.free_nodes(name, *if_version),
            Command::TurnNodeReservation { name } => self.turn_node_reservation(name),
            Command::SetPolicyDefault { pool, policy } => {
                self.set_policy_default(pool.as_ref(), *policy)
            }
        }
    }

    fn found(
        &mut self,
        cluster_id: [u8; 16],
        security: Option<&Security>,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id != [0; 16] {
            return Err(Refusal::AlreadyFounded);
        }
        // Together with the founding: between the two the cluster would be
        // open to everybody.
        let tokens = match security {
            Some(security) => self.first_tokens(security)?,
            None => Vec::new(),
        };
        self.state.cluster.authority =
            security.map(|security| Arc::new(security.authority.clone()));
        self.state.cluster.id = cluster_id;
        self.state.cluster.incarnation = 1;
        self.state.cluster.cluster_version = 1;
        self.emit(None, None, None, EventKind::ClusterFounded);
        for row in tokens {
            self.put_new_token(row);
        }
        Ok(Reply::Done)
    }

    fn raise_cluster_version(&mut self, version: u32) -> Result<Reply, Refusal> {
        let found = self.state.cluster.cluster_version;
        // What the build knows is no matter here: every replica must answer
        // alike, and one that does not know the version has stopped before.
        if found.checked_add(1) != Some(version) {
            return Err(Refusal::ClusterVersion { asked: version, found });
        }
        self.state.cluster.cluster_version = version;
        self.emit(None, None, None, EventKind::ClusterVersionRaised { version });
        Ok(Reply::Done)
    }

    fn change_job(
        &mut self,
        job: JobId,
        if_version: Option<u32>,
        change: &JobChange,
    ) -> Result<Reply, Refusal> {
        let row = self.state.job_row(job)?;
        if let Some(asked) = if_version.filter(|asked| *asked != row.version) {
            return Err(Refusal::VersionConflict { job, asked, found: row.version });
        }
        match change {
            JobChange::Stop { reason } => self.stop_job(job, reason),
            JobChange::Restart => self.restart_job(job),
            JobChange::Hold => self.set_held(job, EventKind::JobHeld),
            JobChange::Release => self.set_held(job, EventKind::JobReleased),
            JobChange::Rollback { to_version } => self.roll_back(job, *to_version),
            JobChange::Purge => self.purge_job(job),
        }
    }

    fn emit(
        &mut self,
        job: Option<JobId>,
        allocation: Option<AllocationId>,
        node: Option<NodeId>,
        kind: EventKind,
    ) {
        self.events.push(Event { job, allocation, node, kind });
    }

    fn emit_job(&mut self, job: JobId, kind: EventKind) {
        self.emit(Some(job), None, None, kind);
    }

    fn emit_node(&mut self, node: NodeId, kind: EventKind) {
        self.emit(None, None, Some(node), kind);
    }

    fn emit_allocation(&mut self, id: AllocationId, node: NodeId, kind: EventKind) {
        self.emit(Some(id.job), Some(id), Some(node), kind);
    }
}

/// Cuts a text that came from outside to at most `bytes_max`, at a character.
fn bounded(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
