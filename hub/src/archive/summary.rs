//! What is told of studies: the list, and one study with its revisions, instances and reports.

use serde::Serialize;
use store::rusqlite::{self, Connection, Row, params};
use study::{
    Digest, Priority, SeriesUid, SopClassUid, SopInstanceUid, StudyUid, TransferSyntaxUid,
};

use crate::db::{self, StudyId, uint};

/// One study, in the words that all our programs share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    #[serde(skip)]
    pub id: StudyId,
    pub study_instance_uid: StudyUid,
    /// The unit that sent it.
    pub unit: String,
    pub site: Option<String>,
    pub priority: Priority,
    /// As its newest manifest says; some of them may still be on their way.
    pub instances: u32,
    pub instances_readable: u32,
    pub bytes_original: u64,
    /// What is durable here of `bytes_to_cross`.
    pub bytes_held: u64,
    pub bytes_to_cross: u64,
    pub custody: Custody,
    pub percent_at_hub: u8,
    /// At least one instance can be opened.
    pub readable: bool,
    pub report: ReportState,
    pub critical: CriticalState,
    /// When the unit held the first instance, milliseconds of the Unix epoch.
    pub received_at: u64,
    pub eta_seconds: Option<u64>,
    /// There are several instances with one UID and different bytes.
    pub conflicts: u32,
}

/// Where the duty to keep a study lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Custody {
    /// Partly here, or whole and not closed.
    Crossing,
    /// The closed revision has its receipt.
    AtHub,
}

/// How far reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReportState {
    None,
    Preliminary,
    Final,
    Addendum,
}

/// Whether a critical finding waits for the clinic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CriticalState {
    None,
    Open,
}

/// One study with everything that is known of it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    pub summary: Summary,
    pub revisions: Vec<Revision>,
    pub instance_list: Vec<Instance>,
    pub reports: Vec<Report>,
}

/// One report, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub status: String,
    pub critical: u8,
    /// Milliseconds of the Unix epoch, by the signer's clock.
    pub signed_at: u64,
    pub digest: String,
    /// The unit holds it and has verified it.
    pub delivered: bool,
}

/// One revision that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Revision {
    pub revision: u32,
    pub root: String,
    pub instances: u32,
    pub closed: bool,
    pub state: RevisionState,
}

/// How far a revision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevisionState {
    /// Chunks are missing or not decoded.
    Arriving = 0,
    /// All its instances are indexed; the root waits for an earlier revision.
    Decoded = 1,
    /// The root was right: a receipt was given.
    Accepted = 2,
    /// A refusal was given.
    Refused = 3,
}

impl RevisionState {
    pub(crate) const ALL: [Self; 4] =
        [Self::Arriving, Self::Decoded, Self::Accepted, Self::Refused];

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        let code: i64 = row.get(column)?;
        Self::ALL
            .into_iter()
            .find(|state| i64::from(state.code()) == code)
            .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, code))
    }
}

/// One instance that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Instance {
    pub sop_instance_uid: SopInstanceUid,
    pub series_instance_uid: SeriesUid,
    pub sop_class_uid: SopClassUid,
    pub transfer_syntax_uid: TransferSyntaxUid,
    pub instance_number: Option<i32>,
    pub bytes: u64,
    pub digest: String,
    /// Another instance has the same UID and other bytes.
    pub conflict: bool,
}

/// Figures over all studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Studies known.
    pub studies: u64,
    /// Studies whose custody has passed.
    pub studies_at_hub: u64,
    pub instances_readable: u64,
    /// Instances with a known UID and other bytes.
    pub conflicts: u64,
    pub bytes_held: u64,
}

/// Lists studies, most urgent and then oldest first: all, or those with one UID.
pub(crate) fn list(sql: &Connection, uid: Option<&StudyUid>) -> rusqlite::Result<Vec<Summary>> {
    sql.prepare_cached(&list_question(uid.is_some()))?
        .query_map(params![uid.map(StudyUid::as_str)], summary)?
        .collect()
}

