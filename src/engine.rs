//! The engine: checks in, decisions out.
//!
//! ```text
//! host thread                     I/O thread N                                        host
//! submit ─ validate ─ key ──────▶ inbox ─ flight? ─ asking ─ transport ─ reply ─▶ completion ─▶ receiver
//! ```
//!
//! A check goes to the I/O thread that its key hashes to, so that equal checks meet without a lock. Each I/O
//! thread is a current-thread runtime of its own, named `alta-io-N`, with every signal blocked.
//!
//! Endings: [`Engine::shutdown`] stops accepting, waits, and completes what is left; dropping the engine does
//! the same without waiting. No receiver is called after either has returned.

mod alarms;
mod asking;
mod awaiting;
mod batch;
mod callbacks;
mod chains;
mod channel;
mod completion;
mod core;
mod crew;
mod deadlines;
mod departures;
mod enforcing;
mod flights;
mod flying;
mod inbox;
mod kits;
mod ledger;
mod limits;
mod live;
#[cfg(test)]
mod model;
mod outages;
mod outbox;
mod parked;
mod policy;
mod queue;
mod recall;
mod refusals;
mod remembering;
mod retries;
mod revocations;
mod run_queue;
mod shadow;
mod shard;
mod shelf;
mod sweeping;
mod sync;
#[cfg(test)]
mod tests;
mod transports;
mod unheard;
mod wakeup;
mod watch;
mod watches;
mod watching;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::LocalSet;
use tokio::time::Instant;

pub(crate) use self::asking::{
    Asking, Attempt, Means, Outage, Phrases, UNCORROBORATED, ask, backend_decision, doing, is_uncorroborated,
    outage_decision,
};
pub(crate) use self::batch::Batch;
pub(crate) use self::completion::Tag;
pub use self::completion::{Completed, Receiver};
#[cfg(feature = "steps")]
pub(crate) use self::ledger::{Ledger, Room};
pub(crate) use self::limits::{MOST_PLACES, most_sessions};
pub(crate) use self::policy::Policy;
pub use self::queue::Queue;
pub(crate) use self::retries::RetryBudget;
#[cfg(test)]
pub(crate) use self::sweeping::Sweeping;

use self::awaiting::{Awaiting, One};
use self::callbacks::{Callback, Callbacks};
use self::core::Core;
use self::inbox::{Outlet, inbox};
use self::ledger::Ticket;
use self::shard::Shard;
use self::transports::Transports;
use crate::calls::Calls;
use crate::check::{Check, Invalid};
use crate::config::{Config, ConfigError, Settings};
use crate::decision::{Decision, Verdict};
use crate::observe::{LogLevel, Logger, Stats};
use crate::sys::{self, Spawned};
use crate::transport::Transport;

/// Between the end of an I/O thread's work by a defect and its new beginning, so that one that comes again at once does
/// not take a core for itself.
const RESTART_PAUSE: Duration = Duration::from_millis(10);

/// Why an engine could not be made, or could not turn to another configuration.
#[derive(Debug)]
pub enum StartError {
    /// The configuration: a required key is missing, two keys contradict each other, a file cannot be read.
    Config(ConfigError),
    /// The system refused a thread, a descriptor or memory.
    System(io::Error),
    /// Of a reload: the engine is shut down, or shutting down.
    Closed,
}

/// Why a check was not accepted. Nothing was retained, nothing will be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The check itself: refuse the client.
    Invalid(Invalid),
    /// `inbox.capacity` checks are pending, or `watch.max` watches open: apply [`Engine::default_action`], or try again later.
    Full,
    /// The engine is shut down, or shutting down: apply [`Engine::default_action`].
    Closed,
}

/// Asks backends. Shared between threads by reference; dropping it shuts it down at once.
pub struct Engine {
    core: Arc<Core>,
    threads: Mutex<Vec<Spawned>>,
    /// The next queue's number; 0 stands for none.
    queues: AtomicU64,
    callbacks: Arc<Callbacks>,
    reloading: Mutex<()>,
}

