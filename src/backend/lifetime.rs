//! For how long a reply may be reused: what the backend said about it.
//!
//! The first header of `ttl.headers` that is present decides alone, even if it makes no sense: then, and
//! when it says 0, there is no reuse. Numbers are digits only and saturate; of two, the smaller counts.
//! A reply out of a cache is not reused whatever it says, so that its Age never has to be subtracted.

use std::time::Duration;

use super::fields::Fields;
use crate::config::{TtlHeader, TtlRules};

/// What the headers say. The configuration's bounds are not applied yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// `None`: nothing was said, `ttl.allow` and `ttl.deny` apply.
    pub(super) said: Option<Duration>,
    /// May not be repeated once it has expired, not even in an outage.
    pub(super) must_revalidate: bool,
    /// May not be kept at all.
    pub(super) no_store: bool,
    /// … because the answer depends on something that is not part of the question.
    pub(super) varies: bool,
    /// The header that decided; `None`: none did.
    pub(super) by: Option<TtlHeader>,
}

impl Lifetime {
    /// `asks_by`: whether a header of the request is part of the question.
    pub(super) fn of(fields: &Fields<'_>, rules: &TtlRules, asks_by: impl Fn(&[u8]) -> bool) -> Self {
        for header in &rules.headers {
            let found = match header {
                TtlHeader::XAuthDuration => {
                    let said = fields.all("X-AuthDuration").map(seconds).min();
                    said.map(|said| Self { said: Some(Duration::from_secs(said)), ..Self::default() })
                }
                TtlHeader::CacheControl => CacheControl::of(fields).map(|control| {
                    let varies = varies(fields, &asks_by);
                    Self {
                        said: Some(Duration::from_secs(control.seconds())),
                        must_revalidate: control.must_revalidate || control.no_cache,
                        no_store: control.no_store || varies,
                        varies,
                        by: None,
                    }
                }),
            };
            if let Some(found) = found {
                return Self { by: Some(*header), ..found };
            }
        }
        Self::default()
    }
}

/// The directives of all `Cache-Control` lines together. RFC 9111 section 5.2.2.
#[derive(Default)]
struct CacheControl {
    s_maxage: Option<u64>,
    max_age: Option<u64>,
    /// `no-store`, `private`: we answer for many clients, as a shared cache does.
    no_store: bool,
    /// Reuse needs to ask again, which is no reuse.
    no_cache: bool,
    must_revalidate: bool,
}

impl CacheControl {
    fn of(fields: &Fields<'_>) -> Option<Self> {
        let mut control = None;
        for line in fields.all("Cache-Control") {
            let control = control.get_or_insert_with(Self::default);
            for directive in parts(line, b',') {
                control.read(directive);
            }
        }
        control
    }

    fn read(&mut self, directive: &[u8]) {
        let at = directive.iter().position(|&byte| byte == b'=').unwrap_or(directive.len());
        let name = directive[..at].trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let least = |so_far: &mut Option<u64>| {
            let said = seconds(directive.get(at + 1..).unwrap_or_default());
            *so_far = Some(so_far.map_or(said, |so_far| so_far.min(said)));
        };
        if is("s-maxage") {
            least(&mut self.s_maxage);
        } else if is("max-age") {
            least(&mut self.max_age);
        } else if is("no-store") || is("private") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("must-revalidate") || is("proxy-revalidate") {
            self.must_revalidate = true;
        }
    }

    fn seconds(&self) -> u64 {
        if self.no_store || self.no_cache { 0 } else { self.s_maxage.or(self.max_age).unwrap_or(0) }
    }
}

/// What stands between commas, or between semicolons, that are not inside a quoted string.
fn parts(line: &[u8], separator: u8) -> Parts<'_> {
    Parts { rest: line, separator }
}

struct Parts<'a> {
    rest: &'a [u8],
    separator: u8,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = self.rest.iter().position(|&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = quoted,
                b'"' => quoted = !quoted,
                _ if byte == self.separator => return !quoted,
                _ => {}
            }
            false
        });
        let part = &self.rest[..end.unwrap_or(self.rest.len())];
        self.rest = end.map_or(&[], |end| &self.rest[end + 1..]);
        Some(part.trim_ascii())
    }
}

