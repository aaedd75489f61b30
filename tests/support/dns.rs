//! A name server whose every answer the test decides: UDP, one question a datagram, at 127.0.0.1:53 of a network of the test's
//! own (`Rerun::with_names`).

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

/// What it says of every name.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// These, and no address of IPv6.
    Addresses(Vec<Ipv4Addr>),
    /// SERVFAIL
    Fails,
    /// NXDOMAIN
    Unknown,
    Nothing,
}

pub(crate) struct Dns {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    says: Mutex<Says>,
    takes: Mutex<Duration>,
    asked: AtomicUsize,
    stopping: AtomicBool,
}

impl Dns {
    pub(crate) fn new(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (asked, stopping) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { says: Mutex::new(says), takes: Mutex::default(), asked, stopping });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&socket, &serving));
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn say(&self, says: Says) {
        *self.shared.says.lock() = says;
    }

    /// How long it thinks about each question.
    pub(crate) fn take(&self, time: Duration) {
        *self.shared.takes.lock() = time;
    }

    /// Questions that came in so far.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut question = [0; 512];
    while !shared.stopping.load(Ordering::SeqCst) {
        let Ok((length, peer)) = socket.recv_from(&mut question) else { continue };
        let (says, takes) = (shared.says.lock().clone(), *shared.takes.lock());
        std::thread::sleep(takes);
        if let Some(answer) = answer(&question[..length], &says) {
            socket.send_to(&answer, peer).unwrap();
        }
        shared.asked.fetch_add(1, Ordering::SeqCst);
    }
}

/// RFC 1035, section 4.1.
fn answer(question: &[u8], says: &Says) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    // A name is labels up to an empty one; type and class follow.
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    let kind = &question[end + 1..end + 3];
    let (code, addresses) = match says {
        Says::Nothing => return None,
        Says::Fails => (2, vec![]),
        Says::Unknown => (3, vec![]),
        Says::Addresses(addresses) if kind == A => (0, addresses.clone()),
        Says::Addresses(_) => (0, vec![]),
    };
    let mut answer = question[..2].to_vec();
    // An answer, recursion desired and available, its code; one question, so many records.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend(&question[12..end + 5]);
    for address in addresses {
        // The name of the question, A, IN, a second, four bytes.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
