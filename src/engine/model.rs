//! The protocols between threads, in every order of their steps that loom can make: nothing is handed over
//! twice, nobody sleeps through a wake-up (loom fails a model in which every thread waits).
//!
//! The files below are the engine's own, compiled a second time: what they import from `super::sync` is loom's
//! here. What is not ours is taken for right: channels and queues stand in as counters with the weakest order
//! that theirs allow, a descriptor and a runtime's notification as a flag under a lock, as the system keeps them.
//!
//! `SWITCHES` bounds how often a thread is interrupted where it could go on, which keeps the run to seconds;
//! `LOOM_MAX_PREEMPTIONS` overrides it, `LOOM_LOG=trace` and `LOOM_LOCATION=1` tell the steps of a failure.

#![allow(clippy::duplicate_mod, dead_code, reason = "the same files on other types, and not all of each")]

#[path = "ledger.rs"]
mod ledger;
#[path = "parked.rs"]
mod parked;
#[path = "revocations.rs"]
mod revocations;
#[path = "shelf.rs"]
mod shelf;
mod sync;
#[path = "unheard.rs"]
mod unheard;
#[path = "wakeup.rs"]
mod wakeup;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use self::ledger::{Ledger, Room, Ticket};
use self::parked::Parked;
use self::revocations::Revocations;
use self::shelf::{Shelf, Signal};
use self::sync::atomic::{AtomicUsize, Ordering};
use self::sync::{Condvar, Mutex};
use self::wakeup::{Elsewhere, Wakeup};
use crate::decision::{Cause, Decision, Origin, Verdict};

const SWITCHES: usize = 3;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(SWITCHES));
    model.check(run);
}

fn ledger(capacity: usize) -> Arc<Ledger> {
    Arc::new(Ledger::new(capacity, 0, 1 << 40).expect("memory for a test"))
}

fn allowed() -> Decision {
    Decision::new(Verdict::Allow, Origin::Backend, Cause::None, "")
}

/// What an I/O thread does with a check that is called back.
fn deliver(ledger: &Ledger, ticket: Ticket) -> bool {
    let delivered = ledger.decide(ticket) && ledger.claim(ticket, &allowed());
    ledger.release(ticket);
    delivered
}

/// A wake-up that is kept until somebody waits for it, and a level that stands until it is cleared.
struct Event {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    news: bool,
    level: bool,
}

impl Event {
    fn new() -> Self {
        Self { state: Mutex::new(State::default()), changed: Condvar::new() }
    }
    fn wait(&self, ready: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        while !ready(&state) {
            self.changed.wait(&mut state);
        }
        state.news = false;
    }
}

impl Signal for Arc<Event> {
    fn signal(&self) {
        *self.state.lock() = State { news: true, level: true };
        self.changed.notify_all();
    }
    fn clear(&self) {
        self.state.lock().level = false;
    }
}

#[test]
fn a_check_is_delivered_or_cancelled_once_and_never_both() {
    model(|| {
        let ledger = ledger(1);
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        let cancels = [0, 1].map(|_| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.cancel(ticket).is_some())
        });
        let delivered = deliver(&ledger, ticket);
        let cancelled = cancels.map(|cancel| usize::from(cancel.join().unwrap()));
        assert_eq!(usize::from(delivered) + cancelled[0] + cancelled[1], 1);
        let counts = ledger.counts();
        assert_eq!((counts.submitted, counts.completed), (1, u64::from(delivered)));
        assert_eq!(counts.cancelled, u64::from(!delivered));
        assert!(ledger.reserve(Room::Usual, 0, 0).is_some(), "pending no more");
    });
}

#[test]
fn a_check_on_its_shelf_is_handed_over_once_and_never_after_its_cancel() {
    model(|| {
        let ledger = ledger(1);
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        assert!(ledger.decide(ticket));
        let claim = |ledger: &Arc<Ledger>| {
            let ledger = Arc::clone(ledger);
            thread::spawn(move || ledger.claim(ticket, &allowed()))
        };
        let shelve = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.shelve(ticket))
        };
        let claims = claim(&ledger);
        let cancelled = ledger.cancel(ticket).is_some();
        shelve.join().unwrap();
        let claimed = claims.join().unwrap();
        assert!(!(claimed && cancelled), "both");
        ledger.release(ticket);
        let counts = ledger.counts();
        assert_eq!((counts.completed, counts.cancelled), (u64::from(claimed), u64::from(!claimed)));
    });
}

