//! Asking: chunks that have rotted here after the hub gave its receipt, from the unit that may hold
//! them still.

use identity::NodeId;
use journal::{ChunksWanted, Fact};
use store::rusqlite::{self, Connection, params};
use study::Digest;

use super::{Inbox, InboxError};
use crate::db::{self, ManifestId};
use crate::ledger::{Ledger, LedgerError};

impl Inbox {
    /// Marks a chunk as damaged, or as whole again. Not from async code.
    pub(super) fn mark(
        &self,
        manifest: ManifestId,
        chunk: u32,
        damaged: bool,
    ) -> Result<(), InboxError> {
        self.writer
            .run_blocking(move |work| -> Result<(), LedgerError> {
                Ok(mark(work.sql(), manifest, chunk, damaged)?)
            })?;
        Ok(())
    }

    /// Tells the units what is wanted of them, or is not any more. Not from async code.
    pub(super) fn ask(&self) -> Result<(), InboxError> {
        if !self.readers.with(has_to_ask)? {
            return Ok(());
        }
        let ledger = std::sync::Arc::clone(&self.ledger);
        let told = self
            .writer
            .run_blocking(move |work| say(work.sql(), &ledger))?;
        self.wake(&told.into_inner());
        Ok(())
    }

    /// Tells the units of which nothing is wanted any more.
    pub(super) async fn say_mended(&self) -> Result<(), InboxError> {
        if !self.readers.with(has_to_ask)? {
            return Ok(());
        }
        let ledger = std::sync::Arc::clone(&self.ledger);
        let told = self.writer.run(move |work| say(work.sql(), &ledger));
        self.wake(&told.await?.into_inner());
        Ok(())
    }

    fn wake(&self, units: &[NodeId]) {
        for unit in units {
            if let Err(error) = self.outbox.grown(*unit) {
                tracing::error!(%error, "the index cannot be read");
            }
        }
    }
}

/// A chunk has taken the place of a damaged one. Runs inside a store job.
pub(super) fn note_mended(sql: &Connection, manifest: ManifestId) -> rusqlite::Result<()> {
    sql.execute(
        "UPDATE manifest SET asked = 1 WHERE id = ?1 AND asked > 0
             AND NOT EXISTS (SELECT 1 FROM chunk WHERE manifest = ?1 AND damaged)",
        [manifest],
    )
    .map(drop)
}

fn mark(sql: &Connection, manifest: ManifestId, chunk: u32, damaged: bool) -> rusqlite::Result<()> {
    let marked = sql.execute(
        "UPDATE chunk SET damaged = ?3 WHERE manifest = ?1 AND number = ?2 AND damaged <> ?3",
        params![manifest, chunk, damaged],
    )?;
    if marked > 0 {
        sql.execute("UPDATE manifest SET asked = 1 WHERE id = ?1", [manifest])?;
    }
    Ok(())
}

fn has_to_ask(sql: &Connection) -> rusqlite::Result<bool> {
    sql.prepare_cached("SELECT 1 FROM manifest WHERE asked = 1 LIMIT 1")?
        .exists([])
}

/// Says of each revision of which something has changed what is wanted; gives whom it was said to.
fn say(sql: &Connection, ledger: &Ledger) -> Result<Vec<NodeId>, LedgerError> {
    let changed: Vec<(ManifestId, Digest, NodeId)> = sql
        .prepare_cached(
            "SELECT m.id, m.digest, s.unit FROM manifest m JOIN study s ON s.id = m.study
             WHERE m.asked = 1 ORDER BY m.id",
        )?
        .query_map([], |row| {
            let unit = NodeId::from_bytes(row.get(2)?);
            Ok((row.get(0)?, db::digest(row, 1)?, unit))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut told = Vec::with_capacity(changed.len());
    for (id, manifest, unit) in changed {
        let chunks: Vec<u32> = sql
            .prepare_cached(
                "SELECT number FROM chunk WHERE manifest = ?1 AND damaged ORDER BY number",
            )?
            .query_map([id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let asked = if chunks.is_empty() { 0 } else { 2 };
        sql.execute(
            "UPDATE manifest SET asked = ?2 WHERE id = ?1",
            params![id, asked],
        )?;
        let wanted = Fact::ChunksWanted(ChunksWanted { manifest, chunks });
        ledger.say(sql, ledger.stream(unit), &wanted)?;
        told.push(unit);
    }
    Ok(told)
}