/// Whether the backend says that its answer depends on something that is not part of the question.
fn varies(fields: &Fields<'_>, asks_by: impl Fn(&[u8]) -> bool) -> bool {
    fields
        .all("Vary")
        .flat_map(|line| line.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .any(|name| !asks_by(name))
}

/// Whether a cache answered in the backend's place. An `Age` that is no number is not 0.
pub(super) fn from_cache(status: u16, fields: &Fields<'_>) -> bool {
    let in_words = |line: &[u8]| line.split(|&byte| byte == b',').any(says_answered);
    fields.any("Age", |age| digits(age) != Some(0))
        || fields.any("X-Cache", in_words)
        || fields.any("X-Cache-Status", in_words)
        || fields.any("Cache-Status", |line| parts(line, b',').any(|cache| cache_answered(status, cache)))
}

/// One cache in whatever words: `HIT`, `TCP_MEM_HIT:NONE`, `RefreshHit from cloudfront`. Its name, behind `from`, says nothing.
fn says_answered(state: &[u8]) -> bool {
    // What caches write where they did not ask the backend, or asked it only whether anything changed.
    const ANSWERED: [&[u8]; 4] = [b"hit", b"stale", b"updating", b"revalidated"];
    let answered = |word: &[u8]| {
        let ends =
            |end: &[u8]| word.len() >= end.len() && word[word.len() - end.len()..].eq_ignore_ascii_case(end);
        ANSWERED.into_iter().any(ends)
    };
    let mut names = false;
    state
        .split(u8::is_ascii_whitespace)
        .filter(|text| !text.is_empty())
        .filter(|text| !std::mem::replace(&mut names, text.eq_ignore_ascii_case(b"from")))
        .any(|text| text.split(|byte| !byte.is_ascii_alphanumeric()).any(answered))
}

/// One cache of `Cache-Status`, RFC 9211: its name, and what it did as parameters. Words alone are how others write it.
fn cache_answered(status: u16, cache: &[u8]) -> bool {
    let mut parameters = parts(cache, b';');
    let name = parameters.next().unwrap_or_default();
    let (mut is_forwarded, mut answered) = (false, false);
    for parameter in parameters {
        let mut halves = parameter.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (halves.next().unwrap_or_default(), halves.next());
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        is_forwarded |= is(b"fwd");
        answered |= match value {
            None => says_answered(name),
            Some(value) if is(b"hit") => value != b"?0",
            // What the backend said is not what came here: it has not changed, or it failed.
            Some(value) if is(b"fwd-status") => digits(value) != Some(status.into()),
            Some(_) => false,
        };
    }
    answered || (!is_forwarded && says_answered(name))
}

/// Seconds; what is no number is 0.
fn seconds(value: &[u8]) -> u64 {
    digits(value).unwrap_or(0)
}

/// Decimal digits only; saturates.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(value.iter().fold(0, add))
}

