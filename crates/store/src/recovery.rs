//! What a crash left behind the part of a segment that the index knows.

use std::io;
use std::ops::Range;

use study::Digest;

use crate::disk::DiskFile;
use crate::error::{Damage, StoreError};
use crate::name::{Location, SegmentName};
use crate::reading::read_head;
use crate::record::{FIXED_BYTES, Head, MAGIC, RecordHeader};
use crate::segments::Segments;

const BLOCK_BYTES: usize = 1 << 20;
/// What a medium fails to give back, it fails to give back in pieces of at least this.
const UNREADABLE_BYTES: u64 = 4096;

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

pub(crate) enum Look {
    Whole(Head),
    /// The header is whole and says how long the record is; the body is not the one that was stored.
    BadBody {
        head: Head,
        damage: Damage,
    },
    /// The header is whole, the body is not all there.
    TornBody,
    NoHeader(Damage),
}

/// What is done about bytes that the medium does not give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// They are an error.
    Fails,
    /// They are damage.
    Skipped,
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
        file.forget_cached(0..u64::MAX)
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
            at = match look(file.as_ref(), at, end, Unreadable::Fails).map_err(failed())? {
                Look::Whole(head) => {
                    let bytes = head.head_bytes + head.body_bytes;
                    let found = Found {
                        location: location(bytes),
                        header: head.header,
                        digest: head.digest,
                    };
                    recovered.found.push(found);
                    at + bytes
                }
                Look::BadBody { head, .. } => {
                    let bytes = head.head_bytes + head.body_bytes;
                    recovered.damaged.push(at..at + bytes);
                    at + bytes
                }
                // Nothing behind it can be understood.
                Look::NoHeader(damage @ Damage::Version(_)) => {
                    return Err(StoreError::Damaged {
                        location: location(end - at),
                        damage,
                    });
                }
                Look::NoHeader(_)
                    if header_behind(file.as_ref(), at + 1, end, Unreadable::Fails)
                        .map_err(failed())?
                        .is_some() =>
                {
                    recovered.damaged.push(at..end);
                    end
                }
                Look::NoHeader(_) | Look::TornBody => {
                    file.truncate(at)
                        .map_err(StoreError::io("truncate", segment))?;
                    recovered.truncated_bytes = end - at;
                    end
                }
            };
        }
        Ok(recovered)
    }
}

/// Looks at what begins at `at`.
pub(crate) fn look(
    file: &dyn DiskFile,
    at: u64,
    end: u64,
    unreadable: Unreadable,
) -> io::Result<Look> {
    let skip = unreadable == Unreadable::Skipped;
    let head = match read_head(file, at, end) {
        Ok(Ok(head)) => head,
        Ok(Err(damage)) => return Ok(Look::NoHeader(damage)),
        Err(_) if skip => return Ok(Look::NoHeader(Damage::Unreadable)),
        Err(error) => return Err(error),
    };
    let body = at + head.head_bytes;
    let Some(next) = body
        .checked_add(head.body_bytes)
        .filter(|next| *next <= end)
    else {
        return Ok(Look::TornBody);
    };
    let damage = match digest_of(file, body..next) {
        Ok(digest) if digest == head.digest => return Ok(Look::Whole(head)),
        Ok(_) => Damage::Body,
        Err(_) if skip => Damage::Unreadable,
        Err(error) => return Err(error),
    };
    Ok(Look::BadBody { head, damage })
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

/// Finds the first whole header that starts in `from..end`.
pub(crate) fn header_behind(
    file: &dyn DiskFile,
    from: u64,
    end: u64,
    unreadable: Unreadable,
) -> io::Result<Option<u64>> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut range = from..end;
    while range.end.saturating_sub(range.start) >= FIXED_BYTES as u64 {
        let mut bytes = block_bytes(&range);
        if let Err(error) = file.read_exact_at(&mut block[..bytes], range.start) {
            if unreadable == Unreadable::Fails {
                return Err(error);
            }
            let next = (range.start / UNREADABLE_BYTES + 1) * UNREADABLE_BYTES;
            let piece = range.start..next.min(range.end);
            bytes = block_bytes(&piece);
            if file
                .read_exact_at(&mut block[..bytes], range.start)
                .is_err()
            {
                range.start = piece.end;
                continue;
            }
        }
        for (index, window) in block[..bytes].windows(MAGIC.len()).enumerate() {
            let at = range.start + index as u64;
            if window == MAGIC && is_header(file, at, end, unreadable)? {
                return Ok(Some(at));
            }
        }
        // A mark may lie across the border of two blocks.
        range.start += bytes.saturating_sub(MAGIC.len() - 1).max(1) as u64;
    }
    Ok(None)
}

fn is_header(file: &dyn DiskFile, at: u64, end: u64, unreadable: Unreadable) -> io::Result<bool> {
    match read_head(file, at, end) {
        Err(_) if unreadable == Unreadable::Skipped => Ok(false),
        head => Ok(head?.is_ok()),
    }
}

fn block_bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).map_or(BLOCK_BYTES, |bytes| bytes.min(BLOCK_BYTES))
}
