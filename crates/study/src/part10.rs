//! DICOM files (PS3.10): finds the parts of one, and writes the head of a new one.
//!
//! In: the bytes of a file; or the identity of a data set that came over the network. Out: where
//! the data set lies; or preamble and group 2 to put before it.
//! Invariant: bytes from outside never panic here; what `compose_meta` writes, `Part10` reads.
//! May not: touch the data set.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use thiserror::Error;

use crate::ae_title::AeTitle;
use crate::dataset::{DatasetError, Encoding, Tag, Walk};
use crate::uid::{SopClassUid, SopInstanceUid, TransferSyntaxUid, UidError};

/// Says why bytes are not a DICOM file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Part10Error {
    /// There is no `DICM` after 128 bytes.
    #[error("the file has no DICOM preamble")]
    NoPreamble,
    /// The file meta information cannot be walked.
    #[error("the file meta information cannot be read")]
    Meta(#[source] DatasetError),
    /// The file does not say its transfer syntax.
    #[error("the file meta information names no transfer syntax")]
    NoTransferSyntax,
    /// An element of the file meta information that holds a UID holds something else.
    #[error("the file meta information's {tag} is not a UID")]
    BadUid {
        /// Which element.
        tag: Tag,
        /// What is wrong with it.
        #[source]
        source: UidError,
    },
}

/// The parts of a DICOM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part10 {
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: TransferSyntaxUid,
    /// Media Storage SOP Class UID (0002,0002).
    pub sop_class: Option<SopClassUid>,
    /// Media Storage SOP Instance UID (0002,0003).
    pub sop: Option<SopInstanceUid>,
    /// Preamble, `DICM` and group 2.
    pub preamble_and_meta: Range<usize>,
    /// The data set, to the end of the file.
    pub data_set: Range<usize>,
}

impl Part10 {
    /// Finds the parts of a DICOM file.
    ///
    /// Group 2 ends where another group begins; its declared length (0002,0000) is not relied on,
    /// as it is wrong in some writers' files.
    pub fn parse(file: &[u8]) -> Result<Self, Part10Error> {
        let meta = file
            .get(PREAMBLE_BYTES..)
            .and_then(|rest| rest.strip_prefix(MAGIC))
            .ok_or(Part10Error::NoPreamble)?;
        let (mut transfer_syntax, mut sop_class, mut sop) = (None, None, None);
        let mut walk = Walk::new(meta, Encoding::ExplicitLittle);
        while meta
            .get(walk.position()..)
            .is_some_and(|rest| rest.starts_with(&GROUP_2))
        {
            let Some(element) = walk.next() else { break };
            let element = element.map_err(Part10Error::Meta)?;
            let value = meta.get(element.value).unwrap_or_default();
            match element.tag {
                SOP_CLASS => sop_class = uid(element.tag, value, SopClassUid::parse)?,
                SOP_INSTANCE => sop = uid(element.tag, value, SopInstanceUid::parse)?,
                TRANSFER_SYNTAX => {
                    transfer_syntax = uid(element.tag, value, TransferSyntaxUid::parse)?;
                }
                _ => {}
            }
        }
        let data_set_at = PREAMBLE_BYTES + MAGIC.len() + walk.position();
        Ok(Self {
            transfer_syntax: transfer_syntax.ok_or(Part10Error::NoTransferSyntax)?,
            sop_class,
            sop,
            preamble_and_meta: 0..data_set_at,
            data_set: data_set_at..file.len(),
        })
    }
}

/// Writes preamble and file meta information (PS3.10 7.1) for a data set that came without.
pub fn compose_meta(
    sop_class: &SopClassUid,
    sop: &SopInstanceUid,
    transfer_syntax: &TransferSyntaxUid,
    source_ae: Option<&AeTitle>,
) -> Vec<u8> {
    let mut group = Vec::with_capacity(320);
    // File Meta Information Version: its VR, OB, has a length of 32 bits.
    group.extend_from_slice(b"\x02\x00\x01\x00OB\0\0\x02\0\0\0\x00\x01");
    put(&mut group, SOP_CLASS, *b"UI", sop_class.as_str());
    put(&mut group, SOP_INSTANCE, *b"UI", sop.as_str());
    put(
        &mut group,
        TRANSFER_SYNTAX,
        *b"UI",
        transfer_syntax.as_str(),
    );
    put(
        &mut group,
        IMPLEMENTATION_CLASS,
        *b"UI",
        IMPLEMENTATION_CLASS_UID,
    );
    put(
        &mut group,
        IMPLEMENTATION_VERSION,
        *b"SH",
        IMPLEMENTATION_VERSION_NAME,
    );
    if let Some(source_ae) = source_ae {
        put(&mut group, SOURCE_AE, *b"AE", source_ae.as_str());
    }
    let group_bytes = u32::try_from(group.len()).expect("seven elements of at most 72 bytes");

    let mut head = vec![0; PREAMBLE_BYTES];
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(b"\x02\x00\x00\x00UL\x04\x00");
    head.extend_from_slice(&group_bytes.to_le_bytes());
    head.extend_from_slice(&group);
    head
}

