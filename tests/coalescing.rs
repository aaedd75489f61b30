//! Equal checks at one time are one question to the backend; checks that differ in anything it would have
//! been told are not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use alta_auth::{Check, Verdict};
use support::{Collect, Gate, Reply, Scripted, bad, engine, good, sessions};

#[test]
fn ten_thousand_equal_checks_at_once_are_one_exchange() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    engine.submit_batch((0..10_000).map(|index| (good(), index)), &collect.receiver(), |outcome| {
        outcome.unwrap();
    });
    backend.wait_requests(1);
    gate.open();

    let decided = collect.wait(10_000);
    let mut answered: Vec<usize> = decided.iter().map(|(index, _)| *index).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..10_000), "each check once");
    assert!(decided.iter().all(|(_, decision)| decision.verdict == Verdict::Allow));
    assert_eq!(decided.iter().filter(|(_, decision)| !decision.coalesced).count(), 1);
    assert_eq!(backend.request_count(), 1);
    assert_eq!(engine.stats().coalesced, 9_999);
    assert_eq!(engine.stats().exchanges, 1);
}

/// Each I/O thread makes exchanges of its own; a question always comes to the same one.
#[test]
fn equal_checks_of_many_threads_are_one_exchange_of_many_io_threads() {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    const ALL: usize = THREADS * EACH;
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[("threads.io", "4"), ("inbox.capacity", "8192")]);
    let collect = Collect::new();
    let ask_all = |check: Check<'static>, first: usize| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (engine, receiver) = (&engine, collect.receiver());
                scope.spawn(move || {
                    for index in 0..EACH {
                        engine.submit(&check, &receiver, first + thread * EACH + index).unwrap();
                    }
                });
            }
        });
    };
    let base = good();
    let twins = [Check { ip: b"192.0.2.8", ..base }, Check { query: b"token=1234", ..base }];
    let questions = [base, twins[0], twins[1]];
    for (number, check) in questions.into_iter().enumerate() {
        ask_all(check, number * ALL);
    }
    backend.wait_requests(questions.len());
    gate.open();
    let decided = collect.wait(questions.len() * ALL);
    assert!(decided.iter().all(|(_, decision)| decision.allows()));
    for number in 0..questions.len() {
        let of_this = decided.iter().filter(|(index, _)| index / ALL == number);
        assert_eq!(of_this.filter(|(_, decision)| decision.coalesced).count(), ALL - 1, "{number}");
    }
    assert_eq!(backend.request_count(), questions.len());
    assert_eq!(engine.stats().coalesced as usize, questions.len() * (ALL - 1));
}

/// Two checks at one time, the first held at the backend until both are accepted. How many requests it saw.
fn exchanges(first: Check<'_>, second: Check<'_>, keys: &[(&str, &str)]) -> usize {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), keys);
    let collect = Collect::new();
    engine.submit_batch([(first, 0), (second, 1)], &collect.receiver(), |outcome| {
        outcome.unwrap();
    });
    backend.wait_requests(1);
    gate.open();
    collect.wait(2);
    backend.request_count()
}

#[test]
fn a_difference_in_any_one_field_is_another_question() {
    let base = good();
    let twins = [
        ("session_id", Check { session_id: b"s2", ..base }),
        ("ip", Check { ip: b"192.0.2.8", ..base }),
        ("path", Check { path: b"/ch/segment-1.ts", ..base }),
        ("query", Check { query: b"token=1234", ..base }),
        ("origin", Check { origin: b"https://live.example.org", ..base }),
        ("user_agent", Check { user_agent: b"VLC/3.1", ..base }),
        ("scope", Check { scope: b"ch", ..base }),
    ];
    assert_eq!(exchanges(base, base, &[]), 1, "equal checks");
    for (field, twin) in twins {
        assert_eq!(exchanges(base, twin, &[]), 2, "{field}");
    }
}

#[test]
fn fields_do_not_run_into_each_other() {
    let left = Check { session_id: b"ab", ip: b"c", ..good() };
    let right = Check { session_id: b"a", ip: b"bc", ..good() };
    assert_eq!(exchanges(left, right, &[]), 2);
    // A scope that is spelled like the other's path.
    let scoped = Check { scope: b"/ch/index.m3u8", ..good() };
    assert_eq!(exchanges(good(), scoped, &[]), 2);
}

#[test]
fn the_configured_scope_says_which_paths_are_one_question() {
    let playlist = good();
    let segment = Check { path: b"/ch/segment-1.ts", ..playlist };
    let elsewhere = Check { path: b"/paid/index.m3u8", ..playlist };
    for (scope, same_directory, other_directory) in [("path", 2, 2), ("directory", 1, 2), ("session", 1, 1)] {
        let keys = [("scope", scope)];
        assert_eq!(exchanges(playlist, segment, &keys), same_directory, "{scope}: /ch/ twice");
        assert_eq!(exchanges(playlist, elsewhere, &keys), other_directory, "{scope}: /ch/ and /paid/");
    }
}

#[test]
fn a_scope_named_by_the_host_is_shared_by_its_paths() {
    let playlist = Check { scope: b"ch", ..good() };
    let segment = Check { path: b"/ch/segment-1.ts", ..playlist };
    let other = Check { scope: b"other", ..segment };
    assert_eq!(exchanges(playlist, segment, &[]), 1);
    assert_eq!(exchanges(playlist, other, &[]), 2);
    // A parameter made of the path is something the backend is told: it counts again.
    assert_eq!(exchanges(playlist, segment, &[("param.name", "{path}")]), 2);
}

#[test]
fn the_first_may_leave_and_the_others_get_their_answer() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let mut tickets = Vec::new();
    engine.submit_batch((0..10).map(|index| (good(), index)), &collect.receiver(), |outcome| {
        tickets.push(outcome.unwrap());
    });
    backend.wait_requests(1);
    assert!(engine.cancel(tickets[0]));
    gate.open();
    let decided = collect.wait(9);
    assert!(decided.iter().all(|(index, decision)| *index != 0 && decision.allows()));
    assert_eq!(backend.request_count(), 1);
    let stats = engine.stats();
    assert_eq!((stats.submitted, stats.completed, stats.cancelled, stats.pending), (10, 9, 1, 0));
}

#[test]
fn all_may_leave_and_the_next_check_is_asked_anew() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Scripted::new(move |request| {
        if request.session() == "s1" && request.sequence == 0 && request.connection == 0 {
            Reply::allow().when(&held)
        } else {
            Reply::deny()
        }
    });
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let ticket = engine.submit(&bad(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    assert!(engine.cancel(ticket));
    gate.open();
    assert!(engine.drain(support::PATIENCE));
    let other = Check { session_id: b"s2", ..bad() };
    assert!(!support::ask(&engine, &other).allows());
    assert_eq!(collect.delivered(), 0, "a cancelled check is never delivered");
}

#[test]
fn one_bad_check_does_not_spoil_a_batch() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    let nobody = Check { session_id: b"", ..good() };
    let ids = sessions(3);
    let checks = [
        (Check { session_id: ids[0].as_bytes(), ..good() }, 0),
        (nobody, 1),
        (Check { session_id: ids[2].as_bytes(), ..good() }, 2),
    ];
    let mut outcomes = Vec::new();
    engine.submit_batch(checks, &collect.receiver(), |outcome| outcomes.push(outcome.is_ok()));
    assert_eq!(outcomes, [true, false, true]);
    let mut answered: Vec<usize> = collect.wait(2).into_iter().map(|(index, _)| index).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 2]);
}
