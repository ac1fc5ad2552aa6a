//! Data sets: walks the elements of an encoded DICOM data set without building it in memory.
//!
//! In: a data set's bytes as they came, and their transfer syntax. Out: where each top-level
//! element lies, and the few values that every room needs ([`InstanceHead`]).
//! Invariant: time is linear in the bytes, memory constant, whatever the bytes say; nesting of any
//! depth costs one counter. Bytes from outside never panic here.
//! May not: rewrite, normalise or judge values that it is not asked for.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use thiserror::Error;

use crate::uid::{SeriesUid, SopClassUid, SopInstanceUid, StudyUid, TransferSyntaxUid, UidError};

/// Says why a data set cannot be walked or an instance's head not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DatasetError {
    /// A length reaches beyond the end, or a sequence is not closed: truncated, or a lie.
    #[error("the data set ends inside the element at byte {at}")]
    Truncated {
        /// Where the element or item begins that is not whole.
        at: usize,
    },
    /// Where a value representation is due, there are not two capital letters.
    #[error("the element {tag} at byte {at} has no valid value representation")]
    BadVr {
        /// Which element.
        tag: Tag,
        /// Where its header begins.
        at: usize,
    },
    /// An item or delimiter where an element is due, or the other way round.
    #[error("{tag} at byte {at} is out of place")]
    OutOfPlace {
        /// What was found.
        tag: Tag,
        /// Where it begins.
        at: usize,
    },
    /// A deflated data set is not a deflate stream (RFC 1951), or ends early.
    #[error("the deflated data set cannot be inflated")]
    Inflate,
    /// A deflated data set is larger than this program is ready to inflate.
    #[error("the deflated data set inflates to more than {0} bytes")]
    InflatesTooFar(usize),
    /// An element that every instance has is missing or empty.
    #[error("the data set has no {0}")]
    Missing(Tag),
    /// An element that holds a UID holds something else.
    #[error("the data set's {tag} is not a UID")]
    BadUid {
        /// Which element.
        tag: Tag,
        /// What is wrong with it.
        #[source]
        source: UidError,
    },
}

/// A data element tag: group and element number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u16, pub u16);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:04X},{:04X})", self.0, self.1)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag{self}")
    }
}

/// How the elements of a data set are encoded (PS3.5 7 and annex A).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Explicit VR, little endian; all encapsulated transfer syntaxes are this too.
    ExplicitLittle,
    /// Implicit VR, little endian.
    ImplicitLittle,
    /// Explicit VR, big endian (retired).
    ExplicitBig,
}

impl Encoding {
    /// The encoding under a transfer syntax; a deflated data set's once it is inflated.
    pub fn of(transfer_syntax: &TransferSyntaxUid) -> Self {
        match transfer_syntax.as_str() {
            "1.2.840.10008.1.2" => Self::ImplicitLittle,
            "1.2.840.10008.1.2.2" => Self::ExplicitBig,
            _ => Self::ExplicitLittle,
        }
    }

    /// The first 16-bit number of a value.
    pub fn u16(self, value: &[u8]) -> Option<u16> {
        let bytes = *value.first_chunk()?;
        Some(match self {
            Self::ExplicitLittle | Self::ImplicitLittle => u16::from_le_bytes(bytes),
            Self::ExplicitBig => u16::from_be_bytes(bytes),
        })
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::ExplicitLittle | Self::ImplicitLittle => u32::from_le_bytes(bytes),
            Self::ExplicitBig => u32::from_be_bytes(bytes),
        }
    }
}

/// Says whether a transfer syntax deflates its data sets (PS3.5 A.5).
///
/// JPIP Referenced Deflate and JPIP HTJ2K Referenced Deflate do too.
pub fn is_deflated(transfer_syntax: &TransferSyntaxUid) -> bool {
    matches!(
        transfer_syntax.as_str(),
        "1.2.840.10008.1.2.1.99" | "1.2.840.10008.1.2.4.95" | "1.2.840.10008.1.2.4.205"
    )
}

/// One top-level element: where its header and its value lie in the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The tag.
    pub tag: Tag,
    /// The value representation; none in implicit VR.
    pub vr: Option<[u8; 2]>,
    /// Tag, value representation and length.
    pub header: Range<usize>,
    /// The value; of an undefined-length element, all its items without the closing delimiter.
    pub value: Range<usize>,
    /// Whether the length is undefined, so that a delimiter of 8 bytes follows the value.
    pub undefined_length: bool,
}

