//! The health of one endpoint, shared by all I/O threads: its breaker, what it has counted, and the log of its changes.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{Admission, Breaker, Change, Rules};
use super::client::Client;
use crate::observe::{LogLevel, Logger};

pub(crate) struct Health {
    /// `scheme://host:port`
    label: String,
    log: Arc<Logger>,
    breaker: Mutex<Breaker>,
    /// Closed, with nothing against the endpoint: then nobody needs the lock.
    spotless: AtomicBool,
    /// Whether answers are counted, too.
    counts_answers: bool,
    opened: AtomicU64,
    /// Those that no client can have caused.
    outages: AtomicU64,
    /// Addresses are told apart by a keyed hash.
    addresses: RandomState,
}

/// Leave to ask the endpoint once. What became of it is to be told; dropped, it says nothing for or against the endpoint.
pub(crate) struct Permit<'a> {
    health: &'a Health,
    probe: bool,
}

impl Health {
    pub(crate) fn new(label: String, rules: Rules, log: Arc<Logger>) -> Self {
        Self {
            label,
            log,
            breaker: Mutex::new(Breaker::new(rules)),
            spotless: AtomicBool::new(true),
            counts_answers: rules.rate > 0,
            opened: AtomicU64::new(0),
            outages: AtomicU64::new(0),
            addresses: RandomState::new(),
        }
    }

    /// `None`: the breaker is open, and it is not for this client to find out.
    pub(crate) fn admit(&self, client: Client<'_>) -> Option<Permit<'_>> {
        if self.spotless.load(Ordering::Relaxed) {
            return Some(Permit { health: self, probe: false });
        }
        match self.breaker.lock().admit(Instant::now(), || self.addresses.hash_one(client)) {
            Admission::Pass => Some(Permit { health: self, probe: false }),
            Admission::Probe => Some(Permit { health: self, probe: true }),
            Admission::Stop => None,
        }
    }

    /// Whether this client may not ask it now, not even as the one that finds out.
    pub(crate) fn stops(&self, client: Client<'_>) -> bool {
        !self.spotless.load(Ordering::Relaxed)
            && self.breaker.lock().stops(Instant::now(), || self.addresses.hash_one(client))
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.spotless.load(Ordering::Relaxed) && self.breaker.lock().is_open()
    }

    /// Whether somebody else than this client has met an outage lately, and nobody an answer since.
    pub(crate) fn corroborates(&self, client: Client<'_>) -> bool {
        !self.spotless.load(Ordering::Relaxed)
            && self.breaker.lock().corroborates(Instant::now(), self.addresses.hash_one(client))
    }

    /// How often it has opened: whoever keeps the number learns that it has opened since.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// `scheme://host:port`
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Takes the probe that is due, if one is for this client: what becomes of it must be told.
    pub(super) fn probe(&self, client: Client<'_>) -> bool {
        !self.spotless.load(Ordering::Relaxed)
            && self.breaker.lock().admit(Instant::now(), || self.addresses.hash_one(client))
                == Admission::Probe
    }

    /// The probe was not asked.
    pub(super) fn undecided(&self) {
        self.breaker.lock().undecided();
    }

    /// The probe was asked, and is given up before it was answered or late.
    pub(super) fn unanswered(&self) {
        let now = Instant::now();
        self.breaker.lock().unanswered(now, self.addresses.hash_one(now));
    }

    /// An outage that no client can have caused: each counts.
    pub(super) fn unreachable(&self, why: &str) {
        let nobody = self.outages.fetch_add(1, Ordering::Relaxed);
        self.note(why, |breaker, now, jitter| {
            breaker.unreachable(now, self.addresses.hash_one(nobody), jitter)
        });
    }

    pub(super) fn answered(&self, client: Client<'_>) {
        if self.spotless.load(Ordering::Relaxed) && !self.counts_answers {
            return;
        }
        let closed = {
            let mut breaker = self.breaker.lock();
            let change = breaker.answered(Instant::now(), || self.addresses.hash_one(client));
            self.spotless.store(true, Ordering::Relaxed);
            change.is_some().then(|| breaker.opened.take())
        };
        if let Some(opened) = closed {
            self.log.log(LogLevel::Warn, || {
                let after = opened.map_or(Duration::ZERO, |opened| opened.elapsed());
                format!(
                    "{} answers again after {:.1} s: the breaker is closed",
                    self.label,
                    after.as_secs_f64()
                )
            });
        }
    }

    pub(super) fn failed(&self, client: Client<'_>, probe: bool, retry_after: Option<Duration>, why: &str) {
        self.note(why, |breaker, now, jitter| {
            breaker.failed(now, self.addresses.hash_one(client), probe, retry_after, jitter)
        });
    }

    fn met(&self, client: Client<'_>) {
        let mut breaker = self.breaker.lock();
        breaker.met(Instant::now(), self.addresses.hash_one(client));
        self.spotless.store(false, Ordering::Relaxed);
    }

    /// An outage, which may open the breaker.
    fn note(&self, why: &str, outage: impl FnOnce(&mut Breaker, Instant, u64) -> Option<Change>) {
        let (change, first) = {
            let mut breaker = self.breaker.lock();
            let now = Instant::now();
            let first = breaker.opened.is_none();
            let change = outage(&mut breaker, now, self.addresses.hash_one(now));
            // Under the lock, as an answer stores it: the later of the two stands.
            self.spotless.store(false, Ordering::Relaxed);
            (change, first)
        };
        let Some(Change::Opened { cooldown }) = change else { return };
        self.opened.fetch_add(1, Ordering::Release);
        let level = if first { LogLevel::Warn } else { LogLevel::Info };
        self.log.log(level, || {
            format!(
                "{} gives no answers: the breaker is open, next try in {:.1} s ({why})",
                self.label,
                cooldown.as_secs_f64()
            )
        });
    }
}

impl Permit<'_> {
    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    /// The endpoint has answered, whatever it said.
    pub(crate) fn answered(mut self, client: Client<'_>) {
        self.probe = false;
        self.health.answered(client);
    }

