//! The frames, byte for byte; what they mean is told in the crate's documentation.

use journal::{ClockQuality, JournalId};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use study::Digest;
use thiserror::Error;

use crate::class::Class;
use crate::runs::Runs;

/// The protocol that this crate speaks.
pub const PROTOCOL: u16 = 1;
/// The largest encoded frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 320 << 10;
/// The most payload in one [`Frame::Data`], in bytes.
pub const DATA_BYTES_MAX: u32 = 32 << 10;
/// The least payload in a [`Frame::Data`] that does not reach its chunk's end, in bytes.
pub const DATA_BYTES_MIN: u32 = 512;
/// The largest signed manifest that crosses, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;
/// The largest fleet document that crosses, in bytes.
pub const FLEET_BYTES_MAX: usize = 256 << 10;
/// The most record bytes in one [`Frame::Records`].
pub const RECORDS_BYTES_MAX: usize = 256 << 10;
/// The most journals in one [`Frame::Hello`].
pub const HEADS_MAX: usize = 256;
/// The longest text in any frame, in bytes.
pub const TEXT_BYTES_MAX: usize = 200;

/// What a node holds of one journal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JournalHeld {
    /// The journal.
    #[n(0)]
    pub journal: JournalId,
    /// The highest sequence number held durably; 0 for none.
    #[n(1)]
    pub seq: u64,
    /// The checkpoint: BLAKE3 of the signed record of that number; none for none.
    #[n(2)]
    pub digest: Option<Digest>,
}

/// How far one chunk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Partial {
    /// The chunk's number in its manifest.
    #[n(0)]
    pub chunk: u32,
    /// Its bytes from 0 to here are held durably.
    #[n(1)]
    pub upto: u32,
}

/// How far one chunk of one item has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Progress {
    /// The item.
    #[n(0)]
    pub item: u32,
    /// The chunk's number in its manifest.
    #[n(1)]
    pub chunk: u32,
    /// Its bytes from 0 to here are held durably.
    #[n(2)]
    pub upto: u32,
}

/// Why an item was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum RefusalCode {
    /// No room on the disk; later it may be otherwise.
    #[n(1)]
    NoRoom,
    /// This manifest, study or unit is not wanted here; offering it again is in vain.
    #[n(2)]
    NotWanted,
    /// The manifest is of a version or size that this node cannot take.
    #[n(3)]
    NotSupported,
    /// Something is wrong at the refusing node; later it may be otherwise.
    #[n(4)]
    Trouble,
}

/// Why a node says goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ByeCode {
    /// Nothing is wrong: the program stops, or a budget or window has ended.
    #[n(0)]
    Done,
    /// The peer broke the protocol; the text says how.
    #[n(1)]
    PeerFault,
    /// Something is wrong here.
    #[n(2)]
    Trouble,
}

