//! Looking through one whole segment, as who rebuilds an index or scrubs a disk does.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::{Damage, StoreError};
use crate::name::{Location, SegmentName};
use crate::record::Head;
use crate::recovery::{Found, Look, Unreadable, header_behind, look};
use crate::segments::Segments;

/// What lies next in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// A whole record, its digest verified.
    Whole(Found),
    /// Bytes that are no whole record.
    Damaged {
        /// Up to where the next record begins, or the segment ends.
        range: Range<u64>,
        /// What is wrong at the first of them.
        damage: Damage,
        /// What the header says, if that is whole and only the body is not the one that was stored.
        header: Option<Box<Found>>,
    },
}

/// Goes through a segment from its first byte to its last; nothing is left out, and nothing is changed.
///
/// An error ends it.
pub struct Scan {
    segment: SegmentName,
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
}

impl Segments {
    /// Looks through a segment, with the bytes from the medium and not from the kernel's memory.
    ///
    /// It goes as far as the segment goes now; while the writer appends to it, its end may look torn. Memory is
    /// bounded: no body is ever held as a whole.
    pub fn scan(&self, segment: &SegmentName) -> Result<Scan, StoreError> {
        let file = self.file(segment)?;
        file.forget_cached(0..u64::MAX)
            .map_err(StoreError::io("read again", segment))?;
        let end = file.bytes().map_err(StoreError::io("scan", segment))?;
        Ok(Scan {
            segment: segment.clone(),
            file,
            at: 0,
            end,
        })
    }
}

impl Scan {
    fn step(&self) -> io::Result<Scanned> {
        let (file, at, end) = (self.file.as_ref(), self.at, self.end);
        let (until, damage) = match look(file, at, end, Unreadable::Skipped)? {
            Look::Whole(head) => return Ok(Scanned::Whole(self.found(head))),
            Look::BadBody { head, damage } => {
                let found = self.found(head);
                return Ok(Scanned::Damaged {
                    range: at..at + found.location.bytes,
                    damage,
                    header: Some(Box::new(found)),
                });
            }
            // A record inside a record's body is none: not looked for.
            Look::TornBody => (end, Damage::Short),
            Look::NoHeader(damage) => {
                let next = header_behind(file, at + 1, end, Unreadable::Skipped)?;
                (next.unwrap_or(end), damage)
            }
        };
        Ok(Scanned::Damaged {
            range: at..until,
            damage,
            header: None,
        })
    }

    fn found(&self, head: Head) -> Found {
        Found {
            location: Location {
                segment: self.segment.clone(),
                offset: self.at,
                bytes: head.head_bytes + head.body_bytes,
            },
            header: head.header,
            digest: head.digest,
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Scanned, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let scanned = self.step();
        self.at = match &scanned {
            Ok(Scanned::Whole(found)) => found.location.offset + found.location.bytes,
            Ok(Scanned::Damaged { range, .. }) => range.end,
            Err(_) => self.end,
        };
        Some(scanned.map_err(StoreError::io("scan", &self.segment)))
    }
}
