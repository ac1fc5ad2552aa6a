//! Revisions: packed groups take the place of intake records, and each is signed and offered.

use std::collections::{BTreeMap, BTreeSet};

use codec::{Tier, UnitHeader};
use identity::NodeKey;
use journal::SignedManifest;
use sealing::KeyEnvelope;
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{Location, Record, SegmentName, Synced, Work};
use study::{
    ChunkRef, Digest, Group, GroupForm, InstanceDigest, Manifest, Priority, SopInstanceUid,
    StudyRoot, StudyUid,
};
use sync_proto::Runs;

use super::arrivals::segment_family;
use super::batches::{Batch, BatchItem};
use super::columns::{form_code, int, priority, tier_code, uid};
use super::fetch::FetchError;
use super::formats::{self, GroupMeta, PackedFile};
use super::{Vault, VaultError, asked, sealed};

/// A batch that is to become a revision.
#[derive(Debug)]
pub struct Packed {
    batch: Batch,
    form: PackedForm,
}

/// What the instances of a batch cross as.
#[derive(Debug)]
enum PackedForm {
    /// The codec's units, sealed, in sending order; none when the batch has no instances. And the
    /// tier that they say they are of.
    Units(Vec<Record>, Option<Tier>),
    /// The records that they were taken in as, where these lie: by instance.
    AsTakenIn(Vec<Vec<(Location, ChunkRef)>>),
}

impl Packed {
    /// The batch.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Bytes that it adds to what must cross.
    pub fn bytes(&self) -> u64 {
        match &self.form {
            PackedForm::Units(units, _) => units.iter().map(|unit| unit.body().len() as u64).sum(),
            PackedForm::AsTakenIn(runs) => {
                let chunks = runs.iter().flatten();
                chunks.map(|(_, chunk)| u64::from(chunk.bytes)).sum()
            }
        }
    }
}

/// A revision that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The study.
    pub study: StudyUid,
    /// Its number, from 1.
    pub revision: u32,
    /// It closes the study.
    pub closed: bool,
    /// BLAKE3 of the signed manifest: the revision's name on the link.
    pub manifest_digest: Digest,
}

/// A revision that may leave and that the hub has not receipted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offerable {
    /// The study.
    pub study: StudyUid,
    /// Its revision.
    pub revision: u32,
    /// How urgent the study is.
    pub priority: Priority,
    /// Its place among the studies in the order they came; no clock has a say in it.
    pub came: i64,
    /// BLAKE3 of the signed manifest: the revision's name on the link.
    pub manifest_digest: Digest,
    /// The hub had all of it once, and asks for what it has lost since.
    pub was_at_hub: bool,
    /// It may have left before.
    pub offered: bool,
    /// Bytes of its chunks that the hub has not said it holds.
    pub waiting_bytes: u64,
    /// The study was asked for as a prior.
    pub called: bool,
    /// Chunks that a reader waits for.
    pub first: Runs,
}

impl Vault {
    /// Seals the units that a batch was packed into, decoded again and compared.
    pub fn seal_units(&self, batch: Batch, units: Vec<Vec<u8>>) -> Result<Packed, FetchError> {
        let Some(key) = batch.key.filter(|_| !units.is_empty()) else {
            let form = PackedForm::Units(Vec::new(), None);
            return Ok(Packed { batch, form });
        };
        let files = batch.items.iter().map(|item| PackedFile {
            sop: item.sop.clone(),
            digest: item.digest,
            file_bytes: item.file_bytes,
        });
        let said = GroupMeta {
            files: files.collect(),
        };
        let header = units.first().map(|unit| UnitHeader::parse(unit));
        let tier = header.and_then(|header| Some(header.ok()?.tier));
        let units = formats::packed_records(&*self.data_key(key)?, units, &said)?;
        let form = PackedForm::Units(units, tier);
        Ok(Packed { batch, form })
    }

    /// Lets a batch cross as it was taken in, which needs no key.
    pub fn as_taken_in(&self, batch: Batch) -> Result<Packed, FetchError> {
        let mut runs = Vec::with_capacity(batch.items.len());
        for item in &batch.items {
            let records = self.0.writer.segments().read_run(&item.location)?;
            let chunks = records
                .into_iter()
                .map(|(location, record)| (location, chunk_ref(&record)));
            runs.push(chunks.collect());
        }
        let form = PackedForm::AsTakenIn(runs);
        Ok(Packed { batch, form })
    }

