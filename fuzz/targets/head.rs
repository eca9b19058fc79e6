//! The fuzzer's target `head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| maypole_fuzz::head(input));
