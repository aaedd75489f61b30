//! The connections of one I/O thread to one endpoint.
//!
//! Bounded: a connection, or the attempt at one, holds a [`Place`]; there are `Limits::connections` of them. The
//! idle ones are a stack, so that those not needed grow old and are closed. Who finds none waits in line, and
//! takes whichever comes first: one that is returned, or its own new one. A new connection that nobody waits for
//! any more becomes idle, unless it takes longer than a check has time and its place is needed (`attempts.rs`); a failure
//! goes to the one who caused it. Who takes nothing of what a full pool has (it wants a new one, or one that leads
//! elsewhere) is passed over by a few, then one makes way.
//!
//! HTTP/2 connections are shared (`shared.rs`). Where HTTP/2 is or may be spoken, one connection is made at a time, and its
//! second failure in a row goes to all who wait, unless another one is there to wait for.
//!
//! `RefCell` discipline: `state` is never borrowed while a grant is given, a connection closed or a value of
//! another room dropped; each of those may come back here.

mod attempts;
mod holds;
mod line;
mod shared;
pub(super) mod windows;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use holds::Attempt;
pub(super) use holds::{Lease, Place};
use line::{Grant, Line, Queued, Waiter, Watching};
use windows::Windows;

use super::conn::{Conn, Ending, Fault, system_heard};
use super::dial::{Dial, Look, Watch};
use super::gauges::Row;
use super::{Among, Broken, Failure, Progress, Stage, h1, h2, wire};
use crate::clock;

/// Idle for so long, a connection rests: when its peer closes it, that is noticed. One that is used again sooner is
/// looked at then.
const REST: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) idle_timeout: Duration,
    pub(super) max_age: Duration,
    /// Of a check.
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    /// HTTP/1.1 is spoken by our own lane.
    pub(super) wire: bool,
    /// So many requests at once on one connection of that lane.
    pub(super) pipeline: usize,
    /// A reply that does not come for so long holds up nobody behind it.
    pub(super) stall: Duration,
    /// Of bodies so much is kept, for a verdict; and one byte more, to tell that there is more.
    pub(super) max_body: usize,
}

/// What new connections will speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// The first TLS handshake will tell.
    Unknown,
    H1,
    H2,
}

pub(super) struct Pool {
    endpoint: usize,
    label: String,
    pub(super) limits: Limits,
    dialer: Rc<dyn Dial>,
    pub(super) desk: Rc<wire::Desk>,
    gauges: Row,
    state: RefCell<State>,
    windows: RefCell<Windows>,
    /// Somebody needs a place, and there is none: wakes the attempts that make way.
    crowded: Notify,
    /// Wakes the reaper: something became idle, or the pool is gone.
    idled: Rc<Notify>,
    me: Weak<Self>,
}

struct State {
    lane: Lane,
    /// Places given out; and how many connections are being made.
    places: usize,
    attempts: usize,
    /// Ordered by the time of return; the last is lent first.
    idle: VecDeque<Idle>,
    shared: Vec<Rc<h2::Conn>>,
    watch: Rc<Watch>,
    line: Line,
    reaping: bool,
    /// When the reaper looks next.
    reaps_at: Option<Instant>,
    closed: bool,
}

struct Idle {
    conn: Box<Conn>,
    since: Instant,
}

/// What `acquire` gives.
pub(super) enum Lent {
    H1(Lease),
    /// On a connection that others are on.
    Piped(wire::pipe::Seat),
    H2(h2::Seat),
}

