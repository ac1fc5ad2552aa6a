//! Fuzz target: any files through the codec and back.

#![no_main]

#[path = "codec.rs"]
mod codec_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| codec_targets::encode(data));