/// A lifetime made shorter by a random part, so that sessions that began together do not expire together: up
/// to 5 %, at most 30 s, none below 10 s. `random` is any number, evenly distributed.
pub(crate) fn jittered(ttl: Duration, random: u64) -> Duration {
    const LEAST: Duration = Duration::from_secs(10);
    const MOST_CUT: Duration = Duration::from_secs(30);
    if ttl < LEAST {
        return ttl;
    }
    let cut = (ttl / 20).min(MOST_CUT).as_nanos() * u128::from(random) / u128::from(u64::MAX);
    ttl.saturating_sub(Duration::from_nanos(u64::try_from(cut).expect("at most 30 s")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fixture::settings;
    use crate::transport::ReplyHead;

    type Lines = [(&'static str, &'static str)];

    fn lifetime(order: &[TtlHeader], lines: &Lines) -> Lifetime {
        let headers: Vec<_> = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let rules = TtlRules { headers: order.to_vec(), ..settings(&[], &[], &[]).ttl };
        let sent = ["Host", "X-Real-Ip", "X-Api-Key"];
        Lifetime::of(&Fields::of(&ReplyHead { status: 200, headers: &headers }), &rules, |name| {
            sent.iter().any(|sent| sent.as_bytes().eq_ignore_ascii_case(name))
        })
    }

    const BOTH: [TtlHeader; 2] = [TtlHeader::XAuthDuration, TtlHeader::CacheControl];

    #[test]
    fn thirty_values() {
        const HUGE: &str = "99999999999999999999999999";
        let rows: [(&Lines, Option<u64>); 36] = [
            (&[], None),
            (&[("Expires", "0"), ("Pragma", "no-cache")], None),
            (&[("x-authduration", "36000")], Some(36000)),
            (&[("X-AUTHDURATION", " 36000\t")], Some(36000)),
            (&[("X-AuthDuration", "0")], Some(0)),
            (&[("X-AuthDuration", "007")], Some(7)),
            (&[("X-AuthDuration", "")], Some(0)),
            (&[("X-AuthDuration", "-1")], Some(0)),
            (&[("X-AuthDuration", "+1")], Some(0)),
            (&[("X-AuthDuration", "1.5")], Some(0)),
            (&[("X-AuthDuration", "1e3")], Some(0)),
            (&[("X-AuthDuration", "60s")], Some(0)),
            (&[("X-AuthDuration", "0x10")], Some(0)),
            (&[("X-AuthDuration", "10, 20")], Some(0)),
            (&[("X-AuthDuration", "\u{661}")], Some(0)),
            (&[("X-AuthDuration", "18446744073709551615")], Some(u64::MAX)),
            (&[("X-AuthDuration", HUGE)], Some(u64::MAX)),
            (&[("X-AuthDuration", "20"), ("X-AuthDuration", "10")], Some(10)),
            (&[("X-AuthDuration", "20"), ("X-AuthDuration", "x")], Some(0)),
            (&[("X-AuthDuration", "x"), ("Cache-Control", "max-age=9")], Some(0)),
            (&[("Cache-Control", "max-age=9"), ("X-AuthDuration", "5")], Some(5)),
            (&[("Cache-Control", "max-age=9")], Some(9)),
            (&[("Cache-Control", "public, MAX-AGE=9 , x")], Some(9)),
            (&[("Cache-Control", "max-age=9, s-maxage=5")], Some(5)),
            (&[("Cache-Control", "max-age=5, s-maxage=9")], Some(9)),
            (&[("Cache-Control", "max-age=5, s-maxage=x")], Some(0)),
            (&[("Cache-Control", "max-age=9, max-age=4")], Some(4)),
            (&[("Cache-Control", "max-age=9"), ("Cache-Control", "max-age=4")], Some(4)),
            (&[("Cache-Control", "max-age=\"9\"")], Some(0)),
            (&[("Cache-Control", "max-age")], Some(0)),
            (&[("Cache-Control", "max-age= 9")], Some(0)),
            (&[("Cache-Control", "x=\"a\\\", max-age=9\"")], Some(0)),
            (&[("Cache-Control", "x=\", max-age=3, \", max-age=5")], Some(5)),
            (&[("Cache-Control", "x=\"\\\", max-age=3, \", max-age=5")], Some(5)),
            (&[("Cache-Control", "public")], Some(0)),
            (&[("Cache-Control", "")], Some(0)),
        ];
        for (lines, said) in rows {
            assert_eq!(lifetime(&BOTH, lines).said, said.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn the_configured_order_decides_which_header_is_read() {
        let lines: &Lines = &[("X-AuthDuration", "5"), ("Cache-Control", "max-age=9, must-revalidate")];
        let said = |order: &[TtlHeader]| lifetime(order, lines).said.map(|said| said.as_secs());
        assert_eq!(said(&BOTH), Some(5));
        assert_eq!(said(&[TtlHeader::CacheControl, TtlHeader::XAuthDuration]), Some(9));
        assert_eq!(said(&[TtlHeader::CacheControl]), Some(9));
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn the_words_of_cache_control_count_where_it_decided() {
        let words: [(&str, u64, bool, bool); 9] = [
            ("max-age=9", 9, false, false),
            ("max-age=9, must-revalidate", 9, true, false),
            ("max-age=9, Proxy-Revalidate", 9, true, false),
            ("max-age=9, no-cache", 0, true, false),
            ("max-age=9, no-cache=\"Set-Cookie, X\"", 0, true, false),
            ("max-age=9, no-store", 0, false, true),
            ("max-age=9, private", 0, false, true),
            ("PRIVATE=\"a\", max-age=9", 0, false, true),
            ("s-maxage=9, no-store", 0, false, true),
        ];
        for (value, seconds, must_revalidate, no_store) in words {
            let expected = Lifetime {
                said: Some(Duration::from_secs(seconds)),
                must_revalidate,
                no_store,
                varies: false,
                by: Some(TtlHeader::CacheControl),
            };
            assert_eq!(lifetime(&BOTH, &[("Cache-Control", value)]), expected, "{value}");

            let overruled =
                lifetime(&BOTH, &[("Cache-Control", value), ("X-AuthDuration", "7"), ("Vary", "*")]);
            assert_eq!(
                overruled,
                Lifetime {
                    said: Some(Duration::from_secs(7)),
                    by: Some(TtlHeader::XAuthDuration),
                    ..Lifetime::default()
                },
                "{value}"
            );
        }
    }

    #[test]
    fn an_answer_that_varies_with_what_was_not_sent_is_not_kept() {
        for (vary, no_store) in [
            ("X-Real-Ip", false),
            ("x-real-ip, HOST,,x-api-key", false),
            ("", false),
            ("*", true),
            ("X-Real-Ip, Cookie", true),
            ("Accept-Encoding", true),
            ("X-Real", true),
        ] {
            let found = lifetime(&BOTH, &[("Cache-Control", "max-age=9"), ("Vary", vary)]);
            assert_eq!(found.no_store, no_store, "{vary}");
        }
        let twice: &Lines = &[("Vary", "X-Real-Ip"), ("Cache-Control", "max-age=9"), ("Vary", "Cookie")];
        assert!(lifetime(&BOTH, twice).no_store);
        assert!(!lifetime(&BOTH, &[("Vary", "*")]).no_store, "Cache-Control did not decide");
    }

    #[test]
    fn a_cache_in_between_is_noticed() {
        for (name, value, cached) in [
            ("Age", "0", false),
            ("Age", "000", false),
            ("Age", "1", true),
            ("Age", "x", true),
            ("Age", "", true),
            ("Age", "-1", true),
            ("Age", "0, 7", true),
            ("X-Cache", "MISS", false),
            ("X-Cache", "HIT", true),
            ("X-Cache", "Hit from cloudfront", true),
            ("X-Cache", "MISS, HIT", true),
            ("X-Cache", "TCP_MEM_HIT:NONE", true),
            ("X-Cache-Status", "STALE", true),
            ("X-Cache-Status", "BYPASS", false),
            ("Cache-Status", "nginx; hit; ttl=30", true),
            ("Cache-Status", "nginx; fwd=uri-miss", false),
            ("X-Cached", "HIT", false),
            // The name of the cache is no word about its answer.
            ("X-Cache", "MISS from white-proxy1", false),
            ("X-Cache", "MISS from hit.example.com", false),
            ("X-Cache", "MISS from proxy-hit, HIT from proxy", true),
            ("X-Cache", "HIT from white-proxy1:3128", true),
            ("X-Cache", "MISS from, HIT", true),
            ("X-Cache", "Miss from cloudfront", false),
            ("X-Cache", "RefreshHit from cloudfront", true),
            ("X-Cache", "cache-hit", true),
            ("X-Cache", "white", false),
            ("X-Cache", "TCP_REFRESH_HIT from a22.deploy (AkamaiGHost/9) (-)", true),
            ("X-Cache", "TCP_MISS from a22-hit.deploy (AkamaiGHost/9) (-)", false),
            ("X-Cache", "HITPASS", false),
            ("X-Cache-Status", "hit", true),
            ("X-Cache-Status", "UPDATING", true),
            ("X-Cache-Status", "REVALIDATED", true),
            ("X-Cache-Status", "EXPIRED", false),
            ("Cache-Status", "white; fwd=miss", false),
            ("Cache-Status", "hit; fwd=miss", false),
            ("Cache-Status", "\"a hit; hit, hit\"; fwd=miss", false),
            ("Cache-Status", "cdn;detail=hit;fwd=stale", false),
            ("Cache-Status", "cdn; detail=\"x; hit\"; fwd=miss", false),
            ("Cache-Status", "origin; fwd=miss, cdn ;HIT; ttl=3", true),
            ("Cache-Status", "cdn; hit=?1", true),
            ("Cache-Status", "cdn; hit=?0; fwd=miss", false),
            ("Cache-Status", "cdn; fwd=stale; fwd-status=304", true),
            ("Cache-Status", "HIT", true),
            ("Cache-Status", "MISS", false),
            // Stored, as the backend failed: it said 503.
            ("Cache-Status", "cdn; fwd=stale; fwd-status=503", true),
            ("Cache-Status", "cdn; fwd=miss; fwd-status=200", false),
            ("Cache-Status", "cdn; fwd=miss; fwd-status=503, edge; fwd=miss; fwd-status=200", true),
            // As others write it.
            ("Cache-Status", "nginx; STALE", true),
            ("Cache-Status", "nginx; UPDATING", true),
            ("Cache-Status", "nginx; REVALIDATED", true),
            ("Cache-Status", "nginx; MISS", false),
            ("Cache-Status", "HIT; age=3", true),
            ("Cache-Status", "MISS; age=3", false),
        ] {
            let headers = [(name.as_bytes(), value.as_bytes())];
            let fields = Fields::of(&ReplyHead { status: 200, headers: &headers });
            assert_eq!(from_cache(200, &fields), cached, "{name}: {value}");
        }
    }

    #[test]
    fn jitter_only_shortens_and_within_its_bounds() {
        let ms = Duration::from_millis;
        for (ttl, least) in [
            (ms(0), ms(0)),
            (ms(1), ms(1)),
            (ms(9_999), ms(9_999)),
            (ms(10_000), ms(9_500)),
            (ms(60_000), ms(57_000)),
            (ms(600_000), ms(570_000)),
            (ms(36_000_000), ms(35_970_000)),
            (Duration::MAX, Duration::MAX.checked_sub(ms(30_000)).unwrap()),
        ] {
            assert_eq!(jittered(ttl, 0), ttl);
            assert_eq!(jittered(ttl, u64::MAX), least);
            let middle = jittered(ttl, u64::MAX / 2);
            assert!(least <= middle && middle <= ttl, "{ttl:?}");
            assert_eq!(middle == ttl, least == ttl, "{ttl:?}");
        }
    }
}
