//! Segments as everybody may use them: their names, and reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::disk::{Disk, DiskFile};
use crate::doomed::{self, Doomed, remove_file};
use crate::error::StoreError;
use crate::name::SegmentName;

const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const OPEN_FILES_MAX: usize = 256;

/// The segments of one folder.
///
/// Who owns them can look for what a crash left ([`Segments::recover`]); once the writer has them, they are
/// shared, and only reading is left.
pub struct Segments {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes_max: u64,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    names: BTreeSet<SegmentName>,
    last_number: u32,
    open: BTreeMap<SegmentName, Arc<dyn DiskFile>>,
    opened: VecDeque<SegmentName>,
}

impl Segments {
    /// Finds the segments of a folder, and finishes the removals that `index` still has on its list.
    pub fn open(disk: Arc<dyn Disk>, index: &Connection) -> Result<Self, StoreError> {
        finish_removals(disk.as_ref(), index)?;
        let mut shelf = Shelf::default();
        for text in disk
            .list()
            .map_err(StoreError::io("list", "the segments"))?
        {
            let Ok(name) = text.parse::<SegmentName>() else {
                continue;
            };
            shelf.last_number = shelf.last_number.max(name.number());
            let bytes = disk
                .open(&text)
                .and_then(|f| f.bytes())
                .map_err(StoreError::io("open", &name))?;
            if bytes == 0 {
                disk.remove(&text)
                    .map_err(StoreError::io("remove", &name))?;
            } else {
                shelf.names.insert(name);
            }
        }
        // The names of segments that recovery will adopt from may be in memory only.
        disk.sync_dir()
            .map_err(StoreError::io("sync", "the folder of segments"))?;
        Ok(Self {
            disk,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            shelf: Mutex::new(shelf),
        })
    }

    /// Closes segments at `bytes` instead of 64 MiB.
    #[must_use]
    pub fn with_segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// All segments, in order of family and number.
    pub fn list(&self) -> Vec<SegmentName> {
        self.shelf().names.iter().cloned().collect()
    }

    /// The length of a segment's file.
    pub fn bytes(&self, segment: &SegmentName) -> Result<u64, StoreError> {
        self.file(segment)?
            .bytes()
            .map_err(StoreError::io("measure", segment))
    }

    /// How many bytes can still be written to the folder's file system.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.disk
            .free_bytes()
            .map_err(StoreError::io("measure", "the free space"))
    }

    pub(crate) fn file(&self, name: &SegmentName) -> Result<Arc<dyn DiskFile>, StoreError> {
        let mut shelf = self.shelf();
        if let Some(file) = shelf.open.get(name) {
            return Ok(Arc::clone(file));
        }
        if !shelf.names.contains(name) {
            return Err(StoreError::NoSegment(name.clone()));
        }
        let file = self
            .disk
            .open(name.as_str())
            .map_err(StoreError::io("open", name))?;
        shelf.keep_open(name, &file);
        Ok(file)
    }

    pub(crate) fn create(&self, family: &str) -> io::Result<(SegmentName, Arc<dyn DiskFile>)> {
        let mut shelf = self.shelf();
        let number = shelf
            .last_number
            .checked_add(1)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let name = SegmentName::new(family, number);
        let file = self.disk.create(name.as_str())?;
        shelf.last_number = number;
        shelf.names.insert(name.clone());
        shelf.keep_open(&name, &file);
        Ok((name, file))
    }

    /// Unlinks a segment, which is wiped before if so told; durable after the folder's next sync.
    pub(crate) fn remove(&self, name: &SegmentName, wipe: bool) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        shelf.open.remove(name);
        shelf.opened.retain(|n| n != name);
        shelf.names.remove(name);
        drop(shelf);
        remove_file(self.disk.as_ref(), name, wipe)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn keep_open(&mut self, name: &SegmentName, file: &Arc<dyn DiskFile>) {
        if self.opened.len() >= OPEN_FILES_MAX
            && let Some(oldest) = self.opened.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.open.insert(name.clone(), Arc::clone(file));
        self.opened.push_back(name.clone());
    }
}

fn finish_removals(disk: &dyn Disk, index: &Connection) -> Result<(), StoreError> {
    let doomed = doomed::list(index)?;
    if doomed.is_empty() {
        return Ok(());
    }
    for Doomed { segment, wipe } in &doomed {
        remove_file(disk, segment, *wipe)?;
    }
    disk.sync_dir()
        .map_err(StoreError::io("sync", "the folder of segments"))?;
    for Doomed { segment, .. } in &doomed {
        doomed::forget(index, segment)?;
    }
    Ok(())
}
