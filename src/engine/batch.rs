//! Checks that a host hands over together: validated, looked up in memory, reserved, and sent on their way.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::SubmitError;
use super::channel::Closed;
use super::completion::{Completion, Receiver, Tag};
use super::core::Core;
use super::inbox::{Message, News};
use super::ledger::{Room, Ticket, Vacancies};
use super::outbox::Outbox;
use super::policy::Policy;
use super::refusals::Comer;
use crate::check::Check;
use crate::decision::{Cause, Decision, Verdict};

/// Checks submitted together. Dropped, it delivers what needed not be asked, each receiver called once, and wakes each I/O
/// thread concerned once.
pub(crate) struct Batch<'a> {
    /// What they are judged by, and what [`Core::turns`] said before it was taken: a host may reload between two checks.
    policy: Arc<Policy>,
    turns: u64,
    way: Way<'a>,
}

/// Checks that are sent together: to hold more of them back would keep an idle I/O thread waiting.
const TOGETHER: usize = 16;

/// What a thread that submits uses again.
#[derive(Default)]
struct Drawer {
    /// To be sent to each I/O thread; empty between batches.
    letters: Vec<Vec<Message>>,
    /// Memory for questions.
    spares: Vec<Vec<u8>>,
}

thread_local! {
    /// A thread that has ended so far that it has no such variable any more uses nothing again.
    static DRAWER: Cell<Drawer> = const { Cell::new(Drawer { letters: Vec::new(), spares: Vec::new() }) };
}

/// What becomes of them.
struct Way<'a> {
    core: &'a Arc<Core>,
    now: Instant,
    /// Those that are still to come.
    checks: usize,
    /// Usual room for some of them.
    vacancies: Option<Vacancies<'a>>,
    /// One bit an I/O thread; the configuration allows 64.
    concerned: u64,
    drawer: Drawer,
    /// What was decided without being asked.
    decided: Outbox,
    /// Counted among those that the engine's end waits for.
    handing_over: bool,
}

impl<'a> Batch<'a> {
    /// For so many checks; of what comes beside them each goes by its own time: the host's code runs in between.
    pub(crate) fn new(core: &'a Arc<Core>, checks: usize) -> Self {
        let turns = core.turns();
        let way = Way {
            core,
            now: Instant::now(),
            checks,
            vacancies: None,
            concerned: 0,
            drawer: DRAWER.try_with(Cell::take).unwrap_or_default(),
            decided: Outbox::default(),
            handing_over: false,
        };
        Self { policy: core.policy(), turns, way }
    }

    /// `announce` gets the ticket before the check can be decided.
    pub(crate) fn submit(
        &mut self,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        announce: impl FnOnce(u64),
    ) -> Result<u64, SubmitError> {
        self.turn();
        let Self { policy, way, .. } = self;
        let core = way.core;
        match way.checks.checked_sub(1) {
            Some(left) => way.checks = left,
            None => way.now = Instant::now(),
        }
        if core.is_closed() {
            return Err(SubmitError::Closed);
        }
        let submitted = policy.draft(check, |draft| {
            let mark = core.revocations.mark(core.session(draft.session_id()));
            let remembered =
                if draft.fresh() { None } else { core.recall(policy, &draft, mark.session, way.now, false) };
            let Some(remembered) = remembered else {
                let memory = way.drawer.spares.pop().unwrap_or_default();
                let (asked, thread) = core.addressed(Arc::clone(policy), &draft, mark, memory)?;
                let completion = match way.reserve(Room::Usual, thread, receiver, tag) {
                    Err(SubmitError::Full) => {
                        let why = "inbox.capacity checks are pending";
                        let mut decision = policy.without_answer(Cause::Overload, why);
                        if core.is_revoked(policy, &draft, mark.session) {
                            decision.verdict = Verdict::Deny;
                        }
                        return way.decide(Room::Spare, decision, thread, receiver, tag, announce);
                    }
                    reserved => reserved?,
                };
                let ticket = completion.ticket();
                announce(ticket.number());
                way.send(Message::Ask(asked, completion), thread);
                return Ok(ticket);
            };
            if remembered.refresh {
                core.refresh(Arc::clone(policy), &draft, mark);
            }
            let thread = core.thread_of(mark.session);
            way.decide(Room::Usual, remembered.decision, thread, receiver, tag, announce)
        });
        let ticket = submitted.map_err(SubmitError::Invalid).flatten();
        ticket.map(Ticket::number).inspect_err(|&error| core.refused(Comer::Check, error))
    }

    /// A check that is still to come is not fit to be submitted.
    pub(crate) fn passed_over(&mut self) {
        self.way.checks = self.way.checks.saturating_sub(1);
    }

    /// The same, as a field is over its limit; or a watch is not, for that. Counted as what [`Batch::submit`] finds invalid.
    pub(crate) fn too_long(&mut self) {
        self.passed_over();
        self.way.core.refusals.unfit();
    }

