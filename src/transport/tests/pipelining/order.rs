//! Answers are matched by order only, and behind whatever puts the order in doubt nobody is answered.

use super::*;

#[tokio::test(start_paused = true)]
async fn each_check_gets_its_own_answer_however_the_replies_are_cut() {
    local(async {
        let mut pipe = Pipelined::new("8").await;
        let bytes = replies(0..8);
        for cut in 0..bytes.len() {
            let asking = pipe.ask(8).await;
            assert_eq!(pipe.peer.targets().await, TARGETS[..8], "{cut}");
            pipe.peer.reply(&bytes[..cut]).await;
            settle().await;
            pipe.peer.reply(&bytes[cut..]).await;
            for (index, asking) in asking.into_iter().enumerate() {
                is_its_own(asking, index).await;
            }
        }
        let asking = pipe.ask(8).await;
        for byte in bytes {
            pipe.peer.reply(&[byte]).await;
            settle().await;
        }
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        assert_eq!(pipe.world.gauges(), (1, 1, 1, 0), "one connection for all of it");
    })
    .await;
}

/// What a second reply of four is, and what becomes of its check.
#[tokio::test(start_paused = true)]
async fn behind_a_reply_that_puts_the_order_in_doubt_nobody_is_answered() {
    local(async {
        let ok = |status| Ok((status, "/1".to_owned()));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let rows: [(String, Comes); 11] = [
            (
                "HTTP/1.1 200 X\r\nX-UserId: /1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into(),
                ok(200),
            ),
            // It may be followed by a body for who reads it differently.
            ("HTTP/1.1 204 X\r\nX-UserId: /1\r\n\r\n".into(), ok(204)),
            ("HTTP/1.1 304 X\r\nX-UserId: /1\r\nContent-Length: 9\r\n\r\n".into(), ok(304)),
            ("HTTP/1.1 200 X\r\nX-UserId: /1\r\n\r\n".into(), ok(200)),
            (
                "HTTP/1.0 200 X\r\nX-UserId: /1\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
                    .into(),
                ok(200),
            ),
            ("HTTP/1.1 200 X\r\nX-UserId: /1\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n".into(), ok(200)),
            ("HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n".into(), Err(BROKEN)),
            ("HTTP/1.1 200 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Err(BROKEN)),
            ("<html>".into(), Err(BROKEN)),
            (interim.repeat(9), Err(BROKEN)),
            ("\r\n".into(), Err(BROKEN)),
        ];
        for (second, expected) in rows {
            for glued in [false, true] {
                let mut pipe = Pipelined::new("4").await;
                let mut asking: VecDeque<_> = pipe.ask(4).await.into();
                assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
                // What follows looks like the answers of the others and is not theirs.
                let follows = if glued { replies(12..14) } else { Vec::new() };
                pipe.peer.reply(&[&reply("/0"), second.as_bytes(), &follows].concat()).await;
                is_its_own(asking.pop_front().unwrap(), 0).await;
                let got = asking.pop_front().unwrap().await.unwrap();
                assert_eq!(got.map_err(|why| (why.cause, why.retry_is_safe)), expected, "{second:?}");
                for asking in asking {
                    assert_eq!(failure(asking).await, AGAIN, "{second:?}");
                }
                // A body that ends with the connection has its time.
                sleep(Duration::from_millis(101)).await;
                assert!(pipe.peer.is_closed().await, "{second:?}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_replies_belong_to_the_reply_that_follows() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(4).await;
        for target in &TARGETS[..4] {
            pipe.peer.reply(b"HTTP/1.1 103 Early\r\nX-UserId: /9\r\n\r\n").await;
            settle().await;
            pipe.peer.reply(&reply(target)).await;
        }
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
    })
    .await;
}

/// Which of the replies is the one too many cannot be told: nobody gets any of them.
#[tokio::test(start_paused = true)]
async fn one_reply_too_many_is_nobodys_and_neither_are_those_it_came_with() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(3).await;
        pipe.peer.reply(&[reply("/0"), reply("/9"), reply("/1"), reply("/2")].concat()).await;
        for asking in asking {
            assert_eq!(failure(asking).await, BROKEN);
        }
        assert!(pipe.peer.is_closed().await);

        // As many as were asked, and the next before it is asked for.
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(2).await;
        pipe.peer.reply(&replies(0..2)).await;
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        pipe.peer.reply(&reply("/9")).await;
        let third = self::asking(&pipe.world, 2);
        let mut other = pipe.world.peer().await;
        assert_eq!(other.targets().await, ["/2"]);
        other.reply(&reply("/2")).await;
        is_its_own(third, 2).await;
        assert!(pipe.peer.is_closed().await);
    })
    .await;
}

/// The one with the answer to a request that waits for its batch.
#[tokio::test(start_paused = true)]
async fn a_reply_to_what_was_not_sent_yet_is_nobodys() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let mut asking: VecDeque<_> = pipe.ask(6).await.into();
        assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
        pipe.peer.reply(&replies(0..1)).await;
        is_its_own(asking.pop_front().unwrap(), 0).await;
        assert!(pipe.peer.targets().await.is_empty(), "the fifth has its place and was not sent");
        pipe.peer.reply(&replies(1..5)).await;
        for _ in 1..4 {
            assert_eq!(failure(asking.pop_front().unwrap()).await, BROKEN, "one of these was too many");
        }
        // Nothing of it was sent: it goes elsewhere as if nothing had been.
        let mut other = pipe.world.peer().await;
        for index in [5, 4] {
            assert_eq!(other.targets().await, [TARGETS[index]]);
            other.reply(&reply(TARGETS[index])).await;
            is_its_own(asking.pop_back().unwrap(), index).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_reply_too_few_leaves_the_last_to_be_asked_again() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let mut asking: VecDeque<_> = pipe.ask(4).await.into();
        pipe.peer.reply(&replies(0..3)).await;
        settle().await;
        drop(pipe.peer);
        for index in 0..3 {
            is_its_own(asking.pop_front().unwrap(), index).await;
        }
        assert_eq!(failure(asking.pop_front().unwrap()).await, AGAIN);
    })
    .await;
}

