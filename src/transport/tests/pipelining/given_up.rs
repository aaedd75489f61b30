//! A check that is given up, and those behind it.

use super::*;

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
