//! Recovery: what the vault does with its segments when it opens.

use identity::NodeId;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Found, Location, SegmentName, Segments};

use super::OpenError;
use super::fetch::INTAKE_FILE;

/// What recovery found.
#[derive(Default)]
pub(super) struct Salvage {
    /// Segments in which nothing whole is left.
    pub(super) empty: Vec<SegmentName>,
    /// Whole intake records that the index does not know, to be taken in where they lie.
    pub(super) unknown: Vec<Location>,
}

/// Truncates what a power cut left torn, and finds what is whole and unknown to the index.
///
/// A record behind the part of a segment that the index knows was mostly acknowledged to nobody;
/// but an index whose last commits are gone looks the same, and the record may then be the only
/// copy. So nothing whole is ever let go here. Packed units that the index does not know are what
/// an interrupted packing leaves: their instances are intake records still.
pub(super) fn recover(
    segments: &mut Segments,
    sql: &Connection,
    unit: &NodeId,
) -> Result<Salvage, OpenError> {
    match author(sql)? {
        Some(index) if index != *unit => {
            let key = *unit;
            return Err(OpenError::OtherKey { index, key });
        }
        None if !segments.list().is_empty() => {
            let segments = segments.list().len();
            return Err(OpenError::IndexLost { segments });
        }
        Some(_) | None => {}
    }
    let mut salvage = Salvage::default();
    for segment in segments.list() {
        let known_upto = known_upto(sql, &segment)?;
        let recovered = segments.recover(&segment, known_upto)?;
        let unknown = recovered.found.len();
        if !recovered.damaged.is_empty() || recovered.missing_bytes > 0 {
            let (damaged, missing_bytes) = (recovered.damaged.len(), recovered.missing_bytes);
            tracing::error!(%segment, damaged, missing_bytes, "damage in a segment");
        }
        if recovered.truncated_bytes > 0 || unknown > 0 {
            let truncated_bytes = recovered.truncated_bytes;
            tracing::warn!(%segment, truncated_bytes, unknown, "repaired a segment's end");
        }
        if known_upto == 0 && unknown == 0 && recovered.damaged.is_empty() {
            salvage.empty.push(segment);
        }
        let intake = |found: &Found| found.header.kind == INTAKE_FILE;
        let found = recovered.found.into_iter().filter(intake);
        salvage.unknown.extend(found.map(|found| found.location));
    }
    Ok(salvage)
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
            (SELECT coalesce(max(offset + length), 0) FROM instance WHERE segment = ?1),
            (SELECT coalesce(max(offset + length), 0) FROM chunk WHERE segment = ?1))",
    )?
    .query_row(params![segment], |row| row.get(0))
}
