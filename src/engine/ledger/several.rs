//! Room, slots and counts of many checks at once, where they are submitted or fetched in one call.

use super::super::sync::atomic::{Ordering, fence};
use super::counters::Delivered;
use super::{DUE, Ledger, PENDING, READY, Room, STATE_BITS, Ticket};
use crate::decision::Decision;

/// Room and slots that were taken for checks to come. Dropped, it gives back what is left.
pub(crate) struct Vacancies<'a> {
    ledger: &'a Ledger,
    room: Room,
    /// A chain of slots; behind the last of them it goes on with what is none of ours.
    next: u32,
    count: usize,
}

impl<'a> Vacancies<'a> {
    /// Up to so many.
    pub(super) fn new(ledger: &'a Ledger, room: Room, wanted: usize) -> Self {
        let (next, count) = ledger.take_room(room, wanted);
        Self { ledger, room, next, count }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// As [`Ledger::reserve`]. `None`: there is none left.
    pub(crate) fn fill(&mut self, thread: u16, owner: u64) -> Option<Ticket> {
        self.count = self.count.checked_sub(1)?;
        let index = self.next;
        let slot = &self.ledger.slots[index as usize];
        self.next = slot.next.load(Ordering::Relaxed);
        slot.thread.store(thread, Ordering::Relaxed);
        slot.owner.store(owner, Ordering::Relaxed);
        slot.room.store(self.room as u16, Ordering::Relaxed);
        let ticket = Ticket::new(slot.word.load(Ordering::Relaxed) >> STATE_BITS, index);
        self.ledger.counters.submitted();
        slot.word.store(ticket.word(PENDING), Ordering::Release);
        fence(Ordering::SeqCst);
        Some(ticket)
    }
}

impl Drop for Vacancies<'_> {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let Self { ledger, room, next: first, count } = *self;
        let next = |slot: u32, _| ledger.slots[slot as usize].next.load(Ordering::Relaxed);
        ledger.push_free(first, (1..count).fold(first, next));
        ledger.pending[room as usize].fetch_sub(count, Ordering::Relaxed);
    }
}

/// Deliveries of one call, in which none of the host's code runs. Each check ends at once; its room and its slot are given
/// back, and it is counted, when this is dropped.
pub(crate) struct Fetch<'a> {
    ledger: &'a Ledger,
    delivered: Delivered,
    /// By [`Room`].
    ended: [usize; 2],
    /// The first and the last of a chain of slots.
    freed: Option<(u32, u32)>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, delivered: Delivered::default(), ended: [0; 2], freed: None }
    }

    /// The host takes the decision: the delivery, and the last word about the check. False: it was cancelled, and is still to
    /// be released.
    pub(crate) fn deliver(&mut self, ticket: Ticket, decision: &Decision) -> bool {
        let room = self.ledger.room(ticket);
        if !self.ledger.leaves(ticket, &[READY, DUE, PENDING], ticket.next_free_word()) {
            return false;
        }
        let slot = ticket.slot();
        let last = self.freed.map_or(slot, |(first, last)| {
            self.ledger.slots[slot as usize].next.store(first, Ordering::Relaxed);
            last
        });
        self.freed = Some((slot, last));
        self.ended[room] += 1;
        self.delivered.add(decision, &self.ledger.counters);
        true
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let Some((first, last)) = self.freed else { return };
        let Self { ledger, .. } = *self;
        ledger.push_free(first, last);
        for (pending, ended) in ledger.pending.iter().zip(self.ended) {
            if ended > 0 {
                pending.fetch_sub(ended, Ordering::Relaxed);
            }
        }
        self.delivered.count(&ledger.counters);
        ledger.wake_drainers();
    }
}
