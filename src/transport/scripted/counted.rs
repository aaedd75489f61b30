//! Our end of a scripted connection, and how often it is written to.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::transport::dial::{Io, WriteHalf};

pub(crate) struct Counted(Rc<Shared>);

struct Shared {
    stream: RefCell<DuplexStream>,
    /// By all connections.
    writes: Rc<Cell<u64>>,
    reader: RefCell<Option<Waker>>,
}

impl Counted {
    pub(crate) fn new(stream: DuplexStream, writes: Rc<Cell<u64>>) -> Self {
        Self(Rc::new(Shared { stream: RefCell::new(stream), writes, reader: RefCell::default() }))
    }
}

impl Shared {
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut DuplexStream>) -> T) -> T {
        poll(Pin::new(&mut *self.stream.borrow_mut()))
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        self.poll(|stream| stream.poll_write(cx, bytes))
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        *self.0.reader.borrow_mut() = Some(cx.waker().clone());
        self.0.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|stream| stream.poll_shutdown(cx))
    }
}

impl Io for Counted {
    fn write_half(&self) -> Option<Rc<dyn WriteHalf>> {
        Some(Rc::clone(&self.0) as Rc<dyn WriteHalf>)
    }
}

impl WriteHalf for Shared {
    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self.poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Pending => None,
            Poll::Ready(written) => Some(written),
        }
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
