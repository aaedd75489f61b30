//! How many are on their way on a connection, which one a check joins, and when its connection ends.

use super::*;

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
