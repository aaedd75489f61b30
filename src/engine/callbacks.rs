//! Callback threads: the host's code runs on them, never on an I/O thread and never with a lock held, so that a
//! slow callback delays other callbacks and nothing else. With `threads.callback = 0` callbacks run on the I/O
//! thread, which saves a hop; a slow one then delays every exchange of that thread.
//!
//! What waits for a callback thread is bounded by the ledger: each decision holds its check's slot.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;

use super::completion::{Completed, Receiver};
use crate::decision::Decision;
use crate::observe::{LogLevel, Logger};
use crate::sys;

/// What a host wants called with its `user_data` and the decision.
pub(crate) type Function = dyn Fn(usize, Decision) + Send + Sync;

/// The callback threads of one engine.
pub(crate) struct Callbacks {
    /// `None`: there are no threads, or they have been ended.
    sender: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Whether there are any, until the end.
    threaded: bool,
    log: Arc<Logger>,
}

struct Job {
    batch: Vec<Completed>,
    function: Arc<Function>,
}

impl Callbacks {
    pub(crate) fn start(threads: usize, log: Arc<Logger>) -> io::Result<Self> {
        let (sender, jobs) = unbounded::<Job>();
        let callbacks = Self {
            sender: Mutex::new((threads > 0).then_some(sender)),
            threads: Mutex::default(),
            threaded: threads > 0,
            log: Arc::clone(&log),
        };
        for index in 0..threads {
            let (jobs, log) = (jobs.clone(), Arc::clone(&log));
            let thread = sys::spawn(format!("alta-cb-{index}"), move || {
                let _thread = log.calls().thread();
                for mut job in jobs {
                    run(&log, &*job.function, &mut job.batch);
                }
            });
            match thread {
                Ok(thread) => callbacks.threads.lock().push(thread),
                Err(error) => {
                    // Those before it run the host's hooks: not after this has returned.
                    callbacks.end();
                    return Err(error);
                }
            }
        }
        Ok(callbacks)
    }

    /// Runs what waits and ends the threads. Nothing is called after this has returned.
    pub(crate) fn end(&self) {
        drop(self.sender.lock().take());
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A receiver that has `function` called for each decision.
pub(crate) struct Callback {
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) function: Arc<Function>,
}

impl Receiver for Callback {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let callbacks = &self.callbacks;
        let sender = callbacks.sender.lock().clone();
        match sender {
            Some(sender) => {
                let job = Job { batch: std::mem::take(batch), function: Arc::clone(&self.function) };
                sender.send(job).expect("the threads end after the last sender is gone");
            }
            None => run(&callbacks.log, &*self.function, batch),
        }
    }

    fn only_puts_aside(&self) -> bool {
        self.callbacks.threaded
    }
}

fn run(log: &Logger, function: &Function, batch: &mut Vec<Completed>) {
    for completed in batch.drain(..) {
        let call = AssertUnwindSafe(|| completed.hand_over(function));
        let inside = log.calls().call();
        let returned = catch_unwind(call);
        drop(inside);
        if returned.is_err() {
            log.log(LogLevel::Error, || "a callback panicked; its decision was delivered".to_owned());
        }
    }
}