/// A queue's: shelved without being due before, and fetched by a host while another thread cancels and a third wants room.
#[test]
fn a_check_that_is_fetched_is_fetched_once_and_never_after_its_cancel() {
    model(|| {
        let ledger = ledger(1);
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        ledger.shelve(ticket);
        let host = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let fetched = ledger.fetch().deliver(ticket, &allowed());
                if !fetched {
                    ledger.release(ticket);
                }
                fetched
            })
        };
        let next = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.reserve(Room::Usual, 0, 0))
        };
        let cancelled = ledger.cancel(ticket).is_some();
        let fetched = host.join().unwrap();
        assert_ne!(fetched, cancelled, "one of the two");
        let next = next.join().unwrap().or_else(|| ledger.reserve(Room::Usual, 0, 0));
        let next = next.expect("its room is free");
        assert_ne!(next, ticket);
        assert!(!ledger.is_cancelled(next), "the cancel was the former's");
        let counts = ledger.counts();
        assert_eq!((counts.completed, counts.cancelled), (u64::from(fetched), u64::from(cancelled)));
    });
}

#[test]
fn a_reading_of_the_counters_never_has_more_ended_than_submitted() {
    model(|| {
        let ledger = ledger(1);
        let host = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
                deliver(&ledger, ticket);
                let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
                ledger.cancel(ticket);
                ledger.release(ticket);
            })
        };
        let counts = ledger.counts();
        assert!(counts.completed + counts.cancelled <= counts.submitted);
        assert!(counts.completed <= counts.allowed);
        host.join().unwrap();
    });
}

/// `end` on one thread, a drain without a limit on the other.
fn drain_returns_after(end: fn(&Ledger, Ticket)) {
    model(move || {
        let ledger = ledger(1);
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || end(&ledger, ticket))
        };
        assert!(ledger.drain(Duration::MAX));
        other.join().unwrap();
    });
}

#[test]
fn drain_does_not_sleep_through_the_end_of_the_last_check() {
    drain_returns_after(|ledger, ticket| assert!(deliver(ledger, ticket)));
    drain_returns_after(|ledger, ticket| assert!(ledger.cancel(ticket).is_some()));
    drain_returns_after(Ledger::unreserve);
    drain_returns_after(|ledger, ticket| {
        assert!(ledger.decide(ticket));
        ledger.shelve(ticket);
    });
    drain_returns_after(Ledger::shelve);
    drain_returns_after(|ledger, ticket| {
        assert!(ledger.decide(ticket));
        assert!(ledger.fetch().deliver(ticket, &allowed()));
    });
}

/// Checks that are submitted while the engine ends, and an I/O thread that goes when it expects none.
#[test]
fn no_check_is_left_behind_by_an_io_thread_that_ends() {
    model(|| {
        let ledger = ledger(1);
        let inbox = Arc::new(Mutex::new(Vec::new()));
        let host = {
            let (ledger, inbox) = (Arc::clone(&ledger), Arc::clone(&inbox));
            thread::spawn(move || {
                let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
                if ledger.is_closed() {
                    ledger.unreserve(ticket);
                } else {
                    inbox.lock().push(ticket);
                }
            })
        };
        let take_in = || {
            let taken = inbox.lock().pop();
            taken.is_some_and(|ticket| deliver(&ledger, ticket))
        };
        ledger.close();
        take_in();
        while ledger.expects(0) {
            thread::yield_now();
            take_in();
        }
        host.join().unwrap();
        assert!(inbox.lock().is_empty(), "accepted, and nobody is there to decide it");
        let counts = ledger.counts();
        assert_eq!(counts.submitted, counts.completed);
    });
}

