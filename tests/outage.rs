//! No answer: each reason has its own cause and the operator's default action, and nothing that a client can
//! bring about inside this host opens a door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use alta_auth::{Cause, Check, Decision, Engine, Origin, Verdict};
use support::{
    Authority, Collect, Gate, Reply, Rerun, SLACK, Scripted, ask, assert_backend, assert_default, bad,
    config, engine, good, sessions, started, until,
};

/// The same outage under both default actions.
#[track_caller]
fn both_ways(url: &str, keys: &[(&str, &str)], cause: Cause) {
    for (action, verdict) in [("allow", Verdict::Allow), ("deny", Verdict::Deny)] {
        let keys: Vec<_> = keys.iter().copied().chain([("default_action", action)]).collect();
        let engine = engine(url, &keys);
        let decision = ask(&engine, &good());
        assert_default(&decision, verdict, cause);
        assert!(!decision.detail().is_empty());
        assert_eq!(engine.stats().causes[cause as usize], 1);
    }
}

/// An address that refuses connections: bound, so that nothing else takes it, and not listening.
fn refusing() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, format!("http://{address}/auth"))
}

#[test]
fn a_backend_that_is_not_there_at_start_is_an_outage_and_no_error() {
    let (_bound, url) = refusing();
    both_ways(&url, &[], Cause::Connect);
    both_ways("unix:/nonexistent/auth.sock:/auth", &[], Cause::Connect);
}

#[test]
fn a_name_that_does_not_resolve_is_an_outage_of_resolve() {
    if let Some(child) = Rerun::of("a_name_that_does_not_resolve_is_an_outage_of_resolve") {
        // The C library's own word: it does not ask again and again where no one answers.
        return child.env("RES_OPTIONS", "timeout:1 attempts:1").run();
    }
    // RFC 6761: never a name of anyone.
    both_ways("http://backend.invalid/auth", &[("timeout", "25s")], Cause::Resolve);
}

#[test]
fn a_connection_that_is_not_accepted_ends_at_connect_timeout() {
    // A full backlog: the kernel drops further attempts, as a host that is down does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog does not fill");
    }
    let keys = [("connect_timeout", "200ms"), ("timeout", "20s")];
    let (url, begun) = (format!("http://{address}/auth"), tokio::time::Instant::now());
    both_ways(&url, &keys, Cause::Connect);
    assert!(begun.elapsed() < Duration::from_secs(10), "waited for the budget instead");
}

#[test]
fn silence_is_a_timeout_of_the_whole_budget() {
    let backend = Scripted::always(Reply::silence());
    both_ways(&backend.url(), &[("timeout", "2s")], Cause::Timeout);
}

