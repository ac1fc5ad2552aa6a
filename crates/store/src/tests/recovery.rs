use super::*;
use crate::{Damage, Recovered, SegmentName};

const BYTES: usize = 60;

/// Three records in one segment, and no row that knows them.
fn three() -> (CrashDisk, tempfile::TempDir, Vec<Location>) {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let locations = writer.run_blocking(|work| -> Result<Vec<Location>, StoreError> {
        (1..=3)
            .map(|id| work.append("packed", &record(id, BYTES)))
            .collect()
    });
    (disk, folder, locations.unwrap().into_inner())
}

fn name() -> SegmentName {
    "packed-00000001".parse().unwrap()
}

fn recover(
    disk: &CrashDisk,
    folder: &tempfile::TempDir,
    known_upto: u64,
) -> Result<Recovered, StoreError> {
    segments(disk, folder.path())
        .unwrap()
        .recover(&name(), known_upto)
}

fn places(recovered: &Recovered) -> Vec<Location> {
    recovered
        .found
        .iter()
        .map(|found| found.location.clone())
        .collect()
}

#[test]
fn whole_records_behind_what_is_known_are_handed_out() {
    let (disk, folder, locations) = three();
    let all = recover(&disk, &folder, 0).unwrap();
    assert_eq!(places(&all), locations);
    assert_eq!(&all.found[1].header, record(2, BYTES).header());
    assert_eq!(&all.found[1].digest, record(2, BYTES).digest());
    assert_eq!(
        (all.truncated_bytes, all.damaged.len(), all.missing_bytes),
        (0, 0, 0)
    );
    assert_eq!(
        places(&recover(&disk, &folder, locations[2].offset).unwrap()),
        locations[2..]
    );
    let end = locations[2].offset + locations[2].bytes;
    assert_eq!(recover(&disk, &folder, end).unwrap(), Recovered::default());
}

#[test]
fn a_segment_cut_off_anywhere_keeps_its_whole_records_and_loses_the_torn_one() {
    let (_, _, locations) = three();
    let end = locations[2].offset + locations[2].bytes;
    for cut in 1..end {
        let (disk, folder, locations) = three();
        disk.alter("packed-00000001", |bytes| {
            bytes.truncate(usize::try_from(cut).unwrap())
        });
        let recovered = recover(&disk, &folder, 0).unwrap();
        let whole = locations
            .iter()
            .filter(|l| l.offset + l.bytes <= cut)
            .count();
        assert_eq!(places(&recovered), locations[..whole], "cut at {cut}");
        let upto = locations[..whole].last().map_or(0, |l| l.offset + l.bytes);
        assert_eq!(recovered.truncated_bytes, cut - upto, "cut at {cut}");
        assert_eq!(recovered.damaged, [], "cut at {cut}");
    }
}

#[test]
fn zeros_at_the_end_are_torn() {
    let (disk, folder, locations) = three();
    disk.alter("packed-00000001", |bytes| {
        bytes.resize(bytes.len() + 500, 0)
    });
    let recovered = recover(&disk, &folder, 0).unwrap();
    assert_eq!(
        (places(&recovered), recovered.truncated_bytes),
        (locations, 500)
    );
}

#[test]
fn a_rotten_bit_anywhere_never_destroys_the_records_behind_it() {
    let (_, _, locations) = three();
    let last = usize::try_from(locations[2].offset).unwrap();
    for offset in 0..last {
        if offset % usize::try_from(locations[1].offset).unwrap() == 4 {
            continue; // The version: next test.
        }
        let (disk, folder, locations) = three();
        disk.rot("packed-00000001", offset);
        let recovered = recover(&disk, &folder, 0).unwrap();
        assert_eq!(recovered.truncated_bytes, 0, "rot at {offset}");
        assert_eq!(recovered.damaged.len(), 1, "rot at {offset}");
        assert!(
            recovered.damaged[0].contains(&(offset as u64)),
            "rot at {offset}"
        );
        let segments = segments(&disk, folder.path()).unwrap();
        assert_eq!(
            segments.read(&locations[2]).unwrap(),
            record(3, BYTES),
            "rot at {offset}"
        );
        let hit = locations
            .iter()
            .position(|l| (l.offset..l.offset + l.bytes).contains(&(offset as u64)))
            .unwrap();
        let refused = segments.read(&locations[hit]);
        assert!(
            matches!(refused, Err(StoreError::Damaged { .. })),
            "rot at {offset}"
        );
    }
}