/// Chasqui's Implementation Class UID (0002,0012), made from a UUID (PS3.5 B.2).
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.220190024970998869410466189869892552314";
/// Chasqui's Implementation Version Name (0002,0013).
pub const IMPLEMENTATION_VERSION_NAME: &str = "CHASQUI";

/// Appends one element with a text value, padded to an even length (PS3.5 6.2).
fn put(group: &mut Vec<u8>, tag: Tag, vr: [u8; 2], text: &str) {
    let bytes = text.len().next_multiple_of(2);
    let length = u16::try_from(bytes).expect("UIDs and titles have at most 64 characters");
    group.extend_from_slice(&tag.0.to_le_bytes());
    group.extend_from_slice(&tag.1.to_le_bytes());
    group.extend_from_slice(&vr);
    group.extend_from_slice(&length.to_le_bytes());
    group.extend_from_slice(text.as_bytes());
    if bytes > text.len() {
        group.push(if vr == *b"UI" { 0 } else { b' ' });
    }
}

/// Parses a UID of group 2; an empty one is as good as none.
fn uid<T>(
    tag: Tag,
    value: &[u8],
    parse: impl Fn(&str) -> Result<T, UidError>,
) -> Result<Option<T>, Part10Error> {
    match std::str::from_utf8(value)
        .map_err(|_| UidError::BadCharacter)
        .and_then(parse)
    {
        Ok(uid) => Ok(Some(uid)),
        Err(UidError::Empty) => Ok(None),
        Err(source) => Err(Part10Error::BadUid { tag, source }),
    }
}

const PREAMBLE_BYTES: usize = 128;
const MAGIC: &[u8] = b"DICM";
const GROUP_2: [u8; 2] = [2, 0];

const SOP_CLASS: Tag = Tag(0x0002, 0x0002);
const SOP_INSTANCE: Tag = Tag(0x0002, 0x0003);
const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
const IMPLEMENTATION_CLASS: Tag = Tag(0x0002, 0x0012);
const IMPLEMENTATION_VERSION: Tag = Tag(0x0002, 0x0013);
const SOURCE_AE: Tag = Tag(0x0002, 0x0016);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(sop: &str, source_ae: Option<&str>) -> Vec<u8> {
        compose_meta(
            &SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            &SopInstanceUid::parse(sop).unwrap(),
            &TransferSyntaxUid::parse("1.2.840.10008.1.2").unwrap(),
            source_ae.map(|ae| AeTitle::parse(ae).unwrap()).as_ref(),
        )
    }

    #[test]
    fn what_is_composed_is_read_back() {
        for (sop, ae) in [
            ("1.2.3", None),
            ("1.2.34", Some("CT1")),
            ("9.9", Some("SCANNER-16 CHARS")),
        ] {
            let mut file = head(sop, ae);
            let data_set_at = file.len();
            file.extend_from_slice(b"\x08\x00\x16\x00rest");
            let part10 = Part10::parse(&file).unwrap();
            assert_eq!(part10.preamble_and_meta, 0..data_set_at);
            assert_eq!(part10.data_set, data_set_at..file.len());
            assert_eq!(part10.transfer_syntax.as_str(), "1.2.840.10008.1.2");
            assert_eq!(part10.sop.unwrap().as_str(), sop);
            assert_eq!(
                part10.sop_class.unwrap().as_str(),
                "1.2.840.10008.5.1.4.1.1.2"
            );
        }
    }

    #[test]
    fn the_group_length_counts_to_the_end_of_group_2() {
        let file = head("1.2.3", Some("CT"));
        let length = u32::from_le_bytes(*file[140..].first_chunk().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), file.len() - 144);
    }

    #[test]
    fn a_wrong_group_length_does_no_harm() {
        let mut file = head("1.2.3", None);
        file[140] ^= 0x55;
        let end = file.len();
        assert_eq!(Part10::parse(&file).unwrap().data_set, end..end);
    }

    #[test]
    fn what_is_no_dicom_file_is_refused_with_its_reason() {
        assert_eq!(Part10::parse(b"hello"), Err(Part10Error::NoPreamble));
        let mut bare = vec![0; 128];
        bare.extend_from_slice(b"DICM");
        assert_eq!(Part10::parse(&bare), Err(Part10Error::NoTransferSyntax));
        let mut cut = head("1.2.3", None);
        cut.truncate(cut.len() - 1);
        assert!(matches!(Part10::parse(&cut), Err(Part10Error::Meta(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Part10::parse(&tail);
            let mut file = vec![0; 128];
            file.extend_from_slice(b"DICM\x02\0");
            file.extend_from_slice(&tail);
            let _ = Part10::parse(&file);
        }
    }
}
