//! The writing end of the segments; the writer's thread has the only one.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::doomed::Doomed;
use crate::error::{StoreError, is_full};
use crate::name::{Location, SegmentName, is_family};
use crate::record::Record;
use crate::segments::Segments;

const TAILS_MAX: usize = 64;

/// Appends to the last segment of each family, and takes back what a failed job appended.
pub(crate) struct Appender {
    segments: Arc<Segments>,
    tails: BTreeMap<String, Tail>,
    /// Appended to since the last sync.
    dirty: BTreeMap<SegmentName, Arc<dyn DiskFile>>,
    /// A segment was made since the last sync of the folder.
    created: bool,
    /// A sync has failed: nothing is known of the disk any more.
    failed: bool,
    /// How long each segment was before the current job appended to it.
    before_job: BTreeMap<SegmentName, u64>,
    appends: u64,
}

struct Tail {
    name: SegmentName,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    last_append: u64,
}

impl Appender {
    pub(crate) fn new(segments: Arc<Segments>) -> Self {
        Self {
            segments,
            tails: BTreeMap::new(),
            dirty: BTreeMap::new(),
            created: false,
            failed: false,
            before_job: BTreeMap::new(),
            appends: 0,
        }
    }

    /// Appends records one behind the other, all to one segment; on an error nothing of them is left.
    pub(crate) fn append(
        &mut self,
        family: &str,
        records: &[Record],
    ) -> Result<Location, StoreError> {
        if !is_family(family) {
            return Err(StoreError::Family(family.to_owned()));
        }
        if records.is_empty() {
            return Err(StoreError::EmptyRun);
        }
        let heads: Vec<_> = records.iter().map(Record::encode_head).collect();
        let mut parts: Vec<_> = heads
            .iter()
            .zip(records)
            .flat_map(|(head, record)| [IoSlice::new(head), IoSlice::new(record.body())])
            .collect();
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let failed = |error: io::Error| {
            if is_full(&error) {
                StoreError::Full {
                    family: family.to_owned(),
                    bytes,
                }
            } else {
                StoreError::io("append to", family)(error)
            }
        };
        self.make_room(family, bytes).map_err(failed)?;

        self.appends += 1;
        let tail = self
            .tails
            .get_mut(family)
            .expect("make_room has put it there");
        if let Err(error) = tail.file.write_at(&mut parts, tail.bytes) {
            if tail.file.truncate(tail.bytes).is_err() {
                // What is torn stays behind what counts; nothing may follow it.
                self.tails.remove(family);
            }
            return Err(failed(error));
        }
        let location = Location {
            segment: tail.name.clone(),
            offset: tail.bytes,
            bytes,
        };
        self.before_job
            .entry(tail.name.clone())
            .or_insert(tail.bytes);
        self.dirty
            .entry(tail.name.clone())
            .or_insert_with(|| Arc::clone(&tail.file));
        tail.bytes += bytes;
        tail.last_append = self.appends;
        Ok(location)
    }

    /// Sees to it that the family has a tail that takes `bytes` more.
    fn make_room(&mut self, family: &str, bytes: u64) -> io::Result<()> {
        let limit = self.segments.segment_bytes_max;
        if self
            .tails
            .get(family)
            .is_some_and(|t| t.bytes == 0 || t.bytes.saturating_add(bytes) <= limit)
        {
            return Ok(());
        }
        let (name, file) = self.segments.create(family)?;
        self.created = true;
        if self.tails.len() >= TAILS_MAX
            && let Some(idle) = self
                .tails
                .iter()
                .min_by_key(|(_, t)| t.last_append)
                .map(|(f, _)| f.clone())
        {
            self.tails.remove(&idle);
        }
        self.tails.insert(
            family.to_owned(),
            Tail {
                name,
                file,
                bytes: 0,
                last_append: self.appends,
            },
        );
        Ok(())
    }

    /// Never appends to this segment again.
    pub(crate) fn close(&mut self, segment: &SegmentName) {
        self.tails.retain(|_, tail| tail.name != *segment);
    }

    pub(crate) fn begin_job(&mut self) {
        self.before_job.clear();
    }

    /// Takes back what was appended since `begin_job`.
    pub(crate) fn undo_job(&mut self) {
        for (segment, bytes) in std::mem::take(&mut self.before_job) {
            let cut = self
                .dirty
                .get(&segment)
                .is_some_and(|file| file.truncate(bytes).is_ok());
            match self.tails.values_mut().find(|tail| tail.name == segment) {
                Some(tail) if cut => tail.bytes = bytes,
                // A record that nothing refers to stays in the file; recovery will find it, and nothing else.
                Some(_) => self.close(&segment),
                None => {}
            }
        }
    }

    /// Makes durable what was appended since the last time.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_so_far()?;
        self.dirty.clear();
        Ok(())
    }

    /// Does the same in the middle of a job, which may still be undone. After one failure no later
    /// sync succeeds, whatever became of the job.
    pub(crate) fn sync_so_far(&mut self) -> Result<(), StoreError> {
        if self.failed {
            let earlier = io::Error::other("an earlier sync failed");
            return Err(StoreError::io("sync", "the segments")(earlier));
        }
        self.failed = true;
        for (segment, file) in &self.dirty {
            file.sync_data().map_err(StoreError::io("sync", segment))?;
        }
        if self.created {
            self.sync_dir()?;
            self.created = false;
        }
        self.failed = false;
        Ok(())
    }

    /// Unlinks segments, durably; those to be wiped are zeros before.
    pub(crate) fn remove(&mut self, doomed: &[Doomed]) -> Result<(), StoreError> {
        for Doomed { segment, wipe } in doomed {
            self.close(segment);
            self.segments.remove(segment, *wipe)?;
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        self.segments
            .disk
            .sync_dir()
            .map_err(StoreError::io("sync", "the folder of segments"))
    }
}
