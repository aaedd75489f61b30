//! The shadow: a second backend that is asked what the backend has just answered, and never acted upon.
//!
//! Each answer of the backend, once an exchange and not once a check, is held against the shadow's own. The backend's
//! decision is on its way before the shadow is asked, and nothing of a shadow leads back to it: it has its own
//! connections, breaker, retries and deadline (`timeout`), and at most `shadow.max_pending` questions; beyond these it is
//! not asked. It reads no memory and writes none. At the engine's end it is not waited for. On the I/O thread whose answer
//! it is about: what it costs is the work of one more exchange there.

mod comparing;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use self::comparing::{compared, told};
use super::asking::{Asking, Means, ask};
use super::core::Core;
use super::outages::OutageLog;
use super::policy::Policy;
use super::retries::RetryBudget;
use super::transports::Transports;
use crate::backend::Answer;
use crate::check::Question;
use crate::observe::{LogLevel, Outcome, Seldom};

/// One I/O thread's part.
pub(crate) struct Shadow {
    core: Arc<Core>,
    transports: Transports,
    retries: RetryBudget,
    outages: OutageLog,
    disagreements: Seldom<Outcome>,
    /// Questions that it has not answered.
    pending: Cell<usize>,
    /// Which I/O thread this is.
    index: usize,
}

impl Shadow {
    /// `poke`: the thread looks at [`Shadow::next_line`].
    pub(crate) fn new(
        core: Arc<Core>,
        transports: Transports,
        index: usize,
        poke: impl Fn() + Clone + Send + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            outages: OutageLog::new(Arc::clone(&core.log), "the shadow", poke.clone()),
            core,
            transports,
            retries: RetryBudget::default(),
            disagreements: Seldom::new(poke),
            pending: Cell::new(0),
            index,
        })
    }

    pub(crate) fn turn_to(&self, policy: &Policy) {
        match &policy.shadow {
            Some(shadow) => self.transports.turn_to(Arc::clone(shadow)),
            None => self.transports.close(),
        }
    }

    pub(crate) fn close(&self) {
        self.transports.close();
    }

    /// The backend has answered: the shadow is asked too, in a task of its own. Never waits. `random`: any number, evenly
    /// distributed.
    pub(crate) fn ask(
        self: &Rc<Self>,
        policy: &Arc<Policy>,
        question: &Rc<Question>,
        answer: Answer,
        random: u64,
    ) {
        let Some(shadow) = &policy.shadow else { return };
        if !is_among(policy.settings.shadow.share, random) {
            return;
        }
        // Whether it could be sent to the backend was known when it was accepted; to the shadow, it is not.
        let fits = shadow.plans.iter().all(|plan| plan.admit(question).is_ok());
        if !fits || self.pending.get() >= self.most(policy) {
            self.core.shadow.count(Outcome::Skipped);
            return;
        }
        let owed = Owed::new(self);
        let (shadow, question) = (Arc::clone(shadow), Rc::clone(question));
        tokio::task::spawn_local(owed.asked(shadow, question, answer, random));
    }

    /// This thread's part of `shadow.max_pending`; the remainder goes to the first threads.
    fn most(&self, policy: &Policy) -> usize {
        let (most, of) = (policy.settings.shadow.max_pending, self.core.inboxes.len());
        most / of + usize::from(self.index < most % of)
    }

    fn heard(&self, outcome: Outcome, ours: &Answer, its: &Answer) {
        if is_said(outcome)
            && let Some(line) = self.disagreements.happened(outcome, || told(ours, its))
        {
            self.core.log.log(LogLevel::Warn, || line);
        }
    }

    /// When something of it is to be said, though nothing more happens.
    pub(crate) fn next_line(&self) -> Option<Instant> {
        self.outages.next_at().into_iter().chain(self.disagreements.next_at()).min()
    }

    /// What of it is to be said by now.
    pub(crate) fn say_unsaid(&self, now: Instant) {
        self.outages.say_unsaid(now);
        for unsaid in self.disagreements.unsaid(now) {
            self.core.log.log(LogLevel::Warn, || unsaid.line);
        }
    }
}

/// Or it is counted only.
fn is_said(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Denied | Outcome::Allowed | Outcome::Differed => true,
        Outcome::Agreed | Outcome::Unavailable | Outcome::Skipped => false,
    }
}

/// Whether a number, evenly distributed, is among so many percent of all. By its size: what is chosen by it later is chosen by its remainders:
/// those that 100 divides are all even, and would all go to the first of two.
fn is_among(percent: u32, random: u64) -> bool {
    (u128::from(random) * 100) >> 64 < u128::from(percent)
}

/// A question that the shadow has not answered: one of so many, and counted once whatever becomes of it.
struct Owed {
    shadow: Rc<Shadow>,
    outcome: Outcome,
}

impl Owed {
    fn new(shadow: &Rc<Shadow>) -> Self {
        shadow.pending.set(shadow.pending.get() + 1);
        Self { shadow: Rc::clone(shadow), outcome: Outcome::Skipped }
    }

    async fn asked(mut self, policy: Arc<Policy>, question: Rc<Question>, answer: Answer, random: u64) {
        let route = self.shadow.transports.of(&policy);
        route.part_where_probed();
        let asking = Asking::default();
        let means = Means {
            transport: &route.transport,
            retries: &self.shadow.retries,
            alarms: None,
            policy: &policy,
            question: &question,
            deadline: Instant::now() + policy.settings.timeout,
            asking: &asking,
            may_hedge: false,
            random,
        };
        match ask(&means).await {
            Ok(its) => {
                self.outcome = compared(&answer, &its);
                self.shadow.heard(self.outcome, &answer, &its);
            }
            Err(outage) => {
                self.outcome = Outcome::Unavailable;
                self.shadow.outages.note(&outage);
            }
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.shadow.pending.set(self.shadow.pending.get() - 1);
        self.shadow.core.shadow.count(self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::is_among;
    use crate::outage::two_of;

    #[test]
    fn who_is_in_the_share_goes_to_any_endpoint_and_address() {
        let mut state = 1_u64;
        // splitmix64, as the shard has it
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        for percent in [1, 5, 50, 100] {
            let asked: Vec<u64> =
                (0..2_000_000 / percent).map(|_| next()).filter(|&of| is_among(percent, of)).collect();
            assert!((19_000..=21_000).contains(&asked.len()), "{percent} %: {}", asked.len());
            for count in 2..=5 {
                for rotated in [0, 16] {
                    let mut picked = vec![[0_usize; 2]; count];
                    for number in &asked {
                        let (one, other) = two_of(count, number.rotate_left(rotated));
                        picked[one][0] += 1;
                        picked[other][1] += 1;
                    }
                    let even = asked.len() / count;
                    let near = |&times: &usize| times.abs_diff(even) < even / 10;
                    assert!(picked.iter().flatten().all(near), "{percent} %, {count}, {rotated}: {picked:?}");
                }
            }
        }
    }
}