    /// The endpoint gave this client no answer. `retry_after`: what an unavailable backend asked for.
    pub(crate) fn failed(mut self, client: Client<'_>, retry_after: Option<Duration>, why: &str) {
        let probe = std::mem::take(&mut self.probe);
        self.health.failed(client, probe, retry_after, why);
    }

    /// As [`Permit::failed`], but not all of its addresses were asked: it may work.
    pub(crate) fn met(self, client: Client<'_>) {
        self.health.met(client);
    }

    /// The endpoint was asked, and nobody waits for its answer any more.
    pub(crate) fn unanswered(mut self) {
        if std::mem::take(&mut self.probe) {
            self.health.unanswered();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.health.undecided();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Log;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn log(&self, _: LogLevel, line: &str) {
            self.0.lock().push(line.to_owned());
        }
    }

    fn client(name: &str) -> Client<'_> {
        Client::At(name.as_bytes())
    }

    fn health(failures: usize) -> Health {
        logged(failures, Logger::off())
    }

    fn logged(failures: usize, log: Arc<Logger>) -> Health {
        let rules = Rules {
            failures,
            rate: 0,
            cooldown: Duration::from_secs(1),
            max_cooldown: Duration::from_secs(9),
        };
        Health::new("http://a:1".into(), rules, log)
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_is_taken_by_the_next_check() {
        let health = health(1);
        let [a, b, c] = ["a", "b", "c"].map(client);
        assert!(!health.stops(a));
        health.admit(a).unwrap().failed(a, None, "");
        assert!(health.stops(b) && health.admit(b).is_none() && health.is_open());
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert!(health.stops(a) && health.admit(a).is_none());
        assert!(!health.stops(b), "a probe is due");
        let probe = health.admit(b).unwrap();
        assert!(health.stops(c) && health.admit(c).is_none());
        drop(probe);
        health.admit(c).unwrap().answered(c);
        assert!(!health.is_open());
        assert_eq!(health.opened(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_back_what_was_held_against_it() {
        let health = health(2);
        let other = client("x");
        for client in ["a", "b", "c"].map(client) {
            health.admit(client).unwrap().failed(client, None, "");
            assert!(health.corroborates(other) && !health.corroborates(client));
            health.admit(client).unwrap().answered(client);
            assert!(!health.corroborates(other));
        }
        assert_eq!(health.opened(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_says_how_long_it_was_open_from_the_first_time_on() {
        let lines = Arc::new(Lines::default());
        let health =
            logged(1, Arc::new(Logger::new(LogLevel::Warn, Some(Arc::clone(&lines) as _), Arc::default())));
        for (name, seconds) in [("a", 2), ("b", 4), ("c", 9)] {
            health.admit(client(name)).unwrap().failed(client(name), None, "");
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
        health.admit(client("d")).unwrap().answered(client("d"));
        let lines = lines.0.lock();
        assert!(lines.len() == 2 && lines[1].contains("after 15.0 s"), "{lines:?}");
    }
}
