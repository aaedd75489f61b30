//! A TLS connection on which what came whole is read before what comes broken.
//!
//! Several records may be read at once. If a later one is broken, tokio-rustls reports it and leaves what the earlier ones
//! held unread: a refusal that arrived whole would be an outage. Here it is read first, and the error reported then.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::dial::{Io, Look};
use super::reactor::peek;

pub(super) struct Records {
    stream: TlsStream<TcpStream>,
    /// To be reported when everything before it was read.
    broken: Option<io::Error>,
}

impl Records {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, broken: None }
    }

    /// Data of whole records that was not read yet.
    fn read_rest(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let mut reader = self.stream.get_mut().1.reader();
        let count = reader.read(buf.initialize_unfilled()).unwrap_or(0);
        buf.advance(count);
        count
    }
}

impl AsyncRead for Records {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let error = match self.broken.take() {
            Some(error) => error,
            None => match Pin::new(&mut self.stream).poll_read(cx, buf) {
                Poll::Ready(Err(error)) => error,
                other => return other,
            },
        };
        if self.read_rest(buf) == 0 {
            return Poll::Ready(Err(error));
        }
        self.broken = Some(error);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Io for Records {
    fn look(&self) -> Look {
        match peek(&SockRef::from(self.stream.get_ref().0)) {
            // A record: a session ticket, an alert, or data.
            Look::Surplus => Look::Unknown,
            other => other,
        }
    }
}
