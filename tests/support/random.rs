//! Random numbers that a seed repeats: splitmix64 (Steele, Lea, Flood 2014).

use std::sync::atomic::{AtomicU64, Ordering};

/// Shared between threads, which then each get numbers of their own.
pub(crate) struct Random(AtomicU64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Another row of numbers, the same for the same name.
    pub(crate) fn branch(&self, name: u64) -> Self {
        Self::new(mixed(self.0.load(Ordering::Relaxed) ^ mixed(name)))
    }

    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        mixed(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    /// From 0, `bound` excluded.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// So many times in a thousand.
    pub(crate) fn per_mille(&self, times: u64) -> bool {
        self.below(1000) < times
    }

    pub(crate) fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A number without a pattern for each number.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
