//! One HTTP/1.1 connection as the pool keeps it, whichever lane speaks on it; and what the end of one means for the
//! exchange that was on it.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::task::{spawn_local, yield_now};
use tokio::time::Instant;

use super::dial::{Io, Link, Look};
use super::{Broken, Failure, Progress, h1, wire};
use crate::decision::Cause;

pub(super) struct Conn {
    pub(super) speech: Speech,
    /// When it is too old to be used again: the pool says.
    pub(super) retires_at: Instant,
    /// Requests handed to it.
    pub(super) uses: u64,
    /// It has lain in the pool: its peer may have closed it meanwhile, used or not.
    pub(super) rested: bool,
    pub(super) address: Option<IpAddr>,
    peer: String,
    tls: Option<String>,
}

/// What speaks on it.
pub(super) enum Speech {
    Hyper(h1::Speaker),
    Wire(wire::Stream),
}

impl Conn {
    /// `link` without what the lane took of it.
    pub(super) fn new(
        speech: Speech,
        address: Option<IpAddr>,
        peer: String,
        tls: Option<String>,
        max_age: Duration,
    ) -> Box<Self> {
        let retires_at = Instant::now() + max_age;
        Box::new(Self { speech, retires_at, uses: 0, rested: false, address, peer, tls })
    }

    /// Its end at no byte says nothing about what is asked now: the request may be made again.
    pub(super) fn is_old(&self) -> bool {
        self.uses > 0 || self.rested
    }

    pub(super) fn is_wire(&self) -> bool {
        matches!(self.speech, Speech::Wire(_))
    }

    /// Takes a request now, as far as can be known without reading.
    pub(super) fn is_alive(&self) -> bool {
        match &self.speech {
            Speech::Hyper(speaker) => speaker.is_alive(self.uses == 0),
            Speech::Wire(_) => true,
        }
    }

    /// What waits on the socket.
    #[cfg(test)]
    pub(super) fn look(&self) -> Look {
        match &self.speech {
            Speech::Hyper(speaker) => speaker.wire.look(),
            Speech::Wire(stream) => stream.io.look(),
        }
    }

    /// What waits to be read on a connection that should be silent. `asked_later`: what is sent on it is sent after a look at
    /// all of them (`wire/send_queue.rs`), so that this needs no system call. `Unknown`: when this thread's reactor has run,
    /// another glance can tell, if it is more than a session ticket of TLS.
    pub(super) fn glance(&mut self, asked_later: bool) -> Look {
        match &mut self.speech {
            Speech::Hyper(speaker) => speaker.wire.look(),
            // First what is in this process already: records of TLS that came together with the reply.
            Speech::Wire(stream) => match probe(&mut *stream.io) {
                Look::Nothing if asked_later && self.tls.is_none() => Look::Nothing,
                Look::Nothing => stream.io.look(),
                known => known,
            },
        }
    }

