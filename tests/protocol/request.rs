//! What one check becomes on the wire.

use alta_auth::{Check, SubmitError, Verdict};

use crate::support::{Reply, Request, Scripted, ask, assert_backend, engine, good};

/// The request that one check becomes.
fn asked(path: &str, keys: &[(&str, &str)], check: &Check<'_>) -> Request {
    let backend = Scripted::always(Reply::allow());
    ask(&engine(&format!("http://{}{path}", backend.address()), keys), check);
    backend.requests().remove(0)
}

#[test]
fn the_vendors_example() {
    let request = asked("/auth", &[], &Check { path: b"/ch/index.m3u8", ..good() });
    assert_eq!(request.line(), b"GET /auth?token=123 HTTP/1.1");
}

#[test]
fn five_headers_after_host_spelled_and_ordered_as_the_vendor_does() {
    let request = asked("/auth", &[], &good());
    let headers = request.headers();
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Session-Id", "X-Real-Ip", "X-Real-Path", "X-Real-Origin", "X-Real-Ua"]);
    let values: Vec<&[u8]> = headers.iter().skip(1).map(|(_, value)| value.as_slice()).collect();
    let check = good();
    assert_eq!(values, [check.session_id, check.ip, check.path, check.origin, check.user_agent]);
}

#[test]
fn host_is_the_authority_of_the_url() {
    let backend = Scripted::always(Reply::allow());
    ask(&engine(&backend.url(), &[]), &good());
    let host = backend.requests()[0].header("Host").unwrap();
    assert_eq!(host, backend.address().to_string().into_bytes());
}

#[test]
fn all_five_headers_are_sent_when_only_the_session_is_known() {
    let request = asked("/auth", &[], &Check { session_id: b"s1", ..Check::default() });
    for name in ["X-Real-Ip", "X-Real-Path", "X-Real-Origin", "X-Real-Ua"] {
        assert_eq!(request.header(name), Some(Vec::new()), "{name}");
    }
    assert_eq!(request.line(), b"GET /auth HTTP/1.1", "no `?` when nothing follows it");
}

#[test]
fn values_that_are_no_utf_8_and_addresses_of_ipv6_pass() {
    let check = Check {
        ip: b"2001:db8::7",
        origin: b"https://[2001:db8::1]:8443",
        user_agent: b"\xCF\xF0\xE8\xE2\xE5\xF2/1.0",
        ..good()
    };
    let request = asked("/auth", &[], &check);
    assert_eq!(request.header("X-Real-Ip").unwrap(), check.ip);
    assert_eq!(request.header("X-Real-Origin").unwrap(), check.origin);
    assert_eq!(request.header("X-Real-Ua").unwrap(), check.user_agent);
}

#[test]
fn the_clients_query_goes_out_byte_for_byte() {
    for query in
        ["token=123", "a=%2B+%2f%2F", "&&a&&", "?a=1", "=1&a==", "a=1&a=2", "%", "%zz", "a=[]{!}'()*,;:@/$~"]
    {
        let request = asked("/auth", &[], &Check { query: query.as_bytes(), ..good() });
        let expected = query.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(request.target(), format!("/auth?{expected}"));
    }
}

#[test]
fn bytes_that_no_request_target_may_hold_are_encoded() {
    let check = Check { query: b"a=b c\x01\x7F\x80\xFF\"<>\\^`{|}", ..good() };
    let target = asked("/auth", &[], &check).target();
    // Control bytes are spaces by then.
    assert_eq!(target, "/auth?a=b%20c%20%20%80%FF%22%3C%3E%5C%5E%60%7B%7C%7D");
}

#[test]
fn a_fragment_is_dropped() {
    let target = asked("/auth", &[], &Check { query: b"token=123#t=10", ..good() }).target();
    assert_eq!(target, "/auth?token=123");
}

#[test]
fn line_breaks_and_nul_are_refused_in_every_field() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    for byte in [b'\r', b'\n', 0] {
        let value = [b'a', byte, b'b'];
        for check in [
            Check { session_id: &value, ..good() },
            Check { ip: &value, ..good() },
            Check { path: &value, ..good() },
            Check { query: &value, ..good() },
            Check { origin: &value, ..good() },
            Check { user_agent: &value, ..good() },
            Check { scope: &value, ..good() },
        ] {
            let outcome = engine.check_blocking(&check);
            assert!(matches!(outcome, Err(SubmitError::Invalid(_))), "{byte}: {outcome:?}");
        }
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn other_control_bytes_become_spaces_and_no_byte_fails_after_submit() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    for byte in (1..=255).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        let value = [b'a', byte, b'b'];
        for check in [
            Check { session_id: &value, ..good() },
            Check { ip: &value, ..good() },
            Check { query: &value, ..good() },
            Check { origin: &value, ..good() },
            Check { user_agent: &value, ..good() },
            Check { scope: &value, ..good() },
        ] {
            assert_backend(&ask(&engine, &check), Verdict::Allow, 200);
        }
    }
    let agents: Vec<Vec<u8>> =
        backend.requests().iter().filter_map(|request| request.header("X-Real-Ua")).collect();
    assert!(agents.iter().any(|agent| agent == b"a b"));
    assert!(agents.iter().flatten().all(|byte| *byte >= b' ' && *byte != 0x7F || *byte == b'\t'));
}

