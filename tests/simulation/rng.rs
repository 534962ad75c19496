//! The one source of chance of a run.

use berth_sim::Random;

/// A seed is a run.
#[derive(Clone, Debug)]
pub struct Rng(Random);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        // Neighbouring seeds begin far apart.
        let mut rng =
            Rng(Random::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5bf0_3635_dcf2_a4a1));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0.draw()
    }

    /// From `least` to `most`, both included.
    pub fn range(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).unwrap()
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }

    /// How far a machine's clock is off: any two drift apart by 5 % at most.
    pub fn drift_ppm(&mut self) -> i64 {
        i64::try_from(self.range(0, 50_000)).unwrap() - 25_000
    }

    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())].clone()
    }
}

/// FNV-1a: small, and the same on every machine.
#[derive(Clone, Copy, Debug)]
pub struct Fold(pub u64);

impl Default for Fold {
    fn default() -> Fold {
        Fold(0xcbf2_9ce4_8422_2325)
    }
}

impl Fold {
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
}
