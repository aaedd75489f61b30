//! Bytes: resolve, connect, TLS, pool, the HTTP lanes. No policy here: no retry, no deadline of a check, no verdict.
//!
//! Everything but [`Shared`] lives on one I/O thread, inside its `LocalSet`; connections never change threads.
//! A connection is made by a [`Dial`], spoken to by a lane, and lent by the pool of its endpoint (`pool.rs`). Its place
//! in the pool is a value that goes with its socket: when the socket is gone, so is the place. Plain sockets of the lane
//! `wire` are the reactor's (`reactor.rs`), all others the runtime's own.
//!
//! The lanes: `wire.rs` is our own for HTTP/1.1; `h1.rs` and `h2.rs` are hyper, behind a tap (`tap.rs`) that sees
//! every plain byte.

mod anew;
mod body;
mod conn;
mod connect;
mod dial;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gauges;
mod h1;
mod h2;
mod head;
mod pool;
mod reactor;
mod records;
mod resolve;
#[cfg(any(test, fuzzing))]
mod scripted;
mod tap;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

pub(crate) use body::{Body, BodyError};
pub(crate) use dial::{Dial, Watch};
#[cfg(test)]
pub(crate) use dial::{Dialing, Io, Link, Look};
pub(crate) use gauges::{Gauge, PoolGauges, gauges, of_endpoint};
pub(crate) use head::is_named;
#[cfg(test)]
pub(crate) use scripted::Counted;
#[cfg(feature = "steps")]
pub(crate) use wire::read_section;

use crate::calls::Calls;
use crate::clock;
use crate::config::{Address, BackendUrl, ConfigError, HttpLane, HttpVersion, Scheme, Settings};
use crate::decision::Cause;
use crate::outage::{Addresses, Health, Probed, ProbedAt};

/// The head of one request, written by the protocol into whatever form a lane needs.
pub(crate) trait RequestHead {
    /// Appends the request target: path, `?`, query.
    fn write_target(&self, out: &mut Vec<u8>);
    /// Every header in wire order; `Host` is the first.
    fn each_header(&self, each: &mut dyn FnMut(&str, &[u8]));
    /// Appends the whole HTTP/1.1 head, `GET` to the empty line.
    fn write_http1(&self, out: &mut Vec<u8>) -> Written {
        out.extend_from_slice(b"GET ");
        self.write_target(out);
        let (target_end, mut headers) = (out.len(), 0);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.each_header(&mut |name, value| {
            headers += 1;
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        });
        out.extend_from_slice(b"\r\n");
        Written { headers, target_end }
    }
}

/// What a head that was written should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) headers: usize,
    /// Where its target ends in what it was appended to.
    pub(crate) target_end: usize,
}

/// How far an exchange has come. Shared by the exchange, the connection it is on, and the engine, which
/// learns from it what a deadline interrupted.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stage: Cell<Stage>,
    /// The final status line, once it is in (1xx are skipped): a refusal needs no more than that.
    pub(crate) status_line: Cell<Option<u16>>,
    /// Where it may go.
    pub(crate) among: Among,
    address: Cell<Option<IpAddr>>,
    /// While it waits in line: what it is as far as.
    dial: RefCell<Option<Rc<Watch>>>,
    /// Never on a connection that others are on at the same time.
    pub(crate) apart: bool,
    /// When it was given a connection that it had to wait for.
    pub(crate) lent: Cell<Option<Instant>>,
    /// That was one for itself, on which it is sent at once.
    pub(crate) handed: Cell<bool>,
    /// Nobody wants to know any more: what waits to be sent together with others is not sent.
    pub(crate) given_up: Cell<bool>,
    /// Bytes and times for `alta-auth check`; None: not recorded.
    pub(crate) trace: Option<RefCell<Trace>>,
}

/// Which of its name's addresses an exchange may go to; by default any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Among(Option<Rc<[IpAddr]>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Waiting for a connection of the pool.
    #[default]
    Queued,
    Resolving,
    Connecting,
    Handshaking,
    /// A connection is there; nothing of the request may have been written yet.
    Ready,
    /// The first byte of the request was handed to the system.
    Written,
    /// The first byte of the reply was read.
    Replying,
    /// The header section is complete.
    Replied,
}

/// What `alta-auth check` shows.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Plain bytes, above TLS. For HTTP/2: frames, not shown.
    pub(crate) sent: Vec<u8>,
    pub(crate) received: Vec<u8>,
    pub(crate) peer: Option<String>,
    /// e.g. `TLSv1.3, h2`; None without TLS.
    pub(crate) tls: Option<String>,
    pub(crate) http2: bool,
    pub(crate) reused: bool,
    /// When each stage was entered.
    pub(crate) marks: Vec<(Stage, Instant)>,
}

