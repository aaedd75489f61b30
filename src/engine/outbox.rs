//! What was decided in one turn of an I/O thread, or in one call of a host, by receiver: each is called once, at the
//! end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::completion::{Completed, Completion, Receiver};
use crate::decision::Decision;
use crate::observe::{LogLevel, Logger};

/// Receivers looked through for one that has a batch already. A host has a queue a thread; a receiver that
/// serves a single check is not worth finding again.
const LOOK_BACK: usize = 8;
/// Longer batches, and longer lists of them, do not keep their memory.
const KEPT: usize = 1024;

#[derive(Default)]
pub(crate) struct Outbox {
    batches: Vec<(Arc<dyn Receiver>, Vec<Completed>)>,
    /// Empty ones, whose memory is used again.
    spare: Vec<Vec<Completed>>,
}

impl Outbox {
    pub(crate) fn decide(&mut self, completion: Completion, decision: Decision) {
        if let Some((receiver, completed)) = completion.decide(decision) {
            self.push(receiver, completed);
        }
    }

    pub(crate) fn push(&mut self, receiver: Arc<dyn Receiver>, completed: Completed) {
        let recent = self.batches.iter_mut().rev().take(LOOK_BACK);
        for (known, batch) in recent {
            if Arc::ptr_eq(known, &receiver) {
                batch.push(completed);
                return;
            }
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.push(completed);
        self.batches.push((receiver, batch));
    }

    /// How many decisions there are.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.len()).sum()
    }

    /// Takes the batches out, so that nothing is borrowed while receivers run.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Gives the memory back that another one was delivered in, if there is nothing better here.
    pub(crate) fn reuse(&mut self, delivered: Self) {
        if self.batches.is_empty() && self.spare.is_empty() && delivered.batches.capacity() <= KEPT {
            *self = delivered;
        }
    }

    pub(crate) fn deliver(&mut self, log: &Logger) {
        if self.hand_out() {
            log.log(LogLevel::Error, || "a receiver panicked; what it left counts as cancelled".to_owned());
        }
    }

    /// Whether a receiver panicked.
    fn hand_out(&mut self) -> bool {
        let mut panicked = false;
        for (receiver, mut batch) in self.batches.drain(..) {
            panicked |= catch_unwind(AssertUnwindSafe(|| receiver.receive(&mut batch))).is_err();
            batch.clear();
            if self.spare.len() < LOOK_BACK && batch.capacity() <= KEPT {
                self.spare.push(batch);
            }
        }
        panicked
    }
}

/// What was decided is delivered, also by a thread that a defect ends.
impl Drop for Outbox {
    fn drop(&mut self) {
        self.hand_out();
    }
}
