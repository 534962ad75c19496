//! A table of the cluster state: an ordered, persistent map that clones in
//! O(1) and carries an additive hash of its rows.

use std::hash::{Hash, Hasher};
use std::ops::RangeBounds;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// Rows by id. A clone shares everything until one side changes.
#[derive(Clone, Debug)]
pub struct Table<K: Ord + Clone, V> {
    rows: OrdMap<K, Arc<V>>,
    /// The wrapping sum of a hash of each row with its key: it does not depend
    /// on the order of changes, and a change costs O(1).
    sum: u64,
}

impl<K: Ord + Clone, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { rows: OrdMap::new(), sum: 0 }
    }
}

impl<K: Ord + Clone + Hash, V: Hash> Table<K, V> {
    /// Puts a row in; the row that was there is returned.
    pub fn insert(&mut self, key: K, row: Arc<V>) -> Option<Arc<V>> {
        self.sum = self.sum.wrapping_add(row_hash(&key, &*row));
        let old = self.rows.insert(key.clone(), row);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(row_hash(&key, &**old));
        }
        old
    }

    /// Changes a row in place; it is copied only if a view still holds it.
    /// `None` where there is no such row.
    pub fn edit<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R>
    where
        V: Clone,
    {
        let row = self.rows.get_mut(key)?;
        let before = row_hash(key, &**row);
        let answer = change(Arc::make_mut(row));
        self.sum = self.sum.wrapping_sub(before).wrapping_add(row_hash(key, &**row));
        Some(answer)
    }

    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        let old = self.rows.remove(key);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(row_hash(key, &**old));
        }
        old
    }

    /// The hash computed anew from every row; equals `hash` unless memory or
    /// the table itself is broken.
    pub fn hash_from_rows(&self) -> u64 {
        self.rows.iter().fold(0, |sum, (key, row)| sum.wrapping_add(row_hash(key, &**row)))
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.rows.get(key)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The order-independent hash of all rows.
    pub fn hash(&self) -> u64 {
        self.sum
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &Arc<V>)> {
        self.rows.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.rows.values()
    }

    /// What has changed since an earlier table: each row that is new or another one, and
    /// `None` for each that is gone. Costs O(changes) where one is a later state of the other,
    /// since what both share is passed over.
    pub fn changes_since<'a>(
        &'a self,
        earlier: &'a Table<K, V>,
    ) -> impl Iterator<Item = (&'a K, Option<&'a Arc<V>>)>
    where
        V: Eq,
    {
        earlier.rows.diff(&self.rows).map(|change| match change {
            DiffItem::Add(key, row) => (key, Some(row)),
            DiffItem::Update { new: (key, row), .. } => (key, Some(row)),
            DiffItem::Remove(key, _) => (key, None),
        })
    }

    pub fn range<R: RangeBounds<K>>(
        &self,
        range: R,
    ) -> impl DoubleEndedIterator<Item = (&K, &Arc<V>)> {
        self.rows.range(range)
    }
}

fn row_hash<K: Hash, V: Hash>(key: &K, row: &V) -> u64 {
    let mut hasher = StableHasher::default();
    key.hash(&mut hasher);
    row.hash(&mut hasher);
    hasher.finish()
}

/// A hasher without a random seed: the same row hashes alike on every replica
/// that runs the same build. Each word is mixed by a multiply-rotate step and
/// the end by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Default)]
pub(crate) struct StableHasher(u64);

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl StableHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_rows_not_on_their_history() {
        let mut one: Table<u32, String> = Table::default();
        one.insert(1, Arc::new("a".to_owned()));
        one.insert(2, Arc::new("b".to_owned()));
        let mut other: Table<u32, String> = Table::default();
        other.insert(2, Arc::new("x".to_owned()));
        other.insert(3, Arc::new("c".to_owned()));
        other.insert(1, Arc::new("a".to_owned()));
        other.insert(2, Arc::new("b".to_owned()));
        assert_ne!(one.hash(), other.hash());
        other.remove(&3);
        assert_eq!(one.hash(), other.hash());
        assert_eq!(one.hash(), one.hash_from_rows());
    }

    #[test]
    fn the_changes_since_an_earlier_table_are_all_of_them() {
        let mut table: Table<u32, u32> = Table::default();
        (0..1000).for_each(|key| {
            table.insert(key, Arc::new(key));
        });
        let earlier = table.clone();
        assert_eq!(table.changes_since(&earlier).count(), 0);
        table.insert(500, Arc::new(7));
        table.insert(1000, Arc::new(8));
        table.edit(&3, |row| *row = 9);
        table.remove(&999);
        let changes = table.changes_since(&earlier).map(|(key, row)| (*key, row.map(|row| **row)));
        let changes: Vec<(u32, Option<u32>)> = changes.collect();
        assert_eq!(changes, [(3, Some(9)), (500, Some(7)), (999, None), (1000, Some(8))]);
        let back = earlier.changes_since(&table).map(|(key, row)| (*key, row.is_some()));
        let back: Vec<(u32, bool)> = back.collect();
        assert_eq!(back, [(3, true), (500, true), (999, true), (1000, false)]);
    }

    #[test]
    fn a_row_under_another_key_hashes_differently() {
        let table = |key: u32| {
            let mut table: Table<u32, u8> = Table::default();
            table.insert(key, Arc::new(7));
            table.hash()
        };
        assert_ne!(table(1), table(2));
    }
}
