//! Callback threads: the host's code runs on them, never on an I/O thread and never with a lock held, so that a
//! slow callback delays other callbacks and nothing else. With `threads.callback = 0` callbacks run on the I/O
//! thread, which saves a hop; a slow one then delays every exchange of that thread.
//!
//! What waits for a callback thread is bounded by the ledger: each decision holds its check's slot.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::yield_now;

use parking_lot::{Condvar, Mutex};

use super::completion::{Completed, Receiver};
use crate::calls;
use crate::decision::Decision;
use crate::observe::{LogLevel, Logger};
use crate::sys::{self, Spawned};

/// How often a callback thread looks for more before it sleeps, and how many of these looks follow shortly upon each other.
const LOOKS: u32 = 11;
const SHORT: u32 = 7;

/// What a host wants called with its `user_data` and the decision.
pub(crate) type Function = dyn Fn(usize, Decision) + Send + Sync;

/// The callback threads of one engine.
pub(crate) struct Callbacks {
    jobs: Arc<Jobs>,
    threads: Mutex<Vec<Spawned>>,
    /// Whether there are any, until the end.
    threaded: bool,
    log: Arc<Logger>,
}

/// No channel of std or crossbeam: those want to know who sends, and of a host's thread that is ending std does not know it.
#[derive(Default)]
struct Jobs {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// There are threads, and they have not been ended.
    open: bool,
}

struct Job {
    batch: Vec<Completed>,
    function: Arc<Function>,
}

impl Callbacks {
    pub(crate) fn start(threads: usize, log: Arc<Logger>) -> io::Result<Self> {
        let jobs = Arc::new(Jobs::default());
        jobs.state.lock().open = threads > 0;
        let callbacks = Self {
            jobs: Arc::clone(&jobs),
            threads: Mutex::default(),
            threaded: threads > 0,
            log: Arc::clone(&log),
        };
        for index in 0..threads {
            let (jobs, log) = (Arc::clone(&jobs), Arc::clone(&log));
            let thread = sys::spawn(format!("alta-cb-{index}"), move || {
                let _thread = log.calls().thread();
                while let Some(mut job) = jobs.next() {
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
        self.jobs.state.lock().open = false;
        self.jobs.more.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            thread.join();
        }
    }
}

impl Jobs {
    /// `None`: they are to end, and nothing waits.
    fn next(&self) -> Option<Job> {
        // A thread that sleeps costs who submits a system call.
        for look in 0..LOOKS {
            let mut state = self.state.lock();
            if !state.waiting.is_empty() {
                return state.waiting.pop_front();
            }
            drop(state);
            if look < SHORT {
                (0..1 << look).for_each(|_| spin_loop());
            } else {
                yield_now();
            }
        }
        let mut state = self.state.lock();
        loop {
            match state.waiting.pop_front() {
                None if state.open => self.more.wait(&mut state),
                job => return job,
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
        let mut state = callbacks.jobs.state.lock();
        if !state.open {
            drop(state);
            return run(&callbacks.log, &*self.function, batch);
        }
        let job = Job { batch: std::mem::take(batch), function: Arc::clone(&self.function) };
        state.waiting.push_back(job);
        drop(state);
        callbacks.jobs.more.notify_one();
    }

    fn only_puts_aside(&self) -> bool {
        self.callbacks.threaded
    }
}

fn run(log: &Logger, function: &Function, batch: &mut Vec<Completed>) {
    for completed in batch.drain(..) {
        let mut returned = true;
        let call = AssertUnwindSafe(|| {
            completed.hand_over(|user_data, decision| {
                returned = calls::returns(|| function(user_data, decision));
            })
        });
        let inside = log.calls().call();
        // What is around the host's function is ours: a panic there is a defect, and known as one.
        let _ = catch_unwind(call);
        drop(inside);
        if !returned {
            log.log(LogLevel::Error, || "a callback panicked; its decision was delivered".to_owned());
        }
    }
}
