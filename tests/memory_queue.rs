//! A remembered decision goes straight into the host's queue: it is there when submit returns, the descriptor says so,
//! and until it is reaped it is a check like any other.
//!
//! In every test the backend answers one request and hangs from then on: whatever asked it would wait.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use alta_auth::{Check, Origin, Stats, SubmitError};
use support::{Edges, PATIENCE, assert_remembered, good, is_readable, reaped, until, warmed};

fn ended(stats: &Stats) -> (u64, u64, u64, u64) {
    (stats.submitted, stats.completed, stats.cancelled, stats.pending)
}

#[test]
fn to_a_queue_it_goes_straight_and_is_there_when_submit_returns() {
    let (backend, engine) = warmed(&[]);
    let queue = engine.queue().unwrap();
    for user_data in 0..100 {
        let ticket = queue.submit(&good(), user_data).unwrap();
        assert!(is_readable(queue.fd()));
        let count = queue.reap(10, |reaped, decision| {
            assert_remembered(&decision);
            assert_eq!((reaped, decision.ticket), (user_data, ticket));
        });
        assert_eq!(count, 1);
        assert!(!is_readable(queue.fd()));
    }
    assert_eq!(ended(&engine.stats()), (101, 101, 0, 0));
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn many_at_once_make_the_queue_readable_and_all_are_reaped() {
    const ALL: usize = 10_000;
    for edge_triggered in [false, true] {
        let (_backend, engine) = warmed(&[]);
        let queue = engine.queue().unwrap();
        let edges = Edges::of(queue.fd());
        for user_data in 0..ALL {
            queue.submit(&good(), user_data).unwrap();
        }
        let mut got = Vec::new();
        while got.len() < ALL {
            assert!(is_readable(queue.fd()), "{} of {ALL}", got.len());
            if edge_triggered {
                assert!(edges.any(), "{} of {ALL}", got.len());
            }
            got.extend(reaped(&queue, 777));
        }
        assert!(got.into_iter().eq(0..ALL));
        assert!(!is_readable(queue.fd()) && reaped(&queue, 1).is_empty());
    }
}

#[test]
fn one_that_waits_for_the_backend_holds_up_none_that_is_remembered() {
    let (backend, engine) = warmed(&[]);
    let queue = engine.queue().unwrap();
    for user_data in 0..20 {
        let check = if user_data % 2 == 0 { good() } else { Check { session_id: b"silent", ..good() } };
        queue.submit(&check, user_data).unwrap();
    }
    let mut got = Vec::new();
    while got.len() < 10 {
        assert!(is_readable(queue.fd()));
        got.extend(reaped(&queue, 3));
    }
    assert!(got.into_iter().eq((0..20).step_by(2)));
    backend.wait_requests(2);
    assert!(!is_readable(queue.fd()));
    assert_eq!(ended(&engine.stats()), (21, 11, 0, 10));
}

#[test]
fn submitted_and_reaped_by_many_threads_each_comes_once() {
    const SUBMITTERS: usize = 4;
    const EACH: usize = 5_000;
    let (backend, engine) = warmed(&[]);
    let queue = engine.queue().unwrap();
    let times: Vec<AtomicUsize> = (0..SUBMITTERS * EACH).map(|_| AtomicUsize::new(0)).collect();
    let left = AtomicUsize::new(SUBMITTERS * EACH);
    std::thread::scope(|scope| {
        let (queue, times, left) = (&queue, &times, &left);
        for submitter in 0..SUBMITTERS {
            scope.spawn(move || {
                for index in 0..EACH {
                    queue.submit(&good(), submitter * EACH + index).unwrap();
                }
            });
        }
        for max in [1, 64] {
            scope.spawn(move || {
                until(|| {
                    for user_data in reaped(queue, max) {
                        times[user_data].fetch_add(1, Ordering::Relaxed);
                        left.fetch_sub(1, Ordering::Relaxed);
                    }
                    left.load(Ordering::Relaxed) == 0
                });
            });
        }
    });
    assert!(times.iter().all(|times| times.load(Ordering::Relaxed) == 1), "each once");
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn it_can_be_cancelled_until_it_is_reaped() {
    let (_backend, engine) = warmed(&[]);
    let queue = engine.queue().unwrap();
    let tickets: Vec<u64> = (0..3).map(|user_data| queue.submit(&good(), user_data).unwrap()).collect();
    assert!(engine.cancel(tickets[1]), "it waits, it was not delivered");
    assert!(!engine.cancel(tickets[1]), "twice");
    assert_eq!(reaped(&queue, 10), [0, 2]);
    assert!(!engine.cancel(tickets[0]), "it was delivered");
    assert_eq!(ended(&engine.stats()), (4, 3, 1, 0));
    assert_eq!(engine.stats().origins[Origin::Memory as usize], 2, "counted at delivery");
}

#[test]
fn what_is_left_in_a_queue_that_is_dropped_is_cancelled() {
    let (_backend, engine) = warmed(&[]);
    let (queue, other) = (engine.queue().unwrap(), engine.queue().unwrap());
    for user_data in 0..10 {
        queue.submit(&good(), user_data).unwrap();
    }
    other.submit(&good(), 0).unwrap();
    assert_eq!(reaped(&queue, 4), [0, 1, 2, 3]);
    drop(queue);
    assert_eq!(ended(&engine.stats()), (12, 5, 6, 1));
    assert_eq!(reaped(&other, 10), [0]);
}

#[test]
fn unreaped_ones_are_pending_and_fill_the_inbox() {
    let (_backend, engine) = warmed(&[("inbox.capacity", "8")]);
    let queue = engine.queue().unwrap();
    for user_data in 0..8 {
        queue.submit(&good(), user_data).unwrap();
    }
    assert_eq!(queue.submit(&good(), 8), Err(SubmitError::Full));
    assert_eq!(ended(&engine.stats()), (9, 1, 0, 8));
    assert!(engine.lookup(&good()).unwrap().is_some(), "which takes no room");
    assert_eq!(reaped(&queue, 1), [0]);
    queue.submit(&good(), 8).unwrap();
    assert_eq!(reaped(&queue, 10), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn after_shutdown_memory_answers_nobody() {
    let (_backend, engine) = warmed(&[]);
    let queue = engine.queue().unwrap();
    queue.submit(&good(), 0).unwrap();
    assert!(engine.shutdown(PATIENCE));
    assert_eq!(queue.submit(&good(), 1), Err(SubmitError::Closed));
    assert_eq!(engine.check_blocking(&good()).unwrap_err(), SubmitError::Closed);
    assert_eq!(engine.lookup(&good()).unwrap_err(), SubmitError::Closed);
    assert_eq!(reaped(&queue, 10), [0], "what was there can be fetched");
}
