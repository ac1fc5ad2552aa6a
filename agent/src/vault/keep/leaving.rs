//! Leaving: a study's bytes and keys go, its names stay; and which studies go of themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use identity::NodeKey;
use journal::{Fact, Released};
use serde::Serialize;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{SegmentName, Segments, Work};
use study::{Digest, InstanceDigest, SopInstanceUid, StudyRoot, StudyUid};

use super::super::arrivals::segment_family;
use super::super::columns::{int, uid};
use super::super::formats::{self, GoneFile, GoneList};
use super::super::{Vault, VaultError, consent, documents, sealed};
use crate::keys::Keys;

/// What it takes, about, to write down that an instance has gone: its name in a record, and the
/// changes of its rows in the index's log.
pub(super) const GONE_FILE_BYTES: u64 = 1024;

/// What `instance.gone` says of one that was erased.
const ERASED: u8 = 2;

/// What was let go.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct LetGo {
    /// The studies, in the order they went.
    pub studies: Vec<StudyUid>,
    /// The bytes that they took.
    pub bytes: u64,
}

/// A study that may be let go.
pub(super) struct MayGo {
    pub(super) study: StudyUid,
    /// What it takes in the box.
    pub(super) bytes: u64,
    instances: u64,
}

impl Vault {
    /// Lets go of studies that may go, the longest at the hub first, until `short` bytes are free
    /// that were not before, or no more may go.
    pub async fn let_go(&self, short: u64) -> Result<LetGo, VaultError> {
        // On a disk that is full to the last byte it is not written down, and nothing goes early.
        let _ = self.count_running().await;
        let keep_ms = self.0.config.keep_at_hub.as_millis();
        let may_go = self.0.readers.with(|sql| may_go(sql, keep_ms))?;
        let (mut gone, mut stuck) = (LetGo::default(), None);
        for study in may_go {
            if gone.bytes >= short {
                break;
            }
            match self.make_room(study.instances * GONE_FILE_BYTES) {
                // A smaller one may find the room to go, and make some.
                Err(error @ VaultError::NoRoom(_)) => {
                    stuck = Some(error);
                    continue;
                }
                room => room?,
            }
            let name = study.study.clone();
            let (key, keys) = (Arc::clone(&self.0.key), self.0.keys.clone());
            let segments = Arc::clone(self.0.writer.segments());
            let left = self.0.writer.run(move |work| {
                let leaving = Leaving::new(&keys, &segments, &study.study);
                let_one_go(work, &key, &leaving, keep_ms)
            });
            if let Some(bytes) = left.await?.into_inner() {
                self.0.keeping.log_is_due.store(true, Ordering::Relaxed);
                tracing::info!(study = %name, bytes, "let go of a study that is at the hub");
                gone.bytes += bytes;
                gone.studies.push(name);
            }
        }
        if !gone.studies.is_empty() {
            self.0.changed.send_replace(());
            self.empty_log().await?;
        }
        match stuck {
            Some(error) if gone.studies.is_empty() => Err(error),
            Some(_) | None => Ok(gone),
        }
    }
}

/// Lets one study go, if it still may; gives the bytes that it took.
fn let_one_go(
    work: &mut Work<'_>,
    key: &NodeKey,
    leaving: &Leaving<'_>,
    keep_ms: u64,
) -> Result<Option<u64>, VaultError> {
    let study = leaving.study;
    let mut still = may_go_with(work.sql(), keep_ms, Some(study))?;
    let Some(root) = newest_root(work.sql(), study)?.filter(|_| still.pop().is_some()) else {
        return Ok(None);
    };
    let bytes = leaving.leave(work, 1, Vec::new(), 0)?;
    let fact = Fact::Released(Released {
        study: study.clone(),
        root,
    });
    consent::say_or_keep(work, key, study, &fact)?;
    Ok(Some(bytes))
}

/// A study that leaves, and what has to do with it.
pub(super) struct Leaving<'a> {
    keys: &'a Keys,
    segments: &'a Segments,
    pub(super) study: &'a StudyUid,
}

impl<'a> Leaving<'a> {
    pub(super) fn new(keys: &'a Keys, segments: &'a Segments, study: &'a StudyUid) -> Self {
        Self {
            keys,
            segments,
            study,
        }
    }

    /// Drops bytes and keys, keeps the names; `state` is what the instances are then. Gives the
    /// bytes of the segments that go. Runs inside a store job.
    pub(super) fn leave(
        &self,
        work: &mut Work<'_>,
        state: u8,
        withdrawn: Vec<Digest>,
        reports_upto: u64,
    ) -> Result<u64, VaultError> {
        let keys = sealed::keys_of(work.sql(), self.study)?;
        let list = GoneList {
            study: self.study.clone(),
            state,
            files: files(work.sql(), self.study, state)?,
            withdrawn,
            reports_upto,
        };
        super::drop_rows(work.sql(), self.study, state, &list.withdrawn)?;
        let record = formats::plain_record(formats::GONE_LIST, formats::to_meta(&list))?;
        let location = work.append(formats::JOURNAL_FAMILY, &record)?;
        sealed::note_end(work.sql(), &location)?;
        if state == ERASED {
            documents::shred_of(work, self.segments, self.study)?;
        }
        let bytes = self.drop_segments(work)?;
        // Before the next job: what arrives then is sealed with another key.
        self.keys.forget(self.study, &keys);
        Ok(bytes)
    }

