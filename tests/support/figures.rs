//! What this process takes from the system now, and a clock that all processes share.

#![allow(unsafe_code, reason = "the allocator's figures and the clock have no safe interface")]

use super::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Resident, after what the allocator kept for itself was given back.
    pub(crate) resident: usize,
    /// What was asked of the allocator and not given back.
    pub(crate) allocated: usize,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl Figures {
    pub(crate) fn now() -> Self {
        // Without the one that counts them.
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count() - 1;
        let threads = threads();
        // SAFETY: no pointer is passed; both may be called at any time.
        let allocated = unsafe {
            libc::malloc_trim(0);
            let figures = libc::mallinfo2();
            figures.uordblks + figures.hblkhd
        };
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident = pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.cast_unsigned() as usize;
        Self { resident: resident * page, allocated, descriptors, threads }
    }

    /// Once there are no more threads than `count`: one that was joined may be listed for a moment yet.
    #[track_caller]
    pub(crate) fn with_threads(count: usize) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while threads() > count {
            assert!(tokio::time::Instant::now() < deadline, "{} threads, not {count}", threads());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Self::now()
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Of the system's monotonic clock.
pub(crate) fn microseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(read, 0, "{}", std::io::Error::last_os_error());
    (now.tv_sec * 1_000_000 + now.tv_nsec / 1000).cast_unsigned()
}
