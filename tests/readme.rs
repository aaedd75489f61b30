//! README's table of configuration keys, and docs/operating.md's of counters, are the library's own.

use std::path::Path;

use alta_auth::{ShadowStats, Stats};

/// Between the two marks of its name `document` shows this table.
#[track_caller]
fn assert_shows(document: &str, name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{document} lacks the line {begin:?}"));
    let (shown, rest) = rest.split_once(&end).unwrap_or_else(|| panic!("{document} lacks the line {end:?}"));
    assert!(!rest.contains(&begin), "{document} has the section twice");
    assert!(shown == table, "between the two marks, {document} must be:\n{begin}{table}{end}");
}

#[test]
fn readme_shows_exactly_the_keys_that_exist() {
    assert_shows("README.md", "keys", &alta_auth::Config::readme_table());
}

#[test]
fn operating_shows_exactly_the_counters_that_exist() {
    let mut stats = Stats::default();
    stats.shadow = Some(ShadowStats::default());
    let page = stats.prometheus();
    let heads: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    let rows = heads.chunks(2).map(|head| {
        let (name, help) = head[0].strip_prefix("HELP ").unwrap().split_once(' ').unwrap();
        let kind = head[1].strip_prefix("TYPE ").unwrap().strip_prefix(name).unwrap().trim();
        format!("| `{name}` | {kind} | {help} |\n")
    });
    let table = format!("| name | kind | meaning |\n|---|---|---|\n{}", rows.collect::<String>());
    assert_shows("docs/operating.md", "counters", &table);
}