/// One frame: a CBOR array whose first element is the frame's number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Frame {
    /// The first frame of each side: who speaks, and what it holds of each journal it wants.
    #[n(0)]
    Hello {
        /// [`PROTOCOL`].
        #[n(0)]
        protocol: u16,
        /// Program and version.
        #[n(1)]
        software: String,
        /// The version of the fleet document held; 0 for none.
        #[n(2)]
        fleet_version: u64,
        /// The sender's wall clock, milliseconds of the Unix epoch, raw.
        #[n(3)]
        wall_ms: u64,
        /// What that clock is worth.
        #[n(4)]
        clock: ClockQuality,
        /// The journals that the sender exchanges with this peer; each once.
        #[n(5)]
        journals: Vec<JournalHeld>,
    },
    /// The last frame of a side.
    #[n(1)]
    Bye {
        /// Why.
        #[n(0)]
        code: ByeCode,
        /// The same in plain words.
        #[n(1)]
        text: String,
    },
    /// A newer fleet document.
    #[n(2)]
    Fleet {
        /// Its version.
        #[n(0)]
        version: u64,
        /// The signed document.
        #[n(1)]
        document: ByteVec,
    },
    /// Answers [`Frame::Fleet`]: the version that is held durably after it; less than the one sent
    /// when that was not accepted.
    #[n(3)]
    FleetHeld {
        /// The version held.
        #[n(0)]
        version: u64,
    },
    /// Records of one journal, without gaps.
    #[n(4)]
    Records {
        /// The journal.
        #[n(0)]
        journal: JournalId,
        /// The sequence number of the first one.
        #[n(1)]
        from_seq: u64,
        /// The signed records, in order, at least one.
        #[n(2)]
        records: Vec<ByteVec>,
    },
    /// The receiver holds the journal up to here durably.
    #[n(5)]
    RecordsHeld {
        /// The journal.
        #[n(0)]
        journal: JournalId,
        /// The highest sequence number held.
        #[n(1)]
        seq: u64,
    },
    /// Opens an item, or answers [`Frame::Want`]: the signed manifest itself.
    #[n(6)]
    Offer {
        /// The item's number, chosen by the offering side.
        #[n(0)]
        item: u32,
        /// Its class.
        #[n(1)]
        class: Class,
        /// The signed manifest.
        #[n(2)]
        manifest: ByteVec,
    },
    /// Opens an item whose manifest the receiver may know: only its name.
    #[n(7)]
    Resume {
        /// The item's number, chosen by the offering side.
        #[n(0)]
        item: u32,
        /// Its class.
        #[n(1)]
        class: Class,
        /// BLAKE3 of the signed manifest.
        #[n(2)]
        manifest: Digest,
    },
    /// Bytes of one chunk.
    #[n(8)]
    Data {
        /// The item.
        #[n(0)]
        item: u32,
        /// The chunk's number in the manifest.
        #[n(1)]
        chunk: u32,
        /// Where in the chunk the bytes begin.
        #[n(2)]
        offset: u32,
        /// The bytes: [`DATA_BYTES_MIN`] (less at the chunk's end) to [`DATA_BYTES_MAX`] of them.
        #[n(3)]
        bytes: ByteVec,
    },
    /// The item has another class from here on.
    #[n(9)]
    Class {
        /// The item.
        #[n(0)]
        item: u32,
        /// Its new class.
        #[n(1)]
        class: Class,
    },
    /// The offering side takes the item back; what the receiver holds of it stays valid.
    #[n(10)]
    Withdraw {
        /// The item.
        #[n(0)]
        item: u32,
    },
    /// Answers [`Frame::Resume`]: the manifest is not known here, offer it.
    #[n(11)]
    Want {
        /// The item.
        #[n(0)]
        item: u32,
    },
    /// Answers an opened item: its manifest is held durably, and so is this much of its chunks.
    #[n(12)]
    Have {
        /// The item.
        #[n(0)]
        item: u32,
        /// The chunks that are held whole.
        #[n(1)]
        whole: Runs,
        /// The chunks that are held in part; ascending, none of them whole or empty.
        #[n(2)]
        partial: Vec<Partial>,
    },
    /// Answers an opened item: it was completed before; the item is closed.
    #[n(13)]
    Complete {
        /// The item.
        #[n(0)]
        item: u32,
    },
    /// Bytes became durable at the receiver. When all chunks are held, the item is closed.
    #[n(14)]
    Held {
        /// How far which chunks have come, at least one.
        #[n(0)]
        progress: Vec<Progress>,
    },
    /// A chunk came in whole and does not have its digest: it starts again at 0.
    #[n(15)]
    Damaged {
        /// The item.
        #[n(0)]
        item: u32,
        /// The chunk.
        #[n(1)]
        chunk: u32,
    },
    /// The receiver does not take the item; the item is closed.
    #[n(16)]
    Refused {
        /// The item.
        #[n(0)]
        item: u32,
        /// Why.
        #[n(1)]
        code: RefusalCode,
        /// The same in plain words, without patient data.
        #[n(2)]
        text: String,
    },
    /// Answers [`Frame::Withdraw`]; the item is closed.
    #[n(17)]
    Withdrawn {
        /// The item.
        #[n(0)]
        item: u32,
    },
    /// Answers a journal in [`Frame::Hello`] with the evidence that it was forked: the record that
    /// is held here under the number of its checkpoint is another one.
    #[n(18)]
    Contradiction {
        /// The journal.
        #[n(0)]
        journal: JournalId,
        /// The signed record.
        #[n(1)]
        record: ByteVec,
    },
}

/// Says why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// More than [`FRAME_BYTES_MAX`].
    #[error("a frame has {0} bytes, {max} are allowed", max = FRAME_BYTES_MAX)]
    TooLong(usize),
    /// Not a frame of this protocol.
    #[error("a frame cannot be read: {0}")]
    Malformed(String),
    /// A frame, but not in its one encoding.
    #[error("a frame is not in deterministic encoding")]
    NotDeterministic,
}

impl Frame {
    /// Encodes the frame as deterministic CBOR (RFC 8949 4.2).
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a Vec does not fail")
    }

    /// Decodes one frame from exactly these bytes; each frame has one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(bytes.len()));
        }
        let frame: Self =
            minicbor::decode(bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
        if frame.encode() != bytes {
            return Err(FrameError::NotDeterministic);
        }
        Ok(frame)
    }

    /// Whether the frame travels on an item's lane; all others travel on the control lane.
    pub const fn is_of_item_lane(&self) -> bool {
        matches!(
            self,
            Self::Offer { .. }
                | Self::Resume { .. }
                | Self::Data { .. }
                | Self::Class { .. }
                | Self::Withdraw { .. }
        )
    }

    /// The frame's name, for logs and errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Bye { .. } => "bye",
            Self::Fleet { .. } => "fleet",
            Self::FleetHeld { .. } => "fleet-held",
            Self::Records { .. } => "records",
            Self::RecordsHeld { .. } => "records-held",
            Self::Offer { .. } => "offer",
            Self::Resume { .. } => "resume",
            Self::Data { .. } => "data",
            Self::Class { .. } => "class",
            Self::Withdraw { .. } => "withdraw",
            Self::Want { .. } => "want",
            Self::Have { .. } => "have",
            Self::Complete { .. } => "complete",
            Self::Held { .. } => "held",
            Self::Damaged { .. } => "damaged",
            Self::Refused { .. } => "refused",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Contradiction { .. } => "contradiction",
        }
    }
}
