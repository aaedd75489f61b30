//! Properties of requests, whatever bytes a client sends.

use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::RequestPlan;
use super::fixture::{check, settings, url};
use super::parsers::Parser;
use crate::check::{Check, Question, Rules};
use crate::config::ScopeRule;

pub(super) const RULES: Rules = Rules { scope: ScopeRule::Path, path_check: false, path_in_key: false };

fn parser() -> impl Strategy<Value = Parser> {
    let skips = select(vec![&b""[..], b"", b"[]", b"[]."]);
    let ends = select(vec![&b""[..], b"[", b"[.", b"[]", b"[]."]);
    let times = (0..3_usize, 0..3_usize);
    (any::<[bool; 9]>(), times, skips, ends).prop_map(|(flags, (passes, decodes), skips, ends)| {
        let [
            cuts_at_semicolons,
            plus_is_space,
            knows_percent_u,
            drops_stray_percent,
            drops_beyond_ascii,
            cuts_at_nul,
            trims,
            mangles,
            ignores_case,
        ] = flags;
        Parser {
            passes,
            cuts_at_semicolons,
            decodes,
            plus_is_space,
            knows_percent_u,
            // A part of a token that only such a parser takes for a name stays: it is nearly always a part of a token.
            drops_stray_percent: drops_stray_percent && passes == 0,
            drops_beyond_ascii: drops_beyond_ascii && passes == 0,
            cuts_at_nul,
            trims,
            mangles,
            skips,
            ends,
            ignores_case,
        }
    })
}

/// How a client might disguise a name, a step at a time.
fn disguised(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let step = (0..10_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>());
    vec(step, 0..5).prop_map(move |steps| {
        const AFFIXES: [&str; 30] = [
            "[", "]", "[]", "[x]", "%5d", ".", ".x", "+", " ", "\t", "%20", "%09", "%0a", "%00", "%00x",
            "%2500", "?", "%", "%zz", "%ff", "%c0%80", "\u{e9}", "\u{feff}", "%5b", "%255B", "%2e", "%u0000",
            "_", "#", "%255D",
        ];
        const BLANKS: [&str; 7] = [".", "+", " ", "[", "%20", "%2e", "_"];
        let mut bytes = name.as_bytes().to_vec();
        for (kind, place, choice) in steps {
            if bytes.is_empty() {
                continue;
            }
            let at = place.index(bytes.len());
            let byte = bytes[at];
            let put: Vec<u8> = match kind {
                0 => format!("%{byte:02x}").into_bytes(),
                1 => format!("%{byte:02X}").into_bytes(),
                2 => format!("%25{byte:02x}").into_bytes(),
                3 => format!("%u00{byte:02x}").into_bytes(),
                4 => vec![byte ^ if byte.is_ascii_alphabetic() { 0x20 } else { 0 }],
                5 if b"._ [+".contains(&byte) => BLANKS[choice.index(BLANKS.len())].into(),
                6 => {
                    bytes.extend_from_slice(AFFIXES[choice.index(AFFIXES.len())].as_bytes());
                    continue;
                }
                7 => {
                    bytes.splice(0..0, AFFIXES[choice.index(AFFIXES.len())].bytes());
                    continue;
                }
                8 => [AFFIXES[choice.index(AFFIXES.len())].as_bytes(), &[byte]].concat(),
                _ => continue,
            };
            bytes.splice(at..=at, put);
        }
        bytes
    })
}

const OWN_NAMES: [&str; 6] = ["ip", "api.key", "a_b", "token", "User[id]", "sess"];

