//! `alta-auth check`: what it shows, what it hides, and what it says with its exit status.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(not(feature = "command"))]
compile_error!("run with --features command, as make test does");

#[path = "command/support.rs"]
mod support;

use std::process::Output;

use support::{Backend, hanging, refusing, run, scripted, text};

const URL: &str = "https://live.example.com/ch/index.m3u8?token=123#t=10";

fn check(url: &str, backend: &str, more: &[&str]) -> Output {
    run(&[&["check", url, "--backend", backend], more].concat())
}

fn shown(output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    text(&output.stdout)
}

#[track_caller]
fn assert_shows(output: &Output, status: i32, lines: &[&str]) {
    let shown = shown(output);
    let said = format!("{shown}\n{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{said}");
    for line in lines {
        assert!(shown.lines().any(|found| found.starts_with(line)), "{line} is not in\n{said}");
    }
}

#[test]
fn an_allow_is_status_0_and_shows_the_whole_exchange() {
    let backend = Backend::start(&[]);
    let output = check(
        URL,
        &format!("{}/auth", backend.url),
        &["--ip", "192.0.2.7", "--session", "s1", "--user-agent", "VLC/3.0"],
    );
    assert_shows(
        &output,
        0,
        &[
            "* Check: https://live.example.com/ch/index.m3u8?token=…, session s1, ip 192.0.2.7",
            &format!("* Connecting to {}", backend.url),
            &format!("* Connected to {} in ", backend.address()),
            "> GET /auth?token=… HTTP/1.1",
            "> X-Session-Id: s1",
            "> X-Real-Ip: 192.0.2.7",
            "> X-Real-Path: /ch/index.m3u8",
            "> X-Real-Origin: https://live.example.com",
            "> X-Real-Ua: VLC/3.0",
            "< HTTP/1.1 200 OK",
            "< Content-Length: 0",
            "* Timings: resolve ",
            "* ALLOW: the backend allows with status 200",
        ],
    );
    assert_eq!(backend.stats()["requests"], 1);
    assert_eq!(shown(&output).matches("> GET ").count(), 1, "one request, shown once");
}

#[test]
fn a_deny_is_status_1() {
    let backend = Backend::start(&[]);
    let output = check("https://live.example.com/ch/index.m3u8?token=9", &backend.url, &[]);
    assert_shows(&output, 1, &["< HTTP/1.1 403 Forbidden", "* DENY: the backend refuses with status 403"]);
}

#[test]
fn a_deny_says_which_rule_denied() {
    let backend = Backend::start(&[]);
    let ask = |key: &str| check(URL, &backend.url, &["--set", key]);
    let status = "* DENY: the backend refuses with status 200: the status is not in allow_statuses";
    assert_shows(&ask("allow_statuses=204"), 1, &[status]);
    let body = "* DENY: the backend refuses with status 200: verdict.body does not hold";
    assert_shows(&ask("verdict.body=json:error==0"), 1, &[body]);
    let json = || b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"error\":0}".to_vec();
    let backend = format!("http://{}/", scripted(move |_| json()));
    let long = ["--set", "verdict.body=json:error==0", "--set", "verdict.max_body=10"];
    let body = "* DENY: the backend refuses with status 200: the body is longer than verdict.max_body";
    assert_shows(&check(URL, &backend, &long), 1, &[body]);
}

