//! The way into an I/O thread: a bounded channel and one wake-up.
//!
//! The channel has room for `inbox.capacity` messages, as many as may be pending: a send never waits. It can be
//! full only of checks that were cancelled before their thread saw them. Cancels travel apart, one a slot at most.
//!
//! Wake-ups are saved where they can be: see `parked.rs`.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use crossbeam_queue::SegQueue;
use tokio::sync::Notify;

use super::completion::Completion;
use super::ledger::Ticket;
use super::parked::Parked;
use super::policy::Policy;
use super::revocations::Mark;
use crate::check::Question;
use crate::decision::Decision;

/// What a submitting thread hands over.
pub(crate) enum Message {
    /// An accepted check, to be asked.
    Ask(Asked, Completion),
    /// A decision that is remembered nears its end: to be asked again, though nobody waits.
    Refresh(Asked),
    /// An accepted check that is decided already, for a receiver that is called on this thread only.
    Decided(Completion, Box<Decision>),
}

/// What there is to be asked, and by which rules.
pub(crate) struct Asked {
    pub(crate) policy: Arc<Policy>,
    pub(crate) question: Question,
    pub(crate) hash: u64,
    pub(crate) mark: Mark,
}

/// The side of the submitting threads.
pub(crate) struct Inbox {
    messages: Sender<Message>,
    shared: Arc<Shared>,
}

/// The side of the I/O thread.
pub(crate) struct Outlet {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    /// The runtime says when it parks; otherwise waiting here counts as that.
    hooked: Cell<bool>,
}

struct Shared {
    cancels: SegQueue<Ticket>,
    parked: Parked,
    stop: AtomicBool,
    notify: Notify,
}

pub(crate) fn inbox(capacity: usize) -> (Inbox, Outlet) {
    let (sender, receiver) = bounded(capacity);
    let shared = Arc::new(Shared {
        cancels: SegQueue::new(),
        parked: Parked::new(),
        stop: AtomicBool::new(false),
        notify: Notify::new(),
    });
    (
        Inbox { messages: sender, shared: Arc::clone(&shared) },
        Outlet { messages: receiver, shared, hooked: Cell::new(false) },
    )
}

impl Inbox {
    /// Without a wake-up: call [`Inbox::wake`] once after a batch.
    pub(crate) fn send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        self.messages.try_send(message)
    }

    /// The check is cancelled: let go of it.
    pub(crate) fn cancel(&self, ticket: Ticket) {
        self.shared.cancels.push(ticket);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.shared.parked.wake(|| self.shared.notify.notify_one());
    }

    /// Another turn is wanted, whatever the thread is doing.
    pub(crate) fn turn(&self) {
        self.shared.notify.notify_one();
    }

    /// The thread completes what it has and ends.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.notify.notify_one();
    }
}

impl Outlet {
    pub(crate) fn next(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    pub(crate) fn next_cancel(&self) -> Option<Ticket> {
        self.shared.cancels.pop()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Returns when there is something to do, or [`Outlet::poke`] was called.
    pub(crate) async fn changed(&self) {
        if !self.hooked.get() {
            self.parking().before_park();
        }
        self.shared.notify.notified().await;
    }

    /// For the I/O thread itself: another turn is wanted.
    pub(crate) fn poke(&self) {
        self.shared.notify.notify_one();
    }

    /// Two hooks for the runtime: to be called before and after it parks.
    pub(crate) fn hooks(&self) -> (impl Fn() + use<>, impl Fn() + use<>) {
        self.hooked.set(true);
        let (before, after) = (self.parking(), self.parking());
        (move || before.before_park(), move || after.after_park())
    }

    fn parking(&self) -> Parking {
        Parking { messages: self.messages.clone(), shared: Arc::clone(&self.shared) }
    }
}

/// What must be done around parking.
struct Parking {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
}

impl Parking {
    fn before_park(&self) {
        let is_empty = || self.messages.is_empty() && self.shared.cancels.is_empty();
        self.shared.parked.before_park(is_empty, || self.shared.notify.notify_one());
    }

    fn after_park(&self) {
        self.shared.parked.after_park();
    }
}
