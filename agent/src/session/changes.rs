//! How often a node may register again because its devices are others: a few times at once, one
//! for each step of a GPU on its way out and back; a driver that comes and goes costs the
//! cluster an entry each time, and waits.

use std::time::Duration;

use tokio::time::Instant;

const AT_ONCE: usize = 6;
/// So many, and no more, within this time.
const WINDOW: Duration = Duration::from_secs(30);

/// When it registered again, the oldest first.
#[derive(Clone, Copy, Default)]
pub struct Changes([Option<Instant>; AT_ONCE]);

impl Changes {
    /// Whether a change is told now.
    pub fn may_be_told(&self, now: Instant) -> bool {
        self.0[0].is_none_or(|oldest| now.duration_since(oldest) >= WINDOW)
    }

    pub fn told(&mut self, now: Instant) {
        self.0.rotate_left(1);
        self.0[AT_ONCE - 1] = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_changes_are_told_at_once_and_then_no_more_for_a_while() {
        let (mut changes, begin) = (Changes::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for second in [0, 0, 1, 2, 3, 4] {
            assert!(changes.may_be_told(at(second)));
            changes.told(at(second));
        }
        assert!(!changes.may_be_told(at(29)));
        for _ in 0..2 {
            assert!(changes.may_be_told(at(30)));
            changes.told(at(30));
        }
        assert!(!changes.may_be_told(at(30)), "the third of the first ones was a second later");
    }
}
