//! Small data sets: identifiers of queries, what actions, events and performed steps say.
//!
//! In: a data set's bytes, in one of the two encodings that these services use. Out: its elements as
//! a tree, and trees as bytes.
//! Invariant: bytes from outside never panic; depth and the number of elements are bounded before
//! anything is built. Text stays bytes: which characters they are is for `study::charset`.
//! May not: hold pixels; instances that are stored are never parsed here.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeMap;

use dicom_core::Tag as DictionaryTag;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_dictionary_std::StandardDataDictionary;
use study::charset::CharacterSet;
use study::dataset::{DatasetError, Element, Encoding, Tag, Walk};
use thiserror::Error;

use crate::tag;

/// Sequences in sequences; the deepest of the services served here has four.
pub const DEPTH_MAX: usize = 8;
/// Elements and items of one data set: a commitment for tens of thousands of instances.
pub const ELEMENTS_MAX: usize = 200_000;
/// How much memory a parsed data set takes at most for each of its bytes.
pub(crate) const PARSED_FACTOR: usize = 10;

const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const UNDEFINED: u32 = u32::MAX;

/// Says why bytes are no data set of a service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DataSetError {
    /// It cannot be walked.
    #[error(transparent)]
    Walk(#[from] DatasetError),
    /// Sequences are nested deeper than any service nests them.
    #[error("sequences are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// More elements and items than any service has.
    #[error("more than {ELEMENTS_MAX} elements and items")]
    TooMany,
    /// An item is cut off, or something else stands where an item is due.
    #[error("an item of {0} is cut off or out of place")]
    Item(Tag),
}

/// The value of an element.
#[derive(Clone, PartialEq, Eq)]
enum Value {
    /// As it came, padding included; numbers are little endian.
    Bytes(Vec<u8>),
    /// The items of a sequence.
    Items(Vec<DataSet>),
}

/// A parsed data set, or one that is being made.
///
/// Its values may be a patient's: Debug shows which elements there are and nothing of them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DataSet(BTreeMap<Tag, Value>);

impl std::fmt::Debug for DataSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl DataSet {
    /// Parses a data set.
    pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<Self, DataSetError> {
        let mut left = ELEMENTS_MAX;
        let (data_set, end) = elements(bytes, encoding, 0, &mut left)?;
        if let Some(at) = end {
            let tag = ITEM_END;
            return Err(DatasetError::OutOfPlace { tag, at }.into());
        }
        Ok(data_set)
    }

