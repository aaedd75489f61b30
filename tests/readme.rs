//! README's table of configuration keys is the library's own.

use std::path::Path;

const BEGIN: &str = "<!-- keys -->\n";
const END: &str = "<!-- /keys -->";

#[test]
fn readme_shows_exactly_the_keys_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md is there");
    let (_, rest) = readme.split_once(BEGIN).unwrap_or_else(|| panic!("README.md lacks the line {BEGIN:?}"));
    let (shown, rest) = rest.split_once(END).unwrap_or_else(|| panic!("README.md lacks the line {END:?}"));
    assert!(!rest.contains(BEGIN), "README.md has the section twice");

    let table = alta_auth::Config::readme_table();
    if shown != table {
        println!("Between the two marks, README.md must be:\n{BEGIN}{table}{END}");
        panic!("README.md and the table of keys differ; paste the text above");
    }
}
