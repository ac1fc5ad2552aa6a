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
    /// A group in file form that does not hold exactly one instance.
    #[error("a group that is one file says that it holds {0} instances")]
    NotOneFile(u32),
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

/// What the chunks of a group are once they are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum GroupForm {
    /// Units of the codec, in sending order.
    #[n(0)]
    Codec,
    /// Pieces of one PS3.10 file: joined in order they are the file, without the codec. A locked
    /// box sends so what was not packed before its data key left memory.
    #[n(1)]
    File,
}

/// The chunks of one group, which is read without any other group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Group {
    /// The chunks, in sending order; each is one piece, sealed with the revision's data key.
    #[n(0)]
    pub chunks: Vec<ChunkRef>,
    /// How many instances the group holds.
    #[n(1)]
    pub instances: u32,
    /// The bytes of those instances as files, before the codec.
    #[n(2)]
    pub bytes_original: u64,
    /// What the opened chunks are.
    #[n(3)]
    pub form: GroupForm,
}

impl Group {
    /// Whether its form allows as many instances as it says.
    const fn holds_what_fits(&self) -> bool {
        match self.form {
            GroupForm::Codec => true,
            GroupForm::File => self.instances == 1,
        }
    }
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
    /// The data key of all chunks of this revision, sealed to the hub (`sealing::KeyEnvelope`); none
    /// when it adds no chunk.
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
        if let Some(group) = manifest
            .groups
            .iter()
            .find(|group| !group.holds_what_fits())
        {
            return Err(ManifestError::NotOneFile(group.instances));
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
                form: GroupForm::Codec,
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

    #[test]
    fn a_group_that_is_one_file_goes_there_and_back_and_holds_one_instance() {
        let mut one = manifest();
        one.groups[0].form = GroupForm::File;
        assert_eq!(Manifest::from_cbor(&one.to_cbor()), Ok(one.clone()));
        for instances in [0, 2, u32::MAX] {
            one.groups[0].instances = instances;
            let refused = Manifest::from_cbor(&one.to_cbor());
            assert_eq!(refused, Err(ManifestError::NotOneFile(instances)));
        }
    }

    #[test]
    fn a_form_of_a_later_version_and_a_group_without_one_are_refused() {
        let bytes = manifest().to_cbor();
        // The manifest ends in its group: one chunk, one instance, 10 original bytes, the form.
        let (form, group) = (bytes.len() - 1, bytes.len() - 41);
        assert_eq!((bytes[form], bytes[group]), (0, 0x84), "{bytes:02x?}");
        let mut later = bytes.clone();
        later[form] = 2;
        let mut without = bytes[..form].to_vec();
        without[group] = 0x83;
        for bytes in [later, without] {
            let refused = Manifest::from_cbor(&bytes);
            assert!(
                matches!(refused, Err(ManifestError::Malformed(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn bytes_that_are_cut_or_changed_are_refused_or_read_within_the_limits() {
        let mut sealed = manifest();
        sealed.groups[0].form = GroupForm::File;
        sealed.envelope = Some(vec![7; 103]);
        let bytes = sealed.to_cbor();
        for at in 0..bytes.len() {
            let cut = Manifest::from_cbor(&bytes[..at]);
            // The envelope comes last and may be missing, but not half.
            assert!(cut.is_err(), "{at}: {cut:?}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                if let Ok(read) = Manifest::from_cbor(&changed) {
                    assert!(read.groups.iter().all(Group::holds_what_fits));
                }
            }
        }
    }
}
