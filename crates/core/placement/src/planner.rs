//! The planner as a value: what it has reckoned about the nodes stays good from plan to plan,
//! as far as they have not changed. It decides like one that was made anew from the view; a
//! property test holds it to that.

use std::collections::BTreeMap;

use berth_model::{JobId, StateMs};
use berth_state::ClusterState;

use crate::budget::Budget;
use crate::filters::Request;
use crate::plan::{HuntKey, Run};
use crate::reckoned::Reckoned;
use crate::report::PlanOutcome;
use crate::roster::{Continuity, Roster};
use crate::search::{Search, SearchKey, Surface};
use crate::soft::SoftView;
use crate::walk;

/// Positions that all searches together may rank, at some thirty bytes each.
const RANKED_POSITIONS_MAX: usize = 2_000_000;
/// Searches that are kept however many nodes there are.
const SEARCHES_MIN: usize = 64;
/// And however few.
const SEARCHES_MAX: usize = 4096;

/// A planner; one is made with `default`.
#[derive(Default)]
pub struct Planner {
    pub(crate) roster: Roster,
    pub(crate) searches: Searches,
    pub(crate) reckoned: Reckoned,
    /// For whom nobody ends, and when that is looked at again.
    pub(crate) hopeless: BTreeMap<HuntKey, StateMs>,
}

/// Searches by what is looked for; the one unused for longest makes room.
pub(crate) struct Searches {
    by_key: BTreeMap<SearchKey, Search>,
    /// How many are kept however few nodes there are.
    pub kept_max: usize,
    uses: u64,
}

impl Planner {
    /// Plans everything that waits. Equal views, soft views, times and budgets give equal
    /// plans, whatever was planned before, as long as the budgets suffice to look at every
    /// node.
    ///
    /// Costs O(what has changed since the last plan), O(nodes) for each kind of request that
    /// was not met before, and then O(log nodes) for each placement; where several namespaces hold
    /// or queue something, O(nodes + queue) more, to know whose turn it is.
    pub fn plan(
        &mut self,
        view: &ClusterState,
        soft: &SoftView,
        now: StateMs,
        budget: Budget,
    ) -> PlanOutcome {
        Run::new(self, view, soft, now, budget).for_all().over(walk::everything(view))
    }

    /// Plans some jobs as if nothing else waited. Where nothing else that waits has
    /// a place, that is the plan of everything.
    pub fn plan_jobs(
        &mut self,
        view: &ClusterState,
        soft: &SoftView,
        now: StateMs,
        budget: Budget,
        jobs: &[JobId],
    ) -> PlanOutcome {
        Run::new(self, view, soft, now, budget).over(walk::of_jobs(view, jobs))
    }

    pub(crate) fn observe(&mut self, view: &ClusterState, soft: &SoftView, now: StateMs) {
        if self.roster.observe(view, soft, now) == Continuity::Anew {
            self.searches.by_key.clear();
        }
        if self.reckoned.take_mix(&soft.mix, &self.roster) {
            self.searches.by_key.retain(|_, search| !search.asks_mix());
        }
    }
}

impl Default for Searches {
    fn default() -> Searches {
        Searches { by_key: BTreeMap::new(), kept_max: SEARCHES_MAX, uses: 0 }
    }
}

impl Searches {
    /// The search for a request, and whether it had to be begun.
    pub fn entry(
        &mut self,
        key: &SearchKey,
        request: Request<'_>,
        surface: Surface<'_>,
    ) -> (&mut Search, bool) {
        self.uses += 1;
        let is_new = !self.by_key.get(key).is_some_and(|search| search.is_usable(surface));
        if is_new {
            self.by_key.remove(key);
            self.make_room(surface.roster.len());
        }
        let begin = || Search::new(request, key.policy, surface);
        let search = self.by_key.entry(key.clone()).or_insert_with(begin);
        search.last_used = self.uses;
        (search, is_new)
    }

    fn make_room(&mut self, nodes: usize) {
        let most = (RANKED_POSITIONS_MAX / nodes.max(1)).max(SEARCHES_MIN).min(self.kept_max);
        while self.by_key.len() >= most {
            let oldest = self.by_key.iter().min_by_key(|(_, search)| search.last_used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            self.by_key.remove(&oldest);
        }
    }
}
