//! Which submits are let in while the log has more to do than it can: those that
//! would only wait are told so at once, before anything is proposed, and no
//! namespace keeps the others out.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_model::Name;
use berth_state::NAMESPACE_ROWS_MAX;

use super::allowance::Allowance;
use super::rates::{Rates, TooFast};

/// Submits that may be on their way into the log. Thirty-two full entries: on a
/// disk that syncs in 10 ms the last of them waits for half a second.
const SUBMITS_MAX: usize = 8192;
/// What one namespace may have of it while others have something too is its
/// share; alone it may have so much, so that another finds room at once.
const ALONE_MAX: usize = SUBMITS_MAX / 4 * 3;
/// One call counts as at most so many, however long it is: it could never be
/// let in otherwise.
const CALL_MAX: usize = 1024;
/// When to try again: by then a part of what is on its way is in the log.
const RETRY_AFTER_MS: u64 = 100;

/// Counts what is on its way.
#[derive(Default)]
pub struct Admission {
    held: Mutex<Held>,
    /// Where an operator set one.
    rates: Option<Rates>,
}

/// Why a call is not let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotNow {
    /// There is no room.
    Crowded { retry_after_ms: u64 },
    /// Its namespace submits faster than it may.
    TooFast(TooFast),
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// Only of namespaces that have something on its way.
    of: BTreeMap<Name, usize>,
    /// Only of namespaces whose quota sets a rate; few more than have a row.
    allowances: BTreeMap<Name, Allowance>,
}

/// A call that was let in; its room is free again when this is dropped.
pub struct Place {
    admission: Arc<Admission>,
    held: Vec<(Name, usize)>,
}

impl Admission {
    /// With a limit on the jobs that each namespace submits in a second, if any.
    pub fn new(per_second: Option<NonZeroU32>) -> Admission {
        Admission { held: Mutex::default(), rates: per_second.map(Rates::new) }
    }

