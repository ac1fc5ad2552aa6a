//! Chains: appending to a journal of one's own, verifying another's record by record.

use identity::cose::{self, CoseError};
use identity::{NodeId, NodeKey};
use minicbor::{Decode, Encode};
use study::Digest;
use thiserror::Error;

use crate::fact::{Fact, TEXT_BYTES_MAX};
use crate::record::{JournalId, Moment, RECORD_BYTES_MAX, Record};

/// The domain that records are signed under.
const DOMAIN: &str = "chasqui/record/1";

/// Where a journal ends: the last record's number and the digest of its signed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Head {
    /// The last record's number; 0 while the journal is empty.
    #[n(0)]
    pub seq: u64,
    /// BLAKE3 of the last signed record; none while the journal is empty.
    #[n(1)]
    pub digest: Option<Digest>,
    /// The last record's monotonic count.
    #[n(2)]
    pub count_ms: u64,
}

impl Head {
    /// The head of a journal that has no record yet.
    pub const EMPTY: Self = Self {
        seq: 0,
        digest: None,
        count_ms: 0,
    };
}

/// A record with the bytes that were signed and the journal's head after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub record: Record,
    /// The `COSE_Sign1` that is stored and crosses.
    pub bytes: Vec<u8>,
    /// The head of the journal once this record is in it.
    pub head: Head,
}

/// Says why a fact was not appended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The key is not the author's.
    #[error("key {} may not write the journal of {}", key.short(), author.short())]
    NotTheAuthor {
        /// Whose key it is.
        key: NodeId,
        /// Whose journal it is.
        author: NodeId,
    },
    /// The signed record would be longer than [`RECORD_BYTES_MAX`].
    #[error("the record would have {0} bytes, {max} are allowed", max = RECORD_BYTES_MAX)]
    TooLong(usize),
    /// A text in the fact is longer than [`TEXT_BYTES_MAX`].
    #[error("a text in the fact has more than {max} bytes", max = TEXT_BYTES_MAX)]
    TextTooLong,
}

/// Says why a record does not continue a journal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainFault {
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("a record has {0} bytes, {max} are allowed", max = RECORD_BYTES_MAX)]
    TooLong(usize),
    /// The signature or its envelope is wrong.
    #[error("a record's signature is not accepted")]
    Signature(#[source] CoseError),
    /// The payload is not a record, or not in its one encoding.
    #[error("a record cannot be read: {0}")]
    Malformed(String),
    /// A version that this program does not know.
    #[error("a record has version {0}, this program knows version 1")]
    UnknownVersion(u8),
    /// The record names another journal, or its signer is not its author.
    #[error("a record belongs to another journal or is signed by another key")]
    WrongJournal,
    /// The record is not the next one.
    #[error("a record has number {found}, number {expected} comes next")]
    NotNext {
        /// The number that continues the journal.
        expected: u64,
        /// The number of the record.
        found: u64,
    },
    /// The record has the next number and continues another past: two writers had one key.
    #[error("record {seq} does not continue the journal that is held: it was forked")]
    Forked {
        /// The record's number.
        seq: u64,
    },
    /// The record's monotonic count is less than that of the record before.
    #[error("record {seq} counts back in time")]
    CountsBack {
        /// The record's number.
        seq: u64,
    },
}

/// The writing end of one journal.
///
/// It is [`Copy`]: append on a copy inside the transaction that stores the record, and keep the
/// copy only once that transaction is durable, so that a failed write leaves no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    id: JournalId,
    head: Head,
}

impl Chain {
    /// Takes up a journal at its stored head ([`Head::EMPTY`] for a new one).
    pub const fn resume(id: JournalId, head: Head) -> Self {
        Self { id, head }
    }

    /// The journal's name.
    pub const fn id(&self) -> JournalId {
        self.id
    }

    /// The journal's end.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Signs `fact` as the next record. A count that went back is raised to the last one.
    pub fn append(
        &mut self,
        key: &NodeKey,
        now: Moment,
        fact: &Fact,
    ) -> Result<Signed, AppendError> {
        if key.id() != self.id.author {
            return Err(AppendError::NotTheAuthor {
                key: key.id(),
                author: self.id.author,
            });
        }
        if fact.text().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(AppendError::TextTooLong);
        }
        let record = Record {
            version: Record::VERSION,
            author: self.id.author,
            stream: self.id.stream,
            seq: self.head.seq + 1,
            previous: self.head.digest,
            count_ms: now.count_ms.max(self.head.count_ms),
            wall_ms: now.wall_ms,
            clock: now.clock,
            kind: fact.kind(),
            body: fact.body(),
            envelope: None,
        };
        let bytes = cose::sign1(key, DOMAIN, &encode(&record));
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(AppendError::TooLong(bytes.len()));
        }
        let signed = signed(record, bytes);
        self.head = signed.head;
        Ok(signed)
    }
}

/// Reads a record that its author has signed, wherever it stands in its journal.
pub fn read_record(bytes: &[u8]) -> Result<Record, ChainFault> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(ChainFault::TooLong(bytes.len()));
    }
    let verified = cose::verify1(bytes, DOMAIN).map_err(ChainFault::Signature)?;
    let record: Record =
        minicbor::decode(&verified.payload).map_err(|e| ChainFault::Malformed(e.to_string()))?;
    if record.version != Record::VERSION {
        return Err(ChainFault::UnknownVersion(record.version));
    }
    if encode(&record) != verified.payload {
        return Err(ChainFault::Malformed(
            "it is not in deterministic encoding".to_owned(),
        ));
    }
    if verified.signer != record.author {
        return Err(ChainFault::WrongJournal);
    }
    Ok(record)
}

/// Reads a record that its author has signed, with the head of its journal after it, wherever it
/// stands there.
pub fn read_signed(bytes: &[u8]) -> Result<Signed, ChainFault> {
    Ok(signed(read_record(bytes)?, bytes.to_vec()))
}

/// Checks that `bytes` are the record after `head` in journal `id`, signed by its author.
pub fn verify_next(id: &JournalId, head: &Head, bytes: &[u8]) -> Result<Signed, ChainFault> {
    let record = read_record(bytes)?;
    if record.journal() != *id {
        return Err(ChainFault::WrongJournal);
    }
    let expected = head.seq.saturating_add(1);
    if record.seq != expected {
        return Err(ChainFault::NotNext {
            expected,
            found: record.seq,
        });
    }
    if record.previous != head.digest {
        return Err(ChainFault::Forked { seq: record.seq });
    }
    if record.count_ms < head.count_ms {
        return Err(ChainFault::CountsBack { seq: record.seq });
    }
    Ok(signed(record, bytes.to_vec()))
}

fn signed(record: Record, bytes: Vec<u8>) -> Signed {
    let head = Head {
        seq: record.seq,
        digest: Some(Digest::of(&bytes)),
        count_ms: record.count_ms,
    };
    Signed {
        record,
        bytes,
        head,
    }
}

fn encode(record: &Record) -> Vec<u8> {
    minicbor::to_vec(record).expect("writing to a Vec does not fail")
}
