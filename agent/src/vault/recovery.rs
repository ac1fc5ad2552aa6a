//! Recovery: what the vault does with its segments when it opens.

use identity::NodeId;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{SegmentName, Segments};

use super::OpenError;

/// Truncates what a power cut left torn and names the segments that nothing refers to.
///
/// A record behind the part of a segment that the index knows was never acknowledged to anyone:
/// the peer keeps it and sends it again, so it is left out. That holds for an index that has seen
/// all that was acknowledged; one that has seen nothing has no say in what is let go.
pub(super) fn recover(
    segments: &mut Segments,
    sql: &Connection,
    unit: &NodeId,
) -> Result<Vec<SegmentName>, OpenError> {
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
    let mut idle = Vec::new();
    for segment in segments.list() {
        let known_upto = known_upto(sql, &segment)?;
        let recovered = segments.recover(&segment, known_upto)?;
        let unacknowledged = recovered.found.len();
        if !recovered.damaged.is_empty() || recovered.missing_bytes > 0 {
            let (damaged, missing_bytes) = (recovered.damaged.len(), recovered.missing_bytes);
            tracing::error!(%segment, damaged, missing_bytes, "damage in a segment");
        }
        if recovered.truncated_bytes > 0 || unacknowledged > 0 {
            let truncated_bytes = recovered.truncated_bytes;
            tracing::warn!(%segment, truncated_bytes, unacknowledged, "repaired a segment's end");
        }
        if known_upto == 0 {
            idle.push(segment);
        }
    }
    Ok(idle)
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