impl Pool {
    pub(super) fn new(
        endpoint: usize,
        label: String,
        limits: Limits,
        lane: Lane,
        dialer: Rc<dyn Dial>,
        desk: Rc<wire::Desk>,
        gauges: Row,
    ) -> Rc<Self> {
        let state = State {
            lane,
            places: 0,
            attempts: 0,
            idle: VecDeque::new(),
            shared: Vec::new(),
            watch: Rc::default(),
            line: Line::default(),
            reaping: false,
            reaps_at: None,
            closed: false,
        };
        Rc::new_cyclic(|me| Self {
            endpoint,
            label,
            limits,
            dialer,
            desk,
            gauges,
            state: RefCell::new(state),
            windows: RefCell::default(),
            crowded: Notify::new(),
            idled: Rc::default(),
            me: me.clone(),
        })
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn gauges(&self) -> &Row {
        &self.gauges
    }

    pub(super) fn rc(&self) -> Rc<Self> {
        self.me.upgrade().expect("a pool is only ever used through its Rc")
    }

    /// A connection, or a stream on one. `fresh`: one on which nothing was ever asked (over HTTP/2 any that takes
    /// streams will do: one that is dying no longer does, and a refused stream says nothing of the connection).
    pub(super) async fn acquire(&self, fresh: bool, progress: &Rc<Progress>) -> Result<Lent, Broken> {
        self.start_reaper();
        if let Some(seat) = self.seat(&progress.among) {
            progress.address.set(seat.address());
            progress.enter(Stage::Ready);
            return Ok(Lent::H2(seat));
        }
        if !fresh && let Some(lease) = self.idle_lease(&progress.among).await {
            progress.address.set(lease.conn().address);
            progress.enter(Stage::Ready);
            return Ok(Lent::H1(lease));
        }
        if self.pipelines(fresh, progress)
            && let Some(seat) = self.window_seat(&progress.among)
        {
            progress.address.set(seat.address());
            progress.enter(Stage::Ready);
            return Ok(Lent::Piped(seat));
        }
        let place_in_line = Queued::join(self, fresh, progress);
        // One connection for all is under way, or this exchange will make its own.
        let mut watching = Watching::new(self.common_watch(), progress);
        self.grant();
        let lent = loop {
            match place_in_line.granted().await {
                Grant::Place(place, attempt) => {
                    let watch = self.common_watch();
                    watching.exchange(&watch);
                    self.dial(place, attempt, Rc::clone(&place_in_line.waiter), watch);
                }
                Grant::Lent(lent) => break lent,
                Grant::Failed(failure, address) => {
                    drop(watching);
                    progress.reach(address);
                    return Err(failure.into());
                }
            }
        };
        drop((watching, place_in_line));
        progress.lent.set(Some(clock::now()));
        // In a window it may have to wait for its turn, which is the backend's.
        progress.handed.set(!matches!(lent, Lent::Piped(_)));
        progress.address.set(match &lent {
            Lent::H1(lease) => lease.conn().address,
            Lent::Piped(seat) => seat.address(),
            Lent::H2(seat) => seat.address(),
        });
        progress.enter(Stage::Ready);
        match lent {
            Lent::H1(lease) => Ok(Lent::H1(self.looked_at(lease, progress).await?)),
            shared => Ok(shared),
        }
    }

    /// One that was made just now, or handed on as soon as another had its reply: nobody has looked at it yet.
    async fn looked_at(&self, mut lease: Lease, progress: &Progress) -> Result<Lease, Broken> {
        let reused = lease.conn().is_old();
        let seen = self.look(&mut lease).await;
        // Of one that was just made and is closed already, the write, or the read, says so.
        if seen == Look::Nothing || seen == Look::Closed && !reused {
            return Ok(lease);
        }
        lease.conn().describe(progress);
        lease.close();
        let (fault, write_error, malformed) = (Some(Fault::Surplus), None, None);
        Err(Ending { fault, reused, written: false, received: false, write_error, malformed }
            .explain(&self.label))
    }

    /// What waits on a connection that should be silent.
    async fn look(&self, lease: &mut Lease) -> Look {
        let asked_later = self.limits.pipeline == 1;
        match lease.conn_mut().glance(asked_later) {
            Look::Unknown => {
                // What there is can be read then.
                system_heard().await;
                match lease.conn_mut().glance(asked_later) {
                    Look::Unknown => Look::Nothing,
                    known => known,
                }
            }
            known => known,
        }
    }

    /// See [`Transport::at_once`](super::Transport::at_once).
    pub(super) fn at_once(&self) -> Option<usize> {
        (self.state.borrow().lane == Lane::H1).then(|| self.limits.connections * self.limits.pipeline)
    }

    /// Where one connection is made for all who wait, all watch it.
    fn common_watch(&self) -> Rc<Watch> {
        let state = self.state.borrow();
        if state.lane == Lane::H1 { Rc::default() } else { Rc::clone(&state.watch) }
    }

    /// The connection to one of these addresses that was returned last and is still good.
    async fn idle_lease(&self, among: &Among) -> Option<Lease> {
        loop {
            let idle = {
                let idle = &mut self.state.borrow_mut().idle;
                let index = idle.iter().rposition(|idle| among.takes(idle.conn.address))?;
                idle.remove(index)?
            };
            self.gauges().idle.sub(1);
            let conn = idle.conn;
            if idle.since + self.limits.idle_timeout <= clock::now() || !self.is_good(&conn) {
                conn.hang_up();
                continue;
            }
            let mut lease = Lease::new(self.rc(), conn);
            if self.look(&mut lease).await == Look::Nothing {
                return Some(lease);
            }
            // Bytes that nobody asked for: never read as the answer to the next request.
            lease.close();
        }
    }

    #[cfg(test)]
    pub(super) fn look_at_idle(&self) -> Option<Look> {
        self.state.borrow().idle.back().map(|idle| idle.conn.look())
    }

    fn is_good(&self, conn: &Conn) -> bool {
        conn.is_alive() && self.keeps(conn.retires_at, conn.address)
    }

    /// Whether a connection that is good until then, and that leads there, may be used.
    fn keeps(&self, retires_at: Instant, address: Option<IpAddr>) -> bool {
        let is_current = |address| self.dialer.is_current(self.endpoint, address);
        clock::now() < retires_at && address.is_none_or(is_current)
    }

    /// Gives free places to those in line who have none, in their order.
    fn grant(&self) {
        loop {
            let (waiter, idle) = {
                let mut state = self.state.borrow_mut();
                if state.lane != Lane::H1 && state.attempts > 0 {
                    return;
                }
                let Some(waiter) = state.line.placeless() else { return };
                if state.places < self.limits.connections {
                    state.places += 1;
                    state.attempts += 1;
                    state.line.has_place(&waiter);
                    (waiter, None)
                } else if let Some(idle) = waiter.is_choosy().then(|| state.idle.pop_front()).flatten() {
                    (waiter, Some(idle))
                } else {
                    drop(state);
                    self.crowded.notify_one();
                    if waiter.is_choosy() || !waiter.shares {
                        self.make_way();
                    }
                    return self.make_way_to(&waiter.among);
                }
            };
            match idle {
                // Gives up its place, which brings us here again.
                Some(idle) => {
                    self.gauges().idle.sub(1);
                    idle.conn.hang_up();
                }
                None => waiter.give(Grant::Place(Place::new(self), Attempt::new(self))),
            }
        }
    }

    /// All places are taken, and who is first of those without one has been passed over for long enough by such connections.
    fn owes_place(&self, used: bool, address: Option<IpAddr>) -> bool {
        let state = self.state.borrow();
        state.places >= self.limits.connections
            && state
                .line
                .placeless()
                .is_some_and(|first| !first.takes(used, address) && first.is_passed_over())
    }

    pub(super) fn is_crowded(&self) -> bool {
        let state = self.state.borrow();
        // Who waits for a connection that is being made for it is in nobody's way.
        state.line.placeless().is_some() && state.places >= self.limits.connections
    }

    pub(super) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        let free = state.places < self.limits.connections || !state.idle.is_empty();
        state.line.placeless().is_none() && (free || state.shared.iter().any(|conn| conn.has_room()))
    }

