//! Bounds on asking twice, as parts of the exchanges of the last ten seconds: a tenth for safe retries, so that a backend that
//! closes every connection is not asked twice for everything, and `hedge.max` for hedges.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const WINDOW: usize = 10;
/// Retries that are always granted in a window: a backend's reload closes that many idle connections at once
/// without anything being wrong, and a tenth of little traffic would be none.
const ALWAYS: u64 = 16;

#[derive(Default)]
pub(crate) struct RetryBudget {
    window: RefCell<Window>,
    granted: Arc<AtomicU64>,
    hedges: Arc<Hedges>,
}

/// For the statistics, of all I/O threads.
#[derive(Default)]
pub(crate) struct Hedges {
    pub(crate) sent: AtomicU64,
    pub(crate) won: AtomicU64,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    /// The second, counted from `began`, that the newest bucket stands for.
    second: u64,
    /// When that second is over.
    until: Option<Instant>,
    exchanges: [u64; WINDOW],
    retries: [u64; WINDOW],
    hedges: [u64; WINDOW],
}

impl RetryBudget {
    /// `granted` and `hedges` count for the statistics.
    pub(crate) fn new(granted: Arc<AtomicU64>, hedges: Arc<Hedges>) -> Self {
        Self { window: RefCell::default(), granted, hedges }
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

    /// Whether one more hedge is within bounds: so many percent of the exchanges, hedges included. If so it is counted.
    pub(crate) fn hedge(&self, now: Instant, percent: u32) -> bool {
        let mut window = self.window.borrow_mut();
        let bucket = window.advance(now);
        let hedges = window.hedges.iter().sum::<u64>();
        let granted = (hedges + 1) * 100 <= u64::from(percent) * (window.exchanges.iter().sum::<u64>() + 1);
        if granted {
            window.hedges[bucket] += 1;
            self.hedges.sent.fetch_add(1, Ordering::Relaxed);
        }
        granted
    }

    /// A hedge was answered first.
    pub(crate) fn hedge_won(&self) {
        self.hedges.won.fetch_add(1, Ordering::Relaxed);
    }
}

impl Window {
    /// Forgets the seconds that have left the window; returns the bucket of this one.
    fn advance(&mut self, now: Instant) -> usize {
        if self.until.is_some_and(|until| now < until) {
            return (self.second % WINDOW as u64) as usize;
        }
        let began = *self.began.get_or_insert(now);
        let second = now.saturating_duration_since(began).as_secs();
        let passed = second.saturating_sub(self.second).min(WINDOW as u64);
        for step in 1..=passed {
            let bucket = (self.second + step) as usize % WINDOW;
            self.exchanges[bucket] = 0;
            self.retries[bucket] = 0;
            self.hedges[bucket] = 0;
        }
        if passed == WINDOW as u64 {
            self.exchanges = [0; WINDOW];
            self.retries = [0; WINDOW];
            self.hedges = [0; WINDOW];
        }
        self.second = self.second.max(second);
        self.until = Some(began + Duration::from_secs(self.second + 1));
        (self.second % WINDOW as u64) as usize
    }
}

#[cfg(test)]
mod tests {
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
    fn hedges_are_so_many_percent_of_all_and_few_of_few() {
        let budget = RetryBudget::default();
        let now = Instant::now();
        assert!(!budget.hedge(now, 5), "of nothing");
        for _ in 0..1000 {
            budget.exchange(now);
            if budget.hedge(now, 5) {
                budget.exchange(now);
            }
        }
        assert_eq!(budget.hedges.sent.load(Ordering::Relaxed), 52, "5 % of 1,052");
        let later = now + Duration::from_secs(10);
        budget.exchange(later);
        assert!(!budget.hedge(later, 5), "they are 5 % of the last ten seconds");
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
