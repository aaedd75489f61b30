//! What every thread of an engine shares: the ledger, the ways into the I/O threads, the policy.

use std::hash::Hasher as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::TrySendError;
use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher13;
use tokio::time::Instant;

use super::SubmitError;
use super::completion::{Completion, Receiver, Tag};
use super::inbox::{Inbox, Message};
use super::ledger::{Ledger, Ticket};
use super::policy::Policy;
use super::revocations::Revocations;
use crate::backend::Answer;
use crate::check::Check;
use crate::decision::{Cause, Decision};
use crate::observe::{Logger, Stats};
use crate::sys::ForkMark;
use crate::transport::PoolGauges;

pub(crate) struct Core {
    pub(crate) ledger: Ledger,
    pub(crate) log: Arc<Logger>,
    policy: RwLock<Arc<Policy>>,
    /// Of every policy there was; the newest last. Behind a lock that only a reload and a reading take.
    gauges: Mutex<Gauges>,
    pub(crate) revocations: Revocations,
    pub(crate) fork: ForkMark,
    /// Safe retries, of all I/O threads.
    pub(crate) retries: Arc<AtomicU64>,
    pub(crate) inboxes: Box<[Inbox]>,
    pub(crate) closed: AtomicBool,
    /// The engine was freed: queues that are left give nothing any more.
    pub(crate) freed: AtomicBool,
    /// Drawn from the system for this engine: nobody outside can choose checks whose hashes collide.
    hash_key: [u8; 16],
    /// Spreads expiries.
    pub(crate) seed: u64,
    pub(crate) replies_from_cache: AtomicU64,
    pub(crate) texts_dropped: AtomicU64,
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
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.live.retain(|gauges| {
            let in_use = Arc::strong_count(gauges) > 1;
            if !in_use {
                self.exchanges += gauges.iter().map(|endpoint| read(&endpoint.exchanges)).sum::<u64>();
                self.opened += gauges.iter().map(|endpoint| read(&endpoint.opened)).sum::<u64>();
            }
            in_use
        });
        self.live.push(Arc::clone(gauges));
    }

    fn sum(&self, figure: fn(&PoolGauges) -> &AtomicU64) -> u64 {
        let endpoints = self.live.iter().flat_map(|gauges| gauges.iter());
        endpoints.map(|gauges| figure(gauges).load(Ordering::Relaxed)).sum()
    }
}

impl Core {
    pub(crate) fn new(policy: Policy, log: Arc<Logger>, inboxes: Box<[Inbox]>) -> io::Result<Self> {
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        let number = |from: usize| u64::from_le_bytes(random[from..][..8].try_into().expect("eight bytes"));
        let hash_key = random[..16].try_into().expect("sixteen bytes");
        let mut gauges = Gauges::default();
        gauges.add(&policy.gauges);
        Ok(Self {
            ledger: Ledger::new(policy.settings.inbox_capacity, number(16)).ok_or_else(no_memory)?,
            log,
            policy: RwLock::new(Arc::new(policy)),
            gauges: Mutex::new(gauges),
            revocations: Revocations::new().ok_or_else(no_memory)?,
            fork: ForkMark::new()?,
            retries: Arc::default(),
            inboxes,
            closed: AtomicBool::new(false),
            freed: AtomicBool::new(false),
            hash_key,
            seed: number(24),
            replies_from_cache: AtomicU64::new(0),
            texts_dropped: AtomicU64::new(0),
        })
    }

