//! Checks: submit, watch, check, lookup, cancel.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;

use super::engine::{alta_auth_engine, engine};
use super::pointers::{
    Unfit, aligned, element, item, read_if_wanted, request, room, set_item, stride, view, write, write_struct,
};
use super::types::*;
use super::{guarded, status, submit_status};
use crate::decision::Decision;
use crate::engine::{Batch, Receiver, Tag};

thread_local! {
    /// The texts of the last decision that check or lookup gave on this thread.
    static LAST: RefCell<Option<Decision>> = const { RefCell::new(None) };
}

/// Accepts a check; never blocks. On ALTA_AUTH_OK the callback is called exactly once with user_data, on a thread of the
/// library and never from inside this call, unless the check is cancelled first. *ticket (may be NULL) names the check
/// for alta_auth_cancel; it is never 0, and written before the callback can run. Otherwise nothing is retained.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_submit(
    handle: *mut alta_auth_engine,
    check: *const alta_auth_request,
    callback: alta_auth_callback,
    user_data: *mut c_void,
    ticket: *mut u64,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe { engine(handle)? };
        let receiver = handle.receiver(callback.ok_or(ALTA_AUTH_ERR_INVALID)?);
        let tag = Tag { user_data: user_data.expose_provenance(), owner: 0 };
        // SAFETY: the contract of the header.
        unsafe { submit(handle.engine.batch(1), What::Check, check, &receiver, tag, ticket) }
    })
}

/// Watches a connection that stays open (RTMP, RTSP, SRT, MPEG-TS over HTTP); never blocks. On ALTA_AUTH_OK the callback is
/// called with user_data for the first decision and then for each change of it, one call at a time, until the watch ends: by
/// alta_auth_cancel of *ticket, or by itself with a decision that has ALTA_AUTH_LAST, after which user_data is not used any
/// more. It ends by itself when its session, its user or all are revoked (at once, ALTA_AUTH_DENY), when a newer session takes
/// its place (sessions.enforce, ALTA_AUTH_DENY), and at shutdown (ALTA_AUTH_CAUSE_SHUTDOWN, with the verdict that held).
/// The backend is asked again when the time of a decision ends, or after watch.interval where it has none, at most
/// watch.max_rate times a second for all watches. A change is another verdict, user_id, location, max_sessions or
/// ALTA_AUTH_UNIQUE; changes that come while the host has not taken the one before are one. A watch is no check: it is not
/// pending, drain does not wait for it, and of alta_auth_stats' counters of checks it counts in none but refused. timeout_ms
/// does not apply. ALTA_AUTH_ERR_FULL: watch.max are open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_watch(
    handle: *mut alta_auth_engine,
    check: *const alta_auth_request,
    callback: alta_auth_callback,
    user_data: *mut c_void,
    ticket: *mut u64,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe { engine(handle)? };
        let receiver = handle.receiver(callback.ok_or(ALTA_AUTH_ERR_INVALID)?);
        let tag = Tag { user_data: user_data.expose_provenance(), owner: 0 };
        // SAFETY: the contract of the header.
        unsafe { submit(handle.engine.batch(0), What::Watch, check, &receiver, tag, ticket) }
    })
}

/// What is handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Check,
    Watch,
}

pub(super) unsafe fn submit(
    mut batch: Batch<'_>,
    what: What,
    check: *const alta_auth_request,
    receiver: &Arc<dyn Receiver>,
    tag: Tag,
    ticket: *mut u64,
) -> Result<(), i32> {
    // SAFETY: the contract of the header.
    let check = unsafe { request(check, None) }.map_err(|why| pass_over(&mut batch, why))?;
    // SAFETY: the contract of the header.
    let before = unsafe { read_if_wanted(ticket.cast_const())? };
    // SAFETY: the contract of the header.
    let announce = |number| unsafe { write(ticket, number) };
    let submitted = match what {
        What::Check => batch.submit(&check, receiver, tag, announce),
        What::Watch => batch.watch(&check, receiver, tag, announce),
    };
    submitted.map(drop).map_err(|error| {
        // An output is written on success only; this one had to be written first.
        if let Some(before) = before {
            // SAFETY: the contract of the header.
            unsafe { write(ticket, before) };
        }
        submit_status(error)
    })
}

/// What is not taken is counted where a client can have caused it.
fn pass_over(batch: &mut Batch<'_>, why: Unfit) -> i32 {
    match why {
        Unfit::TooLong => batch.too_long(),
        Unfit::Status(_) => batch.passed_over(),
    }
    why.into()
}

/// Accepts many checks, with one wake-up. Returns how many were accepted; statuses (may be NULL) says which were not, and
/// why. The stride is the first element's struct_size, which all must have; one bad item does not spoil the others.
/// user_data may be NULL: then all are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_submit_batch(
    handle: *mut alta_auth_engine,
    requests: *const alta_auth_request,
    count: usize,
    callback: alta_auth_callback,
    user_data: *const *mut c_void,
    statuses: *mut i32,
) -> usize {
    guarded(0, || {
        // SAFETY: the contract of the header.
        let ready = unsafe { engine(handle) }.and_then(|handle| {
            let callback = callback.ok_or(ALTA_AUTH_ERR_INVALID)?;
            Ok((handle.engine.batch(count), handle.receiver(callback)))
        });
        // SAFETY: the contract of the header.
        unsafe { submit_all(ready, 0, requests, count, user_data, statuses) }
    })
}

