//! How many members of a gang there are places for, for people who ask why it waits.

use std::sync::Arc;

use berth_model::{NodeState, NodeUse, StateMs};
use berth_state::{NodeRow, Purpose};

use crate::filters::{Request, is_eligible};
use crate::host::Host;
use crate::kinds::Kinds;

/// Places on all nodes together as they are now. Costs O(nodes).
pub(crate) fn places_now(nodes: &[&NodeRow], now: StateMs, request: Request<'_>) -> u64 {
    let let_in = nodes.iter().filter(|row| request.pass.check(row, now).is_ok());
    let_in.map(|row| places_on(Arc::new(NodeRow::clone(row)), now, request)).sum()
}

/// Places if all nodes were empty and took work.
pub(crate) fn places_ever(nodes: &[&NodeRow], request: Request<'_>) -> u64 {
    let empty = |row: &&NodeRow| NodeRow {
        state: NodeState::Ready,
        purpose: Purpose::Work,
        used: NodeUse::default(),
        blocked_ports: Default::default(),
        rests_until: StateMs(0),
        cordoned_devices: Default::default(),
        guards: Default::default(),
        ..NodeRow::clone(row)
    };
    nodes.iter().map(|row| places_on(Arc::new(empty(row)), StateMs(0), request)).sum()
}

fn places_on(row: Arc<NodeRow>, now: StateMs, request: Request<'_>) -> u64 {
    if is_eligible(&row, request).is_err() {
        return 0;
    }
    let mut kinds = Kinds::default();
    let host = Host::new(row, None, now, &mut kinds);
    let suits = request.task.gpu.as_ref().map_or_else(Vec::new, |gpu| kinds.suiting(gpu));
    if host.is_open { u64::from(host.members(request.task, &suits)) } else { 0 }
}
