//! Flights: the exchanges in progress on one I/O thread, and the checks that wait for each.
//!
//! A flight is found by its full key, under the same policy; the hash only says where to look. Waiters live in
//! a table indexed by their ledger slot and are linked per flight, so that joining, cancelling and timing out
//! cost the same whether a flight has one waiter or ten thousand. A flight outlives the check that began it.
//!
//! What a flight takes with it is used again (`kits.rs`).
//!
//! Pure bookkeeping: no clock, no I/O.

use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashTable;
use tokio::time::Instant;

use super::asking::Asking;
use super::chains::{Chain, Chains};
use super::completion::Completion;
use super::crew::Hand;
use super::deadlines::Deadlines;
use super::departures::{Called, Clearance, Departure, Standing};
use super::inbox::Asked;
use super::kits::{Kit, Kits};
use super::ledger::Ticket;
use super::policy::Policy;
use super::revocations::Mark;
use super::transports::Route;
use crate::check::Question;

pub(crate) type FlightId = usize;

#[expect(clippy::struct_excessive_bools, reason = "independent facts about one flight")]
pub(crate) struct Flight {
    pub(crate) policy: Arc<Policy>,
    pub(crate) question: Rc<Question>,
    pub(crate) asking: Rc<Asking>,
    /// The task that runs the exchange, once it was told to.
    pub(crate) hand: Option<Rc<Hand>>,
    pub(super) departure: Departure,
    /// The asking is over: whoever leaves now does not end the flight, its task is about to.
    pub(crate) landing: bool,
    pub(crate) hash: u64,
    pub(crate) mark: Mark,
    /// The how many-th of this thread to depart; until then beyond all.
    number: u64,
    /// One that began later has its answer already: what this one will hear is older.
    pub(crate) overtaken: bool,
    /// Begun for the sake of what is remembered: nobody waits for it, unless somebody joined.
    pub(crate) refresh: bool,
    /// Watches that want its answer too.
    pub(crate) watches: Vec<u64>,
    joinable: bool,
    waiters: Chain,
}

struct Waiter {
    completion: Completion,
    deadline: Instant,
    flight: FlightId,
}

impl Waiter {
    /// One that waits only to learn why has no time left.
    fn is_in_time(&self, now: Instant) -> bool {
        self.deadline > now && !self.completion.graced
    }
}

/// Moved when it begins and when it ends; what is larger is moved by a call.
const _: () = assert!(size_of::<Flight>() <= 128);

/// What became of a check that came in.
pub(crate) enum Boarding {
    /// It waits for an exchange that is under way.
    Joined,
    /// It waits for a new one, which is to be begun.
    Began(FlightId),
}

#[derive(Default)]
pub(crate) struct Flights {
    by_key: HashTable<FlightId>,
    all: Vec<Option<Flight>>,
    vacant: Vec<FlightId>,
    waiters: Vec<Option<Waiter>>,
    /// Those of a flight are in its chain.
    aboard: Chains,
    deadlines: Deadlines,
    /// Those that stand by, each in the chain of its route, and how many they are.
    standby: Chains,
    standing: usize,
    kits: Kits,
    /// Flights that ever departed.
    departed: u64,
    /// Those among the present ones that were begun to refresh.
    refreshing: usize,
}

const LISTED: &str = "an id is given up when its flight is removed";
const LINKED: &str = "who is in a flight's chain waits for it";

impl Flights {
    /// A check waits for the flight of its key, until `deadline`. `is_joinable` says which marks were not revoked. What
    /// comes back beside it is memory of a question that is not needed any more.
    pub(crate) fn board(
        &mut self,
        asked: Asked,
        is_joinable: impl Fn(Mark) -> bool,
        mut completion: Completion,
        deadline: Instant,
    ) -> (Boarding, Option<Vec<u8>>) {
        if let Some(id) = self.joinable(&asked.policy, asked.question.key(), asked.hash, is_joinable) {
            completion.joined = true;
            self.link(id, completion, deadline);
            return (Boarding::Joined, Some(asked.question.into_bytes()));
        }
        let (kit, spare) = self.kits.pack(asked.question);
        let id = self.begin(asked.policy, kit, asked.hash, asked.mark);
        self.link(id, completion, deadline);
        (Boarding::Began(id), spare)
    }

