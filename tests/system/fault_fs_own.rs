//! The fault file system itself: it keeps what was synced, and only that.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kit::fault_fs::{FaultFs, Loss, Operation};
use kit::process::finish;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use tempfile::TempDir;

use crate::fault_fs::INDEX_LOG;

const DEADLINE: Duration = Duration::from_secs(60);

/// The folder outlives what is mounted on it, as it is named first.
fn mount() -> (TempDir, FaultFs) {
    let place = tempfile::tempdir().unwrap();
    let disk = FaultFs::mount(place.path()).unwrap();
    (place, disk)
}

fn sync_folder(folder: &Path) {
    File::open(folder).unwrap().sync_all().unwrap();
}

/// A file whose bytes are synced; its name is not.
fn synced(path: PathBuf, bytes: &[u8]) -> File {
    let mut file = File::create(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
    file
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_was_synced_survives_and_what_was_not_is_lost() {
    let (_place, mut disk) = mount();
    let path = disk.path().to_owned();
    let mut file = synced(path.join("kept"), &[1; 10_000]);
    sync_folder(&path);
    file.write_all(&[2; 10_000]).unwrap();
    file.write_at(&[3; 100], 50).unwrap();
    file.set_len(30_000).unwrap();
    assert_eq!(fs::read(path.join("kept")).unwrap().len(), 30_000);
    drop(file);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(fs::read(path.join("kept")).unwrap(), [1; 10_000]);

    let file = OpenOptions::new().write(true).open(path.join("kept"));
    let file = file.unwrap();
    file.set_len(100).unwrap();
    drop(file);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(fs::read(path.join("kept")).unwrap().len(), 10_000);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_name_is_lost_unless_its_folder_was_synced() {
    let (_place, mut disk) = mount();
    let path = disk.path().to_owned();
    synced(path.join("nameless"), b"bytes");
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(names(&path), [""; 0]);

    // A folder's own name lies in its parent.
    fs::create_dir(path.join("folder")).unwrap();
    synced(path.join("folder/file"), b"bytes");
    sync_folder(&path.join("folder"));
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(names(&path), [""; 0]);

    // A name without its bytes is an empty file.
    fs::write(path.join("empty"), b"never synced").unwrap();
    sync_folder(&path);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(fs::read(path.join("empty")).unwrap(), b"");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_removal_and_a_rename_come_undone_unless_their_folder_was_synced() {
    let (_place, mut disk) = mount();
    let path = disk.path().to_owned();
    synced(path.join("a"), b"1");
    synced(path.join("b"), b"2");
    sync_folder(&path);
    fs::remove_file(path.join("a")).unwrap();
    fs::rename(path.join("b"), path.join("c")).unwrap();
    assert_eq!(names(&path), ["c"]);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(names(&path), ["a", "b"]);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"1");

    fs::rename(path.join("b"), path.join("a")).unwrap();
    sync_folder(&path);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(names(&path), ["a"]);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"2");
    fs::remove_file(path.join("a")).unwrap();
    sync_folder(&path);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(names(&path), [""; 0]);
}

/// What was not synced of one file, page by page: `n` new, `o` old, `0` zeros, `.` beyond the end.
fn torn(seed: u64) -> String {
    let (_place, mut disk) = mount();
    let path = disk.path().to_owned();
    let file = synced(path.join("file"), &[1; 8 * 4096]);
    sync_folder(&path);
    file.write_at(&[2; 16 * 4096], 0).unwrap();
    fs::write(path.join("new"), b"").unwrap();
    drop(file);
    disk.power_on(Loss::Torn { seed }).unwrap();
    let left = fs::read(path.join("file")).unwrap();
    assert_eq!(left.len() % 4096, 0);
    let pages = left.chunks(4096).map(|page| match page {
        page if page == [2; 4096] => 'n',
        page if page == [1; 4096] => 'o',
        page if page == [0; 4096] => '0',
        page => panic!("a page of {:?}", &page[..16]),
    });
    let name = path.join("new").exists();
    pages.chain(name.then_some('+')).collect()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_was_not_synced_may_survive_in_any_part_and_the_seed_says_in_which() {
    let all: Vec<_> = (1..=24).map(torn).collect();
    assert_eq!(torn(5), all[4], "the same seed leaves the same");
    let has = |what: &str, test: &dyn Fn(&str) -> bool| {
        assert!(all.iter().any(|left| test(left)), "{what}: {all:?}");
    };
    has("all of it", &|left| left.matches('n').count() == 16);
    has("none of it", &|left| !left.contains('n'));
    has("reordered", &|left| left.contains("on"));
    has("zeros", &|left| left.contains('0'));
    has("the name", &|left| left.ends_with('+'));
    has("no name", &|left| !left.ends_with('+'));
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_power_goes_at_the_operation_it_is_told() {
    let (_place, mut disk) = mount();
    let path = disk.path().to_owned();
    let file = synced(path.join("file"), b"old");
    sync_folder(&path);
    assert_eq!(disk.operations(), 4);
    let count = |operation| disk.counts().get(&operation).copied();
    assert_eq!(count(Operation::Create), Some(1));
    assert_eq!(count(Operation::Fdatasync), Some(1));
    assert_eq!(count(Operation::FsyncDir), Some(1));

    disk.cut_after(2);
    file.write_at(b"new", 0).unwrap();
    assert!(!disk.is_dark());
    assert!(file.sync_all().is_err());
    assert!(disk.is_dark());
    assert!(file.write_at(b"newer", 0).is_err());
    assert!(fs::read_dir(&path).is_err());
    assert!(File::create(path.join("another")).is_err());
    assert!(fs::remove_file(path.join("file")).is_err());
    assert_eq!(disk.operations(), 6, "nothing is counted in the dark");
    drop(file);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(fs::read(path.join("file")).unwrap(), b"old");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn who_has_it_open_keeps_the_power_from_coming_back_and_nothing_else() {
    let (_place, mut disk) = mount();
    let file = synced(disk.path().join("file"), b"old");
    assert!(disk.power_on(Loss::Everything).is_err());
    drop(file);
    disk.power_on(Loss::Everything).unwrap();
    // Dropped while in use, it is unmounted all the same.
    let file = File::create(disk.path().join("file")).unwrap();
    let path = disk.path().to_owned();
    drop(disk);
    assert_eq!(names(&path), [""; 0]);
    drop(file);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn programs_find_what_they_need_of_a_file_system() {
    let (_place, disk) = mount();
    let path = disk.path().to_owned();
    // A removed file stays with who has it open.
    let mut file = synced(path.join("file"), b"bytes");
    let mut again = File::open(path.join("file")).unwrap();
    fs::remove_file(path.join("file")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = String::new();
    again.read_to_string(&mut back).unwrap();
    assert_eq!(back, "bytes");

    let free = || statvfs(&path).unwrap().f_bavail * statvfs(&path).unwrap().f_frsize;
    let before = free();
    let file = File::create(path.join("large")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert_eq!(before - free(), 1 << 20);

    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let other = File::open(path.join("large")).unwrap();
    assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());

    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(path.join("large"), mode).unwrap();
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    let socket = path.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(socket.metadata().unwrap().file_type().is_socket());
    UnixStream::connect(&socket)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");

    fs::create_dir_all(path.join("a/b")).unwrap();
    for n in 0..1000 {
        fs::write(path.join(format!("a/b/{n}")), []).unwrap();
    }
    assert_eq!(names(&path.join("a/b")).len(), 1000);
    assert!(fs::remove_dir(path.join("a/b")).is_err());
    fs::remove_dir_all(path.join("a")).unwrap();
    assert_eq!(names(&path), ["large", "socket"]);
}

/// Commits rows one by one, counts what is there, and leaves without closing. In a process of its
/// own: who maps a file of a file system that it serves itself waits for itself.
const INDEX: &str = "\
import os, sqlite3, sys
index = sqlite3.connect(sys.argv[1], isolation_level=None)
index.execute('PRAGMA journal_mode = WAL')
index.execute('PRAGMA synchronous = FULL')
index.execute('PRAGMA wal_autocheckpoint = 0')
index.execute('CREATE TABLE IF NOT EXISTS held (id INTEGER PRIMARY KEY)')
for n in range(int(sys.argv[2])):
    index.execute('INSERT INTO held DEFAULT VALUES')
other = sqlite3.connect(sys.argv[1])
print(other.execute('SELECT count(*) FROM held').fetchone()[0], flush=True)
os._exit(0)
";

/// How many rows there are once `rows` more are committed.
fn commit(disk: &FaultFs, rows: u64) -> u64 {
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(["-c", INDEX])
        .arg(disk.path().join("index.sqlite"));
    python.arg(rows.to_string());
    let said = finish(python, DEADLINE).unwrap().success().unwrap();
    said.trim().parse().unwrap()
}

#[test]
#[ignore = "needs root, /dev/fuse and python3"]
fn an_index_keeps_what_it_committed_and_loses_it_when_its_log_is_not_synced() {
    let (_place, mut disk) = mount();
    // SQLite syncs the folder when it has made the log, but not for the database itself.
    assert_eq!(commit(&disk, 0), 0);
    sync_folder(disk.path());
    assert_eq!(commit(&disk, 50), 50);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(commit(&disk, 0), 50);
    disk.ignore_syncs_of(INDEX_LOG);
    assert_eq!(commit(&disk, 50), 100);
    disk.power_on(Loss::Everything).unwrap();
    assert_eq!(commit(&disk, 0), 50, "not one of the second 50");
}