    /// While nobody uses it: false, the connection is of no more use; otherwise `cx` is woken when that may be so.
    pub(super) fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.speech {
            // hyper's own task listens.
            Speech::Hyper(_) => true,
            Speech::Wire(stream) => {
                let mut byte = [0];
                Pin::new(&mut *stream.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }

    /// The exchange is over; what comes now is nobody's.
    pub(super) fn disarm(&self) {
        if let Speech::Hyper(speaker) = &self.speech {
            speaker.wire.disarm();
        }
    }

    /// Closes the socket and gives up the place, now.
    #[expect(clippy::boxed_local, reason = "it is kept in a box, and not worth a copy to be dropped")]
    pub(super) fn hang_up(self: Box<Self>) {
        if let Speech::Hyper(speaker) = &self.speech {
            speaker.wire.hang_up();
        }
    }

    /// Writes down who is asked, if that is to be shown.
    pub(super) fn describe(&self, progress: &Progress) {
        if let Some(trace) = &progress.trace {
            let reused = self.uses > 0;
            Link::describe(&self.peer, self.tls.as_deref(), false, reused, &mut trace.borrow_mut());
        }
    }
}

/// Reads a byte if one is there: nobody asked for it.
pub(super) fn probe(io: &mut dyn Io) -> Look {
    let mut byte = [0];
    let mut buf = ReadBuf::new(&mut byte);
    match io.read_now(&mut buf) {
        None => Look::Nothing,
        Some(Ok(())) if !buf.filled().is_empty() => Look::Surplus,
        Some(_) => Look::Closed,
    }
}

/// What the tap, or the wire lane itself, found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The reply …
    Rule(&'static str),
    /// Bytes that belong to no request.
    Surplus,
    /// TLS failed after the handshake (a certificate refused late, a broken record).
    Tls(String),
}

impl Fault {
    /// Who has not seen the whole question allows nothing. Its refusal stands all the same: that needs the status line only,
    /// and a client whose long request is refused early (414, 431) must not make an outage of it.
    pub(super) const EARLY: Self = Self::Rule("came before its request was sent");

    /// A read that failed inside TLS.
    pub(super) fn of_tls(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        Some(Self::Tls(super::tls::explain(error)))
    }
}

/// When the runtime has heard what the system has to tell: not sooner, however often who waits is polled before that, as a plain
/// `yield_now` would be.
pub(super) async fn system_heard() {
    let _ = spawn_local(yield_now()).await;
}

/// How an exchange ended without a reply.
pub(super) struct Ending {
    pub(super) fault: Option<Fault>,
    /// The connection had carried another exchange before, or had lain in the pool.
    pub(super) reused: bool,
    /// Something of the request was handed to the system.
    pub(super) written: bool,
    /// Something of the reply has come.
    pub(super) received: bool,
    pub(super) write_error: Option<String>,
    /// The header section was complete, and this is what was wrong all the same.
    pub(super) malformed: Option<String>,
}

impl Ending {
    /// What that means for the exchange with `label`.
    pub(super) fn explain(self, label: &str) -> Broken {
        match self.fault {
            Some(Fault::Rule(rule)) => {
                return Failure::new(Cause::Protocol, format!("the reply of {label} {rule}")).into();
            }
            Some(Fault::Tls(why)) => {
                return Failure::new(Cause::Tls, format!("TLS with {label} failed: {why}")).into();
            }
            // On a used connection they were the end of something older; another connection will do.
            Some(Fault::Surplus) if !self.reused => {
                return Failure::new(Cause::Protocol, format!("{label} sent bytes before it was asked"))
                    .into();
            }
            Some(Fault::Surplus) | None => {}
        }
        if self.reused && !self.written {
            return Broken::Unsent;
        }
        if !self.received {
            let detail = match self.write_error {
                Some(why) => format!("{label} closed while the request was being written ({why})"),
                None => format!("{label} closed before the first byte of an answer"),
            };
            let mut failure = Failure::new(Cause::Reset, detail);
            failure.retry_is_safe = self.reused;
            return failure.into();
        }
        let detail = match self.malformed {
            None => format!("{label} closed within the header section of its reply"),
            Some(why) => format!("the reply of {label} is malformed: {why}"),
        };
        Failure::new(Cause::Protocol, detail).into()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use tokio::net::UnixStream;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn the_system_is_heard_however_often_who_waits_is_polled_before() {
        LocalSet::new()
            .run_until(async {
                let (here, there) = UnixStream::pair().unwrap();
                // The runtime has heard that there is nothing.
                assert!(here.try_read(&mut [0]).is_err());
                there.writable().await.unwrap();
                assert_eq!(there.try_write(b"a").unwrap(), 1);
                let mut heard = pin!(system_heard());
                poll_fn(|cx| {
                    for _ in 0..3 {
                        assert!(heard.as_mut().poll(cx).is_pending());
                    }
                    Poll::Ready(())
                })
                .await;
                assert!(here.try_read(&mut [0]).is_err(), "nobody has told the runtime yet");
                heard.await;
                assert_eq!(here.try_read(&mut [0]).unwrap(), 1);
            })
            .await;
    }
}
