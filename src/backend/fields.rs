//! The fields of a reply, looked for by name.
//!
//! Many names count and a usual reply has few of them: most searches are in vain. So each field leaves a mark that stands for
//! the length and the first letter of its name, and a name whose mark is missing is not searched for. A mark that two
//! names share costs a search and changes nothing.

use crate::transport::{ReplyHead, is_named};

pub(super) struct Fields<'a> {
    lines: &'a [(&'a [u8], &'a [u8])],
    marks: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn of(head: &ReplyHead<'a>) -> Self {
        let marks = head.headers.iter().fold(0, |marks, (name, _)| marks | mark(name));
        Self { lines: head.headers, marks }
    }

    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }

    /// False: there is none of that name.
    #[inline]
    fn may_have(&self, name: &'static str) -> bool {
        self.marks & mark(name.as_bytes()) != 0
    }

    /// Values without space at their ends, in order.
    #[inline]
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let lines = if self.may_have(name) { self.lines } else { &[] };
        lines
            .iter()
            .filter(move |(found, _)| is_named(found, name.as_bytes()))
            .map(|(_, value)| value.trim_ascii())
    }

    #[inline]
    pub(super) fn first(&self, name: &'static str) -> Option<&'a [u8]> {
        if self.may_have(name) { self.all(name).next() } else { None }
    }

    #[inline]
    pub(super) fn any(&self, name: &'static str, is: impl Fn(&[u8]) -> bool) -> bool {
        self.may_have(name) && self.all(name).any(is)
    }
}

/// One bit, the same for a name in any case.
#[inline]
const fn mark(name: &[u8]) -> u64 {
    match name {
        [] => 1,
        [first, ..] => 1 << ((name.len() + 5 * (*first | 0x20) as usize) % 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 17] = [
        "Age",
        "Cache-Control",
        "Cache-Status",
        "Content-Length",
        "Location",
        "Retry-After",
        "Transfer-Encoding",
        "Vary",
        "X-AuthDuration",
        "X-Cache",
        "X-Cache-Status",
        "X-Location",
        "X-Max-Sessions",
        "X-Session-Id",
        "X-Unique",
        "X-UserId",
        "@",
    ];

    #[test]
    fn a_field_is_found_in_any_case_among_any_others() {
        for name in NAMES {
            for other in NAMES.into_iter().filter(|other| *other != name).chain(["", "Date", "`"]) {
                for spelled in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                    let spelled = spelled.as_bytes();
                    let lines: [(&[u8], &[u8]); 4] = [
                        (other.as_bytes(), b"no"),
                        (spelled, b" 1\t"),
                        (spelled, b"2"),
                        (other.as_bytes(), b"no"),
                    ];
                    let fields = Fields::of(&ReplyHead { status: 200, headers: &lines });
                    assert_eq!(fields.all(name).collect::<Vec<_>>(), [b"1", b"2"], "{name} among {other}");
                    assert_eq!(fields.first(name), Some(&b"1"[..]));
                    assert!(
                        fields.any(name, |value| value == b"2") && !fields.any(name, |value| value == b"no")
                    );
                }
                let lines: [(&[u8], &[u8]); 1] = [(other.as_bytes(), b"no")];
                let without = Fields::of(&ReplyHead { status: 200, headers: &lines });
                assert_eq!(
                    (without.all(name).next(), without.first(name)),
                    (None, None),
                    "{name} in {other}"
                );
            }
        }
    }
}