impl Element {
    /// Where the next element begins.
    pub fn end(&self) -> usize {
        self.value.end
            + if self.undefined_length {
                DELIMITER_BYTES
            } else {
                0
            }
    }
}

/// Iterates over the top-level elements of a data set.
///
/// Ends after the first error. Elements before the error are as they are in the bytes.
///
/// ```
/// use study::dataset::{Encoding, Tag, Walk};
/// let bytes = b"\x08\x00\x60\x00CS\x02\x00CT";
/// let element = Walk::new(bytes, Encoding::ExplicitLittle).next().unwrap().unwrap();
/// assert_eq!((element.tag, &bytes[element.value]), (Tag(0x0008, 0x0060), &b"CT"[..]));
/// ```
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
    at: usize,
    failed: bool,
}

impl<'a> Walk<'a> {
    /// Starts at the first byte of a data set that is not deflated.
    pub fn new(bytes: &'a [u8], encoding: Encoding) -> Self {
        Self {
            bytes,
            encoding,
            at: 0,
            failed: false,
        }
    }

    /// Where the next element begins.
    pub fn position(&self) -> usize {
        self.at
    }

    fn step(&mut self) -> Result<Element, DatasetError> {
        let start = self.at;
        let header = Header::read(self.bytes, start, self.encoding)?;
        if header.tag.0 == DELIMITER_GROUP {
            return Err(DatasetError::OutOfPlace {
                tag: header.tag,
                at: start,
            });
        }
        let value_end = match header.length {
            Some(length) => end_of(self.bytes, header.end, length, start)?,
            None => end_of_undefined(self.bytes, start, &header, self.encoding)?,
        };
        let element = Element {
            tag: header.tag,
            vr: header.vr,
            header: start..header.end,
            value: header.end..value_end,
            undefined_length: header.length.is_none(),
        };
        self.at = element.end();
        Ok(element)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Element, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at == self.bytes.len() {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        Some(step)
    }
}

impl FusedIterator for Walk<'_> {}

/// What every room needs to know of an instance, read from its data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceHead {
    /// SOP Class UID (0008,0016).
    pub sop_class: SopClassUid,
    /// SOP Instance UID (0008,0018).
    pub sop: SopInstanceUid,
    /// Study Instance UID (0020,000D).
    pub study: StudyUid,
    /// Series Instance UID (0020,000E).
    pub series: SeriesUid,
    /// Instance Number (0020,0013), if it is there and is a number.
    pub instance_number: Option<i32>,
    /// Rows (0028,0010).
    pub rows: Option<u16>,
    /// Columns (0028,0011).
    pub columns: Option<u16>,
    /// Bits Allocated (0028,0100).
    pub bits_allocated: Option<u16>,
}

impl InstanceHead {
    /// Reads the head and walks on to the end, so that a truncated data set is an error.
    ///
    /// A deflated data set is inflated for that, up to [`INFLATED_BYTES_MAX`].
    pub fn read(
        data_set: &[u8],
        transfer_syntax: &TransferSyntaxUid,
    ) -> Result<Self, DatasetError> {
        let encoding = Encoding::of(transfer_syntax);
        if is_deflated(transfer_syntax) {
            return Self::read_plain(&inflate(data_set)?, encoding);
        }
        Self::read_plain(data_set, encoding)
    }

    fn read_plain(data_set: &[u8], encoding: Encoding) -> Result<Self, DatasetError> {
        let mut found = Found::default();
        for element in Walk::new(data_set, encoding) {
            let element = element?;
            found.note(element.tag, data_set.get(element.value).unwrap_or_default());
        }
        Ok(Self {
            sop_class: uid(SOP_CLASS, found.sop_class, SopClassUid::parse)?,
            sop: uid(SOP_INSTANCE, found.sop, SopInstanceUid::parse)?,
            study: uid(STUDY, found.study, StudyUid::parse)?,
            series: uid(SERIES, found.series, SeriesUid::parse)?,
            instance_number: found.instance_number.and_then(number),
            rows: found.rows.and_then(|v| encoding.u16(v)),
            columns: found.columns.and_then(|v| encoding.u16(v)),
            bits_allocated: found.bits_allocated.and_then(|v| encoding.u16(v)),
        })
    }
}

