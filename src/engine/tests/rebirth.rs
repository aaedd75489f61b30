//! A defect that ends the work of an I/O thread: everything it owed is answered, and the next check is asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::check::Check;
use crate::config::Config;
use crate::decision::{Cause, Decision, Verdict};
use crate::engine::completion::{Completed, Receiver};
use crate::engine::inbox::News;
use crate::engine::{Engine, SubmitError};
use crate::observe::{Log, LogLevel};

/// Answers every request but those that say `hang`.
fn backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        if !head.windows(4).any(|part| part == b"hang") {
                            let _ = stream.write_all(super::support::ALLOW.as_bytes());
                        }
                        head.clear();
                    }
                }
            });
        }
    });
    url
}

#[derive(Default)]
struct Told {
    decisions: Mutex<Vec<(usize, Decision)>>,
    more: Condvar,
}

impl Receiver for Told {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|user_data, decision| self.decisions.lock().push((user_data, decision)));
        }
        self.more.notify_all();
    }
}

impl Told {
    fn wait(&self, count: usize) -> Vec<(usize, Decision)> {
        let mut decisions = self.decisions.lock();
        while decisions.len() < count {
            self.more.wait(&mut decisions);
        }
        decisions.clone()
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, _: LogLevel, line: &str) {
        self.0.lock().push(line.to_owned());
    }
}

#[test]
fn a_defect_answers_everything_that_was_taken_in_and_the_thread_begins_anew() {
    let lines = Arc::new(Lines::default());
    let mut config = Config::new();
    for (key, value) in [("backend.url", backend().as_str()), ("default_action", "allow"), ("timeout", "60s")]
    {
        config.set(key, value).unwrap();
    }
    config.set_log(Arc::clone(&lines) as _);
    let engine = Engine::new(&config).unwrap();
    let told = Arc::new(Told::default());
    let receiver: Arc<dyn Receiver> = Arc::clone(&told) as _;
    let ask = |number: usize, query: &[u8]| -> Result<u64, SubmitError> {
        let id = format!("s{number}");
        engine.submit(&Check { session_id: id.as_bytes(), query, ..Check::default() }, &receiver, number)
    };
    for round in 1..=3 {
        told.decisions.lock().clear();
        for number in 0..1_000 {
            ask(number, b"hang=1").unwrap();
        }
        engine
            .watch(&Check { session_id: b"w", query: b"hang=1", ..Check::default() }, &receiver, 5_000)
            .unwrap();
        engine.core.inboxes[0].tell(News::Panic);
        let decisions = told.wait(1_001);
        assert_eq!(decisions.len(), 1_001, "each once");
        for (of, decision) in decisions {
            // A defect of ours lets nobody in.
            assert_eq!((decision.verdict, decision.cause), (Verdict::Deny, Cause::Internal), "{of}");
            assert_eq!(decision.last, of == 5_000);
        }
        told.decisions.lock().clear();
        ask(0, b"").unwrap();
        assert_eq!(told.wait(1)[0].1.cause, Cause::None);
        let stats = engine.stats();
        assert_eq!((stats.restarts, stats.pending, stats.watching), (round, 0, 0));
    }
    drop(engine);
    let said = lines.0.lock().iter().filter(|line| line.contains("begins anew")).count();
    assert_eq!(said, 3);
}
