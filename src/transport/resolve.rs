//! Names of backends, and their addresses.
//!
//! The system's resolver blocks for as long as it likes, so it has threads of its own (`lookups.rs`), started only
//! if some URL has a name. I/O threads never wait for it but for the first answer: an answer older than
//! `dns.refresh` is used as it is while a newer one is fetched, and a resolver that fails changes nothing.
//!
//! An answer is renewed by use, so after a pause it may be of any age. Who comes first after more than two refreshes, and
//! whoever comes while it waits, waits for the new one, but not for long. Whatever goes on being used never does.
//!
//! A reload takes over what was found (`Names::take_over`), so that it can be made while the resolver fails. Until the last
//! exchange of before has ended, both ask, and both tell the same books: there the answer stands that was asked for last.
//!
//! At most 16 addresses of a name are used, of both families; the one that last worked is tried first. Those who keep book of a name's
//! addresses (`src/outage/addresses.rs`) hear of each answer.

mod lookups;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use lookups::Lookups;

use super::{Resolve, connect};
use crate::calls::Calls;
use crate::decision::Cause;
use crate::outage::Addresses;

const MAX_ADDRESSES: usize = 16;
/// So long, and for half of `connect_timeout` at most, an answer after a pause is waited for.
const MAX_PATIENCE: Duration = Duration::from_millis(250);

/// Names, and who keeps book of the addresses of each.
pub(super) type Hosts = BTreeMap<String, Vec<Arc<Addresses>>>;

/// The names of one engine's URLs.
pub(super) struct Names {
    table: Arc<[Name]>,
    refresh: Duration,
    /// How long a newer answer is waited for instead of one of long ago.
    patience: Duration,
    lookups: Lookups,
}

struct Name {
    host: String,
    books: Vec<Arc<Addresses>>,
    state: Mutex<State>,
    answer: watch::Sender<Answer>,
}

#[derive(Default)]
struct State {
    /// A lookup is on its way.
    asked: bool,
    /// The answer in use is older than this: ask again.
    stale_at: Option<Instant>,
    /// Asked about last, by whoever uses it.
    used: Option<Instant>,
    /// The answer in use is of long ago: until then a newer one is waited for.
    wait_until: Option<Instant>,
    /// Connected last.
    worked: Option<IpAddr>,
    /// When the answer in use was asked for.
    as_of: Option<Instant>,
}

#[derive(Clone, Default)]
enum Answer {
    #[default]
    None,
    /// The resolver's words; nothing has ever been found.
    Failed(Cause, String),
    Found(Arc<[IpAddr]>),
}

/// `getaddrinfo`, through std.
pub(super) fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

fn patience(connect_timeout: Duration) -> Duration {
    MAX_PATIENCE.min(connect_timeout / 2)
}

impl Names {
    /// None: nothing to resolve, no thread.
    pub(super) fn new(
        hosts: Hosts,
        refresh: Duration,
        connect_timeout: Duration,
        resolve: Arc<Resolve>,
        calls: Arc<Calls>,
    ) -> io::Result<Option<Self>> {
        if hosts.is_empty() {
            return Ok(None);
        }
        let table: Arc<[Name]> = hosts
            .into_iter()
            .map(|(host, books)| Name {
                host,
                books,
                state: Mutex::default(),
                answer: watch::Sender::default(),
            })
            .collect();
        let lookups = Lookups::new(Arc::clone(&table), resolve, calls)?;
        let patience = patience(connect_timeout);
        Ok(Some(Self { table, refresh, patience, lookups }))
    }

    /// What was found before a reload, to be used until the resolver has answered.
    pub(super) fn take_over(&self, before: &Self) {
        for name in self.table.iter() {
            let Some(index) = before.index(&name.host) else { continue };
            let before = &before.table[index];
            let mut state = name.state.lock();
            // The answer changes under it.
            let its = before.state.lock();
            let (Answer::Found(found), Some(as_of)) = (before.answer.borrow().clone(), its.as_of) else {
                continue;
            };
            (state.worked, state.used) = (its.worked, its.used);
            drop(its);
            name.found(state, &found, as_of);
        }
    }

