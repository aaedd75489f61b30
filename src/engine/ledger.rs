//! The ledger: which checks are pending, and that each ends exactly once.
//!
//! At most `inbox.capacity` checks are pending; a submit beyond that is refused. Each has a slot, and a slot is
//! a word, `generation << 3 | state`, and every transition is one compare-and-swap on it:
//!
//! ```text
//!                    ┌───────────shelve───────────┐
//! FREE ─reserve─▶ PENDING ─decide─▶ DUE ─shelve─▶ READY ─fetch─▶ FREE of the next generation
//!                    │               ├──────claim────┴──▶ CALLING ─release─▶ FREE of the next generation
//!                    └────cancel─────┴──▶ CANCELLED ──────────────release─▶ FREE of the next generation
//! ```
//!
//! DUE will be handed over by a thread of the engine; READY waits in a queue to be fetched, whenever its host
//! likes (and can be cancelled like the others). Drain waits for what is PENDING, DUE or CALLING, not for what is READY.
//! What goes into a queue at once needs not be DUE before.
//!
//! Where many checks are submitted or fetched in one call, their room, their slots and what is counted of them come and go
//! together ([`Vacancies`], [`Fetch`]): an instruction that locks its word costs as much as some fifty others. While such a
//! call runs, what it holds is not free: another thread may be refused that would find room a few microseconds later.
//!
//! Cancel and claim race on the same word, so one of them wins and the other learns it: a cancelled check is
//! never delivered, a delivered one never cancelled. A cancelled check is not pending any more, but its slot
//! stays taken until the I/O thread has let go of it; there are twice as many slots as checks may be pending, so
//! that submitting and cancelling in a loop cannot pile up memory.
//!
//! With `overload = default` there is room for as many again that are decided without being asked ([`Room::Spare`]): they
//! wait for their hosts only, and take no room from the others.
//!
//! A ticket is `generation << 24 | slot`. Generations begin at a random number that is not 0, so that a ticket
//! means nothing to another engine; tickets are never 0, never a watch's, and do not come again before a slot was used
//! 2^39 times.
//!
//! At the end no check may slip in behind the I/O thread that would take it: a submit reserves and then looks whether the
//! ledger is closed; an I/O thread that ends closes it and then looks for what is reserved. Each writes before it reads what
//! the other writes, with a `SeqCst` fence between, so at least one of them sees the other: the submit withdraws, or the
//! thread waits for what it sends.
//!
//! Free slots are a stack (Treiber, with a tag against ABA): the slot freed last is used next, so that the
//! tables of the I/O threads stay as small as the number of checks that were ever pending at once.

// Where `model.rs` finds them as well.
#[path = "ledger/counters.rs"]
mod counters;
#[path = "ledger/several.rs"]
mod several;

use std::time::Duration;

use tokio::time::Instant;

use self::counters::Counters;
pub(crate) use self::counters::Counts;
pub(crate) use self::several::{Fetch, Vacancies};
use super::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use super::sync::{Condvar, Mutex};
use crate::decision::Decision;

const FREE: u64 = 0;
const PENDING: u64 = 1;
const READY: u64 = 2;
const DUE: u64 = 3;
const CALLING: u64 = 4;
const CANCELLED: u64 = 5;
const STATE_BITS: u32 = 3;
const STATE: u64 = (1 << STATE_BITS) - 1;

const SLOT_BITS: u32 = 24;
const MAX_SLOTS: usize = 1 << SLOT_BITS;
/// Of the 40 bits that a ticket has beside its slot, the highest is never set: it marks a watch's ticket.
const GENERATION_BITS: u32 = 39;
const GENERATION: u64 = (1 << GENERATION_BITS) - 1;

const NONE: u32 = u32::MAX;

