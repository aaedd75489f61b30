//! Check to request, whatever the operator has configured and the client sends.
//!
//! An input is nine lines and the client's query: the backend URL's query; keys (`param.ip={ip}`, tab, …); the habits of
//! a server, a sign each (see [`parser`]); session id, ip, path, origin, user agent, scope.

use super::super::encode::{TARGET, UNRESERVED, push_encoded};
use super::super::parsers::Parser;
use super::super::request::RequestPlan;
use crate::check::{Check, Draft, Question, Rules, limits};
use crate::config::{Config, Settings};
use crate::fuzzing::{lines, pairs};

/// An operator's parameters arrive as if the client had sent nothing; what the client may send arrives as it was sent; the
/// head is the intended lines and no others; asking again asks the same.
pub fn query(input: &[u8]) {
    let ([url_query, keys, habits, session_id, ip, path, origin, user_agent, scope], client) = lines(input);
    let Some(settings) = settings(&url_query, &keys) else { return };
    let plan = RequestPlan::new(&settings.backends[0], &settings);
    let rules =
        Rules { scope: settings.scope, path_check: settings.path_check, path_in_key: plan.uses_path() };
    let check = Check {
        session_id: &session_id,
        ip: &ip,
        path: &path,
        query: client,
        origin: &origin,
        user_agent: &user_agent,
        scope: &scope,
        ..Check::default()
    };
    let Some(asked) = Asked::new(&plan, &check, rules) else { return };

    let own = OwnNames::new(&url_query, &settings);
    head(&settings, &asked);
    bounds(&asked);
    asked_again(&plan, &asked, rules);
    let alone = Asked::new(&plan, &Check { query: b"", ..check }, rules).expect("less was accepted");
    for parser in [parser(&habits), parser(b"m+i"), parser(b"+;"), parser(b"+;]"), parser(b"22+%u8ti0.")] {
        forged(&parser, &own, &asked, &alone, fills_in_the_query(&keys));
    }
    if !fills_in_the_query(&keys) {
        client_part(&plan, &own, &asked, &alone, rules);
    }
}

fn settings(url_query: &[u8], keys: &[u8]) -> Option<Settings> {
    let mut config = Config::new();
    let url = format!("http://127.0.0.1:6000/auth?{}", std::str::from_utf8(url_query).ok()?);
    config.set("backend.url", &url).ok()?;
    config.set("default_action", "deny").expect("a value that it has");
    for (key, value) in pairs(keys) {
        let ours = ["param.", "header."].iter().any(|prefix| key.starts_with(prefix))
            || ["protect_params", "scope", "path.check"].contains(&key);
        if ours && !value.trim().starts_with('@') {
            config.set(key, value).ok()?;
        }
    }
    config.settings().ok()
}

fn fills_in_the_query(keys: &[u8]) -> bool {
    keys.windows(7).any(|text| text == b"{query.")
}

/// A check that was accepted, and what is sent for it.
struct Asked {
    question: Question,
    target: Vec<u8>,
    head: Vec<u8>,
}

impl Asked {
    fn new(plan: &RequestPlan, check: &Check<'_>, rules: Rules) -> Option<Self> {
        let question = Draft::of(check, rules, |draft| draft.keep()).ok()?;
        plan.admit(&question).ok()?;
        let (mut target, mut head) = (Vec::new(), Vec::new());
        plan.write_target(&question, &mut target);
        plan.write_http1(&question, &mut head);
        Some(Self { question, target, head })
    }

    fn query(&self) -> &[u8] {
        self.target.splitn(2, |&byte| byte == b'?').nth(1).unwrap_or_default()
    }
}