    /// Writes the data set; sequences and items with their lengths.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, value) in &self.0 {
            match value {
                Value::Bytes(value) => put(&mut bytes, *tag, vr_of(*tag), value, encoding),
                Value::Items(items) => {
                    let mut content = Vec::new();
                    for item in items {
                        let item = item.encode(encoding);
                        put_header(&mut content, ITEM, item.len());
                        content.extend_from_slice(&item);
                    }
                    put(&mut bytes, *tag, *b"SQ", &content, encoding);
                }
            }
        }
        bytes
    }

    /// Whether the element is there, be it empty.
    pub fn has(&self, tag: Tag) -> bool {
        self.0.contains_key(&tag)
    }

    /// The tags in their order.
    pub fn tags(&self) -> impl Iterator<Item = Tag> + '_ {
        self.0.keys().copied()
    }

    /// A value as it came; none when the element is missing or a sequence.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        match self.0.get(&tag)? {
            Value::Bytes(bytes) => Some(bytes),
            Value::Items(_) => None,
        }
    }

    /// A value of ASCII characters without padding; none when it is missing, empty or no ASCII.
    pub fn ascii(&self, tag: Tag) -> Option<&str> {
        let text = std::str::from_utf8(self.bytes(tag)?).ok()?;
        let text = text.trim_matches([' ', '\0']);
        (!text.is_empty() && text.is_ascii()).then_some(text)
    }

    /// A text without padding; none when it is missing or empty.
    pub fn text(&self, tag: Tag, set: &CharacterSet) -> Option<String> {
        let text = set.read(self.bytes(tag)?);
        let text = text.trim_matches([' ', '\0']);
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A US value.
    pub fn u16(&self, tag: Tag) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes(tag)?.first_chunk()?))
    }

    /// The items of a sequence; none when it is missing.
    pub fn items(&self, tag: Tag) -> Option<&[Self]> {
        match self.0.get(&tag)? {
            Value::Items(items) => Some(items),
            // In implicit VR an empty sequence of an unknown tag is an empty value.
            Value::Bytes(_) => None,
        }
    }

    /// The first item of a sequence.
    pub fn item(&self, tag: Tag) -> Option<&Self> {
        self.items(tag)?.first()
    }

    /// What character sets the texts are in.
    pub fn character_set(&self) -> CharacterSet {
        CharacterSet::of(self.bytes(tag::SPECIFIC_CHARACTER_SET).unwrap_or_default())
    }

    /// Puts a value of ASCII characters, or bytes of another character set.
    #[must_use]
    pub fn with(mut self, tag: Tag, value: impl AsRef<[u8]>) -> Self {
        self.put(tag, value);
        self
    }

    /// Puts a value, padded as its value representation wants it.
    pub fn put(&mut self, tag: Tag, value: impl AsRef<[u8]>) {
        let mut value = value.as_ref().to_vec();
        if value.len() % 2 == 1 {
            let padding = match &vr_of(tag) {
                b"UI" | b"OB" | b"UN" => 0,
                _ => b' ',
            };
            value.push(padding);
        }
        self.0.insert(tag, Value::Bytes(value));
    }

    /// Puts a US value.
    #[must_use]
    pub fn with_u16(mut self, tag: Tag, value: u16) -> Self {
        let value = Value::Bytes(value.to_le_bytes().to_vec());
        self.0.insert(tag, value);
        self
    }

    /// Puts a sequence.
    #[must_use]
    pub fn with_items(mut self, tag: Tag, items: Vec<Self>) -> Self {
        self.0.insert(tag, Value::Items(items));
        self
    }

    /// Puts what another data set has under this tag; an empty value when it has nothing.
    pub fn put_from(&mut self, tag: Tag, other: &Self) {
        let empty = || match &vr_of(tag) {
            b"SQ" => Value::Items(Vec::new()),
            _ => Value::Bytes(Vec::new()),
        };
        let value = other.0.get(&tag).cloned().unwrap_or_else(empty);
        self.0.insert(tag, value);
    }

    /// Puts a sequence.
    pub fn put_items(&mut self, tag: Tag, items: Vec<Self>) {
        self.0.insert(tag, Value::Items(items));
    }
}

/// Whether the standard says that this element holds a sequence.
pub fn is_sequence(tag: Tag) -> bool {
    vr_of(tag) == *b"SQ"
}

/// The value representation of PS3.6; UN for what is not there.
pub fn vr_of(tag: Tag) -> [u8; 2] {
    let entry = StandardDataDictionary.by_tag(DictionaryTag(tag.0, tag.1));
    entry.map_or(*b"UN", |entry| {
        let vr = entry.vr().relaxed().to_string();
        let vr = vr.as_bytes().first_chunk::<2>();
        *vr.unwrap_or(b"UN")
    })
}

/// Reads elements to the end of `bytes`, or to the delimiter of the item that they are in, and says
/// where that is.
fn elements(
    bytes: &[u8],
    encoding: Encoding,
    depth: usize,
    left: &mut usize,
) -> Result<(DataSet, Option<usize>), DataSetError> {
    let mut found = BTreeMap::new();
    for element in Walk::new(bytes, encoding) {
        let element = match element {
            Ok(element) => element,
            Err(DatasetError::OutOfPlace { tag: ITEM_END, at }) if depth > 0 => {
                return Ok((DataSet(found), Some(at)));
            }
            Err(error) => return Err(error.into()),
        };
        count(left)?;
        let value = bytes.get(element.value.clone()).unwrap_or_default();
        let holds_items = holds_items(&element);
        let value = match holds_items {
            Some(inside) => Value::Items(items(
                value,
                inside.unwrap_or(encoding),
                depth,
                left,
                element.tag,
            )?),
            None => Value::Bytes(value.to_vec()),
        };
        // Of an element that stands twice the first one counts, as in `InstanceHead`.
        found.entry(element.tag).or_insert(value);
    }
    Ok((DataSet(found), None))
}

