//! The corpus of the codec's fuzz targets, replayed.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod common;
#[path = "../../../tests/fuzz/targets/codec.rs"]
mod targets;

use std::path::PathBuf;

use codec::{Source, Tier, encode_group};
use common::Slice;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/fuzz/corpus/{target}"))
}

fn replay(target: &str, run: fn(&[u8])) {
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder(target)).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "no corpus");
}

#[test]
fn units_that_were_odd_once_do_no_harm() {
    replay("codec_decode", targets::decode);
}

#[test]
fn files_that_were_odd_once_come_back() {
    replay("codec_encode", targets::encode);
}

/// Files with a native form.
fn compressed() -> Vec<(&'static str, Vec<u8>)> {
    [
        "jpeg-57-8-bits.dcm",
        "jpeg-70-signed.dcm",
        "rle-dcmtk-8-bits.dcm",
        "rle-pydicom-signed.dcm",
    ]
    .map(|name| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/codec");
        (name, std::fs::read(format!("{folder}/{name}")).unwrap())
    })
    .to_vec()
}

#[test]
#[ignore = "writes the seeds of the corpus; run when a format version is new"]
fn write_the_seeds() {
    for tier in Tier::ALL {
        let mut files = common::mixed_files();
        files.retain(|(_, bytes)| bytes.len() < 5000);
        files.extend(compressed());
        files.extend((30..33).map(|seed| ("s", Slice::small(seed).file())));
        let sources: Vec<Source<'_>> = files
            .iter()
            .map(|(name, bytes)| Source { name, bytes })
            .collect();
        let units = encode_group(&sources, tier).unwrap();
        let joined: Vec<u8> = units
            .iter()
            .flat_map(|unit| unit.as_bytes())
            .copied()
            .collect();
        let decode = folder("codec_decode");
        std::fs::create_dir_all(&decode).unwrap();
        std::fs::write(decode.join(format!("seed-{tier}")), joined).unwrap();
    }
    let encode = folder("codec_encode");
    std::fs::create_dir_all(&encode).unwrap();
    let files = common::mixed_files().into_iter().chain(compressed());
    for (number, (_, bytes)) in files.enumerate() {
        if bytes.len() < 5000 {
            let tier = u8::try_from(number % 3).unwrap();
            std::fs::write(
                encode.join(format!("seed-{number}")),
                [&[tier], &bytes[..]].concat(),
            )
            .unwrap();
        }
    }
    let pair: Vec<Vec<u8>> = (40..42).map(|seed| Slice::small(seed).file()).collect();
    for tier in 0..3 {
        let input = [&[tier], &pair.join(targets::SEPARATOR)[..]].concat();
        std::fs::write(encode.join(format!("seed-pair-{tier}")), input).unwrap();
    }
}
