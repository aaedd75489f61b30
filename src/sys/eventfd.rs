//! A descriptor that a host can poll: readable from [`EventFd::signal`] to [`EventFd::clear`]. Linux, eventfd(2).

#![allow(unsafe_code, reason = "eventfd has no safe interface")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

pub(crate) struct EventFd(File);

impl EventFd {
    /// Close-on-exec and non-blocking.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked before it is used.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just opened, and that nothing else owns.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Never blocks. It can only fail when the counter is about to overflow, and then it is readable anyway.
    pub(crate) fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Never blocks. It fails when there was nothing to clear.
    pub(crate) fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}
