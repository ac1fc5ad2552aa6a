//! Revisions: packed groups take the place of intake records, and each is signed and offered.

use std::collections::BTreeSet;

use identity::NodeKey;
use journal::{Fact, Offered, SignedManifest};
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{Location, Record, RecordHeader, SegmentName, StoreError, Synced, Work};
use study::{
    ChunkRef, Digest, Group, InstanceDigest, Manifest, Priority, SopInstanceUid, StudyRoot,
    StudyUid,
};

use super::arrivals::segment_family;
use super::ledger::Stability;
use super::{Vault, VaultError, consent, fetch};

/// What the clocks show: the wall's time, which is what the index keeps, and the count, which does
/// not jump.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Milliseconds of the Unix epoch.
    pub wall_ms: u64,
    /// Milliseconds since the program started.
    pub count_ms: u64,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self {
            wall_ms: clock::wall_ms(),
            count_ms: clock::count_ms(),
        }
    }
}

/// When a batch is worth packing.
#[derive(Debug, Clone, Copy)]
pub struct BatchRule {
    /// Instances that make a batch full.
    pub instances: u32,
    /// Bytes that make a batch full.
    pub bytes: u64,
    /// How long the first of them waits for others.
    pub delay_ms: u64,
    /// How long a study must be quiet to count as stable.
    pub quiet_period_ms: u64,
}

/// One instance of a batch, still an intake record.
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// Its row in the index.
    pub instance_id: i64,
    /// Its SOP Instance UID.
    pub sop: SopInstanceUid,
    /// Where its file is.
    pub location: Location,
    /// The file's size.
    pub file_bytes: u64,
}

/// Instances of one study that are to be packed together; none when only the end is to be said.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The study.
    pub study: StudyUid,
    /// What to pack, in the order it came.
    pub items: Vec<BatchItem>,
    /// Nothing more is expected: the revision made of this batch closes the study.
    pub closes: bool,
}

/// A batch that was packed, decoded again and compared.
#[derive(Debug)]
pub struct Packed {
    /// The batch.
    pub batch: Batch,
    /// The codec's units, in sending order; none when the batch has no instances.
    pub units: Vec<Vec<u8>>,
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
}

impl Vault {
    /// The next batch that is due, the most urgent and oldest first, and otherwise when to ask
    /// again. Studies in `passed_over` don't count.
    pub fn next_batch(
        &self,
        rule: BatchRule,
        now: Now,
        passed_over: &BTreeSet<StudyUid>,
    ) -> Result<Due, VaultError> {
        let mut studies = self.0.readers.with(unfinished_studies)?;
        self.forget_closed(&studies, rule, now);
        studies.retain(|unfinished| !passed_over.contains(&unfinished.study));
        studies.sort_by_key(|unfinished| (unfinished.priority, unfinished.oldest));
        let mut wait_ms = None;
        for unfinished in studies {
            let attending = self
                .attendance()
                .get(&unfinished.study)
                .copied()
                .unwrap_or_default();
            let stability = Stability {
                last_sign_ms: attending.last_sign_ms,
                attending: attending.open,
                quiet_period_ms: rule.quiet_period_ms,
            };
            let closes_in_ms = stability
                .quiet_left_ms(now.count_ms)
                .filter(|_| unfinished.unpacked > 0 || unfinished.set_aside == 0);
            let packs_in_ms = unfinished.packs_in_ms(rule, now.wall_ms);
            if closes_in_ms == Some(0) || packs_in_ms == Some(0) {
                let stable = closes_in_ms == Some(0);
                let batch = self
                    .0
                    .readers
                    .with(|sql| batch(sql, &unfinished, rule, stable))?;
                return Ok(Due::Batch(batch));
            }
            wait_ms = [wait_ms, closes_in_ms, packs_in_ms]
                .into_iter()
                .flatten()
                .min();
        }
        Ok(wait_ms.map_or(Due::Nothing, Due::After))
    }

