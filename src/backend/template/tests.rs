//! What goes into a parameter, what into a header, and what is refused with the configuration.

use super::*;
use crate::backend::fixture;
use crate::check::Check;

fn expanded(template: &str, check: &Check<'_>) -> (String, Vec<u8>) {
    let question = fixture::question(check);
    let mut parameter = Vec::new();
    for part in ParamField::parse("p", template).unwrap().template().parts() {
        match part {
            Part::Text(text) => push_encoded(&mut parameter, text.as_bytes(), &UNRESERVED),
            Part::Hole(hole) => hole.push_encoded(&question, &mut parameter),
        }
    }
    let mut header = Vec::new();
    HeaderField::parse("X-H", template).unwrap().push_value(&question, &mut header);
    (String::from_utf8(parameter).unwrap(), header)
}

#[test]
fn placeholders_take_their_values_from_the_check() {
    let check = Check {
        session_id: b"s 1",
        ip: b"2001:db8::1",
        path: b"/ch/a&b/index.m3u8",
        query: b"token=1%262&x=1&x=2&e",
        origin: b"https://h:8443",
        user_agent: "VLC/\u{e9}".as_bytes(),
        scope: b"sports",
        ..Check::default()
    };
    for (template, parameter, header) in [
        ("", "", ""),
        ("text-._~ /", "text-._~%20%2F", "text-._~ /"),
        ("{ip}", "2001%3Adb8%3A%3A1", "2001:db8::1"),
        ("{path}", "%2Fch%2Fa%26b%2Findex.m3u8", "/ch/a&b/index.m3u8"),
        ("{path.1}", "ch", "ch"),
        ("{path.2}", "a%26b", "a&b"),
        ("{path.3}", "index.m3u8", "index.m3u8"),
        ("{path.4}", "", ""),
        ("{session_id}", "s%201", "s 1"),
        ("{origin}", "https%3A%2F%2Fh%3A8443", "https://h:8443"),
        ("{user_agent}", "VLC%2F%C3%A9", "VLC/\u{e9}"),
        ("{scope}", "sports", "sports"),
        ("{query.token}", "1%262", "1&2"),
        ("{query.x}", "", ""),
        ("{query.e}", "", ""),
        ("{query.none}", "", ""),
        ("a{ip}b{scope}c", "a2001%3Adb8%3A%3A1bsportsc", "a2001:db8::1bsportsc"),
        ("{{ip}}", "%7Bip%7D", "{ip}"),
        ("{{{scope}}}", "%7Bsports%7D", "{sports}"),
    ] {
        let (got_parameter, got_header) = expanded(template, &check);
        assert_eq!(got_parameter, parameter, "{template}");
        assert_eq!(got_header, header.as_bytes(), "{template}");
    }
}

#[test]
fn what_is_filled_in_is_not_expanded_again() {
    let check = Check { query: b"u={ip}%7Bpath%7D", ip: b"{session_id}", ..fixture::check() };
    assert_eq!(expanded("{query.u}", &check).1, b"{ip}{path}");
    assert_eq!(expanded("{ip}", &check).1, b"{session_id}");
}

#[test]
fn a_client_parameter_is_found_by_its_decoded_name_and_only_once() {
    for (query, value) in [
        (&b"u=1"[..], &b"1"[..]),
        (b"%75=1", b"1"),
        (b"U=1", b""),
        (b"u=1&%75=2", b""),
        (b"u&u=2", b""),
        (b"a=1&u=b=c&d", b"b=c"),
        (b"u=a+b%2Bc", b"a b+c"),
        (b"u=%zz", b"%zz"),
    ] {
        assert_eq!(parameter(query, b"u").as_ref(), value, "{}", query.escape_ascii());
    }
}