    /// Lets a call in that submits so many jobs to each of these namespaces, or
    /// none of them. `rate_of` is what a namespace's quota says, which counts instead of
    /// the rate of all.
    ///
    /// # Errors
    /// If there is no room, or one of the namespaces has its share already, or
    /// submits too fast.
    pub fn enter(
        self: &Arc<Admission>,
        wanted: &BTreeMap<Name, usize>,
        rate_of: impl Fn(&Name) -> Option<NonZeroU32>,
    ) -> Result<Place, NotNow> {
        let held: Vec<(Name, usize)> = wanted
            .iter()
            .map(|(namespace, count)| (namespace.clone(), (*count).min(CALL_MAX)))
            .collect();
        let mut present = self.held();
        let sum: usize = held.iter().map(|(_, count)| count).sum();
        let new = held.iter().filter(|(name, _)| !present.of.contains_key(name)).count();
        let namespaces = present.of.len() + new;
        let limit = if namespaces <= 1 { ALONE_MAX } else { SUBMITS_MAX / namespaces };
        let fits = held.iter().all(|(name, count)| {
            let own = present.of.get(name).copied().unwrap_or(0);
            own == 0 || own + count <= limit
        });
        if !fits || (present.total > 0 && present.total + sum > SUBMITS_MAX) {
            return Err(NotNow::Crowded { retry_after_ms: RETRY_AFTER_MS });
        }
        // Last: who finds no room has used up nothing.
        present.check_allowances(wanted, rate_of).map_err(NotNow::TooFast)?;
        if let Some(rates) = &self.rates {
            for (namespace, count) in wanted {
                if !present.allowances.contains_key(namespace) {
                    rates.take(namespace, *count).map_err(NotNow::TooFast)?;
                }
            }
        }
        present.take_allowances(wanted);
        present.total += sum;
        for (name, count) in &held {
            *present.of.entry(name.clone()).or_default() += count;
        }
        drop(present);
        Ok(Place { admission: self.clone(), held })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether the quotas of all of these namespaces allow so many jobs now; nothing is taken.
    fn check_allowances(
        &mut self,
        wanted: &BTreeMap<Name, usize>,
        rate_of: impl Fn(&Name) -> Option<NonZeroU32>,
    ) -> Result<(), TooFast> {
        if self.allowances.len() > NAMESPACE_ROWS_MAX {
            self.allowances.retain(|namespace, _| rate_of(namespace).is_some());
        }
        let now = Instant::now();
        for (namespace, count) in wanted {
            let Some(rate) = rate_of(namespace) else {
                self.allowances.remove(namespace);
                continue;
            };
            let known = self.allowances.remove(namespace);
            let known = known.filter(|known| known.per_second() == rate);
            let allowance = known.unwrap_or_else(|| Allowance::new(rate, now));
            let allowance = self.allowances.entry(namespace.clone()).or_insert(allowance);
            allowance.check(*count, now).map_err(|retry_after_ms| {
                let (namespace, per_second) = (namespace.clone(), rate.get());
                TooFast { namespace, per_second, retry_after_ms }
            })?;
        }
        Ok(())
    }

    fn take_allowances(&mut self, wanted: &BTreeMap<Name, usize>) {
        for (namespace, count) in wanted {
            if let Some(allowance) = self.allowances.get_mut(namespace) {
                allowance.take(*count);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.admission.held();
        for (name, count) in &self.held {
            held.total = held.total.saturating_sub(*count);
            if let Some(own) = held.of.get_mut(name) {
                *own = own.saturating_sub(*count);
                if *own == 0 {
                    held.of.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(namespace: &str, count: usize) -> BTreeMap<Name, usize> {
        BTreeMap::from([(Name::new(namespace).unwrap(), count)])
    }

    fn no_rate(_: &Name) -> Option<NonZeroU32> {
        None
    }

    /// Enters one by one until it is refused.
    fn fill(admission: &Arc<Admission>, namespace: &str) -> Vec<Place> {
        std::iter::from_fn(|| admission.enter(&wanted(namespace, 1), no_rate).ok()).collect()
    }

    #[test]
    fn a_namespace_that_takes_all_it_can_leaves_room_for_another() {
        let admission = Arc::new(Admission::default());
        let flood = fill(&admission, "flood");
        assert_eq!(flood.len(), ALONE_MAX);
        let other = fill(&admission, "other");
        assert_eq!(other.len(), SUBMITS_MAX - ALONE_MAX);
        // Of what becomes free the other may have up to its share, and the flood
        // nothing until it is below its own.
        drop(flood);
        let other_more = fill(&admission, "other");
        assert_eq!(other.len() + other_more.len(), ALONE_MAX, "alone again");
        let flood = fill(&admission, "flood");
        assert_eq!(flood.len(), SUBMITS_MAX - ALONE_MAX);
        drop((other, other_more, flood));
        let held = admission.held();
        assert_eq!((held.total, held.of.len()), (0, 0));
    }

    #[test]
    fn a_quota_sets_the_rate_of_its_namespace_alone() {
        let admission = Arc::new(Admission::default());
        let three = |name: &Name| NonZeroU32::new(3).filter(|_| name.as_str() == "slow");
        let enter = |namespace, count| admission.enter(&wanted(namespace, count), three);
        enter("slow", 2).unwrap();
        let Err(NotNow::TooFast(refused)) = enter("slow", 2).map(drop) else { panic!() };
        assert_eq!((refused.namespace.as_str(), refused.per_second), ("slow", 3));
        assert!((1..=334).contains(&refused.retry_after_ms), "{refused:?}");
        enter("slow", 1).unwrap();
        enter("other", 1_000).unwrap();
        // Who is refused beside others has used up nothing of theirs.
        let mut both = wanted("fast", 1);
        both.extend(wanted("slow", 3));
        let ten = |_: &Name| NonZeroU32::new(10);
        let rate = |name: &Name| three(name).or_else(|| ten(name));
        assert!(admission.enter(&both, rate).is_err());
        admission.enter(&wanted("fast", 10), rate).unwrap();
        // Another rate counts from now on, and none at all too.
        admission.enter(&wanted("slow", 10), ten).unwrap();
        admission.enter(&wanted("slow", 1_000), no_rate).unwrap();
        assert!(!admission.held().allowances.contains_key(&Name::new("slow").unwrap()));
    }

    #[test]
    fn everybody_gets_in_once_however_many_they_are() {
        let admission = Arc::new(Admission::default());
        let places: Vec<Place> = (0..SUBMITS_MAX)
            .map(|number| admission.enter(&wanted(&format!("n{number}"), 1), no_rate).unwrap())
            .collect();
        assert!(admission.enter(&wanted("late", 1), no_rate).is_err());
        drop(places);
        assert!(admission.enter(&wanted("late", 1), no_rate).is_ok());
    }

    #[test]
    fn six_callers_of_a_namespace_submit_a_thousand_jobs_each_at_once() {
        let admission = Arc::new(Admission::default());
        let calls: Vec<Place> =
            (0..6).map(|_| admission.enter(&wanted("bulk", 1_000), no_rate).unwrap()).collect();
        assert!(admission.enter(&wanted("bulk", 1_000), no_rate).is_err());
        drop(calls);
        assert!(admission.enter(&wanted("bulk", 1_000), no_rate).is_ok());
    }

    #[test]
    fn a_long_call_gets_in_where_nothing_is_on_its_way() {
        let admission = Arc::new(Admission::default());
        let mut both = wanted("a", 10_000);
        both.extend(wanted("b", 10_000));
        let place = admission.enter(&both, no_rate).unwrap();
        assert_eq!(admission.held().total, 2 * CALL_MAX);
        let half = SUBMITS_MAX / 2 / CALL_MAX;
        let more: Vec<Place> =
            (1..half).map(|_| admission.enter(&wanted("a", 10_000), no_rate).unwrap()).collect();
        assert!(admission.enter(&wanted("a", 1), no_rate).is_err(), "it has its half");
        drop((place, more));
        assert_eq!(admission.held().total, 0);
    }
}
