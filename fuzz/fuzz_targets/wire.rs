#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| alta_auth::fuzzing::wire(input));
