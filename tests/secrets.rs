//! A secret is looked for in everything that leaves the library but the wire.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use alta_auth::{Check, Config, Decision, Engine, LogLevel, Origin, probe};
use support::{Lines, Reply, Scripted, ask, engine, good, started};

/// Stands for a token, a key, a password, wherever one may be given.
const CANARY: &str = "kanarienvogel";

/// "user:kanarienvogel", as it goes out.
const BASIC: &str = "dXNlcjprYW5hcmllbnZvZ2Vs";

/// What may be shown of a configuration that is full of secrets.
fn config(url: &str, action: &str, lines: &std::sync::Arc<Lines>) -> Config {
    let mut config = support::config(
        url,
        &[
            ("default_action", action),
            ("log.level", "debug"),
            ("timeout", "2s"),
            ("header.X-Api-Key", CANARY),
            ("param.key", CANARY),
            ("tls.verify", "off"),
            ("shadow.header.X-Api-Key", CANARY),
            ("shadow.param.key", CANARY),
        ],
    );
    config.set_log(lines.clone());
    config
}

fn check(fields: &[u8]) -> Check<'_> {
    Check { query: fields, user_agent: b"VLC/3.0", ..good() }
}

#[test]
fn no_secret_is_in_a_log_line_or_a_decision_whatever_happens() {
    let query = format!("token={CANARY}&x={CANARY}");
    let location = format!("Location: /login?next={CANARY}\r\n");
    let replies = [
        Reply::allow(),
        Reply::deny(),
        Reply::status(302, &location),
        Reply::status(503, &format!("X-Echo: {CANARY}\r\n")),
        Reply::close(),
        Reply::reset(),
        Reply::silence(),
        Reply::raw(format!("{CANARY}\r\n\r\n")),
        Reply::raw(format!("HTTP/1.1 200 {CANARY}\r\n{CANARY}\r\n\r\n")),
        Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {CANARY}\r\n\r\n")),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let backend = Scripted::always(reply);
        let url = format!("http://user:{CANARY}@{}/{CANARY}?key2={CANARY}", backend.address());
        let lines = Lines::new();
        let mut config = config(&url, "deny", &lines);
        config.set("unavailable_statuses", "503").unwrap();
        let engine = started(Engine::new(&config));
        let decision = ask(&engine, &check(query.as_bytes()));
        let sent = backend.requests().remove(0).head;
        assert!(contains(&sent, CANARY) && contains(&sent, BASIC), "{number}: nothing was at stake");
        let detail = decision.detail();
        assert!(!detail.contains(CANARY) && !detail.contains(BASIC), "{number}: {detail}");
        if decision.origin == Origin::Default {
            wait_for_outage(&lines);
        }
        shows_nothing(&engine, &config, &lines, &format!("reply {number}"));
    }
}

#[test]
fn no_secret_is_in_a_log_line_or_a_metric_whatever_a_shadow_does() {
    let query = format!("token={CANARY}&x={CANARY}");
    let backend = Scripted::always(Reply::allow());
    for (number, reply) in [
        Reply::deny(),
        Reply::status(200, &format!("X-UserId: {CANARY}\r\nX-Location: /{CANARY}\r\n")),
        Reply::status(302, &format!("Location: /{CANARY}\r\n")),
        Reply::raw(format!("{CANARY}\r\n\r\n")),
        Reply::close(),
    ]
    .into_iter()
    .enumerate()
    {
        let shadow = Scripted::always(reply);
        let lines = Lines::new();
        let mut config = config(&backend.url(), "deny", &lines);
        let url = format!("http://user:{CANARY}@{}/{CANARY}?key2={CANARY}", shadow.address());
        config.set("shadow.url", &url).unwrap();
        let engine = started(Engine::new(&config));
        let path = format!("/live/{CANARY}/1.ts");
        ask(
            &engine,
            &Check { path: path.as_bytes(), session_id: CANARY.as_bytes(), ..check(query.as_bytes()) },
        );
        shadow.wait_requests(1);
        let sent = shadow.requests().remove(0).head;
        assert!(contains(&sent, CANARY) && contains(&sent, BASIC), "{number}: nothing was at stake");
        let said =
            || lines.all().iter().any(|(_, line)| line.contains("shadow") || line.contains("no answer"));
        support::until(said);
        let page = engine.stats().prometheus();
        assert!(!page.contains(CANARY) && !page.contains(BASIC), "{number}: {page}");
        shows_nothing(&engine, &config, &lines, &format!("shadow {number}"));
    }
}

