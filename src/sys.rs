//! System calls that std has no safe form for.

mod eventfd;
mod fork;
mod thread;

pub(crate) use eventfd::EventFd;
pub(crate) use fork::ForkMark;
pub(crate) use thread::{Inside, silence_own_panics, spawn};