pub(super) unsafe fn submit_all(
    ready: Result<(Batch<'_>, Arc<dyn Receiver>), i32>,
    owner: u64,
    requests: *const alta_auth_request,
    count: usize,
    user_data: *const *mut c_void,
    statuses: *mut i32,
) -> usize {
    if count == 0 {
        return 0;
    }
    let ready = ready.and_then(|ready| {
        aligned(user_data).and(aligned(statuses.cast_const()))?;
        // SAFETY: the contract of the header.
        Ok((ready, unsafe { stride(requests, count)? }))
    });
    let ((mut batch, receiver), stride) = match ready {
        Ok(ready) => ready,
        Err(status) => {
            // A count that no array can have is no bound to write to.
            if count <= isize::MAX as usize / size_of::<alta_auth_request>() {
                // SAFETY: the contract of the header.
                (0..count).for_each(|index| unsafe { set_item(statuses, index, status) });
            }
            return 0;
        }
    };
    let mut accepted = 0;
    for index in 0..count {
        // SAFETY: the contract of the header.
        let submitted = unsafe {
            let user_data = item(user_data, index).unwrap_or(std::ptr::null_mut());
            match request(element(requests, stride, index), Some(stride)) {
                Ok(check) => {
                    let tag = Tag { user_data: user_data.expose_provenance(), owner };
                    batch.submit(&check, &receiver, tag, |_| ()).map_err(submit_status)
                }
                Err(why) => Err(pass_over(&mut batch, why)),
            }
        };
        accepted += usize::from(submitted.is_ok());
        // SAFETY: the contract of the header.
        unsafe { set_item(statuses, index, submitted.err().unwrap_or(ALTA_AUTH_OK)) };
    }
    accepted
}

/// Asks and waits: blocks the calling thread until there is a decision, at most timeout. ALTA_AUTH_OK whenever there is
/// one, a default action included. Its texts are valid until the next check or lookup on the same thread.
/// ALTA_AUTH_ERR_THREAD from inside a callback of the same engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_check(
    handle: *mut alta_auth_engine,
    check: *const alta_auth_request,
    out: *mut alta_auth_decision,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let (handle, size, check) =
            unsafe { (engine(handle)?, room(out.cast_const())?, request(check, None)) };
        let check = check.map_err(|why| pass_over(&mut handle.engine.batch(1), why))?;
        if handle.engine.is_calling() {
            return Err(ALTA_AUTH_ERR_THREAD);
        }
        has_place()?;
        let decision = handle.engine.check_blocking(&check).map_err(submit_status)?;
        // SAFETY: the contract of the header.
        unsafe { give(decision, out, size) };
        Ok(())
    })
}

/// What is remembered and has not expired; never blocks and asks nobody. ALTA_AUTH_ERR_NOT_FOUND: nothing. Its texts are
/// valid until the next check or lookup on the same thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_lookup(
    handle: *mut alta_auth_engine,
    check: *const alta_auth_request,
    out: *mut alta_auth_decision,
) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let (handle, size, check) =
            unsafe { (engine(handle)?, room(out.cast_const())?, request(check, None)?) };
        has_place()?;
        let remembered = handle.engine.lookup(&check).map_err(submit_status)?;
        // SAFETY: the contract of the header.
        unsafe { give(remembered.ok_or(ALTA_AUTH_ERR_NOT_FOUND)?, out, size) };
        Ok(())
    })
}

/// Not in a thread that has ended so far that it has no variables of its own any more.
fn has_place() -> Result<(), i32> {
    LAST.try_with(|_| ()).map_err(|_| ALTA_AUTH_ERR_THREAD)
}

/// Its texts live until the next one is given on this thread.
unsafe fn give(decision: Decision, out: *mut alta_auth_decision, size: usize) {
    LAST.with_borrow_mut(|last| {
        let decision = last.insert(decision);
        // SAFETY: the contract of the header.
        unsafe { write_struct(out, size, view(decision, size)) };
    });
}

/// Takes a check back; never waits. ALTA_AUTH_OK: it will never be delivered and its user_data never used again, even if
/// its completion was in a queue already. ALTA_AUTH_ERR_NOT_FOUND: it was delivered, is being delivered or is about to
/// be; only the receiver may free user_data.
/// Of a watch: ALTA_AUTH_OK: nothing more is delivered, also from inside its own callback. ALTA_AUTH_ERR_NOT_FOUND: it has
/// ended, or another thread is just inside its callback; then it ends all the same, and one more decision follows, with
/// ALTA_AUTH_LAST, for the receiver to free user_data in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn alta_auth_cancel(handle: *mut alta_auth_engine, ticket: u64) -> i32 {
    status(|| {
        // SAFETY: the contract of the header.
        let handle = unsafe { engine(handle)? };
        if handle.engine.cancel(ticket) { Ok(()) } else { Err(ALTA_AUTH_ERR_NOT_FOUND) }
    })
}
