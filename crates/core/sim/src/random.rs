//! Numbers that look drawn by chance and are the same for the same seed, on every machine.

use berth_routing::chance::Dice;

/// Good enough for shuffling lists; not for secrets.
#[derive(Clone, Debug)]
pub struct Random(Dice);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Dice::new(seed))
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0.draw()
    }

    /// One of 0 to `count - 1`; 0 of none. Lists are far too short for the unevenness of the
    /// multiplication (Lemire, 2019) to be seen.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.below(count)
    }

    /// Every order is as likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        // The reference values of the algorithm for the seed 0.
        let mut random = Random::new(0);
        assert_eq!(random.draw(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(random.draw(), 0x6E78_9E6A_A1B9_65F4);
        assert_ne!(Random::new(1).draw(), Random::new(2).draw());
    }

    #[test]
    fn what_is_drawn_is_in_range_and_every_order_comes() {
        let mut random = Random::new(42);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut list = [1, 2, 3];
            random.shuffle(&mut list);
            seen.insert(list);
        }
        assert_eq!(seen.len(), 6);
    }
}
