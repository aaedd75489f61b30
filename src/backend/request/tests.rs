//! The bytes that go out, and what is not admitted.

use super::*;
use crate::backend::fixture::{check, question, settings, url};
use crate::check::Check;

struct Given<'a> {
    url_query: Option<&'a str>,
    params: &'a [(&'a str, &'a str)],
    protect: &'a [&'a str],
}

const NOTHING: Given<'static> = Given { url_query: None, params: &[], protect: &[] };

fn target(given: &Given<'_>, query: &[u8]) -> String {
    let plan = RequestPlan::new(&url("/auth", given.url_query), &settings(given.params, &[], given.protect));
    let mut out = b"kept ".to_vec();
    plan.write_target(&question(&Check { query, ..check() }), &mut out);
    String::from_utf8(out).unwrap().strip_prefix("kept ").unwrap().to_owned()
}

#[test]
fn the_vendors_example_is_asked_as_the_vendor_says() {
    let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &[]));
    let mut head = Vec::new();
    plan.write_http1(&question(&check()), &mut head);
    let expected = "GET /auth?token=123 HTTP/1.1\r\n\
        Host: localhost\r\n\
        X-Session-Id: s1\r\n\
        X-Real-Ip: 192.0.2.7\r\n\
        X-Real-Path: /ch/index.m3u8\r\n\
        X-Real-Origin: https://live.example.com\r\n\
        X-Real-Ua: VLC/3.0\r\n\
        \r\n";
    assert_eq!(String::from_utf8(head).unwrap(), expected);
}

#[test]
fn what_is_not_known_is_sent_empty() {
    let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &[]));
    let mut head = Vec::new();
    plan.write_http1(&question(&Check { session_id: b"s", ..Check::default() }), &mut head);
    let expected = "GET /auth HTTP/1.1\r\nHost: localhost\r\nX-Session-Id: s\r\nX-Real-Ip: \r\n\
        X-Real-Path: \r\nX-Real-Origin: \r\nX-Real-Ua: \r\n\r\n";
    assert_eq!(String::from_utf8(head).unwrap(), expected);
}

#[test]
fn the_merged_query_keeps_order_separators_and_bytes() {
    let own = Given { url_query: Some("key=K&ip"), ..NOTHING };
    let all = Given {
        url_query: Some("key=K"),
        params: &[("a b", "x&{ip}"), ("sid", "{session_id}")],
        protect: &["secret"],
    };
    let semicolons = Given { url_query: Some("a=1;ip=2&c;d=3"), protect: &["b"], ..NOTHING };
    let protect = Given { protect: &["ip"], ..NOTHING };
    for (given, query, expected) in [
        (&NOTHING, "", "/auth"),
        (&NOTHING, "token=123", "/auth?token=123"),
        (&NOTHING, "?token=123", "/auth??token=123"),
        (&NOTHING, "&", "/auth?&"),
        (&NOTHING, "a=1&&b;c=%zz&a=1&", "/auth?a=1&&b;c=%zz&a=1&"),
        (&NOTHING, "a b\t\"<>\\^{|}`\u{e9}", "/auth?a%20b%09%22%3C%3E%5C%5E%7B%7C%7D%60%C3%A9"),
        (&Given { url_query: Some(""), ..NOTHING }, "", "/auth"),
        (&Given { url_query: Some(""), ..NOTHING }, "a", "/auth?a"),
        (&Given { url_query: Some("k \u{e9}&"), ..NOTHING }, "a", "/auth?k%20%C3%A9&&a"),
        (&own, "", "/auth?key=K&ip"),
        (&own, "token=1", "/auth?key=K&ip&token=1"),
        (&own, "ip=9&token=1", "/auth?key=K&ip&token=1"),
        (&own, "token=1&KEY=9&ip[]=2", "/auth?key=K&ip&token=1"),
        (&own, "ip=9", "/auth?key=K&ip"),
        (&own, "a=1;b=2", "/auth?key=K&ip"),
        (&all, "token=1&secret=0&sid=9", "/auth?key=K&a%20b=x%26192.0.2.7&sid=s1&token=1"),
        (&semicolons, "ip=9&b=9&c%3bd=9&x=1", "/auth?a=1;ip=2&c;d=3&x=1"),
        (&protect, "", "/auth"),
        (&protect, "ip=1", "/auth"),
        (&protect, "ip=1&ip=2", "/auth"),
        (&protect, "&ip=1", "/auth"),
        (&protect, "&ip=1&", "/auth?&"),
        (&protect, "ip=1&&a=1", "/auth?&a=1"),
        (&protect, "a=1&ip=1", "/auth?a=1"),
        (&protect, "?a=1", "/auth??a=1"),
    ] {
        assert_eq!(target(given, query.as_bytes()), expected, "{query}");
    }
}

