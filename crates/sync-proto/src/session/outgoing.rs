//! One outgoing manifest: what of it left, what the peer holds, what may go next.

use journal::SignedManifest;
use study::{ChunkRef, GroupForm, Manifest};

use super::outbox::Outbox;
use crate::class::{Class, Rank};
use crate::fault::PeerFault;
use crate::frame::{Frame, Partial};
use crate::io::{Begun, Output};
use crate::runs::Runs;

/// The sending order, by its fields from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) class: Class,
    /// False for what so much went before that it goes now.
    in_line: bool,
    turn: i64,
    /// What is asked for is wave 0.
    wave: u8,
    /// Counts offers.
    order: u64,
}

impl Place {
    /// Before all that is in line in a class.
    pub(super) const fn least(class: Class) -> Self {
        Self {
            class,
            in_line: true,
            turn: i64::MIN,
            wave: 0,
            order: 0,
        }
    }
}

/// A manifest of which one chunk goes with a more urgent class, because so much went before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overdue {
    /// The class that it goes with.
    class: Class,
    /// The chunk, once some of it has left.
    chunk: Option<usize>,
}

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
    pub(super) rank: Rank,
    pub(super) overdue: Option<Overdue>,
    /// Counts offers.
    order: u64,
    pub(super) stage: Stage,
    /// Per chunk: bytes from 0 that left or that the peer holds.
    pub(super) sent: Vec<u32>,
    /// Per chunk: bytes from 0 that the peer said it holds.
    pub(super) held: Vec<u32>,
    pub(super) held_bytes: u64,
    pub(super) total_bytes: u64,
    /// The chunks in the order in which they go, each with its wave.
    line: Vec<(u8, usize)>,
    /// No chunk before this place in the line has anything to send.
    pub(super) cursor: usize,
    /// Frames on its lane that the transport has not taken.
    pub(super) frames: usize,
}

impl Outgoing {
    pub(super) fn new(manifest: SignedManifest, rank: Rank, order: u64, begun: Begun) -> Self {
        let chunks: Vec<ChunkRef> = manifest.manifest().chunks().cloned().collect();
        Self {
            line: line(manifest.manifest(), &rank.first),
            rank,
            overdue: None,
            order,
            total_bytes: manifest.manifest().bytes_to_cross(),
            sent: vec![0; chunks.len()],
            held: vec![0; chunks.len()],
            held_bytes: 0,
            cursor: 0,
            frames: 0,
            stage: Stage::Queued { begun },
            manifest,
            chunks,
        }
    }

    /// The class that it goes with.
    pub(super) fn class(&self) -> Class {
        self.overdue
            .map_or(self.rank.class, |overdue| overdue.class)
    }

    /// Its place before anything of it goes.
    pub(super) fn place_in_queue(&self) -> Place {
        self.place(self.line.first().map_or(0, |(wave, _)| *wave))
    }

    /// The place of what goes next of it; none when nothing may.
    pub(super) fn place_of_next(&mut self) -> Option<Place> {
        self.next_chunk()?;
        let wave = self.line.get(self.cursor).map_or(0, |(wave, _)| *wave);
        Some(self.place(wave))
    }

    fn place(&self, wave: u8) -> Place {
        Place {
            class: self.class(),
            in_line: self.overdue.is_none(),
            turn: self.rank.turn,
            wave,
            order: self.order,
        }
    }

    pub(super) fn set_rank(&mut self, rank: Rank) {
        if rank.first != self.rank.first {
            self.line = line(self.manifest.manifest(), &rank.first);
            self.cursor = 0;
        }
        self.rank = rank;
        self.overdue = None;
    }

    /// Lets its next chunk go with a more urgent class.
    pub(super) fn go_with(&mut self, class: Class) {
        self.overdue = Some(Overdue { class, chunk: None });
    }

