//! See `fuzz::hostile`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::hostile::run(bytes));