    /// A flight is over, its task has let go of it.
    pub(crate) fn unpack(&mut self, kit: Kit) {
        self.kits.unpack(kit);
    }

    /// Whether a check would join a flight.
    pub(crate) fn takes_on(
        &self,
        policy: &Arc<Policy>,
        key: &[u8],
        hash: u64,
        is_joinable: impl Fn(Mark) -> bool,
    ) -> bool {
        self.joinable(policy, key, hash, is_joinable).is_some()
    }

    /// A flight that nobody waits for, unless there is one for this key. At most `most` of these at a time.
    pub(crate) fn refresh(
        &mut self,
        asked: Asked,
        is_joinable: impl Fn(Mark) -> bool,
        most: usize,
    ) -> Option<FlightId> {
        let Asked { policy, question, hash, .. } = &asked;
        if self.refreshing >= most || self.joinable(policy, question.key(), *hash, is_joinable).is_some() {
            return None;
        }
        let (kit, _) = self.kits.pack(asked.question);
        let id = self.begin(asked.policy, kit, asked.hash, asked.mark);
        self.all[id].as_mut().expect(LISTED).refresh = true;
        self.refreshing += 1;
        Some(id)
    }

    /// A watch waits for the flight of its key. Returns the flight, and whether it is a new one.
    pub(crate) fn watch(
        &mut self,
        policy: &Arc<Policy>,
        question: &Rc<Question>,
        hash: u64,
        mark: Mark,
        is_joinable: impl Fn(Mark) -> bool,
        ticket: u64,
    ) -> (FlightId, bool) {
        let joined = self.joinable(policy, question.key(), hash, is_joinable);
        let id = joined.unwrap_or_else(|| {
            let kit = Kit { question: Rc::clone(question), asking: Rc::default() };
            self.begin(Arc::clone(policy), kit, hash, mark)
        });
        self.all[id].as_mut().expect(LISTED).watches.push(ticket);
        (id, joined.is_none())
    }

    /// The watch waits no more.
    pub(crate) fn unwatch(&mut self, id: FlightId, ticket: u64) {
        if let Some(flight) = &mut self.all[id] {
            flight.watches.retain(|&other| other != ticket);
        }
    }

    /// The watches that wait for the flight.
    pub(crate) fn take_watches(&mut self, id: FlightId) -> Vec<u64> {
        std::mem::take(&mut self.all[id].as_mut().expect(LISTED).watches)
    }

    /// Whether anybody waits for its answer.
    pub(crate) fn is_awaited(&self, id: FlightId) -> bool {
        !self.is_empty(id) || !self.flight(id).watches.is_empty()
    }

    /// The flight that a check may join: of the same key, under the same policy, begun after every reload and
    /// revocation that came before the check.
    fn joinable(
        &self,
        policy: &Arc<Policy>,
        key: &[u8],
        hash: u64,
        is_joinable: impl Fn(Mark) -> bool,
    ) -> Option<FlightId> {
        let same = |&id: &FlightId| {
            let flight = self.flight(id);
            flight.question.key() == key && Arc::ptr_eq(&flight.policy, policy) && is_joinable(flight.mark)
        };
        self.by_key.find(hash, same).copied()
    }

    /// The flight has its answer: those of its key that began earlier will have an older one.
    pub(crate) fn overtake(&mut self, id: FlightId) {
        let (hash, number) = (self.flight(id).hash, self.flight(id).number);
        let question = Rc::clone(&self.flight(id).question);
        for &other in self.by_key.iter_hash(hash) {
            let other = self.all[other].as_mut().expect(LISTED);
            other.overtaken |= other.number < number && other.question.key() == question.key();
        }
    }