    /// Makes a new signed revision of a batch; what was packed takes the place of intake records.
    pub async fn adopt(&self, packed: Packed) -> Result<Synced<Revision>, VaultError> {
        let key = std::sync::Arc::clone(&self.0.key);
        let Packed { batch, form } = packed;
        if let PackedForm::Units(units, _) = &form {
            self.room_to_write(units.iter().map(|unit| unit.body().len() as u64).sum())?;
        }
        let envelope = match batch.key {
            Some(key) => self.keys_for_revision(&batch.study, key).await?.for_hub(),
            None => None,
        };
        let revision = self
            .0
            .writer
            .run(move |work| adopt(work, &key, &batch, &form, envelope.as_ref()))
            .await?;
        Ok(self.note_change(revision))
    }

    /// All revisions that may leave and have no receipt, or of which the hub has lost something since
    /// and this box has not, in no particular order.
    pub fn offerable(&self) -> Result<Vec<Offerable>, VaultError> {
        Ok(self.0.readers.with(|sql| -> store::rusqlite::Result<_> {
            let mut first = asked::chunks_first(sql)?;
            sql.prepare_cached(
                "SELECT r.study_uid, r.revision, s.priority,
                        (SELECT min(instance_id) FROM instance WHERE study_uid = r.study_uid),
                        r.manifest_digest, 0, r.offered, r.bytes_to_cross - r.bytes_at_hub, s.called
                 FROM revision r JOIN study s USING (study_uid)
                 WHERE r.receipt_seq IS NULL AND r.refused IS NULL AND s.consent != 0
                 UNION ALL
                 SELECT r.study_uid, r.revision, s.priority,
                        (SELECT min(instance_id) FROM instance WHERE study_uid = r.study_uid),
                        r.manifest_digest, 1, r.offered, 0, s.called
                 FROM revision r JOIN study s USING (study_uid)
                 WHERE r.wanted > 0 AND s.consent != 0
                     AND (r.receipt_seq IS NOT NULL OR r.refused IS NOT NULL)
                     AND EXISTS (SELECT 1 FROM chunk c WHERE c.study_uid = r.study_uid
                                 AND c.revision = r.revision)",
            )?
            .query_map([], |row| offerable_from_row(row, &mut first))?
            .collect()
        })?)
    }

    /// Notes that these revisions, and none else, leave by another road than a link: the hub may come
    /// to hold any part of them. A program that starts takes that for granted of all that there is.
    pub fn note_left_otherwise(&self, manifests: impl IntoIterator<Item = Digest>) {
        let mut left = self.left_otherwise();
        left.clear();
        left.extend(manifests);
    }

    /// Whether a revision has left by another road than a link.
    pub fn has_left_otherwise(&self, manifest: &Digest) -> bool {
        self.left_otherwise().contains(manifest)
    }

    fn left_otherwise(&self) -> std::sync::MutexGuard<'_, BTreeSet<Digest>> {
        // It is whole between any two statements that change it.
        let left = self.0.left_otherwise.lock();
        left.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes how much of a revision the hub now says it durably holds; that may be less than before,
    /// when its disk has failed it.
    pub async fn note_progress(&self, held: Vec<(Digest, u64)>) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let noted = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let mut update = work.sql().prepare_cached(
                "UPDATE revision SET bytes_at_hub = min(bytes_to_cross, ?2)
                 WHERE manifest_digest = ?1",
            )?;
            for (manifest, bytes) in held {
                update.execute(params![manifest.as_bytes(), int(bytes)])?;
            }
            Ok(())
        });
        self.note_change(noted.await?);
        Ok(())
    }
}

fn adopt(
    work: &mut Work<'_>,
    key: &NodeKey,
    batch: &Batch,
    form: &PackedForm,
    envelope: Option<&KeyEnvelope>,
) -> Result<Revision, VaultError> {
    if !is_due_still(work.sql(), batch)? {
        return Err(VaultError::Overtaken(batch.study.clone()));
    }
    let before = newest_revision(work.sql(), &batch.study)?;
    let revision = before.as_ref().map_or(0, |(revision, _)| *revision) + 1;
    let groups = place(work, batch, revision, form)?;
    // What has come since the batch was put together is not in this revision, so it closes nothing.
    let closed = batch.closes && !has_unpacked(work.sql(), &batch.study)?;
    let pairs = packed_pairs(work.sql(), &batch.study)?;
    let (priority, received_at_ms) = standing(work.sql(), &batch.study)?;
    let manifest = Manifest {
        version: Manifest::VERSION,
        study: batch.study.clone(),
        revision,
        root: StudyRoot::over(&pairs),
        instances: u32::try_from(pairs.len()).unwrap_or(u32::MAX),
        previous: before.map(|(_, digest)| digest),
        closed,
        priority,
        received_at_ms,
        groups,
        envelope: envelope.map(KeyEnvelope::to_cbor),
    };
    let signed = SignedManifest::sign(key, manifest);
    enter_revision(work.sql(), &signed)?;
    append_manifest(work, &signed)?;
    if closed {
        work.sql()
            .prepare_cached("UPDATE study SET open = 0 WHERE study_uid = ?1")?
            .execute([batch.study.as_str()])?;
    }
    let emptied = batch.items.iter().map(|item| item.location.segment.clone());
    for segment in unused(work.sql(), emptied.collect())? {
        sealed::give_up(work, &segment)?;
    }
    Ok(Revision {
        study: batch.study.clone(),
        revision,
        closed,
        manifest_digest: signed.digest(),
    })
}

