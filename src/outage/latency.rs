//! How long one endpoint took to answer lately: an estimate of its 95th percentile, for `hedge.after = p95`.
//!
//! A histogram with eight classes to each doubling, so that what is read off is too long by an eighth at most. When it holds
//! [`MOST`] exchanges every class is halved: what was long ago counts less and less, and nothing grows. Under [`LEAST`]
//! exchanges it says nothing.

use std::time::Duration;

use parking_lot::Mutex;

/// Microseconds up to 2^27, over two minutes: `timeout` is a minute at most.
const CLASSES: usize = 8 * 25;
const LEAST: u32 = 100;
const MOST: u32 = 1000;

pub(crate) struct Latency(Mutex<Histogram>);

struct Histogram {
    counts: [u32; CLASSES],
    all: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self(Mutex::new(Histogram { counts: [0; CLASSES], all: 0 }))
    }
}

impl Latency {
    /// An exchange was answered after this, or not even then.
    pub(crate) fn note(&self, took: Duration) {
        let mut histogram = self.0.lock();
        histogram.counts[class(took)] += 1;
        histogram.all += 1;
        if histogram.all >= MOST {
            histogram.counts.iter_mut().for_each(|count| *count /= 2);
            histogram.all = histogram.counts.iter().sum();
        }
    }

    /// 19 of 20 took no longer; at least a millisecond, below which timers do not tell. `None`: there were too few.
    pub(crate) fn p95(&self) -> Option<Duration> {
        let histogram = self.0.lock();
        if histogram.all < LEAST {
            return None;
        }
        let mut above = histogram.all / 20;
        let classes = histogram.counts.iter().enumerate().rev();
        for (class, &count) in classes {
            match above.checked_sub(count) {
                Some(left) => above = left,
                None => return Some(upper_bound(class).max(Duration::from_millis(1))),
            }
        }
        None
    }
}

/// Below 8 µs a class each; then the first bit and the three after it.
fn class(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if us < 8 {
        return us as usize;
    }
    let doubling = us.ilog2() as usize;
    let eighth = (us >> (doubling - 3)) as usize & 7;
    (8 * (doubling - 2) + eighth).min(CLASSES - 1)
}

fn upper_bound(class: usize) -> Duration {
    let next = class + 1;
    let us = match next / 8 {
        0 => next as u64,
        doublings => (8 + next as u64 % 8) << (doublings - 1),
    };
    Duration::from_micros(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn classes_follow_each_other_and_are_an_eighth_wide_at_most() {
        let mut us = 1_u64;
        while us < 60_000_000 {
            let took = Duration::from_micros(us);
            let bound = upper_bound(class(took));
            assert!(
                took < bound && bound <= took + took / 8 + Duration::from_micros(1),
                "{took:?} {bound:?}"
            );
            assert!(class(took) <= class(Duration::from_micros(us + 1)));
            us += us / 50 + 1;
        }
        assert_eq!(class(Duration::MAX), CLASSES - 1);
    }

    #[test]
    fn too_few_say_nothing() {
        let latency = Latency::default();
        (1..LEAST).for_each(|_| latency.note(MS));
        assert_eq!(latency.p95(), None);
        latency.note(MS);
        assert!(latency.p95().is_some());
    }

    #[test]
    fn one_in_twenty_may_take_longer() {
        let latency = Latency::default();
        for number in 0..500 {
            latency.note(if number % 25 == 0 { MS * 800 } else { MS * 10 });
        }
        let p95 = latency.p95().unwrap();
        assert!(p95 >= MS * 10 && p95 <= MS * 12, "{p95:?}: 4 % are slow");
        for number in 0..500 {
            latency.note(if number % 10 == 0 { MS * 800 } else { MS * 10 });
        }
        assert!(latency.p95().unwrap() >= MS * 800, "10 % are slow");
    }

    #[test]
    fn what_was_long_ago_counts_less_and_less() {
        let latency = Latency::default();
        (0..100_000).for_each(|_| latency.note(MS * 500));
        (0..5 * MOST).for_each(|_| latency.note(MS * 5));
        assert!(latency.p95().unwrap() <= MS * 6);
        assert!(latency.0.lock().all < MOST);
    }
}