/// A question about one UID must not walk through the studies with others.
fn list_question(one: bool) -> String {
    let which = if one { "s.uid = ?1" } else { "?1 IS NULL" };
    format!(
        "SELECT s.id, s.uid, s.unit, u.site, s.priority, s.received_ms,
                m.instances, m.closed, m.state,
                (SELECT sum(bytes_original) FROM manifest WHERE study = s.id),
                (SELECT sum(bytes_held) FROM manifest WHERE study = s.id),
                (SELECT sum(bytes_to_cross) FROM manifest WHERE study = s.id),
                (SELECT count(*) FROM instance i WHERE i.study = s.id),
                (SELECT count(*) - count(DISTINCT i.sop) FROM instance i WHERE i.study = s.id),
                (SELECT r.status FROM report r WHERE r.study = s.id ORDER BY r.id DESC LIMIT 1),
                (SELECT max(r.critical) FROM report r WHERE r.study = s.id),
                EXISTS (SELECT 1 FROM manifest a WHERE a.study = s.id AND a.asked > 0)
         FROM study s
         JOIN manifest m ON m.study = s.id
              AND m.revision = (SELECT max(revision) FROM manifest WHERE study = s.id)
         LEFT JOIN unit u ON u.node = s.unit
         WHERE {which}
         ORDER BY s.priority, s.received_ms, s.id"
    )
}

/// Counts, without making a list of what is counted.
pub(crate) fn figures(sql: &Connection) -> rusqlite::Result<Figures> {
    sql.prepare_cached(
        "SELECT (SELECT count(*) FROM study),
                (SELECT count(*) FROM study s JOIN manifest m ON m.study = s.id
                      AND m.revision = (SELECT max(revision) FROM manifest WHERE study = s.id)
                 WHERE m.closed AND m.state = ?1 AND NOT EXISTS
                      (SELECT 1 FROM manifest a WHERE a.study = s.id AND a.asked > 0)),
                (SELECT count(*) FROM instance),
                (SELECT count(*) FROM (SELECT DISTINCT study, sop FROM instance)),
                (SELECT coalesce(sum(bytes_held), 0) FROM manifest)",
    )?
    .query_row([RevisionState::Accepted.code()], |row| {
        let instances_readable = uint(row, 2)?;
        Ok(Figures {
            studies: uint(row, 0)?,
            studies_at_hub: uint(row, 1)?,
            instances_readable,
            conflicts: instances_readable.saturating_sub(uint(row, 3)?),
            bytes_held: uint(row, 4)?,
        })
    })
}

/// Everything of one study, once for each unit that sent it.
pub(crate) fn show(sql: &Connection, uid: &StudyUid) -> rusqlite::Result<Vec<Detail>> {
    list(sql, Some(uid))?
        .into_iter()
        .map(|summary| {
            Ok(Detail {
                revisions: revisions(sql, summary.id)?,
                instance_list: instances(sql, summary.id)?,
                reports: reports(sql, summary.id)?,
                summary,
            })
        })
        .collect()
}

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    let (closed, state) = (row.get(7)?, RevisionState::read(row, 8)?);
    let (bytes_held, bytes_to_cross) = (uint(row, 10)?, uint(row, 11)?);
    let custody = custody(closed, state, row.get(16)?);
    let instances_readable = row.get(12)?;
    let priority: u8 = row.get(4)?;
    let unit: [u8; 32] = row.get(2)?;
    Ok(Summary {
        id: row.get(0)?,
        study_instance_uid: db::parsed(row, 1)?,
        unit: identity::NodeId::from_bytes(unit).to_string(),
        site: row.get(3)?,
        priority: Priority::from_code(priority).unwrap_or_default(),
        instances: row.get(6)?,
        instances_readable,
        bytes_original: uint(row, 9)?,
        bytes_held,
        bytes_to_cross,
        custody,
        percent_at_hub: percent(custody, bytes_held, bytes_to_cross),
        readable: instances_readable > 0,
        report: report_state(row.get_ref(14)?.as_str_or_null()?),
        critical: match row.get::<_, Option<u8>>(15)? {
            None | Some(0) => CriticalState::None,
            Some(_) => CriticalState::Open,
        },
        received_at: uint(row, 5)?,
        eta_seconds: (custody == Custody::AtHub).then_some(0),
        conflicts: row.get(13)?,
    })
}