impl Engine {
    /// Checks the configuration as a whole and starts the I/O threads. A backend that cannot be reached is no
    /// error: it is an outage, when it is asked.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        sys::room_for(0).map_err(StartError::System)?;
        let settings = Arc::new(config.settings().map_err(StartError::Config)?);
        let calls = Arc::new(Calls::new(config.thread_hooks()));
        let log = Arc::new(Logger::new(settings.log_level, config.log().cloned(), calls));
        for warning in &settings.warnings {
            log.log(LogLevel::Warn, || warning.clone());
        }
        // What had begun before something was refused calls nobody any more.
        Self::start(settings, &log).inspect_err(|_| log.end())
    }

    fn start(settings: Arc<Settings>, log: &Arc<Logger>) -> Result<Self, StartError> {
        let callback_threads = settings.threads_callback;
        let (core, outlets) = core(settings, Arc::clone(log))?;
        let callbacks = Callbacks::start(callback_threads, Arc::clone(log)).map_err(StartError::System)?;
        let engine = Self {
            core,
            threads: Mutex::default(),
            queues: AtomicU64::new(1),
            callbacks: Arc::new(callbacks),
            reloading: Mutex::default(),
        };
        for (index, outlet) in outlets.into_iter().enumerate() {
            // An error drops the engine, which ends the threads that did start.
            let thread = engine.start_thread(index, outlet).map_err(StartError::System)?;
            engine.threads.lock().push(thread);
        }
        engine.log().log(LogLevel::Info, || format!("started: {}", engine.core.policy().settings.in_brief()));
        Ok(engine)
    }

    /// Accepts a check; never blocks. `receiver` gets exactly one decision for it, with `user_data`, never
    /// from inside this call, unless the check is cancelled first. Returns the check's ticket, which is never 0.
    pub fn submit(
        &self,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        user_data: usize,
    ) -> Result<u64, SubmitError> {
        self.batch(1).submit(check, receiver, Tag { user_data, owner: 0 }, |_| ())
    }

    /// Accepts many, with one wake-up of each I/O thread concerned. `each` gets every outcome, in order; one
    /// check that is refused does not spoil the others. The time of each begins when `checks` gives it; it may be sent on its way
    /// only when the call ends. Neither `each` nor `checks` may shut the engine down: that would
    /// wait for this call.
    pub fn submit_batch<'a>(
        &self,
        checks: impl IntoIterator<Item = (Check<'a>, usize)>,
        receiver: &Arc<dyn Receiver>,
        mut each: impl FnMut(Result<u64, SubmitError>),
    ) {
        // One by one: what runs between two of them may submit as well.
        let mut batch = self.batch(0);
        for (check, user_data) in checks {
            each(batch.submit(&check, receiver, Tag { user_data, owner: 0 }, |_| ()));
        }
    }

    /// Watches a connection that stays open: `receiver` gets the first decision, and then each change of it, with
    /// `user_data`, until [`Engine::cancel`] of the returned ticket. The backend is asked again when the time of a decision
    /// ends (`watch.interval` where it has none), spread and bounded by `watch.max_rate`. A watch also ends by itself, with
    /// a decision that says so ([`Decision::last`]): when its session, its user or all were revoked, when a newer session
    /// took its place (`sessions.enforce`), and with the engine.
    ///
    /// A change is what a host would act upon: the verdict, the user, the location, the limit of sessions; not who says so.
    /// If more than one happens before the host takes the first, it gets the last of them. [`SubmitError::Full`]:
    /// `watch.max` are open.
    pub fn watch(
        &self,
        check: &Check<'_>,
        receiver: &Arc<dyn Receiver>,
        user_data: usize,
    ) -> Result<u64, SubmitError> {
        self.batch(0).watch(check, receiver, Tag { user_data, owner: 0 }, |_| ())
    }

    /// For so many checks, between which none of the host's code runs.
    pub(crate) fn batch(&self, checks: usize) -> Batch<'_> {
        Batch::new(&self.core, checks)
    }

    /// A receiver that has `function` called, with what was passed with the check, on a callback thread. Make
    /// one and use it for every submit. `function` may submit, cancel and read statistics; `drain`, `shutdown`
    /// and dropping the engine would wait for itself.
    pub fn callback(&self, function: impl Fn(usize, Decision) + Send + Sync + 'static) -> Arc<dyn Receiver> {
        Arc::new(Callback { callbacks: Arc::clone(&self.callbacks), function: Arc::new(function) })
    }

    /// A queue for decisions to be fetched from, beside the host's other events. May outlive the engine; then it
    /// stays empty.
    pub fn queue(&self) -> io::Result<Queue> {
        let owner = self.queues.fetch_add(1, Ordering::Relaxed);
        Queue::new(Arc::clone(&self.core), owner)
    }

    /// One check, awaited on any executor. Dropping the future cancels the check.
    pub async fn check(&self, check: &Check<'_>) -> Result<Decision, SubmitError> {
        let one = Arc::new(One::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&one) as _;
        let ticket = Ticket::from_number(self.submit(check, &receiver, 0)?);
        Ok(Awaiting { core: Arc::clone(&self.core), one, ticket }.await)
    }

    /// One check; blocks the calling thread until it is decided, at most `timeout`. Not from a [`Receiver`],
    /// which would wait for itself.
    pub fn check_blocking(&self, check: &Check<'_>) -> Result<Decision, SubmitError> {
        let one = Arc::new(One::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&one) as _;
        self.submit(check, &receiver, 0)?;
        Ok(one.wait())
    }

    /// True: the check will never be delivered. False: it was, is being, or is about to be. Never waits.
    ///
    /// Of a watch: true: nothing more is delivered. False: it has ended, or another thread is just handing a decision to
    /// the receiver; then it ends all the same, and one more follows that is the last.
    pub fn cancel(&self, ticket: u64) -> bool {
        self.core.cancel(Ticket::from_number(ticket))
    }

    /// Turns to another configuration: backends, policy, credentials and log at once, while checks go on. Those
    /// accepted before end under the old one; one submitted after this never joins an exchange that began
    /// before. A thread that was on its way with a line may still hand it to the log before. On an error nothing has changed.
    /// Keys that shape threads and tables are refused by name.
    /// [`StartError::Closed`]: the engine is shut down, or shutting down.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        self.try_reload(config).inspect_err(|error| {
            self.log().log(LogLevel::Warn, || format!("the configuration stays as it was: {error}"));
        })
    }

    fn try_reload(&self, config: &Config) -> Result<(), StartError> {
        let settings = Arc::new(config.settings().map_err(StartError::Config)?);
        // One at a time: each keeps, or not, what the one before it had.
        let turn = self.reloading.lock();
        if self.core.is_closed() {
            return Err(StartError::Closed);
        }
        let now = self.core.policy();
        let fixed = |settings: &Settings| {
            [
                ("threads.io", settings.threads_io.to_string()),
                ("threads.callback", settings.threads_callback.to_string()),
                ("inbox.capacity", settings.inbox_capacity.to_string()),
                ("overload", if settings.overload_default { "default" } else { "refuse" }.to_owned()),
            ]
        };
        for ((key, before), (_, after)) in fixed(&now.settings).into_iter().zip(fixed(&settings)) {
            if before != after {
                let why =
                    format!("cannot change from {before} to {after} in a running engine; start a new one");
                return Err(StartError::Config(ConfigError::of(key, &why)));
            }
        }
        let policy = Policy::new(Arc::clone(&settings), Some(&now), &self.core.log)?;
        self.core.log.turn_to(settings.log_level, config.log().cloned());
        let forgets = !Arc::ptr_eq(&policy.memory, &now.memory);
        self.core.set_policy(policy);
        if forgets {
            // Here, and not on an I/O thread that happens to be the last to let go of it.
            now.memory.clear();
        }
        // Dropped here: the last one ends a resolver's thread.
        drop((now, turn));
        for warning in &settings.warnings {
            self.core.log.log(LogLevel::Warn, || warning.clone());
        }
        self.log().log(LogLevel::Info, || {
            let forgotten = if forgets { "; what was remembered is forgotten" } else { "" };
            format!("reloaded: {}{forgotten}", settings.in_brief())
        });
        Ok(())
    }

    /// What is remembered for this check and has not expired, as [`Engine::submit`] would deliver it. Never blocks and
    /// asks nobody: not a check that counts, begins no refresh, and never repeats a last known decision.
    pub fn lookup(&self, check: &Check<'_>) -> Result<Option<Decision>, SubmitError> {
        let core = &self.core;
        if core.is_closed() {
            return Err(SubmitError::Closed);
        }
        let policy = core.policy();
        let remembered = policy.draft(check, |draft| {
            let found = core.look_up(&policy, &draft, core.session(draft.session_id()), Instant::now());
            // What submit would refuse is refused here too, not called unknown.
            if found.is_none() { policy.admit(&draft).map(|_| None) } else { Ok(found) }
        });
        remembered.flatten().map_err(SubmitError::Invalid)
    }

    /// Forgets what is known of a session, at once. A check that is submitted after this is asked anew, and until the
    /// backend has answered, for `ttl.max` at most, the session gets neither a last known decision nor a default action
    /// that lets it in. The waiters of an exchange in progress get its answer, which is not remembered. With `sessions.enforce`
    /// the session gives its place back, and is not banned any more.
    pub fn revoke(&self, session_id: &[u8]) {
        self.core.revoke(session_id);
    }

    /// Forgets all that the backend said of this user (`X-UserId`), in whatever session. As [`Engine::revoke`], but for
    /// the default action: it denies where the engine still knows that the question was this user's.
    pub fn revoke_user(&self, user_id: &[u8]) {
        self.core.revoke_user(user_id);
    }

    /// Forgets everything. As [`Engine::revoke`] of every session; the default action denies until the backend has
    /// answered any check that was submitted after this, for `ttl.max` at most.
    pub fn revoke_all(&self) {
        self.core.revoke_all();
    }

    /// Waits until every check that was accepted before this call is decided; true when they are. Does not
    /// stop submits. Zero asks without waiting. Not from a [`Receiver`], which would wait for itself.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.core.drain(timeout)
    }

    /// Stops accepting, waits, then completes what is left with the default action and cause SHUTDOWN. True:
    /// nothing was left. Again: the same. Not from a [`Receiver`].
    pub fn shutdown(&self, timeout: Duration) -> bool {
        self.core.ledger.close();
        let drained = self.core.drain(timeout);
        self.stop();
        drained
    }

    /// Whether the calling thread is inside a callback, a line of the log or a thread hook of this engine, where `drain`,
    /// `shutdown` and `check_blocking` would wait for themselves.
    pub fn is_calling(&self) -> bool {
        self.core.log.calls().are_here()
    }

    /// Whether this process was forked from the one that made the engine. Then nothing of it may be used.
    pub fn is_forked(&self) -> bool {
        !self.core.fork.is_here()
    }

    pub(crate) fn log(&self) -> &Logger {
        &self.core.log
    }

    /// The operator's `default_action`: what a host does where submit itself fails for want of room.
    pub fn default_action(&self) -> Verdict {
        self.core.policy().settings.default_action
    }

    /// Counters at this instant.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    fn start_thread(&self, index: usize, outlet: Outlet) -> io::Result<Spawned> {
        let (before_park, after_park) = outlet.hooks();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_park(before_park)
            .on_thread_unpark(after_park)
            .build()?;
        let core = Arc::clone(&self.core);
        sys::spawn(format!("alta-io-{index}"), move || {
            let _thread = core.log.calls().thread();
            let mut outlet = outlet;
            loop {
                let next = outlet.again();
                let (core, of) = (Arc::clone(&core), core.inboxes.len());
                let local = LocalSet::new();
                let ended = local.block_on(&runtime, async {
                    let mut relay = pin!(outlet.relay());
                    let transports = Transports::new(outlet.poker(), move |policy| {
                        Transport::new(Arc::clone(&policy.shared), Arc::clone(&policy.gauges), index, of)
                    });
                    let work = Shard::new(Arc::clone(&core), outlet, transports, index).run();
                    // As a task of the local set: being woken by its neighbours then costs no system call.
                    let mut work = tokio::task::spawn_local(work);
                    poll_fn(|cx| {
                        let Poll::Pending = relay.as_mut().poll(cx);
                        Pin::new(&mut work).poll(cx)
                    })
                    .await
                });
                // With its tasks goes all that they owed: it is answered by being dropped.
                drop(local);
                if ended.is_ok() {
                    return;
                }
                // A defect. What it had taken in is answered; what waits, and what comes, goes to another one.
                core.note_restart(index);
                std::thread::sleep(RESTART_PAUSE);
                outlet = next;
            }
        })
    }

    fn stop(&self) {
        for inbox in &self.core.inboxes {
            inbox.stop();
        }
        // Held until all have ended: whoever else shuts down waits for that too.
        let mut threads = self.threads.lock();
        let first = !threads.is_empty();
        for thread in threads.drain(..) {
            // A receiver that drops the engine runs on the thread that would be waited for.
            thread.join();
        }
        drop(threads);
        self.core.wait_for_hand_overs();
        self.core.end_watches();
        self.callbacks.end();
        if first {
            let stats = self.core.stats();
            self.log().log(LogLevel::Info, || {
                format!("shut down: of {} checks {} were delivered", stats.submitted, stats.completed)
            });
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.ledger.close();
        self.stop();
        self.core.freed.store(true, Ordering::SeqCst);
        self.core.watches.clear();
        self.core.log.end();
    }
}

fn core(settings: Arc<Settings>, log: Arc<Logger>) -> Result<(Arc<Core>, Vec<Outlet>), StartError> {
    let (threads, capacity) = (settings.threads_io, settings.inbox_capacity);
    let spare = if settings.overload_default { capacity } else { 0 };
    let policy = Policy::new(settings, None, &log)?;
    let inboxes: io::Result<Vec<_>> = (0..threads).map(|_| inbox(capacity + spare)).collect();
    let (inboxes, outlets): (Vec<_>, Vec<_>) = inboxes.map_err(StartError::System)?.into_iter().unzip();
    let core = Core::new(policy, log, inboxes.into_boxed_slice()).map_err(StartError::System)?;
    Ok((Arc::new(core), outlets))
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system refused what the engine needs to start: {error}"),
            Self::Closed => f.write_str("the engine is shut down; start a new one"),
        }
    }
}

impl std::error::Error for StartError {}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Full => {
                f.write_str("inbox.capacity checks are pending, or watch.max watches open; apply the default action or try again")
            }
            Self::Closed => f.write_str("the engine is shut down; apply the default action"),
        }
    }
}

impl std::error::Error for SubmitError {}