/// Whoever looks first.
#[tokio::test(start_paused = true)]
async fn a_reply_counts_only_after_those_before_it_have_been_judged() {
    local(async {
        for rejects in [false, true] {
            let mut pipe = Pipelined::new("4").await;
            let transport = Rc::clone(&pipe.world.transport);
            let progress = [Rc::default(), Rc::default()];
            let mut first = Box::pin(ask_for("/0", &transport, false, &progress[0]));
            let mut second = Box::pin(ask_for("/1", &transport, false, &progress[1]));
            for _ in 0..4 {
                assert!(timeout(Duration::ZERO, first.as_mut()).await.is_err());
                assert!(timeout(Duration::ZERO, second.as_mut()).await.is_err());
                settle().await;
            }
            assert_eq!(pipe.peer.targets().await, TARGETS[..2]);
            pipe.peer.reply(&replies(0..2)).await;
            settle().await;
            assert!(timeout(Duration::ZERO, second.as_mut()).await.is_err(), "it is there, and has to wait");
            let reply = first.await.unwrap();
            if rejects {
                reply.body.close();
                assert_eq!(second.await.err().unwrap().cause, Cause::Protocol);
            } else {
                reply.body.discard();
                assert_eq!(second.await.unwrap().status, status("/1"));
            }
        }
    })
    .await;
}

/// A status line refuses by itself, but only whom it is for.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_in_doubt_refuses_nobody() {
    local(async {
        let shown = |progress: &[Rc<Progress>; 3]| [0, 1, 2].map(|index| progress[index].status_line.get());
        let refuses = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";
        let mut pipe = Pipelined::new("4").await;
        let progress: [Rc<Progress>; 3] = Default::default();
        let asking =
            [0, 1, 2].map(|index| asking_with(&pipe.world, index, false, Rc::clone(&progress[index])));
        assert_eq!(pipe.peer.targets().await, TARGETS[..3]);
        pipe.peer.reply(&[&reply("/0"), &refuses[..], &reply("/1"), &reply("/2")].concat()).await;
        for asking in asking {
            assert_eq!(failure(asking).await, BROKEN);
        }
        assert_eq!(shown(&progress), [None; 3]);

        // Behind a reply that is rejected, or is not: the beginning of a refusal.
        for rejects in [true, false] {
            let mut pipe = Pipelined::new("4").await;
            let progress: [Rc<Progress>; 3] = Default::default();
            let transport = Rc::clone(&pipe.world.transport);
            let mut first = Box::pin(ask_for("/0", &transport, false, &progress[0]));
            has_joined(&mut first).await;
            let second = asking_with(&pipe.world, 1, false, Rc::clone(&progress[1]));
            assert_eq!(pipe.peer.targets().await, TARGETS[..2]);
            pipe.peer.reply(&[&reply("/0"), &refuses[..20]].concat()).await;
            settle().await;
            assert_eq!(shown(&progress), [Some(200), None, None], "the one before it has not been judged");
            let reply = first.await.unwrap();
            if rejects {
                reply.body.close();
                assert_eq!(failure(second).await, BROKEN);
            } else {
                reply.body.discard();
            }
            assert_eq!(progress[1].status_line.get(), (!rejects).then_some(403));
        }
    })
    .await;
}

