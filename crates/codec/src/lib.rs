//! Codec: packs DICOM files without loss into units small enough to send, and back.
//!
//! In: whole files (any bytes; CT images are what it is good at). Out: units of at most
//! [`UNIT_BYTES_MAX`] bytes, each with its own digest; or the exact files again.
//! Invariant: what comes out is byte for byte what went in, or an error; bytes from outside never
//! panic here, and never make it allocate beyond the [`Limits`].
//! May not: do I/O, read a clock, start threads. (`ctpack`, the program in this package, does.)
//!
//! Files that are coded together are a *group*; no group needs another one. The bytes of units,
//! groups and `.ctp` files are described in [`format`](mod@format).
//!
//! ```
//! use codec::{Decoder, Limits, Source, Tier, encode_group};
//!
//! let units = encode_group(&[Source { name: "note", bytes: b"any bytes" }], Tier::Link).unwrap();
//! let mut decoder = Decoder::new(Limits::default());
//! for unit in &units {
//!     decoder.push(unit.as_bytes()).unwrap();
//! }
//! assert_eq!(decoder.files().unwrap()[0].name, "note");
//! assert_eq!(decoder.file(0).unwrap(), b"any bytes");
//! ```

#![forbid(unsafe_code)]

pub mod container;
pub mod format;

mod decode;
mod encode;
mod model;
mod native;
mod order;
mod planes;
mod reader;
mod split;
mod table;

pub use decode::{DecodeError, Decoder, Limits};
pub use encode::{EncodeError, Source, Unit, encode_group, encode_group_in};
pub use format::{
    GroupId, HEADER_BYTES, Kind, Method, Span, Tier, UNIT_BYTES_MAX, UnitHeader, unit_bytes,
};
pub use order::Order;
pub use table::FileEntry;
