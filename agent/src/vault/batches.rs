//! Batches: which instances are packed together, and when.

use std::collections::{BTreeMap, BTreeSet};

use sealing::KeyId;
use store::Location;
use store::rusqlite::{Connection, params};
use study::{Digest, InstanceDigest, Priority, SopInstanceUid, StudyUid};

use super::columns::{priority, uid};
use super::ledger::Stability;
use super::{Vault, VaultError};

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
    /// Its digest when it was taken in.
    pub digest: InstanceDigest,
    /// Where its file is: a run of records.
    pub location: Location,
    /// The file's size.
    pub file_bytes: u64,
}

/// Instances of one study that are to be packed together; none when only the end is to be said.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The study.
    pub study: StudyUid,
    /// How urgent it is.
    pub priority: Priority,
    /// What to pack, in the order it came.
    pub items: Vec<BatchItem>,
    /// The data key that all of them are sealed with; none when there are none.
    pub key: Option<KeyId>,
    /// Nothing more is expected: the revision made of this batch closes the study.
    pub closes: bool,
}

/// What is not to be packed now.
#[derive(Debug, Default, Clone)]
pub struct Skipped {
    /// Studies of which nothing is.
    pub studies: BTreeSet<StudyUid>,
    /// Studies of which instances are being packed, and the last of these: what came after them is
    /// packed beside them.
    pub underway: BTreeMap<StudyUid, i64>,
}

/// What stands between the box and a study's last byte at the hub.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of files that are not packed yet.
    pub unpacked_bytes: u64,
    /// Packed bytes that the hub has not said it holds.
    pub waiting_bytes: u64,
}

impl Vault {
    /// What is to be packed and to cross of studies that are as urgent as this, or more.
    pub fn backlog(&self, priority: Priority) -> Result<Backlog, VaultError> {
        Ok(self.0.readers.with(|sql| backlog(sql, priority))?)
    }

    /// The next batch that is due, the most urgent and oldest first, and otherwise when to ask
    /// again.
    pub fn next_batch(
        &self,
        rule: BatchRule,
        now: Now,
        skipped: &Skipped,
    ) -> Result<Due, VaultError> {
        // What no hub can open is not signed to leave.
        if !self.0.keys.knows_hub() {
            return Ok(Due::Nothing);
        }
        let mut studies = self
            .0
            .readers
            .with(|sql| unfinished_studies(sql, &skipped.underway))?;
        self.forget_closed(&studies, rule, now);
        studies.retain(|unfinished| !skipped.studies.contains(&unfinished.study));
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
                concluded: attending.concluded,
                quiet_period_ms: rule.quiet_period_ms,
            };
            // While the last instances are being packed, whatever comes next can tell more.
            let says_end = unfinished.after.is_none() && unfinished.set_aside == 0;
            let closes_in_ms = stability
                .quiet_left_ms(now.count_ms)
                .filter(|_| unfinished.unpacked > 0 || says_end);
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

