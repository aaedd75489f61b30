//! A header section that was understood, kept until the exchange that it answers comes to it; and the buffers for that.
//!
//! What is kept are its fields, one behind the other, each part with its length before it: nobody parses them again.

use std::cell::RefCell;

use super::reply::FEW_FIELDS;
use crate::transport::ReplyHead;
use crate::transport::head::MAX_FIELDS;

pub(super) struct Held {
    status: u16,
    count: usize,
    fields: Vec<u8>,
}

/// Of a part's length: a section is shorter than 64 KiB.
const LEN: usize = size_of::<u16>();

impl Held {
    /// In the place of what is in `buffer`.
    pub(super) fn of(head: &ReplyHead<'_>, buffer: Vec<u8>) -> Self {
        let mut fields = buffer;
        fields.clear();
        for (name, value) in head.headers {
            for part in [name, value] {
                let len = u16::try_from(part.len()).expect("a header section is 16 KiB long at most");
                fields.extend_from_slice(&len.to_ne_bytes());
                fields.extend_from_slice(part);
            }
        }
        Self { status: head.status, count: head.headers.len(), fields }
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&ReplyHead<'_>) -> T) -> T {
        if self.count <= FEW_FIELDS {
            self.laid_out::<FEW_FIELDS, T>(read)
        } else {
            self.laid_out::<MAX_FIELDS, T>(read)
        }
    }

    fn laid_out<const FIELDS: usize, T>(&self, read: impl FnOnce(&ReplyHead<'_>) -> T) -> T {
        let mut headers: [(&[u8], &[u8]); FIELDS] = [(&[], &[]); FIELDS];
        let mut rest = &self.fields[..];
        let mut part = || {
            let (len, behind) = rest.split_first_chunk::<LEN>().expect("as many parts as were written");
            let (part, behind) = behind.split_at(usize::from(u16::from_ne_bytes(*len)));
            rest = behind;
            part
        };
        for field in &mut headers[..self.count] {
            *field = (part(), part());
        }
        read(&ReplyHead { status: self.status, headers: &headers[..self.count] })
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.fields
    }
}

/// Buffers that are used again, of all pipes of a pool on a thread: no more than a few windows need, and none that was made
/// for something long.
#[derive(Default)]
pub(super) struct Spares {
    buffers: RefCell<Vec<Vec<u8>>>,
}

impl Spares {
    const MOST: usize = 128;
    const LONGEST: usize = 2 * 1024;

    /// It may have something in it.
    pub(super) fn take(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn put(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < Self::MOST && buffer.capacity() <= Self::LONGEST {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_read_as_it_was() {
        for count in [0, 1, FEW_FIELDS, FEW_FIELDS + 1, MAX_FIELDS] {
            let fields: Vec<_> = (0..count).map(|n| (format!("X-{n}"), " ".repeat(3 * n) + "v")).collect();
            let lines: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let held = Held::of(&ReplyHead { status: 403, headers: &lines }, b"old".to_vec());
            held.read(|head| {
                assert_eq!(head.status, 403);
                assert_eq!(head.headers, lines);
            });
        }
        let empty: [(&[u8], &[u8]); 1] = [(b"A", b"")];
        let held = Held::of(&ReplyHead { status: 200, headers: &empty }, Vec::new());
        held.read(|head| assert_eq!(head.headers, empty));
    }

    #[test]
    fn spare_buffers_are_few_and_short() {
        let spares = Spares::default();
        spares.put(Vec::with_capacity(Spares::LONGEST + 1));
        assert_eq!(spares.take().capacity(), 0, "a long one is not kept");
        for _ in 0..2 * Spares::MOST {
            spares.put(Vec::with_capacity(100));
        }
        assert_eq!(spares.buffers.borrow().len(), Spares::MOST);
        assert!(spares.take().capacity() >= 100);
    }
}
