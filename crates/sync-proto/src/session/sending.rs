//! Outgoing manifests: what this node's rooms and the peer say of them.

use std::collections::BTreeMap;

use journal::NodeId;
use study::Digest;

use super::QUEUE_MAX;
use super::outbox::Outbox;
use super::outgoing::{Outgoing, Place, Stage};
use crate::class::{Class, Rank};
use crate::fault::PeerFault;
use crate::frame::{
    DATA_BYTES_MAX, DATA_BYTES_MIN, Frame, MANIFEST_BYTES_MAX, Partial, Progress, RefusalCode,
};
use crate::io::{Begun, CommandError, Event, Offer, Output, Unfinished};
use crate::runs::Runs;

/// Sends this node's manifests.
#[derive(Debug)]
pub(super) struct Sender {
    me: NodeId,
    peer: NodeId,
    pub(super) data_bytes: u32,
    pub(super) all: BTreeMap<Digest, Outgoing>,
    /// Queued manifests of which something may have left.
    pub(super) begun: BTreeMap<Place, Digest>,
    /// Queued manifests of which nothing has left.
    pub(super) fresh: BTreeMap<Place, Digest>,
    pub(super) open: BTreeMap<u32, Digest>,
    pub(super) next_item: u32,
    next_order: u64,
    pub(super) sent_bytes: u64,
    /// Per class: bytes that went before what waits in it.
    pub(super) passed: BTreeMap<Class, u64>,
    /// Per class: the manifest of it that went last with a more urgent one.
    pub(super) overdue: BTreeMap<Class, Digest>,
}

impl Sender {
    pub(super) fn new(me: NodeId, peer: NodeId, data_bytes: u32) -> Self {
        Self {
            me,
            peer,
            data_bytes: data_bytes.clamp(DATA_BYTES_MIN, DATA_BYTES_MAX),
            all: BTreeMap::new(),
            begun: BTreeMap::new(),
            fresh: BTreeMap::new(),
            open: BTreeMap::new(),
            next_item: 0,
            next_order: 0,
            sent_bytes: 0,
            passed: BTreeMap::new(),
            overdue: BTreeMap::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) const fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub(super) fn offer(&mut self, offer: Offer) -> Result<(), CommandError> {
        let Offer {
            manifest,
            rank,
            begun,
        } = offer;
        if ![self.me, self.peer].contains(&manifest.signer()) {
            return Err(CommandError::NotOurs);
        }
        if manifest.bytes().len() > MANIFEST_BYTES_MAX {
            return Err(CommandError::TooLong);
        }
        let digest = manifest.digest();
        if self.all.contains_key(&digest) {
            return Err(CommandError::OfferedAlready);
        }
        if self.all.len() >= QUEUE_MAX {
            return Err(CommandError::QueueFull);
        }
        let queue = match &begun {
            Begun::Never => &mut self.fresh,
            Begun::Perhaps | Begun::Known { .. } => &mut self.begun,
        };
        let outgoing = Outgoing::new(manifest, rank, self.next_order, begun);
        self.next_order += 1;
        queue.insert(outgoing.place_in_queue(), digest);
        self.all.insert(digest, outgoing);
        Ok(())
    }

    pub(super) fn change_rank(
        &mut self,
        manifest: Digest,
        rank: Rank,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
        self.reorder(manifest, out, |outgoing| outgoing.set_rank(rank))
            .ok_or(CommandError::NotOffered)
    }

    /// Changes what decides a manifest's place, wherever it stands; none when it is not offered.
    pub(super) fn reorder(
        &mut self,
        manifest: Digest,
        out: &mut Outbox,
        change: impl FnOnce(&mut Outgoing),
    ) -> Option<()> {
        let outgoing = self.all.get_mut(&manifest)?;
        let (place, class) = (outgoing.place_in_queue(), outgoing.class());
        change(outgoing);
        match outgoing.stage {
            Stage::Queued { .. } => {
                for queue in [&mut self.begun, &mut self.fresh] {
                    if queue.remove(&place).is_some() {
                        queue.insert(outgoing.place_in_queue(), manifest);
                    }
                }
            }
            Stage::Named { item, .. } | Stage::Offered { item } | Stage::Answered { item } => {
                if outgoing.class() != class {
                    outgoing.put_class(item, out);
                }
            }
            Stage::Withdrawn { .. } => {}
        }
        Some(())
    }

    pub(super) fn withdraw(
        &mut self,
        manifest: Digest,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
        let outgoing = self
            .all
            .get_mut(&manifest)
            .ok_or(CommandError::NotOffered)?;
        match &outgoing.stage {
            Stage::Queued { .. } => {
                let place = outgoing.place_in_queue();
                self.begun.remove(&place);
                self.fresh.remove(&place);
                self.all.remove(&manifest);
                out.event(Event::TakenBack { manifest });
            }
            Stage::Named { item, .. } | Stage::Offered { item } | Stage::Answered { item } => {
                let item = *item;
                outgoing.frames += 1;
                out.on_lane(item, Frame::Withdraw { item });
                out.push(Output::CloseLane { item });
                outgoing.stage = Stage::Withdrawn { item };
            }
            Stage::Withdrawn { .. } => {}
        }
        Ok(())
    }

    pub(super) fn taken(&mut self, item: u32) {
        if let Some(outgoing) = self
            .open
            .get(&item)
            .and_then(|digest| self.all.get_mut(digest))
        {
            outgoing.frames = outgoing.frames.saturating_sub(1);
        }
    }

    pub(super) fn want(&mut self, item: u32, out: &mut Outbox) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("want", item)? else {
            return Ok(());
        };
        match outgoing.stage {
            Stage::Named { .. } => {
                // What left before the manifest was dropped over there: all of it goes again.
                outgoing.stage = Stage::Offered { item };
                outgoing.sent.fill(0);
                outgoing.cursor = 0;
                outgoing.put_offer(item, out);
                Ok(())
            }
            Stage::Withdrawn { .. } => Ok(()),
            Stage::Queued { .. } | Stage::Offered { .. } | Stage::Answered { .. } => {
                Err(PeerFault::OutOfTurn {
                    frame: "want",
                    item,
                })
            }
        }
    }

