//! Chance that can be repeated.

use std::hash::BuildHasher;

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random {
    /// What it began with, for messages.
    pub seed: u64,
    state: u64,
}

impl Random {
    /// Another one each time, unless `ETLRS_FAULTS_SEED` says which.
    pub fn new() -> Self {
        let seed = match std::env::var("ETLRS_FAULTS_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => std::hash::RandomState::new().hash_one(0) % 1_000_000,
        };
        Self { seed, state: seed }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.number() % n as u64).unwrap()
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
