//! Whether the system still has memory: for want of it an allocation ends the process, so what is large is asked for
//! before it is allocated, and refused to whoever starts an engine.
//!
//! No promise: another thread may take it in between. But it is the difference between an error and the host's end where a
//! configuration does not fit a limit (`ulimit -v`).

use std::io;

/// What is allocated between one question and the next, amply: a thread's beginning, a runtime, what has no table.
const SPARE: usize = 4 * 1024 * 1024;

/// Room for so many bytes, and some more.
pub(crate) fn room_for(bytes: usize) -> io::Result<()> {
    Vec::<u8>::new().try_reserve_exact(bytes.saturating_add(SPARE)).map_err(|_| {
        let text = format!("{} MiB of memory; ulimit -v limits it", bytes.div_ceil(1024 * 1024).max(1));
        io::Error::new(io::ErrorKind::OutOfMemory, text)
    })
}
