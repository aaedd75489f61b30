//! Connections that die without a word: the machine lost its power, or another has taken over its address. What was open leads
//! to nobody, and whether the backend is back is not left to it to say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use super::support::{ALLOW, Bench, Peer, check, with_shard};
use crate::check::Check;
use crate::decision::{Cause, Origin};

const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
const KEYS: [(&str, &str); 2] = [("timeout", "400ms"), ("pool.idle_timeout", "1m")];
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// Which connections are dead: all that were made before, to one of these places.
#[derive(Default)]
struct Fate {
    made: Cell<usize>,
    dead: Cell<usize>,
    places: RefCell<BTreeSet<usize>>,
}

impl Fate {
    fn strike(&self, places: &[usize]) {
        self.dead.set(self.made.get());
        self.places.replace(places.iter().copied().collect());
    }

    /// Says nothing any more if the connection is dead.
    async fn befalls(&self, number: usize, place: usize) {
        sleep(PAUSE).await;
        if number < self.dead.get() && self.places.borrow().contains(&place) {
            pending::<()>().await;
        }
    }
}

/// Allows, a moment later.
fn peer(fate: &Rc<Fate>, http2: bool) -> Rc<Peer> {
    let fate = Rc::clone(fate);
    let peer = Peer::new(move |peer, place, stream| {
        let fate = Rc::clone(&fate);
        let number = fate.made.replace(fate.made.get() + 1);
        async move {
            if http2 {
                serve_http2(stream, &fate, number, place).await;
            } else {
                let mut stream = stream;
                while peer.request(place, &mut stream).await.is_some() {
                    fate.befalls(number, place).await;
                    let _ = stream.write_all(ALLOW.as_bytes()).await;
                }
            }
        }
    });
    peer.http2.set(http2);
    peer
}

async fn serve_http2(stream: DuplexStream, fate: &Fate, number: usize, place: usize) {
    let mut connection = ::h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        fate.befalls(number, place).await;
        respond.send_response(Response::new(()), true).unwrap();
    }
}

fn named(client: usize) -> (String, String) {
    (format!("s{client}"), format!("192.0.2.{client}"))
}

/// Of so many clients at once; what came of each.
async fn ask(bench: &Bench, clients: std::ops::Range<usize>) -> Vec<(Origin, Cause)> {
    ask_each(bench, &clients.collect::<Vec<_>>()).await
}

async fn ask_each(bench: &Bench, clients: &[usize]) -> Vec<(Origin, Cause)> {
    for &client in clients {
        let (session, ip) = named(client);
        bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "") }, client);
    }
    let mut outcomes = Vec::new();
    for &client in clients {
        let decision = bench.decided(client).await.0;
        outcomes.push((decision.origin, decision.cause));
    }
    outcomes
}

const ANSWER: (Origin, Cause) = (Origin::Backend, Cause::None);

const LANES: [&[(&str, &str)]; 4] = [
    &[("http.lane", "hyper")],
    &[("http.lane", "wire")],
    &[("http.lane", "wire"), ("http.pipeline", "8")],
    &[("http.version", "h2c")],
];

#[tokio::test(start_paused = true)]
async fn the_first_check_that_finds_out_is_not_asked_on_a_connection_that_is_dead() {
    for lane in LANES {
        let fate = Rc::<Fate>::default();
        let http2 = lane[0].0 == "http.version";
        with_shard(&[&KEYS, lane].concat(), peer(&fate, http2), |bench| async move {
            assert_eq!(ask(&bench, 0..20).await, [ANSWER; 20]);
            fate.strike(&[0]);
            for outcome in ask(&bench, 20..25).await {
                assert_eq!(outcome, (Origin::Default, Cause::Timeout));
            }
            assert!(bench.core.policy().health[0].is_open());
            bench.settle().await;
            sleep(SECOND + SECOND / 5).await;
            assert_eq!(ask(&bench, 25..26).await, [ANSWER], "{lane:?}");
            assert_eq!(ask(&bench, 30..50).await, [ANSWER; 20], "none that is dead is left: {lane:?}");
        })
        .await;
    }
}

