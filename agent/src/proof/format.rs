//! The proof file's bytes (docs/protocol.md 9): one deterministic CBOR array, sealed by the box.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeSet;

use identity::cose::{self, CoseError};
use identity::{NodeId, NodeKey};
use journal::{ClockQuality, Moment};
use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode, Encoder};
use study::{Digest, InstanceDigest, SopInstanceUid};
use thiserror::Error;

/// The largest proof file.
pub const PROOF_BYTES_MAX: usize = 64 << 20;

const MAGIC: &str = "chasqui-proof";
const VERSION: u8 = 1;
const ELEMENTS: u64 = 9;
/// The domain that the box seals a proof file under.
const SEAL_DOMAIN: &str = "chasqui/proof/1";

/// Says why bytes are not a proof file; what the documents inside are worth is another question.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// Longer than [`PROOF_BYTES_MAX`].
    #[error("the file has {0} bytes, a proof has at most {PROOF_BYTES_MAX}")]
    TooLong(usize),
    /// It does not begin as a proof does.
    #[error("this is not a proof file, or its first bytes are damaged")]
    NotAProof,
    /// A version that this program does not know.
    #[error("the proof file has version {0}, this program knows version 1")]
    UnknownVersion(u8),
    /// It begins as a proof and does not go on as one.
    #[error("the proof file is damaged at byte {at}, in or just before {part}")]
    Damaged {
        /// What was being read.
        part: &'static str,
        /// Where reading failed, or where the bytes differ from the one encoding.
        at: usize,
    },
}

/// The documents of a proof, each as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Papers {
    /// The fleet document.
    pub fleet: Vec<u8>,
    /// The hub's grant to the box.
    pub grant: Vec<u8>,
    /// The box's signed manifests, from revision 1 on.
    pub manifests: Vec<Vec<u8>>,
    /// The pairs that the newest manifest's root speaks of.
    pub images: BTreeSet<(SopInstanceUid, InstanceDigest)>,
    /// The hub's records that carry receipts, by number.
    pub receipts: Vec<Vec<u8>>,
    /// The reports, by number.
    pub reports: Vec<ReportPaper>,
}

/// A report as a proof carries it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReportPaper {
    /// The hub's record that names it.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub record: Vec<u8>,
    /// The report as its radiologist signed it.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub signed: Vec<u8>,
}

/// A proof file: its papers and the box's seal over them, which is still to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    papers: Papers,
    seal: Vec<u8>,
    sealed: Digest,
    bytes: Vec<u8>,
}

/// What the box says by its seal: these papers and no others, at this time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Seal {
    #[n(0)]
    version: u8,
    /// When it was sealed, milliseconds of the Unix epoch, by the box's clock.
    #[n(1)]
    pub(super) wall_ms: u64,
    /// What that clock was worth.
    #[n(2)]
    pub(super) clock: ClockQuality,
    /// BLAKE3 of all bytes of the file before the seal.
    #[n(3)]
    pub(super) sealed: Digest,
}

impl Papers {
    /// Makes the file.
    pub fn seal(self, key: &NodeKey, now: Moment) -> Proof {
        let mut bytes = self.to_cbor();
        let sealed = Digest::of(&bytes);
        let seal = Seal {
            version: VERSION,
            wall_ms: now.wall_ms,
            clock: now.clock,
            sealed,
        };
        let seal = cose::sign1(key, SEAL_DOMAIN, &encode(&seal));
        write(&mut bytes, |e| e.bytes(&seal)?.ok());
        Proof {
            papers: self,
            seal,
            sealed,
            bytes,
        }
    }

    /// All of the file but the seal.
    fn to_cbor(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, |e| {
            e.array(ELEMENTS)?.str(MAGIC)?.u8(VERSION)?;
            e.bytes(&self.fleet)?.bytes(&self.grant)?;
            write_list(e, &self.manifests)?;
            e.array(self.images.len() as u64)?;
            for pair in &self.images {
                e.encode(pair)?;
            }
            write_list(e, &self.receipts)?;
            e.array(self.reports.len() as u64)?;
            for report in &self.reports {
                e.encode(report)?;
            }
            Ok(())
        });
        bytes
    }
}

