//! Unknown records by what they are, and in the order in which they count.

use std::collections::BTreeMap;

use identity::NodeId;
use journal::{JournalId, SignedManifest};
use sealing::KeyId;
use store::{Location, Segments, StoreError};
use study::{ChunkRef, Digest, Group, GroupForm, StudyUid};

use super::super::VaultError;
use super::super::formats::{
    self, FiledDocument, GoneList, GroupMeta, IntakeMeta, PackedFile, Replaced, Unsaid,
};
use super::super::recovery::Unknown;
use super::Absorbed;

/// Unknown records by what they are.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) keys: Vec<(StudyUid, sealing::KeyEnvelopes)>,
    pub(super) gone: Vec<GoneList>,
    /// In the order in which they were written.
    pub(super) replaced: Vec<Replaced>,
    pub(super) unsaid: Vec<Unsaid>,
    /// The forms of documents, in the order in which they were filed.
    pub(super) documents: Vec<FiledDocument>,
    /// In the order in which the studies came.
    pub(super) studies: Vec<(StudyUid, OfStudy)>,
    /// Records of journals, the hub's before ours, which answers it; each in its order.
    pub(super) records: Vec<Vec<u8>>,
    /// What can be a chunk, by its digest.
    chunks: BTreeMap<Digest, Unknown>,
}

/// What was found of one study.
pub(super) struct OfStudy {
    /// The number of its oldest segment: numbers count up over all families.
    came: u32,
    /// By revision.
    pub(super) manifests: Vec<SignedManifest>,
    /// Whole files as they were taken in, in the order in which they came.
    pub(super) runs: Vec<Run>,
}

pub(super) struct Run {
    pub(super) said: IntakeMeta,
    pub(super) key: Option<KeyId>,
    pub(super) location: Location,
    pub(super) damaged: bool,
}

/// Where a record of a journal belongs.
type Place = (bool, NodeId, NodeId, u64);

impl Sorted {
    pub(super) fn of(
        segments: &Segments,
        unit: NodeId,
        unknown: &[Unknown],
        absorbed: &mut Absorbed,
    ) -> Result<Self, VaultError> {
        let mut sorted = Self::default();
        let mut studies = BTreeMap::new();
        let mut journals: BTreeMap<Place, Vec<u8>> = BTreeMap::new();
        for (index, next) in unknown.iter().enumerate() {
            let found = &next.found;
            let came = found.location.segment.number();
            let body = || segments.read(&found.location).map(store::Record::into_body);
            match found.header.kind {
                formats::INTAKE_FILE => {
                    sorted.offer_chunk(next);
                    if let Some(run) = run(segments, unknown, index)? {
                        let study = run.said.study.clone();
                        of_study(&mut studies, study, came).runs.push(run);
                    }
                }
                formats::INTAKE_PIECE | formats::PACKED_UNIT => sorted.offer_chunk(next),
                kind if !next.whole => {
                    absorbed.damaged += 1;
                    let (segment, at) = (&found.location.segment, found.location.offset);
                    tracing::error!(%segment, at, kind = kind.0, "a record is damaged");
                }
                formats::KEY_ENVELOPES => {
                    if let Some((study, envelopes)) = formats::read_key_body(&body()?) {
                        of_study(&mut studies, study.clone(), came);
                        sorted.keys.push((study, envelopes));
                    }
                }
                formats::REPLACED => sorted.replaced.extend(formats::from_meta(&body()?)),
                formats::GONE_LIST => sorted.gone.extend(formats::from_meta(&body()?)),
                formats::FILED_DOCUMENT => sorted.documents.extend(formats::from_meta(&body()?)),
                formats::UNSAID_FACT => sorted.unsaid.extend(formats::from_meta(&body()?)),
                formats::SIGNED_MANIFEST => match SignedManifest::open(&body()?) {
                    Ok(signed) if signed.signer() == unit => {
                        let study = signed.manifest().study.clone();
                        let of_study = of_study(&mut studies, study, u32::MAX);
                        of_study.manifests.push(signed);
                    }
                    Ok(_) | Err(_) => {
                        let (segment, at) = (&found.location.segment, found.location.offset);
                        tracing::error!(%segment, at, "a manifest is not ours");
                    }
                },
                formats::JOURNAL_RECORD => {
                    let bytes = body()?;
                    if let Ok(said) = journal::read_record(&bytes) {
                        let ours = said.journal() == JournalId::own(unit);
                        let place = (ours, said.author, said.stream, said.seq);
                        journals.entry(place).or_insert(bytes);
                    }
                }
                _ => {}
            }
        }
        sorted.records = journals.into_values().collect();
        sorted.studies = in_order(studies);
        Ok(sorted)
    }

    /// Keeps a record as a chunk; a whole one is better than a damaged one.
    fn offer_chunk(&mut self, record: &Unknown) {
        let chunk = self.chunks.entry(record.found.digest);
        chunk
            .and_modify(|chunk| {
                if record.whole {
                    chunk.clone_from(record);
                }
            })
            .or_insert_with(|| record.clone());
    }

    /// Whether a manifest counts no more, as what it names was erased before the hub had it.
    pub(super) fn withdraws(&self, signed: &SignedManifest) -> bool {
        let digest = signed.digest();
        let mut lists = self.gone.iter();
        lists.any(|list| list.withdrawn.contains(&digest))
    }

