//! Small files that must survive a power cut: whole or not there, synced with their directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::key::hex;

/// Says what could not be done with which file.
#[derive(Debug, Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is there and must not be overwritten.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// A secret that others than its owner may read or write.
    #[error("{} is open to others than its owner: chmod 600 it", .0.display())]
    NotPrivate(PathBuf),
    /// The file is larger than anything it may hold.
    #[error("{} has more than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
}

/// Keeps what this process has in memory, keys and patients' images among it, out of core files and
/// from other processes of its user. Where the system refuses, nothing is changed.
pub fn keep_memory_private() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    // A program that the kernel pipes core files to is not asked for its limit.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Writes a new file that only its owner may read; file and directory are synced when this returns.
///
/// A file that is there already is an error, never overwritten. After a power cut the file is
/// whole or not there: half a key would bar a box from making another.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    create(path, bytes, 0o600)
}

/// As [`create_private`], for what everybody may read.
pub fn create_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    create(path, bytes, 0o644)
}

/// Replaces a file by new content at once: after a power cut it holds the old bytes or the new ones.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let unfinished = write_unfinished(path, bytes, 0o600)?;
    finish(path, unfinished, RenameFlags::empty())
}

/// Reads a whole file of at most `bytes_max` bytes.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    read_open(&open(path)?, path, bytes_max)
}

/// Reads a secret; refuses a file that others than its owner may read or write.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Of the open file: the name may stand for another one a moment later.
    let file = open(path)?;
    let metadata = file.metadata().map_err(io_error("open", path))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(FileError::NotPrivate(path.into()));
    }
    read_open(&file, path, bytes_max).map(Zeroizing::new)
}

/// Makes a directory that only its owner may enter, with its parents; one that is there stays as it is.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("make folder", path))?;
    sync_directory_of(path)
}

/// Syncs the directory that `path` is in, so that its name survives a power cut.
pub fn sync_directory_of(path: &Path) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(io_error("sync folder", directory))
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(io_error("open", path))
}

fn read_open(file: &File, path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    // Room for all of it: a Vec that grows leaves copies of a secret behind.
    let length = file.metadata().map_err(io_error("read", path))?.len();
    let room = usize::try_from(length.min(bytes_max) + 1).unwrap_or_default();
    let mut bytes = Vec::with_capacity(room);
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::TooLong {
            path: path.into(),
            bytes_max,
        });
    }
    Ok(bytes)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    // The rename below decides; asking first spares the usual mistake the writing.
    if fs::symlink_metadata(path).is_ok() {
        return Err(FileError::Exists(path.into()));
    }
    let unfinished = write_unfinished(path, bytes, mode)?;
    finish(path, unfinished, RenameFlags::NOREPLACE)
}

/// Writes and syncs a file beside `path`, under a name that nobody else uses.
fn write_unfinished(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, FileError> {
    let mut tail = [0; 4];
    getrandom::fill(&mut tail).expect("the operating system gives randomness");
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.unfinished", hex(&tail)));
    let unfinished = PathBuf::from(unfinished);
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished);
    let mut file = opened.map_err(io_error("make", path))?;
    match file.write_all(bytes).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(unfinished),
        Err(error) => {
            discard(&unfinished);
            Err(io_error("write", path)(error))
        }
    }
}

fn finish(path: &Path, unfinished: PathBuf, flags: RenameFlags) -> Result<(), FileError> {
    match rustix::fs::renameat_with(CWD, &unfinished, CWD, path, flags) {
        Ok(()) => sync_directory_of(path),
        Err(error) => {
            discard(&unfinished);
            Err(match error {
                Errno::EXIST => FileError::Exists(path.into()),
                other => io_error("make", path)(other.into()),
            })
        }
    }
}

/// Takes away what was not finished; the error that led here is the one that matters.
fn discard(unfinished: &Path) {
    let _ = fs::remove_file(unfinished);
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_leaves_the_new_bytes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.cose");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_its_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        create_public(&path, &[0; 11]).unwrap();
        assert!(matches!(
            read(&path, 10),
            Err(FileError::TooLong { bytes_max: 10, .. })
        ));
        assert_eq!(read(&path, 11).unwrap().len(), 11);
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        create_public(&path, b"first").unwrap();
        assert!(matches!(
            create_public(&path, b"second"),
            Err(FileError::Exists(_))
        ));
        assert_eq!(read(&path, 10).unwrap(), b"first");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn of_many_who_make_one_file_one_wins_and_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let made: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8_u8)
                .map(|n| {
                    scope.spawn({
                        let path = &path;
                        move || (n, create_private(path, &[n]).is_ok())
                    })
                })
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap())
                .filter(|(_, ok)| *ok)
                .collect()
        });
        assert_eq!(made.len(), 1);
        assert_eq!(read(&path, 10).unwrap(), [made[0].0]);
    }
}
