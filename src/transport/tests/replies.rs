//! What counts as a reply, and what an exchange without one is called.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_request_goes_out_as_its_head_gives_it() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        let request = peer.request().await;
        assert_eq!(
            request,
            "GET /auth?token=123 HTTP/1.1\r\nHost: backend.test:6000\r\nX-Session-Id: 7\r\nX-Real-Ip: \r\n\
             X-Real-Ua: a\tb \u{fffd}\r\n\r\n"
        );
        peer.reply(OK_EMPTY).await;
        assert_eq!(asking.await.unwrap().0.unwrap().status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_byte_of_a_target_goes_out_unchanged() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let legal: String =
            (0x21..=0x7eu8).map(char::from).filter(|c| !"\"<>\\^{|}`#".contains(*c)).collect();
        let targets = [
            format!("/a{legal}?{legal}"),
            format!("/?{legal}&&a=%zz&%&=&[]=@:;'%2f%2F+"),
            "/auth??x".to_owned(),
            "/auth?".to_owned(),
            "//auth/../x?http://a/b@c".to_owned(),
            format!("/{}", "x".repeat(32 * 1024)),
        ];
        for target in targets {
            let target: &'static str = target.leak();
            let transport = Rc::clone(&world.transport);
            let asking = spawn_local(async move { ask_for(target, &transport, true, &Rc::default()).await });
            let mut peer = world.peer().await;
            let request = peer.request().await;
            let line = request.lines().next().unwrap();
            assert_eq!(line, format!("GET {target} HTTP/1.1"));
            peer.reply(OK_EMPTY).await;
            asking.await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_truncated_head_is_reset_at_no_byte_and_protocol_after() {
    in_each_lane(async || {
        let reply = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        let line = reply.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in 0..reply.len() {
            let (failure, status) = failure_of(&reply[..cut]).await;
            let cause = if cut == 0 { Cause::Reset } else { Cause::Protocol };
            assert_eq!(failure.cause, cause, "{cut}: {}", failure.detail);
            assert!(!failure.retry_is_safe, "a fresh connection: {cut}");
            assert_eq!(status, (cut >= line).then_some(403), "{cut}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn replies_that_break_a_rule_are_protocol_and_their_status_is_kept() {
    in_each_lane(async || {
        let many = format!("HTTP/1.1 403 No\r\n{}\r\n", "A: b\r\n".repeat(10_000));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(16 * 1024));
        let interim = format!("{}{}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(9), "HTTP/1.1 200 OK\r\n\r\n");
        let table: &[(&[u8], Option<u16>)] = &[
            (many.as_bytes(), Some(403)),
            (long.as_bytes(), Some(200)),
            (interim.as_bytes(), None),
            (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", None),
            (b"HTTP/1.1 600 X\r\n\r\n", None),
            (b"HTTP/1.1 099 X\r\n\r\n", None),
            (b"<html>hello</html>", None),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", None),
            (b"garbage\r\nHTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", Some(200)),
            (b"HTTP/1.1 403 No\r\nA : b\r\n\r\n", Some(403)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", Some(200)),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                Some(200),
            ),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some(200)),
        ];
        for (reply, known) in table {
            let (failure, status) = failure_of(reply).await;
            let shown = reply[..reply.len().min(40)].escape_ascii();
            assert_eq!(failure.cause, Cause::Protocol, "{shown}: {}", failure.detail);
            assert_eq!(status, *known, "{shown}");
            assert!(!failure.detail.contains("token"), "{}", failure.detail);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn endless_interim_replies_end_the_exchange_by_themselves() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.request().await;
        let flood = spawn_local(async move {
            let mut sent = 0;
            while peer.0.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await.is_ok() {
                sent += 1;
                tokio::task::yield_now().await;
            }
            sent
        });
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!(failure.cause, Cause::Protocol);
        assert!(flood.await.unwrap() < 1000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_replies_and_an_empty_phrase_are_fine() {
    in_each_lane(async || {
        let reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nA: b\r\n\r\nHTTP/1.1 403 \r\nContent-Length: 0\r\n\r\n";
        let world = World::always(&[], reply);
        let (outcome, progress) = world.exchange(false).await;
        assert_eq!(outcome.unwrap().status, 403);
        assert_eq!(progress.status_line.get(), Some(403));
        assert_eq!(progress.stage(), Stage::Replied);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_before_the_question_are_no_answer() {
    in_each_lane(async || {
        let mut world = World::new(&[]);
        world.dialer.greeting.set(OK_EMPTY);
        let asking = world.asking(false);
        let peer = world.peer().await;
        let (outcome, progress) = asking.await.unwrap();
        assert_eq!(outcome.err().unwrap().cause, Cause::Protocol);
        assert_eq!(progress.status_line.get(), None);
        peer.closed().await;
        assert_eq!(world.gauges().1, 0);
    })
    .await;
}

/// Early, though nothing of the request is missing in the end.
#[tokio::test(start_paused = true)]
async fn a_reply_that_begins_before_its_request_was_sent_is_none() {
    in_each_lane(async || {
        for reply in [
            OK_EMPTY,
            OK_CHUNKED,
            b"HTTP/1.1 414 Too Long\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ] {
            for early in [0, 1, 16, reply.len()] {
                let mut world = World::new(&[]);
                world.dialer.room.set(48);
                let asking = world.asking(true);
                let mut peer = world.peer().await;
                let mut request = vec![peer.0.read_u8().await.unwrap()];
                peer.reply(&reply[..early]).await;
                settle().await;
                // Whoever has broken it off reads no more.
                while !request.ends_with(b"\r\n\r\n") && peer.0.read_buf(&mut request).await.unwrap() > 0 {}
                peer.reply(&reply[early..]).await;
                let (outcome, progress) = asking.await.unwrap();
                let status = if reply.starts_with(b"HTTP/1.1 414") { 414 } else { 200 };
                assert_eq!(progress.status_line.get(), Some(status), "{early} bytes early");
                match outcome {
                    Ok(reply) => assert_eq!((early, reply.status), (0, status)),
                    Err(failure) => {
                        assert_eq!(
                            (early > 0, failure.cause, failure.retry_is_safe),
                            (true, Cause::Protocol, false)
                        );
                        settle().await;
                        assert_eq!(world.gauges().1, 0, "the connection is closed");
                    }
                }
            }
        }
    })
    .await;
}

/// A connection whose peer stops reading in the middle of the request and has already answered.
pub(super) struct HalfDeaf {
    /// Bytes, after which it speaks.
    pub(super) takes: usize,
    pub(super) reader: Option<std::task::Waker>,
    pub(super) says: &'static [u8],
}

impl tokio::io::AsyncRead for HalfDeaf {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.takes > 0 {
            self.reader = Some(cx.waker().clone());
            return std::task::Poll::Pending;
        }
        if self.says.is_empty() {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        let size = buf.remaining().min(self.says.len());
        buf.put_slice(&self.says[..size]);
        self.says = &self.says[size..];
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for HalfDeaf {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let size = bytes.len().min(self.takes);
        self.takes -= size;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        std::task::Poll::Ready(if size == 0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(size) })
    }
    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

impl Io for HalfDeaf {}

struct Deaf(&'static [u8]);

impl Dial for Deaf {
    fn dial(&self, _: usize, _: Among, _: Rc<Watch>) -> Dialing {
        let io = Box::new(HalfDeaf { takes: 20, reader: None, says: self.0 });
        Box::pin(async move { Ok(Link { io, peer: String::new(), address: None, tls: None, http2: false }) })
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_write_error_what_has_arrived_is_read_first() {
    in_each_lane(async || {
        let world = World::new(&[]);
        let gauges = Arc::clone(&world.gauges);
        let with = |says| {
            let dialer = Rc::new(Deaf(says)) as Rc<dyn Dial>;
            let mut config = Config::new();
            config.set("backend.url", "http://192.0.2.1/auth").unwrap();
            config.set("default_action", "deny").unwrap();
            Transport::with_dialer(Arc::new(config.settings().unwrap()), Arc::clone(&gauges), 0, 1, dialer)
        };
        let transport = with(b"HTTP/1.1 414 Too Long\r\nContent-Length: 0\r\n\r\n");
        let progress = Rc::<Progress>::default();
        let failure = ask_for("/auth?token=1", &transport, false, &progress).await.err().unwrap();
        // Refused by its status line; that is all which counts of a reply to half a request.
        assert_eq!((failure.cause, progress.status_line.get()), (Cause::Protocol, Some(414)));
        settle().await;
        assert_eq!(world.gauges().1, 0, "a connection that could not be written is not used again");
        let transport = with(b"");
        let failure = ask_for("/auth?token=1", &transport, false, &Rc::default()).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Reset);
        assert!(failure.detail.contains("written"), "{}", failure.detail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_trace_keeps_the_bytes_and_the_stages() {
    in_each_lane(async || {
        let world = World::always(&[], OK_EMPTY);
        let progress = Rc::new(Progress { trace: Some(RefCell::default()), ..Progress::default() });
        let reply = ask_for("/auth?token=1", &world.transport, false, &progress).await.unwrap();
        reply.body.discard();
        let trace = progress.trace.as_ref().unwrap().borrow();
        assert!(trace.sent.starts_with(b"GET /auth?token=1 HTTP/1.1\r\nHost: "));
        assert_eq!(trace.received, OK_EMPTY);
        let stages: Vec<_> = trace.marks.iter().map(|(stage, _)| *stage).collect();
        let expected = [Stage::Connecting, Stage::Ready, Stage::Written, Stage::Replying, Stage::Replied];
        assert_eq!(stages, expected);
        assert_eq!(trace.peer.as_deref(), Some("peer"));
        assert!(!trace.reused && !trace.http2);
    })
    .await;
}
