//! HTTP/2: connections that exchanges share, from the first who has one to the last: each serves the check that it was made
//! for, and none stays that nobody can use.

use tokio::time::timeout;

use super::lanes::{answer, drive, h2c, next, serve};
use super::*;

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Up to this stream, without an error.
const fn goaway(last: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, last, 0, 0, 0, 0, 0, 0, 0]
}

#[tokio::test(start_paused = true)]
async fn a_check_is_sent_on_the_connection_that_was_made_for_it_though_its_name_has_moved_meanwhile() {
    local(async {
        for moves in [false, true] {
            let mut world = h2c(&[]);
            let asking = world.asking(false);
            settle().await;
            world.dialer.current.set(!moves);
            let began = Instant::now();
            drive(serve(&mut world, 10).await);
            asking.await.unwrap().0.unwrap().body.discard();
            assert!(began.elapsed() < Duration::from_millis(1));
            let next = world.asking(false);
            if moves {
                drive(serve(&mut world, 10).await);
            }
            assert_eq!(next.await.unwrap().0.unwrap().status, 200);
            let opened = if moves { 2 } else { 1 };
            assert_eq!(
                (world.gauges().0, world.gauges().1),
                (opened, 1),
                "nobody else is sent on it if the name has moved"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_leave_with_its_first_settings_fails_those_who_wait_for_it_at_once() {
    local(async {
        // It has seen no stream, or would still take what is on its way to it.
        for last in [0x7f, 0] {
            let mut world = h2c(&[]);
            let began = Instant::now();
            let asking = [world.asking(false), world.asking(false)];
            let mut peers = Vec::new();
            for _ in 0..2 {
                let mut peer = world.peer().await;
                peer.reply(&[SETTINGS, &goaway(last)].concat()).await;
                peers.push(peer);
            }
            for asking in asking {
                let failure = asking.await.unwrap().0.err().expect("nobody was asked");
                // As over HTTP/1.1 one that is closed at once.
                let how = (failure.cause, failure.retry_is_safe);
                assert_eq!(how, (Cause::Reset, false), "{last}: {}", failure.detail);
            }
            assert!(began.elapsed() < Duration::from_millis(1));
            for peer in peers {
                peer.closed().await;
            }
            assert_eq!(world.gauges(), (2, 0, 0, 0));
            let again = world.asking(true);
            drive(serve(&mut world, 10).await);
            assert_eq!(again.await.unwrap().0.unwrap().status, 200);
        }
    })
    .await;
}

/// Made where one stream was all there is, which is busy: unless that connection takes leave, there is something to wait for.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_connection_that_takes_leave() {
    local(async {
        for leaves in [false, true] {
            let mut world = h2c(&[]);
            let long = world.asking(false);
            let mut server = serve(&mut world, 1).await;
            let asked = next(&mut server).await;
            if leaves {
                server.graceful_shutdown();
            }
            drive(server);
            settle().await;
            world.dialer.delay.set(Duration::from_millis(5));
            fail_next(&world, 2);
            let waiting = [world.asking(false), world.asking(false), world.asking(false)];
            sleep(Duration::from_millis(7)).await;
            let failed = || waiting.iter().filter(|waiting| waiting.is_finished()).count();
            assert_eq!(failed(), 1, "by the one failure");
            sleep(Duration::from_millis(5)).await;
            assert_eq!(failed(), if leaves { 3 } else { 2 }, "by two");
            answer(asked, 403);
            assert_eq!(long.await.unwrap().0.unwrap().status, 403);
        }
    })
    .await;
}

fn fail_next(world: &World, count: usize) {
    let failure = || Failure::new(Cause::Connect, "refused");
    world.dialer.failures.borrow_mut().extend(std::iter::repeat_with(failure).take(count));
}

/// How many of them were answered, and how many failed. They are asked at once.
async fn outcomes(world: &World, count: usize) -> (usize, usize) {
    let asking: Vec<_> = (0..count).map(|_| world.asking(false)).collect();
    let mut answered = 0;
    for asking in asking {
        match asking.await.unwrap().0 {
            Ok(reply) => {
                answered += 1;
                reply.body.discard();
            }
            Err(failure) => assert_eq!(failure.cause, Cause::Connect, "{}", failure.detail),
        }
    }
    (answered, count - answered)
}

/// A packet was lost: whoever waits has time, and the backend is there.
#[tokio::test(start_paused = true)]
async fn one_connection_that_fails_is_one_checks_outage_and_two_in_a_row_are_everybodys() {
    local(async {
        for (failures, answered) in [(1, 19), (2, 0)] {
            let mut world = h2c(&[]);
            let first = world.asking(false);
            let mut server = serve(&mut world, 10).await;
            answer(next(&mut server).await, 200);
            server.graceful_shutdown();
            drive(server);
            first.await.unwrap().0.unwrap().body.discard();
            settle().await;
            lanes::serve_all(&mut world);
            world.dialer.delay.set(Duration::from_millis(5));
            fail_next(&world, failures);
            let began = Instant::now();
            assert_eq!(outcomes(&world, 20).await, (answered, 20 - answered));
            assert_eq!(began.elapsed().as_millis(), 10, "two attempts");
            assert!(world.dialer.failures.borrow().is_empty());
            // And what was before is forgotten.
            assert_eq!(outcomes(&world, 20).await, (20, 0));
        }
    })
    .await;
}

/// It is too old, or its name leads elsewhere.
#[tokio::test(start_paused = true)]
async fn what_is_to_be_replaced_serves_until_its_successor_is_there() {
    local(async {
        for moves in [false, true] {
            let mut world = h2c(&[("pool.max_age", "1s"), ("timeout", "5s")]);
            let slow = world.asking(false);
            let mut server = serve(&mut world, 100).await;
            let asked = next(&mut server).await;
            drive(server);
            settle().await;
            if moves {
                world.dialer.current.set(false);
            } else {
                sleep(Duration::from_secs(1)).await;
            }
            world.dialer.delay.set(Duration::from_millis(5));
            for _ in 0..3 {
                fail_next(&world, 1);
                assert_eq!(outcomes(&world, 20).await, (20, 0), "on the old one");
                assert!(world.dialer.failures.borrow().is_empty(), "a new one was tried");
            }
            assert_eq!((world.gauges().0, world.gauges().1), (1, 1));
            // By now its time is over: nobody is sent on it for ever.
            sleep(Duration::from_secs(1)).await;
            fail_next(&world, 2);
            assert_eq!(outcomes(&world, 20).await, (0, 20));
            lanes::serve_all(&mut world);
            world.dialer.current.set(true);
            assert_eq!(outcomes(&world, 20).await, (20, 0));
            assert_eq!((world.gauges().0, world.gauges().1), (2, 2));
            answer(asked, 403);
            assert_eq!(slow.await.unwrap().0.unwrap().status, 403);
            settle().await;
            assert_eq!(world.gauges().1, 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_is_there_is_used_alone() {
    local(async {
        let mut world = h2c(&[("pool.max_age", "1s")]);
        let slow = world.asking(false);
        let mut server = serve(&mut world, 100).await;
        let asked = next(&mut server).await;
        drive(server);
        sleep(Duration::from_secs(1)).await;
        world.dialer.delay.set(Duration::from_millis(5));
        let maker = world.asking(false);
        settle().await;
        let beside = world.ask().await.unwrap();
        assert_eq!(beside.status, 200);
        let mut successor = serve(&mut world, 100).await;
        answer(next(&mut successor).await, 403);
        let later = world.asking(false);
        answer(next(&mut successor).await, 403);
        drive(successor);
        for asking in [maker, later] {
            assert_eq!(asking.await.unwrap().0.unwrap().status, 403);
        }
        drop(beside);
        answer(asked, 200);
        assert_eq!(slow.await.unwrap().0.unwrap().status, 200);
        settle().await;
        assert_eq!((world.gauges().0, world.gauges().1), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_place_for_a_successor_nobody_is_sent_on_what_is_to_be_replaced() {
    local(async {
        let mut world = h2c(&[("pool.max_age", "1s"), ("pool.max_connections", "1")]);
        let slow = world.asking(false);
        let mut server = serve(&mut world, 100).await;
        let asked = next(&mut server).await;
        drive(server);
        sleep(Duration::from_secs(1)).await;
        let waiting = [world.asking(false), world.asking(false)];
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 0, 2));
        answer(asked, 200);
        slow.await.unwrap().0.unwrap().body.discard();
        drive(serve(&mut world, 100).await);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().0.unwrap().status, 200);
        }
        assert_eq!((world.gauges().0, world.gauges().1), (2, 1));
    })
    .await;
}

/// A probe goes out on a connection of its own: what there was takes no new streams.
fn part(world: &World) {
    world.transport.part_from(0, &Among::default());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_not_kept_by_streams_that_nobody_waits_for() {
    local(async {
        for parts_first in [false, true] {
            let mut world = h2c(&[("pool.max_connections", "1")]);
            let asking = [world.asking(false), world.asking(false)];
            let mut server = serve(&mut world, 10).await;
            let _asked = [next(&mut server).await, next(&mut server).await];
            drive(server);
            if parts_first {
                part(&world);
            }
            let waiting = parts_first.then(|| world.asking(false));
            settle().await;
            for asking in &asking {
                asking.abort();
            }
            settle().await;
            if !parts_first {
                assert_eq!(world.gauges(), (1, 1, 0, 0), "it is as good as any");
                part(&world);
            }
            let began = Instant::now();
            let waiting = waiting.unwrap_or_else(|| world.asking(false));
            drive(serve(&mut world, 10).await);
            assert_eq!(waiting.await.unwrap().0.unwrap().status, 200);
            assert!(began.elapsed() < Duration::from_millis(1), "it waited for {:?}", began.elapsed());
            assert_eq!((world.gauges().0, world.gauges().1), (2, 1));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_parted_from_delivers_the_reply_that_somebody_waits_for() {
    local(async {
        for parts_first in [false, true] {
            let mut world = h2c(&[("pool.max_connections", "1")]);
            let awaited = world.asking(false);
            let mut server = serve(&mut world, 10).await;
            let asked = next(&mut server).await;
            let given_up = world.asking(false);
            let _unanswered = next(&mut server).await;
            drive(server);
            if parts_first {
                part(&world);
            }
            given_up.abort();
            settle().await;
            if !parts_first {
                part(&world);
            }
            let waiting = world.asking(false);
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.gauges(), (1, 1, 0, 1));
            answer(asked, 403);
            assert_eq!(awaited.await.unwrap().0.unwrap().status, 403);
            // And now there is nobody left.
            let began = Instant::now();
            drive(serve(&mut world, 10).await);
            assert_eq!(waiting.await.unwrap().0.unwrap().status, 200);
            assert!(began.elapsed() < Duration::from_millis(1), "it waited for {:?}", began.elapsed());
            assert_eq!((world.gauges().0, world.gauges().1), (2, 1));
        }
    })
    .await;
}

/// It is as good as any, and so are they: a late reply, too, is heard.
#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_parts_from_outlives_streams_that_nobody_waits_for() {
    local(async {
        let mut world = h2c(&[("pool.max_connections", "1")]);
        let asking: Vec<_> = (0..5).map(|_| world.asking(false)).collect();
        let mut server = serve(&mut world, 10).await;
        let mut asked = Vec::new();
        for _ in 0..5 {
            asked.push(next(&mut server).await);
        }
        drive(server);
        for asking in &asking {
            asking.abort();
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!((world.gauges(), world.gauges[0].in_use()), ((1, 1, 0, 0), 5));
        for asked in &mut asked {
            let reset = timeout(Duration::ZERO, std::future::poll_fn(|cx| asked.1.poll_reset(cx)));
            assert!(reset.await.is_err());
        }
        world.ask().await.unwrap().body.discard();
        asked.drain(..).for_each(|asked| answer(asked, 200));
        settle().await;
        assert_eq!((world.gauges(), world.gauges[0].in_use()), ((1, 1, 1, 0), 0));
    })
    .await;
}

/// What is under way then ends by itself, wherever it is: waiting for its reply, or reading a body that nobody needs.
#[tokio::test(start_paused = true)]
async fn what_a_reload_leaves_behind_is_closed_when_its_last_stream_has_ended() {
    local(async {
        for (replied, answers) in [(false, true), (false, false), (true, false)] {
            let mut world = h2c(&[]);
            let gauges = Arc::clone(&world.gauges);
            let mut asking = Some(world.asking(false));
            let mut server = serve(&mut world, 10).await;
            let (request, mut respond) = next(&mut server).await;
            drive(server);
            let mut body = None;
            world.transport.close();
            if replied {
                body = Some(respond.send_response(http::Response::new(()), false).unwrap());
                asking.take().unwrap().await.unwrap().0.unwrap().body.discard();
            }
            drop(world);
            settle().await;
            assert_eq!(gauges[0].open.get(), 1, "its stream has not ended");
            if answers {
                answer((request, respond), 200);
                settle().await;
            } else {
                // Twice the time of an exchange.
                sleep(Duration::from_secs(5)).await;
            }
            if let Some(asking) = asking {
                let outcome = asking.await.unwrap().0;
                assert_eq!(outcome.is_ok(), answers);
                if let Ok(reply) = outcome {
                    reply.body.discard();
                }
                settle().await;
            }
            assert_eq!((gauges[0].open.get(), gauges[0].idle.get()), (0, 0), "{replied} {answers}");
            drop(body);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_reload_leaves_behind_is_closed_at_once_if_nobody_waits_for_it() {
    local(async {
        for gone_first in [false, true] {
            let mut world = h2c(&[]);
            let gauges = Arc::clone(&world.gauges);
            let asking = world.asking(false);
            let mut server = serve(&mut world, 10).await;
            let _unanswered = next(&mut server).await;
            drive(server);
            if gone_first {
                asking.abort();
                settle().await;
                assert_eq!(gauges[0].open.get(), 1);
            }
            world.transport.close();
            drop(world);
            asking.abort();
            settle().await;
            assert_eq!((gauges[0].open.get(), gauges[0].idle.get()), (0, 0), "{gone_first}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_being_connected_when_its_last_check_left_is_closed() {
    local(async {
        // By a reload, with the engine, or in its own time.
        for (closed, dropped) in [(true, true), (true, false), (false, true), (false, false)] {
            let world = h2c(&[]);
            let gauges = Arc::clone(&world.gauges);
            world.dialer.delay.set(Duration::from_millis(10));
            let asking = world.asking(false);
            sleep(Duration::from_millis(1)).await;
            asking.abort();
            if closed {
                world.transport.close();
            }
            let World { transport, mut peers, dialer, .. } = world;
            let transport = (!dropped).then_some(transport);
            let peer = peers.recv().await.unwrap();
            drive(::h2::server::handshake(peer.0).await.unwrap());
            settle().await;
            let stays = u64::from(!closed && !dropped);
            assert_eq!((gauges[0].open.get(), gauges[0].idle.get()), (stays, stays), "{closed} {dropped}");
            sleep(Duration::from_secs(2)).await;
            assert_eq!((gauges[0].opened.get(), gauges[0].open.get()), (1, 0), "{closed} {dropped}");
            drop((transport, dialer));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_closes_what_is_idle_and_shared() {
    local(async {
        let mut world = h2c(&[]);
        lanes::serve_all(&mut world);
        world.ask().await.unwrap().body.discard();
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 1, 0));
        let gauges = Arc::clone(&world.gauges);
        drop(world);
        settle().await;
        assert_eq!((gauges[0].open.get(), gauges[0].idle.get()), (0, 0));
    })
    .await;
}

/// By it the load of backends is balanced.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_counted_by_streams() {
    local(async {
        let mut world = h2c(&[]);
        let asking: Vec<_> = (0..6).map(|_| world.asking(false)).collect();
        let mut server = serve(&mut world, 10).await;
        let mut asked = Vec::new();
        for _ in 0..6 {
            asked.push(next(&mut server).await);
        }
        drive(server);
        assert_eq!(world.gauges(), (1, 1, 0, 0));
        assert_eq!(world.gauges[0].in_use(), 6);
        for asked in asked.drain(..4) {
            answer(asked, 200);
        }
        settle().await;
        assert_eq!(world.gauges[0].in_use(), 6, "their replies are not done with");
        for (index, asking) in asking.into_iter().enumerate() {
            if index == 4 {
                settle().await;
                assert_eq!(world.gauges[0].in_use(), 2);
                asked.drain(..).for_each(|asked| answer(asked, 200));
            }
            asking.await.unwrap().0.unwrap().body.discard();
        }
        settle().await;
        assert_eq!(world.gauges[0].in_use(), 0);
        assert_eq!(world.gauges(), (1, 1, 1, 0));
        world.transport.close();
        settle().await;
        let read = |gauge: &Gauge| gauge.get();
        let gauges = &world.gauges[0];
        assert_eq!([&gauges.open, &gauges.idle, &gauges.pipes, &gauges.piped].map(read), [0; 4]);
    })
    .await;
}
