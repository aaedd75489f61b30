//! The table of keys, for people: what README and `alta-auth config` show.

use std::fmt::Write as _;

use super::preset::PRESETS;
use super::table::{Default, KEYS, Reload};

/// A key as a person reads about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDoc {
    /// As in [`crate::Config::set`]; `param.NAME` and `header.NAME` stand for any name.
    pub name: &'static str,
    /// Keys of a section stand together.
    pub section: &'static str,
    /// Must be set, by the operator or a preset.
    pub required: bool,
    /// What holds when nothing is set; empty: nothing.
    pub default: &'static str,
    /// What kind of value it takes, e.g. `duration`.
    pub kind: &'static str,
    /// What the value is bounded by, e.g. `1ms to 1m`; may be empty.
    pub bounds: String,
    /// Whether a running engine can take over a new value.
    pub reload: bool,
    /// Whether a new value makes a running engine forget what it remembers.
    pub forgets: bool,
    /// What it does: one line of Markdown.
    pub text: &'static str,
}

pub(super) fn docs() -> impl Iterator<Item = KeyDoc> {
    KEYS.iter().map(|key| KeyDoc {
        name: key.name,
        section: key.section,
        required: matches!(key.default, Default::Required(_)),
        default: if let Default::Value(text) = key.default { text } else { "" },
        kind: key.kind.name(),
        bounds: key.kind.bounds(),
        reload: key.reload != Reload::Refused,
        forgets: key.reload == Reload::Forgets,
        text: key.text,
    })
}

/// The keys and presets as Markdown, for README.
pub(super) fn markdown() -> String {
    let mut out = String::new();
    let mut section = "";
    for key in docs() {
        if key.section != section {
            section = key.section;
            line(
                &mut out,
                format_args!("\n### {section}\n\n| key | default | value | meaning |\n|---|---|---|---|"),
            );
        }
        let default = match key.default {
            _ if key.required => "required".to_owned(),
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let kind = match key.bounds.as_str() {
            "" => key.kind.to_owned(),
            bounds if key.kind.ends_with("of") => format!("{} {bounds}", key.kind),
            bounds => format!("{}, {bounds}", key.kind),
        };
        line(&mut out, format_args!("| `{}` | {default} | {kind} | {} |", key.name, key.text));
    }
    let names = |of: fn(&KeyDoc) -> bool| {
        let names: Vec<_> = docs().filter(of).map(|key| format!("`{}`", key.name)).collect();
        names.join(", ")
    };
    line(
        &mut out,
        format_args!(
            "\n### Reload\n\nA running engine takes over every key but {}. It forgets what it remembers if one of \
             these changes: {}.",
            names(|key| !key.reload),
            names(|key| key.forgets)
        ),
    );
    line(
        &mut out,
        format_args!("\n### Presets\n\n| `backend.preset` | sets the defaults | for |\n|---|---|---|"),
    );
    for preset in PRESETS {
        let defaults: Vec<_> =
            preset.defaults.iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
        line(&mut out, format_args!("| `{}` | {} | {} |", preset.name, defaults.join(", "), preset.text));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_the_markdown_table() {
        for doc in docs() {
            for cell in [doc.text, doc.default, doc.kind, doc.bounds.as_str()] {
                assert!(!cell.contains(['|', '\n']), "{}: {cell}", doc.name);
            }
            assert!(doc.text.ends_with('.') && doc.text.matches('`').count() % 2 == 0, "{}", doc.name);
        }
    }
}