#[test]
fn a_redirect_is_a_deny_and_is_not_followed() {
    let backend = scripted(|_| {
        b"HTTP/1.1 302 Found\r\nLocation: http://login.example.com/?back=123\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    });
    let output = check(URL, &format!("http://{backend}/auth"), &[]);
    assert_shows(
        &output,
        1,
        &["* DENY: ", "* A redirect is never followed", "* Location: http://login.example.com/?back=…"],
    );
}

#[test]
fn a_refused_connection_is_status_2_and_called_refused() {
    let (_held, address) = refusing();
    let output = check(URL, &format!("http://{address}/auth"), &[]);
    assert_shows(&output, 2, &["* UNDETERMINED (connect): ", "* The connection is refused: "]);
    assert!(!shown(&output).contains("hangs"));
}

#[test]
fn the_backends_address_is_shown_though_a_token_looks_like_a_part_of_it() {
    let (_held, address) = refusing();
    let output = check(&format!("https://h/a?token={}", address.port()), &format!("http://{address}/"), &[]);
    let failure = format!("* No answer while connecting: connection refused by http://{address} ({address})");
    assert_shows(&output, 2, &[&failure]);
}

#[test]
fn an_answer_that_is_cut_off_is_not_called_another_service() {
    let backend = scripted(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n".to_vec());
    let output = check(URL, &format!("http://{backend}/"), &[]);
    let said = format!("* http://{backend} speaks HTTP, but its answer was cut off or breaks a rule of HTTP");
    assert_shows(&output, 2, &["* UNDETERMINED (protocol): ", &said]);
}

#[test]
fn a_hanging_response_is_status_2_and_said_to_hang() {
    let (_listener, address) = hanging();
    let output = check(URL, &format!("http://{address}/auth"), &["--set", "timeout=200ms"]);
    assert_shows(
        &output,
        2,
        &["> GET /auth?token=… HTTP/1.1", "* UNDETERMINED (timeout): ", "* The response hangs: "],
    );
    assert!(!shown(&output).contains("connection is refused"));
}

#[test]
fn a_tls_handshake_that_goes_nowhere_is_told_from_a_hanging_response() {
    let (_listener, address) = hanging();
    let output = check(URL, &format!("https://{address}/auth"), &["--set", "timeout=200ms"]);
    assert_shows(&output, 2, &["* UNDETERMINED (", "* The TLS handshake hangs: "]);
}

#[test]
fn a_closed_connection_is_an_answer_of_neither_kind() {
    let backend = scripted(|_| Vec::new());
    let output = check(URL, &format!("http://{backend}/auth"), &[]);
    assert_shows(&output, 2, &["* UNDETERMINED (reset): ", "* http://127.0.0.1:"]);
}

#[test]
fn the_default_action_is_deny_unless_it_is_set() {
    let (_held, address) = refusing();
    let url = format!("http://{address}/");
    assert_shows(
        &check(URL, &url, &[]),
        2,
        &["* UNDETERMINED (connect): the backend gave no answer; the default action is deny"],
    );
    let output = check(URL, &url, &["--set", "default_action=allow"]);
    assert_shows(
        &output,
        2,
        &["* UNDETERMINED (connect): the backend gave no answer; the default action is allow"],
    );
}

#[test]
fn a_configuration_file_comes_before_the_options() {
    let backend = Backend::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let toml = format!("default_action = \"allow\"\n[backend]\nurl = \"{}/from-file\"\n", backend.url);
    std::fs::write(file.path(), toml).unwrap();
    let path = file.path().to_str().unwrap();
    let output = run(&["check", URL, "--config", path]);
    assert_shows(&output, 0, &["> GET /from-file?token=… HTTP/1.1"]);
    let output = run(&["check", URL, "--config", path, "--backend", &format!("{}/option", backend.url)]);
    assert_shows(&output, 0, &["> GET /option?token=… HTTP/1.1"]);
}

#[test]
fn wrong_usage_is_status_64_and_help_is_0() {
    for wrong in [
        &["check"][..],
        &["check", URL, "--nonsense"],
        &["check", URL],
        &["check", "live.example.com/a?token=canary", "--backend", "http://127.0.0.1:1/"],
        &["check", URL, "--backend", "http://127.0.0.1:1/", "--set", "time_out=2s"],
        &["check", URL, "--backend", "http://127.0.0.1:1/", "--set", "header.X-Key"],
        &["check", URL, "--backend", "ftp://127.0.0.1:1/"],
        &["check", URL, "--config", "/nonexistent/alta.toml"],
        &["nonsense"],
        &[],
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
        assert!(!text(&output.stderr).contains("canary"));
    }
    for right in [&["--help"][..], &["--version"], &["check", "--help"], &["verify", "--help"], &["config"]] {
        let output = run(right);
        assert_eq!(output.status.code(), Some(0), "{right:?}");
        assert!(!output.stdout.is_empty(), "{right:?}");
    }
    assert_eq!(text(&run(&["--version"]).stdout), format!("alta-auth {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_check_that_no_engine_would_accept_is_a_deny() {
    let backend = Backend::start(&[]);
    let output = check("https://h/a/../b?token=123", &backend.url, &[]);
    assert_shows(&output, 1, &["* DENY: the backend is not asked: path has "]);
    assert_eq!(backend.stats()["requests"], 0);
}

/// Sends back whatever it was sent, in every place where a backend could.
fn echo() -> String {
    let address = scripted(|head| {
        let target = head.split(' ').nth(1).unwrap();
        let escaped = head.replace("\r\n", "\\n");
        let after =
            |sign: &str| head.split(sign).nth(1).unwrap_or("").split(['&', ' ', '\r']).next().unwrap();
        let [user, basic, bearer] = ["token=", "Basic ", "Bearer "].map(after);
        format!(
            "HTTP/1.1 403 Bad: {user}\r\nLocation: http://login/{target}\r\nSet-Cookie: all={target}\r\n\
             X-Echo: {escaped}\r\nX-{user}: \r\nX-UserId: {user}\r\n\r\n\
             <p>{head}</p> {basic}, canary-password, {bearer}, canary-semicolon, canary-ampersand"
        )
        .into_bytes()
    });
    format!("http://operator:canary-password@{address}/auth?key=canary-own")
}

const CANARIES: [&str; 6] = [
    "--explain",
    "--set",
    "header.X-Api-Key=Bearer canary-header",
    "--set",
    "param.extra=canary-param",
    "--probe",
];

#[test]
fn no_secret_is_shown_wherever_it_turns_up() {
    let output = check(
        "https://me:canary-user@h/a?token=canary-token&canary-bare&x=canary%2Denc&s=a;t=canary-semicolon&e=a%26t=canary-ampersand&canary-first;l=en&canary-second%26m=en",
        &echo(),
        &CANARIES,
    );
    let all = shown(&output) + &text(&output.stderr);
    assert!(all.contains("> X-Api-Key: …"), "{all}");
    assert!(all.contains("> Authorization: …"), "{all}");
    assert!(all.contains("< HTTP/1.1 403 Bad: …\n") && all.contains("* User: …\n"), "{all}");
    assert!(all.contains("</p> …, …, …, …, …\n"), "{all}");
    assert!(all.contains("*   query: token=…&…&x=…&s=…&e=…&…;l=…&…%26m=…\n"), "{all}");
    assert!(!all.to_ascii_lowercase().contains("canary"), "{all}");
    // "operator:canary-password", as it goes out.
    assert!(!all.contains("b3BlcmF0b3I6Y2FuYXJ5LXBhc3N3b3Jk"), "{all}");
}

#[test]
fn show_secrets_shows_them() {
    let output =
        check("https://h/a?token=canary-token", &echo(), &[&CANARIES[..5], &["--show-secrets"]].concat());
    let all = shown(&output);
    assert!(all.contains("*   query: token=canary-token\n"), "{all}");
    for secret in
        ["canary-token", "canary-own", "canary-header", "canary-param", "b3BlcmF0b3I6Y2FuYXJ5LXBhc3N3b3Jk"]
    {
        assert!(all.contains(secret), "{secret} is not in\n{all}");
    }
}

fn answering(reply: &'static str) -> String {
    format!("http://{}/", scripted(move |_| reply.as_bytes().to_vec()))
}

#[test]
fn explain_says_by_which_rules_an_allow_lives_how_long() {
    let reply = "HTTP/1.1 200 OK\r\nX-AuthDuration: 36000\r\nX-UserId: u\r\nX-Max-Sessions: 2\r\nContent-Length: 0\r\n\r\n";
    let url = answering(reply);
    let keys =
        ["--explain", "--set", "ttl.max=1h", "--set", "last_known=10m", "--set", "sessions.enforce=oldest"];
    let label = url.trim_end_matches('/');
    assert_shows(
        &check(URL, &url, &keys),
        0,
        &[
            "* Step by step: ",
            "* ALLOW: ",
            &format!("*   endpoint: {label}: asked once, answered"),
            "*   verdict: status 200 is one of allow_statuses (200)",
            "*   reuse: X-AuthDuration decides and says 36000 s",
            "*   reuse: cut to 1h by ttl.max",
            "*   reuse: ttl.jitter = on: ",
            "*   outage: last_known = 10m: in a later outage this is repeated",
            "*   sessions: X-Max-Sessions is 2; sessions.enforce = oldest: one more than that ends the oldest",
        ],
    );
    let most =
        answering("HTTP/1.1 200 OK\r\nX-UserId: u\r\nX-Max-Sessions: 4097\r\nContent-Length: 0\r\n\r\n");
    assert_shows(
        &check(URL, &most, &keys),
        0,
        &["*   sessions: X-Max-Sessions is 4097; more than 4096 are taken for no limit"],
    );
    let unique = "HTTP/1.1 200 OK\r\nX-UserId: u\r\nX-Unique: true\r\nX-Max-Sessions: unlimited\r\nContent-Length: 0\r\n\r\n";
    assert_shows(
        &check(URL, &answering(unique), &keys),
        0,
        &[
            "*   sessions: X-Unique without a limit in X-Max-Sessions is a limit of 1; sessions.enforce = oldest: ",
        ],
    );
    let plain = shown(&check(URL, &url, &[]));
    assert!(!plain.contains("* Rules:") && !plain.contains("Step by step"), "{plain}");
}

#[test]
fn explain_names_the_fields_that_are_the_key_and_what_a_decision_covers() {
    let url = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let client = ["--explain", "--session", "s1", "--ip", "192.0.2.7", "--user-agent", "VLC"];
    let explained = |more: &[&str]| shown(&check(URL, &url, &[&client, more].concat()));
    let path = "*   path: /ch/index.m3u8\n";
    for (more, covers, has_path, scope) in [
        (&[][..], "scope = path: a decision covers this path alone", true, None),
        (&["--set", "scope=directory"], "scope = directory: ", false, Some("*   scope: /ch/\n")),
        (&["--set", "scope=session"], "scope = session: ", false, None),
        (
            &["--scope", "ch"],
            "a decision covers all that the host calls by this scope",
            false,
            Some("*   scope: ch\n"),
        ),
        (
            &["--scope", "ch", "--set", "param.p={path}"],
            "a template sends the path",
            true,
            Some("*   scope: ch\n"),
        ),
    ] {
        let text = explained(more);
        assert!(text.contains(&format!("*   key: {covers}")), "{more:?}: {text}");
        assert_eq!(text.contains(path), has_path, "{more:?}: {text}");
        match scope {
            Some(scope) => assert!(text.contains(scope), "{more:?}: {text}"),
            None => assert!(!text.contains("*   scope: "), "{more:?}: {text}"),
        }
        for field in [
            "session_id: s1",
            "ip: 192.0.2.7",
            "query: token=…",
            "origin: https://live.example.com",
            "user_agent: VLC",
        ] {
            assert!(text.contains(&format!("*   {field}\n")), "{field}: {text}");
        }
    }
}

#[test]
fn explain_says_why_an_answer_is_not_reused() {
    for (head, keys, why) in [
        (
            "404 Not Found\r\nCache-Control: max-age=60",
            &[][..],
            "none, each check asks: a refusing status other than 401 and 403",
        ),
        ("200 OK\r\nAge: 7\r\nX-AuthDuration: 60", &[], "none, each check asks: it came out of a cache"),
        (
            "200 OK\r\nCache-Control: max-age=60\r\nVary: Cookie",
            &[],
            "none, each check asks: Vary names what is no part",
        ),
        (
            "200 OK\r\nCache-Control: no-store",
            &[],
            "none, each check asks: Cache-Control says no-store or private",
        ),
        (
            "403 No\r\nX-Session-Id: other",
            &[],
            "none, each check asks: an X-Session-Id that was not asked about",
        ),
        (
            "200 OK\r\nX-AuthDuration: 60",
            &["memory.max_decisions=0"],
            "none, each check asks: memory.max_decisions = 0",
        ),
        ("200 OK\r\nX-AuthDuration: 60s", &[], "X-AuthDuration decides, and is 0 or no number of seconds"),
        ("200 OK\r\nX-AuthDuration: 60s", &[], "no time: each check asks"),
        (
            "200 OK\r\nCache-Control: public",
            &[],
            "Cache-Control decides, and gives no time: no max-age above 0, or no-cache",
        ),
        (
            "200 OK\r\nCache-Control: no-cache, max-age=60",
            &[],
            "Cache-Control decides, and gives no time: no max-age above 0, or no-cache",
        ),
        ("200 OK\r\nCache-Control: max-age=60", &[], "Cache-Control decides and says 60 s"),
        (
            "200 OK",
            &["ttl.allow=5s"],
            "no header of ttl.headers (X-AuthDuration, Cache-Control) is there: ttl.allow = 5s",
        ),
        (
            "403 No",
            &["ttl.deny=5s"],
            "no header of ttl.headers (X-AuthDuration, Cache-Control) is there: ttl.deny = 5s",
        ),
        ("403 No\r\nX-AuthDuration: 600", &[], "cut to 1m by ttl.max_deny"),
        ("403 No\r\nX-AuthDuration: 600", &["ttl.max=10s"], "cut to 10s by ttl.max"),
        (
            "200 OK\r\nX-AuthDuration: 600",
            &["expired=keep"],
            "expired = keep: renewed while the session is in use",
        ),
    ] {
        let backend = scripted(move |_| format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n").into_bytes());
        let sets: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
        let text = shown(&check(URL, &format!("http://{backend}/"), &[&["--explain"], &sets[..]].concat()));
        assert!(text.contains(&format!("*   reuse: {why}")), "{head}: {why} is not in\n{text}");
    }
}

#[test]
fn explain_tells_the_endpoints_apart() {
    let (_held, dead) = refusing();
    let (alive, spare) = (Backend::start(&[]), Backend::start(&[]));
    let urls = format!("http://{dead}/,{},{}", alive.url, spare.url);
    assert_shows(
        &check(URL, &urls, &["--explain"]),
        0,
        &[
            "*   endpoint: backend.mode = failover: ",
            &format!("*   endpoint: http://{dead}: asked once, no answer: one outage of the 5 in a row"),
            &format!("*   endpoint: {}: asked once, answered", alive.url),
            &format!("*   endpoint: {}: not asked, another had answered", spare.url),
        ],
    );
    assert_eq!((alive.stats()["requests"].clone(), spare.stats()["requests"].clone()), (1.into(), 0.into()));
}

#[test]
fn a_backend_that_another_was_faster_than_has_not_answered() {
    let (_listener, silent) = hanging();
    let alive = Backend::start(&[]);
    let urls = format!("http://{silent}/,{}", alive.url);
    let output = check(URL, &urls, &["--set", "backend.mode=any", "--explain"]);
    let silence = "its answer was not waited for";
    let rule = format!("*   endpoint: http://{silent}: asked once, {silence}");
    assert_shows(&output, 0, &["* ALLOW: the backend allows with status 200", &rule]);
    let shown = shown(&output);
    let attempt = |url: &str| {
        let begun = shown.split("* Connecting to ").skip(1).find(|attempt| attempt.starts_with(url));
        begun.unwrap_or_else(|| panic!("{url} is not in\n{shown}"))
    };
    assert!(attempt(&alive.url).contains("\n< HTTP/1.1 200 OK\n"), "{shown}");
    let unheard = attempt(&format!("http://{silent}\n"));
    assert!(!unheard.contains("\n< "), "{shown}");
    assert!(unheard.contains("\n* No answer while ") && unheard.contains(silence), "{shown}");
}

#[test]
fn explain_says_what_decides_in_an_outage() {
    let url = answering("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let keys = [
        "default_action=allow",
        "unavailable_statuses=503",
        "fail_open=corroborated",
        "last_known=10m",
        "breaker.failures=3",
    ];
    let sets: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
    assert_shows(
        &check(URL, &url, &[&["--explain"], &sets[..]].concat()),
        2,
        &[
            "* UNDETERMINED (status): ",
            "*   endpoint: http://127.0.0.1:",
            "*   verdict: status 503 is one of unavailable_statuses (503): an outage, no refusal",
            "*   outage: default_action = allow, as nothing better is known",
            "*   outage: fail_open = corroborated: an engine denies unless",
            "*   outage: last_known = 10m: an engine repeats what the backend said last",
        ],
    );
    // Not in the list, the same status is a refusal.
    let refused = "*   verdict: status 503 is not one of allow_statuses (200), nor of unavailable_statuses, which is empty: refused";
    assert_shows(&check(URL, &url, &["--explain"]), 1, &[refused]);
}

#[test]
fn what_a_backend_sends_cannot_control_the_terminal() {
    let backend =
        scripted(|_| b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n\x1b]0;x\x07\x9b1m".to_vec());
    let output = check(URL, &format!("http://{backend}/"), &[]);
    assert_shows(&output, 1, &["  \\u{1b}]0;x\\u{7}\\x9b1m"]);
}

#[test]
fn probe_is_content_with_a_backend_that_refuses() {
    let backend = Backend::start(&[]);
    let output = check(URL, &backend.url, &["--probe"]);
    assert_shows(
        &output,
        0,
        &[
            "* ALLOW",
            "*   without a token: refused (403)",
            "*   with token[]=x: refused (403)",
            "*   with a random token: refused (403)",
            "* Probe: all refused",
        ],
    );
    assert_eq!(backend.stats()["requests"], 4);
}

#[test]
fn probe_says_loudly_when_a_backend_allows_without_a_token() {
    for (allows, line) in [
        (
            &["?"][..],
            "* WARNING: THE BACKEND ALLOWS WITHOUT A VALID TOKEN (without a token, with token[]=x, with a random token)",
        ),
        (
            &["token[]=", "token%5B%5D="],
            "* WARNING: THE BACKEND ALLOWS WITHOUT A VALID TOKEN (with token[]=x)",
        ),
    ] {
        let everyone = allows == ["?"];
        let backend = scripted(move |head| {
            let allowed =
                everyone || head.contains("token=123") || allows.iter().any(|sign| head.contains(sign));
            let status = if allowed { "200 OK" } else { "403 Forbidden" };
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        let output = check(URL, &format!("http://{backend}/auth"), &["--probe"]);
        assert_shows(&output, 3, &["* ALLOW", line]);
        assert!(shown(&output).contains("display_errors=0"));
    }
}

#[test]
fn probe_proves_nothing_when_it_is_not_answered() {
    let backend = scripted(|head| {
        if head.contains("token=123") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()
        } else {
            Vec::new()
        }
    });
    let output = check(URL, &format!("http://{backend}/auth"), &["--probe"]);
    assert_shows(
        &output,
        2,
        &["* ALLOW", "*   without a token: no answer (reset)", "* Probe: not every question"],
    );
}

#[test]
fn probe_proves_nothing_when_a_question_cannot_be_asked() {
    // With what tells the questions apart behind it, it is longer than a session id may be.
    let session = "s".repeat(1020);
    let backend = Backend::start(&[]);
    let output = check(URL, &backend.url, &["--probe", "--session", &session]);
    let not_asked = "*   without a token: not asked: session_id has 1028 bytes";
    assert_shows(
        &output,
        2,
        &["* ALLOW", not_asked, "* Probe: not every question was answered, so nothing is proved"],
    );
    assert_eq!(backend.stats()["requests"], 1);
}
