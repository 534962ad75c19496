//! What should be on a node, as its agent is told: whole, or what changed
//! since it was last told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{AllocationId, JobSpec, NodeId, SpecDigest};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState};
use berth_wire::agent::{
    Delta, DesiredRow, Full, Held, delta_to_proto, desired_digest, full_to_proto,
};

/// What one session has been told so far.
#[derive(Default)]
pub struct Told {
    generation: Option<u64>,
    incarnation: u64,
    rows: BTreeMap<AllocationId, DesiredRow>,
    /// Specifications that the session has carried.
    specs: BTreeSet<SpecDigest>,
}

impl Told {
    /// What an agent that names what it holds needs to hear first; nothing if
    /// it is up to date.
    pub fn greet(
        &mut self,
        view: &ClusterState,
        node: NodeId,
        held: Option<Held>,
    ) -> Option<v1::scheduler_message::Message> {
        let (generation, rows) = rows_of(view, node)?;
        let incarnation = view.cluster().incarnation;
        let current = Held { incarnation, generation, digest: desired_digest(rows.values()) };
        if held == Some(current) {
            *self =
                Told { generation: Some(generation), incarnation, rows, specs: BTreeSet::new() };
            return None;
        }
        self.full(view, node)
    }

    /// Everything, as after `NeedFull`.
    pub fn full(
        &mut self,
        view: &ClusterState,
        node: NodeId,
    ) -> Option<v1::scheduler_message::Message> {
        let (generation, rows) = rows_of(view, node)?;
        let specs = specs_of(view, rows.values(), &BTreeSet::new());
        self.specs = specs.iter().map(|(digest, _)| *digest).collect();
        let full = Full {
            incarnation: view.cluster().incarnation,
            generation,
            digest: desired_digest(rows.values()),
            rows: rows.values().cloned().collect(),
            specs,
        };
        self.generation = Some(generation);
        self.incarnation = full.incarnation;
        self.rows = rows;
        Some(v1::scheduler_message::Message::Full(full_to_proto(&full)))
    }

    /// What changed since the last message; nothing if nothing did.
    pub fn update(
        &mut self,
        view: &ClusterState,
        node: NodeId,
    ) -> Option<v1::scheduler_message::Message> {
        let Some(from) = self.generation else { return self.full(view, node) };
        if view.cluster().incarnation != self.incarnation {
            return self.full(view, node);
        }
        let (to, rows) = rows_of(view, node)?;
        if to == from {
            return None;
        }
        let upserts: Vec<DesiredRow> = rows
            .iter()
            .filter(|(id, row)| self.rows.get(id) != Some(row))
            .map(|(_, row)| row.clone())
            .collect();
        let removed = self.rows.keys().filter(|id| !rows.contains_key(id)).copied().collect();
        let specs = specs_of(view, upserts.iter(), &self.specs);
        self.specs.extend(specs.iter().map(|(digest, _)| *digest));
        let digest = desired_digest(rows.values());
        let incarnation = self.incarnation;
        let delta = Delta { incarnation, from, to, upserts, removed, specs, digest };
        self.generation = Some(to);
        self.rows = rows;
        self.forget_unused_specs();
        Some(v1::scheduler_message::Message::Delta(delta_to_proto(&delta)))
    }

    /// An agent keeps a specification for as long as a row names it; so does
    /// this side, or the agent would have to keep all that ever came.
    fn forget_unused_specs(&mut self) {
        let used: BTreeSet<SpecDigest> = self.rows.values().map(|row| row.spec).collect();
        self.specs.retain(|digest| used.contains(digest));
    }
}

/// The generation and rows of a node; `None` where there is no such node.
fn rows_of(view: &ClusterState, node: NodeId) -> Option<(u64, BTreeMap<AllocationId, DesiredRow>)> {
    let node = view.nodes().get(&node)?;
    let live = node.live.iter().filter_map(|id| view.allocations().get(id));
    let live = live.map(|row| desired_row(row, told_to_stop(row)));
    // Until its fate is decided it is to run on; what may have to end before it ever began is
    // told so, or nobody would ever hear of its end.
    let away = view.away(node).map(|(row, stop)| desired_row(row, stop.as_ref()));
    let rows = live.chain(away).map(|row| (row.allocation, row)).collect();
    Some((node.generation, rows))
}

/// Why it is to end; nothing while its callers are let go.
fn told_to_stop(row: &AllocationRow) -> Option<&String> {
    (row.state.stop_intent().is_some() && row.draining.is_none()).then_some(&row.reason)
}

fn desired_row(row: &AllocationRow, stop: Option<&String>) -> DesiredRow {
    DesiredRow {
        allocation: row.id,
        spec: row.spec_digest,
        devices: row.claim.devices.clone(),
        ports: row.claim.ports.clone(),
        seat: row.seat.clone(),
        stop: stop.cloned(),
    }
}

/// The specifications that these rows need and that are not `known`.
fn specs_of<'a>(
    view: &ClusterState,
    rows: impl Iterator<Item = &'a DesiredRow>,
    known: &BTreeSet<SpecDigest>,
) -> Vec<(SpecDigest, Arc<JobSpec>)> {
    let mut specs = BTreeMap::new();
    for row in rows.filter(|row| !known.contains(&row.spec)) {
        let Some(job) = view.jobs().get(&row.allocation.job) else { continue };
        if job.digest == row.spec {
            specs.insert(row.spec, job.spec.clone());
        } else if let Some(old) = job.versions.iter().find(|old| old.digest == row.spec) {
            specs.insert(row.spec, old.spec.clone());
        }
    }
    specs.into_iter().collect()
}
