//! Attacks on a box's folder: what is there afterwards is said, and nothing acknowledged is lost.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kit::phantom::{Instance, Phantom};
use kit::process::Role;
use kit::wait::until;
use kit::world::words;
use tempfile::TempDir;

use crate::lone::{Lone, renamed};
use crate::programs;
use crate::small_disk::SmallDisk;

const SETTINGS: [(&str, &str); 3] = [
    ("AGENT__PACK__BATCH_INSTANCES", "2"),
    ("AGENT__PACK__BATCH_DELAY", "100ms"),
    ("AGENT__INTAKE__QUIET_PERIOD", "1s"),
];

/// A box that has taken in these, and does not run any more.
fn filled(count: usize) -> (TempDir, Lone, Vec<Instance>) {
    let place = tempfile::tempdir().unwrap();
    let mut unit = Lone::new(programs(), place.path(), place.path(), &SETTINGS);
    unit.start().unwrap();
    let first = Phantom::small(77).slice(5);
    let sop = first.sop.as_str().to_owned();
    let sent: Vec<_> = (0..count)
        .map(|n| renamed(&first, &[(&sop, &format!("{n:02}"))]))
        .collect();
    let sending = unit.modality().send(&sent);
    sending.complete(count).unwrap();
    unit.stop();
    (place, unit, sent)
}

fn index(unit: &Lone, part: &str) -> PathBuf {
    unit.folder().join(format!("index.sqlite{part}"))
}

