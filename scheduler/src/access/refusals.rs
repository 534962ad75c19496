//! How often each address was refused of late.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refusals are counted for so long, then from 0.
const WINDOW: Duration = Duration::from_secs(60);
/// So many of one address are told one by one: more than any mistake of a person
/// or a wrong setting of a machine makes in a minute.
const TOLD_MAX: u32 = 120;
/// Addresses that are told apart; all others count as one.
const ADDRESSES_MAX: usize = 1024;

/// Counts; the lock guards the counts.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    began: Option<Instant>,
    of: BTreeMap<Option<IpAddr>, u32>,
}

/// What to do with one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    Told,
    /// The first beyond what is told.
    First,
    Silent,
}

impl Refusals {
    /// Counts one of an address.
    pub fn count(&self, address: Option<IpAddr>, now: Instant) -> Counted {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.turn(now);
        let key = counts.key(address);
        let count = counts.of.entry(key).or_default();
        *count = count.saturating_add(1);
        match (*count).cmp(&(TOLD_MAX + 1)) {
            std::cmp::Ordering::Less => Counted::Told,
            std::cmp::Ordering::Equal => Counted::First,
            std::cmp::Ordering::Greater => Counted::Silent,
        }
    }

    /// Whether an address had more than are told.
    pub fn is_over(&self, address: Option<IpAddr>, now: Instant) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.turn(now);
        let key = counts.key(address);
        counts.of.get(&key).is_some_and(|count| *count > TOLD_MAX)
    }
}

impl Counts {
    fn turn(&mut self, now: Instant) {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            self.began = Some(now);
            self.of.clear();
        }
    }

    fn key(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        let told_apart = self.of.contains_key(&address) || self.of.len() < ADDRESSES_MAX;
        address.filter(|_| told_apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn one_address_is_told_so_often_a_minute_and_no_other_suffers() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for _ in 0..TOLD_MAX {
            assert_eq!(refusals.count(address(1), now), Counted::Told);
        }
        assert!(!refusals.is_over(address(1), now));
        assert_eq!(refusals.count(address(1), now), Counted::First);
        assert_eq!(refusals.count(address(1), now), Counted::Silent);
        assert!(refusals.is_over(address(1), now));
        assert_eq!(refusals.count(address(2), now), Counted::Told);
        assert_eq!(refusals.count(address(1), now + WINDOW), Counted::Told);
    }

    #[test]
    fn no_number_of_addresses_takes_more_room() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..10_000 {
            refusals.count(address(number), now);
        }
        assert!(refusals.0.lock().unwrap().of.len() <= ADDRESSES_MAX + 1);
        assert!(refusals.is_over(address(9_999), now), "those that are not told apart are one");
        assert!(!refusals.is_over(address(3), now));
    }
}
