//! Export: what a node has for another, as one side of a session would say it, onto a medium.

use std::io;
use std::sync::Arc;

use identity::{NodeId, NodeKey};
use journal::{JournalId, SignedManifest};
use study::{Priority, StudyUid};
use sync_proto::{
    ByeCode, Config, DATA_BYTES_MAX, Frame, JournalHeld, PROTOCOL, RECORDS_BYTES_MAX,
};
use sync_quic::{Piece, Shelf, ShelfError};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::format::{Head, Writer};
use crate::progress::Progress;
use crate::seal;
use crate::stick::{Draft, Name, Stick, StickError};

/// Room that is left for the signature, the goodbye and what a file system rounds up.
const RESERVE_BYTES: u64 = 192 << 10;
/// What one data frame has beside its bytes, at most.
const FRAME_OVERHEAD_BYTES: u64 = 32;

/// Why nothing was exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The medium.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// This node's own disk.
    #[error("this node cannot read what it would write")]
    Shelf(#[from] ShelfError),
    /// Nothing can be sealed to that key.
    #[error("node {} has a key that nothing can be sealed to", .0.short())]
    NoRecipient(NodeId),
}

/// A revision to carry.
#[derive(Debug)]
pub struct Item {
    /// Its signed manifest.
    pub manifest: SignedManifest,
    /// Its class.
    pub class: Priority,
}

/// What a bundle is to carry, and to whom.
#[derive(Debug)]
pub struct Load {
    /// As for a session with the recipient: who, and what is held of the journals.
    pub config: Config,
    /// The bundle's number.
    pub sequence: u64,
    /// What the recipient is known to hold: of the journal we write to it, and which fleet document.
    pub told: (u64, u64),
    /// The paper in the head.
    pub paper: Option<Vec<u8>>,
}

/// How large a bundle and its parts may become.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The most bytes that may be taken on the medium.
    pub bytes_max: u64,
    /// The most bytes in a part.
    pub part_bytes: u64,
}

/// A revision that is not in the bundle, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its study.
    pub study: StudyUid,
    /// Its number.
    pub revision: u32,
    /// Its class.
    pub class: Priority,
    /// Why.
    pub reason: &'static str,
}

/// A bundle that is whole on the medium, and was read back.
#[derive(Debug)]
pub struct Written {
    /// Its name there.
    pub name: Name,
    /// In how many files.
    pub parts: usize,
    /// Its bytes.
    pub bytes: u64,
    /// Revisions in it.
    pub revisions: usize,
    /// Records in it.
    pub records: u64,
    /// Whether a fleet document is in it.
    pub fleet: bool,
    /// What did not fit or could not be read.
    pub left_out: Vec<LeftOut>,
}

/// Writes a bundle: the fleet document, the records, then the revisions in the order given, as many
/// as fit. None when there is nothing that the recipient is not known to have.
///
/// Blocks; not from async code.
pub fn export<S: Shelf>(
    (shelf, runtime): (&S, &Handle),
    key: &NodeKey,
    load: Load,
    items: Vec<Item>,
    (stick, sizes): (&Stick, Sizes),
    progress: &Arc<Progress>,
) -> Result<Option<Written>, ExportError> {
    let recipient = load.config.peer;
    let news = records_due(&load.config, load.told.0);
    let fleet_is_news = load.config.fleet_version > load.told.1;
    if !has_news(&load.config, load.told) && items.is_empty() {
        return Ok(None);
    }
    let draft = stick.draft(&load.config.me, sizes.part_bytes, Arc::clone(progress))?;
    let path = draft.path().to_owned();
    let failed = |error: io::Error| match error.downcast::<StickError>() {
        Ok(error) => error,
        Err(error) => StickError::io("write", &path)(error),
    };
    let sealed = seal::to(&recipient, draft).ok_or(ExportError::NoRecipient(recipient))?;
    let head = Head::new(
        (load.config.me, recipient),
        load.sequence,
        load.config.wall_ms,
        load.paper.clone(),
    );
    let writer = Writer::begin(sealed.map_err(&failed)?, &head).map_err(&failed)?;
    let mut recording = Recording {
        shelf,
        runtime,
        writer,
        bytes_max: sizes.bytes_max.saturating_sub(RESERVE_BYTES),
        written: Counts::default(),
    };
    recording
        .speak(&load, fleet_is_news, &news)
        .map_err(|error| error.or(failed))?;
    for item in items {
        recording.carry(item).map_err(|error| error.or(failed))?;
    }
    let goodbye = Frame::Bye {
        code: ByeCode::Done,
        text: String::new(),
    };
    recording.writer.frame(&goodbye).map_err(&failed)?;
    let counts = recording.written;
    if counts.is_nothing() {
        return Err(StickError::Full(stick.path().to_owned()).into());
    }
    let sealed = recording.writer.finish(key).map_err(&failed)?;
    let draft: Draft = sealed.finish().map_err(&failed)?;
    let (name, parts, bytes) = draft.complete()?;
    progress.add_bundle();
    Ok(Some(Written {
        name,
        parts,
        bytes,
        revisions: counts.revisions,
        records: counts.records,
        fleet: counts.fleet,
        left_out: counts.left_out,
    }))
}

/// The journals that we write and the recipient reads: from which number to which.
fn records_due(config: &Config, told: u64) -> Vec<(JournalId, u64, u64)> {
    let ours = config.journals.iter();
    let ours = ours.filter(|(journal, head)| journal.author == config.me && head.seq > told);
    ours.map(|(journal, head)| (*journal, told + 1, head.seq))
        .collect()
}

