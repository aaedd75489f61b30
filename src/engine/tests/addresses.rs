//! The addresses of one name are endpoints: each has its own health, and a check goes on to the next of them.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::{ALLOW, Bench, DENY, Peer, check, with_shard};
use crate::check::Check;
use crate::decision::{Cause, Decision, Origin, Verdict};

const SECOND: Duration = Duration::from_secs(1);
const GARBAGE: &str = "what?\r\n\r\n";
/// The next check needs a connection of its own.
const ALLOW_ONCE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const THREE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));

/// What each address says; `None`: nothing.
type Says = Rc<RefCell<[Option<&'static str>; 30]>>;

fn all(says: &'static str) -> Says {
    Rc::new(RefCell::new([Some(says); 30]))
}

fn saying(says: &Says) -> Rc<Peer> {
    let says = Rc::clone(says);
    Peer::answering(move |place, _| says.borrow()[place].map(str::to_owned))
}

/// One check of the client with this number; nothing of it is shared with another's.
async fn ask(bench: &Bench, client: usize) -> Decision {
    thread_local!(static NEXT: Cell<usize> = const { Cell::new(0) });
    let user_data = NEXT.replace(NEXT.get() + 1);
    let (session, ip) = (format!("s{user_data}"), format!("198.51.100.{client}"));
    bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "") }, user_data);
    let (decision, _) = bench.decided(user_data).await;
    bench.forget(user_data);
    decision
}

async fn answered(bench: &Bench, clients: std::ops::Range<usize>) {
    for client in clients {
        let decision = ask(bench, client).await;
        assert_eq!(decision.origin, Origin::Backend, "{client}: {decision:?} {}", decision.detail());
    }
}

fn asked(bench: &Bench) -> [usize; 3] {
    [1, 2, 3].map(|place| bench.peer.requests_to(place))
}

/// Whether the breaker of the URL is open, and of which of its addresses.
fn open(bench: &Bench) -> (bool, Vec<IpAddr>) {
    let endpoint = bench.core.stats().endpoints.swap_remove(0);
    let open = endpoint.addresses.iter().filter(|one| one.breaker_open);
    (endpoint.breaker_open, open.map(|one| one.address).collect())
}

