//! Sync: carries manifests, chunks, records and the fleet document between two nodes.
//!
//! In: frames from the peer, answers from the disk, commands from the rooms, the time. Out:
//! frames, orders to the disk, events.
//! Invariant: nothing is said to be held before the disk said so; no byte that the peer durably
//! holds is sent again.
//! May not: do I/O, read a clock, wait, keep a chunk's bytes once its manifest is stored.
//!
//! # Protocol 1
//! The two ends of a connection are alike: each may offer, each may take. Whatever is said waits
//! for no answer, except where a byte might cross for the second time.
//!
//! ## Lanes
//! A *lane* keeps its frames in order; lanes don't wait for each other. There is one **control
//! lane** both ways, before everything else, and one **item lane** one way per item, from the side
//! that offers it. On QUIC the control lane is the one bidirectional stream and an item lane is a
//! unidirectional stream whose priority is that of the item's class, changed when the class is, so
//! that bytes already handed over move up too. On a stream each frame is preceded by its length in
//! bytes (u32, big-endian). Offer, Resume, Data, Class and Withdraw travel on their item's lane,
//! all other frames on the control lane. Nothing may be concluded from the order of frames of
//! different lanes: item lanes may be heard before the control lane's greeting.
//!
//! ## Encoding
//! A frame is a CBOR array in deterministic encoding (RFC 8949 4.2: definite lengths, shortest
//! integers), its first element the frame's number. It has at most 327,680 bytes. Nothing may
//! follow the last element; any other encoding of the same frame is a fault. All integers are
//! unsigned; *digest* and *node* are byte strings of 32 bytes; *journal* is `[author node, stream
//! node]`; *class* is 1 STAT, 2 urgent, 3 routine, 4 bulk, 5 software, class 0 being the control lane;
//! *text* has at most 200 bytes of UTF-8.
//!
//! | no. | frame | elements after the number |
//! |---|---|---|
//! | 0 | Hello | protocol (1), software text, fleet version, wall ms, clock (0 unknown, 1 kept, 2 synchronised), `[[journal, seq, digest], ..]` at most 256, each journal once; `[journal, 0]` for none of it |
//! | 1 | Bye | code (0 done, 1 peer fault, 2 trouble), text |
//! | 2 | Fleet | version, document bytes (1 to 262,144) |
//! | 3 | FleetHeld | version |
//! | 4 | Records | journal, number of the first, `[record bytes, ..]` at least one, in order |
//! | 5 | RecordsHeld | journal, number of the last |
//! | 6 | Offer | item, class, signed manifest bytes (at most 262,144) |
//! | 7 | Resume | item, class, digest of the signed manifest |
//! | 8 | Data | item, chunk, offset, bytes (512 to 32,768; fewer only at the chunk's end, never none) |
//! | 9 | Class | item, class |
//! | 10 | Withdraw | item |
//! | 11 | Want | item |
//! | 12 | Have | item, `[first chunk, count, ..]` held whole, `[[chunk, upto], ..]` held in part |
//! | 13 | Complete | item |
//! | 14 | Held | `[[item, chunk, upto], ..]` at least one |
//! | 15 | Damaged | item, chunk |
//! | 16 | Refused | item, code (1 no room, 2 not wanted, 3 not supported, 4 trouble), text |
//! | 17 | Withdrawn | item |
//! | 18 | Contradiction | journal, record bytes |
//!
//! ## Greeting and goodbye
//! Hello is the first frame of each side on the control lane and comes once; any other frame there
//! before it is a fault. It is not waited for: items and their data go at once. It lists each
//! journal that its sender exchanges with this peer, with its checkpoint: the number of the last
//! record held durably and the digest (BLAKE3) of its signed bytes. Bye is a side's last frame; what comes after it on any lane is ignored.
//!
//! ## Records
//! A side sends a journal's records only if the peer's Hello lists that journal, from the number
//! after the one the peer holds, without gaps, and never to the journal's author. The receiver
//! checks that each continues the journal as it holds it (`journal::verify_next`), stores them and
//! then answers RecordsHeld. A side leaves at most 4 Records frames unacknowledged; a fifth that
//! finds 4 not yet stored is a fault. Records that arrived meanwhile by another road are skipped.
//!
//! ## Checkpoints
//! A record commits to all records before it, so that two copies of a journal agree up to a number
//! when their records of that number do. Each side compares the peer's checkpoint with its own
//! record of that number, if it has one:
//!
//! - Its record is another one: the journal is **forked**. The side answers **Contradiction** with
//!   its record, unless both checkpoints have the same number, so that the peer sees it as well.
//!   The receiver checks the author's signature, and that the number is that of its own checkpoint
//!   and the record is not; anything else is a fault, so that nobody is accused without evidence.
//! - The author of the journal has less of it than the other side: it was **set back**. Both sides
//!   see this by the numbers.
//!
//! Either way a disk was set back or cloned, or a key is used twice: both sides tell their rooms,
//! and neither sends or takes records of that journal in this session. All else goes on. No records
//! of a journal are sent before its comparison is done.
//!
//! ## Fleet document
//! A side whose version is greater than the peer's sends the document, one at a time. The receiver
//! verifies and stores it, then answers FleetHeld with the version that it holds from then on. An
//! answer below what was sent says that the document was not accepted; it is not sent again in
//! this session, and everything else goes on.
//!
//! ## Items
//! An *item* is one manifest on its way in one session. The offering side numbers its items from 0
//! upwards in the order in which it opens them. It has at most 128 open; the receiver counts, too.
//! One manifest is never two open items.
//!
//! - **Offer** opens an item of which nothing ever left before. All its data may follow at once.
//! - **Resume** opens an item that may be known over there. If the peer is known to have stored
//!   the manifest, chunks of which no byte ever left may follow at once; all others wait.
//!
//! The receiver verifies the manifest's signature, which must be that of one end of the connection:
//! the peer's, or its own, when the peer gives back what the receiver has lost. It stores the
//! manifest and answers with exactly one of
//!
//! - **Have**: the manifest is durable, and these chunks are whole, those in part (`0 < upto <`
//!   size, ascending, none of them among the whole). The sender goes on from there, to the byte.
//! - **Want**, to Resume only: the manifest isn't known. Whatever came for the item so far was
//!   dropped. The sender sends Offer with the same number on the same lane, and after it all data
//!   from the beginning.
//! - **Complete**: everything was held before. The item is closed.
//! - **Refused**: not taken (this may come at any later time, too). The item is closed.
//!
//! Data carries a chunk's bytes in ascending order without gaps, from what the receiver holds of
//! it; chunks may alternate. Bytes that the receiver holds already are dropped there and counted.
//! After a chunk's last byte the receiver compares its BLAKE3 with the manifest. If that is wrong
//! it forgets the chunk and answers **Damaged**; the chunk starts again at 0. More than 8 of these
//! in a session are a fault.
//!
//! **Held** says that a chunk's bytes up to here are durable, and up to its end that its digest is
//! right. It never goes back except by Damaged, and never exceeds what was sent. A receiver may
//! gather progress inside a chunk (this one: 200 ms); a whole chunk is announced at once. When all
//! chunks are held, by Have or Held, the item is closed. That is no receipt: a receipt is a record.
//!
//! **Class** tells the item's new class. **Withdraw** takes it back: the receiver answers
//! **Withdrawn** unless it has closed the item before, and until one or the other is heard the item
//! counts as open. What the receiver holds of it stays valid. Data, Class and Withdraw for a closed
//! item, and answers that crossed a closing, are ignored; for a number that was never opened they
//! are faults.
//!
//! ## What goes first
//! The sender decides anew for each Data frame, by [`Rank`]: the lowest class number first, in it the
//! least turn, in it the least wave, in it the manifest that was offered first, in it the first
//! chunk. A class leaves at most 4 frames with the transport that it has not taken; when the most
//! urgent class has no room, no lesser one goes. Of the 128 places on the wire, 8 are kept free of
//! all but STAT, 8 more of routine and below, 8 more of bulk and below, 8 more of software. Named
//! items (Resume) are opened ahead, others only when their data is due.
//!
//! Manifests with one turn are the revisions of one study, and go side by side: wave 0 is what a
//! reader waits for ([`Rank::first`]), wave 1 the first eighth of each group of codec units, which is
//! an overview of it, wave 2 up to a quarter, wave 3 up to half, wave 4 the rest. A group of at most 4
//! chunks is in wave 1. Of groups that are one file every 8th, 4th and 2nd of a manifest come first.
//!
//! Below STAT no class starves: when 15 times the bytes of the chunk that goes next in a class went
//! with more urgent classes before it, that chunk goes with the class that passes it, before all of
//! it; the item has that class until the peer holds the chunk. Neither STAT nor time counts.
//!
//! ## Limits against a careless or hostile peer
//! Beside those above: 4096 holes in the item numbers; item lanes aren't read while 1 MiB or 4096
//! pieces wait for the disk; a peer that leaves more than 4096 answers unread is left. Every
//! breach has a name ([`PeerFault`]), is told in the Bye, and ends the session and nothing else.
//!
//! # The edge
//! The edge owns the bytes. It carries out each [`Output`] in order per lane and per chunk, and
//! answers each disk order once, after the sync. [`Session::unfinished`] of one session gives the
//! [`Begun`] of the next one's offers; after a restart of the program that is [`Begun::Perhaps`]
//! for whatever was made before it.

#![forbid(unsafe_code)]

mod class;
mod fault;
mod frame;
mod io;
mod runs;
mod session;

#[cfg(feature = "testing")]
pub mod testing;

pub use class::{Class, Rank};
pub use fault::PeerFault;
pub use frame::{
    ByeCode, DATA_BYTES_MAX, DATA_BYTES_MIN, FLEET_BYTES_MAX, FRAME_BYTES_MAX, Frame, FrameError,
    HEADS_MAX, JournalHeld, MANIFEST_BYTES_MAX, PROTOCOL, Partial, Progress, RECORDS_BYTES_MAX,
    RefusalCode, TEXT_BYTES_MAX,
};
pub use io::{
    Begun, Command, CommandError, Config, Counters, Event, Holding, Lane, Loaded, Millis, Offer,
    Output, Stored, Unfinished,
};
pub use runs::Runs;
pub use session::{OPEN_ITEMS_MAX, QUEUE_MAX, Session, UNSTORED_BYTES_MAX};
