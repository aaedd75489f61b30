//! What a host passes: memory that is exactly as large as it has to be, so that a sanitizer sees a byte too many.

use std::ffi::CString;
use std::ptr::{null, without_provenance};

use super::super::types::*;
use crate::check::limits;

/// Structs larger than this are refused by their size.
const MAX_STRUCT: usize = 4096;

/// The bytes of an input that are left; 0 where there are none.
pub(super) struct Tape<'a> {
    rest: &'a [u8],
}

impl<'a> Tape<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte()).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        bytes
    }

    pub(super) fn c_text(&mut self) -> CString {
        CString::new(self.bytes().split(|&byte| byte == 0).next().unwrap_or_default()).expect("cut at NUL")
    }

    /// The right one, mostly.
    pub(super) fn struct_size(&mut self, right: usize) -> usize {
        match self.byte() {
            200 => 0,
            201 => 4,
            202 => right - 8,
            203 => right - 1,
            204 => right + 4,
            205 => right + 8,
            206 => MAX_STRUCT,
            207 => MAX_STRUCT + 8,
            208 => u32::MAX as usize,
            _ => right,
        }
    }
}

fn holds<T>(size: usize) -> bool {
    (size_of::<T>()..=MAX_STRUCT).contains(&size)
}

/// Room for `count` structs of `size` bytes; where that is no size, for a `struct_size` only.
fn memory<T>(size: usize, count: usize) -> Vec<u64> {
    let bytes = if holds::<T>(size) { size * count } else { 0 };
    vec![0x5555_5555_5555_5555; bytes.div_ceil(8).max(1)]
}

/// An output, or an array of them.
pub(super) struct Output<T> {
    memory: Vec<u64>,
    before: Vec<u64>,
    size: usize,
    of: std::marker::PhantomData<T>,
}

impl<T> Output<T> {
    pub(super) fn new(size: usize, count: usize) -> Self {
        let mut memory = memory::<T>(size, count);
        // SAFETY: there is room for a struct_size at least.
        unsafe { memory.as_mut_ptr().cast::<u32>().write(size as u32) };
        Self { before: memory.clone(), memory, size, of: std::marker::PhantomData }
    }

    pub(super) fn at(&mut self) -> *mut T {
        self.memory.as_mut_ptr().cast()
    }

    pub(super) fn element(&mut self, index: usize) -> *mut T {
        assert!(holds::<T>(self.size) && (index + 1) * self.size <= self.memory.len() * 8);
        // SAFETY: within the memory.
        unsafe { self.at().byte_add(index * self.size) }
    }

    /// The first `count`, if any: their sizes are what the host has set, what is not known is zero, the rest is as it was.
    pub(super) fn was_written(&mut self, any: bool, count: usize) {
        if !any {
            assert!(self.memory == self.before, "written without success");
            return;
        }
        let bytes: Vec<_> = self.memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let before: Vec<_> = self.before.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for element in bytes.chunks(self.size).take(count) {
            assert!(element.starts_with(&(self.size as u32).to_ne_bytes()), "another struct_size");
            assert!(element[size_of::<T>()..].iter().all(|&byte| byte == 0), "the unknown tail");
        }
        assert_eq!(bytes[count * self.size..], before[count * self.size..], "beyond the end");
    }
}

/// A text, or what pretends to be one.
pub(super) struct Text {
    bytes: Box<[u8]>,
    view: alta_auth_str,
}

impl Text {
    pub(super) fn new(tape: &mut Tape<'_>) -> Self {
        const KNOWN: [&str; 12] = [
            "s1",
            "s2",
            "/a/1.ts",
            "/a/2.ts",
            "t=1",
            "t=deny",
            "t=cache",
            "t=cache&user&max",
            "t=slow",
            "t=close",
            "t=bad",
            "u1",
        ];
        let kind = tape.byte();
        let bytes = match kind {
            0 | 18..=21 => Vec::new(),
            16 => tape.bytes().to_vec(),
            17 => vec![b'x'; usize::from(tape.byte()) * 80],
            kind => KNOWN[usize::from(kind - 1) % KNOWN.len()].into(),
        };
        let bytes = bytes.into_boxed_slice();
        let view = match kind {
            18 => alta_auth_str { ptr: null(), len: usize::from(tape.byte()) },
            20 => alta_auth_str { ptr: null(), len: usize::MAX },
            21 => alta_auth_str { ptr: without_provenance(1), len: 0 },
            _ if bytes.is_empty() => alta_auth_str { ptr: null(), len: 0 },
            _ => alta_auth_str { ptr: bytes.as_ptr().cast(), len: bytes.len() },
        };
        Self { bytes, view }
    }

