//! A bound on safe retries: at most a tenth of the exchanges of the last ten seconds, so that a backend that
//! closes every connection is not asked twice for everything.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

const WINDOW: usize = 10;
/// Retries that are always granted in a window: a backend's reload closes that many idle connections at once
/// without anything being wrong, and a tenth of little traffic would be none.
const ALWAYS: u64 = 16;

#[derive(Default)]
pub(crate) struct RetryBudget {
    window: RefCell<Window>,
    granted: Arc<AtomicU64>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    /// The second, counted from `began`, that the newest bucket stands for.
    second: u64,
    exchanges: [u64; WINDOW],
    retries: [u64; WINDOW],
}

impl RetryBudget {
    /// `granted` counts for the statistics.
    pub(crate) fn new(granted: Arc<AtomicU64>) -> Self {
        Self { window: RefCell::default(), granted }
    }

    /// A request is about to be made.
    pub(crate) fn exchange(&self, now: Instant) {
        let mut window = self.window.borrow_mut();
        let bucket = window.advance(now);
        window.exchanges[bucket] += 1;
    }

    /// Whether one more retry is within bounds; if so it is counted.
    pub(crate) fn retry(&self, now: Instant) -> bool {
        let mut window = self.window.borrow_mut();
        let bucket = window.advance(now);
        let allowed = (window.exchanges.iter().sum::<u64>() / 10).max(ALWAYS);
        let granted = window.retries.iter().sum::<u64>() < allowed;
        if granted {
            window.retries[bucket] += 1;
            self.granted.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }
}

impl Window {
    /// Forgets the seconds that have left the window; returns the bucket of this one.
    fn advance(&mut self, now: Instant) -> usize {
        let began = *self.began.get_or_insert(now);
        let second = now.saturating_duration_since(began).as_secs();
        let passed = second.saturating_sub(self.second).min(WINDOW as u64);
        for step in 1..=passed {
            let bucket = (self.second + step) as usize % WINDOW;
            self.exchanges[bucket] = 0;
            self.retries[bucket] = 0;
        }
        if passed == WINDOW as u64 {
            self.exchanges = [0; WINDOW];
            self.retries = [0; WINDOW];
        }
        self.second = self.second.max(second);
        (self.second % WINDOW as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tenth_of_the_exchanges_may_be_retried() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        for _ in 0..1000 {
            budget.exchange(now);
        }
        assert_eq!((0..1000).filter(|_| budget.retry(now)).count(), 100);
    }

    #[test]
    fn little_traffic_keeps_its_few_retries() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| budget.retry(now)).count(), ALWAYS as usize);
    }

    #[test]
    fn what_was_retried_ten_seconds_ago_is_forgotten() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        while budget.retry(now) {}
        assert!(!budget.retry(now + Duration::from_secs(9)));
        assert!(budget.retry(now + Duration::from_secs(10)));
        let much_later = now + Duration::from_secs(1000);
        assert_eq!((0..100).filter(|_| budget.retry(much_later)).count(), ALWAYS as usize);
    }
}
