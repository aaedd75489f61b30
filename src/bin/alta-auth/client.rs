//! What is known about one client, owned: what the options say, completed by a URL or by a line of a batch.

use std::os::unix::ffi::OsStrExt as _;

use alta_auth::Check;

use crate::args::ClientArgs;
use crate::client_url::ClientUrl;

/// The fields of a [`Check`], owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) session_id: Vec<u8>,
    pub(crate) ip: Vec<u8>,
    pub(crate) path: Vec<u8>,
    pub(crate) query: Vec<u8>,
    pub(crate) origin: Vec<u8>,
    pub(crate) user_agent: Vec<u8>,
    pub(crate) scope: Vec<u8>,
}

impl Client {
    /// What the options say; the rest stays empty.
    pub(crate) fn of_args(args: &ClientArgs) -> Self {
        let bytes = |value: &Option<std::ffi::OsString>| {
            value.as_deref().map_or(Vec::new(), |value| value.as_bytes().to_vec())
        };
        Self {
            session_id: bytes(&args.session),
            ip: bytes(&args.ip),
            origin: bytes(&args.origin),
            user_agent: bytes(&args.user_agent),
            scope: bytes(&args.scope),
            ..Self::default()
        }
    }

    /// Path and query are the URL's; its origin too, unless one is known already.
    pub(crate) fn set_url(&mut self, url: &ClientUrl<'_>) {
        self.path = url.path.to_vec();
        self.query = url.query.to_vec();
        if self.origin.is_empty() {
            self.origin = url.origin();
        }
    }

    pub(crate) fn check(&self) -> Check<'_> {
        Check {
            session_id: &self.session_id,
            ip: &self.ip,
            path: &self.path,
            query: &self.query,
            origin: &self.origin,
            user_agent: &self.user_agent,
            scope: &self.scope,
            ..Check::default()
        }
    }
}
