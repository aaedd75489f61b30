//! How many sessions of a user may watch at a time, as the backend says: `X-UserId`, `X-Max-Sessions`, `X-Unique`.
//!
//! An allowed session takes a place of its user. A watch holds it as long as it is open; a session without one (HLS: one
//! request after another) as long as it is asked about, that is until nobody has for `sessions.idle`. Where there
//! is no place left, either the newest session is refused or the oldest gives way (`sessions.enforce`). Who had to go is
//! banned for as long as its decision would have been reused: the same session does not come back by asking again. That is
//! what Flussonic documents of its limit (flussonic.com/doc/limit-sessions-per-user); a new session of the viewer is
//! let in as soon as there is a place.
//!
//! Places and bans belong to what is remembered under one shape of the configuration, and go with it. A revocation takes them with
//! it, too: who is revoked is not banned any more, and has no place. A lower `ttl.max` ends bans as it ends decisions.
//!
//! In an outage, when a ban may have ended and the backend cannot be asked, who was let in before (`last_known`) goes on in its
//! place or takes one that is free.
//!
//! `X-Unique: true` is a limit of one (assumed: the vendor does not define it) where `X-Max-Sessions` is absent, 0 or no number:
//! hosts are told 0 of all three.
//!
//! Bounded: users that have neither places nor bans are forgotten; a user has at most as many places as its limit says
//! and [`MOST_BANS`] bans. A limit over [`MOST_PLACES`] is how backends write that there is none, and is not enforced: each check
//! of the user would walk over all that one client cares to open. Behind one lock, which is taken only where limits are enforced
//! and the backend set one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Enforce;

/// Of one user: what a higher limit says is that there is none.
pub(crate) const MOST_PLACES: usize = 4096;
/// Of one user; one more, and the oldest is forgotten.
const MOST_BANS: usize = 64;
/// Users are looked through for what has ended whenever their number has doubled, but not before there are so many.
const LEAST_USERS: usize = 1024;

/// How many sessions a user may have; 0: the backend set no limit.
pub(crate) fn most_sessions(max_sessions: u32, unique: bool) -> u32 {
    if max_sessions == 0 { unique.into() } else { max_sessions }
}

#[derive(Default)]
pub(crate) struct Limits {
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    by_id: HashMap<Arc<str>, User>,
    of_session: OfSession,
    /// How many users there may be before they are looked through.
    most: usize,
    /// Of the last place that was taken.
    number: u64,
}

/// Sessions, each with the users among whose places or bans it is.
type OfSession = BTreeSet<(u64, Arc<str>)>;

struct User {
    id: Arc<str>,
    /// The oldest first.
    places: Vec<Place>,
    /// The oldest first. Nobody who is banned has a place.
    bans: Vec<Ban>,
}

struct Place {
    session: u64,
    /// Tells it from one that the session took before.
    number: u64,
    watches: usize,
    /// When it was asked about last, in milliseconds of the engine's time.
    used: u64,
    /// For how long it is banned, if it has to give way.
    life: Life,
}

struct Ban {
    session: u64,
    life: Life,
}

/// Of the decision that a place or a ban hangs on, in milliseconds of the engine's time.
#[derive(Clone, Copy)]
struct Life {
    from: u64,
    ttl: u64,
}

/// A session that asks for a place.
#[derive(Clone, Copy)]
pub(crate) struct Asks<'a> {
    pub(crate) user: &'a str,
    /// By the keyed hash of its id.
    pub(crate) session: u64,
    /// How many places the user has.
    pub(crate) limit: usize,
    pub(crate) enforce: Enforce,
    pub(crate) now: u64,
    pub(crate) idle: Duration,
    /// For how long the decision may be reused.
    pub(crate) ttl: Duration,
    /// For how long any may be by now.
    pub(crate) ttl_max: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has a place.
    Admitted,
    /// It has one, and these had to give way.
    InPlaceOf(Vec<u64>),
    /// It is over the limit, now or since it was banned.
    Refused,
}

