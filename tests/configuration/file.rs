//! A TOML file says what `set` says, and its mistakes are told with their line.

use std::fs;

use alta_auth::Config;

use super::{Files, with};

#[test]
fn every_spelling_of_a_file_says_what_set_says() {
    let set = with(&[
        ("timeout", "3s"),
        ("allow_statuses", "200,204"),
        ("protect_params", "name,ip"),
        ("pool.max_connections", "64"),
        ("path.check", "off"),
        ("ttl.jitter", "0"),
        ("ttl.allow", "0"),
        ("http.version", "2"),
        ("param.server", "edge-1"),
    ])
    .unwrap();
    let files = Files::new();
    let spellings = [
        r#"
        default_action = "deny"
        timeout = "3s"
        allow_statuses = [200, "204"]
        protect_params = ["name", "ip"]
        pool.max_connections = 64
        [backend]
        url = ["http://127.0.0.1:6000/auth"]
        [path]
        check = false
        [ttl]
        jitter = 0
        allow = 0
        [http]
        version = 2
        [param]
        server = "edge-1"
        "#,
        r#"
        "backend.url" = "http://127.0.0.1:6000/auth"
        default_action = "deny"
        timeout = "3s"
        allow_statuses = "200,204"
        protect_params = "name,ip"
        "pool.max_connections" = "64"
        "path.check" = "off"
        ttl = { jitter = "0", allow = "0" }
        http.version = "2"
        param."server" = "edge-1"
        "#,
    ];
    for text in spellings {
        let loaded = files.load(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(format!("{loaded:?}"), format!("{set:?}"));
    }
}

#[test]
fn a_file_and_set_share_one_last_value() {
    let files = Files::new();
    let path = files.write("auth.toml", "timeout = \"3s\"", 0o600);
    let mut config = with(&[("timeout", "4s"), ("scope", "directory")]).unwrap();
    config.load(&path).unwrap();
    assert!(format!("{config:?}").contains(r#""timeout": "3s""#), "{config:?}");
    assert!(format!("{config:?}").contains(r#""scope": "directory""#), "{config:?}");
    config.set("timeout", "5s").unwrap();
    assert!(format!("{config:?}").contains(r#""timeout": "5s""#), "{config:?}");
}

#[test]
fn a_bad_file_is_told_with_its_line_and_changes_nothing() {
    let table = [
        ("timeout = \"3s\"\nscope = \n", "line 2: not TOML: "),
        ("scope = \"path\"\nscope = \"path\"", "line 2: not TOML: "),
        ("scope = \"path\n", "line 1: not TOML: "),
        (
            "timeout = \"3s\"\n\n[pool]\nmax_connections = 0",
            "line 4: pool.max_connections: 0 is too low; write 1 to 65536",
        ),
        ("timeout = 3", r#"line 1: timeout: "3" has no unit; write 3s or 3000ms"#),
        ("timeout = 3.5", "line 1: timeout: takes text, and the file has a float; write it in quotes"),
        ("timeout = true", "line 1: timeout: takes text, and the file has a boolean; write it in quotes"),
        (
            "timeout = [\"3s\"]",
            "line 1: timeout: takes one value, and the file has an array; write one value",
        ),
        (
            "default_action = 1",
            "line 1: default_action: takes text, and the file has an integer; write it in quotes",
        ),
        (
            "http.version = 1.1",
            "line 1: http.version: takes text, and the file has a float; write it in quotes",
        ),
        (
            "param.date = 2026-01-01",
            "line 1: param.date: takes text, and the file has a datetime; write it in quotes",
        ),
        ("param.n = 5", "line 1: param.n: takes text, and the file has an integer; write it in quotes"),
        (
            "backend.url = [1]",
            "line 1: backend.url: its array holds something that is not text; quote each item",
        ),
        (
            "backend.url = [[\"http://a/\"]]",
            "line 1: backend.url: its array holds something that is not text; quote each item",
        ),
        (
            "[timeout]\nall = \"3s\"",
            r#"line 2: unknown key "timeout.all"; the command `alta-auth config` lists every key"#,
        ),
        ("\n[[pool]]\nmax_connections = 1", r#"line 2: unknown key "pool"; the command"#),
        (
            "[backend]\nurls = \"http://a/\"",
            r#"line 2: unknown key "backend.urls"; did you mean "backend.url"?"#,
        ),
        (
            "[header]\nX-Key = \"a\"\nx-key = \"b\"",
            "line 3: header.x-key: set twice in this file; remove one",
        ),
        (
            "pool.max_age = \"1m\"\n\"pool.max_age\" = \"2m\"",
            "line 2: pool.max_age: set twice in this file; remove one",
        ),
    ];
    let files = Files::new();
    for (text, expected) in table {
        let path = files.write("auth.toml", &format!("{text}\n"), 0o600);
        let mut config = with(&[("timeout", "7s")]).unwrap();
        let before = format!("{config:?}");
        let error = config.load(&path).expect_err(text).to_string();
        assert!(
            error.starts_with(&format!("{} {expected}", path.display())),
            "{text:?}\n{error}\n{expected}"
        );
        assert_eq!(format!("{config:?}"), before, "{text:?}");
    }

    let gone = files.0.path().join("gone.toml");
    let error = Config::new().load(&gone).unwrap_err().to_string();
    assert_eq!(error, format!("{} cannot be read: No such file or directory (os error 2)", gone.display()));
    let latin1 = files.0.path().join("latin1.toml");
    fs::write(&latin1, b"timeout = \"\xe9\"").unwrap();
    assert!(Config::new().load(&latin1).unwrap_err().to_string().ends_with("it is not UTF-8 text"));
    let long = files.write("long.toml", &"#\n".repeat(600 * 1024), 0o600);
    assert!(Config::new().load(&long).unwrap_err().to_string().ends_with("it is longer than 1 MiB"));
}
