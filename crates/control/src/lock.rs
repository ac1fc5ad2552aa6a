//! One program per folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// Holds a folder for as long as it lives; the end of the program, however it comes, lets go too.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another program has it.
    #[error("another program is working in {0}")]
    Held(PathBuf),
    /// The lock file could not be opened or locked.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

impl FolderLock {
    /// Takes `folder` by its file `lock`, at once or not at all.
    ///
    /// The file stays where it is: to remove it would let two programs hold two files of one name.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(|source| LockError::Io {
            path: path.clone(),
            source,
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held(folder.to_owned())),
            Err(errno) => Err(LockError::Io {
                path,
                source: errno.into(),
            }),
        }
    }
}
