//! The checks of one engine's life that are pending, and what is right for each of them.
//!
//! A check has a place and a turn at it; both are its `user_data`. A decision takes the check from its place, as does a cancel
//! that came in time: whoever finds nothing there, or another turn, has found a check that was answered twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alta_auth::{Cause, Decision, Origin, Verdict};
use parking_lot::{Condvar, Mutex};

use super::support::microseconds;
use super::world::{PATHS, Told, USERS, allows, lifetime, user};

pub(crate) const SESSIONS: u64 = 5000;
const TURN_BITS: u32 = 32;
/// Beyond a lifetime and a timeout: what a busy machine may take to see a reply.
const SLACK: u64 = 5_000_000;

/// What decides about right and wrong in one life.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) default: Verdict,
    pub(crate) scope: &'static str,
    pub(crate) timeout: Duration,
    pub(crate) last_known: Duration,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one check")]
pub(crate) struct Asked {
    pub(crate) session: u64,
    /// The backend never answers it.
    pub(crate) mute: bool,
    pub(crate) ip: u64,
    pub(crate) token: u64,
    pub(crate) path: usize,
    pub(crate) fresh: bool,
    /// Given to a queue.
    pub(crate) queued: bool,
    at: u64,
    /// The backend must have been asked after this: the session, its user or all were revoked.
    not_before: u64,
    revoked: bool,
    /// The rule when it was submitted, or a later one.
    rule: u64,
    /// Once submit has returned: the ticket, and the last rule that can have been the one.
    submitted: Option<(u64, u64)>,
}

#[derive(Default)]
struct Place {
    turn: u64,
    asked: Option<Asked>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    pub(crate) cancelled: u64,
    pub(crate) full: u64,
    pub(crate) denied: u64,
    pub(crate) allowed: u64,
    pub(crate) origins: [u64; 4],
    pub(crate) causes: [u64; 16],
}

pub(crate) struct Claims {
    pub(crate) terms: Terms,
    places: Box<[Mutex<Place>]>,
    free: Mutex<Vec<usize>>,
    freed: Condvar,
    tally: Mutex<Tally>,
    wrong: Mutex<Option<String>>,
    /// Those that are answered and the mute ones in turns.
    sessions: Box<[Revoked]>,
    users: Box<[Revoked]>,
    all: Revoked,
    /// Whether anything was.
    any: AtomicBool,
    /// The rule of the last reload that has returned, and of the last that began.
    pub(crate) turned: AtomicU64,
    pub(crate) turning: AtomicU64,
    /// The engine has been told to end.
    pub(crate) closing: AtomicBool,
}

impl Asked {
    pub(crate) fn queued(self, queued: bool) -> Self {
        Self { queued, ..self }
    }

    pub(crate) fn not_fresh(self) -> Self {
        Self { fresh: false, ..self }
    }

    pub(crate) fn audible(self) -> Self {
        Self { mute: false, ..self }
    }
}

/// When the last revocation that has returned began, and when the last that has begun did; 0: none.
#[derive(Default)]
struct Revoked {
    at: AtomicU64,
    begun: AtomicU64,
}

impl Revoked {
    fn during(&self, revoke: impl FnOnce()) {
        let now = microseconds();
        self.begun.store(now, Ordering::SeqCst);
        revoke();
        self.at.store(now, Ordering::SeqCst);
    }

    fn at(&self) -> u64 {
        self.at.load(Ordering::SeqCst)
    }

    fn begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst) > 0
    }
}

fn index(session: u64, mute: bool) -> usize {
    session as usize * 2 + usize::from(mute)
}

fn never(count: u64) -> Box<[Revoked]> {
    (0..count).map(|_| Revoked::default()).collect()
}

impl Claims {
    pub(crate) fn new(terms: Terms, places: usize, rule: u64) -> Self {
        Self {
            terms,
            places: (0..places).map(|_| Mutex::default()).collect(),
            free: Mutex::new((0..places).collect()),
            freed: Condvar::new(),
            tally: Mutex::default(),
            wrong: Mutex::default(),
            sessions: never(2 * SESSIONS),
            users: never(USERS),
            all: Revoked::default(),
            any: AtomicBool::new(false),
            turned: AtomicU64::new(rule),
            turning: AtomicU64::new(rule),
            closing: AtomicBool::new(false),
        }
    }

    /// A check that is about to be submitted, with what is known of revocations and reloads before it is.
    pub(crate) fn asking(&self, session: u64, mute: bool, drawn: u64) -> Asked {
        let asked = Asked {
            session,
            mute,
            ip: 1 + drawn % 3,
            token: (drawn >> 8) % 4,
            path: (drawn >> 16) as usize % PATHS.len(),
            fresh: (drawn >> 24).is_multiple_of(64),
            queued: false,
            at: 0,
            not_before: 0,
            revoked: false,
            rule: 0,
            submitted: None,
        };
        self.again(&asked)
    }

