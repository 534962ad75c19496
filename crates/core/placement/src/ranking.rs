//! The best of many scores that change one at a time: a tournament tree, in which a change is
//! carried up as far as it matters. Costs O(log positions) a change and a question.

use crate::policies::Score;

/// Scores by position; less is better, of equals the first position.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranking {
    /// A power of two, at least the number of positions; 0 before the first.
    width: usize,
    /// The root at 1, the children of `at` at `2 at` and `2 at + 1`, the leaves from `width`.
    best: Vec<Option<Score>>,
}

impl Ranking {
    pub fn set(&mut self, position: usize, score: Option<Score>) {
        if position >= self.width {
            self.widen(position + 1);
        }
        let mut at = self.width + position;
        if self.best[at] == score {
            return;
        }
        self.best[at] = score;
        while at > 1 {
            at /= 2;
            let winner = winner(self.best[2 * at], self.best[2 * at + 1]);
            if self.best[at] == winner {
                break;
            }
            self.best[at] = winner;
        }
    }

    /// The first of the best.
    pub fn first(&self) -> Option<(usize, Score)> {
        let score = (*self.best.get(1)?)?;
        let mut at = 1;
        while at < self.width {
            at = if self.best[2 * at] == Some(score) { 2 * at } else { 2 * at + 1 };
        }
        Some((at - self.width, score))
    }

    /// The first position from `from` on that has a score at all.
    pub fn first_from(&self, from: usize) -> Option<usize> {
        if from >= self.width {
            return None;
        }
        let mut at = self.width + from;
        // Up while nothing is in this subtree, to the next one to the right.
        while self.best[at].is_none() {
            while at % 2 == 1 {
                at /= 2;
            }
            if at == 0 {
                return None;
            }
            at += 1;
        }
        while at < self.width {
            at = if self.best[2 * at].is_some() { 2 * at } else { 2 * at + 1 };
        }
        Some(at - self.width)
    }

    fn widen(&mut self, positions: usize) {
        let width = positions.next_power_of_two().max(16);
        let mut best = vec![None; 2 * width];
        if self.width > 0 {
            best[width..width + self.width].copy_from_slice(&self.best[self.width..]);
        }
        for at in (1..width).rev() {
            best[at] = winner(best[2 * at], best[2 * at + 1]);
        }
        *self = Ranking { width, best };
    }
}

fn winner(left: Option<Score>, right: Option<Score>) -> Option<Score> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_answers_as_a_look_at_all_of_them_would(
            changes in prop::collection::vec((0..70_usize, prop::option::of(0..5_u32)), 1..200),
        ) {
            let mut ranking = Ranking::default();
            let mut plain: Vec<Option<u32>> = vec![None; 70];
            for (position, value) in changes {
                ranking.set(position, value.map(|value| Score([value, 0, 0])));
                plain[position] = value;
                let scored = plain.iter().enumerate();
                let mut scored: Vec<(u32, usize)> =
                    scored.filter_map(|(at, value)| value.map(|value| (value, at))).collect();
                scored.sort_unstable();
                let expected = scored.first().map(|(value, at)| (*at, Score([*value, 0, 0])));
                prop_assert_eq!(ranking.first(), expected);
                for from in [0, 1, position, position + 1, 63, 64, 200] {
                    let next = (from..70).find(|at| plain[*at].is_some());
                    prop_assert_eq!(ranking.first_from(from), next, "from {}", from);
                }
            }
        }
    }
}
