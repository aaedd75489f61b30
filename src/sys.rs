//! System calls that std has no safe form for.

mod epoll;
mod eventfd;
mod fork;
mod room;
mod thread;

pub(crate) use epoll::within_runtime;
pub(crate) use eventfd::EventFd;
pub(crate) use fork::ForkMark;
pub(crate) use room::room_for;
pub(crate) use thread::{Inside, Spawned, ThreadId, own_panics, silence_own_panics, spawn};
