//! Fetching: the exact bytes of what is held, from intake records or from packed groups.

use std::sync::Arc;

use codec::{Decoder, Limits};
use sealing::{KeyId, KeyringError};
use store::rusqlite::{Connection, Row, params};
use store::{Location, StoreError};
use study::dataset::InstanceHead;
use study::part10::Part10;
use study::{Digest, GroupForm, InstanceDigest, SopInstanceUid};
use thiserror::Error;

use super::Vault;
use super::batches::BatchItem;
use super::columns::form;
use crate::keys::Locked;

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
    /// The index leads to another chunk; it is not sent.
    #[error("what is stored is not chunk {0} of its revision")]
    OtherChunk(u32),
    /// It was let go after the hub had taken custody, or erased.
    #[error("instance {0} is not in this box any more")]
    Gone(SopInstanceUid),
    /// Nobody has given the PIN.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The data key is not kept here: it was erased, or the index has lost it.
    #[error("data key {0} is not kept here any more")]
    NoKey(KeyId),
    /// The data key cannot be opened.
    #[error("the data key cannot be used")]
    Key(#[source] KeyringError),
    /// What is on disk does not open; it is not given out.
    #[error("what is stored does not open")]
    Sealed(#[source] sealing::OpenError),
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
            Self::Damaged(_)
            | Self::Other(_)
            | Self::OtherChunk(_)
            | Self::Sealed(_)
            | Self::NoKey(_) => true,
            Self::Store(StoreError::Damaged { .. } | StoreError::NoSegment(_)) => true,
            Self::Store(StoreError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            Self::Unknown(_)
            | Self::NoSuchVersion { .. }
            | Self::Gone(_)
            | Self::Locked(_)
            | Self::Key(_)
            | Self::Store(_)
            | Self::Index(_) => false,
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
    Gone,
}

/// One instance as the index has it.
struct Entry {
    place: Place,
    digest: InstanceDigest,
}

/// A packed group that was read whole.
pub(super) enum OpenGroup {
    Codec(Box<Decoder>),
    File(Vec<u8>),
}

impl OpenGroup {
    /// The exact bytes of one of its files.
    pub(super) fn file(&self, number: usize) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::Codec(decoder) => decoder.file(number).map_err(FetchError::Damaged),
            Self::File(bytes) => Ok(bytes.clone()),
        }
    }
}

impl Vault {
    /// Gives the exact bytes of an instance; `version` counts from 1 those that share the UID.
    pub fn file(&self, sop: &SopInstanceUid, version: u32) -> Result<KeptFile, FetchError> {
        self.0.keys.readable()?;
        match self.read_file(sop, version) {
            // It was packed, and its intake segment let go, after we had looked where it is; or the
            // study has left the box since.
            Err(
                FetchError::Store(StoreError::NoSegment(_))
                | FetchError::NoKey(_)
                | FetchError::Index(store::rusqlite::Error::QueryReturnedNoRows),
            ) => self.read_file(sop, version),
            read => read,
        }
    }

    /// Does what [`Vault::file`] does for a room that checks: nobody counts as reading, and so a vault
    /// that is idle locks all the same.
    pub fn checked_file(&self, sop: &SopInstanceUid) -> Result<KeptFile, FetchError> {
        if !self.0.keys.is_readable() {
            return Err(Locked.into());
        }
        self.read_file(sop, 1)
    }

