//! How a connection is made, as the pool sees it: a seam, so that tests put scripted peers on paused time in the
//! place of the network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Among, Failure, Progress, Stage, Trace};

pub(crate) type Dialing = Pin<Box<dyn Future<Output = Result<Link, Failure>>>>;

/// Makes connections. Each `dial` is bounded in time by itself.
pub(crate) trait Dial: 'static {
    /// One new connection to endpoint `endpoint`, at one of these addresses. `watch` learns how far it has come.
    fn dial(&self, endpoint: usize, among: Among, watch: Rc<Watch>) -> Dialing;

    /// Whether the endpoint's name still stands for `peer`. Called whenever a connection is lent or returned.
    fn is_current(&self, endpoint: usize, peer: IpAddr) -> bool {
        let _ = (endpoint, peer);
        true
    }

    /// Asks the system what has come on its connections. Whether somebody was woken who waits for it.
    fn look_around(&self) -> bool {
        false
    }
}

/// A connection, ready for plain HTTP.
pub(crate) struct Link {
    pub(crate) io: Box<dyn Io>,
    /// To show: `127.0.0.1:6000`, a path.
    pub(crate) peer: String,
    /// None: not reached by a name that could move.
    pub(crate) address: Option<IpAddr>,
    /// e.g. `TLSv1.3, h2`
    pub(crate) tls: Option<String>,
    /// Speaks HTTP/2: by ALPN, or by prior knowledge.
    pub(crate) http2: bool,
}

/// The stream under a lane.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + 'static {
    /// What waits to be read, without reading it and without blocking.
    fn look(&self) -> Look {
        Look::Unknown
    }

    /// Reads what is there as far as this process knows, as `poll_read` does, and asks for no wake-up. `None`: nothing.
    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        match Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), buf) {
            Poll::Pending => None,
            Poll::Ready(read) => Some(read),
        }
    }

    /// Where others may write to it for whoever uses it. `None`: only who has it can.
    fn write_half(&self) -> Option<Rc<dyn WriteHalf>> {
        None
    }
}

/// The way out of a connection, for whoever writes to it in the place of who uses it.
pub(crate) trait WriteHalf {
    /// Writes what can be written to a connection that should be silent, and asks for no wake-up. `None`: nothing can, or the
    /// connection is not silent.
    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>>;

    /// Wakes whoever waits for something to read on it.
    fn wake(&self);

    /// Asks the system what has come on all connections that it knows of together with this one.
    fn look_around(&self) {}
}

/// What waits on a connection that should be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing; or nothing that can be told from here.
    Nothing,
    /// Something, but only the layer above can say what (TLS: a session ticket, or the end).
    Unknown,
    /// Bytes that nobody asked for.
    Surplus,
    /// The peer has closed.
    Closed,
}

#[cfg(any(test, fuzzing))]
impl Io for tokio::io::DuplexStream {}

/// Carries a dial's progress to the exchanges that wait for it, as long as they do.
#[derive(Default)]
pub(crate) struct Watch {
    stage: Cell<Stage>,
    address: Cell<Option<IpAddr>>,
    tickets: Cell<u64>,
    watching: RefCell<BTreeMap<Ticket, Rc<Progress>>>,
}

/// One exchange's watching of a dial.
pub(super) type Ticket = u64;

impl Watch {
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        self.watching.borrow().values().for_each(|progress| progress.enter(stage));
    }

    /// It is connected to this address; what is left is to agree on what is spoken.
    pub(super) fn reached(&self, address: Option<IpAddr>) {
        self.address.set(address);
        self.watching.borrow().values().for_each(|progress| progress.reach(address));
    }

    /// The dial is over. Who got nothing by it is in line again, as is who attaches now.
    pub(super) fn rest(&self) {
        self.stage.set(Stage::Queued);
        self.address.set(None);
        self.watching.borrow().values().for_each(|progress| progress.stage.set(Stage::Queued));
    }

    /// From now on `progress` is as far as the dial.
    pub(super) fn attach(&self, progress: &Rc<Progress>) -> Ticket {
        let (stage, ticket) = (self.stage.get(), self.tickets.get());
        self.tickets.set(ticket + 1);
        progress.enter(stage);
        progress.reach(self.address.get());
        self.watching.borrow_mut().insert(ticket, Rc::clone(progress));
        ticket
    }

    /// The exchange took another connection, or is gone.
    pub(super) fn detach(&self, ticket: Ticket) {
        self.watching.borrow_mut().remove(&ticket);
    }
}

impl Link {
    /// Writes down who answered.
    pub(crate) fn describe(peer: &str, tls: Option<&str>, http2: bool, reused: bool, trace: &mut Trace) {
        trace.peer = Some(peer.to_owned());
        trace.tls = tls.map(str::to_owned);
        trace.http2 = http2;
        trace.reused = reused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_tells_those_who_are_there_and_keeps_nobody() {
        let watch = Watch::default();
        let [leaves, stays, later] = std::array::from_fn(|_| Rc::<Progress>::default());
        let first = watch.attach(&leaves);
        let second = watch.attach(&stays);
        watch.enter(Stage::Resolving);
        watch.detach(first);
        watch.enter(Stage::Connecting);
        assert_eq!((leaves.stage.get(), stays.stage.get()), (Stage::Resolving, Stage::Connecting));
        watch.rest();
        let third = watch.attach(&later);
        assert_eq!((stays.stage.get(), later.stage.get()), (Stage::Queued, Stage::Queued));
        watch.enter(Stage::Handshaking);
        assert_eq!((stays.stage.get(), later.stage.get()), (Stage::Handshaking, Stage::Handshaking));
        watch.detach(second);
        watch.detach(third);
        assert!(watch.watching.borrow().is_empty());
    }
}
