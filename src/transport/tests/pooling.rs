//! Bounds, order and cleanliness of the pool.

use tokio::io::duplex;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;

fn bounded(count: &'static str) -> World {
    World::new(&[("pool.max_connections", count)])
}

#[tokio::test(start_paused = true)]
async fn no_more_connections_than_allowed_and_who_came_first_is_first() {
    unshared_in_each_lane(async || {
        let mut world = bounded("2");
        let order = Rc::<RefCell<Vec<usize>>>::default();
        for index in 0..10 {
            let (transport, order) = (Rc::clone(&world.transport), Rc::clone(&order));
            spawn_local(async move {
                let reply = ask_for("/", &transport, false, &Rc::default()).await.unwrap();
                order.borrow_mut().push(index);
                reply.body.discard();
            });
        }
        settle().await;
        assert_eq!(world.gauges(), (2, 2, 0, 8));
        let (mut a, mut b) = (world.peer().await, world.peer().await);
        for _ in 0..5 {
            a.request().await;
            a.reply(OK_EMPTY).await;
            settle().await;
            b.request().await;
            b.reply(OK_EMPTY).await;
            settle().await;
        }
        assert_eq!(*order.borrow(), (0..10).collect::<Vec<_>>());
        assert_eq!(world.gauges(), (2, 2, 2, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_shared_out_among_threads() {
    let mut config = Config::new();
    config.set("backend.url", "http://192.0.2.1/").unwrap();
    config.set("default_action", "deny").unwrap();
    config.set("pool.max_connections", "8").unwrap();
    let settings = Arc::new(config.settings().unwrap());
    let shares: Vec<usize> = (0..3)
        .map(|share| {
            let gauges = gauges(3, 1);
            let dialer = Rc::clone(&World::new(&[]).dialer) as Rc<dyn Dial>;
            Transport::with_dialer(Arc::clone(&settings), gauges, share, 3, dialer).pools[0]
                .limits
                .connections
        })
        .collect();
    assert_eq!(shares, [3, 3, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_takes_a_returned_connection_or_its_own_whichever_is_first() {
    unshared_in_each_lane(async || {
        let mut world = bounded("2");
        let first = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        // The second one's own connection takes a while; the first is returned before.
        world.dialer.delay.set(Duration::from_millis(50));
        let second = world.asking(false);
        settle().await;
        peer.reply(OK_EMPTY).await;
        first.await.unwrap().0.unwrap().body.discard();
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        second.await.unwrap().0.unwrap().body.discard();
        assert_eq!(world.gauges().0, 1);
        // The other one was not in vain.
        sleep(Duration::from_millis(60)).await;
        assert_eq!(world.gauges(), (2, 2, 2, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_connection_fails_the_one_who_made_it() {
    unshared_in_each_lane(async || {
        let mut world = bounded("2");
        let first = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        world.dialer.failures.borrow_mut().push_back(Failure::new(Cause::Connect, "refused"));
        world.dialer.delay.set(Duration::from_millis(5));
        let (second, third) = (world.asking(false), world.asking(false));
        let failure = second.await.unwrap().0.err().unwrap();
        assert_eq!(failure.cause, Cause::Connect);
        assert!(!third.is_finished());
        peer.reply(OK_EMPTY).await;
        first.await.unwrap().0.unwrap().body.discard();
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        third.await.unwrap().0.unwrap();
    })
    .await;
}

/// Nobody waits for it any more, and its place is needed.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_longer_than_a_check_has_time_makes_way() {
    unshared_in_each_lane(async || {
        let ask = |world: &World| {
            let (transport, progress) = (Rc::clone(&world.transport), Rc::<Progress>::default());
            let asked = Rc::clone(&progress);
            (spawn_local(async move { ask_for("/", &transport, false, &asked).await.map(drop) }), progress)
        };
        let keys = [("pool.max_connections", "1"), ("timeout", "1s"), ("connect_timeout", "30s")];
        let mut world = World::new(&keys);
        world.dialer.delay.set(Duration::from_secs(30));
        let (first, _) = ask(&world);
        sleep(Duration::from_millis(500)).await;
        let (second, waits) = ask(&world);
        settle().await;
        assert!(waits.is_in_line());
        sleep(Duration::from_millis(500)).await;
        first.abort();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(waits.stage(), Stage::Connecting, "its own attempt");
        sleep(Duration::from_millis(499)).await;
        second.abort();
        // From now on a connection is there after 1.2 s: its own maker does not see it.
        world.dialer.delay.set(Duration::from_millis(1200));
        sleep(Duration::from_millis(600)).await;
        let (third, waits) = ask(&world);
        settle().await;
        assert_eq!(waits.stage(), Stage::Connecting, "the place was free for it");
        sleep(Duration::from_secs(1)).await;
        third.abort();
        settle().await;
        assert_eq!(world.gauges().0, 0);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(world.gauges(), (1, 1, 1, 0), "nobody needed its place");
        world.peer().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_zero_byte_close_may_be_asked_again_only_on_a_used_connection() {
    in_each_lane(async || {
        let mut world = bounded("4");
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        let asking = world.asking(false);
        peer.request().await;
        drop(peer);
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, true), "{}", failure.detail);
        let asking = world.asking(true);
        let mut peer = world.peer().await;
        peer.request().await;
        drop(peer);
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, false));
        assert_eq!(world.gauges().1, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_rested_before_its_first_use_is_a_used_one() {
    in_each_lane(async || {
        let mut world = bounded("4");
        world.dialer.delay.set(Duration::from_millis(10));
        let asking = world.asking(false);
        sleep(Duration::from_millis(1)).await;
        asking.abort();
        let mut peer = world.peer().await;
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 1, 0), "whoever wanted it has left");
        for (opened, retry_is_safe) in [(1, true), (2, false)] {
            let asking = world.asking(false);
            if opened == 2 {
                // The same, but that it is asked at once.
                peer = world.peer().await;
            }
            peer.request().await;
            drop(peer);
            let failure = asking.await.unwrap().0.err().unwrap();
            assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, retry_is_safe));
            assert_eq!((world.gauges().0, world.gauges().1), (opened, 0));
            peer = Peer(duplex(1).0);
        }
        // And to whoever wants a new one, it is none.
        let asking = world.asking(false);
        sleep(Duration::from_millis(1)).await;
        asking.abort();
        let rested = world.peer().await;
        let asking = world.asking(true);
        world.peer().await.request().await;
        assert_eq!(world.gauges(), (4, 2, 1, 0));
        drop((rested, asking));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fresh_connection_is_new_even_when_the_pool_is_full_of_idle_ones() {
    in_each_lane(async || {
        let mut world = bounded("1");
        let asking = world.asking(false);
        let mut old = world.peer().await;
        old.request().await;
        old.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        let asking = world.asking(true);
        old.closed().await;
        let mut new = world.peer().await;
        new.request().await;
        new.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        assert_eq!(world.gauges(), (2, 1, 1, 0));
        // And when it is busy, it waits, and takes the place of what is returned.
        let busy = world.asking(false);
        new.request().await;
        let fresh = world.asking(true);
        settle().await;
        assert_eq!(world.gauges(), (2, 1, 0, 1));
        new.reply(OK_EMPTY).await;
        busy.await.unwrap().0.unwrap().body.discard();
        let mut third = world.peer().await;
        third.request().await;
        third.reply(OK_EMPTY).await;
        fresh.await.unwrap().0.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_in_time() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        sleep(Duration::from_millis(1499)).await;
        assert_eq!(world.gauges(), (1, 1, 1, 0));
        sleep(Duration::from_millis(2)).await;
        assert_eq!(world.gauges(), (1, 0, 0, 0));
        peer.closed().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_grow_old_or_lose_their_name() {
    unshared_in_each_lane(async || {
        let world = World::always(&[("pool.max_age", "10s")], OK_EMPTY);
        for _ in 0..11 {
            world.ask().await.unwrap().body.discard();
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(world.gauges().0, 2, "one for ten seconds, then another");
        world.dialer.current.set(false);
        world.ask().await.unwrap().body.discard();
        assert_eq!(world.gauges(), (3, 0, 0, 0), "not kept: its address is no longer the backend's");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closed_by_the_peer_while_idle_is_noticed() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        drop(peer);
        // Where no task of its own reads the connection, one that is used again at once is looked at then.
        sleep(Duration::from_millis(51)).await;
        assert_eq!(world.gauges(), (1, 0, 0, 0));
    })
    .await;
}

/// Drops an exchange after each number of polls that it takes, at every stage that a slow peer makes it wait in.
#[tokio::test(start_paused = true)]
async fn an_exchange_dropped_anywhere_leaves_no_trace() {
    unshared_in_each_lane(async || {
        for polls in 1..12 {
            for waiting in [false, true] {
                let world = World::always(&[("pool.max_connections", "1")], OK_EMPTY);
                world.dialer.delay.set(Duration::from_millis(3));
                let transport = Rc::clone(&world.transport);
                let blocker = waiting.then(|| {
                    spawn_local(async move {
                        let reply = ask_for("/", &transport, false, &Rc::default()).await;
                        reply.unwrap().body.discard();
                    })
                });
                yield_now().await;
                {
                    let progress = Rc::<Progress>::default();
                    let mut exchange = Box::pin(ask_for("/", &world.transport, false, &progress));
                    let mut left = polls;
                    let outcome = std::future::poll_fn(|cx| {
                        left -= 1;
                        match exchange.as_mut().poll(cx) {
                            std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
                            std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                            std::task::Poll::Pending => std::task::Poll::Pending,
                        }
                    });
                    drop(outcome.await);
                }
                assert!(world.gauges().3 <= u64::from(waiting), "{polls}");
                if let Some(blocker) = blocker {
                    blocker.await.unwrap();
                }
                sleep(Duration::from_millis(10)).await;
                // The pool still works, and with its one connection.
                world.ask().await.unwrap().body.discard();
                let (_, open, idle, queued) = world.gauges();
                assert_eq!((open, idle, queued), (1, 1, 0), "{polls} {waiting}");
                world.transport.close();
                settle().await;
                let (_, open, idle, queued) = world.gauges();
                assert_eq!((open, idle, queued), (0, 0, 0), "{polls} {waiting}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_never_read_as_anothers() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        asking.abort();
        settle().await;
        assert_eq!(world.gauges(), (1, 0, 0, 0));
        peer.reply(OK_EMPTY).await;
        let asking = world.asking(false);
        let mut other = world.peer().await;
        other.request().await;
        other.reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(asking.await.unwrap().0.unwrap().status, 403);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_closes_everything() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(OK_EMPTY).await;
        asking.await.unwrap().0.unwrap().body.discard();
        let gauges = Arc::clone(&world.gauges);
        drop(world);
        peer.closed().await;
        assert_eq!(gauges[0].idle.get(), 0);
        assert_eq!(gauges[0].open.get(), 0);
    })
    .await;
}

/// Tens of thousands wait while a backend hangs, and all leave at once. The bound is loose, and still a small part
/// of what it takes when each step looks at the whole line.
const CROWD: usize = 60_000;
const SOON: Duration = Duration::from_secs(15);

fn spent(began: Duration) -> Duration {
    used().saturating_sub(began)
}

/// What this thread has used of its core: other work on the machine does not count.
fn used() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_crowd_leaves_the_line_in_no_time() {
    unshared_in_each_lane(async || {
        for version in ["1.1", "h2c"] {
            let world = World::new(&[("http.version", version), ("pool.max_connections", "1")]);
            world.dialer.delay.set(Duration::from_hours(1));
            let progress: Vec<_> = (0..CROWD).map(|_| Rc::<Progress>::default()).collect();
            let began = used();
            let mut crowd: VecDeque<_> = progress
                .iter()
                .map(|progress| Box::pin(ask_for("/", &world.transport, false, progress)))
                .collect();
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            for exchange in &mut crowd {
                assert!(exchange.as_mut().poll(&mut cx).is_pending());
            }
            assert_eq!(world.gauges().3, CROWD as u64);
            // From both ends and so from the middle as well.
            while crowd.pop_front().is_some() {
                crowd.pop_back();
            }
            assert_eq!(world.gauges().3, 0);
            assert!(spent(began) < SOON, "{version}: {:?}", spent(began));
        }
    })
    .await;
}

#[tokio::test]
async fn a_crowd_fails_one_by_one_in_no_time() {
    in_each_lane(async || {
        let world = World::new(&[("pool.max_connections", "1000")]);
        world
            .dialer
            .failures
            .borrow_mut()
            .extend((0..CROWD).map(|_| Failure::new(Cause::Connect, "refused")));
        let began = used();
        let crowd: Vec<_> = (0..CROWD).map(|_| world.asking(false)).collect();
        for asking in crowd {
            assert_eq!(asking.await.unwrap().0.err().unwrap().cause, Cause::Connect);
        }
        assert!(world.dialer.failures.borrow().is_empty(), "each had its own attempt");
        assert!(spent(began) < SOON, "{:?}", spent(began));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_still_waits_when_the_common_connection_is_there_is_in_line_again() {
    unshared_in_each_lane(async || {
        let https = [("backend.url", "https://backend.test:6000/auth"), ("pool.max_connections", "2")];
        let world = World::new(&https);
        world.dialer.delay.set(Duration::from_secs(1));
        let progress: Vec<_> = (0..4).map(|_| Rc::<Progress>::default()).collect();
        for progress in &progress {
            let (transport, progress) = (Rc::clone(&world.transport), Rc::clone(progress));
            spawn_local(async move { ask_for("/", &transport, false, &progress).await.is_ok() });
        }
        let stages = || progress.iter().map(|progress| progress.stage()).collect::<Vec<_>>();
        settle().await;
        assert_eq!(stages(), [Stage::Connecting; 4]);
        sleep(Duration::from_secs(1)).await;
        // The second makes its own.
        assert_eq!(stages(), [Stage::Written, Stage::Connecting, Stage::Queued, Stage::Queued]);
    })
    .await;
}

/// Nobody looks at the idle connections of a pool whose line is never empty: each is handed on at once.
#[tokio::test(start_paused = true)]
async fn a_connection_is_looked_at_before_it_goes_to_the_next_in_line() {
    unshared_in_each_lane(async || {
        for surplus in [&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], b"x", b""] {
            let mut world = bounded("1");
            let first = world.asking(false);
            let mut peer = world.peer().await;
            let next = world.asking(false);
            peer.request().await;
            settle().await;
            assert_eq!(world.gauges().3, 1, "it waits in line");
            peer.reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
            // The reply is read; before it is done with, what nobody asked for is there.
            let reply = first.await.unwrap().0.unwrap();
            peer.reply(surplus).await;
            let open = (!surplus.is_empty()).then_some(peer);
            reply.body.discard();
            let mut second = world.peer().await;
            second.request().await;
            second.reply(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(next.await.unwrap().0.unwrap().status, 404, "{}", surplus.escape_ascii());
            drop(open);
        }
    })
    .await;
}

/// Wherever the exchanges of a connection are when it ends, or in line for it: each ends with it or goes on elsewhere.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_connection_that_has_ended() {
    in_each_lane(async || {
        let mut answered = 0;
        // How much of a reply there was, for how many turns of the tasks it was there.
        let cases = (0..30).flat_map(|turns| [0, 5, 40, OK_EMPTY.len()].map(|sent| (turns, sent)));
        for (turns, sent) in cases {
            let mut world = bounded("1");
            let exchanges: Vec<_> = (0..4)
                .map(|_| {
                    let transport = Rc::clone(&world.transport);
                    spawn_local(async move {
                        let reply = ask_for("/", &transport, false, &Rc::default()).await?;
                        let status = reply.status;
                        reply.body.discard();
                        Ok::<_, Failure>(status)
                    })
                })
                .collect();
            let mut peer = world.peer().await;
            serve_all(&mut world, OK_EMPTY);
            spawn_local(async move {
                if sent > 0 {
                    peer.request().await;
                    peer.reply(&OK_EMPTY[..sent]).await;
                }
                for _ in 0..turns {
                    yield_now().await;
                }
            });
            for (index, exchange) in exchanges.into_iter().enumerate() {
                let context = format!("exchange {index}, {sent} bytes, {turns} turns");
                let soon = timeout(Duration::from_millis(1), exchange).await;
                match soon.unwrap_or_else(|_| panic!("{context}: it waits")).unwrap() {
                    Ok(status) => {
                        assert_eq!(status, 200, "{context}");
                        answered += 1;
                    }
                    Err(failure) => {
                        let is_of_the_end = matches!(failure.cause, Cause::Reset | Cause::Protocol);
                        assert!(is_of_the_end, "{context}: {}", failure.detail);
                    }
                }
            }
        }
        assert!(answered > 120, "{answered}");
    })
    .await;
}
