//! One line of a batch: a JSON object or a bare URL. What is wrong with it is said without repeating values.

use std::fmt;

use serde::de::{self, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::client::Client;
use crate::client_url::ClientUrl;

/// Makes clients of lines.
pub(crate) struct Parser {
    /// What stands for what a line does not say.
    defaults: Client,
}

const FIELDS: [&str; 8] = ["session_id", "ip", "url", "path", "query", "origin", "user_agent", "scope"];

impl Parser {
    pub(crate) fn new(defaults: Client) -> Self {
        Self { defaults }
    }

    /// `line` is trimmed and not empty.
    pub(crate) fn client(&self, line: &[u8], number: u64) -> Result<Client, String> {
        if line.starts_with(b"{") { self.object(line) } else { self.url(line, number) }
    }

    fn url(&self, line: &[u8], number: u64) -> Result<Client, String> {
        let url = ClientUrl::parse(line)?;
        let mut client = self.defaults.clone();
        client.set_url(&url);
        if client.session_id.is_empty() {
            client.session_id = format!("line-{number}").into_bytes();
        }
        Ok(client)
    }

    fn object(&self, line: &[u8]) -> Result<Client, String> {
        let text = str::from_utf8(line).map_err(|_| "not UTF-8, which JSON must be")?;
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(Fields::default()).and_then(|fields| json.end().map(|()| fields));
        let Fields(mut fields) = fields.map_err(|error| said(&error))?;
        let mut take = |name: &str| {
            let index = FIELDS.iter().position(|known| *known == name)?;
            fields[index].take().map(String::into_bytes)
        };
        let mut client = self.defaults.clone();
        for (name, place) in [
            ("session_id", &mut client.session_id),
            ("ip", &mut client.ip),
            ("user_agent", &mut client.user_agent),
            ("scope", &mut client.scope),
        ] {
            if let Some(value) = take(name) {
                *place = value;
            }
        }
        let (url, path, query, origin) = (take("url"), take("path"), take("query"), take("origin"));
        if let Some(url) = url {
            if path.is_some() || query.is_some() || origin.is_some() {
                return Err("has both url and path, query or origin; give one or the other".to_owned());
            }
            client.set_url(&ClientUrl::parse(&url)?);
        } else {
            client.path = path.ok_or("has neither url nor path")?;
            client.query = query.unwrap_or_default();
            client.origin = origin.unwrap_or(client.origin);
        }
        Ok(client)
    }
}

/// A JSON error without the text's own position (the line has a number already).
fn said(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            let text = error.to_string();
            text.split(" at line ").next().unwrap_or_default().to_owned()
        }
        serde_json::error::Category::Eof => "not JSON: it ends too early".to_owned(),
        _ => format!("not JSON: error at byte {}", error.column()),
    }
}

/// The values by the index of their names in [`FIELDS`].
#[derive(Default)]
struct Fields([Option<String>; FIELDS.len()]);

impl<'de> Visitor<'de> for Fields {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Self, M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let Some(index) = FIELDS.iter().position(|known| *known == name) else {
                map.next_value::<IgnoredAny>()?;
                let name: String = name.chars().take(40).collect();
                return Err(de::Error::custom(format!(
                    "unknown field {name:?}; known are {}",
                    FIELDS.join(", ")
                )));
            };
            let value = match map.next_value::<Value>()? {
                Value::String(value) => value,
                Value::Null => continue,
                _ => return Err(de::Error::custom(format!("{name} must be a string"))),
            };
            if self.0[index].replace(value).is_some() {
                return Err(de::Error::custom(format!("{name} stands there twice")));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(line: &str) -> Result<Client, String> {
        Parser::new(Client { ip: b"192.0.2.1".to_vec(), ..Client::default() }).client(line.as_bytes(), 7)
    }

    #[test]
    fn objects_with_a_url_and_with_its_parts_are_the_same() {
        let by_url =
            client(r#"{"session_id":"s","url":"https://h/a?t=1","scope":"c","user_agent":"u"}"#).unwrap();
        let by_parts = client(
            r#"{"query":"t=1","path":"/a","origin":"https://h","session_id":"s","scope":"c","user_agent":"u","ip":null}"#,
        )
        .unwrap();
        assert_eq!(by_url, by_parts);
        assert_eq!(by_url.ip, b"192.0.2.1");
        assert_eq!(by_url.origin, b"https://h");
    }

    #[test]
    fn a_bare_url_is_a_session_of_its_own() {
        let client = client("https://h/a?t=1").unwrap();
        assert_eq!(client.session_id, b"line-7");
        assert_eq!((&client.path[..], &client.query[..]), (&b"/a"[..], &b"t=1"[..]));
    }

    #[test]
    fn what_is_wrong_is_named_and_values_are_not() {
        for (line, why) in [
            (r#"{"session_id":"s","url":"/a","token":"canary"}"#, "unknown field \"token\""),
            (r#"{"session_id":"s","url":"/a","path":"/canary"}"#, "has both url and path"),
            (r#"{"session_id":"canary"}"#, "has neither url nor path"),
            (r#"{"session_id":{"canary":1},"url":"/a"}"#, "session_id must be a string"),
            (r#"{"session_id":"s","session_id":"canary","url":"/a"}"#, "session_id stands there twice"),
            (r#"{"session_id":"canary","url":"/a""#, "not JSON: it ends too early"),
            (r#"{"session_id":"canary" "url":"/a"}"#, "not JSON: error at byte"),
            (r#"{"session_id":"canary","url":"/a"} x"#, "not JSON: error at byte"),
            (r#"{"url":"canary"}"#, "not a URL"),
            ("canary", "not a URL"),
        ] {
            let error = client(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        let parser = Parser::new(Client::default());
        assert!(parser.client(b"{\"url\":\"/\xff\"}", 1).unwrap_err().contains("not UTF-8"));
        assert_eq!(parser.client(b"/\xff", 1).unwrap().path, b"/\xff");
    }
}
