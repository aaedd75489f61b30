//! What becomes of a connection after its reply.

use super::*;

/// Without it nothing of a body is kept.
const JUDGED_BY_BODY: (&str, &str) = ("verdict.body", "json:error==0");

#[tokio::test(start_paused = true)]
async fn two_hundred_empty_chunked_replies_use_one_connection() {
    unshared_in_each_lane(async || {
        let world = World::always(&[], OK_CHUNKED);
        for _ in 0..200 {
            world.ask().await.unwrap().body.discard();
            assert_eq!(world.gauges(), (1, 1, 1, 0), "idle at once, not after a task has run");
        }
        assert_eq!(world.gauges[0].exchanges.get(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn framings_decide_what_becomes_of_the_connection() {
    in_each_lane(async || {
        let kept: &[&[u8]] = &[
            OK_EMPTY,
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ];
        for reply in kept {
            let world = World::always(&[], reply);
            for _ in 0..2 {
                world.ask().await.unwrap().body.discard();
                settle().await;
            }
            assert_eq!(world.gauges(), (1, 1, 1, 0), "{}", reply.escape_ascii());
        }
        let closed: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ];
        for reply in closed {
            let world = World::always(&[], reply);
            for count in 1..=2 {
                world.ask().await.unwrap().body.discard();
                settle().await;
                assert_eq!(world.gauges(), (count, 0, 0, 0), "{}", reply.escape_ascii());
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_at_close_is_complete_and_its_connection_gone() {
    in_each_lane(async || {
        let mut world = World::new(&[JUDGED_BY_BODY]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"error\":0}").await;
        drop(peer);
        let reply = asking.await.unwrap().0.unwrap();
        assert_eq!(reply.body.collect(100).await.unwrap(), "{\"error\":0}");
        settle().await;
        assert_eq!(world.gauges(), (1, 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_needed_body_is_whole_or_an_error() {
    in_each_lane(async || {
        let table: &[(&[u8], Result<&str, BodyError>)] = &[
            (b"Content-Length: 4\r\n\r\nbody", Ok("body")),
            (b"Content-Length: 5\r\n\r\nbody", Err(BodyError::Cut)),
            (b"Content-Length: 11\r\n\r\nhello world", Err(BodyError::TooLong)),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", Ok("body")),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", Err(BodyError::Cut)),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody!!", Err(BodyError::Cut)),
            (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", Err(BodyError::Cut)),
        ];
        for (rest, expected) in table {
            let mut world = World::new(&[JUDGED_BY_BODY]);
            let asking = world.asking(false);
            let mut peer = world.peer().await;
            peer.request().await;
            peer.reply(&[b"HTTP/1.1 200 OK\r\n", *rest].concat()).await;
            drop(peer);
            let collected = asking.await.unwrap().0.unwrap().body.collect(10).await;
            let expected = expected.map(bytes::Bytes::from_static_str);
            assert_eq!(collected, expected, "{}", rest.escape_ascii());
        }
    })
    .await;
}

trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Self;
}
impl FromStaticStr for bytes::Bytes {
    fn from_static_str(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

#[tokio::test(start_paused = true)]
async fn a_drip_body_is_given_up_after_a_tenth_of_a_second() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        peer.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
        let began = Instant::now();
        let drip = spawn_local(async move {
            while peer.0.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        asking.await.unwrap().0.unwrap().body.discard();
        drip.await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(130), "{:?}", began.elapsed());
        assert_eq!(world.gauges(), (1, 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sixty_four_kilobytes_are_drained_and_one_more_is_not() {
    unshared_in_each_lane(async || {
        for (size, open) in [(64 * 1024, 1), (64 * 1024 + 1, 0)] {
            let mut world = World::new(&[]);
            let asking = world.asking(false);
            let mut peer = world.peer().await;
            peer.request().await;
            peer.reply(format!("HTTP/1.1 403 No\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await;
            let reply = asking.await.unwrap().0.unwrap();
            peer.reply(&vec![b'x'; size]).await;
            reply.body.discard();
            sleep(Duration::from_millis(50)).await;
            assert_eq!(world.gauges(), (1, open, open, 0), "{size}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_or_closed_takes_its_connection_with_it() {
    unshared_in_each_lane(async || {
        let world = World::always(&[], OK_EMPTY);
        drop(world.ask().await.unwrap());
        assert_eq!(world.gauges(), (1, 0, 0, 0));
        world.ask().await.unwrap().body.close();
        assert_eq!(world.gauges(), (2, 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn surplus_bytes_never_answer_the_next_request() {
    in_each_lane(async || {
        let surplus = b"HTTP/1.1 200 OK\r\nX-Stolen: 1\r\nContent-Length: 0\r\n\r\n";
        // With the reply, while idle, or just as the next request comes.
        for moment in 0..3 {
            let mut world = World::new(&[]);
            let asking = world.asking(false);
            let mut first = world.peer().await;
            first.request().await;
            first.reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
            if moment == 0 {
                first.reply(surplus).await;
            }
            asking.await.unwrap().0.unwrap().body.discard();
            match moment {
                1 => {
                    first.reply(surplus).await;
                    settle().await;
                }
                2 => first.0.write_all(surplus).await.unwrap(),
                _ => {}
            }
            let asking = world.asking(false);
            let mut second = world.peer().await;
            second.request().await;
            second.reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
            let (outcome, progress) = asking.await.unwrap();
            let reply = outcome.unwrap();
            assert_eq!((reply.status, progress.status_line.get()), (403, Some(403)), "{moment}");
            assert!(!reply.headers.contains_key("x-stolen"));
            first.closed().await;
        }
    })
    .await;
}

/// What counts is what is in it.
#[tokio::test(start_paused = true)]
async fn a_needed_body_may_come_in_as_small_chunks_as_the_backend_likes() {
    in_each_lane(async || {
        let limit = 64 * 1024;
        for (length, chunk) in [(40 * 1024, 4), (limit, 1), (limit + 1, 1)] {
            let mut world = World::new(&[JUDGED_BY_BODY]);
            world.dialer.room.set(1024 * 1024);
            let asking = world.asking(false);
            let mut peer = world.peer().await;
            peer.request().await;
            let chunks = format!("{chunk:x}\r\n{}\r\n", "x".repeat(chunk)).repeat(length / chunk);
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            peer.reply(format!("{head}{chunks}0\r\n\r\n").as_bytes()).await;
            let got = asking.await.unwrap().0.unwrap().body.collect(limit).await.map(|body| body.len());
            let expected = if length <= limit { Ok(length) } else { Err(BodyError::TooLong) };
            assert_eq!(got, expected, "{length} in chunks of {chunk}");
        }
    })
    .await;
}

/// What frames its chunks counts, too: nobody needs them.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_thrown_away_is_bounded_by_its_bytes() {
    for lane in [("wire", "1"), ("wire", "8")] {
        in_lane(lane, &async || {
            for keys in [&[][..], &[JUDGED_BY_BODY]] {
                for (length, kept) in [(10 * 1024, 1), (20 * 1024, 0)] {
                    let mut world = World::new(keys);
                    world.dialer.room.set(1024 * 1024);
                    let asking = world.asking(false);
                    let mut peer = world.peer().await;
                    peer.request().await;
                    peer.reply(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                    asking.await.unwrap().0.unwrap().body.discard();
                    peer.reply("1\r\nx\r\n".repeat(length).as_bytes()).await;
                    peer.reply(b"0\r\n\r\n").await;
                    sleep(Duration::from_millis(50)).await;
                    assert_eq!(world.gauges(), (1, kept, kept, 0), "{length} {keys:?}");
                }
            }
        })
        .await;
    }
}
