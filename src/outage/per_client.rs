//! `limit.per_ip`: how often one client address may cause a request to the backend, so that guessing tokens does not
//! reach it. Asked when a check is about to begin an exchange, and at no other time; shared by all I/O threads.
//!
//! The rule is governor's (GCRA): `N/s` lets N through at once, and then one each time an N-th of the second has passed.
//! What is remembered of an address is one time, in one of two tables: those asked about lately, and those before them. When
//! as long has passed as a whole burst takes to come back, or the first table is full, the second is emptied and they
//! change places. So an address is forgotten when it is as good as new; earlier only if more than half of `limit.max_addresses`
//! others came meanwhile, each of which might have asked as much for itself. Nobody is denied for want of room.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use hashbrown::HashTable;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::client::Client;
use crate::config::{PerIp, Rate};
use crate::observe::{Due, LogLevel, Logger, Seldom};

pub(crate) struct PerClient {
    rate: Rate,
    limiter: RateLimiter<u64, Recent, Since, NoOpMiddleware<Duration>>,
    /// Addresses are told apart by a keyed hash: nobody can choose one that shares another's fate.
    addresses: RandomState,
    log: Arc<Logger>,
    said: Mutex<Seldom<()>>,
    /// When `said` has something to say.
    next: Due,
}

impl PerClient {
    /// `None`: there is no limit.
    pub(crate) fn new(settings: PerIp, log: &Arc<Logger>) -> Option<Self> {
        let rate = settings.rate?;
        let quota = Quota::with_period(rate.per / rate.count.get())?.allow_burst(rate.count);
        let began = Instant::now();
        let state = Recent {
            began,
            half: (settings.max_addresses / 2).max(1),
            lasts: rate.per,
            tables: Mutex::default(),
        };
        Some(Self {
            rate,
            limiter: RateLimiter::new(quota, state, Since(began)),
            addresses: RandomState::new(),
            log: Arc::clone(log),
            // Whoever asks does so in a turn of its own, and looks at the time after it.
            said: Mutex::new(Seldom::new(|| ())),
            next: Due::new(),
        })
    }

    /// Whether the client at this address may cause one more request now; if so it is counted. All without one are one
    /// client, as a session id is new whenever somebody who guesses likes.
    pub(crate) fn admits(&self, ip: &[u8]) -> bool {
        let admitted = self.limiter.check_key(&self.addresses.hash_one(Client::At(ip))).is_ok();
        if !admitted {
            self.note();
        }
        admitted
    }

    fn note(&self) {
        let line =
            || format!("limit.per_ip = {}: a check of an address that asks more often is denied", self.rate);
        let line = self.to_say(|said| said.happened((), line));
        if let Some(line) = line {
            self.log.log(LogLevel::Warn, || line);
        }
    }

    /// When it is to be said how many were denied, though nobody else is.
    pub(crate) fn next_line(&self) -> Option<Instant> {
        self.next.at()
    }

    fn to_say<T>(&self, change: impl FnOnce(&Seldom<()>) -> T) -> T {
        let said = self.said.lock();
        let changed = change(&said);
        self.next.set(said.next_at());
        changed
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        if self.next_line().is_none_or(|next| next > now) {
            return;
        }
        for unsaid in self.to_say(|said| said.unsaid(now)) {
            self.log.log(LogLevel::Warn, || unsaid.line);
        }
    }
}

/// Time since the limit began.
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// When each address will be as good as new.
struct Recent {
    began: Instant,
    /// Room in each table.
    half: usize,
    /// How long a burst takes to come back.
    lasts: Duration,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    young: HashTable<(u64, Nanos)>,
    old: HashTable<(u64, Nanos)>,
    turned: Duration,
}

impl Tables {
    fn turn(&mut self, now: Duration) {
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        self.turned = now;
    }

    /// What is known of it, and from here on it is one of the young.
    fn take(&mut self, address: u64) -> Option<Nanos> {
        let same = |&(other, _): &(u64, Nanos)| other == address;
        [&mut self.young, &mut self.old].into_iter().find_map(|table| {
            let entry = table.find_entry(address, same).ok()?;
            Some(entry.remove().0.1)
        })
    }
}

