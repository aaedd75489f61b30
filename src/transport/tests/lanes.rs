//! HTTP/2 against a scripted peer: streams, limits, ways of refusing.

use ::h2::server::{Connection, SendResponse};
use ::h2::{Reason, server};
use bytes::Bytes;
use http::{Request, Response};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;

pub(super) type Server = Connection<DuplexStream, Bytes>;
pub(super) type Asked = (Request<::h2::RecvStream>, SendResponse<Bytes>);

pub(super) fn h2c(set: &[(&str, &str)]) -> World {
    World::new(&[&[("http.version", "h2c")], set].concat())
}

pub(super) async fn serve(world: &mut World, streams: u32) -> Server {
    let peer = world.peer().await;
    server::Builder::new().max_concurrent_streams(streams).handshake(peer.0).await.unwrap()
}

pub(super) async fn next(server: &mut Server) -> Asked {
    server.accept().await.expect("a stream").unwrap()
}

pub(super) fn answer(mut asked: Asked, status: u16) {
    let reply = Response::builder().status(status).header("x-userid", "u").body(()).unwrap();
    asked.1.send_response(reply, true).unwrap();
}

/// Keeps a connection moving.
pub(super) fn drive(mut server: Server) {
    spawn_local(async move {
        while let Some(Ok(asked)) = server.accept().await {
            answer(asked, 200);
        }
    });
}

