//! What is fuzzed of the C ABI: any calls in any order, with any structs and texts, in memory that is as large as they say.
//!
//! An input is two lines and a script: keys (`ttl.allow=1s`, tab, …); letters that choose the engine (see [`World::new`]);
//! then a letter for each call (see [`World::step`]), with the bytes that it takes as its arguments. Letters that mean
//! nothing are skipped.

mod backend;
mod memory;

use std::ffi::{CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::config::{alta_auth_config, alta_auth_config_free, alta_auth_config_new, alta_auth_config_set};
use super::engine::{
    alta_auth_default_action, alta_auth_engine, alta_auth_engine_drain, alta_auth_engine_free,
    alta_auth_engine_new, alta_auth_engine_reload, alta_auth_engine_shutdown,
};
use super::pointers::{hand_out, take_back};
use super::queue::{
    alta_auth_queue, alta_auth_queue_fd, alta_auth_queue_free, alta_auth_queue_new, alta_auth_queue_reap,
    alta_auth_queue_submit, alta_auth_queue_submit_batch, alta_auth_queue_watch,
};
use super::revoke::{alta_auth_revoke, alta_auth_revoke_all, alta_auth_revoke_user};
use super::stats::{alta_auth_metrics_text, alta_auth_stats_read};
use super::submit::{
    alta_auth_cancel, alta_auth_check, alta_auth_lookup, alta_auth_submit, alta_auth_submit_batch,
    alta_auth_watch,
};
use super::types::*;
use crate::fuzzing::{lines, pairs};
use backend::Backend;
use memory::{Output, Requests, Tape};

/// More calls find nothing that these do not.
const CALLS: usize = 60;

/// Nothing crashes, no status is `ERR_INTERNAL`, what fails writes nothing; each accepted check is delivered once, or
/// cancelled, and the counters say the same at every reading.
pub fn abi(input: &[u8]) {
    let ([keys, choices], script) = lines(input);
    let Some(mut world) = World::new(&keys, &choices) else { return };
    let mut tape = Tape::new(script);
    for _ in 0..CALLS {
        let Some(letter) = tape.next() else { break };
        world.step(letter, &mut tape);
        world.counted();
    }
    world.end(&mut tape);
}

/// One check or watch that was handed over: its `user_data`.
#[derive(Default)]
struct Handed {
    watch: bool,
    /// Written by the library: of a single one, not 0 when the decision arrives.
    ticket: AtomicU64,
    accepted: AtomicBool,
    cancelled: AtomicBool,
    delivered: AtomicU32,
    last: AtomicU32,
    /// A decision that the contract rules out.
    odd: AtomicU32,
    /// For calls from inside the callback.
    engine: usize,
    inside: u8,
    /// Accepted from inside a callback.
    more: AtomicU64,
}

/// Owned by the world, lent to the library as `user_data` until the engine is freed.
type Lent = *mut Handed;

struct World {
    engine: *mut alta_auth_engine,
    queues: Vec<*mut alta_auth_queue>,
    backend: Backend,
    dead: bool,
    keys: Vec<u8>,
    handed: Vec<(Lent, Option<usize>)>,
    /// `alta_auth_check` that returned OK.
    waited: u64,
    shut: bool,
}

extern "C" fn receive(user_data: *mut c_void, decision: *const alta_auth_decision) {
    // SAFETY: the world keeps what it lends until the engine is freed.
    let (handed, decision) = unsafe { (&*user_data.cast::<Handed>(), &*decision) };
    handed.took(decision);
    // SAFETY: the engine lives as long as its callbacks run.
    unsafe { handed.call_back() };
}

/// For checks that are handed over from inside a callback.
extern "C" fn receive_more(user_data: *mut c_void, _: *const alta_auth_decision) {
    // SAFETY: as in `receive`.
    unsafe { &*user_data.cast::<Handed>() }.more.fetch_sub(1, SeqCst);
}

impl Handed {
    fn took(&self, decision: &alta_auth_decision) {
        self.delivered.fetch_add(1, SeqCst);
        let last = decision.flags & ALTA_AUTH_LAST != 0;
        let texts = [decision.user_id, decision.location, decision.detail];
        let good = [ALTA_AUTH_ALLOW, ALTA_AUTH_DENY].contains(&decision.verdict)
            && (0..4).contains(&decision.origin)
            && (0..11).contains(&decision.cause)
            && (decision.origin != ALTA_AUTH_ORIGIN_BACKEND || decision.cause == ALTA_AUTH_CAUSE_NONE)
            && decision.ticket != 0
            && [0, decision.ticket].contains(&self.ticket.load(SeqCst))
            && texts.iter().all(|text| text.ptr.is_null() == (text.len == 0))
            && self.last.load(SeqCst) == 0
            && (self.watch || !last);
        self.odd.fetch_add(u32::from(!good), SeqCst);
        self.last.fetch_add(u32::from(last), SeqCst);
    }

    /// What a callback may do, and what it may not.
    unsafe fn call_back(&self) {
        let engine = self.engine as *mut alta_auth_engine;
        let requests = Requests::plain();
        let mut out = Output::<alta_auth_decision>::new(size_of::<alta_auth_decision>(), 1);
        // SAFETY: the pointers are as large as they say, and the engine is there.
        let status = unsafe {
            match self.inside % 8 {
                1 => (alta_auth_engine_drain(engine, 0), &[ALTA_AUTH_ERR_THREAD][..]),
                2 => (alta_auth_engine_shutdown(engine, 0), &[ALTA_AUTH_ERR_THREAD][..]),
                3 => (alta_auth_check(engine, requests.at(), out.at()), &[ALTA_AUTH_ERR_THREAD][..]),
                4 => {
                    alta_auth_engine_free(engine);
                    (ALTA_AUTH_OK, &[ALTA_AUTH_OK][..])
                }
                5 => (
                    alta_auth_lookup(engine, requests.at(), out.at()),
                    &[ALTA_AUTH_OK, ALTA_AUTH_ERR_NOT_FOUND, ALTA_AUTH_ERR_CLOSED][..],
                ),
                6 if !self.watch => {
                    self.more.fetch_add(1, SeqCst);
                    let user_data = std::ptr::from_ref(self).cast_mut().cast();
                    let status =
                        alta_auth_submit(engine, requests.at(), Some(receive_more), user_data, null_mut());
                    if status != ALTA_AUTH_OK {
                        self.more.fetch_sub(1, SeqCst);
                    }
                    (status, &[ALTA_AUTH_OK, ALTA_AUTH_ERR_FULL, ALTA_AUTH_ERR_CLOSED][..])
                }
                7 if !self.watch => {
                    (alta_auth_cancel(engine, self.ticket.load(SeqCst)), &[ALTA_AUTH_ERR_NOT_FOUND][..])
                }
                _ => (ALTA_AUTH_OK, &[ALTA_AUTH_OK][..]),
            }
        };
        self.odd.fetch_add(u32::from(!status.1.contains(&status.0)), SeqCst);
    }
}

impl World {
    /// `D`: nobody listens; `I`: room for four checks; `W`: room for two watches; `0`: no callback threads; `2`: two I/O
    /// threads.
    fn new(keys: &[u8], choices: &[u8]) -> Option<Self> {
        let dead = choices.contains(&b'D');
        let backend = Backend::new();
        let config = configuration(&backend, dead, keys);
        let has = |letter: u8, key: &str, value: &str| {
            if choices.contains(&letter) {
                set(config, key, value);
            }
        };
        has(b'I', "inbox.capacity", "4");
        has(b'W', "watch.max", "2");
        has(b'0', "threads.callback", "0");
        has(b'2', "threads.io", "2");
        let mut engine = null_mut();
        let mut error = [0x55 as c_char; 32];
        // SAFETY: live pointers, and as much room as is said.
        let status =
            unsafe { alta_auth_engine_new(config, &raw mut engine, error.as_mut_ptr(), error.len()) };
        if status != ALTA_AUTH_OK {
            assert_eq!(status, ALTA_AUTH_ERR_CONFIG);
            assert!(engine.is_null() && error.contains(&0));
            // SAFETY: it was not taken.
            unsafe { alta_auth_config_free(config) };
            return None;
        }
        let keys = keys.to_vec();
        Some(Self {
            engine,
            queues: Vec::new(),
            backend,
            dead,
            keys,
            handed: Vec::new(),
            waited: 0,
            shut: false,
        })
    }

    fn step(&mut self, letter: u8, tape: &mut Tape<'_>) {
        // SAFETY: the engine and the queues are there until `end`; every other pointer is NULL or is as large as is said.
        unsafe {
            match letter {
                b's' | b'w' => self.hand_over(letter == b'w', None, tape),
                b'q' | b'v' => {
                    let queue = self.queue(tape);
                    self.hand_over(letter == b'v', queue, tape);
                }
                b'b' => self.hand_over_many(None, tape),
                b'B' => {
                    let queue = self.queue(tape);
                    self.hand_over_many(queue, tape);
                }
                b'n' if self.queues.len() < 3 => {
                    let mut queue = null_mut();
                    assert_eq!(alta_auth_queue_new(self.engine, &raw mut queue), ALTA_AUTH_OK);
                    assert!(alta_auth_queue_fd(queue) >= 0);
                    self.queues.push(queue);
                }
                b'f' => self.free_queue(tape),
                b'r' => self.reap(tape),
                b'c' => self.cancel(tape),
                b'l' | b'k' => self.ask(letter == b'k', tape),
                b'x' | b'u' => {
                    let text = memory::Text::new(tape);
                    let revoke = if letter == b'x' { alta_auth_revoke } else { alta_auth_revoke_user };
                    let status = revoke(self.engine, text.view());
                    let good = text.view().len > 0 && !text.view().ptr.is_null();
                    assert_eq!(status, if good { ALTA_AUTH_OK } else { ALTA_AUTH_ERR_INVALID });
                }
                b'X' => assert_eq!(alta_auth_revoke_all(self.engine), ALTA_AUTH_OK),
                b't' => {
                    let size = tape.struct_size(size_of::<alta_auth_stats>());
                    let mut out = Output::<alta_auth_stats>::new(size, 1);
                    let status = alta_auth_stats_read(self.engine, out.at());
                    assert_eq!(status == ALTA_AUTH_OK, (288..=4096).contains(&size));
                    out.was_written(status == ALTA_AUTH_OK, 1);
                }
                b'm' => {
                    let mut text = vec![0x55u8; usize::from(tape.byte()) * 8];
                    let full = alta_auth_metrics_text(self.engine, text.as_mut_ptr().cast(), text.len());
                    let end = text.iter().position(|&byte| byte == 0);
                    assert_eq!(end, text.len().checked_sub(1).map(|most| most.min(full)));
                }
                b'd' => drop(alta_auth_engine_drain(self.engine, u32::from(tape.byte() % 4))),
                b'z' => {
                    let status = alta_auth_engine_shutdown(self.engine, u32::from(tape.byte() % 4));
                    assert!([ALTA_AUTH_OK, ALTA_AUTH_ERR_TIMEOUT].contains(&status));
                    self.shut = true;
                }
                b'R' => self.reload(tape),
                b'C' => configured(tape),
                b'N' => nothing_given(),
                _ => {}
            }
        }
    }

    fn queue(&self, tape: &mut Tape<'_>) -> Option<usize> {
        let index = usize::from(tape.byte());
        (!self.queues.is_empty()).then(|| index % self.queues.len())
    }

    fn lend(&mut self, watch: bool, queue: Option<usize>, inside: u8) -> Lent {
        let handed = Handed { watch, engine: self.engine as usize, inside, ..Handed::default() };
        let lent = hand_out(handed);
        self.handed.push((lent, queue.map(|queue| self.queues[queue] as usize)));
        lent
    }

    unsafe fn hand_over(&mut self, watch: bool, queue: Option<usize>, tape: &mut Tape<'_>) {
        let inside = tape.byte();
        let requests = Requests::any(tape, 1, false);
        let lent = self.lend(watch, queue, if queue.is_some() { 0 } else { inside });
        let user_data = lent.cast::<c_void>();
        // SAFETY: see `step`.
        let status = unsafe {
            let ticket = (*lent).ticket.as_ptr();
            match (queue.map(|queue| self.queues[queue]), watch) {
                (None, false) => {
                    alta_auth_submit(self.engine, requests.at(), Some(receive), user_data, ticket)
                }
                (None, true) => alta_auth_watch(self.engine, requests.at(), Some(receive), user_data, ticket),
                (Some(queue), false) => alta_auth_queue_submit(queue, requests.at(), user_data, ticket),
                (Some(queue), true) => alta_auth_queue_watch(queue, requests.at(), user_data, ticket),
            }
        };
        // SAFETY: it is kept until `end`.
        let handed = unsafe { &*lent };
        handed.accepted.store(status == ALTA_AUTH_OK, SeqCst);
        assert_eq!(handed.ticket.load(SeqCst) != 0, status == ALTA_AUTH_OK, "written on success only");
        self.is_status_of(&requests, 0, status);
    }

    unsafe fn hand_over_many(&mut self, queue: Option<usize>, tape: &mut Tape<'_>) {
        let count = usize::from(tape.byte() % 6);
        let requests = Requests::any(tape, count, true);
        let lent: Vec<_> = (0..count).map(|_| self.lend(false, queue, 0)).collect();
        let user_data: Vec<_> = lent.iter().map(|lent| lent.cast::<c_void>()).collect();
        let mut statuses = vec![77; count];
        // SAFETY: see `step`.
        let accepted = unsafe {
            let (at, user_data, statuses) = (requests.at(), user_data.as_ptr(), statuses.as_mut_ptr());
            match queue.map(|queue| self.queues[queue]) {
                None => alta_auth_submit_batch(self.engine, at, count, Some(receive), user_data, statuses),
                Some(queue) => alta_auth_queue_submit_batch(queue, at, count, user_data, statuses),
            }
        };
        assert_eq!(accepted, statuses.iter().filter(|status| **status == ALTA_AUTH_OK).count());
        for (index, (lent, status)) in lent.iter().zip(&statuses).enumerate() {
            // SAFETY: it is kept until `end`.
            unsafe { &**lent }.accepted.store(*status == ALTA_AUTH_OK, SeqCst);
            self.is_status_of(&requests, index, *status);
        }
    }

    fn is_status_of(&self, requests: &Requests, index: usize, status: i32) {
        let known = [ALTA_AUTH_OK, ALTA_AUTH_ERR_INVALID, ALTA_AUTH_ERR_FULL, ALTA_AUTH_ERR_CLOSED];
        assert!(known.contains(&status) || status == ALTA_AUTH_ERR_UNSUPPORTED, "{status}");
        // Of an engine that was shut down either may be the first that is found.
        if let Some(expected) = requests.is_refused(index)
            && !(self.shut && status == ALTA_AUTH_ERR_CLOSED)
        {
            assert_eq!(status, expected);
        }
        assert!(!(self.shut && status == ALTA_AUTH_OK), "accepted after shutdown");
    }

    unsafe fn reap(&mut self, tape: &mut Tape<'_>) {
        let (Some(queue), max) = (self.queue(tape), usize::from(tape.byte() % 6)) else { return };
        let size = tape.struct_size(size_of::<alta_auth_completion>());
        let mut out = Output::<alta_auth_completion>::new(size, max);
        // SAFETY: see `step`.
        let count = unsafe { alta_auth_queue_reap(self.queues[queue], out.at(), max) };
        assert!(count <= max && (count == 0 || ((112..=4096).contains(&size) && size.is_multiple_of(8))));
        out.was_written(count > 0, count);
        for index in 0..count {
            // SAFETY: as many were written, and each user_data is one of ours.
            unsafe {
                let completion = out.element(index).read();
                assert_eq!(completion.decision.struct_size as usize, size - 16);
                (*completion.user_data.cast::<Handed>()).took(&completion.decision);
            }
        }
    }

    unsafe fn free_queue(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = self.queue(tape) else { return };
        let queue = self.queues.swap_remove(index);
        // SAFETY: it is freed once.
        unsafe { alta_auth_queue_free(queue) };
        // Another queue may come to the same address.
        for (_, of) in &mut self.handed {
            if *of == Some(queue as usize) {
                *of = Some(0);
            }
        }
    }

    unsafe fn cancel(&mut self, tape: &mut Tape<'_>) {
        let index = usize::from(tape.byte());
        let known = self.handed.get(index % self.handed.len().max(1)).map(|(lent, _)| *lent);
        // SAFETY: they are kept until `end`.
        let known = known.map(|lent| unsafe { &*lent });
        let ticket = known.map_or(0, |handed| handed.ticket.load(SeqCst));
        let ticket = if index < 200 { ticket } else { u64::from(tape.byte()) << (index % 64) };
        // SAFETY: see `step`.
        let status = unsafe { alta_auth_cancel(self.engine, ticket) };
        assert!([ALTA_AUTH_OK, ALTA_AUTH_ERR_NOT_FOUND].contains(&status));
        // Those of a batch have tickets that nobody was told.
        if let Some(handed) = self.all().find(|handed| handed.ticket.load(SeqCst) == ticket)
            && status == ALTA_AUTH_OK
        {
            assert!(!handed.cancelled.swap(true, SeqCst), "cancelled twice");
            assert!(handed.watch || handed.delivered.load(SeqCst) == 0, "cancelled after delivery");
        }
    }

    fn all(&self) -> impl Iterator<Item = &Handed> {
        // SAFETY: they are kept until `end`.
        self.handed.iter().map(|(lent, _)| unsafe { &**lent })
    }

    unsafe fn ask(&mut self, waits: bool, tape: &mut Tape<'_>) {
        let requests = Requests::any(tape, 1, false);
        let size = tape.struct_size(size_of::<alta_auth_decision>());
        let mut out = Output::<alta_auth_decision>::new(size, 1);
        let ask = if waits { alta_auth_check } else { alta_auth_lookup };
        // SAFETY: see `step`.
        let status = unsafe { ask(self.engine, requests.at(), out.at()) };
        out.was_written(status == ALTA_AUTH_OK, 1);
        self.waited += u64::from(waits && status == ALTA_AUTH_OK);
        if !(96..=4096).contains(&size) {
            assert_eq!(status, ALTA_AUTH_ERR_INVALID);
        } else if status != ALTA_AUTH_ERR_NOT_FOUND || waits {
            self.is_status_of(&requests, 0, status);
        }
    }

    unsafe fn reload(&mut self, tape: &mut Tape<'_>) {
        let keys = if tape.byte().is_multiple_of(2) {
            self.keys.clone()
        } else {
            b"scope=session\tttl.deny=1s".to_vec()
        };
        let config = configuration(&self.backend, self.dead ^ (tape.byte() % 4 == 1), &keys);
        let mut error = vec![0x55 as c_char; usize::from(tape.byte())];
        // SAFETY: see `step`.
        unsafe {
            let status = alta_auth_engine_reload(self.engine, config, error.as_mut_ptr(), error.len());
            if status != ALTA_AUTH_OK {
                let known = [ALTA_AUTH_ERR_CONFIG, ALTA_AUTH_ERR_SYSTEM];
                let closed = self.shut && status == ALTA_AUTH_ERR_CLOSED;
                assert!(closed || known.contains(&status), "{status}");
                assert!(error.is_empty() || error.contains(&0));
                alta_auth_config_free(config);
            }
        }
    }

    fn stats(&self) -> alta_auth_stats {
        let mut out = Output::<alta_auth_stats>::new(size_of::<alta_auth_stats>(), 1);
        // SAFETY: the engine is there, and the memory is as large as it says.
        unsafe {
            assert_eq!(alta_auth_stats_read(self.engine, out.at()), ALTA_AUTH_OK);
            out.element(0).read()
        }
    }

    fn counted(&self) {
        let stats = self.stats();
        assert_eq!(stats.submitted, stats.completed + stats.cancelled + stats.pending);
        assert_eq!(stats.causes[ALTA_AUTH_CAUSE_INTERNAL as usize], 0, "a defect was caught");
    }

    fn end(mut self, tape: &mut Tape<'_>) {
        // SAFETY: the engine and the queues are there until they are freed here.
        unsafe {
            assert_eq!(alta_auth_engine_drain(self.engine, 10_000), ALTA_AUTH_OK, "each check has an end");
            if tape.byte() % 2 == 1 {
                for index in 0..self.queues.len() {
                    while {
                        let before = self.stats().pending;
                        self.reap(&mut Tape::new(&[index as u8, 5, 0]));
                        before != self.stats().pending
                    } {}
                }
            }
            self.counted();
            let requests = self.backend.requests();
            let stats = self.stats();
            assert!(stats.exchanges >= requests, "{} begun, {requests} arrived", stats.exchanges);
            let of_checks = |is: &dyn Fn(&Handed) -> u64| -> u64 {
                self.all().filter(|handed| !handed.watch).map(is).sum()
            };
            let delivered = of_checks(&|handed| u64::from(handed.delivered.load(SeqCst)));
            let more = of_checks(&|handed| u64::from(handed.inside % 8 == 6));
            assert!(stats.completed >= delivered + self.waited, "{} {delivered}", stats.completed);
            assert!(stats.completed <= delivered + self.waited + more);
            assert!(
                stats.submitted >= of_checks(&|handed| u64::from(handed.accepted.load(SeqCst))) + self.waited
            );

            let engine_first = tape.byte() % 2 == 1;
            if engine_first {
                alta_auth_engine_free(self.engine);
            }
            for queue in self.queues.drain(..) {
                let mut out = Output::<alta_auth_completion>::new(112, 1);
                assert!(!engine_first || alta_auth_queue_reap(queue, out.at(), 1) == 0);
                alta_auth_queue_free(queue);
            }
            if !engine_first {
                alta_auth_engine_free(self.engine);
            }
            for (lent, queue) in self.handed.drain(..) {
                let handed = take_back(lent).expect("it was handed out");
                let delivered = handed.delivered.load(SeqCst);
                let (accepted, cancelled) = (handed.accepted.load(SeqCst), handed.cancelled.load(SeqCst));
                assert_eq!(handed.odd.load(SeqCst), 0, "a decision or a status that the contract rules out");
                assert_eq!(handed.more.load(SeqCst), 0, "of a check from inside a callback");
                assert!(accepted || delivered == 0, "delivered though it was refused");
                if !handed.watch {
                    assert!(delivered <= 1, "delivered twice");
                    assert!(!(cancelled && delivered > 0), "delivered though it was cancelled");
                    let owed = accepted && !cancelled && queue.is_none();
                    assert!(!owed || delivered == 1, "never delivered");
                }
            }
        }
    }
}

fn set(config: *mut alta_auth_config, key: &str, value: &str) {
    let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) else { return };
    let mut error = [0x55 as c_char; 40];
    // SAFETY: NUL-terminated texts, a live configuration, and as much room as is said.
    let status = unsafe {
        alta_auth_config_set(config, key.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len())
    };
    assert!([ALTA_AUTH_OK, ALTA_AUTH_ERR_CONFIG].contains(&status));
    assert_eq!(status == ALTA_AUTH_ERR_CONFIG, error.contains(&0));
}