/// The lines are the intended ones, in their order, and hold what headers may hold.
fn head(settings: &Settings, asked: &Asked) {
    let Asked { question, target, head } = asked;
    let text = head.strip_suffix(b"\r\n\r\n").expect("an empty line at the end");
    let lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
    let (last, others) = lines.split_last().expect("split gives one at least");
    let lines: Vec<_> =
        others.iter().map(|line| line.strip_suffix(b"\r").expect("no bare LF")).chain([*last]).collect();
    for line in &lines {
        assert!(!line.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7F), "a control byte");
    }
    assert_eq!(lines[0], [b"GET ", &target[..], b" HTTP/1.1"].concat());
    assert!(target.iter().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(byte)));
    let kept = http::uri::PathAndQuery::try_from(&target[..]).expect("a target that hyper takes");
    assert_eq!(kept.as_str().as_bytes(), target);

    let five = [
        ("Host", &b"127.0.0.1:6000"[..]),
        ("X-Session-Id", question.session_id()),
        ("X-Real-Ip", question.ip()),
        ("X-Real-Path", question.path()),
        ("X-Real-Origin", question.origin()),
        ("X-Real-Ua", question.user_agent()),
    ];
    assert_eq!(lines.len(), 1 + five.len() + settings.headers.len());
    for ((name, value), line) in five.iter().zip(&lines[1..]) {
        assert_eq!(*line, [name.as_bytes(), b": ", value].concat());
    }
    for (field, line) in settings.headers.iter().zip(&lines[1 + five.len()..]) {
        let value = line.strip_prefix(field.name().as_bytes()).and_then(|rest| rest.strip_prefix(b": "));
        let value = value.expect("the name as configured");
        assert_eq!(value, value.trim_ascii());
        http::HeaderName::from_bytes(field.name().as_bytes()).expect("a name that hyper takes");
        http::HeaderValue::from_bytes(value).expect("a value that hyper takes");
    }
}

fn bounds(asked: &Asked) {
    assert!(asked.head.len() <= limits::REQUEST);
    let parameters = asked.query().split(|byte| b"&;".contains(byte)).filter(|pair| !pair.is_empty());
    assert!(parameters.count() <= limits::PARAMETERS);
}

/// A question gives the check that it was made of.
fn asked_again(plan: &RequestPlan, asked: &Asked, rules: Rules) {
    let again = Asked::new(plan, &asked.question.check(), rules).expect("it was accepted before");
    assert_eq!(again.question.key(), asked.question.key());
    assert_eq!(again.head, asked.head);
}

/// No server reads an operator's parameter otherwise than it does when the client sends nothing.
fn forged(parser: &Parser, own: &OwnNames, asked: &Asked, alone: &Asked, filled_in: bool) {
    // What the operator has the client fill in is its own to pass through a proxy.
    if own.is_odd() || (filled_in && parser.passes > 0) {
        return;
    }
    let names = own.as_read_by(parser);
    let read = |asked: &Asked| {
        let mut found = parser.values_of(&asked.target, &names);
        // What the client may have put into the value is the operator's wish.
        found.iter_mut().filter(|_| filled_in).for_each(|(_, value)| value.clear());
        found
    };
    assert_eq!(read(asked), read(alone), "{parser:?}: {}", asked.target.escape_ascii());
}

/// After the operator's part come the client's pairs, in their order, each as it was sent; harmless ones are all there, and
/// what is left is left alone when it is sent again.
fn client_part(plan: &RequestPlan, own: &OwnNames, asked: &Asked, alone: &Asked, rules: Rules) {
    let rest = asked.target.strip_prefix(&alone.target[..]).expect("the operator's part comes first");
    let sent = match rest.split_first() {
        None => None,
        Some((&separator, sent)) => {
            assert_eq!(separator, if alone.target.contains(&b'?') { b'&' } else { b'?' });
            Some(sent)
        }
    };
    let pairs = |query: &[u8]| -> Vec<Vec<u8>> {
        query.split(|&byte| byte == b'&').map(|pair| encoded(pair, &TARGET)).collect()
    };
    let given = pairs(asked.question.query());
    let mut left = given.iter();
    for pair in sent.map(pairs).unwrap_or_default() {
        assert!(left.any(|given| *given == pair), "not sent by the client: {}", pair.escape_ascii());
    }
    if own.is_empty() {
        assert_eq!(sent.unwrap_or_default(), encoded(asked.question.query(), &TARGET));
    }
    if !own.is_odd() {
        let harmless = |pairs: &[Vec<u8>]| pairs.iter().filter(|pair| own.are_not(pair)).count();
        assert_eq!(harmless(&sent.map(pairs).unwrap_or_default()), harmless(&given));
    }
    // A single empty pair is kept, but an empty query has none.
    let Some(query) = sent.filter(|sent| !sent.is_empty()) else { return };
    let check = Check { query, ..asked.question.check() };
    if let Some(again) = Asked::new(plan, &check, rules) {
        assert_eq!(again.target.escape_ascii().to_string(), asked.target.escape_ascii().to_string());
    }
}

