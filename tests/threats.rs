//! docs/threats.md names tests that exist.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_test_that_the_table_of_threats_names_exists() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/threats.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    // The form itself, and the place of the C cases, are named as well.
    let names: Vec<_> = quoted
        .filter_map(|word| word.split_once("::"))
        .filter(|&(file, test)| file != "file" && !test.is_empty())
        .collect();
    assert!(names.len() > 100, "{} names: the table is read wrongly", names.len());
    let missing: Vec<_> = names.iter().filter(|(file, test)| !exists(file, test)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
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
