//! When those who find no room are to come back: one after the other. If all came back at the same
//! time, turning them away again would keep the log from its work, and each would wait for long to
//! hear even that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_model::Name;

/// Nobody is asked to come back sooner: by then a part of what is on its way is in the log.
const SOONEST: Duration = Duration::from_millis(100);
/// Nor later, and then with those who come as late.
const LATEST: Duration = Duration::from_secs(10);
/// So many come back in a second at least: a small part of what one core can turn away.
const PER_SECOND_MIN: u32 = 2_000;
/// Namespaces that are remembered before those whose turns are over are forgotten.
const NAMESPACES_MAX: usize = 1_024;

/// Who comes back when. Each namespace has turns of its own, at its part of the rate: who is turned
/// away beside a flood does not stand behind all of it.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the next of a namespace is to come.
    next: BTreeMap<Name, Instant>,
}

impl Turns {
    /// In how many milliseconds the caller is to come back. As many come back in a second as are
    /// let in meanwhile, so that there is always somebody who finds room.
    pub fn give(&mut self, namespace: &Name, let_in_per_second: usize, now: Instant) -> u64 {
        if self.next.len() >= NAMESPACES_MAX {
            self.next.retain(|_, next| *next > now + SOONEST);
        }
        let others = self.next.iter().filter(|(name, next)| *name != namespace && **next > now);
        let waiting = u32::try_from(others.count()).unwrap_or(u32::MAX).saturating_add(1);
        let per_second = u32::try_from(let_in_per_second).unwrap_or(u32::MAX).max(PER_SECOND_MIN);
        let apart = Duration::from_secs(1).saturating_mul(waiting) / per_second;
        let known = self.next.get(namespace).copied().unwrap_or(now);
        let turn = known.clamp(now + SOONEST, now + LATEST);
        self.next.insert(namespace.clone(), turn + apart);
        u64::try_from((turn - now).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_few_come_back_at_once_and_many_one_after_the_other() {
        let mut turns = Turns::default();
        let (flood, now) = (name("flood"), Instant::now());
        let given: Vec<u64> = (0..60_000).map(|_| turns.give(&flood, 5_000, now)).collect();
        assert_eq!((given[0], given[4], given[5], given[5_000]), (100, 100, 101, 1_100));
        assert_eq!(given.last(), Some(&10_000));
        // Those who come back in time are told as long again as there are before them.
        let later = now + Duration::from_secs(1);
        assert_eq!(turns.give(&flood, 5_000, later), 9_000);
        let much_later = now + Duration::from_secs(60);
        assert_eq!(turns.give(&flood, 5_000, much_later), 100);
    }

    #[test]
    fn as_many_come_back_as_are_let_in_and_never_few() {
        let now = Instant::now();
        for (let_in, thousandth) in [(0, 600), (2_000, 600), (10_000, 200), (100_000, 110)] {
            let mut turns = Turns::default();
            let given: Vec<u64> =
                (0..=1_000).map(|_| turns.give(&name("flood"), let_in, now)).collect();
            assert_eq!(given.last(), Some(&thousandth), "{let_in}");
        }
    }

    #[test]
    fn nobody_stands_behind_the_flood_of_another() {
        let mut turns = Turns::default();
        let now = Instant::now();
        for _ in 0..10_000 {
            turns.give(&name("flood"), 5_000, now);
        }
        assert_eq!(turns.give(&name("other"), 5_000, now), 100);
        // Both share the rate.
        let other: Vec<u64> = (0..10).map(|_| turns.give(&name("other"), 5_000, now)).collect();
        assert_eq!(other, [100, 100, 101, 101, 102, 102, 102, 103, 103, 104]);
    }

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let mut turns = Turns::default();
        let now = Instant::now();
        for number in 0..NAMESPACES_MAX {
            turns.give(&name(&format!("n{number}")), 5_000, now);
        }
        let later = now + LATEST;
        turns.give(&name("late"), 5_000, later);
        assert_eq!(turns.next.len(), 1);
    }
}
