//! Of what happens again and again, the log gets the first at once and then one line a period, with how many there were:
//! nothing that repeats itself under full load fills a disk. What was not said is said at the end of its period, though
//! nothing more happens: who keeps one looks at [`Seldom::next_at`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The period. Who asks for what is unsaid so much later gets all of it.
pub(crate) const SAID_AGAIN: Duration = Duration::from_secs(10);

/// By kind: when it was last said, and how many were not said since. Of one thread at a time; there must be few kinds.
pub(crate) struct Seldom<K> {
    kinds: RefCell<HashMap<K, Kind>>,
    next: Cell<Option<Instant>>,
    /// Has who keeps it look at `next`, which is sooner than it was.
    poke: Box<dyn Fn() + Send>,
}

struct Kind {
    said: Instant,
    unsaid: u64,
    /// As it was said last.
    line: String,
}

/// What has happened and was not said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsaid<K> {
    pub(crate) kind: K,
    pub(crate) times: u64,
    /// To be said, where it is not the number alone.
    pub(crate) line: String,
}

impl<K: Copy + Eq + Hash> Seldom<K> {
    pub(crate) fn new(poke: impl Fn() + Send + 'static) -> Self {
        Self { kinds: RefCell::default(), next: Cell::new(None), poke: Box::new(poke) }
    }

    /// It has happened. `Some`: say this now.
    pub(crate) fn happened(&self, kind: K, line: impl FnOnce() -> String) -> Option<String> {
        let unsaid = self.several(kind, 1)?;
        let line = line();
        let told = told(&line, unsaid);
        self.kinds.borrow_mut().get_mut(&kind).expect("it was just said").line = line;
        Some(told)
    }

    /// It has happened so often since. `Some`: say so now, with how many were not said before these.
    pub(crate) fn several(&self, kind: K, times: u64) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.borrow_mut();
        match kinds.get_mut(&kind) {
            Some(kind) if now - kind.said < SAID_AGAIN => {
                kind.unsaid += times;
                let due = kind.said + SAID_AGAIN;
                if self.next.get().is_none_or(|next| due < next) {
                    self.next.set(Some(due));
                    (self.poke)();
                }
                None
            }
            Some(kind) => {
                kind.said = now;
                Some(std::mem::take(&mut kind.unsaid))
            }
            None => {
                kinds.insert(kind, Kind { said: now, unsaid: 0, line: String::new() });
                Some(0)
            }
        }
    }

    /// When something is to be said, though nothing more happens.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.next.get()
    }

    /// What is to be said by now.
    pub(crate) fn unsaid(&self, now: Instant) -> Vec<Unsaid<K>> {
        let mut unsaid = Vec::new();
        if self.next.get().is_none_or(|next| next > now) {
            return unsaid;
        }
        let mut next: Option<Instant> = None;
        for (&name, kind) in self.kinds.borrow_mut().iter_mut().filter(|(_, kind)| kind.unsaid > 0) {
            let due = kind.said + SAID_AGAIN;
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            kind.said = now;
            let times = std::mem::take(&mut kind.unsaid);
            unsaid.push(Unsaid { kind: name, times, line: told(&kind.line, times) });
        }
        self.next.set(next);
        unsaid
    }
}

fn told(line: &str, unsaid: u64) -> String {
    match unsaid {
        0 => line.to_owned(),
        _ => format!("{line}; {unsaid} more like it since the last such line"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn say(text: &str) -> impl FnOnce() -> String + use<> {
        let text = text.to_owned();
        || text
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_kind_is_said_at_once_and_the_others_together_once_a_period() {
        let seldom = Seldom::new(|| ());
        assert_eq!(seldom.happened('a', say("x")).as_deref(), Some("x"));
        assert_eq!(seldom.happened('b', say("y")).as_deref(), Some("y"));
        for _ in 0..7 {
            assert_eq!(seldom.happened('a', || panic!("nobody reads this")), None);
        }
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(seldom.happened('a', || panic!("nobody reads this")), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        let line = seldom.happened('a', say("z"));
        assert_eq!(line.as_deref(), Some("z; 8 more like it since the last such line"));
        assert_eq!(seldom.happened('b', say("y")).as_deref(), Some("y"));
        assert_eq!(seldom.unsaid(Instant::now()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_said_is_said_at_the_end_of_its_period_though_nothing_more_happens() {
        let pokes = Arc::new(AtomicUsize::new(0));
        let poked = Arc::clone(&pokes);
        let seldom = Seldom::new(move || {
            poked.fetch_add(1, Ordering::Relaxed);
        });
        let began = Instant::now();
        for _ in 0..8 {
            seldom.happened('a', say("x"));
        }
        tokio::time::advance(SAID_AGAIN / 2).await;
        for _ in 0..2 {
            seldom.happened('b', say("y"));
        }
        seldom.happened('c', say("once"));
        assert_eq!((seldom.next_at(), pokes.load(Ordering::Relaxed)), (Some(began + SAID_AGAIN), 1));
        assert_eq!(seldom.unsaid(Instant::now()), []);
        tokio::time::advance(SAID_AGAIN / 2).await;
        let line = "x; 7 more like it since the last such line".to_owned();
        assert_eq!(seldom.unsaid(Instant::now()), [Unsaid { kind: 'a', times: 7, line }]);
        assert_eq!(seldom.next_at(), Some(began + SAID_AGAIN * 3 / 2));
        assert_eq!(seldom.happened('a', || panic!("nobody reads this")), None);
        tokio::time::advance(SAID_AGAIN).await;
        let mut said: Vec<_> =
            seldom.unsaid(Instant::now()).into_iter().map(|one| (one.kind, one.times)).collect();
        said.sort_unstable();
        assert_eq!((said, seldom.next_at()), (vec![('a', 1), ('b', 1)], None));
    }
}