    /// Of the manifests that were found of a revision, the one that counts; `known` is the one in
    /// the index. None when that one does.
    pub(super) fn counting<'a>(
        &self,
        found: &[&'a SignedManifest],
        known: Option<Digest>,
    ) -> Option<&'a SignedManifest> {
        let named = |digest| {
            found
                .iter()
                .copied()
                .find(|signed| signed.digest() == digest)
        };
        match known {
            Some(known) => named(self.newest_of(known)).filter(|signed| signed.digest() != known),
            None => found
                .iter()
                .find_map(|signed| named(self.newest_of(signed.digest()))),
        }
    }

    /// The manifest that took the place of another, or of the one that did; itself when none did.
    fn newest_of(&self, manifest: Digest) -> Digest {
        let mut newest = manifest;
        for replaced in &self.replaced {
            let new = replaced.manifests.iter().find(|(old, _)| *old == newest);
            if let Some((_, new)) = new.filter(|_| self.took_place(replaced)) {
                newest = *new;
            }
        }
        newest
    }

    /// Whether all that one replacing wrote is here: a power cut may have left a part of it. What
    /// was lost later on both sides counts as replaced, as that was said.
    fn took_place(&self, replaced: &Replaced) -> bool {
        let of_study = self
            .studies
            .iter()
            .find(|(study, _)| *study == replaced.study);
        let find = |digest: &Digest| {
            let (_, of_study) = of_study?;
            of_study
                .manifests
                .iter()
                .find(|signed| signed.digest() == *digest)
        };
        let is_whole = |signed: &SignedManifest| {
            let mut groups = signed.manifest().groups.iter();
            groups.all(|group| self.chunks_of(group).is_some())
        };
        let mut pairs = replaced.manifests.iter();
        let new_is_here = pairs.all(|(_, new)| find(new).is_some());
        let mut pairs = replaced.manifests.iter();
        let new_is_whole = pairs.all(|(_, new)| find(new).is_some_and(is_whole));
        // An old one that is not found is in the index, where it is whole.
        let mut pairs = replaced.manifests.iter();
        let old_is_whole = pairs.all(|(old, _)| find(old).is_none_or(is_whole));
        new_is_here && (new_is_whole || !old_is_whole)
    }

    /// Where the chunks of a group lie, and whether each is whole; none when one is missing.
    pub(super) fn chunks_of(&self, group: &Group) -> Option<Vec<(Location, ChunkRef, bool)>> {
        let place = |chunk: &ChunkRef| {
            let Unknown { found, whole } = self.chunks.get(&chunk.digest)?;
            Some((found.location.clone(), chunk.clone(), *whole))
        };
        group.chunks.iter().map(place).collect()
    }

    /// The instances of a group, as its first record says.
    pub(super) fn files_of(&self, group: &Group) -> Option<Vec<PackedFile>> {
        let first = self.chunks.get(&group.chunks.first()?.digest)?;
        let meta = &first.found.header.meta;
        match group.form {
            GroupForm::Codec => Some(formats::from_meta::<GroupMeta>(meta)?.files),
            GroupForm::File => {
                let said: IntakeMeta = formats::from_meta(meta)?;
                Some(vec![PackedFile {
                    sop: said.sop,
                    digest: said.digest,
                    file_bytes: said.file_bytes,
                }])
            }
        }
    }
}

fn of_study(studies: &mut BTreeMap<StudyUid, OfStudy>, study: StudyUid, came: u32) -> &mut OfStudy {
    let of_study = studies.entry(study).or_insert_with(|| OfStudy {
        came,
        manifests: Vec::new(),
        runs: Vec::new(),
    });
    of_study.came = of_study.came.min(came);
    of_study
}

fn in_order(studies: BTreeMap<StudyUid, OfStudy>) -> Vec<(StudyUid, OfStudy)> {
    let mut studies: Vec<_> = studies.into_iter().collect();
    for (_, of_study) in &mut studies {
        of_study.manifests.sort_by_key(|m| m.manifest().revision);
        let place = |run: &Run| (run.location.segment.number(), run.location.offset);
        of_study.runs.sort_by_key(place);
    }
    studies.sort_by_key(|(_, of_study)| of_study.came);
    studies
}

/// The file whose first piece is at `first`; none when it is what a power cut left of one.
fn run(segments: &Segments, unknown: &[Unknown], first: usize) -> Result<Option<Run>, StoreError> {
    let Some((head, rest)) = unknown.get(first..).and_then(<[Unknown]>::split_first) else {
        return Ok(None);
    };
    let Some(said) = formats::from_meta::<IntakeMeta>(&head.found.header.meta) else {
        return Ok(None);
    };
    let mut location = head.found.location.clone();
    let (mut pieces, mut damaged) = (1, !head.whole);
    for Unknown { found, whole } in rest {
        let next = &found.location;
        let follows = next.segment == location.segment
            && next.offset == location.offset + location.bytes
            && found.header.kind == formats::INTAKE_PIECE;
        if !follows || pieces == said.pieces {
            break;
        }
        location.bytes += next.bytes;
        damaged |= !whole;
        pieces += 1;
    }
    if pieces < said.pieces {
        // At the end of its segment it was never acknowledged; anywhere else a piece is lost.
        let more = rest.iter().map(|next| &next.found.location);
        let ends = more
            .take_while(|next| next.segment == location.segment)
            .all(|next| next.offset < location.offset + location.bytes);
        if ends {
            return Ok(None);
        }
        damaged = true;
    }
    let key = match head.whole {
        true => KeyId::of_sealed(segments.read(&head.found.location)?.body()).ok(),
        false => None,
    };
    Ok(Some(Run {
        said,
        key,
        location,
        damaged,
    }))
}
