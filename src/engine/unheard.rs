//! Which sessions were revoked and not heard of since, each for itself: their default is to deny.
//!
//! By the keyed hash of their ids, of which 44 bits are kept: a session that nobody revoked is taken for one that was with
//! a chance of one in a million where a million are kept. A host may revoke each session that ends, and of such a one the backend is never heard
//! again; so there may be as many as end within `ttl.max`.

use super::sync::Mutex;

/// Of as many each knows the sessions whose hashes it has, so that writers rarely meet.
pub(crate) const LISTS: usize = 4096;
/// 4 KiB. In all lists together 2 million sessions, 16 MiB: 24 a second for a day.
const MOST: usize = 512;
/// Seconds are the caller's, counted from 1.
#[derive(Default)]
struct List {
    /// `session << 32 | second`.
    sessions: Vec<u64>,
    /// Since when there were too many to tell them apart.
    all: Option<u64>,
}

pub(crate) struct Unheard {
    lists: Box<[Mutex<List>]>,
}

impl Unheard {
    /// [`LISTS`], or less for a test. `None`: the system has no memory for it.
    pub(crate) fn new(size: usize) -> Option<Self> {
        let mut lists = Vec::new();
        lists.try_reserve_exact(size).ok()?;
        lists.resize_with(size, || Mutex::new(List::default()));
        Some(Self { lists: lists.into() })
    }

    /// From `second` on. What is from before `over` is over. `then`: before anybody can be heard.
    pub(crate) fn add(&self, session: u64, second: u64, over: u64, then: impl FnOnce()) {
        let mut list = self.list(session).lock();
        let (List { sessions, all }, tag) = (&mut *list, tag(session));
        sessions.retain(|&it| it >> 32 != tag);
        if sessions.len() == sessions.capacity() || sessions.len() >= MOST {
            sessions.retain(|&it| it & u64::from(u32::MAX) >= over);
        }
        if sessions.len() < MOST && sessions.try_reserve(1).is_ok() {
            sessions.push(tag << 32 | second);
        } else {
            // Too many are denied, not too few.
            sessions.clear();
            *all = Some(second);
        }
        then();
    }

    /// The backend was heard of the session, if `holds`.
    pub(crate) fn remove(&self, session: u64, holds: impl FnOnce() -> bool) {
        let sessions = &mut self.list(session).lock().sessions;
        let tag = tag(session);
        if let Some(at) = sessions.iter().position(|&it| it >> 32 == tag)
            && holds()
        {
            sessions.swap_remove(at);
        }
    }

    /// Since when, if it is in there.
    pub(crate) fn since(&self, session: u64) -> Option<u64> {
        let list = self.list(session).lock();
        let tag = tag(session);
        let mine = list.sessions.iter().filter(|&&it| it >> 32 == tag);
        mine.map(|&it| it & u64::from(u32::MAX)).chain(list.all).max()
    }

    fn list(&self, session: u64) -> &Mutex<List> {
        &self.lists[session as usize % self.lists.len()]
    }
}

/// Tells the sessions of one list from each other.
fn tag(session: u64) -> u64 {
    session >> 32
}