/// One thread takes two slots and gives the first back, which is on top again while another reads what is below.
#[test]
fn a_free_slot_is_given_to_one() {
    model(|| {
        let ledger = ledger(3);
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let (first, second) =
                    (ledger.reserve(Room::Usual, 0, 0).unwrap(), ledger.reserve(Room::Usual, 0, 0).unwrap());
                ledger.unreserve(first);
                second
            })
        };
        let mut held = vec![ledger.reserve(Room::Usual, 0, 0).unwrap()];
        held.push(other.join().unwrap());
        held.extend(ledger.reserve(Room::Usual, 0, 0));
        let slots: HashSet<_> = held.iter().map(|ticket| ticket.slot()).collect();
        assert_eq!((slots.len(), held.len()), (3, 3), "one slot for two checks");
    });
}

/// The same of slots that are taken together and given back as a chain.
#[test]
fn a_chain_of_free_slots_is_given_to_one() {
    model(|| {
        let ledger = ledger(3);
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let mut vacancies = ledger.vacancies(Room::Usual, 2);
                let taken = vacancies.fill(0, 0);
                drop(vacancies);
                taken.unwrap()
            })
        };
        let mut vacancies = ledger.vacancies(Room::Usual, 2);
        let mut held: Vec<_> = std::iter::from_fn(|| vacancies.fill(0, 0)).collect();
        assert!(!held.is_empty());
        held.push(other.join().unwrap());
        held.extend(std::iter::from_fn(|| ledger.reserve(Room::Usual, 0, 0)));
        let slots: HashSet<_> = held.iter().map(|ticket| ticket.slot()).collect();
        assert_eq!((slots.len(), held.len()), (3, 3), "one slot for two checks, or one lost");
    });
}

#[test]
fn the_end_of_a_queue_cancels_no_check_of_another() {
    model(|| {
        // Room for two: a cancel frees the room a step after it has cancelled.
        let ledger = ledger(2);
        let end = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                let of_the_first: Vec<_> = ledger.of(1).collect();
                for ticket in of_the_first {
                    ledger.cancel(ticket);
                }
            })
        };
        let first = ledger.reserve(Room::Usual, 0, 1).unwrap();
        ledger.release(first);
        let second = ledger.reserve(Room::Usual, 0, 2).unwrap();
        assert!(deliver(&ledger, second), "of queue 2, which has not ended");
        end.join().unwrap();
    });
}

