//! The time, read once for some steps of work: a check takes a dozen looks at it within microseconds, and each costs as much
//! as some fifty instructions.
//!
//! Within a step time stands still. An I/O thread, which says when it has waited, shares a reading among a few steps.

use std::cell::Cell;

use tokio::time::Instant;

/// Steps that share a reading, at most: some of them do a hundred microseconds' work.
const SHARED: u8 = 16;

thread_local! {
    static CLOCK: Clock =
        const { Clock { held: Cell::new(None), reading: Cell::new(None), shared: Cell::new(0) } };
}

struct Clock {
    /// Within a step.
    held: Cell<Option<Instant>>,
    /// What was read since the thread waited last.
    reading: Cell<Option<Instant>>,
    /// Steps that may still use that. Always 0: the thread does not say when it has waited.
    shared: Cell<u8>,
}

impl Clock {
    /// The time of a step that begins.
    fn step(&self) -> Instant {
        let left = self.shared.get();
        let reading = self.reading.get().unwrap_or_else(Instant::now);
        if left > 1 {
            self.reading.set(Some(reading));
            self.shared.set(left - 1);
        } else if left == 1 {
            self.turned();
        }
        reading
    }

    fn turned(&self) {
        self.reading.set(None);
        self.shared.set(SHARED);
    }
}

/// What the clock says; within a step, what it said when that began.
pub(crate) fn now() -> Instant {
    CLOCK.with(|clock| clock.held.get()).unwrap_or_else(Instant::now)
}

/// This thread has waited, and will say so each time.
pub(crate) fn turned() {
    CLOCK.with(Clock::turned);
}

/// A host's code ran on this thread, and may have taken its time.
pub(crate) fn forget() {
    CLOCK.with(|clock| clock.reading.set(None));
}

/// Runs a step that takes no time to speak of: never one that waits. Only a host's log function runs inside; should it take its
/// time, what follows in the step counts as if it had not.
pub(crate) fn step<T>(step: impl FnOnce() -> T) -> T {
    /// Also after a panic.
    struct Step<'a>(&'a Clock, Option<Instant>);
    impl Drop for Step<'_> {
        fn drop(&mut self) {
            self.0.held.set(self.1);
        }
    }
    CLOCK.with(|clock| {
        let _outer = Step(clock, clock.held.replace(Some(clock.step())));
        step()
    })
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
        assert_eq!(CLOCK.with(|clock| clock.held.get()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn some_steps_of_a_thread_that_says_when_it_has_waited_share_a_reading() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        turned();
        assert_eq!(step(now), began);
        tokio::time::advance(second).await;
        for _ in 1..SHARED {
            assert_eq!(step(now), began);
        }
        assert_eq!(step(now), began + second, "not more than that");
        tokio::time::advance(second).await;
        assert_eq!((step(now), now()), (began + second, began + 2 * second));
        turned();
        assert_eq!(step(now), began + 2 * second);
        tokio::time::advance(second).await;
        forget();
        assert_eq!(step(now), began + 3 * second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_not_say_when_it_has_waited_reads_each_time() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        forget();
        assert_eq!(step(now), began);
        tokio::time::advance(second).await;
        assert_eq!(step(now), began + second);
    }
}
