//! Files of each format version, as they were written then, still decode to the same bytes.

mod common;

use std::path::PathBuf;

use codec::container::{HEAD, HEAD_BYTES, Seal, is_head};
use codec::{Decoder, Kind, Limits, Method, Source, Tier, UnitHeader, encode_group, unit_bytes};

/// BLAKE3 of what the golden files hold, in order; written down so that a change in the code that
/// makes the test files is not mistaken for a change of the format.
const DIGESTS: [(&str, &str); 22] = [
    (
        "a/unsigned.dcm",
        "2a5863aba29972919b0244cd907ba72ce17494034cc15d6fb39c26a5858150f1",
    ),
    (
        "a/signed.dcm",
        "86f921b9ad5c82fca5d2897e213658305b8a566e920705c9342766f79797777e",
    ),
    (
        "implicit.dcm",
        "392e97c325b2191f97f3b1e3d4baaca6f2a41945baa3627716ced42a9e0ce8f0",
    ),
    (
        "compressed.dcm",
        "fb22a6d4ed9a08d830448e7b5d22d590d407959e3fa71bd6a79c402b6909b346",
    ),
    (
        "trailing.dcm",
        "318e2ca98431b71c9ff0710c7ed8023a8f20084409cd3fcc4c3888a8c9f7c79b",
    ),
    (
        "cut.dcm",
        "ca72aee2ecefeca1fc8b05ec1aba0fb9591b4e40134c4cb3c819ee647438f00e",
    ),
    (
        "partial row.dcm",
        "5d7712f5f9b496750b1549144d9ca422e7e0d1372ee61793851d13c1f3ce0376",
    ),
    (
        "no pixels.dcm",
        "7328f338bad27e501ab12fb37eec509b3fa1488e9614673e3dfce7f309987246",
    ),
    (
        "empty",
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    ),
    (
        "note.txt",
        "bb1e23cfd2c23fb865b945d2b88c65d10bc11b5e853710170eab9b6bbe90dc6a",
    ),
    (
        "long text",
        "6fdb37fd495c3295b50ce1fd17ed271f2bd8c23811e5edc559cf4ad59895474c",
    ),
    (
        "noise.dcm",
        "12476f815d5ccc714e9432784a01b1084291dd948f3d73d4b5ae12498cb5357f",
    ),
    (
        "narrow.dcm",
        "c012edab259102e177fb50f3edac8e62d38b8e8b151732e73023bf13a130bf47",
    ),
    (
        "s/1.dcm",
        "8db47e817cf8613f631677197f50cb0de453603584e61190a37613bc711898fe",
    ),
    (
        "s/2.dcm",
        "5aead2221b603527fb413da7bc613ee2a92bd95ea5ef40e43cc04e77ef2c2b90",
    ),
    (
        "s/3.dcm",
        "d6738d9acc2a63f8e5009c75fd86264eaca718b2677b15c282a6ccbfb9f34ab7",
    ),
    (
        "s/4.dcm",
        "de0586dbde9a0deac3ee22c56bc1f9dea92acf3a3676aef62d0de33b0f25a31d",
    ),
    (
        "s/5.dcm",
        "ca8ed355843917fb2aaf78ba50ef626a966f3c8cf432e60d19cf790541d9bd00",
    ),
    (
        "wide.dcm",
        "e815010d17bfafa34e0388c34ef5b3dc23dcf96cd038ecb7c906a37dc3a44284",
    ),
    (
        "jpeg-57-predictor-6.dcm",
        "e71eaa2f134a16f2cc6c3001cb672708b60a1bc7001fa2dc100fe43a25af4246",
    ),
    (
        "jpeg-70-signed.dcm",
        "769be7a002066c51421b12d1b0daf1c9ff6e29aef4d5004e9fb1825f11733982",
    ),
    (
        "rle-dcmtk-frames.dcm",
        "9e43e22b8858daeba022adc9e1edbb4336b50064de9174443306a517081e7dc9",
    ),
];

fn path(tier: Tier) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v2-{tier}.ctp"))
}

