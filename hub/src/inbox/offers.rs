//! Offers: a unit's manifests, and what is here of their chunks.

use identity::NodeId;
use journal::SignedManifest;
use sealing::{OVERHEAD_BYTES, StoreKey};
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use study::{Digest, Group, GroupForm, Manifest};
use sync_proto::{Holding, Partial};

use super::settle::{self, Verdict};
use super::{decode, spool};
use crate::archive::{group, index};
use crate::db::{ManifestId, int};
use crate::ledger::{Ledger, LedgerError};

/// How many revisions a study has: one every 2 s for a day and a half.
const REVISIONS_MAX: u32 = 65_536;
/// How many instances a study has. Each revision's judgement reads them all, while the other
/// units wait.
const INSTANCES_MAX: u32 = 100_000;

/// What is known of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    /// Every chunk of it is here.
    Complete,
    /// It is here, and this much of its chunks.
    Held(Holding),
    /// It is not taken; in plain words, why.
    Refused(String),
}

/// Takes a manifest in, if it has no [`fault`]; the same one again changes nothing. Runs inside a
/// store job.
pub(crate) fn take_in(
    sql: &Connection,
    ledger: &Ledger,
    unit: NodeId,
    signed: &SignedManifest,
    fault: Option<String>,
) -> Result<(Standing, Vec<Verdict>), LedgerError> {
    if let Some(standing) = find(sql, unit, &signed.digest())? {
        return Ok((standing, Vec::new()));
    }
    if let Some(reason) = fault {
        return Ok((Standing::Refused(reason), Vec::new()));
    }
    let manifest = signed.manifest();
    let study = index::admit_study(sql, &unit, manifest)?;
    let taken: Option<i64> = sql
        .query_row(
            "SELECT 1 FROM manifest WHERE study = ?1 AND revision = ?2",
            params![study, manifest.revision],
            |row| row.get(0),
        )
        .optional()?;
    if taken.is_some() {
        let reason = format!(
            "revision {} is here with another content",
            manifest.revision
        );
        return Ok((Standing::Refused(reason), Vec::new()));
    }
    sql.execute(
        "INSERT INTO manifest (study, digest, revision, previous, root, instances, closed,
                               bytes_to_cross, bytes_original, signed, envelope)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            study,
            signed.digest().as_bytes(),
            manifest.revision,
            manifest.previous.as_ref().map(Digest::as_bytes),
            manifest.root.digest().as_bytes(),
            manifest.instances,
            manifest.closed,
            int(manifest.bytes_to_cross()),
            int(manifest.groups.iter().map(|g| g.bytes_original).sum()),
            signed.bytes(),
            manifest.envelope,
        ],
    )?;
    let id = ManifestId(sql.last_insert_rowid());
    write_chunks(sql, id, manifest)?;
    // A revision that only says "closed" brings no chunk that could set its judgement off.
    let verdicts = match decode::mark_decoded(sql, id)? {
        true => settle::settle(sql, ledger, study)?,
        false => Vec::new(),
    };
    let standing = find(sql, unit, &signed.digest())?;
    Ok((standing.unwrap_or(Standing::Complete), verdicts))
}

/// What is here of a unit's manifest; none when it is not known.
pub(crate) fn find(
    sql: &Connection,
    unit: NodeId,
    digest: &Digest,
) -> rusqlite::Result<Option<Standing>> {
    let found: Option<(ManifestId, bool)> = sql
        .query_row(
            "SELECT m.id, EXISTS (SELECT 1 FROM chunk c
                                  WHERE c.manifest = m.id AND (c.segment IS NULL OR c.damaged))
             FROM manifest m JOIN study s ON s.id = m.study
             WHERE m.digest = ?1 AND s.unit = ?2",
            params![digest.as_bytes(), unit.as_bytes()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match found {
        None => Ok(None),
        Some((_, false)) => Ok(Some(Standing::Complete)),
        Some((manifest, true)) => Ok(Some(Standing::Held(holding(sql, manifest)?))),
    }
}

/// The signed manifest itself.
pub(crate) fn signed(sql: &Connection, digest: &Digest) -> rusqlite::Result<Option<Vec<u8>>> {
    sql.query_row(
        "SELECT signed FROM manifest WHERE digest = ?1",
        [digest.as_bytes()],
        |row| row.get(0),
    )
    .optional()
}

fn holding(sql: &Connection, manifest: ManifestId) -> rusqlite::Result<Holding> {
    let whole = sql
        .prepare_cached(
            "SELECT number FROM chunk
             WHERE manifest = ?1 AND segment IS NOT NULL AND NOT damaged",
        )?
        .query_map([manifest], |row| row.get::<_, u32>(0))?
        .collect::<rusqlite::Result<_>>()?;
    let partial = spool::partials(sql, manifest, 0..=u32::MAX)?
        .into_iter()
        .map(|(chunk, upto)| Partial { chunk, upto })
        .collect();
    Ok(Holding { whole, partial })
}

/// Why a manifest cannot be taken, whatever its chunks hold.
pub(crate) fn fault(
    manifest: &Manifest,
    group_bytes_max: u64,
    store_key: &StoreKey,
) -> Option<String> {
    if manifest.revision == 0 {
        return Some("revisions count from 1".to_owned());
    }
    if manifest.revision > REVISIONS_MAX {
        return Some(format!("a study has at most {REVISIONS_MAX} revisions"));
    }
    if manifest.instances > INSTANCES_MAX {
        return Some(format!("a study has at most {INSTANCES_MAX} instances"));
    }
    if manifest
        .groups
        .iter()
        .any(|group| group.chunks.is_empty() || group.instances == 0)
    {
        return Some("it names a group with nothing in it".to_owned());
    }
    if manifest
        .groups
        .iter()
        .any(|group| group.bytes_original > group_bytes_max)
    {
        return Some(format!(
            "it names a group of more than {group_bytes_max} bytes"
        ));
    }
    if !manifest.groups.iter().all(is_as_long_as_said) {
        return Some("it names a file that is not as long as its pieces".to_owned());
    }
    if manifest.groups.is_empty() {
        return None;
    }
    // What could not be opened here would cross for nothing.
    group::data_key(manifest.envelope.as_deref(), &manifest.study, store_key)
        .err()
        .map(|fault| crate::chain(&fault))
}

/// Whether a file in pieces has the bytes that its manifest says: they are held in memory.
fn is_as_long_as_said(group: &Group) -> bool {
    match group.form {
        GroupForm::Codec => true,
        GroupForm::File => {
            let sealed: u64 = group
                .chunks
                .iter()
                .map(|chunk| u64::from(chunk.bytes))
                .sum();
            let overhead = (group.chunks.len() * OVERHEAD_BYTES) as u64;
            sealed.checked_sub(overhead) == Some(group.bytes_original)
        }
    }
}

fn write_chunks(sql: &Connection, id: ManifestId, manifest: &Manifest) -> rusqlite::Result<()> {
    let mut group_row = sql.prepare_cached(
        "INSERT INTO chunk_group (manifest, number, first, chunks, instances, form, bytes_original)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut chunk_row = sql.prepare_cached(
        "INSERT INTO chunk (manifest, number, digest, bytes) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut number = 0_u32;
    for (group, place) in manifest.groups.iter().zip(0_u32..) {
        let first = number;
        for chunk in &group.chunks {
            chunk_row.execute(params![id, number, chunk.digest.as_bytes(), chunk.bytes])?;
            number += 1;
        }
        group_row.execute(params![
            id,
            place,
            first,
            number - first,
            group.instances,
            group::form_code(group.form),
            int(group.bytes_original)
        ])?;
    }
    Ok(())
}
