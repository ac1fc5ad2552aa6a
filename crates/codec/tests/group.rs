//! Groups through the library's public face: round trips, pieces, damage, hostile units.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod common;

use codec::{
    DecodeError, Decoder, EncodeError, Kind, Limits, Method, Source, Tier, UNIT_BYTES_MAX, Unit,
    UnitHeader, encode_group,
};
use common::{Noise, Slice, mixed_files};
use proptest::prelude::*;

fn encode(files: &[(&str, Vec<u8>)], tier: Tier) -> Vec<Unit> {
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|(name, bytes)| Source { name, bytes })
        .collect();
    encode_group(&sources, tier).unwrap()
}

fn decoder_of(units: &[Unit]) -> Decoder {
    let mut decoder = Decoder::new(Limits::default());
    units
        .iter()
        .for_each(|unit| decoder.push(unit.as_bytes()).unwrap());
    decoder
}

fn headers(units: &[Unit]) -> Vec<UnitHeader> {
    units
        .iter()
        .map(|unit| UnitHeader::parse(unit.as_bytes()).unwrap())
        .collect()
}

#[test]
fn every_kind_of_file_comes_back_in_every_tier() {
    let files = mixed_files();
    for tier in Tier::ALL {
        let units = encode(&files, tier);
        let decoder = decoder_of(&units);
        assert_eq!(decoder.files().unwrap().len(), files.len());
        for (index, (name, bytes)) in files.iter().enumerate() {
            let entry = &decoder.files().unwrap()[index];
            assert_eq!(
                (entry.name.as_str(), entry.bytes),
                (*name, bytes.len() as u64)
            );
            assert_eq!(entry.digest, study::Digest::of(bytes));
            assert_eq!(decoder.file(index).as_ref(), Ok(bytes), "{name}");
        }
        assert_eq!(
            decoder.file(files.len()),
            Err(DecodeError::NoSuchFile(files.len()))
        );
        assert!(headers(&units).iter().all(|header| header.tier == tier));
    }
}

#[test]
fn a_slice_is_one_unit_and_smaller_than_under_zstd_alone() {
    let slice = Slice {
        rows: 512,
        columns: 512,
        ..Slice::small(1)
    };
    let files: Vec<_> = (0..3)
        .map(|n| ("s", Slice { seed: n, ..slice }.file()))
        .collect();
    let units = encode(&files, Tier::Fast);
    let headers = headers(&units);
    assert_eq!(
        headers.iter().map(|h| h.kind).collect::<Vec<_>>()[..2],
        [Kind::Table, Kind::Data]
    );
    assert_eq!(units.len(), 1 + 3);
    assert!(headers[1..].iter().all(|h| h.method == Method::Fast));
    assert!(headers[1..].iter().all(|h| h.span.bytes == 512 * 1024));
    let packed: usize = units.iter().map(|unit| unit.as_bytes().len()).sum();
    let whole: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let zstd = zstd::bulk::compress(&whole, 3).unwrap();
    assert!(
        packed * 10 < zstd.len() * 9,
        "{packed} against {}",
        zstd.len()
    );
}

#[test]
fn no_unit_is_over_its_limit_even_if_nothing_compresses() {
    let noise = Noise(5).bytes(3 << 20);
    let pixels = Slice {
        rows: 1100,
        columns: 1024,
        ..Slice::small(1)
    };
    let frames = Slice {
        rows: 512,
        columns: 512,
        frames: 3,
        ..Slice::small(2)
    };
    let files = vec![
        ("noise", noise.clone()),
        ("noisy.dcm", pixels.wrap(&noise[..1100 * 2048])),
        ("frames.dcm", frames.file()),
    ];
    let units = encode(&files, Tier::Fast);
    assert!(
        units
            .iter()
            .all(|unit| unit.as_bytes().len() <= UNIT_BYTES_MAX - 64)
    );
    // A frame that fits into a unit is one.
    let of_frames: Vec<u32> = headers(&units)
        .iter()
        .filter(|h| h.kind == Kind::Data && h.span.file == 2)
        .map(|h| h.span.bytes)
        .collect();
    assert_eq!(of_frames, [512 * 1024; 3]);
    let decoder = decoder_of(&units);
    for (index, (_, bytes)) in files.iter().enumerate() {
        assert_eq!(decoder.file(index).as_ref(), Ok(bytes));
    }
}

#[test]
fn a_table_too_long_for_one_unit_goes_into_several() {
    let files: Vec<_> = (1..60).map(|n| ("h", Noise(n).bytes(60_000))).collect();
    let units = encode(&files, Tier::Fast);
    let table_units = headers(&units)
        .iter()
        .filter(|h| h.kind == Kind::Table)
        .count();
    assert!(table_units >= 4, "{table_units}");
    // In any order, and twice.
    let mut decoder = Decoder::new(Limits::default());
    for unit in units.iter().rev().chain(&units) {
        decoder.push(unit.as_bytes()).unwrap();
    }
    assert_eq!(decoder.file(58).as_ref(), Ok(&files[58].1));
}