impl Proof {
    /// Reads a proof file. Any bytes may come: what is kept is never more than they are.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(ProofError::TooLong(bytes.len()));
        }
        let mut reader = Reader::begin(bytes)?;
        let papers = Papers {
            fleet: reader.part("the fleet document", byte_string)?,
            grant: reader.part("the box's grant", byte_string)?,
            manifests: reader.part("the manifests", |d| list(d, byte_string))?,
            images: reader.part("the list of images", images)?,
            receipts: reader.part("the hub's receipts", |d| list(d, byte_string))?,
            reports: reader.part("the reports", |d| list(d, Decoder::decode))?,
        };
        let sealed_to = reader.decoder.position();
        let seal = reader.part("the box's seal", byte_string)?;
        reader.end()?;
        // One file, one encoding: whatever else reads the same was not written by a box.
        let mut again = papers.to_cbor();
        let sealed = Digest::of(bytes.get(..sealed_to).unwrap_or_default());
        write(&mut again, |e| e.bytes(&seal)?.ok());
        if let Some(at) = (0..bytes.len()).find(|&at| bytes.get(at) != again.get(at)) {
            return Err(reader.damaged(at));
        }
        Ok(Self {
            papers,
            seal,
            sealed,
            bytes: again,
        })
    }

    /// The documents.
    pub fn papers(&self) -> &Papers {
        &self.papers
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file, for good.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Opens the seal: who sealed, and what they say.
    pub(super) fn open_seal(&self) -> Result<(NodeId, Seal), CoseError> {
        let verified = cose::verify1(&self.seal, SEAL_DOMAIN)?;
        let malformed = CoseError::Malformed("not the seal of a proof");
        let seal: Seal = minicbor::decode(&verified.payload).map_err(|_| malformed.clone())?;
        if seal.version != VERSION || encode(&seal) != verified.payload {
            return Err(malformed);
        }
        Ok((verified.signer, seal))
    }

    /// BLAKE3 of what the seal must speak of.
    pub(super) fn sealed(&self) -> Digest {
        self.sealed
    }
}

/// Reads part after part and knows where each began, to say where a file is damaged.
struct Reader<'b> {
    decoder: Decoder<'b>,
    parts: Vec<(usize, &'static str)>,
}

impl<'b> Reader<'b> {
    fn begin(bytes: &'b [u8]) -> Result<Self, ProofError> {
        let mut decoder = Decoder::new(bytes);
        let is_proof =
            matches!(decoder.array(), Ok(Some(ELEMENTS))) && matches!(decoder.str(), Ok(MAGIC));
        if !is_proof {
            return Err(ProofError::NotAProof);
        }
        let mut reader = Self {
            decoder,
            parts: vec![(0, "its head")],
        };
        match reader.part("its version", |d| d.u8())? {
            VERSION => Ok(reader),
            version => Err(ProofError::UnknownVersion(version)),
        }
    }

    fn part<T>(
        &mut self,
        part: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<T, ProofError> {
        self.parts.push((self.decoder.position(), part));
        read(&mut self.decoder).map_err(|error| ProofError::Damaged {
            part,
            at: error.position().unwrap_or(self.decoder.position()),
        })
    }

    fn end(&self) -> Result<(), ProofError> {
        let at = self.decoder.position();
        if at == self.decoder.input().len() {
            Ok(())
        } else {
            let part = "the end of the file";
            Err(ProofError::Damaged { part, at })
        }
    }

    fn damaged(&self, at: usize) -> ProofError {
        let part = self.parts.iter().rev().find(|(from, _)| *from <= at);
        let part = part.map_or("its head", |(_, part)| part);
        ProofError::Damaged { part, at }
    }
}

fn byte_string(d: &mut Decoder<'_>) -> Result<Vec<u8>, minicbor::decode::Error> {
    d.bytes().map(<[u8]>::to_vec)
}

/// Reads a list item by item, so that its length is believed only as far as there are bytes.
fn list<'b, T, L: FromIterator<T>>(
    d: &mut Decoder<'b>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
) -> Result<L, minicbor::decode::Error> {
    let at = d.position();
    let count = d
        .array()?
        .ok_or_else(|| minicbor::decode::Error::type_mismatch(Type::ArrayIndef).at(at))?;
    // Collecting results reserves nothing ahead.
    (0..count).map(|_| item(d)).collect()
}

fn images(
    d: &mut Decoder<'_>,
) -> Result<BTreeSet<(SopInstanceUid, InstanceDigest)>, minicbor::decode::Error> {
    // The order and that no pair comes twice show when the file is encoded again.
    list(d, |d| d.decode())
}

fn write_list<W: minicbor::encode::Write>(
    e: &mut Encoder<W>,
    list: &[Vec<u8>],
) -> Result<(), minicbor::encode::Error<W::Error>> {
    e.array(list.len() as u64)?;
    for bytes in list {
        e.bytes(bytes)?;
    }
    Ok(())
}

fn write(
    bytes: &mut Vec<u8>,
    build: impl FnOnce(
        &mut Encoder<&mut Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
) {
    build(&mut Encoder::new(bytes)).expect("writing to a Vec does not fail");
}

fn encode(seal: &Seal) -> Vec<u8> {
    minicbor::to_vec(seal).expect("writing to a Vec does not fail")
}
