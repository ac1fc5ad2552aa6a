//! The transfer list of one study revision: which chunks carry it, in sending order.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::digest::{Digest, StudyRoot};
use crate::priority::Priority;
use crate::uid::StudyUid;

/// How many groups one manifest may name.
pub const MANIFEST_GROUPS_MAX: usize = 4096;
/// How many chunks one manifest may name, over all its groups.
const MANIFEST_CHUNKS_MAX: usize = 65_536;
/// The largest chunk, in bytes, as stored and as it crosses.
const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Says why a manifest is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// The bytes are not a manifest of a version this program knows.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// A version that this program does not know.
    #[error("the manifest has version {0}, this program knows version 1")]
    UnknownVersion(u8),
    /// More groups or chunks than are allowed, or a chunk of a size that is not allowed.
    #[error("the manifest is over its limits: {0}")]
    OverLimit(&'static str),
}

/// One chunk: its digest (which is its name) and its size.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChunkRef {
    /// BLAKE3 of the chunk's bytes as stored.
    #[n(0)]
    pub digest: Digest,
    /// The chunk's size; 1 to 1,048,576.
    #[n(1)]
    pub bytes: u32,
}

/// The chunks of one codec group, which decodes without any other group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Group {
    /// The chunks, in sending order; each is one unit of the codec.
    #[n(0)]
    pub chunks: Vec<ChunkRef>,
    /// How many instances the group holds.
    #[n(1)]
    pub instances: u32,
    /// The bytes of those instances as files, before the codec.
    #[n(2)]
    pub bytes_original: u64,
}

/// What one revision of a study adds, and what the whole study is after it.
///
/// Signed by its unit under the domain `chasqui/manifest/1`. A revision names only the chunks it
/// adds; the root speaks of all instances of the study up to and with this revision.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// Format version, 1.
    #[n(0)]
    pub version: u8,
    /// The study.
    #[n(1)]
    pub study: StudyUid,
    /// Counts from 1, without gaps.
    #[n(2)]
    pub revision: u32,
    /// The root over all instances after this revision.
    #[n(3)]
    pub root: StudyRoot,
    /// How many instances that root speaks of.
    #[n(4)]
    pub instances: u32,
    /// BLAKE3 of the signed manifest of the revision before; none for revision 1.
    #[n(5)]
    pub previous: Option<Digest>,
    /// No more instances were expected when this revision was made.
    #[n(6)]
    pub closed: bool,
    /// The study's priority when this revision was made.
    #[n(7)]
    pub priority: Priority,
    /// When the first instance of the study was held, milliseconds of the Unix epoch.
    #[n(8)]
    pub received_at_ms: u64,
    /// What this revision adds.
    #[n(9)]
    pub groups: Vec<Group>,
    /// The data key's envelopes; none while chunks are stored plain.
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub envelope: Option<Vec<u8>>,
}

impl Manifest {
    /// The version that this program writes.
    pub const VERSION: u8 = 1;

    /// Encodes the manifest as deterministic CBOR (RFC 8949 4.2).
    pub fn to_cbor(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a Vec does not fail")
    }

    /// Decodes a manifest and checks its limits.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self =
            minicbor::decode(bytes).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        if manifest.version != Self::VERSION {
            return Err(ManifestError::UnknownVersion(manifest.version));
        }
        if manifest.groups.len() > MANIFEST_GROUPS_MAX {
            return Err(ManifestError::OverLimit("groups"));
        }
        if manifest.chunks().count() > MANIFEST_CHUNKS_MAX {
            return Err(ManifestError::OverLimit("chunks"));
        }
        if manifest
            .chunks()
            .any(|c| c.bytes == 0 || c.bytes > CHUNK_BYTES_MAX)
        {
            return Err(ManifestError::OverLimit("chunk size"));
        }
        Ok(manifest)
    }

    /// All chunks that this revision adds, in sending order; their places are their numbers.
    pub fn chunks(&self) -> impl Iterator<Item = &ChunkRef> {
        self.groups.iter().flat_map(|g| &g.chunks)
    }

    /// The bytes that this revision adds to what must cross.
    pub fn bytes_to_cross(&self) -> u64 {
        self.chunks().map(|c| u64::from(c.bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: 1,
            study: StudyUid::parse("1.2.3").unwrap(),
            revision: 1,
            root: StudyRoot::over(&BTreeSet::new()),
            instances: 0,
            previous: None,
            closed: true,
            priority: Priority::Stat,
            received_at_ms: 7,
            groups: vec![Group {
                chunks: vec![ChunkRef {
                    digest: Digest::of(b"x"),
                    bytes: 5,
                }],
                instances: 1,
                bytes_original: 10,
            }],
            envelope: None,
        }
    }

    #[test]
    fn cbor_goes_there_and_back() {
        assert_eq!(Manifest::from_cbor(&manifest().to_cbor()), Ok(manifest()));
    }

    #[test]
    fn a_later_version_and_an_absurd_chunk_are_refused() {
        let later = Manifest {
            version: 2,
            ..manifest()
        };
        assert_eq!(
            Manifest::from_cbor(&later.to_cbor()),
            Err(ManifestError::UnknownVersion(2))
        );
        let mut huge = manifest();
        huge.groups[0].chunks[0].bytes = u32::MAX;
        assert_eq!(
            Manifest::from_cbor(&huge.to_cbor()),
            Err(ManifestError::OverLimit("chunk size"))
        );
    }
}