/// A query of pairs that look harmless, forged, or like nothing at all.
pub(super) fn hostile_query() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => select(OWN_NAMES.to_vec()).prop_flat_map(disguised),
        1 => select(vec!["x", "id", "ipx", "api", "User"]).prop_flat_map(disguised),
        2 => select(vec!["x", "id", "ipx", "apikey", "session"]).prop_map(Into::into),
        1 => vec(any::<u8>(), 0..6),
    ];
    let value = prop_oneof![
        Just(b"".to_vec()),
        Just(b"=".to_vec()),
        Just(b"=9".to_vec()),
        select(vec![&b"=9%26ip=8"[..], b"=9%2526a_b=8", b"=9%u003B%73ess"]).prop_map(<[u8]>::to_vec),
        Just(b"=1;ip=9".to_vec()),
        vec(any::<u8>(), 0..4).prop_map(|value| [b"=", &value[..]].concat()),
    ];
    let separator = prop_oneof![
        9 => select(vec![&b"&"[..], b"&", b"&", b";", b"&&", b"&?"]),
        1 => select(vec![&b"%26"[..], b"%2526", b"%3b", b"%%32%36"]),
    ];
    vec((name, value, separator), 0..5).prop_map(|pairs| {
        let mut query = Vec::new();
        for (name, value, separator) in pairs {
            query.extend_from_slice(&[&name, &value, separator].concat());
        }
        query
    })
}

/// Every way in which an operator has parameters, and `sess`, which is protected and never sent.
pub(super) fn guarded_plan() -> RequestPlan {
    RequestPlan::new(
        &url("/auth", Some("token=T&api.key=K")),
        &settings(&[("User[id]", "U"), ("a_b", "{session_id}"), ("ip", "{ip}")], &[], &["sess"]),
    )
}

