//! Which submits are let in while the log has more to do than it can: those that
//! would only wait are told so at once, and when to come back, before anything is proposed, and
//! no namespace keeps the others out.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_model::Name;
use berth_state::NAMESPACE_ROWS_MAX;

use super::allowance::Allowance;
use super::depth::{self, Depth};
use super::rates::{Rates, TooFast};
use super::turns::Turns;

/// One call counts as at most so many, however long it is: others are not to wait for the end of
/// all of it.
const CALL_MAX: usize = 1024;

/// Counts what is on its way.
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

#[derive(Debug)]
struct Held {
    depth: Depth,
    turns: Turns,
    total: usize,
    /// Only of namespaces that have something on its way.
    of: BTreeMap<Name, usize>,
    /// Only of namespaces whose quota sets a rate; few more than have a row.
    allowances: BTreeMap<Name, Allowance>,
}

/// A call that was let in; its room is free again when this is dropped.
pub struct Place {
    admission: Arc<Admission>,
    since: Instant,
    held: Vec<(Name, usize)>,
}

impl Admission {
    /// With a limit on the jobs that each namespace submits in a second, if any.
    pub fn new(per_second: Option<NonZeroU32>) -> Admission {
        let held = Held {
            depth: Depth::new(now()),
            turns: Turns::default(),
            total: 0,
            of: BTreeMap::new(),
            allowances: BTreeMap::new(),
        };
        Admission { held: Mutex::new(held), rates: per_second.map(Rates::new) }
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
        let now = now();
        let mut present = self.held();
        if let Some(full) = held.iter().map(|(name, _)| name).find(|name| present.is_full(name)) {
            let per_second = present.depth.per_second();
            let retry_after_ms = present.turns.give(full, per_second, now);
            return Err(NotNow::Crowded { retry_after_ms });
        }
        // Last: who finds no room has used up nothing.
        present.check_allowances(wanted, rate_of, now).map_err(NotNow::TooFast)?;
        if let Some(rates) = &self.rates {
            for (namespace, count) in wanted {
                if !present.allowances.contains_key(namespace) {
                    rates.take(namespace, *count).map_err(NotNow::TooFast)?;
                }
            }
        }
        present.take_allowances(wanted);
        present.total += held.iter().map(|(_, count)| count).sum::<usize>();
        for (name, count) in &held {
            *present.of.entry(name.clone()).or_default() += count;
        }
        drop(present);
        Ok(Place { admission: self.clone(), since: now, held })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether the next call of a namespace is to come later. What it has may be its share while
    /// others have something too; alone it may have three quarters, so that another finds room at
    /// once. Who has nothing on its way gets in, as long as there is not far too much already.
    fn is_full(&self, namespace: &Name) -> bool {
        let Some(own) = self.of.get(namespace) else { return self.total >= depth::MOST };
        let limit = self.depth.limit();
        let share = if self.of.len() == 1 { limit / 4 * 3 } else { limit / self.of.len() };
        *own >= share || self.total >= limit
    }

    /// Whether the quotas of all of these namespaces allow so many jobs now; nothing is taken.
    fn check_allowances(
        &mut self,
        wanted: &BTreeMap<Name, usize>,
        rate_of: impl Fn(&Name) -> Option<NonZeroU32>,
        now: Instant,
    ) -> Result<(), TooFast> {
        if self.allowances.len() > NAMESPACE_ROWS_MAX {
            self.allowances.retain(|namespace, _| rate_of(namespace).is_some());
        }
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

/// Virtual where a test says so.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = now();
        let mut held = self.admission.held();
        let count = self.held.iter().map(|(_, count)| count).sum();
        held.depth.answered(count, now.saturating_duration_since(self.since), now);
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
    use std::time::Duration;

    use super::*;
    use depth::MOST;

    const ALONE_MAX: usize = MOST / 4 * 3;

    fn wanted(namespace: &str, count: usize) -> BTreeMap<Name, usize> {
        BTreeMap::from([(Name::new(namespace).unwrap(), count)])
    }

    fn open() -> Arc<Admission> {
        Arc::new(Admission::new(None))
    }

    fn no_rate(_: &Name) -> Option<NonZeroU32> {
        None
    }

    /// Enters one by one until it is refused.
    fn fill(admission: &Arc<Admission>, namespace: &str) -> Vec<Place> {
        std::iter::from_fn(|| admission.enter(&wanted(namespace, 1), no_rate).ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_takes_all_it_can_leaves_room_for_another() {
        let admission = open();
        let flood = fill(&admission, "flood");
        assert_eq!(flood.len(), ALONE_MAX);
        let other = fill(&admission, "other");
        assert_eq!(other.len(), MOST - ALONE_MAX);
        // Of what becomes free the other may have up to its share, and the flood
        // nothing until it is below its own.
        drop(flood);
        let other_more = fill(&admission, "other");
        assert_eq!(other.len() + other_more.len(), ALONE_MAX, "alone again");
        let flood = fill(&admission, "flood");
        assert_eq!(flood.len(), MOST - ALONE_MAX);
        drop((other, other_more, flood));
        let held = admission.held();
        assert_eq!((held.total, held.of.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_sets_the_rate_of_its_namespace_alone() {
        let admission = open();
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

    #[tokio::test(start_paused = true)]
    async fn everybody_gets_in_once_however_many_they_are() {
        let admission = open();
        let places: Vec<Place> = (0..MOST)
            .map(|number| admission.enter(&wanted(&format!("n{number}"), 1), no_rate).unwrap())
            .collect();
        assert!(admission.enter(&wanted("late", 1), no_rate).is_err());
        drop(places);
        assert!(admission.enter(&wanted("late", 1), no_rate).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn seven_callers_of_a_namespace_submit_a_thousand_jobs_each_at_once() {
        let admission = open();
        let calls: Vec<Place> =
            (0..7).map(|_| admission.enter(&wanted("bulk", 1_000), no_rate).unwrap()).collect();
        assert!(admission.enter(&wanted("bulk", 1_000), no_rate).is_err());
        drop(calls);
        assert!(admission.enter(&wanted("bulk", 1_000), no_rate).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_gets_in_where_nothing_is_on_its_way() {
        let admission = open();
        let mut both = wanted("a", 10_000);
        both.extend(wanted("b", 10_000));
        let place = admission.enter(&both, no_rate).unwrap();
        assert_eq!(admission.held().total, 2 * CALL_MAX);
        let half = MOST / 2 / CALL_MAX;
        let more: Vec<Place> =
            (1..half).map(|_| admission.enter(&wanted("a", 10_000), no_rate).unwrap()).collect();
        assert!(admission.enter(&wanted("a", 1), no_rate).is_err(), "it has its half");
        drop((place, more));
        assert_eq!(admission.held().total, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_answers_are_late_fewer_are_let_in_and_the_rest_come_one_after_the_other() {
        let admission = open();
        let flood = fill(&admission, "flood");
        // Four thousand a second: the last would wait for a second and a half.
        let mut flood = flood.into_iter();
        while flood.len() > 0 {
            tokio::time::advance(Duration::from_millis(10)).await;
            flood.by_ref().take(40).for_each(drop);
        }
        let flood = fill(&admission, "flood");
        assert_eq!(flood.len(), 4_000 / 4 / 4 * 3, "three quarters of a quarter of a second");
        let mut told: Vec<u64> = Vec::new();
        for _ in 0..4_000 {
            let Err(refused) = admission.enter(&wanted("flood", 1), no_rate) else { panic!() };
            let NotNow::Crowded { retry_after_ms } = refused else { panic!("{refused:?}") };
            told.push(retry_after_ms);
        }
        assert!(told.is_sorted());
        // `fill` was turned away once.
        assert_eq!((told[0], told[3_998]), (100, 1_099));
        // Another has room, and does not stand behind them.
        let other = fill(&admission, "other");
        assert_eq!(other.len(), 4_000 / 4 / 4);
        let refused = admission.enter(&wanted("other", 1), no_rate).map(drop);
        assert_eq!(refused, Err(NotNow::Crowded { retry_after_ms: 100 }));
    }
}
