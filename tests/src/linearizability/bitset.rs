//! A set of small numbers whose low part is mostly full, as the set of calls
//! already put in order is.

/// The set's content in a form that is equal exactly for equal sets, and short:
/// the full words at its beginning are only counted, the empty ones at its end
/// left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Compact {
    full_words: usize,
    rest: Box<[u64]>,
}

#[derive(Debug, Clone)]
pub(super) struct Bitset {
    words: Vec<u64>,
}

impl Bitset {
    /// The empty set of numbers below `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        Self { words: vec![0; capacity.div_ceil(64)] }
    }

    pub(super) fn contains(&self, member: usize) -> bool {
        self.words[member / 64] & (1 << (member % 64)) != 0
    }

    pub(super) fn insert(&mut self, member: usize) {
        self.words[member / 64] |= 1 << (member % 64);
    }

    pub(super) fn remove(&mut self, member: usize) {
        self.words[member / 64] &= !(1 << (member % 64));
    }

    /// The lowest number that is not a member; it may be the capacity or above.
    pub(super) fn first_absent(&self) -> usize {
        let full_words = self.full_words();
        match self.words.get(full_words) {
            Some(word) => full_words * 64 + word.trailing_ones() as usize,
            None => full_words * 64,
        }
    }

    pub(super) fn compact(&self) -> Compact {
        let full_words = self.full_words();
        let used = self.words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let rest = self.words[full_words..used.max(full_words)].into();
        Compact { full_words, rest }
    }

    fn full_words(&self) -> usize {
        self.words.iter().position(|word| *word != u64::MAX).unwrap_or(self.words.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::Bitset;

    proptest! {
        #[test]
        fn behaves_as_a_set(
            changes in prop::collection::vec((0_usize..200, any::<bool>()), 0..400),
            full in 0_usize..200,
        ) {
            let mut bits = Bitset::new(200);
            let mut reference = BTreeSet::new();
            let filling = (0..full).map(|member| (member, true));
            for (member, present) in filling.chain(changes) {
                if present {
                    bits.insert(member);
                    reference.insert(member);
                } else {
                    bits.remove(member);
                    reference.remove(&member);
                }
            }
            for member in 0..200 {
                prop_assert_eq!(bits.contains(member), reference.contains(&member));
            }
            let first = (0..200).find(|member| !reference.contains(member)).unwrap_or(200);
            prop_assert_eq!(bits.first_absent(), first);
        }
    }

    #[test]
    fn compact_forms_tell_sets_apart() {
        let mut seen = HashSet::new();
        let mut bits = Bitset::new(130);
        assert!(seen.insert(bits.compact()));
        for member in 0..130 {
            bits.insert(member);
            assert!(seen.insert(bits.compact()), "{member}");
        }
        for member in 0..130 {
            bits.remove(member);
            assert_eq!(seen.insert(bits.compact()), member != 129, "{member}");
        }
    }
}
