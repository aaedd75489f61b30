use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::decision::{Cause, Decision, Origin, Verdict};
use crate::engine::ledger::{Ledger, Room, Ticket};

fn ledger(capacity: usize) -> Ledger {
    Ledger::new(capacity, 0, 0x1234_5678_9ABC_DEF0).expect("memory for a test")
}

fn refused() -> Decision {
    Decision::new(Verdict::Deny, Origin::Backend, Cause::None, "")
}

fn deliver(ledger: &Ledger, ticket: Ticket) -> bool {
    let delivered = ledger.decide(ticket) && ledger.claim(ticket, &refused());
    ledger.release(ticket);
    delivered
}

/// As a queue's host does.
fn fetch(ledger: &Ledger, ticket: Ticket) -> bool {
    ledger.shelve(ticket);
    let delivered = ledger.fetch().deliver(ticket, &refused());
    if !delivered {
        ledger.release(ticket);
    }
    delivered
}

#[test]
fn capacity_is_exact_and_comes_back() {
    let ledger = ledger(3);
    let tickets: Vec<_> = (0..3).map(|_| ledger.reserve(Room::Usual, 0, 0).unwrap()).collect();
    assert_eq!(ledger.reserve(Room::Usual, 0, 0), None);
    assert!(deliver(&ledger, tickets[1]));
    assert!(ledger.reserve(Room::Usual, 0, 0).is_some());
    assert_eq!(ledger.reserve(Room::Usual, 0, 0), None);
}

#[test]
fn tickets_are_never_zero_and_never_come_again() {
    let ledger = ledger(2);
    let mut seen = HashSet::from([0]);
    for _ in 0..1000 {
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        assert!(seen.insert(ticket.number()));
        assert!(deliver(&ledger, ticket));
    }
}

#[test]
fn a_cancelled_check_is_never_delivered_and_keeps_its_slot_until_it_is_let_go() {
    let ledger = ledger(1);
    let ticket = ledger.reserve(Room::Usual, 7, 0).unwrap();
    assert_eq!(ledger.cancel(ticket), Some(7));
    assert_eq!(ledger.cancel(ticket), None, "once");
    assert!(!ledger.decide(ticket));
    let other = ledger.reserve(Room::Usual, 0, 0).expect("a cancelled check is not pending");
    assert_ne!(other.slot(), ticket.slot());
    assert!(ledger.cancel(other).is_some());
    assert_eq!(
        ledger.reserve(Room::Usual, 0, 0),
        None,
        "cancelled checks that nobody lets go of are bounded"
    );
    ledger.release(ticket);
    assert!(ledger.reserve(Room::Usual, 0, 0).is_some());
    assert_eq!(ledger.counts().cancelled, 2);
}

#[test]
fn a_decided_check_can_be_cancelled_until_it_is_taken() {
    let ledger = ledger(2);
    let (early, late) =
        (ledger.reserve(Room::Usual, 0, 0).unwrap(), ledger.reserve(Room::Usual, 0, 0).unwrap());
    assert!(ledger.decide(early) && ledger.decide(late));
    assert!(ledger.cancel(early).is_some());
    assert!(!ledger.claim(early, &refused()));
    assert!(ledger.claim(late, &refused()));
    assert!(ledger.cancel(late).is_none());
}

#[test]
fn an_old_ticket_does_not_touch_the_slot_s_next_check() {
    let ledger = ledger(1);
    let old = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert!(deliver(&ledger, old));
    let new = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert_eq!(old.slot(), new.slot());
    assert!(ledger.cancel(old).is_none());
    assert!(!ledger.decide(old));
    assert!(deliver(&ledger, new));
}

#[test]
fn foreign_tickets_are_refused() {
    let ledger = ledger(2);
    ledger.reserve(Room::Usual, 0, 0).unwrap();
    for number in [0, 1, 2, 3, 0xFF_FFFF, u64::MAX, 1 << 63] {
        assert_eq!(ledger.cancel(Ticket::from_number(number)), None, "{number}");
    }
}

#[test]
fn what_nobody_takes_counts_as_cancelled() {
    let ledger = ledger(1);
    let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert!(ledger.decide(ticket));
    ledger.release(ticket);
    let counts = ledger.counts();
    assert_eq!((counts.submitted, counts.completed, counts.cancelled), (1, 0, 1));
}

#[test]
fn drain_waits_until_a_decision_can_be_fetched_not_until_it_is() {
    let ledger = ledger(2);
    let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert!(!ledger.drain(Duration::ZERO));
    assert!(ledger.decide(ticket));
    assert!(!ledger.drain(Duration::ZERO), "nobody could fetch it yet");
    ledger.shelve(ticket);
    assert!(ledger.drain(Duration::ZERO));
}