    /// The addresses to try, in order of preference.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, (Cause, String)> {
        let failed = |why: &str| (Cause::Resolve, why.to_owned());
        let Some(index) = self.index(host) else { return Err(failed("not a name of this engine")) };
        let name = &self.table[index];
        let mut answer = name.answer.subscribe();
        // A failure that was there before is not an answer to this question; a new one is. So what is there is
        // looked at before the question: the answer may come at once, and would be taken for an old one.
        let mut current = answer.borrow_and_update().clone();
        let wait_until = self.want(index);
        if matches!(current, Answer::Found(_)) {
            if let Some(until) = wait_until {
                let _ = timeout_at(until, answer.changed()).await;
            }
            // In time or not: the newest there is.
            current = answer.borrow_and_update().clone();
        }
        while !matches!(current, Answer::Found(_)) {
            if answer.changed().await.is_err() {
                return Err(failed("the resolver is gone"));
            }
            current = answer.borrow_and_update().clone();
            if let Answer::Failed(cause, why) = current {
                return Err((cause, why));
            }
        }
        let Answer::Found(found) = current else { return Err(failed("no address")) };
        let mut found = found.to_vec();
        if let Some(worked) = name.state.lock().worked
            && let Some(at) = found.iter().position(|address| *address == worked)
        {
            found[..=at].rotate_right(1);
        }
        Ok(found)
    }

    /// Whether the name still stands for `address`. Asks the resolver again when it is time.
    pub(super) fn is_current(&self, host: &str, address: IpAddr) -> bool {
        let Some(index) = self.index(host) else { return true };
        self.want(index);
        match &*self.table[index].answer.borrow() {
            Answer::Found(found) => found.contains(&address),
            Answer::None | Answer::Failed(..) => true,
        }
    }

    pub(super) fn worked(&self, host: &str, address: IpAddr) {
        if let Some(index) = self.index(host) {
            self.table[index].state.lock().worked = Some(address);
        }
    }

    fn index(&self, host: &str) -> Option<usize> {
        self.table.iter().position(|name| name.host == host)
    }

    /// Sees to it that a lookup is on its way, if one is due. Until when it is to be waited for, although there is an answer.
    fn want(&self, index: usize) -> Option<Instant> {
        let mut state = self.table[index].state.lock();
        let now = Instant::now();
        if state.used.replace(now).is_some_and(|at| now > at + 2 * self.refresh) {
            state.wait_until = Some(now + self.patience);
        }
        let wait_until = state.wait_until.filter(|&until| now < until);
        if state.asked || state.stale_at.is_some_and(|at| now < at) {
            return wait_until;
        }
        state.asked = true;
        state.stale_at = Some(now + self.refresh);
        drop(state);
        self.lookups.ask(index);
        wait_until
    }
}

impl Name {
    /// Takes the answer of the resolver that was asked then. Runs on an `alta-dns`.
    fn settle(&self, outcome: io::Result<Vec<IpAddr>>, as_of: Instant) {
        let failed = |error: io::Error| {
            let cause = if connect::is_local(&error) { Cause::Overload } else { Cause::Resolve };
            (cause, error.to_string())
        };
        let found = outcome.map_err(failed).and_then(|found| {
            let mut kept: Vec<IpAddr> = Vec::with_capacity(MAX_ADDRESSES);
            // The families by turns first, as they are tried: many of one leave room for the other.
            for address in connect::interleave(&found) {
                if kept.len() < MAX_ADDRESSES && !kept.contains(&address) {
                    kept.push(address);
                }
            }
            if kept.is_empty() {
                Err((Cause::Resolve, "the name has no address".to_owned()))
            } else {
                Ok(kept)
            }
        });
        // The lock is held while the answer changes, so that who is told to ask again finds `asked` cleared.
        let mut state = self.state.lock();
        state.asked = false;
        state.wait_until = None;
        match found {
            Ok(found) => self.found(state, &found, as_of),
            Err((cause, why)) => {
                // What was found before still stands. Without anything, the next use asks at once.
                if matches!(&*self.answer.borrow(), Answer::Found(_)) {
                    // Who waits for a newer one need not wait on.
                    self.answer.send_modify(|_| ());
                    return;
                }
                state.stale_at = None;
                self.answer.send_replace(Answer::Failed(cause, why));
            }
        }
    }

    fn found(&self, mut state: MutexGuard<'_, State>, found: &[IpAddr], as_of: Instant) {
        state.as_of = Some(as_of);
        let changed: Vec<_> = self.books.iter().filter(|book| book.turn_to(found, as_of)).collect();
        self.answer.send_replace(Answer::Found(found.into()));
        // I/O threads take it.
        drop(state);
        for book in changed {
            book.log(found);
        }
    }
}

#[cfg(test)]
mod tests;
