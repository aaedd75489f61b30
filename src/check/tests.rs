use super::*;

const RULES: Rules = Rules { scope: ScopeRule::Path, path_check: true, path_in_key: false };

fn check() -> Check<'static> {
    Check {
        session_id: b"s1",
        ip: b"192.0.2.7",
        path: b"/ch/index.m3u8",
        query: b"token=123",
        origin: b"https://live.example.com",
        user_agent: b"VLC/3.0",
        ..Check::default()
    }
}

fn question(check: &Check<'_>) -> Question {
    Question::new(check, RULES).unwrap()
}

#[test]
fn an_encoded_slash_is_another_directory() {
    // Such as is written at once, and such as is not.
    for query in [b"token=1".as_slice(), b"token=\x01"] {
        let key = |path: &str| {
            let rules = Rules { scope: ScopeRule::Directory, ..RULES };
            let check = Check { path: path.as_bytes(), query, ..check() };
            Question::new(&check, rules).unwrap().key().to_vec()
        };
        assert_ne!(key("/a%2fb"), key("/x"));
        assert_eq!(key("/a%2fb"), key("/a%2fc"));
        assert_eq!(key("/a/b"), key("/a/c"));
    }
}

#[test]
fn fields_come_back_as_given() {
    let given = check();
    let question = question(&given);
    assert_eq!(question.session_id(), given.session_id);
    assert_eq!(question.ip(), given.ip);
    assert_eq!(question.path(), given.path);
    assert_eq!(question.query(), given.query);
    assert_eq!(question.origin(), given.origin);
    assert_eq!(question.user_agent(), given.user_agent);
    assert_eq!(question.scope(), given.path);
}

#[test]
fn each_forwarded_field_is_part_of_the_key() {
    let base = check();
    let key = question(&base).key().to_vec();
    let changed: [Check<'static>; 6] = [
        Check { session_id: b"s2", ..base },
        Check { ip: b"192.0.2.8", ..base },
        Check { path: b"/ch/index2.m3u8", ..base },
        Check { query: b"token=124", ..base },
        Check { origin: b"https://live.example.org", ..base },
        Check { user_agent: b"VLC/3.1", ..base },
    ];
    for other in &changed {
        assert_ne!(question(other).key(), key, "{other:?}");
    }
    assert_eq!(question(&base).key(), key);
}

#[test]
fn bytes_moved_from_one_field_to_the_next_change_the_key() {
    let one = question(&Check { session_id: b"ab", ip: b"c", ..check() });
    let two = question(&Check { session_id: b"a", ip: b"bc", ..check() });
    assert_ne!(one.key(), two.key());
}

#[test]
fn a_scope_that_looks_like_the_path_is_not_the_path() {
    let path = question(&check());
    let scope = question(&Check { scope: b"/ch/index.m3u8", ..check() });
    assert_ne!(path.key(), scope.key());
    let directory = Question::new(&check(), Rules { scope: ScopeRule::Directory, ..RULES }).unwrap();
    let named = question(&Check { scope: b"/ch/", ..check() });
    assert_ne!(directory.key(), named.key());
}

#[test]
fn a_scope_replaces_the_path_in_the_key_and_nothing_else() {
    let playlist = Check { scope: b"ch", ..check() };
    let segment = Check { path: b"/ch/1.ts", ..playlist };
    assert_eq!(question(&playlist).key(), question(&segment).key());
    assert_eq!(question(&segment).path(), b"/ch/1.ts");
    assert_ne!(question(&segment).key(), question(&Check { scope: b"ch2", ..segment }).key());

    let with_path = Rules { path_in_key: true, ..RULES };
    let playlist = Question::new(&playlist, with_path).unwrap();
    let segment = Question::new(&segment, with_path).unwrap();
    assert_ne!(playlist.key(), segment.key(), "a template sends the path");
}

#[test]
fn the_configured_scope_stands_in_where_the_host_names_none() {
    let other_file = Check { path: b"/ch/1.ts", ..check() };
    let other_channel = Check { path: b"/ch2/index.m3u8", ..check() };
    for (scope, file_shares, channel_shares) in [
        (ScopeRule::Path, false, false),
        (ScopeRule::Directory, true, false),
        (ScopeRule::Session, true, true),
    ] {
        let key = |check: &Check<'_>| Question::new(check, Rules { scope, ..RULES }).unwrap().key().to_vec();
        assert_eq!(key(&check()) == key(&other_file), file_shares, "{scope:?}");
        assert_eq!(key(&check()) == key(&other_channel), channel_shares, "{scope:?}");
    }
}