/// `hooked`: the runtime says when the I/O thread parks and when it runs again; otherwise it never says the latter.
fn the_io_thread_gets_every_message(hooked: bool) {
    const SENDERS: usize = 2;
    model(move || {
        let parked = Arc::new(Parked::new());
        let messages = Arc::new(AtomicUsize::new(0));
        let notify = Arc::new(Event::new());
        let senders = [0; SENDERS].map(|_| {
            let (parked, messages, notify) =
                (Arc::clone(&parked), Arc::clone(&messages), Arc::clone(&notify));
            thread::spawn(move || {
                messages.fetch_add(1, Ordering::Release);
                parked.wake(|| notify.signal());
            })
        });
        let mut received = 0;
        loop {
            received += messages.swap(0, Ordering::Acquire);
            if received == SENDERS {
                break;
            }
            parked.before_park(|| messages.load(Ordering::Relaxed) == 0, || notify.signal());
            notify.wait(|state| state.news);
            if hooked {
                parked.after_park();
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn an_io_thread_does_not_sleep_while_a_message_waits() {
    the_io_thread_gets_every_message(true);
    the_io_thread_gets_every_message(false);
}

/// A host that polls and fetches one at a time; `ready` is its way of polling.
fn the_host_fetches_everything(ready: fn(&State) -> bool) {
    const THINGS: usize = 3;
    model(move || {
        let event = Arc::new(Event::new());
        let shelf = Arc::new(Shelf::new(Arc::clone(&event)));
        let io = [vec![0, 1], vec![2]].map(|things| {
            let shelf = Arc::clone(&shelf);
            thread::spawn(move || shelf.put(things.into_iter()))
        });
        let mut seen = HashSet::new();
        while seen.len() < THINGS {
            event.wait(ready);
            shelf.take(1, |thing| {
                assert!(seen.insert(thing), "twice");
                true
            });
        }
        for io in io {
            io.join().unwrap();
        }
    });
}

#[test]
fn a_descriptor_is_not_silent_while_decisions_wait() {
    the_host_fetches_everything(|state| state.level);
    the_host_fetches_everything(|state| state.level && state.news);
}

#[test]
fn when_a_drain_has_returned_what_it_waited_for_is_signalled() {
    model(|| {
        let (ledger, event) = (ledger(1), Arc::new(Event::new()));
        let shelf = Arc::new(Shelf::new(Arc::clone(&event)));
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        let io = {
            let (ledger, shelf) = (Arc::clone(&ledger), Arc::clone(&shelf));
            thread::spawn(move || shelf.put([ticket].into_iter().inspect(|ticket| ledger.shelve(*ticket))))
        };
        // As `Core::drain` does.
        assert!(ledger.drain(Duration::MAX));
        shelf.signal();
        assert!(event.state.lock().level);
        io.join().unwrap();
    });
}

#[test]
fn a_descriptor_that_two_threads_reap_from_is_not_silent_while_decisions_wait() {
    model(|| {
        let event = Arc::new(Event::new());
        let shelf = Arc::new(Shelf::new(Arc::clone(&event)));
        shelf.put([0].into_iter());
        let io = {
            let shelf = Arc::clone(&shelf);
            thread::spawn(move || shelf.put([1, 2].into_iter()))
        };
        let other = {
            let shelf = Arc::clone(&shelf);
            thread::spawn(move || shelf.take(1, |_| true))
        };
        let mut taken = shelf.take(1, |_| true);
        taken += other.join().unwrap();
        io.join().unwrap();
        while taken < 3 {
            event.wait(|state| state.level);
            taken += shelf.take(1, |_| true);
        }
        assert_eq!(taken, 3);
    });
}

/// An answer to what was asked before lands while a host revokes and then looks. In memory's place: at which count of the
/// clock the answer was asked for, plus 1; put in and forgotten under a lock, as `Memory` does.
fn an_answer_in_flight_revives_nothing_that(revoke: fn(&Revocations), forget: bool) {
    const SESSION: u64 = 7 << 32;
    const USER: u64 = 1;
    model(move || {
        let revocations = Arc::new(Revocations::new(2).unwrap());
        let asked = revocations.mark(SESSION);
        let memory = Arc::new(Mutex::new(0));
        let io = {
            let (revocations, memory) = (Arc::clone(&revocations), Arc::clone(&memory));
            thread::spawn(move || {
                revocations.heard(asked);
                if revocations.holds(asked, Some(revocations.entry(USER))) {
                    let mut memory = memory.lock();
                    if revocations.is_current(asked) {
                        *memory = asked.at + 1;
                    }
                }
            })
        };
        revoke(&revocations);
        if forget {
            *memory.lock() = 0;
        }
        assert!(!revocations.is_joinable(asked));
        let user = Some(revocations.entry(USER));
        let holds = |at| revocations.is_kept(user, at);
        for finish in [None, Some(io)] {
            if let Some(io) = finish {
                io.join().unwrap();
            }
            let remembered = *memory.lock();
            assert!(remembered == 0 || !holds(remembered - 1), "revived");
        }
        assert!(holds(revocations.mark(SESSION).at), "what is asked from now on holds");
    });
}

#[test]
fn an_answer_in_flight_revives_no_session_that_was_revoked() {
    const BOUND: Duration = Duration::from_hours(1);
    an_answer_in_flight_revives_nothing_that(
        |revocations| {
            revocations.revoke(7 << 32, BOUND);
            assert!(revocations.denies(7 << 32, BOUND), "an older answer lifts no denial");
        },
        true,
    );
    an_answer_in_flight_revives_nothing_that(|revocations| revocations.revoke_user(1), false);
    an_answer_in_flight_revives_nothing_that(Revocations::revoke_all, false);
}

#[test]
fn a_denial_that_an_answer_lifts_comes_back_with_the_next_revocation() {
    const SESSION: u64 = 7 << 32;
    const BOUND: Duration = Duration::from_hours(1);
    model(|| {
        let revocations = Arc::new(Revocations::new(2).unwrap());
        revocations.revoke(SESSION, BOUND);
        let asked = revocations.mark(SESSION);
        let io = {
            let revocations = Arc::clone(&revocations);
            thread::spawn(move || revocations.heard(asked))
        };
        revocations.revoke(SESSION, BOUND);
        io.join().unwrap();
        assert!(revocations.denies(SESSION, BOUND));
    });
}

/// A thread that lets go of a watch, and a host that revokes it meanwhile: the news finds it, or its mark tells.
#[test]
fn whose_mark_is_of_what_was_told_has_heard_of_it() {
    const SESSION: u64 = 7 << 32;
    const BOUND: Duration = Duration::from_hours(1);
    model(|| {
        let revocations = Arc::new(Revocations::new(2).unwrap());
        let news = Arc::new(Mutex::new(0));
        let hosts = [1, 2].map(|more| {
            let (revocations, news) = (Arc::clone(&revocations), Arc::clone(&news));
            thread::spawn(move || {
                let _telling = revocations.telling();
                revocations.revoke(SESSION, BOUND);
                *news.lock() += more;
            })
        });
        let told = revocations.told();
        let heard = *news.lock();
        for host in hosts {
            host.join().unwrap();
        }
        let moved = told.map(|at| revocations::Mark { session: SESSION, at });
        assert!(heard == 3 || moved.is_none_or(|moved| !revocations.is_current(moved)));
        assert!(revocations.told() == Some(2), "and nothing is left to tell");
    });
}

/// As a runtime's task is woken.
struct Runner(Arc<Event>);

impl std::task::Wake for Runner {
    fn wake(self: Arc<Self>) {
        self.0.signal();
    }
}

/// Two threads have news for one task, whose thread polls it when it is in the list, and now and then of itself.
#[test]
fn a_task_that_is_woken_from_elsewhere_sees_all_its_news() {
    const THREADS: usize = 2;
    model(|| {
        let elsewhere = Arc::new(Elsewhere::new());
        let wakeup = Arc::new(Wakeup::new(7, Arc::clone(&elsewhere)));
        let event = Arc::new(Event::new());
        let news = Arc::new(AtomicUsize::new(0));
        let threads = [0; THREADS].map(|_| {
            let (wakeup, news) = (Arc::clone(&wakeup), Arc::clone(&news));
            thread::spawn(move || {
                news.fetch_add(1, Ordering::Relaxed);
                wakeup.ring(|_, _| false);
            })
        });
        elsewhere.is_run_by(&std::task::Waker::from(Arc::new(Runner(Arc::clone(&event)))));
        let mut seen = 0;
        let poll = || {
            wakeup.hear();
            news.load(Ordering::Relaxed)
        };
        seen = seen.max(poll());
        loop {
            let woken = elsewhere.take();
            assert!(woken.len() <= THREADS && woken.iter().all(|&task| task == 7));
            if !woken.is_empty() {
                seen = seen.max(poll());
            }
            if seen == THREADS {
                break;
            }
            if woken.is_empty() {
                event.wait(|state| state.news);
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_cancel_gives_back_the_room_that_its_check_took() {
    model(|| {
        let ledger = Arc::new(Ledger::new(1, 1, 1 << 40).unwrap());
        let ticket = ledger.reserve(Room::Usual, 0, 0).unwrap();
        let cancel = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.cancel(ticket).is_some())
        };
        // The I/O thread lets go of it, and another check takes its slot for the other room.
        ledger.release(ticket);
        let spare = ledger.reserve(Room::Spare, 0, 0).unwrap();
        cancel.join().unwrap();
        ledger.release(spare);
        assert!(ledger.reserve(Room::Usual, 0, 0).is_some(), "the usual room is free");
        assert!(ledger.reserve(Room::Spare, 0, 0).is_some(), "the spare room is free");
    });
}