    /// Sets an instance aside that cannot be packed, so that it does not hold up the others.
    ///
    /// Its study is not closed, and custody of it does not pass, before the same bytes have come
    /// again and could be packed.
    pub async fn set_aside(&self, instance_id: i64) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let noted = self.0.writer.run(move |work| -> Result<(), VaultError> {
            work.sql()
                .prepare_cached("UPDATE instance SET set_aside = 1 WHERE instance_id = ?1")?
                .execute([instance_id])?;
            Ok(())
        });
        self.note_change(noted.await?);
        Ok(())
    }

    /// Lets packed units take the place of a batch's intake records, as a new signed revision.
    pub async fn adopt(&self, packed: Packed) -> Result<Synced<Revision>, VaultError> {
        let key = std::sync::Arc::clone(&self.0.key);
        let header = || RecordHeader {
            kind: fetch::PACKED_UNIT,
            ..RecordHeader::default()
        };
        let records = packed
            .units
            .into_iter()
            .map(|unit| Record::new(header(), unit));
        let records = records.collect::<Result<Vec<_>, StoreError>>()?;
        self.room_to_write(records.iter().map(|r| r.body().len() as u64).sum())?;
        let batch = packed.batch;
        let revision = self
            .0
            .writer
            .run(move |work| adopt(work, &key, &batch, &records))
            .await?;
        Ok(self.note_change(revision))
    }

    /// Forgets who brought studies that are closed, and have been quiet.
    fn forget_closed(&self, unfinished: &[Unfinished], rule: BatchRule, now: Now) {
        let unfinished: BTreeSet<&StudyUid> = unfinished.iter().map(|u| &u.study).collect();
        self.attendance().retain(|study, seen| {
            let quiet_ms = now.count_ms.saturating_sub(seen.last_sign_ms);
            seen.open > 0 || quiet_ms < rule.quiet_period_ms || unfinished.contains(study)
        });
    }

    /// All revisions that may leave and have no receipt, in no particular order.
    pub fn offerable(&self) -> Result<Vec<Offerable>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT r.study_uid, r.revision, s.priority,
                        (SELECT min(instance_id) FROM instance WHERE study_uid = r.study_uid),
                        r.manifest_digest
                 FROM revision r JOIN study s USING (study_uid)
                 WHERE r.receipt_seq IS NULL AND r.refused IS NULL AND s.consent != 0",
            )?
            .query_map([], offerable_from_row)?
            .collect()
        })?)
    }

    /// The signed manifest of a revision.
    pub fn manifest(&self, manifest_digest: &Digest) -> Result<Vec<u8>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT manifest FROM revision WHERE manifest_digest = ?1")?
                .query_row([manifest_digest.as_bytes()], |row| row.get(0))
        })?)
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
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                update.execute(params![manifest.as_bytes(), bytes])?;
            }
            Ok(())
        });
        self.note_change(noted.await?);
        Ok(())
    }
}

/// What packing has to do next.
#[derive(Debug)]
pub enum Due {
    /// This batch, now.
    Batch(Batch),
    /// Nothing for so many milliseconds, unless something arrives.
    After(u64),
    /// Nothing, unless something arrives.
    Nothing,
}

/// A study with instances in no revision, or whose newest revision is open.
struct Unfinished {
    study: StudyUid,
    priority: Priority,
    /// Instances to pack.
    unpacked: u64,
    unpacked_bytes: u64,
    first_unpacked_ms: u64,
    /// The first instance to pack in the order they came; after all others when there is none.
    oldest: i64,
    /// Instances that could not be packed.
    set_aside: u64,
}

impl Unfinished {
    /// When its instances are to be packed; none when there are none.
    ///
    /// A first instance from the future means that the clock was set back: it waits no longer.
    fn packs_in_ms(&self, rule: BatchRule, wall_ms: u64) -> Option<u64> {
        let waited_ms = wall_ms.checked_sub(self.first_unpacked_ms);
        let is_full =
            self.unpacked >= u64::from(rule.instances) || self.unpacked_bytes >= rule.bytes;
        let left_ms = match waited_ms {
            Some(waited_ms) if !is_full => rule.delay_ms.saturating_sub(waited_ms),
            Some(_) | None => 0,
        };
        (self.unpacked > 0).then_some(left_ms)
    }
}

