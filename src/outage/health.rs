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
use crate::observe::{Due, LogLevel, Logger};

pub(crate) struct Health {
    /// `scheme://host:port`
    label: String,
    log: Arc<Logger>,
    state: Mutex<State>,
    /// Closed, with nothing against the endpoint: then nobody needs the lock.
    spotless: AtomicBool,
    /// Whether answers are counted, too.
    counts_answers: bool,
    opened: AtomicU64,
    probed: AtomicU64,
    /// When there is something to say of `flaps`.
    next: Due,
    /// Those that no client can have caused.
    outages: AtomicU64,
    /// Addresses are told apart by a keyed hash.
    addresses: RandomState,
}

struct State {
    breaker: Breaker,
    flaps: Flaps,
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
            state: Mutex::new(State { breaker: Breaker::new(rules), flaps: Flaps::default() }),
            spotless: AtomicBool::new(true),
            counts_answers: rules.rate > 0,
            opened: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            next: Due::new(),
            outages: AtomicU64::new(0),
            addresses: RandomState::new(),
        }
    }

    /// `None`: the breaker is open, and it is not for this client to find out.
    pub(crate) fn admit(&self, client: Client<'_>) -> Option<Permit<'_>> {
        match self.admission(client) {
            Admission::Pass => Some(Permit { health: self, probe: false }),
            Admission::Probe => Some(Permit { health: self, probe: true }),
            Admission::Stop => None,
        }
    }

    fn admission(&self, client: Client<'_>) -> Admission {
        if self.spotless.load(Ordering::Relaxed) {
            return Admission::Pass;
        }
        let (admission, lasting) = {
            let State { breaker, flaps } = &mut *self.state.lock();
            let now = Instant::now();
            let admission = breaker.admit(now, || self.addresses.hash_one(client));
            let since = breaker.opened.filter(|_| admission != Admission::Pass);
            let lasting = since.and_then(|since| Some((now - since, flaps.lasts(now, since)?)));
            if lasting.is_some() {
                self.next.set(flaps.next_at());
            }
            (admission, lasting)
        };
        if admission == Admission::Probe {
            self.probed.fetch_add(1, Ordering::Release);
        }
        if let Some((lasted, before)) = lasting {
            let of = || format!("the breaker is open, for {:.1} s so far", lasted.as_secs_f64());
            self.say(LogLevel::Warn, of, before);
        }
        admission
    }

    fn say(&self, level: LogLevel, of: impl FnOnce() -> String, before: u64) {
        self.log.log(level, || {
            let line = format!("{} gives no answers: {}", self.label, of());
            match before {
                0 => line,
                _ => format!("{line}; {}", flapped(before)),
            }
        });
    }

    /// When it is to be said how often it has opened and closed, though nothing more happens.
    pub(crate) fn next_line(&self) -> Option<Instant> {
        self.next.at()
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        if self.next_line().is_none_or(|next| next > now) {
            return;
        }
        let unsaid = {
            let flaps = &mut self.state.lock().flaps;
            let unsaid = flaps.unsaid(now);
            self.next.set(flaps.next_at());
            unsaid
        };
        if let Some(times) = unsaid {
            self.log.log(LogLevel::Warn, || format!("{} answers in part: {}", self.label, flapped(times)));
        }
    }

    /// Whether this client may not ask it now, not even as the one that finds out.
    pub(crate) fn stops(&self, client: Client<'_>) -> bool {
        !self.spotless.load(Ordering::Relaxed)
            && self.state.lock().breaker.stops(Instant::now(), || self.addresses.hash_one(client))
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.spotless.load(Ordering::Relaxed) && self.state.lock().breaker.is_open()
    }

    /// Whether somebody else than this client has met an outage lately, and nobody an answer since.
    pub(crate) fn corroborates(&self, client: Client<'_>) -> bool {
        !self.spotless.load(Ordering::Relaxed)
            && self.state.lock().breaker.corroborates(Instant::now(), self.addresses.hash_one(client))
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
        self.admission(client) == Admission::Probe
    }

    /// The probe was not asked.
    pub(super) fn undecided(&self) {
        self.state.lock().breaker.undecided();
    }

    /// The probe was asked, and is given up before it was answered or late.
    pub(super) fn unanswered(&self) {
        let now = Instant::now();
        self.state.lock().breaker.unanswered(now, self.addresses.hash_one(now));
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
            let State { breaker, flaps } = &mut *self.state.lock();
            let change = breaker.answered(Instant::now(), || self.addresses.hash_one(client));
            self.spotless.store(true, Ordering::Relaxed);
            let opened = change.and_then(|_| breaker.opened.take());
            opened.filter(|_| flaps.closed())
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
        let breaker = &mut self.state.lock().breaker;
        breaker.met(Instant::now(), self.addresses.hash_one(client));
        self.spotless.store(false, Ordering::Relaxed);
    }

    /// An outage, which may open the breaker.
    fn note(&self, why: &str, outage: impl FnOnce(&mut Breaker, Instant, u64) -> Option<Change>) {
        let opened = {
            let State { breaker, flaps } = &mut *self.state.lock();
            let now = Instant::now();
            let again = breaker.opened.is_some();
            let change = outage(breaker, now, self.addresses.hash_one(now));
            // Under the lock, as an answer stores it: the later of the two stands.
            self.spotless.store(false, Ordering::Relaxed);
            match change {
                Some(Change::Opened { cooldown }) => {
                    let said = flaps.opened(now, again);
                    self.next.set(flaps.next_at());
                    Some((cooldown, said))
                }
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
        let of = || format!("the breaker is open, next try in {:.1} s ({why})", cooldown.as_secs_f64());
        self.say(level, of, before);
    }
}

fn flapped(times: u64) -> String {
    format!("the breaker has opened and closed {times} more times since the last such line")
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

    fn told(failures: usize) -> (Arc<Lines>, Health) {
        let lines = Arc::new(Lines::default());
        let log = Logger::new(LogLevel::Warn, Some(Arc::clone(&lines) as _), Arc::default());
        (lines, logged(failures, Arc::new(log)))
    }

    /// An outage opens it, and the next answer closes it: to what was asked before.
    fn flap(health: &Health) {
        health.failed(client("a"), false, None, "reset");
        health.answered(client("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_flaps_is_said_once_a_period_with_how_often_it_was() {
        let (lines, health) = told(1);
        let said = || std::mem::take(&mut *lines.0.lock());
        flap(&health);
        let first = said();
        assert!(
            first.len() == 2 && first[0].contains("is open") && first[1].contains("is closed"),
            "{first:?}"
        );
        assert_eq!(health.next_line(), None);
        for _ in 0..99 {
            tokio::time::advance(Duration::from_millis(10)).await;
            flap(&health);
            health.say_unsaid(Instant::now());
        }
        assert_eq!((said().len(), health.opened(), health.probed()), (0, 100, 0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(health.next_line().unwrap() <= Instant::now());
        health.say_unsaid(Instant::now());
        let rest = "http://a:1 answers in part: the breaker has opened and closed 99 more times since the last such line";
        assert_eq!((said(), health.next_line()), (vec![rest.to_owned()], None));
        flap(&health);
        assert_eq!(said().len(), 0);
        tokio::time::advance(Duration::from_secs(10)).await;
        flap(&health);
        let again = said();
        let more = "; the breaker has opened and closed 1 more times since the last such line";
        assert!(again.len() == 2 && again[0].ends_with(more), "{again:?}");
    }

    /// Whatever comes first after a second of it, and whatever comes of that.
    #[tokio::test(start_paused = true)]
    async fn an_outage_that_lasts_is_said_also_right_after_a_flap() {
        for (after, so_far) in [(900, ""), (1100, "1.1"), (1500, "1.5")] {
            let (lines, health) = told(1);
            let said = || std::mem::take(&mut *lines.0.lock());
            flap(&health);
            flap(&health);
            health.failed(client("a"), false, Some(Duration::from_millis(1300)), "reset");
            assert_eq!(said().len(), 2, "so far it may be one more");
            tokio::time::advance(Duration::from_millis(after)).await;
            let permit = health.admit(client("c"));
            assert_eq!(permit.is_some(), after == 1500);
            if after == 900 {
                assert_eq!(said().len(), 0);
                continue;
            }
            let line = format!(
                "the breaker is open, for {so_far} s so far; the breaker has opened and closed 1 more"
            );
            let open = said();
            assert!(open.len() == 1 && open[0].contains(&line), "{open:?}");
            drop(permit);
            assert!(health.admit(client("e")).is_some() == (after == 1500) && said().is_empty(), "once");
            health.answered(client("d"));
            let closed = said();
            assert!(closed.len() == 1 && closed[0].contains("is closed"), "{closed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_says_how_long_it_was_open_from_the_first_time_on() {
        let (lines, health) = told(1);
        for (name, seconds) in [("a", 2), ("b", 4), ("c", 9)] {
            health.admit(client(name)).unwrap().failed(client(name), None, "");
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
        health.admit(client("d")).unwrap().answered(client("d"));
        let lines = lines.0.lock();
        assert!(lines.len() == 2 && lines[1].contains("after 15.0 s"), "{lines:?}");
    }
}