/// Whether an element is a sequence, and how its items are encoded if not as it is.
#[expect(
    clippy::option_option,
    reason = "no sequence, a sequence, and one of its own encoding are three cases"
)]
fn holds_items(element: &Element) -> Option<Option<Encoding>> {
    match (element.vr.as_ref(), element.undefined_length) {
        (Some(b"SQ"), _) => Some(None),
        // PS3.5 6.2.2: implicit inside.
        (Some(b"UN"), true) => Some(Some(Encoding::ImplicitLittle)),
        (None, true) => Some(None),
        (None, false) if is_sequence(element.tag) => Some(None),
        (Some(_) | None, _) => None,
    }
}

fn items(
    mut bytes: &[u8],
    encoding: Encoding,
    depth: usize,
    left: &mut usize,
    sequence: Tag,
) -> Result<Vec<DataSet>, DataSetError> {
    if depth + 1 > DEPTH_MAX {
        return Err(DataSetError::TooDeep);
    }
    let cut_off = || DataSetError::Item(sequence);
    let mut found = Vec::new();
    while !bytes.is_empty() {
        count(left)?;
        let (header, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut_off)?;
        let [g0, g1, e0, e1, l0, l1, l2, l3] = *header;
        let tag = Tag(u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1]));
        if tag != ITEM {
            return Err(cut_off());
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let (item, after) = if length == UNDEFINED {
            let (item, end) = elements(rest, encoding, depth + 1, left)?;
            let after = end.and_then(|end| rest.get(end + 8..));
            (item, after.ok_or_else(cut_off)?)
        } else {
            let length = usize::try_from(length).map_err(|_| cut_off())?;
            let (inside, after) = rest.split_at_checked(length).ok_or_else(cut_off)?;
            let (item, end) = elements(inside, encoding, depth + 1, left)?;
            if end.is_some() {
                return Err(cut_off());
            }
            (item, after)
        };
        found.push(item);
        bytes = after;
    }
    Ok(found)
}

fn count(left: &mut usize) -> Result<(), DataSetError> {
    *left = left.checked_sub(1).ok_or(DataSetError::TooMany)?;
    Ok(())
}

fn put(bytes: &mut Vec<u8>, tag: Tag, vr: [u8; 2], value: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::ImplicitLittle => put_header(bytes, tag, value.len()),
        Encoding::ExplicitLittle | Encoding::ExplicitBig => {
            put_tag(bytes, tag);
            bytes.extend_from_slice(&vr);
            let has_long_length = matches!(
                &vr,
                b"OB"
                    | b"OD"
                    | b"OF"
                    | b"OL"
                    | b"OV"
                    | b"OW"
                    | b"SQ"
                    | b"SV"
                    | b"UC"
                    | b"UN"
                    | b"UR"
                    | b"UT"
                    | b"UV"
            );
            if has_long_length {
                bytes.extend_from_slice(&[0, 0]);
                bytes.extend_from_slice(&length(value.len()));
            } else {
                // Values of ours are short; those of others were cut to 16 bits by their own header.
                let short = u16::try_from(value.len()).unwrap_or(u16::MAX - 1);
                bytes.extend_from_slice(&short.to_le_bytes());
                bytes.extend_from_slice(value.get(..usize::from(short)).unwrap_or(value));
                return;
            }
        }
    }
    bytes.extend_from_slice(value);
}

fn put_header(bytes: &mut Vec<u8>, tag: Tag, of: usize) {
    put_tag(bytes, tag);
    bytes.extend_from_slice(&length(of));
}

fn put_tag(bytes: &mut Vec<u8>, tag: Tag) {
    bytes.extend_from_slice(&tag.0.to_le_bytes());
    bytes.extend_from_slice(&tag.1.to_le_bytes());
}

