//! The fuzzer's target `body`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| maypole_fuzz::body(input));
