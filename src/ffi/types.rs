//! Numbers and structs. Numbers never change their meaning; structs only grow at the end.

use std::ffi::{c_char, c_void};

/// Done, or accepted.
pub const ALTA_AUTH_OK: i32 = 0;
/// Bad argument: NULL, bad struct_size, a field with CR, LF or NUL, a field over its limit. At submit: refuse the client.
pub const ALTA_AUTH_ERR_INVALID: i32 = -1;
/// Unknown key, bad value, or a required key missing; the error text says which and why.
pub const ALTA_AUTH_ERR_CONFIG: i32 = -2;
/// At capacity; nothing was retained, try again later.
pub const ALTA_AUTH_ERR_FULL: i32 = -3;
/// The engine is shutting down or shut down.
pub const ALTA_AUTH_ERR_CLOSED: i32 = -4;
/// The deadline of drain or shutdown passed with checks still pending (shutdown has completed them).
pub const ALTA_AUTH_ERR_TIMEOUT: i32 = -5;
/// Lookup: nothing remembered. Cancel: unknown, or delivered, being delivered or about to be.
pub const ALTA_AUTH_ERR_NOT_FOUND: i32 = -6;
/// Not allowed from inside a callback of the same engine, its log callback and its thread hooks among them: it would wait
/// for itself. Check and lookup may give it in a thread that is ending, where their texts may have no place any more.
pub const ALTA_AUTH_ERR_THREAD: i32 = -7;
/// The engine belongs to the parent process.
pub const ALTA_AUTH_ERR_FORKED: i32 = -8;
/// The caller's struct or flags are newer than the library.
pub const ALTA_AUTH_ERR_UNSUPPORTED: i32 = -9;
/// The operating system refused a thread, a descriptor or memory.
pub const ALTA_AUTH_ERR_SYSTEM: i32 = -10;
/// A defect of the library, caught.
pub const ALTA_AUTH_ERR_INTERNAL: i32 = -11;

/// alta_auth_decision.verdict: do not serve the client.
pub const ALTA_AUTH_DENY: i32 = 0;
/// alta_auth_decision.verdict: serve the client.
pub const ALTA_AUTH_ALLOW: i32 = 1;

/// alta_auth_decision.origin: the backend, in answer to this check or to an equal one that was under way.
pub const ALTA_AUTH_ORIGIN_BACKEND: i32 = 0;
/// The backend, earlier, and the time for which it allowed reuse has not ended.
pub const ALTA_AUTH_ORIGIN_MEMORY: i32 = 1;
/// The backend, earlier; repeated because it cannot be asked now.
pub const ALTA_AUTH_ORIGIN_LAST_KNOWN: i32 = 2;
/// Nobody: the operator's default action, or a denial for want of resources.
pub const ALTA_AUTH_ORIGIN_DEFAULT: i32 = 3;

/// alta_auth_decision.cause: there was an answer.
pub const ALTA_AUTH_CAUSE_NONE: i32 = 0;
/// The backend's name could not be resolved.
pub const ALTA_AUTH_CAUSE_RESOLVE: i32 = 1;
/// No connection: refused, unreachable, or not established within connect_timeout.
pub const ALTA_AUTH_CAUSE_CONNECT: i32 = 2;
/// The TLS handshake failed: certificate, name, version.
pub const ALTA_AUTH_CAUSE_TLS: i32 = 3;
/// The budget ended before the answer.
pub const ALTA_AUTH_CAUSE_TIMEOUT: i32 = 4;
/// Closed or reset before the first byte of an answer, or cut in a body that was needed.
pub const ALTA_AUTH_CAUSE_RESET: i32 = 5;
/// The answer breaks the framing rules, or its header section is over the limit or cut short.
pub const ALTA_AUTH_CAUSE_PROTOCOL: i32 = 6;
/// The backend answered with one of unavailable_statuses.
pub const ALTA_AUTH_CAUSE_STATUS: i32 = 7;
/// The breaker is open: the backend was not asked.
pub const ALTA_AUTH_CAUSE_BREAKER_OPEN: i32 = 8;
/// A bound of our own was reached: connections, descriptors, ports, which denies unless fail_open.overload is on; or that of
/// the client (limit.per_ip), which always denies.
pub const ALTA_AUTH_CAUSE_OVERLOAD: i32 = 9;
/// The engine was shut down first.
pub const ALTA_AUTH_CAUSE_SHUTDOWN: i32 = 10;
/// A defect of the library, caught. Denies, unless fail_open.overload is on.
pub const ALTA_AUTH_CAUSE_INTERNAL: i32 = 11;

