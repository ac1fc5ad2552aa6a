//! Incoming manifests: what the peer opened, what came in of it, what the disk has of it.

use std::collections::BTreeMap;
use std::mem;

use journal::{ManifestFault, NodeId, SignedManifest};
use study::{ChunkRef, Digest};

use super::outbox::Outbox;
use super::taking::Taking;
use super::{OPEN_ITEMS_MAX, UNSTORED_BYTES_MAX};
use crate::class::Class;
use crate::fault::PeerFault;
use crate::frame::{DATA_BYTES_MAX, Frame, MANIFEST_BYTES_MAX, Progress, RefusalCode};
use crate::io::{Event, Holding, Millis, Output, Stored};
use crate::runs::Runs;

/// How long progress inside a chunk waits to be announced together with more.
const HELD_DELAY_MS: u64 = 200;
/// How many chunks one `Held` frame speaks of.
const PROGRESS_MAX: usize = 1024;
/// How many damaged chunks a session bears.
const DAMAGE_MAX: u32 = 8;
/// How many announcements, parked frames and chunks at the disk may each wait before data is not
/// wanted: small pieces take memory beyond their bytes.
const PIECES_MAX: usize = 4096;
/// How many runs of closed item numbers are remembered.
const CLOSED_RUNS_MAX: usize = 4096;

/// Where an incoming manifest stands.
#[derive(Debug)]
enum Stage {
    /// The disk was asked for it, or to store it; data waits here.
    Asked { parked: Vec<Parked> },
    /// It is not known, and the peer was told so; data sent before the offer is dropped.
    Wanted,
    /// It is held; data goes to the disk.
    Taking(Taking),
}

/// Data that came before the disk's answer about its manifest.
#[derive(Debug)]
struct Parked {
    chunk: u32,
    offset: u32,
    bytes: Vec<u8>,
}

/// One incoming manifest.
#[derive(Debug)]
struct Incoming {
    digest: Digest,
    class: Class,
    /// The chunks, once the manifest itself is here.
    manifest: Option<Vec<ChunkRef>>,
    stage: Stage,
    /// Bytes of it that came in and are not durable.
    unstored: usize,
}

/// Takes the peer's manifests.
#[derive(Debug)]
pub(super) struct Receiver {
    me: NodeId,
    peer: NodeId,
    open: BTreeMap<u32, Incoming>,
    closed: Runs,
    /// Durable progress that is not announced yet.
    pending: BTreeMap<(u32, u32), u32>,
    pending_since: Option<Millis>,
    /// Some pending chunk is whole: that is announced at once.
    pending_whole: bool,
    unstored: usize,
    damaged: u32,
    received_bytes: u64,
    repeated_bytes: u64,
}

