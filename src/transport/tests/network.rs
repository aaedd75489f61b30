//! Real sockets on the loopback: what only the system can show.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A transport over the real connector.
pub(super) fn real(set: &[(&str, &str)]) -> Result<(Rc<Transport>, Arc<[PoolGauges]>), String> {
    let mut config = Config::new();
    config.set("default_action", "deny").unwrap();
    for (key, value) in set {
        config.set(key, value).unwrap();
    }
    let gauges: Arc<[PoolGauges]> = Arc::new([PoolGauges::default()]);
    let shared = Shared::new(Arc::new(config.settings().unwrap()), unwatched(), &Arc::default())
        .map_err(|error| format!("{error:?}"))?;
    Ok((Transport::new(shared, Arc::clone(&gauges), 0, 1), gauges))
}

/// The addresses of one endpoint, with nobody who looks at them.
fn unwatched() -> Arc<[Arc<Addresses>]> {
    let rules = crate::outage::Rules {
        failures: 5,
        rate: 0,
        cooldown: Duration::from_secs(1),
        max_cooldown: Duration::from_secs(30),
    };
    let log = crate::observe::Logger::off();
    Arc::new([Arc::new(Addresses::new("http://backend.test:80".into(), rules, log))])
}

async fn ask(transport: &Rc<Transport>) -> Result<Reply, Failure> {
    ask_for("/auth?token=123", transport, false, &Rc::default()).await
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port.to_string())
}

#[tokio::test]
async fn a_refused_connection_says_where() {
    local(async {
        let (listener, port) = listen().await;
        drop(listener);
        let url = format!("http://127.0.0.1:{port}/auth?secret=1");
        let (transport, _) = real(&[("backend.url", &url)]).unwrap();
        let failure = ask(&transport).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Connect);
        assert_eq!(
            failure.detail,
            format!("connection refused by http://127.0.0.1:{port} (127.0.0.1:{port})")
        );
    })
    .await;
}

#[tokio::test]
async fn surplus_and_end_are_seen_before_a_connection_is_lent() {
    local(async {
        for surplus in [&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], b""] {
            let (listener, port) = listen().await;
            let (transport, gauges) = real(&[("backend.url", &format!("http://127.0.0.1:{port}/"))]).unwrap();
            let serve = async |then: &[u8]| {
                let mut stream = listener.accept().await.unwrap().0;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                // What follows is in the socket before this thread's reactor runs again.
                (stream, then.to_vec())
            };
            let (reply, (mut first, then)) = tokio::join!(ask(&transport), serve(surplus));
            reply.unwrap().body.discard();
            first.write_all(&then).await.unwrap();
            if then.is_empty() {
                drop(first);
            }
            // The loopback delivers in its own time. The reactor's task does not run meanwhile, so that only the look before
            // the request is sent can tell.
            let began = Instant::now();
            while transport.pools[0].look_at_idle() == Some(Look::Nothing) {
                assert!(began.elapsed() < Duration::from_secs(10), "the loopback does not deliver");
                std::thread::yield_now();
            }
            let both = async { tokio::join!(ask(&transport), serve(b"")) };
            let limit = Duration::from_secs(10);
            let (reply, _second) = tokio::time::timeout(limit, both).await.expect("a second connection");
            assert_eq!(reply.unwrap().status, 403);
            assert_eq!(gauges[0].opened.get(), 2);
        }
    })
    .await;
}

/// It is there before the request that it would be taken to answer, and this process has not heard of it.
#[tokio::test]
async fn a_reply_too_many_is_seen_before_whoever_comes_next_on_its_connection_is_sent() {
    let lanes = [("hyper", "1", 1), ("wire", "1", 1), ("wire", "2", 2)];
    for (lane, surplus) in lanes.into_iter().flat_map(|lane| [(lane, OK_EMPTY), (lane, b"")]) {
        local(next_after(lane, surplus)).await;
    }
}