/// Whether the study is open, and its instances are where they were when the batch was made.
fn is_due_still(sql: &Connection, batch: &Batch) -> store::rusqlite::Result<bool> {
    let is_open = sql
        .prepare_cached("SELECT 1 FROM study WHERE study_uid = ?1 AND open")?
        .exists([batch.study.as_str()])?;
    // A number is given again once its row is gone; a place in a segment is not.
    let mut is_unpacked = sql.prepare_cached(
        "SELECT 1 FROM instance WHERE instance_id = ?1 AND segment = ?2 AND offset = ?3",
    )?;
    for item in &batch.items {
        let (segment, offset, _) = item.location.to_columns();
        if !is_unpacked.exists(params![item.instance_id, segment, offset])? {
            return Ok(false);
        }
    }
    Ok(is_open)
}

fn has_unpacked(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<bool> {
    sql.prepare_cached(
        "SELECT 1 FROM instance WHERE study_uid = ?1 AND segment IS NOT NULL LIMIT 1",
    )?
    .exists([study.as_str()])
}

pub(super) fn chunk_ref(record: &Record) -> ChunkRef {
    let bytes = u32::try_from(record.body().len()).expect("a sealed piece has at most 1 MiB");
    ChunkRef {
        digest: *record.digest(),
        bytes,
    }
}

/// Stores what was packed, and points the batch's instances at what they cross as.
fn place(
    work: &mut Work<'_>,
    batch: &Batch,
    revision: u32,
    form: &PackedForm,
) -> Result<Vec<Group>, VaultError> {
    let home = (&batch.study, revision);
    match form {
        PackedForm::Units(units, _) if units.is_empty() => Ok(Vec::new()),
        PackedForm::Units(units, tier) => {
            let family = segment_family("packed", &batch.study);
            let mut chunks = Vec::with_capacity(units.len());
            for unit in units {
                chunks.push((work.append(&family, unit)?, chunk_ref(unit)));
            }
            let group = enter_group(work.sql(), home, GroupForm::Codec, 0, &chunks)?;
            note_group_tier(work.sql(), group, *tier)?;
            for (number, item) in (0..).zip(&batch.items) {
                move_instance(work.sql(), item.instance_id, group, number)?;
            }
            Ok(vec![said_of(GroupForm::Codec, &batch.items, &chunks)])
        }
        PackedForm::AsTakenIn(runs) => {
            let (mut groups, mut first) = (Vec::new(), 0);
            for (item, chunks) in batch.items.iter().zip(runs) {
                let group = enter_group(work.sql(), home, GroupForm::File, first, chunks)?;
                move_instance(work.sql(), item.instance_id, group, 0)?;
                first += u32::try_from(chunks.len()).unwrap_or(u32::MAX);
                groups.push(said_of(GroupForm::File, std::slice::from_ref(item), chunks));
            }
            Ok(groups)
        }
    }
}

/// What a manifest says of a group.
fn said_of(form: GroupForm, items: &[BatchItem], chunks: &[(Location, ChunkRef)]) -> Group {
    Group {
        chunks: chunks.iter().map(|(_, chunk)| chunk.clone()).collect(),
        instances: u32::try_from(items.len()).unwrap_or(u32::MAX),
        bytes_original: items.iter().map(|item| item.file_bytes).sum(),
        form,
    }
}

/// Enters a group whose records are stored; its chunks are numbered from `first` on.
pub(super) fn enter_group(
    sql: &Connection,
    (study, revision): (&StudyUid, u32),
    form: GroupForm,
    first: u32,
    chunks: &[(Location, ChunkRef)],
) -> store::rusqlite::Result<i64> {
    sql.prepare_cached("INSERT INTO pack_group (study_uid, revision, form) VALUES (?1, ?2, ?3)")?
        .execute(params![study.as_str(), revision, form_code(form)])?;
    let group = sql.last_insert_rowid();
    let mut insert = sql.prepare_cached(
        "INSERT INTO chunk
         (study_uid, revision, number, group_id, digest, bytes, segment, offset, length)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for (number, (location, chunk)) in (first..).zip(chunks) {
        let (segment, offset, length) = location.to_columns();
        insert.execute(params![
            study.as_str(),
            revision,
            number,
            group,
            chunk.digest.as_bytes(),
            chunk.bytes,
            segment,
            offset,
            length
        ])?;
    }
    Ok(group)
}

/// Points an instance at its place in a group instead of its intake records.
pub(super) fn move_instance(
    sql: &Connection,
    instance: i64,
    group: i64,
    number: u32,
) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "UPDATE instance SET group_id = ?2, file_number = ?3,
                segment = NULL, offset = NULL, length = NULL,
                revision = coalesce(revision, (SELECT revision FROM pack_group WHERE group_id = ?2))
         WHERE instance_id = ?1 AND (segment IS NOT NULL OR group_id IS NULL AND gone = 0)",
    )?
    .execute(params![instance, group, number])?;
    Ok(())
}

