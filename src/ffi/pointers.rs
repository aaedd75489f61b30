//! Everything that is done with a pointer from outside. Other files of the ABI call these functions and nothing
//! else that takes one.
//!
//! What every function here relies on is the contract block of the header: a pointer that is not NULL points to
//! what its type says, for as long as the call lasts, and no other thread writes it meanwhile. NULL, alignment
//! and sizes are checked here.

#![allow(clippy::cast_ptr_alignment, reason = "alignment is checked before a pointer is read")]
#![allow(clippy::disallowed_methods, reason = "this is the one file that they are allowed in")]

use std::ffi::{CStr, c_char};
use std::mem::{MaybeUninit, offset_of};
use std::time::Duration;

use super::types::*;
use crate::check::{Check, limits};
use crate::decision::Decision;

/// Structs larger than this are no newer version of ours but garbage.
const MAX_STRUCT: usize = 4096;
/// A user agent is cut at its limit; what follows is looked at no further than this.
const MAX_USER_AGENT: usize = 64 * 1024;

/// A struct that begins with its size. It grows at its end: callers of each version there was may come with theirs.
pub(super) trait Growing: Copy {
    /// The size of the first published version, the least there can be.
    const FIRST: usize;
}

impl Growing for alta_auth_request {
    const FIRST: usize = offset_of!(Self, reserved) + size_of::<u32>();
}

impl Growing for alta_auth_decision {
    const FIRST: usize = offset_of!(Self, detail) + size_of::<alta_auth_str>();
}

impl Growing for alta_auth_completion {
    const FIRST: usize = offset_of!(Self, decision) + alta_auth_decision::FIRST;
}

impl Growing for alta_auth_stats {
    const FIRST: usize = offset_of!(Self, causes) + size_of::<[u64; 16]>();
}

pub(super) const REQUEST: usize = size_of::<alta_auth_request>();
pub(super) const DECISION: usize = size_of::<alta_auth_decision>();
pub(super) const COMPLETION: usize = size_of::<alta_auth_completion>();

/// Gives an object to the host.
pub(super) fn hand_out<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes back what `hand_out` gave. `None`: NULL.
pub(super) unsafe fn take_back<T>(handle: *mut T) -> Option<Box<T>> {
    // SAFETY: a handle comes from `hand_out` and is freed once.
    (!handle.is_null()).then(|| unsafe { Box::from_raw(handle) })
}

/// The object behind a handle.
pub(super) unsafe fn object<'a, T>(handle: *const T) -> Result<&'a T, i32> {
    if handle.is_null() || !handle.is_aligned() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    // SAFETY: not NULL, aligned, and by the contract an object of ours that has not been freed.
    Ok(unsafe { &*handle })
}

/// The object behind a handle that one thread uses at a time.
pub(super) unsafe fn object_mut<'a, T>(handle: *mut T) -> Result<&'a mut T, i32> {
    if handle.is_null() || !handle.is_aligned() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    // SAFETY: as `object`, and by the contract nobody else uses it during the call.
    Ok(unsafe { &mut *handle })
}

/// A NUL-terminated text.
pub(super) unsafe fn c_text<'a>(text: *const c_char) -> Result<&'a CStr, i32> {
    if text.is_null() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    // SAFETY: not NULL, and NUL-terminated by the contract.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// Why what a host passes is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A text is over its limit: that is for a client to choose, not for the host.
    TooLong,
    Status(i32),
}

impl From<i32> for Unfit {
    fn from(status: i32) -> Self {
        Self::Status(status)
    }
}

impl From<Unfit> for i32 {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::TooLong => ALTA_AUTH_ERR_INVALID,
            Unfit::Status(status) => status,
        }
    }
}

/// A text of at most `limit` bytes; the length is judged before anything is read.
pub(super) unsafe fn text<'a>(text: alta_auth_str, limit: usize) -> Result<&'a [u8], Unfit> {
    if text.ptr.is_null() && text.len != 0 {
        return Err(ALTA_AUTH_ERR_INVALID.into());
    }
    if text.len > limit {
        return Err(Unfit::TooLong);
    }
    if text.len == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, and by the contract `len` bytes; `limit` is at most isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(text.ptr.cast(), text.len) })
}

/// Writes an output, unless the host does not want it.
pub(super) unsafe fn write<T>(out: *mut T, value: T) {
    if !out.is_null() && out.is_aligned() {
        // SAFETY: not NULL, aligned, and by the contract room for one value.
        unsafe { out.write(value) };
    }
}