/// How far a deflated data set is inflated, in bytes.
pub const INFLATED_BYTES_MAX: usize = 64 << 20;

/// The raw values that [`InstanceHead`] is made of; the first of each tag counts.
#[derive(Default)]
struct Found<'a> {
    sop_class: Option<&'a [u8]>,
    sop: Option<&'a [u8]>,
    study: Option<&'a [u8]>,
    series: Option<&'a [u8]>,
    instance_number: Option<&'a [u8]>,
    rows: Option<&'a [u8]>,
    columns: Option<&'a [u8]>,
    bits_allocated: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn note(&mut self, tag: Tag, value: &'a [u8]) {
        let place = match tag {
            SOP_CLASS => &mut self.sop_class,
            SOP_INSTANCE => &mut self.sop,
            STUDY => &mut self.study,
            SERIES => &mut self.series,
            INSTANCE_NUMBER => &mut self.instance_number,
            ROWS => &mut self.rows,
            COLUMNS => &mut self.columns,
            BITS_ALLOCATED => &mut self.bits_allocated,
            _ => return,
        };
        place.get_or_insert(value);
    }
}

fn uid<T>(
    tag: Tag,
    value: Option<&[u8]>,
    parse: impl Fn(&str) -> Result<T, UidError>,
) -> Result<T, DatasetError> {
    let value = value
        .filter(|v| !v.is_empty())
        .ok_or(DatasetError::Missing(tag))?;
    let text = std::str::from_utf8(value).map_err(|_| UidError::BadCharacter);
    text.and_then(parse).map_err(|source| match source {
        UidError::Empty => DatasetError::Missing(tag),
        UidError::TooLong(_) | UidError::BadCharacter | UidError::EmptyComponent => {
            DatasetError::BadUid { tag, source }
        }
    })
}

/// Reads an integer string (PS3.5 6.2, IS).
fn number(value: &[u8]) -> Option<i32> {
    std::str::from_utf8(value)
        .ok()?
        .trim_matches([' ', '\0'])
        .parse()
        .ok()
}

pub(crate) fn inflate(data_set: &[u8]) -> Result<Vec<u8>, DatasetError> {
    use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};
    decompress_to_vec_with_limit(data_set, INFLATED_BYTES_MAX).map_err(|e| {
        if e.status == TINFLStatus::HasMoreOutput {
            DatasetError::InflatesTooFar(INFLATED_BYTES_MAX)
        } else {
            DatasetError::Inflate
        }
    })
}

/// The header of an element, an item or a delimiter.
struct Header {
    tag: Tag,
    vr: Option<[u8; 2]>,
    /// None: undefined (0xFFFFFFFF).
    length: Option<u32>,
    end: usize,
}

impl Header {
    fn read(bytes: &[u8], at: usize, encoding: Encoding) -> Result<Self, DatasetError> {
        let truncated = DatasetError::Truncated { at };
        let Some(&[g0, g1, e0, e1, rest @ ..]) = bytes.get(at..).and_then(|b| b.first_chunk::<8>())
        else {
            return Err(truncated);
        };
        let half = |b: [u8; 2]| encoding.u16(&b).unwrap_or_default();
        let tag = Tag(half([g0, g1]), half([e0, e1]));
        let [v0, v1, l0, l1] = rest;
        let implicit = encoding == Encoding::ImplicitLittle || tag.0 == DELIMITER_GROUP;
        if implicit {
            return Ok(Self {
                tag,
                vr: None,
                length: defined(encoding.u32(rest)),
                end: at + 8,
            });
        }
        let vr = [v0, v1];
        if !vr.iter().all(u8::is_ascii_uppercase) {
            return Err(DatasetError::BadVr { tag, at });
        }
        if has_short_length(&vr) {
            let length = Some(u32::from(half([l0, l1])));
            return Ok(Self {
                tag,
                vr: Some(vr),
                length,
                end: at + 8,
            });
        }
        let Some(length) = bytes.get(at + 8..).and_then(|b| b.first_chunk::<4>()) else {
            return Err(truncated);
        };
        Ok(Self {
            tag,
            vr: Some(vr),
            length: defined(encoding.u32(*length)),
            end: at + 12,
        })
    }

    /// Whether the items of this undefined-length element are fragments of pixel data (PS3.5 A.4).
    fn holds_fragments(&self) -> bool {
        self.vr.is_some_and(|vr| vr != *b"SQ" && vr != *b"UN")
    }
}