#[tokio::test(start_paused = true)]
async fn a_dead_address_costs_no_check_its_answer_and_is_left_alone_until_one_finds_it_back() {
    let says = all(ALLOW_ONCE);
    says.borrow_mut()[1] = Some(GARBAGE);
    with_shard(&[], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO, THREE]);
        answered(&bench, 0..30).await;
        assert_eq!(asked(&bench), [5, 30, 0]);
        assert_eq!(open(&bench), (false, vec![ONE]), "the name works");
        sleep(SECOND * 2).await;
        answered(&bench, 30..40).await;
        assert_eq!(asked(&bench), [6, 40, 0], "the probe, which went on, too");
        says.borrow_mut()[1] = Some(ALLOW_ONCE);
        sleep(SECOND * 3).await;
        answered(&bench, 40..50).await;
        assert_eq!(open(&bench), (false, vec![]));
        assert!(asked(&bench)[0] > 6, "{:?}", asked(&bench));
        assert_eq!(bench.core.stats().endpoints[0].breaker_opened, 0);
        let exchanges: Vec<u64> =
            bench.core.stats().endpoints[0].addresses.iter().map(|one| one.exchanges).collect();
        assert_eq!(exchanges.iter().sum::<u64>(), asked(&bench).iter().sum::<usize>() as u64);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_check_that_finds_the_name_goes_on_too() {
    let says = all(ALLOW);
    says.borrow_mut()[1] = Some(GARBAGE);
    with_shard(&[], saying(&says), |bench| async move {
        bench.peer.will_stand_for(&[ONE, TWO]);
        answered(&bench, 0..1).await;
        assert_eq!((asked(&bench), open(&bench)), ([1, 1, 0], (false, vec![])));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_answer_whoever_gives_it() {
    let says = all(ALLOW);
    says.borrow_mut()[1] = Some(DENY);
    with_shard(&[], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        for client in 0..20 {
            assert_eq!(ask(&bench, client).await.verdict, Verdict::Deny);
        }
        assert_eq!((asked(&bench), open(&bench)), ([20, 0, 0], (false, vec![])));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_to_an_address_that_is_left_alone_are_not_lent() {
    for left_alone in [false, true] {
        with_shard(&[("pool.idle_timeout", "1m")], saying(&all(ALLOW)), |bench| async move {
            bench.peer.stand_for(&bench.core, &[ONE, TWO]);
            answered(&bench, 0..1).await;
            if left_alone {
                let policy = bench.core.policy();
                (0..5).for_each(|_| policy.addresses[0].unreachable(ONE, "connect"));
            }
            answered(&bench, 1..11).await;
            assert_eq!(asked(&bench), if left_alone { [1, 10, 0] } else { [11, 0, 0] });
            assert_eq!(bench.core.stats().connections_open, 1 + u64::from(left_alone));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_hangs_keeps_a_check_for_its_part_of_the_time() {
    let says = all(ALLOW_ONCE);
    says.borrow_mut()[1] = None;
    with_shard(&[("timeout", "3s")], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO, THREE]);
        for client in 0..5 {
            let began = Instant::now();
            answered(&bench, client..client + 1).await;
            assert_eq!(began.elapsed().as_millis() / 10, 100, "a third of the time");
        }
        let began = Instant::now();
        answered(&bench, 5..6).await;
        assert!(began.elapsed() < Duration::from_millis(10));
        assert_eq!(open(&bench), (false, vec![ONE]));
    })
    .await;
    // What waits for a connection of a full pool waits for all of its time: no address is to blame.
    says.borrow_mut()[1] = Some(ALLOW);
    let slow = Peer::new(|peer, place, mut stream| async move {
        while peer.request(place, &mut stream).await.is_some() {
            sleep(SECOND * 5 / 4).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, ALLOW.as_bytes()).await;
        }
    });
    with_shard(&[("timeout", "5s"), ("pool.max_connections", "1")], slow, |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO, THREE]);
        for (user_data, id) in ["a", "b", "c"].iter().enumerate() {
            bench.submit(&check(id, ""), user_data);
        }
        for user_data in 0..3 {
            assert_eq!(bench.decided(user_data).await.0.origin, Origin::Backend);
        }
        assert_eq!((asked(&bench), open(&bench)), ([3, 0, 0], (false, vec![])));
    })
    .await;
}

/// The time in line is no address's, also where what was lent at the end of it had closed and another was idle by then.
#[tokio::test(start_paused = true)]
async fn who_has_waited_for_a_connection_that_had_closed_has_the_next_for_as_long_as_any() {
    let peer = Peer::new(|peer, place, mut stream| async move {
        while peer.request(place, &mut stream).await.is_some() {
            let number = peer.requests();
            sleep(SECOND * if number <= 2 { 9 } else { 2 } / 10).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, ALLOW.as_bytes()).await;
            if number == 1 {
                return;
            }
        }
    });
    let keys = [("timeout", "2s"), ("pool.max_connections", "2"), ("breaker.failures", "1")];
    with_shard(&keys, peer, |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        for (user_data, id) in ["a", "b", "c"].iter().enumerate() {
            bench.submit(&check(id, ""), user_data);
            bench.settle().await;
        }
        for (user_data, took) in [900, 900, 1100].into_iter().enumerate() {
            let (decision, at) = bench.decided(user_data).await;
            assert_eq!((decision.origin, at.as_millis() / 10), (Origin::Backend, took / 10), "{user_data}");
        }
        assert_eq!((asked(&bench), open(&bench)), ([3, 0, 0], (false, vec![])));
        assert_eq!(bench.peer.connections(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_breaker_of_a_url_opens_when_none_of_its_addresses_works() {
    let says = all(GARBAGE);
    let keys = [("default_action", "allow"), ("fail_open", "corroborated")];
    with_shard(&keys, saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        for client in 0..5 {
            let decision = ask(&bench, client).await;
            assert_eq!(
                (decision.cause, decision.verdict),
                (Cause::Protocol, if client == 0 { Verdict::Deny } else { Verdict::Allow })
            );
        }
        assert_eq!((asked(&bench), open(&bench)), ([5, 5, 0], (true, vec![ONE, TWO])));
        assert_eq!(ask(&bench, 6).await.cause, Cause::BreakerOpen);
        says.borrow_mut()[2] = Some(ALLOW);
        sleep(SECOND * 2).await;
        answered(&bench, 7..8).await;
        assert_eq!(open(&bench), (false, vec![ONE]));
        answered(&bench, 8..20).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_with_more_dead_addresses_than_a_check_may_ask_is_not_given_up() {
    let says = all(GARBAGE);
    for working in [4, 5] {
        says.borrow_mut()[working] = Some(ALLOW);
    }
    with_shard(&[], saying(&says), |bench| async move {
        let many: Vec<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        bench.peer.stand_for(&bench.core, &many);
        for client in 0..5 {
            assert_eq!(ask(&bench, client).await.cause, Cause::Protocol);
        }
        answered(&bench, 5..20).await;
        assert_eq!((asked(&bench), open(&bench)), ([5, 5, 5], (false, many[..3].to_vec())));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_check_met_at_some_addresses_of_a_name_corroborates_what_others_meet() {
    for answered_since in [false, true] {
        let says = all(GARBAGE);
        let keys = [("default_action", "allow"), ("fail_open", "corroborated")];
        with_shard(&keys, saying(&says), |bench| async move {
            let many: Vec<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
            bench.peer.stand_for(&bench.core, &many);
            assert_eq!(ask(&bench, 0).await.verdict, Verdict::Deny, "nobody else yet");
            assert_eq!(ask(&bench, 0).await.verdict, Verdict::Deny);
            if answered_since {
                says.borrow_mut()[1] = Some(ALLOW);
                answered(&bench, 1..2).await;
                says.borrow_mut()[1] = Some(GARBAGE);
            }
            let second = if answered_since { Verdict::Deny } else { Verdict::Allow };
            assert_eq!(ask(&bench, 2).await.verdict, second);
            assert!(!open(&bench).0);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_makes_three_requests_at_most_whatever_the_names_stand_for() {
    let says = all(GARBAGE);
    let urls = ("backend.url", "http://a.test:1/a,http://b.test:2/b");
    let many: Vec<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    with_shard(&[urls], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &many);
        assert_eq!(ask(&bench, 1).await.cause, Cause::Protocol);
        assert_eq!(bench.peer.requests(), 3);
    })
    .await;
    // The addresses of a name come before the next URL.
    says.borrow_mut()[11] = Some(ALLOW);
    with_shard(&[urls], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        answered(&bench, 1..2).await;
        assert_eq!([1, 2, 11, 12].map(|place| bench.peer.requests_to(place)), [1, 1, 1, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_those_who_are_asked_at_once_each_is_asked_twice_at_most_whatever_its_name_stands_for() {
    let urls = ("backend.url", "http://a.test:1/a,http://b.test:2/b");
    let many: Vec<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    with_shard(&[urls, ("backend.mode", "any")], saying(&all(GARBAGE)), |bench| async move {
        bench.peer.stand_for(&bench.core, &many);
        assert_eq!(ask(&bench, 1).await.cause, Cause::Protocol);
        let asked = [0, 10].map(|url| (1..=5).map(|last| bench.peer.requests_to(url + last)).sum::<usize>());
        assert_eq!(asked, [2, 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_refuses_connections_is_left_alone_and_comes_back() {
    with_shard(&[], saying(&all(ALLOW)), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        bench.peer.refuse(&[ONE]);
        // Each wants a connection of its own.
        let ids: Vec<String> = (0..8).map(|id| format!("w{id}")).collect();
        for (user_data, id) in ids.iter().enumerate() {
            bench.submit(&check(id, ""), 1_000_000 + user_data);
        }
        for user_data in 0..ids.len() {
            assert_eq!(bench.decided(1_000_000 + user_data).await.0.origin, Origin::Backend);
        }
        assert_eq!((asked(&bench), open(&bench)), ([0, 8, 0], (false, vec![ONE])));
        sleep(SECOND * 2).await;
        answered(&bench, 0..3).await;
        assert_eq!((asked(&bench), open(&bench)), ([0, 11, 0], (false, vec![ONE])));
        bench.peer.refuse(&[]);
        sleep(SECOND * 3).await;
        answered(&bench, 0..3).await;
        assert_eq!(open(&bench), (false, vec![]));
        assert!(asked(&bench)[0] > 0);
        // Refused everywhere, the check ends at once, and the URL is to blame.
        bench.peer.refuse(&[ONE, TWO]);
        sleep(SECOND * 3).await;
        for client in 0..5 {
            assert_eq!(ask(&bench, client).await.cause, Cause::Connect);
        }
        assert_eq!(open(&bench), (true, vec![ONE, TWO]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn addresses_come_and_go() {
    let says = all(ALLOW);
    with_shard(&[("pool.idle_timeout", "1m")], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE]);
        says.borrow_mut()[0] = Some(GARBAGE);
        assert_eq!(ask(&bench, 0).await.cause, Cause::Protocol, "alone, it is the endpoint itself");
        says.borrow_mut()[0] = Some(ALLOW);
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        answered(&bench, 1..5).await;
        assert_eq!(asked(&bench), [4, 0, 0]);
        bench.peer.stand_for(&bench.core, &[TWO, THREE]);
        answered(&bench, 5..10).await;
        assert_eq!(asked(&bench), [4, 5, 0], "its connection is not used again");
        says.borrow_mut()[2] = Some(GARBAGE);
        says.borrow_mut()[3] = Some(ALLOW_ONCE);
        answered(&bench, 10..20).await;
        assert_eq!((asked(&bench), open(&bench)), ([4, 10, 10], (false, vec![TWO])));
        bench.peer.stand_for(&bench.core, &[ONE, THREE]);
        assert_eq!(open(&bench), (false, vec![]), "its state went with it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn balance_spreads_over_addresses_as_over_urls() {
    let mode = ("backend.mode", "balance");
    let says = all(ALLOW);
    with_shard(&[mode], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO, THREE]);
        answered(&bench, 0..255).await;
        assert!(asked(&bench).iter().all(|&share| share > 50), "{:?}", asked(&bench));
        assert_eq!(bench.core.stats().connections_open, 3, "a connection is for whoever goes there");
    })
    .await;
    // One hangs: it keeps what it has, and gets less and less.
    says.borrow_mut()[2] = None;
    with_shard(&[mode, ("timeout", "10s")], saying(&says), |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO, THREE]);
        for number in 0..400 {
            bench.submit(&check(&format!("h{number}"), ""), number);
            bench.settle().await;
        }
        let shares = asked(&bench);
        assert!(shares[1] < 20 && shares[0] > 100 && shares[2] > 100, "{shares:?}");
        for number in 0..400 {
            assert_eq!(bench.decided(number).await.0.origin, Origin::Backend);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_url_with_three_addresses_is_picked_like_three() {
    let keys = [("backend.url", "http://a.test:1/,http://b.test:2/"), ("backend.mode", "balance")];
    with_shard(&keys, saying(&all(ALLOW)), |bench| async move {
        let policy = bench.core.policy();
        let share = || {
            let randoms = (0..4_000_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
            randoms.filter(|&random| policy.balanced(random)[0] == 0).count()
        };
        assert!((1_900..2_100).contains(&share()), "{}", share());
        policy.addresses[0].turn_to(&[ONE, TWO, THREE], Instant::now());
        assert!((2_900..3_100).contains(&share()), "{}", share());
        (0..5).for_each(|_| policy.addresses[0].unreachable(ONE, "connect"));
        assert!((2_550..2_780).contains(&share()), "two of three: {}", share());
        // As busy for each address, it is as busy.
        let busy = |endpoint: usize, by| {
            policy.gauges[endpoint].open.set(by);
        };
        busy(0, 5);
        busy(1, 2);
        assert!(share() < 2_000, "{}", share());
        busy(0, 3);
        assert!(share() > 3_000, "{}", share());
        busy(0, 0);
        busy(1, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_client_with_poisonous_tokens_has_no_address_left_alone() {
    let peer =
        Peer::answering(|_, target| Some(if target.contains("poison") { GARBAGE } else { ALLOW }.to_owned()));
    with_shard(&[], peer, |bench| async move {
        bench.peer.stand_for(&bench.core, &[ONE, TWO]);
        for number in 0..200 {
            bench.submit(&check(&format!("p{number}"), "poison=1"), 5_000_000 + number);
            assert_eq!(bench.decided(5_000_000 + number).await.0.cause, Cause::Protocol);
        }
        assert_eq!(open(&bench), (false, vec![]));
    })
    .await;
}