impl Limits {
    /// Whether the session may go on, or begin.
    pub(crate) fn admit(&self, asks: Asks<'_>) -> Admission {
        let mut users = self.users.lock();
        let (user, of_session, number) = users.of(asks);
        if user.is_banned(asks.session) {
            return Admission::Refused;
        }
        let life = Life { from: asks.now, ttl: asks.ttl.as_millis() as u64 };
        if let Some(place) = user.place(asks.session) {
            (place.used, place.life) = (asks.now, life);
            return Admission::Admitted;
        }
        let over = (user.places.len() + 1).saturating_sub(asks.limit);
        if over > 0 && asks.enforce == Enforce::Newest {
            user.ban(asks.session, life, of_session);
            return Admission::Refused;
        }
        let gone: Vec<_> = user.places.drain(..over.min(user.places.len())).collect();
        for place in &gone {
            user.ban(place.session, place.life, of_session);
        }
        user.take_place(asks, life, number, of_session);
        if gone.is_empty() {
            Admission::Admitted
        } else {
            Admission::InPlaceOf(gone.into_iter().map(|place| place.session).collect())
        }
    }

    /// Whether a session that the backend let in before may go on in an outage: it holds a place or takes one that is free.
    /// Nobody gives way to it, and nobody is banned.
    pub(crate) fn admit_known(&self, asks: Asks<'_>) -> bool {
        let mut users = self.users.lock();
        let (user, of_session, number) = users.of(asks);
        if user.is_banned(asks.session) {
            return false;
        }
        if let Some(place) = user.place(asks.session) {
            place.used = asks.now;
            return true;
        }
        let is_free = user.places.len() < asks.limit;
        if is_free {
            user.take_place(asks, Life { from: asks.now, ttl: 0 }, number, of_session);
        }
        is_free
    }

    /// Whether the session holds a place, or is banned: what can be said of it without taking one. `None`: neither.
    pub(crate) fn standing(&self, asks: Asks<'_>) -> Option<bool> {
        let mut users = self.users.lock();
        let Users { by_id, of_session, .. } = &mut *users;
        let user = by_id.get_mut(asks.user)?.tidy(asks, of_session);
        if user.is_banned(asks.session) {
            return Some(false);
        }
        let place = user.place(asks.session)?;
        place.used = asks.now;
        Some(true)
    }

    /// A watch of the session holds its place until [`Limits::left`] of the number that this gives, if it does not hold
    /// it already. `None`: it has none.
    pub(crate) fn entered(&self, user: &str, session: u64, held: Option<u64>) -> Option<u64> {
        let mut users = self.users.lock();
        let place = users.by_id.get_mut(user)?.place(session)?;
        if held != Some(place.number) {
            place.watches += 1;
        }
        Some(place.number)
    }

    /// A watch of the session is over. Without another the place is free, whenever it was asked about: the connection is
    /// closed, and a session that also asks takes another place.
    pub(crate) fn left(&self, user: &str, session: u64, number: u64) {
        let mut users = self.users.lock();
        let Users { by_id, of_session, .. } = &mut *users;
        let Some(user) = by_id.get_mut(user) else { return };
        if let Some(place) = user.place(session).filter(|place| place.number == number) {
            place.watches = place.watches.saturating_sub(1);
            if place.watches == 0 {
                user.forget(session, of_session);
            }
        }
    }

    /// The session was revoked.
    pub(crate) fn forget(&self, session: u64) {
        let mut users = self.users.lock();
        let Users { by_id, of_session, .. } = &mut *users;
        let its = of_session.range((session, Arc::from(""))..).take_while(|(of, _)| *of == session);
        for (_, user) in its.cloned().collect::<Vec<_>>() {
            if let Some(user) = by_id.get_mut(&user) {
                user.forget(session, of_session);
            }
        }
    }

