//! Overview: what the ledger knows of each study, for `status`, the console and the outbox.

use store::rusqlite::{Connection, Row};
use study::{Priority, StudyUid};

use super::columns::{priority, uid};
use super::ledger::{ConsentState, Custody, StudyFacts};
use super::{Vault, VaultError};

/// One study as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyOverview {
    /// The study.
    pub study: StudyUid,
    /// How urgent it is.
    pub priority: Priority,
    /// When its first instance was held, milliseconds of the Unix epoch.
    pub received_at_ms: u64,
    /// Instances that were taken in; also those that have left the box since.
    pub instances: u64,
    /// Instances that were let go, as the hub has them.
    pub let_go: u64,
    /// Instances that were erased.
    pub erased: u64,
    /// A person holds it: it is neither let go nor erased.
    pub legal_hold: bool,
    /// Instances that share their SOP Instance UID with other bytes.
    pub conflicts: u64,
    /// Instances that could not be packed: a person must look.
    pub set_aside: u64,
    /// Records, of those that are set aside too, that are not what was stored: nothing of them is
    /// given out before they are mended.
    pub damaged: u64,
    /// Bytes of the files that were taken in.
    pub bytes_original: u64,
    /// Bytes that they take in the box.
    pub bytes_held: u64,
    /// Bytes of those that are not packed yet.
    pub bytes_unpacked: u64,
    /// Bytes that cross, as far as they are packed.
    pub bytes_to_cross: u64,
    /// Bytes that the hub has said it durably holds.
    pub bytes_at_hub: u64,
    /// Part of it at the hub, in percent.
    pub percent_at_hub: u8,
    /// Where custody lies.
    pub custody: Custody,
    /// On what basis it may leave.
    pub consent: ConsentState,
    /// The hub has decoded and compared at least a part.
    pub readable: bool,
    /// The newest revision.
    pub revision: u32,
    /// The hub's reason, when it refused a revision.
    pub refused: Option<String>,
}

impl Vault {
    /// All studies, the oldest first.
    pub fn studies(&self) -> Result<Vec<StudyOverview>, VaultError> {
        Ok(self.0.readers.with(studies)?)
    }
}

fn studies(sql: &Connection) -> store::rusqlite::Result<Vec<StudyOverview>> {
    sql.prepare_cached(
        "WITH held AS (
             SELECT study_uid, count(*) AS instances, count(*) - count(DISTINCT sop_uid) AS doubled,
                    sum(file_bytes) AS original, sum(set_aside) AS set_aside,
                    count(*) FILTER (WHERE damaged > 0 AND segment IS NOT NULL) AS damaged,
                    min(instance_id) AS came,
                    count(segment) AS unpacked,
                    coalesce(sum(length), 0) AS intake_bytes,
                    count(*) FILTER (WHERE gone = 1) AS let_go,
                    count(*) FILTER (WHERE gone = 2) AS erased
             FROM instance GROUP BY study_uid),
         sent AS (
             SELECT study_uid, max(revision) AS newest, sum(bytes_to_cross) AS to_cross,
                    sum(CASE WHEN receipt_seq IS NULL THEN bytes_at_hub ELSE bytes_to_cross END)
                        AS at_hub,
                    count(receipt_seq) AS receipts, max(refused) AS refused,
                    max(wanted) AS wanted
             FROM revision GROUP BY study_uid)
         SELECT s.study_uid, s.priority, s.received_at_ms, h.instances, h.doubled, h.original,
                h.intake_bytes, h.unpacked, coalesce(t.to_cross, 0), coalesce(t.at_hub, 0),
                coalesce(t.receipts, 0), coalesce(t.newest, 0), t.refused, s.consent,
                n.closed, n.receipt_seq IS NOT NULL, h.set_aside,
                h.damaged + (SELECT count(*) FROM chunk c
                             WHERE c.study_uid = s.study_uid AND c.damaged > 0),
                h.let_go, h.erased, s.legal_hold,
                (SELECT coalesce(sum(c.bytes), 0) FROM chunk c WHERE c.study_uid = s.study_uid),
                coalesce(t.wanted, 0)
         FROM study s JOIN held h USING (study_uid) LEFT JOIN sent t USING (study_uid)
         LEFT JOIN revision n ON n.study_uid = s.study_uid AND n.revision = t.newest
         ORDER BY h.came",
    )?
    .query_map([], from_row)?
    .collect()
}

fn from_row(row: &Row<'_>) -> store::rusqlite::Result<StudyOverview> {
    let bytes_unpacked: u64 = row.get(6)?;
    let bytes_to_cross: u64 = row.get(8)?;
    let bytes_at_hub: u64 = row.get(9)?;
    let consent = ConsentState::from_code(row.get(13)?);
    let (instances, erased): (u64, u64) = (row.get(3)?, row.get(19)?);
    let facts = StudyFacts {
        erased: erased == instances,
        consent,
        unpacked: row.get(7)?,
        newest_closed: row.get(14)?,
        newest_receipted: row.get(15)?,
        lost_at_hub: row.get(22)?,
        bytes_at_hub,
        bytes_to_cross,
    };
    Ok(StudyOverview {
        study: uid(row, 0, StudyUid::parse)?,
        priority: priority(row, 1)?,
        received_at_ms: row.get(2)?,
        instances,
        let_go: row.get(18)?,
        erased,
        legal_hold: row.get(20)?,
        conflicts: row.get(4)?,
        set_aside: row.get(16)?,
        damaged: row.get(17)?,
        bytes_original: row.get(5)?,
        bytes_held: bytes_unpacked + row.get::<_, u64>(21)?,
        bytes_unpacked,
        bytes_to_cross,
        bytes_at_hub,
        percent_at_hub: facts.percent_at_hub(),
        custody: facts.custody(),
        consent,
        readable: row.get::<_, u64>(10)? > 0,
        revision: row.get(11)?,
        refused: row.get(12)?,
    })
}
