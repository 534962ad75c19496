//! Which submits are let in while the log has more to do than it can: those that
//! would only wait are told so at once, before anything is proposed, and no
//! namespace keeps the others out.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::Name;

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
    /// none of them.
    ///
    /// # Errors
    /// If there is no room, or one of the namespaces has its share already, or
    /// submits too fast.
    pub fn enter(self: &Arc<Admission>, wanted: &BTreeMap<Name, usize>) -> Result<Place, NotNow> {
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
        if let Some(rates) = &self.rates {
            for (namespace, count) in wanted {
                rates.take(namespace, *count).map_err(NotNow::TooFast)?;
            }
        }
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

    /// Enters one by one until it is refused.
    fn fill(admission: &Arc<Admission>, namespace: &str) -> Vec<Place> {
        std::iter::from_fn(|| admission.enter(&wanted(namespace, 1)).ok()).collect()
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
    fn everybody_gets_in_once_however_many_they_are() {
        let admission = Arc::new(Admission::default());
        let places: Vec<Place> = (0..SUBMITS_MAX)
            .map(|number| admission.enter(&wanted(&format!("n{number}"), 1)).unwrap())
            .collect();
        assert!(admission.enter(&wanted("late", 1)).is_err());
        drop(places);
        assert!(admission.enter(&wanted("late", 1)).is_ok());
    }

    #[test]
    fn six_callers_of_a_namespace_submit_a_thousand_jobs_each_at_once() {
        let admission = Arc::new(Admission::default());
        let calls: Vec<Place> =
            (0..6).map(|_| admission.enter(&wanted("bulk", 1_000)).unwrap()).collect();
        assert!(admission.enter(&wanted("bulk", 1_000)).is_err());
        drop(calls);
        assert!(admission.enter(&wanted("bulk", 1_000)).is_ok());
    }

    #[test]
    fn a_long_call_gets_in_where_nothing_is_on_its_way() {
        let admission = Arc::new(Admission::default());
        let mut both = wanted("a", 10_000);
        both.extend(wanted("b", 10_000));
        let place = admission.enter(&both).unwrap();
        assert_eq!(admission.held().total, 2 * CALL_MAX);
        let half = SUBMITS_MAX / 2 / CALL_MAX;
        let more: Vec<Place> =
            (1..half).map(|_| admission.enter(&wanted("a", 10_000)).unwrap()).collect();
        assert!(admission.enter(&wanted("a", 1)).is_err(), "it has its half");
        drop((place, more));
        assert_eq!(admission.held().total, 0);
    }
}
