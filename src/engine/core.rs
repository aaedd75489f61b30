//! What every thread of an engine shares: the ledger, the ways into the I/O threads, the policy.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher13;
use tokio::time::Instant;

use super::SubmitError;
use super::inbox::{Asked, Inbox, News, Whose};
use super::ledger::{Ledger, Ticket};
use super::outbox::Outbox;
use super::policy::Policy;
use super::queue::Waiting;
use super::refusals::{Comer, Refusals};
use super::retries::Hedges;
use super::revocations::{ENTRIES, Mark, Revocations};
use super::watch::{Watch, is_watch};
use super::watching::Watching;
use crate::backend::Answer;
use crate::check::{self, Draft};
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::observe::{AddressStats, EndpointStats, LogLevel, Logger, Outcomes, Stats};
use crate::outage::Known;
use crate::sys::{ForkMark, own_panics, room_for};
use crate::transport::{Gauge, PoolGauges, of_endpoint};

/// Between two looks whether a submitting thread still hands over.
const HAND_OVER_PAUSE: Duration = Duration::from_micros(20);

pub(crate) struct Core {
    pub(crate) ledger: Ledger,
    pub(crate) log: Arc<Logger>,
    policy: RwLock<Arc<Policy>>,
    /// How often it was replaced.
    turns: AtomicU64,
    /// Of every policy there was; the newest last. Behind a lock that only a reload and a reading take.
    gauges: Mutex<Gauges>,
    pub(crate) revocations: Revocations,
    pub(crate) watches: Arc<Watching>,
    pub(crate) fork: ForkMark,
    pub(crate) hedges: Arc<Hedges>,
    /// Safe retries, of all I/O threads.
    pub(crate) retries: Arc<AtomicU64>,
    pub(crate) inboxes: Box<[Inbox]>,
    /// Submitting threads that hand over what is remembered. The end waits for them, once the ledger is closed.
    pub(super) handing_over: AtomicUsize,
    /// By their numbers.
    pub(super) queues: Mutex<BTreeMap<u64, Weak<Waiting>>>,
    /// The engine was freed: queues that are left give nothing any more.
    pub(crate) freed: AtomicBool,
    /// Drawn from the system for this engine: nobody outside can choose checks whose hashes collide.
    /// By [`Domain`]: with a key of its own each, so that a session does not share the fate of a user with its name.
    hashers: [SipHasher13; 3],
    /// Spreads expiries.
    pub(crate) seed: u64,
    /// Memory counts its time from here.
    began: Instant,
    pub(super) refusals: Refusals,
    pub(crate) replies_from_cache: AtomicU64,
    pub(crate) texts_dropped: AtomicU64,
    /// Checks and watches that `limit.per_ip` stopped.
    pub(crate) limited: AtomicU64,
    /// Defects that an I/O thread did not survive.
    restarts: AtomicU64,
    pub(crate) shadow: Outcomes,
}

/// The state of the pools, of all policies.
#[derive(Default)]
struct Gauges {
    live: Vec<Arc<[PoolGauges]>>,
    /// What pools that are gone have counted.
    exchanges: u64,
    opened: u64,
}

impl Gauges {
    fn add(&mut self, gauges: &Arc<[PoolGauges]>) {
        self.live.retain(|gauges| {
            let in_use = Arc::strong_count(gauges) > 1;
            if !in_use {
                self.exchanges += gauges.iter().map(|pool| pool.exchanges.get()).sum::<u64>();
                self.opened += gauges.iter().map(|pool| pool.opened.get()).sum::<u64>();
            }
            in_use
        });
        self.live.push(Arc::clone(gauges));
    }

    fn sum(&self, figure: fn(&PoolGauges) -> &Gauge) -> u64 {
        self.live.iter().flat_map(|gauges| gauges.iter()).map(|pool| figure(pool).get()).sum()
    }
}

impl Core {
    pub(crate) fn new(policy: Policy, log: Arc<Logger>, inboxes: Box<[Inbox]>) -> io::Result<Self> {
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        let number = |from: usize| u64::from_le_bytes(random[from..][..8].try_into().expect("eight bytes"));
        let hashers = [Domain::Key, Domain::Session, Domain::User].map(|domain| {
            let mut key: [u8; 16] = random[..16].try_into().expect("sixteen bytes");
            key[0] ^= domain as u8;
            SipHasher13::new_with_key(&key)
        });
        let mut gauges = Gauges::default();
        gauges.add(&policy.gauges);
        let capacity = policy.settings.inbox_capacity;
        let spare = if policy.settings.overload_default { capacity } else { 0 };
        room_for(Ledger::bytes(capacity, spare))?;
        Ok(Self {
            ledger: Ledger::new(capacity, spare, number(16)).ok_or_else(no_memory)?,
            log,
            policy: RwLock::new(Arc::new(policy)),
            turns: AtomicU64::new(0),
            gauges: Mutex::new(gauges),
            revocations: Revocations::new(ENTRIES).ok_or_else(no_memory)?,
            watches: Arc::new(Watching::new(number(32))),
            fork: ForkMark::new()?,
            retries: Arc::default(),
            hedges: Arc::default(),
            inboxes,
            handing_over: AtomicUsize::new(0),
            began: Instant::now(),
            queues: Mutex::default(),
            freed: AtomicBool::new(false),
            hashers,
            seed: number(24),
            refusals: Refusals::default(),
            replies_from_cache: AtomicU64::new(0),
            texts_dropped: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            shadow: Outcomes::default(),
        })
    }

