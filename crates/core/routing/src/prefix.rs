//! Which replica holds how much of a prompt in its KV cache, as far as it can be told from what was
//! sent to it. Each block's hash stands for the block and all before it, so that who holds one holds
//! those before it; what was used longest ago is forgotten first, and of one prompt its end.

use std::collections::BTreeMap;

use berth_model::AllocationId;

use crate::chance::Dice;

/// Replicas that are told of for one prompt.
const OWNERS_MAX: usize = 16;

/// A prompt in blocks of as many tokens each, but for what is left over at its end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocks {
    pub hashes: Vec<u64>,
    pub tokens_each: u32,
}

impl Blocks {
    /// Tokens in the first `count` blocks.
    pub fn tokens(&self, count: usize) -> u64 {
        (count as u64).saturating_mul(u64::from(self.tokens_each))
    }
}

/// A replica and how many blocks of a prompt it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    pub owner: AllocationId,
    pub blocks: usize,
}

/// What each replica is thought to hold.
#[derive(Clone, Debug)]
pub struct PrefixIndex {
    /// Of one replica.
    blocks_max: usize,
    /// Each list is ordered, without repetition, and not empty.
    owners: BTreeMap<u64, Vec<AllocationId>>,
    held: BTreeMap<AllocationId, Held>,
    /// Counts uses.
    uses: u64,
}

/// The blocks of one replica.
#[derive(Clone, Debug, Default)]
struct Held {
    used: BTreeMap<u64, Used>,
    /// In the order in which they are forgotten.
    order: BTreeMap<Used, u64>,
}

/// The last use of a block; what is least is forgotten first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Used {
    by: u64,
    /// Blocks of its prompt that come after it, of the most that there can be.
    after: usize,
}

impl PrefixIndex {
    /// Of so many blocks for each replica.
    pub fn new(blocks_max: usize) -> PrefixIndex {
        PrefixIndex { blocks_max, owners: BTreeMap::new(), held: BTreeMap::new(), uses: 0 }
    }

    /// A prompt is sent to a replica, which will hold it from now on.
    pub fn used(&mut self, owner: AllocationId, prompt: &Blocks) {
        if self.blocks_max == 0 || prompt.hashes.is_empty() {
            return;
        }
        self.uses += 1;
        let held = self.held.entry(owner).or_default();
        for (position, hash) in prompt.hashes.iter().take(self.blocks_max).enumerate() {
            let used = Used { by: self.uses, after: self.blocks_max - position };
            match held.used.insert(*hash, used) {
                Some(before) => {
                    held.order.remove(&before);
                }
                None => add(self.owners.entry(*hash).or_default(), owner),
            }
            held.order.insert(used, *hash);
        }
        while held.used.len() > self.blocks_max {
            let Some((_, hash)) = held.order.pop_first() else { break };
            held.used.remove(&hash);
            take_away(&mut self.owners, hash, owner);
        }
    }

    /// The replica is gone, or has begun anew.
    pub fn forget(&mut self, owner: AllocationId) {
        let held = self.held.remove(&owner).unwrap_or_default();
        for hash in held.used.into_keys() {
            take_away(&mut self.owners, hash, owner);
        }
    }

    /// Who holds the first `at_least` blocks of a prompt, and how many: at most sixteen, which
    /// `chance` picks where there are more. Costs a logarithm of the prompt's blocks for each.
    pub fn matches(&self, prompt: &Blocks, at_least: usize, chance: u64) -> Vec<Match> {
        let first = at_least.max(1) - 1;
        let Some(owners) = prompt.hashes.get(first).and_then(|hash| self.owners.get(hash)) else {
            return Vec::new();
        };
        let matched = |owner: &AllocationId| {
            let held = &self.held.get(owner)?.used;
            let beyond = &prompt.hashes[first + 1..];
            let more = beyond.partition_point(|hash| held.contains_key(hash));
            Some(Match { owner: *owner, blocks: first + 1 + more })
        };
        let start =
            if owners.len() > OWNERS_MAX { Dice::new(chance).below(owners.len()) } else { 0 };
        let (after, before) = (&owners[start..], &owners[..start]);
        after.iter().chain(before).take(OWNERS_MAX).filter_map(matched).collect()
    }

