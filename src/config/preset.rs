//! What is known about each backend with a name, as defaults of other keys. Where each fact is from:
//! docs/protocol.md.
//!
//! A preset only fills in what the operator did not set, in whatever order things were set.

/// A backend with a name: `backend.preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresetDoc {
    /// The value of `backend.preset`.
    pub name: &'static str,
    /// The defaults that it sets: key and value.
    pub defaults: &'static [(&'static str, &'static str)],
    /// One line.
    pub text: &'static str,
}

pub(super) const PRESETS: &[PresetDoc] = &[
    PresetDoc { name: "custom", defaults: &[], text: "Any backend." },
    PresetDoc {
        name: "ministra",
        // The token lives 5 s and a later check with it is refused: one answer, within the budget, decides for
        // the whole session.
        defaults: &[("scope", "session"), ("refresh", "never"), ("timeout", "2s")],
        text: "Ministra (Stalker) portal, `http://HOST/stalker_portal/server/api/chk_flussonic_tmp_link.php`. \
               Pass, with every check of a session, the query, ip, user_agent and origin that opened it.",
    },
    PresetDoc {
        name: "iptvportal",
        defaults: &[("backend.url", "https://go.iptvportal.cloud/auth/arescrypt/")],
        text: "IPTVPORTAL, its public address.",
    },
    PresetDoc {
        name: "smarty",
        // The vendor does not say which status an error has: a refusing status and a refusing body both work.
        defaults: &[("verdict.body", "json:error==0"), ("param.ip", "{ip}")],
        text: "Smarty middleware, `http://HOST/tvmiddleware/api/streamservice/token/check/` \
               (the slash at its end belongs to it).",
    },
];

pub(super) fn find(name: &str) -> Option<&'static PresetDoc> {
    PRESETS.iter().find(|preset| preset.name == name)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}
