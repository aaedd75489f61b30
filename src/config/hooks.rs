//! What a host wants run on every thread of an engine, around everything else that runs there.

use std::sync::Arc;

type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct ThreadHooks {
    pub(crate) start: Option<Hook>,
    pub(crate) stop: Option<Hook>,
}
