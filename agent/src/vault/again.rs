//! Again: what is packed and of which nothing has left is packed anew, smaller.
//!
//! Until a revision is offered ([`Vault::offer`]) nobody but this box has seen its manifest, and our
//! journal does not name it. So another manifest may take its place: one job stores the new units,
//! signs the revision and all after it anew, says in the segments which manifests count no more, and
//! gives up what nothing refers to any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codec::Tier;
use identity::NodeKey;
use journal::{Fact, Offered, SignedManifest};
use sealing::KeyId;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Location, Record, Synced, Work};
use study::{Digest, Group, GroupForm, InstanceDigest, SopInstanceUid, StudyUid};

use super::arrivals::segment_family;
use super::columns::{int, tier_code, uid};
use super::fetch::{FetchError, is_instance};
use super::formats::{self, GroupMeta, PackedFile, Replaced};
use super::{Vault, VaultError, consent, revisions, sealed};

/// Revisions that are packed anew together: each time all after them are signed anew as well.
const REVISIONS_MAX: u32 = 8;

/// What it takes, about, to write down that a revision is offered.
const OFFERED_BYTES: u64 = 1024;

/// A revision that may be packed anew.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The study.
    pub study: StudyUid,
    /// Its revision.
    pub revision: u32,
    /// BLAKE3 of its signed manifest.
    pub manifest: Digest,
    files: Vec<WaitingFile>,
}

#[derive(Debug, Clone)]
struct WaitingFile {
    instance_id: i64,
    group: i64,
    number: usize,
    sop: SopInstanceUid,
    digest: InstanceDigest,
    file_bytes: u64,
}

impl Waiting {
    /// The names of its files, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.sop.as_str())
    }
}

/// A revision that was packed anew, and has not taken the place of the old one yet.
#[derive(Debug)]
pub struct Repacked {
    waiting: Waiting,
    tier: Tier,
    /// The units, sealed; none when the old ones are no larger.
    units: Option<Vec<Record>>,
}

impl Vault {
    /// Lets revisions leave: from here on they are as they are for ever, and our journal says so.
    ///
    /// Gives their manifests, which nothing else does; what has been packed anew meanwhile, may not
    /// leave any more, or cannot be written down on a full disk, is not among them.
    pub async fn offer(
        &self,
        mut manifests: Vec<Digest>,
    ) -> Result<Synced<Vec<SignedManifest>>, VaultError> {
        let new = self.0.readers.with(|sql| unoffered(sql, &manifests))?;
        if !new.is_empty() {
            match self.make_room(new.len() as u64 * OFFERED_BYTES) {
                // What was offered before goes on, whatever the disk is like.
                Err(VaultError::NoRoom(_)) => manifests.retain(|manifest| !new.contains(manifest)),
                room => room?,
            }
        }
        let key = Arc::clone(&self.0.key);
        let given = self
            .0
            .writer
            .run(move |work| -> Result<Vec<SignedManifest>, VaultError> {
                let mut given = Vec::with_capacity(manifests.len());
                for manifest in &manifests {
                    given.extend(offer(work, &key, manifest)?);
                }
                Ok(given)
            });
        Ok(given.await?)
    }

    /// Revisions of one study, the last to cross, that may be packed anew in this tier: nothing of
    /// them or of what comes after them has left, and they are not packed as well already. The
    /// newest comes first.
    pub fn waiting(
        &self,
        tier: Tier,
        passed_over: &BTreeSet<Digest>,
    ) -> Result<Vec<Waiting>, VaultError> {
        Ok(self.0.readers.with(|sql| waiting(sql, tier, passed_over))?)
    }

    /// Reads the files of a revision back, each with the bytes that were taken in.
    pub fn waiting_files(&self, waiting: &Waiting) -> Result<Vec<Vec<u8>>, FetchError> {
        let mut files = Vec::with_capacity(waiting.files.len());
        let mut groups = BTreeMap::new();
        for file in &waiting.files {
            let open = match groups.entry(file.group) {
                std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
                std::collections::btree_map::Entry::Vacant(open) => {
                    open.insert(self.open_group(file.group)?)
                }
            };
            let bytes = open.file(file.number)?;
            if !is_instance(&bytes, &file.sop, &file.digest) {
                return Err(FetchError::Other(file.sop.clone()));
            }
            files.push(bytes);
        }
        Ok(files)
    }

