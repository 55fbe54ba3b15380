//! See `fuzz::restore`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::restore::run(bytes));
