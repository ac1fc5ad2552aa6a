//! Peer faults: the named ways to break the protocol.

use journal::{ChainFault, JournalId, ManifestFault};
use thiserror::Error;

use crate::frame::FrameError;

/// Says how the peer broke the protocol; the connection ends, the service goes on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerFault {
    /// Bytes that are no frame.
    #[error("the peer sent something that is no frame")]
    Frame(#[from] FrameError),
    /// A protocol that this node does not speak.
    #[error("the peer speaks protocol {0}, this node speaks protocol 1")]
    UnknownProtocol(u16),
    /// A frame before the greeting, or a second greeting.
    #[error("the peer sent {0} where its greeting was due, or greeted twice")]
    NotGreeted(&'static str),
    /// A frame with a text, list or payload beyond its limit, or empty where it may not be.
    #[error("the peer sent {frame} beyond its limits: {what}")]
    OverLimit {
        /// The frame's name.
        frame: &'static str,
        /// Which limit.
        what: &'static str,
    },
    /// A manifest that is not signed by the peer, or not signed at all.
    #[error("the peer offered a manifest that is not accepted")]
    Manifest(#[source] ManifestFault),
    /// A manifest that neither end of the connection signed.
    #[error("the peer offered a manifest that a third key signed")]
    ForeignManifest,
    /// An offer that does not have the digest that the item was opened with.
    #[error("the peer offered another manifest than it named for item {0}")]
    OtherManifest(u32),
    /// More open items than are allowed.
    #[error("the peer has more than {max} items open", max = crate::OPEN_ITEMS_MAX)]
    TooManyItems,
    /// Item numbers with more holes than can be remembered.
    #[error("the peer numbers its items with too many holes")]
    ScatteredItems,
    /// An item opened twice, or one manifest as two items.
    #[error("the peer opened item {0} a second time, or its manifest under another number")]
    OpenedTwice(u32),
    /// An item that was never opened.
    #[error("the peer sent {frame} for item {item}, which was never opened")]
    UnknownItem {
        /// The frame's name.
        frame: &'static str,
        /// The item.
        item: u32,
    },
    /// A frame that does not fit the state of its item.
    #[error("the peer sent {frame} for item {item} out of turn")]
    OutOfTurn {
        /// The frame's name.
        frame: &'static str,
        /// The item.
        item: u32,
    },
    /// A chunk number or offset outside of the manifest.
    #[error("the peer sent {frame} for item {item} outside of chunk {chunk}")]
    OutsideChunk {
        /// The frame's name.
        frame: &'static str,
        /// The item.
        item: u32,
        /// The chunk.
        chunk: u32,
    },
    /// Data that leaves bytes out.
    #[error("the peer left out bytes of item {item}, chunk {chunk}, before {offset}")]
    Gap {
        /// The item.
        item: u32,
        /// The chunk.
        chunk: u32,
        /// Where the data begins.
        offset: u32,
    },
    /// Progress that goes back, or beyond what was sent.
    #[error("the peer claims to hold {upto} bytes of item {item}, chunk {chunk}, which cannot be")]
    FalseProgress {
        /// The item.
        item: u32,
        /// The chunk.
        chunk: u32,
        /// What it claims.
        upto: u32,
    },
    /// Too many chunks whose bytes do not have their digest.
    #[error("the peer sent more than 8 chunks whose bytes do not have their digest")]
    TooMuchDamage,
    /// Records of a journal that is not exchanged with this peer.
    #[error("the peer sent records of a journal that is not exchanged with it")]
    ForeignJournal(JournalId),
    /// Records that do not continue the journal as it is held here.
    #[error("the peer's records do not continue journal {} / {}", journal.author.short(), journal.stream.short())]
    Records {
        /// The journal.
        journal: JournalId,
        /// How they do not.
        #[source]
        fault: ChainFault,
    },
    /// A contradiction that contradicts nothing that was said here.
    #[error("the peer contradicts journal {} / {} without a reason", .0.author.short(), .0.stream.short())]
    FalseContradiction(JournalId),
    /// More unacknowledged records or fleet documents than are allowed.
    #[error("the peer does not wait for its {0} to be acknowledged")]
    Impatient(&'static str),
    /// Records acknowledged that were never written.
    #[error("the peer acknowledges records up to {seq}, which were never written")]
    FalseRecords {
        /// What it claims.
        seq: u64,
    },
    /// An answer to something that was not sent.
    #[error("the peer sent {0}, which answers nothing")]
    NotAsked(&'static str),
    /// Our answers are not read, and too many of them wait.
    #[error("the peer does not read what it is answered")]
    Deaf,
}