/// Why an exchange gave no complete header section.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// For a log line: what and where, never a query or a header value.
    pub(crate) detail: Cow<'static, str>,
    /// It died on a reused connection before the first byte of an answer (or the peer promised that it did
    /// nothing: `REFUSED_STREAM`, a stream above GOAWAY's last): asking again on a fresh connection is safe.
    pub(crate) retry_is_safe: bool,
}

/// A reply's status and header section, as a lane received it. Names in any case.
pub(crate) struct ReplyHead<'a> {
    /// 100 to 599, final.
    pub(crate) status: u16,
    pub(crate) headers: &'a [(&'a [u8], &'a [u8])],
}

/// What all I/O threads of an engine share: TLS configuration and its session cache, resolved names.
pub(crate) struct Shared {
    settings: Arc<Settings>,
    tls: Option<tls::Tls>,
    names: Option<resolve::Names>,
    /// One an endpoint: told what its name stands for, and where no connection can be made.
    addresses: Arc<[Arc<Addresses>]>,
}

/// The system's resolver, or a test's. Runs on the threads `alta-dns`, on several at once, where it may take its time.
pub(crate) type Resolve = dyn Fn(&str) -> std::io::Result<Vec<IpAddr>> + Send + Sync;

/// Why there is nothing to share.
#[derive(Debug)]
pub(crate) enum Unshared {
    /// A file of TLS.
    Config(ConfigError),
    /// A thread was refused.
    System(std::io::Error),
}

impl Shared {
    /// Reads certificates, prepares TLS, starts the resolver's thread if there is a name. `addresses`: one an endpoint.
    pub(crate) fn new(
        settings: Arc<Settings>,
        addresses: Arc<[Arc<Addresses>]>,
        calls: &Arc<Calls>,
    ) -> Result<Arc<Self>, Unshared> {
        Self::with_resolver(settings, addresses, calls, Arc::new(resolve::system))
    }

    pub(crate) fn with_resolver(
        settings: Arc<Settings>,
        addresses: Arc<[Arc<Addresses>]>,
        calls: &Arc<Calls>,
        resolver: Arc<Resolve>,
    ) -> Result<Arc<Self>, Unshared> {
        let tls = tls_of(&settings).map_err(Unshared::Config)?;
        let mut hosts = resolve::Hosts::new();
        for (url, addresses) in settings.backends.iter().zip(addresses.iter()) {
            if let Address::Tcp { host, .. } = &url.address
                && host.parse::<IpAddr>().is_err()
            {
                hosts.entry(host.clone()).or_default().push(Arc::clone(addresses));
            }
        }
        let (refresh, connect_timeout) = (settings.dns_refresh, settings.connect_timeout);
        let names = resolve::Names::new(hosts, refresh, connect_timeout, resolver, Arc::clone(calls))
            .map_err(Unshared::System)?;
        Ok(Arc::new(Self { settings, tls, names, addresses }))
    }
}

impl Shared {
    /// What is known of names and does not depend on the configuration.
    pub(crate) fn take_over(&self, before: &Self) {
        if let (Some(names), Some(before)) = (&self.names, &before.names) {
            names.take_over(before);
        }
    }
}

/// If a URL is https.
fn tls_of(settings: &Settings) -> Result<Option<tls::Tls>, ConfigError> {
    let https = settings.backends.iter().any(|url| url.scheme == Scheme::Https);
    https.then(|| tls::tls(&settings.tls, settings.http_version)).transpose()
}

/// Whether an engine would find the files of TLS that it needs, and could use them.
pub(crate) fn check_tls(settings: &Settings) -> Result<(), ConfigError> {
    tls_of(settings).map(drop)
}

/// The pools of one I/O thread. Lives inside a `LocalSet`.
pub(crate) struct Transport {
    pools: Vec<Rc<pool::Pool>>,
    origins: Vec<Origin>,
    settings: Arc<Settings>,
    dialer: Rc<dyn Dial>,
    probed: RefCell<Vec<Probed>>,
}

/// For HTTP/2's pseudo-headers: `http` or `https`, and the authority.
type Origin = (http::uri::Scheme, http::uri::Authority);

/// What a URL means to the pool and the lanes.
struct Endpoint {
    /// For texts.
    label: String,
    lane: pool::Lane,
    origin: Origin,
}

impl Endpoint {
    fn new(url: &BackendUrl, version: HttpVersion) -> Self {
        let lane = match version {
            // Where TLS may agree on either lane, the first handshake tells.
            HttpVersion::Auto if url.scheme == Scheme::Https => pool::Lane::Unknown,
            HttpVersion::Http2 | HttpVersion::H2c => pool::Lane::H2,
            HttpVersion::Auto | HttpVersion::Http11 => pool::Lane::H1,
        };
        let scheme = match url.scheme {
            Scheme::Https => http::uri::Scheme::HTTPS,
            Scheme::Http | Scheme::Unix => http::uri::Scheme::HTTP,
        };
        // Configuration took it apart from a URL; what `http` still refuses (an odd name) has no better stand-in.
        let authority = http::uri::Authority::try_from(url.authority())
            .unwrap_or_else(|_| http::uri::Authority::from_static("localhost"));
        Self { label: url.label(), lane, origin: (scheme, authority) }
    }
}