    pub(super) fn have(
        &mut self,
        item: u32,
        whole: &Runs,
        partial: &[Partial],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("have", item)? else {
            return Ok(());
        };
        match outgoing.stage {
            Stage::Named { .. } | Stage::Offered { .. } => {
                outgoing.stage = Stage::Answered { item };
            }
            Stage::Withdrawn { .. } => {}
            Stage::Queued { .. } | Stage::Answered { .. } => {
                return Err(PeerFault::OutOfTurn {
                    frame: "have",
                    item,
                });
            }
        }
        outgoing.learn(item, whole, partial)?;
        self.report_progress(item, out);
        Ok(())
    }

    pub(super) fn complete(&mut self, item: u32, out: &mut Outbox) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("complete", item)? else {
            return Ok(());
        };
        if matches!(outgoing.stage, Stage::Answered { .. }) {
            return Err(PeerFault::OutOfTurn {
                frame: "complete",
                item,
            });
        }
        let manifest = outgoing.manifest.digest();
        self.close(item, out);
        out.event(Event::Delivered { manifest });
        Ok(())
    }

    pub(super) fn held(
        &mut self,
        progress: &[Progress],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if progress.is_empty() {
            return Err(PeerFault::OverLimit {
                frame: "held",
                what: "nothing in it",
            });
        }
        let mut items: Vec<u32> = Vec::new();
        for &Progress { item, chunk, upto } in progress {
            let Some(outgoing) = self.opened("held", item)? else {
                continue;
            };
            if matches!(outgoing.stage, Stage::Named { .. } | Stage::Offered { .. }) {
                return Err(PeerFault::OutOfTurn {
                    frame: "held",
                    item,
                });
            }
            outgoing.raise(item, chunk, upto)?;
            if items.last() != Some(&item) {
                items.push(item);
            }
        }
        items
            .into_iter()
            .for_each(|item| self.report_progress(item, out));
        Ok(())
    }

    pub(super) fn damaged(
        &mut self,
        item: u32,
        chunk: u32,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("damaged", item)? else {
            return Ok(());
        };
        let at = outgoing.index("damaged", item, chunk)?;
        let bytes = outgoing.chunks[at].bytes;
        if outgoing.sent[at] != bytes || outgoing.held[at] == bytes {
            return Err(PeerFault::OutOfTurn {
                frame: "damaged",
                item,
            });
        }
        outgoing.held_bytes -= u64::from(outgoing.held[at]);
        outgoing.held[at] = 0;
        outgoing.sent[at] = 0;
        outgoing.cursor = outgoing.cursor.min(at);
        out.event(Event::ChunkDamaged {
            manifest: outgoing.manifest.digest(),
            chunk,
        });
        Ok(())
    }

    pub(super) fn refused(
        &mut self,
        item: u32,
        code: RefusalCode,
        text: String,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("refused", item)? else {
            return Ok(());
        };
        let manifest = outgoing.manifest.digest();
        self.close(item, out);
        out.event(Event::Refused {
            manifest,
            code,
            text,
        });
        Ok(())
    }

    pub(super) fn withdrawn(&mut self, item: u32, out: &mut Outbox) -> Result<(), PeerFault> {
        let Some(outgoing) = self.opened("withdrawn", item)? else {
            return Ok(());
        };
        if !matches!(outgoing.stage, Stage::Withdrawn { .. }) {
            return Err(PeerFault::OutOfTurn {
                frame: "withdrawn",
                item,
            });
        }
        let manifest = outgoing.manifest.digest();
        self.close(item, out);
        out.event(Event::TakenBack { manifest });
        Ok(())
    }

    pub(super) fn unfinished(&self) -> Vec<Unfinished> {
        let mut all: Vec<&Outgoing> = self.all.values().collect();
        all.sort_by_key(|outgoing| outgoing.place_in_queue());
        all.into_iter()
            .map(|outgoing| Unfinished {
                manifest: outgoing.manifest.digest(),
                begun: outgoing.begun(),
            })
            .collect()
    }

    /// The item, unless it is closed already: then the frame crossed our own closing.
    fn opened(
        &mut self,
        frame: &'static str,
        item: u32,
    ) -> Result<Option<&mut Outgoing>, PeerFault> {
        if item >= self.next_item {
            return Err(PeerFault::UnknownItem { frame, item });
        }
        Ok(self
            .open
            .get(&item)
            .and_then(|digest| self.all.get_mut(digest)))
    }

    fn report_progress(&mut self, item: u32, out: &mut Outbox) {
        let outgoing = self
            .open
            .get(&item)
            .and_then(|digest| self.all.get_mut(digest));
        let Some(outgoing) = outgoing else {
            return;
        };
        if outgoing.ends_turn() && !matches!(outgoing.stage, Stage::Withdrawn { .. }) {
            outgoing.put_class(item, out);
        }
        let manifest = outgoing.manifest.digest();
        let (held_bytes, total_bytes) = (outgoing.held_bytes, outgoing.total_bytes);
        out.event(Event::Progress {
            manifest,
            held_bytes,
            total_bytes,
        });
        if held_bytes == total_bytes {
            self.close(item, out);
            out.event(Event::Delivered { manifest });
        }
    }

    fn close(&mut self, item: u32, out: &mut Outbox) {
        let outgoing = self
            .open
            .remove(&item)
            .and_then(|digest| self.all.remove(&digest));
        if outgoing.is_some_and(|outgoing| !matches!(outgoing.stage, Stage::Withdrawn { .. })) {
            out.push(Output::CloseLane { item });
        }
    }
}
