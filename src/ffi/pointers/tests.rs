//! Memory only, no engine and no system call: miri can run these (`make miri`), and it sees a byte read or written
//! outside of what the caller gave.

use std::ptr::{null, null_mut};

use super::*;
use crate::decision::{Cause, Origin, Verdict};

const INVALID: i32 = ALTA_AUTH_ERR_INVALID;
const UNFIT: Unfit = Unfit::Status(INVALID);
const UNSUPPORTED: i32 = ALTA_AUTH_ERR_UNSUPPORTED;

fn str_of(text: &[u8]) -> alta_auth_str {
    alta_auth_str { ptr: text.as_ptr().cast(), len: text.len() }
}

fn no_text() -> alta_auth_str {
    alta_auth_str { ptr: null(), len: 0 }
}

fn a_request(struct_size: usize) -> alta_auth_request {
    alta_auth_request {
        struct_size: u32::try_from(struct_size).unwrap(),
        flags: 0,
        session_id: str_of(b"session"),
        ip: no_text(),
        path: no_text(),
        query: no_text(),
        origin: no_text(),
        user_agent: no_text(),
        scope: no_text(),
        timeout_ms: 0,
        reserved: 0,
    }
}

/// Exactly `bytes` bytes (a multiple of 8) of 0xAA with the alignment of a struct.
fn memory(bytes: usize) -> Vec<u64> {
    assert_eq!(bytes % 8, 0);
    vec![0xAAAA_AAAA_AAAA_AAAA; bytes / 8]
}

