//! Two sessions under virtual time: model disks, a link that delays and cuts, and a watch that
//! compares every claim with the disk at the moment it is made.
//!
//! ```
//! use sync_proto::Class;
//! use sync_proto::testing::{Conditions, End, Pair};
//!
//! let mut pair = Pair::new(7, Conditions { delay_ms: 300, jitter_ms: 5, bytes_per_s: 125_000 });
//! pair.connect();
//! pair.offer(End::Box, &[4000, 20_000], Class::Routine);
//! pair.run_for(5_000)?;
//! assert!(pair.is_level());
//! # Ok::<(), sync_proto::testing::Violation>(())
//! ```

mod campaign;
mod claims;
mod dice;
mod disk;
mod node;
mod receipts;
mod road;

use std::collections::BTreeMap;

use journal::{JournalId, NodeKey};
use study::Digest;
use thiserror::Error;

use crate::class::{Class, Rank};
use crate::io::{Command, Counters, Millis};
use node::Node;
use road::Road;

pub use campaign::{campaign, flaps};
pub use dice::Dice;
pub use road::Conditions;

/// Which end of a pair; they differ in nothing but their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Number 0.
    Box,
    /// Number 1.
    Hub,
}

/// A fault that is built into an end's edge, to show that the watch sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Progress inside a chunk is reported before the disk has synced it.
    HeldBeforeSync,
    /// After a reconnect, what is held of a manifest is not told.
    ForgottenHave,
    /// A restarted program has forgotten what may have left, and offers it as never sent.
    ForgottenBegun,
    /// A receipt is given when the last bytes come in, before the disk has synced them.
    ReceiptBeforeSync,
    /// Records are acknowledged before the disk has synced them.
    RecordsBeforeSync,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// Two honest ends accused each other.
    #[error("one end found a fault in the other: {0}")]
    Fault(String),
    /// A frame claimed what the disk did not hold.
    #[error("a {0} frame claimed what is not durable")]
    FalseClaim(&'static str),
    /// Bytes crossed that the receiver held durably.
    #[error("chunk {chunk} of {manifest} was sent again from {offset}")]
    SentAgain {
        /// The manifest.
        manifest: Digest,
        /// The chunk.
        chunk: u32,
        /// Where the data began.
        offset: u32,
    },
    /// Bytes crossed twice in one session.
    #[error("bytes crossed twice in one session")]
    Repeated,
    /// A manifest was called delivered and is not whole at the peer.
    #[error("{0} was called delivered and is not whole at the peer")]
    NotDelivered(Digest),
    /// More of a manifest was called held than the peer holds.
    #[error("more of {0} was called held than the peer holds")]
    FalseProgress(Digest),
    /// A quiet link did not bring the two ends level.
    #[error("the ends are not level after {0} ms of a quiet link")]
    NotLevel(u64),
    /// A session goes on doing something without time passing.
    #[error("the ends never come to rest")]
    Restless,
}

/// What has crossed in a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Frames by name.
    pub frames: BTreeMap<&'static str, u64>,
    /// Bytes of chunks that arrived; none of them was held durably before.
    pub data_bytes: u64,
    /// Every frame that was heard, and when, in one number: the same for the same run.
    pub trace: u64,
}

impl Tally {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.add_frames(&other.frames);
        self.data_bytes += other.data_bytes;
        self.trace = self.trace.rotate_left(1) ^ other.trace;
    }

    fn add_frames(&mut self, frames: &BTreeMap<&'static str, u64>) {
        for (name, count) in frames {
            *self.frames.entry(name).or_default() += count;
        }
    }
}

/// Two ends and the link between them.
pub struct Pair {
    nodes: [Node; 2],
    conditions: Conditions,
    now: Millis,
    dice: Dice,
    connected: bool,
}

