//! The disk as the store sees it: one flat folder of files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise, statvfs};
use rustix::io::{Errno, pwritev};

use crate::error::StoreError;

/// Pages are of 4 to 64 KiB, depending on the processor.
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// A flat folder of files.
///
/// What is done here survives a power cut only after [`Disk::sync_dir`] (names) and
/// [`DiskFile::sync_data`] (bytes).
pub trait Disk: Send + Sync {
    /// Makes a new, empty file; one of that name must not exist.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file; who has it open keeps it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes creations and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// How many bytes a program without privileges can still write.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Writes all of `parts`, one after the other, from `offset` on; on an error any part of them may be written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset` on; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's length.
    fn bytes(&self) -> io::Result<u64>;
    /// Cuts the file off behind its first `bytes` bytes.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes the file's bytes and its length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes later reads of these bytes come from the medium and not from memory; `..u64::MAX` is to the end.
    fn forget_cached(&self, range: Range<u64>) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct FsDisk {
    folder: PathBuf,
    handle: File,
}

impl FsDisk {
    /// Opens a folder and makes it, for its owner only, if it is missing; its parent must exist.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |action| StoreError::io(action, folder.display());
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => sync_parent(folder).map_err(failed("sync the parent of"))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make")(error)),
        }
        let handle = File::open(folder).map_err(failed("open"))?;
        Ok(Self {
            folder: folder.to_owned(),
            handle,
        })
    }
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Makes later reads of `file` come from the medium: the kernel drops the pages that it thinks are clean.
pub(crate) fn forget_cached(file: &File, range: Range<u64>) -> io::Result<()> {
    // It drops no page of which only a part is asked for.
    let start = range.start - range.start % PAGE_BYTES_MAX;
    let bytes = range
        .end
        .checked_next_multiple_of(PAGE_BYTES_MAX)
        .and_then(|end| NonZeroU64::new(end.saturating_sub(start)));
    Ok(fadvise(file, start, bytes, Advice::DontNeed)?)
}

impl Disk for FsDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(FsFile(options.open(self.folder.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.folder.join(name))?;
        Ok(Arc::new(FsFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // A name that is not text is none of ours, nor is a folder.
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string().ok());
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let figures = statvfs(&self.folder)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

struct FsFile(File);

impl DiskFile for FsFile {
    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Drops what is empty already, so that a write of nothing is not taken for a full disk.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match pwritev(&self.0, parts, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut parts, written);
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self, range: Range<u64>) -> io::Result<()> {
        forget_cached(&self.0, range)
    }
}