    /// A watch, for as long as the host wants: its first decision, and each change of it. `announce` gets the ticket
    /// before anything can be told.
    pub(crate) fn watch(
        &mut self,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        announce: impl FnOnce(u64),
    ) -> Result<u64, SubmitError> {
        self.turn();
        let Self { policy, way, .. } = self;
        // The end ends every watch that began before it.
        if way.core.is_closed() || !way.may_hand_over() {
            return Err(SubmitError::Closed);
        }
        let core = way.core;
        let watched = policy.draft(check, |draft| {
            let mark = core.revocations.mark(core.session(draft.session_id()));
            let (asked, thread) = core.addressed(Arc::clone(policy), &draft, mark, Vec::new())?;
            let watch = core.watches.open(policy.settings.watch.max, receiver, tag, way.now);
            let watch = watch.ok_or(SubmitError::Full)?;
            let ticket = watch.ticket;
            announce(ticket);
            core.inboxes[thread].tell(News::Watch(watch, asked, None));
            Ok(ticket)
        });
        watched
            .map_err(SubmitError::Invalid)
            .flatten()
            .inspect_err(|&error| core.refused(Comer::Watch, error))
    }

    /// To the newest policy.
    fn turn(&mut self) {
        let turns = self.way.core.turns();
        if turns != self.turns {
            (self.turns, self.policy) = (turns, self.way.core.policy());
        }
    }
}

impl Way<'_> {
    fn reserve(
        &mut self,
        room: Room,
        thread: usize,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
    ) -> Result<Completion, SubmitError> {
        let core = self.core;
        let (ledger, thread) = (&core.ledger, thread as u16);
        let ticket = match room {
            Room::Spare => ledger.reserve(room, thread, tag.owner),
            Room::Usual => {
                let left = self.vacancies.take().filter(|left| !left.is_empty());
                let wanted = (self.checks + 1).min(TOGETHER);
                let vacancies = self.vacancies.insert(left.unwrap_or_else(|| ledger.vacancies(room, wanted)));
                vacancies.fill(thread, tag.owner)
            }
        };
        let ticket = ticket.ok_or(SubmitError::Full)?;
        // Only now: from here on the I/O thread waits for it before it ends.
        if ledger.is_closed() {
            ledger.unreserve(ticket);
            return Err(SubmitError::Closed);
        }
        Ok(Completion::new(self.core, ticket, receiver, tag, self.now))
    }

    /// A check that needs not be asked. Without usual room it takes a place in the spare one.
    fn decide(
        &mut self,
        room: Room,
        decision: Decision,
        thread: usize,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        announce: impl FnOnce(u64),
    ) -> Result<Ticket, SubmitError> {
        let reserved = match self.reserve(room, thread, receiver, tag) {
            Err(SubmitError::Full) if room == Room::Usual => self.reserve(Room::Spare, thread, receiver, tag),
            reserved => reserved,
        };
        let completion = reserved?;
        let ticket = completion.ticket();
        announce(ticket.number());
        if !completion.can_be_put_aside() {
            self.send(Message::Decided(completion, Box::new(decision)), thread);
            return Ok(ticket);
        }
        if !self.may_hand_over() {
            completion.withdraw();
            return Err(SubmitError::Closed);
        }
        self.decided.decide(completion, decision);
        Ok(ticket)
    }

    fn send(&mut self, message: Message, thread: usize) {
        let letters = &mut self.drawer.letters;
        if letters.len() <= thread {
            letters.resize_with(thread + 1, Vec::new);
        }
        let letters = &mut letters[thread];
        letters.push(message);
        if letters.len() >= TOGETHER {
            self.send_off(thread);
        }
    }

    fn send_off(&mut self, thread: usize) {
        let Drawer { letters, spares } = &mut self.drawer;
        let letters = &mut letters[thread];
        if letters.is_empty() {
            return;
        }
        match self.core.inboxes[thread].send(letters, spares) {
            Ok(()) => self.concerned |= 1 << thread,
            // The thread is gone for good, by a defect. Each check ends as what is lost does.
            Err(Closed) => letters.clear(),
        }
    }

    /// From here on the engine's end waits for this batch.
    fn may_hand_over(&mut self) -> bool {
        if !std::mem::replace(&mut self.handing_over, true) {
            self.core.handing_over.fetch_add(1, Ordering::SeqCst);
        }
        !self.core.is_closed()
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        // Before anyone is told, who may want to submit the next.
        drop(self.vacancies.take());
        for thread in 0..self.drawer.letters.len() {
            self.send_off(thread);
        }
        let drawer = std::mem::take(&mut self.drawer);
        let _ = DRAWER.try_with(|place| place.set(drawer));
        let mut concerned = self.concerned;
        while concerned != 0 {
            self.core.inboxes[concerned.trailing_zeros() as usize].wake();
            concerned &= concerned - 1;
        }
        self.decided.take().deliver(&self.core.log);
        if self.handing_over {
            self.core.handing_over.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
