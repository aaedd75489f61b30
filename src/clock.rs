//! The time, read once for a step of work: a check takes a dozen looks at it within microseconds, and each costs as much as
//! some fifty instructions.

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
/// time, what follows in the step counts as if it had not.
pub(crate) fn step<T>(step: impl FnOnce() -> T) -> T {
    /// Also after a panic.
    struct Step(Option<Instant>);
    impl Drop for Step {
        fn drop(&mut self) {
            HELD.set(self.0);
        }
    }
    let _outer = Step(HELD.replace(Some(Instant::now())));
    step()
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

    #[test]
    fn a_step_within_a_step_is_one_of_its_own_and_a_panic_ends_it() {
        step(|| {
            let outer = now();
            assert!(step(now) >= outer);
            assert_eq!(now(), outer);
            let caught = std::panic::catch_unwind(|| step(|| panic!("a defect")));
            assert!(caught.is_err());
            assert_eq!(now(), outer);
        });
        assert_eq!(HELD.get(), None);
    }
}
