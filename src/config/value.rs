//! The types that a key's value can have: how each is written, its bounds, and where it goes.
//!
//! Parse, don't validate: `Kind::put` is the one way from text to `Settings`; checking a value is putting it
//! into settings that are thrown away. Error texts are the second half of a sentence that begins with the key.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::url::{BackendUrl, MAX_URLS};
use super::{Rate, Settings, TtlHeader, host, preset};
use crate::backend::{BodyRule, HeaderField, ParamField, StatusSet};

/// One word of a closed set, and what it does.
pub(super) type Choice = (&'static str, fn(&mut Settings));

pub(super) enum Kind {
    Urls(fn(&mut Settings, Vec<BackendUrl>)),
    Preset,
    Choice(&'static [Choice]),
    Switch(fn(&mut Settings, bool)),
    Duration { min: Duration, max: Duration, put: fn(&mut Settings, Duration) },
    Size { min: usize, max: usize, put: fn(&mut Settings, usize) },
    Count { min: usize, max: usize, put: fn(&mut Settings, usize) },
    Rate(fn(&mut Settings, Option<Rate>)),
    WordOr(&'static [Choice], &'static Kind),
    Percent { max: u32, put: fn(&mut Settings, u32) },
    Statuses { first: u16, last: u16, put: fn(&mut Settings, StatusSet) },
    BodyRule(fn(&mut Settings, BodyRule)),
    TtlHeaders,
    Names(fn(&mut Settings, Vec<String>)),
    File(fn(&mut Settings, PathBuf)),
    Host(fn(&mut Settings, String)),
    Param(fn(&mut Settings, ParamField)),
    Header(fn(&mut Settings, HeaderField)),
}

pub(super) const TTL_HEADERS: [(&str, TtlHeader); 2] =
    [("x-authduration", TtlHeader::XAuthDuration), ("cache-control", TtlHeader::CacheControl)];

/// More at once is no limit.
const MOST_IN_A_RATE: usize = 1_000_000;

impl Kind {
    /// Parses `value` and puts it in its place. `name` is what stands for `NAME` in `param.NAME`.
    pub(super) fn put(&self, name: &str, value: &str, settings: &mut Settings) -> Result<(), String> {
        let trimmed = value.trim();
        match self {
            Self::Urls(put) => put(settings, BackendUrl::parse_list(value)?),
            Self::Preset => drop(preset::find(trimmed).ok_or_else(|| not_one_of(trimmed, preset::names()))?),
            Self::Choice(choices) => {
                let choice = choices.iter().find(|(word, _)| *word == trimmed);
                let (_, put) =
                    choice.ok_or_else(|| not_one_of(trimmed, choices.iter().map(|choice| choice.0)))?;
                put(settings);
            }
            Self::WordOr(words, other) => match words.iter().find(|(word, _)| *word == trimmed) {
                Some((_, put)) => put(settings),
                None => {
                    other.put(name, value, settings).map_err(|why| format!("{why}, or {}", either(words)))?;
                }
            },
            Self::Switch(put) => match trimmed {
                "on" => put(settings, true),
                "off" => put(settings, false),
                _ => return Err(not_one_of(trimmed, ["on", "off"])),
            },
            Self::Duration { min, max, put } => {
                let duration = parse_duration(trimmed)?;
                put(settings, bounded(duration, *min, *max, show_duration)?);
            }
            Self::Size { min, max, put } => {
                let bytes = parse_size(trimmed)?;
                put(settings, bounded(bytes, *min, *max, show_size)?);
            }
            Self::Count { min, max, put } => {
                let count = digits(trimmed)
                    .ok_or_else(|| format!("{} is not a whole number; write e.g. {min}", quoted(trimmed)))?;
                put(settings, bounded(count, *min, *max, |n| n.to_string())?);
            }
            Self::Rate(put) => put(settings, parse_rate(trimmed)?),
            Self::Percent { max, put } => {
                let number = trimmed.strip_suffix('%').or((trimmed == "0").then_some(trimmed));
                let percent = number
                    .and_then(digits)
                    .ok_or_else(|| format!("{} is not a percentage; write e.g. 10%", quoted(trimmed)))?;
                put(settings, bounded(percent, 0, *max as usize, |n| format!("{n}%"))? as u32);
            }
            Self::Statuses { first, last, put } => {
                let set = StatusSet::parse(trimmed)?;
                if let Some(status) = set.outside(*first, *last) {
                    return Err(format!(
                        "{status} is not possible here; write statuses from {first} to {last}"
                    ));
                }
                put(settings, set);
            }
            Self::BodyRule(put) => put(settings, BodyRule::parse(trimmed)?),
            Self::TtlHeaders => settings.ttl.headers = parse_ttl_headers(trimmed)?,
            Self::Names(put) => put(settings, list(trimmed)?.into_iter().map(str::to_owned).collect()),
            Self::File(put) => {
                if trimmed.contains('\0') {
                    return Err("a path cannot hold a NUL byte; remove it".to_owned());
                }
                put(settings, PathBuf::from(trimmed));
            }
            Self::Host(put) => {
                host::check(trimmed).map_err(|why| format!("{} {why}", quoted(trimmed)))?;
                put(settings, trimmed.to_owned());
            }
            Self::Param(put) => {
                put(settings, ParamField::parse(name, value)?);
            }
            Self::Header(put) => {
                put(settings, HeaderField::parse(name, value)?);
            }
        }
        Ok(())
    }

    /// Whether a value may be shown in a log or an error.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Urls(_) | Self::Param(_) | Self::Header(_))
    }

    /// Whether a TOML array makes sense.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Urls(_) | Self::Statuses { .. } | Self::TtlHeaders | Self::Names(_))
    }

    /// Whether a bare TOML integer makes sense. A duration is among them for the sake of its better error.
    pub(super) fn takes_integer(&self, digits: &str) -> bool {
        match self {
            Self::Duration { .. } | Self::Size { .. } | Self::Count { .. } | Self::Statuses { .. } => true,
            Self::Choice(choices) => choices.iter().any(|(word, _)| *word == digits),
            Self::WordOr(_, other) => other.takes_integer(digits),
            Self::Percent { .. } => digits == "0",
            _ => false,
        }
    }

    /// Whether a TOML `true` or `false` makes sense.
    pub(super) fn takes_boolean(&self) -> bool {
        match self {
            Self::Switch(_) => true,
            Self::Choice(choices) => {
                ["on", "off"].iter().all(|word| choices.iter().any(|choice| choice.0 == *word))
            }
            _ => false,
        }
    }

    /// For people: what kind of value this is.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Urls(_) => "list of URLs",
            Self::Preset | Self::Choice(_) | Self::Switch(_) => "one of",
            Self::Duration { .. } => "duration",
            Self::Size { .. } => "size",
            Self::Count { .. } => "number",
            Self::Rate(_) => "rate",
            Self::WordOr(_, other) => other.name(),
            Self::Percent { .. } => "percentage",
            Self::Statuses { .. } => "list of statuses",
            Self::BodyRule(_) => "body rule",
            Self::TtlHeaders => "list of",
            Self::Names(_) => "list of names",
            Self::File(_) => "file (PEM)",
            Self::Host(_) => "host name or address",
            Self::Param(_) | Self::Header(_) => "template, or @/path of a file that holds it",
        }
    }

    /// For people: what the value is bounded by; empty where nothing needs saying.
    pub(super) fn bounds(&self) -> String {
        match self {
            Self::Urls(_) => format!("1 to {MAX_URLS}"),
            Self::Preset => preset::names().collect::<Vec<_>>().join(", "),
            Self::Choice(choices) => choices.iter().map(|choice| choice.0).collect::<Vec<_>>().join(", "),
            Self::Switch(_) => "on, off".to_owned(),
            Self::Duration { min, max, .. } => range(&show_duration(*min), &show_duration(*max)),
            Self::Size { min, max, .. } => range(&show_size(*min), &show_size(*max)),
            Self::Count { min, max, .. } => range(&min.to_string(), &max.to_string()),
            Self::WordOr(words, other) => format!("{}, or {}", other.bounds(), either(words)),
            Self::Rate(_) => format!("1/s to {MOST_IN_A_RATE}/s, also /m and /h, or off"),
            Self::Percent { max, .. } => range("0%", &format!("{max}%")),
            Self::Statuses { first, last, .. } => range(&first.to_string(), &last.to_string()),
            Self::TtlHeaders => TTL_HEADERS.map(|header| header.0).join(", "),
            Self::BodyRule(_)
            | Self::Names(_)
            | Self::File(_)
            | Self::Host(_)
            | Self::Param(_)
            | Self::Header(_) => String::new(),
        }
    }
}

