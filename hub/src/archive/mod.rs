//! Archive: studies at rest; gives back exactly the bytes that the scanner sent.
//!
//! In: instances that `inbox` has decoded; questions about studies. Out: files, lists.
//! Invariant: an instance is given out only when its bytes are those of its digests; other bytes
//! under a known UID are kept beside the first, never instead of them; on disk it is sealed, and
//! what was opened is kept in memory alone, within bounds.
//! May not: open sockets, judge manifests, say that custody has passed.

mod cache;
pub(crate) mod group;
pub(crate) mod index;
mod summary;

use std::sync::{Arc, Mutex};

use codec::{DecodeError, Limits};
use sealing::StoreKey;
use store::rusqlite::{self, Connection, params};
use store::{Location, Readers, RecordKind, Segments};
use study::part10::Part10;
use study::{InstanceDigest, SopInstanceUid, StudyUid};
use thiserror::Error;

use crate::db;
use cache::{Cache, lock};
use group::{ChunkFault, GroupKey, LoadError, OpenGroup};
#[cfg(test)]
pub(crate) use summary::ReportState;
pub(crate) use summary::{Custody, Detail, Figures, RevisionState, Summary, list, show};

/// A chunk as it crossed: sealed.
pub(crate) const PACKED_UNIT: RecordKind = RecordKind(2);

