//! One outgoing manifest: what of it left, what the peer holds, what may go next.

use journal::SignedManifest;
use study::{ChunkRef, Priority};

use super::outbox::Outbox;
use crate::fault::PeerFault;
use crate::frame::{Frame, Partial};
use crate::io::Begun;
use crate::runs::Runs;

/// The sending order: class first, then the order of the offers.
pub(super) type Place = (Priority, u64);

/// Where an outgoing manifest stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Not on the wire yet.
    Queued { begun: Begun },
    /// Named on the wire; chunks in `gated` wait for the peer's answer.
    Named {
        item: u32,
        begun: Begun,
        gated: Runs,
    },
    /// Its manifest is on the wire, the peer has not answered.
    Offered { item: u32 },
    /// The peer has said what it holds.
    Answered { item: u32 },
    /// Taken back; the peer has not confirmed.
    Withdrawn { item: u32 },
}

/// One outgoing manifest.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) manifest: SignedManifest,
    pub(super) chunks: Vec<ChunkRef>,
    pub(super) place: Place,
    pub(super) stage: Stage,
    /// Per chunk: bytes from 0 that left or that the peer holds.
    pub(super) sent: Vec<u32>,
    /// Per chunk: bytes from 0 that the peer said it holds.
    pub(super) held: Vec<u32>,
    pub(super) held_bytes: u64,
    pub(super) total_bytes: u64,
    /// No chunk before this one has anything to send.
    pub(super) cursor: usize,
    /// Frames on its lane that the transport has not taken.
    pub(super) frames: usize,
}

impl Outgoing {
    pub(super) fn new(manifest: SignedManifest, place: Place, begun: Begun) -> Self {
        let chunks: Vec<ChunkRef> = manifest.manifest().chunks().cloned().collect();
        Self {
            total_bytes: manifest.manifest().bytes_to_cross(),
            sent: vec![0; chunks.len()],
            held: vec![0; chunks.len()],
            held_bytes: 0,
            cursor: 0,
            frames: 0,
            stage: Stage::Queued { begun },
            manifest,
            chunks,
            place,
        }
    }

    pub(super) const fn item(&self) -> Option<u32> {
        match &self.stage {
            Stage::Queued { .. } => None,
            Stage::Named { item, .. }
            | Stage::Offered { item }
            | Stage::Answered { item }
            | Stage::Withdrawn { item } => Some(*item),
        }
    }

    pub(super) fn put_offer(&mut self, item: u32, out: &mut Outbox) {
        self.frames += 1;
        let manifest = self.manifest.bytes().to_vec().into();
        out.on_lane(
            item,
            Frame::Offer {
                item,
                class: self.place.0,
                manifest,
            },
        );
    }

    /// The first chunk with bytes that may go.
    pub(super) fn next_chunk(&mut self) -> Option<usize> {
        let gated = match &self.stage {
            Stage::Queued { .. } | Stage::Withdrawn { .. } => return None,
            Stage::Named { gated, .. } => Some(gated),
            Stage::Offered { .. } | Stage::Answered { .. } => None,
        };
        let closed = |at: usize| {
            gated.is_some_and(|gated| u32::try_from(at).is_ok_and(|number| gated.contains(number)))
        };
        while let Some(chunk) = self.chunks.get(self.cursor) {
            if self.sent[self.cursor] < chunk.bytes && !closed(self.cursor) {
                return Some(self.cursor);
            }
            self.cursor += 1;
        }
        None
    }

    /// Takes in what the peer holds; all chunks may go from there on.
    pub(super) fn learn(
        &mut self,
        item: u32,
        whole: &Runs,
        partial: &[Partial],
    ) -> Result<(), PeerFault> {
        self.cursor = 0;
        if usize::try_from(whole.end()).is_ok_and(|end| end > self.chunks.len()) {
            return Err(PeerFault::OutsideChunk {
                frame: "have",
                item,
                chunk: whole.end(),
            });
        }
        for chunk in whole.iter() {
            let at = self.index("have", item, chunk)?;
            self.note_held(at, self.chunks[at].bytes);
        }
        let mut least = 0;
        for &Partial { chunk, upto } in partial {
            let at = self.index("have", item, chunk)?;
            if chunk < least || upto == 0 || upto >= self.chunks[at].bytes || whole.contains(chunk)
            {
                return Err(PeerFault::OutsideChunk {
                    frame: "have",
                    item,
                    chunk,
                });
            }
            least = chunk + 1;
            self.note_held(at, upto);
        }
        Ok(())
    }

    pub(super) fn raise(&mut self, item: u32, chunk: u32, upto: u32) -> Result<(), PeerFault> {
        let at = self.index("held", item, chunk)?;
        if upto < self.held[at] || upto > self.sent[at] {
            return Err(PeerFault::FalseProgress { item, chunk, upto });
        }
        self.note_held(at, upto);
        Ok(())
    }

    pub(super) fn note_held(&mut self, at: usize, upto: u32) {
        // A withdrawn item may be answered twice; what was held stays held.
        let upto = upto.max(self.held[at]);
        self.held_bytes += u64::from(upto - self.held[at]);
        self.held[at] = upto;
        self.sent[at] = self.sent[at].max(upto);
    }

    pub(super) fn index(
        &self,
        frame: &'static str,
        item: u32,
        chunk: u32,
    ) -> Result<usize, PeerFault> {
        let at = usize::try_from(chunk)
            .ok()
            .filter(|at| *at < self.chunks.len());
        at.ok_or(PeerFault::OutsideChunk { frame, item, chunk })
    }

    /// What the next session must assume.
    pub(super) fn begun(&self) -> Begun {
        let sent = || {
            (0..)
                .zip(&self.sent)
                .filter(|(_, sent)| **sent > 0)
                .map(|(number, _)| number)
        };
        match &self.stage {
            Stage::Queued { begun }
            | Stage::Named {
                begun: begun @ Begun::Perhaps,
                ..
            } => begun.clone(),
            Stage::Named {
                begun: Begun::Known { sent: before },
                ..
            } => Begun::Known {
                sent: before.iter().chain(sent()).collect(),
            },
            Stage::Answered { .. } => Begun::Known {
                sent: sent().collect(),
            },
            Stage::Named {
                begun: Begun::Never,
                ..
            }
            | Stage::Offered { .. }
            | Stage::Withdrawn { .. } => Begun::Perhaps,
        }
    }
}