fn bytes_of(memory: &[u64]) -> Vec<u8> {
    memory.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// What `request` says to a struct in exactly the memory that its size claims, the unknown tail being `tail`.
fn judged(size: usize, tail: &[u8]) -> Result<(), i32> {
    let mut memory = memory(REQUEST + tail.len());
    let at = memory.as_mut_ptr().cast::<alta_auth_request>();
    // SAFETY: the memory is that long, and aligned.
    unsafe {
        at.write(a_request(size));
        at.cast::<u8>().add(REQUEST).copy_from(tail.as_ptr(), tail.len());
        request(at, None).map(drop).map_err(i32::from)
    }
}

#[test]
fn the_length_of_a_text_is_judged_before_a_byte_is_read() {
    let nowhere = std::ptr::without_provenance::<c_char>(1);
    let five = b"12345";
    let table = [
        (null(), 0, Ok(b"".as_slice())),
        (null(), 1, Err(UNFIT)),
        (null(), usize::MAX, Err(UNFIT)),
        (nowhere, 0, Ok(b"")),
        (nowhere, 6, Err(Unfit::TooLong)),
        (nowhere, isize::MAX as usize, Err(Unfit::TooLong)),
        (nowhere, isize::MAX as usize + 1, Err(Unfit::TooLong)),
        (nowhere, usize::MAX, Err(Unfit::TooLong)),
        (five.as_ptr().cast(), 4, Ok(b"1234")),
        (five.as_ptr().cast(), 5, Ok(b"12345")),
    ];
    for (ptr, len, expected) in table {
        // SAFETY: where the length passes, the bytes are there.
        let found = unsafe { text(alta_auth_str { ptr, len }, 5) };
        assert_eq!(found, expected, "{ptr:?} {len}");
    }
}

#[test]
fn every_length_of_a_request_is_judged() {
    const USER_AGENT: usize = 5;
    let nowhere = std::ptr::without_provenance::<c_char>(1);
    let fields: [fn(&mut alta_auth_request) -> &mut alta_auth_str; 7] = [
        |request| &mut request.session_id,
        |request| &mut request.ip,
        |request| &mut request.path,
        |request| &mut request.query,
        |request| &mut request.origin,
        |request| &mut request.user_agent,
        |request| &mut request.scope,
    ];
    for (index, field) in fields.into_iter().enumerate() {
        for text in [
            alta_auth_str { ptr: nowhere, len: usize::MAX },
            alta_auth_str { ptr: nowhere, len: isize::MAX as usize + 1 },
            alta_auth_str { ptr: null(), len: 1 },
        ] {
            let mut asked = a_request(REQUEST);
            *field(&mut asked) = text;
            // SAFETY: a request of ours; the texts that are not there must not be looked at.
            let found = unsafe { request(&raw const asked, None) }.map(drop);
            // A user agent is cut: one that is longer than memory is no client's.
            let why = if index == USER_AGENT || text.ptr.is_null() { UNFIT } else { Unfit::TooLong };
            assert_eq!(found, Err(why), "field {index}, length {}", text.len);
        }
    }
}

#[test]
fn a_long_user_agent_is_looked_at_up_to_a_bound() {
    let long = vec![b'u'; MAX_USER_AGENT + 1];
    let mut asked = a_request(REQUEST);
    asked.user_agent = str_of(&long);
    // SAFETY: a request of ours.
    let check = unsafe { request(&raw const asked, None) }.unwrap();
    assert_eq!(check.user_agent.len(), MAX_USER_AGENT);
}

#[test]
fn a_request_may_be_larger_if_what_we_do_not_know_is_zero() {
    assert_eq!(judged(REQUEST, &[]), Ok(()));
    assert_eq!(judged(REQUEST + 8, &[0; 8]), Ok(()));
    assert_eq!(judged(MAX_STRUCT, &vec![0; MAX_STRUCT - REQUEST]), Ok(()));
    for set in [0, 1, 7] {
        let mut tail = [0; 8];
        tail[set] = 1;
        assert_eq!(judged(REQUEST + 8, &tail), Err(UNSUPPORTED), "byte {set}");
    }
    let mut tail = vec![0; MAX_STRUCT - REQUEST];
    *tail.last_mut().unwrap() = 0x80;
    assert_eq!(judged(MAX_STRUCT, &tail), Err(UNSUPPORTED));
    // Set, but outside of what the struct says that it has.
    assert_eq!(judged(REQUEST, &[0xFF; 8]), Ok(()));
    // Garbage: nothing behind what we know is read, which miri sees if it is.
    assert_eq!(judged(MAX_STRUCT + 1, &[]), Err(UNSUPPORTED));
    assert_eq!(judged(u32::MAX as usize, &[]), Err(UNSUPPORTED));
    for small in [0, 1, 8, REQUEST - 1] {
        assert_eq!(judged(small, &[]), Err(INVALID), "{small}");
    }
}

#[test]
fn in_an_array_a_request_must_have_the_arrays_stride() {
    let asked = a_request(REQUEST);
    for (stride, expected) in [(REQUEST, Ok(())), (REQUEST + 8, Err(INVALID)), (REQUEST - 8, Err(INVALID))] {
        // SAFETY: a request of ours.
        let found = unsafe { request(&raw const asked, Some(stride)) }.map(drop).map_err(i32::from);
        assert_eq!(found, expected, "{stride}");
    }
}

#[test]
fn a_stride_must_hold_the_struct_and_the_array_must_fit_memory() {
    let most = isize::MAX as usize / COMPLETION;
    let table = [
        (COMPLETION, 0, Ok(COMPLETION)),
        (COMPLETION, 1, Ok(COMPLETION)),
        (COMPLETION, most, Ok(COMPLETION)),
        (COMPLETION, most + 1, Err(INVALID)),
        (COMPLETION, usize::MAX, Err(INVALID)),
        // The product is 0 in 64 bits.
        (128, 1 << 57, Err(INVALID)),
        (COMPLETION + 8, 3, Ok(COMPLETION + 8)),
        (COMPLETION + 4, 3, Err(INVALID)),
        (COMPLETION - 8, 3, Err(INVALID)),
        (0, 3, Err(INVALID)),
        (0, 0, Err(INVALID)),
        (MAX_STRUCT, 3, Ok(MAX_STRUCT)),
        (MAX_STRUCT + 8, 3, Err(UNSUPPORTED)),
    ];
    for (size, count, expected) in table {
        // No more than its first field is there.
        let first = u64::try_from(size).unwrap().to_le();
        // SAFETY: nothing but the struct_size is read.
        let found = unsafe { stride((&raw const first).cast::<alta_auth_completion>(), count) };
        assert_eq!(found, expected, "{size} {count}");
    }
}

#[test]
fn elements_are_a_stride_apart() {
    let array = memory(3 * (REQUEST + 8));
    let first = array.as_ptr().cast::<alta_auth_request>();
    for index in 0..3 {
        // SAFETY: three elements of that stride.
        let at = unsafe { element(first, REQUEST + 8, index) };
        assert_eq!(at.addr() - first.addr(), index * (REQUEST + 8));
    }
}

#[test]
fn null_and_misaligned_structs_are_refused_unread() {
    let mut place = memory(REQUEST + 8);
    for offset in [1, 2, 4] {
        // Aligned for a u32, at 4: a struct holds pointers and needs more.
        let at = place.as_mut_ptr().wrapping_byte_add(offset);
        // SAFETY: none of these reads what is misaligned.
        unsafe {
            assert_eq!(request(at.cast(), None).map(drop), Err(UNFIT), "{offset}");
            assert_eq!(stride(at.cast::<alta_auth_completion>(), 1), Err(INVALID), "{offset}");
            assert_eq!(room(at.cast::<alta_auth_stats>()), Err(INVALID), "{offset}");
            assert_eq!(object(at).map(drop), Err(INVALID), "{offset}");
            assert_eq!(object_mut(at).map(drop), Err(INVALID), "{offset}");
            assert_eq!(read(at), Err(INVALID), "{offset}");
            write(at, 0);
        }
    }
    // SAFETY: NULL is what these look for.
    unsafe {
        assert_eq!(request(null(), None).map(drop), Err(UNFIT));
        assert_eq!(stride(null::<alta_auth_completion>(), 0), Err(INVALID));
        assert_eq!(room(null::<alta_auth_stats>()), Err(INVALID));
        assert_eq!(object(null::<u64>()), Err(INVALID));
        assert_eq!(object_mut(null_mut::<u64>()), Err(INVALID));
        assert_eq!(read(null::<u64>()), Err(INVALID));
        assert_eq!(c_text(null()), Err(INVALID));
        assert_eq!(item(null::<u64>(), usize::MAX), None);
        set_item(null_mut::<u64>(), usize::MAX, 1);
        write(null_mut::<u64>(), 1);
        assert!(take_back(null_mut::<u64>()).is_none());
    }
    assert_eq!(place, memory(REQUEST + 8), "nothing was written");
}

#[test]
fn room_for_an_output_is_what_its_struct_size_says() {
    let table = [
        (DECISION - 1, Err(INVALID)),
        (DECISION, Ok(DECISION)),
        (DECISION + 8, Ok(DECISION + 8)),
        (MAX_STRUCT, Ok(MAX_STRUCT)),
        (MAX_STRUCT + 1, Err(INVALID)),
        (u32::MAX as usize, Err(INVALID)),
    ];
    for (size, expected) in table {
        let first = u64::try_from(size).unwrap().to_le();
        // SAFETY: nothing but the struct_size is read.
        let found = unsafe { room((&raw const first).cast::<alta_auth_decision>()) };
        assert_eq!(found, expected, "{size}");
    }
}

#[test]
fn an_output_is_written_in_full_and_not_a_byte_beyond() {
    let size = DECISION + 16;
    let mut place = memory(size + 8);
    let mut decision = Decision::new(Verdict::Allow, Origin::Backend, Cause::None, "why");
    decision.ticket = 7;
    // SAFETY: `size` bytes and more, aligned.
    unsafe { write_struct(place.as_mut_ptr().cast(), size, view(&decision, size)) };
    // SAFETY: just written.
    let written = unsafe { place.as_ptr().cast::<alta_auth_decision>().read() };
    assert_eq!((written.struct_size as usize, written.ticket), (size, 7));
    assert_eq!((written.user_id.ptr, written.user_id.len), (null(), 0));
    // SAFETY: the texts live as long as the decision.
    assert_eq!(unsafe { text(written.detail, 3) }, Ok(b"why".as_slice()));
    let bytes = bytes_of(&place[DECISION / 8..]);
    assert_eq!(bytes[..16], [0; 16], "the unknown tail is zeroed");
    assert_eq!(bytes[16..], [0xAA; 8], "what is behind it is the host's");
}

#[test]
fn texts_out_are_cut_on_a_character_boundary_and_terminated() {
    let table: [(usize, &[u8]); 7] = [
        (0, b""),
        (1, b"\0"),
        (2, b"a\0"),
        (3, b"a\0"),
        (4, "a\u{e9}\0".as_bytes()),
        (5, "a\u{e9}b\0".as_bytes()),
        (6, "a\u{e9}b\0".as_bytes()),
    ];
    for (len, expected) in table {
        let mut buffer = [0xAA_u8; 8];
        // SAFETY: eight bytes are there, and no more than `len` of them may be written.
        let full = unsafe { write_text(buffer.as_mut_ptr().cast(), len, "a\u{e9}b") };
        assert_eq!(full, 4, "{len}");
        assert_eq!(&buffer[..expected.len()], expected, "{len}");
        assert!(buffer[expected.len()..].iter().all(|&byte| byte == 0xAA), "{len}");
    }
    // SAFETY: NULL is never written.
    assert_eq!(unsafe { write_text(null_mut(), usize::MAX, "text") }, 4);
}

#[test]
fn what_is_handed_out_comes_back() {
    let handle = hand_out(String::from("object"));
    // SAFETY: a handle of ours, taken back once.
    unsafe {
        object_mut(handle).unwrap().push('s');
        assert_eq!(object(handle.cast_const()).unwrap(), "objects");
        assert_eq!(*take_back(handle).unwrap(), "objects");
    }
}

#[test]
fn plain_arrays_are_read_and_set_by_index() {
    let mut values = [1, 2, 3];
    // SAFETY: within the array.
    unsafe {
        set_item(values.as_mut_ptr(), 2, 30);
        assert_eq!(item(values.as_ptr(), 1), Some(2));
    }
    assert_eq!(values, [1, 2, 30]);
}

/// As a struct will be that has grown since its first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grown {
    struct_size: u32,
    reserved: u32,
    first: u64,
    later: u64,
}