    fn of(text: &str) -> Self {
        let bytes: Box<[u8]> = text.as_bytes().into();
        let view = alta_auth_str { ptr: bytes.as_ptr().cast(), len: bytes.len() };
        Self { bytes, view }
    }

    pub(super) fn view(&self) -> alta_auth_str {
        self.view
    }

    /// More than there may be, or nothing where something was promised.
    fn is_bad(&self, limit: usize) -> bool {
        self.view.len > limit || (self.view.ptr.is_null() && self.view.len > 0)
    }
}

/// One request, or an array of them.
pub(super) struct Requests {
    memory: Vec<u64>,
    /// What the structs point to.
    texts: Vec<[Text; 7]>,
    /// What each must be refused with, as far as its struct says.
    refused: Vec<Option<i32>>,
}

impl Requests {
    pub(super) fn plain() -> Self {
        Self::any(&mut Tape::new(&[]), 1, false)
    }

    pub(super) fn any(tape: &mut Tape<'_>, count: usize, array: bool) -> Self {
        let size = tape.struct_size(size_of::<alta_auth_request>());
        let mut this =
            Self { memory: memory::<alta_auth_request>(size, count), texts: Vec::new(), refused: Vec::new() };
        // SAFETY: there is room for a struct_size at least.
        unsafe { this.memory.as_mut_ptr().cast::<u32>().write(size as u32) };
        let bad_stride = array && !size.is_multiple_of(8);
        let by_size = if size < size_of::<alta_auth_request>() || bad_stride {
            Some(ALTA_AUTH_ERR_INVALID)
        } else {
            (size > MAX_STRUCT).then_some(ALTA_AUTH_ERR_UNSUPPORTED)
        };
        if by_size.is_some() {
            this.refused = vec![by_size; count];
            return this;
        }
        for index in 0..count {
            this.put(tape, size, index);
        }
        this
    }

    fn put(&mut self, tape: &mut Tape<'_>, size: usize, index: usize) {
        const KNOWN: usize = size_of::<alta_auth_request>();
        let oddity = tape.byte();
        let mut texts = [(); 7].map(|()| Text::new(tape));
        if texts[0].view.len == 0 && texts[0].view.ptr.is_null() {
            texts[0] = Text::of("s0");
        }
        let [session_id, ip, path, query, origin, user_agent, scope] = &texts;
        let mut request = alta_auth_request {
            struct_size: size as u32,
            flags: match oddity {
                201 => ALTA_AUTH_FRESH,
                202 => 2,
                _ => 0,
            },
            session_id: session_id.view,
            ip: ip.view,
            path: path.view,
            query: query.view,
            origin: origin.view,
            user_agent: user_agent.view,
            scope: scope.view,
            timeout_ms: u32::from(tape.byte() % 32),
            reserved: u32::from(oddity == 203),
        };
        if oddity == 204 && index > 0 {
            request.struct_size += 8;
        }
        // SAFETY: `memory` has room for `count` structs of `size` bytes, and `size` is not less than what is known.
        unsafe {
            let at = self.memory.as_mut_ptr().byte_add(index * size).cast::<u8>();
            at.cast::<alta_auth_request>().write_unaligned(request);
            at.add(KNOWN).write_bytes(0, size - KNOWN);
            if oddity == 200 && size > KNOWN {
                at.add(size - 1).write(1);
            }
        }
        let short = limits::SHORT_FIELD;
        let limits = [short, short, limits::PATH, limits::QUERY, short, isize::MAX as usize, short];
        let bad = texts.iter().zip(limits).any(|(text, limit)| text.is_bad(limit));
        self.refused.push(if oddity == 204 && index > 0 {
            Some(ALTA_AUTH_ERR_INVALID)
        } else if (oddity == 200 && size > KNOWN) || oddity == 202 {
            Some(ALTA_AUTH_ERR_UNSUPPORTED)
        } else if oddity == 203 || bad || texts[0].bytes.trim_ascii().is_empty() {
            Some(ALTA_AUTH_ERR_INVALID)
        } else {
            None
        });
        self.texts.push(texts);
    }

    pub(super) fn at(&self) -> *const alta_auth_request {
        self.memory.as_ptr().cast()
    }

    pub(super) fn is_refused(&self, index: usize) -> Option<i32> {
        self.refused[index]
    }
}
