//! `verdict.body`: an allowing status allows only if the body says so too.
//!
//! A rule holds only if the body is one complete JSON document, nothing behind it, in which no object gives a
//! name twice, anywhere: parsers take the first or the last, and one of the two may be the client's own text
//! reflected. Nesting is bounded by `serde_json`'s limit of 128.
//!
//! * `==`: the name is there and its value is that, type and all: `"0"`, `0.0`, `-0` and `0e0` are not `0`.
//! * `!=`: the name is there, its value has the rule's type, and is another. Nothing at all must not allow,
//!   nor an error that was `1` and is `"1"` now. `!=null` is any other value.
//!
//! Names lead through objects only, not into arrays.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

const EXAMPLE: &str = "write e.g. json:error==0, json:data.status==\"ok\" or json:user.blocked==false";

/// `json:NAME(.NAME)*(==|!=)(integer|"string"|true|false|null)`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BodyRule {
    path: Box<[Box<str>]>,
    equal: bool,
    value: Scalar,
}

#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Null,
    Bool(bool),
    /// Holds every i64 and u64.
    Integer(i128),
    String(Box<str>),
}

impl BodyRule {
    /// The error text says what is wrong and shows an example.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}; {EXAMPLE}");
        let rule = text.trim().strip_prefix("json:").ok_or_else(|| wrong("a rule begins with 'json:'"))?;
        let at = rule.find(['=', '!']).ok_or_else(|| wrong("there is no '==' or '!='"))?;
        let (names, comparison) = rule.split_at(at);
        let (equal, value) = match (comparison.strip_prefix("=="), comparison.strip_prefix("!=")) {
            (Some(value), _) => (true, value),
            (None, Some(value)) => (false, value),
            (None, None) => return Err(wrong("there is no '==' or '!='")),
        };
        let unfit = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '"' | '[' | ']');
        let path: Box<[Box<str>]> = names.split('.').map(Into::into).collect();
        if path.iter().any(|name| name.is_empty() || name.contains(unfit)) {
            return Err(wrong("what is compared is a name, or names joined by '.'"));
        }
        let value = Scalar::parse(value).ok_or_else(|| {
            wrong("what it is compared with is an integer, a \"string\", true, false or null")
        })?;
        Ok(Self { path, equal, value })
    }

    /// As `parse` reads it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn written(&self) -> String {
        let value = match &self.value {
            Scalar::Null => "null".to_owned(),
            Scalar::Bool(value) => value.to_string(),
            Scalar::Integer(value) => value.to_string(),
            Scalar::String(value) => serde_json::to_string(value).expect("a text"),
        };
        format!("json:{}{}{value}", self.path.join("."), if self.equal { "==" } else { "!=" })
    }

    /// Whether a complete body holds.
    pub(crate) fn holds(&self, body: &[u8]) -> bool {
        let holds = Cell::new(false);
        let mut document = serde_json::Deserializer::from_slice(body);
        let root = Node { target: Some(Target { rule: self, path: &self.path, holds: &holds }) };
        root.deserialize(&mut document).is_ok() && document.end().is_ok() && holds.get()
    }

    fn accepts(&self, found: &Found<'_>) -> bool {
        let same = match (&self.value, found) {
            (Scalar::Null, Found::Null) => Some(true),
            (Scalar::Null, _) => Some(false),
            (Scalar::Bool(wanted), Found::Bool(found)) => Some(wanted == found),
            (Scalar::Integer(wanted), Found::Integer(found)) => Some(wanted == found),
            (Scalar::String(wanted), Found::String(found)) => Some(**wanted == **found),
            _ => None,
        };
        same == Some(self.equal)
    }
}

impl Scalar {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "null" => Some(Self::Null),
            "true" => Some(Self::Bool(true)),
            "false" => Some(Self::Bool(false)),
            _ if text.starts_with('"') => {
                serde_json::from_str::<String>(text).ok().map(|text| Self::String(text.into()))
            }
            // serde_json knows which texts are integers; `-0` is a float to it.
            _ if text.trim() == text => {
                let number = serde_json::from_str::<serde_json::Number>(text).ok()?;
                number.as_i128().map(Self::Integer)
            }
            _ => None,
        }
    }
}