#[test]
fn a_decoded_line_break_is_seen_and_other_control_bytes_become_spaces() {
    let field = HeaderField::parse("X-U", "<{query.u}>").unwrap();
    for byte in 0..=255u8 {
        let query = format!("u=a%{byte:02x}b");
        let question = fixture::question(&Check { query: query.as_bytes(), ..fixture::check() });
        assert_eq!(field.breaks_line(&question), matches!(byte, 0 | b'\r' | b'\n'), "{byte:#x}");
        let mut out = Vec::new();
        field.push_value(&question, &mut out);
        let sent = if byte.is_ascii_control() && byte != b'\t' { b' ' } else { byte };
        assert_eq!(out, [b'<', b'a', sent, b'b', b'>'], "{byte:#x}");
    }
}

#[test]
fn space_at_the_ends_of_a_header_is_not_sent() {
    let check = Check { query: b"u=%20%01a%20b%09%7f", ..fixture::check() };
    assert_eq!(expanded("{query.u}", &check).1, b"a b");
    assert_eq!(expanded(" \tx\t ", &check).1, b"x");
    assert_eq!(HeaderField::parse("X-H", " x ").unwrap().fixed(), Some(&b"x"[..]));
}

#[test]
fn templates_that_mean_nothing_are_refused_with_what_is_known() {
    for template in [
        "{token}",
        "{}",
        "{IP}",
        "{ip }",
        "{query}",
        "{query.}",
        "{path.0}",
        "{path.x}",
        "{path.+1}",
        "{path.}",
    ] {
        let error = ParamField::parse("p", template).unwrap_err();
        assert!(error.contains("is no placeholder") && error.contains(KNOWN), "{template}: {error}");
    }
    for template in ["{", "a{ip", "}", "a}b", "{ip}}"] {
        let error = ParamField::parse("p", template).unwrap_err();
        assert!(error.contains("write it twice"), "{template}: {error}");
    }
}

#[test]
fn headers_of_the_protocol_cannot_be_set_in_any_spelling() {
    for name in OURS.iter().chain(&FIVE) {
        for name in [(*name).to_owned(), name.to_lowercase(), name.to_uppercase(), name.replace('-', "_")] {
            let error = HeaderField::parse(&name, "x").unwrap_err();
            assert!(error.contains("cannot be set"), "{name}: {error}");
        }
    }
    for name in ["", "a b", "a:b", "a\r\nb", "h\u{e9}", "a(b", &"n".repeat(NAME_LIMIT + 1)] {
        assert!(HeaderField::parse(name, "x").unwrap_err().contains("cannot be the name"), "{name:?}");
    }
    for name in ["X-Api-Key", "Authorization", "Cookie", "x_y", "!#$%&'*+-.^_`|~"] {
        assert!(HeaderField::parse(name, "x").is_ok(), "{name}");
    }
    for value in ["a\r\nb", "a\0b", "a\u{1}b", "\u{7f}"] {
        assert!(HeaderField::parse("X-A", value).unwrap_err().contains("control"), "{value:?}");
    }
}

#[test]
fn parameters_have_names_that_can_be_read_back() {
    for name in ["", " ", "a\nb", "\0", &"n".repeat(NAME_LIMIT + 1)] {
        assert!(ParamField::parse(name, "x").is_err(), "{name:?}");
    }
    for name in ["ip", "api.key", "user[ip]", "a&b=c", "\u{43f}"] {
        assert!(ParamField::parse(name, "x").is_ok(), "{name:?}");
    }
}

#[test]
fn only_the_path_keeps_the_path_in_the_key() {
    for (template, uses) in
        [("{path}", true), ("x{path.2}", true), ("{scope}{ip}{query.path}", false), ("{{path}}", false)]
    {
        assert_eq!(ParamField::parse("p", template).unwrap().uses_path(), uses, "{template}");
        assert_eq!(HeaderField::parse("p", template).unwrap().uses_path(), uses, "{template}");
    }
}

#[test]
fn debug_shows_no_value() {
    // A secret in braces is part of the value, too.
    let value = "canary{ip}{query.canary}";
    let header = HeaderField::parse("X-Key", value).unwrap();
    let parameter = ParamField::parse("key", value).unwrap();
    let shown = format!("{header:?} {parameter:?}");
    assert!(shown.contains("X-Key") && shown.contains("key") && !shown.contains("canary"), "{shown}");
}