/// So many are answered together, behind the reply to the first comes the surplus, and then there is one more.
async fn next_after((lane, window, first): (&'static str, &'static str, usize), surplus: &'static [u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let url = format!("unix:{}:/auth", path.display());
    let (transport, gauges) = real(&[
        ("backend.url", url.as_str()),
        ("http.lane", lane),
        ("http.pipeline", window),
        ("pool.max_connections", "1"),
    ])
    .unwrap();
    let peer = Rc::<RefCell<Option<UnixStream>>>::default();
    let asking: Vec<_> = (0..=first)
        .map(|index| {
            let (transport, peer) = (Rc::clone(&transport), Rc::clone(&peer));
            spawn_local(async move {
                let reply = ask(&transport).await?;
                if index == 0 && !surplus.is_empty() {
                    // The next has the connection, or its place on it, as soon as this one has left.
                    let stream = peer.borrow();
                    assert_eq!(stream.as_ref().unwrap().try_write(surplus).unwrap(), surplus.len());
                }
                reply.body.discard();
                Ok::<_, Failure>(reply.status)
            })
        })
        .collect();
    let requests = async |stream: &mut UnixStream, count| {
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.clear();
            while !bytes.ends_with(b"\r\n\r\n") {
                bytes.push(stream.read_u8().await.unwrap());
            }
        }
    };
    let mut stream = listener.accept().await.unwrap().0;
    requests(&mut stream, first).await;
    peer.replace(Some(stream));
    let no = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".repeat(first);
    assert_eq!(peer.borrow().as_ref().unwrap().try_write(&no).unwrap(), no.len());
    spawn_local(async move {
        let mut stream = match surplus {
            b"" => peer.borrow_mut().take().expect("it has not left"),
            _ => listener.accept().await.unwrap().0,
        };
        requests(&mut stream, 1).await;
        stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        drop(peer);
    });
    let mut answers = Vec::new();
    for asking in asking {
        answers.push(asking.await.unwrap().unwrap());
    }
    let expected = [&[403, 403][..first], &[404]].concat();
    assert_eq!(answers, expected, "{lane}, {window}");
    assert_eq!(gauges[0].opened.get(), if surplus.is_empty() { 1 } else { 2 }, "{lane}, {window}");
}

#[tokio::test]
async fn a_look_around_hears_of_a_reply_before_the_runtime_does() {
    local(async {
        let (listener, port) = listen().await;
        let (transport, _) = real(&[("backend.url", &format!("http://127.0.0.1:{port}/"))]).unwrap();
        let asking = Rc::clone(&transport);
        let asking = spawn_local(async move { ask(&asking).await });
        let mut stream = listener.accept().await.unwrap().0;
        while !matches!(stream.read_u8().await, Ok(b'\n')) {}
        assert!(!transport.look_around(), "nothing has come");
        stream.try_write(OK_EMPTY).unwrap();
        // The runtime has no turn meanwhile; the loopback delivers in its own time.
        let began = Instant::now();
        while !transport.look_around() {
            assert!(began.elapsed() < Duration::from_secs(10), "it is not heard of");
            std::thread::yield_now();
        }
        assert_eq!(asking.await.unwrap().unwrap().status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_unix_socket_is_asked_and_its_owner_checked() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.sock");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let _ = stream.write_all(OK_EMPTY).await;
            }
        });
        let url = format!("unix:{}:/auth", path.display());
        let (transport, _) = real(&[("backend.url", &url)]).unwrap();
        assert_eq!(ask(&transport).await.unwrap().status, 200);
        let uid = std::fs::metadata(&path).unwrap().uid();
        let own = uid.to_string();
        let (transport, _) = real(&[("backend.url", &url), ("unix.peer_uid", &own)]).unwrap();
        assert_eq!(ask(&transport).await.unwrap().status, 200);
        let other = (uid + 1).to_string();
        let (transport, _) = real(&[("backend.url", &url), ("unix.peer_uid", &other)]).unwrap();
        let failure = ask(&transport).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Connect);
        assert!(failure.detail.contains("unix.peer_uid"), "{}", failure.detail);
    })
    .await;
}

/// A Unix socket whose backlog is full, and what fills it.
fn crowded(path: &std::path::Path) -> (std::os::unix::net::UnixListener, Vec<Socket>) {
    let stream = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let (listener, address) = (stream(), SockAddr::unix(path).unwrap());
    listener.bind(&address).unwrap();
    listener.listen(1).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = stream();
        socket.set_nonblocking(true).unwrap();
        if let Err(error) = socket.connect(&address) {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            return (listener.into(), waiting);
        }
        waiting.push(socket);
    }
}

#[tokio::test]
async fn a_full_backlog_of_a_unix_socket_is_waited_for() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.sock");
        let (listener, waiting) = crowded(&path);
        let url = format!("unix:{}:/auth", path.display());
        let set = [("backend.url", url.as_str()), ("connect_timeout", "40ms")];
        let failure = ask(&real(&set).unwrap().0).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Connect);
        assert!(failure.detail.ends_with("within 40 ms"), "{}", failure.detail);

        let (transport, _) = real(&[("backend.url", url.as_str()), ("connect_timeout", "10s")]).unwrap();
        let asking = spawn_local(async move { ask(&transport).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!asking.is_finished());
        for _ in waiting {
            listener.accept().unwrap();
        }
        let (mut stream, _) = UnixListener::from_std(listener).unwrap().accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(OK_EMPTY).await.unwrap();
        assert_eq!(asking.await.unwrap().unwrap().status, 200);
    })
    .await;
}