    /// The user was.
    pub(crate) fn forget_user(&self, user: &str) {
        let mut users = self.users.lock();
        let Some(user) = users.by_id.remove(user) else { return };
        for session in user.sessions() {
            users.of_session.remove(&(session, Arc::clone(&user.id)));
        }
    }

    /// All were.
    pub(crate) fn clear(&self) {
        let mut users = self.users.lock();
        let all = (std::mem::take(&mut users.by_id), std::mem::take(&mut users.of_session));
        // Their memory is given back where nobody waits for it.
        drop(users);
        drop(all);
    }
}

#[cfg(test)]
impl Limits {
    /// How many places and bans there are.
    pub(super) fn held(&self) -> (usize, usize) {
        let users = self.users.lock();
        let sum = |count: fn(&User) -> usize| users.by_id.values().map(count).sum();
        (sum(|user| user.places.len()), sum(|user| user.bans.len()))
    }
}

impl Users {
    /// The user who asks, without what has ended; and the number of a place that it may take.
    fn of(&mut self, asks: Asks<'_>) -> (&mut User, &mut OfSession, u64) {
        self.number += 1;
        let Self { by_id, of_session, most, number } = self;
        if !by_id.contains_key(asks.user) {
            if by_id.len() >= (*most).max(LEAST_USERS) {
                by_id.retain(|_, user| !user.tidy(asks, of_session).is_empty());
                *most = 2 * by_id.len();
            }
            let id = Arc::<str>::from(asks.user);
            by_id.insert(Arc::clone(&id), User { id, places: Vec::new(), bans: Vec::new() });
        }
        let user = by_id.get_mut(asks.user).expect("just inserted if it was not there");
        (user.tidy(asks, of_session), of_session, *number)
    }
}

impl User {
    /// By the time and the settings of whoever asks.
    fn tidy(&mut self, Asks { now, idle, ttl_max, .. }: Asks<'_>, of_session: &mut OfSession) -> &mut Self {
        let (idle, bound) = (idle.as_millis() as u64, ttl_max.as_millis() as u64);
        let mut stays = |session, holds: bool| {
            if !holds {
                of_session.remove(&(session, Arc::clone(&self.id)));
            }
            holds
        };
        self.places
            .retain(|place| stays(place.session, place.watches > 0 || place.used.saturating_add(idle) > now));
        self.bans.retain(|ban| stays(ban.session, ban.life.end(bound) > now));
        self
    }

    fn place(&mut self, session: u64) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.session == session)
    }

    fn take_place(&mut self, asks: Asks<'_>, life: Life, number: u64, of_session: &mut OfSession) {
        of_session.insert((asks.session, Arc::clone(&self.id)));
        self.places.push(Place { session: asks.session, number, watches: 0, used: asks.now, life });
    }

    fn is_empty(&self) -> bool {
        self.places.is_empty() && self.bans.is_empty()
    }

    fn is_banned(&self, session: u64) -> bool {
        self.bans.iter().any(|ban| ban.session == session)
    }

    fn ban(&mut self, session: u64, life: Life, of_session: &mut OfSession) {
        if self.bans.len() == MOST_BANS {
            let oldest = self.bans.remove(0);
            of_session.remove(&(oldest.session, Arc::clone(&self.id)));
        }
        of_session.insert((session, Arc::clone(&self.id)));
        self.bans.push(Ban { session, life });
    }

    fn forget(&mut self, session: u64, of_session: &mut OfSession) {
        of_session.remove(&(session, Arc::clone(&self.id)));
        self.places.retain(|place| place.session != session);
        self.bans.retain(|ban| ban.session != session);
    }

    fn sessions(&self) -> impl Iterator<Item = u64> {
        let places = self.places.iter().map(|place| place.session);
        places.chain(self.bans.iter().map(|ban| ban.session))
    }
}

