//! Several draws from one random number that the caller brings, and a mixer of numbers into places
//! on a ring. Neither is for secrets.

/// Draws that are the same for the same seed. The generator is SplitMix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A position from 0 to `count` − 1; 0 where there is none. The bias is below `count` / 2^64.
    pub fn below(&mut self, count: usize) -> usize {
        let wide = u128::from(self.draw()) * count as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

/// SplitMix64's finaliser: each bit of the input moves half of the output's.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One number for two, in this order.
pub fn mix_both(first: u64, second: u64) -> u64 {
    mix(mix(first).wrapping_add(STEP) ^ second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_comes_about_as_often() {
        let mut dice = Dice::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[dice.below(10)] += 1;
        }
        // Six standard deviations of a binomial of 100,000 draws at one tenth are 570.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 570), "{counts:?}");
        assert_eq!(dice.below(0), 0);
        assert_eq!(dice.below(1), 0);
    }

    #[test]
    fn the_first_draw_of_a_known_seed_is_the_published_one() {
        // Vigna's splitmix64.c for the seed 0.
        assert_eq!(Dice::new(0).draw(), 0xe220_a839_7b1d_cdaf);
        assert_ne!(mix_both(1, 2), mix_both(2, 1));
    }
}
