//! How much work one plan may do. Budgets count work, never time, so that a
//! plan can be repeated exactly from its view and its budget.

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
}

impl Meter {
    /// So many places are kept already.
    pub fn new(budget: Budget, reserved: u32) -> Meter {
        Meter { budget, examined: 0, placed: 0, reserved, held_back: false, exhausted: false }
    }

    /// Spends one unit of work; false, and exhausted from then on, if none is
    /// left.
    pub fn spend(&mut self) -> bool {
        if self.examined >= self.budget.candidates_examined_max {
            self.exhausted = true;
            return false;
        }
        self.examined += 1;
        true
    }

    /// Spends so many units; false, and exhausted from then on, if fewer are left.
    pub fn spend_all(&mut self, units: u64) -> bool {
        if units > self.left() {
            self.examined = self.budget.candidates_examined_max;
            self.exhausted = true;
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
