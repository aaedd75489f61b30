//! The way into an I/O thread: a channel for checks, a list for everything else, and one wake-up.
//!
//! A message holds a slot of the ledger, so there are never more than slots: twice as many as checks may be pending, those
//! included that were cancelled before their thread saw them. What else there is to say travels apart and is bounded by what it is
//! about: a cancel a slot, a refresh a remembered decision; of watches there are never more than twice `watch.max`, those that
//! this thread has not let go of yet included.
//!
//! Wake-ups are saved where they can be: see `parked.rs`.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;
use tokio::sync::Notify;

use super::channel::{Closed, Receiver, Sender, Watcher, channel};
use super::completion::Completion;
use super::ledger::Ticket;
use super::parked::Parked;
use super::policy::Policy;
use super::revocations::Mark;
use super::watch::Watch;
use crate::check::Question;
use crate::decision::Decision;
use crate::sys::room_for;

/// An accepted check on its way to its I/O thread.
pub(crate) enum Message {
    /// To be asked.
    Ask(Asked, Completion),
    /// Decided already, for a receiver that is called on this thread only.
    Decided(Completion, Box<Decision>),
}

/// Moved a dozen times; what is larger is moved by a call each time.
const _: () = assert!(size_of::<Message>() <= 128);

/// What else a host's thread has to tell.
pub(crate) enum News {
    /// The check is cancelled: let go of it.
    Cancelled(Ticket),
    /// A decision that is remembered nears its end: to be asked again, though nobody waits.
    Refresh(Asked),
    /// To be watched from now on. With the keyed hash of its user, if it comes from another thread and the backend has named
    /// one; the mark says which revocations have not ended it.
    Watch(Arc<Watch>, Asked, Option<u64>),
    /// Nobody wants to know any more.
    Unwatch(u64),
    /// What these were told is void.
    Void(Whose),
    /// A defect, for a test of what comes after it.
    #[cfg(test)]
    Panic,
}

/// Whose watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// By the keyed hash of its id.
    Session(u64),
    /// By the keyed hash of its id.
    User(u64),
    All,
    /// A session that had to give way to another one of its user.
    Displaced(u64),
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
    messages: Sender<Message, Vec<u8>>,
    shared: Arc<Shared>,
}

/// The side of the I/O thread.
pub(crate) struct Outlet {
    messages: Receiver<Message, Vec<u8>>,
    shared: Arc<Shared>,
    /// The runtime says when it parks; otherwise waiting here counts as that.
    hooked: Cell<bool>,
    /// The thread itself wants another turn: said once a turn.
    poked: Cell<bool>,
}

/// Questions that were answered leave their memory for others: none that is longer than this.
const SPARE_BYTES: usize = 1024;

struct Shared {
    news: SegQueue<News>,
    parked: Parked,
    stop: AtomicBool,
    /// Other threads wake by this one who waits in [`Outlet::relay`].
    outside: Notify,
    notify: Notify,
}

/// For so many checks at once; more only of those that were cancelled on their way.
pub(crate) fn inbox(capacity: usize) -> io::Result<(Inbox, Outlet)> {
    room_for(2 * capacity * size_of::<Message>())?;
    let (sender, receiver) = channel(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
    let shared = Arc::new(Shared {
        news: SegQueue::new(),
        parked: Parked::new(),
        stop: AtomicBool::new(false),
        outside: Notify::new(),
        notify: Notify::new(),
    });
    Ok((
        Inbox { messages: sender, shared: Arc::clone(&shared) },
        Outlet { messages: receiver, shared, hooked: Cell::new(false), poked: Cell::new(false) },
    ))
}

impl Inbox {
    /// Without a wake-up: call [`Inbox::wake`] once after a batch. What cannot be sent stays in `messages`; `spares` gets memory
    /// for the next questions.
    pub(super) fn send(&self, messages: &mut Vec<Message>, spares: &mut Vec<Vec<u8>>) -> Result<(), Closed> {
        self.messages.send(messages, spares)
    }

    /// With a wake-up.
    pub(crate) fn tell(&self, news: News) {
        self.shared.news.push(news);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.shared.parked.wake(|| self.shared.outside.notify_one());
    }

    /// Another turn is wanted, whatever the thread is doing.
    pub(crate) fn turn(&self) {
        self.shared.outside.notify_one();
    }

    #[cfg(test)]
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// The thread completes what it has and ends.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.outside.notify_one();
    }
}

impl Outlet {
    /// For another one who takes in what comes here, after this one.
    pub(crate) fn again(&self) -> Self {
        let hooked = self.hooked.clone();
        let shared = Arc::clone(&self.shared);
        Self { messages: self.messages.again(), shared, hooked, poked: Cell::new(false) }
    }

    /// For the next that is asked here.
    pub(crate) fn spare(&self, bytes: Vec<u8>) {
        if bytes.capacity() <= SPARE_BYTES {
            self.messages.give_back(bytes);
        }
    }

    pub(crate) fn next(&self) -> Option<Message> {
        self.messages.next()
    }

    pub(crate) fn next_news(&self) -> Option<News> {
        if self.shared.news.is_empty() { None } else { self.shared.news.pop() }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Passes on what other threads wake for. To be polled by the future that the runtime itself runs: it is woken from
    /// anywhere, where a task of a `LocalSet` cannot be woken from a thread that is ending (tokio keeps a thread-local of
    /// the waking thread, and panics where that is gone). A host's threads, and its process, may call us in their last moment.
    pub(crate) fn relay(&self) -> impl Future<Output = Infallible> + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                shared.outside.notified().await;
                shared.notify.notify_one();
            }
        }
    }

    /// Returns when there is something to do, or [`Outlet::poke`] was called.
    pub(crate) async fn changed(&self) {
        if !self.hooked.get() {
            self.parking().before_park();
        }
        self.shared.notify.notified().await;
        self.poked.set(false);
    }

    /// For the I/O thread itself: another turn is wanted.
    pub(crate) fn poke(&self) {
        if !self.poked.replace(true) {
            self.shared.notify.notify_one();
        }
    }

    /// The same for whoever does not hold it.
    pub(crate) fn poker(&self) -> impl Fn() + Clone + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.notify.notify_one()
    }

    /// Two hooks for the runtime: to be called before and after it parks.
    pub(crate) fn hooks(&self) -> (impl Fn() + use<>, impl Fn() + use<>) {
        self.hooked.set(true);
        let (before, after) = (self.parking(), self.parking());
        (move || before.before_park(), move || after.after_park())
    }

    fn parking(&self) -> Parking {
        Parking { messages: self.messages.watcher(), shared: Arc::clone(&self.shared) }
    }
}

/// What must be done around parking.
struct Parking {
    messages: Watcher<Message, Vec<u8>>,
    shared: Arc<Shared>,
}

impl Parking {
    fn before_park(&self) {
        let is_empty = || self.messages.is_empty() && self.shared.news.is_empty();
        self.shared.parked.before_park(is_empty, || self.shared.notify.notify_one());
    }

    fn after_park(&self) {
        self.shared.parked.after_park();
    }
}