/// Longest unit in which it is a whole number: `1500ms`, `24h`, `0`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

/// A value as it may stand in an error: escaped, and cut so that a whole file given by mistake is not repeated.
pub(super) fn quoted(value: &str) -> String {
    const LONGEST: usize = 60;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}…\"", value[..end].escape_debug()),
        None => format!("\"{}\"", value.escape_debug()),
    }
}

/// A key as it may stand in an error or a warning: up to the first byte that no name needs. Who writes another sign for
/// the `=`, or none, has written the value into the key, and that may be a secret.
pub(crate) fn shown_key(written: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match written.bytes().position(|byte| !is_plain(byte)) {
        Some(end) => Cow::Owned(format!("{}…", &written[..end])),
        None => Cow::Borrowed(written),
    }
}

pub(super) fn show_size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1024 * 1024 * 1024) => format!("{}GiB", bytes / (1024 * 1024 * 1024)),
        _ if bytes.is_multiple_of(1024 * 1024) => format!("{}MiB", bytes / (1024 * 1024)),
        _ if bytes.is_multiple_of(1024) => format!("{}KiB", bytes / 1024),
        _ => bytes.to_string(),
    }
}

fn either(words: &[Choice]) -> String {
    words.iter().map(|choice| choice.0).collect::<Vec<_>>().join(", ")
}

