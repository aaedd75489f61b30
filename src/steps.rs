//! The steps of a check, one by one, for `benches/steps`: a door for a stopwatch, with the feature `steps` only. No part of
//! the interface.

use std::sync::Arc;
use std::time::SystemTime;

use crate::backend::{Judgement, Outgoing, Subject, judge};
use crate::check::{Check, Draft, Question};
use crate::config::Config;
use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::engine::{Ledger, Policy, Room};
use crate::observe::Logger;
use crate::transport::{RequestHead as _, read_section};

/// What one configuration makes of checks and replies.
pub struct Steps {
    policy: Arc<Policy>,
    ledger: Ledger,
    head: Vec<u8>,
}

impl Steps {
    /// # Panics
    /// Where the configuration is none.
    pub fn new(config: &Config) -> Self {
        let settings = Arc::new(config.settings().expect("a configuration"));
        let log = Logger::off();
        let policy = Arc::new(Policy::new(settings, None, &log).expect("a policy"));
        let ledger = Ledger::new(1024, 0, 1 << 40).expect("memory");
        Self { policy, ledger, head: Vec::new() }
    }

    /// Validates a check and writes its key. Returns the key's length.
    ///
    /// # Panics
    /// Where the check is none.
    pub fn key(&self, check: &Check<'_>) -> usize {
        self.policy.draft(check, |draft: Draft<'_>| draft.key().len()).expect("a check")
    }

    /// The question, for [`Steps::serialise`].
    ///
    /// # Panics
    /// Where the check is none.
    pub fn question(&self, check: &Check<'_>) -> Asked {
        let question = self.policy.accept(check).expect("a check");
        Asked(question)
    }

    /// Writes the request. Returns its length.
    pub fn serialise(&mut self, asked: &Asked) -> usize {
        self.head.clear();
        Outgoing { plan: &self.policy.plans[0], question: &asked.0 }.write_http1(&mut self.head);
        self.head.len()
    }

    /// Reads a reply's header section and judges it. True: it allows.
    pub fn parse(&self, reply: &[u8]) -> bool {
        let subject = Subject { session_id: b"", path_in_key: true };
        let judged = read_section(reply, |head| judge(&self.policy.replies, subject, head, SystemTime::now));
        matches!(judged, Some(Judgement::Decided(answer)) if answer.verdict == Verdict::Allow)
    }

    /// Reserves a place for a check, decides it, hands it over and gives the place back.
    ///
    /// # Panics
    /// Never: there is room.
    pub fn complete(&self) -> bool {
        let ticket = self.ledger.reserve(Room::Usual, 0, 0).expect("room");
        let decision = Decision::new(Verdict::Allow, Origin::Backend, Cause::None, "");
        let delivered = self.ledger.decide(ticket) && self.ledger.claim(ticket, &decision);
        self.ledger.release(ticket);
        delivered
    }
}

/// A check that was accepted.
pub struct Asked(Question);
