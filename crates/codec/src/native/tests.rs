//! Native forms of files that others made, and of files that nobody would.

use proptest::prelude::*;

use super::*;

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/codec");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn files_of_common_writers_have_a_native_form() {
    let files = fixtures();
    assert_eq!(files.len(), 7);
    for (name, file) in files {
        let native = Native::of(&file).unwrap_or_else(|| panic!("{name} has none"));
        assert_eq!(rebuild(&native.bytes, file.len() as u64), Some(file));
        let frames = if name.contains("frames") { 3 } else { 1 };
        let bytes = if name.contains("8-bits") { 1 } else { 2 };
        assert_eq!(
            native.pixels.range.len(),
            48 * 40 * bytes * frames,
            "{name}"
        );
        assert_eq!(native.pixels.many_frames, frames > 1, "{name}");
        // Air above the disc: the pixels are what they seem to be.
        let first = &native.bytes[native.pixels.range.start..][..2];
        let air = match (bytes, name.contains("signed")) {
            (1, _) => [3, 3],
            (_, true) => (-1000_i16).to_le_bytes(),
            (_, false) => 24_i16.to_le_bytes(),
        };
        assert_eq!(first, air, "{name}");
    }
}

#[test]
fn a_file_gets_no_longer_than_it_may() {
    let (_, file) = fixtures().remove(0);
    let native = Native::of(&file).unwrap().bytes;
    assert_eq!(rebuild(&native, file.len() as u64 - 1), None);
    assert_eq!(rebuild(&native, GROWTH * native.len() as u64 + 1), None);
    // A recipe of ever the same step comes to an end.
    let mut bomb = 64_u64.to_le_bytes().to_vec();
    bomb.extend([0; 64]);
    for _ in 0..10_000 {
        bomb.extend([RLE, 0, 0, 0, 0, 0, 8, 0, 8, 0, 1]);
    }
    assert_eq!(rebuild(&bomb, 5_000), None);
    assert!(rebuild(&bomb, 160_000).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_files_and_forms_do_no_harm(
        which in 0..7_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let (_, file) = fixtures().remove(which);
        let native = Native::of(&file).unwrap().bytes;
        let change = |mut bytes: Vec<u8>| {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        let changed = change(file.clone());
        if let Some(native) = Native::of(&changed) {
            prop_assert_eq!(rebuild(&native.bytes, changed.len() as u64), Some(changed));
        }
        if let Some(made) = rebuild(&change(native), file.len() as u64) {
            prop_assert!(made.len() <= file.len());
        }
    }
}
