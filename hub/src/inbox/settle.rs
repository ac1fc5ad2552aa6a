//! Custody: a revision gets its receipt when its root was computed here and is right.

use identity::NodeId;
use journal::{Fact, Receipt, ReceiptRefused};
use store::rusqlite::{self, Connection, OptionalExtension as _, Row, params};
use study::{Digest, StudyRoot, StudyUid};

use crate::archive::{RevisionState, index};
use crate::db::{self, ManifestId, StudyId};
use crate::ledger::{Ledger, LedgerError};

/// What was said to a unit about a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub unit: NodeId,
    pub study: StudyUid,
    pub revision: u32,
    /// None when the receipt was given.
    pub refused: Option<String>,
}

/// Judges every revision of a study that can be judged, lowest first. Runs inside a store job.
///
/// A revision is judged once: its state changes in the transaction that holds the record, so the
/// same manifest offered again finds its answer in the journal.
pub(crate) fn settle(
    sql: &Connection,
    ledger: &Ledger,
    study: StudyId,
) -> Result<Vec<Verdict>, LedgerError> {
    let mut verdicts = Vec::new();
    while let Some(next) = lowest_open(sql, study)? {
        if next.state != RevisionState::Decoded || next.earlier + 1 < next.revision {
            break;
        }
        let refused = judge(sql, study, &next)?;
        verdicts.push(answer(sql, ledger, &next, refused)?);
    }
    Ok(verdicts)
}

/// Refuses a manifest whose chunks are here and cannot be what it says.
pub(crate) fn refuse(
    sql: &Connection,
    ledger: &Ledger,
    manifest: ManifestId,
    reason: &str,
) -> Result<Option<Verdict>, LedgerError> {
    let open = sql
        .query_row(
            &format!("{OPEN} WHERE m.id = ?1 AND m.state < 2"),
            [manifest],
            Open::read,
        )
        .optional()?;
    open.map(|open| answer(sql, ledger, &open, Some(reason.to_owned())))
        .transpose()
}

/// A revision without an answer.
struct Open {
    manifest: ManifestId,
    unit: NodeId,
    study: StudyUid,
    revision: u32,
    state: RevisionState,
    digest: Digest,
    previous: Option<Digest>,
    root: StudyRoot,
    instances: u32,
    /// How many lower revisions are known.
    earlier: u32,
}

const OPEN: &str = "
    SELECT m.id, s.unit, s.uid, m.revision, m.state, m.digest, m.previous, m.root, m.instances,
           (SELECT count(*) FROM manifest e WHERE e.study = m.study AND e.revision < m.revision)
    FROM manifest m JOIN study s ON s.id = m.study";

impl Open {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            manifest: row.get(0)?,
            unit: NodeId::from_bytes(row.get(1)?),
            study: db::parsed(row, 2)?,
            revision: row.get(3)?,
            state: RevisionState::read(row, 4)?,
            digest: db::digest(row, 5)?,
            previous: row.get::<_, Option<[u8; 32]>>(6)?.map(Digest::from_bytes),
            root: db::root(row, 7)?,
            instances: row.get(8)?,
            earlier: row.get(9)?,
        })
    }
}

fn lowest_open(sql: &Connection, study: StudyId) -> rusqlite::Result<Option<Open>> {
    sql.prepare_cached(&format!(
        "{OPEN} WHERE m.study = ?1 AND m.state < 2 ORDER BY m.revision LIMIT 1"
    ))?
    .query_row([study], Open::read)
    .optional()
}

/// Why the revision cannot have a receipt; none when it can.
fn judge(sql: &Connection, study: StudyId, open: &Open) -> rusqlite::Result<Option<String>> {
    let before: Option<Digest> = sql
        .query_row(
            "SELECT digest FROM manifest WHERE study = ?1 AND revision + 1 = ?2",
            params![study, open.revision],
            |row| db::digest(row, 0),
        )
        .optional()?;
    if open.previous != before {
        return Ok(Some(format!(
            "revision {} does not continue the one before",
            open.revision
        )));
    }
    let (said, counted) = (open.instances, index::count(sql, study, open.revision)?);
    if counted != u64::from(said) {
        return Ok(Some(format!(
            "it speaks of {said} instances, {counted} are here"
        )));
    }
    if index::has_lost(sql, study, open.revision, RevisionState::Refused)? {
        return Ok(Some(
            "images of a refused revision before it are damaged here".to_owned(),
        ));
    }
    let pairs = index::pairs(sql, study, open.revision)?;
    if StudyRoot::over(&pairs) != open.root {
        return Ok(Some(
            "the root over the instances here is another".to_owned(),
        ));
    }
    Ok(None)
}

fn answer(
    sql: &Connection,
    ledger: &Ledger,
    open: &Open,
    refused: Option<String>,
) -> Result<Verdict, LedgerError> {
    let (state, fact) = match &refused {
        None => (
            RevisionState::Accepted,
            Fact::Receipt(Receipt {
                study: open.study.clone(),
                revision: open.revision,
                root: open.root,
                instances: open.instances,
                manifest: open.digest,
            }),
        ),
        Some(reason) => (
            RevisionState::Refused,
            Fact::ReceiptRefused(ReceiptRefused {
                manifest: open.digest,
                reason: reason[..reason.floor_char_boundary(journal::TEXT_BYTES_MAX)].to_owned(),
            }),
        ),
    };
    sql.execute(
        "UPDATE manifest SET state = ?2 WHERE id = ?1",
        params![open.manifest, state.code()],
    )?;
    ledger.say(sql, ledger.stream(open.unit), &fact)?;
    Ok(Verdict {
        unit: open.unit,
        study: open.study.clone(),
        revision: open.revision,
        refused,
    })
}