    pub(crate) fn flight(&self, id: FlightId) -> &Flight {
        self.all[id].as_ref().expect(LISTED)
    }

    /// It is under way from now on.
    pub(super) fn depart(&mut self, id: FlightId, hand: Rc<Hand>, clearance: Clearance) {
        self.departed += 1;
        let number = self.departed;
        let flight = self.all[id].as_mut().expect(LISTED);
        (flight.hand, flight.number) = (Some(hand), number);
        flight.departure = Departure::Cleared(clearance);
    }

    /// Its own from now on.
    pub(super) fn take_clearance(&mut self, id: FlightId) -> Option<Clearance> {
        match std::mem::take(&mut self.all[id].as_mut().expect(LISTED).departure) {
            Departure::Cleared(clearance) => Some(clearance),
            _ => None,
        }
    }

    /// Until it is called up, its time is up, or nobody waits for it any more.
    pub(super) fn stand_by(&mut self, id: FlightId, route: Rc<Route>, until: Instant) {
        let mut chain = route.departures.standby.get();
        self.standby.append(&mut chain, id as u32);
        route.departures.standby.set(chain);
        self.standing += 1;
        self.all[id].as_mut().expect(LISTED).departure =
            Departure::StandsBy(Box::new(Standing::new(route, until)));
    }

    /// Whether any stand by.
    pub(super) fn has_standby(&self) -> bool {
        self.standing > 0
    }

    /// When the time of the first of the route's is up.
    pub(super) fn standby_until(&self, route: &Route) -> Option<Instant> {
        let first = route.departures.standby.get().first()?;
        match &self.flight(first as FlightId).departure {
            Departure::StandsBy(standing) => Some(standing.until),
            _ => None,
        }
    }

    /// The first of the route's that stand by.
    pub(super) fn call_up(&mut self, route: &Route, now: Instant) -> Option<Called> {
        let until = self.standby_until(route)?;
        let id = route.departures.standby.get().first()? as FlightId;
        self.stand_down(id);
        if self.is_in_time(id, now) || !self.flight(id).watches.is_empty() {
            return Some(if until > now { Called::Up(id, until) } else { Called::Over(id) });
        }
        let flight = self.all[id].as_mut().expect(LISTED);
        flight.departure = Departure::TooLate;
        self.close(id);
        Some(Called::TooLate)
    }

    /// Whether any waiter has time left.
    fn is_in_time(&self, id: FlightId, now: Instant) -> bool {
        let mut slots =
            std::iter::successors(self.flight(id).waiters.first(), |&slot| self.aboard.next(slot));
        slots.any(|slot| self.waiters[slot as usize].as_ref().expect(LINKED).is_in_time(now))
    }

    fn stand_down(&mut self, id: FlightId) {
        let flight = self.all[id].as_mut().expect(LISTED);
        if let Departure::StandsBy(standing) = &flight.departure {
            let departures = &standing.route.departures;
            let mut chain = departures.standby.get();
            self.standby.remove(&mut chain, id as u32);
            departures.standby.set(chain);
            self.standing -= 1;
            flight.departure = Departure::Open;
        }
    }

    pub(crate) fn set_landing(&mut self, id: FlightId) {
        self.all[id].as_mut().expect(LISTED).landing = true;
    }

    /// Whether the flight is still listed.
    pub(crate) fn contains(&self, id: FlightId) -> bool {
        self.all[id].is_some()
    }

