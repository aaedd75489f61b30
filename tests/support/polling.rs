//! The two ways in which a host watches a descriptor: level-triggered with poll, edge-triggered with epoll.

#![allow(unsafe_code, reason = "poll and epoll have no safe interface in std")]

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use super::PATIENCE;

pub(crate) fn is_readable(fd: RawFd) -> bool {
    poll(fd, Duration::ZERO)
}

/// Whether it becomes so in this time.
pub(crate) fn readable_within(fd: RawFd, time: Duration) -> bool {
    poll(fd, time)
}

#[track_caller]
pub(crate) fn wait_readable(fd: RawFd) {
    assert!(poll(fd, PATIENCE), "never readable");
}

fn poll(fd: RawFd, timeout: Duration) -> bool {
    let mut watched = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, and its number.
    let ready = unsafe { libc::poll(&raw mut watched, 1, timeout.as_millis() as libc::c_int) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    assert_eq!(watched.revents & !libc::POLLIN, 0, "an error on the descriptor");
    ready == 1
}

/// Tells when a descriptor becomes readable, not while it is.
pub(crate) struct Edges(OwnedFd);

impl Edges {
    pub(crate) fn of(fd: RawFd) -> Self {
        // SAFETY: no pointer is passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(epoll >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(), u64: 0 };
        // SAFETY: both descriptors are open, and `event` is valid for reading.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0, "{}", std::io::Error::last_os_error());
        Self(epoll)
    }

    /// Whether there was one since the last look.
    pub(crate) fn any(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    #[track_caller]
    pub(crate) fn wait_one(&self) {
        assert!(self.wait(PATIENCE), "no edge");
    }

    fn wait(&self, timeout: Duration) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let timeout = timeout.as_millis() as libc::c_int;
        // SAFETY: room for one event.
        let events = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, timeout) };
        assert!(events >= 0, "{}", std::io::Error::last_os_error());
        events == 1
    }
}
