//! How far a flight's asking has come: what was tried, and what a waiter gets whose time is up before the answer.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Outage;
use super::deciding::{backend_decision, outage_decision};
use super::settling::late;
use crate::backend::Answer;
use crate::clock;
use crate::decision::{Cause, Decision};
use crate::engine::Policy;
use crate::transport::{Among, Progress, Stage};

/// How far a flight's asking has come; the engine looks here when a waiter's time is up.
#[derive(Default)]
pub(crate) struct Asking {
    /// Those under way, and the newest that has ended at each endpoint that was tried.
    attempts: RefCell<Vec<Attempt>>,
    /// Attempts that are over, if they are to be shown.
    past: Option<RefCell<Vec<Attempt>>>,
    /// That of an attempt of a former asking.
    spare: RefCell<Option<Rc<Progress>>>,
    /// Requests that have ended.
    pub(super) requests: Cell<usize>,
    /// Room that is kept for requests under way, besides that of whoever asks for it.
    pub(super) beside: Cell<usize>,
    /// A second endpoint was asked for the sake of time.
    pub(super) hedged: Cell<bool>,
    /// One of several that were asked at once has refused, and others may still allow.
    pub(super) refused: RefCell<Option<Box<Answer>>>,
    /// One endpoint was not asked for want of something of our own, or by a defect of ours.
    pub(super) lacked: RefCell<Option<Box<Outage>>>,
}

/// One request to one endpoint.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) endpoint: usize,
    pub(crate) progress: Rc<Progress>,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    /// The same question where it was asked before, on a fresh connection.
    pub(crate) again: bool,
    /// Ended before there was an answer or a failure, as nobody wanted to know any more.
    pub(crate) given_up: bool,
    pub(crate) failure: String,
}

impl Asking {
    /// Keeps every attempt with its bytes and times.
    pub(crate) fn traced() -> Self {
        Self { past: Some(RefCell::default()), ..Self::default() }
    }

    /// As a new one.
    pub(crate) fn reset(&mut self) {
        let attempts = self.attempts.get_mut();
        if let Some(attempt) = attempts.pop()
            && Rc::strong_count(&attempt.progress) == 1
        {
            *self.spare.get_mut() = Some(attempt.progress);
        }
        attempts.clear();
        let Self { attempts: _, past, spare: _, requests, beside, hedged, refused, lacked } = self;
        (*past, *refused.get_mut(), *lacked.get_mut()) = (None, None, None);
        (*requests.get_mut(), *beside.get_mut(), *hedged.get_mut()) = (0, 0, false);
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
        self.attempts.borrow().iter().any(|attempt| attempt.progress.stage() >= Stage::Written)
    }

    /// Nobody waits for it, and it is about to be dropped: what has not been sent yet is not to be.
    pub(crate) fn give_up(&self) {
        self.attempts.borrow().iter().for_each(|attempt| attempt.progress.given_up.set(true));
    }