impl Pair {
    /// Makes two ends that are not connected; the seed decides every chance.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        let keys = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let ids = [keys[0].id(), keys[1].id()];
        let [a, b] = keys;
        let nodes = [
            Node::new(a, ids[1], Road::new(conditions)),
            Node::new(b, ids[0], Road::new(conditions)),
        ];
        Self {
            nodes,
            conditions,
            now: Millis(0),
            dice: Dice::new(seed),
            connected: false,
        }
    }

    /// Builds a fault into both ends.
    #[must_use]
    pub fn with_lie(mut self, lie: Option<Lie>) -> Self {
        self.nodes.iter_mut().for_each(|node| node.lie = lie);
        self
    }

    /// Lets rare honest mishaps happen, or not: damaged reads, full disks.
    pub fn set_mishaps(&mut self, mishaps: bool) {
        self.nodes
            .iter_mut()
            .for_each(|node| node.mishaps = mishaps);
    }

    /// Ends the connection if there is one and makes another; everything undelivered is offered.
    pub fn connect(&mut self) {
        self.cut();
        for node in &mut self.nodes {
            node.connect(self.now, Road::new(self.conditions));
        }
        self.connected = true;
    }

    /// Whether there is a connection.
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Cuts the link: what was under way is lost.
    pub fn cut(&mut self) {
        self.nodes.iter_mut().for_each(Node::cut);
        self.connected = false;
    }

    /// Cuts the power of one end; the other only loses the link.
    pub fn reboot(&mut self, end: End) {
        self.nodes[end as usize].reboot(&mut self.dice);
        self.cut();
    }

    /// Makes a manifest with chunks of these sizes and offers it.
    pub fn offer(&mut self, end: End, chunk_bytes: &[usize], class: Class) -> Digest {
        let chunks = chunk_bytes
            .iter()
            .map(|bytes| self.dice.bytes(*bytes))
            .collect();
        let node = &mut self.nodes[end as usize];
        let digest = node.make(chunks, class);
        node.offer_all(self.now);
        digest
    }

    /// Changes when an offered manifest goes.
    pub fn change_rank(&mut self, end: End, manifest: Digest, rank: Rank) {
        let node = &mut self.nodes[end as usize];
        if let Some(outgoing) = node.outgoing.get_mut(&manifest) {
            outgoing.rank = rank.clone();
        }
        node.command(self.now, Command::Rank { manifest, rank });
    }

    /// Takes an offered manifest back, until the next [`Pair::offer_again`] or connection.
    pub fn withdraw(&mut self, end: End, manifest: Digest) {
        self.nodes[end as usize].command(self.now, Command::Withdraw { manifest });
    }

    /// Lets an end's budget or window withhold all that is less urgent than this (none: all of it)
    /// from here on, or let it go again.
    pub fn allow(&mut self, end: End, least: Option<Class>) {
        self.nodes[end as usize].allow(self.now, least);
    }

    /// Offers again what was withdrawn or refused.
    pub fn offer_again(&mut self, end: End) {
        self.nodes[end as usize].offer_all(self.now);
    }

    /// Says something in an end's journal.
    pub fn say(&mut self, end: End) {
        self.nodes[end as usize].say(self.now);
    }

    /// Gives an end a newer fleet document than both have.
    pub fn publish(&mut self, end: End) {
        let newest = self
            .nodes
            .iter()
            .map(|node| node.disk.fleet_version())
            .max()
            .unwrap_or(0);
        self.nodes[end as usize].publish(self.now, newest + 1);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, ms: u64) -> Result<(), Violation> {
        let until = Millis(self.now.0 + ms);
        let mut at_once = 0_u32;
        loop {
            self.settle()?;
            let Some(due) = self.due().filter(|due| *due <= until) else {
                break;
            };
            at_once = if due > self.now { 0 } else { at_once + 1 };
            if at_once > 100_000 {
                return Err(Violation::Restless);
            }
            self.now = self.now.max(due);
        }
        self.now = until;
        Ok(())
    }

    /// The virtual time.
    pub const fn now(&self) -> Millis {
        self.now
    }

    /// What has crossed, both ways.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for node in &self.nodes {
            tally.add_frames(&node.heard);
            tally.data_bytes += node.data_bytes;
            tally.trace = tally.trace.rotate_left(1) ^ node.trace;
        }
        tally
    }

    /// What an end's session has counted.
    pub fn counters(&self, end: End) -> Counters {
        let session = self.nodes[end as usize].session.as_ref();
        session
            .map(|session| session.counters())
            .unwrap_or_default()
    }

    /// The classes of the data that an end ordered to be sent, in order, since the beginning.
    pub fn sent_classes(&self, end: End) -> &[Class] {
        &self.nodes[end as usize].sent_classes
    }

    /// Whether an end knows that a manifest is delivered.
    pub fn is_delivered(&self, end: End, manifest: Digest) -> bool {
        self.nodes[end as usize]
            .outgoing
            .get(&manifest)
            .is_some_and(|o| o.delivered)
    }

    /// The manifests that an end offered and that are not delivered.
    pub fn undelivered(&self, end: End) -> Vec<Digest> {
        let outgoing = self.nodes[end as usize].outgoing.iter();
        outgoing
            .filter(|(_, o)| !o.delivered)
            .map(|(digest, _)| *digest)
            .collect()
    }

    /// Whether both ends have all that the other has for them, and know it.
    pub fn is_level(&self) -> bool {
        let [a, b] = &self.nodes;
        let journals = a.journals();
        a.outgoing
            .values()
            .chain(b.outgoing.values())
            .all(|outgoing| outgoing.delivered)
            && self.nodes.iter().all(Node::has_all_receipts)
            && journals
                .iter()
                .all(|id: &JournalId| a.disk.records(id) == b.disk.records(id))
            && a.disk.fleet_version() == b.disk.fleet_version()
            && self
                .nodes
                .iter()
                .all(|n| n.session.as_ref().is_some_and(|s| s.is_idle()))
    }

    /// When something happens next.
    fn due(&self) -> Option<Millis> {
        let [a, b] = &self.nodes;
        let roads = [a.road.due(b.wants_data()), b.road.due(a.wants_data())];
        let roads = roads.into_iter().flatten().filter(|_| self.connected);
        roads.chain([a.due(), b.due()].into_iter().flatten()).min()
    }

    /// Does all that is due.
    fn settle(&mut self) -> Result<(), Violation> {
        for end in [0, 1] {
            self.nodes[end].act(self.now, &mut self.dice)?;
        }
        if self.connected {
            for end in [0, 1] {
                self.carry(end)?;
            }
        }
        self.check_deliveries()
    }

    /// Moves frames from one end to the other.
    fn carry(&mut self, from: usize) -> Result<(), Violation> {
        let to = 1 - from;
        let wants_data = self.nodes[to].wants_data();
        if let Some((_, bytes)) = self.nodes[from].road.arrive(self.now, wants_data) {
            self.nodes[to].hear(self.now, &bytes, &mut self.dice)?;
        }
        if let Some(lane) = self.nodes[from].road.transmit(self.now, &mut self.dice) {
            self.nodes[from].sent(self.now, lane, &mut self.dice)?;
        }
        Ok(())
    }

    /// What was called delivered must be whole at the other end, byte for byte; what was called held
    /// must be there.
    fn check_deliveries(&mut self) -> Result<(), Violation> {
        for (from, to) in [(0, 1), (1, 0)] {
            for digest in std::mem::take(&mut self.nodes[from].delivered_events) {
                let chunks = &self.nodes[from].outgoing[&digest].chunks;
                let disk = &self.nodes[to].disk;
                let whole = (0..)
                    .zip(chunks)
                    .all(|(chunk, bytes)| disk.chunk(digest, chunk) == bytes);
                if !whole {
                    return Err(Violation::NotDelivered(digest));
                }
            }
            for (digest, bytes) in std::mem::take(&mut self.nodes[from].progress) {
                if self.nodes[to].disk.bytes_held_once(&digest) < bytes {
                    return Err(Violation::FalseProgress(digest));
                }
            }
        }
        Ok(())
    }
}
