//! Nodes that are reserved: for a namespace, for what is urgent, or for nobody, from one time to
//! another or until somebody ends it.

use std::collections::BTreeSet;

use crate::name::Name;
use crate::spec::JobSpec;
use crate::time::WallMs;
use crate::validate::Violation;

/// Reservations of nodes in a cluster. Whoever plans has a bit for each.
pub const NODE_RESERVATIONS_MAX: usize = 64;
/// Nodes that one names: with the longest names still far from a log entry's bound. More have a
/// pool.
pub const RESERVED_NODES_MAX: usize = 512;
/// Namespaces that one names.
pub const RESERVED_NAMESPACES_MAX: usize = 64;

/// What an administrator sets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeReservation {
    pub name: Name,
    pub nodes: ReservedNodes,
    /// Whose jobs are let in; empty: of any namespace.
    pub namespaces: BTreeSet<Name>,
    /// And that are at least so urgent. Where neither is said nobody is let in.
    pub priority_min: Option<u8>,
    pub from: WallMs,
    /// `None`: until somebody ends it.
    pub until: Option<WallMs>,
    pub running: AtBegin,
}

/// Which nodes are reserved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReservedNodes {
    /// By name; one that is not there yet is reserved when it comes.
    Named(BTreeSet<Name>),
    /// All of a pool, also those which come later.
    Pool(Name),
}

/// What becomes of that which runs there when it begins, and is not let in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum AtBegin {
    /// It runs on until it ends. Before, only what ends in time by its time limit is put there.
    #[default]
    Keep,
    /// It is asked to end, and goes elsewhere as from a node that is drained. Before, anything is
    /// put there.
    End,
}

impl AtBegin {
    pub const ALL: [AtBegin; 2] = [AtBegin::Keep, AtBegin::End];

    pub fn name(self) -> &'static str {
        match self {
            AtBegin::Keep => "keep",
            AtBegin::End => "end",
        }
    }
}

impl NodeReservation {
    /// Whether a job of this namespace and priority is let in.
    pub fn lets_in(&self, namespace: &Name, priority: u8) -> bool {
        let says = !self.namespaces.is_empty() || self.priority_min.is_some();
        let is_named = self.namespaces.is_empty() || self.namespaces.contains(namespace);
        says && is_named && self.priority_min.is_none_or(|least| priority >= least)
    }

    /// Whether it is of a node of this name, in this pool.
    pub fn covers(&self, node: &Name, pool: &Name) -> bool {
        match &self.nodes {
            ReservedNodes::Named(names) => names.contains(node),
            ReservedNodes::Pool(reserved) => reserved == pool,
        }
    }

    /// Whether there is a moment at which both are in force.
    pub fn meets(&self, other: &NodeReservation) -> bool {
        let is_over_before =
            |one: &NodeReservation, from: WallMs| one.until.is_some_and(|until| until <= from);
        !is_over_before(self, other.from) && !is_over_before(other, self.from)
    }
}

/// What of it could not be meant.
pub fn validate_node_reservation(one: &NodeReservation) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violate = |field: &str, message: String| {
        violations.push(Violation { field: field.to_owned(), message, hint: None });
    };
    if let ReservedNodes::Named(names) = &one.nodes {
        if names.is_empty() {
            violate("nodes", "expected at least one node, or a pool".to_owned());
        }
        if names.len() > RESERVED_NODES_MAX {
            let found = names.len();
            violate("nodes", format!("expected at most {RESERVED_NODES_MAX}, found {found}"));
        }
    }
    if one.namespaces.len() > RESERVED_NAMESPACES_MAX {
        let found = one.namespaces.len();
        violate("namespaces", format!("expected at most {RESERVED_NAMESPACES_MAX}, found {found}"));
    }
    if let Some(least) = one.priority_min.filter(|least| *least > JobSpec::PRIORITY_MAX) {
        let most = JobSpec::PRIORITY_MAX;
        violate("priority_min", format!("expected 0 to {most}, found {least}"));
    }
    if one.until.is_some_and(|until| until <= one.from) {
        violate("until", "expected a time after its beginning".to_owned());
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn reservation(from: u64, until: Option<u64>) -> NodeReservation {
        NodeReservation {
            name: name("launch"),
            nodes: ReservedNodes::Named([name("gpu-1")].into()),
            namespaces: BTreeSet::new(),
            priority_min: None,
            from: WallMs(from),
            until: until.map(WallMs),
            running: AtBegin::Keep,
        }
    }

    #[test]
    fn who_is_let_in_is_said_or_nobody_is() {
        let closed = reservation(0, None);
        assert!(!closed.lets_in(&name("research"), 100));
        let urgent = NodeReservation { priority_min: Some(80), ..closed.clone() };
        assert_eq!([79, 80].map(|one| urgent.lets_in(&name("research"), one)), [false, true]);
        let named = NodeReservation { namespaces: [name("research")].into(), ..closed };
        assert_eq!(["research", "other"].map(|one| named.lets_in(&name(one), 0)), [true, false]);
        let both = NodeReservation { priority_min: Some(80), ..named };
        assert!(both.lets_in(&name("research"), 80));
        assert!(!both.lets_in(&name("research"), 79) && !both.lets_in(&name("other"), 80));
    }

    #[test]
    fn two_meet_where_both_are_in_force() {
        let meets = |one: (u64, Option<u64>), other: (u64, Option<u64>)| {
            let (one, other) = (reservation(one.0, one.1), reservation(other.0, other.1));
            assert_eq!(one.meets(&other), other.meets(&one));
            one.meets(&other)
        };
        assert!(meets((0, None), (50, Some(60))));
        assert!(meets((0, Some(51)), (50, Some(60))));
        assert!(!meets((0, Some(50)), (50, None)));
        assert!(meets((0, None), (9, None)));
    }

    #[test]
    fn what_could_not_be_meant_is_told() {
        let told = |one: &NodeReservation| {
            let violations = validate_node_reservation(one);
            violations.into_iter().map(|one| one.field).collect::<Vec<_>>()
        };
        assert_eq!(told(&reservation(5, Some(6))), Vec::<String>::new());
        let nobody = ReservedNodes::Named(BTreeSet::new());
        let wrong =
            NodeReservation { nodes: nobody, priority_min: Some(101), ..reservation(5, Some(5)) };
        assert_eq!(told(&wrong), ["nodes", "priority_min", "until"]);
        let many = (0..=RESERVED_NODES_MAX).map(|number| name(&format!("n{number}"))).collect();
        let nodes = ReservedNodes::Named(many);
        assert_eq!(told(&NodeReservation { nodes, ..reservation(5, None) }), ["nodes"]);
    }
}