#[test]
fn own_headers_follow_the_five_and_replace_the_urls_authorization() {
    let with_userinfo = BackendUrl { authorization: Some("Basic dTpw".into()), ..url("/auth", None) };
    let names_and_values = |headers: &[(&str, &str)]| {
        let plan = RequestPlan::new(&with_userinfo, &settings(&[], headers, &[]));
        let mut seen = Vec::new();
        plan.each_header(&question(&check()), &mut |name, value| {
            seen.push(format!("{name}={}", String::from_utf8_lossy(value)));
        });
        assert_eq!(seen[0], "Host=localhost");
        seen.split_off(6)
    };
    assert_eq!(names_and_values(&[]), ["Authorization=Basic dTpw"]);
    assert_eq!(
        names_and_values(&[("X-A", "1"), ("X-Ip", "<{ip}>")]),
        ["Authorization=Basic dTpw", "X-A=1", "X-Ip=<192.0.2.7>"]
    );
    assert_eq!(names_and_values(&[("authorization", "Bearer t")]), ["authorization=Bearer t"]);
}

#[test]
fn at_most_256_parameters_however_they_are_counted() {
    let plan = RequestPlan::new(&url("/auth", Some("key=K")), &settings(&[("sid", "x")], &[], &[]));
    let admit = |query: &str| plan.admit(&question(&Check { query: query.as_bytes(), ..check() }));
    let too_many = |count| Err(Invalid::new(Field::Request, Why::TooManyParameters { count }));

    assert_eq!(admit(&["a"; 254].join("&")), Ok(()));
    assert_eq!(admit(&["a"; 255].join("&")), too_many(257));
    assert_eq!(admit(&format!("{}{}", ["a"; 254].join("&"), "&".repeat(1000))), Ok(()));
    assert_eq!(admit(&format!("{}&key=1&sid=2", ["a"; 254].join("&"))), Ok(()), "dropped ones do not count");

    let open = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &[]));
    let query = ["a"; 257].join(";");
    assert_eq!(
        open.admit(&question(&Check { query: query.as_bytes(), ..check() })),
        too_many(257),
        "cut at ';' too"
    );

    // And where a proxy that decodes them would cut.
    for separator in ["%26", "%3B", "%3b", "%2526", "%253b", "%u0026", "%%32%36"] {
        let admit = |plan: &RequestPlan, count| {
            let query = format!("token={}", ["a"; 257][..count].join(separator));
            plan.admit(&question(&Check { query: query.as_bytes(), ..check() }))
        };
        assert_eq!((admit(&open, 256), admit(&open, 257)), (Ok(()), too_many(257)), "{separator}");
        assert_eq!((admit(&plan, 254), admit(&plan, 255)), (Ok(()), too_many(257)), "{separator}");
    }
    // Also of those that would be dropped, so that no more of them are looked at.
    let hidden = |count| format!("a{}", "%26sid".repeat(count));
    assert_eq!((admit(&hidden(250)), admit(&hidden(300))), (Ok(()), too_many(303)));
}

