//! docs/threats.md names tests that exist.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_test_that_the_table_of_threats_names_exists() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/threats.md")).unwrap();
    // The form itself, and the place of the C cases, are named as well.
    let names: Vec<_> = quoted(&text)
        .into_iter()
        .filter_map(|word| word.split_once("::"))
        .filter(|&(file, test)| file != "file" && !test.is_empty())
        .collect();
    assert!(names.len() > 100, "{} names: the table is read wrongly", names.len());
    let missing: Vec<_> = names.iter().filter(|(file, test)| !exists(file, test)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_name_is_read_between_as_many_backticks_as_it_begins_with() {
    let text = "| `a::b`, ``c::d`` and ``e `f` g`` | ```h``i``` |";
    assert_eq!(quoted(text), ["a::b", "c::d", "e `f` g", "h``i"]);
}

/// What stands between two equal runs of backticks.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let inner = rest[start..].trim_start_matches('`');
        let run = rest.len() - start - inner.len();
        let ticks = &rest[start..][..run];
        let end = inner
            .match_indices(ticks)
            .map(|(at, _)| at)
            .find(|&at| !inner[..at].ends_with('`') && !inner[at + run..].starts_with('`'));
        let end = end.unwrap_or_else(|| panic!("no end: {}", inner.lines().next().unwrap_or_default()));
        found.push(&inner[..end]);
        rest = &inner[end + run..];
    }
    found
}

fn exists(file: &str, test: &str) -> bool {
    if file == "contract" {
        let case = format!("CASE({test})");
        let folder = Path::new(ROOT).join("tests/contract").read_dir().unwrap();
        return folder
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "c"))
            .any(|path| std::fs::read_to_string(path).unwrap().contains(&case));
    }
    let path = if file.starts_with("src/") { file.to_owned() } else { format!("tests/{file}.rs") };
    let function = format!("fn {test}(");
    std::fs::read_to_string(Path::new(ROOT).join(path)).is_ok_and(|text| text.contains(&function))
}