impl Transport {
    /// `share` of `of` I/O threads; `gauges` as [`gauges()`] makes them.
    pub(crate) fn new(shared: Arc<Shared>, gauges: Arc<[PoolGauges]>, share: usize, of: usize) -> Rc<Self> {
        let settings = Arc::clone(&shared.settings);
        Self::with_dialer(settings, gauges, share, of, Rc::new(connect::Connector::new(shared)))
    }

    /// As `new`, over connections that `dialer` makes.
    pub(crate) fn with_dialer(
        settings: Arc<Settings>,
        gauges: Arc<[PoolGauges]>,
        share: usize,
        of: usize,
        dialer: Rc<dyn Dial>,
    ) -> Rc<Self> {
        let version = settings.http_version;
        // The remainder goes to the first threads. Configuration refuses fewer connections than threads.
        let all = settings.pool.max_connections;
        let limits = pool::Limits {
            connections: (all / of + usize::from(share < all % of)).max(1),
            idle_timeout: settings.pool.idle_timeout,
            max_age: settings.pool.max_age,
            timeout: settings.timeout,
            connect_timeout: settings.connect_timeout,
            wire: settings.http_lane == HttpLane::Wire,
            pipeline: settings.http_pipeline,
            stall: settings.timeout / 4,
            max_body: settings.verdict_body.as_ref().map_or(0, |_| settings.verdict_max_body),
        };
        let desk = Rc::<wire::Desk>::default();
        let endpoints = settings.backends.len();
        let (pools, origins) = settings
            .backends
            .iter()
            .enumerate()
            .map(|(index, url)| {
                let Endpoint { label, lane, origin } = Endpoint::new(url, version);
                let gauges = gauges::Row { all: Arc::clone(&gauges), index: share * endpoints + index };
                (
                    pool::Pool::new(index, label, limits, lane, Rc::clone(&dialer), Rc::clone(&desk), gauges),
                    origin,
                )
            })
            .unzip();
        let probed = RefCell::new((0..endpoints).map(|_| Probed::default()).collect());
        Rc::new(Self { pools, origins, settings, dialer, probed })
    }

