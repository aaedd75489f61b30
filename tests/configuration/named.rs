//! Files that a configuration names: read if they are files, and only so far.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use alta_auth::{Config, ConfigError, Engine, StartError};

use super::{Files, with};

const HTTPS: (&str, &str) = ("backend.url", "https://127.0.0.1:1/auth");
const TLS: [&str; 3] = ["tls.ca_file", "tls.client_cert", "tls.client_key"];

/// What this comes to, if it does: who waits for a pipe's other end would wait for ever.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(work()));
    told.recv_timeout(Duration::from_secs(20)).expect("it is read for ever")
}

/// What an engine, too, says of it.
fn refused(config: &Config) -> ConfigError {
    let error = config.validate().expect_err("it was accepted");
    match Engine::new(config) {
        Err(StartError::Config(found)) => assert_eq!(found, error),
        other => panic!("{:?}", other.map(drop)),
    }
    error
}

fn pipe(files: &Files) -> PathBuf {
    let path = files.0.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    path
}

/// A certificate and its key, in a file.
pub(super) fn identity(files: &Files) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    files.write("both.pem", &(made.cert.pem() + &made.signing_key.serialize_pem()), 0o600)
}

#[test]
fn a_file_of_tls_that_is_none_or_does_not_end_is_told_with_its_key() {
    let files = Files::new();
    let good = identity(&files);
    let huge = files.0.path().join("huge.pem");
    File::create(&huge).and_then(|file| file.set_len(17 << 20)).expect("a sparse file");
    let gone = files.0.path().join("gone.pem");
    let unread: [(&Path, &str); 5] = [
        (&pipe(&files), "it is not a regular file; write it into one"),
        (Path::new("/dev/zero"), "it is not a regular file; write it into one"),
        (files.0.path(), "it is not a regular file; write it into one"),
        (&huge, "it is longer than 16 MiB; name a file that holds PEM and nothing else"),
        (&gone, "No such file or directory (os error 2)"),
    ];
    for (path, why) in unread {
        for key in TLS {
            let value = |of| if key == of { path } else { good.as_path() }.to_str().expect("ASCII");
            let mut keys = vec![HTTPS];
            keys.extend(TLS.map(|of| (of, value(of))));
            let config = with(&keys).expect("a path");
            let error = in_time(move || refused(&config));
            assert_eq!(error.key(), Some(key), "{error}");
            assert_eq!(error.to_string(), format!("{key}: {} cannot be read: {why}", path.display()));
        }
    }
}

#[test]
fn whatever_is_wrong_with_a_file_of_tls_its_key_is_told() {
    let files = Files::new();
    let (good, other) = (identity(&files), Files::new());
    let (good, other) = (good.to_str().expect("ASCII"), identity(&other));
    let empty = files.write("empty.pem", "", 0o600);
    let cases: [(&str, &str, &Path); 4] = [
        ("tls.ca_file", "no certificate in it", &empty),
        ("tls.client_cert", "no certificate in it", &empty),
        ("tls.client_key", "no unencrypted private key", &empty),
        ("tls.client_key", "tls.client_cert", &other),
    ];
    for (key, why, path) in cases {
        let keys = TLS.map(|of| (of, if key == of { path.to_str().expect("ASCII") } else { good }));
        let error = refused(&with(&[&[HTTPS], &keys[..]].concat()).expect("a path"));
        assert_eq!(error.key(), Some(key), "{error}");
        assert!(error.to_string().starts_with(&format!("{key}: ")), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_file_of_tls_may_be_a_link_and_one_that_nobody_needs_is_not_waited_for() {
    let files = Files::new();
    let link = files.0.path().join("link.pem");
    symlink(identity(&files), &link).expect("a link");
    let link = link.to_str().expect("ASCII");
    let config = with(&[HTTPS, ("tls.ca_file", link)]).expect("a path");
    assert_eq!(config.validate(), Ok(Vec::new()));

    let unused = with(&[("tls.ca_file", pipe(&files).to_str().expect("ASCII"))]).expect("a path");
    let warnings = in_time(move || unused.validate()).expect("nobody reads it");
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("tls.ca_file without an https URL"),
        "{warnings:?}"
    );
}

#[test]
fn a_secret_s_file_is_not_waited_for() {
    let files = Files::new();
    for key in ["header.X-Key", "param.key", "shadow.header.X-Key", "shadow.param.key"] {
        let path = files.0.path().join("pipe");
        let _ = fs::remove_file(&path);
        let config = with(&[(key, &format!("@{}", pipe(&files).display()))]).expect("a path");
        let error = in_time(move || refused(&config));
        assert_eq!(error.key(), Some(key));
        let why = "cannot be read: it is not a regular file; write it into one";
        assert_eq!(error.to_string(), format!("{key}: {} {why}", path.display()));
    }
}