/// The keys of the input, and above them what keeps a run short.
fn configuration(backend: &Backend, dead: bool, keys: &[u8]) -> *mut alta_auth_config {
    let config = alta_auth_config_new();
    set(config, "default_action", "deny");
    for (key, value) in pairs(keys) {
        let room = ["inbox.capacity", "threads.", "watch.max", "tls.", "http.version", "unix."];
        if !room.iter().any(|ours| key.starts_with(ours)) && !value.trim().starts_with('@') {
            set(config, key, value);
        }
    }
    set(config, "backend.url", &backend.url(dead));
    set(config, "timeout", "10ms");
    set(config, "connect_timeout", "10ms");
    set(config, "memory.max_decisions", "100");
    set(config, "inbox.capacity", "32");
    config
}

/// A configuration that nobody uses, with texts that may be no UTF-8.
unsafe fn configured(tape: &mut Tape<'_>) {
    let config = alta_auth_config_new();
    let (key, value) = (tape.c_text(), tape.c_text());
    let mut error = vec![0x55 as c_char; usize::from(tape.byte() % 50)];
    // SAFETY: NUL-terminated texts, a live configuration, and as much room as is said.
    unsafe {
        let status =
            alta_auth_config_set(config, key.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len());
        assert!([ALTA_AUTH_OK, ALTA_AUTH_ERR_CONFIG].contains(&status));
        assert_eq!(status == ALTA_AUTH_ERR_CONFIG && !error.is_empty(), error.contains(&0));
        alta_auth_config_free(config);
    }
}

