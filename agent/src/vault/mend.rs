//! Mending: says what is damaged, asks the hub for it back, and puts what comes in its place.
//!
//! What is said follows from what is marked: in one job each, so that a restart loses neither.

use std::sync::Arc;

use identity::NodeKey;
use journal::{ChunksWanted, Damaged, Fact, SignedManifest};
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Record, RecordHeader, SegmentName, Work};
use study::{Digest, GroupForm, InstanceDigest, SopInstanceUid, StudyUid};
use sync_proto::{Holding, Runs};

use super::arrivals::segment_family;
use super::columns::{form, uid};
use super::formats::{self, GroupMeta, IntakeMeta, PackedFile};
use super::{Vault, VaultError, records, sealed};

/// What became of a chunk that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// It is in its place, synced.
    Whole,
    /// It is not the chunk that was stored; nothing has changed.
    Other,
    /// Nothing is missing in its place.
    NotWanted,
}

/// Where a damaged chunk belongs.
struct Gap {
    study: StudyUid,
    revision: u32,
    digest: Digest,
    segment: SegmentName,
    header: RecordHeader,
}

impl Vault {
    /// Says in our journal what has changed of what is damaged, and asks the hub for what it has a
    /// receipt for. Blocks.
    pub fn say_damage(&self) -> Result<(), VaultError> {
        let studies = self.0.readers.with(unsaid)?;
        for study in studies {
            self.room_to_write(0)?;
            let key = Arc::clone(&self.0.key);
            let said = self
                .0
                .writer
                .run_blocking(move |work| say(work, &key, &study))?;
            self.note_change(said);
        }
        Ok(())
    }

    /// Marks a chunk that could not be read back to be sent. Blocks.
    pub fn doubt_chunk(&self, manifest: &Digest, number: u32) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let manifest = *manifest;
        let marked = self
            .0
            .writer
            .run_blocking(move |work| -> Result<(), VaultError> {
                work.sql().execute(
                    "UPDATE chunk SET damaged = 1 WHERE damaged = 0 AND number = ?2
                         AND (study_uid, revision) =
                             (SELECT study_uid, revision FROM revision WHERE manifest_digest = ?1)",
                    params![manifest.as_bytes(), number],
                )?;
                Ok(())
            })?;
        self.note_change(marked);
        self.say_damage()
    }

    /// What is whole of a revision that the hub gives back; none when it is no revision of ours.
    pub fn given_back(
        &self,
        manifest: &Digest,
    ) -> Result<Option<(SignedManifest, Holding)>, VaultError> {
        let found = self.0.readers.with(|sql| revision(sql, manifest))?;
        let Some((signed, damaged)) = found else {
            return Ok(None);
        };
        let Ok(signed) = SignedManifest::open(&signed) else {
            tracing::error!(%manifest, "a manifest in the index is damaged");
            return Ok(None);
        };
        let chunks = signed.manifest().chunks().count();
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let whole: Runs = (0..chunks)
            .filter(|number| damaged.binary_search(number).is_err())
            .collect();
        let partial = Vec::new();
        Ok(Some((signed, Holding { whole, partial })))
    }

    /// Puts a chunk that came back in the place of the damaged one.
    pub async fn mend(
        &self,
        manifest: Digest,
        number: u32,
        body: Vec<u8>,
    ) -> Result<Mended, VaultError> {
        self.room_to_write(body.len() as u64)?;
        let vault = self.clone();
        let mended =
            tokio::task::spawn_blocking(move || vault.mend_blocking(&manifest, number, body));
        mended.await.expect("mending does not panic")
    }

    fn mend_blocking(
        &self,
        manifest: &Digest,
        number: u32,
        body: Vec<u8>,
    ) -> Result<Mended, VaultError> {
        let Some(gap) = self.0.readers.with(|sql| gap(sql, manifest, number))? else {
            return Ok(Mended::NotWanted);
        };
        let record = Record::new(gap.header.clone(), body)?;
        if *record.digest() != gap.digest {
            return Ok(Mended::Other);
        }
        let (study, revision) = (gap.study.clone(), gap.revision);
        let key = Arc::clone(&self.0.key);
        let filled = self
            .0
            .writer
            .run_blocking(move |work| fill(work, &key, &gap, number, &record))?;
        if *filled.get() {
            tracing::info!(%study, revision, chunk = number, "a damaged chunk is whole again");
            self.note_change(filled);
            Ok(Mended::Whole)
        } else {
            Ok(Mended::NotWanted)
        }
    }
}