    pub(super) fn begin(&self, endpoint: usize, among: Among, again: bool) -> UnderWay<'_> {
        let trace = self.past.is_some().then(RefCell::default);
        // The second of two is there because the first waits: never behind it on its connection.
        let apart = self.hedged.get();
        let begun = Progress::new(among, apart, trace);
        let mut spare = self.spare.take();
        let progress = match spare.as_mut().and_then(Rc::get_mut) {
            Some(progress) => {
                *progress = begun;
                spare.expect("it was there")
            }
            None => Rc::new(begun),
        };
        let attempt = Attempt {
            endpoint,
            progress: Rc::clone(&progress),
            began: clock::now(),
            ended: None,
            again,
            given_up: false,
            failure: String::new(),
        };
        let mut attempts = self.attempts.borrow_mut();
        attempts.retain(|attempt| attempt.endpoint != endpoint || attempt.ended.is_none());
        // Mostly it stays the only one; by itself a list begins with four.
        attempts.reserve_exact(1);
        attempts.push(attempt);
        UnderWay { asking: self, progress, over: false }
    }

    /// Requests that a check has used up or that others of it may still make.
    pub(super) fn spent(&self) -> usize {
        self.requests.get() + self.beside.get()
    }

    /// Since when the only attempt under way has what it needs to be answered. `None`: it waits in line, or is not alone.
    pub(super) fn alone_since(&self) -> Option<Instant> {
        let attempts = self.attempts.borrow();
        let mut running = attempts.iter().filter(|attempt| attempt.ended.is_none());
        let attempt = running.next().filter(|attempt| attempt.progress.stage() != Stage::Queued)?;
        let since = attempt.progress.lent.get().unwrap_or(attempt.began);
        running.next().is_none().then_some(since)
    }

    /// Where the attempt under way is asking.
    pub(super) fn current_address(&self) -> Option<IpAddr> {
        let attempts = self.attempts.borrow();
        attempts.iter().find(|attempt| attempt.ended.is_none())?.progress.address()
    }

    /// `failure`: `None` if it was given up.
    fn end(&self, progress: &Rc<Progress>, failure: Option<String>) -> bool {
        let mut attempts = self.attempts.borrow_mut();
        let this = attempts.iter_mut().find(|attempt| Rc::ptr_eq(&attempt.progress, progress));
        let Some(attempt) = this.filter(|attempt| attempt.ended.is_none()) else { return false };
        attempt.ended = Some(clock::now());
        attempt.given_up = failure.is_none();
        attempt.failure = failure.unwrap_or_default();
        let was_request = attempt.progress.stage() >= Stage::Written;
        self.requests.set(self.requests.get() + usize::from(was_request));
        if let Some(past) = &self.past {
            past.borrow_mut().push(attempt.clone());
        }
        was_request
    }

    /// It waits for a connection, and for nothing else.
    pub(crate) fn is_queued(&self) -> bool {
        let attempts = self.attempts.borrow();
        let mut running = attempts.iter().filter(|attempt| attempt.ended.is_none()).peekable();
        running.peek().is_some() && running.all(|attempt| attempt.progress.is_in_line())
    }

    /// Since when it is asked, if a connection for it is being made.
    pub(crate) fn connecting_since(&self) -> Option<Instant> {
        let attempts = self.attempts.borrow();
        let connects = |attempt: &Attempt| {
            attempt.ended.is_none()
                && (Stage::Resolving..=Stage::Handshaking).contains(&attempt.progress.stage())
        };
        attempts.iter().any(connects).then(|| attempts.iter().map(|attempt| attempt.began).min())?
    }

    /// What a waiter gets whose time is up while the flight goes on, and the outage if it is one.
    pub(crate) fn overdue(&self, policy: &Policy) -> (Decision, Option<Outage>) {
        if let Some(refused) = &*self.refused.borrow() {
            return (backend_decision((**refused).clone(), Duration::ZERO), None);
        }
        let attempts = self.attempts.borrow();
        let mut outage = self.lacked.borrow().as_deref().cloned();
        // How far one came that has ended says less than one that is still under way.
        let newest_first =
            |ended| attempts.iter().rev().filter(move |attempt| attempt.ended.is_some() == ended);
        for attempt in newest_first(false).chain(newest_first(true)) {
            match late(policy, attempt.endpoint, &attempt.progress) {
                Ok(answer) => return (backend_decision(answer, Duration::ZERO), None),
                Err(other) => {
                    let ours = attempt.ended.is_none() && other.is_ours();
                    if outage.as_ref().is_none_or(|known| ours && !known.is_ours()) {
                        outage = Some(other);
                    }
                }
            }
        }
        match outage {
            None => {
                let why = "the deadline passed before the check could be sent";
                (policy.without_answer(Cause::Overload, why), None)
            }
            Some(outage) => (outage_decision(policy, &outage), Some(outage)),
        }
    }
}

/// An attempt that has not ended. Dropped, it ends: nobody wants to know what becomes of it.
pub(super) struct UnderWay<'a> {
    asking: &'a Asking,
    pub(super) progress: Rc<Progress>,
    over: bool,
}

impl UnderWay<'_> {
    /// `failure`: why there was no answer. Whether it was a request.
    pub(super) fn ended(mut self, failure: String) -> bool {
        self.over = true;
        self.asking.end(&self.progress, Some(failure))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.asking.end(&self.progress, None);
        }
    }
}