impl Receiver {
    pub(super) fn new(me: NodeId, peer: NodeId) -> Self {
        Self {
            me,
            peer,
            open: BTreeMap::new(),
            closed: Runs::new(),
            pending: BTreeMap::new(),
            pending_since: None,
            pending_whole: false,
            unstored: 0,
            damaged: 0,
            received_bytes: 0,
            repeated_bytes: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.pending.is_empty()
    }

    /// Whether more data may come in before the disk has caught up.
    pub(super) fn has_room(&self) -> bool {
        let pieces = self.open.values().map(Incoming::pieces).sum::<usize>() + self.pending.len();
        self.unstored < UNSTORED_BYTES_MAX && pieces < PIECES_MAX
    }

    pub(super) const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    pub(super) const fn repeated_bytes(&self) -> u64 {
        self.repeated_bytes
    }

    /// When pending progress is to be announced.
    pub(super) fn held_due(&self) -> Option<Millis> {
        let Millis(since) = self.pending_since?;
        Some(Millis(if self.pending_whole {
            since
        } else {
            since.saturating_add(HELD_DELAY_MS)
        }))
    }

    pub(super) fn offer(
        &mut self,
        item: u32,
        class: Class,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(PeerFault::OverLimit {
                frame: "offer",
                what: "manifest",
            });
        }
        let digest = Digest::of(bytes);
        match self.open.get(&item) {
            None => self.open_item(item, class, digest)?,
            Some(Incoming {
                digest: named,
                stage: Stage::Wanted,
                ..
            }) if *named != digest => {
                return Err(PeerFault::OtherManifest(item));
            }
            Some(Incoming {
                stage: Stage::Wanted,
                ..
            }) => {}
            Some(Incoming {
                stage: Stage::Asked { .. } | Stage::Taking(_),
                ..
            }) => {
                return Err(PeerFault::OpenedTwice(item));
            }
        }
        let manifest = match SignedManifest::open(bytes) {
            Ok(manifest) => manifest,
            // Signed by whom it should be, written by a later program: its turn comes later.
            Err(ManifestFault::Content(_)) => {
                let text = "the manifest is of a kind that is not known here".to_owned();
                self.refuse(item, RefusalCode::NotSupported, text, out);
                return Ok(());
            }
            Err(fault @ (ManifestFault::Signature(_) | ManifestFault::NotDeterministic)) => {
                return Err(PeerFault::Manifest(fault));
            }
        };
        self.check_signer(&manifest)?;
        if let Some(incoming) = self.open.get_mut(&item) {
            incoming.class = class;
            incoming.manifest = Some(manifest.manifest().chunks().cloned().collect());
            incoming.stage = Stage::Asked { parked: Vec::new() };
            out.push(Output::StoreManifest {
                item,
                manifest: Box::new(manifest),
                class,
            });
        }
        Ok(())
    }

    pub(super) fn resume(
        &mut self,
        item: u32,
        class: Class,
        manifest: Digest,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if self.open.contains_key(&item) {
            return Err(PeerFault::OpenedTwice(item));
        }
        self.open_item(item, class, manifest)?;
        out.push(Output::FindManifest {
            item,
            manifest,
            class,
        });
        Ok(())
    }

    pub(super) fn data(
        &mut self,
        item: u32,
        chunk: u32,
        offset: u32,
        bytes: Vec<u8>,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let len = bytes.len();
        if !u32::try_from(len).is_ok_and(|len| (1..=DATA_BYTES_MAX).contains(&len)) {
            return Err(PeerFault::OverLimit {
                frame: "data",
                what: "bytes",
            });
        }
        self.received_bytes += len as u64;
        let Some(incoming) = opened(&mut self.open, &self.closed, "data", item)? else {
            return Ok(());
        };
        match &mut incoming.stage {
            Stage::Wanted => Ok(()),
            Stage::Asked { parked } => {
                parked.push(Parked {
                    chunk,
                    offset,
                    bytes,
                });
                incoming.unstored += len;
                self.unstored += len;
                Ok(())
            }
            Stage::Taking(taking) => {
                let fresh = taking.take(item, chunk, offset, bytes)?;
                self.repeated_bytes += (len - fresh.bytes()) as u64;
                incoming.unstored += fresh.bytes();
                self.unstored += fresh.bytes();
                fresh.put(item, incoming.digest, out);
                Ok(())
            }
        }
    }

    pub(super) fn class(
        &mut self,
        item: u32,
        class: Class,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if let Some(incoming) = opened(&mut self.open, &self.closed, "class", item)? {
            incoming.class = class;
            out.event(Event::ClassChanged {
                manifest: incoming.digest,
                class,
            });
        }
        Ok(())
    }

    pub(super) fn withdraw(&mut self, item: u32, out: &mut Outbox) -> Result<(), PeerFault> {
        if let Some(incoming) = opened(&mut self.open, &self.closed, "withdraw", item)? {
            out.event(Event::Withdrawn {
                manifest: incoming.digest,
            });
            out.control(Frame::Withdrawn { item });
            self.close(item);
        }
        Ok(())
    }