/// Whether there are records or a fleet document that the recipient is not known to have.
pub(crate) fn has_news(config: &Config, told: (u64, u64)) -> bool {
    !records_due(config, told.0).is_empty() || config.fleet_version > told.1
}

#[derive(Debug, Default)]
struct Counts {
    revisions: usize,
    records: u64,
    fleet: bool,
    left_out: Vec<LeftOut>,
}

impl Counts {
    fn is_nothing(&self) -> bool {
        self.revisions == 0 && self.records == 0 && !self.fleet
    }
}

/// Why a frame was not written.
enum Broken {
    Writing(io::Error),
    Reading(ShelfError),
}

impl Broken {
    fn or(self, failed: impl Fn(io::Error) -> StickError) -> ExportError {
        match self {
            Self::Writing(error) => failed(error).into(),
            Self::Reading(error) => error.into(),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Writing(error)
    }
}

impl From<ShelfError> for Broken {
    fn from(error: ShelfError) -> Self {
        Self::Reading(error)
    }
}

/// One side of a session, being recorded.
struct Recording<'a, S, W> {
    shelf: &'a S,
    runtime: &'a Handle,
    writer: Writer<W>,
    bytes_max: u64,
    written: Counts,
}

impl<S: Shelf, W: io::Write> Recording<'_, S, W> {
    /// Greets, and says what there is to say before any study.
    fn speak(
        &mut self,
        load: &Load,
        fleet_is_news: bool,
        news: &[(JournalId, u64, u64)],
    ) -> Result<(), Broken> {
        self.writer.frame(&greeting(&load.config))?;
        if fleet_is_news {
            let (version, document) = self.runtime.block_on(self.shelf.load_fleet())?;
            if self.has_room(document.len() as u64) {
                let document = document.into();
                self.writer.frame(&Frame::Fleet { version, document })?;
                self.written.fleet = true;
            }
        }
        for (journal, from, upto) in news {
            self.say(*journal, *from, *upto)?;
        }
        Ok(())
    }

    fn say(&mut self, journal: JournalId, mut from: u64, upto: u64) -> Result<(), Broken> {
        while from <= upto {
            let loading = self.shelf.load_records(journal, from, RECORDS_BYTES_MAX);
            let mut records = self.runtime.block_on(loading)?;
            // More may have been said since the greeting was written.
            records.truncate(usize::try_from(upto - from + 1).unwrap_or(usize::MAX));
            let bytes = records.iter().map(|record| record.len() as u64 + 8).sum();
            if records.is_empty() || !self.has_room(bytes) {
                return Ok(());
            }
            let count = records.len() as u64;
            self.writer.frame(&Frame::Records {
                journal,
                from_seq: from,
                records: records.into_iter().map(Into::into).collect(),
            })?;
            self.written.records += count;
            from += count;
        }
        Ok(())
    }

    /// Carries a revision with all its chunks, if all of it fits.
    fn carry(&mut self, item: Item) -> Result<(), Broken> {
        let Item { manifest, class } = item;
        let left_out = |reason| LeftOut {
            study: manifest.manifest().study.clone(),
            revision: manifest.manifest().revision,
            class,
            reason,
        };
        let frames = |bytes: u32| u64::from(bytes / DATA_BYTES_MAX) + 1;
        let chunks = manifest.manifest().chunks();
        let data: u64 = chunks
            .map(|chunk| u64::from(chunk.bytes) + frames(chunk.bytes) * FRAME_OVERHEAD_BYTES)
            .sum();
        if !self.has_room(manifest.bytes().len() as u64 + data) {
            self.written.left_out.push(left_out("it does not fit"));
            return Ok(());
        }
        let number = self.written.revisions;
        let number = u32::try_from(number).expect("a stick does not hold so many");
        self.writer.frame(&Frame::Offer {
            item: number,
            class: class.into(),
            manifest: manifest.bytes().to_vec().into(),
        })?;
        self.written.revisions += 1;
        let mut whole = true;
        for (chunk, named) in (0..).zip(manifest.manifest().chunks()) {
            let piece = Piece {
                manifest: manifest.digest(),
                chunk,
                digest: named.digest,
                offset: 0,
                len: named.bytes,
            };
            // A chunk that is damaged here does not keep the others back.
            match self.runtime.block_on(self.shelf.read(piece)) {
                Ok(bytes) => self.data(number, chunk, &bytes)?,
                Err(error) => {
                    tracing::error!(chunk, %error, "a chunk is left out of a bundle");
                    whole = false;
                }
            }
        }
        if !whole {
            let reason = "a part of it cannot be read";
            self.written.left_out.push(left_out(reason));
            self.writer.frame(&Frame::Withdraw { item: number })?;
        }
        Ok(())
    }

    fn data(&mut self, item: u32, chunk: u32, bytes: &[u8]) -> Result<(), Broken> {
        let step = usize::try_from(DATA_BYTES_MAX).expect("usize has at least 32 bits");
        for (offset, bytes) in (0..).step_by(step).zip(bytes.chunks(step)) {
            self.writer.frame(&Frame::Data {
                item,
                chunk,
                offset,
                bytes: bytes.to_vec().into(),
            })?;
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let bytes = self.writer.bytes().saturating_add(bytes);
        bytes.saturating_add(seal::overhead_bytes(bytes)) <= self.bytes_max
    }
}

fn greeting(config: &Config) -> Frame {
    let held = config.journals.iter().map(|(journal, head)| JournalHeld {
        journal: *journal,
        seq: head.seq,
        digest: head.digest,
    });
    Frame::Hello {
        protocol: PROTOCOL,
        software: config.software.clone(),
        fleet_version: config.fleet_version,
        wall_ms: config.wall_ms,
        clock: config.clock,
        journals: held.collect(),
    }
}
