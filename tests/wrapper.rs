//! The C++ wrapper where threads meet, and processes part.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;
mod toolchain;

use std::path::Path;

use support::{Reply, Scripted};
use toolchain::{ROOT, WARNINGS, command, library_directory, read, succeed};

/// Of `tests/wrapper`, asking a backend that lets everyone in.
fn runs(name: &str) {
    runs_with(name, &Path::new(ROOT).join("include"));
}

fn runs_with(name: &str, headers: &Path) {
    let backend = Scripted::new(|_| Reply::status(200, "X-AuthDuration: 600\r\n"));
    let directory = tempfile::tempdir().unwrap();
    // The loader looks for the SONAME, cargo makes only the plain name.
    for name in ["libalta_auth.so", "libalta_auth.so.0"] {
        let library = library_directory().join("libalta_auth.so");
        std::os::unix::fs::symlink(library, directory.path().join(name)).unwrap();
    }
    let program = directory.path().join(name);
    let mut build = command("c++", ["-std=c++17", "-O1", "-g", "-pthread", "-o"]);
    build.arg(&program).args(WARNINGS).arg(Path::new(ROOT).join(format!("tests/wrapper/{name}.cpp")));
    build.arg("-I").arg(headers).arg(format!("-L{}", directory.path().display()));
    build.arg(format!("-Wl,-rpath,{}", directory.path().display())).arg("-lalta_auth");
    succeed(&mut build);
    assert_eq!(succeed(&mut command(program.to_str().unwrap(), [backend.url()])), "ok\n");
}

#[test]
fn tickets_are_whole_before_their_callable_runs_and_a_log_may_come_back_in_a_reload() {
    runs("tickets");
}

#[test]
fn tickets_are_whole_before_a_queue_gives_their_decision_and_left_alone_after() {
    runs("queued");
}

#[test]
fn the_end_of_an_engine_in_a_forked_child_destroys_no_callable_of_the_parents() {
    runs("forks");
}

#[test]
fn a_field_that_only_the_program_knows_is_absent_from_every_decision() {
    let header = read("include/alta_auth.h");
    let grown =
        header.replace("} alta_auth_decision;", "    uint64_t newer;\n} alta_auth_decision;").replace(
            "      ALTA_AUTH_STR_INIT }\n#define ALTA_AUTH_COMPLETION_INIT",
            "      ALTA_AUTH_STR_INIT, 0 }\n#define ALTA_AUTH_COMPLETION_INIT",
        );
    assert_eq!(grown.len(), header.len() + "    uint64_t newer;\n, 0".len(), "the header has another form");
    let headers = tempfile::tempdir().unwrap();
    std::fs::write(headers.path().join("alta_auth.h"), grown).unwrap();
    std::fs::write(headers.path().join("alta_auth.hpp"), read("include/alta_auth.hpp")).unwrap();
    runs_with("newer", headers.path());
}