/// The names of an operator's parameters, sent or only protected.
struct OwnNames(Vec<Vec<u8>>);

impl OwnNames {
    fn new(url_query: &[u8], settings: &Settings) -> Self {
        let name = |pair: &[u8]| pair.split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
        // Servers cut at `;` as well, or do not.
        let of_url = [&b"&"[..], b"&;"]
            .into_iter()
            .flat_map(|ends| url_query.split(|byte| ends.contains(byte)))
            .map(name);
        let of_keys = settings.protect_params.iter().map(String::as_str);
        let of_keys = of_keys.chain(settings.params.iter().map(super::super::ParamField::name));
        let mut names: Vec<_> = of_url.chain(of_keys.map(|name| name.as_bytes().to_vec())).collect();
        names.retain(|name| !name.is_empty());
        Self(names)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Servers disagree about these before any client comes into play.
    fn is_odd(&self) -> bool {
        self.0.iter().flatten().any(|byte| !byte.is_ascii_graphic() || b"%+;?&=".contains(byte))
    }

    /// As the server's program asks for them, and as it finds them in what is sent.
    fn as_read_by(&self, parser: &Parser) -> Vec<Vec<u8>> {
        let forms =
            |name: &Vec<u8>| [name.clone(), parser.name(name), parser.name(&encoded(name, &UNRESERVED))];
        self.0.iter().flat_map(forms).collect()
    }

    /// A pair that nobody could take for one of these.
    fn are_not(&self, pair: &[u8]) -> bool {
        let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
        let part_of = |own: &Vec<u8>| own.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
        !name.is_empty()
            && name.iter().all(u8::is_ascii_alphanumeric)
            && !pair.contains(&b';')
            && !may_be_cut(pair)
            && !self.0.iter().any(part_of)
    }
}

/// Whoever decodes it may find a separator.
fn may_be_cut(pair: &[u8]) -> bool {
    let mut escapes = pair.split(|&byte| byte == b'%').skip(1);
    escapes.any(|escape| {
        let digits = escape.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        digits.is_none_or(|digits| [&b"26"[..], b"3b", b"3B", b"25"].contains(&digits))
    })
}

fn encoded(bytes: &[u8], plain: &[bool; 256]) -> Vec<u8> {
    let mut out = Vec::new();
    push_encoded(&mut out, bytes, plain);
    out
}

fn parser(habits: &[u8]) -> Parser {
    let has = |sign: u8| habits.contains(&sign);
    let passes = usize::from(has(b'p')) + usize::from(has(b'P'));
    Parser {
        passes,
        cuts_at_semicolons: has(b';'),
        // Once, unless a sign says otherwise.
        decodes: if has(b'2') { 2 } else { usize::from(!has(b'-')) },
        plus_is_space: has(b'+'),
        knows_percent_u: has(b'u'),
        // A part of a token that only such a server takes for a name stays: it is nearly always a part of a token.
        drops_stray_percent: has(b'%') && passes == 0,
        drops_beyond_ascii: has(b'8') && passes == 0,
        cuts_at_nul: has(b'0'),
        trims: has(b't'),
        // None does both.
        mangles: has(b'm') && !has(b']'),
        // Rack 2, and qs with dots.
        skips: match (has(b']'), has(b'.')) {
            (false, _) => b"",
            (true, false) => b"[]",
            (true, true) => b"[].",
        },
        ends: if has(b']') {
            b"[]"
        } else if has(b'.') {
            b"[."
        } else if has(b'[') {
            b"["
        } else {
            b""
        },
        ignores_case: has(b'i'),
    }
}
