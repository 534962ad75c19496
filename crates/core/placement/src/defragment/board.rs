//! What is placed where, as a search for moves sees it: the nodes with what is free of them, and
//! on each who may leave it. Kept from question to question; what has changed is looked at anew.

use std::collections::BTreeMap;

use berth_model::{AllocationId, NodeUse, StateMs, TaskSpec};
use berth_state::{AllocationRow, ClusterState, JobRow};

use super::Move;
use super::destinations::Destinations;
use crate::filters::Request;
use crate::host::Host;
use crate::reckoned::Reckoned;
use crate::resources::claim;
use crate::roster::{Continuity, Roster};
use crate::search::FitKey;
use crate::soft::SoftView;
use crate::terms::cost::lost_of;

/// What moving a live allocation costs; `None` if it stays where it is.
pub type MayMove<'m> = &'m dyn Fn(&JobRow, &AllocationRow) -> Option<u64>;

/// A cluster to be searched; one is made with `default`.
#[derive(Default)]
pub struct Board {
    pub(super) roster: Roster,
    pub(super) reckoned: Reckoned,
    /// By kind of request, and where each would go.
    pub(super) kinds: Vec<Destinations>,
    numbers: BTreeMap<FitKey, usize>,
    /// By position of the node, in the order of their ids.
    pub(super) movers: Vec<Vec<Mover>>,
    /// Changes of the roster that are taken in; `None` before the first look.
    changes_seen: Option<usize>,
}

/// Somebody who may leave a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mover {
    pub id: AllocationId,
    pub cost: u64,
    /// Position among the kinds of requests.
    pub kind: usize,
    pub held: Held,
}

/// Somebody who was found another place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Settled {
    /// Positions of the node that is left, of who leaves it, of the node that is gone to and of
    /// the devices there.
    pub from: usize,
    pub mover: usize,
    pub to: usize,
    pub devices: Vec<usize>,
}

/// What somebody holds of a node, in the node's own terms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Held {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub ports: usize,
    /// Position of the device, thousandths and memory of it.
    pub devices: Vec<(usize, u32, u64)>,
}

impl Held {
    fn of(host: &Host, row: &AllocationRow) -> Held {
        let claim = &row.claim;
        let devices = claim.devices.iter().filter_map(|one| {
            let at = host.row.spec.devices.iter().position(|device| device.uuid == one.uuid)?;
            Some((at, one.share.0, one.memory.0))
        });
        Held {
            cpu_milli: claim.cpu.0,
            memory_bytes: claim.memory.0,
            ports: claim.ports.len(),
            devices: devices.collect(),
        }
    }

    /// What a task takes if it is given these devices.
    pub fn taken_by(host: &Host, task: &TaskSpec, chosen: &[usize]) -> Held {
        let part = |at: &usize| {
            let gpu = task.gpu.as_ref()?;
            let memory = gpu.memory_of(host.row.spec.devices.get(*at)?.memory);
            Some((*at, gpu.share.0, memory.0))
        };
        Held {
            cpu_milli: task.cpu.0,
            memory_bytes: task.memory.0,
            ports: task.ports.len(),
            devices: chosen.iter().filter_map(part).collect(),
        }
    }
}

impl Board {
    /// Takes in a view. Costs O(what has changed since the last).
    pub fn observe(
        &mut self,
        view: &ClusterState,
        soft: &SoftView,
        now: StateMs,
        may_move: MayMove<'_>,
    ) {
        if self.roster.observe(view, soft, now) == Continuity::Anew {
            self.movers.clear();
            self.kinds.clear();
            self.numbers.clear();
            self.changes_seen = None;
        }
        let is_other_mix = self.reckoned.take_mix(&soft.mix, &self.roster);
        let prices = self.reckoned.prices().clone();
        self.reckoned.take_stocks(&self.roster);
        if is_other_mix || prices != *self.reckoned.prices() {
            self.kinds.iter_mut().for_each(Destinations::forget);
        }
        let seen = self.changes_seen.replace(self.roster.changes.seen());
        let changed: Vec<usize> = match seen.and_then(|seen| self.roster.changes.after(seen)) {
            Some(changed) => changed.to_vec(),
            None => (0..self.roster.len()).collect(),
        };
        self.movers.resize(self.roster.len(), Vec::new());
        for position in changed {
            self.movers[position] = self.movers_on(view, position, may_move);
        }
    }

    fn movers_on(
        &mut self,
        view: &ClusterState,
        position: usize,
        may_move: MayMove<'_>,
    ) -> Vec<Mover> {
        let live = self.roster.host(position).row.live.clone();
        let mut movers = Vec::new();
        for id in live {
            let Some(row) = view.allocations().get(&id) else { continue };
            let Some(job) = view.jobs().get(&id.job) else { continue };
            let Some(task) = job.spec.tasks.get(usize::from(id.task.0)) else { continue };
            let Some(cost) = may_move(job, row) else { continue };
            // When it begins there nobody knows: first it ends where it is.
            let kind = self.kind_of(Request::of(view, &job.spec, task).later());
            let held = Held::of(self.roster.host(position), row);
            movers.push(Mover { id, cost, kind, held });
        }
        movers
    }

    /// The number of a kind of request.
    pub(super) fn kind_of(&mut self, request: Request<'_>) -> usize {
        let kinds = &mut self.kinds;
        *self.numbers.entry(FitKey::of(request)).or_insert_with(|| {
            kinds.push(Destinations::new(request));
            kinds.len() - 1
        })
    }

    /// Brings what is known of the places of all kinds up to date.
    pub(super) fn catch_up(&mut self) {
        let Board { roster, reckoned, kinds, .. } = self;
        kinds.iter_mut().for_each(|kind| kind.catch_up(roster, reckoned));
    }

    /// What is expected to be lost of a node as it is, in thousandths of a GPU.
    pub(super) fn lost_of(&self, host: &Host) -> i64 {
        lost_of(host, self.reckoned.inputs().mix)
    }

    /// What is given back of the price of its devices by somebody who leaves a node.
    pub(super) fn given_back(&self, host: &Host, mover: &Mover) -> i64 {
        let price = |at: usize| i64::from(self.reckoned.prices().of(host.spots[at].kind));
        let devices = mover.held.devices.iter();
        devices.map(|(at, share, _)| price(*at) * i64::from(*share)).sum::<i64>() / 1000
    }

    /// The moves of those that were found places, with what they take there.
    pub(super) fn moves(&self, settled: &[Settled], now: StateMs) -> Vec<Move> {
        let mut used: BTreeMap<usize, NodeUse> = BTreeMap::new();
        let of = |one: &Settled| {
            let mover = &self.movers[one.from][one.mover];
            let host = self.roster.host(one.to);
            let used = used.entry(one.to).or_insert_with(|| host.used().clone());
            let task = &self.kinds[mover.kind].task;
            let claim = claim(&host.row, used, now, task, mover.id, &one.devices)?;
            used.add(&claim);
            let from = self.roster.host(one.from).row.id;
            Some(Move { allocation: mover.id, from, to: host.row.id, claim, cost: mover.cost })
        };
        settled.iter().filter_map(of).collect()
    }
}