impl Life {
    /// At most `bound` after it began.
    fn end(self, bound: u64) -> u64 {
        self.from.saturating_add(self.ttl.min(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::Admission::{Admitted, InPlaceOf, Refused};
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const DAY: Duration = Duration::from_hours(24);

    fn asks(session: u64, enforce: Enforce, now: u64) -> Asks<'static> {
        Asks {
            user: "u",
            session,
            limit: 2,
            enforce,
            now,
            idle: IDLE,
            ttl: Duration::from_mins(1),
            ttl_max: DAY,
        }
    }

    #[test]
    fn the_newest_is_refused_and_does_not_come_back_while_its_decision_would_live() {
        let limits = Limits::default();
        let ask = |session, now| limits.admit(asks(session, Enforce::Newest, now));
        assert_eq!((ask(1, 0), ask(2, 0), ask(3, 0)), (Admitted, Admitted, Refused));
        assert_eq!((ask(1, 20_000), ask(2, 20_000)), (Admitted, Admitted), "who has a place keeps it");
        // Both places are free at 50 s, and the third is banned until 60 s.
        assert_eq!(ask(3, 55_000), Refused);
        assert_eq!(ask(4, 55_000), Admitted, "another session of the same user");
        assert_eq!(ask(3, 60_000), Admitted);
    }

    #[test]
    fn the_oldest_gives_way_and_does_not_come_back() {
        let limits = Limits::default();
        let ask = |session, now| limits.admit(asks(session, Enforce::Oldest, now));
        assert_eq!((ask(1, 0), ask(2, 1), ask(3, 2)), (Admitted, Admitted, InPlaceOf(vec![1])));
        assert_eq!(ask(1, 3), Refused);
        assert_eq!((ask(2, 3), ask(3, 3)), (Admitted, Admitted));
        assert_eq!(ask(4, 4), InPlaceOf(vec![2]));
        assert_eq!(ask(1, 59_999), Refused);
    }

    #[test]
    fn a_place_is_free_when_nobody_asks_or_its_watch_is_over() {
        let limits = Limits::default();
        let ask = |session, now| limits.admit(asks(session, Enforce::Newest, now));
        assert_eq!((ask(1, 0), ask(2, 0)), (Admitted, Admitted));
        let number = limits.entered("u", 1, None).unwrap();
        assert_eq!(ask(3, 31_000), Admitted, "nobody asked for the second for 30 s");
        assert_eq!(ask(4, 200_000), Admitted, "nor for the third");
        assert_eq!(ask(5, 200_000), Refused, "the first has a watch");
        limits.left("u", 1, number);
        assert_eq!(ask(6, 200_001), Admitted);
    }

    #[test]
    fn a_watch_that_is_over_frees_its_place_also_right_after_the_start() {
        let limits = Limits::default();
        let ask = |session, now| limits.admit(Asks { limit: 1, ..asks(session, Enforce::Newest, now) });
        assert_eq!(ask(1, 1_000), Admitted);
        let number = limits.entered("u", 1, None);
        assert!(
            number.is_some()
                && limits.entered("u", 2, None).is_none()
                && limits.entered("v", 1, None).is_none()
        );
        assert_eq!(limits.entered("u", 1, number), number, "held once");
        limits.left("u", 1, number.unwrap());
        assert_eq!(ask(2, 2_000), Admitted, "its only watch is over");
    }

    #[test]
    fn a_watch_of_a_place_that_was_forgotten_takes_nothing_from_the_next() {
        let limits = Limits::default();
        let ask = |session, now| limits.admit(Asks { limit: 1, ..asks(session, Enforce::Newest, now) });
        assert_eq!(ask(1, 0), Admitted);
        let before = limits.entered("u", 1, None).unwrap();
        limits.forget(1);
        assert_eq!(ask(1, 1), Admitted, "the same session, anew");
        let after = limits.entered("u", 1, Some(before)).unwrap();
        assert_ne!(before, after);
        limits.left("u", 1, before);
        assert_eq!(ask(2, 100_000), Refused, "its watch is open");
        limits.left("u", 1, after);
        assert_eq!(ask(3, 100_001), Admitted);
    }

    #[test]
    fn a_session_is_forgotten_with_all_of_its_users_and_nobody_else_is() {
        let limits = Limits::default();
        for (user, session) in [("u", 1), ("u", 2), ("u", 3), ("v", 3), ("v", 1), ("w", 4)] {
            limits.admit(Asks { user, ..asks(session, Enforce::Newest, 0) });
        }
        assert_eq!(limits.held(), (5, 1));
        limits.forget(3);
        assert_eq!(limits.held(), (4, 0), "banned as u, with a place as v");
        limits.forget(9);
        limits.forget_user("x");
        assert_eq!(limits.held(), (4, 0));
        limits.forget_user("u");
        assert_eq!(limits.held(), (2, 0));
        limits.clear();
        assert_eq!(limits.held(), (0, 0));
    }

    #[test]
    fn a_lower_limit_makes_several_give_way() {
        let limits = Limits::default();
        for session in 1..=2 {
            limits.admit(asks(session, Enforce::Oldest, 0));
        }
        assert_eq!(limits.admit(Asks { limit: 1, ..asks(3, Enforce::Oldest, 1) }), InPlaceOf(vec![1, 2]));
    }

    #[test]
    fn users_do_not_share_places() {
        let limits = Limits::default();
        for session in 1..=2 {
            assert_eq!(limits.admit(asks(session, Enforce::Newest, 0)), Admitted);
        }
        assert_eq!(limits.admit(Asks { user: "v", ..asks(3, Enforce::Newest, 0) }), Admitted);
        assert_eq!(limits.admit(asks(3, Enforce::Newest, 0)), Refused);
    }

    #[test]
    fn what_can_be_said_without_taking_a_place() {
        let limits = Limits::default();
        let standing = |session| limits.standing(asks(session, Enforce::Newest, 0));
        assert_eq!(standing(1), None);
        for session in 1..=3 {
            limits.admit(asks(session, Enforce::Newest, 0));
        }
        assert_eq!((standing(1), standing(3), standing(4)), (Some(true), Some(false), None));
    }

    #[test]
    fn in_an_outage_nobody_gives_way_and_nobody_is_banned() {
        let limits = Limits::default();
        let known = |session, now| limits.admit_known(asks(session, Enforce::Oldest, now));
        assert!(known(1, 0) && known(2, 1) && !known(3, 2));
        assert!(known(1, 29_000) && !known(3, 29_000));
        assert!(known(3, 31_001), "nobody asked for the second for 30 s");
        assert!(!known(2, 31_001) && known(1, 31_001));
        // Who was banned before stays banned.
        assert_eq!(limits.admit(asks(4, Enforce::Oldest, 40_000)), InPlaceOf(vec![1]));
        assert!(
            limits.admit(asks(5, Enforce::Newest, 40_000)) == Refused
                && !known(5, 99_999)
                && known(5, 100_000)
        );
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let limits = Limits::default();
        for number in 0..100_000u64 {
            let user = number.to_string();
            limits.admit(Asks { user: &user, ..asks(1, Enforce::Newest, number * 1000) });
            let users = limits.users.lock();
            assert!(users.by_id.len() <= LEAST_USERS && users.of_session.len() <= LEAST_USERS);
        }
        for session in 0..1000 {
            limits.admit(asks(session, Enforce::Newest, 0));
        }
        assert_eq!(limits.users.lock().by_id["u"].bans.len(), MOST_BANS);
        // Whoever has a place or is banned, and nobody else.
        limits.admit(asks(1, Enforce::Newest, 200_000_000));
        let (places, bans) = limits.held();
        assert_eq!(limits.users.lock().of_session.len(), places + bans);
    }
}