#[test]
fn an_empty_session_id_is_refused() {
    let backend = Scripted::always(Reply::allow());
    let outcome = engine(&backend.url(), &[]).check_blocking(&Check { session_id: b"", ..good() });
    assert!(
        matches!(outcome, Err(SubmitError::Invalid(invalid)) if invalid.field() == alta_auth::Field::SessionId)
    );
}

#[test]
fn the_urls_own_parameters_come_first_and_cannot_be_overridden() {
    for (client, expected) in [
        ("token=123", "key=k1&token=123"),
        ("key=forged&token=123", "key=k1&token=123"),
        ("token=123&key=forged", "key=k1&token=123"),
        ("KEY=forged", "key=k1"),
        ("k%65y=forged&a=1", "key=k1&a=1"),
        ("k%2565y=forged", "key=k1"),
        ("key[]=forged&key[x]=forged&key.x=forged", "key=k1"),
        ("+key=forged&%20key=forged&key%00x=forged", "key=k1"),
        ("a=1;key=forged", "key=k1"),
        ("keys=1&akey=2", "key=k1&keys=1&akey=2"),
    ] {
        let target = asked("/auth?key=k1", &[], &Check { query: client.as_bytes(), ..good() }).target();
        assert_eq!(target, format!("/auth?{expected}"), "{client}");
    }
}

#[test]
fn names_of_protect_params_are_dropped() {
    let keys = [("protect_params", "ip,admin")];
    let target = asked("/auth", &keys, &Check { query: b"ip=1.1.1.1&token=123&Admin=1", ..good() }).target();
    assert_eq!(target, "/auth?token=123");
}

#[test]
fn param_keys_add_protected_parameters_from_the_hosts_own_data() {
    let keys =
        [("param.ip", "{ip}"), ("param.name", "{path}"), ("param.t", "{query.token}"), ("param.v", "2")];
    let check = Check { query: b"token=1%2B2&ip=forged&v=1", path: b"/ch/a&b=c.ts", ..good() };
    let target = asked("/auth?key=k1", &keys, &check).target();
    assert_eq!(target, "/auth?key=k1&ip=192.0.2.7&name=%2Fch%2Fa%26b%3Dc.ts&t=1%2B2&v=2&token=1%2B2");
}

#[test]
fn header_keys_add_headers() {
    let keys = [("header.X-Api-Key", "k1"), ("header.X-Client", "{ip} {session_id}")];
    let request = asked("/auth", &keys, &good());
    assert_eq!(request.header("X-Api-Key").unwrap(), b"k1");
    assert_eq!(request.header("X-Client").unwrap(), b"192.0.2.7 s1");
}

#[test]
fn userinfo_of_the_url_becomes_basic_authorisation() {
    let backend = Scripted::always(Reply::allow());
    let url = format!("http://user:pass@{}/auth", backend.address());
    ask(&engine(&url, &[]), &good());
    let request = backend.requests().remove(0);
    assert_eq!(request.header("Authorization").unwrap(), b"Basic dXNlcjpwYXNz");
    assert_eq!(request.header("Host").unwrap(), backend.address().to_string().into_bytes());
}

#[test]
fn more_than_256_parameters_are_refused_the_urls_own_included() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&format!("{}?key=k1", backend.url()), &[]);
    for (count, accepted) in [(255, true), (256, false), (1_005, false)] {
        let query = vec!["a"; count].join("&").into_bytes();
        let outcome = engine.check_blocking(&Check { query: &query, ..good() });
        assert_eq!(outcome.is_ok(), accepted, "{count}");
    }
}

#[test]
fn a_request_that_encoding_makes_too_long_is_refused() {
    let backend = Scripted::always(Reply::allow());
    let engine = engine(&backend.url(), &[]);
    let query = vec![0xFF; 12 * 1024];
    let outcome = engine.check_blocking(&Check { query: &query, ..good() });
    assert!(matches!(outcome, Err(SubmitError::Invalid(_))), "36 KiB encoded: {outcome:?}");
    assert_eq!(backend.connections(), 0);
}
