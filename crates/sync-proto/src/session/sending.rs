//! Outgoing manifests: what is opened, and which bytes of which chunk go next.

use std::collections::BTreeMap;

use journal::NodeId;
use study::{ChunkRef, Digest, Priority};

use super::outbox::Outbox;
use super::outgoing::{Outgoing, Place, Stage};
use super::{OPEN_ITEMS_MAX, QUEUE_MAX};
use crate::fault::PeerFault;
use crate::frame::{
    DATA_BYTES_MAX, DATA_BYTES_MIN, Frame, MANIFEST_BYTES_MAX, Partial, Progress, RefusalCode,
};
use crate::io::{Begun, CommandError, Event, Offer, Output, Unfinished};
use crate::runs::Runs;

/// How many frames of one class may wait for the transport to take them.
const CLASS_FRAMES_MAX: usize = 4;

/// Sends this node's manifests.
#[derive(Debug)]
pub(super) struct Sender {
    me: NodeId,
    peer: NodeId,
    data_bytes: u32,
    all: BTreeMap<Digest, Outgoing>,
    /// Queued manifests of which something may have left.
    begun: BTreeMap<Place, Digest>,
    /// Queued manifests of which nothing has left.
    fresh: BTreeMap<Place, Digest>,
    open: BTreeMap<u32, Digest>,
    next_item: u32,
    next_order: u64,
    sent_bytes: u64,
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
            class,
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
        let place = (class, self.next_order);
        self.next_order += 1;
        self.queue_of(&begun).insert(place, digest);
        self.all
            .insert(digest, Outgoing::new(manifest, place, begun));
        Ok(())
    }

    pub(super) fn change_class(
        &mut self,
        manifest: Digest,
        class: Priority,
        out: &mut Outbox,
    ) -> Result<(), CommandError> {
        let outgoing = self
            .all
            .get_mut(&manifest)
            .ok_or(CommandError::NotOffered)?;
        let old = outgoing.place;
        if old.0 == class {
            return Ok(());
        }
        outgoing.place.0 = class;
        let place = outgoing.place;
        match &outgoing.stage {
            Stage::Queued { .. } => {
                for queue in [&mut self.begun, &mut self.fresh] {
                    if queue.remove(&old).is_some() {
                        queue.insert(place, manifest);
                    }
                }
            }
            Stage::Named { item, .. } | Stage::Offered { item } | Stage::Answered { item } => {
                let item = *item;
                out.push(Output::SetClass { item, class });
                outgoing.frames += 1;
                out.on_lane(item, Frame::Class { item, class });
            }
            Stage::Withdrawn { .. } => {}
        }
        Ok(())
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
                self.begun.remove(&outgoing.place);
                self.fresh.remove(&outgoing.place);
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
        all.sort_by_key(|outgoing| outgoing.place);
        all.into_iter()
            .map(|outgoing| Unfinished {
                manifest: outgoing.manifest.digest(),
                class: outgoing.place.0,
                begun: outgoing.begun(),
            })
            .collect()
    }

    /// Opens items and orders data, most urgent first, until the transport has enough.
    pub(super) fn send_next(&mut self, out: &mut Outbox) {
        // Naming costs 40 bytes and a round trip, so it is done ahead.
        while let Some((&place, &digest)) = self.begun.first_key_value() {
            if !self.may_open(place.0) {
                break;
            }
            self.begun.remove(&place);
            self.open(digest, out);
        }
        loop {
            let ready = self.most_urgent_ready();
            let fresh = self
                .fresh
                .first_key_value()
                .map(|(place, digest)| (*place, *digest));
            let fresh = fresh.filter(|(place, _)| self.may_open(place.0));
            let fresh = fresh.filter(|(place, _)| ready.is_none_or(|(best, _)| *place < best));
            // The most urgent work alone decides: a class without room is never overtaken.
            let Some((place, digest)) = fresh.or(ready) else {
                return;
            };
            if self.frames_of(place.0) >= CLASS_FRAMES_MAX {
                return;
            }
            if fresh.is_some() {
                self.fresh.remove(&place);
                self.open(digest, out);
            } else {
                self.send_data(digest, out);
            }
        }
    }

    fn queue_of(&mut self, begun: &Begun) -> &mut BTreeMap<Place, Digest> {
        match begun {
            Begun::Never => &mut self.fresh,
            Begun::Perhaps | Begun::Known { .. } => &mut self.begun,
        }
    }

    /// Places on the wire are kept free for what is more urgent.
    fn may_open(&self, class: Priority) -> bool {
        let kept = match class {
            Priority::Stat => 0,
            Priority::Urgent => 8,
            Priority::Routine => 16,
            Priority::Bulk => 24,
        };
        self.open.len() + kept < OPEN_ITEMS_MAX
    }

    fn frames_of(&self, class: Priority) -> usize {
        let open = self.open.values().filter_map(|digest| self.all.get(digest));
        open.filter(|outgoing| outgoing.place.0 == class)
            .map(|outgoing| outgoing.frames)
            .sum()
    }

    fn most_urgent_ready(&mut self) -> Option<(Place, Digest)> {
        let mut best: Option<(Place, Digest)> = None;
        for digest in self.open.values() {
            let Some(outgoing) = self.all.get_mut(digest) else {
                continue;
            };
            if best.is_none_or(|(place, _)| outgoing.place < place)
                && outgoing.next_chunk().is_some()
            {
                best = Some((outgoing.place, *digest));
            }
        }
        best
    }

    fn open(&mut self, digest: Digest, out: &mut Outbox) {
        let Some(outgoing) = self.all.get_mut(&digest) else {
            return;
        };
        let Stage::Queued { begun } = &outgoing.stage else {
            return;
        };
        let begun = begun.clone();
        let item = self.next_item;
        self.next_item += 1;
        self.open.insert(item, digest);
        let class = outgoing.place.0;
        out.push(Output::OpenLane { item, class });
        let gated = match &begun {
            Begun::Never => {
                outgoing.stage = Stage::Offered { item };
                outgoing.put_offer(item, out);
                return;
            }
            Begun::Perhaps => (0..)
                .zip(&outgoing.chunks)
                .map(|(number, _)| number)
                .collect(),
            Begun::Known { sent } => sent.clone(),
        };
        outgoing.stage = Stage::Named { item, begun, gated };
        outgoing.frames += 1;
        out.on_lane(
            item,
            Frame::Resume {
                item,
                class,
                manifest: digest,
            },
        );
    }

    fn send_data(&mut self, digest: Digest, out: &mut Outbox) {
        let Some(outgoing) = self.all.get_mut(&digest) else {
            return;
        };
        let (Some(item), Some(at)) = (outgoing.item(), outgoing.next_chunk()) else {
            return;
        };
        let ChunkRef {
            digest: name,
            bytes,
        } = outgoing.chunks[at].clone();
        let offset = outgoing.sent[at];
        let len = (bytes - offset).min(self.data_bytes);
        outgoing.sent[at] = offset + len;
        outgoing.frames += 1;
        self.sent_bytes += u64::from(len);
        let chunk = u32::try_from(at).expect("a manifest has less than 2^32 chunks");
        out.push(Output::SendData {
            item,
            manifest: digest,
            chunk,
            digest: name,
            offset,
            len,
        });
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
        let Some(outgoing) = self.open.get(&item).and_then(|digest| self.all.get(digest)) else {
            return;
        };
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
