//! What the log holds, in memory. It runs ahead of the disk: an entry is
//! readable as soon as it was handed over.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::EntryPayload;

use super::entries::{from_record, to_log_id, to_vote};
use crate::app::App;
use crate::device::Recovered;
use crate::types::{Entry, LogId, Vote};

/// Entries from `purged` on, without holes, and the vote.
pub(crate) struct Cache<A: App> {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    entries: VecDeque<Entry<A>>,
}

impl<A: App> Cache<A> {
    pub(crate) fn new(recovered: Recovered) -> io::Result<Self> {
        let records = recovered.records.into_iter();
        Ok(Self {
            vote: recovered.vote.map(to_vote),
            committed: recovered.committed.map(to_log_id),
            purged: recovered.purged.map(to_log_id),
            entries: records.map(from_record).collect::<io::Result<_>>()?,
        })
    }

    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// Adds an entry; a hole is refused, since the consensus library looks at
    /// the last entry only and would never see it.
    pub(crate) fn push(&mut self, entry: Entry<A>) -> io::Result<()> {
        if entry.log_id.index != self.next() {
            let what =
                format!("append of entry {} where {} is next", entry.log_id.index, self.next());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    pub(crate) fn truncate_after(&mut self, last_kept: Option<u64>) {
        let next = last_kept.map_or(0, |index| index + 1);
        let kept = next.saturating_sub(self.first());
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        self.entries.truncate(kept);
    }

    pub(crate) fn purge_to(&mut self, upto: LogId) {
        if upto.index < self.first() {
            return;
        }
        let count = (upto.index + 1 - self.first()).min(self.entries.len() as u64);
        self.entries.drain(..usize::try_from(count).unwrap_or(usize::MAX));
        self.purged = Some(upto);
    }

    fn positions(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<usize> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let first = self.first();
        let start = start.clamp(first, self.next()) - first;
        let end = end.clamp(first, self.next()) - first;
        let to_usize = |value| usize::try_from(value).unwrap_or(usize::MAX);
        to_usize(start)..to_usize(end.max(start))
    }

    pub(crate) fn read(&self, range: &impl RangeBounds<u64>) -> Vec<Entry<A>> {
        self.entries.range(self.positions(range)).cloned().collect()
    }

    /// As `read`, but stops before the entries together exceed `bytes_max`;
    /// returns at least one entry if there is one.
    pub(crate) fn read_limited(
        &self,
        range: &impl RangeBounds<u64>,
        bytes_max: usize,
    ) -> Vec<Entry<A>> {
        let mut bytes = 0;
        let entries = self.entries.range(self.positions(range));
        entries
            .enumerate()
            .take_while(|(position, entry)| {
                bytes += size(entry);
                *position == 0 || bytes <= bytes_max
            })
            .map(|(_, entry)| entry.clone())
            .collect()
    }
}

/// Roughly how many bytes an entry takes on the wire.
pub(crate) fn size<A: App>(entry: &Entry<A>) -> usize {
    const OVERHEAD: usize = 32;
    OVERHEAD
        + match &entry.payload {
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
            EntryPayload::Normal(proposal) => proposal.bytes.len(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite_test::Nothing;
    use crate::types::Committed;

    #[test]
    fn f15_an_entry_that_does_not_follow_is_not_taken() {
        let entry = |index| Entry::<Nothing> {
            log_id: LogId::new(Committed::new(1), index),
            payload: EntryPayload::Blank,
        };
        let mut cache = Cache::<Nothing>::new(Recovered::default()).unwrap();
        cache.push(entry(0)).unwrap();
        for index in [0, 2] {
            let refused = cache.push(entry(index)).unwrap_err().to_string();
            assert_eq!(refused, format!("append of entry {index} where 1 is next"));
        }
        cache.push(entry(1)).unwrap();
        assert_eq!(cache.read(&(..)).len(), 2);
    }
}
