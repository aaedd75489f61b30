//! The version, and what numbers are called.

use std::ffi::{CStr, c_char};

use super::types::*;

/// The version of the library, e.g. "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// major << 16 | minor << 8 | patch of the library; ALTA_AUTH_VERSION_NUMBER is that of the header.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_version_number() -> u32 {
    const fn number(text: &str) -> u32 {
        let (mut value, mut index) = (0, 0);
        while index < text.len() {
            value = value * 10 + (text.as_bytes()[index] - b'0') as u32;
            index += 1;
        }
        value
    }
    const NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

const UNKNOWN: &CStr = c"ALTA_AUTH_UNKNOWN";

/// "ALTA_AUTH_ERR_FULL" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_status_name(status: i32) -> *const c_char {
    match status {
        ALTA_AUTH_OK => c"ALTA_AUTH_OK",
        ALTA_AUTH_ERR_INVALID => c"ALTA_AUTH_ERR_INVALID",
        ALTA_AUTH_ERR_CONFIG => c"ALTA_AUTH_ERR_CONFIG",
        ALTA_AUTH_ERR_FULL => c"ALTA_AUTH_ERR_FULL",
        ALTA_AUTH_ERR_CLOSED => c"ALTA_AUTH_ERR_CLOSED",
        ALTA_AUTH_ERR_TIMEOUT => c"ALTA_AUTH_ERR_TIMEOUT",
        ALTA_AUTH_ERR_NOT_FOUND => c"ALTA_AUTH_ERR_NOT_FOUND",
        ALTA_AUTH_ERR_THREAD => c"ALTA_AUTH_ERR_THREAD",
        ALTA_AUTH_ERR_FORKED => c"ALTA_AUTH_ERR_FORKED",
        ALTA_AUTH_ERR_UNSUPPORTED => c"ALTA_AUTH_ERR_UNSUPPORTED",
        ALTA_AUTH_ERR_SYSTEM => c"ALTA_AUTH_ERR_SYSTEM",
        ALTA_AUTH_ERR_INTERNAL => c"ALTA_AUTH_ERR_INTERNAL",
        _ => UNKNOWN,
    }
    .as_ptr()
}

/// "ALTA_AUTH_ALLOW" or "ALTA_AUTH_DENY"; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_verdict_name(verdict: i32) -> *const c_char {
    match verdict {
        ALTA_AUTH_DENY => c"ALTA_AUTH_DENY",
        ALTA_AUTH_ALLOW => c"ALTA_AUTH_ALLOW",
        _ => UNKNOWN,
    }
    .as_ptr()
}

/// "ALTA_AUTH_ORIGIN_MEMORY" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_origin_name(origin: i32) -> *const c_char {
    match origin {
        ALTA_AUTH_ORIGIN_BACKEND => c"ALTA_AUTH_ORIGIN_BACKEND",
        ALTA_AUTH_ORIGIN_MEMORY => c"ALTA_AUTH_ORIGIN_MEMORY",
        ALTA_AUTH_ORIGIN_LAST_KNOWN => c"ALTA_AUTH_ORIGIN_LAST_KNOWN",
        ALTA_AUTH_ORIGIN_DEFAULT => c"ALTA_AUTH_ORIGIN_DEFAULT",
        _ => UNKNOWN,
    }
    .as_ptr()
}

/// "ALTA_AUTH_CAUSE_TIMEOUT" and the like; "ALTA_AUTH_UNKNOWN" for any other number. Never NULL, static.
#[unsafe(no_mangle)]
pub extern "C" fn alta_auth_cause_name(cause: i32) -> *const c_char {
    match cause {
        ALTA_AUTH_CAUSE_NONE => c"ALTA_AUTH_CAUSE_NONE",
        ALTA_AUTH_CAUSE_RESOLVE => c"ALTA_AUTH_CAUSE_RESOLVE",
        ALTA_AUTH_CAUSE_CONNECT => c"ALTA_AUTH_CAUSE_CONNECT",
        ALTA_AUTH_CAUSE_TLS => c"ALTA_AUTH_CAUSE_TLS",
        ALTA_AUTH_CAUSE_TIMEOUT => c"ALTA_AUTH_CAUSE_TIMEOUT",
        ALTA_AUTH_CAUSE_RESET => c"ALTA_AUTH_CAUSE_RESET",
        ALTA_AUTH_CAUSE_PROTOCOL => c"ALTA_AUTH_CAUSE_PROTOCOL",
        ALTA_AUTH_CAUSE_STATUS => c"ALTA_AUTH_CAUSE_STATUS",
        ALTA_AUTH_CAUSE_BREAKER_OPEN => c"ALTA_AUTH_CAUSE_BREAKER_OPEN",
        ALTA_AUTH_CAUSE_OVERLOAD => c"ALTA_AUTH_CAUSE_OVERLOAD",
        ALTA_AUTH_CAUSE_SHUTDOWN => c"ALTA_AUTH_CAUSE_SHUTDOWN",
        ALTA_AUTH_CAUSE_INTERNAL => c"ALTA_AUTH_CAUSE_INTERNAL",
        _ => UNKNOWN,
    }
    .as_ptr()
}
