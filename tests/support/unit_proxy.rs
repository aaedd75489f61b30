//! A TCP proxy that knows TLS records, HTTP/2 frames, or where a message of HTTP/1.1 ends, and nothing of what is in them: it spoils those that it is told to
//! spoil, in either direction.
//!
//! A unit is read whole before anything is done to it, so that the other side receives the same bytes at the same places
//! whatever the timing. Two threads serve a connection, one a direction. Dropping the proxy closes every connection and
//! ends every thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::fault_proxy::{Fault, GARBAGE};
use super::process::free_port;

/// What a connection is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Units {
    /// Of TLS.
    Records,
    /// Of HTTP/2; the client's preface is one of its own.
    Frames,
    /// Of HTTP/1.1: header sections, with as much of a body as `Content-Length` says.
    Messages,
}

/// One record, or one frame; or, of no bytes, that a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Which connection, from 0.
    pub(crate) connection: usize,
    /// `None`: the connection was just made.
    pub(crate) from: Option<Side>,
    /// Which of its side, from 0.
    pub(crate) index: usize,
    /// Type code; 0 for the preface.
    pub(crate) kind: u8,
    /// Which of its side and kind, from 0.
    pub(crate) of_kind: usize,
    /// With its header.
    pub(crate) length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

pub(crate) struct UnitProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What is done to a unit, and from which of its bytes on.
type Plan = dyn Fn(&Unit) -> Option<(Fault, usize)> + Send + Sync;

struct Shared {
    backend: SocketAddr,
    units: Units,
    plan: Box<Plan>,
    listener: TcpListener,
    state: Mutex<State>,
    stopping: AtomicBool,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<Weak<Ends>>,
    seen: Vec<Unit>,
}

/// Of one connection; closed when both directions have ended.
struct Ends {
    client: TcpStream,
    backend: TcpStream,
}

impl UnitProxy {
    pub(crate) fn new(
        backend: SocketAddr,
        units: Units,
        plan: impl Fn(&Unit) -> Option<(Fault, usize)> + Send + Sync + 'static,
    ) -> Self {
        // A number of our own choice stays ours when we refuse: one that the system chose would be given away.
        let listener = loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", free_port())) {
                break listener;
            }
        };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            backend,
            units,
            plan: Box::new(plan),
            listener,
            state: Mutex::default(),
            stopping: AtomicBool::new(false),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&accepting));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/auth.php", self.address)
    }

    /// What passed, as it was read.
    pub(crate) fn seen(&self) -> Vec<Unit> {
        self.shared.state.lock().seen.clone()
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen().iter().filter(|unit| unit.from.is_none()).count()
    }

    /// Units that one side sent on the first connection.
    pub(crate) fn sent_by(&self, side: Side) -> usize {
        self.seen().iter().filter(|unit| unit.connection == 0 && unit.from == Some(side)).count()
    }
}

impl Drop for UnitProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.refuse();
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// Closes what listens and what is open. The port stays bound, so that nobody else answers on it.
    fn refuse(&self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for ends in self.state.lock().open.iter().filter_map(Weak::upgrade) {
            ends.close();
        }
    }

    /// As sleep, but the end of the proxy ends it.
    fn pause(&self, time: Duration) {
        let mut state = self.state.lock();
        if !self.stopping.load(Ordering::SeqCst) {
            self.changed.wait_for(&mut state, time);
        }
    }

    /// Writes the unit down; the fault that is to meet it.
    fn planned(&self, unit: Unit) -> (Fault, usize) {
        self.state.lock().seen.push(unit);
        (self.plan)(&unit).unwrap_or((Fault::Nothing, 0))
    }
}

impl Ends {
    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.backend.shutdown(Shutdown::Both);
    }
}

fn accept(shared: &Arc<Shared>) {
    for connection in 0.. {
        let Ok((client, _)) = shared.listener.accept() else { return };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(backend) = TcpStream::connect(shared.backend) else { continue };
        let _ = (client.set_nodelay(true), backend.set_nodelay(true));
        let ends = Arc::new(Ends { client, backend });
        shared.state.lock().open.push(Arc::downgrade(&ends));
        let made = Unit { connection, from: None, index: 0, kind: 0, of_kind: 0, length: 0 };
        let (fault, _) = shared.planned(made);
        for side in [Side::Client, Side::Backend] {
            let (shared, ends) = (Arc::clone(shared), Arc::clone(&ends));
            std::thread::spawn(move || {
                let direction = Direction { shared: &shared, ends: &ends, side, connection };
                // The client is the one to whom something is done.
                if side == Side::Client || direction.does(fault, &[], 0).unwrap_or(false) {
                    let _ = direction.run();
                }
            });
        }
    }
}

