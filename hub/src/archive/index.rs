//! The study index: every statement that writes studies and instances is here.

use std::collections::BTreeSet;

use identity::NodeId;
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use study::{
    InstanceDigest, Manifest, Priority, SeriesUid, SopClassUid, SopInstanceUid, StudyUid,
    TransferSyntaxUid,
};

use crate::db::{self, ManifestId, StudyId, int};

/// An instance that can be read from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewInstance {
    /// Its UID.
    pub sop: SopInstanceUid,
    /// Its digest.
    pub digest: InstanceDigest,
    /// Its SOP class.
    pub sop_class: SopClassUid,
    /// Its series.
    pub series: SeriesUid,
    /// How its data set is encoded.
    pub transfer_syntax: TransferSyntaxUid,
    /// Instance Number (0020,0013).
    pub number: Option<i32>,
    /// The size of its file.
    pub bytes: u64,
    /// Its place in the group.
    pub file: u32,
}

/// The group of chunks that holds an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home {
    /// The study.
    pub study: StudyId,
    /// The manifest that named the group.
    pub manifest: ManifestId,
    /// That manifest's revision.
    pub revision: u32,
    /// The group's number in that manifest.
    pub group: u32,
}

/// Finds the study, or makes its row on its first manifest.
pub(crate) fn admit_study(
    sql: &Connection,
    unit: &NodeId,
    manifest: &Manifest,
) -> rusqlite::Result<StudyId> {
    sql.execute(
        "INSERT INTO study (unit, uid, priority, received_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (unit, uid) DO NOTHING",
        params![
            unit.as_bytes(),
            manifest.study.as_str(),
            manifest.priority.code(),
            int(manifest.received_at_ms)
        ],
    )?;
    sql.query_row(
        "SELECT id FROM study WHERE unit = ?1 AND uid = ?2",
        params![unit.as_bytes(), manifest.study.as_str()],
        |row| row.get(0),
    )
}

/// The units that have sent a study, each with its row.
pub(crate) fn units_of(
    sql: &Connection,
    study: &StudyUid,
) -> rusqlite::Result<Vec<(StudyId, NodeId)>> {
    sql.prepare_cached("SELECT id, unit FROM study WHERE uid = ?1")?
        .query_map([study.as_str()], |row| {
            Ok((row.get(0)?, NodeId::from_bytes(row.get(1)?)))
        })?
        .collect()
}

/// Notes a study's priority; a study that is not known yet will bring its own.
pub(crate) fn set_priority(
    sql: &Connection,
    unit: &NodeId,
    study: &StudyUid,
    priority: Priority,
) -> rusqlite::Result<()> {
    sql.execute(
        "UPDATE study SET priority = ?3 WHERE unit = ?1 AND uid = ?2",
        params![unit.as_bytes(), study.as_str(), priority.code()],
    )
    .map(drop)
}

/// Indexes an instance. The same bytes again cost nothing, and are given out from here on if what
/// is here of the first has rotted; other bytes under the same UID get a row of their own, so
/// neither is lost. Says whether there are other bytes under its UID.
pub(crate) fn admit_instance(
    sql: &Connection,
    home: Home,
    instance: &NewInstance,
) -> rusqlite::Result<bool> {
    sql.execute(
        "INSERT INTO instance (study, sop, digest, sop_class, series, transfer_syntax, number,
                               bytes, revision, manifest, chunk_group, file)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (study, sop, digest) DO UPDATE SET revision = min(revision, excluded.revision)",
        params![
            home.study,
            instance.sop.as_str(),
            instance.digest.digest().as_bytes(),
            instance.sop_class.as_str(),
            instance.series.as_str(),
            instance.transfer_syntax.as_str(),
            instance.number,
            int(instance.bytes),
            home.revision,
            home.manifest,
            home.group,
            instance.file
        ],
    )?;
    sql.execute(
        "UPDATE instance SET manifest = ?4, chunk_group = ?5, file = ?6
         WHERE study = ?1 AND sop = ?2 AND digest = ?3 AND manifest <> ?4 AND EXISTS
             (SELECT 1 FROM chunk_group g JOIN chunk c ON c.manifest = g.manifest
                  AND c.number >= g.first AND c.number < g.first + g.chunks
              WHERE g.manifest = instance.manifest AND g.number = instance.chunk_group
                AND (c.segment IS NULL OR c.damaged))",
        params![
            home.study,
            instance.sop.as_str(),
            instance.digest.digest().as_bytes(),
            home.manifest,
            home.group,
            instance.file
        ],
    )?;
    let other: Option<i64> = sql
        .query_row(
            "SELECT 1 FROM instance WHERE study = ?1 AND sop = ?2 AND digest <> ?3",
            params![
                home.study,
                instance.sop.as_str(),
                instance.digest.digest().as_bytes()
            ],
            |row| row.get(0),
        )
        .optional()?;
    Ok(other.is_some())
}

/// How many pairs [`pairs`] gives.
pub(crate) fn count(sql: &Connection, study: StudyId, revision: u32) -> rusqlite::Result<u64> {
    sql.prepare_cached("SELECT count(*) FROM instance WHERE study = ?1 AND revision <= ?2")?
        .query_row(params![study, revision], |row| db::uint(row, 0))
}

/// Whether an instance of the revisions up to `revision` came with a revision in this state of which
/// a chunk is not here any more.
pub(crate) fn has_lost(
    sql: &Connection,
    study: StudyId,
    revision: u32,
    state: super::RevisionState,
) -> rusqlite::Result<bool> {
    sql.prepare_cached(
        "SELECT 1 FROM manifest m JOIN chunk c ON c.manifest = m.id AND c.segment IS NULL
             JOIN chunk_group g ON g.manifest = m.id
                  AND c.number >= g.first AND c.number < g.first + g.chunks
         WHERE m.study = ?1 AND m.revision <= ?2 AND m.state = ?3 AND EXISTS
             (SELECT 1 FROM instance i WHERE i.study = ?1 AND i.revision <= ?2
                 AND i.manifest = m.id AND i.chunk_group = g.number)
         LIMIT 1",
    )?
    .exists(params![study, revision, state.code()])
}

/// All pairs of the revisions up to `revision`: what a study root speaks of.
pub(crate) fn pairs(
    sql: &Connection,
    study: StudyId,
    revision: u32,
) -> rusqlite::Result<BTreeSet<(SopInstanceUid, InstanceDigest)>> {
    sql.prepare_cached("SELECT sop, digest FROM instance WHERE study = ?1 AND revision <= ?2")?
        .query_map(params![study, revision], |row| {
            Ok((db::parsed(row, 0)?, db::instance_digest(row, 1)?))
        })?
        .collect()
}