    /// Gives up the segments that hold nothing but this study.
    fn drop_segments(&self, work: &mut Work<'_>) -> Result<u64, VaultError> {
        let [packed, again, keys] =
            ["packed", "again", "keys"].map(|kind| segment_family(kind, self.study));
        let intake = formats::INTAKE_FAMILY;
        let mut bytes = 0;
        for segment in self.segments.list() {
            let family = segment.family();
            if family == keys {
                sealed::forget_end(work.sql(), &segment)?;
                work.wipe_segment_after_commit(&segment)?;
            } else if [intake, &packed, &again].contains(&family) && !is_used(work.sql(), &segment)?
            {
                sealed::give_up(work, &segment)?;
            } else {
                continue;
            }
            bytes += self.segments.bytes(&segment).unwrap_or(0);
        }
        Ok(bytes)
    }
}

/// Whether anything in a segment is referred to: two studies whose digests begin alike share it.
fn is_used(sql: &Connection, segment: &SegmentName) -> store::rusqlite::Result<bool> {
    sql.prepare_cached(
        "SELECT 1 FROM instance WHERE segment = ?1
         UNION ALL SELECT 1 FROM chunk WHERE segment = ?1 LIMIT 1",
    )?
    .exists(params![segment])
}

/// The instances that leave now.
fn files(sql: &Connection, study: &StudyUid, state: u8) -> store::rusqlite::Result<Vec<GoneFile>> {
    sql.prepare_cached(
        "SELECT sop_uid, digest, file_bytes, revision FROM instance
         WHERE study_uid = ?1 AND gone < ?2 ORDER BY instance_id",
    )?
    .query_map(params![study.as_str(), state], |row| {
        Ok(GoneFile {
            sop: uid(row, 0, SopInstanceUid::parse)?,
            digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(1)?)),
            file_bytes: row.get(2)?,
            revision: row.get(3)?,
        })
    })?
    .collect()
}

fn newest_root(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Option<StudyRoot>> {
    sql.prepare_cached(
        "SELECT root FROM revision WHERE study_uid = ?1 ORDER BY revision DESC LIMIT 1",
    )?
    .query_row([study.as_str()], |row| {
        Ok(StudyRoot::from_digest(Digest::from_bytes(row.get(0)?)))
    })
    .optional()
}

/// The studies that may be let go, the longest at the hub first.
pub(super) fn may_go(sql: &Connection, keep_ms: u64) -> store::rusqlite::Result<Vec<MayGo>> {
    may_go_with(sql, keep_ms, None)
}

/// Of all studies, or of one: those that may be let go.
///
/// A report counts as one of the images that are here only when it came after the receipt for the
/// last of them. None may go while a journal is in doubt: a hub whose disk was set back may have
/// lost what its receipts speak of.
fn may_go_with(
    sql: &Connection,
    keep_ms: u64,
    only: Option<&StudyUid>,
) -> store::rusqlite::Result<Vec<MayGo>> {
    sql.prepare_cached(
        "SELECT s.study_uid,
                (SELECT coalesce(sum(c.length), 0) FROM chunk c WHERE c.study_uid = s.study_uid),
                (SELECT count(*) FROM instance i WHERE i.study_uid = s.study_uid AND i.gone = 0)
                    AS held
         FROM study s JOIN revision n ON n.study_uid = s.study_uid
          AND n.revision = (SELECT max(revision) FROM revision r WHERE r.study_uid = s.study_uid)
         WHERE (?2 IS NULL OR s.study_uid = ?2) AND NOT s.open AND NOT s.legal_hold
           AND n.closed AND n.receipt_seq IS NOT NULL
           AND s.custody_run_ms <= (SELECT run_ms FROM odometer) - ?1
           AND held > 0
           AND NOT EXISTS (SELECT 1 FROM divergence)
           AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.study_uid = s.study_uid AND i.gone = 0
                           AND (i.group_id IS NULL OR i.segment IS NOT NULL OR i.set_aside
                                OR i.damaged))
           AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.study_uid = s.study_uid AND c.damaged)
           AND NOT EXISTS (SELECT 1 FROM revision r
                           WHERE r.study_uid = s.study_uid
                             AND (r.receipt_seq IS NULL OR r.wanted))
           AND EXISTS (SELECT 1 FROM report p
                       WHERE p.study_uid = s.study_uid AND p.confirmed AND p.status IN (2, 3)
                         AND p.seq > (SELECT max(r.receipt_seq)
                                      FROM pack_group g JOIN revision r USING (study_uid, revision)
                                      WHERE g.study_uid = s.study_uid))
         ORDER BY n.receipt_seq",
    )?
    .query_map(params![int(keep_ms), only.map(StudyUid::as_str)], |row| {
        Ok(MayGo {
            study: uid(row, 0, StudyUid::parse)?,
            bytes: row.get(1)?,
            instances: row.get(2)?,
        })
    })?
    .collect()
}