    /// Forgets who brought studies that are closed, and have been quiet.
    fn forget_closed(&self, unfinished: &[Unfinished], rule: BatchRule, now: Now) {
        let unfinished: BTreeSet<&StudyUid> = unfinished.iter().map(|u| &u.study).collect();
        self.attendance().retain(|study, seen| {
            let quiet_ms = now.count_ms.saturating_sub(seen.last_sign_ms);
            seen.open > 0 || quiet_ms < rule.quiet_period_ms || unfinished.contains(study)
        });
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
    /// The last of its instances that are being packed; none of the above counts up to there.
    after: Option<i64>,
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

fn unfinished_studies(
    sql: &Connection,
    underway: &BTreeMap<StudyUid, i64>,
) -> store::rusqlite::Result<Vec<Unfinished>> {
    let open: Vec<StudyUid> = sql
        .prepare_cached("SELECT study_uid FROM study WHERE open")?
        .query_map([], |row| uid(row, 0, StudyUid::parse))?
        .collect::<store::rusqlite::Result<_>>()?;
    let mut select = sql.prepare_cached(
        "SELECT s.priority, count(i.instance_id) FILTER (WHERE NOT i.set_aside),
                coalesce(sum(i.file_bytes) FILTER (WHERE NOT i.set_aside), 0),
                coalesce(min(i.held_at_ms) FILTER (WHERE NOT i.set_aside), 0),
                min(i.instance_id) FILTER (WHERE NOT i.set_aside),
                count(i.instance_id) FILTER (WHERE i.set_aside)
         FROM study s LEFT JOIN instance i ON i.study_uid = s.study_uid AND i.segment IS NOT NULL
              AND i.instance_id > ?2
         WHERE s.study_uid = ?1 GROUP BY s.study_uid",
    )?;
    let mut unfinished = Vec::with_capacity(open.len());
    for study in open {
        let after = underway.get(&study).copied();
        let first = after.unwrap_or(i64::MIN);
        let next = select.query_row(params![study.as_str(), first], |row| {
            Ok(Unfinished {
                priority: priority(row, 0)?,
                unpacked: row.get(1)?,
                unpacked_bytes: row.get(2)?,
                first_unpacked_ms: row.get(3)?,
                oldest: row.get::<_, Option<i64>>(4)?.unwrap_or(i64::MAX),
                set_aside: row.get(5)?,
                study: study.clone(),
                after,
            })
        })?;
        unfinished.push(next);
    }
    Ok(unfinished)
}

fn backlog(sql: &Connection, priority: Priority) -> store::rusqlite::Result<Backlog> {
    let unpacked_bytes = sql
        .prepare_cached(
            "SELECT coalesce(sum(i.file_bytes), 0) FROM study s JOIN instance i USING (study_uid)
             WHERE s.open AND s.priority <= ?1 AND i.segment IS NOT NULL AND NOT i.set_aside",
        )?
        .query_row([priority.code()], |row| row.get(0))?;
    let waiting_bytes = sql
        .prepare_cached(
            "SELECT coalesce(sum(r.bytes_to_cross - r.bytes_at_hub), 0)
             FROM revision r JOIN study s USING (study_uid)
             WHERE r.receipt_seq IS NULL AND r.refused IS NULL AND s.consent != 0
               AND s.priority <= ?1",
        )?
        .query_row([priority.code()], |row| row.get(0))?;
    Ok(Backlog {
        unpacked_bytes,
        waiting_bytes,
    })
}

fn batch(
    sql: &Connection,
    unfinished: &Unfinished,
    rule: BatchRule,
    stable: bool,
) -> store::rusqlite::Result<Batch> {
    let mut items: Vec<BatchItem> = Vec::new();
    let mut key = None;
    let mut bytes = 0;
    let mut select = sql.prepare_cached(
        "SELECT segment, offset, length, instance_id, sop_uid, digest, file_bytes, key_id
         FROM instance WHERE study_uid = ?1 AND segment IS NOT NULL AND NOT set_aside
           AND instance_id > ?3
         ORDER BY instance_id LIMIT ?2",
    )?;
    let first = unfinished.after.unwrap_or(i64::MIN);
    let of = params![unfinished.study.as_str(), rule.instances, first];
    let rows = select.query_map(of, |row| {
        let item = BatchItem {
            instance_id: row.get(3)?,
            sop: uid(row, 4, SopInstanceUid::parse)?,
            digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(5)?)),
            location: Location::from_row(row, 0)?,
            file_bytes: row.get(6)?,
        };
        Ok((item, KeyId::from_bytes(row.get(7)?)))
    })?;
    for row in rows {
        let (item, item_key) = row?;
        let is_full = bytes + item.file_bytes > rule.bytes;
        if !items.is_empty() && (is_full || key != Some(item_key)) {
            break;
        }
        key = Some(item_key);
        bytes += item.file_bytes;
        items.push(item);
    }
    let all = items.len() as u64 >= unfinished.unpacked && unfinished.set_aside == 0;
    let closes = stable && all;
    Ok(Batch {
        study: unfinished.study.clone(),
        priority: unfinished.priority,
        items,
        key,
        closes,
    })
}
