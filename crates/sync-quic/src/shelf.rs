//! The node's disk and rooms, as a session needs them.
//!
//! In: what to read, load and store. Out: bytes, and answers that are given after the sync only.
//! Invariant: an `Ok` of a `store_..` method means durable; the session announces it to the peer.
//! May not: know of connections.

use std::future::Future;

use journal::{JournalId, Signed, SignedManifest};
use study::Digest;
use sync_proto::{Class, CommandError, Event, Holding, RefusalCode};
use thiserror::Error;

/// Says that the disk or the program behind a [`Shelf`] cannot go on; the session ends.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ShelfError(pub String);

/// Bytes of a chunk to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// BLAKE3 of the signed manifest.
    pub manifest: Digest,
    /// The chunk's number in the manifest.
    pub chunk: u32,
    /// The chunk's name.
    pub digest: Digest,
    /// The first byte.
    pub offset: u32,
    /// How many.
    pub len: u32,
}

/// Bytes of a chunk that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// BLAKE3 of the signed manifest.
    pub manifest: Digest,
    /// The chunk's number in the manifest.
    pub chunk: u32,
    /// The chunk's name.
    pub digest: Digest,
    /// Where in the chunk the bytes begin.
    pub offset: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// These are the chunk's last bytes: now its BLAKE3 must be `digest`.
    pub last: bool,
}

impl Arrival {
    /// Where in the chunk the bytes end.
    pub fn upto(&self) -> u32 {
        self.offset + u32::try_from(self.bytes.len()).expect("a frame has at most 320 KiB")
    }
}

/// What became of an [`Arrival`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The chunk's bytes up to the end of this arrival are durable; if it was the last one, the
    /// whole chunk has its digest.
    Durable,
    /// The chunk is whole and does not have its digest; nothing of it is held any more.
    Damaged,
    /// The disk does not take it.
    Refused(RefusalCode, String),
}

/// What became of a manifest that was offered with all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is durable, and so is this much of its chunks.
    Held(Holding),
    /// It was completed before.
    Complete,
    /// It is not taken; the words are sent to the peer.
    Refused(RefusalCode, String),
}

/// What is known of a manifest that was only named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is held, and so is this much of its chunks.
    Held(Box<SignedManifest>, Holding),
    /// It was completed before.
    Complete,
    /// It is not known here.
    Unknown,
    /// It is not taken; the words are sent to the peer.
    Refused(RefusalCode, String),
}

/// The node's disk and rooms. All methods of one connection's session are called from few tasks:
/// `store_..` and `find_manifest` strictly one after the other, in the order of their arrival.
pub trait Shelf: Send + Sync + 'static {
    /// Reads bytes to send. An error takes the manifest out of the session, no more.
    fn read(&self, piece: Piece) -> impl Future<Output = Result<Vec<u8>, ShelfError>> + Send;

    /// Loads signed records from `from_seq` on, in order, as many as fit in `bytes_max` (the first
    /// one in any case).
    fn load_records(
        &self,
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, ShelfError>> + Send;

    /// Loads the fleet document that is held, and its version.
    fn load_fleet(&self) -> impl Future<Output = Result<(u64, Vec<u8>), ShelfError>> + Send;

    /// Stores a manifest whose signature is checked and is the peer's, or this node's own: then the
    /// peer gives back what this node has lost.
    fn store_manifest(
        &self,
        manifest: SignedManifest,
        class: Class,
    ) -> impl Future<Output = Result<Taken, ShelfError>> + Send;

    /// Looks for a manifest that may be held.
    fn find_manifest(
        &self,
        manifest: Digest,
        class: Class,
    ) -> impl Future<Output = Result<Found, ShelfError>> + Send;

    /// Stores whatever has come in since the last call, best in one sync; the answers are in the
    /// order of the arrivals, one each. Arrivals of one chunk come in order, without gaps.
    fn store_data(
        &self,
        arrivals: Vec<Arrival>,
    ) -> impl Future<Output = Result<Vec<Kept>, ShelfError>> + Send;

    /// Stores records whose chain and signatures are checked; at least one.
    fn store_records(
        &self,
        journal: JournalId,
        records: Vec<Signed>,
    ) -> impl Future<Output = Result<(), ShelfError>> + Send;

    /// Verifies a fleet document and stores it if it is newer. Returns the version that is held
    /// then; none if the document does not verify.
    fn store_fleet(
        &self,
        document: Vec<u8>,
    ) -> impl Future<Output = Result<Option<u64>, ShelfError>> + Send;

    /// Tells the rooms; must not block.
    fn event(&self, event: Event);

    /// Tells that a command was not taken; must not block.
    fn not_taken(&self, error: CommandError);
}