/// The VRs whose explicit length has 16 bits (PS3.5 7.1.2); later VRs will all have 32.
fn has_short_length(vr: &[u8; 2]) -> bool {
    matches!(
        vr,
        b"AE"
            | b"AS"
            | b"AT"
            | b"CS"
            | b"DA"
            | b"DS"
            | b"DT"
            | b"FD"
            | b"FL"
            | b"IS"
            | b"LO"
            | b"LT"
            | b"PN"
            | b"SH"
            | b"SL"
            | b"SS"
            | b"ST"
            | b"TM"
            | b"UI"
            | b"UL"
            | b"US"
    )
}

fn defined(length: u32) -> Option<u32> {
    (length != u32::MAX).then_some(length)
}

/// Where `length` bytes from `from` end, if they are all there.
fn end_of(bytes: &[u8], from: usize, length: u32, at: usize) -> Result<usize, DatasetError> {
    usize::try_from(length)
        .ok()
        .and_then(|length| from.checked_add(length))
        .filter(|end| *end <= bytes.len())
        .ok_or(DatasetError::Truncated { at })
}

/// Where the value of the undefined-length element at `start` ends, before its delimiter.
///
/// Whatever has a defined length is stepped over, so that every open level is of undefined length
/// and sequences and items alternate: a counter replaces the stack.
fn end_of_undefined(
    bytes: &[u8],
    start: usize,
    outer: &Header,
    encoding: Encoding,
) -> Result<usize, DatasetError> {
    let mut at = outer.end;
    // Odd: in a sequence, items are due. Even: in an item, elements are due.
    let mut depth = 1_usize;
    let mut in_fragments = outer.holds_fragments();
    // A UN of undefined length is implicit VR little endian inside (PS3.5 6.2.2).
    let mut implicit_from = (outer.vr == Some(*b"UN")).then_some(depth);
    loop {
        if at == bytes.len() {
            return Err(DatasetError::Truncated { at: start });
        }
        let encoding = if implicit_from.is_some() {
            Encoding::ImplicitLittle
        } else {
            encoding
        };
        let header = Header::read(bytes, at, encoding)?;
        let in_sequence = depth % 2 == 1;
        match (header.tag, in_sequence, header.length) {
            (ITEM, true, None) if !in_fragments => depth += 1,
            (ITEM_END, false, Some(0)) => depth -= 1,
            (SEQUENCE_END, true, Some(0)) if depth == 1 => return Ok(at),
            (SEQUENCE_END, true, Some(0)) => {
                implicit_from = implicit_from.filter(|from| *from < depth);
                in_fragments = false;
                depth -= 1;
            }
            (ITEM, true, Some(length)) => {
                at = end_of(bytes, header.end, length, at)?;
                continue;
            }
            (tag @ Tag(DELIMITER_GROUP, _), _, _) | (tag, true, _) => {
                return Err(DatasetError::OutOfPlace { tag, at });
            }
            (_, false, Some(length)) => {
                at = end_of(bytes, header.end, length, at)?;
                continue;
            }
            (_, false, None) => {
                depth += 1;
                in_fragments = header.holds_fragments();
                if header.vr == Some(*b"UN") {
                    implicit_from = implicit_from.or(Some(depth));
                }
            }
        }
        at = header.end;
    }
}

const DELIMITER_GROUP: u16 = 0xFFFE;
const DELIMITER_BYTES: usize = 8;
const ITEM: Tag = Tag(DELIMITER_GROUP, 0xE000);
const ITEM_END: Tag = Tag(DELIMITER_GROUP, 0xE00D);
const SEQUENCE_END: Tag = Tag(DELIMITER_GROUP, 0xE0DD);

const SOP_CLASS: Tag = Tag(0x0008, 0x0016);
const SOP_INSTANCE: Tag = Tag(0x0008, 0x0018);
const STUDY: Tag = Tag(0x0020, 0x000D);
const SERIES: Tag = Tag(0x0020, 0x000E);
const INSTANCE_NUMBER: Tag = Tag(0x0020, 0x0013);
const ROWS: Tag = Tag(0x0028, 0x0010);
const COLUMNS: Tag = Tag(0x0028, 0x0011);
const BITS_ALLOCATED: Tag = Tag(0x0028, 0x0100);

#[cfg(test)]
mod tests;
