//! What is set of a reservation of nodes.

use std::collections::BTreeSet;

use berth_model::{AtBegin, Name, NodeReservation, ReservedNodes, WallMs};
use berth_proto::v1;

use crate::problem::{Cause, Field, Problems};

/// The message for what is set of a reservation of nodes.
pub fn node_reservation_to_proto(spec: &NodeReservation) -> v1::NodeReservationSpec {
    let NodeReservation { name, nodes, namespaces, priority_min, from, until, running } = spec;
    let texts = |names: &BTreeSet<Name>| names.iter().map(Name::to_string).collect();
    let (nodes, pool) = match nodes {
        ReservedNodes::Named(names) => (texts(names), None),
        ReservedNodes::Pool(pool) => (Vec::new(), Some(pool.to_string())),
    };
    v1::NodeReservationSpec {
        name: name.to_string(),
        nodes,
        pool,
        namespaces: texts(namespaces),
        priority_min: priority_min.map(u32::from),
        from_ms: from.0,
        until_ms: until.map(|until| until.0),
        end_running: *running == AtBegin::End,
    }
}

pub(crate) fn read_node_reservation(
    at: Field<'_>,
    proto: v1::NodeReservationSpec,
    problems: &mut Problems,
) -> Option<NodeReservation> {
    let v1::NodeReservationSpec {
        name,
        nodes,
        pool,
        namespaces,
        priority_min,
        from_ms,
        until_ms,
        end_running,
    } = proto;
    let pool = problems.optional_name(at.named("pool"), pool.as_deref())?;
    let nodes_at = at.named("nodes");
    let nodes = match pool {
        None => ReservedNodes::Named(read_names(nodes_at, &nodes, problems)?),
        Some(pool) if nodes.is_empty() => ReservedNodes::Pool(pool),
        Some(_) => {
            problems.add(nodes_at, Cause::Contradiction("stand beside a pool"));
            return None;
        }
    };
    let priority_at = at.named("priority_min");
    Some(NodeReservation {
        name: problems.name(at.named("name"), &name)?,
        nodes,
        namespaces: read_names(at.named("namespaces"), &namespaces, problems)?,
        priority_min: match priority_min {
            Some(least) => Some(problems.narrow(priority_at, "0 to 255", least)?),
            None => None,
        },
        from: WallMs(from_ms),
        until: until_ms.map(WallMs),
        running: if end_running { AtBegin::End } else { AtBegin::Keep },
    })
}

/// Each once and in their order, so that there is one encoding.
fn read_names(at: Field<'_>, texts: &[String], problems: &mut Problems) -> Option<BTreeSet<Name>> {
    let names = (0..).zip(texts).map(|(position, text)| problems.name(at.item(position), text));
    names.collect()
}
