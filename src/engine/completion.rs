//! Exactly once: the obligation to answer an accepted check, as a type.
//!
//! [`Completion`] is owed; [`Completed`] is on its way. Each holds the check's slot in the ledger and gives it
//! back when it is dropped, so a check cannot be lost: a `Completion` that is dropped without a decision (a
//! panic, a thread that ended) delivers one, a `Completed` that nobody takes is counted as cancelled.

use std::sync::Arc;

use tokio::time::Instant;

use super::core::Core;
use super::ledger::{Fetch, Ticket};
use super::outbox::Outbox;
use super::watch::Watch;
use crate::clock;
use crate::decision::Decision;

/// Where decisions go: a queue, a pool of callback threads, a channel.
///
/// ```
/// use std::sync::mpsc::{Sender, channel};
/// use alta_auth::{Completed, Decision, Receiver};
///
/// struct Channel(Sender<(usize, Decision)>);
///
/// impl Receiver for Channel {
///     fn receive(&self, batch: &mut Vec<Completed>) {
///         for completed in batch.drain(..) {
///             let line = completed.user_data();
///             if let Some(decision) = completed.take() {
///                 let _ = self.0.send((line, decision));
///             }
///         }
///     }
/// }
/// # let _ = Channel(channel().0);
/// ```
pub trait Receiver: Send + Sync + 'static {
    /// Takes what was decided in one turn of an I/O thread. Called on that thread, no lock held; it must not
    /// block, and the engine's `drain` and `shutdown` may not be called from it. What is left in `batch`
    /// counts as cancelled. The next decision of a watch may also come on the thread that has just taken one.
    fn receive(&self, batch: &mut Vec<Completed>);

    /// Whether [`Receiver::receive`] may also be called on a thread that submits, before its submit returns, with what
    /// is remembered: because it only puts aside what it gets. Otherwise that makes a detour over an I/O thread.
    fn only_puts_aside(&self) -> bool {
        false
    }

    /// Whether [`Receiver::receive`] shelves all it gets before it returns ([`Completed::shelve`]).
    #[doc(hidden)]
    fn shelves_all(&self) -> bool {
        false
    }
}

/// What comes back with a decision.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tag {
    /// The host's.
    pub(crate) user_data: usize,
    /// The queue that was submitted to; 0: none.
    pub(crate) owner: u64,
}

/// A decision on its way to its receiver: of a check, or the newest of a watch.
pub struct Completed(Kind);

enum Kind {
    Check { held: Held, user_data: usize, decision: Decision },
    Watch(News),
}

/// As a message is.
const _: () = assert!(size_of::<Completed>() <= 128);

/// A slot of the ledger.
struct Held {
    /// `None`: the slot was given back.
    core: Option<Arc<Core>>,
    ticket: Ticket,
}

/// Of a watch. `None`: taken.
struct News(Option<Arc<Watch>>);

const NOT_TAKEN: &str = "there until it is taken";

impl Completed {
    pub(super) fn of_watch(watch: &Arc<Watch>) -> Self {
        Self(Kind::Watch(News(Some(Arc::clone(watch)))))
    }

    /// Of a watch, and taken already: a defect for who hands it over.
    #[cfg(test)]
    pub(super) fn taken() -> Self {
        Self(Kind::Watch(News(None)))
    }

    /// What the host passed with the check.
    pub fn user_data(&self) -> usize {
        match &self.0 {
            Kind::Check { user_data, .. } => *user_data,
            Kind::Watch(News(watch)) => watch.as_ref().expect(NOT_TAKEN).tag.user_data,
        }
    }

    /// It is kept until somebody fetches it; [`crate::Engine::drain`] does not wait for that. Otherwise drain
    /// waits until it was taken and dropped.
    pub fn shelve(&self) {
        if let Kind::Check { held, .. } = &self.0 {
            held.core().ledger.shelve(held.ticket);
        }
    }

    /// The decision, unless the check was cancelled meanwhile. This is the delivery: after it, cancel fails.
    pub fn take(self) -> Option<Decision> {
        self.hand_over(|_, decision| decision)
    }

