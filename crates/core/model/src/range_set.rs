//! A set of numbers kept as ranges, so that ten thousand array positions cost
//! as much as their gaps.

use std::collections::BTreeMap;

/// A set of `u32` as disjoint, non-touching, inclusive ranges in ascending
/// order. Every operation costs O(log r) in the number of ranges `r`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RangeSet {
    ranges: BTreeMap<u32, u32>,
    count: u64,
}

impl RangeSet {
    #[must_use]
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    /// The set `0..count`.
    #[must_use]
    pub fn first(count: u32) -> RangeSet {
        let mut set = RangeSet::new();
        if let Some(last) = count.checked_sub(1) {
            set.ranges.insert(0, last);
            set.count = u64::from(count);
        }
        set
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn contains(&self, value: u32) -> bool {
        self.range_of(value).is_some()
    }

    /// The smallest number in the set.
    #[must_use]
    pub fn min(&self) -> Option<u32> {
        self.ranges.keys().next().copied()
    }

    /// The ranges, inclusive at both ends, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flat_map(|(start, end)| start..=end)
    }

    /// Adds `value`; false if it was there.
    pub fn insert(&mut self, value: u32) -> bool {
        if self.contains(value) {
            return false;
        }
        let before = value.checked_sub(1).and_then(|previous| self.range_of(previous));
        let after = value.checked_add(1).and_then(|next| self.ranges.remove(&next));
        let end = after.unwrap_or(value);
        let start = before.map_or(value, |(start, _)| start);
        self.ranges.insert(start, end);
        self.count += 1;
        true
    }

    /// Adds `start..=end`, which must not meet what is already there; false
    /// (and no change) if it does or is empty.
    pub fn insert_range(&mut self, start: u32, end: u32) -> bool {
        let meets = self.range_of(start).is_some()
            || self.ranges.range(start..=end.max(start)).next().is_some();
        if start > end || meets {
            return false;
        }
        let joined_end =
            end.checked_add(1).and_then(|next| self.ranges.remove(&next)).unwrap_or(end);
        let joined_start = start
            .checked_sub(1)
            .and_then(|previous| self.range_of(previous))
            .map_or(start, |(first, _)| first);
        self.ranges.insert(joined_start, joined_end);
        self.count += u64::from(end - start) + 1;
        true
    }

    /// Takes `value` out; false if it was not there.
    pub fn remove(&mut self, value: u32) -> bool {
        let Some((start, end)) = self.range_of(value) else {
            return false;
        };
        self.ranges.remove(&start);
        if start < value {
            self.ranges.insert(start, value - 1);
        }
        if value < end {
            self.ranges.insert(value + 1, end);
        }
        self.count -= 1;
        true
    }

    fn range_of(&self, value: u32) -> Option<(u32, u32)> {
        let (start, end) = self.ranges.range(..=value).next_back()?;
        (value <= *end).then_some((*start, *end))
    }
}

impl FromIterator<u32> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(values: I) -> RangeSet {
        let mut set = RangeSet::new();
        for value in values {
            set.insert(value);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn behaves_as_a_set_of_numbers() {
        // A fixed multiplicative walk visits inserts and removals in a mixed order.
        let mut set = RangeSet::new();
        let mut model = BTreeSet::new();
        let mut step: u32 = 7;
        for _ in 0..4000 {
            step = step.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (step >> 8) % 97;
            if step & 1 == 0 {
                assert_eq!(set.insert(value), model.insert(value));
            } else {
                assert_eq!(set.remove(value), model.remove(&value));
            }
            assert_eq!(set.len(), model.len() as u64);
            assert!(set.iter().eq(model.iter().copied()));
            let ranges: Vec<_> = set.ranges().collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{ranges:?}");
        }
    }

    #[test]
    fn ranges_join_and_never_overlap() {
        let mut set = RangeSet::first(3);
        assert!(set.insert_range(5, 9));
        assert!(!set.insert_range(2, 4));
        assert!(!set.insert_range(8, 12));
        assert!(set.insert_range(3, 4));
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(0, 9)]);
        assert_eq!(set.len(), 10);
        assert!(set.insert(u32::MAX));
        assert!(set.contains(u32::MAX));
    }
}