/// Answers 200 on every connection.
pub(super) fn serve_all(world: &mut World) {
    let (_, empty) = mpsc::unbounded_channel();
    let mut peers = std::mem::replace(&mut world.peers, empty);
    spawn_local(async move {
        while let Some(peer) = peers.recv().await {
            spawn_local(async move { drive(server::Builder::new().handshake(peer.0).await.unwrap()) });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn many_exchanges_share_one_connection() {
    local(async {
        let mut world = h2c(&[]);
        let asking: Vec<_> = (0..100).map(|_| world.asking(false)).collect();
        let mut server = serve(&mut world, 10).await;
        for _ in 0..3 {
            let asked = next(&mut server).await;
            assert_eq!(asked.0.uri(), "http://backend.test:6000/auth?token=123");
            assert!(!asked.0.headers().contains_key("host"));
            assert_eq!(asked.0.headers()["x-session-id"], "7");
            answer(asked, 403);
        }
        drive(server);
        for (index, asking) in asking.into_iter().enumerate() {
            if !asking.is_finished() && index == 0 {
                // The rest is on its way too: as many connections as the limit of ten streams asks for.
                while let Ok(Some(peer)) = timeout(Duration::from_millis(50), world.peers.recv()).await {
                    drive(server::Builder::new().max_concurrent_streams(10).handshake(peer.0).await.unwrap());
                }
            }
            asking.await.unwrap().0.unwrap().body.discard();
        }
        let (opened, open, idle, waiting) = world.gauges();
        assert!(opened <= 10 && open == opened && idle == open && waiting == 0, "{:?}", world.gauges());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.gauges(), (opened, 0, 0, 0), "idle ones are closed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_streams_and_those_above_goaway_may_be_asked_again() {
    local(async {
        let mut world = h2c(&[]);
        let asking = world.asking(false);
        let mut server = serve(&mut world, 10).await;
        let mut asked = next(&mut server).await;
        asked.1.send_reset(Reason::REFUSED_STREAM);
        spawn_local(async move { while server.accept().await.is_some() {} });
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, true), "{}", failure.detail);

        // By hand: SETTINGS, then GOAWAY that has seen no stream.
        let mut world = h2c(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.reply(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        settle().await;
        peer.reply(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, true), "{}", failure.detail);
        // The next one goes elsewhere.
        let again = world.asking(true);
        drive(serve(&mut world, 10).await);
        assert_eq!(again.await.unwrap().0.unwrap().status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_resets_are_not_asked_again() {
    local(async {
        let mut world = h2c(&[]);
        let asking = world.asking(false);
        let mut server = serve(&mut world, 10).await;
        let mut asked = next(&mut server).await;
        asked.1.send_reset(Reason::INTERNAL_ERROR);
        spawn_local(async move { while server.accept().await.is_some() {} });
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!((failure.cause, failure.retry_is_safe), (Cause::Reset, false), "{}", failure.detail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_no_stream_is_a_failed_connection() {
    local(async {
        let mut world = h2c(&[]);
        let began = Instant::now();
        let (first, second) = (world.asking(false), world.asking(false));
        for (attempt, asking) in (1..).zip([first, second]) {
            drive(serve(&mut world, 0).await);
            let failure = asking.await.unwrap().0.err().unwrap();
            assert_eq!(failure.cause, Cause::Connect, "{}", failure.detail);
            assert_eq!(began.elapsed().as_millis(), 500 * attempt);
        }
        settle().await;
        assert_eq!(world.gauges(), (2, 0, 0, 0));
    })
    .await;
}

/// Whether its exchange is in line for it, on the way to it, or out.
#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_ends_its_exchanges_at_once() {
    local(async {
        let mut again = 0;
        // Clean, and within a frame.
        for (turns, begun) in (0..40).flat_map(|turns| [(turns, 0), (turns, 8)]) {
            let mut world = h2c(&[]);
            let began = Instant::now();
            let asking = world.asking(false);
            let mut peer = world.peer().await;
            serve_all(&mut world);
            peer.reply(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            spawn_local(async move {
                for _ in 0..turns {
                    yield_now().await;
                }
                peer.reply(&[0; 8][..begun]).await;
            });
            match asking.await.unwrap().0 {
                Ok(reply) => {
                    assert_eq!(reply.status, 200);
                    again += 1;
                }
                Err(failure) => {
                    let is_of_the_end = matches!(failure.cause, Cause::Reset | Cause::Protocol);
                    assert!(is_of_the_end, "after {turns} turns: {}", failure.detail);
                }
            }
            assert_eq!(began.elapsed(), Duration::ZERO, "after {turns} turns");
        }
        assert!(again > 0, "none was on its way");
    })
    .await;
}

/// It takes leave between one exchange and the next, for which there is one place: what may have been sent is not asked again.
#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_leave_is_asked_at_most_once_and_keeps_nobody_waiting() {
    // Of the highest stream there can be, and of the one that was answered.
    const HIGHEST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
    local(async {
        let (mut asked, mut failed) = (0, 0);
        for (turns, last) in (0..40).flat_map(|turns| [(turns, HIGHEST), (turns, [0, 0, 0, 1])]) {
            let mut world = h2c(&[]);
            let first = world.asking(false);
            let mut peer = world.peer().await;
            // SETTINGS with one stream at a time; then the first is answered 200: HEADERS that end it.
            peer.reply(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]).await;
            settle().await;
            peer.reply(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await;
            assert_eq!(first.await.unwrap().0.unwrap().status, 200);
            settle().await;
            let mut heard = vec![0; 4096];
            let _ = peer.0.read(&mut heard).await.unwrap();
            serve_all(&mut world);
            let began = Instant::now();
            let second = world.asking(false);
            let ending = spawn_local(async move {
                for _ in 0..turns {
                    yield_now().await;
                }
                peer.reply(&[[0, 0, 8, 7, 0, 0, 0, 0, 0].as_slice(), &last, &[0, 0, 0, 0]].concat()).await;
                // It answers what it has said it will, and then closes.
                let (mut heard, mut sent) = (vec![0; 4096], false);
                for _ in 0..20 {
                    let read = tokio::select! { biased; read = peer.0.read(&mut heard) => read.unwrap(), () = yield_now() => 0 };
                    if has_headers(&heard[..read]) {
                        sent = true;
                        let reply: &[u8] = if last == HIGHEST { &[0, 0, 1, 1, 5, 0, 0, 0, 3, 0x88] } else { b"" };
                        peer.reply(reply).await;
                    }
                }
                sent
            });
            let outcome = second.await.unwrap().0;
            let sent = ending.await.unwrap();
            let context = format!("after {turns} turns, {last:?}, sent: {sent}");
            asked += usize::from(sent);
            let elsewhere = world.gauges().0 > 1;
            assert!(!(sent && elsewhere && last == HIGHEST), "{context}: asked twice");
            match outcome {
                Ok(reply) => assert_eq!(reply.status, 200),
                Err(failure) => {
                    failed += 1;
                    assert_eq!(failure.cause, Cause::Reset, "{context}: {}", failure.detail);
                    let again = failure.retry_is_safe && sent && last == HIGHEST;
                    assert!(!again, "{context}: would be asked twice: {}", failure.detail);
                }
            }
            assert!(began.elapsed() < Duration::from_millis(1), "{context}");
        }
        assert!(asked > 0 && failed > 0);
    })
    .await;
}

/// Among whole frames.
fn has_headers(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, ..] = *frames {
        if kind == 1 {
            return true;
        }
        frames = &frames[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    false
}

#[tokio::test(start_paused = true)]
async fn who_does_not_speak_http2_is_told() {
    local(async {
        let table: [(&[u8], Cause); 2] =
            [(b"HTTP/1.1 400 Bad\r\n\r\n", Cause::Protocol), (b"", Cause::Reset)];
        for (says, cause) in table {
            let mut world = h2c(&[]);
            let asking = world.asking(false);
            let mut peer = world.peer().await;
            peer.reply(says).await;
            drop(peer);
            let failure = asking.await.unwrap().0.err().unwrap();
            assert_eq!(failure.cause, cause, "{}", failure.detail);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_exchange_does_not_reset_its_stream() {
    local(async {
        let mut world = h2c(&[("pool.max_connections", "1")]);
        let asking = world.asking(false);
        let mut server = serve(&mut world, 1).await;
        let mut asked = next(&mut server).await;
        asking.abort();
        let next_one = world.asking(false);
        let moving = spawn_local(async move { server.accept().await.map(|asked| (asked.unwrap(), server)) });
        sleep(Duration::from_millis(10)).await;
        // Not reset, and its place on the connection is still taken.
        let reset = timeout(Duration::ZERO, std::future::poll_fn(|cx| asked.1.poll_reset(cx)));
        assert!(reset.await.is_err());
        assert_eq!(world.gauges().3, 1);
        answer(asked, 200);
        let (asked, server) = moving.await.unwrap().unwrap();
        answer(asked, 403);
        drive(server);
        assert_eq!(next_one.await.unwrap().0.unwrap().status, 403);
        assert_eq!(world.gauges().0, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn abandoned_bodies_do_not_use_up_the_connection() {
    local(async {
        let mut world = h2c(&[]);
        let serving = world.asking(false);
        let mut server = serve(&mut world, 10).await;
        let count = spawn_local(async move {
            let mut count = 0;
            while let Some(Ok((_, mut respond))) = server.accept().await {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.reserve_capacity(200 * 1024);
                // More than is drained, less than the connection's window over 40 exchanges.
                let _ = body.send_data(Bytes::from(vec![b'x'; 200 * 1024]), true);
                count += 1;
            }
            count
        });
        serving.await.unwrap().0.unwrap().body.discard();
        for _ in 0..40 {
            world.ask().await.unwrap().body.discard();
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(world.gauges().0, 1);
        world.transport.close();
        assert_eq!(count.await.unwrap(), 41);
    })
    .await;
}

/// The rest of each is on its way when its exchange wants no more of it.
#[tokio::test(start_paused = true)]
async fn bodies_that_are_cut_off_at_a_high_rate_do_not_use_up_the_connection() {
    local(async {
        let mut world = h2c(&[]);
        let mut asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.reply(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        for stream in (1..4000_u32).step_by(2) {
            settle().await;
            let _ = peer.0.read(&mut [0; 4096]).await.unwrap();
            let [_, _, high, low] = stream.to_be_bytes();
            // HEADERS: status 200.
            peer.reply(&[0, 0, 1, 1, 4, 0, 0, high, low, 0x88]).await;
            drop(asking.await.unwrap().0.unwrap());
            settle().await;
            // DATA, one byte.
            peer.reply(&[0, 0, 1, 0, 0, 0, 0, high, low, b'x']).await;
            asking = world.asking(false);
        }
        assert_eq!(world.gauges().0, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_long_header_list_is_refused() {
    local(async {
        let mut world = h2c(&[]);
        let asking = world.asking(false);
        let mut server = serve(&mut world, 10).await;
        let (_, mut respond) = next(&mut server).await;
        let mut reply = Response::new(());
        for index in 0..65 {
            let name = HeaderName::try_from(format!("x-{index}")).unwrap();
            reply.headers_mut().append(name, HeaderValue::from_static("1"));
        }
        respond.send_response(reply, true).unwrap();
        spawn_local(async move { while server.accept().await.is_some() {} });
        let (outcome, progress) = asking.await.unwrap();
        assert_eq!(outcome.err().unwrap().cause, Cause::Protocol);
        assert_eq!(progress.status_line.get(), Some(200));
    })
    .await;
}

/// What an exchange comes to whose reply has `status` and a header of `length` bytes.
async fn with_a_header_of(length: usize, status: u16) -> (Result<Reply, Failure>, Option<u16>) {
    let mut world = h2c(&[]);
    let asking = world.asking(false);
    let mut server = serve(&mut world, 10).await;
    let (_, mut respond) = next(&mut server).await;
    let reply = Response::builder().status(status).header("location", "x".repeat(length)).body(()).unwrap();
    respond.send_response(reply, true).unwrap();
    spawn_local(async move { while server.accept().await.is_some() {} });
    let (outcome, progress) = asking.await.unwrap();
    (outcome, progress.status_line.get())
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_a_long_header_section_is_a_refusal() {
    local(async {
        let fits = 16 * 1024 - "location".len();
        assert_eq!(with_a_header_of(fits, 302).await.0.unwrap().status, 302);
        for (length, status) in [(fits + 1, 302), (100 * 1024, 403), (fits + 1, 200)] {
            let (outcome, line) = with_a_header_of(length, status).await;
            let failure = outcome.err().unwrap();
            assert_eq!((failure.cause, line), (Cause::Protocol, Some(status)), "{length} {}", failure.detail);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_says_on_going_away_is_not_repeated() {
    local(async {
        let mut world = h2c(&[]);
        let asking = world.asking(false);
        let mut peer = world.peer().await;
        peer.reply(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        settle().await;
        let text = b"bad request /auth?token=123";
        let mut frame = vec![0, 0, 8 + text.len() as u8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        frame.extend_from_slice(text);
        peer.reply(&frame).await;
        let failure = asking.await.unwrap().0.err().unwrap();
        assert!(!failure.detail.contains("token"), "{}", failure.detail);
        assert!(failure.detail.contains("unspecific protocol error"), "{}", failure.detail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_connection_is_made_at_a_time_until_its_settings_are_in() {
    local(async {
        let mut world = h2c(&[]);
        let asking: Vec<_> = (0..20).map(|_| world.asking(false)).collect();
        settle().await;
        let mut silent = world.peer().await;
        let late = world.asking(false);
        settle().await;
        assert!(world.peers.try_recv().is_err(), "a second one while the first is not ready");
        assert_eq!(world.gauges().3, 21);
        silent.reply(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 0, 0));
        drop(asking);
        drop(late);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_settings_makes_way_for_the_next() {
    local(async {
        let mut world = h2c(&[("pool.max_connections", "1")]);
        let asking = world.asking(false);
        let silent = world.peer().await;
        let failure = asking.await.unwrap().0.err().unwrap();
        assert_eq!(failure.cause, Cause::Connect, "{}", failure.detail);
        silent.closed().await;
        let asking = world.asking(false);
        drive(serve(&mut world, 10).await);
        assert_eq!(asking.await.unwrap().0.unwrap().status, 200);
    })
    .await;
}
