use std::sync::OnceLock;

use super::*;
use crate::observe::Log;

const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const THREE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
const SIX: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6));
const A: Client<'_> = Client::At(b"a");
const B: Client<'_> = Client::At(b"b");
const C: Client<'_> = Client::At(b"c");
const NEW: Client<'_> = Client::At(b"new");

fn logged(log: Arc<Logger>) -> Addresses {
    let rules = Rules {
        failures: 2,
        rate: 0,
        cooldown: Duration::from_secs(1),
        max_cooldown: Duration::from_secs(9),
    };
    Addresses::new("http://backend.test:80".into(), rules, log)
}

fn of(addresses: &[IpAddr]) -> Addresses {
    let these = logged(Logger::off());
    these.turn_to(addresses, Instant::now());
    these
}

fn next(addresses: &Addresses) -> Choice {
    addresses.choose(&Tried::default(), None, NEW).unwrap()
}

fn fail(addresses: &Addresses, at: IpAddr) {
    for client in [A, B] {
        next(addresses).failed(Some(at), &mut Tried::default(), client, None, "reset");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_without_answers_is_left_alone_and_one_exchange_finds_it_back() {
    let these = of(&[ONE, TWO, THREE]);
    assert_eq!(next(&these).addresses(), None);
    fail(&these, TWO);
    assert_eq!((next(&these).addresses(), these.width()), (Some(vec![ONE, THREE]), 2));
    tokio::time::advance(Duration::from_secs(2)).await;
    let probe = next(&these);
    assert_eq!(probe.addresses(), Some(vec![TWO]));
    assert_eq!(next(&these).addresses(), Some(vec![ONE, THREE]), "one at a time");
    drop(probe);
    let mut tried = Tried::default();
    next(&these).failed(None, &mut tried, C, None, "connect");
    let after = these.choose(&tried, None, NEW).unwrap();
    assert_eq!(after.addresses(), Some(vec![ONE, THREE]), "after a probe that came to nothing");
    drop(after);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(next(&these).addresses(), Some(vec![ONE, THREE]), "the cooldown has doubled");
    tokio::time::advance(Duration::from_secs(2)).await;
    next(&these).answered(Some(TWO), A);
    assert_eq!(next(&these).addresses(), None);
}

#[tokio::test(start_paused = true)]
async fn whose_outages_it_is_left_alone_for_does_not_find_it_back_before_others() {
    let these = of(&[ONE, TWO]);
    fail(&these, TWO);
    tokio::time::advance(Duration::from_millis(1500)).await;
    let by = |client| these.choose(&Tried::default(), None, client).unwrap();
    assert_eq!(by(A).addresses(), Some(vec![ONE]));
    assert_eq!(by(NEW).addresses(), Some(vec![TWO]));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(by(A).addresses(), Some(vec![TWO]), "nobody else has");
}

#[tokio::test(start_paused = true)]
async fn if_all_are_without_answers_none_is_passed_over() {
    let these = of(&[ONE, TWO]);
    fail(&these, ONE);
    assert!(!these.exhausted(&Tried::default()));
    these.unreachable(TWO, "connect");
    these.unreachable(TWO, "connect");
    assert!(these.exhausted(&Tried::default()));
    let mut tried = Tried::default();
    assert_eq!(next(&these).addresses(), None);
    next(&these).failed(Some(TWO), &mut tried, C, None, "reset");
    assert_eq!(these.choose(&tried, None, NEW).unwrap().addresses(), Some(vec![ONE]));
    next(&these).answered(Some(ONE), A);
    assert_eq!(next(&these).addresses(), Some(vec![ONE]));
}

#[tokio::test(start_paused = true)]
async fn each_is_tried_once_and_then_it_is_the_name_that_fails() {
    let these = of(&[ONE, TWO]);
    let mut tried = Tried::default();
    next(&these).failed(Some(ONE), &mut tried, A, None, "reset");
    assert!(!these.exhausted(&tried));
    let second = these.choose(&tried, None, NEW).unwrap();
    assert_eq!((second.addresses(), second.turns), (Some(vec![TWO]), 1));
    second.failed(Some(TWO), &mut tried, A, None, "reset");
    assert!(these.exhausted(&tried) && these.choose(&tried, None, NEW).is_none());
    // Refused by all at once: each was told of where it was refused.
    let mut tried = Tried::default();
    next(&these).failed(None, &mut tried, A, None, "connect");
    assert!(these.exhausted(&tried) && these.choose(&tried, None, NEW).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_left_the_name_is_forgotten_and_what_came_is_taken_up() {
    let these = of(&[ONE, TWO]);
    fail(&these, ONE);
    these.turn_to(&[TWO, ONE], Instant::now());
    assert_eq!(next(&these).addresses(), Some(vec![TWO]), "another order is no news");
    these.turn_to(&[TWO, THREE], Instant::now());
    assert_eq!(next(&these).addresses(), None);
    these.turn_to(&[ONE, TWO], Instant::now());
    assert_eq!((next(&these).addresses(), these.width()), (None, 2), "it comes back as a new one");
    fail(&these, ONE);
    these.turn_to(&[ONE], Instant::now());
    assert_eq!((next(&these).addresses(), these.width()), (None, 1), "there is no other");
    assert!(these.several().is_none() && these.exhausted(&Tried::default()));
}

#[tokio::test(start_paused = true)]
async fn the_less_busy_of_two_is_asked() {
    let these = of(&[ONE, TWO, THREE]);
    let mut under_way = Vec::new();
    for random in 0..300_u64 {
        let random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
        under_way.push(these.choose(&Tried::default(), Some(random), NEW).unwrap());
    }
    let busy = |these: &Addresses| -> Vec<u64> {
        these.known().iter().map(|known| known.in_flight.load(Relaxed)).collect()
    };
    assert!(busy(&these).iter().all(|&busy| (95..=105).contains(&busy)), "{:?}", busy(&these));
    under_way.clear();
    assert_eq!(busy(&these), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_time_is_shared_out_among_machines_and_not_among_families() {
    assert_eq!(next(&of(&[SIX, ONE])).turns, 1);
    assert_eq!(next(&of(&[SIX, ONE, TWO, THREE])).turns, 3);
    let these = of(&[SIX, ONE]);
    fail(&these, SIX);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(next(&these).turns, 2, "a probe leaves time for what is known to work");
}

#[test]
fn two_are_different_if_there_are_two() {
    assert_eq!(two_of(1, u64::MAX), (0, 0));
    for random in 0..1000_u64 {
        let (one, other) = two_of(2, random.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        assert_ne!(one, other);
    }
}

/// Turns to other addresses, on a thread of its own, within a line of the log.
#[derive(Default)]
struct Turning {
    these: OnceLock<Arc<Addresses>>,
    turned: AtomicBool,
}

impl Log for Turning {
    fn log(&self, _: LogLevel, _: &str) {
        let these = Arc::clone(self.these.get().unwrap());
        let (done, is_done) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || done.send(these.turn_to(&[ONE, THREE], Instant::now())));
        self.turned.store(is_done.recv_timeout(Duration::from_secs(10)) == Ok(true), Relaxed);
    }
}

#[test]
fn no_lock_is_held_while_it_is_logged_that_an_address_gives_no_answers() {
    let turning = Arc::new(Turning::default());
    let log = Arc::new(Logger::new(LogLevel::Warn, Some(turning.clone()), Arc::default()));
    let these = Arc::new(logged(log));
    these.turn_to(&[ONE, TWO], Instant::now());
    assert!(turning.these.set(Arc::clone(&these)).is_ok());
    these.unreachable(TWO, "connect");
    these.unreachable(TWO, "connect");
    assert!(turning.turned.load(Relaxed));
}