/// Custody has passed when the newest revision is closed and has its receipt, and not before; nor is
/// it said while something has rotted here and is asked for.
fn custody(closed: bool, state: RevisionState, lost: bool) -> Custody {
    if closed && state == RevisionState::Accepted && !lost {
        Custody::AtHub
    } else {
        Custody::Crossing
    }
}

/// 100 only when custody has passed.
fn percent(custody: Custody, held: u64, crossing: u64) -> u8 {
    if custody == Custody::AtHub {
        return 100;
    }
    let percent = (held * 100).checked_div(crossing).unwrap_or(0).min(99);
    u8::try_from(percent).expect("at most 99")
}

fn report_state(status: Option<&str>) -> ReportState {
    match status {
        Some("preliminary") => ReportState::Preliminary,
        Some("final") => ReportState::Final,
        Some("addendum") => ReportState::Addendum,
        Some(_) | None => ReportState::None,
    }
}

fn revisions(sql: &Connection, study: StudyId) -> rusqlite::Result<Vec<Revision>> {
    sql.prepare_cached(
        "SELECT revision, root, instances, closed, state FROM manifest
         WHERE study = ?1 ORDER BY revision",
    )?
    .query_map([study], |row| {
        Ok(Revision {
            revision: row.get(0)?,
            root: db::digest(row, 1)?.to_string(),
            instances: row.get(2)?,
            closed: row.get(3)?,
            state: RevisionState::read(row, 4)?,
        })
    })?
    .collect()
}

fn instances(sql: &Connection, study: StudyId) -> rusqlite::Result<Vec<Instance>> {
    sql.prepare_cached(
        "SELECT sop, series, sop_class, transfer_syntax, number, bytes, digest,
                count(*) OVER (PARTITION BY sop) > 1
         FROM instance WHERE study = ?1 ORDER BY series, number, sop, id",
    )?
    .query_map([study], |row| {
        Ok(Instance {
            sop_instance_uid: db::parsed(row, 0)?,
            series_instance_uid: db::parsed(row, 1)?,
            sop_class_uid: db::parsed(row, 2)?,
            transfer_syntax_uid: db::parsed(row, 3)?,
            instance_number: row.get(4)?,
            bytes: uint(row, 5)?,
            digest: Digest::from_bytes(row.get(6)?).to_string(),
            conflict: row.get(7)?,
        })
    })?
    .collect()
}

fn reports(sql: &Connection, study: StudyId) -> rusqlite::Result<Vec<Report>> {
    sql.prepare_cached(
        "SELECT status, critical, signed_ms, digest, delivered FROM report
         WHERE study = ?1 ORDER BY id",
    )?
    .query_map([study], |row| {
        Ok(Report {
            status: row.get(0)?,
            critical: row.get(1)?,
            signed_at: uint(row, 2)?,
            digest: db::digest(row, 3)?.to_string(),
            delivered: row.get(4)?,
        })
    })?
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_here_are_not_custody() {
        let open = custody(false, RevisionState::Accepted, false);
        assert_eq!((open, percent(open, 10, 10)), (Custody::Crossing, 99));
        let unproven = custody(true, RevisionState::Decoded, false);
        assert_eq!(
            (unproven, percent(unproven, 10, 10)),
            (Custody::Crossing, 99)
        );
        let done = custody(true, RevisionState::Accepted, false);
        assert_eq!((done, percent(done, 0, 0)), (Custody::AtHub, 100));
        let lost = custody(true, RevisionState::Accepted, true);
        assert_eq!((lost, percent(lost, 10, 10)), (Custody::Crossing, 99));
    }

    #[test]
    fn a_question_about_one_study_walks_through_no_table() {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(db::MIGRATIONS[0]).unwrap();
        let question = format!("EXPLAIN QUERY PLAN {}", list_question(true));
        let mut plan = sql.prepare(&question).unwrap();
        let steps = plan
            .query_map(["1.2"], |row| row.get::<_, String>(3))
            .unwrap();
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        assert!(steps.iter().all(|step| !step.contains("SCAN")), "{steps:?}");
    }
}
