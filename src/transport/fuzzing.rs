//! What is fuzzed of the transport; and the reader of header sections, for who asserts things about replies: what a
//! connection's tap does with it.

mod lanes;

pub use lanes::wire;
#[cfg(test)]
pub(super) use lanes::{Made, outcome, worlds};

use super::head::{Fed, HeadReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadRead {
    /// The final status, as soon as its line is in.
    Partial(Option<u16>),
    Complete(u16),
    Broken(Option<u16>),
}

/// What the reader says to the pieces of a reply, until it has decided, and which of them made it decide.
pub(crate) fn read_head<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (HeadRead, usize) {
    let mut reader = HeadReader::default();
    let mut last = HeadRead::Partial(None);
    let mut count = 0;
    for piece in pieces {
        count += 1;
        match reader.feed(piece) {
            Fed::Partial(status) => last = HeadRead::Partial(status),
            Fed::Complete(status) => return (HeadRead::Complete(status), count),
            Fed::Broken(_, status) => return (HeadRead::Broken(status), count),
        }
    }
    (last, count)
}
