//! One I/O thread's watches: whose they are, and when each is to be asked about again.
//!
//! Asking again is bounded: `watch.max_rate` of an engine, divided among its I/O threads. What is due and may not be asked
//! yet waits in the order in which it became due, so that the end of very many decisions, or a backend that is back,
//! meets a steady stream and not a stampede. Until a watch is asked about, its last decision stands.
//!
//! Pure bookkeeping: no clock, no I/O.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flights::FlightId;
use super::inbox::{Asked, Whose};
use super::limits::Limits;
use super::policy::Policy;
use super::revocations::Mark;
use super::watch::Watch;
use crate::check::Question;
use crate::decision::{Decision, Origin};

pub(super) struct Watched {
    pub(super) watch: Arc<Watch>,
    pub(super) policy: Arc<Policy>,
    pub(super) question: Rc<Question>,
    /// The keyed hash of the question's key.
    pub(super) hash: u64,
    pub(super) session: u64,
    /// Under what that was asked for; at first, when the watch was opened.
    pub(super) mark: Mark,
    /// The flight that it waits for.
    pub(super) flight: Option<FlightId>,
    /// The keyed hash of the user's id, once the backend has named it.
    user: Option<u64>,
    place: Option<Place>,
    /// `None`: it is being asked about.
    due: Option<Instant>,
    /// What said when that is.
    wait: Wait,
}

/// The place that a watch holds.
struct Place {
    among: Arc<Limits>,
    user: Box<str>,
    number: u64,
}

/// How long a watch is not asked about.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    pub(super) by: Bound,
    /// Its bound counts from here: from when the decision was made, or from when there was none.
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// What bounds that time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// `ttl.max`: its decision may be reused.
    TtlMax,
    /// `watch.interval`
    Interval,
}

impl Watched {
    pub(super) fn user(&self) -> Option<u64> {
        self.user
    }
}

#[derive(Default)]
pub(super) struct Watches {
    by_ticket: HashMap<u64, Watched>,
    due: BTreeSet<(Instant, u64)>,
    of_session: HashMap<u64, HashSet<u64>>,
    of_key: HashMap<u64, HashSet<u64>>,
    of_user: HashMap<u64, HashSet<u64>>,
    /// When the next one may be asked about if they are asked about evenly.
    next: Option<Instant>,
}

/// How far the even pace may be run ahead of after a pause.
const AHEAD: Duration = Duration::from_millis(100);

const FROM_THE_TABLES: &str = "the tables name watches that are there";

impl Watches {
    /// A new one, which is being asked about. `user`: the keyed hash of its user, if that is known.
    pub(super) fn add(&mut self, watch: Arc<Watch>, asked: Asked, user: Option<u64>) {
        let Asked { policy, question, hash, mark } = asked;
        let (ticket, session, question) = (watch.ticket, mark.session, Rc::new(question));
        self.of_session.entry(session).or_default().insert(ticket);
        self.of_key.entry(hash).or_default().insert(ticket);
        if let Some(user) = user {
            self.of_user.entry(user).or_default().insert(ticket);
        }
        let now = Instant::now();
        let (flight, place, due) = (None, None, None);
        let wait = Wait { by: Bound::TtlMax, since: now, until: now };
        let watched =
            Watched { watch, policy, question, hash, session, mark, flight, user, place, due, wait };
        self.by_ticket.insert(ticket, watched);
    }

    /// It waits for this flight.
    pub(super) fn waits_for(&mut self, ticket: u64, flight: FlightId) {
        if let Some(watched) = self.by_ticket.get_mut(&ticket) {
            watched.flight = Some(flight);
        }
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Watched> {
        self.by_ticket.get(&ticket)
    }

    /// It has ended, and gives its place back.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Watched> {
        let mut watched = self.by_ticket.remove(&ticket)?;
        if let Some(place) = watched.place.take() {
            place.among.left(&place.user, watched.session, place.number);
        }
        if let Some(due) = watched.due {
            self.due.remove(&(due, ticket));
        }
        take_out(&mut self.of_session, watched.session, ticket);
        take_out(&mut self.of_key, watched.hash, ticket);
        if let Some(user) = watched.user {
            take_out(&mut self.of_user, user, ticket);
        }
        Some(watched)
    }

    /// It holds a place of the user whose session was let in, as long as it is. `limits`: where one is enforced.
    pub(super) fn place(&mut self, ticket: u64, decision: &Decision, limits: Option<&Arc<Limits>>) {
        let Some(watched) = self.by_ticket.get_mut(&ticket) else { return };
        let user = if decision.allows() { decision.user_id() } else { "" };
        // A default action knows nothing of the user, which takes nothing back.
        if decision.allows() && decision.origin == Origin::Default {
            return;
        }
        let stays = |place: &Place| {
            &*place.user == user && limits.is_none_or(|limits| Arc::ptr_eq(limits, &place.among))
        };
        if let Some(before) = watched.place.take_if(|place| !stays(place)) {
            before.among.left(&before.user, watched.session, before.number);
        }
        // Without a limit that is enforced there is no place to hold, and nobody takes the lock.
        if let Some(among) = limits.filter(|_| !user.is_empty()) {
            let held = watched.place.take().map(|place| place.number);
            let entered = among.entered(user, watched.session, held);
            watched.place =
                entered.map(|number| Place { among: Arc::clone(among), user: user.into(), number });
        }
    }