    /// As [`Completed::take`]; the check has ended, for [`crate::Engine::drain`], when `receive` has returned.
    pub fn hand_over<T>(self, receive: impl FnOnce(usize, Decision) -> T) -> Option<T> {
        match self.0 {
            // The slot is given back when `receive` has returned, or panicked.
            Kind::Check { held, user_data, decision } => {
                held.core().ledger.claim(held.ticket, &decision).then(|| receive(user_data, decision))
            }
            Kind::Watch(mut news) => news.0.take().expect(NOT_TAKEN).hand_over(receive),
        }
    }

    /// As [`Completed::hand_over`], together with others of the same engine. In `receive` none of the host's code runs.
    pub(super) fn fetch(self, fetch: &mut Fetch<'_>, receive: impl FnOnce(usize, Decision)) -> bool {
        match self.0 {
            Kind::Check { mut held, user_data, decision } => {
                let delivered = fetch.deliver(held.ticket, &decision);
                if delivered {
                    held.core = None;
                    receive(user_data, decision);
                }
                delivered
            }
            watch @ Kind::Watch(_) => Self(watch).hand_over(receive).is_some(),
        }
    }
}

impl Held {
    fn core(&self) -> &Core {
        self.core.as_ref().expect("it holds its slot")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(core) = &self.core {
            core.ledger.release(self.ticket);
        }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            watch.discard();
        }
    }
}

/// The obligation to answer one accepted check.
pub(crate) struct Completion {
    /// `None` once the check has ended.
    owed: Option<Owed>,
    pub(crate) submitted: Instant,
    /// Shares an exchange that another check began.
    pub(crate) joined: bool,
    /// Its time was up while it waited for a connection, and it waits to learn why.
    pub(crate) graced: bool,
}

struct Owed {
    core: Arc<Core>,
    ticket: Ticket,
    receiver: Arc<dyn Receiver>,
    user_data: usize,
}

const STILL_OWED: &str = "only methods that consume the completion take this";

impl Completion {
    /// For a slot that was just reserved.
    pub(crate) fn new(
        core: &Arc<Core>,
        ticket: Ticket,
        receiver: &Arc<dyn Receiver>,
        tag: Tag,
        submitted: Instant,
    ) -> Self {
        let owed =
            Owed { core: Arc::clone(core), ticket, receiver: Arc::clone(receiver), user_data: tag.user_data };
        Self { owed: Some(owed), submitted, joined: false, graced: false }
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.owed.as_ref().expect(STILL_OWED).ticket
    }

    /// Its receiver takes what was decided on the calling thread.
    pub(crate) fn can_be_put_aside(&self) -> bool {
        self.owed.as_ref().expect(STILL_OWED).receiver.only_puts_aside()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        let owed = self.owed.as_ref().expect(STILL_OWED);
        owed.core.ledger.is_cancelled(owed.ticket)
    }

    /// The check ends with this decision. `None`: it was cancelled before.
    pub(crate) fn decide(mut self, decision: Decision) -> Option<(Arc<dyn Receiver>, Completed)> {
        let owed = self.owed.take().expect(STILL_OWED);
        owed.decide(decision, self.joined, self.submitted)
    }

    /// The check was never published: as if it had not been submitted.
    pub(crate) fn withdraw(mut self) {
        let owed = self.owed.take().expect(STILL_OWED);
        owed.core.ledger.unreserve(owed.ticket);
    }
}

impl Owed {
    fn decide(
        self,
        mut decision: Decision,
        joined: bool,
        submitted: Instant,
    ) -> Option<(Arc<dyn Receiver>, Completed)> {
        decision.ticket = self.ticket.number();
        decision.coalesced = joined;
        decision.latency = clock::now().saturating_duration_since(submitted);
        let ledger = &self.core.ledger;
        // One step less for what is ready at once. Else it would count as one that is still to be decided until it is taken.
        let wanted = match self.receiver.shelves_all() {
            true => !ledger.is_cancelled(self.ticket),
            false => ledger.decide(self.ticket),
        };
        let completed = Completed(Kind::Check {
            held: Held { core: Some(self.core), ticket: self.ticket },
            user_data: self.user_data,
            decision,
        });
        // A cancelled one is dropped here, which gives its slot back.
        wanted.then_some((self.receiver, completed))
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // Whatever went wrong, the host is waiting.
        if let Some(owed) = self.owed.take() {
            let decision = owed.core.lost();
            if let Some((receiver, completed)) = owed.decide(decision, self.joined, self.submitted) {
                Outbox::default().push(receiver, completed);
            }
        }
    }
}
