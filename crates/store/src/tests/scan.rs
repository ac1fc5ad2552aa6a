use super::*;
use crate::{Damage, Scanned, SegmentName};

const BYTES: usize = 60;

/// Five records in one segment.
fn five() -> (CrashDisk, tempfile::TempDir, Vec<Location>) {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let run = writer.run_blocking(|work| {
        let records: Vec<_> = (1..=5).map(|id| record(id, BYTES)).collect();
        work.append_run("packed", &records)
    });
    let places = writer.segments().split_run(run.unwrap().get()).unwrap();
    (disk, folder, places)
}

fn name() -> SegmentName {
    "packed-00000001".parse().unwrap()
}

fn scan(disk: &CrashDisk, folder: &tempfile::TempDir) -> Vec<Scanned> {
    let segments = segments(disk, folder.path()).unwrap();
    let before = segments.bytes(&name()).unwrap();
    let scanned = segments
        .scan(&name())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        segments.bytes(&name()).unwrap(),
        before,
        "nothing is truncated"
    );
    scanned
}

fn whole(scanned: &[Scanned]) -> Vec<Location> {
    let location = |scanned: &Scanned| match scanned {
        Scanned::Whole(found) => Some(found.location.clone()),
        Scanned::Damaged { .. } => None,
    };
    scanned.iter().filter_map(location).collect()
}

fn damaged(scanned: &[Scanned]) -> Vec<(std::ops::Range<u64>, Damage)> {
    let damage = |scanned: &Scanned| match scanned {
        Scanned::Whole(_) => None,
        Scanned::Damaged { range, damage, .. } => Some((range.clone(), *damage)),
    };
    scanned.iter().filter_map(damage).collect()
}

/// Without a gap, and nothing twice.
fn covers_all(scanned: &[Scanned], end: u64) {
    let mut at = 0;
    for scanned in scanned {
        let range = match scanned {
            Scanned::Whole(found) => {
                found.location.offset..found.location.offset + found.location.bytes
            }
            Scanned::Damaged { range, .. } => range.clone(),
        };
        assert_eq!(range.start, at);
        at = range.end;
    }
    assert_eq!(at, end);
}

#[test]
fn a_whole_segment_gives_every_record_in_order() {
    let (disk, folder, places) = five();
    let scanned = scan(&disk, &folder);
    assert_eq!(whole(&scanned), places);
    assert_eq!(scanned.len(), 5);
    let Scanned::Whole(second) = &scanned[1] else {
        panic!("{:?}", scanned[1]);
    };
    assert_eq!(&second.header, record(2, BYTES).header());
    assert_eq!(&second.digest, record(2, BYTES).digest());
}

#[test]
fn a_rotten_bit_anywhere_costs_its_record_and_no_other() {
    let (_, _, places) = five();
    let end = places[4].offset + places[4].bytes;
    for offset in 0..end {
        let (disk, folder, places) = five();
        disk.rot("packed-00000001", usize::try_from(offset).unwrap());
        let scanned = scan(&disk, &folder);
        covers_all(&scanned, end);
        let hit = |l: &&Location| (l.offset..l.offset + l.bytes).contains(&offset);
        let lost = places.iter().find(hit).unwrap();
        let rest: Vec<_> = places.iter().filter(|l| *l != lost).cloned().collect();
        assert_eq!(whole(&scanned), rest, "rot at {offset}");
        let range = lost.offset..lost.offset + lost.bytes;
        assert_eq!(damaged(&scanned)[0].0, range, "rot at {offset}");
    }
}

#[test]
fn several_damaged_places_are_each_named_with_what_is_wrong() {
    let (disk, folder, places) = five();
    let at = |place: usize, byte: u64| usize::try_from(places[place].offset + byte).unwrap();
    disk.alter("packed-00000001", |bytes| {
        bytes[at(0, 4)] = 9;
        bytes[at(2, 30)] ^= 1;
        bytes[at(3, places[3].bytes - 1)] ^= 1;
        bytes.truncate(at(4, 100));
    });
    let range = |place: usize| places[place].offset..places[place].offset + places[place].bytes;
    assert_eq!(
        damaged(&scan(&disk, &folder)),
        [
            (range(0), Damage::Version(9)),
            (range(2), Damage::Header),
            (range(3), Damage::Body),
            (places[4].offset..places[4].offset + 100, Damage::Short),
        ]
    );
}

#[test]
fn a_page_that_cannot_be_read_costs_the_records_in_it() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let records: Vec<_> = (0..40).map(|id| record(id, 1500)).collect();
    let run = writer
        .run_blocking(move |work| work.append_run("packed", &records))
        .unwrap();
    let places = writer.segments().split_run(run.get()).unwrap();
    disk.make_unreadable("packed-00000001", 3);
    disk.make_unreadable("packed-00000001", 7);
    let scanned = scan(&disk, &folder);
    covers_all(&scanned, run.get().bytes);
    let untouched = |l: &&Location| {
        [3, 7]
            .iter()
            .all(|page| l.offset + l.bytes <= page * 4096 || (page + 1) * 4096 <= l.offset)
    };
    let untouched: Vec<_> = places.iter().filter(untouched).cloned().collect();
    assert!(untouched.len() < 40);
    assert_eq!(whole(&scanned), untouched);
    let wrong = |(_, damage): &(_, Damage)| *damage == Damage::Unreadable;
    assert!(damaged(&scanned).iter().any(wrong));
}

#[test]
fn a_record_inside_a_damaged_body_is_not_handed_out() {
    let (disk, folder, _) = five();
    let inner = std::cell::RefCell::new(Vec::new());
    disk.alter("packed-00000001", |bytes| {
        *inner.borrow_mut() = bytes.clone()
    });
    let outer = Record::new(RecordHeader::default(), inner.take()).unwrap();
    let writer = writer(&disk, folder.path()).unwrap();
    let held = writer
        .run_blocking(move |work| work.append("hostile", &outer))
        .unwrap()
        .into_inner();
    for cut in [0, 1] {
        disk.alter(held.segment.as_str(), |bytes| {
            *bytes.last_mut().unwrap() ^= 1;
            bytes.truncate(bytes.len() - cut);
        });
        let mut scan = writer.segments().scan(&held.segment).unwrap();
        let Some(Ok(Scanned::Damaged { range, .. })) = scan.next() else {
            panic!("cut by {cut}: it is whole");
        };
        assert_eq!(range.start, 0);
        assert!(scan.next().is_none());
    }
}

#[test]
fn a_scan_sees_the_medium_and_not_what_the_kernel_remembers() {
    let (disk, folder, places) = five();
    disk.rot_medium("packed-00000001", 100);
    let segments = segments(&disk, folder.path()).unwrap();
    assert_eq!(segments.read(&places[0]).unwrap(), record(1, BYTES));
    assert_eq!(whole(&scan(&disk, &folder)), places[1..]);
}