    /// Everyone in line, and no one who has a connection.
    pub(super) fn turn_away(&self, failure: &Failure) {
        let all = self.state.borrow_mut().line.take_all();
        for waiter in all {
            waiter.give(Grant::Failed(failure.clone(), None));
        }
    }

    /// Whether those at these addresses answer again is found out, and made use of, on new connections: one of those that there
    /// are may lead to nobody and not know it. What is idle is closed, and nobody else is sent on the others.
    pub(super) fn part_from(&self, among: &Among) {
        let (gone, shared) = {
            let mut state = self.state.borrow_mut();
            let all = std::mem::take(&mut state.idle).into_iter();
            let (gone, kept): (VecDeque<_>, _) = all.partition(|idle| among.takes(idle.conn.address));
            state.idle = kept;
            (gone, state.shared.clone())
        };
        self.gauges().idle.sub(gone.len() as u64);
        for idle in gone {
            idle.conn.hang_up();
        }
        for conn in shared.iter().filter(|conn| among.takes(conn.address)) {
            conn.retire();
        }
        self.retire_pipes(among);
    }

    /// A good connection that nobody uses: to `first`, else to the first in line, else onto the stack.
    fn offer(&self, mut conn: Box<Conn>, first: Option<&Waiter>) {
        let own = first.and_then(|first| self.state.borrow_mut().line.take(first));
        if own.is_none() && self.owes_place(conn.is_old(), conn.address) {
            return conn.hang_up();
        }
        let waiter = own.or_else(|| self.state.borrow_mut().line.take_first(conn.is_old(), conn.address));
        if let Some(waiter) = waiter {
            return waiter.give(Grant::Lent(Lent::H1(Lease::new(self.rc(), conn))));
        }
        if self.state.borrow().closed {
            return conn.hang_up();
        }
        let since = clock::now();
        let mut state = self.state.borrow_mut();
        conn.rested = true;
        state.idle.push_back(Idle { conn, since });
        let too_late = state.reaps_at.is_none_or(|then| then > since + REST);
        if too_late {
            state.reaps_at = Some(since + REST);
        }
        drop(state);
        self.gauges().idle.add(1);
        if too_late {
            self.idled.notify_one();
        }
        // Someone may wait for a fresh one, and need the place of this.
        self.grant();
    }

