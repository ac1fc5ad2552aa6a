//! Giving back: chunks of its own that a unit has lost after it had the hub's receipt for them.

use identity::NodeId;
use journal::{ChunksWanted, SignedManifest};
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use store::{Location, StoreError};
use study::Digest;
use sync_proto::{Begun, Class, Command, Offer, Rank};
use thiserror::Error;

use super::Inbox;
use crate::archive::RevisionState;
use crate::db;

/// How many revisions a unit is offered back at a time; others follow when these are done.
const OFFERS_MAX: u32 = 64;

/// Why a chunk cannot be given back.
#[derive(Debug, Error)]
pub(super) enum GivingError {
    /// No revision of this unit has such a chunk here.
    #[error("the unit has no such chunk here")]
    NotItsOwn,
    /// It is damaged here as well, or cannot be read.
    #[error("the chunk cannot be read")]
    Store(#[from] StoreError),
    /// The record is whole and holds another chunk.
    #[error("another chunk lies in its place")]
    OtherChunk,
    /// The index cannot be read.
    #[error("the index cannot be read")]
    Index(#[from] rusqlite::Error),
}

impl Inbox {
    /// Offers to a unit of what it wants back; what cannot be offered now waits.
    pub(super) fn offers_back(&self, unit: NodeId) -> Vec<Command> {
        // It is only named: the unit knows it, and says what it lacks.
        let offers = self.wanted_back(unit).into_iter().map(|manifest| Offer {
            manifest,
            rank: Rank::new(Class::Bulk, 0),
            begun: Begun::Perhaps,
        });
        offers
            .map(|offer| Command::Offer(Box::new(offer)))
            .collect()
    }

    /// The manifests of which a unit wants chunks back.
    pub(crate) fn wanted_back(&self, unit: NodeId) -> Vec<SignedManifest> {
        let wanted = self.readers.with(|sql| wanted(sql, unit));
        let wanted = wanted.unwrap_or_else(|error| {
            tracing::error!(%error, "the index cannot be read");
            Vec::new()
        });
        let manifests = wanted.iter().filter_map(|signed| {
            let opened = SignedManifest::open(signed);
            let opened = opened.inspect_err(|error| {
                tracing::error!(%error, node = %unit.short(), "a manifest at rest is damaged");
            });
            opened.ok()
        });
        manifests.collect()
    }

    /// A chunk of a revision of this unit, and of no other.
    pub(super) fn chunk_of(
        &self,
        unit: NodeId,
        manifest: &Digest,
        number: u32,
    ) -> Result<Vec<u8>, GivingError> {
        let place = self
            .readers
            .with(|sql| place(sql, unit, manifest, number))?;
        let (digest, location) = place.ok_or(GivingError::NotItsOwn)?;
        let record = self.writer.segments().read(&location)?;
        if *record.digest() == digest {
            Ok(record.into_body())
        } else {
            Err(GivingError::OtherChunk)
        }
    }
}

/// Notes what a unit wants back, or that it wants no more. Runs inside a store job.
pub(super) fn note(sql: &Connection, unit: NodeId, wanted: &ChunksWanted) -> rusqlite::Result<()> {
    let change = if wanted.chunks.is_empty() {
        "DELETE FROM wanted WHERE manifest IN
             (SELECT m.id FROM manifest m JOIN study s ON s.id = m.study
              WHERE m.digest = ?1 AND s.unit = ?2 AND m.state = ?3)"
    } else {
        "INSERT INTO wanted SELECT m.id FROM manifest m JOIN study s ON s.id = m.study
         WHERE m.digest = ?1 AND s.unit = ?2 AND m.state = ?3
         ON CONFLICT DO NOTHING"
    };
    sql.execute(
        change,
        params![
            wanted.manifest.as_bytes(),
            unit.as_bytes(),
            RevisionState::Accepted.code()
        ],
    )
    .map(drop)
}

/// The signed manifests of what a unit wants back.
fn wanted(sql: &Connection, unit: NodeId) -> rusqlite::Result<Vec<Vec<u8>>> {
    sql.prepare_cached(
        "SELECT m.signed FROM wanted w JOIN manifest m ON m.id = w.manifest
         JOIN study s ON s.id = m.study WHERE s.unit = ?1 ORDER BY m.id LIMIT ?2",
    )?
    .query_map(params![unit.as_bytes(), OFFERS_MAX], |row| row.get(0))?
    .collect()
}

fn place(
    sql: &Connection,
    unit: NodeId,
    manifest: &Digest,
    number: u32,
) -> rusqlite::Result<Option<(Digest, Location)>> {
    sql.prepare_cached(
        "SELECT c.segment, c.at, c.stored, c.digest FROM chunk c
         JOIN manifest m ON m.id = c.manifest JOIN study s ON s.id = m.study
         WHERE m.digest = ?1 AND c.number = ?2 AND s.unit = ?3 AND c.segment IS NOT NULL",
    )?
    .query_row(
        params![manifest.as_bytes(), number, unit.as_bytes()],
        |row| Ok((db::digest(row, 3)?, Location::from_row(row, 0)?)),
    )
    .optional()
}

#[cfg(test)]
mod tests;
