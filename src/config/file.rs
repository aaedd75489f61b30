//! A configuration file: TOML with the same keys, as tables (`[backend]`, `url = …`), dotted (`backend.url = …`)
//! or quoted (`"backend.url" = …`). Numbers, `true`/`false` and arrays may be written as such where they fit.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table;

/// One key of a file, its value as [`super::Config::set`] takes it.
pub(super) struct Given {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) line: usize,
}

/// Why a file was not accepted, and where, as far as that is known.
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) key: Option<String>,
    pub(super) why: String,
}

/// Every key of a TOML text, in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Given>, Fault> {
    let newlines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_of = |at: usize| 1 + newlines.partition_point(|&newline| newline < at);
    let document = DeTable::parse(text).map_err(|error| Fault {
        line: line_of(error.span().map_or(0, |span| span.start)),
        key: None,
        // Not the error's Display, which quotes the line, and the line may be a secret.
        why: format!("not TOML: {}", error.message()),
    })?;
    let mut leaves = Vec::new();
    flatten("", document.get_ref(), &mut leaves);
    leaves.sort_by_key(|leaf| leaf.at);
    leaves
        .into_iter()
        .map(|Leaf { key, value, at }| match value_text(&key, value) {
            Ok(value) => Ok(Given { key, value, line: line_of(at) }),
            Err((known, why)) => Err(Fault { line: line_of(at), key: known.then_some(key), why }),
        })
        .collect()
}

struct Leaf<'a> {
    key: String,
    value: &'a DeValue<'a>,
    at: usize,
}

fn flatten<'a>(prefix: &str, table: &'a DeTable<'a>, leaves: &mut Vec<Leaf<'a>>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => flatten(&format!("{name}."), table, leaves),
            leaf => leaves.push(Leaf { key: name, value: leaf, at: key.span().start }),
        }
    }
}

/// The error says whether the key is known, which decides how it is told.
fn value_text(written: &str, value: &DeValue<'_>) -> Result<String, (bool, String)> {
    let (key, _) = table::find(written).map_err(|why| (false, why))?;
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string())
            .filter(|digits| key.kind.takes_integer(digits)),
        DeValue::Boolean(on) if key.kind.takes_boolean() => Some(if *on { "on" } else { "off" }.to_owned()),
        _ => None,
    };
    match value {
        DeValue::Array(items) if key.kind.is_list() => {
            let texts: Option<Vec<_>> = items.iter().map(|item| scalar(Spanned::get_ref(item))).collect();
            let texts = texts.ok_or_else(|| {
                (true, "its array holds something that is not text; quote each item".into())
            })?;
            Ok(texts.join(","))
        }
        value => scalar(value).ok_or_else(|| (true, mismatch(value))),
    }
}

fn mismatch(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Array(_) => "takes one value, and the file has an array; write one value".to_owned(),
        other => format!(
            "takes text, and the file has {} {}; write it in quotes",
            article(other),
            other.type_str()
        ),
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    if matches!(value, DeValue::Integer(_)) { "an" } else { "a" }
}
