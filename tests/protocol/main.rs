//! The backend protocol, row by row: what goes to the backend, and what each of its answers means.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bytes;
mod preset;
mod reply;
mod request;
#[path = "../support/mod.rs"]
mod support;