#[test]
fn drain_waits_until_what_is_handed_over_was_taken_and_let_go() {
    let ledger = ledger(2);
    let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert!(ledger.decide(ticket));
    assert!(!ledger.drain(Duration::ZERO));
    assert!(ledger.claim(ticket, &refused()));
    assert!(!ledger.drain(Duration::ZERO), "its callback is running");
    ledger.release(ticket);
    assert!(ledger.drain(Duration::ZERO));
}

#[test]
fn drain_returns_when_what_was_pending_has_ended_whatever_came_later() {
    let ledger = Arc::new(ledger(8));
    let old: Vec<_> = (0..4).map(|_| ledger.reserve(Room::Usual, 0, 0).unwrap()).collect();
    let drain = thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || ledger.drain(Duration::MAX)
    });
    while ledger.drainers.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    for (index, ticket) in old.into_iter().enumerate() {
        if index % 2 == 0 {
            assert!(ledger.cancel(ticket).is_some());
        } else {
            assert!(ledger.decide(ticket));
            ledger.shelve(ticket);
        }
    }
    assert!(drain.join().unwrap());
}

#[test]
fn a_withdrawn_reservation_leaves_no_trace_even_if_it_was_cancelled() {
    let ledger = ledger(1);
    ledger.unreserve(ledger.reserve(Room::Usual, 0, 0).unwrap());
    let guessed = ledger.reserve(Room::Usual, 0, 0).unwrap();
    assert!(ledger.cancel(guessed).is_some());
    ledger.unreserve(guessed);
    let counts = ledger.counts();
    assert_eq!((counts.submitted, counts.completed, counts.cancelled), (1, 0, 1));
    assert!(ledger.reserve(Room::Usual, 0, 0).is_some());
    assert_eq!(ledger.reserve(Room::Usual, 0, 0), None, "pending is counted right");
}

#[test]
fn a_drain_does_not_wait_for_a_withdrawn_reservation() {
    let ledger = Arc::new(ledger(1));
    let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
    let drain = thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || ledger.drain(Duration::MAX)
    });
    while ledger.drainers.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    ledger.unreserve(ticket);
    assert!(drain.join().unwrap());
}

#[test]
fn room_that_is_taken_together_is_exact_and_what_is_left_of_it_comes_back() {
    let ledger = ledger(5);
    let mut vacancies = ledger.vacancies(Room::Usual, 3);
    let first = vacancies.fill(7, 0).unwrap();
    let others: Vec<_> = (0..2).map(|_| ledger.reserve(Room::Usual, 0, 0).unwrap()).collect();
    assert_eq!(ledger.reserve(Room::Usual, 0, 0), None, "the rest is spoken for");
    let none = ledger.vacancies(Room::Usual, 1);
    assert!(none.is_empty());
    drop(none);
    drop(vacancies);
    let mut more = ledger.vacancies(Room::Usual, 9);
    let more: Vec<_> = std::iter::from_fn(|| more.fill(0, 0)).collect();
    assert_eq!(more.len(), 2, "as many as there are");
    let all: HashSet<_> = others.iter().chain(&more).chain([&first]).map(|ticket| ticket.slot()).collect();
    assert_eq!(all.len(), 5, "a slot each");
    assert_eq!(ledger.counts().submitted, 5, "what was only kept was not submitted");
    assert_eq!(ledger.cancel(first), Some(7));
}

#[test]
fn what_is_fetched_together_has_ended_at_once_and_gives_its_room_back_at_the_end() {
    let ledger = ledger(4);
    let tickets: Vec<_> = (0..4).map(|_| ledger.reserve(Room::Usual, 0, 0).unwrap()).collect();
    tickets[..3].iter().for_each(|&ticket| ledger.shelve(ticket));
    assert!(ledger.cancel(tickets[1]).is_some());
    let coalesced =
        Decision { coalesced: true, latency: Duration::from_millis(3), verdict: Verdict::Allow, ..refused() };
    let mut fetch = ledger.fetch();
    assert!(fetch.deliver(tickets[0], &refused()));
    assert!(!fetch.deliver(tickets[0], &refused()), "once");
    assert_eq!(ledger.cancel(tickets[0]), None, "it was delivered");
    assert!(!fetch.deliver(tickets[1], &refused()), "it was cancelled");
    assert!(fetch.deliver(tickets[2], &coalesced));
    drop(fetch);
    ledger.release(tickets[1]);
    let counts = ledger.counts();
    assert_eq!((counts.submitted, counts.completed, counts.cancelled), (4, 2, 1));
    assert_eq!((counts.denied, counts.allowed, counts.coalesced), (1, 1, 1));
    assert_eq!((counts.origins[0], counts.causes[0]), (2, 2));
    assert_eq!(counts.latencies.microseconds, 3_000);
    assert_eq!(counts.latencies.classes.iter().sum::<u64>(), 2);
    let again: Vec<_> = std::iter::from_fn(|| ledger.reserve(Room::Usual, 0, 0)).collect();
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|ticket| !tickets.contains(ticket)), "of the next generation");
}

