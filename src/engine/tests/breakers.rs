//! A backend that gives no answers is left alone; several are asked in order, by load, or at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::said::listened_to;
use super::support::{ALLOW, Bench, DENY, Peer, check, with_shard, with_shard_in};
use crate::check::Check;
use crate::decision::{Cause, Decision, Origin, Verdict};

const SECOND: Duration = Duration::from_secs(1);
/// No answer, and no reason to ask again on another connection.
const GARBAGE: &str = "what?\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 X\r\nRetry-After: 40\r\nContent-Length: 0\r\n\r\n";
const ALLOW_DEFAULT: (&str, &str) = ("default_action", "allow");

/// Says what the cell says.
fn minded(says: &Rc<Cell<&'static str>>) -> Rc<Peer> {
    let says = Rc::clone(says);
    Peer::answering(move |_, _| Some(says.get().to_owned()))
}

/// One check of the client with this number.
async fn ask(bench: &Bench, client: usize) -> Decision {
    ask_from(bench, &format!("192.0.2.{client}"), "").await
}

/// One check of a client there; nothing of it is shared with another's.
async fn ask_from(bench: &Bench, ip: &str, query: &str) -> Decision {
    thread_local!(static NEXT: Cell<usize> = const { Cell::new(0) });
    let user_data = NEXT.replace(NEXT.get() + 1);
    let session = format!("s{user_data}");
    bench.submit(&Check { ip: ip.as_bytes(), ..check(&session, query) }, user_data);
    let (decision, _) = bench.decided(user_data).await;
    bench.forget(user_data);
    decision
}

