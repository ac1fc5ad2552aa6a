//! Segments as everybody may use them: their names, and reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::database::DOOMED_TABLE;
use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, StoreError};
use crate::name::{Location, SegmentName};
use crate::record::{FIXED_BYTES, Fixed, Head, Record};

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

    /// Reads a record and verifies its digest; from any thread, also while the writer appends.
    pub fn read(&self, location: &Location) -> Result<Record, StoreError> {
        let file = self.file(&location.segment)?;
        let failed = || StoreError::io("read", &location.segment);
        let damaged = |damage| StoreError::Damaged {
            location: location.clone(),
            damage,
        };

        let segment_bytes = file.bytes().map_err(failed())?;
        let end = location
            .offset
            .checked_add(location.bytes)
            .filter(|end| *end <= segment_bytes);
        let end = end.ok_or(damaged(Damage::Short))?;
        let head = read_head(file.as_ref(), location.offset, end)
            .map_err(failed())?
            .map_err(damaged)?;
        if head.head_bytes.checked_add(head.body_bytes) != Some(location.bytes) {
            return Err(damaged(Damage::Length));
        }
        let body_bytes = usize::try_from(head.body_bytes).map_err(|_| damaged(Damage::Length))?;
        let mut body = vec![0; body_bytes];
        file.read_exact_at(&mut body, location.offset + head.head_bytes)
            .map_err(failed())?;
        Record::from_stored(head, body).map_err(damaged)
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

    /// Unlinks a segment; durable after the folder's next sync.
    pub(crate) fn remove(&self, name: &SegmentName) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        shelf.open.remove(name);
        shelf.opened.retain(|n| n != name);
        shelf.names.remove(name);
        remove_file(self.disk.as_ref(), name)
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

/// Reads the header at `offset` of a record that must end at or before `end`.
pub(crate) fn read_head(
    file: &dyn DiskFile,
    offset: u64,
    end: u64,
) -> io::Result<Result<Head, Damage>> {
    let room = end.saturating_sub(offset);
    if room < FIXED_BYTES as u64 {
        return Ok(Err(Damage::Short));
    }
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact_at(&mut fixed, offset)?;
    let fixed = match Fixed::parse(fixed) {
        Ok(fixed) => fixed,
        Err(damage) => return Ok(Err(damage)),
    };
    let mut rest = vec![0; fixed.rest_bytes()];
    if room < (FIXED_BYTES + rest.len()) as u64 {
        return Ok(Err(Damage::Short));
    }
    file.read_exact_at(&mut rest, offset + FIXED_BYTES as u64)?;
    Ok(fixed.finish(&rest))
}

fn finish_removals(disk: &dyn Disk, index: &Connection) -> Result<(), StoreError> {
    let mut statement = index.prepare(&format!("SELECT name FROM {DOOMED_TABLE}"))?;
    let doomed: Vec<SegmentName> = statement
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if doomed.is_empty() {
        return Ok(());
    }
    for name in &doomed {
        remove_file(disk, name)?;
    }
    disk.sync_dir()
        .map_err(StoreError::io("sync", "the folder of segments"))?;
    index.execute(&format!("DELETE FROM {DOOMED_TABLE}"), ())?;
    Ok(())
}

fn remove_file(disk: &dyn Disk, name: &SegmentName) -> Result<(), StoreError> {
    match disk.remove(name.as_str()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", name)(error))
        }
        _ => Ok(()),
    }
}