/// NULL in every place is an error, or nothing.
unsafe fn nothing_given() {
    let invalid = ALTA_AUTH_ERR_INVALID;
    let text = alta_auth_str { ptr: null(), len: 0 };
    // SAFETY: NULL is what is asked about.
    unsafe {
        assert_eq!(alta_auth_config_set(null_mut(), null(), null(), null_mut(), 9), invalid);
        assert_eq!(alta_auth_engine_new(null_mut(), null_mut(), null_mut(), 9), invalid);
        assert_eq!(alta_auth_engine_reload(null_mut(), null_mut(), null_mut(), 9), invalid);
        assert_eq!(alta_auth_engine_drain(null_mut(), 0), invalid);
        assert_eq!(alta_auth_engine_shutdown(null_mut(), 0), invalid);
        assert_eq!(alta_auth_default_action(null()), ALTA_AUTH_DENY);
        assert_eq!(alta_auth_submit(null_mut(), null(), None, null_mut(), null_mut()), invalid);
        assert_eq!(alta_auth_watch(null_mut(), null(), None, null_mut(), null_mut()), invalid);
        assert_eq!(alta_auth_submit_batch(null_mut(), null(), 3, None, null(), null_mut()), 0);
        assert_eq!(alta_auth_check(null_mut(), null(), null_mut()), invalid);
        assert_eq!(alta_auth_lookup(null_mut(), null(), null_mut()), invalid);
        assert_eq!(alta_auth_cancel(null_mut(), 1), invalid);
        assert_eq!(alta_auth_revoke(null_mut(), text), invalid);
        assert_eq!(alta_auth_revoke_all(null_mut()), invalid);
        assert_eq!(alta_auth_queue_new(null_mut(), null_mut()), invalid);
        assert_eq!(alta_auth_queue_fd(null()), -1);
        assert_eq!(alta_auth_queue_submit(null_mut(), null(), null_mut(), null_mut()), invalid);
        assert_eq!(alta_auth_queue_reap(null_mut(), null_mut(), 3), 0);
        assert_eq!(alta_auth_stats_read(null(), null_mut()), invalid);
        assert_eq!(alta_auth_metrics_text(null(), null_mut(), 9), 0);
        alta_auth_queue_free(null_mut());
        alta_auth_engine_free(null_mut());
        alta_auth_config_free(null_mut());
    }
}
