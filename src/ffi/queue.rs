//! Queues: decisions that the host fetches on its own thread.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::sync::Arc;

use parking_lot::Mutex;

use super::engine::{alta_auth_engine, engine};
use super::pointers::{
    COMPLETION, element, hand_out, object, read, stride, take_back, view, write, write_struct,
};
use super::submit::{What, submit, submit_all};
use super::types::*;
use super::{guarded, status};
use crate::decision::Texts;
use crate::engine::{Batch, Queue, Receiver, Tag};

/// A queue of decisions of one engine. The intended use is one for each thread of the host.
pub struct alta_auth_queue {
    queue: Queue,
    /// The texts of what was reaped last.
    texts: Mutex<Vec<Option<Texts>>>,
}

unsafe fn queue<'a>(handle: *const alta_auth_queue) -> Result<&'a alta_auth_queue, i32> {
    // SAFETY: the contract of the header.
    let handle = unsafe { object(handle)? };
    if handle.queue.is_forked() { Err(ALTA_AUTH_ERR_FORKED) } else { Ok(handle) }
}

/// A new queue. It may be freed before or after its engine; without its engine it reaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_new(
    handle: *mut alta_auth_engine,
    out: *mut *mut alta_auth_queue,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe {
            read(out.cast_const())?;
            engine(handle)?
        };
        let queue = handle.engine.queue().map_err(|_| ALTA_AUTH_ERR_SYSTEM)?;
        // SAFETY: the contract of the header.
        unsafe { write(out, hand_out(alta_auth_queue { queue, texts: Mutex::default() })) };
        Ok(())
    })
}

/// The descriptor to poll: readable while completions wait, with level- and with edge-triggered polling. It can be
/// readable with nothing to reap. Only the library reads, writes and closes it. -1 for NULL and in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_fd(handle: *const alta_auth_queue) -> c_int {
    // SAFETY: the contract of the header.
    guarded(-1, || unsafe { queue(handle) }.map_or(-1, |handle| handle.queue.fd()))
}

/// As alta_auth_submit; the decision comes out of alta_auth_queue_reap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_submit(
    handle: *mut alta_auth_queue,
    check: *const alta_auth_request,
    user_data: *mut c_void,
    ticket: *mut u64,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe { queue(handle)? };
        let (receiver, owner) = handle.queue.receiver();
        let tag = Tag { user_data: user_data.expose_provenance(), owner };
        // SAFETY: the contract of the header.
        unsafe { submit(handle.queue.batch(1), What::Check, check, &receiver, tag, ticket) }
    })
}

/// As alta_auth_watch; the decisions come out of alta_auth_queue_reap, at most one at a time in the queue for each watch.
/// alta_auth_cancel is ALTA_AUTH_ERR_NOT_FOUND only for a watch that has ended, or that another thread is just reaping.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_watch(
    handle: *mut alta_auth_queue,
    check: *const alta_auth_request,
    user_data: *mut c_void,
    ticket: *mut u64,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe { queue(handle)? };
        let (receiver, owner) = handle.queue.receiver();
        let tag = Tag { user_data: user_data.expose_provenance(), owner };
        // SAFETY: the contract of the header.
        unsafe { submit(handle.queue.batch(0), What::Watch, check, &receiver, tag, ticket) }
    })
}

/// As alta_auth_submit_batch; the decisions come out of alta_auth_queue_reap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_submit_batch(
    handle: *mut alta_auth_queue,
    requests: *const alta_auth_request,
    count: usize,
    user_data: *const *mut c_void,
    statuses: *mut i32,
) -> usize {
    guarded(0, || {
        let mut owner = 0;
        // SAFETY: the contract of the header.
        let ready: Result<(Batch<'_>, Arc<dyn Receiver>), i32> = unsafe { queue(handle) }.map(|handle| {
            let (receiver, number) = handle.queue.receiver();
            owner = number;
            (handle.queue.batch(count), receiver)
        });
        // SAFETY: the contract of the header.
        unsafe { submit_all(ready, owner, requests, count, user_data, statuses) }
    })
}

/// Takes up to max completions, oldest first; never blocks. The caller sets the first element's struct_size, the stride.
/// Texts are valid until the next reap on this queue. Returns how many; 0 for NULL, a bad struct_size, an engine that
/// was freed, and in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_reap(
    handle: *mut alta_auth_queue,
    out: *mut alta_auth_completion,
    max: usize,
) -> usize {
    guarded(0, || {
        // SAFETY: the contract of the header.
        let ready = unsafe { queue(handle).and_then(|handle| Ok((handle, stride(out.cast_const(), max)?))) };
        let Ok((handle, stride)) = ready else { return 0 };
        if max == 0 {
            return 0;
        }
        let mut texts = handle.texts.lock();
        texts.clear();
        let mut index = 0;
        handle.queue.fetch(max, |user_data, decision| {
            let completion = alta_auth_completion {
                struct_size: stride as u32,
                reserved: 0,
                user_data: std::ptr::with_exposed_provenance_mut(user_data),
                decision: view(&decision, stride - offset_of!(alta_auth_completion, decision)),
            };
            // SAFETY: `index` stays below `max`; the contract of the header.
            unsafe { write_struct(element(out.cast_const(), stride, index).cast_mut(), stride, completion) };
            // The view's texts are behind this, or static.
            texts.push(decision.texts);
            index += 1;
        })
    })
}

const _: () = assert!(COMPLETION == size_of::<alta_auth_completion>());

/// Cancels what is pending in the queue and its watches, drops what was not reaped (counted as cancelled), and frees. In a
/// forked child it does nothing, and closes no descriptor. NULL is accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_queue_free(handle: *mut alta_auth_queue) {
    guarded((), || {
        // SAFETY: the contract of the header.
        let Ok(known) = (unsafe { object(handle.cast_const()) }) else { return };
        if known.queue.is_forked() {
            // As alta_auth_engine_free.
            return;
        }
        // SAFETY: the contract of the header.
        drop(unsafe { take_back(handle) });
    });
}