#[test]
fn a_later_version_is_named_and_left_alone() {
    let (disk, folder, locations) = three();
    let at = usize::try_from(locations[1].offset).unwrap() + 4;
    disk.alter("packed-00000001", |bytes| bytes[at] = 2);
    let refused = recover(&disk, &folder, 0);
    assert!(
        matches!(
            refused,
            Err(StoreError::Damaged {
                damage: Damage::Version(2),
                ..
            })
        ),
        "{refused:?}"
    );
    let segments = segments(&disk, folder.path()).unwrap();
    assert_eq!(
        segments.bytes(&name()).unwrap(),
        locations[2].offset + locations[2].bytes
    );
    let refused = segments.read(&locations[1]);
    assert!(
        matches!(
            refused,
            Err(StoreError::Damaged {
                damage: Damage::Version(2),
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_record_inside_a_torn_body_is_not_taken_for_one() {
    let (disk, folder, locations) = three();
    let inner = std::cell::RefCell::new(Vec::new());
    disk.alter("packed-00000001", |bytes| {
        *inner.borrow_mut() = bytes.clone()
    });
    let outer = Record::new(RecordHeader::default(), inner.take()).unwrap();
    let here = writer(&disk, folder.path()).unwrap();
    let held = here
        .run_blocking(move |work| work.append("hostile", &outer))
        .unwrap()
        .into_inner();
    drop(here);
    disk.alter(held.segment.as_str(), |bytes| {
        bytes.truncate(bytes.len() - 1)
    });
    let mut segments = segments(&disk, folder.path()).unwrap();
    let recovered = segments.recover(&held.segment, 0).unwrap();
    assert_eq!(
        (recovered.found, recovered.truncated_bytes),
        (vec![], held.bytes - 1)
    );
    assert_eq!(segments.list().len(), 2);
    assert_eq!(segments.read(&locations[0]).unwrap(), record(1, BYTES));
}

#[test]
fn bytes_that_the_index_knows_and_the_disk_does_not_have_are_counted() {
    let (disk, folder, locations) = three();
    let end = locations[2].offset + locations[2].bytes;
    disk.alter("packed-00000001", |bytes| bytes.truncate(100));
    let recovered = recover(&disk, &folder, end).unwrap();
    assert_eq!(
        recovered,
        Recovered {
            missing_bytes: end - 100,
            ..Recovered::default()
        }
    );
}

#[test]
fn a_place_that_lies_is_refused_without_reading_what_is_not_there() {
    let (disk, folder, locations) = three();
    let segments = segments(&disk, folder.path()).unwrap();
    let read = |offset, bytes| {
        segments.read(&Location {
            segment: name(),
            offset,
            bytes,
        })
    };
    for (offset, bytes) in [
        (0, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (0, 1 << 62),
        (1 << 62, 10),
        (0, 0),
        (0, 10),
    ] {
        let refused = read(offset, bytes);
        assert!(
            matches!(
                refused,
                Err(StoreError::Damaged {
                    damage: Damage::Short,
                    ..
                })
            ),
            "{offset} {bytes} {refused:?}"
        );
    }
    let refused = read(1, locations[0].bytes);
    assert!(
        matches!(
            refused,
            Err(StoreError::Damaged {
                damage: Damage::NoRecord,
                ..
            })
        ),
        "{refused:?}"
    );
    let refused = read(0, locations[0].bytes + 1);
    assert!(
        matches!(
            refused,
            Err(StoreError::Damaged {
                damage: Damage::Length,
                ..
            })
        ),
        "{refused:?}"
    );
    let nowhere = Location {
        segment: "packed-00000009".parse().unwrap(),
        offset: 0,
        bytes: 10,
    };
    assert!(matches!(
        segments.read(&nowhere),
        Err(StoreError::NoSegment(_))
    ));
}

#[test]
fn version_1_is_read_for_ever() {
    let stored: Vec<u8> = [
        b"CHQR\x01\x07\x09".as_slice(),
        &[2, 0, 3, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        blake3::hash(b"hello").as_bytes(),
        b"enmta",
        &[0x9c, 0x6a, 0x19, 0x1b],
        b"hello",
    ]
    .concat();
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    hold(&writer(&disk, folder.path()).unwrap(), "packed", 1, 1).unwrap();
    disk.alter("packed-00000001", |bytes| bytes.clone_from(&stored));
    let recovered = recover(&disk, &folder, 0).unwrap();
    let header = RecordHeader {
        kind: RecordKind(7),
        flags: 9,
        envelope: b"en".to_vec(),
        meta: b"mta".to_vec(),
    };
    let read = segments(&disk, folder.path())
        .unwrap()
        .read(&recovered.found[0].location)
        .unwrap();
    assert_eq!((read.header(), read.body()), (&header, b"hello".as_slice()));
}

#[test]
fn files_with_other_names_are_left_alone_and_empty_segments_are_removed() {
    use crate::Disk;
    let (disk, folder, _) = three();
    for name in ["lost+found", "packed-7", "intake-a-00000004"] {
        disk.create(name).unwrap();
    }
    assert_eq!(segments(&disk, folder.path()).unwrap().list(), [name()]);
    assert_eq!(
        disk.list().unwrap(),
        ["lost+found", "packed-00000001", "packed-7"]
    );
}