fn unfinished_studies(sql: &Connection) -> store::rusqlite::Result<Vec<Unfinished>> {
    sql.prepare_cached(
        "SELECT s.study_uid, s.priority, count(i.instance_id) FILTER (WHERE NOT i.set_aside),
                coalesce(sum(i.file_bytes) FILTER (WHERE NOT i.set_aside), 0),
                coalesce(min(i.held_at_ms) FILTER (WHERE NOT i.set_aside), 0),
                min(i.instance_id) FILTER (WHERE NOT i.set_aside),
                count(i.instance_id) FILTER (WHERE i.set_aside)
         FROM study s LEFT JOIN instance i ON i.study_uid = s.study_uid AND i.group_id IS NULL
         WHERE s.open GROUP BY s.study_uid",
    )?
    .query_map([], |row| {
        Ok(Unfinished {
            study: uid(row, 0, StudyUid::parse)?,
            priority: priority(row, 1)?,
            unpacked: row.get(2)?,
            unpacked_bytes: row.get(3)?,
            first_unpacked_ms: row.get(4)?,
            oldest: row.get::<_, Option<i64>>(5)?.unwrap_or(i64::MAX),
            set_aside: row.get(6)?,
        })
    })?
    .collect()
}

fn batch(
    sql: &Connection,
    unfinished: &Unfinished,
    rule: BatchRule,
    stable: bool,
) -> store::rusqlite::Result<Batch> {
    let mut items: Vec<BatchItem> = Vec::new();
    let mut bytes = 0;
    let mut select = sql.prepare_cached(
        "SELECT segment, offset, length, instance_id, sop_uid, file_bytes FROM instance
         WHERE study_uid = ?1 AND group_id IS NULL AND NOT set_aside
         ORDER BY instance_id LIMIT ?2",
    )?;
    let rows = select.query_map(params![unfinished.study.as_str(), rule.instances], |row| {
        Ok(BatchItem {
            instance_id: row.get(3)?,
            sop: uid(row, 4, SopInstanceUid::parse)?,
            location: Location::from_row(row, 0)?,
            file_bytes: row.get(5)?,
        })
    })?;
    for item in rows {
        let item = item?;
        if !items.is_empty() && bytes + item.file_bytes > rule.bytes {
            break;
        }
        bytes += item.file_bytes;
        items.push(item);
    }
    let all = items.len() as u64 >= unfinished.unpacked && unfinished.set_aside == 0;
    let closes = stable && all;
    Ok(Batch {
        study: unfinished.study.clone(),
        items,
        closes,
    })
}

fn adopt(
    work: &mut Work<'_>,
    key: &NodeKey,
    batch: &Batch,
    units: &[Record],
) -> Result<Revision, VaultError> {
    let before = newest_revision(work.sql(), &batch.study)?;
    let revision = before.as_ref().map_or(0, |(revision, _)| *revision) + 1;
    let family = segment_family("packed", &batch.study);
    let mut placed = Vec::with_capacity(units.len());
    for unit in units {
        placed.push(work.append(&family, unit)?);
    }
    let sql = work.sql();
    let mut groups = Vec::new();
    if !units.is_empty() {
        move_instances(sql, batch, revision, units, &placed)?;
        groups.push(Group {
            chunks: units.iter().map(chunk_ref).collect(),
            instances: u32::try_from(batch.items.len()).unwrap_or(u32::MAX),
            bytes_original: batch.items.iter().map(|item| item.file_bytes).sum(),
        });
    }
    // What has come since the batch was put together is not in this revision, so it closes nothing.
    let closed = batch.closes && !has_unpacked(sql, &batch.study)?;
    let pairs = packed_pairs(sql, &batch.study)?;
    let (priority, received_at_ms) = standing(sql, &batch.study)?;
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
        envelope: None,
    };
    let signed = SignedManifest::sign(key, manifest);
    insert_revision(sql, key, &signed)?;
    if closed {
        sql.prepare_cached("UPDATE study SET open = 0 WHERE study_uid = ?1")?
            .execute([batch.study.as_str()])?;
    }
    for segment in emptied_segments(sql, batch)? {
        work.remove_segment_after_commit(&segment)?;
    }
    Ok(Revision {
        study: batch.study.clone(),
        revision,
        closed,
        manifest_digest: signed.digest(),
    })
}

