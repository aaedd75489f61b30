//! The body of a reply, and with it the hold on its connection.
//!
//! Verdicts rarely need a body, but a connection whose body was not read to the end cannot be used again. A body
//! that is already there, empty chunked ones above all, is finished on the spot: the next exchange on this
//! thread finds the connection idle.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::h1::speaker;
use super::h2::Seat;
use super::pool::Lease;
use super::wire;

/// Bounds of what is read only to use the connection again: a backend that sends its body drop by drop must not
/// hold a place in the pool.
pub(super) const DRAIN_BYTES: usize = 64 * 1024;
pub(super) const DRAIN_TIME: Duration = Duration::from_millis(100);

/// Dropped without a word: an HTTP/1.1 connection is closed, an HTTP/2 stream reset; on a connection that others share
/// the rest is read and thrown away.
pub(crate) enum Body {
    Hyper(Streamed),
    Wire(wire::Rest),
    Piped(wire::pipe::Tail),
}

/// A body that hyper reads.
pub(crate) struct Streamed {
    incoming: Incoming,
    hold: Hold,
}

enum Hold {
    H1(Lease),
    H2 { _seat: Seat },
}

/// Why a body that was needed is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Over the limit.
    TooLong,
    /// The connection ended, or broke the framing, before the body's end.
    Cut,
}

impl Body {
    pub(super) fn http1(incoming: Incoming, lease: Lease) -> Self {
        Self::Hyper(Streamed { incoming, hold: Hold::H1(lease) })
    }

    pub(super) fn http2(incoming: Incoming, seat: Seat) -> Self {
        Self::Hyper(Streamed { incoming, hold: Hold::H2 { _seat: seat } })
    }

    /// The complete body, for a verdict. The connection goes back to the pool.
    pub(crate) async fn collect(self, limit: usize) -> Result<Bytes, BodyError> {
        match self {
            Self::Hyper(body) => body.collect(limit).await,
            Self::Wire(rest) => rest.collect(limit).await,
            Self::Piped(tail) => tail.collect(limit).await,
        }
    }

    /// Nobody needs the body: drained in the background (64 KiB, 100 ms), so that the connection can be used again.
    pub(crate) fn discard(self) {
        match self {
            Self::Hyper(body) => body.discard(),
            Self::Wire(rest) => rest.discard(),
            Self::Piped(tail) => tail.discard(),
        }
    }

    /// The reply broke a rule: the connection is closed.
    pub(crate) fn close(self) {
        if let Self::Piped(tail) = self {
            tail.close();
        }
    }
}

impl Streamed {
    async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut whole = BytesMut::new();
        while let Some(frame) = self.incoming.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Cut)?.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(BodyError::TooLong);
            }
            whole.extend_from_slice(&data);
        }
        self.hold.settle();
        Ok(whole.freeze())
    }

    fn discard(mut self) {
        let mut left = DRAIN_BYTES;
        loop {
            match self.drain_one(&mut Context::from_waker(Waker::noop()), &mut left) {
                Poll::Ready(Drained::More) => {}
                Poll::Ready(Drained::End) => return self.hold.settle(),
                Poll::Ready(Drained::Never) => return,
                Poll::Pending => break,
            }
        }
        spawn_local(async move {
            let drained = timeout(
                DRAIN_TIME,
                std::future::poll_fn(|cx| {
                    loop {
                        match self.drain_one(cx, &mut left) {
                            Poll::Ready(Drained::More) => {}
                            Poll::Ready(Drained::End) => return Poll::Ready(true),
                            Poll::Ready(Drained::Never) => return Poll::Ready(false),
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                }),
            );
            if drained.await == Ok(true) {
                self.hold.settle();
            }
        });
    }

    fn drain_one(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<Drained> {
        Pin::new(&mut self.incoming).poll_frame(cx).map(|frame| match frame {
            None => Drained::End,
            Some(Err(_)) => Drained::Never,
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(size) {
                    Some(rest) => {
                        *left = rest;
                        Drained::More
                    }
                    None => Drained::Never,
                }
            }
        })
    }
}

enum Drained {
    More,
    End,
    /// It broke, or is too long.
    Never,
}

impl Hold {
    /// The body has been read to its end.
    fn settle(self) {
        let Self::H1(mut lease) = self else { return };
        let sender = &mut speaker(lease.conn_mut()).sender;
        if sender.is_ready() {
            lease.give_back();
        } else if !sender.is_closed() {
            // hyper has not yet come to the end itself.
            spawn_local(async move {
                if matches!(timeout(DRAIN_TIME, speaker(lease.conn_mut()).sender.ready()).await, Ok(Ok(()))) {
                    lease.give_back();
                }
            });
        }
    }
}
