//! A set of HTTP statuses: `200,204`, `5xx`.

use std::fmt;

/// Statuses 100 to 599.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusSet {
    bits: [u64; 8],
}

const FIRST: u16 = 100;
const LAST: u16 = 599;

/// As it is written in the configuration, whole classes as such.
impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = Vec::new();
        for first in (FIRST..=LAST).step_by(100) {
            let members: Vec<_> = (first..first + 100).filter(|&status| self.contains(status)).collect();
            if members.len() == 100 {
                items.push(format!("{}xx", first / 100));
            } else {
                items.extend(members.iter().map(u16::to_string));
            }
        }
        f.write_str(&items.join(","))
    }
}

impl StatusSet {
    /// Numbers and classes, separated by commas; empty is the empty set.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for item in text.split(',') {
            match *item.trim().as_bytes() {
                [] => return Err("there is nothing between two commas; remove one of them".to_owned()),
                [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => {
                    let first = u16::from(class - b'0') * 100;
                    (first..first + 100).for_each(|status| set.insert(status));
                }
                [class @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
                    let digit = |byte: u8| u16::from(byte - b'0');
                    set.insert(digit(class) * 100 + digit(tens) * 10 + digit(ones));
                }
                _ => {
                    return Err(format!(
                        "{:?} is not a status; write numbers such as 204 or classes such as 5xx, separated by commas",
                        item.trim()
                    ));
                }
            }
        }
        Ok(set)
    }

    /// As `parse` reads it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn written(&self) -> String {
        let statuses = (FIRST..=LAST).filter(|&status| self.contains(status));
        statuses.map(|status| status.to_string()).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn contains(&self, status: u16) -> bool {
        (FIRST..=LAST).contains(&status) && {
            let (word, bit) = position(status);
            self.bits[word] & bit != 0
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bits == [0; 8]
    }

    /// One that is in both sets, for an error message.
    pub(crate) fn overlap(&self, other: &Self) -> Option<u16> {
        (FIRST..=LAST).find(|&status| self.contains(status) && other.contains(status))
    }

    /// One that is in the set but not in `first..=last`, for an error message.
    pub(crate) fn outside(&self, first: u16, last: u16) -> Option<u16> {
        (FIRST..=LAST).find(|&status| self.contains(status) && !(first..=last).contains(&status))
    }

    fn insert(&mut self, status: u16) {
        let (word, bit) = position(status);
        self.bits[word] |= bit;
    }
}

fn position(status: u16) -> (usize, u64) {
    let index = status - FIRST;
    (usize::from(index / 64), 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::StatusSet;

    #[test]
    fn a_set_is_shown_as_it_is_written() {
        for text in ["", "200", "200,204", "5xx", "200,403,5xx"] {
            assert_eq!(StatusSet::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(StatusSet::parse("503,5xx,200").unwrap().to_string(), "200,5xx");
    }

    fn members(text: &str) -> Vec<u16> {
        let set = StatusSet::parse(text).unwrap();
        (0..=u16::MAX).filter(|&status| set.contains(status)).collect()
    }

    #[test]
    fn numbers_and_classes_are_exactly_what_is_written() {
        assert_eq!(members("200"), [200]);
        assert_eq!(members(" 200 , 204,100,599"), [100, 200, 204, 599]);
        assert_eq!(members("5xx"), (500..=599).collect::<Vec<_>>());
        assert_eq!(members("5XX,404,503"), std::iter::once(404).chain(500..=599).collect::<Vec<_>>());
        assert_eq!(members("1xx,2xx,3xx,4xx,5xx"), (100..=599).collect::<Vec<_>>());
        assert_eq!(members(""), [0; 0]);
        assert!(StatusSet::parse(" ").unwrap().is_empty());
        assert!(!StatusSet::parse("599").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_status_is_refused_by_name() {
        for bad in ["20", "2000", "600", "099", "6xx", "x", "2x0", "2**", "-200", "200 204", "20０"] {
            let error = StatusSet::parse(&format!("200,{bad}")).unwrap_err();
            assert!(error.starts_with(&format!("{bad:?} is not a status")), "{error}");
        }
        for bad in ["200,", ",200", "200,,204", ","] {
            assert!(StatusSet::parse(bad).unwrap_err().contains("between two commas"), "{bad}");
        }
    }

    #[test]
    fn overlap_and_outside_name_a_status() {
        let allow = StatusSet::parse("200,502").unwrap();
        assert_eq!(allow.overlap(&StatusSet::parse("5xx").unwrap()), Some(502));
        assert_eq!(allow.overlap(&StatusSet::parse("503").unwrap()), None);
        assert_eq!(allow.outside(500, 599), Some(200));
        assert_eq!(allow.outside(200, 599), None);
    }
}
