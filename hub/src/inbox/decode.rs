//! Decoding: makes instances out of chunks, as soon as each can be made.
//!
//! One thread; a group's decoder is kept while its chunks come, so that no chunk is read twice.

use std::sync::Arc;

use codec::{DecodeError, Limits};
use sealing::{OpenError, StoreKey};
use store::rusqlite::{self, Connection, params};
use store::{Readers, Segments, StoreError, WriteError, Writer};
use study::dataset::{DatasetError, InstanceHead};
use study::part10::{Part10, Part10Error};
use study::{InstanceDigest, StudyUid};
use thiserror::Error;

use super::scrub;
use super::settle::{self, Verdict};
use crate::archive::group::{ChunkFault, GroupKey, LoadError, OpenGroup};
use crate::archive::index::{self, Home, NewInstance};
use crate::archive::{self, RevisionState};
use crate::db::{self, ManifestId};
use crate::ledger::{Ledger, LedgerError};

/// How many groups are kept open, if together they are no larger than one may be: one per class
/// and connection is usual.
const OPEN_GROUPS_MAX: usize = 4;

/// Why a group's chunks are not what their manifest says; goes to the unit as a refusal.
#[derive(Debug, Error)]
enum GroupFault {
    #[error("group {group} cannot be opened: {source}")]
    Sealed { group: u32, source: OpenError },
    #[error("group {group} cannot be decoded: {source}")]
    Codec { group: u32, source: DecodeError },
    #[error("file {file} of group {group} is no DICOM file: {source}")]
    File {
        group: u32,
        file: usize,
        source: Part10Error,
    },
    #[error("the data set of file {file} of group {group} cannot be read: {source}")]
    DataSet {
        group: u32,
        file: usize,
        source: DatasetError,
    },
    #[error("file {file} of group {group} belongs to another study")]
    OtherStudy { group: u32, file: usize },
    #[error("group {group} holds {found} instances, {said} were announced")]
    Count { group: u32, found: usize, said: u32 },
}