/// Runs in a process of its own: nothing else works without descriptors.
#[test]
fn a_name_that_cannot_be_looked_up_without_descriptors_is_overload() {
    let name = "transport::tests::network::a_name_that_cannot_be_looked_up_without_descriptors_is_overload";
    if crate::own_process::printed(name, "ulimit -n 64").is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(local(async {
        // The first resolver sees that there is none; the second hangs.
        for hangs in [false, true] {
            let mut config = Config::new();
            config.set("default_action", "deny").unwrap();
            config.set("backend.url", "http://backend.test/").unwrap();
            config.set("connect_timeout", "10ms").unwrap();
            let (hold, held) = crossbeam_channel::bounded::<()>(0);
            let resolver = Arc::new(move |_: &str| {
                if hangs {
                    let _ = held.recv();
                }
                Err(std::io::Error::other("temporary failure in name resolution"))
            });
            let shared = Shared::with_resolver(
                Arc::new(config.settings().unwrap()),
                unwatched(),
                &Arc::default(),
                resolver,
            )
            .unwrap();
            let transport = Transport::new(shared, Arc::new([PoolGauges::default()]), 0, 1);
            let mut hoard = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                hoard.push(file);
            }
            let failure = ask(&transport).await.err().unwrap();
            drop(hoard);
            assert_eq!(failure.cause, Cause::Overload, "{}", failure.detail);
            assert_eq!(ask(&transport).await.err().unwrap().cause, Cause::Resolve);
            drop(hold);
        }
    }));
}

#[tokio::test]
async fn an_unknown_name_is_a_failure_to_resolve() {
    local(async {
        let mut config = Config::new();
        config.set("default_action", "deny").unwrap();
        config.set("backend.url", "http://backend.test/").unwrap();
        let gauges: Arc<[PoolGauges]> = Arc::new([PoolGauges::default()]);
        let nobody = Arc::new(|_: &str| Err(std::io::Error::other("no such host")));
        let shared =
            Shared::with_resolver(Arc::new(config.settings().unwrap()), unwatched(), &Arc::default(), nobody)
                .unwrap();
        let transport = Transport::new(shared, gauges, 0, 1);
        let failure = ask(&transport).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Resolve);
        assert_eq!(failure.detail, "cannot resolve backend.test: no such host");
    })
    .await;
}

/// A name with two addresses: what waits at each is said by the ports' listeners.
pub(super) fn of_two(url: &str, set: &[(&str, &str)]) -> (Rc<Transport>, Arc<[Arc<Addresses>]>) {
    let mut config = Config::new();
    for (key, value) in [&[("default_action", "deny"), ("backend.url", url)], set].concat() {
        config.set(key, value).unwrap();
    }
    let resolver = Arc::new(|_: &str| Ok(vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()]));
    let addresses = unwatched();
    let settings = Arc::new(config.settings().unwrap());
    let shared = Shared::with_resolver(settings, Arc::clone(&addresses), &Arc::default(), resolver).unwrap();
    (Transport::new(shared, Arc::new([PoolGauges::default()]), 0, 1), addresses)
}

#[tokio::test]
async fn who_keeps_book_hears_of_addresses_and_of_those_that_refuse() {
    local(async {
        let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
        let url = format!("http://backend.test:{}/", listener.local_addr().unwrap().port());
        let (transport, addresses) = of_two(&url, &[]);
        assert!(addresses[0].several().is_none(), "nobody has asked yet");
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let _ = stream.write_all(OK_EMPTY).await;
            }
        });
        for opened in 0..=1 {
            // The one that worked is tried first, and so the other is no more.
            for _ in 0..10 {
                assert_eq!(ask(&transport).await.unwrap().status, 200);
            }
            let known = addresses[0].several().unwrap();
            assert_eq!(known.iter().map(|known| known.health.opened()).collect::<Vec<_>>(), [opened, 0]);
            (0..4).for_each(|_| addresses[0].unreachable([127, 0, 0, 2].into(), "connect"));
        }
        // Told to go there all the same, it does, and says so.
        let among = Among::these(Some(vec![[127, 0, 0, 2].into()]));
        let progress = Rc::new(Progress { among, ..Progress::default() });
        let failure = ask_for("/", &transport, false, &progress).await.err().unwrap();
        assert_eq!((failure.cause, progress.address()), (Cause::Connect, None));
        assert!(failure.detail.contains("(127.0.0.2:"), "{}", failure.detail);
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_fails_says_where() {
    local(async {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let url = format!("https://backend.test:{}/", listener.local_addr().unwrap().port());
        let (transport, addresses) = of_two(&url, &[]);
        spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"no TLS here").await;
            }
        });
        let progress = Rc::<Progress>::default();
        let failure = ask_for("/", &transport, false, &progress).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Tls);
        assert_eq!(progress.address(), Some([127, 0, 0, 2].into()));
        assert!(addresses[0].several().unwrap().iter().all(|known| known.health.opened() == 0));
    })
    .await;
}