struct Direction<'a> {
    shared: &'a Shared,
    ends: &'a Ends,
    side: Side,
    connection: usize,
}

impl Direction<'_> {
    fn from(&self) -> &TcpStream {
        if self.side == Side::Client { &self.ends.client } else { &self.ends.backend }
    }

    fn to(&self) -> &TcpStream {
        if self.side == Side::Client { &self.ends.backend } else { &self.ends.client }
    }

    fn run(&self) -> std::io::Result<()> {
        let mut of_kind = [0; 256];
        for index in 0.. {
            let Ok((kind, bytes)) = self.next(index) else { break };
            let unit = Unit {
                connection: self.connection,
                from: Some(self.side),
                index,
                kind,
                of_kind: of_kind[usize::from(kind)],
                length: bytes.len(),
            };
            of_kind[usize::from(kind)] += 1;
            let (fault, at) = self.shared.planned(unit);
            if !self.does(fault, &bytes, at)? {
                return Ok(());
            }
        }
        self.to().shutdown(Shutdown::Write)
    }

    fn next(&self, index: usize) -> std::io::Result<(u8, Vec<u8>)> {
        let mut from = self.from();
        let (header, kind, length) = match (self.shared.units, self.side) {
            (Units::Messages, _) => {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    from.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let length = text.split("\r\ncontent-length:").nth(1).and_then(|rest| rest.lines().next());
                (head, 0, length.map_or(0, |length| length.trim().parse().unwrap()))
            }
            (Units::Frames, Side::Client) if index == 0 => {
                let mut preface = vec![0; 24];
                from.read_exact(&mut preface)?;
                return Ok((0, preface));
            }
            (Units::Frames, _) => {
                let mut header = [0; 9];
                from.read_exact(&mut header)?;
                (header.to_vec(), header[3], u32::from_be_bytes([0, header[0], header[1], header[2]]))
            }
            (Units::Records, _) => {
                let mut header = [0; 5];
                from.read_exact(&mut header)?;
                (header.to_vec(), header[0], u32::from_be_bytes([0, 0, header[3], header[4]]))
            }
        };
        let mut bytes = header;
        let begin = bytes.len();
        bytes.resize(begin + length as usize, 0);
        from.read_exact(&mut bytes[begin..])?;
        Ok((kind, bytes))
    }

    /// False: nothing more passes in this direction.
    fn does(&self, fault: Fault, unit: &[u8], at: usize) -> std::io::Result<bool> {
        let mut to = self.to();
        let (sent, rest) = unit.split_at(at);
        match fault {
            Fault::Nothing => to.write_all(unit)?,
            Fault::Pause(time) => {
                to.write_all(sent)?;
                self.shared.pause(time);
                to.write_all(rest)?;
            }
            Fault::Drip(interval) => {
                to.write_all(sent)?;
                for byte in rest.chunks(1) {
                    self.shared.pause(interval);
                    to.write_all(byte)?;
                }
            }
            Fault::Duplicate => to.write_all(&[sent, sent, rest].concat())?,
            Fault::Garble => {
                let mut garbled = rest.to_vec();
                if let Some(byte) = garbled.first_mut() {
                    *byte ^= 0x80;
                }
                to.write_all(&[sent, &garbled].concat())?;
            }
            Fault::Close => {
                to.write_all(sent)?;
                self.ends.close();
                return Ok(false);
            }
            Fault::Reset => {
                to.write_all(sent)?;
                socket2::SockRef::from(&self.ends.client).set_linger(Some(Duration::ZERO))?;
                // Nothing is sent before both directions have let go of it.
                self.ends.client.shutdown(Shutdown::Read)?;
                self.ends.backend.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            Fault::HalfClose => {
                to.write_all(sent)?;
                to.shutdown(Shutdown::Write)?;
                self.swallow();
                return Ok(false);
            }
            Fault::Garbage => {
                // More than any unit that has begun may still want.
                let _ = to.write_all(&[sent, GARBAGE, &vec![b'x'; 20_000]].concat());
                self.swallow();
                return Ok(false);
            }
            Fault::Stop => {
                to.write_all(sent)?;
                self.swallow();
                return Ok(false);
            }
            Fault::Refuse => {
                to.write_all(sent)?;
                self.shared.refuse();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Until its side closes.
    fn swallow(&self) {
        while self.from().read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }
}