    /// When the next waiter runs out of time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// A waiter whose time has come leaves its flight.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(FlightId, Completion)> {
        let (deadline, slot) = self.deadlines.first()?;
        (deadline <= now).then(|| self.unlink(slot))
    }

    /// A cancelled waiter leaves its flight. `None`: it is not here, or not any more.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<(FlightId, Completion)> {
        let waiter = self.waiters.get(ticket.slot() as usize)?.as_ref()?;
        (waiter.completion.ticket() == ticket).then(|| self.unlink(ticket.slot()))
    }

    pub(crate) fn is_empty(&self, id: FlightId) -> bool {
        self.flight(id).waiters.first().is_none()
    }

    /// The flight takes nobody on any more.
    pub(crate) fn close(&mut self, id: FlightId) {
        let flight = self.all[id].as_mut().expect(LISTED);
        if std::mem::take(&mut flight.joinable) {
            let hash = flight.hash;
            if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == id) {
                entry.remove();
            }
        }
    }

    /// One waiter of the flight, until there is none.
    pub(crate) fn disembark(&mut self, id: FlightId) -> Option<Completion> {
        let first = self.flight(id).waiters.first()?;
        Some(self.unlink(first).1)
    }

    /// The flight is over; it has no waiters.
    pub(crate) fn remove(&mut self, id: FlightId) -> Flight {
        assert!(self.is_empty(id), "a flight with waiters would lose them");
        self.close(id);
        self.stand_down(id);
        self.vacant.push(id);
        let flight = self.all[id].take().expect(LISTED);
        self.refreshing -= usize::from(flight.refresh);
        flight
    }

    /// The flight ran out of time: its waiters with time left move together into a new one, which is
    /// returned; those without stay.
    pub(crate) fn rebook(&mut self, id: FlightId, now: Instant) -> Option<FlightId> {
        self.close(id);
        let mut next = self.flight(id).waiters.first();
        let mut later = None;
        while let Some(slot) = next {
            next = self.aboard.next(slot);
            let waiter = self.waiters[slot as usize].as_ref().expect(LINKED);
            let deadline = waiter.deadline;
            if waiter.is_in_time(now) {
                let flight = self.flight(id);
                let (policy, question) = (Arc::clone(&flight.policy), Rc::clone(&flight.question));
                let (hash, mark) = (flight.hash, flight.mark);
                let later = *later.get_or_insert_with(|| {
                    self.begin(policy, Kit { question, asking: Rc::default() }, hash, mark)
                });
                let (_, completion) = self.unlink(slot);
                self.link(later, completion, deadline);
            }
        }
        later
    }

    /// Every flight, for the end.
    pub(crate) fn ids(&self) -> Vec<FlightId> {
        (0..self.all.len()).filter(|&id| self.all[id].is_some()).collect()
    }

    fn begin(&mut self, policy: Arc<Policy>, kit: Kit, hash: u64, mark: Mark) -> FlightId {
        let flight = Flight {
            policy,
            question: kit.question,
            asking: kit.asking,
            hand: None,
            departure: Departure::Open,
            landing: false,
            hash,
            mark,
            number: u64::MAX,
            overtaken: false,
            refresh: false,
            watches: Vec::new(),
            joinable: true,
            waiters: Chain::default(),
        };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.all[id] = Some(flight);
        let all = &self.all;
        self.by_key.insert_unique(hash, id, |&id| all[id].as_ref().expect(LISTED).hash);
        id
    }

    /// The check waits for the flight until `deadline`.
    pub(crate) fn link(&mut self, id: FlightId, completion: Completion, deadline: Instant) {
        let slot = completion.ticket().slot();
        let flight = self.all[id].as_mut().expect(LISTED);
        self.aboard.append(&mut flight.waiters, slot);
        if self.waiters.len() <= slot as usize {
            self.waiters.resize_with(slot as usize + 1, || None);
        }
        self.deadlines.insert(deadline, slot);
        self.waiters[slot as usize] = Some(Waiter { completion, deadline, flight: id });
    }

    fn unlink(&mut self, slot: u32) -> (FlightId, Completion) {
        let waiter = self.waiters[slot as usize].take().expect(LINKED);
        self.deadlines.remove(waiter.deadline, slot);
        let flight = self.all[waiter.flight].as_mut().expect(LISTED);
        self.aboard.remove(&mut flight.waiters, slot);
        (waiter.flight, waiter.completion)
    }
}
