//! The C ABI against its contract: a C program that was written from the contract alone, before the library's side
//! existed (`tests/contract/`, a table from clause to case in `CLAUSES.md`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod toolchain;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use toolchain::{ROOT, library_directory, succeed};

/// Cases of what the library does not have yet. Each must fail: one that passes is to be taken off this list.
const NOT_YET: [&str; 0] = [
    // None.
];

/// The program, built against the header and linked with the shared library of this build.
fn program(directory: &Path) -> Command {
    // The loader looks for the SONAME, cargo makes only the plain name.
    for name in ["libalta_auth.so", "libalta_auth.so.0"] {
        std::os::unix::fs::symlink(library_directory().join("libalta_auth.so"), directory.join(name))
            .unwrap();
    }
    let (lib, out) = (directory.display(), directory.join("out"));
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-C"]).arg(Path::new(ROOT).join("tests/contract"));
    make.arg(format!("LIB_DIR={lib}")).arg(format!("OUT={}", out.display())).arg("build");
    succeed(&mut make);
    Command::new(out.join("contract"))
}

/// Cases wait more than they work: in so many processes side by side they take a part of the time.
const PARTS: usize = 8;

#[test]
fn every_clause_holds_but_those_that_are_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let list = program(directory.path()).arg("--list").output().unwrap();
    let cases: Vec<_> = String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(cases.len() > 130, "{cases:?}");
    let parts: Vec<_> = (0..PARTS)
        .map(|part| {
            let mut program = Command::new(directory.path().join("out/contract"));
            // Checks as many as the contract names; a thousand engines are for `make -C tests/contract run`.
            program.env("CONTRACT_ENGINES", "100").env("CONTRACT_CHECKS", "100000");
            program.args(cases.iter().skip(part).step_by(PARTS)).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let text: String = parts
        .into_iter()
        .map(|part| String::from_utf8_lossy(&part.wait_with_output().unwrap().stdout).into_owned())
        .collect();
    let named = |word: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(word));
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    let (passed, failed) = (named("ok "), named("FAIL "));
    assert_eq!(passed.union(&failed).count(), cases.len(), "each has its line: {text}");
    let expected: BTreeSet<String> = NOT_YET.map(str::to_owned).into();
    let broken: Vec<_> = failed.difference(&expected).collect();
    assert!(broken.is_empty(), "{broken:?}\n{text}");
    let mended: Vec<_> = expected.difference(&failed).collect();
    assert!(mended.is_empty(), "these pass now, take them off NOT_YET: {mended:?}");
}

#[test]
fn every_case_is_in_the_table_of_clauses() {
    let directory = tempfile::tempdir().unwrap();
    drop(program(directory.path()));
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-C"]).arg(Path::new(ROOT).join("tests/contract"));
    make.arg(format!("LIB_DIR={}", directory.path().display()));
    make.arg(format!("OUT={}", directory.path().join("out").display())).arg("clauses");
    succeed(&mut make);
}
