//! How far a flight's asking has come: what was tried, and what a waiter gets whose time is up before the answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::deciding::{backend_decision, outage_decision};
use super::settling::late;
use crate::backend::Answer;
use crate::decision::{Cause, Decision};
use crate::engine::Policy;
use crate::transport::{Among, Progress, Stage};

/// How far a flight's asking has come; the engine looks here when a waiter's time is up.
#[derive(Default)]
pub(crate) struct Asking {
    /// The newest attempt at each endpoint that was tried.
    attempts: RefCell<Vec<Attempt>>,
    /// Attempts that are over, if they are to be shown.
    past: Option<RefCell<Vec<Attempt>>>,
    pub(super) requests: Cell<usize>,
    /// One of several that were asked at once has refused, and others may still allow.
    pub(super) refused: RefCell<Option<Answer>>,
}

/// One request to one endpoint.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) endpoint: usize,
    pub(crate) progress: Rc<Progress>,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) failure: String,
}

impl Asking {
    /// Keeps every attempt with its bytes and times.
    pub(crate) fn traced() -> Self {
        Self { past: Some(RefCell::default()), ..Self::default() }
    }

    /// Every attempt of a traced asking.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let past = self.past.as_ref().map(|past| past.borrow().clone()).unwrap_or_default();
        // Those that have ended are among the past already.
        let current =
            self.attempts.borrow().iter().filter(|attempt| attempt.ended.is_none()).cloned().collect();
        [past, current].concat()
    }

    /// Something of the request may have reached a backend.
    pub(crate) fn written(&self) -> bool {
        self.attempts.borrow().iter().any(|attempt| attempt.progress.stage.get() >= Stage::Written)
    }

    pub(super) fn begin(&self, endpoint: usize, among: Among) -> Rc<Progress> {
        self.end(endpoint, String::new());
        let trace = self.past.is_some().then(RefCell::default);
        let progress = Rc::new(Progress { among, trace, ..Progress::default() });
        let attempt = Attempt {
            endpoint,
            progress: Rc::clone(&progress),
            began: Instant::now(),
            ended: None,
            failure: String::new(),
        };
        let mut attempts = self.attempts.borrow_mut();
        attempts.retain(|attempt| attempt.endpoint != endpoint);
        attempts.push(attempt);
        progress
    }

    /// The attempt at this endpoint is over.
    pub(super) fn end(&self, endpoint: usize, failure: String) {
        let mut attempts = self.attempts.borrow_mut();
        let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.endpoint == endpoint) else { return };
        if attempt.ended.is_some() {
            return;
        }
        attempt.ended = Some(Instant::now());
        attempt.failure = failure;
        if attempt.progress.stage.get() >= Stage::Written {
            self.requests.set(self.requests.get() + 1);
        }
        if let Some(past) = &self.past {
            past.borrow_mut().push(attempt.clone());
        }
    }

    /// It waits for a connection, and for nothing else.
    pub(crate) fn is_queued(&self) -> bool {
        let attempts = self.attempts.borrow();
        attempts.last().is_some_and(|attempt| attempt.progress.stage.get() == Stage::Queued)
    }

    /// What a waiter gets whose time is up while the flight goes on.
    pub(crate) fn overdue(&self, policy: &Policy) -> Decision {
        if let Some(refused) = &*self.refused.borrow() {
            return backend_decision(refused.clone(), Duration::ZERO);
        }
        let attempts = self.attempts.borrow();
        let mut outage = None;
        for attempt in attempts.iter().rev() {
            match late(policy, attempt.endpoint, &attempt.progress) {
                Ok(answer) => return backend_decision(answer, Duration::ZERO),
                Err(newest) => {
                    outage.get_or_insert(newest);
                }
            }
        }
        match outage {
            None => {
                policy.without_answer(Cause::Overload, "the deadline passed before the check could be sent")
            }
            Some(outage) => outage_decision(policy, &outage),
        }
    }
}
