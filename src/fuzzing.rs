//! What is fuzzed: a function for each target, from bytes to assertions. Here in tests and under `cfg(fuzzing)` only.
//!
//! What a target asserts is in the room that it is about, as it asks after what no host can see. The programs for
//! cargo-fuzz (`fuzz/fuzz_targets`) call these functions; so does the test below, with every input of `fuzz/corpus`.
//!
//! Inputs are text as far as they can be, so that a person can write and read them: see [`lines`].

pub use crate::backend::fuzzing::{query, reply};
pub use crate::config::fuzzing::{configuration, toml};
pub use crate::ffi::fuzzing::abi;
pub use crate::transport::fuzzing::wire;

/// The first `N` lines of an input, and the bytes after them. In a line VT stands for LF; a missing line is empty.
pub(crate) fn lines<const N: usize>(input: &[u8]) -> ([Vec<u8>; N], &[u8]) {
    let mut rest = input;
    let lines = [(); N].map(|()| {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 1..]);
        line.iter().map(|&byte| if byte == b'\x0B' { b'\n' } else { byte }).collect()
    });
    (lines, rest)
}

/// `key=value`, separated by tabs.
pub(crate) fn pairs(line: &[u8]) -> Vec<(&str, &str)> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    text.split('\t').filter_map(|pair| pair.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));
    const TARGETS: [Target; 6] = [
        ("abi", super::abi),
        ("configuration", super::configuration),
        ("query", super::query),
        ("reply", super::reply),
        ("toml", super::toml),
        ("wire", super::wire),
    ];

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fuzz() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
    }

    fn replayed(target: &str) {
        let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        let folder = fuzz().join("corpus").join(target);
        let inputs = names(&folder);
        assert!(inputs.len() >= 10, "{}: the corpus was lost", folder.display());
        for name in inputs {
            // Shown when an assertion fails.
            println!("{target}/{name}");
            run(&fs::read(folder.join(name)).unwrap());
        }
    }

    #[test]
    fn every_input_of_the_corpus_of_queries_keeps_its_properties() {
        replayed("query");
    }

    #[test]
    fn every_input_of_the_corpus_of_replies_keeps_its_properties() {
        replayed("reply");
    }

    #[test]
    fn every_input_of_the_corpus_of_configurations_keeps_its_properties() {
        replayed("configuration");
    }

    #[test]
    fn every_input_of_the_corpus_of_toml_files_keeps_its_properties() {
        replayed("toml");
    }

    #[test]
    fn every_input_of_the_corpus_of_the_c_abi_keeps_its_properties() {
        replayed("abi");
    }

    #[test]
    fn every_input_of_the_corpus_of_what_servers_send_keeps_its_properties() {
        replayed("wire");
    }

    #[test]
    fn each_target_has_a_program_and_a_corpus_and_nothing_else_is_there() {
        let targets = TARGETS.map(|(name, _)| name.to_owned());
        assert_eq!(names(&fuzz().join("corpus")), targets);
        assert_eq!(names(&fuzz().join("fuzz_targets")), targets.map(|name| format!("{name}.rs")));
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            let path = format!("fuzz_targets/{name}.rs");
            assert!(manifest.contains(&format!("path = \"{path}\"")), "{name} is not built");
            let program = fs::read_to_string(fuzz().join(path)).unwrap();
            assert!(program.contains(&format!("alta_auth::fuzzing::{name}(input)")), "{program}");
        }
    }
}