    /// What checks are judged by from now on.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// For those who keep a policy: theirs is not the newest any more if this has changed since before they took it.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Checks that are submitted after this are judged by `policy`. Those accepted before keep theirs.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.gauges.lock().add(&policy.gauges);
        let (before, ttl_max) = (self.policy(), policy.settings.ttl.max);
        if before.settings.ttl.max < ttl_max && Arc::ptr_eq(&before.memory, &policy.memory) {
            policy.memory.raised(before.settings.ttl.max, self.milliseconds_up(Instant::now()));
        }
        {
            // Whoever sees the one sees the other: no batch serves from a memory that a revocation has not found any more.
            let mut present = self.policy.write();
            *present = Arc::new(policy);
            self.turns.fetch_add(1, Ordering::Release);
        }
        for inbox in &self.inboxes {
            inbox.turn();
        }
    }

    /// One question, about to be asked, and the thread that does it. `memory` for it.
    pub(super) fn addressed(
        &self,
        policy: Arc<Policy>,
        draft: &Draft<'_>,
        mark: Mark,
        memory: Vec<u8>,
    ) -> Result<(Asked, usize), SubmitError> {
        let hash = self.hash_of_key(draft.key());
        let thread = self.thread_of(hash);
        let question = policy.admit_in(memory, draft).map_err(SubmitError::Invalid)?;
        Ok((Asked { policy, question, hash, mark }, thread))
    }

    /// A decision nears its end: asks again though nobody waits.
    pub(super) fn refresh(&self, policy: Arc<Policy>, draft: &Draft<'_>, mark: Mark) {
        if let Ok((asked, thread)) = self.addressed(policy, draft, mark, Vec::new()) {
            self.inboxes[thread].tell(News::Refresh(asked));
        }
    }

    pub(crate) fn hash_of_key(&self, key: &[u8]) -> u64 {
        self.hash(Domain::Key, key)
    }

    /// A key always goes to the same thread: coalescing needs no lock. The table of flights uses the low bits of the
    /// hash, this the high ones.
    pub(crate) fn thread_of(&self, hash: u64) -> usize {
        (hash >> 32) as usize % self.inboxes.len()
    }

    pub(crate) fn cancel(&self, ticket: Ticket) -> bool {
        if is_watch(ticket.number()) {
            return self.cancel_watch(ticket.number());
        }
        match self.ledger.cancel(ticket) {
            Some(thread) => {
                self.inboxes[usize::from(thread)].tell(News::Cancelled(ticket));
                true
            }
            None => false,
        }
    }

    fn cancel_watch(&self, ticket: u64) -> bool {
        let Some(watch) = self.watches.find(ticket) else { return false };
        let cancelled = watch.cancel();
        if cancelled {
            self.watches.forget(ticket);
        }
        // A reload may have moved it.
        self.inboxes.iter().for_each(|inbox| inbox.tell(News::Unwatch(ticket)));
        cancelled
    }

    /// Cancels every pending check of a queue, and every watch.
    pub(crate) fn cancel_of(&self, owner: u64) {
        self.ledger.of(owner).for_each(|ticket| {
            self.cancel(ticket);
        });
        for watch in self.watches.all(Some(owner)) {
            self.cancel_watch(watch.ticket);
        }
    }

    /// For the end, where an I/O thread has not come to its own: its receiver has dropped the engine, or a defect ended it.
    pub(crate) fn end_watches(&self) {
        let mut last = Outbox::default();
        // What they ask is not known here any more: who named no user to a host may be one that was revoked.
        let revoked = self.revocations.count() > 0;
        for watch in self.watches.all(None) {
            let end =
                watch.end(self.last_word(&watch, Cause::Shutdown, "the engine was shut down", || revoked));
            if let Some((receiver, completed)) = end {
                last.push(receiver, completed);
            }
        }
        last.deliver(&self.log);
    }

    /// The last decision of a watch that ends with us: what its host knows stands; if it knows nothing, as for a check.
    pub(crate) fn last_word(
        &self,
        watch: &Watch,
        cause: Cause,
        reason: &'static str,
        is_revoked: impl FnOnce() -> bool,
    ) -> Decision {
        let verdict = match watch.verdict() {
            Some(verdict) => verdict,
            None if is_revoked() => Verdict::Deny,
            None => self.policy().without_answer(cause, reason).verdict,
        };
        Decision::new(verdict, Origin::Default, cause, reason)
    }

    /// Forgets what is known of a session.
    pub(crate) fn revoke(&self, session_id: &[u8]) {
        let session = self.session(&check::session_id(session_id));
        let _telling = self.revocations.telling();
        self.revocations.revoke(session, self.policy().settings.ttl.max);
        // After it, so that no answer in flight comes back; in the memory that others put into by then.
        let policy = self.policy();
        policy.memory.forget(session);
        policy.limits.forget(session);
        self.void(Whose::Session(session));
    }

    /// Forgets what was said of a user, in whatever session.
    pub(crate) fn revoke_user(&self, user_id: &[u8]) {
        let user = self.user(user_id);
        let _telling = self.revocations.telling();
        self.revocations.revoke_user(user);
        if let Ok(id) = str::from_utf8(user_id) {
            self.policy().limits.forget_user(id);
        }
        self.void(Whose::User(user));
    }

    /// Forgets everything.
    pub(crate) fn revoke_all(&self) {
        let _telling = self.revocations.telling();
        self.revocations.revoke_all();
        self.policy().limits.clear();
        self.void(Whose::All);
    }

    /// By what sessions are found: a keyed hash of the id.
    pub(crate) fn session(&self, id: &[u8]) -> u64 {
        self.hash(Domain::Session, id)
    }

    /// The same for users.
    pub(crate) fn user(&self, id: &[u8]) -> u64 {
        self.hash(Domain::User, id)
    }

    /// Milliseconds of the engine's time, rounded down: when something began.
    pub(crate) fn milliseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Rounded up: what is left until then is never more than there is.
    pub(crate) fn milliseconds_up(&self, at: Instant) -> u64 {
        // Without a division of 128 bits: each lookup comes here.
        let up = at.saturating_duration_since(self.began);
        up.as_secs() * 1000 + u64::from(up.subsec_nanos().div_ceil(1_000_000))
    }

    /// The time at which so many milliseconds had passed.
    pub(crate) fn instant(&self, milliseconds: u64) -> Instant {
        self.began + Duration::from_millis(milliseconds)
    }

    /// Waits for the submitting threads that deliver what is remembered. None begins to once the ledger is closed, and
    /// none of them waits for anything.
    pub(crate) fn wait_for_hand_overs(&self) {
        while self.handing_over.load(Ordering::SeqCst) > 0 {
            // Not a yield: they may run at a lower priority.
            std::thread::sleep(HAND_OVER_PAUSE);
        }
    }

    /// As [`Ledger::drain`]; what waits in a queue by then is signalled.
    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        let drained = self.ledger.drain(timeout);
        if drained {
            let queues: Vec<_> = self.queues.lock().values().filter_map(Weak::upgrade).collect();
            for queue in queues {
                queue.signal();
            }
        }
        drained
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ledger.is_closed()
    }

    /// The decision for a check that was dropped on its way.
    pub(crate) fn lost(&self) -> Decision {
        let mut decision = if self.is_closed() {
            self.policy().without_answer(Cause::Shutdown, "the engine was shut down")
        } else {
            self.policy().without_answer(Cause::Internal, "a defect in the engine, caught")
        };
        // Whose it was is not known any more: it may have been revoked.
        if self.revocations.count() > 0 {
            decision.verdict = Verdict::Deny;
        }
        decision
    }

    /// Counts what an answer says about itself.
    pub(crate) fn note(&self, answer: &Answer) {
        if answer.from_cache {
            self.replies_from_cache.fetch_add(1, Ordering::Relaxed);
        }
        if answer.dropped_text {
            self.texts_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says where defects were that were caught since.
    pub(crate) fn note_defects(&self) {
        for place in own_panics() {
            self.log.log(LogLevel::Error, || format!("a defect at {place} was caught; please report it"));
        }
    }

    /// The work of an I/O thread ended by a defect, and begins anew.
    pub(crate) fn note_restart(&self, thread: usize) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.note_defects();
        self.log.log(LogLevel::Error, || {
            format!(
                "a defect ended the work of alta-io-{thread}; its checks were answered, and it begins anew"
            )
        });
    }

    pub(crate) fn stats(&self) -> Stats {
        let counts = self.ledger.counts();
        let policy = self.policy();
        let gauges = self.gauges.lock();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut causes = [0; 16];
        causes[..counts.causes.len()].copy_from_slice(&counts.causes);
        Stats {
            submitted: counts.submitted,
            completed: counts.completed,
            cancelled: counts.cancelled,
            pending: counts.submitted.saturating_sub(counts.completed).saturating_sub(counts.cancelled),
            refused: counts.refused + self.without_room(Comer::Watch),
            invalid: self.refusals.invalid(),
            allowed: counts.allowed,
            denied: counts.denied,
            origins: counts.origins,
            causes,
            coalesced: counts.coalesced,
            latencies: counts.latencies,
            exchanges: gauges.exchanges + gauges.sum(|endpoint| &endpoint.exchanges),
            retries: read(&self.retries),
            hedges: read(&self.hedges.sent),
            hedges_won: read(&self.hedges.won),
            remembered: policy.memory.len() as u64,
            watching: self.watches.len() as u64,
            watch_decisions: read(&self.watches.told),
            revoked: self.revocations.count(),
            endpoints: endpoints(&policy),
            shadow: policy.shadow.as_deref().map(|shadow| self.shadow.read(endpoints(shadow))),
            restarts: read(&self.restarts),
            replies_from_cache: read(&self.replies_from_cache),
            texts_dropped: read(&self.texts_dropped),
            limited: read(&self.limited),
            connections_opened: gauges.opened + gauges.sum(|endpoint| &endpoint.opened),
            connections_open: gauges.sum(|endpoint| &endpoint.open),
            connections_idle: gauges.sum(|endpoint| &endpoint.idle),
            connections_waiting: gauges.sum(|endpoint| &endpoint.waiting),
        }
    }

    fn hash(&self, domain: Domain, bytes: &[u8]) -> u64 {
        self.hashers[domain as usize].hash(bytes)
    }
}

