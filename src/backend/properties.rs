//! Properties of requests, whatever bytes a client sends.

use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::RequestPlan;
use super::fixture::{check, settings, url};
use crate::check::{Check, Question, Rules};
use crate::config::ScopeRule;

pub(super) const RULES: Rules = Rules { scope: ScopeRule::Path, path_check: false, path_in_key: false };

/// A way to read a query. Every combination is some server, or could be.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit that parsers have or have not")]
struct Parser {
    cuts_at_semicolons: bool,
    /// How often names are decoded.
    decodes: usize,
    plus_is_space: bool,
    knows_percent_u: bool,
    drops_stray_percent: bool,
    drops_beyond_ascii: bool,
    cuts_at_nul: bool,
    trims: bool,
    /// PHP's: no leading space; `.`, space and `[` are `_`.
    mangles: bool,
    /// What ends a name, besides `=`.
    ends: &'static [u8],
    ignores_case: bool,
}

impl Parser {
    fn name(&self, raw: &[u8]) -> Vec<u8> {
        let mut name = raw.to_vec();
        for _ in 0..self.decodes {
            name = self.decoded(&name);
        }
        if self.drops_beyond_ascii {
            name.retain(u8::is_ascii);
        }
        if self.mangles {
            let start = name.iter().position(|&byte| byte != b' ').unwrap_or(name.len());
            name.drain(..start);
        }
        if self.trims {
            name = trimmed(&name);
        }
        if self.cuts_at_nul {
            name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        }
        name.truncate(name.iter().position(|byte| self.ends.contains(byte)).unwrap_or(name.len()));
        if self.trims {
            name = trimmed(&name);
        }
        for byte in &mut name {
            if self.mangles && b". [".contains(byte) {
                *byte = b'_';
            }
            if self.ignores_case {
                byte.make_ascii_lowercase();
            }
        }
        name
    }

    fn decoded(&self, raw: &[u8]) -> Vec<u8> {
        let number = |digits: Option<&[u8]>| {
            digits
                .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                .and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).ok())
        };
        let mut out = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            let wide = number(raw.get(at + 2..at + 6))
                .filter(|_| self.knows_percent_u && raw.get(at + 1) == Some(&b'u'));
            match (raw[at], number(raw.get(at + 1..at + 3)), wide) {
                (b'%', _, Some(point)) => {
                    out.extend(char::from_u32(point).unwrap_or('?').to_string().bytes());
                    at += 5;
                }
                (b'%', Some(byte), None) => {
                    out.push(byte as u8);
                    at += 2;
                }
                (b'%', None, None) if self.drops_stray_percent => {}
                (b'+', ..) if self.plus_is_space => out.push(b' '),
                (byte, ..) => out.push(byte),
            }
            at += 1;
        }
        out
    }

    /// What a target gives for any of `names`; parameters without a name are nobody's.
    fn values_of(&self, target: &[u8], names: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let query = target.iter().position(|&byte| byte == b'?').map_or(&[][..], |at| &target[at + 1..]);
        query
            .split(|&byte| byte == b'&' || (self.cuts_at_semicolons && byte == b';'))
            .map(|pair| {
                let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
                (self.name(&pair[..at]), pair.get(at + 1..).unwrap_or_default().to_vec())
            })
            .filter(|(name, _)| !name.is_empty() && names.contains(name))
            .collect()
    }
}

fn trimmed(name: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| *byte <= b' ';
    let start = name.iter().position(|byte| !blank(byte)).unwrap_or(name.len());
    let end = name.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    name[start..end].to_vec()
}

fn parser() -> impl Strategy<Value = Parser> {
    (any::<[bool; 9]>(), 0..3_usize, select(vec![&b""[..], b"[", b"[."])).prop_map(
        |(flags, decodes, ends)| {
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
                cuts_at_semicolons,
                decodes,
                plus_is_space,
                knows_percent_u,
                drops_stray_percent,
                drops_beyond_ascii,
                cuts_at_nul,
                trims,
                mangles,
                ends,
                ignores_case,
            }
        },
    )
}

/// How a client might disguise a name, a step at a time.
fn disguised(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let step = (0..10_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>());
    vec(step, 0..5).prop_map(move |steps| {
        const AFFIXES: [&str; 27] = [
            "[", "[]", "[x]", ".", ".x", "+", " ", "\t", "%20", "%09", "%0a", "%00", "%00x", "%2500", "?",
            "%", "%zz", "%ff", "%c0%80", "\u{e9}", "\u{feff}", "%5b", "%255B", "%2e", "%u0000", "_", "#",
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
        Just(b"=9%26ip=8".to_vec()),
        Just(b"=1;ip=9".to_vec()),
        vec(any::<u8>(), 0..4).prop_map(|value| [b"=", &value[..]].concat()),
    ];
    let separator = select(vec![&b"&"[..], b"&", b"&", b";", b"&&", b"&?"]);
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
    fn harmless_parameters_pass_a_guard_unchanged(query in "(t[a-z0-9]{0,3}=[!$%'-:=?-Z_a-z~]{0,8}&){0,4}x") {
        let plan = RequestPlan::new(&url("/auth", None), &settings(&[], &[], &["ip", "sess"]));
        let question = Question::new(&Check { query: query.as_bytes(), ..check() }, RULES).unwrap();
        prop_assert_eq!(target(&plan, &question), format!("/auth?{query}").into_bytes());
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