    /// Ends that when the peer has the chunk: what is on the wire keeps its class until then.
    pub(super) fn ends_turn(&mut self) -> bool {
        let over = self
            .overdue
            .and_then(|overdue| overdue.chunk)
            .is_some_and(|at| self.held[at] == self.chunks[at].bytes);
        if over {
            self.overdue = None;
        }
        over
    }

    /// How many bytes it takes until its next chunk has left.
    pub(super) fn bytes_of_next(&mut self) -> u64 {
        if let Some(at) = self.next_chunk() {
            return u64::from(self.chunks[at].bytes - self.sent[at]);
        }
        let first = self
            .line
            .first()
            .map_or(0, |(_, at)| self.chunks[*at].bytes);
        self.manifest.bytes().len() as u64 + u64::from(first)
    }

    /// Notes that bytes of a chunk leave.
    pub(super) fn note_sent(&mut self, at: usize, bytes: u32) {
        self.sent[at] += bytes;
        if let Some(overdue) = &mut self.overdue {
            overdue.chunk = Some(at);
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
                class: self.class(),
                manifest,
            },
        );
    }

    pub(super) fn put_class(&mut self, item: u32, out: &mut Outbox) {
        let class = self.class();
        out.push(Output::SetClass { item, class });
        self.frames += 1;
        out.on_lane(item, Frame::Class { item, class });
    }

    /// The chunk of which bytes go next.
    pub(super) fn next_chunk(&mut self) -> Option<usize> {
        let gated = match &self.stage {
            Stage::Queued { .. } | Stage::Withdrawn { .. } => return None,
            Stage::Named { gated, .. } => Some(gated),
            Stage::Offered { .. } | Stage::Answered { .. } => None,
        };
        let closed = |at: usize| {
            gated.is_some_and(|gated| u32::try_from(at).is_ok_and(|number| gated.contains(number)))
        };
        let may_go = |at: usize| self.sent[at] < self.chunks[at].bytes && !closed(at);
        if let Some(at) = self.overdue.and_then(|overdue| overdue.chunk) {
            return may_go(at).then_some(at);
        }
        while let Some((_, at)) = self.line.get(self.cursor) {
            if may_go(*at) {
                return Some(*at);
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

/// Half of what is left of a group in sending order, four times: an overview of it, every 4th
/// slice, every 2nd, the rest.
const LAST_WAVE: u8 = 4;
/// A group of no more chunks goes whole with the overviews: a localiser, a dose page.
const SMALL_GROUP: usize = 4;

/// The chunks of a manifest in the order in which they go, each with its wave.
///
/// The chunks of a codec group are in the order of their own spread (docs/storage.md 3), so an
/// eighth of each group is an eighth of the slices of each, all over the volume. A group that is
/// one file has nothing to spread; the files of a manifest have.
fn line(manifest: &Manifest, first: &Runs) -> Vec<(u8, usize)> {
    let mut line = Vec::new();
    for (place, group) in manifest.groups.iter().enumerate() {
        let count = group.chunks.len();
        for at in 0..count {
            let (part, whole) = match group.form {
                GroupForm::Codec if count <= SMALL_GROUP => (0, 1),
                GroupForm::Codec => (at, count),
                GroupForm::File => (spread(place % 8), 8),
            };
            line.push((wave(part, whole), line.len()));
        }
    }
    for (wave, at) in &mut line {
        if u32::try_from(*at).is_ok_and(|number| first.contains(number)) {
            *wave = 0;
        }
    }
    line.sort_unstable();
    line
}

/// The wave of one of `whole` chunks.
fn wave(part: usize, whole: usize) -> u8 {
    (1..LAST_WAVE)
        .find(|wave| part << (LAST_WAVE - wave) < whole)
        .unwrap_or(LAST_WAVE)
}

/// Which of eight neighbours goes how soon: the first, the middle one, the quarters, the rest.
const fn spread(neighbour: usize) -> usize {
    match neighbour {
        0 => 0,
        4 => 1,
        2 | 6 => 2,
        _ => 4,
    }
}