fn endpoints(policy: &Policy) -> Vec<EndpointStats> {
    let address = |known: &Arc<Known>| AddressStats {
        address: known.address,
        breaker_open: known.health.is_open(),
        breaker_opened: known.health.opened(),
        exchanges: known.exchanges.load(Ordering::Relaxed),
    };
    let backends = &policy.settings.backends;
    let sum = |endpoint, figure: fn(&PoolGauges) -> &Gauge| {
        of_endpoint(&policy.gauges, endpoint, backends.len()).map(|pool| figure(pool).get()).sum()
    };
    let each = policy.health.iter().zip(policy.addresses.iter()).zip(backends).enumerate();
    each.map(|(endpoint, ((health, addresses), url))| EndpointStats {
        endpoint: url.label(),
        breaker_open: health.is_open(),
        breaker_opened: health.opened(),
        exchanges: sum(endpoint, |pool| &pool.exchanges),
        connections_open: sum(endpoint, |pool| &pool.open),
        addresses: addresses.several().iter().flat_map(|known| known.iter()).map(address).collect(),
    })
    .collect()
}

/// What is hashed.
#[derive(Clone, Copy)]
enum Domain {
    Key,
    Session,
    User,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::Config;

    fn core() -> Core {
        let mut config = Config::new();
        config.set("backend.url", "http://127.0.0.1:1/auth").unwrap();
        config.set("default_action", "deny").unwrap();
        let log = Logger::off();
        let policy = Policy::new(Arc::new(config.settings().unwrap()), None, &log).unwrap();
        Core::new(policy, log, Box::default()).unwrap()
    }

