//! A host fetches decisions on its own thread, when a descriptor says that some wait.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alta_auth::{Check, Queue, Stats, SubmitError};
use support::{
    Edges, Gate, Reply, Rerun, Scripted, engine, good, is_readable, sessions, until, wait_readable,
};

/// What one reap brought.
fn reaped(queue: &Queue, max: usize) -> Vec<usize> {
    let mut got = Vec::new();
    let count = queue.reap(max, |user_data, decision| {
        assert!(decision.allows());
        got.push(user_data);
    });
    assert_eq!(count, got.len());
    got
}

fn ended(stats: &Stats) -> (u64, u64, u64, u64) {
    (stats.submitted, stats.completed, stats.cancelled, stats.pending)
}

#[test]
fn the_descriptor_is_readable_when_something_waits_and_not_before() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let queue = engine.queue().unwrap();
    let edges = Edges::of(queue.fd());
    assert_eq!(queue.reap(10, |_, _| ()), 0, "nothing was asked");
    let ticket = queue.submit(&good(), 7).unwrap();
    backend.wait_requests(1);
    assert!(!is_readable(queue.fd()) && !edges.any());
    assert_eq!(queue.reap(10, |_, _| ()), 0, "nothing is decided");
    gate.open();
    edges.wait_one();
    assert!(is_readable(queue.fd()));
    assert!(!edges.any(), "one edge for one filling");
    assert_eq!(
        queue.reap(10, |user_data, decision| assert_eq!((user_data, decision.ticket), (7, ticket))),
        1
    );
    assert!(!is_readable(queue.fd()) && !edges.any());
    assert_eq!(queue.reap(10, |_, _| ()), 0);
    assert_eq!(ended(&engine.stats()), (1, 1, 0, 0));
}

/// `count` decisions that came in one turn and wait in the queue.
fn filled(queue: &Queue, backend: &Scripted, gate: &Gate, count: usize) {
    for user_data in 0..count {
        queue.submit(&good(), user_data).unwrap();
    }
    backend.wait_requests(1);
    gate.open();
    wait_readable(queue.fd());
}

#[test]
fn a_reap_in_pieces_leaves_the_descriptor_readable_until_nothing_waits() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let queue = engine.queue().unwrap();
    let edges = Edges::of(queue.fd());
    filled(&queue, &backend, &gate, 10);
    let mut order = Vec::new();
    for max in [3, 0, 4] {
        edges.wait_one();
        let got = reaped(&queue, max);
        assert_eq!(got.len(), max);
        order.extend(got);
        assert!(is_readable(queue.fd()), "{} are left", 10 - order.len());
    }
    edges.wait_one();
    order.extend(reaped(&queue, usize::MAX));
    assert!(order.into_iter().eq(0..10), "oldest first");
    assert!(!is_readable(queue.fd()) && !edges.any());
}

#[test]
fn a_panic_of_who_reaps_loses_what_it_was_given_and_nothing_else() {
    // All that waits, and a part of it.
    for max in [10, 4] {
        let gate = Gate::default();
        let backend = Scripted::always(Reply::allow().when(&gate));
        let engine = engine(&backend.url(), &[]);
        let queue = engine.queue().unwrap();
        filled(&queue, &backend, &gate, 5);
        let mut first = Vec::new();
        let reap = AssertUnwindSafe(|| {
            queue.reap(max, |user_data, _| {
                assert!(user_data < 2, "the host's defect");
                first.push(user_data);
            })
        });
        assert!(catch_unwind(reap).is_err());
        assert_eq!(first, [0, 1]);
        assert!(is_readable(queue.fd()), "there is something to fetch");
        assert_eq!(reaped(&queue, 10), [3, 4]);
        assert!(!is_readable(queue.fd()));
    }
}

#[test]
fn queues_get_only_their_own() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    let (one, other) = (engine.queue().unwrap(), engine.queue().unwrap());
    for user_data in 0..4 {
        [&one, &other][user_data % 2].submit(&good(), user_data).unwrap();
    }
    for (queue, own) in [(&one, [0, 2]), (&other, [1, 3])] {
        let mut got = Vec::new();
        while got.len() < 2 {
            wait_readable(queue.fd());
            got.extend(reaped(queue, 10));
        }
        assert_eq!(got, own);
    }
}

#[test]
fn a_cancelled_check_does_not_come_out_even_if_it_was_decided() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let queue = engine.queue().unwrap();
    let tickets: Vec<u64> = (0..3).map(|user_data| queue.submit(&good(), user_data).unwrap()).collect();
    backend.wait_requests(1);
    gate.open();
    wait_readable(queue.fd());
    assert!(engine.cancel(tickets[1]), "it waits, it was not delivered");
    assert!(!engine.cancel(tickets[1]), "twice");
    assert_eq!(reaped(&queue, 10), [0, 2]);
    assert!(!engine.cancel(tickets[0]), "it was delivered");
    assert_eq!(ended(&engine.stats()), (3, 2, 1, 0));
}

