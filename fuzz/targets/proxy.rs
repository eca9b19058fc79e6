//! The fuzzer's target `proxy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| maypole_fuzz::proxy(input));
