//! `unix.peer_uid`: a Unix socket is asked only if the user whom the operator named serves it. Who binds the
//! path first as somebody else is told nothing, and his answer counts for nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod command;
mod support;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use alta_auth::{Cause, Verdict};
use command::Backend;
use support::{ask, assert_backend, assert_default, bad, engine, good, not_possible_here};

/// Debian's `nobody`; any user but the one who runs the tests.
const OTHER: u32 = 65_534;

fn listen(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

fn own_uid(directory: &tempfile::TempDir) -> u32 {
    directory.path().metadata().unwrap().uid()
}

/// Asks with a token that the backend allows, under both default actions, and expects that nobody is asked.
#[track_caller]
fn refused(url: &str, served_by: u32, wanted: u32) {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let engine = engine(url, &[("unix.peer_uid", &wanted.to_string()), ("default_action", action)]);
        let decision = ask(&engine, &good());
        assert_default(&decision, verdict, Cause::Connect);
        let why = format!("is served by user {served_by}, not by unix.peer_uid = {wanted}");
        assert!(decision.detail().contains(&why), "{}", decision.detail());
    }
}

#[test]
fn the_user_who_was_named_is_asked_and_any_other_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let uid = own_uid(&directory);
    let backend = Backend::listen(&listen(&directory.path().join("auth.sock")), &[]);
    let url = format!("{}:/auth", backend.url);
    // Unset: whoever serves the path is the backend.
    for keys in [&[][..], &[("unix.peer_uid", uid.to_string())]] {
        let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let engine = engine(&url, &keys);
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
        assert_backend(&ask(&engine, &bad()), Verdict::Deny, 403);
    }
    for wanted in [uid + 1, OTHER - 1] {
        refused(&url, uid, wanted);
    }
    let counted = backend.finish();
    assert!(
        counted.starts_with("4 requests on ") && counted.ends_with(": 2 allowed, 2 denied, 0 cut"),
        "{counted}"
    );
}

#[test]
fn a_socket_that_another_user_bound_first_is_told_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let uid = own_uid(&directory);
    if uid != 0 {
        let test = "a_socket_that_another_user_bound_first_is_told_nothing";
        return not_possible_here(test, "only root may start a server as another user");
    }
    // Where another user may bind, and a copy of the command that he may run.
    let program = directory.path().join("alta-auth");
    std::fs::copy(env!("CARGO_BIN_EXE_alta-auth"), &program).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let socket = directory.path().join("auth.sock");
    let mut command = Command::new(&program);
    command.args(["backend", "--listen", &listen(&socket)]).current_dir("/").uid(OTHER).gid(OTHER);
    let backend = Backend::spawn(&mut command);
    assert_eq!(socket.metadata().unwrap().uid(), OTHER);
    let url = format!("{}:/auth", backend.url);

    refused(&url, OTHER, uid);
    let counted = backend.finish();
    assert!(counted.starts_with("0 requests on "), "{counted}");

    // He is whom to ask if the operator says so.
    let backend = Backend::spawn(&mut command);
    let engine = engine(&url, &[("unix.peer_uid", &OTHER.to_string())]);
    assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
    assert!(backend.finish().starts_with("1 request on "));
}