struct Slot {
    word: AtomicU64,
    /// The next free slot, while this one is free.
    next: AtomicU32,
    /// The I/O thread that has the check, so that a cancel finds it.
    thread: AtomicU16,
    /// The queue that the check was submitted to, so that a queue's end finds them; 0: none.
    owner: AtomicU64,
    /// Whose room it takes: a [`Room`].
    room: AtomicU16,
}

/// What a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// To be asked.
    Usual,
    /// Decided at once, because there is no usual room.
    Spare,
}

/// Names one check: a slot in one of its generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

impl Ticket {
    fn new(generation: u64, slot: u32) -> Self {
        Self(generation << SLOT_BITS | u64::from(slot))
    }
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }
    pub(crate) fn number(self) -> u64 {
        self.0
    }
    /// Where the tables of an I/O thread keep this check.
    pub(crate) fn slot(self) -> u32 {
        (self.0 & (MAX_SLOTS as u64 - 1)) as u32
    }
    fn word(self, state: u64) -> u64 {
        (self.0 >> SLOT_BITS) << STATE_BITS | state
    }
    fn next_free_word(self) -> u64 {
        // Never 0, so that no ticket is.
        let next = (((self.0 >> SLOT_BITS) + 1) & GENERATION).max(1);
        next << STATE_BITS | FREE
    }
}

pub(crate) struct Ledger {
    capacity: usize,
    /// By [`Room`].
    pending: [AtomicUsize; 2],
    /// How many there may be in the spare room.
    spare: usize,
    slots: Box<[Slot]>,
    /// `tag << 32 | slot` on top of the stack of free slots.
    free: AtomicU64,
    counters: Counters,
    closed: AtomicBool,
    /// Drains that wait; whoever ends a check looks here before it takes the lock.
    pub(super) drainers: AtomicUsize,
    gate: Mutex<()>,
    ended: Condvar,
}

impl Ledger {
    /// What it will take.
    pub(crate) fn bytes(capacity: usize, spare: usize) -> usize {
        (2 * capacity + spare) * size_of::<Slot>()
    }

    /// `None`: the system has no memory for it.
    pub(crate) fn new(capacity: usize, spare: usize, random: u64) -> Option<Self> {
        let first = random >> (64 - GENERATION_BITS) | 1;
        let count = 2 * capacity + spare;
        assert!((2..=MAX_SLOTS).contains(&count), "the configuration bounds inbox.capacity");
        let mut slots = Vec::new();
        slots.try_reserve_exact(count).ok()?;
        let last = count as u32 - 1;
        slots.extend((0..=last).map(|slot| Slot {
            word: AtomicU64::new(first << STATE_BITS | FREE),
            next: AtomicU32::new(if slot == last { NONE } else { slot + 1 }),
            thread: AtomicU16::new(0),
            owner: AtomicU64::new(0),
            room: AtomicU16::new(0),
        }));
        Some(Self {
            capacity,
            pending: [AtomicUsize::new(0), AtomicUsize::new(0)],
            spare,
            slots: slots.into_boxed_slice(),
            free: AtomicU64::new(0),
            counters: Counters::default(),
            closed: AtomicBool::new(false),
            drainers: AtomicUsize::new(0),
            gate: Mutex::new(()),
            ended: Condvar::new(),
        })
    }

