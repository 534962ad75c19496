//! Nodes: they register, fall silent, are given up, and are taken out of work.

use std::sync::Arc;

use berth_model::{
    AllocationId, Guards, Misfit, Name, NodeId, NodeSpec, NodeState, NodeUse, StateMs, StopIntent,
    may_stay, validate_node,
};

use super::Step;
use super::fences::reason_to_leave;
use crate::command::{DevicePurpose, Purpose};
use crate::event::EventKind;
use crate::node::NodeRow;
use crate::refusal::Refusal;
use crate::state::Reply;

/// Devices of one node that may be cordoned, those that are away among them: four
/// times as many as a host has.
const CORDONED_DEVICES_MAX: usize = 256;

impl Step<'_> {
    pub(super) fn register_node(
        &mut self,
        name: &Name,
        instance_key: [u8; 16],
        spec: &Arc<NodeSpec>,
    ) -> Result<Reply, Refusal> {
        let incarnation = self.state.cluster.incarnation;
        let known = self.known_node(name, instance_key, spec)?;
        self.check_devices_are_here(known, spec)?;
        let Some(node) = known else {
            if incarnation > 1 {
                return Err(Refusal::StockNotTaken { name: name.clone() });
            }
            let node = self.new_node(name, instance_key, spec, NodeState::Ready);
            return Ok(Reply::Registered { node, session: 1 });
        };
        let row = self.state.node_row(node)?.clone();
        if row.needs_stock(incarnation) {
            return Err(Refusal::StockNotTaken { name: name.clone() });
        }
        let spec = &self.brake_fences(&row, spec);
        let (now, session) = (self.now, row.session + 1);
        self.state.edit_node_devices(node, |row| {
            row.spec = spec.clone();
            row.session = session;
            // It may be mended; if not, its next end says so again.
            row.rests_until = StateMs(0);
            if row.state != NodeState::Ready {
                row.state = NodeState::Ready;
                row.since = now;
            }
        });
        self.emit_node(node, EventKind::NodeRegistered { name: name.clone() });
        self.tell_of_devices(node, &row.spec, spec);
        if row.state != NodeState::Ready {
            self.count_away(node);
            self.emit_node(node, EventKind::NodeStateChanged { state: NodeState::Ready });
        }
        self.stop_what_no_longer_fits(node);
        self.await_no_longer(node);
        if row.spec.pool != spec.pool {
            self.let_places_go_of_all();
        }
        Ok(Reply::Registered { node, session })
    }

    /// The node that an agent speaks for, if the cluster has met it. Refuses an
    /// agent before the cluster is founded, an inventory that breaks a rule,
    /// and a name that another data directory holds.
    pub(super) fn known_node(
        &self,
        name: &Name,
        instance_key: [u8; 16],
        spec: &NodeSpec,
    ) -> Result<Option<NodeId>, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        if let Some(first) = validate_node(spec).first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        let known = self.state.node_named(name);
        if let Some(node) = known
            && self.state.node_row(node)?.instance_key != instance_key
        {
            return Err(Refusal::NodeNameTaken { name: name.clone(), node });
        }
        Ok(known)
    }

    /// Two agents on one host would each give out its devices. A device may move
    /// once the node that it was on is down.
    fn check_devices_are_here(&self, node: Option<NodeId>, spec: &NodeSpec) -> Result<(), Refusal> {
        for device in &spec.devices {
            let Some(owner) = self.state.index.device_nodes.get(&device.uuid) else { continue };
            if Some(*owner) != node {
                let (uuid, name) = (device.uuid.clone(), self.state.node_row(*owner)?.name.clone());
                return Err(Refusal::DeviceElsewhere { uuid, name });
            }
        }
        Ok(())
    }

    /// The inventory without what is on other nodes. What a node says is on it is
    /// heard in any case; its devices are its own when it registers.
    pub(super) fn without_devices_elsewhere(
        &self,
        node: Option<NodeId>,
        spec: &Arc<NodeSpec>,
    ) -> Arc<NodeSpec> {
        let is_elsewhere = |uuid: &String| {
            self.state.index.device_nodes.get(uuid).is_some_and(|owner| Some(*owner) != node)
        };
        if !spec.devices.iter().any(|device| is_elsewhere(&device.uuid)) {
            return spec.clone();
        }
        let mut own = NodeSpec::clone(spec);
        let is_own: Vec<bool> =
            own.devices.iter().map(|device| !is_elsewhere(&device.uuid)).collect();
        for device in &mut own.devices {
            // Ways are said by position.
            let mut kept = is_own.iter();
            device.ways.retain(|_| kept.next().copied().unwrap_or(true));
        }
        own.devices.retain(|device| !is_elsewhere(&device.uuid));
        Arc::new(own)
    }

    pub(super) fn new_node(
        &mut self,
        name: &Name,
        instance_key: [u8; 16],
        spec: &Arc<NodeSpec>,
        state: NodeState,
    ) -> NodeId {
        self.state.cluster.node_counter += 1;
        let node = NodeId(self.state.cluster.node_counter);
        let row = NodeRow {
            id: node,
            name: name.clone(),
            instance_key,
            spec: spec.clone(),
            state,
            purpose: Purpose::Work,
            session: u64::from(state == NodeState::Ready),
            generation: self.first_generation(),
            used: NodeUse::default(),
            live: Default::default(),
            since: self.now,
            blocked_ports: Default::default(),
            rests_until: StateMs(0),
            stock_incarnation: if state == NodeState::Ready {
                self.state.cluster.incarnation
            } else {
                0
            },
            orphans: Default::default(),
            away: Default::default(),
            reservations: Default::default(),
            cordoned_devices: Default::default(),
            guards: Guards::default(),
        };
        self.state.nodes.insert(node, Arc::new(row));
        self.state.index.node_names.insert(name.clone(), node);
        self.state.index_devices(node);
        self.emit_node(node, EventKind::NodeRegistered { name: name.clone() });
        self.emit_node(node, EventKind::NodeStateChanged { state });
        node
    }

    /// Above every generation that any node ever had: an agent that comes back
    /// under another name, or after its node was forgotten, holds an old one
    /// and must not take the new desired state for older still. No entry raises
    /// a generation 2^20 times, so the place of this one in the log, shifted by
    /// as much, is above them all.
    fn first_generation(&self) -> u64 {
        let cluster = &self.state.cluster;
        // Each restore has lifted the generations that there were once.
        (self.state.applied_index + 1 + cluster.incarnation.saturating_sub(1)) << 20
    }

    /// An inventory may shrink under live work: a GPU is pulled, memory is
    /// taken offline. What no longer fits, newest first to go, is moved.
    fn stop_what_no_longer_fits(&mut self, node: NodeId) {
        let Some(row) = self.state.nodes.get(&node).cloned() else { return };
        let mut used = NodeUse::default();
        // Nobody may end an orphan but an operator.
        row.orphans.values().for_each(|orphan| used.add(&orphan.claim));
        // What ends takes no room from what lives.
        let may_go_on = row.away.values().filter(|away| away.stop.is_none());
        may_go_on.for_each(|away| used.add(&away.row.claim));
        let mut misfits: Vec<(AllocationId, Misfit)> = Vec::new();
        for id in &row.live {
            let Some(allocation) = self.state.allocations.get(id) else { continue };
            if allocation.state.stop_intent().is_some() {
                continue;
            }
            match may_stay(row.capacity(&used), &allocation.claim) {
                Ok(()) => used.add(&allocation.claim),
                Err(misfit) => misfits.push((*id, misfit)),
            }
        }
        for (id, misfit) in misfits {
            let reason = reason_to_leave(&row.spec, &misfit);
            self.stop_allocation(id, StopIntent::Drain, &reason);
        }
    }

    pub(super) fn disconnect_node(&mut self, node: NodeId, session: u64) -> Result<Reply, Refusal> {
        self.silent(node, session, NodeState::Ready)?;
        self.set_node_state(node, NodeState::Disconnected);
        self.state.nodes.edit(&node, |row| {
            row.away.values().for_each(|away| row.used.remove(&away.row.claim));
        });
        Ok(Reply::Done)
    }

    pub(super) fn down_node(&mut self, node: NodeId, session: u64) -> Result<Reply, Refusal> {
        let row = self.silent(node, session, NodeState::Disconnected)?;
        self.set_node_state(node, NodeState::Down);
        for id in &row.live {
            self.give_up(*id, "its node is down");
        }
        self.forget_orphans_of(node);
        self.doubt_stock(node);
        Ok(Reply::Done)
    }

    pub(super) fn lose_allocations(
        &mut self,
        node: NodeId,
        session: u64,
        allocations: &[AllocationId],
        reason: &str,
    ) -> Result<Reply, Refusal> {
        let row = self.silent(node, session, NodeState::Disconnected)?;
        for id in allocations.iter().filter(|id| row.live.contains(id)) {
            self.give_up(*id, reason);
        }
        self.doubt_stock(node);
        Ok(Reply::Done)
    }

    pub(super) fn set_purpose(&mut self, node: NodeId, purpose: Purpose) -> Result<Reply, Refusal> {
        if self.state.node_row(node)?.purpose != purpose {
            if purpose != Purpose::Work {
                self.drop_places_on(node, "its node takes nothing new any more");
            }
            self.state.nodes.edit(&node, |row| row.purpose = purpose);
            self.emit_node(node, EventKind::NodePurposeChanged { purpose });
        }
        Ok(Reply::Done)
    }

    pub(super) fn set_device_purpose(
        &mut self,
        node: NodeId,
        uuid: &str,
        purpose: DevicePurpose,
    ) -> Result<Reply, Refusal> {
        let row = self.state.node_row(node)?;
        let is_cordoned = row.cordoned_devices.contains(uuid);
        match purpose {
            DevicePurpose::Cordoned if row.spec.device(uuid).is_none() => {
                return Err(Refusal::NoSuchDevice { uuid: uuid.to_owned(), node });
            }
            DevicePurpose::Cordoned if is_cordoned => return Ok(Reply::Done),
            DevicePurpose::Cordoned if row.cordoned_devices.len() >= CORDONED_DEVICES_MAX => {
                return Err(Refusal::Invalid(format!(
                    "{CORDONED_DEVICES_MAX} devices of the node are cordoned; uncordon those that \
                     are gone"
                )));
            }
            DevicePurpose::Work if !is_cordoned => return Ok(Reply::Done),
            DevicePurpose::Cordoned | DevicePurpose::Work => {}
        }
        self.state.nodes.edit(&node, |row| {
            match purpose {
                DevicePurpose::Cordoned => row.cordoned_devices.insert(uuid.to_owned()),
                DevicePurpose::Work => row.cordoned_devices.remove(uuid),
            };
        });
        self.emit_node(node, EventKind::DevicePurposeChanged { uuid: uuid.to_owned(), purpose });
        Ok(Reply::Done)
    }

    /// Places that are kept stay kept: what ends for them gives back what its host is short of.
    pub(super) fn set_guards(&mut self, node: NodeId, guards: Guards) -> Result<Reply, Refusal> {
        if self.state.node_row(node)?.guards != guards {
            self.state.nodes.edit(&node, |row| row.guards = guards);
            self.emit_node(node, EventKind::NodeGuarded { guards });
        }
        Ok(Reply::Done)
    }

    /// The node, if this command is about its present session and state.
    fn silent(
        &self,
        node: NodeId,
        session: u64,
        state: NodeState,
    ) -> Result<Arc<NodeRow>, Refusal> {
        if self.state.awaits(node) {
            return Err(Refusal::Awaiting { awaited: self.state.awaited() });
        }
        let row = self.state.node_row(node)?;
        if row.session == session && row.state == state {
            Ok(row.clone())
        } else {
            Err(Refusal::StaleSession { node })
        }
    }

    pub(super) fn set_node_state(&mut self, node: NodeId, state: NodeState) {
        let now = self.now;
        if state != NodeState::Ready {
            self.drop_places_on(node, "its node is silent");
        }
        self.state.edit_node_devices(node, |row| {
            row.state = state;
            row.since = now;
        });
        self.emit_node(node, EventKind::NodeStateChanged { state });
    }

    /// What should be on the node has changed. Said once per entry and node, when
    /// the entry is through.
    pub(super) fn bump_generation(&mut self, node: NodeId) {
        if let Some(generation) = self.state.nodes.edit(&node, |row| {
            row.generation += 1;
            row.generation
        }) {
            self.desired_changed.insert(node, generation);
        }
    }
}
