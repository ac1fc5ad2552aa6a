//! Room that is kept so that it can be given up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::disk::sync_parent;
use crate::error::StoreError;

const BLOCK_BYTES: u64 = 1 << 20;
/// What `st_blocks` counts in.
const SECTOR_BYTES: u64 = 512;

/// A file that takes up room on the disk of the index, so that a disk that is full to the last byte can be made
/// to have some: the index must grow before anything can be deleted.
#[derive(Debug, Clone)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// The ballast at `path`, of `bytes`. Looks at no disk.
    pub fn new(path: &Path, bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            bytes,
        }
    }

    /// Sees to it that the file is there and that the room it takes up is really its own.
    ///
    /// On an error there is no file: half a ballast would be taken for one. When [`StoreError::is_full`] says
    /// that there is no room for it, that may be tried again later.
    pub fn ensure(&self) -> Result<(), StoreError> {
        if self.is_whole() {
            return Ok(());
        }
        self.allocate()
            .and_then(|()| sync_parent(&self.path))
            .map_err(|error| {
                // What cannot be removed either is in the way of nothing.
                let _ = std::fs::remove_file(&self.path);
                StoreError::io("set room aside in", self.path.display())(error)
            })
    }

    /// Whether the room is set aside.
    pub fn is_whole(&self) -> bool {
        self.path.metadata().is_ok_and(|file| {
            file.len() == self.bytes && file.blocks().saturating_mul(SECTOR_BYTES) >= self.bytes
        })
    }

    /// Gives the room back to the disk; false when there was nothing to give.
    pub fn release(&self) -> Result<bool, StoreError> {
        let failed = || StoreError::io("give up", self.path.display());
        match std::fs::remove_file(&self.path) {
            Ok(()) => sync_parent(&self.path).map_err(failed())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed()(error)),
        }
        Ok(true)
    }

    fn allocate(&self) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {}
            // Of a file of no bytes.
            Err(Errno::INVAL) if self.bytes == 0 => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&file, self.bytes)?,
            Err(error) => return Err(error.into()),
        }
        file.sync_all()
    }
}

fn write_zeros(mut file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(BLOCK_BYTES.min(bytes)).unwrap_or(0)];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    Ok(())
}