    /// After a reload: it is asked about by another policy.
    pub(super) fn turn_to(&mut self, ticket: u64, policy: Arc<Policy>, question: Rc<Question>, hash: u64) {
        let Some(watched) = self.by_ticket.get_mut(&ticket) else { return };
        take_out(&mut self.of_key, watched.hash, ticket);
        self.of_key.entry(hash).or_default().insert(ticket);
        (watched.policy, watched.question, watched.hash) = (policy, question, hash);
    }

    /// The same of all whose question stays what it is, so that they keep no former policy alive, with its resolver. Where what is
    /// asked is the same, so are question and key; the others are asked about soon (`all_are_due`).
    pub(super) fn all_turn_to(&mut self, policy: &Arc<Policy>) {
        for watched in self.by_ticket.values_mut() {
            if Arc::ptr_eq(&watched.policy.memory, &policy.memory) {
                watched.policy = Arc::clone(policy);
            }
        }
    }

    /// Those of this question.
    pub(super) fn of_key(&self, hash: u64, key: &[u8]) -> Vec<u64> {
        let tickets = self.of_key.get(&hash).into_iter().flatten();
        tickets.filter(|ticket| self.by_ticket[ticket].question.key() == key).copied().collect()
    }

    /// Those that wait by this bound wait for no longer than `most` from when they were decided.
    pub(super) fn cut(&mut self, bound: Bound, most: impl Fn() -> Duration) {
        for (due, ticket) in std::mem::take(&mut self.due) {
            let watched = self.by_ticket.get_mut(&ticket).expect(FROM_THE_TABLES);
            let wait = watched.wait;
            let due = if wait.by == bound { due.min(wait.since + most()) } else { due };
            watched.due = Some(due);
            self.due.insert((due, ticket));
        }
    }

    /// It has its decision, of this user, asked for under `mark`; to be asked about again after `wait`.
    pub(super) fn decided(&mut self, ticket: u64, user: Option<u64>, mark: Mark, wait: Wait) {
        let Some(watched) = self.by_ticket.get_mut(&ticket) else { return };
        watched.mark = mark;
        let before = std::mem::replace(&mut watched.user, user);
        if before != user {
            if let Some(before) = before {
                take_out(&mut self.of_user, before, ticket);
            }
            if let Some(user) = user {
                self.of_user.entry(user).or_default().insert(ticket);
            }
        }
        self.undecided(ticket, wait);
    }

    /// The backend said nothing of it; to be asked about again after `wait`.
    pub(super) fn undecided(&mut self, ticket: u64, wait: Wait) {
        let Some(watched) = self.by_ticket.get_mut(&ticket) else { return };
        (watched.flight, watched.wait) = (None, wait);
        let due = wait.until;
        if let Some(before) = watched.due.replace(due) {
            self.due.remove(&(before, ticket));
        }
        self.due.insert((due, ticket));
    }

    /// Each is to be asked about again: it was asked under other rules.
    pub(super) fn all_are_due(&mut self, now: Instant) {
        let due = std::mem::take(&mut self.due);
        for (_, ticket) in due {
            self.by_ticket.get_mut(&ticket).expect(FROM_THE_TABLES).due = Some(now);
            self.due.insert((now, ticket));
        }
    }

    /// One that is to be asked about now, and may be, one a `pace`.
    pub(super) fn next(&mut self, now: Instant, pace: Duration) -> Option<u64> {
        let &(due, ticket) = self.due.first()?;
        let even = self.next.map_or(now, |next| next.max(now));
        if due > now || even > now + AHEAD.saturating_sub(pace) {
            return None;
        }
        self.next = Some(even + pace);
        self.due.pop_first();
        self.by_ticket.get_mut(&ticket).expect(FROM_THE_TABLES).due = None;
        Some(ticket)
    }

    /// When there will be one.
    pub(super) fn next_at(&self, pace: Duration) -> Option<Instant> {
        let &(due, _) = self.due.first()?;
        let allowed = self.next.and_then(|next| next.checked_sub(AHEAD.saturating_sub(pace)));
        Some(allowed.map_or(due, |allowed| due.max(allowed)))
    }

    pub(super) fn of(&self, whose: Whose) -> Vec<u64> {
        match whose {
            Whose::Session(session) | Whose::Displaced(session) => listed(&self.of_session, session),
            Whose::User(user) => listed(&self.of_user, user),
            Whose::All => self.by_ticket.keys().copied().collect(),
        }
    }
}

fn take_out(table: &mut HashMap<u64, HashSet<u64>>, key: u64, ticket: u64) {
    if let Some(tickets) = table.get_mut(&key) {
        tickets.remove(&ticket);
        if tickets.is_empty() {
            table.remove(&key);
        }
    }
}

fn listed(table: &HashMap<u64, HashSet<u64>>, key: u64) -> Vec<u64> {
    table.get(&key).into_iter().flatten().copied().collect()
}
