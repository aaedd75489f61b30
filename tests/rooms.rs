//! ARCHITECTURE.md names every room of the source.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

/// A folder by its own name; a file that has none beside it by the file's.
#[test]
fn every_file_and_folder_of_the_source_is_in_the_table_of_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let rooms: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `src/")?.split_once(" |"))
        .map(|(rooms, _)| rooms)
        .collect();
    assert!(rooms.len() > 10, "{} rows: the table is read wrongly", rooms.len());
    let named = |room: &str| {
        rooms.iter().any(|row| row.split("`, `src/").any(|one| one.trim_end_matches('`').starts_with(room)))
    };
    let mut missing = Vec::new();
    for entry in root.join("src").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let room = if path.is_dir() { format!("{name}/") } else { name.to_owned() };
        if !path.with_extension("").is_dir() || path.is_dir() {
            missing.extend((!named(&room)).then_some(room));
        }
    }
    missing.sort();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md: {missing:?}");
}
