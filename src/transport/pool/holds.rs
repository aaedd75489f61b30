//! What is held of a pool: a place, and a connection that is lent.

use std::rc::{Rc, Weak};

use super::{Pool, Row};
use crate::transport::conn::Conn;

/// An attempt at a connection, until that is ready to be lent or has failed.
pub(super) struct Attempt(Weak<Pool>);

impl Attempt {
    /// For one that was just counted in.
    pub(super) fn new(pool: &Pool) -> Self {
        Self(pool.me.clone())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.state.borrow_mut().attempts -= 1;
            pool.grant();
        }
    }
}

/// One of the pool's places: held by an attempt at a connection, then by the connection, until its socket is closed.
pub(in crate::transport) struct Place {
    pool: Weak<Pool>,
    gauges: Row,
    open: bool,
}

impl Place {
    /// For a place that was just counted in.
    pub(super) fn new(pool: &Pool) -> Self {
        Self { pool: pool.me.clone(), gauges: pool.gauges.clone(), open: false }
    }

    /// The connection is there.
    pub(in crate::transport) fn open(mut self) -> Self {
        self.open = true;
        self.gauges.opened.add(1);
        self.gauges.open.add(1);
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.open {
            self.gauges.open.sub(1);
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.state.borrow_mut().places -= 1;
            pool.grant();
        }
    }
}

/// A lent HTTP/1.1 connection. Dropped before its request was handed over it goes back; after that it is closed,
/// unless the exchange was said to have ended well.
pub(in crate::transport) struct Lease {
    pool: Rc<Pool>,
    conn: Option<Box<Conn>>,
    asked: bool,
}

impl Lease {
    pub(super) fn new(pool: Rc<Pool>, conn: Box<Conn>) -> Self {
        Self { pool, conn: Some(conn), asked: false }
    }

    pub(in crate::transport) fn conn(&self) -> &Conn {
        self.conn.as_ref().expect("taken only by drop")
    }

    /// The connection, to hand a request to.
    pub(in crate::transport) fn ask(&mut self) -> &mut Conn {
        self.asked = true;
        self.pool.gauges().exchanges.add(1);
        let conn = self.conn.as_mut().expect("taken only by drop");
        conn.uses += 1;
        conn
    }

    pub(in crate::transport) fn conn_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("taken only by drop")
    }

    pub(in crate::transport) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// It is of no more use to anybody.
    pub(in crate::transport) fn close(mut self) {
        self.asked = true;
    }

    /// The reply is read to its end.
    pub(in crate::transport) fn give_back(mut self) {
        self.asked = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            if self.asked { conn.hang_up() } else { self.pool.take_back(conn) }
        }
    }
}