/// What comes behind its status line makes no outage of it.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_broken_or_cut_refuses_after_those_before_it_have_been_judged() {
    local(async {
        let (no, long) = ("HTTP/1.1 403 No\r\n", "x".repeat(17 * 1024));
        let (lengths, early) = ("Content-Length: 0\r\nContent-Length: 1", "Content-Length: 0\r\n\r\n");
        // Whether the peer closes behind it, or answers before it has read the whole request.
        let rows = [
            (format!("{no}A : b\r\n\r\n"), false, false),
            (format!("{no}A: \x01\r\n\r\n"), false, false),
            (format!("{no}{lengths}\r\n\r\n"), false, false),
            (format!("{no}A: {long}\r\n\r\n"), false, false),
            (format!("{no}{}\r\n", "A: b\r\n".repeat(65)), false, false),
            (no.to_owned(), true, false),
            (format!("{no}A: b\r\n"), true, false),
            (format!("{no}{early}"), false, true),
        ];
        let mut request = 0;
        for ((second, closes, early), rejects) in rows.iter().flat_map(|row| [(row, false), (row, true)]) {
            let mut world = untried("4", &[]);
            let progress: [Rc<Progress>; 2] = Default::default();
            if *early {
                world.dialer.room.set(request + request / 2);
            }
            let transport = Rc::clone(&world.transport);
            let mut first = Box::pin(ask_for("/0", &transport, false, &progress[0]));
            has_joined(&mut first).await;
            let waits = asking_with(&world, 1, false, Rc::clone(&progress[1]));
            let mut peer = world.peer().await;
            if *early {
                settle().await;
            } else {
                request = peer.request().await.len();
                assert_eq!(peer.target().await, "/1");
            }
            peer.reply(&[&reply("/0"), second.as_bytes()].concat()).await;
            if *closes {
                drop(peer);
            }
            settle().await;
            assert!(!waits.is_finished(), "it has to wait");
            assert_eq!(progress[1].status_line.get(), None);
            let reply = first.await.unwrap();
            if rejects {
                reply.body.close();
            } else {
                reply.body.discard();
            }
            settle().await;
            assert!(waits.is_finished(), "it is told");
            assert_eq!(failure(waits).await, BROKEN);
            assert_eq!(progress[1].status_line.get(), (!rejects).then_some(403), "{second:?}");
        }
    })
    .await;
}

/// Has something that only whoever reads it can tell, as a record of TLS, and knows of it when it was looked at.
struct Veiled {
    stream: DuplexStream,
    late: Rc<Cell<Option<&'static [u8]>>>,
    looked: Cell<bool>,
}

impl tokio::io::AsyncRead for Veiled {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.looked.get()
            && let Some(late @ [_, ..]) = self.late.take()
        {
            buf.put_slice(late);
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Veiled {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Io for Veiled {
    fn look(&self) -> Look {
        let late = self.late.get();
        self.looked.set(late.is_some());
        if late.is_some() { Look::Unknown } else { Look::Nothing }
    }
}

/// A session ticket, or a reply that would be taken for theirs.
#[tokio::test(start_paused = true)]
async fn what_came_while_no_reply_was_awaited_is_read_before_the_next_are_sent() {
    local(async {
        for late in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] {
            let (stream, theirs) = tokio::io::duplex(64 * 1024);
            let (mut peer, comes) = (Peer(theirs), Rc::<Cell<_>>::default());
            let io = Veiled { stream, late: Rc::clone(&comes), looked: Cell::default() };
            let mut world = first_over(Box::new(io));
            let transport = Rc::clone(&world.transport);
            let first = spawn_local(async move {
                let reply = ask_for("/0", &transport, false, &Rc::default()).await.unwrap();
                // Both are answered; the third has its place as soon as this one has left.
                comes.set(Some(late));
                reply.body.discard();
            });
            let (second, third) = (asking(&world, 1), asking(&world, 2));
            assert_eq!(peer.targets().await, ["/0", "/1"]);
            peer.reply(&replies(0..2)).await;
            first.await.unwrap();
            is_its_own(second, 1).await;
            let mut other = match late {
                b"" => peer,
                _ => {
                    assert!(peer.targets().await.is_empty(), "nothing more was sent on it");
                    assert!(peer.is_closed().await);
                    world.peer().await
                }
            };
            assert_eq!(other.targets().await, ["/2"]);
            other.reply(&reply("/2")).await;
            is_its_own(third, 2).await;
        }
    })
    .await;
}
