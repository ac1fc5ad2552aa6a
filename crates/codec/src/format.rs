//! The bytes of format version 2: units, the table, the methods, `.ctp` files.
//!
//! In: units from outside. Out: their parsed headers, checked; or headers to send.
//! Invariant: a header that parses belongs to a unit whose digest is right and whose numbers
//! agree with each other. Bytes of version 2 mean the same for ever.
//! May not: interpret payloads.
//!
//! All numbers are little endian and unsigned. `BLAKE3` is the plain 32-byte hash.
//!
//! # Unit
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CTPU` |
//! | 4 | 1 | version, 2 |
//! | 5 | 1 | kind: 1 table, 2 data |
//! | 6 | 1 | method: 0 stored, 1 zstd, 2 planes, 3 fast, 4 link, 5 archive |
//! | 7 | 1 | tier it was made with, for information: 0 fast, 1 link, 2 archive |
//! | 8 | 16 | group id: the first 16 bytes of BLAKE3(table), before compression |
//! | 24 | 4 | number of this unit in its group, from 0, in sending order |
//! | 28 | 4 | units in the group, at most 65,536 |
//! | 32 | 4 | table units in the group, at least 1; they come first |
//! | 36 | 4 | data: which file of the group, from 0; table: 0 |
//! | 40 | 8 | data: where in that file the bytes belong; table: 0 |
//! | 48 | 4 | length after decoding; data: 1 to 983,040; table: of the whole table |
//! | 52 | 4 | payload length |
//! | 56 | 2 | how many units this one predicts from, at most 2; table: 0 |
//! | 58 | 2 | 0 |
//! | 60 | 32 | BLAKE3(bytes 0 to 59, bytes 92 to the end) |
//! | 92 | 4 each | numbers of the units this one predicts from: data units with lower numbers |
//! | | | payload |
//!
//! A unit has at most 1,048,512 bytes: 64 of 1 MiB are left to whoever seals it.
//!
//! # Table
//! The payloads of the table units, joined in order, are the table under the method given in each
//! of them (stored or zstd, one frame). Decoded, it has at most 33,554,432 bytes:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | how many files, 1 to 4,096 |
//! | per file | 2: length of the name, at most 1,024; the name, UTF-8; 8: bytes of the file; 32: BLAKE3 of the file; 8: bytes of its native form, or 0: it has none |
//! | 4 | how many data units: units in the group less table units |
//! | per data unit | 4: file; 8: where in it; 4: length; 1: how many units it may predict from, at most 2; 4 each: which, counted from the first data unit |
//! | the rest | inline bytes |
//!
//! Where a file has a native form, spans and inline bytes are those of that form, and the file is
//! made of it; it has at most twice its bytes. The spans of a file's data units do not overlap. What they leave uncovered of the files, in
//! order of files and then of place, is the inline bytes. A data unit's own file, place and length
//! are those of the table; the units it does predict from are among those it may predict from.
//!
//! # Native form
//! 8 bytes: how many bytes of pixels; the pixels, little endian; then steps to the end, each of which
//! appends to the file:
//!
//! | step | what follows |
//! |---|---|
//! | 0 copy | 4: length; the bytes |
//! | 1 RLE segment | 1: rule; 4: where its first byte is among the pixels; 2: rows; 2: columns; 1: from one of its bytes to the next |
//! | 2 JPEG lossless scan | 4: where among the pixels; 2: rows; 2: columns; 1: bits of a sample; 1: bytes of a pixel, 1 or 2; 1: predictor, 1 to 7; 2: rows between restarts, 0: none; 16: codes of each length; 1 each: the categories, in order of codes |
//!
//! An RLE segment is packed row by row (PS3.5 G.3.1), runs of either kind in parts of 128, the rest
//! last; a run of equal bytes is one if it has 2 bytes (rule 0), or 3, or 2 at the end of a row
//! (rule 1), and a part of one byte is written as unlike. A scan is coded by ITU-T T.81 annex H from
//! the lower bits of its pixels, with ones before each restart, and ends with its last whole byte.
//!
//! # Methods
//! - *stored*: the payload is the bytes.
//! - *zstd*: the payload is one zstd frame (RFC 8878).
//! - *planes*: the payload is one zstd frame of all bytes at even places, then all at odd ones.
//! - *fast*, *link*, *archive*: whole rows of pixels, by a model, predicted from up to two other
//!   units, whose decoded bytes are as many and are read as pixels in the same way.
//!
//! ## What the models have in common
//! A payload begins with 2 bytes columns (16 to 8,192), 1 byte flags (bit 0: pixels are two's
//! complement, bit 1: big endian, bit 2: one byte each; else two; the rest 0), 1 byte 0, 2 bytes
//! each the least and the greatest value. The length after decoding is a multiple of a row. Of
//! signed pixels the top bit is inverted, so that values are unsigned.
//!
//! Numbers are integers, or IEEE 754 binary32 (f32) with `+ - * /` one after the other in the order
//! of the code, never fused; tables are made in binary64 in the same way. Rows have margins of 8:
//! of a reference they repeat the edge; in the slice being coded the left margin is the value above
//! the first pixel, the right one the row's last pixel, and above the first row lies what lies above
//! the first reference, or else the least value. *Taps* are neighbours less the mean of the west,
//! north, north-west and north-east ones in the same plane, but in *link*, in the slice itself, with
//! the north once more in place of the west; weights for them are solved from sums
//! of products of taps, each weighted by 1 / (expected error squared + 4), by elimination four
//! pivots at a time. A pixel whose west, north, north-west, north-east and west-west neighbours are
//! equal begins, in *link* and *archive*, with one bit that says whether it is equal, too.
//!
//! *link* and *archive* end in a range coder: 64 bits of range, 32 bits out at a time, the most
//! significant byte first; the decoder reads zeros past the end. Probabilities are in 1/65,536. In
//! front stands in 4 bytes how many bytes it made; behind it come the numbers that are not worth
//! predicting, in bits, the least significant first, zeros past the end.
//!
//! - *link*: 32 taps; blocks of 32 columns have sums (every fourth pixel) and weights, solved every
//!   4th row from the block's sums and half of those beside, then faded by 3/4. The error is told in
//!   16 buckets around the mean, whose width is a power of two of the expected error; their shares
//!   are the average of two sets that adapt, chosen by expected error with the mean's fraction and
//!   with the two nearest errors. Then the highest bit within the bucket, then the rest.
//! - *archive*: 48 taps; blocks of 16 columns have sums that fade by 0.8 and by 0.96 a row; each is
//!   solved for a nested pair of predictors, which are blended by how well they did around. The
//!   expected error is a learned sum of what is seen. The value is told by decisions: above the
//!   mean or not, how many buckets away, where in the bucket; each by two distributions and five
//!   counters, mixed by two sets of learned weights.
//! - *fast*: per 64 rows, 10 weights of the slice's taps and, with a reference, 9 of its own (2 bytes
//!   each, signed, in 1/4,096); then 30 prefix codes of at most 12 bits; then the errors in bits,
//!   the least significant first: in each of 27 contexts by the errors around with a code, and in
//!   context 0, where there are none, as the length of a run and the error that ends it.
//!
//! The exact constants and orders are those of `codec::model`, whose modules are written once for
//! both directions, and of the golden files in its tests.
//!
//! # `.ctp` file
//! | bytes | field |
//! |---|---|
//! | 8 | `CTPK`, version 2, three bytes 0 |
//! | | units, group after group, each in order of its numbers |
//! | 40 | trailer: `CTPE`, version 2, three bytes 0; 32: BLAKE3 of all units' digests (offset 60), joined |
//!
//! Without its trailer a file is torn, and good up to the last whole unit.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::fmt;
use std::str::FromStr;

use study::Digest;
use thiserror::Error;

use crate::decode::DecodeError;
use crate::reader::Reader;

/// The largest unit, with 64 bytes to spare for whoever seals it.
pub const UNIT_BYTES_MAX: usize = 1 << 20;
/// What of [`UNIT_BYTES_MAX`] a unit leaves unused.
pub(crate) const SEAL_BYTES: usize = 64;
/// How many bytes of a file one data unit carries.
pub(crate) const RAW_BYTES_MAX: usize = 960 << 10;
/// How many units one group has.
pub(crate) const GROUP_UNITS_MAX: u32 = 1 << 16;
/// How many units one unit may predict from.
pub(crate) const REFS_MAX: usize = 2;
/// The fixed part of a unit, magic to digest.
pub const HEADER_BYTES: usize = 92;

const MAGIC: [u8; 4] = *b"CTPU";
pub(crate) const VERSION: u8 = 2;
const DIGEST_AT: usize = 60;

/// How much work goes into making a unit small. All tiers decode alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// For intake while the box is busy.
    Fast,
    /// What crosses by default.
    Link,
    /// For thin links and an idle processor.
    Archive,
}

impl Tier {
    /// All tiers, the fastest first.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Link, Self::Archive];

    /// The word used in commands and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Link => "link",
            Self::Archive => "archive",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Fast => 0,
            Self::Link => 1,
            Self::Archive => 2,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says that a text names no tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tier is one of fast, link, archive")]
pub struct TierError;

impl FromStr for Tier {
    type Err = TierError;
    fn from_str(text: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or(TierError)
    }
}

/// What a unit carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A piece of the group's table.
    Table,
    /// Bytes of one file.
    Data,
}

/// How a payload is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// As it is.
    Stored,
    /// One zstd frame.
    Zstd,
    /// Split into even and odd bytes, zstd.
    Planes,
    /// Pixels, by the model of tier `fast`.
    Fast,
    /// Pixels, by the model of tier `link`.
    Link,
    /// Pixels, by the model of tier `archive`.
    Archive,
}

impl Method {
    /// All methods, by their numbers.
    const ALL: [Self; 6] = [
        Self::Stored,
        Self::Zstd,
        Self::Planes,
        Self::Fast,
        Self::Link,
        Self::Archive,
    ];

    /// Whether it may be used for a table.
    const fn is_general(self) -> bool {
        match self {
            Self::Stored | Self::Zstd => true,
            Self::Planes | Self::Fast | Self::Link | Self::Archive => false,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Zstd => 1,
            Self::Planes => 2,
            Self::Fast => 3,
            Self::Link => 4,
            Self::Archive => 5,
        }
    }

    /// The word used in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Zstd => "zstd",
            Self::Planes => "planes",
            Self::Fast => "fast",
            Self::Link => "link",
            Self::Archive => "archive",
        }
    }
}

/// Names a group: the first half of its table's digest, so that equal groups have equal names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 16]);

impl GroupId {
    /// The group that has this table.
    pub(crate) fn of(table: &[u8]) -> Self {
        let digest = Digest::of(table);
        Self(
            *digest
                .as_bytes()
                .first_chunk()
                .expect("a digest has 32 bytes"),
        )
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({self})")
    }
}

/// A stretch of one file of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which file, from 0.
    pub file: u32,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u32,
}

/// What a unit says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitHeader {
    /// What the unit carries.
    pub kind: Kind,
    /// How its payload is coded; of table units, how the joined payloads are.
    pub method: Method,
    /// The tier it was made with.
    pub tier: Tier,
    /// The group it belongs to.
    pub group: GroupId,
    /// Its number in the group, in sending order.
    pub number: u32,
    /// How many units the group has.
    pub units: u32,
    /// How many of them are table units.
    pub table_units: u32,
    /// Where the bytes belong; of a table unit: file 0, offset 0, length of the whole table.
    pub span: Span,
    /// The units it predicts from.
    pub refs: Vec<u32>,
}

/// How many bytes the unit has that begins with `prefix`; `None` if more of it is needed to tell.
///
/// For reading units from a stream. Nothing but the magic and the length is checked.
pub fn unit_bytes(prefix: &[u8]) -> Result<Option<usize>, DecodeError> {
    if prefix.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut reader = Reader::new(prefix);
    if reader.array() != Some(MAGIC) {
        return Err(DecodeError::NotAUnit);
    }
    let lengths = || {
        let mut reader = Reader::new(prefix.get(52..)?);
        let payload = usize::try_from(reader.u32()?).ok()?;
        let refs = usize::from(reader.u16()?);
        HEADER_BYTES.checked_add(4 * refs)?.checked_add(payload)
    };
    match lengths() {
        Some(bytes) if bytes <= UNIT_BYTES_MAX - SEAL_BYTES => Ok(Some(bytes)),
        Some(_) | None => Err(DecodeError::OverLimit("unit bytes")),
    }
}

impl UnitHeader {
    /// Checks a unit's digest and reads its header.
    pub fn parse(unit: &[u8]) -> Result<Self, DecodeError> {
        Self::split(unit).map(|(header, _)| header)
    }

    /// Checks a unit's digest; gives its header and its payload.
    pub(crate) fn split(unit: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        if unit_bytes(unit)? != Some(unit.len()) {
            return Err(DecodeError::Length);
        }
        let version = unit.get(4).copied().unwrap_or_default();
        if version != VERSION {
            return Err(DecodeError::UnknownVersion(version));
        }
        if digest_in(unit) != Some(digest_over(unit)) {
            return Err(DecodeError::Damaged);
        }
        let (fields, payload) = Self::fields(unit)?;
        fields.check()?;
        Ok((fields, payload))
    }

    fn fields(unit: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(unit);
        let ended = DecodeError::Length;
        let _magic_and_version = reader.take(5).ok_or(ended.clone())?;
        let [kind, method, tier] = reader.array().ok_or(ended.clone())?;
        let kind = match kind {
            1 => Kind::Table,
            2 => Kind::Data,
            _ => return Err(DecodeError::Inconsistent("kind")),
        };
        let method = Method::ALL
            .into_iter()
            .find(|m| m.byte() == method)
            .ok_or(DecodeError::UnknownMethod(method))?;
        let tier = Tier::ALL
            .into_iter()
            .find(|t| t.byte() == tier)
            .ok_or(DecodeError::Inconsistent("tier"))?;
        let mut rest = || {
            let group = GroupId(reader.array()?);
            let (number, units, table_units) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let span = Span {
                file: reader.u32()?,
                offset: reader.u64()?,
                bytes: reader.u32()?,
            };
            let _payload_bytes = reader.u32()?;
            let refs = reader.u16()?;
            let zero = reader.u16()?;
            let _digest: [u8; 32] = reader.array()?;
            let refs = (0..refs)
                .map(|_| reader.u32())
                .collect::<Option<Vec<u32>>>()?;
            let header = Self {
                kind,
                method,
                tier,
                group,
                number,
                units,
                table_units,
                span,
                refs,
            };
            Some((zero, header))
        };
        match rest() {
            Some((0, header)) => Ok((header, reader.rest())),
            Some(_) => Err(DecodeError::Inconsistent("reserved bytes")),
            None => Err(ended),
        }
    }

    /// Checks what can be checked without the table.
    fn check(&self) -> Result<(), DecodeError> {
        require(
            self.units <= GROUP_UNITS_MAX,
            DecodeError::OverLimit("units in a group"),
        )?;
        require(self.refs.len() <= REFS_MAX, DecodeError::OverLimit("refs"))?;
        require(
            (1..=self.units).contains(&self.table_units) && self.number < self.units,
            DecodeError::Inconsistent("unit numbers"),
        )?;
        let in_table = self.number < self.table_units;
        require(
            (self.kind == Kind::Table) == in_table,
            DecodeError::Inconsistent("kind"),
        )?;
        require(
            self.refs
                .iter()
                .all(|r| (self.table_units..self.number).contains(r)),
            DecodeError::Inconsistent("refs"),
        )?;
        let raw = usize::try_from(self.span.bytes).unwrap_or(usize::MAX);
        match self.kind {
            Kind::Table => require(
                self.span.file == 0 && self.span.offset == 0 && self.method.is_general(),
                DecodeError::Inconsistent("table unit"),
            ),
            Kind::Data => require(
                (1..=RAW_BYTES_MAX).contains(&raw),
                DecodeError::OverLimit("bytes of a unit"),
            ),
        }
    }

    /// Puts a unit together.
    pub(crate) fn seal(&self, payload: &[u8]) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Table => 1,
            Kind::Data => 2,
        };
        let payload_bytes = u32::try_from(payload.len()).expect("a payload is under 1 MiB");
        let refs = u16::try_from(self.refs.len()).expect("at most 2 refs");
        let mut unit = Vec::with_capacity(HEADER_BYTES + 4 * self.refs.len() + payload.len());
        unit.extend_from_slice(&MAGIC);
        unit.extend_from_slice(&[VERSION, kind, self.method.byte(), self.tier.byte()]);
        unit.extend_from_slice(&self.group.0);
        for number in [self.number, self.units, self.table_units, self.span.file] {
            unit.extend_from_slice(&number.to_le_bytes());
        }
        unit.extend_from_slice(&self.span.offset.to_le_bytes());
        unit.extend_from_slice(&self.span.bytes.to_le_bytes());
        unit.extend_from_slice(&payload_bytes.to_le_bytes());
        unit.extend_from_slice(&refs.to_le_bytes());
        unit.extend_from_slice(&[0; 2 + 32]);
        for number in &self.refs {
            unit.extend_from_slice(&number.to_le_bytes());
        }
        unit.extend_from_slice(payload);
        let digest = digest_over(&unit);
        unit.splice(DIGEST_AT..HEADER_BYTES, *digest.as_bytes());
        unit
    }
}

/// The digest that a unit carries.
pub(crate) fn digest_in(unit: &[u8]) -> Option<Digest> {
    unit.get(DIGEST_AT..)?
        .first_chunk()
        .map(|bytes| Digest::from_bytes(*bytes))
}

/// The digest that a unit with these bytes must carry.
fn digest_over(unit: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(unit.get(..DIGEST_AT).unwrap_or_default());
    hasher.update(unit.get(HEADER_BYTES..).unwrap_or_default());
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Gives `otherwise` unless `fine`.
pub(crate) fn require(fine: bool, otherwise: DecodeError) -> Result<(), DecodeError> {
    if fine { Ok(()) } else { Err(otherwise) }
}
