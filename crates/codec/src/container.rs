//! The frame of a `.ctp` file around its units.
//!
//! In: the units' digests as they are written or read. Out: the bytes before the first unit and
//! after the last. Invariant: a trailer that matches proves that no unit is missing, doubled or
//! out of order. May not: do I/O.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use crate::format::{VERSION, digest_in};
use crate::reader::Reader;

/// How many bytes stand before the first unit.
pub const HEAD_BYTES: usize = 8;
/// How many bytes stand after the last unit.
pub const TRAILER_BYTES: usize = 40;

/// The bytes before the first unit.
pub const HEAD: [u8; HEAD_BYTES] = [b'C', b'T', b'P', b'K', VERSION, 0, 0, 0];
/// What a trailer begins with, where a unit would.
pub const TRAILER_MAGIC: [u8; 4] = *b"CTPE";

/// Follows the units of a `.ctp` file, as they are written or as they are read.
#[derive(Debug, Clone, Default)]
pub struct Seal(blake3::Hasher);

impl Seal {
    /// Notes the next unit, by the digest it carries.
    pub fn add_unit(&mut self, unit: &[u8]) {
        if let Some(digest) = digest_in(unit) {
            self.0.update(digest.as_bytes());
        }
    }

    /// The trailer that belongs after these units.
    pub fn trailer(&self) -> [u8; TRAILER_BYTES] {
        let mut trailer = [0; TRAILER_BYTES];
        let [c, t, p, e] = TRAILER_MAGIC;
        let fields = [c, t, p, e, VERSION, 0, 0, 0]
            .into_iter()
            .chain(*self.0.finalize().as_bytes());
        trailer
            .iter_mut()
            .zip(fields)
            .for_each(|(byte, field)| *byte = field);
        trailer
    }
}

/// Whether a `.ctp` file of a version that this program knows begins like this.
pub fn is_head(head: &[u8]) -> bool {
    Reader::new(head).array() == Some(HEAD)
}