/// An output that is there, and what it holds.
pub(super) unsafe fn read<T: Copy>(out: *const T) -> Result<T, i32> {
    if out.is_null() || !out.is_aligned() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    // SAFETY: not NULL, aligned, and by the contract an initialised value.
    Ok(unsafe { out.read() })
}

/// The same, of one that the host may not want.
pub(super) unsafe fn read_if_wanted<T: Copy>(out: *const T) -> Result<Option<T>, i32> {
    // SAFETY: the contract of `out` is the same.
    if out.is_null() { Ok(None) } else { unsafe { read(out) }.map(Some) }
}

/// An array of plain values, which may be NULL.
pub(super) fn aligned<T>(array: *const T) -> Result<(), i32> {
    if array.is_aligned() { Ok(()) } else { Err(ALTA_AUTH_ERR_INVALID) }
}

/// The error text, NUL-terminated, cut on a character boundary.
pub(super) unsafe fn write_error(error: *mut c_char, len: usize, text: &str) {
    if error.is_null() || len == 0 {
        return;
    }
    let cut = text.floor_char_boundary(len - 1);
    // SAFETY: not NULL, and by the contract room for `len` bytes, of which `cut` + 1 are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), error.cast(), cut);
        error.add(cut).write(0);
    }
}

/// As much of a text as there is room for, NUL-terminated, like snprintf.
pub(super) unsafe fn write_text(buffer: *mut c_char, len: usize, text: &str) -> usize {
    // SAFETY: the contract of `buffer` and `len` is the same.
    unsafe { write_error(buffer, len, text) };
    text.len()
}

/// The size that a struct says it has. `at` points to its first field.
unsafe fn struct_size(at: *const u8) -> Result<usize, i32> {
    let at = at.cast::<u32>();
    if at.is_null() || !at.cast::<u64>().is_aligned() {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    // SAFETY: not NULL, aligned, and by the contract at least a struct_size.
    Ok(unsafe { at.read() } as usize)
}

/// The stride of an array of structs: its first element's size.
pub(super) unsafe fn stride<T: Growing>(array: *const T, count: usize) -> Result<usize, i32> {
    // SAFETY: the caller's array, by the contract.
    let stride = unsafe { struct_size(array.cast()) }?;
    let fits = stride.checked_mul(count).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if stride < T::FIRST || stride % 8 != 0 || !fits {
        return Err(ALTA_AUTH_ERR_INVALID);
    }
    if stride > MAX_STRUCT { Err(ALTA_AUTH_ERR_UNSUPPORTED) } else { Ok(stride) }
}

/// Element `index` of an array with this stride.
pub(super) unsafe fn element<T>(array: *const T, stride: usize, index: usize) -> *const T {
    // SAFETY: within the array, by the contract; `stride` has checked that the product fits.
    unsafe { array.byte_add(stride * index) }
}

/// Element `index` of an array of plain values that is [`aligned`]; `None` where there is no array.
pub(super) unsafe fn item<T: Copy>(array: *const T, index: usize) -> Option<T> {
    // SAFETY: within the array, by the contract, and aligned.
    (!array.is_null()).then(|| unsafe { array.add(index).read() })
}

/// Sets element `index` of an array of plain values, if there is one.
pub(super) unsafe fn set_item<T>(array: *mut T, index: usize, value: T) {
    if !array.is_null() && array.is_aligned() {
        // SAFETY: within the array, by the contract, and aligned.
        unsafe { array.add(index).write(value) };
    }
}

/// A request, as large as the host knows it. In an array it must have the array's stride.
pub(super) unsafe fn request<'a>(
    request: *const alta_auth_request,
    stride: Option<usize>,
) -> Result<Check<'a>, Unfit> {
    // SAFETY: the caller's struct, by the contract.
    let size = unsafe { struct_size(request.cast()) }?;
    if size < alta_auth_request::FIRST || stride.is_some_and(|stride| stride != size) {
        return Err(ALTA_AUTH_ERR_INVALID.into());
    }
    // SAFETY: the struct has `size` bytes, by the contract.
    let unknown = unsafe { nonzero_tail(request.cast(), REQUEST, size) };
    if size > MAX_STRUCT || unknown {
        return Err(ALTA_AUTH_ERR_UNSUPPORTED.into());
    }
    // SAFETY: aligned, and it has `size` bytes.
    let request = unsafe { read_struct(request, size) };
    if request.flags & !ALTA_AUTH_FRESH != 0 {
        return Err(ALTA_AUTH_ERR_UNSUPPORTED.into());
    }
    if request.reserved != 0 {
        return Err(ALTA_AUTH_ERR_INVALID.into());
    }
    let mut user_agent = request.user_agent;
    if user_agent.len > isize::MAX as usize {
        return Err(ALTA_AUTH_ERR_INVALID.into());
    }
    user_agent.len = user_agent.len.min(MAX_USER_AGENT);
    // SAFETY: each text is the caller's, by the contract, and is copied before the call returns.
    unsafe {
        Ok(Check {
            session_id: text(request.session_id, limits::SHORT_FIELD)?,
            ip: text(request.ip, limits::SHORT_FIELD)?,
            path: text(request.path, limits::PATH)?,
            query: text(request.query, limits::QUERY)?,
            origin: text(request.origin, limits::SHORT_FIELD)?,
            user_agent: text(user_agent, MAX_USER_AGENT)?,
            scope: text(request.scope, limits::SHORT_FIELD)?,
            timeout: (request.timeout_ms != 0).then(|| Duration::from_millis(u64::from(request.timeout_ms))),
            fresh: request.flags & ALTA_AUTH_FRESH != 0,
        })
    }
}

