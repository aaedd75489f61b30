use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An epoll that the runtime's own waits for: it is readable when one of its descriptors is ready.
#[expect(unsafe_code, reason = "the runtime has no other way to wait for what is no socket of its own")]
pub(crate) fn within_runtime(epoll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    // SAFETY: a `mio::Poll` has one descriptor for its life and closes it when it is dropped, which the `AsyncFd` does; nobody
    // puts another one in its place.
    Ok(unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?)
}