#[test]
fn version_2_files_decode_to_the_same_bytes() {
    for tier in Tier::ALL {
        let packed = std::fs::read(path(tier)).unwrap();
        assert!(is_head(&packed));
        let mut rest = &packed[HEAD_BYTES..];
        let (mut decoder, mut seal, mut seen) =
            (Decoder::new(Limits::default()), Seal::default(), Vec::new());
        while let Ok(Some(bytes)) = unit_bytes(rest) {
            let (unit, after) = rest.split_at(bytes);
            decoder.push(unit).unwrap();
            seal.add_unit(unit);
            let header = UnitHeader::parse(unit).unwrap();
            seen.push((header.kind, header.method));
            rest = after;
        }
        assert_eq!(rest, seal.trailer());
        // The golden files are worth something only if every method is in them.
        let model = match tier {
            Tier::Fast => Method::Fast,
            Tier::Link => Method::Link,
            Tier::Archive => Method::Archive,
        };
        for expected in [
            (Kind::Table, Method::Zstd),
            (Kind::Data, model),
            (Kind::Data, Method::Planes),
            (Kind::Data, Method::Stored),
            (Kind::Data, Method::Zstd),
        ] {
            assert!(seen.contains(&expected), "{tier}: {expected:?}");
        }
        let files: Vec<(String, String)> = decoder
            .files()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let file = decoder.file(index).unwrap();
                (entry.name.clone(), study::Digest::of(&file).to_string())
            })
            .collect();
        let expected: Vec<(String, String)> = DIGESTS
            .iter()
            .map(|(name, digest)| ((*name).into(), (*digest).into()))
            .collect();
        assert_eq!(files, expected);
    }
}

#[test]
#[ignore = "writes golden files that are missing; run when a format version is new"]
fn write_the_golden_files() {
    let files = golden_files();
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|(name, bytes)| Source { name, bytes })
        .collect();
    // Those of a version that is in use are never written again.
    for tier in Tier::ALL.into_iter().filter(|tier| !path(*tier).exists()) {
        let mut packed = HEAD.to_vec();
        let mut seal = Seal::default();
        for unit in encode_group(&sources, tier).unwrap() {
            packed.extend_from_slice(unit.as_bytes());
            seal.add_unit(unit.as_bytes());
        }
        packed.extend_from_slice(&seal.trailer());
        std::fs::write(path(tier), packed).unwrap();
    }
    let digests = files
        .iter()
        .map(|(name, bytes)| (*name, study::Digest::of(bytes).to_string()));
    panic!("put these into DIGESTS: {:#?}", digests.collect::<Vec<_>>());
}

fn golden_files() -> Vec<(&'static str, Vec<u8>)> {
    let mut files = common::mixed_files();
    files.retain(|(name, _)| *name != "long.bin");
    files.push(("long text", b"lossless ".repeat(8_000)));
    // Pixels that no model makes smaller; and such that zstd does.
    let noise = common::Noise(13).bytes(24 * 16 * 2);
    files.push(("noise.dcm", common::Slice::small(14).wrap(&noise)));
    let narrow = common::Slice {
        rows: 300,
        columns: 8,
        ..common::Slice::small(15)
    };
    files.push(("narrow.dcm", narrow.file()));
    // A stack with references on both sides, and values over the whole range.
    for (number, name) in (20..).zip(["s/1.dcm", "s/2.dcm", "s/3.dcm", "s/4.dcm", "s/5.dcm"]) {
        let slice = common::Slice {
            rows: 40,
            columns: 56,
            signed: true,
            ..common::Slice::small(number)
        };
        files.push((name, slice.file()));
    }
    let wide = common::Slice {
        rows: 40,
        columns: 56,
        ..common::Slice::small(30)
    };
    let pixels: Vec<u8> = (0..40 * 56_u32)
        .flat_map(|i| (i * i * 29 / 3).to_le_bytes().into_iter().take(2))
        .collect();
    files.push(("wide.dcm", wide.wrap(&pixels)));
    // Compressed sources that have a native form.
    for name in [
        "jpeg-57-predictor-6.dcm",
        "jpeg-70-signed.dcm",
        "rle-dcmtk-frames.dcm",
    ] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/codec");
        let file = std::fs::read(format!("{folder}/{name}")).expect("a fixture");
        files.push((name, file));
    }
    files
}
