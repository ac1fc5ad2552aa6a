//! Bundle: a contact on a stick: what one node has for another, recorded, sealed, split into files.
//!
//! In: a node's shelf and what it has to send; a mounted medium. Out: sealed bundles on the medium;
//! what a bundle holds, into the shelf that a contact fills.
//! Invariant: a bundle is claimed only after it was synced and read back from the medium; nothing of
//! a bundle is taken before all of it was found whole and signed by its sender; what is taken goes
//! through the machine and the shelf that a contact uses.
//! May not: decide what is sent, who is listened to, or what a record means.
//!
//! The format is in `docs/protocol.md` 10, why it is so in `docs/decisions/0031-bundles.md`.

#![forbid(unsafe_code)]

mod carry;
mod export;
mod format;
mod import;
mod memory;
mod progress;
mod seal;
mod stick;
mod words;

#[cfg(test)]
mod tests;

pub use carry::{Carrier, CarryError, Door, LeftOutLine, Line, WrittenLine};
pub use export::{ExportError, Item, LeftOut, Load, Sizes, Written, export};
pub use format::{Head, PAPER_BYTES_MAX, Refusal};
pub use import::{Letter, TakeError, Taken, examine, take};
pub use memory::Memory;
pub use progress::Progress;
pub use stick::{
    Bundle, Name, PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN, Stick, StickError, part_bytes,
};
pub use words::{
    at_work, export_text, export_warning, exported, import_text, imported, with_progress,
};