    /// What checks are judged by from now on.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read())
    }

    /// Checks that are submitted after this are judged by `policy`. Those accepted before keep theirs.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.gauges.lock().add(&policy.gauges);
        *self.policy.write() = Arc::new(policy);
        for inbox in &self.inboxes {
            inbox.turn();
        }
    }

    /// Accepts one check without waking its I/O thread; returns which one is to be woken. `announce` gets the
    /// ticket before the check can be decided.
    fn accept(
        self: &Arc<Self>,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        now: Instant,
        announce: impl FnOnce(u64),
    ) -> Result<(Ticket, usize), SubmitError> {
        if self.is_closed() {
            return Err(SubmitError::Closed);
        }
        let policy = self.policy();
        let question = policy.accept(check).map_err(SubmitError::Invalid)?;
        let hash = self.hash(question.key());
        // A key always goes to the same thread: coalescing needs no lock. The table of flights uses the low
        // bits of the hash, this the high ones.
        let thread = (hash >> 32) as usize % self.inboxes.len();
        let mark = self.revocations.mark(self.hash(question.session_id()));
        let ticket = self.ledger.reserve(thread as u16, tag.owner).ok_or(SubmitError::Full)?;
        announce(ticket.number());
        let completion = Completion::new(self, ticket, receiver, tag, now);
        let message = Message { policy, question, hash, mark, completion };
        let (message, error) = match self.inboxes[thread].send(message) {
            Ok(()) => return Ok((ticket, thread)),
            Err(TrySendError::Full(message)) => (message, SubmitError::Full),
            Err(TrySendError::Disconnected(message)) => (message, SubmitError::Closed),
        };
        message.completion.withdraw();
        Err(error)
    }

    pub(crate) fn cancel(&self, ticket: Ticket) -> bool {
        match self.ledger.cancel(ticket) {
            Some(thread) => {
                self.inboxes[usize::from(thread)].cancel(ticket);
                true
            }
            None => false,
        }
    }

    /// Cancels every pending check of a queue.
    pub(crate) fn cancel_of(&self, owner: u32) {
        self.ledger.of(owner).for_each(|ticket| {
            self.cancel(ticket);
        });
    }

    /// Forgets what is known of a session.
    pub(crate) fn revoke(&self, session_id: &[u8]) {
        self.revocations.revoke(self.hash(session_id));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The decision for a check that was dropped on its way.
    pub(crate) fn lost(&self) -> Decision {
        if self.is_closed() {
            self.policy().without_answer(Cause::Shutdown, "the engine was shut down")
        } else {
            self.policy().without_answer(Cause::Internal, "a defect in the engine, caught")
        }
    }

    /// Counts what an answer says about itself.
    pub(crate) fn note(&self, answer: &Answer) {
        self.replies_from_cache.fetch_add(u64::from(answer.from_cache), Ordering::Relaxed);
        self.texts_dropped.fetch_add(u64::from(answer.dropped_text), Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let counts = self.ledger.counts();
        let gauges = self.gauges.lock();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut causes = [0; 16];
        causes[..counts.causes.len()].copy_from_slice(&counts.causes);
        Stats {
            submitted: counts.submitted,
            completed: counts.completed,
            cancelled: counts.cancelled,
            pending: counts.submitted.saturating_sub(counts.completed).saturating_sub(counts.cancelled),
            refused: counts.refused,
            allowed: counts.allowed,
            denied: counts.denied,
            origins: counts.origins,
            causes,
            coalesced: counts.coalesced,
            exchanges: gauges.exchanges + gauges.sum(|endpoint| &endpoint.exchanges),
            retries: read(&self.retries),
            revoked: self.revocations.count(),
            replies_from_cache: read(&self.replies_from_cache),
            texts_dropped: read(&self.texts_dropped),
            connections_opened: gauges.opened + gauges.sum(|endpoint| &endpoint.opened),
            connections_open: gauges.sum(|endpoint| &endpoint.open),
            connections_idle: gauges.sum(|endpoint| &endpoint.idle),
            connections_waiting: gauges.sum(|endpoint| &endpoint.waiting),
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        hasher.write(key);
        hasher.finish()
    }
}

/// Checks submitted together: each I/O thread concerned is woken once, when this is dropped.
pub(crate) struct Batch<'a> {
    core: &'a Arc<Core>,
    now: Instant,
    /// One bit an I/O thread; the configuration allows 64.
    concerned: u64,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(core: &'a Arc<Core>) -> Self {
        Self { core, now: Instant::now(), concerned: 0 }
    }

    /// `announce` gets the ticket before the check can be decided.
    pub(crate) fn submit(
        &mut self,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        announce: impl FnOnce(u64),
    ) -> Result<u64, SubmitError> {
        let (ticket, thread) = self.core.accept(check, receiver, tag, self.now, announce)?;
        self.concerned |= 1 << thread;
        Ok(ticket.number())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut concerned = self.concerned;
        while concerned != 0 {
            self.core.inboxes[concerned.trailing_zeros() as usize].wake();
            concerned &= concerned - 1;
        }
    }
}
