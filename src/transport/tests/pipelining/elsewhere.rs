//! What is asked again, or for the first time, on another connection.

use super::*;

#[tokio::test(start_paused = true)]
async fn those_that_got_no_byte_may_be_asked_again_wherever_the_connection_dies() {
    local(async {
        let bytes = replies(0..4);
        let one = reply("/0").len();
        for cut in 0..bytes.len() {
            let mut pipe = Pipelined::new("4").await;
            let asking = pipe.ask(4).await;
            assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
            pipe.peer.reply(&bytes[..cut]).await;
            settle().await;
            drop(pipe.peer);
            for (index, asking) in asking.into_iter().enumerate() {
                let (begins, head) = (index * one, (index + 1) * one - 2);
                match cut {
                    // The body is nobody's business here: the header section is the answer.
                    _ if cut >= head => is_its_own(asking, index).await,
                    _ if cut > begins => assert_eq!(failure(asking).await, BROKEN, "{index} {cut}"),
                    _ => assert_eq!(failure(asking).await, AGAIN, "{index} {cut}"),
                }
            }
            settle().await;
            assert_eq!(pipe.world.gauges().1, 0);
            // And for a while the address is not pipelined to.
            let _two = [self::asking(&pipe.world, 4), self::asking(&pipe.world, 5)];
            assert_eq!(pipe.world.peer().await.targets().await, ["/4"], "{cut}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_that_was_cut_off_what_was_not_begun_goes_elsewhere_as_if_nothing_had_been() {
    local(async {
        let mut world = World::new(&[]);
        let mut request = Vec::new();
        let alone = asking(&world, 0);
        let mut peer = world.peer().await;
        while !request.ends_with(b"\r\n\r\n") {
            peer.0.read_buf(&mut request).await.unwrap();
        }
        drop(peer);
        assert!(alone.await.unwrap().is_err());
        let request = request.len();
        let mut config = Config::new();
        for (key, value) in [
            ("backend.url", "http://backend.test:6000/auth"),
            ("default_action", "deny"),
            ("http.pipeline", "4"),
            ("pool.max_connections", "1"),
        ] {
            config.set(key, value).unwrap();
        }
        let settings = Arc::new(config.settings().unwrap());
        let says: &'static [u8] = Vec::leak(reply("/0"));
        let rows = [(request - 1, false), (request, false), (request + 1, true), (2 * request - 1, true)];
        for (takes, begun) in rows {
            let deaf = HalfDeaf { takes, reader: None, says };
            let dialer = Rc::new(Deaf(RefCell::new(Some(Box::new(deaf))), Rc::clone(&world.dialer)));
            let (settings, gauges) = (Arc::clone(&settings), Arc::clone(&world.gauges));
            world.transport = Transport::with_dialer(settings, gauges, 0, 1, dialer);
            let two = [asking(&world, 0), asking(&world, 1)];
            let [first, second] = two;
            if takes < request {
                assert_eq!(failure(first).await, BROKEN, "an answer to half a question");
            } else {
                is_its_own(first, 0).await;
            }
            if begun {
                assert_eq!(failure(second).await, AGAIN, "{takes}");
            } else {
                let mut other = world.peer().await;
                assert_eq!(other.targets().await, ["/1"]);
                other.reply(&reply("/1")).await;
                is_its_own(second, 1).await;
            }
            world.transport.close();
        }
    })
    .await;
}

/// `Body::close`: the reply carries another's session id, for example.
#[tokio::test(start_paused = true)]
async fn a_reply_that_its_check_rejects_takes_those_behind_it_along() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let transport = Rc::clone(&pipe.world.transport);
        let first = asking(&pipe.world, 0);
        let rejects = spawn_local(async move {
            let reply = ask_for(TARGETS[1], &transport, false, &Rc::default()).await.unwrap();
            reply.body.close();
        });
        let read = asking(&pipe.world, 2);
        let unread = asking(&pipe.world, 3);
        assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
        pipe.peer.reply(&replies(0..3)).await;
        is_its_own(first, 0).await;
        rejects.await.unwrap();
        assert_eq!(failure(read).await, BROKEN);
        assert_eq!(failure(unread).await, AGAIN);
        assert!(pipe.peer.is_closed().await);
    })
    .await;
}

/// What has not been written when a reply says that it is the last is asked elsewhere, and must not be asked here as well.
#[tokio::test(start_paused = true)]
async fn what_goes_elsewhere_is_not_written_any_more() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let one = asking(&pipe.world, 0);
        let size = pipe.peer.request().await.len();
        pipe.peer.reply(&reply("/0")).await;
        is_its_own(one, 0).await;
        drop(pipe);

        let mut world = untried("4", &[]);
        // Two requests and the beginning of a third.
        world.dialer.room.set(2 * size + 10);
        let two = [asking(&world, 0), asking(&world, 1)];
        let mut peer = world.peer().await;
        assert_eq!(peer.targets().await, TARGETS[..2]);
        peer.reply(&replies(0..2)).await;
        for (index, asking) in two.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        let mut asked: VecDeque<_> = (0..4).map(|index| asking(&world, index)).collect();
        settle().await;
        peer.reply(b"HTTP/1.1 200 X\r\nX-UserId: /0\r\nConnection: close\r\nContent-Length: 1\r\n\r\n").await;
        is_its_own(asked.pop_front().unwrap(), 0).await;
        for _ in 1..3 {
            assert_eq!(failure(asked.pop_front().unwrap()).await, AGAIN);
        }
        let mut seen = vec![0; 3 * size];
        let mut count = 0;
        for _ in 0..8 {
            settle().await;
            while let Ok(Ok(more @ 1..)) = timeout(Duration::ZERO, peer.0.read(&mut seen[count..])).await {
                count += more;
            }
        }
        assert_eq!(count, 2 * size + 10, "{}", seen.escape_ascii());
        peer.reply(b"x").await;
        let mut other = world.peer().await;
        assert_eq!(other.target().await, "/3");
        other.reply(&reply("/3")).await;
        is_its_own(asked.pop_front().unwrap(), 3).await;
    })
    .await;
}