/// alta_auth_request.flags: do not answer from memory, ask the backend.
pub const ALTA_AUTH_FRESH: u32 = 1;
/// alta_auth_decision.flags: shared another check's backend request.
pub const ALTA_AUTH_COALESCED: u32 = 1;
/// alta_auth_decision.flags: the backend sent X-Unique.
pub const ALTA_AUTH_UNIQUE: u32 = 2;
/// alta_auth_decision.flags: of a watch: it has ended, nothing more is delivered for its ticket.
pub const ALTA_AUTH_LAST: u32 = 4;

/// Levels of alta_auth_log: what keeps the engine from working.
pub const ALTA_AUTH_LOG_ERROR: i32 = 1;
/// What an operator should look into.
pub const ALTA_AUTH_LOG_WARN: i32 = 2;
/// Starts, stops, changes of state.
pub const ALTA_AUTH_LOG_INFO: i32 = 3;
/// Each outage with its stage.
pub const ALTA_AUTH_LOG_DEBUG: i32 = 4;

/// Text: pointer and length, any bytes, no NUL needed. NULL with length 0 is empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct alta_auth_str {
    pub ptr: *const c_char,
    pub len: usize,
}

/// One question. Initialise with ALTA_AUTH_REQUEST_INIT. Every text is copied before the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct alta_auth_request {
    pub struct_size: u32,
    /// ALTA_AUTH_FRESH
    pub flags: u32,
    /// Required, at most 1 KiB. X-Session-Id.
    pub session_id: alta_auth_str,
    /// At most 1 KiB. X-Real-Ip.
    pub ip: alta_auth_str,
    /// X-Real-Path: path only, no query; what the host will serve, after its own normalisation. At most 4 KiB.
    pub path: alta_auth_str,
    /// The client's raw query, without '?'. At most 16 KiB; 256 parameters with the operator's.
    pub query: alta_auth_str,
    /// X-Real-Origin: scheme://host[:port]. At most 1 KiB.
    pub origin: alta_auth_str,
    /// X-Real-Ua; cut at 2 KiB.
    pub user_agent: alta_auth_str,
    /// What the decision covers, e.g. a channel; at most 1 KiB. Empty: see the configuration key scope.
    pub scope: alta_auth_str,
    /// From submit to decision; at most the configured timeout. 0: the configured timeout.
    pub timeout_ms: u32,
    /// 0
    pub reserved: u32,
}

/// The answer to one check.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct alta_auth_decision {
    pub struct_size: u32,
    /// ALTA_AUTH_ALLOW or ALTA_AUTH_DENY: what to do.
    pub verdict: i32,
    /// ALTA_AUTH_ORIGIN_…: who says so.
    pub origin: i32,
    /// ALTA_AUTH_CAUSE_…: why there was no answer from the backend.
    pub cause: i32,
    /// ALTA_AUTH_COALESCED, ALTA_AUTH_UNIQUE, ALTA_AUTH_LAST
    pub flags: u32,
    /// 0 if no status line was received.
    pub http_status: u32,
    /// For how long this decision may be reused.
    pub ttl_ms: u32,
    /// X-Max-Sessions; 0 if absent.
    pub max_sessions: u32,
    /// From submit to decision; 0 for a later decision of a watch.
    pub latency_ns: u64,
    /// As submit gave it.
    pub ticket: u64,
    /// X-UserId: visible ASCII, at most 256 bytes; otherwise empty.
    pub user_id: alta_auth_str,
    /// X-Location or Location: where the backend would send the client; http, https or a path, at most 2 KiB.
    pub location: alta_auth_str,
    /// One line for a log; never contains the query or the value of a header.
    pub detail: alta_auth_str,
}