/// What was asked on the dead one was answered long ago, by default: it holds no place.
#[tokio::test(start_paused = true)]
async fn nor_does_it_wait_for_the_place_of_one_that_is_dead() {
    let keys = [
        ("timeout", "2s"),
        ("breaker.failures", "1"),
        ("breaker.cooldown", "10ms"),
        ("pool.max_connections", "1"),
    ];
    for lane in LANES {
        let fate = Rc::<Fate>::default();
        let http2 = lane[0].0 == "http.version";
        with_shard(&[&keys, lane].concat(), peer(&fate, http2), |bench| async move {
            assert_eq!(ask(&bench, 0..1).await, [ANSWER]);
            fate.strike(&[0]);
            assert_eq!(ask(&bench, 1..2).await, [(Origin::Default, Cause::Timeout)]);
            sleep(2 * PAUSE).await;
            let began = Instant::now();
            assert_eq!(ask(&bench, 2..3).await, [ANSWER], "{lane:?}");
            assert!(began.elapsed() < 3 * PAUSE, "it waited for {:?}: {lane:?}", began.elapsed());
            assert_eq!(fate.made.get(), 2);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn nor_is_the_one_that_finds_an_address_back() {
    for http2 in [false, true] {
        let fate = Rc::<Fate>::default();
        let version = ("http.version", if http2 { "h2c" } else { "1.1" });
        with_shard(&[&KEYS[..], &[version]].concat(), peer(&fate, http2), |bench| async move {
            bench.peer.stand_for(&bench.core, &[ONE, TWO]);
            assert_eq!(ask(&bench, 0..20).await, [ANSWER; 20]);
            fate.strike(&[1]);
            assert_eq!(ask(&bench, 20..25).await, [ANSWER; 5], "by the other");
            let is_open = || {
                let known = bench.core.policy().addresses[0].several().unwrap();
                known.iter().any(|known| known.address == ONE && known.health.is_open())
            };
            assert!(is_open());
            sleep(SECOND + SECOND / 5).await;
            let made = fate.made.get();
            assert_eq!(ask(&bench, 25..26).await, [ANSWER]);
            assert!(!is_open() && fate.made.get() == made + 1);
        })
        .await;
    }
}

/// Of so many clients, those whose checks this I/O thread asks for.
fn of_thread(bench: &Bench, thread: usize, clients: std::ops::Range<usize>) -> Vec<usize> {
    let (core, policy) = (&bench.core, bench.core.policy());
    let its = |client: &usize| {
        let (session, ip) = named(*client);
        let key = core
            .hash_of_key(policy.accept(&Check { ip: ip.as_bytes(), ..check(&session, "") }).unwrap().key());
        core.thread_of(key) == thread
    };
    clients.filter(its).collect()
}

/// Each thread has its own connections, and one of them finds out for all.
#[tokio::test(start_paused = true)]
async fn what_one_thread_finds_back_no_other_asks_on_a_connection_that_is_dead() {
    for http2 in [false, true] {
        for places in [&[0][..], &[1]] {
            let fate = Rc::<Fate>::default();
            let version = ("http.version", if http2 { "h2c" } else { "1.1" });
            let keys = [&KEYS[..], &[version, ("threads.io", "2")]].concat();
            with_shard(&keys, peer(&fate, http2), |bench| async move {
                if places == [1] {
                    bench.peer.stand_for(&bench.core, &[ONE, TWO]);
                }
                let [one, other] = [0, 1].map(|thread| of_thread(&bench, thread, 0..200));
                for thread in [&one, &other] {
                    assert_eq!(ask_each(&bench, &thread[..20]).await, [ANSWER; 20]);
                }
                fate.strike(places);
                ask_each(&bench, &one[20..25]).await;
                bench.settle().await;
                sleep(SECOND + SECOND / 5).await;
                let made = fate.made.get();
                assert_eq!(ask_each(&bench, &one[25..26]).await, [ANSWER]);
                assert_eq!(fate.made.get(), made + 1, "found back");
                let asked = Instant::now();
                assert_eq!(ask_each(&bench, &other[20..25]).await, [ANSWER; 5], "{http2} {places:?}");
                assert!(asked.elapsed() < SECOND / 10, "nobody met a dead one: {http2} {places:?}");
            })
            .await;
        }
    }
}

/// An answer to what was asked before closes the breaker: nobody had to find out.
#[tokio::test(start_paused = true)]
async fn a_breaker_that_only_flaps_costs_no_connection() {
    let made = Rc::<Cell<usize>>::default();
    let count = Rc::clone(&made);
    let peer = Peer::new(move |peer, place, mut stream| {
        count.set(count.get() + 1);
        async move {
            while let Some(target) = peer.request(place, &mut stream).await {
                sleep(PAUSE).await;
                let reply = if target.contains("broken") { "what?\r\n\r\n" } else { ALLOW };
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        }
    });
    with_shard(&[("timeout", "1s"), ("pool.idle_timeout", "1m")], peer, |bench| async move {
        assert_eq!(ask(&bench, 0..20).await, [ANSWER; 20]);
        for round in 1..4 {
            let broken = round * 100..round * 100 + 5;
            for client in broken.clone() {
                let (session, ip) = named(client);
                bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "broken") }, client);
            }
            sleep(PAUSE / 2).await;
            bench.submit(&check("asked before", &round.to_string()), round * 100 + 50);
            for client in broken {
                assert_eq!(bench.decided(client).await.0.cause, Cause::Protocol);
            }
            assert!(bench.core.policy().health[0].is_open());
            sleep(PAUSE).await;
            assert!(!bench.core.policy().health[0].is_open());
        }
        // Those that brought what is no reply are closed, as ever.
        let stats = bench.core.stats();
        assert_eq!((stats.endpoints[0].breaker_opened, stats.connections_open, made.get()), (3, 5, 20));
    })
    .await;
}
