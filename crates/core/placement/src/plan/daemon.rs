//! Daemons: one instance on every node that could run it. Which node is not
//! chosen but given, so there is nothing to rank.

use std::collections::BTreeSet;

use berth_model::{InstanceIndex, Misfit, NodeId};
use berth_state::ScoreParts;

use super::{Run, Tally, Visit};
use crate::devices::tightest;
use crate::filters::{has_room, is_eligible};
use crate::report::Why;
use crate::resources::claim;

impl<'a> Run<'_, 'a> {
    /// Gives every node that could run it and has none its instance, whose
    /// index is the node's id.
    pub(super) fn place_daemon(&mut self, visit: Visit<'a>) -> Tally {
        let mut tally = Tally::default();
        if visit.row.live as usize >= self.view.nodes().len() {
            return tally;
        }
        let live: BTreeSet<InstanceIndex> = self
            .view
            .allocations_of_task(visit.key.job, visit.key.task)
            .map(|row| row.id.instance)
            .collect();
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                break;
            }
            let host = self.roster.host(position);
            let row = &host.row;
            let takes = row.takes_daemons(self.now);
            let Some(instance) = instance_of(row.id).filter(|_| takes) else { continue };
            let covered = live.contains(&InstanceIndex(instance))
                || visit.row.failed.contains(instance)
                || row.has_orphan_of_task(visit.key.job, visit.key.task)
                || row.awaits_return_of(visit.key.job, visit.key.task);
            if covered || is_eligible(row, visit.request()).is_err() {
                continue;
            }
            let why = self.place_daemon_on(visit, position, instance);
            match why {
                None => tally.placed += 1,
                Some(why) => {
                    tally.left += 1;
                    tally.why = Some(why);
                }
            }
            if self.meter.exhausted {
                break;
            }
        }
        tally
    }

    /// What stands in the way of a daemon on an eligible node without one.
    fn place_daemon_on(&mut self, visit: Visit<'a>, position: usize, instance: u32) -> Option<Why> {
        if let Some(at) = visit.waits_until(instance, self.now) {
            self.wake(at);
            return Some(Why::Backoff);
        }
        if visit.would_be_twice(self.view, instance) {
            return Some(Why::Orphan);
        }
        if self.has_no_room(visit, instance) {
            return Some(Why::Quota);
        }
        let host = self.roster.host(position);
        if let Err(misfit) = has_room(&host.row, host.used(), self.now, visit.task) {
            if matches!(misfit, Misfit::PortsBusy { .. }) {
                let blocks = host.row.blocked_ports.values();
                let ends = blocks.copied().filter(|at| *at > self.now).min();
                ends.into_iter().for_each(|at| self.wake(at));
            }
            return Some(Why::NoNode);
        }
        if !self.meter.may_place() {
            return Some(Why::Budget);
        }
        let allocation = visit.allocation(self.view, instance);
        let chosen = match &visit.task.gpu {
            None => Some(Vec::new()),
            Some(gpu) => tightest(host, gpu, &self.roster.kinds.suiting(gpu)),
        };
        let taken = chosen.and_then(|chosen| {
            claim(&host.row, host.used(), self.now, visit.task, allocation, &chosen)
        });
        let Some(taken) = taken else { return Some(Why::NoNode) };
        let view_index = self.view.applied_index();
        let parts = ScoreParts { policy: "daemon".to_owned(), parts: Vec::new(), view_index };
        // It gives way to nobody: it belongs to its node.
        self.hand_out(visit, allocation, (position, taken), parts);
        None
    }
}

/// The instance of a daemon on a node; `None` beyond what an index can hold,
/// which takes four thousand million registrations.
fn instance_of(node: NodeId) -> Option<u32> {
    u32::try_from(node.0).ok()
}
