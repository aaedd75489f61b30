//! Where secrets may come from, and where they never go.

use std::fs;

use alta_auth::Config;

use super::{Files, error, warnings, with};

#[test]
fn a_header_or_parameter_is_read_from_its_file_when_it_is_needed() {
    for name in ["header.X-Key", "param.key", "shadow.header.X-Key", "shadow.param.key"] {
        let files = Files::new();
        let key = files.write("key", "hunter2\n", 0o600);
        let value = format!(" @{}", key.display());
        let config = with(&[("shadow.url", "http://127.0.0.1:6001/"), (name, &value)]).unwrap();
        assert_eq!(config.validate(), Ok(Vec::new()));

        files.write("key", "hunter2", 0o644);
        let warnings = config.validate().unwrap();
        assert_eq!(
            warnings,
            [format!(
                "{} holds a secret ({name}) and every user can read it; run chmod o-r on it",
                key.display()
            )]
        );
        let bad: [(&[u8], &str); 4] = [
            (b"\n", "is empty; write the value into it"),
            (b"{hunter2}\n", "what stands in braces (not shown: it may be secret) is no placeholder"),
            (
                b"{query\x0E.hunter2}\n",
                "what stands in braces (not shown: it may be secret) is no placeholder",
            ),
            (b"hunter2\xE9\n", "cannot be read: it is not UTF-8 text"),
        ];
        for (content, why) in bad {
            fs::write(&key, content).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}: ")) && error.contains(why), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        }
        fs::remove_file(&key).unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("cannot be read"));
    }
}

#[test]
fn what_is_no_line_is_no_header() {
    let files = Files::new();
    let value = format!("@{}", files.write("key", "hunter2\nhunter3\n", 0o600).display());
    let error = with(&[("header.X-Key", &value)]).unwrap().validate().unwrap_err().to_string();
    assert!(error.starts_with("header.X-Key: ") && !error.contains("hunter"), "{error}");
}

/// Only a path is one: `@` alone is a letter like others in a parameter.
#[test]
fn a_parameter_that_begins_with_an_at_sign_and_names_no_path_is_text() {
    for value in ["@", "@someone", "a@/b"] {
        assert_eq!(warnings(&[("param.user", value)]), [""; 0], "{value}");
    }
    let error = error(&[("param.key", "@/nowhere\0")]);
    assert_eq!(error, "param.key: a value that begins with @ names a file; write its absolute path: @/path");
}

#[test]
fn a_file_of_secrets_that_everybody_can_read_is_warned_about() {
    let files = Files::new();
    let base = "default_action = \"deny\"\n";
    let load = |text: &str, mode| {
        let mut config = Config::new();
        config.set("backend.url", "http://127.0.0.1/").unwrap();
        let path = files.write("auth.toml", &format!("{base}{text}"), mode);
        config.load(&path).unwrap();
        config.load(&path).unwrap();
        config.validate().unwrap().iter().filter(|line| line.contains("holds a secret")).count()
    };
    for secret in [
        "header.X-Key = \"k\"",
        "shadow.header.X-Key = \"k\"",
        "shadow.url = \"http://u:p@b/\"",
        "backend.url = \"http://u:p@a/\"",
        "backend.url = \"http://a/?key=k\"",
        "param.key = \"k\"",
        "param.key = \"k{ip}\"",
        "shadow.param.key = \"k\"",
    ] {
        assert_eq!(load(secret, 0o644), 1, "{secret}");
        assert_eq!(load(secret, 0o640), 0, "{secret}");
    }
    let elsewhere = files.write("elsewhere", "k", 0o600);
    assert_eq!(load(&format!("param.key = \"@{}\"", elsewhere.display()), 0o644), 0);
    assert_eq!(load("timeout = \"1s\"\nbackend.url = \"http://a/x\"\nparam.ip = \"{ip}\"", 0o644), 0);

    let key = files.write("key.pem", "", 0o604);
    let keys = [("tls.client_cert", "/cert.pem"), ("tls.client_key", key.to_str().unwrap())];
    let warned = warnings(&keys);
    assert!(warned.iter().any(|line| line.contains("holds a secret (tls.client_key)")), "{warned:?}");
}