    /// Seals the units that a revision was packed into anew, decoded again and compared; they are
    /// dropped when the old ones are no larger.
    pub fn seal_again(
        &self,
        waiting: Waiting,
        tier: Tier,
        units: Vec<Vec<u8>>,
    ) -> Result<Repacked, FetchError> {
        let (bytes, first) = self.0.readers.with(|sql| size_and_first(sql, &waiting))?;
        let sealed_bytes = |unit: &Vec<u8>| (unit.len() + sealing::OVERHEAD_BYTES) as u64;
        let is_smaller = units.iter().map(sealed_bytes).sum::<u64>() < bytes;
        let units = match first.filter(|_| is_smaller) {
            Some(first) => {
                let record = self.0.writer.segments().read(&first)?;
                // The envelope in the manifest is that of this key.
                let key = KeyId::of_sealed(record.body()).map_err(FetchError::Sealed)?;
                let files = waiting.files.iter().map(|file| PackedFile {
                    sop: file.sop.clone(),
                    digest: file.digest,
                    file_bytes: file.file_bytes,
                });
                let said = GroupMeta {
                    files: files.collect(),
                };
                Some(formats::packed_records(
                    &*self.data_key(key)?,
                    units,
                    &said,
                )?)
            }
            None => None,
        };
        Ok(Repacked {
            waiting,
            tier,
            units,
        })
    }

    /// Puts what was packed anew, of one study, in the place of the old, if nothing of it has left
    /// meanwhile; gives the bytes that need not cross any more.
    pub async fn replace(&self, repacked: Vec<Repacked>) -> Result<Synced<u64>, VaultError> {
        let units = repacked.iter().flat_map(|r| r.units.iter().flatten());
        self.room_to_write(units.map(|unit| unit.body().len() as u64).sum())?;
        let key = Arc::clone(&self.0.key);
        let replaced = self
            .0
            .writer
            .run(move |work| replace(work, &key, repacked))
            .await?;
        Ok(self.note_change(replaced))
    }
}

/// Those of some manifests that were not offered before.
fn unoffered(sql: &Connection, manifests: &[Digest]) -> store::rusqlite::Result<BTreeSet<Digest>> {
    let mut is_new =
        sql.prepare_cached("SELECT 1 FROM revision WHERE manifest_digest = ?1 AND offered = 0")?;
    let mut new = BTreeSet::new();
    for manifest in manifests {
        if is_new.exists([manifest.as_bytes()])? {
            new.insert(*manifest);
        }
    }
    Ok(new)
}

fn offer(
    work: &mut Work<'_>,
    key: &NodeKey,
    manifest: &Digest,
) -> Result<Option<SignedManifest>, VaultError> {
    let found: Option<(Vec<u8>, bool)> = work
        .sql()
        .prepare_cached(
            "SELECT r.manifest, r.offered FROM revision r JOIN study s USING (study_uid)
             WHERE r.manifest_digest = ?1 AND s.consent != 0",
        )?
        .query_row([manifest.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((bytes, offered)) = found else {
        return Ok(None);
    };
    let signed = SignedManifest::open(&bytes)?;
    if !offered {
        work.sql()
            .prepare_cached("UPDATE revision SET offered = 1 WHERE manifest_digest = ?1")?
            .execute([manifest.as_bytes()])?;
        let said = signed.manifest();
        let fact = Fact::Offered(Offered {
            study: said.study.clone(),
            revision: said.revision,
            root: said.root,
            manifest: signed.digest(),
        });
        consent::say_of(work, key, &said.study, &fact)?;
    }
    Ok(Some(signed))
}

fn waiting(
    sql: &Connection,
    tier: Tier,
    passed_over: &BTreeSet<Digest>,
) -> store::rusqlite::Result<Vec<Waiting>> {
    let mut select = sql.prepare_cached(
        "SELECT r.study_uid, r.revision, r.manifest_digest
         FROM revision r JOIN study s USING (study_uid)
         WHERE r.offered = 0 AND r.receipt_seq IS NULL AND r.refused IS NULL
           AND NOT EXISTS (SELECT 1 FROM revision o WHERE o.study_uid = r.study_uid
                           AND o.revision > r.revision AND o.offered)
           AND EXISTS (SELECT 1 FROM pack_group g WHERE g.study_uid = r.study_uid
                       AND g.revision = r.revision AND coalesce(g.tier, -1) < ?1)
           AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.study_uid = r.study_uid
                           AND c.revision = r.revision AND c.damaged > 0)
         ORDER BY s.priority DESC, s.received_at_ms DESC, r.study_uid, r.revision DESC",
    )?;
    let mut rows = select.query([tier_code(tier)])?;
    let mut found: Vec<Waiting> = Vec::new();
    while let Some(row) = rows.next()? {
        let study = uid(row, 0, StudyUid::parse)?;
        let manifest = Digest::from_bytes(row.get(2)?);
        let is_other = found.first().is_some_and(|first| first.study != study);
        if is_other || found.len() >= REVISIONS_MAX as usize {
            break;
        }
        if passed_over.contains(&manifest) {
            continue;
        }
        let revision = row.get(1)?;
        let files = files(sql, &study, revision)?;
        found.push(Waiting {
            study,
            revision,
            manifest,
            files,
        });
    }
    Ok(found)
}

/// The files of a revision, in their order in it.
fn files(
    sql: &Connection,
    study: &StudyUid,
    revision: u32,
) -> store::rusqlite::Result<Vec<WaitingFile>> {
    sql.prepare_cached(
        "SELECT i.instance_id, i.group_id, i.file_number, i.sop_uid, i.digest, i.file_bytes
         FROM pack_group g JOIN instance i ON i.group_id = g.group_id
         WHERE g.study_uid = ?1 AND g.revision = ?2 ORDER BY g.group_id, i.file_number",
    )?
    .query_map(params![study.as_str(), revision], |row| {
        Ok(WaitingFile {
            instance_id: row.get(0)?,
            group: row.get(1)?,
            number: row.get(2)?,
            sop: uid(row, 3, SopInstanceUid::parse)?,
            digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(4)?)),
            file_bytes: row.get(5)?,
        })
    })?
    .collect()
}

