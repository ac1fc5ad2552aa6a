//! Fetching: the exact bytes of what is held, from intake records or from packed groups.

use std::sync::Arc;

use codec::{Decoder, Limits};
use store::rusqlite::{Connection, Row, params};
use store::{Location, RecordKind, StoreError};
use study::dataset::InstanceHead;
use study::part10::Part10;
use study::{Digest, InstanceDigest, SopInstanceUid};
use thiserror::Error;

use super::Vault;

/// A whole DICOM file as it was taken in.
pub(super) const INTAKE_FILE: RecordKind = RecordKind(1);
/// One codec unit: a chunk as it crosses.
pub(super) const PACKED_UNIT: RecordKind = RecordKind(2);

/// Says why bytes that should be held cannot be given.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No instance with this UID is held.
    #[error("no instance {0} is held in this box")]
    Unknown(SopInstanceUid),
    /// Fewer instances share this UID than was asked for.
    #[error("instance {sop} has {kept} version(s), not {asked}")]
    NoSuchVersion {
        /// The instance.
        sop: SopInstanceUid,
        /// How many are held.
        kept: usize,
        /// Which one was wanted.
        asked: u32,
    },
    /// The index leads to something else; it is not given out.
    #[error("what is stored is not instance {0} as it was taken in")]
    Other(SopInstanceUid),
    /// What is on disk is damaged; it is not given out.
    #[error("what is stored is damaged")]
    Damaged(#[source] codec::DecodeError),
    /// The disk or the index refused.
    #[error("the vault cannot be read")]
    Store(#[from] StoreError),
    /// The index refused.
    #[error("the vault's index cannot be read")]
    Index(#[from] store::rusqlite::Error),
}

impl FetchError {
    /// Whether the bytes are gone or damaged, so that to try again is no use.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Other(_) => true,
            Self::Store(StoreError::Damaged { .. } | StoreError::NoSegment(_)) => true,
            Self::Store(StoreError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            Self::Unknown(_) | Self::NoSuchVersion { .. } | Self::Store(_) | Self::Index(_) => {
                false
            }
        }
    }
}

/// One held instance, as the file that was taken in.
#[derive(Debug)]
pub struct KeptFile {
    /// The file's bytes (PS3.10).
    pub bytes: Vec<u8>,
    /// How many instances are held under this UID.
    pub versions: usize,
}

/// Where an instance's bytes are said to be.
enum Place {
    Intake(Location),
    Packed { group: i64, file: usize },
}

/// One instance as the index has it.
struct Entry {
    place: Place,
    digest: InstanceDigest,
}

impl Vault {
    /// Gives the exact bytes of an instance; `version` counts from 1 those that share the UID.
    pub fn file(&self, sop: &SopInstanceUid, version: u32) -> Result<KeptFile, FetchError> {
        match self.read_file(sop, version) {
            // It was packed, and its intake segment let go, after we had looked where it is.
            Err(FetchError::Store(StoreError::NoSegment(_))) => self.read_file(sop, version),
            read => read,
        }
    }

    fn read_file(&self, sop: &SopInstanceUid, version: u32) -> Result<KeptFile, FetchError> {
        let entries = self.0.readers.with(|sql| entries(sql, sop))?;
        if entries.is_empty() {
            return Err(FetchError::Unknown(sop.clone()));
        }
        let versions = entries.len();
        let index = usize::try_from(version)
            .unwrap_or(usize::MAX)
            .wrapping_sub(1);
        let entry = entries
            .into_iter()
            .nth(index)
            .ok_or_else(|| FetchError::NoSuchVersion {
                sop: sop.clone(),
                kept: versions,
                asked: version,
            })?;
        let bytes = match entry.place {
            Place::Intake(location) => self.0.writer.segments().read(&location)?.into_body(),
            Place::Packed { group, file } => self.unpack(group, file)?,
        };
        // Segments and units carry digests of their own; that the index leads to the right one is
        // checked here.
        if !is_instance(&bytes, sop, &entry.digest) {
            return Err(FetchError::Other(sop.clone()));
        }
        Ok(KeptFile { bytes, versions })
    }

    /// Decodes one file of a packed group, reading only the units that it needs.
    fn unpack(&self, group: i64, file: usize) -> Result<Vec<u8>, FetchError> {
        let units = self.0.readers.with(|sql| units_of_group(sql, group))?;
        let read = |location: &Location| {
            self.0
                .writer
                .segments()
                .read(location)
                .map(store::Record::into_body)
        };
        let mut decoder = Decoder::new(Limits::default());
        let mut rest = units.iter();
        while decoder.files().is_none() {
            // The table's units come first; a group without them is found damaged below.
            let Some(location) = rest.next() else { break };
            decoder
                .push(&read(location)?)
                .map_err(FetchError::Damaged)?;
        }
        for number in decoder.units_of(file).unwrap_or_default() {
            if let Some(location) = usize::try_from(number).ok().and_then(|n| units.get(n)) {
                decoder
                    .push(&read(location)?)
                    .map_err(FetchError::Damaged)?;
            }
        }
        decoder.file(file).map_err(FetchError::Damaged)
    }

    /// Reads one chunk of a revision, as it is to cross; its digest has been checked.
    pub fn chunk(&self, manifest: &Digest, number: u32) -> Result<Arc<[u8]>, FetchError> {
        let location = self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT c.segment, c.offset, c.length FROM chunk c
                 JOIN revision r USING (study_uid, revision)
                 WHERE r.manifest_digest = ?1 AND c.number = ?2",
            )?
            .query_row(params![manifest.as_bytes(), number], |row| {
                Location::from_row(row, 0)
            })
        })?;
        Ok(self.0.writer.segments().read(&location)?.into_body().into())
    }

    /// Reads an intake record: the file as it was taken in.
    pub fn intake_file(&self, location: &Location) -> Result<Vec<u8>, FetchError> {
        Ok(self.0.writer.segments().read(location)?.into_body())
    }
}

/// Whether a file is the instance with this UID and this digest.
fn is_instance(file: &[u8], sop: &SopInstanceUid, digest: &InstanceDigest) -> bool {
    let Ok(parts) = Part10::parse(file) else {
        return false;
    };
    let data_set = file.get(parts.data_set).unwrap_or_default();
    let head = InstanceHead::read(data_set, &parts.transfer_syntax);
    head.is_ok_and(|head| head.sop == *sop)
        && InstanceDigest::of(&parts.transfer_syntax, data_set) == *digest
}

fn entries(sql: &Connection, sop: &SopInstanceUid) -> store::rusqlite::Result<Vec<Entry>> {
    sql.prepare_cached(
        "SELECT segment, offset, length, group_id, file_number, digest FROM instance
         WHERE sop_uid = ?1 ORDER BY instance_id",
    )?
    .query_map([sop.as_str()], entry)?
    .collect()
}

fn entry(row: &Row<'_>) -> store::rusqlite::Result<Entry> {
    let place = match row.get::<_, Option<i64>>(3)? {
        Some(group) => Place::Packed {
            group,
            file: row.get(4)?,
        },
        None => Place::Intake(Location::from_row(row, 0)?),
    };
    let digest = InstanceDigest::from_digest(Digest::from_bytes(row.get(5)?));
    Ok(Entry { place, digest })
}

fn units_of_group(sql: &Connection, group: i64) -> store::rusqlite::Result<Vec<Location>> {
    sql.prepare_cached(
        "SELECT segment, offset, length FROM chunk WHERE group_id = ?1 ORDER BY number",
    )?
    .query_map([group], |row| Location::from_row(row, 0))?
    .collect()
}
