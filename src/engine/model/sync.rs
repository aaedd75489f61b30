//! `super::sync` on loom.
//!
//! Two things loom does not do, and would report what cannot happen:
//!
//! * It takes a `SeqCst` access for `AcqRel`, and lets two threads that each write and then read miss each other.
//!   A `SeqCst` load is therefore a read-modify-write that changes and releases nothing: it reads the newest
//!   value, which is what the order of all `SeqCst` accesses promises.
//! * It does not keep a read-modify-write next to the value that it read, when another thread stores. A store is
//!   therefore a swap, so that the values of each atomic have one order: that of the steps.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

pub(super) mod atomic {
    use std::ops::Deref;

    use loom::sync::atomic as of_loom;
    pub(in super::super) use loom::sync::atomic::{Ordering, fence};

    macro_rules! wrapped {
        ($name:ident, $number:ident) => {
            #[derive(Default)]
            pub(in super::super) struct $name(of_loom::$name);

            impl $name {
                pub(in super::super) fn new(value: $number) -> Self {
                    Self(of_loom::$name::new(value))
                }
                pub(in super::super) fn load(&self, order: Ordering) -> $number {
                    match order {
                        Ordering::SeqCst => self.0.fetch_or($number::default(), Ordering::Acquire),
                        order => self.0.load(order),
                    }
                }
                pub(in super::super) fn store(&self, value: $number, order: Ordering) {
                    self.0.swap(value, order);
                }
            }

            impl Deref for $name {
                type Target = of_loom::$name;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        };
    }

    wrapped!(AtomicBool, bool);
    wrapped!(AtomicU16, u16);
    wrapped!(AtomicU32, u32);
    wrapped!(AtomicU64, u64);
    wrapped!(AtomicUsize, usize);
}

/// As `parking_lot`'s.
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

/// Empty only within a wait: loom's takes the guard by value.
pub(super) struct Guard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().unwrap()
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().unwrap()
    }
}

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }
    pub(super) fn lock(&self) -> Guard<'_, T> {
        Guard(Some(self.0.lock().unwrap()))
    }
}

/// As `parking_lot`'s.
pub(super) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(super) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }
    pub(super) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
        guard.0 = guard.0.take().map(|guard| self.0.wait(guard).unwrap());
    }
    #[expect(clippy::unused_self, reason = "as parking_lot's")]
    pub(super) fn wait_for<T>(&self, _: &mut Guard<'_, T>, _: Duration) {
        unreachable!("a model has no clock: it drains without a limit");
    }
    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}