#[test]
fn equal_files_make_equal_groups() {
    let files = mixed_files();
    assert_eq!(encode(&files, Tier::Link), encode(&files, Tier::Link));
    let group = |tier| headers(&encode(&files, tier))[0].group;
    assert_eq!(group(Tier::Fast), group(Tier::Archive));
    assert_ne!(
        group(Tier::Fast),
        headers(&encode(&files[1..], Tier::Fast))[0].group
    );
}

#[test]
fn a_file_needs_the_table_and_its_own_units_only() {
    let files = mixed_files();
    let units = encode(&files, Tier::Link);
    let table_units = headers(&units)[0].table_units;
    for (index, (name, bytes)) in files.iter().enumerate() {
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(decoder.units_of(index), None);
        assert!(!decoder.ready(index));
        for unit in &units[..usize::try_from(table_units).unwrap()] {
            decoder.push(unit.as_bytes()).unwrap();
        }
        let needed = decoder.units_of(index).unwrap();
        for number in &needed {
            assert_eq!(decoder.file(index), Err(DecodeError::Incomplete(index)));
            decoder
                .push(units[usize::try_from(*number).unwrap()].as_bytes())
                .unwrap();
        }
        assert!(decoder.ready(index));
        assert_eq!(decoder.file(index).as_ref(), Ok(bytes), "{name}");
    }
}

