//! How long checks took, by classes that a person at a dashboard tells apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds; what took longer is in a class of its own. From a remembered decision to the longest
/// `timeout`.
pub(crate) const BOUNDS: [u64; 14] = [
    50, 200, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Counts without a lock, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    classes: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// A [`Histogram`] at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// One a bound, and what took longer.
    pub(crate) classes: [u64; BOUNDS.len() + 1],
    /// All of them together.
    pub(crate) microseconds: u64,
}

impl Histogram {
    pub(crate) fn count(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.partition_point(|&bound| bound < microseconds);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Durations {
        Durations {
            classes: std::array::from_fn(|class| self.classes[class].load(Ordering::Relaxed)),
            microseconds: self.microseconds.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_class_that_holds_it() {
        let histogram = Histogram::default();
        for (microseconds, class) in
            [(0, 0), (50, 0), (51, 1), (10_000_000, 13), (10_000_001, 14), (u64::MAX, 14)]
        {
            let before = histogram.read().classes[class];
            histogram.count(Duration::from_micros(microseconds));
            assert_eq!(histogram.read().classes[class], before + 1, "{microseconds}");
        }
        assert_eq!(histogram.read().classes.iter().sum::<u64>(), 6);
    }
}
