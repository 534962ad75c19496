//! What jobs that ended teach: of those that had worked for so long, how many ended before they
//! had worked for twice as long. Counted of all jobs, of those of a size, and of those of a class
//! and a size; jobs that are still there count as having come as far as they have (Kaplan and
//! Meier, 1958), so that the long ones are not forgotten while they run.

use std::collections::BTreeMap;

use berth_model::{DurationMs, JobId};

use super::QueueJob;
use super::worth::{ONE, Rates, rates};

/// Spans of attained time: one up to [`FIRST_MS`], each other as long as all before it. The
/// last begins after forty years.
pub(super) const LEVELS: usize = 24;
/// Shorter than this, jobs are not told apart: to preempt one would cost about what it saves.
const FIRST_MS: u64 = 300_000;
/// How many jobs the more general count weighs in the more special one. 3 to 30 made
/// no difference beyond chance on the lists that docs/queueing.md names.
const PRIOR_JOBS: u64 = 10;
/// Of jobs of which nothing is known, that come to a level: as many end in it as leave it. So it is
/// with times whose tail falls like 1/t, in which the longer a job has run the longer it will.
const PRIOR_ENDED: u64 = ONE / 2;
/// Counts are halved when so many jobs were seen, so that what is long ago weighs less and
/// no count grows without bound.
const JOBS_MAX: u64 = 65_536;
/// Classes by sizes that are told apart; further ones are known by their size alone. Bounds
/// the memory: some 400 bytes each.
const GROUPS_MAX: usize = 4_096;
/// Changes of the counts until what follows from them is reckoned anew: some ten jobs.
const CHANGES_MAX: u64 = 64;

/// Classes by sizes in powers of two.
type Group = (u32, u32);

/// Of each level, jobs that came to it and those that ended in it.
#[derive(Clone, Debug, Default)]
struct Counts {
    reached: [u64; LEVELS],
    ended: [u64; LEVELS],
}

/// What is known to whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Knowledge {
    /// Nothing but the prior.
    Nothing,
    /// Of jobs of each size.
    Sizes,
    /// Of jobs of each class and size.
    Classes,
}

#[derive(Clone, Debug)]
pub(super) struct History {
    knowledge: Knowledge,
    all: Counts,
    sizes: BTreeMap<u32, Counts>,
    groups: BTreeMap<Group, Counts>,
    /// Levels that were counted of jobs that are still there.
    counted: BTreeMap<JobId, usize>,
    changes: u64,
    /// What was reckoned of a group, and how many changes ago.
    reckoned: BTreeMap<Group, (u64, Rates)>,
}

/// The level of a job that has worked for so long.
pub(super) fn level_of(attained: DurationMs) -> usize {
    let doublings = (attained.0 / FIRST_MS).checked_ilog2();
    let level = doublings.map_or(0, |doublings| doublings as usize + 1);
    level.min(LEVELS - 1)
}

/// Where a level begins, and ends where the next begins.
pub(super) fn level_begins(level: usize) -> DurationMs {
    DurationMs(level.checked_sub(1).map_or(0, |doublings| FIRST_MS << doublings.min(LEVELS)))
}

impl Counts {
    fn halve(&mut self) {
        for count in self.reached.iter_mut().chain(&mut self.ended) {
            *count /= 2;
        }
    }

    /// The part of those that come to a level that end in it, with what is more general as
    /// the prior.
    fn part(&self, level: usize, prior: u64) -> u64 {
        // A halved count may be one short of what it contains.
        let ended = self.ended[level].min(self.reached[level]);
        (ended * ONE + PRIOR_JOBS * prior) / (self.reached[level] + PRIOR_JOBS)
    }
}

impl History {
    pub(super) fn new(knowledge: Knowledge) -> History {
        History {
            knowledge,
            all: Counts::default(),
            sizes: BTreeMap::new(),
            groups: BTreeMap::new(),
            counted: BTreeMap::new(),
            changes: 0,
            reckoned: BTreeMap::new(),
        }
    }

    /// Takes note of how far a job has come.
    pub(super) fn observe(&mut self, job: &QueueJob) {
        self.reach(job, level_of(job.attained));
    }

    /// Takes note of a job that ended.
    pub(super) fn ended(&mut self, job: &QueueJob) {
        let level = level_of(DurationMs(job.attained.0.saturating_sub(1)));
        self.reach(job, level);
        self.counted.remove(&job.id);
        self.count(job, |counts| counts.ended[level] += 1);
        if self.all.reached[0] >= JOBS_MAX {
            let special = self.sizes.values_mut().chain(self.groups.values_mut());
            special.chain([&mut self.all]).for_each(Counts::halve);
        }
    }

    /// What a job is worth at each level: see [`rates`].
    pub(super) fn rates(&mut self, job: &QueueJob) -> &Rates {
        let group = match self.knowledge {
            Knowledge::Nothing | Knowledge::Sizes => (0, size_of(job)),
            Knowledge::Classes => (job.class, size_of(job)),
        };
        let fresh = |at: u64| self.changes - at < CHANGES_MAX;
        if !self.reckoned.get(&group).is_some_and(|(at, _)| fresh(*at)) {
            let reckoned = (self.changes, rates(&self.parts(group)));
            // Groups come and go; what was reckoned is soon reckoned again.
            if self.reckoned.len() >= GROUPS_MAX {
                self.reckoned.clear();
            }
            self.reckoned.insert(group, reckoned);
        }
        &self.reckoned.entry(group).or_default().1
    }