    pub(super) fn read_file(
        &self,
        sop: &SopInstanceUid,
        version: u32,
    ) -> Result<KeptFile, FetchError> {
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
            Place::Intake(run) => self.joined(&self.0.writer.segments().split_run(&run)?)?,
            Place::Packed { group, file } => self.unpack(group, file)?,
            Place::Gone => return Err(FetchError::Gone(sop.clone())),
        };
        // Segments and units carry digests of their own; that the index leads to the right one is
        // checked here.
        if !is_instance(&bytes, sop, &entry.digest) {
            return Err(FetchError::Other(sop.clone()));
        }
        Ok(KeptFile { bytes, versions })
    }

    /// Gives one file of a packed group, reading only the records that it needs.
    fn unpack(&self, group: i64, file: usize) -> Result<Vec<u8>, FetchError> {
        let (form, records) = self.0.readers.with(|sql| records_of_group(sql, group))?;
        match form {
            GroupForm::Codec => self.decode(&records, file),
            GroupForm::File => self.joined(&records),
        }
    }

    /// Reads a packed group whole.
    pub(super) fn open_group(&self, group: i64) -> Result<OpenGroup, FetchError> {
        let (form, records) = self.0.readers.with(|sql| records_of_group(sql, group))?;
        Ok(match form {
            GroupForm::File => OpenGroup::File(self.joined(&records)?),
            GroupForm::Codec => {
                let mut decoder = Decoder::new(Limits::default());
                for location in &records {
                    decoder
                        .push(&self.open_at(location)?)
                        .map_err(FetchError::Damaged)?;
                }
                OpenGroup::Codec(Box::new(decoder))
            }
        })
    }

    fn decode(&self, units: &[Location], file: usize) -> Result<Vec<u8>, FetchError> {
        let mut decoder = Decoder::new(Limits::default());
        let mut rest = units.iter();
        while decoder.files().is_none() {
            // The table's units come first; a group without them is found damaged below.
            let Some(location) = rest.next() else { break };
            decoder
                .push(&self.open_at(location)?)
                .map_err(FetchError::Damaged)?;
        }
        for number in decoder.units_of(file).unwrap_or_default() {
            if let Some(location) = usize::try_from(number).ok().and_then(|n| units.get(n)) {
                decoder
                    .push(&self.open_at(location)?)
                    .map_err(FetchError::Damaged)?;
            }
        }
        decoder.file(file).map_err(FetchError::Damaged)
    }

    /// Opens the pieces of a file, in their order.
    fn joined(&self, pieces: &[Location]) -> Result<Vec<u8>, FetchError> {
        let mut file = Vec::new();
        for piece in pieces {
            file.extend_from_slice(&self.open_at(piece)?);
        }
        Ok(file)
    }

    /// Reads a record and opens its body.
    fn open_at(&self, location: &Location) -> Result<Vec<u8>, FetchError> {
        let record = self.0.writer.segments().read(location)?;
        self.open_sealed(record.body())
    }

    /// Reads one chunk of a revision, as it is to cross; its digest has been checked.
    pub fn chunk(&self, manifest: &Digest, number: u32) -> Result<Arc<[u8]>, FetchError> {
        let (location, digest) = self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT c.segment, c.offset, c.length, c.digest FROM chunk c
                 JOIN revision r USING (study_uid, revision)
                 WHERE r.manifest_digest = ?1 AND c.number = ?2",
            )?
            .query_row(params![manifest.as_bytes(), number], |row| {
                let digest = Digest::from_bytes(row.get(3)?);
                Ok((Location::from_row(row, 0)?, digest))
            })
        })?;
        let record = self.0.writer.segments().read(&location)?;
        if *record.digest() != digest {
            return Err(FetchError::OtherChunk(number));
        }
        Ok(record.into_body().into())
    }

    /// Reads an instance that is to be packed: the file as it was taken in.
    pub fn intake_file(&self, item: &BatchItem) -> Result<Vec<u8>, FetchError> {
        let file = self.joined(&self.0.writer.segments().split_run(&item.location)?)?;
        if is_instance(&file, &item.sop, &item.digest) {
            Ok(file)
        } else {
            Err(FetchError::Other(item.sop.clone()))
        }
    }
}

/// Whether a file is the instance with this UID and this digest.
pub(super) fn is_instance(file: &[u8], sop: &SopInstanceUid, digest: &InstanceDigest) -> bool {
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
        "SELECT segment, offset, length, group_id, file_number, digest, gone FROM instance
         WHERE sop_uid = ?1 ORDER BY instance_id",
    )?
    .query_map([sop.as_str()], entry)?
    .collect()
}

fn entry(row: &Row<'_>) -> store::rusqlite::Result<Entry> {
    let place = match row.get::<_, Option<i64>>(3)? {
        _ if row.get::<_, u8>(6)? > 0 => Place::Gone,
        Some(group) => Place::Packed {
            group,
            file: row.get(4)?,
        },
        None => Place::Intake(Location::from_row(row, 0)?),
    };
    let digest = InstanceDigest::from_digest(Digest::from_bytes(row.get(5)?));
    Ok(Entry { place, digest })
}

fn records_of_group(
    sql: &Connection,
    group: i64,
) -> store::rusqlite::Result<(GroupForm, Vec<Location>)> {
    let form = sql
        .prepare_cached("SELECT form FROM pack_group WHERE group_id = ?1")?
        .query_row([group], |row| form(row, 0))?;
    let records = sql
        .prepare_cached(
            "SELECT segment, offset, length FROM chunk WHERE group_id = ?1 ORDER BY number",
        )?
        .query_map([group], |row| Location::from_row(row, 0))?
        .collect::<store::rusqlite::Result<_>>()?;
    Ok((form, records))
}