    /// Room and slots for up to so many checks; none: there is no room.
    pub(crate) fn vacancies(&self, room: Room, wanted: usize) -> Vacancies<'_> {
        Vacancies::new(self, room, wanted)
    }

    /// The first of a chain of at most so many free slots, and how many there are; the room that they take is counted.
    fn take_room(&self, room: Room, wanted: usize) -> (u32, usize) {
        let most = if room == Room::Spare { self.spare } else { self.capacity };
        let more =
            |pending: usize| (pending < most && wanted > 0).then(|| most.min(pending.saturating_add(wanted)));
        let pending = &self.pending[room as usize];
        let Ok(before) = pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else {
            return (NONE, 0);
        };
        let granted = wanted.min(most - before);
        let (first, count) = self.pop_free(granted);
        if count < granted {
            pending.fetch_sub(granted - count, Ordering::Relaxed);
        }
        (first, count)
    }

    /// Takes a slot for a check of queue `owner` that I/O thread `thread` will get. `None`: there is no room; say
    /// [`Ledger::refused`] if that is the end of it. If [`Ledger::is_closed`] after this, nobody will take the check.
    pub(crate) fn reserve(&self, room: Room, thread: u16, owner: u64) -> Option<Ticket> {
        self.vacancies(room, 1).fill(thread, owner)
    }

    /// No check is accepted any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether a check that I/O thread `thread` gets is not decided, be it on its way yet. Once the ledger is closed and this
    /// is false, none comes any more.
    pub(crate) fn expects(&self, thread: u16) -> bool {
        fence(Ordering::SeqCst);
        // The word first: its Acquire shows the thread that was stored before it.
        self.slots.iter().any(|slot| {
            slot.word.load(Ordering::Acquire) & STATE == PENDING
                && slot.thread.load(Ordering::Relaxed) == thread
        })
    }

    /// A check was not accepted for want of room.
    pub(crate) fn refused(&self) {
        self.counters.refused();
    }

    /// How many were not.
    pub(crate) fn refusals(&self) -> u64 {
        self.counters.refusals()
    }

    /// Whose room a check takes. To be read while the check has not ended: then the slot may be another's.
    fn room(&self, ticket: Ticket) -> usize {
        self.slots[ticket.slot() as usize].room.load(Ordering::Relaxed).into()
    }

    fn not_pending(&self, room: usize) {
        self.pending[room].fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes back a reservation that was never published.
    pub(crate) fn unreserve(&self, ticket: Ticket) {
        // Unless somebody who guessed its ticket has cancelled it: then it was accepted and ended.
        let room = self.room(ticket);
        if self.exchange(ticket, PENDING, CANCELLED) {
            self.not_pending(room);
            self.counters.withdrawn();
        }
        self.recycle(ticket);
        self.wake_drainers();
    }

    /// The check has its decision. False: it was cancelled; nobody wants it.
    pub(crate) fn decide(&self, ticket: Ticket) -> bool {
        self.exchange(ticket, PENDING, DUE)
    }

    /// The decision is where its receiver can fetch it whenever that likes: drain waits for it no more.
    pub(crate) fn shelve(&self, ticket: Ticket) {
        if self.leaves(ticket, &[PENDING, DUE], ticket.word(READY)) {
            self.wake_drainers();
        }
    }

    /// The receiver takes the decision: the delivery. False: it was cancelled.
    pub(crate) fn claim(&self, ticket: Ticket, decision: &Decision) -> bool {
        if !self.leaves(ticket, &[READY, DUE, PENDING], ticket.word(CALLING)) {
            return false;
        }
        self.not_pending(self.room(ticket));
        self.counters.delivered(decision);
        true
    }

    /// For decisions that a host fetches in one call.
    pub(crate) fn fetch(&self) -> Fetch<'_> {
        Fetch::new(self)
    }

    /// The I/O thread to tell, if this call cancelled the check.
    pub(crate) fn cancel(&self, ticket: Ticket) -> Option<u16> {
        let slot = self.slots.get(ticket.slot() as usize)?;
        let thread = slot.thread.load(Ordering::Relaxed);
        let room = self.room(ticket);
        if !self.leaves(ticket, &[PENDING, READY, DUE], ticket.word(CANCELLED)) {
            return None;
        }
        self.not_pending(room);
        self.counters.cancelled();
        self.wake_drainers();
        Some(thread)
    }

    /// The checks of queue `owner` that have not ended.
    pub(crate) fn of(&self, owner: u64) -> impl Iterator<Item = Ticket> {
        (0u32..).zip(&self.slots).filter_map(move |(index, slot)| {
            // The word first: its Acquire shows the owner that was stored before it.
            let word = slot.word.load(Ordering::Acquire);
            let live = matches!(word & STATE, PENDING | READY | DUE);
            (live && slot.owner.load(Ordering::Relaxed) == owner)
                .then(|| Ticket::new(word >> STATE_BITS, index))
        })
    }

    pub(crate) fn is_cancelled(&self, ticket: Ticket) -> bool {
        self.slots[ticket.slot() as usize].word.load(Ordering::Acquire) == ticket.word(CANCELLED)
    }

    /// The last word about a check: its slot can be used again. What was neither claimed nor cancelled by
    /// then counts as cancelled.
    pub(crate) fn release(&self, ticket: Ticket) {
        self.cancel(ticket);
        self.recycle(ticket);
        self.wake_drainers();
    }

    /// Waits until every check that is pending now has ended or is ready to be fetched.
    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        self.drainers.fetch_add(1, Ordering::SeqCst);
        let mut done = true;
        'slots: for slot in &self.slots {
            let accepted = slot.word.load(Ordering::SeqCst);
            let outstanding = |word: u64| {
                word >> STATE_BITS == accepted >> STATE_BITS
                    && matches!(word & STATE, PENDING | DUE | CALLING)
            };
            if !outstanding(accepted) {
                continue;
            }
            let mut gate = self.gate.lock();
            while outstanding(slot.word.load(Ordering::SeqCst)) {
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                match left {
                    None => self.ended.wait(&mut gate),
                    Some(Duration::ZERO) => {
                        done = false;
                        break 'slots;
                    }
                    Some(left) => {
                        self.ended.wait_for(&mut gate, left);
                    }
                }
            }
        }
        self.drainers.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// `submitted = completed + cancelled + pending` holds for what it returns: pending is the difference.
    pub(crate) fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// From whichever of these states it is in. To look first costs less than to try in vain.
    fn leaves(&self, ticket: Ticket, from: &[u64], to: u64) -> bool {
        let word = &self.slots[ticket.slot() as usize].word;
        let mut now = word.load(Ordering::Relaxed);
        while from.iter().any(|&state| now == ticket.word(state)) {
            match word.compare_exchange(now, to, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    fn exchange(&self, ticket: Ticket, from: u64, to: u64) -> bool {
        self.slots[ticket.slot() as usize]
            .word
            .compare_exchange(ticket.word(from), ticket.word(to), Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    fn wake_drainers(&self) {
        // SeqCst on the slot's word and on both sides of `drainers`: either this sees the drain, or the drain
        // sees the word. The lock closes the window between its look and its wait.
        if self.drainers.load(Ordering::SeqCst) > 0 {
            drop(self.gate.lock());
            self.ended.notify_all();
        }
    }

    fn recycle(&self, ticket: Ticket) {
        let index = ticket.slot();
        self.slots[index as usize].word.store(ticket.next_free_word(), Ordering::SeqCst);
        self.push_free(index, index);
    }

    /// A chain of slots.
    fn push_free(&self, first: u32, last: u32) {
        let next = &self.slots[last as usize].next;
        let mut top = self.free.load(Ordering::Relaxed);
        loop {
            next.store(top as u32, Ordering::Relaxed);
            let new = ((top >> 32) + 1) << 32 | u64::from(first);
            match self.free.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// The first of a chain of at most so many, and how many there are.
    fn pop_free(&self, most: usize) -> (u32, usize) {
        let mut top = self.free.load(Ordering::Acquire);
        loop {
            let first = top as u32;
            let (mut next, mut count) = (first, 0);
            // Another thread may have taken these slots and be writing `next`; then the tag has changed and
            // what was read here is thrown away.
            while count < most && next != NONE {
                next = self.slots[next as usize].next.load(Ordering::Relaxed);
                count += 1;
            }
            if count == 0 {
                return (NONE, 0);
            }
            let new = ((top >> 32) + 1) << 32 | u64::from(next);
            match self.free.compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (first, count),
                Err(now) => top = now,
            }
        }
    }
}
