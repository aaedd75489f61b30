//! What an operator sees: every decision counted once by verdict, origin, cause and time; changes of state logged at once,
//! what repeats itself once a period.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{advance, sleep};

use super::said::{Lines, listened_to};
use super::support::{ALLOW, Bench, DENY, Peer, check, with_shard, with_shard_in};
use super::viewers::reply;
use crate::check::Check;
use crate::decision::{Cause, Origin};
use crate::engine::SubmitError;
use crate::engine::batch::Batch;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::observe::LogLevel;

/// No answer, and no reason to ask again on another connection.
const GARBAGE: &str = "what?\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// What must hold at every reading, and what holds when nothing is being delivered.
fn assert_exact(bench: &Bench) {
    let stats = bench.core.stats();
    assert_eq!(stats.submitted, stats.completed + stats.cancelled + stats.pending);
    assert_eq!(stats.allowed + stats.denied, stats.completed);
    assert_eq!(stats.origins.iter().sum::<u64>(), stats.completed);
    assert_eq!(stats.causes.iter().sum::<u64>(), stats.completed);
    assert_eq!(stats.latencies.classes.iter().sum::<u64>(), stats.completed);
}

#[tokio::test(start_paused = true)]
async fn every_origin_and_cause_is_counted_once_and_the_sums_agree_after_each_step() {
    let lives = "HTTP/1.1 200 OK\r\nX-AuthDuration: 1\r\nContent-Length: 0\r\n\r\n";
    let peer = Peer::answering(move |_, target| {
        let says = [
            ("allow", ALLOW),
            ("deny", DENY),
            ("lives", lives),
            ("protocol", GARBAGE),
            ("status", UNAVAILABLE),
        ];
        let reply = says.iter().find(|(word, _)| target.contains(word));
        reply.map(|(_, reply)| (*reply).to_owned())
    });
    let keys = [
        ("unavailable_statuses", "503"),
        ("breaker.failures", "0"),
        ("last_known", "1m"),
        ("ttl.jitter", "off"),
        ("timeout", "1s"),
    ];
    with_shard(&keys, peer, |bench| async move {
        // What is asked, the cause, the origin; in this order, so that each has what it needs.
        let steps = [
            ("allow", Cause::None, Origin::Backend),
            ("deny", Cause::None, Origin::Backend),
            ("lives", Cause::None, Origin::Backend),
            ("lives", Cause::None, Origin::Memory),
            ("protocol", Cause::Protocol, Origin::Default),
            ("status", Cause::Status, Origin::Default),
            ("silent", Cause::Timeout, Origin::Default),
        ];
        let (mut causes, mut origins) = ([0_u64; 16], [0_u64; 4]);
        for (number, (query, cause, origin)) in steps.into_iter().enumerate() {
            bench.submit(&check("s", query), number);
            assert_exact(&bench);
            let (decision, _) = bench.decided(number).await;
            assert_eq!((decision.cause, decision.origin), (cause, origin), "{query}");
            causes[cause as usize] += 1;
            origins[origin as usize] += 1;
            let stats = bench.core.stats();
            assert_eq!((stats.causes, stats.origins), (causes, origins), "{query}");
            assert_exact(&bench);
        }
        // The silent one waits, is cancelled, and is in no sum of decisions.
        let ticket = bench.submit(&check("s", "silent"), 100);
        bench.settle().await;
        assert_eq!(bench.core.stats().pending, 1);
        assert!(bench.cancel(ticket));
        bench.settle().await;
        assert_exact(&bench);
        let stats = bench.core.stats();
        assert_eq!((stats.submitted, stats.completed, stats.cancelled, stats.pending), (8, 7, 1, 0));
        let page = stats.prometheus();
        for line in [
            "checks_submitted_total 8",
            "checks_completed_total 7",
            "checks_cancelled_total 1",
            "checks_pending 0",
            "decisions_total{verdict=\"allow\"} 3",
            "decisions_total{verdict=\"deny\"} 4",
            "decisions_by_origin_total{origin=\"backend\"} 3",
            "decisions_by_origin_total{origin=\"memory\"} 1",
            "decisions_by_origin_total{origin=\"default\"} 3",
            "decisions_by_cause_total{cause=\"none\"} 4",
            "decisions_by_cause_total{cause=\"protocol\"} 1",
            "decisions_by_cause_total{cause=\"status\"} 1",
            "decisions_by_cause_total{cause=\"timeout\"} 1",
            "check_duration_seconds_count 7",
            // The silent one alone took its whole second.
            "check_duration_seconds_bucket{le=\"0.5\"} 6",
            "check_duration_seconds_bucket{le=\"2.5\"} 7",
        ] {
            assert!(page.contains(&format!("\nalta_auth_{line}\n")), "{line} is not in\n{page}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn checks_that_are_not_accepted_are_said_once_in_ten_seconds_with_how_many_they_were() {
    let (lines, surroundings) = listened_to();
    let hangs = Peer::answering(|_, _| None);
    with_shard_in(surroundings, &[("inbox.capacity", "2"), ("timeout", "1s")], hangs, async |bench| {
        let refused = |from: usize| {
            (from..from + 5)
                .filter(|of| bench.try_submit(&check(&of.to_string(), "token=canary"), *of).is_err())
                .count()
        };
        let said = || {
            lines.take().into_iter().filter(|(_, line)| line.contains("inbox.capacity")).collect::<Vec<_>>()
        };
        assert_eq!(refused(0), 3);
        bench.decided(0).await;
        assert!(
            matches!(&said()[..], [(LogLevel::Warn, line)] if line.starts_with("no room for 3 checks, as 2 were"))
        );
        for round in 1..4 {
            assert_eq!(refused(round * 5), 3);
            bench.decided(round * 5).await;
            assert_eq!(said(), []);
        }
        advance(SECOND * 10).await;
        assert_eq!(refused(100), 3);
        bench.decided(100).await;
        assert!(matches!(&said()[..], [(_, line)] if line.starts_with("no room for 12 checks, ")));
    })
    .await;
}

/// One check of the client with this number, with a token that no line may show.
async fn ask(bench: &Bench, client: usize) -> Cause {
    let (session, ip) = (format!("s{client}"), format!("192.0.2.{}", client % 256));
    bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, "token=canary") }, client);
    bench.decided(client).await.0.cause
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_breaker_is_logged_at_once_and_repeated_failures_once_a_period() {
    let says = Rc::new(Cell::new(GARBAGE));
    let word = Rc::clone(&says);
    let peer = Peer::answering(move |_, _| Some(word.get().to_owned()));
    let (lines, surroundings) = listened_to();
    with_shard_in(surroundings, &[], Rc::clone(&peer), |bench| async move {
        for client in 0..5 {
            ask(&bench, client).await;
        }
        let said = lines.take();
        let of = |words: &str| said.iter().filter(|(_, line)| line.contains(words)).count();
        assert_eq!(of("no answer from the backend (protocol): "), 1, "{said:?}");
        assert_eq!(
            of("http://127.0.0.1:1 gives no answers: the breaker is open, next try in 1."),
            1,
            "{said:?}"
        );
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(bench.core.stats().endpoints[0].breaker_open);
        for client in 5..100 {
            assert_eq!(ask(&bench, client).await, Cause::BreakerOpen);
        }
        assert_eq!(lines.take(), [], "what the open breaker stops is no news");
        says.set(ALLOW);
        sleep(SECOND * 2).await;
        assert_eq!(ask(&bench, 100).await, Cause::None);
        let said = lines.take();
        assert!(said.len() == 1 && said[0].1.contains("answers again after"), "{said:?}");
        assert!(!bench.core.stats().endpoints[0].breaker_open);
        assert_eq!(bench.core.stats().endpoints[0].breaker_opened, 1);
    })
    .await;

    // Without a breaker the failures go on, and their lines do not.
    let (lines, surroundings) = listened_to();
    let peer = Peer::answering(|_, _| Some(GARBAGE.to_owned()));
    with_shard_in(surroundings, &[("breaker.failures", "0")], peer, |bench| async move {
        for client in 0..50 {
            assert_eq!(ask(&bench, client).await, Cause::Protocol);
        }
        assert_eq!(lines.take().len(), 1);
        advance(SECOND * 10).await;
        ask(&bench, 50).await;
        let said = lines.take();
        assert!(
            said.len() == 1 && said[0].1.ends_with("; 49 more like it since the last such line"),
            "{said:?}"
        );
        assert!(said.iter().all(|(_, line)| !line.contains("canary")), "{said:?}");
    })
    .await;
}

fn said_of(lines: &Lines, of: &str) -> Vec<(LogLevel, String)> {
    lines.take().into_iter().filter(|(_, line)| line.contains(of)).collect()
}

/// Eight of a kind at once and nothing after them: the first is said at once, and this in its time of the others.
fn assert_first_said(lines: &Lines, of: &str) -> Vec<(LogLevel, String)> {
    let first = said_of(lines, of);
    assert!(first.len() == 1 && !first[0].1.contains("more like it"), "{first:?}");
    let (level, line) = &first[0];
    vec![(*level, format!("{line}; 7 more like it since the last such line"))]
}

/// What comes after a burst.
#[derive(Clone, Copy, Debug)]
enum Then {
    Waits,
    Ends,
    /// The limit is replaced.
    Reloads,
}

#[tokio::test(start_paused = true)]
async fn what_was_not_said_of_a_burst_is_said_ten_seconds_after_its_first_line_or_at_the_end() {
    let shadow = ("shadow.url", "http://127.0.0.1:9/shadow");
    let bursts = [
        (&[("breaker.failures", "0")][..], "no answer from the backend (protocol)"),
        (&[("breaker.failures", "0"), ("limit.per_ip", "1/h")], "limit.per_ip"),
        (&[shadow, ("breaker.failures", "0")], "no answer from the shadow (protocol)"),
        (&[shadow], "the shadow refuses what the backend allows"),
    ];
    let each = bursts.into_iter().flat_map(|burst| [Then::Waits, Then::Ends].map(|then| (burst, then)));
    for ((keys, of), then) in each.chain([(bursts[1], Then::Reloads)]) {
        let (lines, surroundings) = listened_to();
        let rest = RefCell::new(Vec::new());
        let peer = Peer::answering(move |_, target| {
            let shadows = target.starts_with("/shadow");
            let says = match (shadows, of.contains("backend (protocol)"), of.contains("shadow (protocol)")) {
                (false, true, _) | (true, _, true) => GARBAGE,
                (true, ..) => DENY,
                (false, ..) => ALLOW,
            };
            Some(says.to_owned())
        });
        with_shard_in(surroundings, keys, peer, async |bench| {
            let one_more = usize::from(of == "limit.per_ip");
            for number in 0..8 + one_more {
                bench.submit(&check(&format!("s{number}"), "token=canary"), number);
                bench.decided(number).await;
            }
            bench.settle().await;
            rest.replace(assert_first_said(&lines, of));
            match then {
                Then::Ends => return,
                Then::Reloads => bench.reload(&[keys, &[("limit.per_ip", "2/h")]].concat()),
                Then::Waits => {
                    sleep(SECOND * 9).await;
                    assert_eq!(said_of(&lines, of), [], "{of}");
                    sleep(SECOND * 2).await;
                }
            }
            bench.settle().await;
            assert_eq!(said_of(&lines, of), rest.take(), "{then:?}");
            sleep(SECOND * 60).await;
            assert_eq!(said_of(&lines, of), [], "{of}");
        })
        .await;
        assert_eq!(said_of(&lines, of), rest.take(), "{of}");
    }
}

#[tokio::test(start_paused = true)]
async fn checks_that_found_no_room_are_said_in_time_though_none_comes_after_them() {
    let (lines, surroundings) = listened_to();
    let hangs = Peer::answering(|_, _| None);
    with_shard_in(surroundings, &[("inbox.capacity", "1"), ("timeout", "1s")], hangs, async |bench| {
        let refused = |of: usize| bench.try_submit(&check(&of.to_string(), "token=canary"), of).is_err();
        let said =
            || lines.take().into_iter().map(|(_, line)| line).filter(|line| line.contains("inbox.capacity"));
        for round in 0..2 {
            assert!(!refused(round * 2) && refused(round * 2 + 1));
            bench.decided(round * 2).await;
        }
        let once: Vec<_> = said().collect();
        assert!(once.len() == 1 && once[0].starts_with("no room for 1 check, as 1 was pending"), "{once:?}");
        sleep(SECOND * 10).await;
        assert_eq!(said().collect::<Vec<_>>(), once);
    })
    .await;
}

/// Its host takes what it is told and does nothing.
struct Ignored;

impl Receiver for Ignored {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|_, _| ());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_find_no_room_are_counted_and_said_though_the_engine_has_nothing_to_do() {
    let (lines, surroundings) = listened_to();
    let keys = [("watch.max", "1"), ("watch.interval", "1h")];
    let peer = Peer::answering(|_, _| Some(ALLOW.to_owned()));
    with_shard_in(surroundings, &keys, peer, async |bench| {
        let receiver: Arc<dyn Receiver> = Arc::new(Ignored);
        let watch =
            |check: &Check<'_>| Batch::new(&bench.core, 0).watch(check, &receiver, Tag::default(), |_| ());
        let said = || lines.take().into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        assert!(watch(&check("s0", "")).is_ok());
        bench.settle().await;
        sleep(SECOND * 20).await;
        for number in 1..9 {
            assert_eq!(watch(&check(&format!("s{number}"), "")), Err(SubmitError::Full));
            bench.settle().await;
        }
        assert_eq!(said(), ["no room for 1 watch, as 1 was open (watch.max)"]);
        sleep(SECOND * 11).await;
        assert_eq!(said(), ["no room for 7 watches, as 1 was open (watch.max)"]);
        // The period of the second line has not ended.
        assert!(watch(&check("s9", "")).is_err());
        sleep(SECOND * 20).await;
        assert_eq!(said(), ["no room for 1 watch, as 1 was open (watch.max)"]);
        assert!(watch(&check("s10", "")).is_err());
        bench.settle().await;
        assert_eq!(said(), ["no room for 1 watch, as 1 was open (watch.max)"]);
        assert_eq!((bench.core.stats().refused, bench.core.stats().invalid), (10, 0));
        assert_eq!(bench.core.stats().submitted, 0, "a watch is no check");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_to_say_what_was_said_meanwhile_does_not_silence_the_next() {
    let (lines, surroundings) = listened_to();
    let keys = [("watch.max", "1"), ("watch.interval", "1h")];
    let peer = Peer::answering(|_, _| Some(ALLOW.to_owned()));
    with_shard_in(surroundings, &keys, peer, async |bench| {
        let receiver: Arc<dyn Receiver> = Arc::new(Ignored);
        let watch =
            |check: &Check<'_>| Batch::new(&bench.core, 0).watch(check, &receiver, Tag::default(), |_| ());
        let said = || lines.take().into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        assert!(watch(&check("s0", "")).is_ok());
        assert_eq!(watch(&check("s1", "")), Err(SubmitError::Full));
        bench.settle().await;
        assert_eq!(said(), ["no room for 1 watch, as 1 was open (watch.max)"]);
        // Of one that had been counted, and said, before its thread came to call.
        bench.core.call_for_a_line();
        bench.settle().await;
        sleep(SECOND * 20).await;
        assert_eq!(watch(&check("s2", "")), Err(SubmitError::Full));
        bench.settle().await;
        assert_eq!(said(), ["no room for 1 watch, as 1 was open (watch.max)"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn checks_that_cannot_be_asked_about_are_counted() {
    with_shard(&[], Peer::answering(|_, _| Some(ALLOW.to_owned())), |bench| async move {
        let receiver: Arc<dyn Receiver> = Arc::new(Ignored);
        let long = "x".repeat(20_000);
        for (number, check) in [check("", ""), check("s", "a\r\nb"), check("s", &long)].iter().enumerate() {
            assert!(matches!(bench.try_submit(check, number), Err(SubmitError::Invalid(_))));
            let watch = Batch::new(&bench.core, 0).watch(check, &receiver, Tag::default(), |_| ());
            assert!(matches!(watch, Err(SubmitError::Invalid(_))));
        }
        let stats = bench.core.stats();
        assert_eq!((stats.invalid, stats.refused, stats.submitted), (6, 0, 0));
        assert!(stats.prometheus().contains("\nalta_auth_checks_invalid_total 6\n"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_sessions_that_is_not_enforced_for_want_of_a_usable_user_id_is_warned_about() {
    for (enforce, headers, warned) in [
        ("newest", "X-UserId: canary of Petrov|X-Max-Sessions: 2", true),
        ("oldest", "X-UserId: \u{43f}\u{435}\u{442}\u{440}\u{43e}\u{432}|X-Unique: true", true),
        ("off", "X-UserId: canary of Petrov|X-Max-Sessions: 2", false),
        ("newest", "X-UserId: canary of Petrov", false),
        ("newest", "X-UserId: canary of Petrov|X-Max-Sessions: 4097", false),
        ("newest", "X-UserId: petrov|X-Location: no place|X-Max-Sessions: 9", false),
        ("newest", "X-Max-Sessions: 2", false),
    ] {
        let (lines, surroundings) = listened_to();
        let peer = Peer::answering(move |_, _| Some(reply(200, headers)));
        with_shard_in(surroundings, &[("sessions.enforce", enforce)], peer, async |bench| {
            for number in 0..3 {
                bench.submit(&check(&format!("s{number}"), "token=canary"), number);
                assert!(bench.decided(number).await.0.allows(), "{headers}");
            }
            let said = lines.take();
            let line = "sessions.enforce: an X-UserId that is longer than 256 bytes or not visible ASCII names nobody, \
                        and the limit of sessions beside it is not enforced";
            let expected = if warned { vec![(LogLevel::Warn, line.to_owned())] } else { Vec::new() };
            assert_eq!(said, expected, "{enforce}: {headers}");
            sleep(SECOND * 11).await;
            let more = (LogLevel::Warn, format!("{line}; 2 more like it since the last such line"));
            assert_eq!(lines.take(), if warned { vec![more] } else { Vec::new() });
        })
        .await;
    }
}
