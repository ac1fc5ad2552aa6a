//! A group of chunks at rest, read chunk by chunk: the one place where chunks are opened.

use codec::{DecodeError, Decoder, Limits};
use sealing::{DataKey, EnvelopeError, KeyEnvelope, OpenError, StoreKey, UnsealError};
use store::rusqlite::{self, Connection, OptionalExtension as _, Row, params};
use store::{Location, Segments, StoreError};
use study::{GroupForm, StudyUid};
use thiserror::Error;

use crate::db::{self, ManifestId};

/// A group of chunks: its manifest and its number in it.
pub(crate) type GroupKey = (ManifestId, u32);

/// Why a manifest's chunks cannot be opened here, whatever is in them.
#[derive(Debug, Error)]
pub(crate) enum KeyFault {
    /// There is no envelope: plain chunks, or sealed to the box alone.
    #[error("its chunks are not sealed to this hub")]
    NoEnvelope,
    /// What stands in the envelope's place is none.
    #[error("its chunks are not sealed to this hub")]
    NotAnEnvelope(#[source] EnvelopeError),
    /// The envelope is for another store key, or another study.
    #[error("its chunks are not sealed to this hub")]
    Sealed(#[source] UnsealError),
}

/// Opens the data key that came with a manifest of a study.
pub(crate) fn data_key(
    envelope: Option<&[u8]>,
    study: &StudyUid,
    store: &StoreKey,
) -> Result<DataKey, KeyFault> {
    let envelope = envelope.ok_or(KeyFault::NoEnvelope)?;
    KeyEnvelope::from_cbor(envelope)
        .map_err(KeyFault::NotAnEnvelope)?
        .open(study.as_str(), store)
        .map_err(KeyFault::Sealed)
}

/// Why a group that is known cannot be taken up.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    /// The index cannot be read.
    #[error("the index cannot be read")]
    Index(#[from] rusqlite::Error),
    /// The data key was opened when the manifest came, and does not open any more.
    #[error("a data key at rest cannot be opened")]
    Key(#[from] KeyFault),
}

/// Why a chunk was not taken.
#[derive(Debug, Error)]
pub(crate) enum ChunkFault {
    /// It cannot be read from the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was not sealed with the data key of its manifest.
    #[error("the chunk cannot be opened")]
    Sealed(#[from] OpenError),
    /// What was sealed is not what the codec takes.
    #[error("the chunk cannot be decoded")]
    Codec(#[from] DecodeError),
}

/// A group of which some chunks were read; its data key is wiped when it is dropped.
pub(crate) struct OpenGroup {
    key: DataKey,
    taken: Vec<bool>,
    content: Content,
}

enum Content {
    /// Units of the codec.
    Codec(Box<Decoder>),
    /// Pieces of one file, which has so many bytes when all are here.
    File { pieces: Vec<Vec<u8>>, bytes: u64 },
}

impl OpenGroup {
    /// Takes up a group of which nothing was read yet; none when the index does not know it.
    pub(crate) fn load(
        sql: &Connection,
        (manifest, group): GroupKey,
        store: &StoreKey,
        limits: &Limits,
    ) -> Result<Option<Self>, LoadError> {
        let row = sql
            .prepare_cached(
                "SELECT m.envelope, s.uid, g.form, g.chunks, g.bytes_original FROM chunk_group g
                 JOIN manifest m ON m.id = g.manifest JOIN study s ON s.id = m.study
                 WHERE g.manifest = ?1 AND g.number = ?2",
            )?
            .query_row(params![manifest, group], |row| {
                let envelope: Option<Vec<u8>> = row.get(0)?;
                let (chunks, bytes): (u32, u64) = (row.get(3)?, db::uint(row, 4)?);
                Ok((envelope, db::parsed(row, 1)?, form(row, 2)?, chunks, bytes))
            })
            .optional()?;
        let Some((envelope, study, form, chunks, bytes)) = row else {
            return Ok(None);
        };
        let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
        Ok(Some(Self {
            key: data_key(envelope.as_deref(), &study, store)?,
            taken: vec![false; chunks],
            content: match form {
                GroupForm::Codec => Content::Codec(Box::new(Decoder::new(*limits))),
                GroupForm::File => Content::File {
                    pieces: vec![Vec::new(); chunks],
                    bytes,
                },
            },
        }))
    }

    /// Reads and opens the chunk at a place in the group; one that was taken before is not read.
    pub(crate) fn take(
        &mut self,
        place: usize,
        location: &Location,
        segments: &Segments,
    ) -> Result<(), ChunkFault> {
        if self.taken.get(place).copied() != Some(false) {
            return Ok(());
        }
        let opened = self.key.open(segments.read(location)?.body())?;
        match &mut self.content {
            Content::Codec(decoder) => decoder.push(&opened)?,
            Content::File { pieces, .. } => pieces[place] = opened,
        }
        self.taken[place] = true;
        Ok(())
    }

    /// How many files the group holds, as soon as that can be told: no later chunk of the codec
    /// can be read before.
    pub(crate) fn files(&self) -> Option<usize> {
        match &self.content {
            Content::Codec(decoder) => decoder.files().map(<[_]>::len),
            Content::File { .. } => Some(1),
        }
    }

    /// The places of the chunks that a file is made of; none of them before [`Self::files`] tells.
    pub(crate) fn places_of(&self, file: usize) -> Vec<usize> {
        match &self.content {
            Content::Codec(decoder) => {
                let units = decoder.units_of(file).unwrap_or_default();
                let place = |unit| usize::try_from(unit).unwrap_or(usize::MAX);
                units.into_iter().map(place).collect()
            }
            Content::File { .. } => (0..self.taken.len()).collect(),
        }
    }

    /// Whether [`Self::file`] has all that it needs.
    pub(crate) fn ready(&self, file: usize) -> bool {
        match &self.content {
            Content::Codec(decoder) => decoder.ready(file),
            Content::File { .. } => self.is_whole(),
        }
    }

    /// Whether every chunk was taken.
    pub(crate) fn is_whole(&self) -> bool {
        self.taken.iter().all(|taken| *taken)
    }

    /// The exact bytes of a file.
    pub(crate) fn file(&self, file: usize) -> Result<Vec<u8>, DecodeError> {
        match &self.content {
            Content::Codec(decoder) => decoder.file(file),
            Content::File { .. } if file > 0 => Err(DecodeError::NoSuchFile(file)),
            Content::File { .. } if !self.is_whole() => Err(DecodeError::Incomplete(file)),
            Content::File { pieces, .. } => Ok(pieces.concat()),
        }
    }

    /// How much memory the group takes when all of it is here.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Codec(decoder) => {
                let files = decoder.files().unwrap_or_default();
                files.iter().map(|file| file.bytes).sum()
            }
            Content::File { bytes, .. } => *bytes,
        }
    }
}

/// The number of a form in its column.
pub(crate) const fn form_code(form: GroupForm) -> u8 {
    match form {
        GroupForm::Codec => 0,
        GroupForm::File => 1,
    }
}

fn form(row: &Row<'_>, column: usize) -> rusqlite::Result<GroupForm> {
    let code: i64 = row.get(column)?;
    [GroupForm::Codec, GroupForm::File]
        .into_iter()
        .find(|form| i64::from(form_code(*form)) == code)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, code))
}
