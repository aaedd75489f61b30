//! The backend of the soak, and what lies before it: a rule that anyone can recompute, told with each answer, and replies
//! that are spoilt at random, one by one and for a while all together.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{Fault, FaultProxy, Place, Random, Reply, Request, Scripted, microseconds, mixed};

/// Sessions share users.
pub(crate) const USERS: u64 = 40;
pub(crate) const PATHS: [&str; 4] = ["/a/1.ts", "/a/2.ts", "/b/1.ts", "/b/2.ts"];
/// How long a part of the outages lasts.
const WINDOW: Duration = Duration::from_millis(700);

/// Two rules that follow each other agree about nobody.
pub(crate) fn allows(rule: u64, session: u64, token: u64) -> bool {
    mixed(session << 8 | token).wrapping_add(rule).is_multiple_of(2)
}

/// For how long the backend lets a decision about this session be reused, in seconds.
pub(crate) fn lifetime(session: u64) -> u64 {
    [0, 1, 2, 1][(session % 4) as usize]
}

pub(crate) fn user(session: u64) -> String {
    format!("u{}", session % USERS)
}

/// What the backend was asked, and when, as it says itself in `X-Location`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) rule: u64,
    pub(crate) session: u64,
    pub(crate) ip: u64,
    pub(crate) token: u64,
    /// By [`microseconds`].
    pub(crate) at: u64,
    pub(crate) path: String,
}

impl Told {
    pub(crate) fn parse(location: &str) -> Option<Self> {
        let mut parts = location.strip_prefix('/')?.splitn(6, '/');
        let mut number = || parts.next()?.parse().ok();
        let (rule, session, ip, token, at) = (number()?, number()?, number()?, number()?, number()?);
        Some(Self { rule, session, ip, token, at, path: format!("/{}", parts.next()?) })
    }

    fn asked(request: &Request) -> Option<Self> {
        let target = request.target();
        let (path, query) = target.split_once('?')?;
        let text = |name: &str| String::from_utf8(request.header(name)?).ok();
        Some(Self {
            rule: path.strip_prefix("/g")?.parse().ok()?,
            session: request.session().strip_prefix('s')?.parse().ok()?,
            ip: text("X-Real-Ip")?.strip_prefix("192.0.2.")?.parse().ok()?,
            token: query.strip_prefix("token=")?.parse().ok()?,
            at: microseconds(),
            path: text("X-Real-Path")?,
        })
    }
}

/// A session whose id begins with `m` never gets an answer.
fn answer(request: &Request) -> Reply {
    if request.session().starts_with('m') {
        return Reply::close();
    }
    let told = Told::asked(request).unwrap_or_else(|| panic!("{}", request.target()));
    let Told { rule, session, ip, token, at, path } = &told;
    let lifetime = match lifetime(*session) {
        0 => String::new(),
        seconds => format!("X-AuthDuration: {seconds}\r\n"),
    };
    let user = user(*session);
    let headers =
        format!("X-UserId: {user}\r\nX-Location: /{rule}/{session}/{ip}/{token}/{at}{path}\r\n{lifetime}");
    let refusal = if token.is_multiple_of(2) { 403 } else { 404 };
    Reply::status(if allows(*rule, *session, *token) { 200 } else { refusal }, &headers)
}

pub(crate) struct World {
    pub(crate) backend: Scripted,
    pub(crate) proxy: FaultProxy,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let backend = Scripted::new(answer).forgetting();
        let (random, began) = (Random::new(seed), Instant::now());
        let plan = move |_: &Request| plan(&random, seed, began.elapsed());
        Self { proxy: FaultProxy::new(backend.address(), plan).forgetting(), backend }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.address()
    }
}

/// What becomes of a reply. No fault turns it into another whole one: nothing is repeated in the middle of a value.
fn plan(random: &Random, seed: u64, time: Duration) -> (Fault, Place) {
    let window = (time.as_millis() / WINDOW.as_millis()) as u64;
    // Of the draw of a window, not of how many requests came before.
    match mixed(seed ^ mixed(window)) % 12 {
        0 => return (Fault::Stop, Place::BeforeReply),
        1 => return (Fault::Close, Place::BeforeReply),
        2 if random.per_mille(500) => return (Fault::Reset, Place::BeforeReply),
        _ => {}
    }
    if !random.per_mille(30) {
        return (Fault::Nothing, Place::AfterReply);
    }
    let places = [
        Place::BeforeReply,
        Place::StatusLine,
        Place::Headers,
        Place::HeadEnd,
        Place::Body,
        Place::AfterReply,
    ];
    let named = random.pick(&places);
    let anywhere = Place::Byte(random.below(200) as usize);
    let pause = Duration::from_millis(random.below(400));
    match random.below(9) {
        0 => (Fault::Pause(pause), anywhere),
        1 => (Fault::Drip(Duration::from_micros(random.below(4000))), anywhere),
        2 => (Fault::Close, anywhere),
        3 => (Fault::Reset, anywhere),
        4 => (Fault::HalfClose, anywhere),
        5 => (Fault::Stop, anywhere),
        6 => (Fault::Duplicate, named),
        7 => (Fault::Garbage, named),
        _ => (Fault::Close, Place::AfterReply),
    }
}