#[test]
fn drain_waits_for_no_check_that_was_fetched_while_others_are() {
    let ledger = Arc::new(ledger(2));
    let tickets: Vec<_> = (0..2).map(|_| ledger.reserve(Room::Usual, 0, 0).unwrap()).collect();
    assert!(ledger.decide(tickets[0]));
    let drain = thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || ledger.drain(Duration::MAX)
    });
    while ledger.drainers.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let mut fetch = ledger.fetch();
    assert!(fetch.deliver(tickets[0], &refused()) && fetch.deliver(tickets[1], &refused()));
    drop(fetch);
    // Whoever waits for nothing any more is here soon; the test is not to hang where it does.
    for _ in 0..10_000 {
        if drain.is_finished() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(drain.is_finished() && drain.join().unwrap());
}

#[test]
fn an_io_thread_that_ends_waits_for_no_check_that_is_decided() {
    let ledger = ledger(2);
    let [due, ready] = [0, 1].map(|_| ledger.reserve(Room::Usual, 3, 0).unwrap());
    assert!(ledger.expects(3) && !ledger.expects(0));
    assert!(ledger.decide(due));
    assert!(ledger.expects(3));
    ledger.shelve(ready);
    assert!(!ledger.expects(3));
}

/// Four threads submit, a decider and two cancellers race for every check: each ends once, and the
/// counters agree at every reading.
#[test]
fn every_check_ends_once_under_a_race() {
    const CHECKS: u64 = 40_000;
    let ledger = Arc::new(ledger(64));
    let done = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (ledger, done) = (Arc::clone(&ledger), Arc::clone(&done));
        move || {
            while !done.load(Ordering::Relaxed) {
                let counts = ledger.counts();
                assert!(counts.completed + counts.cancelled <= counts.submitted);
            }
        }
    });
    let submitters: Vec<_> = (0..4)
        .map(|_| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let (mut delivered, mut cancelled) = (0u64, 0u64);
                for _ in 0..CHECKS / 4 {
                    let ticket = loop {
                        match ledger.reserve(Room::Usual, 0, 0) {
                            Some(ticket) => break ticket,
                            None => thread::yield_now(),
                        }
                    };
                    // Together, or one of the two would always be first.
                    let ready = AtomicUsize::new(0);
                    let meet = || {
                        ready.fetch_add(1, Ordering::SeqCst);
                        while ready.load(Ordering::SeqCst) < 2 {
                            thread::yield_now();
                        }
                    };
                    let canceller = thread::scope(|scope| {
                        let turn = ticket.number() >> 24;
                        if turn % 64 == 0 {
                            let other = scope.spawn(|| {
                                meet();
                                ledger.cancel(ticket).is_some()
                            });
                            meet();
                            let end = if turn % 128 == 0 { deliver } else { fetch };
                            delivered += u64::from(end(&ledger, ticket));
                            other.join().unwrap()
                        } else {
                            let cancelled = turn % 3 == 0 && ledger.cancel(ticket).is_some();
                            delivered += u64::from(fetch(&ledger, ticket));
                            cancelled
                        }
                    });
                    cancelled += u64::from(canceller);
                }
                (delivered, cancelled)
            })
        })
        .collect();
    let (mut delivered, mut cancelled) = (0, 0);
    for submitter in submitters {
        let (one, other) = submitter.join().unwrap();
        delivered += one;
        cancelled += other;
    }
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert_eq!(delivered + cancelled, CHECKS);
    let counts = ledger.counts();
    assert_eq!((counts.completed, counts.cancelled), (delivered, cancelled));
    assert!(delivered > 0 && cancelled > 0);
}

#[test]
fn the_spare_room_is_as_exact_and_takes_none_of_the_other() {
    let ledger = Ledger::new(2, 3, 1 << 50).unwrap();
    let take = |room| ledger.reserve(room, 0, 0);
    let usual: Vec<_> = (0..2).map(|_| take(Room::Usual).unwrap()).collect();
    let spare: Vec<_> = (0..3).map(|_| take(Room::Spare).unwrap()).collect();
    assert_eq!((take(Room::Usual), take(Room::Spare)), (None, None));
    assert!(deliver(&ledger, spare[0]));
    assert_eq!(take(Room::Usual), None);
    assert!(take(Room::Spare).is_some());
    assert!(ledger.cancel(usual[0]).is_some());
    assert_eq!(take(Room::Spare), None);
    assert!(take(Room::Usual).is_some());
}
