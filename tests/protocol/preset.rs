//! The presets, against backends that do what is known of the real ones.

use std::time::Duration;

use alta_auth::{Cause, Check, Verdict};

use crate::support::{self, Reply, Scripted, ask, assert_backend, assert_default, bad, engine, good};

#[test]
fn ministra() {
    let backend = Scripted::new(|request| {
        let target = request.target();
        assert!(target.starts_with("/stalker_portal/server/api/chk_flussonic_tmp_link.php"), "{target}");
        let headers = "X-AuthDuration: 36000\r\nX-Unique: true\r\nX-Max-Sessions: 10\r\nX-UserId: 7\r\n";
        if target.contains("token=good") { Reply::status(200, headers) } else { Reply::deny() }
    });
    let url = format!("http://{}/stalker_portal/server/api/chk_flussonic_tmp_link.php", backend.address());
    let engine = engine(&url, &[("backend.preset", "ministra"), ("ttl.jitter", "0")]);
    let decision = ask(&engine, &Check { query: b"token=good", ..good() });
    assert_backend(&decision, Verdict::Allow, 200);
    assert!(decision.ttl > Duration::from_secs(35_990), "{:?}", decision.ttl);
    assert_eq!((decision.unique, decision.max_sessions, decision.user_id()), (true, 10, "7"));
    assert_backend(&ask(&engine, &Check { session_id: b"s2", ..bad() }), Verdict::Deny, 403);
}

#[test]
fn ministra_decides_within_the_life_of_its_token() {
    let backend = Scripted::always(Reply::silence());
    let mut config = alta_auth::Config::new();
    for (key, value) in [("backend.preset", "ministra"), ("default_action", "deny")] {
        config.set(key, value).unwrap();
    }
    config.set("backend.url", &backend.url()).unwrap();
    let engine = support::started(alta_auth::Engine::new(&config));
    let decision = ask(&engine, &good());
    assert_default(&decision, Verdict::Deny, Cause::Timeout);
    assert!(decision.latency < Duration::from_secs(5), "the token lives 5 s: {:?}", decision.latency);
}

#[test]
fn smarty_is_told_the_address_and_answers_in_the_status_or_in_the_body() {
    for (reply, verdict, status) in [
        (Reply::body("{\"error\":0}"), Verdict::Allow, 200),
        (Reply::body("{\"error\":1}"), Verdict::Deny, 200),
        (Reply::body("{\"error\":2}"), Verdict::Deny, 200),
        (Reply::raw("HTTP/1.1 403 F\r\nContent-Length: 11\r\n\r\n{\"error\":3}"), Verdict::Deny, 403),
        (
            Reply::status(301, "Location: /tvmiddleware/api/streamservice/token/check/\r\n"),
            Verdict::Deny,
            301,
        ),
    ] {
        let backend = Scripted::always(reply);
        let url = format!("http://{}/tvmiddleware/api/streamservice/token/check/", backend.address());
        let engine = engine(&url, &[("backend.preset", "smarty")]);
        assert_backend(&ask(&engine, &good()), verdict, status);
        let target = backend.requests()[0].target();
        assert_eq!(target, "/tvmiddleware/api/streamservice/token/check/?ip=192.0.2.7&token=123");
    }
}