    fn parts(&self, group: Group) -> [u64; LEVELS] {
        let mut parts = [PRIOR_ENDED; LEVELS];
        if self.knowledge == Knowledge::Nothing {
            return parts;
        }
        let special = [self.sizes.get(&group.1), self.groups.get(&group)];
        for (level, part) in parts.iter_mut().enumerate() {
            for counts in [Some(&self.all)].into_iter().chain(special).flatten() {
                *part = counts.part(level, *part);
            }
        }
        parts
    }

    fn reach(&mut self, job: &QueueJob, level: usize) {
        let first = self.counted.get(&job.id).copied().unwrap_or(0);
        if first > level {
            return;
        }
        for reached in first..=level {
            self.count(job, |counts| counts.reached[reached] += 1);
        }
        self.counted.insert(job.id, level + 1);
    }

    fn count(&mut self, job: &QueueJob, mut add: impl FnMut(&mut Counts)) {
        self.changes += 1;
        add(&mut self.all);
        let size = size_of(job);
        add(self.sizes.entry(size).or_default());
        let group = (job.class, size);
        let is_known = self.groups.contains_key(&group);
        if self.knowledge == Knowledge::Classes && (is_known || self.groups.len() < GROUPS_MAX) {
            add(self.groups.entry(group).or_default());
        }
    }
}

fn size_of(job: &QueueJob) -> u32 {
    job.gpus.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use berth_model::StateMs;

    use super::super::QueuePhase;
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn job(id: u64, class: u32, attained_ms: u64) -> QueueJob {
        QueueJob {
            id: JobId(id),
            gpus: 1,
            submitted: StateMs(0),
            class,
            attained: DurationMs(attained_ms),
            waited: DurationMs(0),
            phase: QueuePhase::Running { since: StateMs(0), works_from: StateMs(0) },
            remaining: None,
        }
    }

    #[test]
    fn levels_double() {
        for (attained_ms, level) in
            [(0, 0), (299_999, 0), (300_000, 1), (599_999, 1), (600_000, 2), (u64::MAX, LEVELS - 1)]
        {
            assert_eq!(level_of(DurationMs(attained_ms)), level, "{attained_ms}");
        }
        for level in 1..LEVELS {
            let begins = level_begins(level);
            assert_eq!((level_of(begins), level_of(DurationMs(begins.0 - 1))), (level, level - 1));
        }
    }

    #[test]
    fn who_has_run_long_is_worth_less_until_jobs_teach_otherwise() {
        let mut history = History::new(Knowledge::Classes);
        let rates = *history.rates(&job(1, 1, 0));
        assert!(rates[1..].windows(2).all(|pair| pair[0] > pair[1]), "{rates:?}");
        assert_eq!(rates[0], rates[1], "the first two levels are as long as each other");
        // Jobs of class 1 all take an hour and a half, those of class 2 two minutes.
        for id in 0..200 {
            history.ended(&job(id, 1, HOUR_MS * 3 / 2));
            history.ended(&job(1_000 + id, 2, 120_000));
        }
        let long = *history.rates(&job(1, 1, 0));
        let short = *history.rates(&job(1, 2, 0));
        let near_end = long[level_of(DurationMs(HOUR_MS * 3 / 2))];
        assert!(near_end > long[0] && short[0] > near_end, "{long:?} {short:?}");
        // Of another class of the same size the mixture is expected, which is between them.
        let other = *history.rates(&job(1, 3, 0));
        assert!(long[0] < other[0] && other[0] < short[0], "{other:?}");
    }

    #[test]
    fn those_that_still_run_count_as_far_as_they_have_come() {
        let (mut with, mut without) =
            (History::new(Knowledge::Sizes), History::new(Knowledge::Sizes));
        for id in 0..50 {
            with.ended(&job(id, 1, 200_000));
            without.ended(&job(id, 1, 200_000));
            with.observe(&job(100 + id, 1, HOUR_MS));
            with.observe(&job(100 + id, 1, HOUR_MS));
        }
        assert_eq!(with.all.reached[0], 100, "each is counted once");
        assert_eq!(with.all.reached[1], 50);
        assert!(with.rates(&job(1, 1, 0))[0] < without.rates(&job(1, 1, 0))[0]);
    }

    #[test]
    fn counts_are_bounded() {
        let mut history = History::new(Knowledge::Classes);
        for id in 0..JOBS_MAX + 10 {
            history.ended(&job(id, u32::try_from(id).unwrap_or(0), 400_000));
        }
        assert!(history.all.reached[0] < JOBS_MAX);
        assert_eq!(history.groups.len(), GROUPS_MAX);
        assert!(history.counted.is_empty());
        // A group that was halved to nothing is known by its size alone.
        assert_eq!(history.parts((0, 0)), history.parts((u32::MAX, 0)));
    }
}
