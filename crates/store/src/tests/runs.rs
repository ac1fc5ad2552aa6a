use super::*;
use crate::{Damage, FsDisk};

fn hold_run(writer: &Writer, family: &'static str, records: Vec<Record>) -> Held {
    writer.run_blocking(move |work| work.append_run(family, &records))
}

fn three() -> Vec<Record> {
    vec![record(1, 100), record(2, 0), record(3, 250)]
}

#[test]
fn a_run_is_one_place_and_comes_apart_into_its_records() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    hold(&writer, "intake-a", 9, 40).unwrap();
    let run = hold_run(&writer, "intake-a", three()).unwrap().into_inner();
    hold(&writer, "intake-a", 8, 40).unwrap();
    assert_eq!(
        run.bytes,
        three().iter().map(Record::stored_bytes).sum::<u64>()
    );

    let segments = writer.segments();
    let places = segments.split_run(&run).unwrap();
    let read = segments.read_run(&run).unwrap();
    assert_eq!(segments.read_run_from_disk(&run).unwrap(), read);
    assert_eq!(
        read,
        places.iter().cloned().zip(three()).collect::<Vec<_>>()
    );
    for (place, record) in &read {
        assert_eq!(&segments.read(place).unwrap(), record);
    }
}

#[test]
fn a_run_starts_a_segment_rather_than_lie_in_two() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let first = hold(&writer, "packed", 1, 500).unwrap().into_inner();
    let run = hold_run(&writer, "packed", three()).unwrap().into_inner();
    assert_ne!(run.segment, first.segment);
    assert_eq!(run.offset, 0);
    let large: Vec<_> = (0..20).map(|id| record(id, 300)).collect();
    let larger = hold_run(&writer, "packed", large.clone()).unwrap();
    let larger = larger.into_inner();
    assert!(larger.bytes > SEGMENT_BYTES_MAX && larger.offset == 0);
    let after = hold(&writer, "packed", 2, 10).unwrap().into_inner();
    assert_ne!(after.segment, larger.segment);
    let read = writer.segments().read_run(&larger).unwrap();
    assert!(read.into_iter().map(|(_, record)| record).eq(large));
}

#[test]
fn a_run_without_records_is_refused() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let refused = hold_run(&writer, "packed", vec![]);
    assert!(matches!(
        refused,
        Err(WriteError::Job(StoreError::EmptyRun))
    ));
}

#[test]
fn a_run_for_which_there_is_no_room_leaves_nothing() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let before = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    disk.set_free_bytes(Some(400));
    let bytes = three().iter().map(Record::stored_bytes).sum();
    let full = hold_run(&writer, "packed", three());
    assert!(
        matches!(full, Err(WriteError::Job(StoreError::Full { bytes: said, .. })) if said == bytes)
    );
    let left = writer.segments().bytes(&before.segment).unwrap();
    assert_eq!(left, before.bytes);
    disk.set_free_bytes(None);
    let run = hold_run(&writer, "packed", three()).unwrap();
    assert_eq!(run.get().offset, before.bytes);
    assert_eq!(writer.segments().read_run(run.get()).unwrap().len(), 3);
}

#[test]
fn a_run_of_more_parts_than_the_system_writes_at_once_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FsDisk::open(&folder.path().join("segments")).unwrap();
    let segments = Segments::open(Arc::new(disk), &database(folder.path())).unwrap();
    let writer = Writer::spawn(segments, database(folder.path())).unwrap();
    let many: Vec<_> = (0..3000).map(|id| record(id, 30)).collect();
    let run = hold_run(&writer, "packed", many.clone()).unwrap();
    let read = writer.segments().read_run_from_disk(run.get()).unwrap();
    assert!(read.into_iter().map(|(_, record)| record).eq(many));
}

#[test]
fn damage_in_a_run_is_named_where_it_is_and_the_others_can_be_read() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let run = hold_run(&writer, "packed", three()).unwrap().into_inner();
    let segments = writer.segments();
    let places = segments.split_run(&run).unwrap();
    let last = usize::try_from(run.bytes - 1).unwrap();
    disk.rot(run.segment.as_str(), last);
    let refused = segments.read_run(&run);
    assert!(
        matches!(&refused, Err(StoreError::Damaged { location, damage: Damage::Body }) if *location == places[2]),
        "{refused:?}"
    );
    assert_eq!(segments.split_run(&run).unwrap(), places);
    assert_eq!(segments.read(&places[0]).unwrap(), record(1, 100));
}

#[test]
fn a_place_that_is_no_run_is_refused() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let run = hold_run(&writer, "packed", three()).unwrap().into_inner();
    let with = |offset, bytes| Location {
        offset,
        bytes,
        ..run.clone()
    };
    for lie in [
        with(0, 0),
        with(0, u64::MAX),
        with(u64::MAX, 5),
        with(0, run.bytes - 1),
        with(1, run.bytes - 1),
        with(0, run.bytes + 1),
        with(run.bytes, 1),
    ] {
        for refused in [
            writer.segments().read_run(&lie).map(drop),
            writer.segments().split_run(&lie).map(drop),
        ] {
            assert!(
                matches!(refused, Err(StoreError::Damaged { .. })),
                "{lie:?} {refused:?}"
            );
        }
    }
}

#[test]
fn what_rots_on_the_medium_is_seen_by_who_reads_from_there() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let run = hold_run(&writer, "packed", three()).unwrap().into_inner();
    let segments = writer.segments();
    let last = segments.split_run(&run).unwrap().remove(2);
    let rotten = usize::try_from(run.bytes - 1).unwrap();
    disk.rot_medium(run.segment.as_str(), rotten);
    assert_eq!(segments.read_run(&run).unwrap().len(), 3);
    let refused = segments.read_from_disk(&last);
    assert!(
        matches!(
            refused,
            Err(StoreError::Damaged {
                damage: Damage::Body,
                ..
            })
        ),
        "{refused:?}"
    );
    disk.rot_medium(run.segment.as_str(), rotten);
    assert_eq!(segments.read_run_from_disk(&run).unwrap().len(), 3);
}
