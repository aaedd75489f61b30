//! The log: one line an event, handed to the host's own.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::RwLock;

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
    /// One line: foreign bytes escaped, no query, no header value. Called on any thread of the engine, no lock
    /// held; it must not block.
    fn log(&self, level: LogLevel, message: &str);
}

/// The host's log, up to the configured level. Both can change while the engine runs.
pub(crate) struct Logger {
    to: RwLock<(LogLevel, Option<Arc<dyn Log>>)>,
}

impl Logger {
    pub(crate) fn new(level: LogLevel, sink: Option<Arc<dyn Log>>) -> Self {
        Self { to: RwLock::new((level, sink)) }
    }

    /// Lines go there from now on.
    pub(crate) fn turn_to(&self, level: LogLevel, sink: Option<Arc<dyn Log>>) {
        *self.to.write() = (level, sink);
    }

    /// The line is only made if somebody reads it.
    pub(crate) fn log(&self, level: LogLevel, line: impl FnOnce() -> String) {
        let sink = {
            let to = self.to.read();
            if level > to.0 { None } else { to.1.clone() }
        };
        // No lock is held while the host's code runs.
        if let Some(sink) = sink {
            let line = escaped(&line());
            // A log that panics costs its line and nothing else.
            let _ = catch_unwind(AssertUnwindSafe(|| sink.log(level, &line)));
        }
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
        let logger = Logger::new(LogLevel::Warn, Some(lines.clone()));
        logger.log(LogLevel::Error, || "one".to_owned());
        logger.log(LogLevel::Warn, || "two".to_owned());
        logger.log(LogLevel::Info, || panic!("nobody reads this"));
        assert_eq!(*lines.0.lock(), ["error one", "warn two"]);
    }

    #[test]
    fn a_line_stays_one_line() {
        let lines = Arc::new(Lines::default());
        let logger = Logger::new(LogLevel::Warn, Some(lines.clone()));
        logger.log(LogLevel::Warn, || "a\r\nerror forged \u{1b}[31m\u{202e}".to_owned());
        assert_eq!(*lines.0.lock(), ["warn a\\r\\nerror forged \\u{1b}[31m\\u{202e}"]);
    }
}
