//! `http.pipeline`: answers go to those who asked, whatever the peer does with the order, the framing or the connection.

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::replies::HalfDeaf;
use super::*;
use crate::transport::pool::windows::REST;
use crate::transport::scripted::Scripted;

const TARGETS: [&str; 24] = [
    "/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10", "/11", "/12", "/13", "/14", "/15",
    "/16", "/17", "/18", "/19", "/20", "/21", "/22", "/23",
];

/// The status and who it is for, or what went wrong.
type Got = Result<(u16, String), Failure>;

struct Pipelined {
    world: World,
    peer: Peer,
}

impl Pipelined {
    /// One connection with a window of `window`, on which two were answered already.
    async fn new(window: &'static str) -> Self {
        Self::with(window, &[]).await
    }

    async fn with(window: &'static str, set: &[(&str, &str)]) -> Self {
        let world = untried(window, set);
        let two = [asking(&world, 22), asking(&world, 23)];
        let mut world = world;
        let mut peer = world.peer().await;
        for asked in ["/22", "/23"] {
            assert_eq!(peer.target().await, asked);
        }
        peer.reply(&[reply("/22"), reply("/23")].concat()).await;
        for asking in two {
            assert!(asking.await.unwrap().is_ok());
        }
        settle().await;
        assert_eq!(world.gauges(), (1, 1, 1, 0));
        Self { world, peer }
    }

    /// All at once.
    async fn ask(&mut self, count: usize) -> Vec<JoinHandle<Got>> {
        let asking = (0..count).map(|index| asking(&self.world, index)).collect();
        settle().await;
        asking
    }
}

fn untried(window: &'static str, set: &[(&str, &str)]) -> World {
    let keys = [("http.lane", "wire"), ("http.pipeline", window), ("pool.max_connections", "1")];
    World::new(&[&keys, set].concat())
}

fn asking(world: &World, index: usize) -> JoinHandle<Got> {
    asking_with(world, index, false, Rc::default())
}

fn asking_with(world: &World, index: usize, fresh: bool, progress: Rc<Progress>) -> JoinHandle<Got> {
    let transport = Rc::clone(&world.transport);
    spawn_local(async move {
        let reply = ask_for(TARGETS[index], &transport, fresh, &progress).await?;
        let user = reply.headers.get("x-userid").map(|user| user.to_str().unwrap().to_owned());
        reply.body.discard();
        Ok((reply.status, user.unwrap_or_default()))
    })
}

/// Of two verdicts in turn.
fn status(target: &str) -> u16 {
    if target.len() % 2 == target.bytes().last().map_or(0, usize::from) % 2 { 200 } else { 403 }
}

fn reply(target: &str) -> Vec<u8> {
    format!("HTTP/1.1 {} X\r\nX-UserId: {target}\r\nContent-Length: 2\r\n\r\nok", status(target)).into_bytes()
}

fn replies(of: std::ops::Range<usize>) -> Vec<u8> {
    of.flat_map(|index| reply(TARGETS[index])).collect()
}

async fn is_its_own(asking: JoinHandle<Got>, index: usize) {
    let target = TARGETS[index];
    assert_eq!(asking.await.unwrap().unwrap(), (status(target), target.to_owned()));
}

/// Of one that nobody else wakes.
async fn has_joined<T>(exchange: &mut std::pin::Pin<Box<impl Future<Output = T>>>) {
    for _ in 0..4 {
        assert!(timeout(Duration::ZERO, exchange.as_mut()).await.is_err());
        settle().await;
    }
}

async fn failure(asking: JoinHandle<Got>) -> (Cause, bool) {
    let failure = asking.await.unwrap().expect_err("no reply");
    (failure.cause, failure.retry_is_safe)
}

/// Sent, and no byte of its reply came.
const AGAIN: (Cause, bool) = (Cause::Reset, true);
const BROKEN: (Cause, bool) = (Cause::Protocol, false);

impl Peer {
    async fn target(&mut self) -> String {
        self.request().await.split(' ').nth(1).unwrap().to_owned()
    }

    /// The targets of all that has been sent so far.
    async fn targets(&mut self) -> Vec<String> {
        settle().await;
        let mut bytes = Vec::new();
        while let Ok(Ok(1..)) = timeout(Duration::ZERO, self.0.read_buf(&mut bytes)).await {}
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.is_empty() || text.ends_with("\r\n\r\n"), "{text:?}");
        text.split_terminator("\r\n\r\n").map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }

    async fn is_closed(&mut self) -> bool {
        settle().await;
        let mut bytes = Vec::new();
        matches!(timeout(Duration::ZERO, self.0.read_to_end(&mut bytes)).await, Ok(Ok(_)))
    }
}

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

