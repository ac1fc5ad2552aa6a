//! What goes next: of all that is offered, the bytes whose turn it is.
//!
//! Classes are strict, but none below STAT starves: when so much went before what waits in a
//! class, one chunk of it goes with the class that passes it. What is counted is bytes and not
//! time, so that a link that was down makes nothing old.

use study::{ChunkRef, Digest};

use super::OPEN_ITEMS_MAX;
use super::outbox::Outbox;
use super::outgoing::{Outgoing, Place, Stage};
use super::sending::Sender;
use crate::class::Class;
use crate::frame::Frame;
use crate::io::{Begun, Output};

/// How many frames of one class may wait for the transport to take them.
const CLASS_FRAMES_MAX: usize = 4;
/// How many times the bytes of its next chunk a class lets go before it: its least share of what
/// is not STAT is one in so many, and one more.
const PASSED_MAX: u64 = 15;

impl Sender {
    /// Opens items and orders data, most urgent first, until the transport has enough.
    pub(super) fn send_next(&mut self, out: &mut Outbox) {
        loop {
            self.name_ahead(out);
            let ready = self.first_ready(|_| true);
            let fresh = self.fresh.first_key_value();
            let fresh = fresh.map(|(place, digest)| (*place, *digest));
            let fresh = fresh.filter(|(place, _)| self.may_open(place.class));
            let fresh = fresh.filter(|(place, _)| ready.is_none_or(|(best, _)| *place < best));
            // The most urgent work alone decides: a class without room is never overtaken.
            let Some((place, digest)) = fresh.or(ready) else {
                return;
            };
            if self.frames_of(place.class) >= CLASS_FRAMES_MAX {
                return;
            }
            let left = if fresh.is_some() {
                self.fresh.remove(&place);
                self.open(digest, out)
            } else {
                self.send_data(digest, out)
            };
            self.let_age(place.class, digest, left, out);
        }
    }

    /// Opens what is to be named: that costs 40 bytes and a round trip, so it is done ahead.
    fn name_ahead(&mut self, out: &mut Outbox) {
        while let Some((&place, &digest)) = self.begun.first_key_value() {
            if !self.may_open(place.class) {
                break;
            }
            self.begun.remove(&place);
            self.open(digest, out);
        }
    }

    /// Places on the wire are kept free for what is more urgent.
    fn may_open(&self, class: Class) -> bool {
        let kept = match class {
            Class::Stat => 0,
            Class::Urgent => 8,
            Class::Routine => 16,
            Class::Bulk => 24,
            Class::Software => 32,
        };
        self.open.len() + kept < OPEN_ITEMS_MAX
    }

    fn frames_of(&self, class: Class) -> usize {
        let open = self.open.values().filter_map(|digest| self.all.get(digest));
        open.filter(|outgoing| outgoing.class() == class)
            .map(|outgoing| outgoing.frames)
            .sum()
    }

    /// The first of some open items that has something to send.
    fn first_ready(&mut self, of: impl Fn(&Outgoing) -> bool) -> Option<(Place, Digest)> {
        let mut best: Option<(Place, Digest)> = None;
        for digest in self.open.values() {
            let Some(outgoing) = self.all.get_mut(digest).filter(|outgoing| of(outgoing)) else {
                continue;
            };
            if let Some(place) = outgoing.place_of_next()
                && best.is_none_or(|(least, _)| place < least)
            {
                best = Some((place, *digest));
            }
        }
        best
    }

    /// Counts bytes of a manifest that went with `class` against what waits in lesser ones.
    fn let_age(&mut self, class: Class, manifest: Digest, bytes: u64, out: &mut Outbox) {
        if class == Class::Stat {
            return;
        }
        if let Some(passed) = self.passed.get_mut(&class)
            && self
                .all
                .get(&manifest)
                .is_some_and(|o| o.rank.class == class)
        {
            *passed = passed.saturating_sub(bytes * PASSED_MAX);
        }
        for lesser in Class::ALL.into_iter().filter(|lesser| *lesser > class) {
            let Some((digest, cost)) = self.longest_waiting(lesser) else {
                self.passed.remove(&lesser);
                continue;
            };
            let passed = self.passed.entry(lesser).or_default();
            *passed += bytes;
            if *passed >= cost * PASSED_MAX {
                self.passed.remove(&lesser);
                self.overdue.insert(lesser, digest);
                self.reorder(digest, out, |outgoing| outgoing.go_with(class));
            }
        }
    }

    /// What goes next of a class, and how many bytes that is; none while it has its turn.
    fn longest_waiting(&mut self, class: Class) -> Option<(Digest, u64)> {
        let last = self
            .overdue
            .get(&class)
            .and_then(|digest| self.all.get(digest));
        if last.is_some_and(|last| last.overdue.is_some() && last.rank.class == class) {
            return None;
        }
        let queued = [&self.begun, &self.fresh].map(|queue| {
            let (place, digest) = queue.range(Place::least(class)..).next()?;
            (place.class == class).then_some((*place, *digest))
        });
        let in_line = |o: &Outgoing| o.rank.class == class && o.overdue.is_none();
        let open = self.first_ready(in_line);
        let all = queued.into_iter().chain([open]).flatten();
        let (_, digest) = all.min()?;
        let outgoing = self.all.get_mut(&digest)?;
        Some((digest, outgoing.bytes_of_next()))
    }

    /// Opens an item; gives how many bytes that takes.
    fn open(&mut self, digest: Digest, out: &mut Outbox) -> u64 {
        let Some(outgoing) = self.all.get_mut(&digest) else {
            return 0;
        };
        let Stage::Queued { begun } = &outgoing.stage else {
            return 0;
        };
        let begun = begun.clone();
        let item = self.next_item;
        self.next_item += 1;
        self.open.insert(item, digest);
        let class = outgoing.class();
        out.push(Output::OpenLane { item, class });
        let gated = match &begun {
            Begun::Never => {
                outgoing.stage = Stage::Offered { item };
                outgoing.put_offer(item, out);
                return outgoing.manifest.bytes().len() as u64;
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
        0
    }

    /// Orders the next bytes of an item; gives how many.
    fn send_data(&mut self, digest: Digest, out: &mut Outbox) -> u64 {
        let Some(outgoing) = self.all.get_mut(&digest) else {
            return 0;
        };
        let (Some(item), Some(at)) = (outgoing.item(), outgoing.next_chunk()) else {
            return 0;
        };
        let ChunkRef {
            digest: name,
            bytes,
        } = outgoing.chunks[at].clone();
        let offset = outgoing.sent[at];
        let len = (bytes - offset).min(self.data_bytes);
        outgoing.note_sent(at, len);
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
        u64::from(len)
    }
}
