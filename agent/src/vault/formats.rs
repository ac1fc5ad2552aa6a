//! What lies in the segments: the kinds of records, and what is said of their bodies in the clear.
//!
//! The index can be made anew from nothing else, on a box that is locked; so the clear part names
//! instances by UID and digest, and no patient (docs/storage.md 2).

use minicbor::{Decode, Encode};
use sealing::{DataKey, KeyEnvelopes, OVERHEAD_BYTES};
use store::{Record, RecordHeader, RecordKind, StoreError};
use study::{Digest, InstanceDigest, SopClassUid, SopInstanceUid, StudyUid};

/// A file as it was taken in, or its first piece; sealed.
pub(super) const INTAKE_FILE: RecordKind = RecordKind(1);
/// One codec unit: a chunk as it crosses; sealed.
pub(super) const PACKED_UNIT: RecordKind = RecordKind(2);
/// A further piece of a file, behind the one before it; sealed.
pub(super) const INTAKE_PIECE: RecordKind = RecordKind(4);
/// The envelopes of a data key.
pub(super) const KEY_ENVELOPES: RecordKind = RecordKind(5);
/// A record of a journal, ours or the hub's for us, as it was signed.
pub(super) const JOURNAL_RECORD: RecordKind = RecordKind(6);
/// A manifest of ours, as it was signed.
pub(super) const SIGNED_MANIFEST: RecordKind = RecordKind(7);
/// What a study's instances were before they left this box.
pub(super) const GONE_LIST: RecordKind = RecordKind(8);
/// A fact of a study that may not be named in our journal yet.
pub(super) const UNSAID_FACT: RecordKind = RecordKind(9);
/// Which manifests count no more, as what they name was packed anew before any of it left.
pub(super) const REPLACED: RecordKind = RecordKind(10);

/// A document of the services, in one of its forms; the last one counts.
pub(super) const FILED_DOCUMENT: RecordKind = RecordKind(20);

/// What the family of a document begins with.
pub(super) const DOCUMENT_FAMILY: &str = "document-";
/// Where all files lie as they were taken in: one segment to sync, however many scanners send. It is
/// given up when all in it is packed.
pub(super) const INTAKE_FAMILY: &str = "intake";
/// Where journals and manifests lie.
pub(super) const JOURNAL_FAMILY: &str = "journal";

/// A sealed piece is as large as a chunk may be.
const PIECE_BYTES_MAX: usize = (1 << 20) - OVERHEAD_BYTES;

/// What is said of an intake record, with its first piece.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct IntakeMeta {
    #[n(0)]
    pub(super) study: StudyUid,
    #[n(1)]
    pub(super) sop: SopInstanceUid,
    #[n(2)]
    pub(super) digest: InstanceDigest,
    /// The file's size.
    #[n(3)]
    pub(super) file_bytes: u64,
    /// How many records hold it.
    #[n(4)]
    pub(super) pieces: u32,
    /// When it came, milliseconds of the Unix epoch.
    #[n(5)]
    pub(super) held_at_ms: u64,
    /// Of which SOP class it is; none in records of before that was written.
    #[n(6)]
    pub(super) sop_class: Option<SopClassUid>,
}

/// What is said of a packed group, with its first unit: its instances, by place.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct GroupMeta {
    #[n(0)]
    pub(super) files: Vec<PackedFile>,
}

/// One instance of a packed group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PackedFile {
    #[n(0)]
    pub(super) sop: SopInstanceUid,
    #[n(1)]
    pub(super) digest: InstanceDigest,
    #[n(2)]
    pub(super) file_bytes: u64,
}

/// Writes the clear part of a record.
pub(super) fn to_meta<T: Encode<()>>(said: &T) -> Vec<u8> {
    minicbor::to_vec(said).expect("writing to a Vec does not fail")
}

/// Reads the clear part of a record; what does not read is not known.
pub(super) fn from_meta<'b, T: Decode<'b, ()>>(meta: &'b [u8]) -> Option<T> {
    minicbor::decode(meta).ok()
}

/// Seals a file for intake: one record for each piece, the first of which says what it is.
pub(super) fn intake_records(
    key: &DataKey,
    file: &[u8],
    said: impl FnOnce(u32) -> IntakeMeta,
) -> Result<Vec<Record>, StoreError> {
    let pieces = file.chunks(PIECE_BYTES_MAX);
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    let mut header = RecordHeader {
        kind: INTAKE_FILE,
        meta: to_meta(&said(count)),
        ..RecordHeader::default()
    };
    let mut records = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let next = RecordHeader {
            kind: INTAKE_PIECE,
            ..RecordHeader::default()
        };
        let header = std::mem::replace(&mut header, next);
        records.push(Record::new(header, key.seal(piece))?);
    }
    Ok(records)
}

