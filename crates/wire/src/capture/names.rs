//! Names in what a capture keeps, and others in their place. One and the same name is replaced
//! everywhere by one and the same other, so that what is asked for still matches what there is;
//! and the others stand in the same order, so that whatever falls by name falls alike.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{Claim, Constraints, Name, NodeReservation, NodeSpec, ReservedNodes, TaskSpec};
use berth_state::decision::Decision;
use berth_state::{AllocationRow, JobRow, NodeRow, Placement, Stored};

/// Whatever is done with each name.
pub(super) trait Names {
    fn text(&mut self, text: &mut String);

    fn name(&mut self, name: &mut Name);
}

/// Gathers them.
#[derive(Default)]
pub(super) struct Gathered(BTreeSet<String>);

impl Names for Gathered {
    fn text(&mut self, text: &mut String) {
        if !self.0.contains(text.as_str()) {
            self.0.insert(text.clone());
        }
    }

    fn name(&mut self, name: &mut Name) {
        if !self.0.contains(name.as_str()) {
            self.0.insert(name.to_string());
        }
    }
}

impl Gathered {
    /// Others for all of them, in the same order.
    pub fn others(self) -> Others {
        let is_before = |text: &str| text < TaskSpec::MASTER_PORT;
        let other = |(number, text): (usize, String)| {
            // The planner itself names a port of a gang: that name stays, and what comes before
            // it begins with a letter before its own.
            let letter = if is_before(&text) { 'a' } else { 'r' };
            let other = match text.as_str() {
                "" => String::new(),
                TaskSpec::MASTER_PORT => text.clone(),
                _ => format!("{letter}{number:08}"),
            };
            (text, other)
        };
        Others(self.0.into_iter().enumerate().map(other).collect())
    }
}

/// Replaces them.
#[derive(Default)]
pub(super) struct Others(BTreeMap<String, String>);

impl Names for Others {
    fn text(&mut self, text: &mut String) {
        // What was not gathered is not written at all.
        *text = self.0.get(text.as_str()).cloned().unwrap_or_default();
    }

    fn name(&mut self, name: &mut Name) {
        let other = self.0.get(name.as_str()).map_or("unknown", String::as_str);
        *name = Name::new(other).expect("a letter and digits are a name");
    }
}

pub(super) fn in_row(row: &mut Stored, names: &mut impl Names) {
    match row {
        Stored::Cluster(_) => {}
        Stored::Job(row) => in_job(Arc::make_mut(row), names),
        Stored::Task(..) => {}
        Stored::Allocation(row) => in_allocation(Arc::make_mut(row), names),
        Stored::Node(row) => in_node(Arc::make_mut(row), names),
        Stored::Namespace(row) => names.name(&mut Arc::make_mut(row).spec.name),
        Stored::Average(name, _) => names.name(name),
        Stored::NodeReservation(row) => in_node_reservation(&mut Arc::make_mut(row).spec, names),
        // They are not kept.
        Stored::Key(..) | Stored::Token(_) | Stored::Revocation(_) => {}
    }
}

/// In what belongs to a decision beside its view.
pub(super) fn in_decision(decision: &mut Decision, names: &mut impl Names) {
    let inputs = &mut decision.inputs;
    for one in &mut inputs.gave_up {
        in_constraints(&mut one.constraints, names);
        one.by.iter_mut().for_each(|(namespace, _)| names.name(namespace));
    }
    let made = &mut decision.made;
    made.placements.iter_mut().for_each(|one| in_placement(one, names));
    made.reservations.iter_mut().for_each(|one| in_placement(&mut one.placement, names));
}

fn in_node_reservation(spec: &mut NodeReservation, names: &mut impl Names) {
    let NodeReservation { name, nodes, namespaces, priority_min: _, from: _, until: _, running: _ } =
        spec;
    names.name(name);
    match nodes {
        ReservedNodes::Named(nodes) => in_set(nodes, names),
        ReservedNodes::Pool(pool) => names.name(pool),
    }
    in_set(namespaces, names);
}

fn in_set(set: &mut BTreeSet<Name>, names: &mut impl Names) {
    let mut all: Vec<Name> = std::mem::take(set).into_iter().collect();
    all.iter_mut().for_each(|name| names.name(name));
    set.extend(all);
}

fn in_placement(placement: &mut Placement, names: &mut impl Names) {
    placement.devices.iter_mut().for_each(|device| names.text(&mut device.uuid));
    placement.ports.iter_mut().for_each(|port| names.name(&mut port.name));
}

fn in_job(row: &mut JobRow, names: &mut impl Names) {
    let versions = row.versions.iter_mut().map(|version| &mut version.spec);
    for spec in versions.chain([&mut row.spec]) {
        let spec = Arc::make_mut(spec);
        names.name(&mut spec.name);
        names.name(&mut spec.namespace);
        in_constraints(&mut spec.constraints, names);
        for task in &mut spec.tasks {
            names.name(&mut task.name);
            task.ports.iter_mut().for_each(|port| names.name(port));
        }
    }
}

fn in_constraints(constraints: &mut Constraints, names: &mut impl Names) {
    let Constraints { labels, pool, node } = constraints;
    in_labels(labels, names);
    pool.iter_mut().for_each(|pool| names.name(pool));
    node.iter_mut().for_each(|node| names.name(node));
}

fn in_labels(labels: &mut BTreeMap<String, String>, names: &mut impl Names) {
    let both = |(mut key, mut value): (String, String)| {
        names.text(&mut key);
        names.text(&mut value);
        (key, value)
    };
    *labels = std::mem::take(labels).into_iter().map(both).collect();
}

fn in_allocation(row: &mut AllocationRow, names: &mut impl Names) {
    in_claim(&mut row.claim, names);
}

fn in_claim(claim: &mut Claim, names: &mut impl Names) {
    claim.devices.iter_mut().for_each(|device| names.text(&mut device.uuid));
    claim.ports.iter_mut().for_each(|port| names.name(&mut port.name));
}

fn in_node(row: &mut NodeRow, names: &mut impl Names) {
    names.name(&mut row.name);
    in_node_spec(Arc::make_mut(&mut row.spec), names);
    row.used.devices = in_keys(std::mem::take(&mut row.used.devices), names);
    row.orphans.values_mut().for_each(|orphan| in_claim(&mut orphan.claim, names));
    row.away.values_mut().for_each(|away| in_allocation(Arc::make_mut(&mut away.row), names));
    for one in &mut row.reservations {
        one.members.values_mut().for_each(|place| in_claim(&mut place.claim, names));
        one.held.devices = in_keys(std::mem::take(&mut one.held.devices), names);
    }
    let cordoned = std::mem::take(&mut row.cordoned_devices).into_iter().map(|uuid| (uuid, ()));
    row.cordoned_devices = in_keys(cordoned.collect(), names).into_keys().collect();
}

fn in_node_spec(spec: &mut NodeSpec, names: &mut impl Names) {
    in_labels(&mut spec.labels, names);
    names.name(&mut spec.pool);
    names.name(&mut spec.zone);
    for device in &mut spec.devices {
        names.text(&mut device.uuid);
        device.slice.iter_mut().for_each(|slice| names.text(&mut slice.parent));
    }
}

fn in_keys<V>(map: BTreeMap<String, V>, names: &mut impl Names) -> BTreeMap<String, V> {
    let one = |(mut key, value): (String, V)| {
        names.text(&mut key);
        (key, value)
    };
    map.into_iter().map(one).collect()
}
