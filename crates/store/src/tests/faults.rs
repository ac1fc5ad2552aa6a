use super::*;

fn fail_after_append(writer: &Writer, family: &'static str, id: i64, bytes: usize) -> Location {
    let record = record(id, bytes);
    let failed = writer.run_blocking(move |work| -> Result<(), Location> {
        let location = work.append(family, &record).unwrap();
        insert(work.sql(), id, &location).unwrap();
        Err(location)
    });
    match failed {
        Err(WriteError::Job(location)) => location,
        Ok(_) | Err(WriteError::Poisoned) => panic!("the job's own error has to come back"),
    }
}

#[test]
fn a_job_that_fails_leaves_neither_rows_nor_bytes() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let before = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    let failed = fail_after_append(&writer, "packed", 2, 100);
    assert_eq!(
        writer.segments().bytes(&before.segment).unwrap(),
        before.bytes
    );
    let after = hold(&writer, "packed", 3, 60).unwrap().into_inner();
    assert_eq!(
        (after.segment.clone(), after.offset),
        (failed.segment, failed.offset)
    );
    assert_eq!(ids(folder.path()), [1, 3]);
    assert_eq!(writer.segments().read(&before).unwrap(), record(1, 100));
    assert_eq!(writer.segments().read(&after).unwrap(), record(3, 60));
}

#[test]
fn a_job_that_fails_over_several_segments_leaves_nothing_in_any() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let before = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    let failed = writer.run_blocking(|work| -> Result<(), &str> {
        for id in 0..10 {
            work.append("packed", &record(id, 300)).unwrap();
            work.append("intake-x", &record(id, 300)).unwrap();
        }
        Err("no")
    });
    assert!(matches!(failed, Err(WriteError::Job("no"))));
    let all = writer.segments();
    let left: u64 = all.list().iter().map(|name| all.bytes(name).unwrap()).sum();
    assert_eq!(left, before.bytes);
    assert_eq!(all.read(&before).unwrap(), record(1, 100));
    let after = hold(&writer, "packed", 2, 100).unwrap();
    assert_eq!(writer.segments().read(after.get()).unwrap(), record(2, 100));
}

#[test]
fn a_removal_in_a_job_that_fails_removes_nothing() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let held = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    let name = held.segment.clone();
    let failed = writer.run_blocking(move |work| -> Result<(), &str> {
        work.remove_segment_after_commit(&name).unwrap();
        Err("no")
    });
    assert!(matches!(failed, Err(WriteError::Job("no"))));
    hold(&writer, "packed", 2, 100).unwrap();
    assert_eq!(writer.segments().read(&held).unwrap(), record(1, 100));
    drop(writer);
    assert_eq!(
        segments(&disk, folder.path()).unwrap().read(&held).unwrap(),
        record(1, 100)
    );
}

#[test]
fn a_full_disk_fails_the_job_that_needs_room_and_no_other() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let before = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    disk.set_free_bytes(Some(400));
    let full = hold(&writer, "packed", 2, 500);
    assert!(
        matches!(
            full,
            Err(WriteError::Job(StoreError::Full { bytes: 568, .. }))
        ),
        "{full:?}"
    );
    assert_eq!(
        writer.segments().bytes(&before.segment).unwrap(),
        before.bytes,
        "the torn end has to go"
    );
    let small = hold(&writer, "packed", 3, 100).unwrap().into_inner();
    assert_eq!(
        (small.segment.clone(), small.offset),
        (before.segment.clone(), before.bytes)
    );
    disk.set_free_bytes(None);
    let large = hold(&writer, "packed", 2, 500).unwrap();
    for (id, location, bytes) in [(1, &before, 100), (3, &small, 100), (2, large.get(), 500)] {
        assert_eq!(writer.segments().read(location).unwrap(), record(id, bytes));
    }
    assert_eq!(ids(folder.path()), [1, 2, 3]);
}

#[test]
fn an_append_that_fails_may_be_survived_within_its_job() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    disk.set_free_bytes(Some(400));
    let held = writer.run_blocking(|work| -> Result<Location, StoreError> {
        assert!(matches!(
            work.append("packed", &record(1, 5000)),
            Err(StoreError::Full { .. })
        ));
        work.append("packed", &record(2, 100))
    });
    disk.power_cycle(crate::testing::Loss::Everything);
    let again = segments(&disk, folder.path()).unwrap();
    assert_eq!(again.read(held.unwrap().get()).unwrap(), record(2, 100));
}

#[test]
fn a_failed_sync_poisons_for_good_and_nothing_of_it_is_believed_later() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let here = writer(&disk, folder.path()).unwrap();
    let before = hold(&here, "packed", 1, 100).unwrap().into_inner();
    disk.fail_next_sync();
    assert!(matches!(
        hold(&here, "packed", 2, 100),
        Err(WriteError::Poisoned)
    ));
    // The next sync would go well, and prove nothing.
    assert!(matches!(
        hold(&here, "packed", 3, 100),
        Err(WriteError::Poisoned)
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let fault = runtime.block_on(here.poisoned());
    assert_eq!(fault.to_string(), "cannot sync packed-00000001");
    assert_eq!(
        here.segments().read(&before).unwrap(),
        record(1, 100),
        "reading goes on"
    );
    drop(here);

    assert_eq!(ids(folder.path()), [1]);
    let mut again = segments(&disk, folder.path()).unwrap();
    let recovered = again.recover(&before.segment, before.bytes).unwrap();
    assert_eq!(
        recovered.found,
        [],
        "what the kernel still shows is not on the disk"
    );
    assert_eq!(again.read(&before).unwrap(), record(1, 100));
}

#[test]
fn a_commit_that_fails_poisons() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let held = writer.run_blocking(|work| -> Result<(), rusqlite::Error> {
        // A deferred constraint is checked by COMMIT.
        work.sql().execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY);
             CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO b VALUES (1);",
        )
    });
    assert!(matches!(held, Err(WriteError::Poisoned)));
    assert!(matches!(
        hold(&writer, "packed", 1, 10),
        Err(WriteError::Poisoned)
    ));
    drop(writer);
    assert_eq!(ids(folder.path()), [0_i64; 0]);
}

#[test]
fn a_job_that_panics_poisons_and_does_not_hang_the_others() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let panicked = writer.run_blocking(|_| -> Result<(), ()> { panic!("on purpose") });
    assert!(matches!(panicked, Err(WriteError::Poisoned)));
    assert!(matches!(
        hold(&writer, "packed", 1, 10),
        Err(WriteError::Poisoned)
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(matches!(
        *runtime.block_on(writer.poisoned()),
        StoreError::WriterPanicked
    ));
}

#[test]
fn a_job_whose_own_sync_failed_poisons_even_if_it_is_undone() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let here = writer(&disk, folder.path()).unwrap();
    hold(&here, "packed", 1, 100).unwrap();
    disk.fail_next_sync();
    let tried = here.run_blocking(|work| -> Result<(), StoreError> {
        work.append("packed", &record(2, 100))?;
        work.sync_so_far()
    });
    assert!(tried.is_err());
    assert!(matches!(
        hold(&here, "packed", 3, 100),
        Err(WriteError::Poisoned)
    ));
    drop(here);
    assert_eq!(ids(folder.path()), [1]);
}
