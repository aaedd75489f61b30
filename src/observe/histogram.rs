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

/// Durations that are counted together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    classes: [u32; BOUNDS.len() + 1],
    microseconds: u64,
}

/// The class of a duration, and its microseconds.
fn class(duration: Duration) -> (usize, u64) {
    let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    (BOUNDS.partition_point(|&bound| bound < microseconds), microseconds)
}

impl Tally {
    pub(crate) fn count(&mut self, duration: Duration) {
        let (class, microseconds) = class(duration);
        self.classes[class] += 1;
        self.microseconds = self.microseconds.wrapping_add(microseconds);
    }
}

impl Histogram {
    pub(crate) fn count(&self, duration: Duration) {
        let (class, microseconds) = class(duration);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, tally: &Tally) {
        for (class, &count) in self.classes.iter().zip(&tally.classes) {
            if count > 0 {
                class.fetch_add(count.into(), Ordering::Relaxed);
            }
        }
        self.microseconds.fetch_add(tally.microseconds, Ordering::Relaxed);
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

    #[test]
    fn counted_together_is_as_counted_one_by_one() {
        let (one_by_one, together) = (Histogram::default(), Histogram::default());
        for round in 0..3 {
            let mut tally = Tally::default();
            for microseconds in [7, 7, 200, 5_000 * round, u64::MAX >> 3] {
                one_by_one.count(Duration::from_micros(microseconds));
                tally.count(Duration::from_micros(microseconds));
            }
            together.add(&tally);
            assert_eq!(one_by_one.read(), together.read());
        }
    }
}