/// A private authority, and what it has signed.
struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key), root: root.der().clone() }
    }

    fn issue(&self, name: &str, expired: bool) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn ca_file(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// Serves 200 over TLS. The handshakes' ways are sent.
    async fn serve(
        &self,
        name: &str,
        expired: bool,
        client: bool,
    ) -> (SocketAddr, mpsc::UnboundedReceiver<rustls::HandshakeKind>) {
        let (certificate, key) = self.issue(name, expired);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if client {
            let mut roots = RootCertStore::empty();
            roots.add(self.root.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (listener, _) = listen().await;
        let address = listener.local_addr().unwrap();
        let (kinds, receiver) = mpsc::unbounded_channel();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = kinds.send(stream.get_ref().1.handshake_kind().unwrap());
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await;
                let _ = stream.shutdown().await;
            }
        });
        (address, receiver)
    }
}

async fn over_tls(address: SocketAddr, set: &[(&str, &str)]) -> Result<Reply, Failure> {
    let url = format!("https://{address}/auth");
    let (transport, _) = real(&[&[("backend.url", url.as_str())], set].concat()).unwrap();
    ask(&transport).await
}

#[tokio::test]
async fn certificates_are_judged_and_the_operator_told() {
    local(async {
        let authority = Authority::new("authority");
        let ca = authority.ca_file();
        let trusted = ("tls.ca_file", ca.as_str());
        let (good, _) = authority.serve("127.0.0.1", false, false).await;
        assert_eq!(over_tls(good, &[trusted]).await.unwrap().status, 200);
        let (wrong, _) = authority.serve("other.test", false, false).await;
        let (expired, _) = authority.serve("127.0.0.1", true, false).await;
        let stranger = Authority::new("stranger");
        let other_ca = stranger.ca_file();
        let table = [
            (wrong, trusted, "name mismatch: certificate is not valid for 127.0.0.1"),
            (expired, trusted, "certificate expired"),
            (good, ("tls.ca_file", other_ca.as_str()), "unknown issuer: tls.ca_file must hold"),
        ];
        for (address, ca, text) in table {
            let failure = over_tls(address, &[ca]).await.err().unwrap();
            assert_eq!(failure.cause, Cause::Tls);
            assert!(failure.detail.contains(text), "{}", failure.detail);
        }
        for address in [wrong, expired] {
            assert_eq!(over_tls(address, &[("tls.verify", "off")]).await.unwrap().status, 200);
        }
        assert_eq!(over_tls(wrong, &[trusted, ("tls.server_name", "other.test")]).await.unwrap().status, 200);
        let failure = over_tls(good, &[trusted, ("http.version", "2")]).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Tls);
        assert!(failure.detail.contains("http.version"), "{}", failure.detail);
    })
    .await;
}

#[tokio::test]
async fn a_backend_may_ask_for_a_certificate() {
    local(async {
        let authority = Authority::new("authority");
        let ca = authority.ca_file();
        let (address, _) = authority.serve("127.0.0.1", false, true).await;
        let failure = over_tls(address, &[("tls.ca_file", &ca)]).await.err().unwrap();
        assert_eq!(failure.cause, Cause::Tls, "{}", failure.detail);
        let (certificate, key) = authority.issue("client.test", false);
        let certificate = authority.file("client.pem", &certificate.pem());
        let key = authority.file("client.key", &key.serialize_pem());
        let set = [("tls.ca_file", ca.as_str()), ("tls.client_cert", &certificate), ("tls.client_key", &key)];
        assert_eq!(over_tls(address, &set).await.unwrap().status, 200);
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed() {
    local(async {
        let authority = Authority::new("authority");
        let ca = authority.ca_file();
        let (address, mut kinds) = authority.serve("127.0.0.1", false, false).await;
        let url = format!("https://{address}/");
        let (transport, _) = real(&[("backend.url", &url), ("tls.ca_file", &ca)]).unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&transport).await.unwrap().body.collect(0).await.unwrap(), "");
        }
        assert_eq!(kinds.recv().await, Some(rustls::HandshakeKind::Full));
        assert_eq!(kinds.recv().await, Some(rustls::HandshakeKind::Resumed));
    })
    .await;
}

#[test]
fn a_file_without_certificates_is_an_error_at_start() {
    let error =
        real(&[("backend.url", "https://127.0.0.1/"), ("tls.ca_file", "/nonexistent/ca.pem")]).err().unwrap();
    assert!(error.contains("tls.ca_file: /nonexistent/ca.pem cannot be read"), "{error}");
}