#[test]
fn a_reply_that_drips_does_not_stretch_the_budget() {
    let mut drip = Reply::raw("HTTP/1.1 200 OK\r\n");
    for index in 0..2_000 {
        drip = drip.then(Reply::raw(format!("X-{}: 1\r\n", index % 10)).after(Duration::from_millis(50)));
    }
    let backend = Scripted::always(drip);
    let begun = tokio::time::Instant::now();
    let decision = ask(&engine(&backend.url(), &[("timeout", "2s")]), &good());
    assert_default(&decision, Verdict::Deny, Cause::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", begun.elapsed());
}

#[test]
fn a_close_and_a_reset_before_an_answer_are_resets() {
    both_ways(&Scripted::always(Reply::close()).url(), &[], Cause::Reset);
    both_ways(&Scripted::always(Reply::reset()).url(), &[], Cause::Reset);
}

#[test]
fn what_is_no_reply_is_an_outage_of_protocol() {
    both_ways(&Scripted::always(Reply::raw("garbage\r\n\r\n")).url(), &[], Cause::Protocol);
}

#[test]
fn a_shorter_timeout_of_one_check_is_its_own() {
    let gate = Gate::default();
    let backend = Scripted::always(Reply::allow().when(&gate));
    let engine = engine(&backend.url(), &[]);
    let collect = Collect::new();
    // One question, so one exchange: the impatient check leaves it, the patient one stays.
    engine.submit(&good(), &collect.receiver(), 0).unwrap();
    until(|| backend.request_count() == 1);
    let impatient = Check { timeout: Some(Duration::from_millis(500)), ..good() };
    engine.submit(&impatient, &collect.receiver(), 1).unwrap();
    let (first, decision) = collect.wait(1).remove(0);
    assert_eq!(first, 1);
    assert_default(&decision, Verdict::Deny, Cause::Timeout);
    gate.open();
    let (_, patient) = collect.wait(2).remove(1);
    assert_backend(&patient, Verdict::Allow, 200);
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn a_hundred_thousand_checks_at_a_hung_backend_all_get_the_default_action() {
    let backend = Scripted::always(Reply::silence());
    let keys = [("timeout", "500ms"), ("inbox.capacity", "100000"), ("pool.max_connections", "8")];
    let engine = engine(&backend.url(), &keys);
    let (ids, collect) = (sessions(100_000), Collect::new());
    let checks =
        ids.iter().enumerate().map(|(index, id)| (Check { session_id: id.as_bytes(), ..good() }, index));
    engine.submit_batch(checks, &collect.receiver(), |outcome| {
        outcome.unwrap();
    });
    let decided = collect.wait(100_000);
    let unanswered = |(_, decision): &(usize, Decision)| {
        decision.origin == Origin::Default && matches!(decision.cause, Cause::Timeout | Cause::Overload)
    };
    assert!(decided.iter().all(unanswered));
    let stats = engine.stats();
    assert_eq!((stats.completed, stats.pending), (100_000, 0));
}

// Local bounds

#[test]
fn a_full_pool_never_allows_even_by_default() {
    let backend = Scripted::always(Reply::silence());
    full_pool(&backend, &backend.url(), &[]);
}

/// One handshake is made for all, and those for whom its connection has no room were never asked about.
#[test]
fn a_full_pool_of_tls_or_http2_never_allows_even_by_default() {
    let authority = Authority::new();
    let backend = Scripted::tls(&authority.server("127.0.0.1"), |_| Reply::silence());
    let url = format!("https://{}/auth", backend.address());
    full_pool(&backend, &url, &[("tls.ca_file", &authority.trust())]);
    // SETTINGS: one stream at a time.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
    let backend = Scripted::http2(move |_| Reply::raw(settings), |_| Reply::silence());
    full_pool(&backend, &backend.url(), &[("http.version", "h2c")]);
}

#[track_caller]
fn full_pool(backend: &Scripted, url: &str, keys: &[(&str, &str)]) {
    let full = [("default_action", "allow"), ("pool.max_connections", "1"), ("timeout", "400ms")];
    let engine = engine(url, &[&full[..], keys].concat());
    let (ids, collect) = (sessions(50), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    let decided = collect.wait(50);
    let (asked, queued): (Vec<_>, Vec<_>) =
        decided.iter().partition(|(_, decision)| decision.cause == Cause::Timeout);
    // Who was asked about got no answer: that is the backend's outage. The others never left this host.
    assert!(asked.len() <= 2, "{} checks were on one connection", asked.len());
    for (_, decision) in queued {
        assert_default(decision, Verdict::Deny, Cause::Overload);
    }
    assert!(backend.most_connections() <= 2, "{}", backend.most_connections());
}

/// The check's own time ends first, while it waits for a connection: nobody asked the backend, so nobody may
/// say that it gave no answer.
#[test]
fn a_check_that_leaves_a_full_pool_never_allows_even_by_default() {
    let backend = Scripted::always(Reply::silence());
    let keys = [("default_action", "allow"), ("pool.max_connections", "1")];
    let engine = engine(&backend.url(), &keys);
    let collect = Collect::new();
    engine.submit(&bad(), &collect.receiver(), 0).unwrap();
    backend.wait_requests(1);
    let timeout = Some(Duration::from_millis(100));
    for id in sessions(20).iter().skip(2) {
        let decision = ask(&engine, &Check { session_id: id.as_bytes(), timeout, ..bad() });
        assert_default(&decision, Verdict::Deny, Cause::Overload);
    }
    assert_eq!(backend.request_count(), 1);
}

#[test]
fn fail_open_overload_is_the_operators_own_word() {
    let backend = Scripted::always(Reply::silence());
    let keys = [
        ("default_action", "allow"),
        ("fail_open.overload", "on"),
        ("pool.max_connections", "1"),
        ("timeout", "300ms"),
    ];
    let engine = engine(&backend.url(), &keys);
    let (ids, collect) = (sessions(10), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    let decided = collect.wait(10);
    assert!(decided.iter().all(|(_, decision)| decision.allows()));
    assert!(decided.iter().any(|(_, decision)| decision.cause == Cause::Overload));
}

#[test]
fn exhausted_descriptors_never_allow_even_by_default() {
    if let Some(child) = Rerun::of("exhausted_descriptors_never_allow_even_by_default") {
        return child.with_open_files(64).run();
    }
    let (backend, bound) = refuse_later();
    let keys = [("default_action", "allow"), ("pool.max_connections", "256"), ("timeout", "2s")];
    let engine = engine(&backend, &keys);
    // All that this process may open, but for none.
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let (ids, collect) = (sessions(200), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    let decided = collect.wait(200);
    drop(hoard);
    for (_, decision) in &decided {
        assert_default(decision, Verdict::Deny, Cause::Overload);
    }
    drop(bound);
}

/// A listening socket whose connections nobody reads.
fn refuse_later() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (format!("http://{}/auth", listener.local_addr().unwrap()), listener)
}

/// All ports that this host has for connections are taken by others.
#[test]
fn exhausted_ports_never_allow_even_by_default() {
    if let Some(child) = Rerun::of("exhausted_ports_never_allow_even_by_default") {
        if let Some(child) = child.with_ports(40_000, 40_015) {
            child.run();
        }
        return;
    }
    let (backend, bound) = refuse_later();
    let mut hoard = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(bound.local_addr().unwrap()) {
        hoard.push(stream);
        assert!(hoard.len() <= 16, "more connections than ports");
    }
    let engine = engine(&backend, &[("default_action", "allow"), ("timeout", "2s")]);
    let (ids, collect) = (sessions(200), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    for (_, decision) in &collect.wait(200) {
        assert_default(decision, Verdict::Deny, Cause::Overload);
    }
    drop((hoard, bound));
}

/// The pool itself takes them all: who is on a connection waits for the backend, everyone else never left.
#[test]
fn a_pool_that_may_have_more_connections_than_ports_never_allows_even_by_default() {
    if let Some(child) =
        Rerun::of("a_pool_that_may_have_more_connections_than_ports_never_allows_even_by_default")
    {
        if let Some(child) = child.with_ports(40_000, 40_015) {
            child.run();
        }
        return;
    }
    let backend = Scripted::always(Reply::silence());
    let keys = [("default_action", "allow"), ("pool.max_connections", "256"), ("timeout", "1s")];
    let engine = engine(&backend.url(), &keys);
    let (ids, collect) = (sessions(200), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let check = Check { session_id: id.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    let decided = collect.wait(200);
    let (asked, others): (Vec<_>, Vec<_>) =
        decided.iter().partition(|(_, decision)| decision.cause == Cause::Timeout);
    assert!(!asked.is_empty(), "nobody had a port: the test shows nothing");
    assert!(asked.len() <= backend.request_count(), "{} of {}", asked.len(), backend.request_count());
    assert!(backend.most_connections() <= 16, "{}", backend.most_connections());
    for (_, decision) in others {
        assert_default(decision, Verdict::Deny, Cause::Overload);
    }
}

// More than one backend

#[test]
fn failover_asks_the_next_backend_after_an_outage_and_never_after_a_refusal() {
    let second = Scripted::always(Reply::allow());
    for reply in [Reply::close(), Reply::raw("garbage\r\n\r\n"), Reply::silence()] {
        let first = Scripted::always(reply);
        let engine = engine(&format!("{},{}", first.url(), second.url()), &[("timeout", "2s")]);
        assert_backend(&ask(&engine, &good()), Verdict::Allow, 200);
        assert_eq!(first.request_count(), 1);
    }
    let before = second.request_count();
    assert_eq!(before, 3);
    for status in [403, 404, 500, 302] {
        let first = Scripted::always(Reply::status(status, ""));
        let engine = engine(&format!("{},{}", first.url(), second.url()), &[]);
        assert_backend(&ask(&engine, &good()), Verdict::Deny, status);
    }
    assert_eq!(second.request_count(), before, "a refusal was asked about again");
}

#[test]
fn the_first_backend_is_preferred_while_it_answers() {
    let (first, second) = (Scripted::always(Reply::allow()), Scripted::always(Reply::deny()));
    let engine = engine(&format!("{},{}", first.url(), second.url()), &[]);
    for id in sessions(20) {
        assert!(ask(&engine, &Check { session_id: id.as_bytes(), ..good() }).allows());
    }
    assert_eq!((first.request_count(), second.connections()), (20, 0));
}

#[test]
fn all_backends_together_have_one_budget() {
    let (first, second, third) = (
        Scripted::always(Reply::silence()),
        Scripted::always(Reply::silence()),
        Scripted::always(Reply::silence()),
    );
    let urls = format!("{},{},{}", first.url(), second.url(), third.url());
    let decision = ask(&engine(&urls, &[("timeout", "3s")]), &good());
    assert_default(&decision, Verdict::Deny, Cause::Timeout);
    assert!(decision.latency < Duration::from_secs(3) + SLACK, "{:?}", decision.latency);
    assert_eq!([first.request_count(), second.request_count(), third.request_count()], [1, 1, 1]);
}

#[test]
fn no_check_costs_more_than_three_requests() {
    // Each closes without a byte but for those whom it is to answer: where the connection is an old one, that is the safe
    // retry.
    let closing =
        |answered: &'static [&'static str]| {
            Scripted::new(move |request| {
                if answered.contains(&&*request.session()) { Reply::allow() } else { Reply::close() }
            })
        };
    let (first, second) = (closing(&["first"]), closing(&["second"]));
    let urls = format!("{},{}", first.url(), second.url());
    let engine = engine(&urls, &[("pool.idle_timeout", "1m")]);
    // The last leaves both with a connection that has answered.
    for id in ["second", "first"] {
        assert!(ask(&engine, &Check { session_id: id.as_bytes(), ..good() }).allows());
    }
    let before = [first.request_count(), second.request_count()];
    let decision = ask(&engine, &good());
    assert_default(&decision, Verdict::Deny, Cause::Reset);
    let after = [first.request_count(), second.request_count()];
    // The second's retry would be the fourth.
    assert_eq!([after[0] - before[0], after[1] - before[1]], [2, 1]);
}

/// A backend that closes every reused connection doubles no load: safe retries are a tenth of the exchanges.
#[test]
fn safe_retries_are_a_small_part_of_what_a_broken_backend_is_asked() {
    let backend =
        Scripted::new(|request| if request.sequence == 0 { Reply::allow() } else { Reply::close() });
    let engine = engine(&backend.url(), &[]);
    for id in sessions(400) {
        ask(&engine, &Check { session_id: id.as_bytes(), ..good() });
    }
    let stats = engine.stats();
    assert!(stats.retries > 0, "nothing was retried: the test shows nothing");
    // A few at the start are free, or the first retry could never be.
    assert!(stats.retries <= stats.exchanges / 10 + 20, "{} of {}", stats.retries, stats.exchanges);
    assert_eq!(stats.exchanges, backend.request_count() as u64);
}

#[test]
fn https_and_http_in_one_list_is_refused_at_start() {
    let mixed = config("https://127.0.0.1:1/a,http://127.0.0.1:1/a", &[]);
    // Nobody is between this host and its own loopback.
    drop(started(Engine::new(&mixed)));
    let mixed = config("https://192.0.2.2:1/a,http://192.0.2.1:1/a", &[]);
    let Err(error) = Engine::new(&mixed) else { panic!("https would fail over to http") };
    assert!(error.to_string().contains("tls.mixed"), "{error}");
    drop(started(Engine::new(&config("https://192.0.2.2:1/a,http://192.0.2.1:1/a", &[("tls.mixed", "on")]))));
}

/// Each guess has a token, a session and a port of its own; the address is one.
#[test]
fn guesses_over_limit_per_ip_do_not_reach_the_backend_and_deny_nobody_else() {
    let backend = Scripted::always(Reply::deny());
    let keys = [("limit.per_ip", "10/h"), ("default_action", "allow"), ("fail_open.overload", "on")];
    let engine = engine(&backend.url(), &keys);
    let (ids, collect) = (sessions(500), Collect::new());
    for (index, id) in ids.iter().enumerate() {
        let (ip, query) = (format!("192.0.2.7:{index}"), format!("token={index}"));
        let check = Check { session_id: id.as_bytes(), ip: ip.as_bytes(), query: query.as_bytes(), ..bad() };
        engine.submit(&check, &collect.receiver(), index).unwrap();
    }
    let decided = collect.wait(500);
    let (asked, limited): (Vec<_>, Vec<_>) =
        decided.iter().partition(|(_, decision)| decision.origin == Origin::Backend);
    assert_eq!((asked.len(), backend.request_count()), (10, 10));
    for (_, decision) in limited {
        assert_default(decision, Verdict::Deny, Cause::Overload);
    }
    assert_eq!(engine.stats().limited, 490);
    assert!(engine.stats().prometheus().contains("\nalta_auth_checks_limited_total 490\n"));
    assert_backend(&ask(&engine, &Check { ip: b"192.0.2.8", ..bad() }), Verdict::Deny, 403);
}

/// Over real connections: the one that loses is closed, and what it says later is nobody's.
#[test]
fn a_backend_that_is_slow_is_given_company_and_its_late_reply_decides_nothing() {
    let gate = Gate::default();
    let late = gate.clone();
    let slow = Scripted::new(move |request| match request.target().contains("slow") {
        true => Reply::allow().when(&late),
        false => Reply::deny(),
    });
    let other = Scripted::always(Reply::deny());
    let urls = format!("{},{}", slow.url(), other.url());
    let engine = engine(&urls, &[("hedge.after", "20ms"), ("hedge.max", "40%"), ("timeout", "30s")]);
    for id in sessions(10) {
        assert_backend(&ask(&engine, &Check { session_id: id.as_bytes(), ..bad() }), Verdict::Deny, 403);
    }
    let asked = other.request_count();
    let decision = ask(&engine, &Check { session_id: b"late", query: b"slow=1", ..bad() });
    assert_backend(&decision, Verdict::Deny, 403);
    assert_eq!(other.request_count(), asked + 1);
    gate.open();
    for id in sessions(50).iter().skip(10) {
        assert_backend(&ask(&engine, &Check { session_id: id.as_bytes(), ..bad() }), Verdict::Deny, 403);
    }
    let stats = engine.stats();
    assert!(stats.hedges >= 1 && stats.hedges_won >= 1, "{stats:?}");
    assert!(stats.prometheus().contains("\nalta_auth_hedges_won_total "));
}