/// An input struct of `size` bytes; what an older caller's lacks is absent, so zero.
unsafe fn read_struct<T: Growing>(at: *const T, size: usize) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: aligned, and by the contract `size` bytes. What is `Growing` is numbers and pointers: zero is a value of theirs.
    unsafe {
        if size >= size_of::<T>() {
            return at.read();
        }
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), value.as_mut_ptr().cast(), size);
        value.assume_init()
    }
}

unsafe fn nonzero_tail(at: *const u8, known: usize, size: usize) -> bool {
    if size <= known || size > MAX_STRUCT {
        return false;
    }
    // SAFETY: the struct has `size` bytes, by the contract.
    let tail = unsafe { std::slice::from_raw_parts(at.add(known), size - known) };
    tail.iter().any(|&byte| byte != 0)
}

/// Checks that an output struct has room, before anything is done for it.
pub(super) unsafe fn room<T: Growing>(out: *const T) -> Result<usize, i32> {
    // SAFETY: the caller's struct, by the contract.
    let size = unsafe { struct_size(out.cast()) }?;
    if size < T::FIRST || size > MAX_STRUCT { Err(ALTA_AUTH_ERR_INVALID) } else { Ok(size) }
}

/// Writes what we know of an output struct of `size` bytes, as much as there is room for, and zeroes the rest. `value`
/// carries the struct_size that the host gave.
pub(super) unsafe fn write_struct<T: Growing>(out: *mut T, size: usize, value: T) {
    let known = size_of::<T>();
    // SAFETY: `room` or `stride` has checked alignment; by the contract there are `size` bytes.
    unsafe {
        if size < known {
            std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), out.cast(), size);
            return;
        }
        out.write(value);
        if size > known {
            std::ptr::write_bytes(out.cast::<u8>().add(known), 0, size - known);
        }
    }
}

fn borrowed(text: &str) -> alta_auth_str {
    alta_auth_str {
        ptr: if text.is_empty() { std::ptr::null() } else { text.as_ptr().cast() },
        len: text.len(),
    }
}

/// Text of ours, for a log.
pub(super) fn message(text: &str) -> alta_auth_str {
    borrowed(text)
}

/// A decision as C sees it: the texts belong to `decision`.
pub(super) fn view(decision: &Decision, struct_size: usize) -> alta_auth_decision {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    alta_auth_decision {
        struct_size: struct_size as u32,
        verdict: decision.verdict as i32,
        origin: decision.origin as i32,
        cause: decision.cause as i32,
        flags: flag(decision.coalesced, ALTA_AUTH_COALESCED)
            | flag(decision.unique, ALTA_AUTH_UNIQUE)
            | flag(decision.last, ALTA_AUTH_LAST),
        http_status: decision.http_status.map_or(0, u32::from),
        ttl_ms: u32::try_from(decision.ttl.as_millis()).unwrap_or(u32::MAX),
        max_sessions: decision.max_sessions,
        latency_ns: u64::try_from(decision.latency.as_nanos()).unwrap_or(u64::MAX),
        ticket: decision.ticket,
        user_id: borrowed(decision.user_id()),
        location: borrowed(decision.location()),
        detail: borrowed(decision.detail()),
    }
}

#[cfg(test)]
mod tests;