fn length(of: usize) -> [u8; 4] {
    u32::try_from(of)
        .expect("data sets of services are short")
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: [Encoding; 2] = [Encoding::ExplicitLittle, Encoding::ImplicitLittle];

    fn step(modality: &str) -> DataSet {
        DataSet::default()
            .with(tag::MODALITY, modality)
            .with(tag::STEP_START_DATE, "20261122")
    }

    fn query() -> DataSet {
        DataSet::default()
            .with(tag::SPECIFIC_CHARACTER_SET, "ISO_IR 192")
            .with(tag::PATIENT_NAME, "DOE*")
            .with_u16(tag::PREGNANCY_STATUS, 4)
            .with_items(tag::SCHEDULED_STEPS, vec![step("CT"), step("MR")])
    }

    /// The sequences and items of `bytes` with undefined lengths.
    fn undefined(depth: usize, closed: bool) -> Vec<u8> {
        let open = b"\x40\x00\x00\x01SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff";
        let close = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0";
        let mut bytes = open.repeat(depth);
        if closed {
            bytes.extend(close.repeat(depth));
        }
        bytes
    }

    #[test]
    fn a_data_set_goes_there_and_back_in_both_encodings() {
        for encoding in LITTLE {
            let bytes = query().encode(encoding);
            assert_eq!(DataSet::parse(&bytes, encoding).unwrap(), query());
        }
    }

    #[test]
    fn undefined_lengths_are_read() {
        let read = DataSet::parse(&undefined(2, true), Encoding::ExplicitLittle).unwrap();
        let inner = read.item(tag::SCHEDULED_STEPS).unwrap();
        assert_eq!(inner.items(tag::SCHEDULED_STEPS).unwrap().len(), 1);
    }

    #[test]
    fn twenty_thousand_levels_are_refused_and_so_are_lies() {
        let parse = |bytes: &[u8]| DataSet::parse(bytes, Encoding::ExplicitLittle);
        assert_eq!(parse(&undefined(20_000, true)), Err(DataSetError::TooDeep));
        assert!(matches!(
            parse(&undefined(20_000, false)),
            Err(DataSetError::Walk(_))
        ));
        assert!(parse(&undefined(DEPTH_MAX, true)).is_ok());
        assert_eq!(
            parse(&undefined(DEPTH_MAX + 1, true)),
            Err(DataSetError::TooDeep)
        );
        // Defined lengths, in implicit VR, where the dictionary alone says that it is a sequence.
        let mut nested = Vec::new();
        for _ in 0..100 {
            let mut item = Vec::new();
            put_header(&mut item, ITEM, nested.len());
            item.extend_from_slice(&nested);
            nested = Vec::new();
            put(
                &mut nested,
                tag::SCHEDULED_STEPS,
                *b"SQ",
                &item,
                Encoding::ImplicitLittle,
            );
        }
        assert_eq!(
            DataSet::parse(&nested, Encoding::ImplicitLittle),
            Err(DataSetError::TooDeep)
        );
    }

    #[test]
    fn every_cut_and_every_flip_is_an_error_or_a_data_set() {
        for encoding in LITTLE {
            let bytes = query().encode(encoding);
            for at in 0..bytes.len() {
                let _ = DataSet::parse(&bytes[..at], encoding);
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    let _ = DataSet::parse(&flipped, encoding);
                }
            }
        }
    }

    #[test]
    fn a_million_items_are_refused() {
        let items = b"\xfe\xff\x00\xe0\0\0\0\0".repeat(1_000_000);
        let mut bytes = Vec::new();
        put(
            &mut bytes,
            tag::SCHEDULED_STEPS,
            *b"SQ",
            &items,
            Encoding::ExplicitLittle,
        );
        assert_eq!(
            DataSet::parse(&bytes, Encoding::ExplicitLittle),
            Err(DataSetError::TooMany)
        );
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", query());
        assert!(!shown.contains("DOE"), "{shown}");
    }
}