/// Puts a record in the place of what is damaged; says whether that was so still.
fn fill(
    work: &mut Work<'_>,
    key: &NodeKey,
    gap: &Gap,
    number: u32,
    record: &Record,
) -> Result<bool, VaultError> {
    let location = work.append(&segment_family("packed", &gap.study), record)?;
    let (segment, offset, length) = location.to_columns();
    let filled = work
        .sql()
        .prepare_cached(
            "UPDATE chunk SET segment = ?5, offset = ?6, length = ?7, damaged = 0
             WHERE study_uid = ?1 AND revision = ?2 AND number = ?3 AND digest = ?4
                 AND damaged > 0",
        )?
        .execute(params![
            gap.study.as_str(),
            gap.revision,
            number,
            gap.digest.as_bytes(),
            segment,
            offset,
            length
        ])?;
    if filled == 0 {
        // What was appended is whole and nobody's: the next pass says so, and no more.
        return Ok(false);
    }
    say(work, key, &gap.study)?;
    let is_used = work
        .sql()
        .prepare_cached(
            "SELECT 1 FROM instance WHERE segment = ?1
             UNION ALL SELECT 1 FROM chunk WHERE segment = ?1 LIMIT 1",
        )?
        .exists([&gap.segment])?;
    if !is_used {
        sealed::give_up(work, &gap.segment)?;
    }
    Ok(true)
}

/// Says of a study what has changed: how much is damaged, and which chunks are wanted back.
fn say(work: &mut Work<'_>, key: &NodeKey, study: &StudyUid) -> Result<(), VaultError> {
    let (damaged, said, may_say) = damage(work.sql(), study)?;
    if !may_say {
        return Ok(());
    }
    if damaged != said {
        work.sql()
            .prepare_cached("UPDATE study SET damaged_said = ?2 WHERE study_uid = ?1")?
            .execute(params![study.as_str(), damaged])?;
        let study = study.clone();
        let records = damaged;
        records::append(work, key, &Fact::Damaged(Damaged { study, records }))?;
    }
    for (revision, manifest) in to_ask(work.sql(), study)? {
        let chunks = damaged_chunks(work.sql(), study, revision)?;
        let asked = !chunks.is_empty();
        work.sql()
            .prepare_cached(
                "UPDATE revision SET asked = ?3 WHERE study_uid = ?1 AND revision = ?2",
            )?
            .execute(params![study.as_str(), revision, asked])?;
        work.sql()
            .prepare_cached(
                "UPDATE chunk SET damaged = 2
                 WHERE study_uid = ?1 AND revision = ?2 AND damaged = 1",
            )?
            .execute(params![study.as_str(), revision])?;
        tracing::info!(%study, revision, chunks = chunks.len(), "the hub is asked for chunks back");
        records::append(
            work,
            key,
            &Fact::ChunksWanted(ChunksWanted { manifest, chunks }),
        )?;
    }
    Ok(())
}

/// Studies of which something has to be said.
fn unsaid(sql: &Connection) -> Result<Vec<StudyUid>, VaultError> {
    let marked: Vec<StudyUid> = sql
        .prepare_cached(
            "SELECT study_uid FROM chunk WHERE damaged > 0
             UNION SELECT study_uid FROM instance WHERE damaged > 0
             UNION SELECT study_uid FROM study WHERE damaged_said > 0
             UNION SELECT study_uid FROM revision WHERE asked > 0",
        )?
        .query_map([], |row| uid(row, 0, StudyUid::parse))?
        .collect::<store::rusqlite::Result<_>>()?;
    let mut unsaid = Vec::new();
    for study in marked {
        let (damaged, said, may_say) = damage(sql, &study)?;
        if may_say && (damaged != said || !to_ask(sql, &study)?.is_empty()) {
            unsaid.push(study);
        }
    }
    Ok(unsaid)
}