/// A decision that came out of a queue.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct alta_auth_completion {
    pub struct_size: u32,
    pub reserved: u32,
    /// As given to submit.
    pub user_data: *mut c_void,
    pub decision: alta_auth_decision,
}

/// Counters. submitted = completed + cancelled + pending, at every reading.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct alta_auth_stats {
    pub struct_size: u32,
    pub reserved: u32,
    /// Checks accepted.
    pub submitted: u64,
    /// Checks delivered.
    pub completed: u64,
    pub cancelled: u64,
    /// Accepted, neither delivered nor cancelled, now; unreaped ones included.
    pub pending: u64,
    /// ALTA_AUTH_ERR_FULL given, to checks and watches.
    pub refused: u64,
    /// Delivered decisions.
    pub allowed: u64,
    pub denied: u64,
    /// Delivered decisions, by origin.
    pub from_backend: u64,
    pub from_memory: u64,
    pub from_last_known: u64,
    pub from_default: u64,
    /// Checks that shared another's request.
    pub coalesced: u64,
    /// Requests begun.
    pub exchanges: u64,
    /// Safe retries among them.
    pub retries: u64,
    /// Since the start.
    pub connections_opened: u64,
    /// Now.
    pub connections_open: u64,
    pub connections_idle: u64,
    /// Decisions remembered, now; expired ones that were not taken out yet included.
    pub remembered: u64,
    /// Calls of alta_auth_revoke, alta_auth_revoke_user and alta_auth_revoke_all.
    pub revoked: u64,
    /// Delivered decisions, by cause.
    pub causes: [u64; 16],
}

/// Takes a decision. It and its texts are valid until the callback returns. Runs on an alta-cb thread, or with
/// threads.callback = 0 on an alta-io thread, where a slow one delays every check. Must not throw or longjmp.
pub type alta_auth_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, decision: *const alta_auth_decision)>;

/// Takes a line of the log; the message is valid until the function returns, and is not NUL-terminated. Called on any
/// thread of the library, and on a thread of the host during its calls; no lock is held; must not block. Drain, shutdown,
/// check and free of the engine that logs are refused there (ALTA_AUTH_ERR_THREAD), on whichever thread. What it would itself
/// cause to be logged is not.
pub type alta_auth_log =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: i32, message: alta_auth_str)>;

/// Run on each thread of the library, before its first and after its last callback.
pub type alta_auth_thread_hook = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

// The layout of the first published version, on every platform with 64-bit pointers; tests/contract/case_layout.c
// asserts the same numbers from C.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<alta_auth_str>() == 16);
    assert!(size_of::<alta_auth_request>() == 128);
    assert!(offset_of!(alta_auth_request, session_id) == 8);
    assert!(offset_of!(alta_auth_request, scope) == 104);
    assert!(offset_of!(alta_auth_request, timeout_ms) == 120);
    assert!(size_of::<alta_auth_decision>() == 96);
    assert!(offset_of!(alta_auth_decision, max_sessions) == 28);
    assert!(offset_of!(alta_auth_decision, latency_ns) == 32);
    assert!(offset_of!(alta_auth_decision, user_id) == 48);
    assert!(offset_of!(alta_auth_decision, detail) == 80);
    assert!(size_of::<alta_auth_completion>() == 112);
    assert!(offset_of!(alta_auth_completion, decision) == 16);
    assert!(size_of::<alta_auth_stats>() == 288);
    assert!(offset_of!(alta_auth_stats, submitted) == 8);
    assert!(offset_of!(alta_auth_stats, revoked) == 152);
    assert!(offset_of!(alta_auth_stats, causes) == 160);
};
