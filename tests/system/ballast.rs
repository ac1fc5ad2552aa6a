//! A disk that is full to the last byte, and the room that was kept for the index.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kit::process::finish;
use store::rusqlite::Connection;
use store::{Ballast, StoreError, open_database};

use crate::small_disk::SmallDisk;

const DISK_BYTES: u64 = 24 << 20;
const BALLAST_BYTES: u64 = 4 << 20;
const SCHEMA: &str = "CREATE TABLE held (id INTEGER PRIMARY KEY, meta BLOB) STRICT";

/// Takes every byte there is, down to the last.
fn fill(folder: &Path) {
    for (name, piece) in [("much", 1 << 16), ("rest", 1)] {
        let mut file = File::create(folder.join(name)).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&vec![1; piece]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }
}

fn open(folder: &Path) -> Result<Connection, StoreError> {
    open_database(&folder.join("index.sqlite"), &[SCHEMA])
}

fn put(index: &Connection, bytes: usize) -> Result<(), StoreError> {
    let meta = vec![7; bytes];
    index.execute("INSERT INTO held (meta) VALUES (?1)", (meta,))?;
    Ok(())
}

fn rows(index: &Connection) -> i64 {
    let count = "SELECT count(*) FROM held";
    index.query_row(count, (), |row| row.get(0)).unwrap()
}

/// Fails for want of room and nothing else.
fn is_full<T>(done: Result<T, StoreError>) -> bool {
    match done {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_full(), "{error:?}");
            true
        }
    }
}

fn a_full_disk_gives_way(folder: &Path) {
    let ballast = Ballast::new(&folder.join("ballast"), BALLAST_BYTES);
    let index = open(folder).unwrap();
    put(&index, 100_000).unwrap();
    ballast.ensure().unwrap();
    drop(index);
    fill(folder);

    // The log and what goes with it cannot be made any more.
    let opened = open(folder).and_then(|index| put(&index, 100_000));
    assert!(is_full(opened));
    assert!(ballast.release().unwrap());
    let index = open(folder).unwrap();
    assert_eq!(rows(&index), 1);
    put(&index, 100_000).unwrap();

    // Something else has taken the room.
    fill(&folder.join("."));
    assert!(is_full(ballast.ensure()), "there is no room for it");
    assert!(!ballast.is_whole() && !folder.join("ballast").exists());
    std::fs::remove_file(folder.join("much")).unwrap();
    ballast.ensure().unwrap();
    assert!(ballast.is_whole());
    put(&index, 10).unwrap();
    assert_eq!(rows(&index), 3);
}

#[test]
#[ignore = "needs root and loop devices"]
fn an_index_opens_on_an_ext4_without_a_free_byte_once_the_ballast_is_released() {
    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(place.path(), DISK_BYTES, 64);
    a_full_disk_gives_way(disk.path());
}

/// A file system in memory, of so many bytes.
struct MemoryDisk<'a>(&'a Path);

fn tool(program: &str, words: &[&str], path: &Path) {
    let mut command = Command::new(program);
    command.args(words).arg(path);
    let finished = finish(command, Duration::from_secs(60)).unwrap();
    finished.success().unwrap();
}

impl Drop for MemoryDisk<'_> {
    fn drop(&mut self) {
        tool("umount", &["--lazy"], self.0);
    }
}

#[test]
#[ignore = "needs root"]
fn an_index_opens_on_a_tmpfs_without_a_free_byte_once_the_ballast_is_released() {
    let place = tempfile::tempdir().unwrap();
    let size = format!("size={DISK_BYTES}");
    tool(
        "mount",
        &["-t", "tmpfs", "-o", &size, "tmpfs"],
        place.path(),
    );
    let disk = MemoryDisk(place.path());
    a_full_disk_gives_way(disk.0);
}