/// How many records of a study are damaged, how many our journal speaks of, and whether it may.
fn damage(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<(u32, u32, bool)> {
    sql.prepare_cached(
        "SELECT (SELECT count(*) FROM chunk WHERE study_uid = s.study_uid AND damaged > 0)
              + (SELECT count(*) FROM instance
                 WHERE study_uid = s.study_uid AND damaged > 0 AND segment IS NOT NULL),
                damaged_said, consent != 0
         FROM study s WHERE study_uid = ?1",
    )?
    .query_row([study.as_str()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
    .optional()
    .map(|found| found.unwrap_or((0, 0, false)))
}

/// Revisions with a receipt of which other chunks are wanted back than were asked for.
fn to_ask(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Vec<(u32, Digest)>> {
    sql.prepare_cached(
        "SELECT revision, manifest_digest FROM revision r
         WHERE study_uid = ?1 AND receipt_seq IS NOT NULL
             AND (EXISTS (SELECT 1 FROM chunk c WHERE c.study_uid = r.study_uid
                              AND c.revision = r.revision AND c.damaged = 1)
                  OR asked AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.study_uid = r.study_uid
                              AND c.revision = r.revision AND c.damaged > 0))
         ORDER BY revision",
    )?
    .query_map([study.as_str()], |row| {
        Ok((row.get(0)?, Digest::from_bytes(row.get(1)?)))
    })?
    .collect()
}

fn damaged_chunks(
    sql: &Connection,
    study: &StudyUid,
    revision: u32,
) -> store::rusqlite::Result<Vec<u32>> {
    sql.prepare_cached(
        "SELECT number FROM chunk WHERE study_uid = ?1 AND revision = ?2 AND damaged > 0
         ORDER BY number",
    )?
    .query_map(params![study.as_str(), revision], |row| row.get(0))?
    .collect()
}

/// A signed manifest of ours, and which of its chunks are damaged.
fn revision(
    sql: &Connection,
    manifest: &Digest,
) -> store::rusqlite::Result<Option<(Vec<u8>, Vec<u32>)>> {
    let found = sql
        .prepare_cached(
            "SELECT study_uid, revision, manifest FROM revision WHERE manifest_digest = ?1",
        )?
        .query_row([manifest.as_bytes()], |row| {
            Ok((uid(row, 0, StudyUid::parse)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((study, revision, signed)) = found else {
        return Ok(None);
    };
    Ok(Some((signed, damaged_chunks(sql, &study, revision)?)))
}

/// The place of a damaged chunk, with what its record says in the clear; none when it is whole.
fn gap(sql: &Connection, manifest: &Digest, number: u32) -> Result<Option<Gap>, VaultError> {
    let found = sql
        .prepare_cached(
            "SELECT c.study_uid, c.revision, c.digest, c.segment, c.group_id, g.form,
                    (SELECT min(number) FROM chunk WHERE group_id = c.group_id),
                    (SELECT count(*) FROM chunk WHERE group_id = c.group_id)
             FROM revision r JOIN chunk c USING (study_uid, revision)
                  JOIN pack_group g USING (group_id)
             WHERE r.manifest_digest = ?1 AND c.number = ?2 AND c.damaged > 0",
        )?
        .query_row(params![manifest.as_bytes(), number], |row| {
            let gap = Gap {
                study: uid(row, 0, StudyUid::parse)?,
                revision: row.get(1)?,
                digest: Digest::from_bytes(row.get(2)?),
                segment: row.get(3)?,
                header: RecordHeader::default(),
            };
            let group: (i64, GroupForm) = (row.get(4)?, form(row, 5)?);
            let first: u32 = row.get(6)?;
            Ok((gap, group, first == number, row.get::<_, u32>(7)?))
        })
        .optional()?;
    let Some((mut gap, (group, form), is_first, pieces)) = found else {
        return Ok(None);
    };
    let files = if is_first {
        files(sql, group)?
    } else {
        Vec::new()
    };
    (gap.header.kind, gap.header.meta) = match (form, files.first()) {
        (GroupForm::Codec, None) => (formats::PACKED_UNIT, Vec::new()),
        (GroupForm::Codec, Some(_)) => {
            let files = files.into_iter().map(|(file, _)| file).collect();
            let said = GroupMeta { files };
            (formats::PACKED_UNIT, formats::to_meta(&said))
        }
        (GroupForm::File, None) => (formats::INTAKE_PIECE, Vec::new()),
        (GroupForm::File, Some((file, held_at_ms))) => {
            let said = IntakeMeta {
                study: gap.study.clone(),
                sop: file.sop.clone(),
                digest: file.digest,
                file_bytes: file.file_bytes,
                pieces,
                held_at_ms: *held_at_ms,
                sop_class: None,
            };
            (formats::INTAKE_FILE, formats::to_meta(&said))
        }
    };
    Ok(Some(gap))
}

/// The instances of a group by their places, and when each was held.
fn files(sql: &Connection, group: i64) -> store::rusqlite::Result<Vec<(PackedFile, u64)>> {
    sql.prepare_cached(
        "SELECT sop_uid, digest, file_bytes, held_at_ms FROM instance
         WHERE group_id = ?1 ORDER BY file_number",
    )?
    .query_map([group], |row| {
        let file = PackedFile {
            sop: uid(row, 0, SopInstanceUid::parse)?,
            digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(1)?)),
            file_bytes: row.get(2)?,
        };
        Ok((file, row.get(3)?))
    })?
    .collect()
}