pub(super) fn target(plan: &RequestPlan, question: &Question) -> Vec<u8> {
    let mut out = Vec::new();
    plan.write_target(question, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn no_client_bytes_change_an_operators_parameter(parser in parser(), query in hostile_query()) {
        let plan = guarded_plan();
        let Ok(question) = Question::new(&Check { query: &query, ..check() }, RULES) else { return Ok(()) };
        let own = Question::new(&Check { query: b"", ..check() }, RULES).unwrap();
        // As the parser reads what is sent, and as the operator's program asks for it.
        let names: Vec<_> = OWN_NAMES
            .iter()
            .flat_map(|name| [parser.name(name.as_bytes()), name.as_bytes().to_vec()])
            .chain([parser.name(b"User%5Bid%5D")])
            .collect();
        let (asked, alone) = (target(&plan, &question), target(&plan, &own));
        prop_assert_eq!(
            parser.values_of(&asked, &names),
            parser.values_of(&alone, &names),
            "{}",
            asked.escape_ascii()
        );
    }

    #[test]
    fn what_may_stand_in_a_target_goes_out_as_it_came(query in "[!$-;=?-\\[\\]_a-z~&]{1,40}") {
        let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &[]));
        let question = Question::new(&Check { query: query.as_bytes(), ..check() }, RULES).unwrap();
        prop_assert_eq!(target(&plan, &question), format!("/auth?{query}").into_bytes());
    }

    #[test]
    fn harmless_parameters_pass_a_guard_unchanged(query in "(t[a-z0-9]{0,3}(\\[(|x|ip)\\])?=([!$'-:=?-Z_a-z~]|%4[a-f]|%zz|%26t=){0,8}&){0,4}x") {
        let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &["ip", "sess"]));
        let question = Question::new(&Check { query: query.as_bytes(), ..check() }, RULES).unwrap();
        prop_assert_eq!(target(&plan, &question), format!("/auth?{query}").into_bytes());
    }

    #[test]
    fn a_binary_token_passes_a_guard_unless_a_part_of_it_is_a_protected_name(
        pieces in vec(piece(), 0..40),
        upper in any::<bool>(),
    ) {
        let token = pieces.concat();
        let digits = |byte: &u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
        let query = format!("token={}", token.iter().map(digits).collect::<String>());
        let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &["ip", "sess"]));
        let question = Question::new(&Check { query: query.as_bytes(), ..check() }, RULES).unwrap();
        // Decoded by one proxy, by two, and by the backend once or twice.
        let twice = Parser { plus_is_space: true, ..Parser::plain() }.decoded(&token);
        let holds = holds_a_name(&token) || holds_a_name(&twice);
        let sent = if holds { "/auth".into() } else { format!("/auth?{query}") };
        prop_assert_eq!(target(&plan, &question), sent.into_bytes());
    }

    #[test]
    fn the_head_has_the_intended_headers_and_nothing_else(fields in fields(), hidden in vec(any::<u8>(), 0..6)) {
        let plan = RequestPlan::new(
            &url("/auth", Some("k=K")),
            &settings(
                &[("p", "{user_agent}{query.u}")],
                &[("X-All", "a{ip}{path}{origin}{user_agent}{scope}{session_id}"), ("X-U", "{query.u}")],
                &[],
            ),
        );
        let mut query = b"u=".to_vec();
        query.extend(hidden.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()));
        query.extend_from_slice(&[b"&", &fields.query[..]].concat());
        let Ok(question) = Question::new(&Check { query: &query, ..fields.check() }, RULES) else { return Ok(()) };
        if plan.admit(&question).is_err() {
            prop_assert!(hidden.iter().any(|byte| b"\r\n\0".contains(byte)), "refused without a reason");
            return Ok(());
        }
        let mut head = Vec::new();
        plan.write_http1(&question, &mut head);

        let lines: Vec<_> = head.split(|&byte| byte == b'\n').collect();
        prop_assert!(lines[..lines.len() - 1].iter().all(|line| line.ends_with(b"\r")), "bare LF");
        prop_assert_eq!(head.split(|&byte| byte == b'\r').count(), lines.len(), "bare CR");
        let lines: Vec<_> = lines.iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
        let request: Vec<_> = lines[0].split(|&byte| byte == b' ').collect();
        prop_assert_eq!((request.len(), request[0], request[2]), (3, &b"GET"[..], &b"HTTP/1.1"[..]));
        let may_stand = |byte: &u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(byte);
        prop_assert!(request[1].iter().all(may_stand));

        let all = [
            b"a",
            question.ip(),
            question.path(),
            question.origin(),
            question.user_agent(),
            question.scope(),
            question.session_id(),
        ]
        .concat();
        // Given once by us; a client that gives it as well makes it nobody's.
        let once = question.query().split(|&byte| byte == b'&').filter(|pair| named_u(pair)).count() == 1;
        let u: Vec<u8> = hidden
            .iter()
            .filter(|_| once)
            .map(|&byte| if (byte < 0x20 && byte != b'\t') || byte == 0x7F { b' ' } else { byte })
            .collect();
        let intended = [
            ("Host", &b"localhost"[..]),
            ("X-Session-Id", question.session_id()),
            ("X-Real-Ip", question.ip()),
            ("X-Real-Path", question.path()),
            ("X-Real-Origin", question.origin()),
            ("X-Real-Ua", question.user_agent()),
            ("X-All", all.trim_ascii()),
            ("X-U", u.trim_ascii()),
        ];
        prop_assert_eq!(lines.len(), 1 + intended.len() + 2);
        for ((name, value), line) in intended.iter().zip(&lines[1..]) {
            prop_assert_eq!(*line, [name.as_bytes(), b": ", value].concat(), "{}", name);
        }
        prop_assert!(lines[intended.len() + 1..].iter().all(|line| line.is_empty()));
    }

    #[test]
    fn questions_with_one_key_are_asked_alike(
        one in fields(),
        changes in vec((0..7_u8, vec(select(b"/ab&=.+% ?".to_vec()), 0..3)), 0..3),
        scope in select(vec![ScopeRule::Path, ScopeRule::Directory, ScopeRule::Session]),
        template in select(vec!["{scope}", "{path}", "{path.1}", "{query.a}", "{ip}"]),
    ) {
        let mut two = one.clone();
        for (field, value) in changes {
            *two.field(field) = value;
        }
        let plan = RequestPlan::new(&url("/auth", None), &settings(&[("p", template)], &[("X-P", template)], &["a"]));
        let rules = Rules { scope, path_in_key: plan.uses_path(), ..RULES };
        let wire = |fields: &Fields| {
            let question = Question::new(&fields.check(), rules).ok()?;
            let mut lines = vec![target(&plan, &question)];
            // A control byte becomes a space, and a scope of spaces is none.
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
            let scoped = scope != ScopeRule::Path || !fields.scope.iter().all(is_blank);
            plan.each_header(&question, &mut |name, value| {
                // Under a scope the leader's path stands for all, unless a template sends it too.
                if name != "X-Real-Path" || !scoped || plan.uses_path() {
                    lines.push([name.as_bytes(), b": ", value].concat());
                }
            });
            Some((Rc::new(question), lines))
        };
        if let (Some((question, wire)), Some((other, other_wire))) = (wire(&one), wire(&two)) {
            prop_assert!(question.key() != other.key() || wire == other_wire, "{wire:?} {other_wire:?}");
        }
    }
}

