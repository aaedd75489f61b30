//! For how long a decision is remembered: to the millisecond, counted from the end of the reply's header section.

use std::rc::Rc;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::support::{Peer, check, with_shard};
use super::viewers::{
    Says, Viewers, allow, allow_for, assert_by, deny, held, ms, pass, reply, secs, with_viewers,
};
use crate::decision::{Origin, Verdict};
use crate::engine::batch::Batch;

/// Asks now, and finds it remembered until the last millisecond of `seconds`, and asked again then.
async fn assert_kept_for(viewers: &Viewers, seconds: u64) {
    let check = check("s", "");
    let before = viewers.requests();
    let first = viewers.ask(&check).await;
    assert_eq!((first.origin, first.ttl), (Origin::Backend, secs(seconds)));
    if seconds > 0 {
        pass(ms(seconds * 1000 - 1)).await;
        let last = viewers.ask(&check).await;
        assert_eq!((last.origin, last.ttl), (Origin::Memory, ms(1)), "of {seconds} s");
        assert_eq!(viewers.requests(), before + 1);
        pass(ms(1)).await;
        assert!(viewers.lookup(&check).is_none());
    }
    assert_eq!(viewers.ask(&check).await.origin, Origin::Backend, "after {seconds} s");
    assert_eq!(viewers.requests(), before + 2);
    // Nor a moment later than that.
    pass(secs(seconds) + ms(1)).await;
    assert!(viewers.lookup(&check).is_none());
    assert_eq!(viewers.ask(&check).await.origin, Origin::Backend, "later than {seconds} s");
    assert_eq!(viewers.requests(), before + 3);
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_remembered_to_its_last_millisecond_and_not_for_one_more() {
    for (says, seconds) in [
        (allow_for(1), 1),
        (allow_for(10), 10),
        (allow_for(36_000), 36_000),
        (deny("X-AuthDuration: 10"), 10),
        (deny("X-AuthDuration: 36000"), 60),
        (allow("Cache-Control: max-age=10"), 10),
        (allow("Cache-Control: max-age=10, s-maxage=7"), 7),
        (allow("X-AuthDuration: 7|Cache-Control: max-age=10"), 7),
        (allow("Cache-Control: max-age=7|X-AuthDuration: 10"), 10),
        (allow("X-AuthDuration: 0|Cache-Control: max-age=10"), 0),
        (allow(""), 0),
    ] {
        with_viewers(&[], says, |viewers| async move { assert_kept_for(&viewers, seconds).await }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ttl_max_bounds_whatever_was_said_and_ttl_allow_and_ttl_deny_as_well() {
    for (keys, says, seconds) in [
        (&[][..], allow_for(1_000_000), 86_400),
        (&[("ttl.max", "5s")], allow_for(36_000), 5),
        (&[("ttl.max", "5s")], allow("Cache-Control: max-age=36000"), 5),
        (&[("ttl.max", "5s")], deny("X-AuthDuration: 36000"), 5),
        (&[("ttl.max", "5s")], allow_for(4), 4),
        (&[("ttl.max", "0")], allow_for(36_000), 0),
        (&[("ttl.max", "5s"), ("ttl.allow", "1h")], allow(""), 5),
        (&[("ttl.allow", "20s")], allow(""), 20),
        (&[("ttl.deny", "20s")], deny(""), 20),
        (&[("ttl.deny", "1h")], deny(""), 60),
        (&[("ttl.deny", "1h"), ("ttl.max_deny", "10m")], deny(""), 600),
    ] {
        with_viewers(keys, says, |viewers| async move { assert_kept_for(&viewers, seconds).await }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_use_does_not_prolong_it() {
    with_viewers(&[], allow_for(100), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        for left in (1..100).rev() {
            pass(secs(1)).await;
            let decision = viewers.ask(&check).await;
            assert_eq!((decision.origin, decision.ttl), (Origin::Memory, secs(left)));
            assert_eq!(viewers.lookup(&check).unwrap().ttl, secs(left));
        }
        pass(secs(1)).await;
        assert_eq!(viewers.ask(&check).await.origin, Origin::Backend);
        assert_eq!(viewers.requests(), 2);
    })
    .await;
}

/// The reply comes in pieces, the first of which begins so long after the request.
async fn in_pieces(pieces: &'static [(u64, &'static str)], keys: &[(&str, &str)], left: u64) {
    let peer = Peer::new(move |peer: Rc<Peer>, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            for (seconds, piece) in pieces {
                tokio::time::sleep(secs(*seconds)).await;
                stream.write_all(piece.as_bytes()).await.unwrap();
            }
        }
    });
    let keys: Vec<_> = [("ttl.jitter", "off"), ("timeout", "1m")].iter().chain(keys).copied().collect();
    with_shard(&keys, peer, |bench| async move {
        let check = check("s", "");
        bench.submit(&check, 0);
        let (first, _) = bench.decided(0).await;
        assert_by(&first, Origin::Backend, Verdict::Allow);
        // A timer's millisecond, and that of the test which waits.
        let about = |ttl: std::time::Duration| ttl <= secs(left) && ttl + ms(5) >= secs(left);
        assert!(about(first.ttl), "{:?}, not {left} s", first.ttl);
        bench.submit(&check, 1);
        let (second, _) = bench.decided(1).await;
        let expected = if left == 0 { Origin::Backend } else { Origin::Memory };
        assert_eq!(second.origin, expected);
        assert!(about(second.ttl));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_time_counts_from_the_end_of_the_header_section() {
    // Not from the request, nor from the first byte.
    in_pieces(&[(5, "HTTP/1.1 200 OK\r\nX-AuthDuration: 10\r\n"), (5, "Content-Length: 0\r\n\r\n")], &[], 10)
        .await;
    // Nor from the end of the body that was waited for.
    let body = [("verdict.body", "json:error==0")];
    in_pieces(
        &[(1, "HTTP/1.1 200 OK\r\nX-AuthDuration: 10\r\nContent-Length: 11\r\n\r\n"), (4, "{\"error\":0}")],
        &body,
        6,
    )
    .await;
    in_pieces(
        &[(1, "HTTP/1.1 200 OK\r\nX-AuthDuration: 3\r\nContent-Length: 11\r\n\r\n"), (4, "{\"error\":0}")],
        &body,
        0,
    )
    .await;
}

/// What is said of 200 sessions at once, each with its own chance.
async fn jittered(seconds: u64, keys: &[(&str, &str)]) -> Vec<std::time::Duration> {
    let found = Rc::new(std::cell::RefCell::new(Vec::new()));
    let told = Rc::clone(&found);
    // The later of two values holds.
    let keys: Vec<_> = [("ttl.jitter", "on"), ("ttl.max", "720h")].iter().chain(keys).copied().collect();
    with_viewers(&keys, allow_for(seconds), |viewers| async move {
        for index in 0..200 {
            let decision = viewers.ask(&check(&format!("s{index}"), "")).await;
            assert_eq!(decision.origin, Origin::Backend);
            told.borrow_mut().push(decision.ttl);
        }
        // What was said is what holds.
        let (last, said) = ("s199", told.borrow()[199]);
        pass(said.saturating_sub(ms(1))).await;
        assert_eq!(viewers.ask(&check(last, "")).await.origin, Origin::Memory);
        pass(ms(1)).await;
        assert_eq!(viewers.ask(&check(last, "")).await.origin, Origin::Backend);
    })
    .await;
    Rc::into_inner(found).unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn jitter_shortens_by_at_most_a_twentieth_and_30_s_and_nothing_below_10_s() {
    for (seconds, most) in [(1, 0), (9, 0), (20, 1_000), (100, 5_000), (600, 30_000), (36_000, 30_000)] {
        let times = jittered(seconds, &[]).await;
        let (longest, shortest) = (secs(seconds), ms(seconds * 1_000 - most));
        assert!(times.iter().all(|time| (shortest..=longest).contains(time)), "{seconds}: {times:?}");
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        // Of 200, some are in each half of what it may take: fewer than one run in 2^199 has none.
        assert!(
            *first <= ms(seconds * 1000 - most / 2) && *last >= shortest + ms(most) / 2,
            "{seconds}: {times:?}"
        );
        if most > 0 {
            let different = times.iter().collect::<std::collections::HashSet<_>>().len();
            assert!(different > 20, "{seconds}: {different} times");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_can_be_switched_off() {
    for word in ["off", "0"] {
        let times = jittered(600, &[("ttl.jitter", word)]).await;
        assert!(times.iter().all(|time| *time == secs(600)), "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_answer_has_its_own_time() {
    with_viewers(&[], allow_for(10), |viewers| async move {
        let base = check("s", "");
        viewers.ask(&base).await;
        pass(secs(9)).await;
        viewers.now_says(allow_for(100));
        let fresh = crate::check::Check { fresh: true, ..base };
        assert_eq!(viewers.ask(&fresh).await.ttl, secs(100));
        pass(secs(99)).await;
        assert_eq!(viewers.ask(&base).await.ttl, secs(1));
        // And a shorter one shortens.
        viewers.now_says(allow_for(5));
        viewers.ask(&fresh).await;
        pass(secs(5)).await;
        assert_eq!(viewers.ask(&base).await.origin, Origin::Backend);
        assert_eq!(viewers.requests(), 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_over_leave_nothing_behind() {
    with_viewers(&[], allow_for(60), |viewers| async move {
        for index in 0..500 {
            viewers.ask(&check(&format!("s{index}"), "")).await;
        }
        assert_eq!(viewers.bench.core.stats().remembered, 500);
        viewers.now_says(Says::Now(reply(200, "X-AuthDuration: 3600")));
        viewers.ask(&check("stays", "")).await;
        // Nobody asks any more; time alone takes them out.
        let deadline = Instant::now() + secs(600);
        while viewers.bench.core.stats().remembered > 1 {
            assert!(Instant::now() < deadline, "{} are left", viewers.bench.core.stats().remembered);
            tokio::time::sleep(secs(1)).await;
        }
        assert_eq!(viewers.ask(&check("stays", "")).await.origin, Origin::Memory);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_one_exchange_counts_from_when_it_came() {
    let (says, gate) = held(200, "X-AuthDuration: 60");
    with_viewers(&[], says, |viewers| async move {
        let check = check("s", "");
        let waiting = viewers.submit(&check);
        assert!(viewers.come(waiting).await.is_none());
        pass(secs(30)).await;
        gate.notify_one();
        assert_eq!(viewers.come(waiting).await.unwrap().ttl, secs(60));
        pass(secs(59)).await;
        assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        pass(secs(1)).await;
        viewers.now_says(deny(""));
        assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_ask_each_lifetime_is_asked_for() {
    for keys in [&[][..], &[("expired", "ask")], &[("expired", "ask"), ("refresh", "never")]] {
        with_viewers(keys, allow_for(60), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            for _ in 0..59 {
                pass(secs(10)).await;
                assert_eq!(viewers.ask(&check).await.verdict, Verdict::Allow);
            }
            assert_eq!(viewers.requests(), 10);
            viewers.now_says(deny(""));
            pass(secs(60)).await;
            assert_by(&viewers.ask(&check).await, Origin::Backend, Verdict::Deny);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_never_says_more_than_is_left() {
    with_viewers(&[], allow_for(10), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        pass(std::time::Duration::from_micros(2_500_300)).await;
        // 7,499.7 ms are left.
        assert_eq!(viewers.ask(&check).await.ttl.as_millis(), 7_499, "rounded down");
        assert_eq!(viewers.lookup(&check).unwrap().ttl.as_millis(), 7_499, "rounded down");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_max_that_is_raised_again_does_not_revive_what_a_lower_one_had_ended() {
    // Ended by then; and not.
    for (lower, after, ended) in [
        ("0", secs(0), true),
        ("1m", secs(60), true),
        ("1m", secs(600), true),
        ("1m", ms(59_999), false),
        ("1h", secs(600), false),
    ] {
        with_viewers(&[], allow_for(36_000), |viewers| async move {
            let check = check("s", "");
            viewers.ask(&check).await;
            viewers.reload(&[("ttl.max", lower)]);
            pass(after).await;
            viewers.reload(&[("ttl.max", "24h")]);
            assert_eq!(viewers.lookup(&check).is_none(), ended, "{lower} for {after:?}");
            pass(secs(7_200)).await;
            let origin = if ended { Origin::Backend } else { Origin::Memory };
            assert_by(&viewers.ask(&check).await, origin, Verdict::Allow);
            // What comes after is bound by what holds then.
            pass(secs(3_600)).await;
            assert_by(&viewers.ask(&check).await, Origin::Memory, Verdict::Allow);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lower_ttl_max_had_ended_is_last_known_from_then() {
    let keys = |ttl_max| [("last_known", "10m"), ("ttl.max", ttl_max)];
    with_viewers(&keys("24h"), allow_for(36_000), |viewers| async move {
        let check = check("s", "");
        viewers.ask(&check).await;
        viewers.now_says(Says::Outage);
        viewers.reload(&keys("1m"));
        pass(secs(300)).await;
        viewers.reload(&keys("24h"));
        pass(ms(359_999)).await;
        assert_by(&viewers.ask(&check).await, Origin::LastKnown, Verdict::Allow);
        pass(ms(1)).await;
        assert_by(&viewers.ask(&check).await, Origin::Default, Verdict::Deny);
    })
    .await;
}

/// What a host of Rust hands over together it may still be making.
#[tokio::test(start_paused = true)]
async fn what_is_submitted_together_goes_by_the_time_at_which_each_check_is() {
    let peer = Peer::answering(|_, _| Some(reply(200, "X-AuthDuration: 10")));
    with_shard(&[("timeout", "1s"), ("ttl.jitter", "off")], peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        bench.decided(1).await;
        let mut batch = Batch::new(&bench.core, 0);
        bench.submit_in(&mut batch, &check("s", ""), 2);
        tokio::time::sleep(secs(11)).await;
        bench.submit_in(&mut batch, &check("s", ""), 3);
        drop(batch);
        for (number, origin) in [(2, Origin::Memory), (3, Origin::Backend)] {
            let (decision, _) = bench.decided(number).await;
            assert_eq!((decision.origin, decision.verdict), (origin, Verdict::Allow), "{number}");
        }
        assert_eq!(bench.peer.requests(), 2);
    })
    .await;
}

/// With `backend.mode = any` the first refusal waits for the others, and its time does not.
#[tokio::test(start_paused = true)]
async fn a_refusal_s_time_counts_from_its_own_header_section_however_long_the_others_take() {
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            if endpoint == 1 {
                tokio::time::sleep(secs(3)).await;
            }
            stream.write_all(reply(403, "X-AuthDuration: 5").as_bytes()).await.unwrap();
        }
    });
    let keys = [
        ("backend.url", "http://127.0.0.1:1/a,http://127.0.0.1:2/b"),
        ("backend.mode", "any"),
        ("timeout", "10s"),
        ("ttl.jitter", "off"),
    ];
    with_shard(&keys, peer, |bench| async move {
        bench.submit(&check("s", ""), 1);
        let (refused, at) = bench.decided(1).await;
        assert_eq!((refused.verdict, refused.ttl, at), (Verdict::Deny, secs(2), secs(3)));
        tokio::time::sleep_until(bench.began + ms(4_990)).await;
        bench.submit(&check("s", ""), 2);
        assert_eq!((bench.decided(2).await.0.origin, bench.peer.requests()), (Origin::Memory, 2));
        tokio::time::sleep_until(bench.began + ms(5_010)).await;
        bench.submit(&check("s", ""), 3);
        assert_eq!((bench.decided(3).await.0.origin, bench.peer.requests()), (Origin::Backend, 4));
    })
    .await;
}
