//! The end of an engine while hosts submit: what was accepted is decided, once.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::check::Check;
use crate::config::Config;
use crate::decision::Cause;
use crate::engine::completion::{Completed, Receiver, Tag};
use crate::engine::{Engine, SubmitError};

#[derive(Default)]
struct Causes(Mutex<Vec<Cause>>);

impl Receiver for Causes {
    fn receive(&self, batch: &mut Vec<Completed>) {
        let taken = batch.drain(..).filter_map(Completed::take);
        self.0.lock().extend(taken.map(|decision| decision.cause));
    }
}

/// Its backend never answers.
fn engine(backend: &TcpListener) -> Engine {
    let url = format!("http://{}/auth", backend.local_addr().unwrap());
    let mut config = Config::new();
    for (key, value) in [("backend.url", url.as_str()), ("default_action", "deny"), ("timeout", "60s")] {
        config.set(key, value).unwrap();
    }
    Engine::new(&config).unwrap()
}

/// The engine ends between a submit's look whether it may and its message.
#[test]
fn a_check_that_the_end_overtakes_is_decided() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    for round in 0..200 {
        let engine = engine(&backend);
        let causes = Arc::new(Causes::default());
        let receiver: Arc<dyn Receiver> = Arc::clone(&causes) as _;
        thread::scope(|scope| {
            let check = Check { session_id: b"s", ..Check::default() };
            let begin_to_end = |_| {
                scope.spawn(|| engine.shutdown(Duration::ZERO));
                while !engine.core.is_closed() || round % 2 == 1 && !engine.core.inboxes[0].is_stopped() {
                    thread::yield_now();
                }
            };
            let tag = Tag { user_data: 7, owner: 0 };
            engine.batch(1).submit(&check, &receiver, tag, begin_to_end).expect("it was not closed yet");
        });
        assert_eq!(*causes.0.lock(), [Cause::Shutdown], "round {round}");
        let stats = engine.stats();
        assert_eq!((stats.submitted, stats.completed, stats.pending), (1, 1, 0));
        assert_eq!(
            engine.submit(&Check { session_id: b"s", ..Check::default() }, &receiver, 0),
            Err(SubmitError::Closed)
        );
        assert_eq!(engine.stats().submitted, 1, "a refused check leaves nothing");
    }
}
