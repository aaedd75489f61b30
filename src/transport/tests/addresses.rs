//! Which of a name's addresses an exchange goes to.

use std::cell::Cell;

use tokio::time::timeout;

use super::*;

const ONE: [u8; 4] = [192, 0, 2, 1];
const TWO: [u8; 4] = [192, 0, 2, 2];
const THREE: [u8; 4] = [192, 0, 2, 3];

impl World {
    /// In a task of its own; only to these, in the end to one of them.
    fn asking_at<const N: usize>(
        &self,
        these: [[u8; 4]; N],
    ) -> tokio::task::JoinHandle<(Result<Reply, Failure>, IpAddr)> {
        let among = Among::these(Some(these.map(IpAddr::from).to_vec()));
        let progress = Rc::new(Progress { among, ..Progress::default() });
        let transport = Rc::clone(&self.transport);
        spawn_local(async move {
            let outcome = ask_for("/", &transport, false, &progress).await;
            (outcome, progress.address().unwrap_or(IpAddr::from([0; 4])))
        })
    }

    async fn ask_at<const N: usize>(&self, these: [[u8; 4]; N]) -> IpAddr {
        let (reply, address) = self.asking_at(these).await.unwrap();
        reply.unwrap().body.discard();
        address
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_goes_only_where_it_may_in_each_lane() {
    local(async {
        for version in ["1.1", "h2c"] {
            let mut world = World::always(&[("http.version", version)], OK_EMPTY);
            if version == "h2c" {
                world = World::new(&[("http.version", version)]);
                lanes::serve_all(&mut world);
            }
            assert_eq!(world.ask_at([ONE]).await, IpAddr::from(ONE));
            assert_eq!(world.ask_at([TWO]).await, IpAddr::from(TWO), "though the other is idle");
            assert_eq!(world.gauges(), (2, 2, 2, 0));
            for these in [[ONE], [TWO], [ONE], [ONE], [TWO]] {
                assert_eq!(world.ask_at(these).await, IpAddr::from(these[0]));
            }
            assert_eq!(
                world.ask_at([ONE, TWO]).await,
                IpAddr::from(if version == "1.1" { TWO } else { ONE })
            );
            assert_eq!(world.gauges(), (2, 2, 2, 0), "none of them needed a new one");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_is_not_wanted_gives_up_its_place() {
    local(async {
        let world = World::always(&[("pool.max_connections", "1")], OK_EMPTY);
        let began = Instant::now();
        for these in [[ONE], [TWO], [ONE]] {
            assert_eq!(world.ask_at(these).await, IpAddr::from(these[0]));
            assert_eq!(world.gauges().1, 1);
        }
        assert_eq!((world.gauges().0, began.elapsed()), (3, Duration::ZERO));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_returned_goes_to_the_first_in_line_that_takes_it() {
    local(async {
        let mut world = World::new(&[("pool.max_connections", "1")]);
        let first = world.asking_at([ONE]);
        let mut peer = world.peer().await;
        peer.request().await;
        let elsewhere = world.asking_at([TWO]);
        settle().await;
        let anywhere = world.asking(false);
        settle().await;
        peer.reply(OK_EMPTY).await;
        first.await.unwrap().0.unwrap().body.discard();
        peer.request().await;
        assert!(!elsewhere.is_finished());
        peer.reply(OK_EMPTY).await;
        anywhere.await.unwrap().0.unwrap().body.discard();
        // Nobody in line takes it any more: its place goes to the one who waits.
        peer.closed().await;
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        assert_eq!(elsewhere.await.unwrap().1, IpAddr::from(TWO));
    })
    .await;
}

/// Answers each request after a millisecond, on every connection; how many.
fn serve_slowly(world: &mut World, http2: bool) -> Rc<Cell<u64>> {
    let (_, empty) = mpsc::unbounded_channel();
    let mut peers = std::mem::replace(&mut world.peers, empty);
    let served = Rc::<Cell<u64>>::default();
    let count = Rc::clone(&served);
    spawn_local(async move {
        while let Some(mut peer) = peers.recv().await {
            let count = Rc::clone(&count);
            let one_more = async move || {
                sleep(Duration::from_millis(1)).await;
                count.set(count.get() + 1);
            };
            spawn_local(async move {
                if http2 {
                    let mut server = ::h2::server::handshake(peer.0).await.unwrap();
                    while let Some(Ok(asked)) = server.accept().await {
                        one_more().await;
                        lanes::answer(asked, 200);
                    }
                    return;
                }
                let mut seen = Vec::new();
                while let Ok(byte) = peer.0.read_u8().await {
                    seen.push(byte);
                    if seen.ends_with(b"\r\n\r\n") {
                        one_more().await;
                        peer.reply(OK_EMPTY).await;
                        seen.clear();
                    }
                }
            });
        }
    });
    served
}

/// They ask one after the other, for ever.
fn crowd(world: &World, count: usize, fresh: bool) {
    for _ in 0..count {
        let transport = Rc::clone(&world.transport);
        spawn_local(async move {
            while let Ok(reply) = ask_for("/", &transport, fresh, &Rc::default()).await {
                reply.body.discard();
            }
        });
    }
}

/// Others take each connection as soon as it is free.
#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_what_a_busy_pool_has_is_served_all_the_same() {
    unshared_in_each_lane(async || {
        for version in ["1.1", "h2c"] {
            let keys = [("http.version", version), ("pool.max_connections", "1"), ("pool.max_age", "1h")];
            let mut world = World::new(&keys);
            let served = serve_slowly(&mut world, version == "h2c");
            crowd(&world, 4, false);
            sleep(Duration::from_millis(10)).await;
            for these in [None, Some([TWO]), Some([ONE])] {
                if these.is_none() && version == "h2c" {
                    continue;
                }
                let (before, opened) = (served.get(), world.gauges().0);
                let asking = async {
                    match these {
                        None => world.exchange(true).await.0.unwrap().body.discard(),
                        Some(these) => assert_eq!(world.ask_at(these).await, IpAddr::from(these[0])),
                    }
                };
                timeout(Duration::from_secs(1), asking).await.expect("in its time");
                assert!(served.get() - before <= 30, "{version} {these:?}: {}", served.get() - before);
                assert_eq!(world.gauges().0, opened + 1, "{version} {these:?}");
                sleep(Duration::from_millis(100)).await;
                assert_eq!(world.gauges().0, opened + 1, "and the others go on with that");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn those_who_are_hard_to_please_close_few_connections() {
    unshared_in_each_lane(async || {
        let mut world = World::new(&[("pool.max_connections", "2"), ("pool.max_age", "1h")]);
        let served = serve_slowly(&mut world, false);
        crowd(&world, 8, false);
        crowd(&world, 8, true);
        sleep(Duration::from_secs(2)).await;
        let opened = world.gauges().0;
        assert!(opened > 10 && opened * 15 <= served.get(), "{opened} for {}", served.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_connection_over_http2_makes_way_and_the_others_go_on() {
    local(async {
        let keys = [("http.version", "h2c"), ("pool.max_connections", "3"), ("pool.max_age", "1h")];
        let mut world = World::new(&keys);
        let (_, empty) = mpsc::unbounded_channel();
        let mut peers = std::mem::replace(&mut world.peers, empty);
        let served = Rc::<Cell<u64>>::default();
        let count = Rc::clone(&served);
        // Of two streams at a time the first is not answered.
        spawn_local(async move {
            while let Some(peer) = peers.recv().await {
                let count = Rc::clone(&count);
                spawn_local(async move {
                    let handshake = ::h2::server::Builder::new().max_concurrent_streams(2).handshake(peer.0);
                    let mut server: lanes::Server = handshake.await.unwrap();
                    let _hung = server.accept().await;
                    while let Some(Ok(asked)) = server.accept().await {
                        sleep(Duration::from_millis(1)).await;
                        count.set(count.get() + 1);
                        lanes::answer(asked, 200);
                    }
                });
            }
        });
        crowd(&world, 8, false);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.gauges().0, 3);
        let elsewhere = world.asking_at([TWO]);
        sleep(Duration::from_millis(200)).await;
        let before = served.get();
        sleep(Duration::from_millis(100)).await;
        assert!(served.get() - before > 100, "{}", served.get() - before);
        assert!(!elsewhere.is_finished(), "no place is free yet");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_over_http2_that_leads_elsewhere_gives_up_its_place() {
    local(async {
        let mut world = World::new(&[("http.version", "h2c"), ("pool.max_connections", "1")]);
        serve_slowly(&mut world, true);
        for these in [[ONE], [TWO], [ONE]] {
            let began = Instant::now();
            assert_eq!(world.ask_at(these).await, IpAddr::from(these[0]));
            assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
        }
        // Also when it becomes idle only then.
        let (one, two) = (world.asking_at([ONE]), world.asking_at([TWO]));
        for (asking, address) in [(one, ONE), (two, TWO)] {
            let (reply, at) = timeout(Duration::from_millis(10), asking).await.unwrap().unwrap();
            reply.unwrap().body.discard();
            assert_eq!(at, IpAddr::from(address));
        }
        assert_eq!((world.gauges().0, world.gauges().1), (4, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_connection_over_http2_fails_those_who_could_have_used_it_and_no_others() {
    local(async {
        let mut world = World::new(&[("http.version", "h2c")]);
        world.dialer.delay.set(Duration::from_millis(5));
        let refused = Failure::new(Cause::Connect, "refused");
        world.dialer.failures.borrow_mut().extend([refused.clone(), refused]);
        let failing = [world.asking_at([ONE]), world.asking_at([ONE]), world.asking_at([ONE])];
        let other = world.asking_at([TWO]);
        for failing in failing {
            assert_eq!(failing.await.unwrap().0.err().unwrap().cause, Cause::Connect);
        }
        lanes::serve_all(&mut world);
        let (reply, address) = other.await.unwrap();
        assert_eq!((reply.unwrap().status, address), (200, IpAddr::from(TWO)));
    })
    .await;
}

/// Made for it, it is of use to it, and to nobody else who may only go where the name stood before.
#[tokio::test(start_paused = true)]
async fn who_waits_for_an_address_takes_its_own_connection_to_where_the_name_has_moved() {
    local(async {
        for version in ["1.1", "h2c"] {
            let mut world = World::new(&[("http.version", version)]);
            world.dialer.delay.set(Duration::from_millis(5));
            world.dialer.moved.set(Some(IpAddr::from(THREE)));
            let asking = [world.asking_at([ONE]), world.asking_at([TWO]), world.asking_at([TWO])];
            if version == "h2c" {
                lanes::serve_all(&mut world);
            } else {
                serve_all(&mut world, OK_EMPTY);
            }
            for asking in asking {
                let (reply, address) = timeout(Duration::from_millis(50), asking).await.unwrap().unwrap();
                reply.unwrap().body.discard();
                assert_eq!(address, IpAddr::from(THREE), "{version}");
            }
            assert_eq!(world.gauges().0, 3, "{version}: one for each");
            // Who may go anywhere has them all.
            assert_eq!(world.ask().await.unwrap().status, 200);
            assert_eq!(world.gauges().0, 3, "{version}");
        }
    })
    .await;
}
