//! What goes into a session and comes out of it, frames apart.

use journal::{ClockQuality, Divergence, Head, JournalId, NodeId, Signed, SignedManifest};
use study::Digest;
use thiserror::Error;

use crate::class::{Class, Rank};
use crate::frame::{ByeCode, Frame, Partial, RefusalCode};
use crate::runs::Runs;

/// Milliseconds on a clock that never goes back; only differences matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

/// What a session must know from its first moment.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// The node at the other end, as the connection's handshake proved it.
    pub peer: NodeId,
    /// Program and version, at most 64 bytes.
    pub software: String,
    /// The wall clock, milliseconds of the Unix epoch.
    pub wall_ms: u64,
    /// What that clock is worth.
    pub clock: ClockQuality,
    /// The version of the fleet document held durably; 0 for none.
    pub fleet_version: u64,
    /// The journals exchanged with this peer, each with its durable head; those of which nothing
    /// is held yet too ([`Head::EMPTY`]). At most [`crate::HEADS_MAX`].
    pub journals: Vec<(JournalId, Head)>,
    /// How much goes into one Data frame, from [`crate::DATA_BYTES_MIN`] to
    /// [`crate::DATA_BYTES_MAX`]; less on a thin link, where
    /// one frame is how long an urgent study waits.
    pub data_bytes: u32,
}

/// Where a frame travels: frames of one lane arrive in order, lanes do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The session's own lane, both ways, before all items.
    Control,
    /// The lane of one outgoing item, one way.
    Item(u32),
}

/// What is durably held of a manifest's chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holding {
    /// The chunks held whole, their digests checked.
    pub whole: Runs,
    /// The chunks held in part; ascending, none of them whole or empty.
    pub partial: Vec<Partial>,
}

/// What is known about an outgoing manifest's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Nothing of it ever left: its manifest and chunks go at once.
    Never,
    /// Something of it may have left (the program was started again, or a contact ended before
    /// the peer answered): it is only named, and nothing goes before the peer says what it holds.
    Perhaps,
    /// The peer held its manifest; these chunks may have left. It is named, and the other chunks
    /// go at once.
    Known {
        /// The chunks of which some byte may have left.
        sent: Runs,
    },
}

/// A manifest to send.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The manifest, signed by this node, or by the peer: then its own chunks are given back to it.
    pub manifest: SignedManifest,
    /// When it goes.
    pub rank: Rank,
    /// Its past.
    pub begun: Begun,
}

/// What this node's rooms want of the session.
#[derive(Debug, Clone)]
pub enum Command {
    /// Send a manifest and its chunks, when its rank has come.
    Offer(Box<Offer>),
    /// Change when an offered manifest goes; takes effect within one Data frame.
    Rank {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// Its new rank.
        rank: Rank,
    },
    /// Take an offered manifest back; it counts as offered until [`Event::TakenBack`].
    Withdraw {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
    },
    /// A journal of [`Config::journals`] has grown; the records are durable.
    Records {
        /// The journal.
        journal: JournalId,
        /// Its head.
        head: Head,
    },
    /// A newer fleet document is held durably.
    Fleet {
        /// Its version.
        version: u64,
    },
    /// End the session: a goodbye is sent, nothing else follows.
    Close {
        /// Why.
        code: ByeCode,
        /// The same in plain words, at most 200 bytes.
        text: String,
    },
}

/// Says why a command was not taken; the session is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The manifest is offered already.
    #[error("the manifest is offered already")]
    OfferedAlready,
    /// The manifest is not offered (any more).
    #[error("the manifest is not offered")]
    NotOffered,
    /// The signed manifest is longer than [`crate::MANIFEST_BYTES_MAX`].
    #[error("the manifest is too long for the link")]
    TooLong,
    /// A third node signed the manifest.
    #[error("the manifest was signed neither by this node nor by the peer")]
    NotOurs,
    /// [`crate::QUEUE_MAX`] manifests are waiting.
    #[error("too many manifests are waiting")]
    QueueFull,
    /// The journal is not exchanged with this peer, or its head goes back.
    #[error("the journal is not exchanged with this peer, or it shrank")]
    WrongJournal,
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
}

