//! The C ABI. `include/alta_auth.h` is generated from here: the documentation of each item is the manual.
//!
//! Every function checks its pointers, tells a forked child from its parent before it touches anything, and
//! catches panics. What a pointer needs is done in `pointers.rs` and nowhere else.

#![allow(unsafe_code, reason = "a C ABI is made of pointers")]
#![allow(non_camel_case_types, reason = "the names are those of the header")]
#![allow(unreachable_pub, reason = "what is not named in Rust is called from C")]
#![allow(clippy::wildcard_imports, reason = "the numbers and structs are the vocabulary of these files")]
#![allow(clippy::doc_markdown, reason = "the documentation is read in C, where there are no backticks")]
#![allow(clippy::missing_safety_doc, reason = "the header's contract block says what holds for every call")]

mod call;
mod config;
mod engine;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod names;
mod pointers;
mod queue;
mod revoke;
mod stats;
mod submit;
mod types;

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::ConfigError;
use crate::engine::{StartError, SubmitError};
use crate::sys::Inside;
use types::*;

/// Runs the inside of a function of the ABI: no panic leaves it, and none prints.
fn guarded<T>(defect: T, inside: impl FnOnce() -> T) -> T {
    let _inside = Inside::enter();
    catch_unwind(AssertUnwindSafe(inside)).unwrap_or(defect)
}

/// For functions that return a status.
fn status(inside: impl FnOnce() -> Result<(), i32>) -> i32 {
    guarded(ALTA_AUTH_ERR_INTERNAL, || inside().err().unwrap_or(ALTA_AUTH_OK))
}

/// Why a call fails.
struct Refusal {
    status: i32,
    /// Where there is more to say than what the status means.
    why: Option<String>,
}

impl From<i32> for Refusal {
    fn from(status: i32) -> Self {
        Self { status, why: None }
    }
}

impl From<StartError> for Refusal {
    fn from(why: StartError) -> Self {
        let status = match why {
            StartError::Config(_) => ALTA_AUTH_ERR_CONFIG,
            StartError::System(_) => ALTA_AUTH_ERR_SYSTEM,
            StartError::Closed => ALTA_AUTH_ERR_CLOSED,
        };
        Self { status, why: Some(why.to_string()) }
    }
}

impl From<ConfigError> for Refusal {
    fn from(why: ConfigError) -> Self {
        Self { status: ALTA_AUTH_ERR_CONFIG, why: Some(why.to_string()) }
    }
}

/// For functions that return a status and say in words what is wrong.
unsafe fn explained(
    error: *mut c_char,
    error_len: usize,
    inside: impl FnOnce() -> Result<(), Refusal>,
) -> i32 {
    status(|| {
        let done = guarded(Err(ALTA_AUTH_ERR_INTERNAL.into()), inside);
        done.map_err(|Refusal { status, why }| {
            let why = why.as_deref().unwrap_or_else(|| words(status));
            // SAFETY: the contract of the header.
            unsafe { pointers::write_error(error, error_len, why) };
            status
        })
    })
}

/// Of what needs no more words than these.
fn words(status: i32) -> &'static str {
    match status {
        ALTA_AUTH_ERR_INVALID => "an argument is NULL or not aligned; pass all that the function takes",
        ALTA_AUTH_ERR_FORKED => "the engine belongs to the parent process; make one in this process",
        _ => "a defect of the library, caught; please report it",
    }
}

fn submit_status(error: SubmitError) -> i32 {
    match error {
        SubmitError::Invalid(_) => ALTA_AUTH_ERR_INVALID,
        SubmitError::Full => ALTA_AUTH_ERR_FULL,
        SubmitError::Closed => ALTA_AUTH_ERR_CLOSED,
    }
}
