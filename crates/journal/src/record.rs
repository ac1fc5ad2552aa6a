//! One record and the words around it.

use identity::NodeId;
use minicbor::{Decode, Encode};
use study::Digest;

use crate::fact::{Fact, FactError};

/// The largest record, signed, in bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 10;

/// Names one journal: who writes it and which stream of that author it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct JournalId {
    /// The only node that may write.
    #[n(0)]
    pub author: NodeId,
    /// Whom it concerns: the author itself, or the unit that a hub writes to.
    #[n(1)]
    pub stream: NodeId,
}

impl JournalId {
    /// The journal a node writes about itself.
    pub const fn own(node: NodeId) -> Self {
        Self {
            author: node,
            stream: node,
        }
    }
}

/// How much a wall time is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum ClockQuality {
    /// Nobody knows: no battery, never set.
    #[default]
    #[n(0)]
    Unknown,
    /// Kept by a battery-backed clock or set by a person.
    #[n(1)]
    Kept,
    /// Disciplined by a time service.
    #[n(2)]
    Synchronised,
}

/// When something was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Milliseconds that never go back in a journal, whatever the wall clock does.
    pub count_ms: u64,
    /// Milliseconds of the Unix epoch, as the clock said.
    pub wall_ms: u64,
    /// What that clock is worth.
    pub clock: ClockQuality,
}

/// What one signed record says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// Who says it.
    #[n(1)]
    pub author: NodeId,
    /// Whom it concerns.
    #[n(2)]
    pub stream: NodeId,
    /// Its place in the journal, from 1, without gaps.
    #[n(3)]
    pub seq: u64,
    /// BLAKE3 of the signed record before; none for the first.
    #[n(4)]
    pub previous: Option<Digest>,
    /// The author's monotonic count, milliseconds.
    #[n(5)]
    pub count_ms: u64,
    /// The author's wall clock, milliseconds of the Unix epoch.
    #[n(6)]
    pub wall_ms: u64,
    /// What that clock was worth.
    #[n(7)]
    pub clock: ClockQuality,
    /// Which fact the body is.
    #[n(8)]
    pub kind: u16,
    /// The fact, as CBOR.
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// The data key's envelopes; none while bodies are plain.
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub envelope: Option<Vec<u8>>,
}

impl Record {
    /// The version that this program writes.
    pub const VERSION: u8 = 1;

    /// The journal the record belongs to.
    pub const fn journal(&self) -> JournalId {
        JournalId {
            author: self.author,
            stream: self.stream,
        }
    }

    /// Reads the body; a kind that is not known is [`Fact::Unknown`], not an error.
    pub fn fact(&self) -> Result<Fact, FactError> {
        Fact::read(self.kind, &self.body)
    }
}
