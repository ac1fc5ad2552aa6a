//! Fuzz target: units from outside into the decoder.

#![no_main]

#[path = "codec.rs"]
mod codec_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| codec_targets::decode(data));
