//! Each byte in each field: a check that was taken in is asked alike over HTTP/1.1 and HTTP/2, and answered.

use alta_auth::{Check, Origin, SubmitError, Verdict};

use crate::support::{Http2Server, Reply, Scripted, engine, good};

const HEADERS: [&str; 5] = ["x-session-id", "x-real-ip", "x-real-path", "x-real-origin", "x-real-ua"];

/// Target and the five headers.
type Asked = (String, [Vec<u8>; 5]);

/// The byte in the middle of each field but the path, and of the path.
fn fields(byte: u8) -> [Vec<u8>; 2] {
    [b"a", b"/"].map(|begin: &[u8; 1]| [begin, &[byte][..], b"z"].concat())
}

fn checks<'a>(text: &'a [u8], path: &'a [u8], query: &'a [u8]) -> [Check<'a>; 2] {
    let all =
        Check { session_id: text, ip: text, origin: text, user_agent: text, scope: text, query, ..good() };
    [all, Check { path, ..good() }]
}

#[test]
fn every_byte_of_every_field_is_asked_alike_over_both_versions_and_answered() {
    let (first, second) = (Scripted::always(Reply::allow()), Http2Server::new(None));
    let http2 = format!("http://{}/auth", second.address());
    let keys = [("default_action", "deny"), ("path.check", "off")];
    let engines =
        [engine(&first.url(), &keys), engine(&http2, &[&keys[..], &[("http.version", "h2c")]].concat())];
    let mut refused = Vec::new();
    for byte in 0..=255 {
        let [text, path] = fields(byte);
        let query = [b"token=123&x=", &text[..]].concat();
        for check in checks(&text, &path, &query) {
            let outcomes = engines.each_ref().map(|engine| engine.check_blocking(&check));
            match outcomes {
                [Ok(one), Ok(two)] => {
                    for decision in [one, two] {
                        let got = (decision.verdict, decision.origin);
                        assert_eq!(got, (Verdict::Allow, Origin::Backend), "{byte}: {}", decision.detail());
                    }
                }
                [Err(SubmitError::Invalid(one)), Err(SubmitError::Invalid(two))] => {
                    assert_eq!(one.field(), two.field());
                    refused.push(byte);
                }
                other => panic!("{byte}: {other:?}"),
            }
        }
    }
    assert_eq!(refused, [0, 0, b'\n', b'\n', b'\r', b'\r']);
    let first: Vec<Asked> = first
        .requests()
        .iter()
        .map(|request| (request.target(), HEADERS.map(|name| request.header(name).unwrap())))
        .collect();
    let second: Vec<Asked> = second
        .asked()
        .iter()
        .map(|parts| {
            let target = parts.uri.path_and_query().unwrap().to_string();
            (target, HEADERS.map(|name| parts.headers[name].as_bytes().to_vec()))
        })
        .collect();
    assert_eq!(first.len(), 2 * (256 - 3));
    assert_eq!(first, second);
}
