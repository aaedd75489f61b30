//! Viewers that ask, and a backend that says what the test last told it to say.
//!
//! No time passes but what a test lets pass: an answer that needs none is taken in the turn in which it comes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::support::{Bench, Peer, with_shard};
use crate::check::Check;
use crate::decision::{Cause, Decision, Origin, Verdict};

/// What the backend does about the requests that come next.
#[derive(Clone)]
pub(super) enum Says {
    /// This, at once.
    Now(String),
    /// This, once it is told to go on; what it says then does not depend on what is set meanwhile.
    Held(String, Rc<Notify>),
    /// 503, which [`KEYS`] make an outage.
    Outage,
}

/// Every test's keys: times are exact, and a 503 is an outage.
pub(super) const KEYS: [(&str, &str); 3] =
    [("ttl.jitter", "off"), ("unavailable_statuses", "503"), ("timeout", "1m")];

/// 200 or 403 with these headers, a bar between two.
pub(super) fn reply(status: u16, headers: &str) -> String {
    let headers = headers.split('|').filter(|line| !line.is_empty()).flat_map(|line| [line, "\r\n"]);
    let headers: String = headers.collect();
    format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{headers}\r\n")
}

/// 200, for so many seconds.
pub(super) fn allow_for(seconds: u64) -> Says {
    Says::Now(reply(200, &format!("X-AuthDuration: {seconds}")))
}

/// 200 with these headers.
pub(super) fn allow(headers: &str) -> Says {
    Says::Now(reply(200, headers))
}

/// 403 with these headers.
pub(super) fn deny(headers: &str) -> Says {
    Says::Now(reply(403, headers))
}

/// An exchange that can be held, and let go.
pub(super) fn held(status: u16, headers: &str) -> (Says, Rc<Notify>) {
    let gate = Rc::new(Notify::new());
    (Says::Held(reply(status, headers), Rc::clone(&gate)), gate)
}

pub(super) struct Viewers {
    pub(super) bench: Rc<Bench>,
    says: Rc<RefCell<Says>>,
    asked: Cell<usize>,
}

/// Runs `test` with viewers, an engine of [`KEYS`] and `keys`, and a backend that says `first`.
pub(super) async fn with_viewers<F: Future<Output = ()>>(
    keys: &[(&str, &str)],
    first: Says,
    test: impl FnOnce(Rc<Viewers>) -> F,
) {
    let says = Rc::new(RefCell::new(first));
    let saying = Rc::clone(&says);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let saying = Rc::clone(&saying);
        async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                let says = saying.borrow().clone();
                let bytes = match says {
                    Says::Now(bytes) => bytes,
                    Says::Held(bytes, gate) => {
                        gate.notified().await;
                        bytes
                    }
                    Says::Outage => reply(503, ""),
                };
                if stream.write_all(bytes.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    let keys: Vec<_> = KEYS.iter().chain(keys).copied().collect();
    with_shard(&keys, peer, |bench| test(Rc::new(Viewers { bench, says, asked: Cell::new(0) }))).await;
}

impl Viewers {
    /// From the next request on.
    pub(super) fn now_says(&self, says: Says) {
        *self.says.borrow_mut() = says;
    }

    /// Asks, and takes what comes without a moment passing; `None`: nothing did.
    pub(super) async fn try_ask(&self, check: &Check<'_>) -> Option<Decision> {
        let user_data = self.submit(check);
        self.come(user_data).await
    }

    /// Asks, and must be answered without a moment passing.
    #[track_caller]
    pub(super) fn ask<'a>(&'a self, check: &'a Check<'a>) -> impl Future<Output = Decision> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            self.try_ask(check).await.unwrap_or_else(|| panic!("no answer: {check:?}, asked at {caller}"))
        }
    }

    /// Asks, and does not wait.
    pub(super) fn submit(&self, check: &Check<'_>) -> usize {
        let user_data = self.asked.get();
        self.asked.set(user_data + 1);
        self.bench.submit(check, user_data);
        user_data
    }

    /// What has come of it by now.
    pub(super) async fn come(&self, user_data: usize) -> Option<Decision> {
        for _ in 0..16 {
            self.bench.settle().await;
            if let Some(decision) = self.bench.decision(user_data) {
                return Some(decision);
            }
        }
        None
    }

    pub(super) fn requests(&self) -> usize {
        self.bench.peer.requests()
    }

    /// As [`crate::Engine::lookup`].
    pub(super) fn lookup(&self, check: &Check<'_>) -> Option<Decision> {
        let (core, policy) = (&self.bench.core, self.bench.core.policy());
        policy
            .draft(check, |draft| {
                core.look_up(&policy, &draft, core.session(draft.session_id()), Instant::now())
            })
            .unwrap()
    }

    /// As [`crate::Engine::reload`].
    pub(super) fn reload(&self, keys: &[(&str, &str)]) {
        let before = self.bench.core.policy();
        self.bench.reload(&[&KEYS, keys].concat());
        if !Arc::ptr_eq(&before.memory, &self.bench.core.policy().memory) {
            before.memory.clear();
        }
    }
}

/// Lets time pass, and whatever is due then happen.
pub(super) async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Who decided what.
#[track_caller]
pub(super) fn assert_by(decision: &Decision, origin: Origin, verdict: Verdict) {
    assert_eq!((decision.origin, decision.verdict), (origin, verdict), "{decision:?}: {}", decision.detail());
    if origin == Origin::Backend || origin == Origin::Memory {
        assert_eq!(decision.cause, Cause::None);
    }
}
