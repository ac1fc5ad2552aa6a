//! The byte format of a record.

use std::ops::Range;

use study::Digest;

use crate::error::{Damage, StoreError};

pub(crate) const MAGIC: &[u8; 4] = b"CHQR";
const VERSION: u8 = 1;

/// Everything before the envelope.
pub(crate) const FIXED_BYTES: usize = 51;
const CHECKSUM_BYTES: usize = 4;

const AT_VERSION: usize = 4;
const AT_KIND: usize = 5;
const AT_FLAGS: usize = 6;
const AT_ENVELOPE_BYTES: Range<usize> = 7..9;
const AT_META_BYTES: Range<usize> = 9..11;
const AT_BODY_BYTES: Range<usize> = 11..19;
const AT_DIGEST: Range<usize> = 19..51;

/// What a record is for; the numbers belong to the program that owns the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordKind(pub u8);

/// What is said of a body; stored in the clear before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// What the record is for.
    pub kind: RecordKind,
    /// Free for the program that owns the folder.
    pub flags: u8,
    /// How the body is sealed (key id, nonce); empty: it is not. At most 65,535 bytes.
    pub envelope: Vec<u8>,
    /// What the index has to be rebuilt from. At most 65,535 bytes.
    pub meta: Vec<u8>,
}

/// A header and its body, digested.
///
/// On disk, numbers little-endian:
///
/// | at | bytes | what |
/// |---|---|---|
/// | 0 | 4 | `CHQR` |
/// | 4 | 1 | version, 1; never 0 |
/// | 5 | 1 | kind |
/// | 6 | 1 | flags |
/// | 7 | 2 | E, length of the envelope |
/// | 9 | 2 | M, length of the meta |
/// | 11 | 8 | B, length of the body |
/// | 19 | 32 | BLAKE3 of the body as it is stored |
/// | 51 | E | envelope |
/// | 51 + E | M | meta |
/// | 51 + E + M | 4 | CRC-32 (ISO-HDLC, as in zlib) of all bytes before it |
/// | 55 + E + M | B | body |
///
/// The checksum tells a whole header from a torn one, and with it how long the record is; the digest tells
/// whether the body is the one that was stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    header: RecordHeader,
    digest: Digest,
    body: Vec<u8>,
}

impl Record {
    /// Digests `body`. To be done where the body comes from: the writer's thread has better things to do.
    pub fn new(header: RecordHeader, body: Vec<u8>) -> Result<Self, StoreError> {
        for (part, bytes) in [
            ("envelope", header.envelope.len()),
            ("meta", header.meta.len()),
        ] {
            if bytes > usize::from(u16::MAX) {
                return Err(StoreError::HeaderTooLong { part, bytes });
            }
        }
        Ok(Self {
            digest: Digest::of(&body),
            header,
            body,
        })
    }

    /// What is said of the body.
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// BLAKE3 of the body.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body alone, without a copy.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// How many bytes it takes up in a segment. The records of a run lie one right behind the other.
    pub fn stored_bytes(&self) -> u64 {
        let header = &self.header;
        let head = FIXED_BYTES + header.envelope.len() + header.meta.len() + CHECKSUM_BYTES;
        (head + self.body.len()) as u64
    }

    pub(crate) fn encode_head(&self) -> Vec<u8> {
        let header = &self.header;
        let short = |part: &[u8]| {
            u16::try_from(part.len())
                .expect("checked by Record::new")
                .to_le_bytes()
        };
        let mut head = Vec::with_capacity(
            FIXED_BYTES + header.envelope.len() + header.meta.len() + CHECKSUM_BYTES,
        );
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&[VERSION, header.kind.0, header.flags]);
        head.extend_from_slice(&short(&header.envelope));
        head.extend_from_slice(&short(&header.meta));
        head.extend_from_slice(&(self.body.len() as u64).to_le_bytes());
        head.extend_from_slice(self.digest.as_bytes());
        head.extend_from_slice(&header.envelope);
        head.extend_from_slice(&header.meta);
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        head
    }

    /// Puts a record together from what was read; the digest is checked here.
    pub(crate) fn from_stored(head: Head, body: Vec<u8>) -> Result<Self, Damage> {
        if Digest::of(&body) != head.digest {
            return Err(Damage::Body);
        }
        Ok(Self {
            header: head.header,
            digest: head.digest,
            body,
        })
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A body may be a patient's.
        write!(
            f,
            "Record({:?}, {} bytes, {:?})",
            self.header.kind,
            self.body.len(),
            self.digest
        )
    }
}

/// The first bytes of a header: enough to know how long the rest is.
pub(crate) struct Fixed([u8; FIXED_BYTES]);

/// A header whose checksum is right.
pub(crate) struct Head {
    pub(crate) header: RecordHeader,
    pub(crate) digest: Digest,
    pub(crate) head_bytes: u64,
    pub(crate) body_bytes: u64,
}

impl Fixed {
    pub(crate) fn parse(bytes: [u8; FIXED_BYTES]) -> Result<Self, Damage> {
        if !bytes.starts_with(MAGIC) {
            return Err(Damage::NoRecord);
        }
        match bytes[AT_VERSION] {
            VERSION => Ok(Self(bytes)),
            // The mark made it to the disk, what follows did not.
            0 => Err(Damage::NoRecord),
            later => Err(Damage::Version(later)),
        }
    }

    /// How many bytes of the header follow; at most 131,074.
    pub(crate) fn rest_bytes(&self) -> usize {
        self.envelope_bytes() + self.meta_bytes() + CHECKSUM_BYTES
    }

    pub(crate) fn finish(self, rest: &[u8]) -> Result<Head, Damage> {
        let (said, checksum) = rest
            .split_at_checked(self.envelope_bytes() + self.meta_bytes())
            .ok_or(Damage::Short)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.0);
        hasher.update(said);
        if checksum != hasher.finalize().to_le_bytes() {
            return Err(Damage::Header);
        }
        let (envelope, meta) = said.split_at(self.envelope_bytes());
        Ok(Head {
            header: RecordHeader {
                kind: RecordKind(self.0[AT_KIND]),
                flags: self.0[AT_FLAGS],
                envelope: envelope.to_vec(),
                meta: meta.to_vec(),
            },
            digest: Digest::from_bytes(self.field(AT_DIGEST)),
            head_bytes: (FIXED_BYTES + rest.len()) as u64,
            body_bytes: u64::from_le_bytes(self.field(AT_BODY_BYTES)),
        })
    }

    fn envelope_bytes(&self) -> usize {
        usize::from(u16::from_le_bytes(self.field(AT_ENVELOPE_BYTES)))
    }

    fn meta_bytes(&self) -> usize {
        usize::from(u16::from_le_bytes(self.field(AT_META_BYTES)))
    }

    fn field<const N: usize>(&self, at: Range<usize>) -> [u8; N] {
        self.0[at]
            .try_into()
            .expect("each range above is as long as its field")
    }
}
