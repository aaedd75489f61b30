//! Telling a forked child from its parent without a system call.
//!
//! One page of memory, marked to be wiped in children (madvise(2), `MADV_WIPEONFORK`, Linux 4.14): it reads 1 in
//! the process that made it and 0 in any child.

#![allow(unsafe_code, reason = "mmap and madvise have no safe interface")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

const PAGE: usize = 4096;

pub(crate) struct ForkMark(NonNull<AtomicU8>);

// SAFETY: the page is shared memory of this process, accessed through an atomic only.
unsafe impl Send for ForkMark {}
// SAFETY: as above.
unsafe impl Sync for ForkMark {}

impl ForkMark {
    pub(crate) fn new() -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping of a new page; the result is checked before it is used.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(page) = NonNull::new(page.cast::<AtomicU8>()) else {
            return Err(io::Error::other("the system mapped a page at address 0"));
        };
        let mark = Self(page);
        // SAFETY: the page that was just mapped, whole.
        if unsafe { libc::madvise(page.as_ptr().cast(), PAGE, libc::MADV_WIPEONFORK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        mark.byte().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    /// Whether this process is the one that made the mark.
    pub(crate) fn is_here(&self) -> bool {
        self.byte().load(Ordering::Relaxed) == 1
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: mapped, aligned and zeroed by the system; lives as long as `self`.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: the page of `new`; nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