/// Why decoding could not go on, through no fault of the unit.
#[derive(Debug, Error)]
pub(crate) enum DecodeTrouble {
    /// A chunk was synced and is not what it was.
    #[error("chunk {chunk} is damaged here; it is taken in again when its unit calls")]
    Damaged {
        /// Its number in the manifest.
        chunk: u32,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
    /// A segment cannot be read.
    #[error("the archive cannot be read")]
    Read(#[source] StoreError),
    /// The index cannot be read.
    #[error("the index cannot be read")]
    Index(#[from] rusqlite::Error),
    /// The group cannot be taken up.
    #[error("the group cannot be taken up")]
    Load(#[from] LoadError),
    /// What was found cannot be written.
    #[error("the index cannot be written")]
    Write(#[from] WriteError<LedgerError>),
}

/// What came of one step.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Instances that can be read from here on.
    pub instances: usize,
    /// Instances among them whose UID is known with other bytes.
    pub conflicts: usize,
    /// What was said to the unit.
    pub verdicts: Vec<Verdict>,
}

/// Takes groups further as their chunks come.
pub(crate) struct Decoding {
    pub writer: Writer,
    pub readers: Arc<Readers>,
    pub segments: Arc<Segments>,
    pub ledger: Arc<Ledger>,
    pub store_key: Arc<StoreKey>,
    pub limits: Limits,
    open: Vec<(GroupKey, Coming)>,
}

/// A group whose chunks are coming.
struct Coming {
    home: Home,
    study: StudyUid,
    first: u32,
    said: u32,
    content: OpenGroup,
    indexed: Vec<bool>,
}

impl Decoding {
    pub(crate) fn new(
        writer: Writer,
        readers: Arc<Readers>,
        ledger: Arc<Ledger>,
        store_key: Arc<StoreKey>,
        limits: Limits,
    ) -> Self {
        let segments = Arc::clone(writer.segments());
        Self {
            writer,
            readers,
            segments,
            ledger,
            store_key,
            limits,
            open: Vec::new(),
        }
    }

    /// Indexes what the chunks that are here make readable; judges the revision when it is whole.
    pub(crate) fn advance(&mut self, key: GroupKey) -> Result<Progress, DecodeTrouble> {
        let Some(mut coming) = self.take(key)? else {
            return Ok(Progress::default());
        };
        let advanced = coming.advance(key, &self.readers, &self.segments);
        if let Err(DecodeTrouble::Damaged { chunk, .. }) = &advanced {
            // Nothing was said of what is in it, and the unit holds it until something is.
            let (manifest, chunk) = (key.0, *chunk);
            self.writer
                .run_blocking(move |work| -> Result<_, LedgerError> {
                    Ok(scrub::forget(work.sql(), manifest, chunk)?)
                })?;
        }
        match advanced? {
            Ok(new) => {
                // Then every instance is indexed, or the group was refused.
                let complete = coming.content.is_whole();
                let progress = self.keep(coming.home, new, complete)?;
                if !complete {
                    self.open.insert(0, (key, coming));
                    let bytes = self.open.iter().map(|(_, coming)| coming.content.bytes());
                    let kept = kept_open(bytes, self.limits.held_bytes);
                    self.open.truncate(kept);
                }
                Ok(progress)
            }
            Err(fault) => self.refuse(key, &fault),
        }
    }

    /// The group as it was left, or anew from the index; none when it is done.
    fn take(&mut self, key: GroupKey) -> Result<Option<Coming>, DecodeTrouble> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == key) {
            return Ok(Some(self.open.remove(at).1));
        }
        Ok(self
            .readers
            .with(|sql| Coming::load(sql, key, &self.store_key, &self.limits))?)
    }

    fn keep(
        &self,
        home: Home,
        new: Vec<NewInstance>,
        complete: bool,
    ) -> Result<Progress, DecodeTrouble> {
        if new.is_empty() && !complete {
            return Ok(Progress::default());
        }
        let ledger = Arc::clone(&self.ledger);
        let written = self
            .writer
            .run_blocking(move |work| -> Result<Progress, LedgerError> {
                let sql = work.sql();
                let mut progress = Progress {
                    instances: new.len(),
                    ..Progress::default()
                };
                for instance in &new {
                    progress.conflicts += usize::from(index::admit_instance(sql, home, instance)?);
                }
                if complete && close_group(sql, home)? {
                    progress.verdicts = settle::settle(sql, &ledger, home.study)?;
                }
                Ok(progress)
            })?;
        Ok(written.into_inner())
    }

    fn refuse(
        &self,
        (manifest, _): GroupKey,
        fault: &GroupFault,
    ) -> Result<Progress, DecodeTrouble> {
        let (ledger, reason) = (Arc::clone(&self.ledger), fault.to_string());
        let written = self
            .writer
            .run_blocking(move |work| -> Result<_, LedgerError> {
                settle::refuse(work.sql(), &ledger, manifest, &reason)
            })?;
        Ok(Progress {
            verdicts: written.into_inner().into_iter().collect(),
            ..Progress::default()
        })
    }
}

impl Coming {
    fn load(
        sql: &Connection,
        key: GroupKey,
        store_key: &StoreKey,
        limits: &Limits,
    ) -> Result<Option<Self>, LoadError> {
        let (manifest, group) = key;
        let mut statement = sql.prepare_cached(
            "SELECT m.study, m.revision, s.uid, g.instances, g.first FROM chunk_group g
             JOIN manifest m ON m.id = g.manifest JOIN study s ON s.id = m.study
             WHERE g.manifest = ?1 AND g.number = ?2 AND g.decoded = 0 AND m.state = 0",
        )?;
        let mut rows = statement.query(params![manifest, group])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let Some(content) = OpenGroup::load(sql, key, store_key, limits)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            home: Home {
                study: row.get(0)?,
                manifest,
                revision: row.get(1)?,
                group,
            },
            study: db::parsed(row, 2)?,
            first: row.get(4)?,
            said: row.get(3)?,
            content,
            indexed: Vec::new(),
        }))
    }

    /// Takes the chunks that have come, and gives the instances that can be read since.
    fn advance(
        &mut self,
        key: GroupKey,
        readers: &Readers,
        segments: &Segments,
    ) -> Result<Result<Vec<NewInstance>, GroupFault>, DecodeTrouble> {
        let group = key.1;
        let chunks = readers.with(|sql| archive::chunks(sql, key))?;
        for ((place, location), number) in chunks.iter().enumerate().zip(self.first..) {
            let Some(location) = location else {
                // What tells the files stands first; without it no later chunk can be read.
                if self.content.files().is_none() {
                    break;
                }
                continue;
            };
            match self.content.take(place, location, segments) {
                Ok(()) => {}
                Err(ChunkFault::Store(source)) => return Err(unreadable(number, source)),
                Err(ChunkFault::Sealed(source)) => {
                    return Ok(Err(GroupFault::Sealed { group, source }));
                }
                Err(ChunkFault::Codec(source)) => {
                    return Ok(Err(GroupFault::Codec { group, source }));
                }
            }
        }
        Ok(self.new_instances(group))
    }

    fn new_instances(&mut self, group: u32) -> Result<Vec<NewInstance>, GroupFault> {
        let all_here = self.content.is_whole();
        let files = match self.content.files() {
            Some(files) => files,
            None if !all_here => return Ok(Vec::new()),
            None => 0,
        };
        if files != usize::try_from(self.said).unwrap_or(usize::MAX) {
            return Err(GroupFault::Count {
                group,
                found: files,
                said: self.said,
            });
        }
        self.indexed.resize(files, false);
        let mut new = Vec::new();
        for file in 0..files {
            if self.indexed[file] || !(all_here || self.content.ready(file)) {
                continue;
            }
            let bytes = self
                .content
                .file(file)
                .map_err(|source| GroupFault::Codec { group, source })?;
            new.push(self.inspect(group, file, &bytes)?);
            self.indexed[file] = true;
        }
        Ok(new)
    }

    fn inspect(&self, group: u32, file: usize, bytes: &[u8]) -> Result<NewInstance, GroupFault> {
        let part10 = Part10::parse(bytes).map_err(|source| GroupFault::File {
            group,
            file,
            source,
        })?;
        let data_set = &bytes[part10.data_set];
        let head = InstanceHead::read(data_set, &part10.transfer_syntax).map_err(|source| {
            GroupFault::DataSet {
                group,
                file,
                source,
            }
        })?;
        if head.study != self.study {
            return Err(GroupFault::OtherStudy { group, file });
        }
        Ok(NewInstance {
            digest: InstanceDigest::of(&part10.transfer_syntax, data_set),
            sop: head.sop,
            sop_class: head.sop_class,
            series: head.series,
            transfer_syntax: part10.transfer_syntax,
            number: head.instance_number,
            bytes: bytes.len() as u64,
            file: u32::try_from(file).unwrap_or(u32::MAX),
        })
    }
}

