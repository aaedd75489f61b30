//! What is fuzzed of the configuration. Whatever is accepted means the same when it is written down and read again.

use std::collections::BTreeMap;
use std::path::Path;

use super::value::{Kind, TTL_HEADERS, parse_duration, parse_size, show_duration, show_size};
use super::{BackendUrl, Config, ConfigError, Entry, Settings, secret_file};
use crate::backend::{HeaderField, ParamField, RequestPlan, StatusSet};

/// In a value that is secret, it must be seen nowhere.
const SECRET: &str = "hunter2";

/// A key and its value a line, separated by the first ` = `; in them VT stands for LF.
///
/// A key that is refused changes nothing; order does not matter; what is accepted, written as plainly as it can be and read
/// again gives the same settings, also by way of a TOML file; no text that leaves the room shows a secret.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut config = Config::new();
    for line in text.split('\n') {
        let line = line.replace('\x0B', "\n");
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let before = values(&config);
        match config.set(key, value) {
            Ok(()) => means_the_same_written_down(&config, key, value),
            Err(error) => {
                assert_eq!(values(&config), before, "a failed call changes nothing");
                let secret = super::table::find(key).is_ok_and(|(row, _)| row.kind.is_secret());
                said(&error, secret && !key.contains(SECRET));
            }
        }
    }
    through_a_file(&config);
    if reads_files(&config) {
        return;
    }
    let settings = config.settings();
    let mut reversed = Config::new();
    let mut plain = Config::new();
    for entry in config.values.values().rev() {
        let key = entry.key();
        reversed.set(&key, &entry.value).expect("it was accepted before");
        plain.set(&key, &written(entry)).expect("it is what was accepted");
    }
    let all_secret = config.values.iter().all(|(key, entry)| {
        // A URL's host and port are no secret.
        let labels = match entry.row.kind {
            Kind::Urls(_) => BackendUrl::parse_list(&entry.value).unwrap_or_default(),
            _ => Vec::new(),
        };
        !key.contains(SECRET)
            && (entry.row.kind.is_secret() || !entry.value.contains(SECRET))
            && !labels.iter().any(|url| url.label().contains(SECRET))
    });
    let mut shown = vec![format!("{config:?}")];
    match (settings, reversed.settings(), plain.settings()) {
        (Ok(settings), Ok(reversed), Ok(plain)) => {
            assert_same(&settings, &reversed);
            assert_same(&settings, &plain);
            shown.push(format!("{settings:?}"));
            for url in &settings.backends {
                assert!(!format!("{:?}", RequestPlan::new(url, &settings)).is_empty());
            }
        }
        (Err(error), Err(reversed), Err(plain)) => {
            assert_eq!(error, reversed);
            assert_eq!(error, plain);
            said(&error, all_secret);
        }
        (settings, reversed, plain) => {
            panic!("{:?}, {:?}, {:?}", settings.err(), reversed.err(), plain.err())
        }
    }
    assert!(!all_secret || shown.iter().all(|text| !text.contains(SECRET)), "{shown:?}");
}

/// A TOML file. One that is refused changes nothing, and the error names a line of it; one that is accepted says what the
/// same keys say one by one, and gives them again when they are written to a file.
pub fn toml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parsed(text, "file.toml") {
        Ok(config) => {
            for (key, entry) in &config.values {
                let mut one = Config::new();
                one.set(key, &entry.value).expect("the file was accepted");
                assert_eq!(values(&one).len(), 1);
                means_the_same_written_down(&config, key, &entry.value);
            }
            through_a_file(&config);
            if !text.contains("'''") && !text.contains("\"\"\"") {
                let other = text.replace("\r\n", "\n").replace('\n', "\r\n");
                let other = Config::parsed(&other, "file.toml").expect("line ends mean nothing");
                assert_eq!(values(&other), values(&config));
            }
        }
        Err(error) => {
            said(&error, text.contains("# no key holds a secret"));
            let line = error
                .to_string()
                .strip_prefix("file.toml line ")
                .and_then(|rest| rest.split_once(':').and_then(|(line, _)| line.parse::<usize>().ok()));
            let lines = text.split('\n').count();
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{error} of {lines}");
        }
    }
}

impl Entry {
    /// The key as it was written.
    fn key(&self) -> String {
        self.row.name.replace("NAME", &self.name)
    }
}

fn values(config: &Config) -> BTreeMap<String, (String, String)> {
    let entry = |(key, entry): (&String, &Entry)| (key.clone(), (entry.name.clone(), entry.value.clone()));
    config.values.iter().map(entry).collect()
}

fn said(error: &ConfigError, about_a_secret: bool) {
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!(about_a_secret && text.contains(SECRET)), "{text}");
}

