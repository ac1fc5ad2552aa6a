//! The chunks of one incoming manifest: what came in, and what the disk has.

use study::{ChunkRef, Digest};

use super::outbox::Outbox;
use crate::fault::PeerFault;
use crate::frame::{DATA_BYTES_MIN, Partial};
use crate::io::{Holding, Output};

/// A manifest's chunks on their way in.
#[derive(Debug)]
pub(super) struct Taking {
    chunks: Vec<ChunkRef>,
    /// Per chunk: bytes from 0 that came in or were held.
    received: Vec<u32>,
    /// Per chunk: bytes from 0 that the disk has.
    durable: Vec<u32>,
    /// Chunks that the disk does not have whole.
    missing: usize,
    /// Chunks of which bytes are with the disk.
    busy: usize,
}

/// Data less what was here already.
#[derive(Debug)]
pub(super) struct Fresh {
    chunk: u32,
    digest: Digest,
    offset: u32,
    bytes: Vec<u8>,
    last: bool,
}

/// What became durable.
#[derive(Debug)]
pub(super) struct Durable {
    /// How many bytes.
    pub(super) bytes: usize,
    /// The chunk is whole.
    pub(super) whole: bool,
}

impl Taking {
    pub(super) fn new(chunks: Vec<ChunkRef>, holding: &Holding) -> Self {
        let mut durable = vec![0; chunks.len()];
        for chunk in holding.whole.iter() {
            durable[at(chunk)] = chunks[at(chunk)].bytes;
        }
        for &Partial { chunk, upto } in &holding.partial {
            let part = durable[at(chunk)] == 0 && upto < chunks[at(chunk)].bytes;
            assert!(part, "a part that is no part is held");
            durable[at(chunk)] = upto;
        }
        let whole = |(chunk, held): &(&ChunkRef, &u32)| chunk.bytes == **held;
        let missing = chunks.len() - chunks.iter().zip(&durable).filter(whole).count();
        let received = durable.clone();
        Self {
            chunks,
            received,
            durable,
            missing,
            busy: 0,
        }
    }

    /// Whether the disk has every chunk whole.
    pub(super) const fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Chunks of which bytes are with the disk.
    pub(super) const fn busy(&self) -> usize {
        self.busy
    }

    /// Admits data: what is new of it.
    pub(super) fn take(
        &mut self,
        item: u32,
        chunk: u32,
        offset: u32,
        mut bytes: Vec<u8>,
    ) -> Result<Fresh, PeerFault> {
        let frame = "data";
        let outside = PeerFault::OutsideChunk { frame, item, chunk };
        let Some(named) = self.chunks.get(at(chunk)) else {
            return Err(outside);
        };
        let len = u32::try_from(bytes.len()).ok();
        let end = len.and_then(|len| offset.checked_add(len));
        let end = end.filter(|end| *end <= named.bytes).ok_or(outside)?;
        let last = end == named.bytes;
        if !last && end - offset < DATA_BYTES_MIN {
            let what = "too few bytes";
            return Err(PeerFault::OverLimit { frame, what });
        }
        let received = self.received[at(chunk)];
        if offset > received {
            return Err(PeerFault::Gap {
                item,
                chunk,
                offset,
            });
        }
        let known = (received - offset).min(end - offset);
        bytes.drain(..known as usize);
        if end > received && received == self.durable[at(chunk)] {
            self.busy += 1;
        }
        self.received[at(chunk)] = received.max(end);
        let (digest, offset) = (named.digest, offset + known);
        Ok(Fresh {
            chunk,
            digest,
            offset,
            bytes,
            last,
        })
    }

    /// The disk has the chunk up to here; none if that is not new.
    pub(super) fn store(&mut self, chunk: u32, upto: u32) -> Option<Durable> {
        let (received, durable) = (self.received[at(chunk)], self.durable[at(chunk)]);
        assert!(upto <= received, "the disk stored data that never came in");
        if upto <= durable {
            return None;
        }
        self.durable[at(chunk)] = upto;
        if upto == received {
            self.busy -= 1;
        }
        let whole = upto == self.chunks[at(chunk)].bytes;
        if whole {
            self.missing -= 1;
        }
        let bytes = (upto - durable) as usize;
        Some(Durable { bytes, whole })
    }

    /// The disk found the chunk damaged; says how many of its bytes were not durable.
    pub(super) fn start_again(&mut self, chunk: u32) -> usize {
        let (received, durable) = (self.received[at(chunk)], self.durable[at(chunk)]);
        assert!(
            durable < received,
            "a chunk was judged of which nothing was with the disk"
        );
        self.received[at(chunk)] = 0;
        self.durable[at(chunk)] = 0;
        self.busy -= 1;
        (received - durable) as usize
    }
}

impl Fresh {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Orders the disk to store it.
    pub(super) fn put(self, item: u32, manifest: Digest, out: &mut Outbox) {
        let Self {
            chunk,
            digest,
            offset,
            bytes,
            last,
        } = self;
        if !bytes.is_empty() {
            out.push(Output::StoreData {
                item,
                manifest,
                chunk,
                digest,
                offset,
                bytes,
                last,
            });
        }
    }
}

fn at(chunk: u32) -> usize {
    usize::try_from(chunk).expect("usize has at least 32 bits")
}