    /// `Ez`, `FY` and `G8` have one hash under DJBX33A, and so has every text that is put together from as many of them: the
    /// collisions of which PHP's and others' tables were flooded in 2011 (CERT VU#903934).
    #[test]
    fn published_collisions_are_none_here_and_each_engine_hashes_for_itself() {
        let mut texts = vec![String::new()];
        for _ in 0..8 {
            texts = texts
                .iter()
                .flat_map(|text| ["Ez", "FY", "G8"].map(|part| format!("{text}{part}")))
                .collect();
        }
        let (one, other) = (core(), core());
        let hashes: HashSet<_> = texts.iter().map(|text| one.session(text.as_bytes())).collect();
        assert_eq!((texts.len(), hashes.len()), (6561, 6561));
        // The table looks at the low bits, the threads at the high ones: neither may crowd.
        for part in [|hash: &u64| hash & 0xFF, |hash: &u64| hash >> 56] {
            let mut places = [0; 256];
            for hash in &hashes {
                places[part(hash) as usize] += 1;
            }
            assert!(places.iter().all(|&count| count < 80), "25 on average: {places:?}");
        }
        let domains: [fn(&Core, &[u8]) -> u64; 3] = [Core::hash_of_key, Core::session, Core::user];
        for hash in domains {
            assert!(texts.iter().all(|text| hash(&one, text.as_bytes()) != hash(&other, text.as_bytes())));
        }
        let of_one_name: HashSet<_> = domains.iter().map(|hash| hash(&one, b"x")).collect();
        assert_eq!(of_one_name.len(), 3, "a session is not the user of its name");
    }
}
