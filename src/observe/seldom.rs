//! Of what happens again and again, the log gets the first at once and then one line a period, with how many there were:
//! nothing that repeats itself under full load fills a disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(10);

/// By kind: when it was last said, and how many were not said since. Of one thread; there must be few kinds.
pub(crate) struct Seldom<K>(RefCell<HashMap<K, Kind>>);

struct Kind {
    said: Instant,
    unsaid: u64,
}

impl<K: Eq + Hash> Seldom<K> {
    pub(crate) fn new() -> Self {
        Self(RefCell::default())
    }

    /// It has happened. `Some`: say so now, with what is to be added to the line about those that were not said.
    pub(crate) fn happened(&self, kind: K) -> Option<String> {
        Some(match self.several(kind, 1)? {
            0 => String::new(),
            unsaid => format!("; {unsaid} more like it since the last such line"),
        })
    }

    /// It has happened so often since. `Some`: say so now, with how many were not said before these.
    pub(crate) fn several(&self, kind: K, times: u64) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.0.borrow_mut();
        match kinds.get_mut(&kind) {
            Some(kind) if now - kind.said < PERIOD => {
                kind.unsaid += times;
                None
            }
            Some(kind) => {
                kind.said = now;
                Some(std::mem::take(&mut kind.unsaid))
            }
            None => {
                kinds.insert(kind, Kind { said: now, unsaid: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_kind_is_said_at_once_and_the_others_together_once_a_period() {
        let seldom = Seldom::new();
        assert_eq!(seldom.happened("a").as_deref(), Some(""));
        assert_eq!(seldom.happened("b").as_deref(), Some(""));
        for _ in 0..7 {
            assert_eq!(seldom.happened("a"), None);
        }
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(seldom.happened("a"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(seldom.happened("a").as_deref(), Some("; 8 more like it since the last such line"));
        assert_eq!(seldom.happened("b").as_deref(), Some(""));
    }
}