/// What a revision's chunks have in bytes, and where the first lies.
fn size_and_first(
    sql: &Connection,
    waiting: &Waiting,
) -> store::rusqlite::Result<(u64, Option<Location>)> {
    let of = params![waiting.study.as_str(), waiting.revision];
    let bytes = sql
        .prepare_cached(
            "SELECT coalesce(sum(bytes), 0) FROM chunk WHERE study_uid = ?1 AND revision = ?2",
        )?
        .query_row(of, |row| row.get(0))?;
    let first = sql
        .prepare_cached(
            "SELECT segment, offset, length FROM chunk
             WHERE study_uid = ?1 AND revision = ?2 ORDER BY number LIMIT 1",
        )?
        .query_row(of, |row| Location::from_row(row, 0))
        .optional()?;
    Ok((bytes, first))
}

fn replace(work: &mut Work<'_>, key: &NodeKey, repacked: Vec<Repacked>) -> Result<u64, VaultError> {
    let Some(study) = repacked.first().map(|first| first.waiting.study.clone()) else {
        return Ok(0);
    };
    let overtaken = || VaultError::Overtaken(study.clone());
    let mut new: BTreeMap<u32, Repacked> = BTreeMap::new();
    for revision in repacked {
        new.insert(revision.waiting.revision, revision);
    }
    let from = new.keys().next().copied().unwrap_or(u32::MAX);
    let mut emptied = BTreeSet::new();
    let mut record = Replaced {
        study: study.clone(),
        manifests: Vec::new(),
    };
    let (mut saved, mut previous) = (0_u64, None);
    for (revision, bytes, offered) in suffix(work.sql(), &study, from)? {
        let old = SignedManifest::open(&bytes)?;
        let mut manifest = old.manifest().clone();
        let packed = new.remove(&revision);
        if offered
            || packed
                .as_ref()
                .is_some_and(|p| p.waiting.manifest != old.digest())
        {
            return Err(overtaken());
        }
        let units = match packed {
            Some(Repacked {
                waiting,
                tier,
                units,
            }) => {
                note_tier(work.sql(), &waiting, tier)?;
                units.map(|units| (waiting, tier, units))
            }
            None => None,
        };
        if units.is_none() && previous.is_none() {
            continue;
        }
        if let Some(before) = previous {
            manifest.previous = Some(before);
        }
        if let Some((waiting, tier, units)) = units {
            for location in places(work.sql(), &waiting)? {
                // Nothing refers to it any more, and it is no news at the next start.
                sealed::note_end(work.sql(), &location)?;
                emptied.insert(location.segment);
            }
            let before = manifest.bytes_to_cross();
            manifest.groups = vec![place(work, &waiting, tier, &units)?.ok_or_else(overtaken)?];
            saved += before.saturating_sub(manifest.bytes_to_cross());
        }
        let signed = SignedManifest::sign(key, manifest);
        renew(work, revision, &signed)?;
        record.manifests.push((old.digest(), signed.digest()));
        previous = Some(signed.digest());
    }
    // Of what is gone nothing takes a place.
    if !new.is_empty() {
        return Err(overtaken());
    }
    if !record.manifests.is_empty() {
        let record = formats::plain_record(formats::REPLACED, formats::to_meta(&record))?;
        let location = work.append(formats::JOURNAL_FAMILY, &record)?;
        sealed::note_end(work.sql(), &location)?;
    }
    for segment in revisions::unused(work.sql(), emptied)? {
        sealed::give_up(work, &segment)?;
    }
    Ok(saved)
}

