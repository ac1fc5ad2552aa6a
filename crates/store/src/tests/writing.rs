use std::sync::mpsc;

use super::*;

#[test]
fn what_is_held_reads_back_equal_in_this_run_and_the_next() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let here = writer(&disk, folder.path()).unwrap();
    let sizes = [0, 1, 200, 5000];
    for (id, bytes) in (0..).zip(sizes) {
        let held = hold(&here, "intake-a", id, bytes).unwrap();
        assert_eq!(here.segments().read(held.get()).unwrap(), record(id, bytes));
    }
    drop(here);
    let again = writer(&disk, folder.path()).unwrap();
    let rows = rows(folder.path());
    assert_eq!(rows.len(), sizes.len());
    for ((id, location), bytes) in rows.iter().zip(sizes) {
        assert_eq!(again.segments().read(location).unwrap(), record(*id, bytes));
    }
}

#[test]
fn a_segment_closes_at_its_limit_and_a_larger_record_gets_its_own() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let held = |family, id, bytes| {
        hold(&writer, family, id, bytes)
            .unwrap()
            .into_inner()
            .segment
            .to_string()
    };
    assert_eq!(held("packed", 1, 500), "packed-00000001");
    assert_eq!(held("packed", 2, 300), "packed-00000001");
    assert_eq!(held("packed", 3, 300), "packed-00000002");
    assert_eq!(held("intake-b", 4, 10), "intake-b-00000003");
    assert_eq!(held("packed", 5, 5000), "packed-00000004");
    assert_eq!(held("packed", 6, 10), "packed-00000005");
    let names: Vec<String> = writer
        .segments()
        .list()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "intake-b-00000003",
            "packed-00000001",
            "packed-00000002",
            "packed-00000004",
            "packed-00000005"
        ]
    );
    assert!(
        writer
            .segments()
            .list()
            .iter()
            .all(|n| writer.segments().bytes(n).unwrap() > 0)
    );
}

#[test]
fn a_segment_of_an_earlier_run_is_never_appended_to() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let first = hold(&writer(&disk, folder.path()).unwrap(), "packed", 1, 10)
        .unwrap()
        .into_inner();
    let second = hold(&writer(&disk, folder.path()).unwrap(), "packed", 2, 10)
        .unwrap()
        .into_inner();
    assert_ne!(first.segment, second.segment);
}

#[test]
fn more_families_than_stay_open_at_once_lose_nothing() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let all = writer.run_blocking(|work| -> Result<Vec<Location>, StoreError> {
        (0..300)
            .map(|id| work.append(&format!("intake-{}", id % 150), &record(id, 20)))
            .collect()
    });
    for (id, location) in (0..).zip(all.unwrap().get()) {
        assert_eq!(writer.segments().read(location).unwrap(), record(id, 20));
    }
}

#[test]
fn names_that_are_no_family_and_headers_too_long_are_refused() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    for bad in ["", "../x", "A", "a b"] {
        let refused = hold(&writer, bad, 1, 10);
        assert!(
            matches!(refused, Err(WriteError::Job(StoreError::Family(_)))),
            "{bad}"
        );
    }
    let header = RecordHeader {
        meta: vec![0; 65_536],
        ..RecordHeader::default()
    };
    assert!(matches!(
        Record::new(header, vec![]),
        Err(StoreError::HeaderTooLong {
            part: "meta",
            bytes: 65_536
        })
    ));
}

#[test]
fn jobs_that_wait_together_share_one_sync() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    hold(&writer, "packed", 0, 10).unwrap();
    let syncs = disk.syncs();

    let (started, has_started) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let first = writer.run(move |_| {
            started.send(()).unwrap();
            may_go_on.recv().map_err(|_| "nobody let it go on")
        });
        let rest = async {
            let jobs = (1..=9).map(|id| {
                let record = record(id, 10);
                writer.run(move |work| -> Result<Location, StoreError> {
                    work.append("packed", &record)
                })
            });
            let mut jobs: Vec<_> = jobs.map(Box::pin).collect();
            // Each is polled once, and with that in the queue, before the first job may end.
            has_started.recv().unwrap();
            for job in &mut jobs {
                assert!(
                    std::future::poll_fn(|cx| std::task::Poll::Ready(job.as_mut().poll(cx)))
                        .await
                        .is_pending()
                );
            }
            go_on.send(()).unwrap();
            for job in jobs {
                job.await.unwrap();
            }
        };
        let (first, ()) = tokio::join!(first, rest);
        first.unwrap();
    });
    // The first job has used up the group's time or not: one group or two.
    assert!(
        (1..=2).contains(&(disk.syncs() - syncs)),
        "{} syncs",
        disk.syncs() - syncs
    );
}

#[test]
fn the_queue_is_finished_when_the_last_writer_is_dropped() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let record = record(7, 10);
        let mut job = Box::pin(writer.run(move |work| -> Result<(), StoreError> {
            let location = work.append("packed", &record)?;
            Ok(insert(work.sql(), 7, &location).map(drop)?)
        }));
        // Queued, and then nobody waits for it.
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(job.as_mut().poll(cx))).await;
    });
    drop(writer);
    assert_eq!(ids(folder.path()), [7]);
}

#[test]
fn readers_read_while_the_writer_appends() {
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::FsDisk::open(&folder.path().join("segments")).unwrap();
    let segments = Segments::open(Arc::new(disk), &database(folder.path())).unwrap();
    let writer = Writer::spawn(segments, database(folder.path())).unwrap();
    let first = hold(&writer, "packed", 0, 40_000).unwrap().into_inner();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    (0..200).all(|_| writer.segments().read(&first).unwrap() == record(0, 40_000))
                })
            })
            .collect();
        for id in 1..40 {
            let held = hold(&writer, "packed", id, 40_000).unwrap();
            assert_eq!(
                writer.segments().read(held.get()).unwrap(),
                record(id, 40_000)
            );
        }
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    });
}

#[test]
fn files_and_folders_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::FsDisk::open(&folder.path().join("segments")).unwrap();
    let segments = Segments::open(Arc::new(disk), &database(folder.path())).unwrap();
    let writer = Writer::spawn(segments, database(folder.path())).unwrap();
    hold(&writer, "packed", 0, 10).unwrap();
    let mode = |path: &str| {
        std::fs::metadata(folder.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("segments"), 0o700);
    for file in [
        "segments/packed-00000001",
        "index.sqlite",
        "index.sqlite-wal",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[test]
fn a_removed_segment_is_gone_with_the_answer_and_its_family_goes_on_elsewhere() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let gone = hold(&writer, "packed", 1, 10).unwrap().into_inner();
    let name = gone.segment.clone();
    let next = record(2, 10);
    let next = writer
        .run_blocking(move |work| -> Result<Location, StoreError> {
            work.sql().execute("DELETE FROM held", ())?;
            work.remove_segment_after_commit(&name)?;
            work.append("packed", &next)
        })
        .unwrap();
    disk.power_cycle(crate::testing::Loss::Everything);
    assert!(matches!(
        writer.segments().read(&gone),
        Err(StoreError::NoSegment(_))
    ));
    drop(writer);
    let again = segments(&disk, folder.path()).unwrap();
    assert_eq!(again.list(), [next.get().segment.clone()]);
    assert_eq!(again.read(next.get()).unwrap(), record(2, 10));
}
