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
    names_with(vec![], refresh, resolve)
}

fn names_with(
    books: Vec<Arc<Addresses>>,
    refresh: Duration,
    resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> Names {
    let hosts = Hosts::from([("backend.test".into(), books)]);
    Names::new(hosts, refresh, SECOND, Arc::new(resolve), Arc::default()).unwrap().unwrap()
}

fn book(log: Arc<Logger>) -> Arc<Addresses> {
    let rules = Rules { failures: 5, rate: 0, cooldown: SECOND, max_cooldown: 30 * SECOND };
    Arc::new(Addresses::new("http://backend.test:80".into(), rules, log))
}

#[test]
fn without_names_there_is_no_thread() {
    assert!(
        Names::new(Hosts::new(), Duration::ZERO, SECOND, Arc::new(system), Arc::default()).unwrap().is_none()
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
fn scripted(refresh: Duration) -> (Names, Sender<io::Result<Vec<IpAddr>>>, crossbeam_channel::Receiver<()>) {
    scripted_with(vec![], refresh)
}

fn scripted_with(
    books: Vec<Arc<Addresses>>,
    refresh: Duration,
) -> (Names, Sender<io::Result<Vec<IpAddr>>>, crossbeam_channel::Receiver<()>) {
    let (script, answers) = unbounded::<io::Result<Vec<IpAddr>>>();
    let (asked, was_asked) = unbounded();
    let names = names_with(books, refresh, move |_| {
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

fn quiet_book() -> Arc<Addresses> {
    book(Logger::off())
}

/// The addresses that a book of several has.
fn kept_of(book: &Addresses) -> Vec<IpAddr> {
    book.several().expect("several").iter().map(|known| known.address).collect()
}

#[tokio::test]
async fn an_answer_from_before_a_reload_that_comes_late_changes_nothing_for_those_after_it() {
    let (former, newer) = (vec![address(1), address(2)], vec![address(3), address(4)]);
    let book = quiet_book();
    let (before, its_script, was_asked) = scripted_with(vec![Arc::clone(&book)], Duration::ZERO);
    its_script.send(Ok(former.clone())).unwrap();
    before.addresses("backend.test").await.unwrap();
    was_asked.recv().unwrap();
    settled(&before);
    assert!(before.is_current("backend.test", address(1)), "asks again");
    was_asked.recv().unwrap();

    let (after, script, _was_asked) = scripted_with(vec![Arc::clone(&book)], Duration::from_mins(1));
    after.take_over(&before);
    assert!(after.is_current("backend.test", address(1)), "asks, too");
    script.send(Ok(newer.clone())).unwrap();
    settled(&after);
    assert_eq!(kept_of(&book), newer);
    its_script.send(Ok(former)).unwrap();
    settled(&before);
    assert_eq!(kept_of(&book), newer);
    // The twin: what it asks for from now on is newer still.
    let newest = vec![address(5), address(6)];
    assert!(before.is_current("backend.test", address(1)), "asks once more");
    its_script.send(Ok(newest.clone())).unwrap();
    settled(&before);
    assert_eq!(kept_of(&book), newest);
}

#[tokio::test]
async fn a_reload_takes_nothing_over_that_is_older_than_what_is_known() {
    let (former, newer) = (vec![address(1), address(2)], vec![address(3), address(4)]);
    let book = quiet_book();
    let with = |found: &Vec<IpAddr>| {
        let found = found.clone();
        names_with(vec![Arc::clone(&book)], Duration::from_mins(1), move |_| Ok(found.clone()))
    };
    let before = with(&former);
    before.addresses("backend.test").await.unwrap();
    with(&newer).addresses("backend.test").await.unwrap();
    let after = with(&newer);
    after.take_over(&before);
    assert_eq!(kept_of(&book), newer);
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
    // Waited for, the lookup would never end.
    drop(names);
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
    let names = names_with(vec![book(log)], Duration::ZERO, |_| Ok(vec![address(1)]));
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
