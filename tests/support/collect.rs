//! A receiver that a test can wait for.

use std::sync::Arc;

use alta_auth::{Completed, Decision, Receiver};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::PATIENCE;

/// Keeps what is delivered, in order of delivery.
#[derive(Default)]
pub(crate) struct Collect {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    decided: Vec<(usize, Decision)>,
    cancelled: Vec<usize>,
}

impl Receiver for Collect {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let mut state = self.state.lock();
        for completed in batch.drain(..) {
            let user_data = completed.user_data();
            match completed.take() {
                Some(decision) => state.decided.push((user_data, decision)),
                None => state.cancelled.push(user_data),
            }
        }
        self.changed.notify_all();
    }
}

impl Collect {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn receiver(self: &Arc<Self>) -> Arc<dyn Receiver> {
        Arc::clone(self) as _
    }

    /// Waits until `count` decisions are there.
    #[track_caller]
    pub(crate) fn wait(&self, count: usize) -> Vec<(usize, Decision)> {
        self.wait_for(count);
        self.state.lock().decided.clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while state.decided.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let timed_out = self.changed.wait_for(&mut state, left).timed_out();
            assert!(!timed_out, "{} decisions of {count}", state.decided.len());
        }
    }

    pub(crate) fn delivered(&self) -> usize {
        self.state.lock().decided.len()
    }

    /// What came and found its check cancelled.
    pub(crate) fn cancelled(&self) -> Vec<usize> {
        self.state.lock().cancelled.clone()
    }
}
