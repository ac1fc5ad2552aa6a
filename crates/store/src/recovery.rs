//! What a crash left behind the part of a segment that the index knows.

use std::io;
use std::ops::Range;

use study::Digest;

use crate::disk::DiskFile;
use crate::error::{Damage, StoreError};
use crate::name::{Location, SegmentName};
use crate::record::{FIXED_BYTES, Head, MAGIC, RecordHeader};
use crate::segments::{Segments, read_head};

const BLOCK_BYTES: usize = 1 << 20;

/// A whole record that the index does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub location: Location,
    /// Its header.
    pub header: RecordHeader,
    /// The digest of its body, verified.
    pub digest: Digest,
}

/// The result of looking through one segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Whole records, in their order; none was ever acknowledged, unless the index was lost.
    pub found: Vec<Found>,
    /// How much was cut off as torn.
    pub truncated_bytes: u64,
    /// What is neither whole nor the torn end; left as it is.
    pub damaged: Vec<Range<u64>>,
    /// How much the index knows of that the file does not have.
    pub missing_bytes: u64,
}

enum Look {
    Whole(Head),
    /// The header is whole and says how long the record is; the body is not the one that was stored.
    RottenBody(u64),
    /// The header is whole, the body is not all there.
    TornBody,
    NoHeader,
}

impl Segments {
    /// Looks behind `known_upto`, the end of the last record of this segment that the index knows (0 if it knows
    /// none), hands out what is whole and truncates what is torn.
    ///
    /// What is handed out is synced, and was read from the disk rather than from what the kernel remembers.
    pub fn recover(
        &mut self,
        segment: &SegmentName,
        known_upto: u64,
    ) -> Result<Recovered, StoreError> {
        let file = self.file(segment)?;
        file.sync_data().map_err(StoreError::io("sync", segment))?;
        file.forget_cached()
            .map_err(StoreError::io("read again", segment))?;
        let failed = || StoreError::io("recover", segment);

        let end = file.bytes().map_err(failed())?;
        let mut recovered = Recovered {
            missing_bytes: known_upto.saturating_sub(end),
            ..Recovered::default()
        };
        let mut at = known_upto;
        while at < end {
            let location = |bytes| Location {
                segment: segment.clone(),
                offset: at,
                bytes,
            };
            at = match look(file.as_ref(), at, end).map_err(failed())? {
                Ok(Look::Whole(head)) => {
                    let bytes = head.head_bytes + head.body_bytes;
                    let found = Found {
                        location: location(bytes),
                        header: head.header,
                        digest: head.digest,
                    };
                    recovered.found.push(found);
                    at + bytes
                }
                Ok(Look::RottenBody(bytes)) => {
                    recovered.damaged.push(at..at + bytes);
                    at + bytes
                }
                Ok(Look::NoHeader)
                    if header_behind(file.as_ref(), at + 1, end).map_err(failed())? =>
                {
                    recovered.damaged.push(at..end);
                    end
                }
                Ok(Look::NoHeader | Look::TornBody) => {
                    file.truncate(at)
                        .map_err(StoreError::io("truncate", segment))?;
                    recovered.truncated_bytes = end - at;
                    end
                }
                Err(damage) => {
                    return Err(StoreError::Damaged {
                        location: location(end - at),
                        damage,
                    });
                }
            };
        }
        Ok(recovered)
    }
}

/// The inner error is a version that this program does not know: nothing behind it can be understood.
fn look(file: &dyn DiskFile, at: u64, end: u64) -> io::Result<Result<Look, Damage>> {
    let head = match read_head(file, at, end)? {
        Ok(head) => head,
        Err(version @ Damage::Version(_)) => return Ok(Err(version)),
        Err(Damage::Short | Damage::NoRecord | Damage::Header | Damage::Length | Damage::Body) => {
            return Ok(Ok(Look::NoHeader));
        }
    };
    let body = at + head.head_bytes;
    let Some(next) = body
        .checked_add(head.body_bytes)
        .filter(|next| *next <= end)
    else {
        return Ok(Ok(Look::TornBody));
    };
    let whole = digest_of(file, body..next)? == head.digest;
    Ok(Ok(if whole {
        Look::Whole(head)
    } else {
        Look::RottenBody(next - at)
    }))
}

fn digest_of(file: &dyn DiskFile, mut range: Range<u64>) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    while !range.is_empty() {
        let bytes = block_bytes(&range);
        file.read_exact_at(&mut block[..bytes], range.start)?;
        hasher.update(&block[..bytes]);
        range.start += bytes as u64;
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// Tells whether a whole header starts anywhere in `from..end`.
fn header_behind(file: &dyn DiskFile, from: u64, end: u64) -> io::Result<bool> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut range = from..end;
    while range.end.saturating_sub(range.start) >= FIXED_BYTES as u64 {
        let bytes = block_bytes(&range);
        file.read_exact_at(&mut block[..bytes], range.start)?;
        for (index, window) in block[..bytes].windows(MAGIC.len()).enumerate() {
            if window == MAGIC && read_head(file, range.start + index as u64, end)?.is_ok() {
                return Ok(true);
            }
        }
        // A mark may lie across the border of two blocks.
        range.start += (bytes - (MAGIC.len() - 1)) as u64;
    }
    Ok(false)
}

fn block_bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).map_or(BLOCK_BYTES, |bytes| bytes.min(BLOCK_BYTES))
}
