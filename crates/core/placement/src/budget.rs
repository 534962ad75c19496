//! How much work one plan may do. Budgets count work, never time, so that a
//! plan can be repeated exactly from its view and its budget.

use berth_state::decision::{Seen, Stop};

/// The bounds of one plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// One unit is spent for each node that is looked at for a request, each
    /// task that is visited, and each instance that is passed over.
    pub candidates_examined_max: u64,
    pub placements_max: u32,
    /// Places that are kept at a time, for which others end, those of earlier plans counted in
    /// and all places of a gang as one: whoever ends starts again somewhere, so that many at once would only move the crowd.
    pub reservations_max: u32,
}

impl Budget {
    /// For tests, simulations and dry runs.
    pub const UNLIMITED: Budget = Budget {
        candidates_examined_max: u64::MAX,
        placements_max: u32::MAX,
        reservations_max: u32::MAX,
    };

    /// For a plan made while a log entry is being formed: what fits beside the
    /// entry's own commands. A candidate with eight GPUs costs about a
    /// microsecond (`examples/rate`), so this bounds the delay of the entry to
    /// some milliseconds on a cluster that is large enough to reach it.
    pub const INLINE: Budget =
        Budget { candidates_examined_max: 4096, placements_max: 64, reservations_max: 0 };
}

/// What is left of a budget.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    budget: Budget,
    pub examined: u64,
    pub placed: u32,
    pub reserved: u32,
    /// Something might have had a place for which others end, and the budget had none left.
    pub held_back: bool,
    pub exhausted: bool,
    /// What was begun so far that a planner does alike whatever it knows already.
    steps: u64,
    /// Where the work ended.
    stopped: Option<Stop>,
    /// Of a plan that is made anew: where the work ends, whatever it costs.
    ends_at: Option<Stop>,
}

impl Meter {
    /// So many places are kept already.
    pub fn new(budget: Budget, reserved: u32) -> Meter {
        Meter {
            budget,
            examined: 0,
            placed: 0,
            reserved,
            held_back: false,
            exhausted: false,
            steps: 0,
            stopped: None,
            ends_at: None,
        }
    }

    /// Ends the work where that of an earlier plan ended.
    pub fn end_at(&mut self, stop: Stop) {
        self.ends_at = Some(stop);
    }

    /// Where the work ended, if that was before all was done.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    /// Spends one unit of work; false, and exhausted from then on, if none is
    /// left.
    pub fn spend(&mut self) -> bool {
        self.spend_all(1)
    }

    /// Spends so many units; false, and exhausted from then on, if fewer are left.
    pub fn spend_all(&mut self, units: u64) -> bool {
        self.steps += 1;
        if self.ends_at.is_some_and(|stop| stop.seen.is_none() && self.steps == stop.step) {
            self.stop();
        }
        self.charge(units)
    }

    /// Begins a choice among nodes. Of a plan that is made anew: which of them are looked at, if
    /// its work ends there.
    pub fn begin_choice(&mut self) -> Option<Seen> {
        self.steps += 1;
        self.ends_at.filter(|stop| stop.step == self.steps)?.seen
    }

    /// Spends one unit on a node that is looked at for a choice, which is no step: whoever knows
    /// the node spends nothing.
    pub fn spend_on_look(&mut self) -> bool {
        self.charge(1)
    }

    /// Ends a choice that was made among these.
    pub fn end_choice(&mut self, seen: Seen) {
        if let Some(stop) = self.stopped.as_mut().filter(|stop| stop.step == self.steps) {
            stop.seen = Some(seen);
        }
    }

    /// Nothing is left from here on.
    pub fn stop(&mut self) {
        self.examined = self.budget.candidates_examined_max;
        self.exhausted = true;
        self.stopped.get_or_insert(Stop { step: self.steps, seen: None });
    }

    fn charge(&mut self, units: u64) -> bool {
        if units > self.left() {
            self.stop();
            return false;
        }
        self.examined += units;
        true
    }

    /// Whether one more placement is allowed; exhausted from then on if not.
    pub fn may_place(&mut self) -> bool {
        if self.placed >= self.budget.placements_max {
            self.exhausted = true;
        }
        !self.exhausted
    }

    /// Whether no place at all may be kept in this plan, whoever asks.
    pub fn keeps_nothing(&self) -> bool {
        self.budget.reservations_max == 0
    }

    /// Whether one more place may be kept; held back from then on if not.
    pub fn may_reserve(&mut self) -> bool {
        if self.reserved >= self.budget.reservations_max {
            self.held_back = true;
            return false;
        }
        true
    }

    /// Whether so many more are; exhausted from then on if not.
    pub fn may_place_all(&mut self, count: u32) -> bool {
        if self.placed.saturating_add(count) > self.budget.placements_max {
            self.exhausted = true;
        }
        !self.exhausted
    }

    /// Units of work that are left.
    pub fn left(&self) -> u64 {
        self.budget.candidates_examined_max.saturating_sub(self.examined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_is_just_enough_is_not_exhausted() {
        let mut meter = Meter::new(
            Budget { candidates_examined_max: 2, placements_max: 1, ..Budget::UNLIMITED },
            0,
        );
        assert!(meter.spend() && meter.spend());
        assert!(!meter.exhausted);
        assert_eq!(meter.left(), 0);
        assert!(!meter.spend());
        assert!(meter.exhausted);
        assert!(!meter.may_place());
    }
}
