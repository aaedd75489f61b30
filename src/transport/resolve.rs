//! Names of backends, and their addresses.
//!
//! The system's resolver blocks for as long as it likes, so it has threads of its own (`lookups.rs`), started only
//! if some URL has a name. I/O threads never wait for it but for the first answer: an answer older than
//! `dns.refresh` is used as it is while a newer one is fetched, and a resolver that fails changes nothing.
//!
//! An answer is renewed by use, so after a pause it may be of any age. Who comes first after more than two refreshes, and
//! whoever comes while it waits, waits for the new one, but not for long. Whatever goes on being used never does.
//!
//! A reload takes over what was found (`Names::take_over`), so that it can be made while the resolver fails.
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
            let Answer::Found(found) = before.answer.borrow().clone() else { continue };
            let mut state = name.state.lock();
            let before = before.state.lock();
            (state.worked, state.used) = (before.worked, before.used);
            drop(before);
            name.found(state, &found);
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
    /// Takes the resolver's answer. Runs on an `alta-dns`.
    fn settle(&self, outcome: io::Result<Vec<IpAddr>>) {
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
            Ok(found) => self.found(state, &found),
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

    fn found(&self, state: MutexGuard<'_, State>, found: &[IpAddr]) {
        let changed: Vec<_> = self.books.iter().filter(|book| book.turn_to(found)).collect();
        self.answer.send_replace(Answer::Found(found.into()));
        // I/O threads take it.
        drop(state);
        for book in changed {
            book.log(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{Sender, bounded, unbounded};
    use tokio::time::{advance, pause, resume, timeout};

    use super::*;
    use crate::config::ThreadHooks;
    use crate::observe::{Log, LogLevel, Logger};
    use crate::outage::Rules;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn names(
        refresh: Duration,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Names {
        let hosts = Hosts::from([("backend.test".into(), vec![])]);
        Names::new(hosts, refresh, SECOND, Arc::new(resolve), Arc::default()).unwrap().unwrap()
    }

    #[test]
    fn without_names_there_is_no_thread() {
        assert!(
            Names::new(Hosts::new(), Duration::ZERO, SECOND, Arc::new(system), Arc::default())
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_thousand_addresses_are_cut_to_sixteen() {
        let names = names(Duration::from_mins(1), |_| {
            Ok((0..1000u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n).into()).collect())
        });
        assert_eq!(names.addresses("backend.test").await.unwrap().len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn many_addresses_of_one_family_leave_room_for_the_other() {
        let v6 = |n: u128| IpAddr::from(std::net::Ipv6Addr::from(0x2001_0db8 << 96 | n));
        let found: Vec<_> = (1..=20).map(v6).chain((1..=20).map(address)).collect();
        let names = names(Duration::from_mins(1), move |_| Ok(found.clone()));
        let kept = names.addresses("backend.test").await.unwrap();
        assert_eq!(kept.len(), MAX_ADDRESSES);
        assert_eq!(kept[..4], [v6(1), address(1), v6(2), address(2)]);
        assert_eq!(kept.iter().filter(|address| address.is_ipv4()).count(), MAX_ADDRESSES / 2);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_make_one_lookup() {
        let (go, wait) = bounded::<()>(0);
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let names = names(Duration::from_mins(1), move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = wait.recv();
            Ok(vec![address(1)])
        });
        let ask = || names.addresses("backend.test");
        let release = async { drop(go) };
        let (a, b, c, ()) = tokio::join!(ask(), ask(), ask(), release);
        assert!([a, b, c].iter().all(|found| *found == Ok(vec![address(1)])));
        assert_eq!(lookups.load(Ordering::Relaxed), 1);
    }

    /// A resolver that answers what it is sent, and says when it has been asked.
    fn scripted(
        refresh: Duration,
    ) -> (Names, Sender<io::Result<Vec<IpAddr>>>, crossbeam_channel::Receiver<()>) {
        let (script, answers) = unbounded::<io::Result<Vec<IpAddr>>>();
        let (asked, was_asked) = unbounded();
        let names = names(refresh, move |_| {
            let _ = asked.send(());
            answers.recv().unwrap_or_else(|_| Err(io::Error::other("end of the script")))
        });
        (names, script, was_asked)
    }

    #[tokio::test]
    async fn what_was_found_stands_when_the_resolver_fails() {
        let (names, script, was_asked) = scripted(Duration::ZERO);
        script.send(Err(io::Error::other("no such host"))).unwrap();
        assert_eq!(names.addresses("backend.test").await, Err((Cause::Resolve, "no such host".to_owned())));
        script.send(Ok(vec![address(1), address(2)])).unwrap();
        assert_eq!(names.addresses("backend.test").await.unwrap(), [address(1), address(2)]);
        names.worked("backend.test", address(2));
        // Each use asks again, and each of these lookups fails.
        for _ in 0..3 {
            settled(&names);
            script.send(Err(io::Error::other("down"))).unwrap();
            assert_eq!(names.addresses("backend.test").await.unwrap(), [address(2), address(1)]);
        }
        settled(&names);
        assert_eq!(was_asked.try_iter().count(), 5);
    }

    /// Waits until no lookup is on its way.
    fn settled(names: &Names) {
        let began = Instant::now();
        while names.table[0].state.lock().asked {
            assert!(began.elapsed() < Duration::from_secs(10), "the lookup does not end");
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_moved_name_is_noticed_by_use() {
        let (names, script, was_asked) = scripted(Duration::ZERO);
        script.send(Ok(vec![address(1)])).unwrap();
        names.addresses("backend.test").await.unwrap();
        was_asked.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(names.is_current("backend.test", address(1)), "stale, but the only answer there is");
        let mut news = names.table[0].answer.subscribe();
        news.mark_unchanged();
        script.send(Ok(vec![address(2)])).unwrap();
        news.changed().await.unwrap();
        assert!(!names.is_current("backend.test", address(1)));
        assert!(names.is_current("backend.test", address(2)));
    }

    /// Found at `address(1)`, and not used for so long since.
    async fn idle_for(so_long: Duration) -> (Names, Sender<io::Result<Vec<IpAddr>>>) {
        let (names, script, _) = scripted(SECOND);
        script.send(Ok(vec![address(1)])).unwrap();
        assert_eq!(names.addresses("backend.test").await.unwrap(), [address(1)]);
        advance(so_long).await;
        (names, script)
    }

    /// What is used, and after how many milliseconds.
    async fn asked(names: &Names) -> (Vec<IpAddr>, u128) {
        let before = Instant::now();
        (names.addresses("backend.test").await.unwrap(), before.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_the_first_use_is_of_the_new_answer() {
        for reloads in [false, true] {
            let (mut names, mut script) = idle_for(3 * SECOND).await;
            if reloads {
                let (new, its_script, _) = scripted(SECOND);
                new.take_over(&names);
                (names, script) = (new, its_script);
            }
            resume();
            names.patience = 60 * SECOND;
            script.send(Ok(vec![address(2)])).unwrap();
            assert_eq!(names.addresses("backend.test").await.unwrap(), [address(2)], "{reloads}");
            pause();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_a_resolver_that_fails_is_not_waited_for_any_longer() {
        let (mut names, script) = idle_for(3 * SECOND).await;
        resume();
        names.patience = 60 * SECOND;
        script.send(Err(io::Error::other("down"))).unwrap();
        let found = timeout(10 * SECOND, names.addresses("backend.test")).await.expect("it has failed");
        assert_eq!(found.unwrap(), [address(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_is_waited_for_once_a_pause_and_for_a_bounded_time() {
        for (connect_timeout, bound) in [(SECOND, 250), (SECOND / 10, 50)] {
            let (mut names, script) = idle_for(3 * SECOND).await;
            names.patience = patience(connect_timeout);
            // Both until the same time.
            let both = async { tokio::join!(asked(&names), asked(&names)) };
            let ((one, waited), (other, as_well)) = both.await;
            assert_eq!([one, other], [[address(1)], [address(1)]]);
            assert!((bound..bound + 5).contains(&waited) && as_well <= waited, "{waited} {as_well}");
            // Whatever goes on being used does not wait, through lookups that hang or have failed.
            for round in 0..10 {
                assert_eq!(asked(&names).await, (vec![address(1)], 0), "{round}");
                if round == 5 {
                    script.send(Err(io::Error::other("down"))).unwrap();
                    settled(&names);
                }
                advance(2 * SECOND).await;
            }
        }
    }

    #[tokio::test]
    async fn dropping_it_does_not_wait_for_a_hanging_resolver() {
        let (hang, never) = bounded::<()>(0);
        let (asked, was_asked) = bounded(1);
        let names = names(Duration::ZERO, move |_| {
            let _ = asked.send(());
            let _ = never.recv();
            Ok(vec![])
        });
        names.want(0);
        was_asked.recv_timeout(Duration::from_secs(10)).unwrap();
        let before = Instant::now();
        drop(names);
        assert!(before.elapsed() < Duration::from_millis(100));
        drop(hang);
    }

    #[tokio::test]
    async fn a_lookup_that_fails_at_once_is_not_missed() {
        let names = names(Duration::from_mins(1), |_| Err(io::Error::other("no such host")));
        // Some of so many lookups end before who asked for them looks for the answer.
        for _ in 0..20_000 {
            let asked = timeout(Duration::from_secs(5), names.addresses("backend.test")).await;
            assert!(asked.expect("nobody will answer this any more").is_err());
        }
    }

    /// A host's log that takes its time, or 10 seconds if it gets none.
    struct Slow {
        begun: Sender<()>,
        go: crossbeam_channel::Receiver<()>,
        in_time: Sender<bool>,
    }

    impl Log for Slow {
        fn log(&self, _: LogLevel, _: &str) {
            self.begun.send(()).unwrap();
            self.in_time.send(self.go.recv_timeout(Duration::from_secs(10)).is_ok()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_host_s_slow_log_keeps_nobody_who_asks_for_a_name() {
        let ((begun, has_begun), (go, goes), (in_time, was_in_time)) = (bounded(1), bounded(1), bounded(1));
        let slow: Arc<dyn Log> = Arc::new(Slow { begun, go: goes, in_time });
        let log = Arc::new(Logger::new(LogLevel::Info, Some(slow), Arc::default()));
        let rules = Rules {
            failures: 5,
            rate: 0,
            cooldown: Duration::from_secs(1),
            max_cooldown: Duration::from_secs(30),
        };
        let book = Arc::new(Addresses::new("http://backend.test:80".into(), rules, log));
        let hosts = Hosts::from([("backend.test".into(), vec![book])]);
        let resolve = Arc::new(|_: &str| Ok(vec![address(1)]));
        let names = Names::new(hosts, Duration::ZERO, SECOND, resolve, Arc::default()).unwrap().unwrap();
        assert_eq!(names.addresses("backend.test").await, Ok(vec![address(1)]));
        has_begun.recv().unwrap();
        assert!(names.is_current("backend.test", address(1)));
        go.send(()).unwrap();
        assert!(was_in_time.recv().unwrap());
    }

    /// Whose resolver says when it is asked and answers when `go` is dropped, and whose thread counts its hooks.
    fn hooked(
        calls: impl FnOnce(ThreadHooks) -> Arc<Calls>,
    ) -> (Names, Arc<[AtomicUsize; 2]>, Sender<()>, crossbeam_channel::Receiver<()>) {
        let hooks = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let hook = |of: usize| {
            let hooks = Arc::clone(&hooks);
            let count = move || {
                hooks[of].fetch_add(1, Ordering::Relaxed);
            };
            Some(Arc::new(count) as Arc<dyn Fn() + Send + Sync>)
        };
        let calls = calls(ThreadHooks { start: hook(0), stop: hook(1) });
        let ((go, goes), (asked, was_asked)) = (bounded::<()>(0), unbounded());
        let resolve = move |_: &str| {
            let _ = asked.send(());
            let _ = goes.recv();
            Ok(vec![address(1)])
        };
        let hosts = Hosts::from([("backend.test".into(), vec![])]);
        let names = Names::new(hosts, Duration::ZERO, SECOND, Arc::new(resolve), calls).unwrap().unwrap();
        (names, hooks, go, was_asked)
    }

    #[test]
    fn the_end_waits_for_the_thread_but_for_no_lookup_which_then_calls_nothing() {
        for hangs in [false, true] {
            let mut calls = Arc::default();
            let (names, hooks, go, was_asked) = hooked(|hooks| {
                calls = Arc::new(Calls::new(hooks));
                Arc::clone(&calls)
            });
            let run = || [0, 1].map(|of: usize| hooks[of].load(Ordering::Relaxed));
            assert!(names.is_current("backend.test", address(1)));
            was_asked.recv().unwrap();
            let mut go = Some(go);
            if !hangs {
                go = None;
                settled(&names);
            }
            calls.end();
            assert_eq!(run(), [1, usize::from(!hangs)]);
            drop((go, names));
            assert!(was_asked.recv().is_err(), "the thread ends");
            assert_eq!(run(), [1, usize::from(!hangs)]);
        }
    }
}
