//! Where one kind of request could go now, the cheapest place first.

use std::collections::BTreeSet;

use berth_model::{Constraints, JobKind, TaskSpec};
use berth_state::Permit;

use crate::filters::{Pass, Request};
use crate::host::Host;
use crate::reckoned::Reckoned;
use crate::roster::Roster;
use crate::terms::{Look, cost};

/// The places for one kind of request.
pub(super) struct Destinations {
    pub task: TaskSpec,
    constraints: Constraints,
    permit: Permit,
    pub suits: Vec<bool>,
    /// By position.
    costs: Vec<Option<i64>>,
    ranked: BTreeSet<(i64, usize)>,
    /// Changes of the roster that are taken in; `None` before the first look.
    seen: Option<usize>,
}

impl Destinations {
    pub fn new(request: Request<'_>) -> Destinations {
        Destinations {
            task: request.task.clone(),
            constraints: request.constraints.clone(),
            permit: request.pass.permit,
            suits: Vec::new(),
            costs: Vec::new(),
            ranked: BTreeSet::new(),
            seen: None,
        }
    }

    /// What costs were made of is another.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    pub fn catch_up(&mut self, roster: &Roster, reckoned: &Reckoned) {
        if let Some(gpu) = self.task.gpu.as_ref().filter(|_| self.suits.len() < roster.kinds.len())
        {
            self.suits = roster.kinds.suiting(gpu);
        }
        let changed = match self.seen.and_then(|seen| roster.changes.after(seen)) {
            Some(changed) => changed.to_vec(),
            None => {
                self.costs = vec![None; roster.len()];
                self.ranked.clear();
                (0..roster.len()).collect()
            }
        };
        self.seen = Some(roster.changes.seen());
        self.costs.resize(roster.len(), None);
        for position in changed {
            let found = self.cost_on(roster.host(position), reckoned).map(|(cost, _)| cost);
            let known = std::mem::replace(&mut self.costs[position], found);
            if known != found {
                known.map(|cost| self.ranked.remove(&(cost, position)));
                found.map(|cost| self.ranked.insert((cost, position)));
            }
        }
    }

    /// Positions with room, the cheapest first.
    pub fn ranked(&self) -> impl Iterator<Item = (i64, usize)> + '_ {
        self.ranked.iter().copied()
    }

    /// Whether the request could run there at all, and the node takes work.
    pub fn may_use(&self, host: &Host) -> bool {
        let pass = Pass { permit: self.permit, view: None };
        let (task, constraints) = (&self.task, &self.constraints);
        host.takes(Request { task, constraints, kind: JobKind::Batch, pass })
    }

    /// What a place costs others, in thousandths of a GPU, and its devices; `None` if there is no
    /// room.
    pub fn cost_on(&self, host: &Host, reckoned: &Reckoned) -> Option<(i64, Vec<usize>)> {
        if !self.may_use(host) || !host.has_room(&self.task, &self.suits) {
            return None;
        }
        self.cost_where_it_fits(host, reckoned)
    }

    /// The same where there is known to be room.
    pub fn cost_where_it_fits(
        &self,
        host: &Host,
        reckoned: &Reckoned,
    ) -> Option<(i64, Vec<usize>)> {
        let look = Look {
            host,
            task: &self.task,
            suits: &self.suits,
            inputs: reckoned.inputs(),
            on_node: 0,
        };
        let (losses, chosen) = cost::best_place(look)?;
        let priced: i64 = self.task.gpu.as_ref().map_or(0, |gpu| {
            let price = |at: &usize| i64::from(reckoned.prices().of(host.spots[*at].kind));
            chosen.iter().map(price).sum::<i64>() * i64::from(gpu.share.0) / 1000
        });
        Some((losses.milli() + priced, chosen))
    }
}