fn range(min: &str, max: &str) -> String {
    format!("{min} to {max}")
}

fn bounded<T: PartialOrd + Copy>(value: T, min: T, max: T, show: fn(T) -> String) -> Result<T, String> {
    if value < min {
        Err(format!("{} is too low; write {}", show(value), range(&show(min), &show(max))))
    } else if value > max {
        Err(format!("{} is too high; write {}", show(value), range(&show(min), &show(max))))
    } else {
        Ok(value)
    }
}

/// Digits alone: no sign, no space, no separators. Saturates: every bound is far below.
fn digits(text: &str) -> Option<usize> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().unwrap_or(usize::MAX))
}

fn number_and_unit(text: &str) -> (Option<usize>, &str) {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    (digits(number), unit)
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let ms_per_unit = match number_and_unit(text) {
        (Some(0), "") => return Ok(Duration::ZERO),
        (Some(n), "") => {
            return Err(format!("{} has no unit; write {n}s or {}ms", quoted(text), n.saturating_mul(1000)));
        }
        (Some(n), "ms") => Some((n, 1)),
        (Some(n), "s") => Some((n, 1000)),
        (Some(n), "m") => Some((n, 60_000)),
        (Some(n), "h") => Some((n, 3_600_000)),
        _ => None,
    };
    let (n, ms) = ms_per_unit.ok_or_else(|| {
        format!("{} is not a duration; write a whole number with ms, s, m or h, e.g. 500ms", quoted(text))
    })?;
    Ok(Duration::from_millis((n as u64).saturating_mul(ms)))
}

pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let bytes_per_unit = match number_and_unit(text) {
        (Some(n), "") => Some((n, 1)),
        (Some(n), "KiB") => Some((n, 1024)),
        (Some(n), "MiB") => Some((n, 1024 * 1024)),
        (Some(n), "GiB") => Some((n, 1024 * 1024 * 1024)),
        _ => None,
    };
    let (n, bytes) = bytes_per_unit.ok_or_else(|| {
        format!(
            "{} is not a size; write a whole number of bytes, or with KiB, MiB or GiB, e.g. 64KiB",
            quoted(text)
        )
    })?;
    Ok(n.saturating_mul(bytes))
}

fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "off" {
        return Ok(None);
    }
    let rate = text.split_once('/').and_then(|(count, unit)| {
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some((digits(count)?, Duration::from_secs(seconds)))
    });
    let (count, per) = rate.ok_or_else(|| {
        format!("{} is not a rate; write a whole number and /s, /m or /h, e.g. 20/s, or off", quoted(text))
    })?;
    let count = bounded(count, 1, MOST_IN_A_RATE, |n| n.to_string())? as u32;
    Ok(NonZeroU32::new(count).map(|count| Rate { count, per }))
}

fn list(text: &str) -> Result<Vec<&str>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let items: Vec<_> = text.split(',').map(str::trim).collect();
    if items.contains(&"") {
        return Err("there is nothing between two commas; remove one of them".to_owned());
    }
    Ok(items)
}

fn parse_ttl_headers(text: &str) -> Result<Vec<TtlHeader>, String> {
    let mut headers = Vec::new();
    for item in list(text)? {
        let known = TTL_HEADERS.iter().find(|(name, _)| name.eq_ignore_ascii_case(item));
        let (name, header) = known.ok_or_else(|| not_one_of(item, TTL_HEADERS.map(|header| header.0)))?;
        if headers.contains(header) {
            return Err(format!("{name} is there twice; remove one"));
        }
        headers.push(*header);
    }
    Ok(headers)
}

fn not_one_of(value: &str, words: impl IntoIterator<Item = &'static str>) -> String {
    let words: Vec<_> = words.into_iter().collect();
    format!("{} is not one of {}; write one of them", quoted(value), words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_are_exact() {
        let ms = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in
            [("0", 0), ("0s", 0), ("500ms", 500), ("2s", 2000), ("10m", 600_000), ("24h", 86_400_000)]
        {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for bad in ["", "s", "1.5s", "-1s", "+1s", "1 s", "1sec", "1d", "1S", "ms", "１s", "1s2ms"] {
            assert!(ms(bad).unwrap_err().contains("is not a duration"), "{bad}");
        }
        assert_eq!(ms("2").unwrap_err(), r#""2" has no unit; write 2s or 2000ms"#);
        assert!(ms("99999999999999999999h").unwrap() > u128::from(u32::MAX), "saturates");
    }

    #[test]
    fn durations_and_sizes_are_shown_as_they_are_written() {
        for text in ["0", "1ms", "1500ms", "2s", "90s", "10m", "90m", "24h", "720h"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0", "1", "1000", "1KiB", "64KiB", "1025", "3MiB", "2GiB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
        for bad in ["", "KiB", "64KB", "64kib", "64 KiB", "-1", "1.5MiB", "1GB"] {
            assert!(parse_size(bad).unwrap_err().contains("is not a size"), "{bad}");
        }
        assert_eq!(parse_size("99999999999999999999MiB"), Ok(usize::MAX));
    }

    #[test]
    fn rates_have_a_count_and_a_unit() {
        for (text, count, per) in [("20/s", 20, 1), ("1/m", 1, 60), ("1000000/h", 1_000_000, 3600)] {
            let rate = parse_rate(text).unwrap().unwrap();
            assert_eq!((rate.count.get(), rate.per.as_secs()), (count, per));
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(parse_rate("off"), Ok(None));
        for bad in ["", "20", "20/", "/s", "20/sec", "20 / s", "-1/s", "1.5/s", "20/2s", "on"] {
            assert!(parse_rate(bad).unwrap_err().contains("is not a rate"), "{bad}");
        }
        assert!(parse_rate("0/s").unwrap_err().contains("too low"));
        assert!(parse_rate("1000001/s").unwrap_err().contains("too high"));
    }

    #[test]
    fn a_key_is_shown_as_far_as_it_can_be_one() {
        for (written, shown) in [
            ("header.X-Api_Key", "header.X-Api_Key"),
            ("header.X-Key: secret", "header.X-Key…"),
            ("param.é", "param.…"),
            (" ", "…"),
            ("", ""),
        ] {
            assert_eq!(shown_key(written), shown);
        }
    }

    #[test]
    fn quoted_values_are_escaped_and_cut() {
        assert_eq!(quoted("a\n\"b"), r#""a\n\"b""#);
        assert_eq!(quoted(&"é".repeat(61)), format!("\"{}…\"", "é".repeat(60)));
        assert_eq!(quoted(&"é".repeat(60)), format!("\"{}\"", "é".repeat(60)));
    }
}