#[test]
fn a_head_of_32_kib_is_admitted_and_one_byte_more_is_not() {
    let plan = RequestPlan::new(
        &url("/auth", Some("k=K")),
        &settings(&[("p", "{path}")], &[("X-P", "{path}")], &[]),
    );
    let long = "\u{1f4fa}".repeat(1024);
    let user_agent = "u".repeat(limits::USER_AGENT);
    let base = Check { path: long.as_bytes(), user_agent: user_agent.as_bytes(), ..check() };
    let len_of = |query: &[u8]| {
        let mut head = Vec::new();
        plan.write_http1(&question(&Check { query, ..base }), &mut head);
        head.len()
    };
    let room = limits::REQUEST - len_of(b"") - 1;
    // Three bytes on the wire for one of the query, so that the limit falls inside the query's own.
    let mut query = vec![b' '; room / 3];
    query.extend(std::iter::repeat_n(b'a', room % 3));
    query[0] = b'a';
    query.extend_from_slice(b"aa");
    assert_eq!(len_of(&query), limits::REQUEST);
    assert_eq!(plan.admit(&question(&Check { query: &query, ..base })), Ok(()));
    query.push(b'a');
    assert_eq!(
        plan.admit(&question(&Check { query: &query, ..base })),
        Err(Invalid::new(Field::Request, Why::TooLong { len: limits::REQUEST + 1, limit: limits::REQUEST }))
    );
}

#[test]
fn the_bound_is_never_below_the_length() {
    for (params, headers) in [
        (&[][..], &[][..]),
        (
            &[("p", "{path}{query.a}x"), ("q", "\u{e9}")][..],
            &[("X-P", "a{path} {query.a}"), ("X-F", "f")][..],
        ),
    ] {
        let plan = RequestPlan::new(&url("/auth", None), &settings(params, headers, &["ip"]));
        for query in ["", "a", "a=%20%ff+", "ip=1", "a=\u{e9} \"", "&&", "?"] {
            let question = question(&Check { query: query.as_bytes(), path: b" / ?", ..check() });
            let mut head = Vec::new();
            plan.write_http1(&question, &mut head);
            assert!(plan.bound(&question) >= head.len(), "{query}");
        }
    }
}

#[test]
fn a_line_break_that_a_template_would_decode_is_refused() {
    let plan =
        RequestPlan::new(&url("/auth", None), &settings(&[("u", "{query.u}")], &[("X-U", "{query.u}")], &[]));
    for (query, admitted) in [("u=a%20b", true), ("u=%0d%0a", false), ("u=%00", false), ("u=%0a&u=1", true)] {
        let result = plan.admit(&question(&Check { query: query.as_bytes(), ..check() }));
        let expected = if admitted { Ok(()) } else { Err(Invalid::new(Field::Request, Why::BadHeader)) };
        assert_eq!(result, expected, "{query}");
    }
    let only_param = RequestPlan::new(&url("/auth", None), &settings(&[("u", "{query.u}")], &[], &[]));
    let question = question(&Check { query: b"u=%0d%0a", ..check() });
    assert_eq!(only_param.admit(&question), Ok(()), "encoded in a parameter");
    let mut out = Vec::new();
    only_param.write_target(&question, &mut out);
    assert_eq!(out, b"/auth?u=%0D%0A");
}

#[test]
fn both_ways_to_write_a_request_agree() {
    let plan = RequestPlan::new(
        &url("/auth", Some("k=K")),
        &settings(&[("p", "{ip}")], &[("X-U", "{query.u}")], &[]),
    );
    let outgoing = Outgoing { plan: &plan, question: &question(&Check { query: b"u=a%20&k=1", ..check() }) };
    let mut built = b"GET ".to_vec();
    RequestHead::write_target(&outgoing, &mut built);
    built.extend_from_slice(b" HTTP/1.1\r\n");
    RequestHead::each_header(&outgoing, &mut |name, value| {
        built.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    });
    built.extend_from_slice(b"\r\n");
    let mut written = Vec::new();
    plan.write_http1(outgoing.question, &mut written);
    assert_eq!(written, built);
}

#[test]
fn a_plan_knows_whether_it_sends_the_path_twice() {
    for (params, headers, uses) in [
        (&[("a", "{ip}")][..], &[("X-A", "{scope}")][..], false),
        (&[("a", "{path.1}")], &[], true),
        (&[], &[("X-A", "{path}")], true),
    ] {
        let plan = RequestPlan::new(&url("/auth", None), &settings(params, headers, &[]));
        assert_eq!(plan.uses_path(), uses);
    }
}