/// Those of the machine that this runs on are none of our business, and some never end.
fn reads_files(config: &Config) -> bool {
    let harmless = |path: &Path| path == Path::new("/dev/null") || path.starts_with("/nowhere");
    config.values.values().any(|entry| match entry.row.kind {
        Kind::File(_) => !entry.value.trim().is_empty() && !harmless(Path::new(entry.value.trim())),
        _ => secret_file(&entry.row.kind, &entry.value).is_some_and(|path| !harmless(&path)),
    })
}

fn means_the_same_written_down(config: &Config, key: &str, value: &str) {
    let (row, _) = super::table::find(key).expect("it was accepted");
    let canonical =
        if matches!(row.kind, Kind::Header(_)) { key.to_ascii_lowercase() } else { key.to_owned() };
    let entry = &config.values[&canonical];
    assert_eq!(entry.value, value, "the last value of a key wins");
    let plain = written(entry);
    if is_left_alone(entry) {
        return;
    }
    let put = |value: &str| {
        let mut settings = Settings::blank();
        row.kind.put(&entry.name, value, &mut settings).expect("it was accepted");
        settings
    };
    assert_same(&put(value), &put(&plain));
    let again = Entry { row, name: entry.name.clone(), value: plain.clone() };
    assert_eq!(written(&again), plain, "what is plain stays");
}

/// Blank, where that means that nothing is set, or in a file.
fn is_left_alone(entry: &Entry) -> bool {
    let unset = matches!(entry.row.default, super::table::Default::Unset) && !entry.row.stands_for_many();
    (unset && entry.value.trim().is_empty()) || secret_file(&entry.row.kind, &entry.value).is_some()
}

/// The value as plainly as it can be put.
fn written(entry: &Entry) -> String {
    let value = entry.value.trim();
    if is_left_alone(entry) {
        return value.to_owned();
    }
    let accepted = "it was accepted";
    match &entry.row.kind {
        Kind::Urls(_) => {
            let urls = BackendUrl::parse_list(value).expect(accepted);
            urls.iter().map(BackendUrl::written).collect::<Vec<_>>().join(",")
        }
        Kind::Duration { .. } => show_duration(parse_duration(value).expect(accepted)),
        Kind::Size { .. } => show_size(parse_size(value).expect(accepted)),
        Kind::Count { .. } => value.parse::<u64>().expect(accepted).to_string(),
        Kind::Percent { .. } => format!("{}%", value.trim_end_matches('%').parse::<u64>().expect(accepted)),
        Kind::Statuses { .. } => StatusSet::parse(value).expect(accepted).written(),
        Kind::BodyRule(_) => crate::backend::BodyRule::parse(value).expect(accepted).written(),
        Kind::TtlHeaders => {
            let mut settings = Settings::blank();
            entry.row.kind.put("", value, &mut settings).expect(accepted);
            let name = |header| TTL_HEADERS.iter().find(|(_, known)| *known == header).expect(accepted).0;
            settings.ttl.headers.into_iter().map(name).collect::<Vec<_>>().join(",")
        }
        Kind::Names(_) => value.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        Kind::Param(_) => ParamField::parse(&entry.name, &entry.value).expect(accepted).written(),
        Kind::Header(_) => HeaderField::parse(&entry.name, &entry.value).expect(accepted).written(),
        // A word is as plain as it can be; so is what is no duration.
        Kind::WordOr(..) => parse_duration(value).map_or_else(|_| value.to_owned(), show_duration),
        Kind::Rate(_) | Kind::Preset | Kind::Choice(_) | Kind::Switch(_) | Kind::File(_) | Kind::Host(_) => {
            value.to_owned()
        }
    }
}

/// The secrets too, which `Debug` does not show.
#[track_caller]
fn assert_same(one: &Settings, other: &Settings) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
    assert!(one.backends == other.backends, "other URLs");
    assert!(one.params == other.params && one.headers == other.headers, "other templates");
    let (one, other) = (&one.shadow, &other.shadow);
    assert!(one.urls == other.urls, "other URLs of the shadow");
    assert!(one.params == other.params && one.headers == other.headers, "other templates of the shadow");
}

fn through_a_file(config: &Config) {
    let quoted = |text: &str| {
        let escaped = text.chars().map(|char| match char {
            '"' | '\\' => format!("\\{char}"),
            char if char.is_control() => format!("\\u{:04x}", u32::from(char)),
            char => char.to_string(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    };
    let line = |entry: &Entry| format!("{} = {}\n", quoted(&entry.key()), quoted(&entry.value));
    let file: String = config.values.values().map(line).collect();
    let read = Config::parsed(&file, "file.toml").unwrap_or_else(|error| panic!("{error}: {file}"));
    assert_eq!(values(&read), values(config));
}