/// Keeps a signed manifest in the segments.
pub(super) fn append_manifest(
    work: &mut Work<'_>,
    signed: &SignedManifest,
) -> Result<(), VaultError> {
    let record = formats::plain_record(formats::SIGNED_MANIFEST, signed.bytes().to_vec())?;
    let location = work.append(formats::JOURNAL_FAMILY, &record)?;
    Ok(sealed::note_end(work.sql(), &location)?)
}

/// Notes in which tier a group was packed, where that is known.
pub(super) fn note_group_tier(
    sql: &Connection,
    group: i64,
    tier: Option<Tier>,
) -> store::rusqlite::Result<()> {
    sql.prepare_cached("UPDATE pack_group SET tier = ?2 WHERE group_id = ?1")?
        .execute(params![group, tier.map(tier_code)])
        .map(drop)
}

/// Enters a signed manifest into the index.
pub(super) fn enter_revision(
    sql: &Connection,
    signed: &SignedManifest,
) -> store::rusqlite::Result<()> {
    let manifest = signed.manifest();
    sql.prepare_cached(
        "INSERT INTO revision
         (study_uid, revision, root, closed, manifest, manifest_digest, bytes_to_cross)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        manifest.study.as_str(),
        manifest.revision,
        manifest.root.digest().as_bytes(),
        manifest.closed,
        signed.bytes(),
        signed.digest().as_bytes(),
        int(manifest.bytes_to_cross()),
    ])?;
    Ok(())
}

/// Those of some segments to which neither an instance nor a chunk refers any more.
pub(super) fn unused(
    sql: &Connection,
    mut segments: BTreeSet<SegmentName>,
) -> store::rusqlite::Result<BTreeSet<SegmentName>> {
    let mut in_use = sql.prepare_cached(
        "SELECT 1 FROM instance WHERE segment = ?1
         UNION ALL SELECT 1 FROM chunk WHERE segment = ?1 LIMIT 1",
    )?;
    let mut kept = BTreeSet::new();
    for segment in &segments {
        if in_use.exists(params![segment])? {
            kept.insert(segment.clone());
        }
    }
    segments.retain(|segment| !kept.contains(segment));
    Ok(segments)
}

fn newest_revision(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<Option<(u32, Digest)>> {
    sql.prepare_cached(
        "SELECT revision, manifest_digest FROM revision WHERE study_uid = ?1
         ORDER BY revision DESC LIMIT 1",
    )?
    .query_row([study.as_str()], |row| {
        Ok((row.get(0)?, Digest::from_bytes(row.get(1)?)))
    })
    .optional()
}

fn packed_pairs(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<BTreeSet<(SopInstanceUid, InstanceDigest)>> {
    sql.prepare_cached(
        "SELECT sop_uid, digest FROM instance WHERE study_uid = ?1 AND revision IS NOT NULL",
    )?
    .query_map([study.as_str()], |row| {
        let digest = InstanceDigest::from_digest(Digest::from_bytes(row.get(1)?));
        Ok((uid(row, 0, SopInstanceUid::parse)?, digest))
    })?
    .collect()
}

fn standing(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<(Priority, u64)> {
    sql.prepare_cached("SELECT priority, received_at_ms FROM study WHERE study_uid = ?1")?
        .query_row([study.as_str()], |row| Ok((priority(row, 0)?, row.get(1)?)))
}

fn offerable_from_row(
    row: &Row<'_>,
    first: &mut BTreeMap<Digest, Runs>,
) -> store::rusqlite::Result<Offerable> {
    let manifest_digest = Digest::from_bytes(row.get(4)?);
    Ok(Offerable {
        study: uid(row, 0, StudyUid::parse)?,
        revision: row.get(1)?,
        priority: priority(row, 2)?,
        came: row.get(3)?,
        manifest_digest,
        was_at_hub: row.get(5)?,
        offered: row.get(6)?,
        waiting_bytes: row.get(7)?,
        called: row.get(8)?,
        first: first.remove(&manifest_digest).unwrap_or_default(),
    })
}