#[test]
fn a_group_cut_short_gives_what_is_whole_and_nothing_else() {
    let files = mixed_files();
    let units = encode(&files, Tier::Link);
    for whole in 0..=units.len() {
        let decoder = decoder_of(&units[..whole]);
        for (index, (_, bytes)) in files.iter().enumerate() {
            match decoder.file(index) {
                Ok(file) => assert_eq!(&file, bytes),
                Err(DecodeError::TableMissing) => assert_eq!(whole, 0),
                Err(error) => assert_eq!(error, DecodeError::Incomplete(index)),
            }
        }
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let units = encode(&mixed_files()[..3], Tier::Link);
    let mut decoder = Decoder::new(Limits::default());
    for unit in &units {
        let mut bytes = unit.as_bytes().to_vec();
        for at in 0..bytes.len() {
            assert!(decoder.push(&bytes[..at]).is_err());
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(decoder.push(&bytes).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
        bytes.push(0);
        assert_eq!(decoder.push(&bytes), Err(DecodeError::Length));
        decoder.push(unit.as_bytes()).unwrap();
    }
    // Nothing of all that has stayed in the decoder.
    assert_eq!(decoder.file(1).as_ref(), Ok(&mixed_files()[1].1));
}

/// Slices that differ in their noise by a little.
fn stack(count: u64) -> Vec<(&'static str, Vec<u8>)> {
    let still = Slice {
        rows: 64,
        columns: 64,
        ..Slice::small(1)
    };
    let mut noise = Noise(3);
    let slice = |_| {
        let mut file = still.file();
        let pixels = file.len() - 64 * 64 * 2;
        for _ in 0..100 {
            let at = usize::try_from(noise.next() % (64 * 64)).unwrap();
            file[pixels + 2 * at] ^= 1;
        }
        ("s", file)
    };
    (0..count).map(slice).collect()
}

#[test]
fn a_spread_over_the_slices_goes_first_and_predicts_the_rest() {
    let files = stack(9);
    for tier in Tier::ALL {
        let units = encode(&files, tier);
        let headers = headers(&units);
        let data: Vec<&UnitHeader> = headers.iter().filter(|h| h.kind == Kind::Data).collect();
        let order: Vec<u32> = data.iter().map(|header| header.span.file).collect();
        assert_eq!(order, [0, 8, 4, 2, 6, 1, 3, 5, 7]);
        assert!(data[1..].iter().all(|header| !header.refs.is_empty()));
        let alone: usize = files
            .iter()
            .map(|file| encode(std::slice::from_ref(file), tier)[1].as_bytes().len())
            .sum();
        let together: usize = units[1..].iter().map(|unit| unit.as_bytes().len()).sum();
        assert!(together * 2 < alone, "{tier}: {together} against {alone}");
        // The first units give the slices they hold.
        for taken in 1..=units.len() {
            let decoder = decoder_of(&units[..taken]);
            for (turn, file) in order.iter().enumerate() {
                let index = usize::try_from(*file).unwrap();
                assert_eq!(decoder.ready(index), turn + 1 < taken);
            }
        }
    }
}

#[test]
fn units_wait_for_what_they_predict_from() {
    let files = stack(7);
    let units = encode(&files, Tier::Fast);
    let mut decoder = Decoder::new(Limits::default());
    decoder.push(units[0].as_bytes()).unwrap();
    for unit in units[2..].iter().rev() {
        decoder.push(unit.as_bytes()).unwrap();
        assert!((0..7).all(|index| !decoder.ready(index)));
    }
    decoder.push(units[1].as_bytes()).unwrap();
    for (index, (_, bytes)) in files.iter().enumerate() {
        assert_eq!(decoder.file(index).as_ref(), Ok(bytes));
    }
    // What waits counts against the limit.
    let mut decoder = Decoder::new(Limits {
        held_bytes: 64 * 64 * 2 + 10,
        ..Limits::default()
    });
    decoder.push(units[0].as_bytes()).unwrap();
    assert_eq!(
        decoder.push(units[2].as_bytes()),
        Err(DecodeError::OverLimit("bytes held"))
    );
}

#[test]
fn every_layout_of_pixels_is_modelled_or_kept() {
    let noise = Noise(8).bytes(64 * 64 * 3);
    let plain = Slice {
        rows: 64,
        columns: 64,
        ..Slice::small(3)
    };
    // Bits allocated and samples per pixel stand where the helper writes 16 and 1.
    let changed = |from: &[u8], to: &[u8]| {
        let mut file = plain.wrap(&noise);
        let at = file.windows(from.len()).position(|w| w == from).unwrap();
        file[at..at + to.len()].copy_from_slice(to);
        file
    };
    let files = vec![
        (
            "8 bits",
            changed(b"\x28\0\0\x01US\x02\0\x10\0", b"\x28\0\0\x01US\x02\0\x08\0"),
        ),
        (
            "12 bits",
            changed(b"\x28\0\0\x01US\x02\0\x10\0", b"\x28\0\0\x01US\x02\0\x0C\0"),
        ),
        (
            "colour",
            changed(b"\x28\0\x02\0US\x02\0\x01\0", b"\x28\0\x02\0US\x02\0\x03\0"),
        ),
        ("plain", plain.file()),
    ];
    for tier in Tier::ALL {
        let decoder = decoder_of(&encode(&files, tier));
        for (index, (name, bytes)) in files.iter().enumerate() {
            assert_eq!(decoder.file(index).as_ref(), Ok(bytes), "{name}");
        }
    }
}

#[test]
fn units_of_two_groups_do_not_mix() {
    let (one, other) = (mixed_files(), mixed_files()[1..].to_vec());
    let (one, other) = (encode(&one, Tier::Fast), encode(&other, Tier::Fast));
    let mut decoder = decoder_of(&one);
    assert_eq!(
        decoder.push(other[0].as_bytes()),
        Err(DecodeError::OtherGroup)
    );
    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(
        decoder.push(one[1].as_bytes()),
        Err(DecodeError::TableMissing)
    );
}

#[test]
fn the_callers_limits_hold() {
    let files = vec![("a", vec![0; 1 << 20]), ("b", vec![0; 1 << 20])];
    let units = encode(&files, Tier::Fast);
    let mut decoder = Decoder::new(Limits {
        held_bytes: 1 << 20,
        ..Limits::default()
    });
    let pushed: Vec<_> = units
        .iter()
        .map(|unit| decoder.push(unit.as_bytes()))
        .collect();
    assert_eq!(pushed[..3], [Ok(()), Ok(()), Ok(())]);
    assert_eq!(pushed[3], Err(DecodeError::OverLimit("bytes held")));
    assert_eq!(decoder.file(0).as_ref(), Ok(&files[0].1));
    let mut decoder = Decoder::new(Limits {
        table_bytes: 10,
        ..Limits::default()
    });
    assert_eq!(
        decoder.push(units[0].as_bytes()),
        Err(DecodeError::OverLimit("table"))
    );
}

#[test]
fn what_cannot_be_a_group_is_refused() {
    assert_eq!(encode_group(&[], Tier::Fast), Err(EncodeError::Files(0)));
    let long = "x".repeat(1025);
    let source = Source {
        name: &long,
        bytes: b"",
    };
    assert_eq!(
        encode_group(&[source], Tier::Fast),
        Err(EncodeError::Name(0))
    );
    let source = Source {
        name: "",
        bytes: b"",
    };
    assert_eq!(
        encode_group(&[source; 4097], Tier::Fast),
        Err(EncodeError::Files(4097))
    );
}

#[test]
fn a_version_or_method_of_another_time_is_named() {
    let unit = &encode(&mixed_files(), Tier::Fast)[0];
    let with = |at: usize, value: u8| {
        let mut bytes = unit.as_bytes().to_vec();
        bytes[at] = value;
        reseal(&mut bytes);
        UnitHeader::parse(&bytes)
    };
    // Version 1 was never given out.
    assert_eq!(with(4, 1), Err(DecodeError::UnknownVersion(1)));
    assert_eq!(with(4, 3), Err(DecodeError::UnknownVersion(3)));
    assert_eq!(with(6, 9), Err(DecodeError::UnknownMethod(9)));
}

/// Gives forged bytes the digest that makes them look whole.
fn reseal(unit: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&unit[..60]).update(&unit[92..]);
    unit[60..92].copy_from_slice(hasher.finalize().as_bytes());
}

/// Files of all sorts, some of them slices with bytes changed, cut or appended.
fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..2000).boxed();
    let slice = (
        1_u64..9,
        1_u16..40,
        1_u16..40,
        1_u16..3,
        any::<bool>(),
        0..3_usize,
    )
        .prop_map(|(seed, rows, columns, frames, signed, ts)| {
            let transfer_syntax = [common::EXPLICIT, common::IMPLICIT, common::JPEG_LOSSLESS][ts];
            Slice {
                transfer_syntax,
                rows,
                columns,
                frames,
                signed,
                seed,
            }
            .file()
        });
    let changed = (
        slice.clone(),
        any::<prop::sample::Index>(),
        any::<u8>(),
        0..3,
    )
        .prop_map(|(mut file, at, value, how)| {
            let at = at.index(file.len());
            match how {
                0 => file[at] = value,
                1 => file.truncate(at),
                _ => file.push(value),
            }
            file
        });
    prop_oneof![bytes, slice.boxed(), changed.boxed()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_files_come_back(
        files in prop::collection::vec(any_file(), 1..8),
        tier in prop::sample::select(&Tier::ALL[..]),
    ) {
        let files: Vec<_> = files.into_iter().map(|bytes| ("n", bytes)).collect();
        let decoder = decoder_of(&encode(&files, tier));
        for (index, (_, bytes)) in files.iter().enumerate() {
            prop_assert_eq!(&decoder.file(index).unwrap(), bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::new(Limits::default());
        prop_assert!(decoder.push(&bytes).is_err());
        let mut unit = b"CTPU\x01".to_vec();
        unit.extend(bytes);
        prop_assert!(decoder.push(&unit).is_err());
    }

    /// Units forged with a right digest reach all of the decoder. Whatever they say, no file comes
    /// out that is not the one of the table's digest, and memory is bounded.
    #[test]
    fn forged_units_do_no_harm(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..120_usize, any::<u8>()), 1..4),
    ) {
        let files = mixed_files();
        let mut units: Vec<Vec<u8>> =
            encode(&files, Tier::Fast).into_iter().map(Unit::into_bytes).collect();
        for (which, at, value) in changes {
            let unit = which.get_mut(&mut units);
            let at = at.min(unit.len() - 1);
            unit[at] = value;
            reseal(unit);
        }
        let limits = Limits { held_bytes: 1 << 20, ..Limits::default() };
        let mut decoder = Decoder::new(limits);
        for unit in &units {
            let _ = decoder.push(unit);
        }
        for index in 0..files.len() {
            let _ = decoder.units_of(index);
            if let Ok(file) = decoder.file(index) {
                prop_assert_eq!(study::Digest::of(&file), decoder.files().unwrap()[index].digest);
            }
        }
    }

    /// The same, but the forgery is in the table before it is compressed.
    #[test]
    fn forged_tables_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let files = mixed_files();
        let mut units: Vec<Vec<u8>> =
            encode(&files, Tier::Fast).into_iter().map(Unit::into_bytes).collect();
        let raw_bytes = usize::try_from(u32::from_le_bytes(*units[0][48..].first_chunk().unwrap()));
        let mut table = zstd::bulk::decompress(&units[0][92..], raw_bytes.unwrap()).unwrap();
        for (at, value) in changes {
            // Names, plan and digests stand before the inline bytes.
            table[at.index(900)] = value;
        }
        if is_cut {
            table.truncate(cut.index(table.len()));
        }
        let group = *blake3::hash(&table).as_bytes().first_chunk::<16>().unwrap();
        let length = u32::try_from(table.len()).unwrap().to_le_bytes();
        let head = &mut units[0];
        head.truncate(92);
        head[6] = 0;
        head[48..52].copy_from_slice(&length);
        head[52..56].copy_from_slice(&length);
        head.extend(&table);
        let mut decoder = Decoder::new(Limits::default());
        for unit in &mut units {
            unit[8..24].copy_from_slice(&group);
            reseal(unit);
            let _ = decoder.push(unit);
        }
        for index in 0..files.len() {
            let _ = decoder.units_of(index);
            if let Ok(file) = decoder.file(index) {
                prop_assert_eq!(study::Digest::of(&file), decoder.files().unwrap()[index].digest);
            }
        }
    }
}
