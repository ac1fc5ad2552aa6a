use super::*;
use crate::Readers;
use crate::testing::Loss;

const SECRET: [u8; 32] = *b"the key to somebody's images....";

fn hold_secret(writer: &Writer) -> Location {
    let secret = Record::new(RecordHeader::default(), SECRET.to_vec()).unwrap();
    let held = writer.run_blocking(move |work| work.append("keys-a", &secret));
    held.unwrap().into_inner()
}

#[test]
fn a_wiped_segment_is_gone_from_the_medium_and_a_removed_one_is_not() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let held = hold_secret(&writer);
    let kept = hold(&writer, "packed", 1, 100).unwrap().into_inner();
    assert!(disk.medium_has(&SECRET));
    let removed = held.segment.clone();
    writer
        .run_blocking(move |work| work.remove_segment_after_commit(&removed))
        .unwrap();
    assert!(disk.medium_has(&SECRET), "the test disk sees what is left");

    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = self::writer(&disk, folder.path()).unwrap();
    let held = hold_secret(&writer);
    let wiped = held.segment.clone();
    writer
        .run_blocking(move |work| work.wipe_segment_after_commit(&wiped))
        .unwrap();
    assert!(!disk.medium_has(&SECRET));
    assert!(matches!(
        writer.segments().read(&held),
        Err(StoreError::NoSegment(_))
    ));
    drop(kept);
}

#[test]
fn who_is_asked_to_wipe_and_to_remove_wipes() {
    for wipe_first in [true, false] {
        let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
        let writer = writer(&disk, folder.path()).unwrap();
        let segment = hold_secret(&writer).segment;
        writer
            .run_blocking(move |work| {
                if wipe_first {
                    work.wipe_segment_after_commit(&segment)?;
                    work.remove_segment_after_commit(&segment)
                } else {
                    work.remove_segment_after_commit(&segment)?;
                    work.wipe_segment_after_commit(&segment)
                }
            })
            .unwrap();
        assert!(!disk.medium_has(&SECRET), "wipe first: {wipe_first}");
    }
}

#[test]
fn a_wipe_that_a_power_cut_interrupts_is_finished_at_the_next_start() {
    // Overwriting, its sync, the unlink, the folder's sync.
    for cut in 1..=4 {
        for loss in [Loss::Everything, Loss::Torn { seed: cut }] {
            let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
            let here = writer(&disk, folder.path()).unwrap();
            let segment = hold_secret(&here).segment;
            disk.cut_at(cut);
            let wiped = here.run_blocking(move |work| work.wipe_segment_after_commit(&segment));
            assert!(matches!(wiped, Err(WriteError::Poisoned)), "cut at {cut}");
            drop(here);
            disk.power_cycle(loss);
            let case = format!("cut at {cut}, {loss:?}");
            assert_eq!(segments(&disk, folder.path()).unwrap().list(), [], "{case}");
            assert!(!disk.medium_has(&SECRET), "{case}");
            disk.power_cycle(Loss::Everything);
            assert_eq!(segments(&disk, folder.path()).unwrap().list(), [], "{case}");
        }
    }
}

/// All bytes of the index's files.
fn index_has(folder: &Path, bytes: &[u8]) -> bool {
    ["index.sqlite", "index.sqlite-wal"].iter().any(|name| {
        let file = std::fs::read(folder.join(name)).unwrap();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

fn put_row(writer: &Writer, meta: Vec<u8>) {
    writer
        .run_blocking(move |work| {
            work.sql()
                .execute("INSERT INTO held (id, meta) VALUES (1, ?1)", (meta,))
        })
        .unwrap();
}

fn delete_rows(writer: &Writer) {
    writer
        .run_blocking(|work| work.sql().execute("DELETE FROM held", ()))
        .unwrap();
}

#[test]
fn a_deleted_row_is_in_no_file_of_the_index_once_its_log_is_emptied() {
    // One row that fits in a page, and one that fills many.
    for padding in [0, 50_000] {
        let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
        let writer = writer(&disk, folder.path()).unwrap();
        let meta = [vec![7; padding], SECRET.to_vec()].concat();
        put_row(&writer, meta);
        writer.truncate_log_blocking().unwrap();
        delete_rows(&writer);
        assert!(index_has(folder.path(), &SECRET), "not emptied yet");
        writer.truncate_log_blocking().unwrap();
        assert!(!index_has(folder.path(), &SECRET));
        let log = folder.path().join("index.sqlite-wal");
        assert_eq!(log.metadata().unwrap().len(), 0);
    }
}

#[test]
fn a_reader_in_the_way_is_said_and_the_log_is_emptied_once_it_is_gone() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let readers = Readers::open(&folder.path().join("index.sqlite")).unwrap();
    put_row(&writer, SECRET.to_vec());
    let seen = readers.with(|sql| {
        sql.query_row("SELECT count(*) FROM held", (), |row| row.get::<_, i64>(0))?;
        delete_rows(&writer);
        let busy = writer.truncate_log_blocking();
        assert!(
            matches!(busy, Err(WriteError::Job(StoreError::LogInUse))),
            "{busy:?}"
        );
        hold(&writer, "packed", 2, 10).unwrap();
        sql.query_row("SELECT meta FROM held", (), |row| row.get::<_, Vec<u8>>(0))
    });
    assert_eq!(seen.unwrap(), SECRET, "the reader keeps its moment");
    writer.truncate_log_blocking().unwrap();
    assert!(!index_has(folder.path(), &SECRET));
    assert_eq!(ids(folder.path()), [2]);
}

#[test]
fn the_log_is_emptied_between_groups_and_every_job_is_answered() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut waiting = tokio::task::JoinSet::new();
        let local = tokio::task::LocalSet::new();
        for id in 0..60 {
            let writer = writer.clone();
            waiting.spawn_local_on(
                async move {
                    let record = record(id, 10);
                    let held = writer.run(move |work| -> Result<(), StoreError> {
                        let location = work.append("packed", &record)?;
                        Ok(insert(work.sql(), id, &location).map(drop)?)
                    });
                    held.await.unwrap();
                    if id % 10 == 0 {
                        writer.truncate_log().await.unwrap();
                    }
                },
                &local,
            );
        }
        local
            .run_until(async {
                while waiting.join_next().await.is_some_and(|done| done.is_ok()) {}
            })
            .await;
        assert!(waiting.is_empty());
    });
    drop(writer);
    assert_eq!(ids(folder.path()), (0..60).collect::<Vec<_>>());
}
