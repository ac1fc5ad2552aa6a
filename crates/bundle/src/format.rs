//! What is inside the seal: a head, the frames of one side of a session, the sender's signature.

use std::io::{self, Read, Write};

use identity::cose::{self, CoseError};
use identity::{NodeId, NodeKey};
use minicbor::{Decode, Encode};
use study::Digest;
use sync_proto::{FRAME_BYTES_MAX, Frame};
use thiserror::Error;

/// The longest paper that travels in a head.
pub const PAPER_BYTES_MAX: usize = 64 << 10;

const MAGIC: &str = "chasqui-bundle";
const VERSION: u8 = 1;
/// What the signature at the end is made under.
const DOMAIN: &str = "chasqui/bundle/1";

/// Why a bundle is not taken. Nothing of it has any effect then.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Not an age file.
    #[error("it is no bundle")]
    NotABundle,
    /// Sealed to somebody else; what is altered in its first bytes looks the same.
    #[error("it is not for this node, or its first bytes are damaged")]
    NotForUs,
    /// A part is missing, or the end.
    #[error("it is torn: {0}")]
    Torn(String),
    /// Not as its sender wrote it.
    #[error("it was altered or is damaged: {0}")]
    Altered(String),
    /// Written by a later program.
    #[error("it has format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// Signed by another key than the sender's.
    #[error("its signature is not its sender's")]
    NotSigned(#[source] Option<CoseError>),
    /// Made for somebody else, and sealed to us all the same.
    #[error("its sender made it for node {}", .0.short())]
    OtherRecipient(NodeId),
    /// The medium does not give it.
    #[error("it cannot be read from the medium")]
    Medium(#[source] io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        // What age says of its stream, and what a read says of a device, come as one type.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Torn("it ends before its end".to_owned())
        } else if error.kind() == io::ErrorKind::InvalidData {
            Self::Altered("its seal is broken".to_owned())
        } else {
            Self::Medium(error)
        }
    }
}

/// Who wrote a bundle, for whom, and when.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    #[n(0)]
    magic: String,
    #[n(1)]
    version: u8,
    /// Who wrote and signed it.
    #[n(2)]
    pub sender: NodeId,
    /// Whom it is for.
    #[n(3)]
    pub recipient: NodeId,
    /// Counts the sender's bundles for this recipient; gaps mean nothing.
    #[n(4)]
    pub sequence: u64,
    /// By the sender's clock, milliseconds of the Unix epoch.
    #[n(5)]
    pub made_at_ms: u64,
    /// From a box that has no grant: its enrolment request; from a hub: the box's grant.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub paper: Option<Vec<u8>>,
}

impl Head {
    /// The head of a bundle of this program's format.
    pub fn new(
        (sender, recipient): (NodeId, NodeId),
        sequence: u64,
        made_at_ms: u64,
        paper: Option<Vec<u8>>,
    ) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            version: VERSION,
            sender,
            recipient,
            sequence,
            made_at_ms,
            paper,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let broken = || Refusal::Altered("its head cannot be read".to_owned());
        let head: Self = minicbor::decode(bytes).map_err(|_| broken())?;
        if head.magic != MAGIC {
            return Err(broken());
        }
        if head.version != VERSION {
            return Err(Refusal::UnknownVersion(head.version));
        }
        let paper_bytes = head.paper.as_ref().map_or(0, Vec::len);
        if encode(&head) != bytes || paper_bytes > PAPER_BYTES_MAX {
            return Err(broken());
        }
        Ok(head)
    }
}

/// What the sender signs: all bytes before.
#[derive(Encode, Decode)]
struct Sealed {
    #[n(0)]
    version: u8,
    #[n(1)]
    digest: Digest,
}

/// Writes a bundle's inside.
pub(crate) struct Writer<W> {
    output: W,
    before: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn begin(output: W, head: &Head) -> io::Result<Self> {
        let mut writer = Self {
            output,
            before: blake3::Hasher::new(),
            bytes: 0,
        };
        writer.put(&encode(head))?;
        Ok(writer)
    }

    pub(crate) fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.put(&frame.encode())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Signs what was written, after the last frame.
    pub(crate) fn finish(mut self, key: &NodeKey) -> io::Result<W> {
        let sealed = Sealed {
            version: VERSION,
            digest: Digest::from_bytes(*self.before.finalize().as_bytes()),
        };
        self.put(&cose::sign1(key, DOMAIN, &encode(&sealed)))?;
        Ok(self.output)
    }

    pub(crate) fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        let length = u32::try_from(piece.len()).expect("a piece has at most 320 KiB");
        for bytes in [&length.to_be_bytes(), piece] {
            self.before.update(bytes);
            self.output.write_all(bytes)?;
            self.bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Reads a bundle's inside, from its head to its end.
pub(crate) struct Reader<R> {
    input: R,
    before: blake3::Hasher,
    head: Head,
}

impl<R: Read> Reader<R> {
    /// Reads the head, which must name `me` as the recipient.
    pub(crate) fn begin(input: R, me: &NodeId) -> Result<Self, Refusal> {
        let head = Head::new((*me, *me), 0, 0, None);
        let before = blake3::Hasher::new();
        let mut reader = Self {
            input,
            before,
            head,
        };
        reader.head = Head::decode(&reader.hashed_piece()?)?;
        if reader.head.recipient != *me {
            return Err(Refusal::OtherRecipient(reader.head.recipient));
        }
        Ok(reader)
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Reads the next frame; after the one that says goodbye comes [`Reader::finish`].
    pub(crate) fn frame(&mut self) -> Result<Frame, Refusal> {
        let piece = self.hashed_piece()?;
        Frame::decode(&piece).map_err(|fault| Refusal::Altered(fault.to_string()))
    }

    /// Checks the signature and that nothing follows; gives the digest of all before it.
    pub(crate) fn finish(mut self) -> Result<Digest, Refusal> {
        let digest = Digest::from_bytes(*self.before.finalize().as_bytes());
        let signed = self.piece()?;
        let verified =
            cose::verify1(&signed, DOMAIN).map_err(|fault| Refusal::NotSigned(Some(fault)))?;
        if verified.signer != self.head.sender {
            return Err(Refusal::NotSigned(None));
        }
        let version = VERSION;
        if verified.payload != encode(&Sealed { version, digest }) {
            return Err(Refusal::Altered(
                "its signature is of other bytes".to_owned(),
            ));
        }
        match self.input.read(&mut [0])? {
            0 => Ok(digest),
            _ => Err(Refusal::Altered("something follows its end".to_owned())),
        }
    }

    fn hashed_piece(&mut self) -> Result<Vec<u8>, Refusal> {
        let piece = self.piece()?;
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.before.update(&length.to_be_bytes());
        self.before.update(&piece);
        Ok(piece)
    }

    /// Takes memory as the bytes come, not as they are announced.
    fn piece(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u64::from(u32::from_be_bytes(length));
        if length > FRAME_BYTES_MAX as u64 {
            return Err(Refusal::Altered("a piece is too long".to_owned()));
        }
        let mut piece = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut piece)?;
        if piece.len() as u64 == length {
            Ok(piece)
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        }
    }
}

fn encode(value: &impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a Vec does not fail")
}
