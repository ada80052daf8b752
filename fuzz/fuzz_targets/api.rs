//! libFuzzer's way into the target `api`, which is a plain function of the library.
//! Built by cargo-fuzz (`./check fuzz-long`) and by nothing else.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| uringcast_fuzz::targets::api::run(bytes));