    /// The same question, asked now.
    pub(crate) fn again(&self, asked: &Asked) -> Asked {
        let own = self.sessions[index(asked.session, asked.mute)].at();
        let user = self.users[(asked.session % USERS) as usize].at();
        Asked {
            not_before: own.max(user).max(self.all.at()),
            revoked: own > 0,
            rule: self.turned.load(Ordering::SeqCst),
            submitted: None,
            at: microseconds(),
            ..*asked
        }
    }

    /// A place for it, if there is one within `patience`.
    pub(crate) fn claim(&self, patience: Duration) -> Option<usize> {
        let mut free = self.free.lock();
        if free.is_empty() {
            self.freed.wait_for(&mut free, patience);
        }
        free.pop()
    }

    /// The check's `user_data`.
    pub(crate) fn put(&self, place: usize, asked: Asked) -> usize {
        let mut at = self.places[place].lock();
        at.turn += 1;
        at.asked = Some(asked);
        (at.turn as usize) << TURN_BITS | place
    }

    /// It was accepted; its decision may have come already.
    pub(crate) fn accepted(&self, user_data: usize, ticket: u64) {
        let until = self.turning.load(Ordering::SeqCst);
        let mut place = self.places[user_data & (u32::MAX as usize)].lock();
        if place.turn == (user_data >> TURN_BITS) as u64
            && let Some(asked) = &mut place.asked
        {
            asked.submitted = Some((ticket, until));
        }
        self.tally.lock().accepted += 1;
    }

    /// It was not accepted.
    pub(crate) fn refused(&self, user_data: usize, full: bool) {
        self.tally.lock().full += u64::from(full);
        if self.take(user_data).is_none() {
            self.wrong(|| "decided, and not accepted".to_owned());
        }
    }

    /// One more that was not accepted.
    pub(crate) fn count_full(&self) {
        self.tally.lock().full += 1;
    }

    pub(crate) fn decided(&self, user_data: usize, decision: &Decision) {
        match self.take(user_data) {
            Some(asked) => {
                self.judge(&asked, decision);
                self.count(decision);
            }
            None => self.wrong(|| format!("decided twice, or after its cancel: {decision:?}")),
        }
    }

    /// One that was asked otherwise, and is decided.
    pub(crate) fn asked_and_decided(&self, asked: &Asked, decision: &Decision) {
        self.tally.lock().accepted += 1;
        self.judge(asked, decision);
        self.count(decision);
    }

    fn count(&self, decision: &Decision) {
        let mut tally = self.tally.lock();
        if decision.allows() {
            tally.allowed += 1;
        } else {
            tally.denied += 1;
        }
        tally.origins[decision.origin as usize] += 1;
        tally.causes[decision.cause as usize] += 1;
    }

    /// The ticket of what is pending at this place, and its `user_data`.
    pub(crate) fn pending(&self, place: usize) -> Option<(u64, usize)> {
        let at = self.places[place].lock();
        let (ticket, _) = at.asked?.submitted?;
        Some((ticket, (at.turn as usize) << TURN_BITS | place))
    }

    /// Its cancel came in time: it is still here, and nothing comes any more.
    pub(crate) fn cancelled(&self, user_data: usize) {
        self.tally.lock().cancelled += 1;
        if self.take(user_data).is_none() {
            self.wrong(|| "cancelled, and decided".to_owned());
        }
    }

    pub(crate) fn revoke_session(&self, of: &Asked, revoke: impl FnOnce()) {
        self.any.store(true, Ordering::SeqCst);
        self.sessions[index(of.session, of.mute)].during(revoke);
    }

    pub(crate) fn revoke_user(&self, of: &Asked, revoke: impl FnOnce()) {
        self.any.store(true, Ordering::SeqCst);
        self.users[(of.session % USERS) as usize].during(revoke);
    }

    pub(crate) fn revoke_all(&self, revoke: impl FnOnce()) {
        self.any.store(true, Ordering::SeqCst);
        self.all.during(revoke);
    }

    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// What is pending, as far as `which` goes.
    pub(crate) fn left(&self, which: impl Fn(&Asked) -> bool) -> usize {
        self.places.iter().filter(|place| place.lock().asked.as_ref().is_some_and(&which)).count()
    }

    /// The first thing that was not right.
    pub(crate) fn first_wrong(&self) -> Option<String> {
        self.wrong.lock().clone()
    }

