//! What bounded reuse before that bound was raised: what had ended by then does not live again.
//!
//! A bound is not written into what is remembered, so that a lower one cuts at once. So what a former one has ended
//! is told by when that was raised. Nothing is searched: a raise costs the same whatever is remembered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// With one more raise the two oldest are taken for one, which ends what either has.
const MOST: usize = 16;

#[derive(Default)]
pub(super) struct Raised {
    /// When it was raised last, in milliseconds of the engine's time.
    last: AtomicU64,
    /// Each former bound, and until when it held; the oldest first. Each is higher than those before it: a lower one, which
    /// held until later, ends all that they do.
    former: Mutex<Vec<Former>>,
}

#[derive(Clone, Copy)]
struct Former {
    until: u64,
    bound: Duration,
}

impl Raised {
    /// `bound` held until now.
    pub(super) fn note(&self, bound: Duration, now: u64) {
        let mut former = self.former.lock();
        former.retain(|older| older.bound < bound);
        former.push(Former { until: now, bound });
        if former.len() > MOST {
            let oldest = former.remove(0);
            former[0].bound = oldest.bound;
        }
        self.last.fetch_max(now, Ordering::Release);
    }

    /// What bounds the reuse of what was `born` then: the bound of today, or a former one that has ended it already.
    pub(super) fn bound(&self, born: u64, bound: Duration) -> Duration {
        // Most bounds are never raised.
        if born > self.last.load(Ordering::Acquire) {
            return bound;
        }
        let ended = |former: &&Former| {
            let bound = u64::try_from(former.bound.as_millis()).unwrap_or(u64::MAX);
            born.saturating_add(bound) <= former.until
        };
        // The lowest is the first.
        self.former.lock().iter().find(ended).map_or(bound, |former| former.bound.min(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const MAX: Duration = ms(1_000_000);

    #[test]
    fn what_a_former_bound_had_ended_is_bound_by_it_and_nothing_else_is() {
        let raised = Raised::default();
        assert_eq!((raised.bound(0, MAX), raised.bound(7, MAX)), (MAX, MAX));
        raised.note(ms(100), 1_000);
        assert_eq!((raised.bound(0, MAX), raised.bound(900, MAX)), (ms(100), ms(100)));
        assert_eq!((raised.bound(901, MAX), raised.bound(1_001, MAX)), (MAX, MAX));
        assert_eq!(raised.bound(900, ms(50)), ms(50), "the bound of today is lower");
        raised.note(Duration::ZERO, 2_000);
        let all = [0, 900, 901, 1_999, 2_000].map(|born| raised.bound(born, MAX));
        assert_eq!(all, [Duration::ZERO; 5]);
        assert_eq!(raised.bound(2_001, MAX), MAX);
        raised.note(ms(500), 3_000);
        assert_eq!((raised.bound(2_000, MAX), raised.bound(2_500, MAX)), (Duration::ZERO, ms(500)));
        assert_eq!(raised.bound(2_501, MAX), MAX);
    }

    #[test]
    fn however_often_it_is_raised_little_is_kept_and_what_had_ended_stays_so() {
        let raised = Raised::default();
        for raise in 1..1_000 {
            raised.note(ms(raise), raise * 10_000);
            assert!(raised.former.lock().len() <= MOST);
            let last = raise * 10_000;
            assert!(raised.bound(last - raise, MAX) <= ms(raise));
            assert_eq!(raised.bound(last - raise + 1, MAX), MAX, "it had not ended");
            assert!(raised.bound(0, MAX) < MAX);
        }
        for _ in 0..1_000 {
            raised.note(Duration::ZERO, 20_000_000);
        }
        assert_eq!(raised.former.lock().len(), 1);
    }
}
