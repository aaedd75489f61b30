//! The threads that wait for the resolver, `alta-dns`.
//!
//! One is enough while it answers. A lookup that is asked for while each of them is inside another gets one more, so that
//! a name whose lookup hangs keeps no other from being found. There are never more than names, nor than 16; a lookup
//! that finds neither a thread nor room for one waits for the next that is done. Each stays to the end.
//!
//! None is joined, as it may hang in a lookup. While it is anywhere else the end of the engine waits for it; after a
//! lookup that outlasts the engine it calls nothing of the host's any more.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, select};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::{Resolve, connect};
use super::Name;
use crate::calls::Calls;

const MAX_THREADS: usize = 16;

pub(super) struct Lookups {
    /// By index in the table. At most one a name is on its way, so this never fills.
    wanted: Sender<usize>,
    desk: Arc<Desk>,
}

/// What the threads share.
struct Desk {
    table: Arc<[Name]>,
    wanted: Receiver<usize>,
    resolve: Arc<Resolve>,
    calls: Arc<Calls>,
    count: Mutex<Count>,
}

struct Count {
    threads: usize,
    /// Asked for, and the resolver has not answered yet.
    lookups: usize,
}

impl Lookups {
    /// With the first thread.
    pub(super) fn new(table: Arc<[Name]>, resolve: Arc<Resolve>, calls: Arc<Calls>) -> io::Result<Self> {
        let (wanted, lookups) = crossbeam_channel::bounded(table.len());
        let count = Mutex::new(Count { threads: 1, lookups: 0 });
        let desk = Arc::new(Desk { table, wanted: lookups, resolve, calls, count });
        desk.start()?;
        Ok(Self { wanted, desk })
    }

    /// One lookup, while no other of that name is on its way.
    pub(super) fn ask(&self, index: usize) {
        let mut count = self.desk.count.lock();
        count.lookups += 1;
        let one_more =
            count.lookups > count.threads && count.threads < self.desk.table.len().min(MAX_THREADS);
        count.threads += usize::from(one_more);
        drop(count);
        // Full or closed cannot be: there is room for each name, and `desk` has the other end.
        let _ = self.wanted.try_send(index);
        if one_more && self.desk.start().is_err() {
            // It waits for those there are.
            self.desk.count.lock().threads -= 1;
        }
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.desk.count.lock().threads
    }
}

impl Desk {
    fn start(self: &Arc<Self>) -> io::Result<()> {
        let desk = Arc::clone(self);
        // Detached: it may hang in the resolver when the engine is freed.
        crate::sys::spawn("alta-dns".to_owned(), move || desk.serve()).map(drop)
    }

    fn serve(&self) {
        let Some(mut visit) = self.calls.visit() else { return };
        let thread = self.calls.thread();
        loop {
            let wanted = select! {
                recv(self.wanted) -> index => index.ok(),
                recv(self.calls.over()) -> _ => None,
            };
            let Some(index) = wanted else { break };
            let name = &self.table[index];
            // Nobody waits for the resolver.
            drop(visit);
            let as_of = Instant::now();
            // Probed here and now: a moment later there may be descriptors again.
            let found = (self.resolve)(&name.host).map_err(|error| connect::shortage().unwrap_or(error));
            match self.calls.visit() {
                Some(again) => visit = again,
                None => return thread.leave(),
            }
            // First, as who hears of the answer may ask again at once.
            self.count.lock().lookups -= 1;
            name.settle(found, as_of);
        }
        drop(thread);
        drop(visit);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use crossbeam_channel::{bounded, unbounded};
    use tokio::time::timeout;

    use super::super::{Hosts, Names};
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The lookups of those names that begin with `hangs` end when `go` is dropped; they say when they begin.
    fn names(hosts: &[&str]) -> (Names, Sender<()>, Receiver<()>) {
        let ((go, goes), (begun, has_begun)) = (bounded::<()>(0), unbounded());
        let resolve = move |host: &str| {
            if host.starts_with("hangs") {
                let _ = begun.send(());
                let _ = goes.recv();
            }
            Ok(vec![ADDRESS])
        };
        let hosts: Hosts = hosts.iter().map(|host| ((*host).to_owned(), vec![])).collect();
        let names = Names::new(hosts, Duration::from_mins(1), PATIENCE, Arc::new(resolve), Arc::default());
        (names.unwrap().unwrap(), go, has_begun)
    }

    async fn find(names: &Names, host: &str) {
        let found = timeout(PATIENCE, names.addresses(host)).await;
        assert_eq!(found.expect("it waits for another's lookup"), Ok(vec![ADDRESS]), "{host}");
    }

    #[tokio::test]
    async fn a_name_whose_lookup_hangs_keeps_no_other_from_being_found() {
        let (names, go, has_begun) = names(&["hangs", "one", "two"]);
        assert!(names.is_current("hangs", ADDRESS), "asks for it");
        has_begun.recv_timeout(PATIENCE).unwrap();
        find(&names, "one").await;
        find(&names, "two").await;
        assert_eq!(names.lookups.threads(), 2, "those that end need one");
        drop(go);
        find(&names, "hangs").await;
    }

    #[tokio::test]
    async fn one_thread_is_enough_for_names_that_are_found_one_after_the_other() {
        let (names, ..) = names(&["one", "two", "three"]);
        for host in ["one", "two", "three"] {
            find(&names, host).await;
        }
        assert_eq!(names.lookups.threads(), 1);
    }

    #[tokio::test]
    async fn of_a_thousand_names_that_hang_sixteen_have_a_thread_and_the_others_their_turn() {
        let hosts: Vec<_> = (0..1000).map(|number| format!("hangs-{number}")).collect();
        let (names, go, has_begun) = names(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
        for host in &hosts {
            assert!(names.is_current(host, ADDRESS), "asks for it");
        }
        for _ in 0..MAX_THREADS {
            has_begun.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!((names.lookups.threads(), has_begun.len()), (MAX_THREADS, 0));
        drop(go);
        for host in &hosts {
            find(&names, host).await;
        }
    }
}
