//! The health of one endpoint, shared by all I/O threads: its breaker, what it has counted, and the log of its changes.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{Admission, Breaker, Change, Rules};
use super::client::Client;
use super::flaps::{Flaps, Said};
use crate::observe::{LogLevel, Logger};

pub(crate) struct Health {
    /// `scheme://host:port`
    label: String,
    log: Arc<Logger>,
    breaker: Mutex<Breaker>,
    /// Under the breaker's lock.
    flaps: Mutex<Flaps>,
    /// Closed, with nothing against the endpoint: then nobody needs the lock.
    spotless: AtomicBool,
    /// Whether answers are counted, too.
    counts_answers: bool,
    opened: AtomicU64,
    probed: AtomicU64,
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
            flaps: Mutex::default(),
            spotless: AtomicBool::new(true),
            counts_answers: rules.rate > 0,
            opened: AtomicU64::new(0),
            probed: AtomicU64::new(0),
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
            Admission::Probe => {
                self.probed.fetch_add(1, Ordering::Release);
                Some(Permit { health: self, probe: true })
            }
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

    /// How often somebody was let pass to find out whether it is back, for who keeps the number.
    pub(crate) fn probed(&self) -> u64 {
        self.probed.load(Ordering::Acquire)
    }

    /// `scheme://host:port`
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Takes the probe that is due, if one is for this client: what becomes of it must be told.
    pub(super) fn probe(&self, client: Client<'_>) -> bool {
        let is_one = !self.spotless.load(Ordering::Relaxed)
            && self.breaker.lock().admit(Instant::now(), || self.addresses.hash_one(client))
                == Admission::Probe;
        if is_one {
            self.probed.fetch_add(1, Ordering::Release);
        }
        is_one
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
            let opened = change.and_then(|_| breaker.opened.take());
            opened.filter(|_| self.flaps.lock().closed())
        };
        if let Some(opened) = closed {
            self.log.log(LogLevel::Warn, || {
                let after = opened.elapsed().as_secs_f64();
                format!("{} answers again after {after:.1} s: the breaker is closed", self.label)
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
        let opened = {
            let mut breaker = self.breaker.lock();
            let now = Instant::now();
            let again = breaker.opened.is_some();
            let change = outage(&mut breaker, now, self.addresses.hash_one(now));
            // Under the lock, as an answer stores it: the later of the two stands.
            self.spotless.store(false, Ordering::Relaxed);
            match change {
                Some(Change::Opened { cooldown }) => Some((cooldown, self.flaps.lock().opened(now, again))),
                _ => None,
            }
        };
        let Some((cooldown, said)) = opened else { return };
        self.opened.fetch_add(1, Ordering::Release);
        let (level, before) = match said {
            None => return,
            Some(Said::StillOpen) => (LogLevel::Info, 0),
            Some(Said::New(before)) => (LogLevel::Warn, before),
        };
        self.log.log(level, || {
            let label = &self.label;
            let cooldown = cooldown.as_secs_f64();
            let line =
                format!("{label} gives no answers: the breaker is open, next try in {cooldown:.1} s ({why})");
            match before {
                0 => line,
                _ => format!("{line}; it has opened and closed {before} times more since the last such line"),
            }
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

    /// Some of its answers come: what each of the others opens, the next answer closes.
    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_flaps_is_said_once_a_period_and_a_real_outage_among_it_when_its_probe_fails() {
        let lines = Arc::new(Lines::default());
        let log = Arc::new(Logger::new(LogLevel::Warn, Some(Arc::clone(&lines) as _), Arc::default()));
        let health = logged(1, log);
        let said = || std::mem::take(&mut *lines.0.lock());
        let flap = || {
            health.failed(client("a"), false, None, "reset");
            health.answered(client("b"));
        };
        let is_pair = |said: &[String]| matches!(said, [open, closed] if open.contains("is open") && closed.contains("is closed"));
        flap();
        let first = said();
        assert!(is_pair(&first), "{first:?}");
        for _ in 0..99 {
            tokio::time::advance(Duration::from_millis(10)).await;
            flap();
        }
        assert_eq!((said().len(), health.opened(), health.probed()), (0, 100, 0));
        tokio::time::advance(Duration::from_secs(10)).await;
        flap();
        let later = said();
        assert!(
            is_pair(&later)
                && later[0].ends_with("; it has opened and closed 99 times more since the last such line"),
            "{later:?}"
        );
        flap();
        health.failed(client("a"), false, None, "reset");
        assert_eq!(said().len(), 0, "so far it may be one more");
        tokio::time::advance(Duration::from_millis(1500)).await;
        health.admit(client("c")).unwrap().failed(client("c"), None, "timeout");
        let real = said();
        assert!(
            real.len() == 1
                && real[0]
                    .ends_with("(timeout); it has opened and closed 1 times more since the last such line"),
            "{real:?}"
        );
        tokio::time::advance(Duration::from_millis(2500)).await;
        health.admit(client("d")).unwrap().answered(client("d"));
        assert!(said()[0].contains("answers again after 4.0 s"));
        assert_eq!(health.probed(), 2);
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