#[test]
fn line_breaks_are_refused_and_control_bytes_become_spaces_in_each_field() {
    type Set = for<'a> fn(&mut Check<'a>, &'a [u8]);
    let fields: [(Field, Set); 7] = [
        (Field::SessionId, |check, value| check.session_id = value),
        (Field::Ip, |check, value| check.ip = value),
        (Field::Path, |check, value| check.path = value),
        (Field::Query, |check, value| check.query = value),
        (Field::Origin, |check, value| check.origin = value),
        (Field::UserAgent, |check, value| check.user_agent = value),
        (Field::Scope, |check, value| check.scope = value),
    ];
    for (field, set) in fields {
        for byte in 0..=255u8 {
            for value in [[b'a', byte, b'b'], [byte, b'a', b'b'], [b'a', b'b', byte]] {
                let mut check = check();
                set(&mut check, &value);
                let rules = Rules { path_check: false, ..RULES };
                match Question::new(&check, rules) {
                    Err(error) => {
                        assert!(breaks_line(byte), "{field:?} {byte:#x}");
                        assert_eq!(error, Invalid::new(field, Why::LineBreak));
                    }
                    Ok(question) => {
                        assert!(!breaks_line(byte), "{field:?} {byte:#x}");
                        let clean = |&byte: &u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7F);
                        assert!(question.bytes[HEADER..].iter().all(clean), "{field:?} {byte:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn each_limit_holds_to_the_byte() {
    type Set = for<'a> fn(&mut Check<'a>, &'a [u8]);
    let fields: [(Field, usize, Set); 6] = [
        (Field::SessionId, limits::SHORT_FIELD, |check, value| check.session_id = value),
        (Field::Ip, limits::SHORT_FIELD, |check, value| check.ip = value),
        (Field::Path, limits::PATH, |check, value| check.path = value),
        (Field::Query, limits::QUERY, |check, value| check.query = value),
        (Field::Origin, limits::SHORT_FIELD, |check, value| check.origin = value),
        (Field::Scope, limits::SHORT_FIELD, |check, value| check.scope = value),
    ];
    for (field, limit, set) in fields {
        let long = vec![b'x'; limit + 1];
        let mut check = check();
        set(&mut check, &long[..limit]);
        assert!(Question::new(&check, RULES).is_ok(), "{field:?}");
        set(&mut check, &long);
        let error = Question::new(&check, RULES).err().expect("over the limit");
        assert_eq!(error, Invalid::new(field, Why::TooLong { len: limit + 1, limit }));
    }
}

#[test]
fn a_long_user_agent_is_cut_alike_in_key_and_on_the_wire() {
    let mut long = vec![b'u'; limits::USER_AGENT];
    long.extend_from_slice(b"-first");
    let mut other = vec![b'u'; limits::USER_AGENT];
    other.extend_from_slice(b"-second");
    let one = question(&Check { user_agent: &long, ..check() });
    let two = question(&Check { user_agent: &other, ..check() });
    assert_eq!(one.user_agent().len(), limits::USER_AGENT);
    assert_eq!(one.key(), two.key());
}

#[test]
fn an_empty_or_blank_session_id_is_refused() {
    for session_id in [&b""[..], b"  \t", b"\x01"] {
        let error = Question::new(&Check { session_id, ..check() }, RULES).err().expect("refused");
        assert_eq!(error, Invalid::new(Field::SessionId, Why::Empty));
    }
}

#[test]
fn a_fragment_is_dropped_from_the_query() {
    assert_eq!(question(&Check { query: b"token=1#t=9", ..check() }).query(), b"token=1");
    assert_eq!(question(&Check { query: b"?token=1", ..check() }).query(), b"?token=1");
}

#[test]
fn debug_shows_how_long_each_field_is_and_what_is_in_none() {
    let canary = b"canary";
    let secret = Check {
        session_id: canary,
        ip: canary,
        path: canary,
        query: b"token=canary",
        origin: canary,
        user_agent: canary,
        scope: canary,
        ..Check::default()
    };
    let shown = format!("{secret:?}");
    // As bytes are shown, too.
    assert!(!shown.contains("canary") && !shown.contains("99, 97"), "{shown}");
    assert!(shown.contains("session_id: 6") && shown.contains("query: 12"), "{shown}");
}