/// The value that the names led to.
enum Found<'a> {
    Null,
    Bool(bool),
    Integer(i128),
    /// A number with a fraction or an exponent, or out of range; an array; an object.
    Other,
    String(&'a str),
}

/// What is still to be walked to the value, in the part of the document that leads to it.
#[derive(Clone, Copy)]
struct Target<'a> {
    rule: &'a BodyRule,
    path: &'a [Box<str>],
    holds: &'a Cell<bool>,
}

/// One value of the document; everything in it is read, so that no second spelling of a name hides.
#[derive(Clone, Copy)]
struct Node<'a> {
    target: Option<Target<'a>>,
}

impl<'a> Node<'a> {
    fn is(self, found: &Found<'_>) {
        if let Some(Target { rule, path: [], holds }) = self.target {
            holds.set(rule.accepts(found));
        }
    }

    fn member(self, name: &str) -> Self {
        let target: Option<Target<'a>> = self.target.and_then(|target| {
            let (first, path) = target.path.split_first()?;
            (**first == *name).then_some(Target { path, ..target })
        });
        Self { target }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.is(&Found::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.is(&Found::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.is(&Found::Integer(value.into()));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.is(&Found::Integer(value.into()));
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.is(&Found::Other);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.is(&Found::String(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.is(&Found::Other);
        while items.next_element_seed(Node { target: None })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.is(&Found::Other);
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(self.member(&name))?;
            if !names.insert(name) {
                return Err(A::Error::custom("a name twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(rule: &str, body: &[u8]) -> bool {
        BodyRule::parse(rule).unwrap().holds(body)
    }

    #[test]
    fn forty_bodies() {
        let rule = "json:error==0";
        let allowed = [
            r#"{"error":0}"#,
            " {\"error\" : 0}\r\n\t ",
            r#"{"a":[1,{"error":1}],"error":0,"b":null}"#,
            r#"{"\u0065rror":0}"#,
            r#"{"data":{"error":1},"error":0}"#,
            r#"{"Error":1,"error":0}"#,
            r#"{"echo":"\",\"error\":1","error":0}"#,
        ];
        let denied = [
            "",
            " ",
            "0",
            "error=0",
            "null",
            "[]",
            "{}",
            r#"[{"error":0}]"#,
            r#""{\"error\":0}""#,
            r#"{"error":1}"#,
            r#"{"error":"0"}"#,
            r#"{"error":0.0}"#,
            r#"{"error":-0}"#,
            r#"{"error":0e0}"#,
            r#"{"error":0E1}"#,
            r#"{"error":00}"#,
            r#"{"error":+0}"#,
            r#"{"error":false}"#,
            r#"{"error":null}"#,
            r#"{"error":[0]}"#,
            r#"{"error":{"error":0}}"#,
            r#"{"error":""}"#,
            r#"{"data":{"error":0}}"#,
            r#"{"Error":0}"#,
            r#"{"error":1,"error":0}"#,
            r#"{"error":0,"error":1}"#,
            r#"{"error":0,"error":0}"#,
            r#"{"error":0,"\u0065rror":0}"#,
            r#"{"error":0,"a":{"b":1,"b":1}}"#,
            r#"{"error":0,"a":[{"b":1,"b":2}]}"#,
            r#"{"error":0}{"error":0}"#,
            r#"{"error":0} x"#,
            r#"{"error":0}]"#,
            r#"{"error":0,}"#,
            r#"{"error":0"#,
            r"{error:0}",
            r"{'error':0}",
            r#"{"error":0 /* ok */}"#,
            r#"callback({"error":0})"#,
            "\u{feff}{\"error\":0}",
            r#"{"error":0,"a":NaN}"#,
            r#"{"error":0,"a":"\ud800"}"#,
            "<html>{\"error\":0}</html>",
        ];
        for body in allowed {
            assert!(holds(rule, body.as_bytes()), "{body}");
        }
        for body in denied {
            assert!(!holds(rule, body.as_bytes()), "{body}");
        }
        assert!(!holds(rule, b"{\"error\":0,\"a\":\"\xff\"}"), "not UTF-8");
        assert!(!holds(rule, b"\x1f\x8b\x08\x00compressed"));
        assert!(!holds(rule, b"{\"error\":0}\0"));
        let deep = format!("{{\"error\":0,\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(!holds(rule, deep.as_bytes()), "too deep");
    }

    #[test]
    fn a_body_cut_at_any_byte_does_not_hold() {
        let body = br#"{"token":"t","data":{"list":[1,2,{"x":"\u00e9"}],"status":"ok"},"error":0}"#;
        for rule in ["json:error==0", "json:error!=1", "json:data.status==\"ok\"", "json:token!=\"x\""] {
            assert!(holds(rule, body), "{rule}");
            for end in 0..body.len() {
                assert!(!holds(rule, &body[..end]), "{rule} cut at {end}");
            }
        }
    }

    #[test]
    fn each_type_is_equal_only_to_itself() {
        let literals = [
            "0",
            "1",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "\"0\"",
            "\"\"",
            "\"a\\\"b\"",
            "true",
            "false",
            "null",
        ];
        for wanted in literals {
            let rule = format!("json:v=={wanted}");
            for found in literals.iter().chain(&["1.0", "1e0", "18446744073709551616", "[]", "{}"]) {
                let body = format!("{{\"v\":{found}}}");
                assert_eq!(holds(&rule, body.as_bytes()), wanted == *found, "{rule} {body}");
            }
        }
    }

    #[test]
    fn different_needs_a_value_of_the_same_type() {
        for (rule, value, expected) in [
            ("json:v!=1", "0", true),
            ("json:v!=1", "1", false),
            ("json:v!=1", "\"1\"", false),
            ("json:v!=1", "\"0\"", false),
            ("json:v!=1", "0.5", false),
            ("json:v!=1", "null", false),
            ("json:v!=\"no\"", "\"yes\"", true),
            ("json:v!=\"no\"", "\"no\"", false),
            ("json:v!=\"no\"", "0", false),
            ("json:v!=true", "false", true),
            ("json:v!=true", "true", false),
            ("json:v!=true", "1", false),
            ("json:v!=null", "{\"id\":1}", true),
            ("json:v!=null", "[]", true),
            ("json:v!=null", "0", true),
            ("json:v!=null", "null", false),
        ] {
            assert_eq!(holds(rule, format!("{{\"v\":{value}}}").as_bytes()), expected, "{rule} {value}");
            assert!(!holds(rule, b"{}"), "{rule}: absent");
        }
    }

    #[test]
    fn names_lead_through_objects() {
        let rule = "json:data.user.blocked==false";
        assert!(holds(rule, br#"{"data":{"user":{"blocked":false}}}"#));
        for body in [
            r#"{"data":{"user":[{"blocked":false}]}}"#,
            r#"{"data.user.blocked":false}"#,
            r#"{"user":{"blocked":false}}"#,
            r#"{"data":{"user":false}}"#,
            r#"{"data":[],"user":{"blocked":false}}"#,
            r#"{"x":{"data":{"user":{"blocked":false}}}}"#,
        ] {
            assert!(!holds(rule, body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_refused_with_an_example() {
        for rule in [
            "",
            "error==0",
            "json:",
            "json:error",
            "json:error=0",
            "json:error!0",
            "json:==0",
            "json:.a==0",
            "json:a.==0",
            "json:a..b==0",
            "json:a b==0",
            "json:error==",
            "json:error==ok",
            "json:error==0.0",
            "json:error==1e3",
            "json:error==-0",
            "json:error==01",
            "json:error==+1",
            "json:error== 0",
            "json:error==\"ok",
            "json:error=='ok'",
            "json:error==0x0",
            "json:error===0",
            "json:error==[]",
            "json:error==99999999999999999999",
            "json:a[0]==1",
            "xml:error==0",
            "json:error==True",
        ] {
            let error = BodyRule::parse(rule).unwrap_err();
            assert!(error.ends_with(EXAMPLE), "{rule}: {error}");
        }
        for rule in ["json:error==0", " json:a.b!=\"x == y\" ", "json:a_1-b==-5", "json:\u{43e}==null"] {
            assert!(BodyRule::parse(rule).is_ok(), "{rule}");
        }
    }
}
