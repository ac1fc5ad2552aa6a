//! Journal: what a node says, as signed records that nobody can drop, alter or reorder unseen.
//!
//! In: facts and the moment they are said; records from other nodes, as bytes. Out: signed
//! records, verified records, verified manifests.
//! Invariant: a [`Signed`] links to the record before it in its journal and is signed by the
//! journal's author; a [`SignedManifest`] carries a signature that holds, and says whose.
//! May not: do I/O, read a clock, decide what a fact means for a room.
//!
//! # Journals
//! A journal has one author and one stream ([`JournalId`]); in it records count from 1 without
//! gaps, each naming the BLAKE3 of the signed bytes of the one before. A box writes one journal,
//! its stream being its own id. The hub writes one per unit (the stream is the unit's id) and one
//! of its own, so that no box ever receives what concerns another clinic. Nodes exchange journals
//! by telling each other the highest sequence number they hold.
//!
//! # A record's bytes
//! `COSE_Sign1` (RFC 9052) under the domain `chasqui/record/1`, at most 262,144 bytes, whose
//! payload is the CBOR array `[version = 1, author, stream, seq, previous / null, count_ms,
//! wall_ms, clock, kind, body]`, with the
//! envelope as eleventh element where there is one. `count_ms` never decreases inside a journal;
//! `wall_ms` is raw and may be wrong, `clock` says how much it is worth. `body` is the CBOR of one
//! fact; kinds that a program does not know are kept and passed on unread.

#![forbid(unsafe_code)]

mod chain;
mod fact;
mod manifest;
mod record;

pub use chain::{
    AppendError, Chain, ChainFault, Head, Signed, read_record, read_signed, verify_next,
};
pub use fact::{
    CRITICAL_MAX, ChunksWanted, CommitmentAnswered, Consent, ConsentBasis, Damaged, Diverged,
    Divergence, Enrolled, Erased, Fact, FactError, FleetApplied, INSTANCES_FIRST_MAX,
    InstancesFirst, LegalHold, Offered, Opened, PrioritySet, PriorsWanted, Receipt, ReceiptRefused,
    Released, Report, ReportReceived, ReportStatus, TEXT_BYTES_MAX, TokenIssued, report_domain,
};
pub use identity::{NodeId, NodeKey};
pub use manifest::{ManifestFault, SignedManifest};
pub use record::{ClockQuality, JournalId, Moment, RECORD_BYTES_MAX, Record};