#[test]
fn secrets_are_never_repeated() {
    const SECRET: &str = "c4n4ry";
    let bad = [
        ("backend.url", "https://u:c4n4ry@a b/"),
        ("backend.url", "http://u:c4n4ry/x"),
        ("backend.url", "http://a/?k=c4n4ry#x"),
        ("backend.url", "http://a/c4n4ry x"),
        ("backend.url", "c4n4ry@a/"),
        ("backend.url", "https://a.example/,http://b.example/?k=c4n4ry"),
        ("header.Host", "c4n4ry"),
        ("header.X-Key", "c4n4ry\r\nX: y"),
        ("header.X-Key", "Bearer {c4n4ry}"),
        ("header.X-Key", "Bearer {c4n4ry"),
        ("header.X-Key", "@c4n4ry"),
        ("param.key", "{c4n4ry}"),
        ("shadow.url", "https://u:c4n4ry@a b/"),
        ("shadow.header.X-Key", "Bearer {c4n4ry}"),
        ("shadow.param.key", "{c4n4ry}"),
    ];
    let files = Files::new();
    for (key, value) in bad {
        let error = error(&[(key, value)]);
        assert!(!error.contains(SECRET), "{key} = {value:?}: {error}");
    }
    // Who writes another sign for the `=`, or none, has written the secret into the key.
    for (key, value, shown) in [
        (
            "header.X-Api-Key: c4n4ryc4n4ryPQ",
            "=",
            "header.X-Api-Key…: 'X-Api-Key…' cannot be the name of a header",
        ),
        (
            "headers.X-Api-Key: c4n4ry",
            "",
            r#"unknown key "headers.X-Api-Key…"; did you mean "header.X-Api-Key"?"#,
        ),
        (
            "backend.url http://u:c4n4ry@h/auth?x",
            "1",
            r#"unknown key "backend.url…"; did you mean "backend.url"?"#,
        ),
        ("Authorization: Bearer c4n4ry", "=", r#"unknown key "…"; the command"#),
        ("c4n4ryPQ", "=", r#"unknown key "…"; the command"#),
        ("param.key: c4n4ry", "=", "param.key…: 'key…' cannot be the name of a parameter"),
        ("param.key c4n4ry", "{", "param.key…: "),
        ("param.key\0c4n4ry", "x", "param.key…: 'key…' cannot be the name of a parameter"),
        ("shadow.header.X-Key c4n4ry", "x", "shadow.header.X-Key…: 'X-Key…' cannot be the name of a header"),
    ] {
        let error = Config::new().set(key, value).expect_err(key);
        assert!(error.to_string().starts_with(shown), "{key}: {error}");
        assert!(!format!("{error:?}").contains(SECRET), "{key}: {error:?}");
    }
    for text in [
        "\"X-Api-Key c4n4ry\" = \"a\"",
        "\"header.X-Key c4n4ry\" = 1",
        "\"param.key c4n4ry\" = \"a\"\n[param]\n\"key c4n4ry\" = \"a\"",
        "header.X-Key = \"c4n4ry\" x",
        "header.X-Key = c4n4ry",
        "header.X-Key = \"c4n4ry",
        "header.X-Key = \"c4n4ry\\z\"",
        "header.X-Key = [\"c4n4ry\"]",
        "header.X-Key = \"Bearer {c4n4ry}\"",
        "backend.url = \"http://a/?k=c4n4ry#x\"",
    ] {
        let error = files.load(text).expect_err(text).to_string();
        assert!(!error.contains(SECRET), "{text}: {error}");
    }
    let config = with(&[
        ("backend.url", "https://u:c4n4ry@a/c4n4ry?k=c4n4ry"),
        ("header.X-Key", SECRET),
        ("param.key", SECRET),
        ("shadow.url", "https://u:c4n4ry@b/c4n4ry?k=c4n4ry"),
        ("shadow.header.X-Key", SECRET),
        ("shadow.param.key", SECRET),
    ])
    .unwrap();
    let debug = format!("{config:?}");
    assert!(debug.contains("header.x-key") && !debug.contains(SECRET), "{debug}");
}