    /// Takes the disk's answer; one for a closed item comes too late and changes nothing.
    pub(super) fn stored(
        &mut self,
        now: Millis,
        stored: Stored,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        match stored {
            Stored::Manifest { item, holding } => self.held(item, holding, out),
            Stored::Found {
                item,
                manifest,
                holding,
            } => {
                if let Some(incoming) = self.open.get_mut(&item) {
                    assert!(
                        manifest.digest() == incoming.digest,
                        "another manifest was found"
                    );
                    incoming.manifest = Some(manifest.manifest().chunks().cloned().collect());
                    self.check_signer(&manifest)?;
                }
                self.held(item, holding, out)
            }
            Stored::Complete { item } => {
                if self.open.contains_key(&item) {
                    out.control(Frame::Complete { item });
                    self.close(item);
                }
                Ok(())
            }
            Stored::Unknown { item } => {
                if let Some(incoming) = self.open.get_mut(&item) {
                    assert!(
                        incoming.manifest.is_none(),
                        "a manifest that was given is unknown"
                    );
                    self.unstored -= mem::take(&mut incoming.unstored);
                    incoming.stage = Stage::Wanted;
                    out.control(Frame::Want { item });
                }
                Ok(())
            }
            Stored::Refused { item, code, text } => {
                if self.open.contains_key(&item) {
                    self.refuse(item, code, text, out);
                }
                Ok(())
            }
            Stored::Data { item, chunk, upto } => {
                self.data_stored(now, item, chunk, upto, out);
                Ok(())
            }
            Stored::Damaged { item, chunk } => self.data_damaged(item, chunk, out),
            Stored::Records { .. } | Stored::Fleet { .. } | Stored::FleetRefused => {
                unreachable!("the session answers these elsewhere")
            }
        }
    }

    /// Announces durable progress: whole chunks at once, the rest when its time has come.
    pub(super) fn announce(&mut self, now: Millis, out: &mut Outbox) {
        while out.control_is_easy() && self.held_due().is_some_and(|due| due <= now) {
            let mut progress = Vec::new();
            while progress.len() < PROGRESS_MAX
                && let Some(((item, chunk), upto)) = self.pending.pop_first()
            {
                progress.push(Progress { item, chunk, upto });
            }
            if self.pending.is_empty() {
                self.pending_since = None;
                self.pending_whole = false;
            }
            out.control(Frame::Held { progress });
        }
    }

    fn open_item(&mut self, item: u32, class: Class, digest: Digest) -> Result<(), PeerFault> {
        if self.closed.contains(item) || self.open.values().any(|other| other.digest == digest) {
            return Err(PeerFault::OpenedTwice(item));
        }
        if self.open.len() >= OPEN_ITEMS_MAX {
            return Err(PeerFault::TooManyItems);
        }
        if item == u32::MAX || self.closed.runs() >= CLOSED_RUNS_MAX {
            return Err(PeerFault::ScatteredItems);
        }
        let stage = Stage::Asked { parked: Vec::new() };
        let incoming = Incoming {
            digest,
            class,
            manifest: None,
            stage,
            unstored: 0,
        };
        self.open.insert(item, incoming);
        Ok(())
    }

    fn check_signer(&self, manifest: &SignedManifest) -> Result<(), PeerFault> {
        if [self.me, self.peer].contains(&manifest.signer()) {
            Ok(())
        } else {
            Err(PeerFault::ForeignManifest)
        }
    }

