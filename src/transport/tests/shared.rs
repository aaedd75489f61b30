//! HTTP/2: connections that exchanges share, from the first who has one to the last: each serves the check that it was made
//! for, and none stays that nobody can use.

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
            let mut peer = world.peer().await;
            peer.reply(&[SETTINGS, &goaway(last)].concat()).await;
            for asking in asking {
                let failure = asking.await.unwrap().0.err().expect("nobody was asked");
                // As over HTTP/1.1 one that is closed at once.
                let how = (failure.cause, failure.retry_is_safe);
                assert_eq!(how, (Cause::Reset, false), "{last}: {}", failure.detail);
            }
            assert!(began.elapsed() < Duration::from_millis(1));
            peer.closed().await;
            assert_eq!(world.gauges(), (1, 0, 0, 0));
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
            world.dialer.failures.borrow_mut().push_back(Failure::new(Cause::Connect, "refused"));
            let waiting = [world.asking(false), world.asking(false), world.asking(false)];
            sleep(Duration::from_millis(7)).await;
            let failed = waiting.iter().filter(|waiting| waiting.is_finished()).count();
            assert_eq!(failed, if leaves { 3 } else { 1 }, "by the one failure");
            answer(asked, 403);
            assert_eq!(long.await.unwrap().0.unwrap().status, 403);
        }
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
            let asking = world.asking(false);
            let mut server = serve(&mut world, 10).await;
            let (request, mut respond) = next(&mut server).await;
            drive(server);
            let mut body = None;
            if replied {
                body = Some(respond.send_response(http::Response::new(()), false).unwrap());
                world.transport.close();
                asking.await.unwrap().0.unwrap().body.discard();
            } else {
                world.transport.close();
                asking.abort();
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
            assert_eq!((gauges[0].open.get(), gauges[0].idle.get()), (0, 0), "{replied} {answers}");
            drop(body);
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