/// Of a random token, with some of what a name would need.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let telling = [
        "&", "&", ";", "ip", "Ip", "sESs", "=", "[", "]", ".", " ", "+", "?", "\0", "%26", "%3b", "%69",
        "%70", "%ff", "%",
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 1..8),
        2 => select(telling.to_vec()).prop_map(Into::into),
    ]
}

/// Whether `ip` or `sess` is, as whoever finds separators in this value may read it, the name of a parameter in it.
fn holds_a_name(value: &[u8]) -> bool {
    value.split(|byte| b"&;".contains(byte)).skip(1).any(|pair| {
        let raw = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
        let once = Parser { plus_is_space: true, ..Parser::plain() }.decoded(raw);
        let twice = Parser { plus_is_space: true, ..Parser::plain() }.decoded(&once);
        [raw, &once, &twice].into_iter().any(|name| {
            let is_blank = |byte: u8| byte <= b' ' || b"\x7f+".contains(&byte);
            let start = name.iter().position(|&byte| !is_blank(byte) && !b"?[].".contains(&byte));
            let name = name[start.unwrap_or(name.len())..].to_ascii_lowercase();
            ["ip", "sess"].iter().filter_map(|own| name.strip_prefix(own.as_bytes())).any(|rest| {
                let end = rest.iter().position(|byte| b"\0[].".contains(byte)).unwrap_or(rest.len());
                rest[..end].iter().all(|&byte| is_blank(byte))
            })
        })
    })
}

fn named_u(pair: &[u8]) -> bool {
    let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
    matches!(name, b"u" | b"%75")
}

#[derive(Clone, Debug)]
struct Fields {
    session_id: Vec<u8>,
    ip: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
    origin: Vec<u8>,
    user_agent: Vec<u8>,
    scope: Vec<u8>,
}

impl Fields {
    fn check(&self) -> Check<'_> {
        Check {
            session_id: &self.session_id,
            ip: &self.ip,
            path: &self.path,
            query: &self.query,
            origin: &self.origin,
            user_agent: &self.user_agent,
            scope: &self.scope,
            ..Check::default()
        }
    }

    fn field(&mut self, index: u8) -> &mut Vec<u8> {
        match index {
            0 => &mut self.session_id,
            1 => &mut self.ip,
            2 => &mut self.path,
            3 => &mut self.query,
            4 => &mut self.origin,
            5 => &mut self.user_agent,
            _ => &mut self.scope,
        }
    }
}

/// Few different bytes, so that accidents happen; now and then any byte at all.
fn fields() -> impl Strategy<Value = Fields> {
    let byte = || prop_oneof![20 => select(b"/ab:u&=. \t".to_vec()), 1 => any::<u8>()];
    let field = move || vec(byte(), 0..6);
    (vec(byte(), 1..4), field(), field(), field(), field(), field(), field()).prop_map(
        |(session_id, ip, path, query, origin, user_agent, scope)| Fields {
            session_id,
            ip,
            path,
            query,
            origin,
            user_agent,
            scope,
        },
    )
}
