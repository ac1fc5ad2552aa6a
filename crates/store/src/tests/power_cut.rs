use super::*;
use crate::testing::Loss;

/// What the writer has said yes to.
#[derive(Default)]
struct Acknowledged {
    held: Vec<i64>,
    removed: bool,
    wiped: bool,
}

const BYTES: usize = 300;

/// The row that leads to a run.
const RUN: i64 = 20;
const SECRET: [u8; 32] = *b"not to be found on the medium...";

fn run() -> Vec<Record> {
    (RUN..RUN + 3).map(|id| record(id, BYTES)).collect()
}

/// Groups of one job and of several records, new segments, a failing job, a full segment, a removal, a run,
/// something wiped.
fn story(disk: &CrashDisk, folder: &Path) -> Acknowledged {
    let mut said = Acknowledged::default();
    let Ok(writer) = writer(disk, folder) else {
        return said;
    };
    for id in 0..4 {
        said.held
            .extend(hold(&writer, "packed", id, BYTES).is_ok().then_some(id));
    }
    let _ = writer.run_blocking(|work| -> Result<(), StoreError> {
        work.append("packed", &record(99, BYTES))?;
        Err(StoreError::WriterPanicked)
    });
    let both = writer.run_blocking(|work| -> Result<(), StoreError> {
        for (id, family) in [(4, "packed"), (5, "intake-a")] {
            let location = work.append(family, &record(id, BYTES))?;
            insert(work.sql(), id, &location)?;
        }
        Ok(())
    });
    said.held
        .extend(both.is_ok().then_some([4, 5]).into_iter().flatten());
    let removed = writer.run_blocking(|work| -> Result<(), StoreError> {
        work.sql()
            .execute("DELETE FROM held WHERE segment = 'packed-00000001'", ())?;
        work.remove_segment_after_commit(&"packed-00000001".parse().unwrap())
    });
    said.removed = removed.is_ok();
    let run = writer.run_blocking(|work| -> Result<Location, StoreError> {
        let run = work.append_run("packed", &run())?;
        insert(work.sql(), RUN, &run)?;
        let secret = Record::new(RecordHeader::default(), SECRET.to_vec())?;
        work.append("keys-a", &secret)
    });
    said.held.extend(run.is_ok().then_some(RUN));
    if let Ok(keys) = run {
        let keys = keys.into_inner().segment;
        let wiped = writer.run_blocking(move |work| work.wipe_segment_after_commit(&keys));
        said.wiped = wiped.is_ok();
    }
    said.held
        .extend(hold(&writer, "intake-a", 6, BYTES).is_ok().then_some(6));
    said
}

