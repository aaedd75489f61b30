//! Threads that leave a host alone: no signal reaches them, and their panics print nothing.

#![allow(unsafe_code, reason = "the signal mask has no safe interface")]

use std::cell::Cell;
use std::io;
use std::mem::{self, MaybeUninit};
use std::panic;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::room::room_for;

/// What std gives a thread, too.
const STACK: usize = 2 * 1024 * 1024;

/// Starts a thread in which every signal is blocked from its first instruction on: the mask is inherited, so
/// the calling thread blocks them too until the other one exists. The host's handlers keep running on the
/// host's threads, and a write to a closed connection never raises SIGPIPE here. An error names the thread.
pub(crate) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Spawned> {
    let _blocked = Blocked::all();
    // No channel: std's and crossbeam's wait as the thread that std knows, and a thread that is ending is none.
    let begun = Arc::new((Mutex::new(None), Condvar::new()));
    let begin = || {
        // A stack is refused with an error; for want of what comes after it, the new thread would end the process.
        room_for(STACK)?;
        let tell = Arc::clone(&begun);
        let handle = Builder::new().name(name.clone()).stack_size(STACK).spawn(move || {
            *tell.0.lock() = Some(ThreadId::here());
            tell.1.notify_one();
            drop(tell);
            let _inside = Inside::enter();
            work();
        })?;
        // Until it has what it begins with, nobody else asks whether there is room.
        let mut id = begun.0.lock();
        loop {
            match *id {
                Some(id) => return Ok(Spawned { id, handle }),
                None => begun.1.wait(&mut id),
            }
        }
    };
    begin().map_err(|error: io::Error| {
        let limits = if error.kind() == io::ErrorKind::WouldBlock {
            "; ulimit -u and pids.max limit them"
        } else {
            ""
        };
        io::Error::new(error.kind(), format!("the thread {name}: {error}{limits}"))
    })
}

/// A thread that was started.
pub(crate) struct Spawned {
    id: ThreadId,
    handle: JoinHandle<()>,
}

impl Spawned {
    /// Waits for its end, unless it is the calling thread, which would wait for itself.
    pub(crate) fn join(self) {
        if self.id != ThreadId::here() {
            let _ = self.handle.join();
        }
    }
}

/// Tells living threads apart. std's own has to be allocated, and is gone in the last destructors of a thread that is ending:
/// where it is asked for there, it panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(usize);

impl ThreadId {
    pub(crate) fn here() -> Self {
        Self(INSIDE.with(|inside| std::ptr::from_ref(inside).addr()))
    }
}

thread_local! {
    /// Without a destructor: it is there as long as the thread, and its address is the thread's alone.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, the calling thread runs code of the library, or of the host.
pub(crate) struct Inside {
    before: bool,
}

impl Inside {
    pub(crate) fn enter() -> Self {
        Self { before: INSIDE.replace(true) }
    }

    /// Of the host, called by the library: a panic is the host's own, and no defect.
    pub(crate) fn leave() -> Self {
        Self { before: INSIDE.replace(false) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// Where panics inside the library were begun since [`own_panics`] was asked: file and line.
static OWN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SOME: AtomicBool = AtomicBool::new(false);
/// As many are kept.
const KEPT: usize = 16;

/// Keeps a panic inside the library from printing: its message may quote a client's bytes, and nothing may be
/// written to a host's standard error. Where it was is kept for a log. Panics elsewhere go to the hook that was there before.
pub(crate) fn silence_own_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                return others(info);
            }
            if let Some(at) = info.location()
                && let mut own = OWN.lock()
                && own.len() < KEPT
            {
                own.push(format!("{}:{}", at.file(), at.line()));
                SOME.store(true, Ordering::Release);
            }
        }));
    });
}

/// Takes where they were, whichever thread and engine it was.
pub(crate) fn own_panics() -> Vec<String> {
    if !SOME.load(Ordering::Relaxed) || !SOME.swap(false, Ordering::Acquire) {
        return Vec::new();
    }
    mem::take(&mut OWN.lock())
}

/// Every signal is blocked on this thread until this is dropped.
struct Blocked {
    before: libc::sigset_t,
}

impl Blocked {
    fn all() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set it is given, and cannot fail on a valid pointer.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was initialised above; `before` is valid for writing one set, and pthread_sigmask,
        // which fails only for an unknown first argument, initialises it.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: initialised by the call above.
        Self { before: unsafe { before.assume_init() } }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask this thread had; the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