/// A study's revisions from this one on, with their manifests, and whether they may have left.
fn suffix(
    sql: &Connection,
    study: &StudyUid,
    from: u32,
) -> store::rusqlite::Result<Vec<(u32, Vec<u8>, bool)>> {
    sql.prepare_cached(
        "SELECT revision, manifest, offered FROM revision
         WHERE study_uid = ?1 AND revision >= ?2 ORDER BY revision",
    )?
    .query_map(params![study.as_str(), from], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?
    .collect()
}

/// Notes that a revision need not be tried in this tier again.
fn note_tier(sql: &Connection, of: &Waiting, tier: Tier) -> store::rusqlite::Result<()> {
    sql.prepare_cached("UPDATE pack_group SET tier = ?3 WHERE study_uid = ?1 AND revision = ?2")?
        .execute(params![of.study.as_str(), of.revision, tier_code(tier)])
        .map(drop)
}

/// Where a revision's chunks lie.
fn places(sql: &Connection, of: &Waiting) -> store::rusqlite::Result<Vec<Location>> {
    sql.prepare_cached(
        "SELECT segment, offset, length FROM chunk WHERE study_uid = ?1 AND revision = ?2",
    )?
    .query_map(params![of.study.as_str(), of.revision], |row| {
        Location::from_row(row, 0)
    })?
    .collect()
}

/// Stores new units of a revision and points its instances at them; none when they are elsewhere.
fn place(
    work: &mut Work<'_>,
    waiting: &Waiting,
    tier: Tier,
    units: &[Record],
) -> Result<Option<Group>, VaultError> {
    // A family of its own: the old segments empty themselves, and go.
    let family = segment_family("again", &waiting.study);
    let mut chunks = Vec::with_capacity(units.len());
    for unit in units {
        chunks.push((work.append(&family, unit)?, revisions::chunk_ref(unit)));
    }
    let sql = work.sql();
    let (study, revision) = (&waiting.study, waiting.revision);
    let old: BTreeSet<i64> = waiting.files.iter().map(|file| file.group).collect();
    sql.prepare_cached("DELETE FROM chunk WHERE study_uid = ?1 AND revision = ?2")?
        .execute(params![study.as_str(), revision])?;
    let group = revisions::enter_group(sql, (study, revision), GroupForm::Codec, 0, &chunks)?;
    revisions::note_group_tier(sql, group, Some(tier))?;
    let mut point = sql.prepare_cached(
        "UPDATE instance SET group_id = ?2, file_number = ?3
         WHERE instance_id = ?1 AND group_id = ?4 AND gone = 0",
    )?;
    for (number, file) in (0_u32..).zip(&waiting.files) {
        if point.execute(params![file.instance_id, group, number, file.group])? != 1 {
            return Ok(None);
        }
    }
    for group in old {
        sql.prepare_cached("DELETE FROM pack_group WHERE group_id = ?1")?
            .execute([group])?;
    }
    Ok(Some(Group {
        chunks: chunks.into_iter().map(|(_, chunk)| chunk).collect(),
        instances: u32::try_from(waiting.files.len()).unwrap_or(u32::MAX),
        bytes_original: waiting.files.iter().map(|file| file.file_bytes).sum(),
        form: GroupForm::Codec,
    }))
}

/// Puts a manifest in the place of another of the same revision.
fn renew(work: &mut Work<'_>, revision: u32, signed: &SignedManifest) -> Result<(), VaultError> {
    let manifest = signed.manifest();
    work.sql()
        .prepare_cached(
            "UPDATE revision SET manifest = ?3, manifest_digest = ?4, bytes_to_cross = ?5
             WHERE study_uid = ?1 AND revision = ?2 AND offered = 0",
        )?
        .execute(params![
            manifest.study.as_str(),
            revision,
            signed.bytes(),
            signed.digest().as_bytes(),
            int(manifest.bytes_to_cross()),
        ])?;
    revisions::append_manifest(work, signed)
}