    /// Blocks of a prompt that a replica holds.
    pub fn held_by(&self, owner: AllocationId, prompt: &Blocks) -> usize {
        let Some(held) = self.held.get(&owner) else { return 0 };
        prompt.hashes.partition_point(|hash| held.used.contains_key(hash))
    }

    /// Blocks that are remembered, of all replicas together.
    pub fn len(&self) -> usize {
        self.held.values().map(|held| held.used.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn add(owners: &mut Vec<AllocationId>, owner: AllocationId) {
    if let Err(place) = owners.binary_search(&owner) {
        owners.insert(place, owner);
    }
}

fn take_away(owners: &mut BTreeMap<u64, Vec<AllocationId>>, hash: u64, owner: AllocationId) {
    if let Some(list) = owners.get_mut(&hash) {
        list.retain(|known| *known != owner);
        if list.is_empty() {
            owners.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_model::JobId;
    use proptest::prelude::*;

    use super::*;
    use crate::chance::mix_both;

    fn owner(number: u64) -> AllocationId {
        AllocationId { job: JobId(number), ..AllocationId::default() }
    }

    /// A prompt of these words: each hash is of the words until there.
    fn prompt(words: &[u64]) -> Blocks {
        let mut hash = 0;
        let hashes = words.iter().map(|word| {
            hash = mix_both(hash, *word);
            hash
        });
        Blocks { hashes: hashes.collect(), tokens_each: 64 }
    }

    #[test]
    fn who_was_sent_a_prompt_holds_what_others_begin_with() {
        let mut index = PrefixIndex::new(100);
        index.used(owner(1), &prompt(&[1, 2, 3, 4]));
        index.used(owner(2), &prompt(&[1, 2]));
        let asked = prompt(&[1, 2, 3, 9]);
        let found = |at_least| {
            let matches = index.matches(&asked, at_least, 1);
            matches.iter().map(|found| (found.owner.job.0, found.blocks)).collect::<Vec<_>>()
        };
        assert_eq!(found(0), [(1, 3), (2, 2)]);
        assert_eq!(found(3), [(1, 3)]);
        assert_eq!(found(4), []);
        assert_eq!((index.held_by(owner(2), &asked), index.held_by(owner(3), &asked)), (2, 0));
        assert_eq!(asked.tokens(3), 192);
        assert_eq!(index.matches(&Blocks::default(), 0, 1), []);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_of_a_prompt_its_end() {
        let mut index = PrefixIndex::new(5);
        let (old, new) = (prompt(&[1, 2, 3]), prompt(&[7, 8, 9]));
        index.used(owner(1), &old);
        index.used(owner(1), &new);
        assert_eq!((index.held_by(owner(1), &old), index.held_by(owner(1), &new)), (2, 3));
        // Used again, it is the other that goes.
        index.used(owner(1), &prompt(&[1]));
        index.used(owner(1), &prompt(&[4, 5]));
        assert_eq!((index.held_by(owner(1), &old), index.held_by(owner(1), &new)), (1, 2));
        // Of what is too long its beginning.
        let long: Vec<u64> = (100..200).collect();
        index.used(owner(1), &prompt(&long));
        assert_eq!((index.held_by(owner(1), &prompt(&long)), index.len()), (5, 5));
        index.forget(owner(1));
        assert!(index.is_empty() && index.owners.is_empty());
    }

    proptest! {
        #[test]
        fn who_holds_a_block_holds_those_before_it(
            uses in prop::collection::vec((0..3_u64, prop::collection::vec(0..3_u64, 1..8)), 1..60),
        ) {
            let mut index = PrefixIndex::new(12);
            for (who, words) in &uses {
                index.used(owner(*who), &prompt(words));
                for (owner, held) in &index.held {
                    prop_assert!(held.used.len() <= 12);
                    prop_assert_eq!(held.used.len(), held.order.len());
                    for (_, words) in &uses {
                        let asked = prompt(words);
                        let holds = |hash: &u64| held.used.contains_key(hash);
                        let first = asked.hashes.iter().take_while(|hash| holds(hash)).count();
                        prop_assert!(!asked.hashes[first..].iter().any(holds));
                        prop_assert_eq!(index.held_by(*owner, &asked), first);
                    }
                }
            }
            let listed: usize = index.owners.values().map(Vec::len).sum();
            prop_assert_eq!(listed, index.len());
        }
    }
}