    pub(crate) fn wrong(&self, what: impl FnOnce() -> String) {
        self.wrong.lock().get_or_insert_with(what);
    }

    fn take(&self, user_data: usize) -> Option<Asked> {
        let place = user_data & (u32::MAX as usize);
        let asked = {
            let mut at = self.places[place].lock();
            if at.turn != (user_data >> TURN_BITS) as u64 {
                return None;
            }
            at.asked.take()
        }?;
        self.free.lock().push(place);
        self.freed.notify_one();
        Some(asked)
    }

    pub(crate) fn judge(&self, asked: &Asked, decision: &Decision) {
        let judged = match decision.origin {
            Origin::Default => self.judge_default(asked, decision),
            _ => self.judge_answer(asked, decision),
        };
        if let Err(why) = judged {
            self.wrong(|| {
                format!(
                    "{why}: {asked:?} got {decision:?}, user {}, location {}, {}; {:?}, rules {}..={}, now {}",
                    decision.user_id(),
                    decision.location(),
                    decision.detail(),
                    self.terms,
                    self.turned.load(Ordering::SeqCst),
                    self.turning.load(Ordering::SeqCst),
                    microseconds()
                )
            });
        }
    }

    fn judge_default(&self, asked: &Asked, decision: &Decision) -> Result<(), &'static str> {
        let cause = decision.cause;
        let by_shutdown = cause == Cause::Shutdown && self.closing.load(Ordering::SeqCst);
        if cause == Cause::Overload {
            return (!decision.allows()).then_some(()).ok_or("an overload allows");
        }
        if !(cause.is_outage() || cause == Cause::BreakerOpen || by_shutdown) {
            return Err("not an outage");
        }
        // Nobody has answered for it since.
        if asked.mute && asked.revoked {
            return (!decision.allows()).then_some(()).ok_or("revoked, and allowed by default");
        }
        // Also if that was after it was asked.
        let revoked = [
            &self.sessions[index(asked.session, asked.mute)],
            &self.users[(asked.session % USERS) as usize],
            &self.all,
        ];
        // An id that shares another's entry of the table is revoked with it; what is dropped at the end is nobody's any more.
        let shared = decision.detail().ends_with("revoked: deny") || by_shutdown;
        let may_deny =
            revoked.iter().any(|revoked| revoked.begun()) || (shared && self.any.load(Ordering::SeqCst));
        let right = decision.verdict == self.terms.default || (may_deny && !decision.allows());
        right.then_some(()).ok_or("not the default action")
    }

    fn judge_answer(&self, asked: &Asked, decision: &Decision) -> Result<(), &'static str> {
        if decision.location().is_empty() && decision.origin == Origin::Backend && !decision.allows() {
            // A refusal whose header section was spoilt.
            return Ok(());
        }
        let Some(told) = Told::parse(decision.location()) else { return Err("an answer without a location") };
        let until = asked.submitted.map_or_else(|| self.turning.load(Ordering::SeqCst), |(_, until)| until);
        let part = |path: &str| match self.terms.scope {
            "path" => path.to_owned(),
            "directory" => path[..=path.rfind('/').unwrap_or(0)].to_owned(),
            _ => String::new(),
        };
        let (timeout, lifetime) =
            (self.terms.timeout.as_micros() as u64, lifetime(asked.session) * 1_000_000);
        let oldest = match decision.origin {
            Origin::LastKnown => timeout + lifetime + self.terms.last_known.as_micros() as u64 + SLACK,
            Origin::Memory => timeout + lifetime + SLACK,
            _ => timeout + SLACK,
        };
        let known = decision.origin == Origin::LastKnown;
        let rules = [
            (!asked.mute, "an answer for a session that the backend never answers"),
            (
                (told.session, told.ip, told.token) == (asked.session, asked.ip, asked.token),
                "another check's answer",
            ),
            (part(&told.path) == part(PATHS[asked.path]), "another path's answer"),
            (decision.user_id() == user(asked.session), "another user"),
            ((asked.rule..=until).contains(&told.rule), "by a rule that was not in force"),
            (
                decision.allows() == allows(told.rule, told.session, told.token),
                "not what the backend's rule says",
            ),
            (told.at >= asked.not_before, "said before it was revoked"),
            (told.at + oldest >= asked.at, "older than it may be"),
            (decision.origin != Origin::Memory || lifetime > 0, "remembered, and may not be"),
            (decision.origin != Origin::Memory || !asked.fresh, "remembered, and was to be asked"),
            (known == (decision.cause != Cause::None), "a cause where there is an answer"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(*why))
    }
}