    /// An exchange has ended well and its connection is silent.
    fn take_back(&self, conn: Box<Conn>) {
        conn.disarm();
        if self.is_good(&conn) { self.offer(conn, None) } else { conn.hang_up() }
    }

    /// hyper has finished with a connection.
    pub(super) fn forget(&self, id: &h1::Id) {
        let mut state = self.state.borrow_mut();
        if let Some(index) = state.idle.iter().position(|idle| id.names(&idle.conn)) {
            let gone = state.idle.remove(index);
            drop(state);
            drop(gone);
            self.gauges().idle.sub(1);
        }
    }

    pub(super) fn close(&self) {
        let (idle, shared) = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            (std::mem::take(&mut state.idle), state.shared.clone())
        };
        self.gauges().idle.sub(idle.len() as u64);
        for idle in idle {
            idle.conn.hang_up();
        }
        for conn in shared {
            conn.retire();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    fn start_reaper(&self) {
        if std::mem::replace(&mut self.state.borrow_mut().reaping, true) {
            return;
        }
        let (pool, idled) = (self.me.clone(), Rc::clone(&self.idled));
        spawn_local(async move {
            loop {
                let next = match pool.upgrade() {
                    Some(pool) => poll_fn(|cx| Poll::Ready(pool.reap(cx))).await,
                    None => return,
                };
                sleep_or_wake(next, &idled).await;
            }
        });
    }

    /// Connections that rest, and that no task reads, are listened to by the reaper's. When the next begins to rest.
    fn listen(&self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        let mut index = 0;
        loop {
            let mut state = self.state.borrow_mut();
            let idle = state.idle.get_mut(index)?;
            if idle.since + REST > now {
                return Some(idle.since + REST);
            }
            if idle.conn.listen(cx) {
                index += 1;
                continue;
            }
            let gone = state.idle.remove(index);
            drop(state);
            if let Some(gone) = gone {
                self.gauges().idle.sub(1);
                gone.conn.hang_up();
            }
        }
    }

    /// Closes what has been idle for too long, and what its peer has closed. When to look again; never, if nothing is
    /// idle.
    fn reap(&self, cx: &mut Context<'_>) -> Option<Instant> {
        let now = Instant::now();
        let timeout = self.limits.idle_timeout;
        let mut next: Option<Instant> = None;
        loop {
            let mut state = self.state.borrow_mut();
            let Some(oldest) = state.idle.front() else { break };
            if oldest.since + timeout > now {
                next = Some(oldest.since + timeout);
                break;
            }
            let expired = state.idle.pop_front();
            drop(state);
            if let Some(expired) = expired {
                self.gauges().idle.sub(1);
                expired.conn.hang_up();
            }
        }
        if let Some(resting) = self.listen(cx, now) {
            next = next.map(|next| next.min(resting));
        }
        next = next.into_iter().chain(self.reap_shared(now)).min();
        self.state.borrow_mut().reaps_at = next;
        next
    }
}

/// Until then, until the task is woken by something else, or until there is a reason to look sooner.
async fn sleep_or_wake(then: Option<Instant>, sooner: &Notify) {
    let mut sleep = pin!(then.map(sleep_until));
    let mut sooner = pin!(sooner.notified());
    let mut woken = false;
    poll_fn(|cx| {
        let slept = sleep.as_mut().as_pin_mut().is_some_and(|sleep| sleep.poll(cx).is_ready());
        let ready = slept || sooner.as_mut().poll(cx).is_ready() || std::mem::replace(&mut woken, true);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let (idle, shared) = (state.idle.len(), std::mem::take(&mut state.shared));
        self.gauges.idle.sub(idle as u64);
        self.idled.notify_one();
        for conn in shared {
            conn.retire();
        }
    }
}
