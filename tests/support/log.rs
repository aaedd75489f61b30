//! The engine's log, kept.

use std::sync::Arc;

use alta_auth::{Log, LogLevel};
use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<(LogLevel, String)>>);

impl Log for Lines {
    fn log(&self, level: LogLevel, message: &str) {
        self.0.lock().push((level, message.to_owned()));
    }
}

impl Lines {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn all(&self) -> Vec<(LogLevel, String)> {
        self.0.lock().clone()
    }

    pub(crate) fn warns_of(&self, word: &str) -> bool {
        self.0.lock().iter().any(|(level, line)| *level == LogLevel::Warn && line.contains(word))
    }
}