async fn open(bench: &Bench) {
    for client in 0..5 {
        assert_ne!(ask(bench, client).await.cause, Cause::BreakerOpen);
    }
    assert_eq!(ask(bench, 0).await.cause, Cause::BreakerOpen);
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_answers_is_left_alone_until_one_check_finds_it_back() {
    let says = Rc::new(Cell::new(GARBAGE));
    with_shard(&[ALLOW_DEFAULT], minded(&says), |bench| async move {
        open(&bench).await;
        for client in 0..100 {
            let decision = ask(&bench, client).await;
            assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Default));
            assert_eq!((decision.cause, decision.http_status), (Cause::BreakerOpen, None));
            assert!(decision.detail().contains("breaker is open"), "{}", decision.detail());
        }
        assert_eq!(bench.peer.requests(), 5);
        sleep(SECOND * 2).await;
        assert_eq!(ask(&bench, 6).await.cause, Cause::Protocol, "the probe");
        assert_eq!((ask(&bench, 2).await.cause, bench.peer.requests()), (Cause::BreakerOpen, 6));
        says.set(ALLOW);
        sleep(SECOND * 3).await;
        for client in [7, 1] {
            assert_eq!(ask(&bench, client).await.origin, Origin::Backend);
        }
        assert_eq!(bench.peer.requests(), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_never_open_it_and_unavailable_statuses_do() {
    let says = Rc::new(Cell::new("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"));
    with_shard(&[], minded(&says), |bench| async move {
        for client in 0..50 {
            assert_eq!(ask(&bench, client).await.origin, Origin::Backend);
        }
    })
    .await;
    says.set(UNAVAILABLE);
    with_shard(&[("unavailable_statuses", "503")], minded(&says), |bench| async move {
        open(&bench).await;
        sleep(SECOND * 39).await;
        assert_eq!(ask(&bench, 6).await.cause, Cause::BreakerOpen, "Retry-After: 40");
        sleep(SECOND * 2).await;
        assert_eq!(ask(&bench, 6).await.cause, Cause::Status);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_client_with_ten_thousand_poisonous_tokens_closes_it_to_nobody() {
    let peer =
        Peer::answering(|_, target| Some(if target.contains("poison") { GARBAGE } else { ALLOW }.to_owned()));
    with_shard(&[ALLOW_DEFAULT, ("fail_open", "corroborated")], peer, |bench| async move {
        for number in 0..10_000 {
            let (session, query) = (format!("p{number}"), format!("poison={number}"));
            bench.submit(&check(&session, &query), number);
            let (decision, _) = bench.decided(number).await;
            assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, Cause::Protocol));
            bench.forget(number);
            if number % 100 == 0 {
                assert_eq!(ask(&bench, 7).await.origin, Origin::Backend);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn corroborated_an_outage_is_allowed_once_another_client_has_met_it_too() {
    for (fail_open, first) in [("each", Verdict::Allow), ("corroborated", Verdict::Deny)] {
        let says = Rc::new(Cell::new(GARBAGE));
        with_shard(&[ALLOW_DEFAULT, ("fail_open", fail_open)], minded(&says), |bench| async move {
            assert_eq!(ask(&bench, 1).await.verdict, first);
            assert_eq!(ask(&bench, 1).await.verdict, first, "the same client again");
            assert_eq!(ask(&bench, 2).await.verdict, Verdict::Allow);
            assert_eq!(ask(&bench, 1).await.verdict, Verdict::Allow);
            says.set(ALLOW);
            assert_eq!(ask(&bench, 1).await.origin, Origin::Backend);
            says.set(GARBAGE);
            assert_eq!(ask(&bench, 3).await.verdict, first, "answered since");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_connection_when_it_opens_is_told_so_and_not_of_overload() {
    let keys = [ALLOW_DEFAULT, ("pool.max_connections", "16"), ("timeout", "2s")];
    with_shard(&keys, Peer::answering(|_, _| None), |bench| async move {
        let ids: Vec<String> = (0..5_000).map(|number| number.to_string()).collect();
        for (user_data, id) in ids.iter().enumerate() {
            bench.submit(&Check { ip: id.as_bytes(), ..check(id, "") }, user_data);
        }
        let mut causes = [0; 16];
        for user_data in 0..ids.len() {
            let (decision, after) = bench.decided(user_data).await;
            assert_eq!(
                (decision.verdict, decision.origin),
                (Verdict::Allow, Origin::Default),
                "{decision:?}"
            );
            assert!(after <= Duration::from_millis(2050), "{after:?}");
            causes[decision.cause as usize] += 1;
        }
        assert_eq!((causes[Cause::Timeout as usize], causes[Cause::BreakerOpen as usize]), (16, 4_984));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_subscriber_opens_no_breaker_and_corroborates_nothing_by_other_spellings_of_its_address() {
    const SPELLINGS: [&str; 5] =
        ["192.0.2.7", "::ffff:192.0.2.7", "64:ff9b::192.0.2.7", "192.0.2.7:1", "[::ffff:192.0.2.7]:2"];
    type Addresses = fn(usize) -> String;
    let clients: [(Addresses, bool); 7] = [
        (|n| format!("2001:db8:1:2::{n}"), false),
        (|n| format!("2001:db8:1:{n}::2"), true),
        (|n| format!("192.0.2.7:{n}"), false),
        (|n| format!("192.0.2.{n}:7"), true),
        (|n| SPELLINGS[n].to_owned(), false),
        (|n| format!("::ffff:192.0.2.{n}"), true),
        // Without addresses the sessions count.
        (|_| String::new(), true),
    ];
    for (ip, several) in clients {
        let keys = [ALLOW_DEFAULT, ("fail_open", "corroborated")];
        with_shard(&keys, minded(&Rc::new(Cell::new(GARBAGE))), |bench| async move {
            for number in 0..5 {
                let decision = ask_from(&bench, &ip(number), "").await;
                assert_eq!(decision.allows(), several && number > 0, "{}", ip(number));
            }
            assert_eq!(bench.core.policy().health[0].is_open(), several, "{}", ip(0));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_poisonous_client_keeps_an_open_breaker_open_to_nobody() {
    for beside in [true, false] {
        let says = Rc::new(Cell::new(GARBAGE));
        let told = Rc::clone(&says);
        let peer = Peer::answering(move |_, target| {
            Some(if target.contains("poison") { GARBAGE } else { told.get() }.to_owned())
        });
        with_shard(&[], peer, |bench| async move {
            let poison = async || ask_from(&bench, "192.0.2.0", "poison=1").await.cause;
            open(&bench).await;
            says.set(ALLOW);
            let mut found = false;
            // In 1.9 s its cooldown has passed once.
            for _ in 0..19 {
                sleep(SECOND / 10).await;
                if !found {
                    assert_eq!((poison().await, bench.peer.requests()), (Cause::BreakerOpen, 5));
                    found = beside && ask(&bench, 6).await.origin == Origin::Backend;
                }
            }
            assert_eq!(found, beside);
            sleep(SECOND / 2).await;
            assert_eq!((poison().await, bench.peer.requests() > 5), (Cause::Protocol, true));
        })
        .await;
    }
}

const TWO: (&str, &str) = ("backend.url", "http://127.0.0.1:1/a,http://127.0.0.1:2/b");

/// Endpoint by endpoint: an answer, garbage, or nothing at all.
fn said_by(what: [Option<&'static str>; 2]) -> Rc<Peer> {
    Peer::answering(move |endpoint, _| what[endpoint].map(str::to_owned))
}

#[tokio::test(start_paused = true)]
async fn failover_passes_over_an_endpoint_whose_breaker_is_open() {
    with_shard(&[TWO], said_by([Some(GARBAGE), Some(ALLOW)]), |bench| async move {
        for client in 0..20 {
            assert_eq!(ask(&bench, client).await.origin, Origin::Backend);
        }
        assert_eq!((bench.peer.requests_to(0), bench.peer.requests_to(1)), (5, 20));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn balance_asks_both_and_the_idle_one_more() {
    with_shard(
        &[TWO, ("backend.mode", "balance")],
        said_by([Some(ALLOW), Some(ALLOW)]),
        |bench| async move {
            for client in 0..200 {
                assert_eq!(ask(&bench, client).await.origin, Origin::Backend);
            }
            let shares = (bench.peer.requests_to(0), bench.peer.requests_to(1));
            assert!(shares.0 > 50 && shares.1 > 50 && shares.0 + shares.1 == 200, "{shares:?}");
        },
    )
    .await;
    // One hangs: it keeps what it has, and gets less and less.
    let keys = [TWO, ("backend.mode", "balance"), ("timeout", "10s")];
    with_shard(&keys, said_by([None, Some(ALLOW)]), |bench| async move {
        for number in 0..400 {
            bench.submit(&check(&format!("h{number}"), ""), number);
            bench.settle().await;
        }
        let shares = (bench.peer.requests_to(0), bench.peer.requests_to(1));
        assert!(shares.0 < 20 && shares.1 > 380, "{shares:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn any_allows_if_one_does_and_denies_if_none_does() {
    const HUNG: Option<&str> = None;
    let (allow, deny, garbage) = (Some(ALLOW), Some(DENY), Some(GARBAGE));
    let backend = Origin::Backend;
    for (said, verdict, origin, kept) in [
        ([allow, allow], Verdict::Allow, backend, true),
        ([allow, deny], Verdict::Allow, backend, true),
        ([deny, allow], Verdict::Allow, backend, true),
        ([garbage, allow], Verdict::Allow, backend, true),
        ([allow, HUNG], Verdict::Allow, backend, true),
        ([HUNG, allow], Verdict::Allow, backend, true),
        ([deny, deny], Verdict::Deny, backend, true),
        ([deny, garbage], Verdict::Deny, backend, false),
        ([garbage, deny], Verdict::Deny, backend, false),
        ([deny, HUNG], Verdict::Deny, backend, false),
        ([HUNG, deny], Verdict::Deny, backend, false),
        ([garbage, garbage], Verdict::Allow, Origin::Default, false),
        ([garbage, HUNG], Verdict::Allow, Origin::Default, false),
        ([HUNG, HUNG], Verdict::Allow, Origin::Default, false),
    ] {
        let keys = [TWO, ALLOW_DEFAULT, ("backend.mode", "any"), ("ttl.allow", "1m"), ("ttl.deny", "1m")];
        with_shard(&keys, said_by(said), |bench| async move {
            let decision = ask(&bench, 1).await;
            assert_eq!(
                (decision.verdict, decision.origin),
                (verdict, origin),
                "{said:?}: {}",
                decision.detail()
            );
            assert_eq!(bench.core.stats().remembered, u64::from(kept), "{said:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_several_that_are_asked_at_once_is_asked_again_on_a_connection_that_lives() {
    // The last allows, and closes its connections after one reply, without a word.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            let reply = if endpoint == 2 { ALLOW } else { DENY };
            let _ = stream.write_all(reply.as_bytes()).await;
            if endpoint == 2 && peer.request(endpoint, &mut stream).await.is_some() {
                sleep(SECOND / 100).await;
                return;
            }
        }
    });
    let urls = "http://127.0.0.1:1/a,http://127.0.0.1:2/b,http://127.0.0.1:3/c";
    with_shard(&[("backend.url", urls), ("backend.mode", "any")], peer, |bench| async move {
        assert!(ask(&bench, 1).await.allows());
        assert!(ask(&bench, 2).await.allows(), "the one that knows it was not asked again");
        assert_eq!((0..3).map(|of| bench.peer.requests_to(of)).collect::<Vec<_>>(), [2, 2, 3]);
    })
    .await;
    // Twice each, whatever fails: each answers once, and then closes every connection without a word.
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() && peer.requests_to(endpoint) == 1 {
            let _ = stream.write_all(DENY.as_bytes()).await;
        }
    });
    with_shard(&[("backend.url", urls), ("backend.mode", "any")], peer, |bench| async move {
        assert_eq!(ask(&bench, 1).await.origin, Origin::Backend);
        assert_eq!(ask(&bench, 2).await.origin, Origin::Default);
        assert_eq!((0..3).map(|of| bench.peer.requests_to(of)).collect::<Vec<_>>(), [3, 3, 3]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn any_deny_first_takes_the_first_word() {
    let late_allow = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            if endpoint == 1 {
                sleep(SECOND).await;
            }
            let reply = if endpoint == 1 { ALLOW } else { DENY };
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    for (deny, verdict) in [("all", Verdict::Allow), ("first", Verdict::Deny)] {
        with_shard(
            &[TWO, ("backend.mode", "any"), ("any.deny", deny)],
            Rc::clone(&late_allow),
            |bench| async move {
                assert_eq!(ask(&bench, 1).await.verdict, verdict, "{deny}");
            },
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_one_of_several_is_probed_once_a_cooldown() {
    // One says what the cell says, the other allows, a little later.
    let says = Rc::new(Cell::new(Some(GARBAGE)));
    let told = Rc::clone(&says);
    let peer = Peer::new(move |peer, endpoint, mut stream| {
        let told = Rc::clone(&told);
        async move {
            while peer.request(endpoint, &mut stream).await.is_some() {
                let reply = if endpoint == 0 { told.get() } else { Some(ALLOW) };
                if endpoint == 1 {
                    sleep(SECOND / 100).await;
                }
                let Some(reply) = reply else { return std::future::pending().await };
                // Whoever was slower than the other is hung up on.
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        }
    });
    with_shard(&[TWO, ("backend.mode", "any")], peer, |bench| async move {
        let ask_five = async || {
            for client in 0..5 {
                let decision = ask(&bench, client).await;
                assert_eq!((decision.verdict, decision.origin), (Verdict::Allow, Origin::Backend));
            }
            bench.peer.requests_to(0)
        };
        assert_eq!((ask_five().await, ask_five().await), (5, 5), "its breaker is open");
        says.set(None);
        for probes in 1..=3 {
            sleep(SECOND * 3).await;
            assert_eq!((ask_five().await, ask_five().await), (5 + probes, 5 + probes));
        }
        says.set(Some(ALLOW));
        sleep(SECOND * 3).await;
        assert_eq!((ask_five().await, ask_five().await), (13, 18), "its answer closes it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_of_several_that_cannot_be_reached_is_probed_once_a_cooldown() {
    let peer = Peer::new(|peer, endpoint, mut stream| async move {
        while peer.request(endpoint, &mut stream).await.is_some() {
            if endpoint == 1 {
                sleep(SECOND / 100).await;
            }
            let reply = if endpoint == 0 { GARBAGE } else { ALLOW };
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    with_shard(&[TWO, ("backend.mode", "any")], peer, |bench| async move {
        let ask_five = async || {
            for client in 0..5 {
                assert!(ask(&bench, client).await.allows());
            }
        };
        ask_five().await;
        ask_five().await;
        assert_eq!(bench.peer.requests_to(0), 5, "its breaker is open");
        bench.peer.silent.set(Some(0));
        for probes in 1..=3 {
            sleep(SECOND * 3).await;
            ask_five().await;
            ask_five().await;
            assert_eq!(bench.peer.silent.get(), Some(probes));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_time_is_up_before_all_have_spoken_gets_the_refusal_there_is() {
    let keys = [TWO, ALLOW_DEFAULT, ("backend.mode", "any"), ("timeout", "5s")];
    with_shard(&keys, said_by([Some(DENY), None]), |bench| async move {
        bench.submit(&Check { timeout: Some(SECOND), ..check("s", "") }, 1);
        bench.submit(&check("t", ""), 2);
        let (decision, after) = bench.decided(1).await;
        assert_eq!((decision.verdict, decision.origin), (Verdict::Deny, Origin::Backend));
        assert!(after < SECOND * 2);
        assert_eq!(bench.decided(2).await.0.verdict, Verdict::Deny);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_log_says_is_one_line_a_change() {
    let (lines, surroundings) = listened_to();
    let says = Rc::new(Cell::new(GARBAGE));
    let told = Rc::new(RefCell::new(0));
    with_shard_in(surroundings, &[], minded(&says), |bench| {
        let (lines, told) = (Arc::clone(&lines), Rc::clone(&told));
        async move {
            open(&bench).await;
            // A millisecond each, so that the cooldown is not over yet.
            for client in 0..500 {
                ask(&bench, client % 200).await;
            }
            assert_eq!(bench.peer.requests(), 5);
            says.set(ALLOW);
            sleep(SECOND * 2).await;
            ask(&bench, 200).await;
            let lines = lines.said();
            let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
            assert_eq!((about("the breaker is open"), about("the breaker is closed")), (1, 1), "{lines:#?}");
            assert!(lines.len() <= 4, "{lines:#?}");
            *told.borrow_mut() = lines.len();
        }
    })
    .await;
    assert!(*told.borrow() > 0);
}

/// What happened so often within ten seconds: at once, and what was not said then when the engine ends.
fn assert_said_once(lines: &[String], of: &str, times: usize) {
    let said: Vec<_> = lines.iter().filter(|line| line.contains(of)).collect();
    let more = format!("; {} more like it since the last such line", times - 1);
    assert!(matches!(said[..], [first, rest] if *rest == format!("{first}{more}")), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_to_which_no_connection_comes_about_in_time_is_an_outage_that_counts_and_is_logged() {
    // The twin has less time than the operator gives.
    for (own, counts) in [(None, true), (Some(Duration::from_millis(300)), false)] {
        let (lines, surroundings) = listened_to();
        let peer = Peer::answering(|_, _| None);
        peer.silent.set(Some(0));
        with_shard_in(surroundings, &[("timeout", "400ms")], peer, |bench| async move {
            for client in 0..5 {
                let (session, ip) = (format!("s{client}"), format!("192.0.2.{client}"));
                let check = Check { ip: ip.as_bytes(), timeout: own, ..check(&session, "") };
                bench.submit(&check, client);
                assert_eq!(bench.decided(client).await.0.cause, Cause::Timeout);
            }
            bench.settle().await;
            assert_eq!(bench.core.policy().health[0].is_open(), counts);
            assert_eq!(bench.peer.requests(), 0);
        })
        .await;
        assert_said_once(&lines.said(), "no answer from the backend (timeout)", 5);
    }
}

#[tokio::test(start_paused = true)]
async fn checks_that_a_full_pool_denies_are_logged_once_a_period() {
    let (lines, surroundings) = listened_to();
    let keys = [("pool.max_connections", "1"), ("timeout", "2s"), ("breaker.failures", "0")];
    with_shard_in(surroundings, &keys, Peer::answering(|_, _| None), |bench| async move {
        bench.submit(&check("asked", ""), 0);
        // Their time is up while that one has the connection.
        for number in 1..100 {
            let session = format!("s{number}");
            bench.submit(&Check { timeout: Some(SECOND), ..check(&session, "") }, number);
        }
        for number in 1..100 {
            assert_eq!(bench.decided(number).await.0.cause, Cause::Overload);
        }
    })
    .await;
    assert_said_once(&lines.said(), "(overload)", 99);
}
