//! How fast a number of replicas may change.

use std::collections::VecDeque;

use berth_model::{DurationMs, ScalingPace, StateMs};

/// What was asked for lately, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(VecDeque<(StateMs, u32)>);

/// Changes that were made lately, oldest first: from how many, to how many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(VecDeque<(StateMs, u32, u32)>);

impl Asked {
    pub(crate) fn push(&mut self, now: StateMs, count: u32, keep: DurationMs) {
        while self.0.front().is_some_and(|(at, _)| now.since(*at) > keep) {
            self.0.pop_front();
        }
        self.0.push_back((now, count));
    }

    /// The most that was asked for within the window.
    pub(crate) fn most(&self, now: StateMs, window: DurationMs) -> Option<u32> {
        self.within(now, window).max()
    }

    /// The least.
    pub(crate) fn least(&self, now: StateMs, window: DurationMs) -> Option<u32> {
        self.within(now, window).min()
    }

    fn within(&self, now: StateMs, window: DurationMs) -> impl Iterator<Item = u32> {
        let recent = self.0.iter().rev();
        recent.take_while(move |(at, _)| now.since(*at) <= window).map(|(_, count)| *count)
    }
}

impl Changes {
    pub(crate) fn push(&mut self, now: StateMs, from: u32, to: u32, keep: DurationMs) {
        while self.0.front().is_some_and(|(at, ..)| now.since(*at) >= keep) {
            self.0.pop_front();
        }
        self.0.push_back((now, from, to));
    }

    /// When something was changed last.
    pub(crate) fn newest(&self) -> Option<StateMs> {
        self.0.back().map(|(at, ..)| *at)
    }

    /// As many as there may be at most now.
    pub(crate) fn most(&self, now: StateMs, wanted: u32, pace: &ScalingPace) -> u32 {
        let grown = self.within(now, pace.every).map(|(from, to)| to.saturating_sub(from));
        let before = wanted.saturating_sub(grown.sum());
        before.saturating_add(pace.replicas.max(percent(before, pace.percent))).max(wanted)
    }

    /// As few as there may be at least now.
    pub(crate) fn least(&self, now: StateMs, wanted: u32, pace: &ScalingPace) -> u32 {
        let gone = self.within(now, pace.every).map(|(from, to)| from.saturating_sub(to));
        let before = wanted.saturating_add(gone.sum());
        before.saturating_sub(pace.replicas.max(percent(before, pace.percent))).min(wanted)
    }

    fn within(&self, now: StateMs, span: DurationMs) -> impl Iterator<Item = (u32, u32)> {
        let recent = self.0.iter().rev().take_while(move |(at, ..)| now.since(*at) < span);
        recent.map(|(_, from, to)| (*from, *to))
    }
}

/// Rounded up: of a few replicas a few per cent are one.
fn percent(count: u32, percent: u32) -> u32 {
    let part = (u64::from(count) * u64::from(percent)).div_ceil(100);
    u32::try_from(part).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_look_at_the_most_and_the_least_within_them() {
        let mut asked = Asked::default();
        for (second, count) in [(0, 9), (1, 2), (2, 4), (3, 3)] {
            asked.push(StateMs(second * 1_000), count, DurationMs(2_000));
        }
        let at = StateMs(3_000);
        let found = [0, 1_000, 2_000, 9_000].map(|window| {
            (asked.least(at, DurationMs(window)), asked.most(at, DurationMs(window)))
        });
        // What is older than is ever asked for is forgotten.
        let expected = [(3, 3), (3, 4), (2, 4), (2, 4)];
        assert_eq!(found, expected.map(|(least, most)| (Some(least), Some(most))));
    }

    #[test]
    fn growth_is_bounded_by_what_there_was_when_the_span_began() {
        let pace = ScalingPace::UP_DEFAULT;
        let mut changes = Changes::default();
        let keep = DurationMs(60_000);
        assert_eq!(changes.most(StateMs(0), 0, &pace), 4);
        assert_eq!(changes.most(StateMs(0), 3, &pace), 7);
        assert_eq!(changes.most(StateMs(0), 10, &pace), 20);
        changes.push(StateMs(0), 10, 16, keep);
        assert_eq!(changes.most(StateMs(14_999), 16, &pace), 20);
        assert_eq!(changes.most(StateMs(15_000), 16, &pace), 32);
        changes.push(StateMs(15_000), 16, 32, keep);
        assert_eq!(changes.most(StateMs(15_001), 32, &pace), 32);
        // A person made it fewer.
        assert_eq!(changes.most(StateMs(15_001), 2, &pace), 4);
    }

    #[test]
    fn so_is_shrinking() {
        let pace = ScalingPace { percent: 10, replicas: 1, ..ScalingPace::DOWN_DEFAULT };
        let mut changes = Changes::default();
        assert_eq!(changes.least(StateMs(0), 25, &pace), 22);
        changes.push(StateMs(0), 25, 23, DurationMs(60_000));
        assert_eq!(changes.least(StateMs(1_000), 23, &pace), 22);
        assert_eq!(changes.least(StateMs(15_000), 23, &pace), 20);
        assert_eq!(changes.least(StateMs(15_000), 1, &pace), 0);
    }
}
