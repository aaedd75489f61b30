//! How a connection is made, as the pool sees it: a seam, so that tests put scripted peers on paused time in the
//! place of the network.

use std::cell::{Cell, RefCell};
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

/// How far a dial has come, for the exchanges that wait for it: there may be very many, and each looks here when it is asked.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    stage: Cell<Stage>,
    address: Cell<Option<IpAddr>>,
    makes_way: Cell<bool>,
    /// Those who write down when each stage was entered.
    traced: RefCell<Vec<Rc<Progress>>>,
}

impl Watch {
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        self.traced.borrow().iter().for_each(|progress| progress.enter(stage));
    }

    /// It is connected to this address; what is left is to agree on what is spoken.
    pub(super) fn reached(&self, address: Option<IpAddr>) {
        self.address.set(address);
    }

    /// The dial is dropped before its end: others need its place, and a check would not have waited for it any longer.
    pub(super) fn make_way(&self) {
        self.makes_way.set(true);
    }

    pub(super) fn makes_way(&self) -> bool {
        self.makes_way.get()
    }

    /// The dial is over. Who got nothing by it is in line again, as is who attaches now.
    pub(super) fn rest(&self) {
        self.stage.set(Stage::Queued);
        self.address.set(None);
        self.makes_way.set(false);
        self.traced.borrow().iter().for_each(|progress| progress.stage.set(Stage::Queued));
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address.get()
    }

    /// From now on `progress` is as far as the dial.
    pub(super) fn attach(self: &Rc<Self>, progress: &Rc<Progress>) {
        if progress.trace.is_some() {
            progress.enter(self.stage());
            self.traced.borrow_mut().push(Rc::clone(progress));
        }
        progress.dial.replace(Some(Rc::clone(self)));
    }

    /// The exchange took another connection, or is gone: it stays as far as it has come.
    pub(super) fn detach(&self, progress: &Rc<Progress>) {
        progress.dial.take();
        progress.stage.set(self.stage());
        progress.reach(self.address());
        if progress.trace.is_some() {
            self.traced.borrow_mut().retain(|other| !Rc::ptr_eq(other, progress));
        }
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
    fn who_waits_is_as_far_as_the_dial_which_keeps_nobody() {
        let watch = Rc::<Watch>::default();
        let [leaves, stays, later] = std::array::from_fn(|_| Rc::<Progress>::default());
        watch.attach(&leaves);
        watch.attach(&stays);
        watch.enter(Stage::Resolving);
        watch.detach(&leaves);
        watch.enter(Stage::Connecting);
        watch.reached(Some([192, 0, 2, 1].into()));
        assert_eq!((leaves.stage(), stays.stage()), (Stage::Resolving, Stage::Connecting));
        assert_eq!((leaves.address(), stays.address()), (None, Some([192, 0, 2, 1].into())));
        watch.rest();
        watch.attach(&later);
        assert_eq!((stays.stage(), later.stage()), (Stage::Queued, Stage::Queued));
        assert_eq!((stays.address(), later.address()), (None, None));
        watch.enter(Stage::Handshaking);
        assert_eq!((stays.stage(), later.stage()), (Stage::Handshaking, Stage::Handshaking));
        // Of any number it has none to go through.
        assert_eq!((Rc::strong_count(&stays), watch.traced.borrow().len()), (1, 0));
        watch.detach(&stays);
        watch.detach(&later);
        assert_eq!(Rc::strong_count(&watch), 1);
    }

    #[test]
    fn a_trace_has_each_stage_of_each_dial() {
        let watch = Rc::<Watch>::default();
        let progress = Rc::new(Progress { trace: Some(RefCell::default()), ..Progress::default() });
        watch.enter(Stage::Resolving);
        watch.attach(&progress);
        watch.enter(Stage::Connecting);
        watch.rest();
        watch.detach(&progress);
        watch.attach(&progress);
        watch.enter(Stage::Connecting);
        watch.enter(Stage::Handshaking);
        watch.detach(&progress);
        let stages: Vec<_> =
            progress.trace.as_ref().unwrap().borrow().marks.iter().map(|&(stage, _)| stage).collect();
        let expected = [Stage::Resolving, Stage::Connecting, Stage::Connecting, Stage::Handshaking];
        assert_eq!((&stages[..], progress.stage()), (&expected[..], Stage::Handshaking));
        assert_eq!(Rc::strong_count(&progress), 1);
    }
}
