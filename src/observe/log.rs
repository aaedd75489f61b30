//! The log: one line an event, handed to the host's own.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::calls::{self, Calls};

/// How much is logged. The numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum LogLevel {
    /// Nothing.
    Off = 0,
    /// What keeps the engine from working.
    Error = 1,
    /// What an operator should look into.
    Warn = 2,
    /// Starts, stops, changes of state.
    Info = 3,
    /// Each outage with its stage.
    Debug = 4,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// Takes the log.
pub trait Log: Send + Sync + 'static {
    /// One line: foreign bytes escaped, no query, no header value. Called on any thread of the engine, and on a host's own
    /// during its calls, no lock held; it must not block, nor wait for the engine. What it would itself cause to be logged is
    /// not.
    fn log(&self, level: LogLevel, message: &str);
}

thread_local! {
    /// This thread is inside a host's log.
    static LOGGING: Cell<bool> = const { Cell::new(false) };
}

/// The host's log, up to the configured level. Both can change while the engine runs.
pub(crate) struct Logger {
    to: RwLock<(LogLevel, Option<Arc<dyn Log>>)>,
    calls: Arc<Calls>,
}

impl Logger {
    pub(crate) fn new(level: LogLevel, sink: Option<Arc<dyn Log>>, calls: Arc<Calls>) -> Self {
        Self { to: RwLock::new((level, sink)), calls }
    }

    /// Nobody's.
    pub(crate) fn off() -> Arc<Self> {
        Arc::new(Self::new(LogLevel::Off, None, Arc::default()))
    }

    /// Lines go there from now on.
    pub(crate) fn turn_to(&self, level: LogLevel, sink: Option<Arc<dyn Log>>) {
        *self.to.write() = (level, sink);
    }

    /// No line comes after this, also from threads that are not ours to wait for.
    pub(crate) fn end(&self) {
        self.calls.end();
        self.turn_to(LogLevel::Off, None);
    }

    /// The line is only made if somebody reads it.
    pub(crate) fn log(&self, level: LogLevel, line: impl FnOnce() -> String) {
        // What is logged by the log itself would not end.
        if LOGGING.get() || self.sink(level).is_none() {
            return;
        }
        let Some(_visit) = self.calls.visit() else { return };
        // No lock is held while the host's code runs.
        if let Some(sink) = self.sink(level) {
            let line = escaped(&line());
            let _call = self.calls.call();
            LOGGING.set(true);
            // A log that panics costs its line and nothing else.
            let _ = calls::returns(|| sink.log(level, &line));
            LOGGING.set(false);
        }
    }

    fn sink(&self, level: LogLevel) -> Option<Arc<dyn Log>> {
        let to = self.to.read();
        if level > to.0 { None } else { to.1.clone() }
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }
}

/// Control characters and what is not ASCII could forge lines or confuse a terminal.
fn escaped(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for character in line.chars() {
        if character.is_ascii_graphic() || character == ' ' {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use crossbeam_channel::{Receiver, Sender, bounded};
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn log(&self, level: LogLevel, message: &str) {
            self.0.lock().push(format!("{level} {message}"));
        }
    }

    #[test]
    fn lines_above_the_level_are_not_made() {
        let lines = Arc::new(Lines::default());
        let logger = Logger::new(LogLevel::Warn, Some(lines.clone()), Arc::default());
        logger.log(LogLevel::Error, || "one".to_owned());
        logger.log(LogLevel::Warn, || "two".to_owned());
        logger.log(LogLevel::Info, || panic!("nobody reads this"));
        assert_eq!(*lines.0.lock(), ["error one", "warn two"]);
    }

    #[test]
    fn a_line_stays_one_line() {
        let lines = Arc::new(Lines::default());
        let logger = Logger::new(LogLevel::Warn, Some(lines.clone()), Arc::default());
        logger.log(LogLevel::Warn, || "a\r\nerror forged \u{1b}[31m\u{202e}".to_owned());
        assert_eq!(*lines.0.lock(), ["warn a\\r\\nerror forged \\u{1b}[31m\\u{202e}"]);
    }

    /// Stays in each line until it is let go.
    struct Slow {
        begun: Sender<()>,
        go: Receiver<()>,
        returned: AtomicBool,
    }

    impl Log for Slow {
        fn log(&self, _: LogLevel, _: &str) {
            self.begun.send(()).unwrap();
            self.go.recv().unwrap();
            self.returned.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_end_waits_for_the_line_of_another_thread_and_no_line_comes_after_it() {
        let ((begun, has_begun), (go, goes)) = (bounded(1), bounded(1));
        let slow = Arc::new(Slow { begun, go: goes, returned: AtomicBool::new(false) });
        let logger = Logger::new(LogLevel::Warn, Some(slow.clone()), Arc::default());
        thread::scope(|scope| {
            scope.spawn(|| logger.log(LogLevel::Warn, || "slow".to_owned()));
            has_begun.recv().unwrap();
            scope.spawn(|| {
                logger.end();
                assert!(slow.returned.load(Ordering::SeqCst), "a line is in the host's hands");
            });
            while !logger.calls.are_over() {
                thread::yield_now();
            }
            logger.log(LogLevel::Warn, || panic!("nobody reads this"));
            go.send(()).unwrap();
        });
        logger.turn_to(LogLevel::Warn, Some(slow));
        logger.log(LogLevel::Warn, || panic!("nobody reads this"));
    }

    /// Ends the logger that it is called by.
    struct Ending(OnceLock<Arc<Logger>>);

    impl Log for Ending {
        fn log(&self, _: LogLevel, _: &str) {
            self.0.get().unwrap().end();
        }
    }

    #[test]
    fn the_end_does_not_wait_for_its_own_thread() {
        let ending = Arc::new(Ending(OnceLock::new()));
        let logger = Arc::new(Logger::new(LogLevel::Warn, Some(ending.clone()), Arc::default()));
        assert!(ending.0.set(Arc::clone(&logger)).is_ok());
        logger.log(LogLevel::Warn, || "the last".to_owned());
        logger.log(LogLevel::Warn, || panic!("nobody reads this"));
    }
}