/// Seals the units of a packed group: one record for each, the first of which says what it is.
pub(super) fn packed_records(
    key: &DataKey,
    units: Vec<Vec<u8>>,
    said: &GroupMeta,
) -> Result<Vec<Record>, StoreError> {
    let mut meta = to_meta(said);
    let records = units.into_iter().map(|unit| {
        let header = RecordHeader {
            kind: PACKED_UNIT,
            meta: std::mem::take(&mut meta),
            ..RecordHeader::default()
        };
        Record::new(header, key.seal(&unit))
    });
    records.collect()
}

/// A record that says all it has to say in its body, which is no patient's.
pub(super) fn plain_record(kind: RecordKind, body: Vec<u8>) -> Result<Record, StoreError> {
    let header = RecordHeader {
        kind,
        ..RecordHeader::default()
    };
    Record::new(header, body)
}

/// What a record of envelopes holds.
#[derive(Encode, Decode)]
struct KeyBody {
    #[n(0)]
    study: StudyUid,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    envelopes: Vec<u8>,
}

/// Writes the body of a record of envelopes.
pub(super) fn key_body(study: &StudyUid, envelopes: &KeyEnvelopes) -> Vec<u8> {
    to_meta(&KeyBody {
        study: study.clone(),
        envelopes: envelopes.to_cbor(),
    })
}

/// Reads the body of a record of envelopes.
pub(super) fn read_key_body(body: &[u8]) -> Option<(StudyUid, KeyEnvelopes)> {
    let KeyBody { study, envelopes } = from_meta(body)?;
    Some((study, KeyEnvelopes::from_cbor(&envelopes).ok()?))
}

/// A document as it was filed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct FiledDocument {
    #[n(0)]
    pub(super) drawer: u8,
    #[n(1)]
    pub(super) name: String,
    #[n(2)]
    pub(super) study: Option<StudyUid>,
    #[n(3)]
    pub(super) state: u8,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) body: Vec<u8>,
}

/// What a study's instances were when they were let go or erased: roots speak of them for ever.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct GoneList {
    #[n(0)]
    pub(super) study: StudyUid,
    /// 1 let go to the hub, 2 erased.
    #[n(1)]
    pub(super) state: u8,
    #[n(2)]
    pub(super) files: Vec<GoneFile>,
    /// Manifests that count no more: what they name was erased before the hub had all of it.
    #[n(3)]
    pub(super) withdrawn: Vec<Digest>,
    /// Reports up to this number in the hub's journal were erased with the study.
    #[n(4)]
    pub(super) reports_upto: u64,
}

/// One instance that is not in the box any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct GoneFile {
    #[n(0)]
    pub(super) sop: SopInstanceUid,
    #[n(1)]
    pub(super) digest: InstanceDigest,
    #[n(2)]
    pub(super) file_bytes: u64,
    /// The first revision whose root speaks of it.
    #[n(3)]
    pub(super) revision: Option<u32>,
}

/// Manifests of one study, and those that took their place.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Replaced {
    #[n(0)]
    pub(super) study: StudyUid,
    /// The old one and the new one, by revision.
    #[n(1)]
    pub(super) manifests: Vec<(Digest, Digest)>,
}

/// A fact that is to be said in our journal once its study may be named.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Unsaid {
    #[n(0)]
    pub(super) study: StudyUid,
    /// The kind of the fact.
    #[n(1)]
    pub(super) kind: u16,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intake_record_of_before_it_named_its_class_is_read() {
        let study = StudyUid::parse("1.2").unwrap();
        let sop = SopInstanceUid::parse("1.2.3").unwrap();
        let digest = InstanceDigest::from_digest(Digest::of(b"bytes"));
        let old = minicbor::to_vec((&study, &sop, digest, 5_u64, 1_u32, 7_u64)).unwrap();
        let expected = IntakeMeta {
            study,
            sop,
            digest,
            file_bytes: 5,
            pieces: 1,
            held_at_ms: 7,
            sop_class: None,
        };
        assert_eq!(from_meta(&old), Some(expected));
    }
}