/// What the session wants done. Drain [`crate::Session::poll_output`] to `None` after every call.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a frame, then tell `handle_sent` when the transport has taken it.
    Send {
        /// Where.
        lane: Lane,
        /// What.
        frame: Frame,
    },
    /// Read these bytes of a chunk and send them as one [`Frame::Data`] on [`Lane::Item`], then
    /// tell `handle_sent`. When they cannot be read: [`Command::Withdraw`].
    SendData {
        /// The item, which is also its lane.
        item: u32,
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// The chunk's number in the manifest.
        chunk: u32,
        /// The chunk's name.
        digest: Digest,
        /// The first byte.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// A lane is used from here on; give it the class's priority on the wire.
    OpenLane {
        /// The item.
        item: u32,
        /// Its class.
        class: Class,
    },
    /// An open lane has another class: change its priority, for bytes already handed over too.
    SetClass {
        /// The item.
        item: u32,
        /// Its class.
        class: Class,
    },
    /// Nothing more is sent on this lane: finish it after what was sent. No `handle_sent` is due.
    CloseLane {
        /// The item.
        item: u32,
    },
    /// Store a manifest durably if it is new; its signature is checked and is the peer's, or our
    /// own: then the peer gives back what was ours.
    /// Answer: [`Stored::Manifest`], [`Stored::Complete`] or [`Stored::Refused`].
    StoreManifest {
        /// The peer's item.
        item: u32,
        /// The manifest.
        manifest: Box<SignedManifest>,
        /// Its class.
        class: Class,
    },
    /// Look for a peer's manifest that may be known. Answer: [`Stored::Found`],
    /// [`Stored::Complete`], [`Stored::Unknown`] or [`Stored::Refused`].
    FindManifest {
        /// The peer's item.
        item: u32,
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// Its class.
        class: Class,
    },
    /// Store bytes of a chunk durably, after all bytes of that chunk before them. Answer, once
    /// synced: [`Stored::Data`], for the last bytes only after the whole chunk's BLAKE3 was found
    /// equal to `digest`, else [`Stored::Damaged`]; [`Stored::Refused`] when the disk does not
    /// take them. Answers of one chunk come in order;
    /// one may stand for several outputs.
    StoreData {
        /// The peer's item.
        item: u32,
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// The chunk's number in the manifest.
        chunk: u32,
        /// The chunk's name.
        digest: Digest,
        /// Where in the chunk the bytes begin.
        offset: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// These are the chunk's last bytes.
        last: bool,
    },
    /// Load records, to send or to compare: from `from_seq` on, in order, as many as fit in `bytes_max` (the
    /// first one in any case). Answer: [`Loaded::Records`].
    LoadRecords {
        /// The journal.
        journal: JournalId,
        /// The first one.
        from_seq: u64,
        /// How many bytes in all.
        bytes_max: usize,
    },
    /// Store a peer's records durably; chain and signatures are checked. Answer:
    /// [`Stored::Records`].
    StoreRecords {
        /// The journal.
        journal: JournalId,
        /// The records, continuing what is held.
        records: Vec<Signed>,
    },
    /// Load the fleet document to send. Answer: [`Loaded::Fleet`].
    LoadFleet,
    /// Verify the peer's fleet document and, if it is newer, store it durably. Answer:
    /// [`Stored::Fleet`] or [`Stored::FleetRefused`].
    StoreFleet {
        /// The version that the peer says it has.
        version: u64,
        /// The signed document.
        document: Vec<u8>,
    },
    /// Tell the node's rooms.
    Event(Event),
}

/// What the edge loaded, in answer to an [`Output`].
#[derive(Debug, Clone)]
pub enum Loaded {
    /// Records in order, from the number asked for; none if they cannot be loaded, which stops
    /// that journal for this session.
    Records {
        /// The journal.
        journal: JournalId,
        /// The first one's number.
        from_seq: u64,
        /// The signed records.
        records: Vec<Vec<u8>>,
    },
    /// The fleet document.
    Fleet {
        /// Its version.
        version: u64,
        /// The signed document.
        document: Vec<u8>,
    },
}

