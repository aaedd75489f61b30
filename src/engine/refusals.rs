//! What was not accepted: counted, and those for want of room said in the log. Their servers have taken the default action
//! themselves. One I/O thread says so for all; where it sleeps, as nothing that was accepted gives it anything to do, it is woken.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use tokio::time::Instant;

use super::SubmitError;
use super::core::Core;
use super::policy::Policy;
use crate::observe::{LogLevel, Logger, Seldom};

/// What came and was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Comer {
    Check,
    Watch,
}

/// Beside the ledger's count of checks.
#[derive(Default)]
pub(crate) struct Refusals {
    watches: AtomicU64,
    invalid: AtomicU64,
    /// The thread that says so was called, and has said nothing since.
    called: AtomicBool,
}

impl Refusals {
    /// Checks and watches that could not be asked about.
    pub(super) fn invalid(&self) -> u64 {
        self.invalid.load(Ordering::Relaxed)
    }

    /// One more of them.
    pub(super) fn unfit(&self) {
        self.invalid.fetch_add(1, Ordering::Relaxed);
    }
}

impl Core {
    /// This one was not accepted.
    pub(super) fn refused(&self, comer: Comer, error: SubmitError) {
        let refusals = &self.refusals;
        match (error, comer) {
            (SubmitError::Closed, _) => return,
            (SubmitError::Invalid(_), _) => {
                refusals.unfit();
                return;
            }
            (SubmitError::Full, Comer::Check) => self.ledger.refused(),
            (SubmitError::Full, Comer::Watch) => {
                refusals.watches.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.call_for_a_line();
    }

    /// The thread that says so is to look at the counts, unless it was called already.
    pub(super) fn call_for_a_line(&self) {
        let called = &self.refusals.called;
        // Counted first: whoever clears `called` after it was read here reads the counts after that. See `RefusalLog::hear_again`.
        fence(Ordering::SeqCst);
        if !called.load(Ordering::Relaxed) && !called.swap(true, Ordering::AcqRel) {
            self.inboxes[0].turn();
        }
    }

    /// How many found no room since the engine began.
    pub(super) fn without_room(&self, comer: Comer) -> u64 {
        match comer {
            Comer::Check => self.ledger.refusals(),
            Comer::Watch => self.refusals.watches.load(Ordering::Relaxed),
        }
    }
}

pub(crate) struct RefusalLog {
    log: Arc<Logger>,
    checks: Cell<u64>,
    watches: Cell<u64>,
    said: Seldom<Comer>,
    /// The thread takes another turn.
    poke: Box<dyn Fn()>,
}

impl RefusalLog {
    /// Of what comes from now on.
    pub(crate) fn new(core: &Core, poke: impl Fn() + 'static) -> Self {
        core.refusals.called.store(false, Ordering::Release);
        Self {
            log: Arc::clone(&core.log),
            checks: Cell::new(core.without_room(Comer::Check)),
            watches: Cell::new(core.without_room(Comer::Watch)),
            // Nobody notes any but the shard, in its turn.
            said: Seldom::new(|| ()),
            poke: Box::new(poke),
        }
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.said.next_at()
    }

    /// What was refused since the last time. Says what is to be said by now.
    pub(crate) fn note(&self, core: &Core, policy: &Policy, now: Instant) {
        for (comer, seen) in [(Comer::Check, &self.checks), (Comer::Watch, &self.watches)] {
            let refused = core.without_room(comer);
            let new = refused - seen.replace(refused);
            if new > 0
                && let Some(unsaid) = self.said.several(comer, new)
            {
                self.say(comer, new + unsaid, core, policy);
            }
        }
        for unsaid in self.said.unsaid(now) {
            self.say(unsaid.kind, unsaid.times, core, policy);
        }
        // Who was counted before it called may have been said before it called: nothing more is to be said that would clear this.
        if self.said.next_at().is_none() && core.refusals.called.load(Ordering::Relaxed) {
            self.hear_again(core);
        }
    }

    /// From here on the next one calls again. Whoever read `called` before this does not, but has counted itself before it read,
    /// with a fence between, as here: the turn after this sees its count. So no refusal stays unseen, and a turn that sees
    /// nothing new and nobody who called is the last.
    fn hear_again(&self, core: &Core) {
        core.refusals.called.swap(false, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        (self.poke)();
    }

    fn say(&self, comer: Comer, refused: u64, core: &Core, policy: &Policy) {
        self.hear_again(core);
        let settings = &policy.settings;
        self.log.log(LogLevel::Warn, || match comer {
            Comer::Check => {
                let (checks, pending) = (counted(refused, "check"), have_been(settings.inbox_capacity));
                format!("no room for {checks}, as {pending} pending (inbox.capacity): the backend is slow or silent, or decisions are not taken")
            }
            Comer::Watch => {
                let (watches, open) = (counted(refused, "watch"), have_been(settings.watch.max));
                format!("no room for {watches}, as {open} open (watch.max)")
            }
        });
    }
}

fn counted(number: u64, what: &str) -> String {
    let end = match (number, what) {
        (1, _) => "",
        (_, "watch") => "es",
        _ => "s",
    };
    format!("{number} {what}{end}")
}

fn have_been(number: usize) -> String {
    format!("{number} {}", if number == 1 { "was" } else { "were" })
}
