//! What a host wants run on every thread of an engine, around everything else that runs there.

use std::sync::Arc;

type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct ThreadHooks {
    pub(crate) start: Option<Hook>,
    pub(crate) stop: Option<Hook>,
}

impl ThreadHooks {
    /// Runs `start` now and `stop` when the guard is dropped, at the thread's end.
    pub(crate) fn enter(self) -> impl Drop {
        if let Some(start) = &self.start {
            start();
        }
        AtEnd(self.stop)
    }
}

struct AtEnd(Option<Hook>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop();
        }
    }
}
