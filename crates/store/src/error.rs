//! What can go wrong below the index and in it.

use std::io;
use std::path::PathBuf;

use rusqlite::ffi::{SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR_SHMOPEN, SQLITE_IOERR_SHMSIZE};
use thiserror::Error;

use crate::name::{Location, SegmentName};

/// Says what the store tried, on what, and why it failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The disk has no room for this record; nothing of it is left behind.
    #[error("no space left for {bytes} bytes in family {family}")]
    Full {
        /// The family that was appended to.
        family: String,
        /// How long the record is.
        bytes: u64,
    },
    /// The disk refused an operation.
    #[error("cannot {action} {name}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file, or the folder.
        name: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// There is no such segment.
    #[error("segment {0} does not exist")]
    NoSegment(SegmentName),
    /// What is stored at a place is not the record that was stored there.
    #[error("record at {}+{} is damaged", location.segment, location.offset)]
    Damaged {
        /// Where it should be.
        location: Location,
        /// What is wrong with it.
        #[source]
        damage: Damage,
    },
    /// A family may be 1 to 64 characters of a-z, 0-9 and `-`.
    #[error("{0:?} is not the name of a family")]
    Family(String),
    /// A run has one record at least.
    #[error("a run of no records")]
    EmptyRun,
    /// Envelope and meta may have 65,535 bytes each.
    #[error("{part} of {bytes} bytes is too long for a record header")]
    HeaderTooLong {
        /// `envelope` or `meta`.
        part: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// The index could not be opened.
    #[error("cannot open the index {path}")]
    OpenIndex {
        /// The database file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// The index was made by a later version of the program.
    #[error("the index {path} has schema {found}, this program knows {known}")]
    NewerIndex {
        /// The database file.
        path: PathBuf,
        /// The schema's number in the file.
        found: i64,
        /// The highest number that this program knows.
        known: usize,
    },
    /// The index could not be brought to this program's schema.
    #[error("schema change {number} failed")]
    Migration {
        /// The number of the change, from 1.
        number: usize,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A reader has kept the index's log from being emptied; it may be tried again.
    #[error("a reader is in the way of emptying the index's log")]
    LogInUse,
    /// The index refused a statement.
    #[error("the index refused a statement")]
    Index(#[from] rusqlite::Error),
    /// The writer's thread ended by a panic.
    #[error("the writer's thread ended by a panic")]
    WriterPanicked,
}

impl StoreError {
    /// Whether room on the disk may be all that is missing.
    ///
    /// SQLite says of a file that it cannot make only that it cannot open it.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => is_full(source),
            Self::OpenIndex { source, .. }
            | Self::Migration { source, .. }
            | Self::Index(source) => index_is_full(source),
            Self::NoSegment(_)
            | Self::Damaged { .. }
            | Self::Family(_)
            | Self::EmptyRun
            | Self::HeaderTooLong { .. }
            | Self::NewerIndex { .. }
            | Self::LogInUse
            | Self::WriterPanicked => false,
        }
    }

    pub(crate) fn io(action: &'static str, name: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            name: name.to_string(),
            source,
        }
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn index_is_full(error: &rusqlite::Error) -> bool {
    let Some(cause) = error.sqlite_error() else {
        return false;
    };
    let cannot_grow = [
        SQLITE_FULL,
        SQLITE_CANTOPEN,
        SQLITE_IOERR_SHMOPEN,
        SQLITE_IOERR_SHMSIZE,
    ];
    cannot_grow.contains(&cause.extended_code)
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// The segment ends before the record does.
    #[error("the segment ends before the record does")]
    Short,
    /// There is no record's mark.
    #[error("no record starts here")]
    NoRecord,
    /// The header's checksum is wrong.
    #[error("the header's checksum is wrong")]
    Header,
    /// The record is not as long as it should be.
    #[error("the record has another length")]
    Length,
    /// The body's digest is wrong.
    #[error("the body's digest is wrong")]
    Body,
    /// The medium does not give the bytes back.
    #[error("the medium does not give the bytes back")]
    Unreadable,
    /// A later version of the program wrote it.
    #[error("its version {0} is not known to this program")]
    Version(u8),
}
