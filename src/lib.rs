//! alta-auth: an asynchronous batch verifier for HTTP backend authorization.
//!
//! A media server hands over a [`Check`]; one I/O thread turns equal checks into one exchange with the
//! backend, and every check gets exactly one [`Decision`].

mod backend;
mod calls;
mod check;
mod clock;
mod config;
mod decision;
mod engine;
mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod memory;
mod observe;
mod outage;
#[cfg(test)]
mod own_process;
mod probe;
#[cfg(feature = "steps")]
#[doc(hidden)]
pub mod steps;
mod sys;
mod transport;

pub use check::{Check, Field, Invalid, limits};
pub use config::{Config, ConfigError, KeyDoc, PresetDoc};
pub use decision::{Cause, Decision, Origin, Verdict};
pub use engine::{Completed, Engine, Queue, Receiver, StartError, SubmitError};
pub use observe::{AddressStats, EndpointStats, Log, LogLevel, ShadowStats, Stats};
pub use probe::{Explanation, ProbeAttempt, ProbeReport, probe};

/// The examples of README.md, compiled and run with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
