//! The time, read once for a step of work: a check takes a dozen looks at it within microseconds, and each costs as much as
//! some fifty instructions.
//!
//! A step is no longer than some checks need that are polled one after the other, tens of microseconds. What takes longer in
//! between (many system calls, many messages) reads it again: by a step of its own, or [`read_again`].

use std::cell::Cell;

use tokio::time::Instant;

thread_local! {
    static HELD: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// What the clock says; within a step, what it said when that began.
pub(crate) fn now() -> Instant {
    HELD.get().unwrap_or_else(Instant::now)
}

/// Runs a step that takes no time to speak of: never one that waits. Only a host's log function runs inside; should it take its
/// time, what follows in the step counts as if it had not. Within another step that goes on with the later time.
pub(crate) fn step<T>(step: impl FnOnce() -> T) -> T {
    /// Also after a panic.
    struct Step {
        within: bool,
    }
    impl Drop for Step {
        fn drop(&mut self) {
            if !self.within {
                HELD.set(None);
            }
        }
    }
    let _step = Step { within: HELD.replace(Some(Instant::now())).is_some() };
    step()
}

/// Something took its time: what is left of the step goes by the time after it.
pub(crate) fn read_again() {
    if HELD.get().is_some() {
        HELD.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_within_a_step_and_goes_on_after_it() {
        let began = now();
        let held = step(now);
        assert_eq!((held, now()), (began, began));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now(), began + Duration::from_secs(1));
        assert_eq!(step(now), now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_goes_on_with_the_time_of_a_step_within_it_or_with_what_is_read_again() {
        read_again();
        assert_eq!(HELD.get(), None, "no step");
        let began = now();
        HELD.set(Some(began));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now(), began);
        assert_eq!(step(now), began + Duration::from_secs(1));
        assert_eq!(now(), began + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        read_again();
        assert_eq!(now(), began + Duration::from_secs(2));
        HELD.set(None);
    }

    #[test]
    fn a_panic_ends_a_step_and_not_the_one_around_it() {
        step(|| {
            let caught = std::panic::catch_unwind(|| step(|| panic!("a defect")));
            assert!(caught.is_err());
            assert!(HELD.get().is_some());
        });
        let caught = std::panic::catch_unwind(|| step(|| panic!("a defect")));
        assert!(caught.is_err());
        assert_eq!(HELD.get(), None);
    }
}
