//! Recovery: what the vault does with its segments when it opens.

use identity::NodeId;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Found, Scanned, SegmentName, Segments};

use super::{OpenError, formats};

/// What recovery found.
#[derive(Default)]
pub(super) struct Salvage {
    /// Segments in which nothing whole is left.
    pub(super) empty: Vec<SegmentName>,
    /// Records that the index does not know, to be taken in where they lie; by segment and place.
    pub(super) unknown: Vec<Unknown>,
    /// Bytes that were cut off as torn.
    pub(super) cut_bytes: u64,
}

/// A record that the index does not know.
#[derive(Debug, Clone)]
pub(super) struct Unknown {
    pub(super) found: Found,
    /// Its body is the one that was stored, as its header is.
    pub(super) whole: bool,
}

/// Truncates what a power cut left torn, and finds what is whole and unknown to the index.
///
/// A record behind the part of a segment that the index knows was mostly acknowledged to nobody;
/// but an index whose last commits are gone looks the same, and the record may then be the only
/// copy. So nothing whole is ever let go here.
pub(super) fn recover(
    segments: &mut Segments,
    sql: &Connection,
    unit: &NodeId,
    rebuild: bool,
) -> Result<Salvage, OpenError> {
    match author(sql)? {
        Some(index) if index != *unit => {
            let key = *unit;
            return Err(OpenError::OtherKey { index, key });
        }
        None if !rebuild => {
            // A power cut in the very first start leaves a journal that the index does not know.
            let mut lost = segments.list();
            lost.retain(|segment| segment.family() != formats::JOURNAL_FAMILY);
            if !lost.is_empty() {
                let segments = lost.len();
                return Err(OpenError::IndexLost { segments });
            }
        }
        Some(_) | None => {}
    }
    let mut salvage = Salvage::default();
    for segment in segments.list() {
        let known_upto = known_upto(sql, &segment)?;
        // What the index knows was synced before; a start is not kept waiting for it.
        if known_upto > 0 && segments.bytes(&segment)? == known_upto {
            continue;
        }
        let recovered = segments.recover(&segment, known_upto)?;
        let unknown = recovered.found.len();
        salvage.cut_bytes += recovered.truncated_bytes;
        if !recovered.damaged.is_empty() || recovered.missing_bytes > 0 {
            let (damaged, missing_bytes) = (recovered.damaged.len(), recovered.missing_bytes);
            tracing::error!(%segment, damaged, missing_bytes, "damage in a segment");
        }
        if recovered.truncated_bytes > 0 || unknown > 0 {
            let truncated_bytes = recovered.truncated_bytes;
            tracing::warn!(%segment, truncated_bytes, unknown, "repaired a segment's end");
        }
        if known_upto == 0 && unknown == 0 && recovered.damaged.is_empty() {
            salvage.empty.push(segment.clone());
        }
        if recovered.damaged.is_empty() {
            let found = recovered.found.into_iter();
            salvage
                .unknown
                .extend(found.map(|found| Unknown { found, whole: true }));
        } else {
            look_around(segments, &segment, known_upto, &mut salvage.unknown)?;
        }
    }
    Ok(salvage)
}

/// Refuses segments in which some box's own journal lies, and not ours: of what that box has signed
/// nothing would count, and it would look as if it had never been.
pub(super) fn check_author(
    segments: &Segments,
    salvage: &Salvage,
    unit: NodeId,
) -> Result<(), OpenError> {
    let mut other = None;
    for Unknown { found, whole } in &salvage.unknown {
        if found.header.kind != formats::JOURNAL_RECORD || !whole {
            continue;
        }
        let record = segments.read(&found.location)?;
        match journal::read_record(record.body()) {
            Ok(said) if said.author != said.stream => {}
            Ok(said) if said.author == unit => return Ok(()),
            Ok(said) => other = Some(said.author),
            Err(_) => {}
        }
    }
    other.map_or(Ok(()), |index| {
        Err(OpenError::OtherKey { index, key: unit })
    })
}

/// Finds what lies behind damage, and what the headers of damaged records say.
fn look_around(
    segments: &Segments,
    segment: &SegmentName,
    known_upto: u64,
    unknown: &mut Vec<Unknown>,
) -> Result<(), OpenError> {
    for scanned in segments.scan(segment)? {
        let (found, whole) = match scanned? {
            Scanned::Whole(found) => (found, true),
            Scanned::Damaged {
                header: Some(found),
                ..
            } => (*found, false),
            Scanned::Damaged { header: None, .. } => continue,
        };
        if found.location.offset >= known_upto {
            unknown.push(Unknown { found, whole });
        }
    }
    Ok(())
}

/// Whose own journal the index holds; its first record is written when the vault is first opened.
fn author(sql: &Connection) -> store::rusqlite::Result<Option<NodeId>> {
    sql.query_row(
        "SELECT author FROM record WHERE author = stream LIMIT 1",
        [],
        |row| row.get(0).map(NodeId::from_bytes),
    )
    .optional()
}

/// Where the last record ends that the index knows in a segment; 0 when it knows none.
fn known_upto(sql: &Connection, segment: &SegmentName) -> store::rusqlite::Result<u64> {
    sql.prepare_cached(
        "SELECT max(
            coalesce((SELECT offset + length FROM instance
                      WHERE segment = ?1 ORDER BY offset DESC LIMIT 1), 0),
            coalesce((SELECT offset + length FROM chunk
                      WHERE segment = ?1 ORDER BY offset DESC LIMIT 1), 0),
            coalesce((SELECT upto FROM segment_end WHERE segment = ?1), 0))",
    )?
    .query_row(params![segment], |row| row.get(0))
}
