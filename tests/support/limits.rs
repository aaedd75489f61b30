//! What the system grants this process, made less for a while. For a process of its own ([`super::Rerun`]).

#![allow(unsafe_code, reason = "limits and users have no safe interface in std")]

use std::io::Error;

/// Until it is dropped.
pub(crate) struct Limit {
    resource: libc::__rlimit_resource_t,
    before: libc::rlimit,
}

impl Limit {
    /// So many threads more than there are. Nobody else may run as this user: see [`become_nobody`].
    pub(crate) fn threads(more: usize) -> Self {
        let now = std::fs::read_dir("/proc/self/task").unwrap().count();
        Self::set(libc::RLIMIT_NPROC, (now + more) as u64)
    }

    /// So many bytes of address space more than are in use.
    pub(crate) fn memory(more: usize) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let kilobytes: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        Self::set(libc::RLIMIT_AS, kilobytes * 1024 + more as u64)
    }

    fn set(resource: libc::__rlimit_resource_t, most: u64) -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `before` is valid for writing.
        let got = unsafe { libc::getrlimit(resource, &raw mut before) };
        assert_eq!(got, 0, "{}", Error::last_os_error());
        // The hard limit stays, or it could not be taken back.
        let less = libc::rlimit { rlim_cur: most.min(before.rlim_max), ..before };
        // SAFETY: `less` is valid for reading.
        let set = unsafe { libc::setrlimit(resource, &raw const less) };
        assert_eq!(set, 0, "{}", Error::last_os_error());
        Self { resource, before }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // SAFETY: `before` is valid for reading.
        unsafe { libc::setrlimit(self.resource, &raw const self.before) };
    }
}

/// Root is granted any number of threads, and what others run counts for their user: this process becomes that of a user
/// who runs nothing else. False: nobody but root may, and we are not root.
pub(crate) fn become_nobody() -> bool {
    let user = 61_000 + std::process::id() % 4_000;
    // SAFETY: no pointers; the C library does it for all threads.
    let became = unsafe { libc::setresuid(user, user, user) } == 0;
    if became {
        // Or /proc/self would be root's.
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    }
    became
}