impl StateStore for Recent {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, &address: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut tables = self.tables.lock();
        let now = self.began.elapsed();
        if now.saturating_sub(tables.turned) >= self.lasts {
            tables.turn(now);
        }
        let known = tables.take(address);
        let (result, then) = match f(known) {
            Ok((given, then)) => (Ok(given), Some(then)),
            // Who is denied is not forgotten meanwhile.
            Err(denied) => (Err(denied), known),
        };
        if let Some(then) = then {
            if tables.young.len() >= self.half {
                tables.turn(now);
            }
            tables.young.insert_unique(address, (address, then), |&(address, _)| address);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(count: u32, per: Duration, max_addresses: usize) -> PerClient {
        let rate = Some(Rate { count: count.try_into().unwrap(), per });
        PerClient::new(PerIp { rate, max_addresses }, &Logger::off()).unwrap()
    }

    fn granted(limit: &PerClient, client: &str, asked: usize) -> usize {
        (0..asked).filter(|_| limit.admits(client.as_bytes())).count()
    }

    fn tracked(limit: PerClient) -> usize {
        let tables = limit.limiter.into_state_store().tables.into_inner();
        tables.young.len() + tables.old.len()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_whole_period_s_worth_at_once_and_then_evenly() {
        let limit = limit(20, SECOND, 1024);
        assert_eq!(granted(&limit, "192.0.2.1", 100), 20);
        assert_eq!(granted(&limit, "192.0.2.2", 100), 20, "one address takes nothing from another");
        tokio::time::advance(SECOND / 20).await;
        assert_eq!(granted(&limit, "192.0.2.1", 100), 1);
        tokio::time::advance(SECOND * 100).await;
        assert_eq!(granted(&limit, "192.0.2.1", 100), 20);
        let mut over_time = 0;
        for _ in 0..1000 {
            tokio::time::advance(SECOND / 100).await;
            over_time += granted(&limit, "192.0.2.1", 3);
        }
        assert_eq!(over_time, 200, "ten seconds of a flood");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_takes_bounded_room_and_denies_nobody_else() {
        let limit = limit(2, SECOND, 1000);
        for number in 0..100_000_u32 {
            let address = format!("2001:db8:{:x}:{:x}::1", number >> 16, number & 0xffff);
            assert!(limit.admits(address.as_bytes()));
            if number % 400 == 0 {
                // One that asks all the time is not forgotten by it.
                granted(&limit, "192.0.2.1", 3);
                assert_eq!(granted(&limit, "192.0.2.1", 3), 0, "{number}");
            }
        }
        assert_eq!(granted(&limit, "198.51.100.1", 3), 2);
        let tracked = tracked(limit);
        assert!((500..=1000).contains(&tracked), "{tracked}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_looks_waits_for_nobody_while_there_is_nothing_to_say() {
        let limit = Arc::new(limit(1, SECOND, 1000));
        assert_eq!(granted(&limit, "192.0.2.1", 2), 1);
        let busy = limit.said.lock();
        let (looked, look) = std::sync::mpsc::channel();
        let (theirs, now) = (Arc::clone(&limit), Instant::now());
        std::thread::spawn(move || {
            theirs.say_unsaid(now);
            looked.send(theirs.next_line())
        });
        assert_eq!(look.recv_timeout(SECOND * 30), Ok(None));
        drop(busy);
        // The first denial was said; this one is not, until ten seconds have passed since.
        assert_eq!(granted(&limit, "192.0.2.1", 1), 0);
        assert_eq!(limit.next_line(), Some(now + SECOND * 10));
        tokio::time::advance(SECOND * 10).await;
        limit.say_unsaid(Instant::now());
        assert_eq!(limit.next_line(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_as_good_as_new_is_forgotten() {
        let limit = limit(2, SECOND, 1_000_000);
        for number in 0..10_000 {
            limit.admits(format!("10.0.{}.{}", number / 256, number % 256).as_bytes());
        }
        for _ in 0..3 {
            tokio::time::advance(SECOND).await;
            limit.admits(b"192.0.2.1");
        }
        assert!(tracked(limit) <= 2);
    }
}