/// Why something cannot be given.
#[derive(Debug, Error)]
pub(crate) enum ArchiveError {
    /// No instance with this UID can be read yet.
    #[error("no instance {0} is at the hub")]
    Unknown(SopInstanceUid),
    /// Fewer instances share this UID than was asked for.
    #[error("instance {sop} is here {kept} time(s), number {asked} was asked for")]
    NoSuchCopy {
        /// The instance.
        sop: SopInstanceUid,
        /// How many are held.
        kept: usize,
        /// Which was wanted, from 1.
        asked: u32,
    },
    /// No unit has sent such a study.
    #[error("no study {0} is at the hub")]
    UnknownStudy(StudyUid),
    /// What is on disk is damaged; it is not given out.
    #[error("what is stored is damaged")]
    Damaged(#[from] DecodeError),
    /// A chunk on disk is not what it was, or was not sealed as its manifest says.
    #[error("what is stored cannot be read")]
    Chunk(#[from] ChunkFault),
    /// The group's data key is not to be had.
    #[error("what is stored cannot be opened")]
    Group(#[from] LoadError),
    /// What is on disk is whole, and is not the instance that was taken in.
    #[error("what is stored is not instance {0} as it was taken in")]
    OtherBytes(SopInstanceUid),
    /// The index cannot be read.
    #[error("the archive's index cannot be read")]
    Index(#[from] rusqlite::Error),
}

/// An instance as the file that the scanner sent.
#[derive(Debug)]
pub(crate) struct File {
    /// The file's bytes (PS3.10).
    pub bytes: Vec<u8>,
    /// How many instances share its UID; more than one is a conflict.
    pub copies: usize,
}

/// The room.
pub(crate) struct Archive {
    readers: Arc<Readers>,
    segments: Arc<Segments>,
    store_key: Arc<StoreKey>,
    limits: Limits,
    cache: Cache,
}

impl Archive {
    pub(crate) fn new(
        readers: Arc<Readers>,
        segments: Arc<Segments>,
        store_key: Arc<StoreKey>,
        limits: Limits,
        cache_bytes: u64,
    ) -> Self {
        Self {
            readers,
            segments,
            store_key,
            limits,
            cache: Cache::new(cache_bytes),
        }
    }

    /// All studies, most urgent first.
    pub(crate) fn list(&self) -> Result<Vec<Summary>, ArchiveError> {
        Ok(self.readers.with(|sql| list(sql, None))?)
    }

    /// Figures over all studies.
    pub(crate) fn figures(&self) -> Result<Figures, ArchiveError> {
        Ok(self.readers.with(summary::figures)?)
    }

    /// One study, once for each unit that sent it.
    pub(crate) fn show(&self, study: &StudyUid) -> Result<Vec<Detail>, ArchiveError> {
        let details = self.readers.with(|sql| show(sql, study))?;
        if details.is_empty() {
            return Err(ArchiveError::UnknownStudy(study.clone()));
        }
        Ok(details)
    }

    /// The exact bytes of an instance; `copy` counts from 1 those that share the UID.
    pub(crate) fn file(&self, sop: &SopInstanceUid, copy: u32) -> Result<File, ArchiveError> {
        let homes = self.readers.with(|sql| homes(sql, sop))?;
        if homes.is_empty() {
            return Err(ArchiveError::Unknown(sop.clone()));
        }
        let copies = homes.len();
        let index = usize::try_from(copy).unwrap_or(usize::MAX).wrapping_sub(1);
        let home = homes.get(index).ok_or_else(|| ArchiveError::NoSuchCopy {
            sop: sop.clone(),
            kept: copies,
            asked: copy,
        })?;
        let bytes = self.unpack(home.group, home.file)?;
        // The codec vouches for the group; that the index led to the right place is to be seen.
        if instance_digest(&bytes) != Some(home.digest) {
            return Err(ArchiveError::OtherBytes(sop.clone()));
        }
        Ok(File { bytes, copies })
    }

    /// Gives one file of a group, reading only the chunks that it needs and that are not here.
    fn unpack(&self, key: GroupKey, file: usize) -> Result<Vec<u8>, ArchiveError> {
        let group = match self.cache.find(key) {
            Some(group) => group,
            None => Arc::new(Mutex::new(
                self.readers
                    .with(|sql| OpenGroup::load(sql, key, &self.store_key, &self.limits))?
                    .ok_or(DecodeError::NoSuchFile(file))?,
            )),
        };
        let mut open = lock(&group);
        match self.read(key, file, &mut open) {
            Ok(bytes) => {
                let held_bytes = open.bytes();
                drop(open);
                self.cache.keep(key, group, held_bytes);
                Ok(bytes)
            }
            Err(error) => {
                self.cache.forget(key);
                Err(error)
            }
        }
    }

    fn read(
        &self,
        key: GroupKey,
        file: usize,
        group: &mut OpenGroup,
    ) -> Result<Vec<u8>, ArchiveError> {
        if !group.ready(file) {
            let chunks = self.readers.with(|sql| chunks(sql, key))?;
            for (place, location) in chunks.iter().map_while(Option::as_ref).enumerate() {
                if group.files().is_some() {
                    break;
                }
                group.take(place, location, &self.segments)?;
            }
            for place in group.places_of(file) {
                if let Some(Some(location)) = chunks.get(place) {
                    group.take(place, location, &self.segments)?;
                }
            }
        }
        Ok(group.file(file)?)
    }
}

/// Where an instance is.
struct InstanceHome {
    group: GroupKey,
    file: usize,
    digest: InstanceDigest,
}

/// Where the instances with this UID are, in the order they came.
fn homes(sql: &Connection, sop: &SopInstanceUid) -> rusqlite::Result<Vec<InstanceHome>> {
    sql.prepare_cached(
        "SELECT manifest, chunk_group, file, digest FROM instance WHERE sop = ?1 ORDER BY id",
    )?
    .query_map([sop.as_str()], |row| {
        let file: u32 = row.get(2)?;
        Ok(InstanceHome {
            group: (row.get(0)?, row.get(1)?),
            file: usize::try_from(file).unwrap_or(usize::MAX),
            digest: db::instance_digest(row, 3)?,
        })
    })?
    .collect()
}

/// The digest of a file's data set; none when it is no DICOM file.
fn instance_digest(file: &[u8]) -> Option<InstanceDigest> {
    let part10 = Part10::parse(file).ok()?;
    let data_set = file.get(part10.data_set)?;
    Some(InstanceDigest::of(&part10.transfer_syntax, data_set))
}

/// The chunks of a group in order; none where a chunk is not here yet.
pub(crate) fn chunks(
    sql: &Connection,
    (manifest, group): GroupKey,
) -> rusqlite::Result<Vec<Option<Location>>> {
    sql.prepare_cached(
        "SELECT c.segment, c.at, c.stored FROM chunk c
         JOIN chunk_group g ON g.manifest = c.manifest
              AND c.number >= g.first AND c.number < g.first + g.chunks
         WHERE g.manifest = ?1 AND g.number = ?2 ORDER BY c.number",
    )?
    .query_map(params![manifest, group], |row| {
        row.get::<_, Option<String>>(0)?
            .map(|_| Location::from_row(row, 0))
            .transpose()
    })?
    .collect()
}

#[cfg(test)]
mod tests;