#[test]
fn dropping_a_queue_cancels_what_was_submitted_to_it_and_nothing_else() {
    let backend = Scripted::new(|request| match request.session().as_str() {
        "silent" => Reply::silence(),
        _ => Reply::allow(),
    });
    let engine = engine(&backend.url(), &[("timeout", "60s")]);
    let (queue, other) = (engine.queue().unwrap(), engine.queue().unwrap());
    let silent = Check { session_id: b"silent", ..good() };
    other.submit(&silent, 0).unwrap();
    for user_data in 0..3 {
        queue.submit(&silent, user_data).unwrap();
    }
    for user_data in 3..7 {
        queue.submit(&Check { session_id: user_data.to_string().as_bytes(), ..good() }, user_data).unwrap();
    }
    while reaped(&queue, 1).is_empty() {
        wait_readable(queue.fd());
    }
    assert_eq!(ended(&engine.stats()), (8, 1, 0, 7));
    drop(queue);
    assert_eq!(ended(&engine.stats()), (8, 1, 6, 1), "the other queue waits on");
    drop(other);
    assert_eq!(ended(&engine.stats()), (8, 1, 7, 0));
    assert!(engine.drain(Duration::ZERO));
}

#[test]
fn a_queue_may_outlive_its_engine_and_stays_empty() {
    let backend = Scripted::new(|request| match request.session().as_str() {
        "silent" => Reply::silence(),
        _ => Reply::allow(),
    });
    let engine = engine(&backend.url(), &[("timeout", "60s")]);
    let queue = engine.queue().unwrap();
    queue.submit(&Check { session_id: b"silent", ..good() }, 0).unwrap();
    queue.submit(&good(), 1).unwrap();
    wait_readable(queue.fd());
    drop(engine);
    assert_eq!(queue.reap(10, |_, _| ()), 0);
    assert_eq!(queue.submit(&good(), 2), Err(SubmitError::Closed));
}

#[test]
fn everything_waits_in_the_queue_when_drain_or_shutdown_has_returned() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("threads.io", "2")]);
    let queue = engine.queue().unwrap();
    for round in 0..500 {
        for id in sessions(4) {
            queue.submit(&Check { session_id: id.as_bytes(), ..good() }, 0).unwrap();
        }
        assert!(engine.drain(support::PATIENCE));
        assert_eq!(reaped(&queue, 10).len(), 4, "round {round}");
    }
    queue.submit(&good(), 0).unwrap();
    assert!(engine.shutdown(support::PATIENCE));
    assert_eq!(reaped(&queue, 10).len(), 1, "reap works after shutdown");
}

#[test]
fn any_number_of_threads_submit_to_a_queue_and_reap_from_it() {
    const SUBMITTERS: usize = 4;
    const EACH: usize = 1_000;
    const ALL: usize = SUBMITTERS * EACH;
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("threads.io", "2"), ("pool.max_connections", "8")]);
    let queue = engine.queue().unwrap();
    let times: Vec<AtomicUsize> = (0..ALL).map(|_| AtomicUsize::new(0)).collect();
    let left = AtomicUsize::new(ALL);
    std::thread::scope(|scope| {
        let (queue, times, left) = (&queue, &times, &left);
        for submitter in 0..SUBMITTERS {
            scope.spawn(move || {
                for index in 0..EACH {
                    let id = (index % 50).to_string();
                    let check = Check { session_id: id.as_bytes(), ..good() };
                    queue.submit(&check, submitter * EACH + index).unwrap();
                }
            });
        }
        for max in [1, 64] {
            scope.spawn(move || {
                until(|| {
                    while queue.reap(max, |user_data, decision| {
                        assert!(decision.allows());
                        times[user_data].fetch_add(1, Ordering::Relaxed);
                        left.fetch_sub(1, Ordering::Relaxed);
                    }) > 0
                    {}
                    left.load(Ordering::Relaxed) == 0
                });
            });
        }
    });
    assert!(times.iter().all(|times| times.load(Ordering::Relaxed) == 1), "each once");
    assert_eq!(ended(&engine.stats()), (ALL as u64, ALL as u64, 0, 0));
}

/// Only the descriptor says when to look.
#[test]
fn no_decision_is_left_behind_a_silent_descriptor() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[("threads.io", "2"), ("pool.max_connections", "8")]);
    for edge_triggered in [false, true] {
        let queue = engine.queue().unwrap();
        let edges = Edges::of(queue.fd());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for index in 0..3_000 {
                    let id = (index % 20).to_string();
                    queue.submit(&Check { session_id: id.as_bytes(), ..good() }, index).unwrap();
                }
            });
            let mut got = 0;
            while got < 3_000 {
                if edge_triggered {
                    edges.wait_one();
                } else {
                    wait_readable(queue.fd());
                }
                got += queue.reap(7, |_, _| ());
            }
        });
    }
}

#[test]
fn descriptors_are_closed_on_exec_and_when_the_queue_is_dropped() {
    if let Some(child) = Rerun::of("descriptors_are_closed_on_exec_and_when_the_queue_is_dropped") {
        return child.run();
    }
    let backend = Scripted::always(Reply::silence());
    let engine = engine(&backend.url(), &[("timeout", "60s")]);
    let before = descriptors();
    let queues: Vec<Queue> = (0..10).map(|_| engine.queue().unwrap()).collect();
    assert_eq!(descriptors(), before + 10);
    for queue in &queues {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", queue.fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert_eq!(flags & libc::O_CLOEXEC, libc::O_CLOEXEC, "{info}");
        assert_eq!(flags & libc::O_NONBLOCK, libc::O_NONBLOCK, "{info}");
    }
    drop(queues);
    assert_eq!(descriptors(), before);
    // With a check on its way the I/O thread has to let go of the queue too.
    let queue = engine.queue().unwrap();
    queue.submit(&good(), 0).unwrap();
    backend.wait_requests(1);
    let with_connection = descriptors() - 1;
    drop(queue);
    until(|| descriptors() == with_connection);
}

/// Without the one that counts them.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}