    /// One request to endpoint `endpoint`, until its header section is complete. No retry in here: what is
    /// tried again below was never handed to the system.
    /// The caller bounds the time and may drop the future: a request that was written then closes its
    /// HTTP/1.1 connection, so that the late reply is never read as another's; where others are on it, it keeps its place
    /// instead, and its reply is thrown away.
    /// `read` takes from the header section, where it lies, what the caller needs; the body is still on the connection.
    pub(crate) async fn exchange(
        self: &Rc<Self>,
        endpoint: usize,
        head: &dyn RequestHead,
        fresh: bool,
        progress: &Rc<Progress>,
        read: &impl Fn(&ReplyHead<'_>),
    ) -> Result<Body, Failure> {
        let pool = &self.pools[endpoint];
        // Each turn uses up a connection that was closing under us; the bound only keeps a peer that closes
        // everything at once from keeping us busy.
        for _ in 0..16 {
            let outcome = match pool.acquire(fresh, progress).await {
                Ok(pool::Lent::H1(lease)) if lease.conn().is_wire() && pool.pipelines(fresh, progress) => {
                    let seat = wire::pipe::begin(lease);
                    Box::pin(wire::pipe::exchange(seat, head, progress, read)).await
                }
                Ok(pool::Lent::Piped(seat)) => {
                    Box::pin(wire::pipe::exchange(seat, head, progress, read)).await
                }
                Ok(pool::Lent::H1(lease)) if lease.conn().is_wire() => {
                    wire::exchange(lease, head, progress, read).await
                }
                Ok(pool::Lent::H1(lease)) => h1::exchange(lease, head, progress, read).await,
                Ok(pool::Lent::H2(seat)) => {
                    let (origin, patience) = (&self.origins[endpoint], self.settings.timeout);
                    h2::exchange(seat, origin, head, patience, progress, read).await
                }
                Err(broken) => Err(broken),
            };
            match outcome {
                Ok(body) => return Ok(body),
                Err(Broken::Failed(failure)) => return Err(failure),
                Err(Broken::Unsent) => progress.start_over(),
            }
        }
        Err(Failure::new(
            Cause::Reset,
            format!("{} closes its connections before they are used", pool.label()),
        ))
    }

    /// Hears what has come on its connections by now, where that can be asked of all at once. Whether exchanges go on by that.
    pub(crate) fn look_around(&self) -> bool {
        self.dialer.look_around()
    }

    /// So many exchanges can be under way at one time, if that is known: of one endpoint, over HTTP/1.1.
    pub(crate) fn at_once(&self) -> Option<usize> {
        match &self.pools[..] {
            [pool] => pool.at_once(),
            _ => None,
        }
    }

    /// Those that wait for a connection: of one endpoint. Who has not come here yet may count itself.
    pub(crate) fn waiting(&self) -> &Gauge {
        &self.pools[0].gauges().waiting
    }

    /// Whether somebody waits for a connection, because there are as many as there may be.
    pub(crate) fn is_crowded(&self, endpoint: usize) -> bool {
        self.pools[endpoint].is_crowded()
    }

    /// Whether an exchange would have a connection, or the place for a new one, without taking it from anyone in line.
    pub(crate) fn has_room(&self, endpoint: usize) -> bool {
        self.pools[endpoint].has_room()
    }

    /// Whoever waits for a connection to this endpoint waits in vain.
    pub(crate) fn turn_away(&self, endpoint: usize) {
        let failure = Failure::new(
            Cause::BreakerOpen,
            format!("{}: the breaker is open", self.pools[endpoint].label()),
        );
        self.pools[endpoint].turn_away(&failure);
    }

    /// Where since the last time somebody was let find out whether the endpoint, or one of its addresses, is back: that is not
    /// left to the connections there are.
    pub(crate) fn part_where_probed(&self, endpoint: usize, health: &Health, addresses: &Addresses) {
        let among = match self.probed.borrow_mut()[endpoint].since(health, addresses) {
            None => return,
            Some(ProbedAt::Endpoint) => Among::default(),
            Some(ProbedAt::Addresses(some)) => Among::these(Some(some)),
        };
        self.part_from(endpoint, &among);
    }

    /// Nobody else is sent on the connections there, and what is idle is closed.
    pub(crate) fn part_from(&self, endpoint: usize, among: &Among) {
        self.pools[endpoint].part_from(among);
    }

    /// Closes idle connections now and others when their exchange ends.
    pub(crate) fn close(&self) {
        for pool in &self.pools {
            pool.close();
        }
    }
}

/// How a lane ends without a reply.
enum Broken {
    Failed(Failure),
    /// The connection was closing; nothing of the request was handed to the system. Another one may be used.
    Unsent,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Failure {
    fn new(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { cause, detail: detail.into(), retry_is_safe: false }
    }
}

impl Among {
    pub(crate) fn these(addresses: Option<Vec<IpAddr>>) -> Self {
        Self(addresses.map(Rc::from))
    }

    /// None: not reached by a name.
    pub(crate) fn takes(&self, address: Option<IpAddr>) -> bool {
        match (&self.0, address) {
            (Some(these), Some(address)) => these.contains(&address),
            _ => true,
        }
    }

    fn is_any(&self) -> bool {
        self.0.is_none()
    }
}

impl Progress {
    pub(crate) fn new(among: Among, apart: bool, trace: Option<RefCell<Trace>>) -> Self {
        Self { among, apart, trace, ..Self::default() }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.dial.borrow().as_ref().map_or_else(|| self.stage.get(), |dial| dial.stage())
    }

    /// Where it went: the address of its connection, or of the one that was not finished. None: nowhere yet, or not by a name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let reached = self.dial.borrow().as_ref().and_then(|dial| dial.address());
        reached.filter(|&address| self.among.takes(Some(address))).or(self.address.get())
    }

    /// A connection that was being made for it and perhaps for others has come to this address.
    fn reach(&self, address: Option<IpAddr>) {
        if address.is_some() && self.among.takes(address) {
            self.address.set(address);
        }
    }

    /// It waits for a connection; or it has one for which it had waited, and no time yet to use it.
    pub(crate) fn is_in_line(&self) -> bool {
        match self.stage() {
            Stage::Queued => true,
            Stage::Ready => self.handed.get(),
            _ => false,
        }
    }

    /// The connection that it was given is gone, and nothing was sent on it.
    fn start_over(&self) {
        self.stage.set(Stage::Queued);
        // What it waited for until now is no more an address's time than it was.
        if self.lent.get().is_some() {
            self.lent.set(Some(clock::now()));
        }
        self.handed.set(false);
    }

    /// The first byte of the request was handed to the system.
    fn send(&self, request: &[u8]) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().sent.extend_from_slice(request);
        }
        self.enter(Stage::Written);
    }

    /// Moves on to `stage`; never back.
    fn enter(&self, stage: Stage) {
        if self.stage.get() < stage {
            self.stage.set(stage);
            if let Some(trace) = &self.trace {
                trace.borrow_mut().marks.push((stage, Instant::now()));
            }
        }
    }
}