/// What the edge's disk has done, in answer to an [`Output`]; each is said only after the sync.
#[derive(Debug, Clone)]
pub enum Stored {
    /// The manifest is held, and so is this much of its chunks.
    Manifest {
        /// The peer's item.
        item: u32,
        /// What is held.
        holding: Holding,
    },
    /// The manifest was found: it is held, and so is this much of its chunks.
    Found {
        /// The peer's item.
        item: u32,
        /// The manifest that was named.
        manifest: Box<SignedManifest>,
        /// What is held.
        holding: Holding,
    },
    /// The manifest was completed before: every chunk of it is, or was, held.
    Complete {
        /// The peer's item.
        item: u32,
    },
    /// The manifest that was named is not known.
    Unknown {
        /// The peer's item.
        item: u32,
    },
    /// The item is not taken.
    Refused {
        /// The peer's item.
        item: u32,
        /// Why.
        code: RefusalCode,
        /// The same in plain words, without patient data; cut at 200 bytes.
        text: String,
    },
    /// A chunk's bytes up to here are held; up to its end: its digest was checked too.
    Data {
        /// The peer's item.
        item: u32,
        /// The chunk.
        chunk: u32,
        /// Bytes from 0 to here.
        upto: u32,
    },
    /// A chunk came in whole and did not have its digest; nothing of it is held any more.
    Damaged {
        /// The peer's item.
        item: u32,
        /// The chunk.
        chunk: u32,
    },
    /// The journal is held up to here.
    Records {
        /// The journal.
        journal: JournalId,
        /// The last one's number.
        seq: u64,
    },
    /// The fleet document of this version, or a newer one, is held.
    Fleet {
        /// The version held.
        version: u64,
    },
    /// The peer's fleet document did not verify. The session goes on: what is captured must cross
    /// whatever is wrong with the fleet's papers.
    FleetRefused,
}

/// What the node's rooms should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer has greeted.
    Greeted {
        /// Program and version.
        software: String,
        /// Its wall clock.
        wall_ms: u64,
        /// What that clock is worth.
        clock: ClockQuality,
        /// The version of its fleet document.
        fleet_version: u64,
    },
    /// The peer holds more of an outgoing manifest.
    Progress {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// Bytes of its chunks that the peer holds durably.
        held_bytes: u64,
        /// Bytes of its chunks.
        total_bytes: u64,
    },
    /// The peer holds every chunk of an outgoing manifest durably; it has left the session. This
    /// is no receipt.
    Delivered {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
    },
    /// An outgoing manifest was withdrawn; it has left the session and may be offered again.
    TakenBack {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
    },
    /// The peer refused an outgoing manifest; it has left the session.
    Refused {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// Why.
        code: RefusalCode,
        /// The same in the peer's words.
        text: String,
    },
    /// The peer found that an outgoing chunk does not have its digest; it is sent again. More
    /// than once: look at our own disk.
    ChunkDamaged {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// The chunk.
        chunk: u32,
    },
    /// Every chunk of an incoming manifest is held here durably.
    Received {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
    },
    /// The peer changed the class of an incoming manifest.
    ClassChanged {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
        /// Its class.
        class: Class,
    },
    /// The peer took an incoming manifest back.
    Withdrawn {
        /// BLAKE3 of the signed manifest.
        manifest: Digest,
    },
    /// The peer holds a journal durably up to here.
    RecordsHeld {
        /// The journal.
        journal: JournalId,
        /// The last one's number.
        seq: u64,
    },
    /// The peer's copy of a journal is not the beginning or the continuation of ours: a disk was set
    /// back or cloned. The journal is not exchanged in this session. Of one that was first said to
    /// be set back this may come again, as forked.
    Diverged {
        /// The journal.
        journal: JournalId,
        /// The last record held here.
        ours: u64,
        /// The last record that the peer says it holds.
        theirs: u64,
        /// How they are apart.
        kind: Divergence,
    },
    /// The peer took the fleet document that was sent.
    FleetHeld {
        /// The version.
        version: u64,
    },
    /// The peer did not accept the fleet document; it is not sent again in this session.
    FleetNotTaken {
        /// The version that the peer stays with.
        version: u64,
    },
    /// The peer said goodbye; nothing follows.
    Bye {
        /// Why.
        code: ByeCode,
        /// The same in its words.
        text: String,
    },
}

/// An outgoing manifest that a session leaves unfinished; offer it to the next one as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// BLAKE3 of the signed manifest.
    pub manifest: Digest,
    /// What may have left.
    pub begun: Begun,
}

/// What a session has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Chunk bytes that were ordered to be sent.
    pub sent_bytes: u64,
    /// Chunk bytes that came in.
    pub received_bytes: u64,
    /// Of these, bytes that were here already when they came: the peer need not have sent them.
    pub repeated_bytes: u64,
}
