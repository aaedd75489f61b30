//! What an engine says in its log, for tests to read.

use std::sync::Arc;

use parking_lot::Mutex;

use super::support::Surroundings;
use crate::observe::{Log, LogLevel};

#[derive(Default)]
pub(super) struct Lines(Mutex<Vec<(LogLevel, String)>>);

impl Log for Lines {
    fn log(&self, level: LogLevel, line: &str) {
        self.0.lock().push((level, line.to_owned()));
    }
}

impl Lines {
    /// What was said since this was asked last.
    pub(super) fn take(&self) -> Vec<(LogLevel, String)> {
        std::mem::take(&mut self.0.lock())
    }

    /// All that was said since then, without the levels.
    pub(super) fn said(&self) -> Vec<String> {
        self.0.lock().iter().map(|(_, line)| line.clone()).collect()
    }
}

pub(super) fn listened_to() -> (Arc<Lines>, Surroundings) {
    let lines = Arc::new(Lines::default());
    let surroundings = Surroundings { log: Some(Arc::clone(&lines) as _), ..Surroundings::default() };
    (lines, surroundings)
}
