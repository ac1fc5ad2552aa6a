//! Ledger: the journals at the hub, its own streams and those of the units.
//!
//! In: facts from rooms, inside their store jobs; records of units, as bytes. Out: signed records
//! by journal and number; word to `outbox` that a stream has grown.
//! Invariant: a record and the rows that follow from it are one transaction; a journal held here
//! has no gap.
//! May not: open transactions of its own, decide what a fact means.

use std::sync::Arc;

use identity::{NodeId, NodeKey};
use journal::{
    AppendError, Chain, ChainFault, ClockQuality, Diverged, Divergence, Fact, Head, JournalId,
    Moment, Record, Signed, verify_next,
};
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use thiserror::Error;

use crate::db::{self, int, uint};
use clock::{count_ms, wall_ms};

/// Why a record was not written.
#[derive(Debug, Error)]
pub(crate) enum LedgerError {
    /// The index refused.
    #[error("the journal cannot be read or written")]
    Index(#[from] rusqlite::Error),
    /// The fact does not fit a record.
    #[error("the record cannot be made")]
    Append(#[from] AppendError),
    /// Records of a peer do not continue its journal.
    #[error("the peer's journal is not accepted")]
    Chain(#[from] ChainFault),
}

/// The room: signs in the hub's name.
pub(crate) struct Ledger {
    key: Arc<NodeKey>,
    hub: NodeId,
}

impl Ledger {
    pub(crate) fn new(key: Arc<NodeKey>) -> Self {
        Self { hub: key.id(), key }
    }

    /// The hub's own id.
    pub(crate) fn hub(&self) -> NodeId {
        self.hub
    }

    /// The journal that concerns `unit` and no other.
    pub(crate) fn stream(&self, unit: NodeId) -> JournalId {
        JournalId {
            author: self.hub,
            stream: unit,
        }
    }

    /// Says `fact` in `journal`, which must be one of the hub's. Runs inside a store job, so that
    /// it stands or falls with what the job writes beside it.
    pub(crate) fn say(
        &self,
        sql: &Connection,
        journal: JournalId,
        fact: &Fact,
    ) -> Result<Head, LedgerError> {
        let mut chain = Chain::resume(journal, head(sql, &journal)?);
        let now = Moment {
            count_ms: count_ms(),
            wall_ms: wall_ms(),
            clock: ClockQuality::Unknown,
        };
        let signed = chain.append(&self.key, now, fact)?;
        keep(sql, &journal, &signed)?;
        Ok(signed.head)
    }

    /// Keeps a finding about a journal, once, and says it in our own. Runs inside a store job.
    pub(crate) fn note_divergence(
        &self,
        sql: &Connection,
        found: &Diverged,
    ) -> Result<(), LedgerError> {
        let journal = JournalId {
            author: found.author,
            stream: found.stream,
        };
        if Some(found.kind) <= divergence(sql, &journal)? {
            return Ok(());
        }
        sql.prepare_cached(
            "INSERT INTO divergence (author, stream, state) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET state = excluded.state",
        )?
        .execute(params![
            found.author.as_bytes(),
            found.stream.as_bytes(),
            match found.kind {
                Divergence::SetBack => 1,
                Divergence::Forked => 2,
            }
        ])?;
        let fact = Fact::Diverged(found.clone());
        self.say(sql, JournalId::own(self.hub), &fact).map(drop)
    }
}

/// Whether a unit has another copy of a journal than we, and how they are apart.
pub(crate) fn divergence(
    sql: &Connection,
    journal: &JournalId,
) -> rusqlite::Result<Option<Divergence>> {
    sql.prepare_cached("SELECT state FROM divergence WHERE author = ?1 AND stream = ?2")?
        .query_row(
            params![journal.author.as_bytes(), journal.stream.as_bytes()],
            |row| {
                Ok(match row.get::<_, u8>(0)? {
                    1 => Divergence::SetBack,
                    _ => Divergence::Forked,
                })
            },
        )
        .optional()
}

/// Takes records of another author, whose signatures were checked; those that are held are
/// skipped. Gives the new ones, and the number of the last one held.
pub(crate) fn take_in(
    sql: &Connection,
    journal: &JournalId,
    records: &[Signed],
) -> Result<(Vec<Record>, u64), LedgerError> {
    let mut head = head(sql, journal)?;
    let mut new = Vec::new();
    for signed in records {
        if signed.head.seq <= head.seq {
            continue;
        }
        // Two connections of one unit may have verified against an older head.
        let signed = verify_next(journal, &head, &signed.bytes)?;
        keep(sql, journal, &signed)?;
        head = signed.head;
        new.push(signed.record);
    }
    Ok((new, head.seq))
}

/// Where a journal ends here.
pub(crate) fn head(sql: &Connection, journal: &JournalId) -> rusqlite::Result<Head> {
    let head = sql
        .prepare_cached(
            "SELECT seq, digest, count_ms FROM journal WHERE author = ?1 AND stream = ?2",
        )?
        .query_row(
            params![journal.author.as_bytes(), journal.stream.as_bytes()],
            |row| {
                Ok(Head {
                    seq: uint(row, 0)?,
                    digest: Some(db::digest(row, 1)?),
                    count_ms: uint(row, 2)?,
                })
            },
        )
        .optional()?;
    Ok(head.unwrap_or(Head::EMPTY))
}

/// Signed records from `from_seq` on, at most `bytes_max` of them together and at least one.
pub(crate) fn records(
    sql: &Connection,
    journal: &JournalId,
    from_seq: u64,
    bytes_max: usize,
) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut statement = sql.prepare_cached(
        "SELECT bytes FROM record WHERE author = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq",
    )?;
    let mut rows = statement.query(params![
        journal.author.as_bytes(),
        journal.stream.as_bytes(),
        int(from_seq)
    ])?;
    let (mut records, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let record: Vec<u8> = row.get(0)?;
        bytes += record.len();
        if bytes > bytes_max && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    Ok(records)
}

fn keep(sql: &Connection, journal: &JournalId, signed: &Signed) -> rusqlite::Result<()> {
    let (author, stream) = (journal.author.as_bytes(), journal.stream.as_bytes());
    sql.prepare_cached(
        "INSERT INTO record (author, stream, seq, kind, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        author,
        stream,
        int(signed.head.seq),
        signed.record.kind,
        signed.bytes
    ])?;
    let digest = signed.head.digest.expect("a record has been written");
    sql.prepare_cached(
        "INSERT INTO journal (author, stream, seq, digest, count_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (author, stream)
         DO UPDATE SET seq = excluded.seq, digest = excluded.digest, count_ms = excluded.count_ms",
    )?
    .execute(params![
        author,
        stream,
        int(signed.head.seq),
        digest.as_bytes(),
        int(signed.head.count_ms)
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use journal::{Opened, Receipt};
    use store::rusqlite::Connection;
    use study::{Digest, StudyRoot, StudyUid};

    use super::*;

    fn database() -> Connection {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(db::MIGRATIONS[0]).unwrap();
        sql
    }

    fn opened() -> Fact {
        Fact::Opened(Opened {
            software: "hub 0".into(),
        })
    }

    #[test]
    fn each_unit_has_its_own_gapless_stream() {
        let (sql, ledger) = (database(), Ledger::new(Arc::new(NodeKey::generate())));
        let (a, b) = (NodeKey::generate().id(), NodeKey::generate().id());
        for _ in 0..3 {
            ledger.say(&sql, ledger.stream(a), &opened()).unwrap();
        }
        ledger.say(&sql, ledger.stream(b), &opened()).unwrap();
        assert_eq!(head(&sql, &ledger.stream(a)).unwrap().seq, 3);
        assert_eq!(head(&sql, &ledger.stream(b)).unwrap().seq, 1);
        let from_two = records(&sql, &ledger.stream(a), 2, usize::MAX).unwrap();
        assert_eq!(from_two.len(), 2);
        assert_eq!(records(&sql, &ledger.stream(a), 1, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_divergence_is_said_once_and_once_more_when_it_is_worse() {
        let (sql, ledger) = (database(), Ledger::new(Arc::new(NodeKey::generate())));
        let unit = NodeKey::generate().id();
        let own = JournalId::own(ledger.hub());
        let mut said = Vec::new();
        use Divergence::{Forked, SetBack};
        for kind in [SetBack, SetBack, Forked, Forked, SetBack] {
            let found = Diverged {
                author: unit,
                stream: unit,
                ours: 9,
                theirs: 5,
                kind,
            };
            ledger.note_divergence(&sql, &found).unwrap();
            said.push(head(&sql, &own).unwrap().seq);
        }
        assert_eq!(said, [1, 1, 2, 2, 2]);
        let known = divergence(&sql, &JournalId::own(unit)).unwrap();
        assert_eq!(known, Some(Forked));
        assert_eq!(divergence(&sql, &ledger.stream(unit)).unwrap(), None);
    }

    #[test]
    fn what_is_held_is_skipped_and_a_gap_is_refused() {
        let (theirs, ours) = (database(), database());
        let ledger = Ledger::new(Arc::new(NodeKey::generate()));
        let journal = JournalId::own(ledger.hub());
        let receipt = Fact::Receipt(Receipt {
            study: StudyUid::parse("1.2").unwrap(),
            revision: 1,
            root: StudyRoot::from_digest(Digest::of(b"r")),
            instances: 1,
            manifest: Digest::of(b"m"),
        });
        for fact in [opened(), receipt, opened()] {
            ledger.say(&theirs, journal, &fact).unwrap();
        }
        let mut at = Head::EMPTY;
        let mut all = Vec::new();
        for bytes in records(&theirs, &journal, 1, usize::MAX).unwrap() {
            all.push(verify_next(&journal, &at, &bytes).unwrap());
            at = all.last().unwrap().head;
        }
        assert_eq!(take_in(&ours, &journal, &all[..2]).unwrap().1, 2);
        let (new, seq) = take_in(&ours, &journal, &all).unwrap();
        assert_eq!((new.len(), seq), (1, 3));
        assert_eq!(head(&ours, &journal).unwrap(), at);
        let gap = take_in(&database(), &journal, &all[2..]);
        assert!(matches!(
            gap,
            Err(LedgerError::Chain(ChainFault::NotNext { .. }))
        ));
    }
}
