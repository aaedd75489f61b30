//! What the files with protocols between threads build on. They take it from `super::sync`, so that the model
//! (`model.rs`) can compile the same files on the types of loom, which tries every order of steps.

pub(super) use std::sync::atomic;

pub(super) use parking_lot::{Condvar, Mutex};
