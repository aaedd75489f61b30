//! The C ABI against its contract: a C program that was written from the contract alone, before the library's side
//! existed (`tests/contract/`, a table from clause to case in `CLAUSES.md`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "a case that says that it shows nothing is shown")]

mod toolchain;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use toolchain::{ROOT, library_directory, read, succeed};

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
fn every_clause_holds() {
    let directory = tempfile::tempdir().unwrap();
    let list = program(directory.path()).arg("--list").output().unwrap();
    let cases: BTreeSet<_> = String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect();
    // The others in backquotes are cases, as the test below says; this one is a program of its own.
    let clauses = read("tests/contract/CLAUSES.md");
    let named = clauses.split('`').skip(1).step_by(2).filter(|name| *name != "dlopen_twice");
    let named =
        named.filter(|name| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')));
    assert_eq!(cases, named.map(str::to_owned).collect());
    let run = |cases: &mut dyn Iterator<Item = &String>| {
        let mut program = Command::new(directory.path().join("out/contract"));
        // Checks as many as the contract names; a thousand engines are for `make -C tests/contract run`. A case that hangs
        // is named before the time of this test is up.
        program.env("CONTRACT_ENGINES", "100").env("CONTRACT_CHECKS", "100000").env("CONTRACT_LIMIT", "40");
        program.args(cases).stdout(Stdio::piped()).spawn().unwrap()
    };
    let parts: Vec<_> = (0..PARTS).map(|part| run(&mut cases.iter().skip(part).step_by(PARTS))).collect();
    let text: String = parts
        .into_iter()
        .map(|part| String::from_utf8_lossy(&part.wait_with_output().unwrap().stdout).into_owned())
        .collect();
    let (passed, failed, untested) =
        (named_by("ok ", &text), named_by("FAIL ", &text), named_by(NOT_TESTED, &text));
    assert!(failed.is_empty(), "{failed:?}\n{text}");
    assert_eq!(&passed | &untested, cases, "each has its line: {text}");
    text.lines().filter(|line| line.starts_with(NOT_TESTED)).for_each(|line| eprintln!("{line}"));
    if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
        // Once more, with the machine to itself.
        for case in &untested {
            let output = run(&mut [case].into_iter()).wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(named_by("ok ", &text).contains(case), "{text}");
        }
    }
}

const NOT_TESTED: &str = "NOT TESTED ";

/// The cases that have such a line.
fn named_by(word: &str, text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_case_is_in_the_table_of_clauses() {
    let directory = tempfile::tempdir().unwrap();
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-C"]).arg(Path::new(ROOT).join("tests/contract"));
    make.arg(format!("OUT={}", directory.path().join("out").display())).arg("clauses");
    succeed(&mut make);
}
