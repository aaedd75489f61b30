//! Bodies of replies: who needs one, and what one may cost those behind it.

use super::*;

/// It has its place among those that are judged in turn all the same.
#[tokio::test(start_paused = true)]
async fn a_reply_whose_body_breaks_off_waits_for_those_before_it() {
    local(async {
        let second = b"HTTP/1.1 200 X\r\nX-UserId: /1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (ends, closes) in [(&b"z\r\n"[..], false), (b"", true)] {
            for rejects in [false, true] {
                let mut pipe = Pipelined::new("4").await;
                let transport = Rc::clone(&pipe.world.transport);
                let progress = Rc::default();
                let mut first = Box::pin(ask_for("/0", &transport, false, &progress));
                has_joined(&mut first).await;
                let waits = asking(&pipe.world, 1);
                assert_eq!(pipe.peer.targets().await, TARGETS[..2]);
                pipe.peer.reply(&[&reply("/0"), &second[..], ends].concat()).await;
                if closes {
                    drop(pipe.peer);
                }
                settle().await;
                assert!(!waits.is_finished(), "it looks first, and has to wait");
                let reply = first.await.unwrap();
                if rejects {
                    reply.body.close();
                } else {
                    reply.body.discard();
                }
                settle().await;
                assert!(waits.is_finished(), "it is told");
                match rejects {
                    true => assert_eq!(failure(waits).await, BROKEN),
                    false => assert_eq!(waits.await.unwrap().unwrap(), (200, "/1".to_owned())),
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_needed_and_is_in_doubt_is_none() {
    local(async {
        let keys = [("verdict.body", "json:error==0"), ("verdict.max_body", "20")];
        for surplus in [false, true] {
            let mut pipe = Pipelined::with("4", &keys).await;
            let transport = Rc::clone(&pipe.world.transport);
            let progress = [Rc::default(), Rc::default()];
            let mut first = Box::pin(ask_for("/0", &transport, false, &progress[0]));
            let mut second = Box::pin(ask_for("/1", &transport, false, &progress[1]));
            has_joined(&mut first).await;
            has_joined(&mut second).await;
            assert_eq!(pipe.peer.targets().await, TARGETS[..2]);
            pipe.peer.reply(&replies(0..2)).await;
            settle().await;
            let body = first.await.unwrap().body;
            if surplus {
                pipe.peer.reply(&reply("/2")).await;
            }
            settle().await;
            let expected = if surplus { Err(BodyError::Cut) } else { Ok(bytes::Bytes::from("ok")) };
            assert_eq!(body.collect(20).await, expected);
        }
    })
    .await;
}

/// It says nothing about the order.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_or_not_waited_for_takes_nobody_along() {
    local(async {
        for too_long in [false, true] {
            let mut pipe =
                Pipelined::with("4", &[("verdict.body", "json:error==0"), ("verdict.max_body", "20")]).await;
            let transport = Rc::clone(&pipe.world.transport);
            let first = spawn_local(async move {
                let body = ask_for("/0", &transport, false, &Rc::default()).await.unwrap().body;
                if too_long {
                    assert_eq!(body.collect(20).await, Err(BodyError::TooLong));
                }
            });
            let second = asking(&pipe.world, 1);
            assert_eq!(pipe.peer.targets().await, TARGETS[..2]);
            let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "x".repeat(99));
            pipe.peer.reply(&[long.as_bytes(), &reply("/1")].concat()).await;
            first.await.unwrap();
            is_its_own(second, 1).await;
            settle().await;
            assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodies_are_kept_for_who_needs_them() {
    local(async {
        let mut pipe =
            Pipelined::with("4", &[("verdict.body", "json:error==0"), ("verdict.max_body", "20")]).await;
        let bodies = ["{\"error\":0}", "", "{\"error\":1}"];
        let asking: Vec<_> = (0..3)
            .map(|index| {
                let transport = Rc::clone(&pipe.world.transport);
                spawn_local(async move {
                    let reply = ask_for(TARGETS[index], &transport, false, &Rc::default()).await.unwrap();
                    reply.body.collect(20).await
                })
            })
            .collect();
        assert_eq!(pipe.peer.targets().await, TARGETS[..3]);
        for body in bodies {
            let chunk = if body.is_empty() { String::new() } else { format!("b\r\n{body}\r\n") };
            let reply = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
            for byte in reply.bytes() {
                pipe.peer.reply(&[byte]).await;
                settle().await;
            }
        }
        for (asking, body) in asking.into_iter().zip(bodies) {
            assert_eq!(asking.await.unwrap().unwrap(), body.as_bytes());
        }
        assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
        // One that is too long: its connection is closed, and who is behind it may be asked again.
        let transport = Rc::clone(&pipe.world.transport);
        let long = spawn_local(async move {
            let reply = ask_for(TARGETS[0], &transport, false, &Rc::default()).await.unwrap();
            reply.body.collect(20).await
        });
        let next = self::asking(&pipe.world, 1);
        settle().await;
        pipe.peer.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n012345678901234567890123").await;
        assert_eq!(long.await.unwrap(), Err(BodyError::TooLong));
        assert_eq!(failure(next).await, AGAIN);
        assert!(pipe.peer.is_closed().await);
    })
    .await;
}

/// A body that comes drop by drop holds nobody up for longer than a moment.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_needs_is_bounded_in_time_and_size() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let mut asking: VecDeque<_> = pipe.ask(2).await.into();
        pipe.peer.reply(b"HTTP/1.1 200 OK\r\nX-UserId: /0\r\nContent-Length: 1000000\r\n\r\n").await;
        assert_eq!(
            asking.pop_front().unwrap().await.unwrap().unwrap().1,
            "/0",
            "it does not wait for its body"
        );
        let began = Instant::now();
        assert_eq!(failure(asking.pop_front().unwrap()).await, AGAIN);
        assert_eq!(began.elapsed().as_millis(), 100);

        let mut pipe = Pipelined::new("4").await;
        let mut asking: VecDeque<_> = pipe.ask(2).await.into();
        pipe.peer.reply(b"HTTP/1.1 200 OK\r\nX-UserId: /0\r\nContent-Length: 1000000\r\n\r\n").await;
        assert_eq!(asking.pop_front().unwrap().await.unwrap().unwrap().1, "/0");
        pipe.peer.reply(&vec![b'x'; 64 * 1024]).await;
        settle().await;
        assert!(!asking[0].is_finished());
        pipe.peer.reply(b"x").await;
        let began = Instant::now();
        assert_eq!(failure(asking.pop_front().unwrap()).await, AGAIN);
        assert!(began.elapsed() < Duration::from_millis(1));
    })
    .await;
}