#[tokio::test(start_paused = true)]
async fn no_window_is_exceeded_and_it_is_refilled_by_halves_in_one_write() {
    local(async {
        let mut pipe = Pipelined::new("8").await;
        let writes = || pipe.world.dialer.writes.get();
        let before = writes();
        let asking: Vec<_> = (0..20).map(|index| asking(&pipe.world, index)).collect();
        assert_eq!(pipe.peer.targets().await, TARGETS[..8]);
        assert_eq!(writes() - before, 1);
        assert_eq!(pipe.world.gauges().3, 12, "the rest waits");
        for answered in 1..4 {
            pipe.peer.reply(&replies(answered - 1..answered)).await;
            assert!(pipe.peer.targets().await.is_empty(), "less than half of it is free");
        }
        pipe.peer.reply(&replies(3..4)).await;
        assert_eq!(pipe.peer.targets().await, TARGETS[8..12]);
        assert_eq!(writes() - before, 2);
        pipe.peer.reply(&replies(4..12)).await;
        assert_eq!(pipe.peer.targets().await, TARGETS[12..20]);
        assert_eq!(writes() - before, 3);
        pipe.peer.reply(&replies(12..20)).await;
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        assert_eq!(pipe.world.gauges[0].exchanges.get(), 22);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_of_two_is_not_pipelined_at_all() {
    local(async {
        // The twin of the others: the same with a window of one, which is the default.
        let mut world = untried("1", &[]);
        let asking = [asking(&world, 0), asking(&world, 1)];
        let mut peer = world.peer().await;
        for (index, asking) in asking.into_iter().enumerate() {
            assert_eq!(peer.targets().await, [TARGETS[index]]);
            peer.reply(&reply(TARGETS[index])).await;
            is_its_own(asking, index).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_tried_with_two_before_windows_are_filled() {
    local(async {
        let mut world = untried("8", &[]);
        let asking: Vec<_> = (0..10).map(|index| asking(&world, index)).collect();
        let mut peer = world.peer().await;
        assert_eq!(peer.targets().await, TARGETS[..2]);
        peer.reply(&replies(0..1)).await;
        assert_eq!(peer.targets().await, TARGETS[2..3], "its first answer shows nothing");
        peer.reply(&replies(1..2)).await;
        assert_eq!(peer.targets().await, TARGETS[3..10]);
        peer.reply(&replies(2..10)).await;
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
    })
    .await;
}

/// As `php -S`: no byte, and a close. Both may be asked again; and for a while nobody is asked like that.
#[tokio::test(start_paused = true)]
async fn the_least_busy_of_the_windows_with_room_is_joined() {
    local(async {
        let mut world = untried("4", &[("pool.max_connections", "2")]);
        let mut all = Vec::new();
        for index in 0..2 {
            all.push(asking(&world, index));
            settle().await;
        }
        let mut one = world.peer().await;
        assert_eq!(one.targets().await, TARGETS[..2]);
        one.reply(&replies(0..2)).await;
        settle().await;
        for index in 2..7 {
            all.push(asking(&world, index));
            settle().await;
        }
        let mut other = world.peer().await;
        assert_eq!(one.targets().await, TARGETS[2..5], "then less than half of it is free");
        assert_eq!(other.targets().await, TARGETS[6..7]);
        one.reply(&replies(2..3)).await;
        assert_eq!(one.targets().await, TARGETS[5..6]);
        // Three and one.
        for index in 7..9 {
            all.push(asking(&world, index));
            assert_eq!(other.targets().await, TARGETS[index..=index]);
        }
        one.reply(&replies(3..5)).await;
        // One and three.
        for index in 9..11 {
            all.push(asking(&world, index));
            assert_eq!(one.targets().await, TARGETS[index..=index]);
        }
        one.reply(&[replies(5..6), replies(9..11)].concat()).await;
        other.reply(&replies(6..9)).await;
        for (index, asking) in all.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_answers_nothing_if_pipelined_is_left_alone_with_it_for_a_while() {
    local(async {
        let mut world = untried("8", &[]);
        let mut asked: VecDeque<_> = (0..6).map(|index| asking(&world, index)).collect();
        let mut peer = world.peer().await;
        assert_eq!(peer.targets().await, TARGETS[..2]);
        drop(peer);
        for _ in 0..2 {
            assert_eq!(failure(asked.pop_front().unwrap()).await, AGAIN);
        }
        let mut peer = world.peer().await;
        for (index, target) in TARGETS.iter().enumerate().take(6).skip(2) {
            assert_eq!(peer.targets().await, [*target], "one by one");
            peer.reply(&reply(target)).await;
            is_its_own(asked.pop_front().unwrap(), index).await;
        }
        sleep(REST.saturating_sub(Duration::from_secs(1))).await;
        let two = [asking(&world, 6), asking(&world, 7)];
        let mut peer = world.peer().await;
        for (index, asking) in two.into_iter().enumerate() {
            assert_eq!(peer.targets().await, [TARGETS[6 + index]], "still one by one");
            peer.reply(&reply(TARGETS[6 + index])).await;
            is_its_own(asking, 6 + index).await;
        }
        sleep(Duration::from_secs(2)).await;
        let _three = [asking(&world, 8), asking(&world, 9), asking(&world, 10)];
        let mut peer = world.peer().await;
        assert_eq!(peer.targets().await, TARGETS[8..10], "tried again");
    })
    .await;
}

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

/// What a check comes to: the status and the user, or the cause and whether it may be asked again.
type Comes = Result<(u16, String), (Cause, bool)>;

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

#[tokio::test(start_paused = true)]
async fn who_leaves_keeps_its_place_and_its_reply_is_thrown_away() {
    local(async {
        for leaves in 0..4 {
            let mut pipe = Pipelined::new("4").await;
            let asking = pipe.ask(4).await;
            assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
            asking[leaves].abort();
            settle().await;
            pipe.peer.reply(&replies(0..4)).await;
            for (index, asking) in asking.into_iter().enumerate() {
                if index != leaves {
                    is_its_own(asking, index).await;
                }
            }
            settle().await;
            assert_eq!(pipe.world.gauges(), (1, 1, 1, 0), "{leaves}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_it_was_sent_is_never_asked_about() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let mut asking: VecDeque<_> = pipe.ask(4).await.into();
        pipe.peer.targets().await;
        pipe.peer.reply(&replies(0..1)).await;
        is_its_own(asking.pop_front().unwrap(), 0).await;
        let late = self::asking(&pipe.world, 4);
        settle().await;
        late.abort();
        settle().await;
        pipe.peer.reply(&replies(1..4)).await;
        for index in 1..4 {
            is_its_own(asking.pop_front().unwrap(), index).await;
        }
        assert!(pipe.peer.targets().await.is_empty());
        assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
    })
    .await;
}

/// As where nothing is pipelined; with another that is sent, or alone.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_not_sent_though_its_exchange_has_not_left_yet() {
    local(async {
        for (given_up, another) in [(true, true), (true, false), (false, true)] {
            let mut pipe = Pipelined::new("4").await;
            let mut asking: VecDeque<_> = pipe.ask(4).await.into();
            assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
            let progress = Rc::<Progress>::default();
            let late = asking_with(&pipe.world, 4, false, Rc::clone(&progress));
            settle().await;
            if another {
                asking.push_back(self::asking(&pipe.world, 5));
            }
            pipe.peer.reply(&replies(0..1)).await;
            assert!(pipe.peer.targets().await.is_empty(), "it has its place and was not sent");
            progress.given_up.set(given_up);
            pipe.peer.reply(&replies(1..2)).await;
            let sent: Vec<_> =
                [(!given_up).then_some("/4"), another.then_some("/5")].into_iter().flatten().collect();
            assert_eq!(pipe.peer.targets().await, sent);
            assert_eq!(progress.stage() >= Stage::Written, !given_up);
            pipe.peer.reply(&[replies(2..4), sent.iter().copied().flat_map(reply).collect()].concat()).await;
            settle().await;
            late.abort();
            for (index, asking) in [0, 1, 2, 3, 5].into_iter().zip(asking) {
                is_its_own(asking, index).await;
            }
            settle().await;
            assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
            assert_eq!(pipe.world.gauges[0].piped.get(), 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn behind_one_that_hangs_nobody_waits_longer_than_a_moment_after_it_was_given_up() {
    local(async {
        // The late reply comes in time, or does not.
        for late in [90, 110] {
            let mut pipe = Pipelined::new("4").await;
            let mut asking: VecDeque<_> = pipe.ask(3).await.into();
            assert_eq!(pipe.peer.targets().await, TARGETS[..3]);
            sleep(Duration::from_millis(300)).await;
            asking.pop_front().unwrap().abort();
            sleep(Duration::from_millis(1)).await;
            let next = self::asking(&pipe.world, 3);
            settle().await;
            assert!(pipe.peer.targets().await.is_empty(), "nobody is sent after what was given up");
            sleep(Duration::from_millis(late - 1)).await;
            pipe.peer.reply(&replies(0..3)).await;
            for (index, asking) in asking.into_iter().enumerate() {
                if late < 100 {
                    is_its_own(asking, 1 + index).await;
                } else {
                    assert_eq!(failure(asking).await, AGAIN, "{index}");
                }
            }
            settle().await;
            let same = late < 100;
            let mut other = if same { pipe.peer } else { pipe.world.peer().await };
            assert_eq!(other.targets().await, ["/3"]);
            other.reply(&reply("/3")).await;
            is_its_own(next, 3).await;
        }
    })
    .await;
}

/// `timeout` is 2 s: those behind have the better part of theirs left.
#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_come_holds_up_nobody_for_longer_than_half_the_time() {
    local(async {
        for answers in [false, true] {
            let mut pipe = Pipelined::new("4").await;
            let mut asking: VecDeque<_> = pipe.ask(4).await.into();
            assert_eq!(pipe.peer.targets().await, TARGETS[..4]);
            let began = Instant::now();
            sleep(Duration::from_millis(300)).await;
            pipe.peer.reply(&replies(0..1)).await;
            is_its_own(asking.pop_front().unwrap(), 0).await;
            let waits = self::asking(&pipe.world, 4);
            // Its reply has begun: that one is waited for.
            if answers {
                pipe.peer.reply(&reply("/1")[..10]).await;
            }
            let last = asking.pop_back().unwrap();
            assert_eq!(failure(last).await, AGAIN);
            assert!((990..1010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
            let second = asking.pop_front().unwrap();
            if answers {
                assert!(!second.is_finished());
                pipe.peer.reply(&reply("/1")[10..]).await;
                is_its_own(second, 1).await;
            } else {
                assert_eq!(failure(second).await, AGAIN);
            }
            // What had not been sent goes elsewhere.
            let mut other = pipe.world.peer().await;
            assert_eq!(other.targets().await, ["/4"]);
            other.reply(&reply("/4")).await;
            is_its_own(waits, 4).await;
            assert!(pipe.peer.is_closed().await);
        }
    })
    .await;
}

/// Its first connection is a deaf or defective one; the others are scripted.
struct Deaf(RefCell<Option<Box<dyn Io>>>, Rc<Scripted>);

impl Dial for Deaf {
    fn dial(&self, endpoint: usize, among: Among, watch: Rc<Watch>) -> Dialing {
        let Some(io) = self.0.take() else { return self.1.dial(endpoint, among, watch) };
        let peer = String::new();
        Box::pin(async move { Ok(Link { io, peer, address: None, tls: None, http2: false }) })
    }
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

/// Nobody else is on it: as without pipelining.
#[tokio::test(start_paused = true)]
async fn a_connection_that_all_have_given_up_is_closed_at_once() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(3).await;
        asking.iter().for_each(JoinHandle::abort);
        assert_eq!(pipe.peer.targets().await, TARGETS[..3]);
        assert!(pipe.peer.is_closed().await);
        settle().await;
        assert_eq!(pipe.world.gauges(), (1, 0, 0, 0));
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

/// Answers one request; nothing to say is a defect. Then it takes no more: its TLS is broken.
struct Defective {
    says: &'static [u8],
    asked: bool,
    spoke: bool,
}

impl tokio::io::AsyncRead for Defective {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !self.asked {
            return std::task::Poll::Pending;
        }
        assert!(!self.says.is_empty(), "a defect, on purpose");
        buf.put_slice(self.says);
        (self.asked, self.spoke) = (false, true);
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Defective {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if self.spoke {
            let error = std::io::Error::other(rustls::Error::DecryptError);
            return std::task::Poll::Ready(Err(error));
        }
        self.asked = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Ready(Ok(bytes.len()))
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

impl Io for Defective {}

/// Over this connection first.
fn first_over(io: Box<dyn Io>) -> World {
    let mut world = untried("4", &[]);
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", "http://192.0.2.1/auth"),
        ("default_action", "deny"),
        ("http.pipeline", "4"),
        ("pool.max_connections", "1"),
    ] {
        config.set(key, value).unwrap();
    }
    let (settings, gauges) = (Arc::new(config.settings().unwrap()), Arc::clone(&world.gauges));
    let dialer = Rc::new(Deaf(RefCell::new(Some(io)), Rc::clone(&world.dialer)));
    world.transport = Transport::with_dialer(settings, gauges, 0, 1, dialer);
    world
}

fn defective(says: &'static [u8]) -> World {
    first_over(Box::new(Defective { says, asked: false, spoke: false }))
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

#[tokio::test(start_paused = true)]
async fn a_defect_is_not_taken_for_the_backend_s_silence() {
    local(async {
        assert_eq!(failure(asking(&defective(b""), 0)).await, (Cause::Internal, false));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_tls_is_not_of_what_had_not_been_sent() {
    local(async {
        let mut world = defective(Vec::leak(reply("/0")));
        is_its_own(asking(&world, 0), 0).await;
        let second = asking(&world, 1);
        settle().await;
        assert!(!second.is_finished(), "it goes elsewhere");
        let mut other = world.peer().await;
        assert_eq!(other.targets().await, ["/1"]);
        other.reply(&reply("/1")).await;
        is_its_own(second, 1).await;
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

#[tokio::test(start_paused = true)]
async fn who_needs_a_connection_of_its_own_gets_one() {
    local(async {
        for apart in [false, true] {
            let mut pipe = Pipelined::new("4").await;
            let asking = pipe.ask(3).await;
            let progress = Rc::new(Progress { apart, ..Progress::default() });
            let alone = asking_with(&pipe.world, 5, !apart, progress);
            assert_eq!(pipe.peer.targets().await, TARGETS[..3]);
            // Its place is taken by a pipe that could be busy for ever: that one takes nobody any more.
            let later = self::asking(&pipe.world, 6);
            assert!(pipe.peer.targets().await.is_empty());
            pipe.peer.reply(&replies(0..3)).await;
            for (index, asking) in asking.into_iter().enumerate() {
                is_its_own(asking, index).await;
            }
            let mut other = pipe.world.peer().await;
            assert_eq!(other.targets().await, ["/5"], "and nobody with it");
            other.reply(&reply("/5")).await;
            is_its_own(alone, 5).await;
            assert_eq!(other.targets().await, ["/6"]);
            other.reply(&reply("/6")).await;
            is_its_own(later, 6).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_counted_by_exchanges() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        assert_eq!(pipe.world.gauges[0].in_use(), 0);
        let asking = pipe.ask(6).await;
        assert_eq!(pipe.world.gauges[0].in_use(), 6);
        pipe.peer.reply(&replies(0..4)).await;
        settle().await;
        assert_eq!(pipe.world.gauges[0].in_use(), 2);
        pipe.peer.reply(&replies(4..6)).await;
        for (index, asking) in asking.into_iter().enumerate() {
            is_its_own(asking, index).await;
        }
        settle().await;
        assert_eq!(pipe.world.gauges[0].in_use(), 0);
        assert_eq!(pipe.world.gauges(), (1, 1, 1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_is_always_busy_grows_old_like_any_connection() {
    local(async {
        let keys = [("pool.max_age", "10s"), ("timeout", "20s")];
        let mut pipe = Pipelined::with("4", &keys).await;
        let mut last = asking(&pipe.world, 0);
        assert_eq!(pipe.peer.targets().await, ["/0"]);
        for index in 1..=10 {
            let next = asking(&pipe.world, index);
            assert_eq!(pipe.peer.targets().await, [TARGETS[index]]);
            pipe.peer.reply(&reply(TARGETS[index - 1])).await;
            is_its_own(last, index - 1).await;
            last = next;
            sleep(Duration::from_secs(1)).await;
        }
        let next = asking(&pipe.world, 11);
        assert!(pipe.peer.targets().await.is_empty());
        pipe.peer.reply(&reply("/10")).await;
        is_its_own(last, 10).await;
        let mut other = pipe.world.peer().await;
        assert_eq!(other.targets().await, ["/11"]);
        other.reply(&reply("/11")).await;
        is_its_own(next, 11).await;
        assert!(pipe.peer.is_closed().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_closes_pipes_too() {
    local(async {
        let mut pipe = Pipelined::new("4").await;
        let asking = pipe.ask(3).await;
        pipe.peer.targets().await;
        asking.iter().for_each(JoinHandle::abort);
        let gauges = Arc::clone(&pipe.world.gauges);
        drop(pipe.world);
        pipe.peer.closed().await;
        settle().await;
        let read = |gauge: &Gauge| gauge.get();
        let gauges = &gauges[0];
        assert_eq!([&gauges.open, &gauges.idle, &gauges.pipes, &gauges.piped].map(read), [0; 4]);
    })
    .await;
}