impl Growing for Grown {
    const FIRST: usize = offset_of!(Self, later);
}

#[test]
fn a_struct_that_grows_still_takes_callers_of_its_first_version() {
    for size in [16, 24, 32] {
        let mut memory = memory(size);
        memory[0] = size as u64;
        memory[1] = 7;
        let at = memory.as_mut_ptr().cast::<Grown>();
        // SAFETY: the memory is as long as it says, and aligned.
        let (had, strides, taken) = unsafe { (room(at), stride(at, 1), read_struct(at, size)) };
        assert_eq!((had, strides), (Ok(size), Ok(size)));
        let later = if size == 16 { 0 } else { 0xAAAA_AAAA_AAAA_AAAA };
        assert_eq!((taken.first, taken.later), (7, later));
        let told = Grown { struct_size: size as u32, reserved: 0, first: 8, later: 9 };
        // SAFETY: as above.
        unsafe { write_struct(at, size, told) };
        assert_eq!(memory, [size as u64, 8, 9, 0][..size / 8]);
    }
    let mut small = memory(8);
    small[0] = 8;
    // SAFETY: as above; it is refused by its size.
    unsafe {
        assert_eq!(room(small.as_ptr().cast::<Grown>()), Err(INVALID));
        assert_eq!(stride(small.as_ptr().cast::<Grown>(), 1), Err(INVALID));
    }
}

#[cfg(target_pointer_width = "64")]
#[test]
fn the_first_published_sizes_never_change() {
    assert_eq!(
        [
            alta_auth_request::FIRST,
            alta_auth_decision::FIRST,
            alta_auth_completion::FIRST,
            alta_auth_stats::FIRST
        ],
        [128, 96, 112, 288]
    );
}

#[test]
fn misaligned_outputs_are_refused_unread() {
    let mut words = memory(16);
    let crooked = words.as_mut_ptr().wrapping_byte_add(1);
    // SAFETY: nothing is read or written where it is not aligned.
    unsafe {
        assert_eq!(read_if_wanted(crooked.cast_const()), Err(INVALID));
        assert_eq!(aligned(crooked.cast_const()), Err(INVALID));
        set_item(crooked, 0, 1);
        assert_eq!(read_if_wanted(null::<u64>()), Ok(None));
        assert_eq!(read_if_wanted(words.as_ptr()), Ok(Some(0xAAAA_AAAA_AAAA_AAAA)));
    }
    assert_eq!(aligned(null::<u64>()), Ok(()));
    assert_eq!(words, memory(16));
}