    /// The manifest is durable: says what is held and lets the parked data in.
    fn held(&mut self, item: u32, holding: Holding, out: &mut Outbox) -> Result<(), PeerFault> {
        let Some(incoming) = self.open.get_mut(&item) else {
            return Ok(());
        };
        let chunks = incoming
            .manifest
            .take()
            .expect("the disk answers for a manifest it was given");
        let mut taking = Taking::new(chunks, &holding);
        let stage = mem::replace(&mut incoming.stage, Stage::Wanted);
        let Stage::Asked { parked } = stage else {
            panic!("the disk answered twice for one manifest");
        };
        let Holding { whole, partial } = holding;
        out.control(Frame::Have {
            item,
            whole,
            partial,
        });
        for Parked {
            chunk,
            offset,
            bytes,
        } in parked
        {
            let len = bytes.len();
            let fresh = taking.take(item, chunk, offset, bytes)?;
            let repeated = len - fresh.bytes();
            self.repeated_bytes += repeated as u64;
            incoming.unstored -= repeated;
            self.unstored -= repeated;
            fresh.put(item, incoming.digest, out);
        }
        let complete = taking.is_complete();
        incoming.stage = Stage::Taking(taking);
        if complete {
            self.finish(item, out);
        }
        Ok(())
    }

    fn data_stored(&mut self, now: Millis, item: u32, chunk: u32, upto: u32, out: &mut Outbox) {
        let Some(incoming) = self.open.get_mut(&item) else {
            return;
        };
        let Stage::Taking(taking) = &mut incoming.stage else {
            panic!("the disk stored data of a manifest that it does not hold");
        };
        let Some(durable) = taking.store(chunk, upto) else {
            return;
        };
        let complete = taking.is_complete();
        incoming.unstored -= durable.bytes;
        self.unstored -= durable.bytes;
        self.pending.insert((item, chunk), upto);
        self.pending_since.get_or_insert(now);
        self.pending_whole |= durable.whole;
        if complete {
            self.finish(item, out);
        }
    }

    fn data_damaged(&mut self, item: u32, chunk: u32, out: &mut Outbox) -> Result<(), PeerFault> {
        let Some(incoming) = self.open.get_mut(&item) else {
            return Ok(());
        };
        let Stage::Taking(taking) = &mut incoming.stage else {
            panic!("the disk judged data of a manifest that it does not hold");
        };
        let lost = taking.start_again(chunk);
        incoming.unstored -= lost;
        self.unstored -= lost;
        self.pending.remove(&(item, chunk));
        if self.pending.is_empty() {
            self.pending_since = None;
        }
        out.control(Frame::Damaged { item, chunk });
        self.damaged += 1;
        if self.damaged > DAMAGE_MAX {
            return Err(PeerFault::TooMuchDamage);
        }
        Ok(())
    }

    /// Every chunk is durable; the last progress is still to be announced.
    fn finish(&mut self, item: u32, out: &mut Outbox) {
        if let Some(incoming) = self.open.remove(&item) {
            self.unstored -= incoming.unstored;
            self.closed.insert(item);
            out.event(Event::Received {
                manifest: incoming.digest,
            });
        }
    }

    fn refuse(&mut self, item: u32, code: RefusalCode, text: String, out: &mut Outbox) {
        out.control(Frame::Refused {
            item,
            code,
            text: super::cut(text),
        });
        self.close(item);
    }

    /// Forgets an item and what was to be announced of it.
    fn close(&mut self, item: u32) {
        if let Some(incoming) = self.open.remove(&item) {
            self.unstored -= incoming.unstored;
        }
        self.closed.insert(item);
        self.pending.retain(|(of, _), _| *of != item);
        if self.pending.is_empty() {
            self.pending_since = None;
            self.pending_whole = false;
        }
    }
}

impl Incoming {
    /// Parked frames, or chunks with the disk.
    const fn pieces(&self) -> usize {
        match &self.stage {
            Stage::Asked { parked } => parked.len(),
            Stage::Wanted => 0,
            Stage::Taking(taking) => taking.busy(),
        }
    }
}

/// The item, unless it is closed: then what still comes on its lane is ignored.
fn opened<'a>(
    open: &'a mut BTreeMap<u32, Incoming>,
    closed: &Runs,
    frame: &'static str,
    item: u32,
) -> Result<Option<&'a mut Incoming>, PeerFault> {
    match open.get_mut(&item) {
        None if !closed.contains(item) => Err(PeerFault::UnknownItem { frame, item }),
        incoming => Ok(incoming),
    }
}