/// Asked again, those behind the last answer are a part of what was asked: a small one, or it is not done like that for a while.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_after_so_many_answers_is_no_failure_if_they_were_many() {
    local(async {
        for (at_once, holds) in [(11, true), (12, false)] {
            let mut pipe = Pipelined::new("24").await;
            for index in 0..97 {
                let asking = asking(&pipe.world, index % 20);
                assert_eq!(pipe.peer.target().await, TARGETS[index % 20]);
                pipe.peer.reply(&reply(TARGETS[index % 20])).await;
                is_its_own(asking, index % 20).await;
            }
            let mut asking: VecDeque<_> = pipe.ask(at_once).await.into();
            assert_eq!(pipe.peer.targets().await, TARGETS[..at_once]);
            // The hundredth.
            let last = "HTTP/1.1 200 X\r\nX-UserId: /0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            pipe.peer.reply(last.as_bytes()).await;
            is_its_own(asking.pop_front().unwrap(), 0).await;
            for asking in asking {
                assert_eq!(failure(asking).await, AGAIN);
            }
            let _two = [self::asking(&pipe.world, 4), self::asking(&pipe.world, 5)];
            let together = if holds { &TARGETS[4..6] } else { &TARGETS[4..5] };
            assert_eq!(pipe.world.peer().await.targets().await, together, "{at_once}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_behind_what_was_given_up_goes_elsewhere() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(5).await;
        assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
        pipe.peer.reply(&replies(0..1)).await;
        assert!(pipe.peer.targets().await.is_empty(), "the fifth has its place and was not sent");
        asking[2].abort();
        pipe.peer.reply(&replies(1..2)).await;
        assert!(pipe.peer.targets().await.is_empty());
        pipe.peer.reply(&replies(2..4)).await;
        assert_eq!(pipe.peer.targets().await, ["/4"], "alone");
        pipe.peer.reply(&reply("/4")).await;
        for (index, asking) in asking.into_iter().enumerate() {
            if index != 2 {
                is_its_own(asking, index).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_elsewhere_when_a_backend_fails_at_it_is_not_sent_with_others() {
    local(async {
        let mut world = untried("4", &[("pool.max_connections", "2")]);
        let proves: Vec<_> = (20..24).map(|index| asking(&world, index)).collect();
        let (mut dies, mut lives) = (world.peer().await, world.peer().await);
        for _ in 0..4 {
            for peer in [&mut dies, &mut lives] {
                for target in peer.targets().await {
                    peer.reply(&reply(&target)).await;
                }
            }
        }
        for (index, asking) in proves.into_iter().enumerate() {
            is_its_own(asking, 20 + index).await;
        }
        let _nine: Vec<_> = (0..9).map(|index| asking(&world, index)).collect();
        let (lost, kept) = (dies.targets().await, lives.targets().await);
        assert_eq!((lost.len(), kept.len()), (4, 4));
        lives.reply(&reply(&kept[0])).await;
        assert!(lives.targets().await.is_empty(), "the ninth has its place and was not sent");
        drop(dies);
        settle().await;
        lives.reply(&reply(&kept[1])).await;
        assert!(lives.targets().await.is_empty());
        assert_eq!(world.peer().await.targets().await, ["/8"], "alone");
    })
    .await;
}

/// Then it waits for its turn there, which is the backend's, and not for a connection.
#[tokio::test(start_paused = true)]
async fn whose_own_connection_had_closed_and_who_waits_on_that_of_others_is_in_line_no_more() {
    local(async {
        let mut world = untried("4", &[("pool.max_connections", "2")]);
        let first = asking(&world, 22);
        let mut full = world.peer().await;
        settle().await;
        let second = asking(&world, 23);
        assert_eq!(full.targets().await, ["/22", "/23"]);
        full.reply(&replies(22..24)).await;
        is_its_own(first, 22).await;
        is_its_own(second, 23).await;
        settle().await;
        let first = asking(&world, 0);
        settle().await;
        let others: Vec<_> = (1..4).map(|index| asking(&world, index)).collect();
        assert_eq!(full.targets().await, TARGETS[..4]);
        let apart = Rc::new(Progress::new(Among::default(), true, None));
        let alone = asking_with(&world, 4, false, apart);
        let mut other = world.peer().await;
        assert_eq!(other.targets().await, ["/4"]);
        let progress = Rc::<Progress>::default();
        let waits = asking_with(&world, 5, false, Rc::clone(&progress));
        settle().await;
        assert!(progress.is_in_line());
        // It gets the one that is given back, and finds it closed; meanwhile there is room on the other.
        sleep(Duration::from_millis(100)).await;
        let found_closed = Instant::now();
        full.reply(&reply("/0")).await;
        other.reply(&reply("/4")).await;
        drop(other);
        is_its_own(alone, 4).await;
        is_its_own(first, 0).await;
        assert!(full.targets().await.is_empty(), "it waits for its turn");
        assert_eq!((progress.stage(), progress.is_in_line()), (Stage::Ready, false));
        assert_eq!(progress.lent.get(), Some(found_closed), "the time in line is still no address's");
        full.reply(&replies(1..4)).await;
        for (index, other) in others.into_iter().enumerate() {
            is_its_own(other, 1 + index).await;
        }
        assert_eq!(full.targets().await, ["/5"]);
        full.reply(&reply("/5")).await;
        is_its_own(waits, 5).await;
        assert_eq!(world.gauges().0, 2);
    })
    .await;
}