/// Tells what will never be read again from what may be read later.
fn unreadable(chunk: u32, source: StoreError) -> DecodeTrouble {
    if scrub::is_damage(&source) {
        DecodeTrouble::Damaged { chunk, source }
    } else {
        DecodeTrouble::Read(source)
    }
}

/// How many of the open groups stay, by what each may take, newest first: the newest, and those
/// that fit beside it.
fn kept_open(groups: impl Iterator<Item = u64>, bytes_max: usize) -> usize {
    let mut room = bytes_max as u64;
    let fit = groups.take_while(|bytes| {
        let left = room.checked_sub(*bytes);
        room = left.unwrap_or(0);
        left.is_some()
    });
    fit.count().clamp(1, OPEN_GROUPS_MAX)
}

/// Marks a group as decoded; says whether that makes its manifest whole.
///
/// A chunk of it may have been forgotten since it was read: then the group is not marked, and is
/// decoded again when that chunk has come again.
fn close_group(sql: &Connection, home: Home) -> rusqlite::Result<bool> {
    sql.execute(
        "UPDATE chunk_group AS g SET decoded = 1 WHERE manifest = ?1 AND number = ?2 AND NOT EXISTS
             (SELECT 1 FROM chunk c WHERE c.manifest = g.manifest AND c.segment IS NULL
              AND c.number >= g.first AND c.number < g.first + g.chunks)",
        params![home.manifest, home.group],
    )?;
    mark_decoded(sql, home.manifest)
}

/// Marks a manifest as decoded when all its groups are.
pub(crate) fn mark_decoded(sql: &Connection, manifest: ManifestId) -> rusqlite::Result<bool> {
    let changed = sql.execute(
        "UPDATE manifest SET state = ?2 WHERE id = ?1 AND state = ?3 AND NOT EXISTS
             (SELECT 1 FROM chunk_group g WHERE g.manifest = ?1 AND g.decoded = 0)",
        params![
            manifest,
            RevisionState::Decoded.code(),
            RevisionState::Arriving.code()
        ],
    )?;
    Ok(changed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_groups_take_no_more_memory_than_one_may() {
        let kept = |groups: &[u64]| kept_open(groups.iter().copied(), 100);
        assert_eq!(kept(&[40, 40, 20, 0, 0]), 4);
        assert_eq!(kept(&[40, 40, 40]), 2);
        assert_eq!(kept(&[70, 70, 10]), 1);
        assert_eq!(kept(&[u64::MAX, 1]), 1);
    }
}
