//! A check, and its likes that differ from it in exactly one field.

use alta_auth::Check;

/// Each with the name of the field. The path is in none of them: what it changes is the scope's to say.
pub(crate) fn twins(base: Check<'_>) -> [(&'static str, Check<'_>); 6] {
    [
        ("session_id", Check { session_id: b"s2", ..base }),
        ("ip", Check { ip: b"192.0.2.8", ..base }),
        ("query", Check { query: b"token=1234", ..base }),
        ("origin", Check { origin: b"https://live.example.org", ..base }),
        ("user_agent", Check { user_agent: b"VLC/3.1", ..base }),
        ("scope", Check { scope: b"another", ..base }),
    ]
}