fn check(disk: &CrashDisk, folder: &Path, said: &Acknowledged, case: &str) {
    let mut segments = segments(disk, folder).unwrap();
    let rows = rows(folder);
    let expected = |id: &i64| !(0..2).contains(id) || !said.removed;
    for id in said.held.iter().filter(|id| expected(id)) {
        let row = rows.iter().any(|(row, _)| row == id);
        let gone = (0..2).contains(id) && !rows.iter().any(|(row, _)| (0..2).contains(row));
        // A removal that was committed and not answered counts as well.
        assert!(row || gone, "{case}: {id} was acknowledged");
    }
    for (id, location) in &rows {
        let read = match *id {
            RUN => segments.read_run(location).unwrap(),
            _ => vec![(location.clone(), segments.read(location).unwrap())],
        };
        let read: Vec<_> = read.into_iter().map(|(_, record)| record).collect();
        let held = match *id {
            RUN => run(),
            id => vec![record(id, BYTES)],
        };
        assert_eq!(read, held, "{case}: row {id}");
    }
    assert!(
        !said.wiped || !disk.medium_has(&SECRET),
        "{case}: wiped and there"
    );
    let removed = !rows.iter().any(|(id, _)| (0..2).contains(id)) && said.held.contains(&1);
    assert!(
        !removed
            || segments
                .list()
                .iter()
                .all(|name| name.as_str() != "packed-00000001"),
        "{case}: removed"
    );
    for name in segments.list() {
        let known = rows
            .iter()
            .filter(|(_, l)| l.segment == name)
            .map(|(_, l)| l.offset + l.bytes)
            .max()
            .unwrap_or(0);
        let recovered = segments.recover(&name, known).unwrap();
        assert_eq!(recovered.missing_bytes, 0, "{case}");
        for found in recovered.found {
            if name.family() == "keys-a" {
                continue;
            }
            let id = i64::from_le_bytes(found.header.meta.try_into().unwrap());
            assert_eq!(
                segments.read(&found.location).unwrap(),
                record(id, BYTES),
                "{case}: adopted {id}"
            );
        }
        let again = segments.recover(&name, known).unwrap();
        assert_eq!(
            (
                again.truncated_bytes,
                segments.bytes(&name).unwrap() >= known
            ),
            (0, true),
            "{case}"
        );
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let whole = {
        let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
        let said = story(&disk, folder.path());
        assert_eq!(said.held, [0, 1, 2, 3, 4, 5, RUN, 6]);
        assert!(said.removed && said.wiped);
        disk.operations()
    };
    assert!(whole > 20, "{whole} operations");
    let campaign: u64 = std::env::var("CHASQUI_CAMPAIGN")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let torn = (1..=2 * campaign).map(|seed| Loss::Torn { seed });
    let losses: Vec<Loss> = std::iter::once(Loss::Everything).chain(torn).collect();
    let mut acknowledged_under_cuts = 0;
    for cut in 1..=whole {
        for loss in &losses {
            let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
            disk.cut_at(cut);
            let said = story(&disk, folder.path());
            acknowledged_under_cuts += said.held.len();
            disk.power_cycle(*loss);
            let case = format!("cut at operation {cut} of {whole}, {loss:?}");
            check(&disk, folder.path(), &said, &case);
            // Life goes on: what is held now is held as well.
            let held = hold(&writer(&disk, folder.path()).unwrap(), "packed", 50, BYTES)
                .unwrap()
                .into_inner();
            disk.power_cycle(Loss::Everything);
            let after = segments(&disk, folder.path()).unwrap();
            assert_eq!(after.read(&held).unwrap(), record(50, BYTES), "{case}");
        }
    }
    eprintln!(
        "{} cuts x {} losses, {acknowledged_under_cuts} acknowledged",
        whole,
        losses.len()
    );
    assert!(acknowledged_under_cuts > 0);
}

#[test]
fn a_power_cut_between_commit_and_unlink_does_not_bring_a_segment_back() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let here = writer(&disk, folder.path()).unwrap();
    let held = hold(&here, "packed", 1, BYTES).unwrap().into_inner();
    let name = held.segment.clone();
    // Nothing to sync in this job: the unlink is the first operation.
    disk.cut_at(1);
    let removed = here.run_blocking(move |work| work.remove_segment_after_commit(&name));
    assert!(matches!(removed, Err(WriteError::Poisoned)));
    drop(here);
    disk.power_cycle(Loss::Everything);
    assert!(
        disk.operations() > 0
            && crate::Disk::list(&disk)
                .unwrap()
                .contains(&held.segment.to_string())
    );
    assert_eq!(segments(&disk, folder.path()).unwrap().list(), []);
    disk.power_cycle(Loss::Everything);
    assert_eq!(segments(&disk, folder.path()).unwrap().list(), []);
}

#[test]
fn the_test_disk_forgets_what_was_not_synced() {
    use crate::Disk;
    use std::io::IoSlice;
    let disk = CrashDisk::new();
    let kept = disk.create("kept").unwrap();
    disk.create("no-name").unwrap().sync_data().unwrap();
    disk.power_cycle(Loss::Everything);
    assert_eq!(disk.list().unwrap(), [""; 0]);
    assert!(kept.bytes().is_err(), "a handle does not outlive the power");

    let kept = disk.create("kept").unwrap();
    disk.sync_dir().unwrap();
    kept.write_at(&mut [IoSlice::new(b"ab"), IoSlice::new(b"cd")], 0)
        .unwrap();
    kept.sync_data().unwrap();
    kept.write_at(&mut [IoSlice::new(b"efgh")], 4).unwrap();
    disk.remove("kept").unwrap();
    disk.power_cycle(Loss::Everything);
    let kept = disk.open("kept").unwrap();
    assert_eq!(kept.bytes().unwrap(), 4);
    let mut back = [0; 4];
    kept.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"abcd");
}