fn has_unpacked(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<bool> {
    sql.prepare_cached("SELECT 1 FROM instance WHERE study_uid = ?1 AND group_id IS NULL LIMIT 1")?
        .exists([study.as_str()])
}

fn chunk_ref(unit: &Record) -> ChunkRef {
    let bytes = u32::try_from(unit.body().len()).expect("a codec unit has at most 1 MiB");
    ChunkRef {
        digest: *unit.digest(),
        bytes,
    }
}

/// Points the batch's instances at their packed units instead of their intake records.
fn move_instances(
    sql: &Connection,
    batch: &Batch,
    revision: u32,
    units: &[Record],
    placed: &[Location],
) -> store::rusqlite::Result<()> {
    let study = batch.study.as_str();
    sql.prepare_cached("INSERT INTO pack_group (study_uid, revision) VALUES (?1, ?2)")?
        .execute(params![study, revision])?;
    let group = sql.last_insert_rowid();
    let mut insert = sql.prepare_cached(
        "INSERT INTO chunk
         (study_uid, revision, number, group_id, digest, bytes, segment, offset, length)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for (number, (unit, location)) in units.iter().zip(placed).enumerate() {
        let (segment, offset, length) = location.to_columns();
        let digest = unit.digest().as_bytes();
        let bytes = unit.body().len();
        insert.execute(params![
            study, revision, number, group, digest, bytes, segment, offset, length
        ])?;
    }
    let mut update = sql.prepare_cached(
        "UPDATE instance SET group_id = ?2, file_number = ?3,
                segment = NULL, offset = NULL, length = NULL
         WHERE instance_id = ?1 AND group_id IS NULL",
    )?;
    for (number, item) in batch.items.iter().enumerate() {
        update.execute(params![item.instance_id, group, number])?;
    }
    Ok(())
}

/// Keeps a signed manifest and says so in the journal, once anything may be said of the study.
fn insert_revision(
    sql: &Connection,
    key: &NodeKey,
    signed: &SignedManifest,
) -> Result<(), VaultError> {
    let manifest_digest = signed.digest();
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
        manifest_digest.as_bytes(),
        i64::try_from(manifest.bytes_to_cross()).unwrap_or(i64::MAX),
    ])?;
    let fact = Fact::Offered(Offered {
        study: manifest.study.clone(),
        revision: manifest.revision,
        root: manifest.root,
        manifest: manifest_digest,
    });
    consent::say_of(sql, key, &manifest.study, &fact)
}

/// Intake segments of a batch to which no instance refers any more.
fn emptied_segments(
    sql: &Connection,
    batch: &Batch,
) -> store::rusqlite::Result<BTreeSet<SegmentName>> {
    let mut emptied: BTreeSet<SegmentName> = batch
        .items
        .iter()
        .map(|item| item.location.segment.clone())
        .collect();
    let mut in_use = sql.prepare_cached("SELECT 1 FROM instance WHERE segment = ?1 LIMIT 1")?;
    let mut kept = BTreeSet::new();
    for segment in &emptied {
        if in_use.exists(params![segment])? {
            kept.insert(segment.clone());
        }
    }
    emptied.retain(|segment| !kept.contains(segment));
    Ok(emptied)
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
        "SELECT sop_uid, digest FROM instance WHERE study_uid = ?1 AND group_id IS NOT NULL",
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

fn offerable_from_row(row: &Row<'_>) -> store::rusqlite::Result<Offerable> {
    Ok(Offerable {
        study: uid(row, 0, StudyUid::parse)?,
        revision: row.get(1)?,
        priority: priority(row, 2)?,
        came: row.get(3)?,
        manifest_digest: Digest::from_bytes(row.get(4)?),
    })
}

/// Reads a UID column; the index holds only what was parsed before, so a bad one is damage.
pub(super) fn uid<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> store::rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?).map_err(|error| {
        let kind = store::rusqlite::types::Type::Text;
        store::rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}

/// Reads a priority column.
pub(super) fn priority(row: &Row<'_>, column: usize) -> store::rusqlite::Result<Priority> {
    let code: u8 = row.get(column)?;
    Priority::from_code(code)
        .ok_or_else(|| store::rusqlite::Error::IntegralValueOutOfRange(column, code.into()))
}