#[test]
fn no_secret_is_in_a_log_line_when_there_is_no_backend() {
    for url in [
        format!("http://user:{CANARY}@127.0.0.1:1/{CANARY}?key2={CANARY}"),
        format!("https://user:{CANARY}@127.0.0.1:1/{CANARY}?key2={CANARY}"),
        format!("http://user:{CANARY}@backend.invalid/{CANARY}?key2={CANARY}"),
        format!("unix:/nonexistent.sock:/{CANARY}?key2={CANARY}"),
    ] {
        let lines = Lines::new();
        let config = config(&url, "allow", &lines);
        let engine = started(Engine::new(&config));
        let decision: Decision = ask(&engine, &check(format!("token={CANARY}").as_bytes()));
        assert!(!decision.detail().contains(CANARY), "{}", decision.detail());
        wait_for_outage(&lines);
        shows_nothing(&engine, &config, &lines, &url);
    }
}

/// An outage is logged at debug, at the end of the exchange; the check may have ended before.
#[track_caller]
fn wait_for_outage(lines: &Lines) {
    support::until(|| lines.all().iter().any(|(level, _)| *level == LogLevel::Debug));
}

#[track_caller]
fn shows_nothing(engine: &Engine, config: &Config, lines: &Lines, what: &str) {
    assert!(engine.shutdown(support::PATIENCE));
    for (level, line) in lines.all() {
        assert!(!line.contains(CANARY), "{what}: {level:?}: {line}");
        assert!(!line.contains(BASIC), "{what}: the password in Basic: {line}");
    }
    let shown = format!("{:?} {config:?}", engine.stats());
    assert!(!shown.contains(CANARY) && !shown.contains(BASIC), "{what}: {shown}");
}

#[test]
fn errors_about_a_check_and_a_configuration_do_not_repeat_it() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    for query in [format!("{CANARY}\r\n"), CANARY.repeat(2_000), format!("{CANARY}&").repeat(300)] {
        let error = engine.check_blocking(&check(query.as_bytes())).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
    let mut config = Config::new();
    for (key, value) in [
        ("backend.url", format!("ftp://user:{CANARY}@127.0.0.1/")),
        ("backend.url", format!("http://user:{CANARY}@127.0.0.1/#fragment")),
        ("header.Host", CANARY.to_owned()),
        ("header.X-Api-Key", format!("{CANARY}\r\n")),
        ("header.X-Api-Key", format!("{CANARY}{{unknown}}")),
    ] {
        // Some of it is noticed only when an engine is made of it.
        let error = match config.set(key, &value) {
            Err(error) => error.to_string(),
            Ok(()) => match Engine::new(&config) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{key} is accepted"),
            },
        };
        assert!(!error.contains(CANARY), "{key}: {error}");
        assert!(error.contains(key.split('.').next().unwrap()), "{key}: the error names no key: {error}");
        config = Config::new();
    }
}

#[test]
fn no_secret_is_in_a_decision_or_a_report_that_is_printed_for_a_programmer() {
    let words = format!("X-UserId: {CANARY}\r\nX-Location: /{CANARY}\r\nX-AuthDuration: 60\r\n");
    let backend = Scripted::always(Reply::status(200, &words));
    let query = format!("token={CANARY}");
    let check = Check {
        session_id: CANARY.as_bytes(),
        user_agent: CANARY.as_bytes(),
        origin: CANARY.as_bytes(),
        ..check(query.as_bytes())
    };
    let engine = engine(&backend.url(), &[]);
    for origin in [Origin::Backend, Origin::Memory] {
        let decision = ask(&engine, &check);
        assert_eq!((decision.origin, decision.user_id()), (origin, CANARY), "nothing was at stake");
        assert_unreadable(&format!("{decision:?}"));
        assert_unreadable(&format!("{decision:#?}"));
    }
    let report = probe(&support::config(&backend.url(), &[]), &check).unwrap().unwrap();
    assert!(contains(&report.attempts[0].request, CANARY), "nothing was at stake");
    assert!(report.explanation.key.iter().any(|(_, value)| contains(value, CANARY)), "nothing was at stake");
    assert_unreadable(&format!("{report:?}"));
}

/// Neither as text nor as a list of bytes.
#[track_caller]
fn assert_unreadable(shown: &str) {
    let numbers: Vec<_> = CANARY.bytes().map(|byte| byte.to_string()).collect();
    let closely: String = shown.split_whitespace().collect();
    assert!(!shown.contains(CANARY) && !closely.contains(&numbers.join(",")), "{shown}");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