fn segments(unit: &Lone) -> Vec<PathBuf> {
    let entries = fs::read_dir(unit.folder().join("segments")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn rebuild(unit: &Lone) {
    let done = unit.command(words(["scrub", "--rebuild", "--json"], []));
    done.success().unwrap();
}

fn scrubs_clean(unit: &Lone) {
    unit.command(words(["scrub"], [])).success().unwrap();
}

/// A copy of a segment under the same family and a free number.
fn twin(path: &Path, number: u32) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let (family, _) = name.rsplit_once('-').unwrap();
    path.with_file_name(format!("{family}-{number:08}"))
}

#[test]
fn an_index_that_is_emptied_or_overwritten_is_never_taken_for_a_new_box() {
    let (_place, mut unit, sent) = filled(6);
    for wreck in [Vec::new(), vec![0x5a; 8192], vec![0; 100_000]] {
        for part in ["", "-wal", "-shm"] {
            fs::write(index(&unit, part), &wreck).unwrap();
        }
        assert!(unit.start().is_err(), "{} bytes", wreck.len());
        rebuild(&unit);
        unit.has_exactly(&sent);
        scrubs_clean(&unit);
    }
}

#[test]
fn garbage_in_the_place_of_the_log_costs_nothing() {
    let (_place, mut unit, mut sent) = filled(6);
    unit.start().unwrap();
    let sop = sent[0].sop.as_str().to_owned();
    let late = renamed(&sent[0], &[(&sop, "77")]);
    unit.modality()
        .send(std::slice::from_ref(&late))
        .complete(1)
        .unwrap();
    sent.push(late);
    unit.kill();
    let log = index(&unit, "-wal");
    let bytes = fs::metadata(&log).unwrap().len();
    fs::write(&log, vec![0x5a; usize::try_from(bytes).unwrap()]).unwrap();
    unit.start().unwrap();
    unit.has_exactly(&sent);
    unit.stop();
    scrubs_clean(&unit);
}

#[test]
fn a_rebuild_that_is_killed_is_made_again_and_finds_all() {
    let (_place, mut unit, sent) = filled(12);
    for pause in [0, 2, 5, 10, 20, 40, 80, 160] {
        let mut command = programs().command(Role::Agent);
        command
            .args(["scrub", "--rebuild", "--data"])
            .arg(unit.folder());
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {}
        child.kill().unwrap();
        child.wait().unwrap();
        // Whole, or refused; never a box that knows of less.
        if unit.start().is_ok() {
            unit.has_exactly(&sent);
            unit.kill();
        }
    }
    rebuild(&unit);
    unit.has_exactly(&sent);
    scrubs_clean(&unit);
}

#[test]
fn segments_twice_under_other_names_and_foreign_files_change_nothing() {
    let (_place, mut unit, sent) = filled(6);
    let folder = unit.folder().join("segments");
    for (number, path) in (900..).zip(segments(&unit)) {
        fs::copy(&path, twin(&path, number)).unwrap();
    }
    fs::write(folder.join("notes.txt"), "not ours").unwrap();
    fs::create_dir(folder.join("lost+found")).unwrap();
    unit.start().unwrap();
    unit.has_exactly(&sent);
    unit.stop();
    rebuild(&unit);
    unit.has_exactly(&sent);
    unit.start().unwrap();
    let status = unit.status();
    assert_eq!(status["studies"][0]["instances"], sent.len(), "{status}");
    unit.stop();
    assert!(folder.join("notes.txt").exists());
}

#[test]
fn a_folder_named_like_a_segment_does_not_stop_the_box() {
    let (_place, mut unit, sent) = filled(2);
    fs::create_dir(unit.folder().join("segments/backup-00000001")).unwrap();
    unit.start().unwrap();
    unit.has_exactly(&sent);
    unit.stop();
}

#[test]
fn segments_that_are_exchanged_are_alarms_and_come_back() {
    let (_place, unit, sent) = filled(6);
    let all = segments(&unit);
    let family = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let of = |kind: &str| {
        all.iter()
            .filter(|path| family(path).starts_with(kind))
            .cloned()
            .collect::<Vec<_>>()
    };
    let (Some(data), Some(papers)) = (
        of("packed").into_iter().chain(of("intake")).next(),
        of("journal").into_iter().next(),
    ) else {
        panic!("{all:?}")
    };
    let aside = data.with_file_name("aside");
    let exchange = || {
        fs::rename(&data, &aside).unwrap();
        fs::rename(&papers, &data).unwrap();
        fs::rename(&aside, &papers).unwrap();
    };
    exchange();
    unit.command(words(["scrub"], [])).failure(1).unwrap();
    let get = unit.look_at(&sent);
    assert!(get.is_err(), "nothing else is given out instead");
    exchange();
    unit.command(words(["scrub"], [])).success().unwrap();
    unit.has_exactly(&sent);
}

#[test]
fn a_box_that_is_started_often_neither_leaks_nor_slows_down() {
    let (_place, mut unit, sent) = filled(4);
    let before = segments(&unit).len();
    let mut times = Vec::new();
    for _ in 0..40 {
        let since = Instant::now();
        unit.start().unwrap();
        times.push(since.elapsed());
        unit.kill();
    }
    assert!(segments(&unit).len() <= before + 2, "{:?}", segments(&unit));
    assert!(
        times[39] < times[0] * 5 + Duration::from_secs(1),
        "{times:?}"
    );
    unit.has_exactly(&sent);
}

#[test]
fn a_box_that_breaks_leaves_no_core_file() {
    let (_place, mut unit, _) = filled(1);
    unit.start().unwrap();
    let limits = format!("/proc/{}/limits", unit.running().pid());
    let limits = fs::read_to_string(limits).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let mut words = core.unwrap().split_whitespace().skip(4);
    assert_eq!(
        (words.next(), words.next()),
        (Some("0"), Some("0")),
        "{limits}"
    );
    unit.stop();
}

#[test]
fn a_rebuild_on_a_disk_that_is_full_to_the_last_byte_finds_all() {
    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(place.path(), 96 << 20, 512);
    let settings = [
        SETTINGS[0],
        SETTINGS[1],
        SETTINGS[2],
        ("AGENT__VAULT__BALLAST", "4 MiB"),
    ];
    let mut unit = Lone::new(programs(), disk.path(), place.path(), &settings);
    unit.start().unwrap();
    let first = Phantom::small(78).slice(5);
    let sop = first.sop.as_str().to_owned();
    let sent: Vec<_> = (0..60)
        .map(|n| renamed(&first, &[(&sop, &format!("{n:02}"))]))
        .collect();
    unit.modality().send(&sent).complete(60).unwrap();
    let ballast = unit.folder().join("ballast");
    until(Duration::from_secs(60), "ballast", || {
        ballast.exists().then_some(())
    })
    .unwrap();
    unit.stop();
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; bytes]).is_ok() {}
    }
    drop(file);
    assert!(disk.free().1 < 4 << 20, "{:?}", disk.free());
    let done = unit.command(words(["scrub", "--rebuild"], []));
    if let Err(error) = done.success() {
        // It may have been refused; then it says so, and nothing is lost for it.
        crate::lone::report(&format!("{error:#}"));
        assert!(unit.start().is_err());
        fs::remove_file(&filler).unwrap();
        rebuild(&unit);
        panic!("refused: {error:#}");
    }
    unit.has_exactly(&sent);
    unit.start().unwrap();
    unit.has_exactly(&sent);
    unit.stop();
}
