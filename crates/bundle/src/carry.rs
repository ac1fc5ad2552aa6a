//! Carrying: what `bundle import` and `bundle export` have in common at both ends.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use identity::NodeKey;
use identity::files::FileError;
use journal::JournalId;
use serde::Serialize;
use study::Priority;
use sync_proto::Config;
use sync_quic::Shelf;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::export::{ExportError, Item, Load, Sizes, Written, export, has_news};
use crate::format::Refusal;
use crate::import::{Letter, TakeError, Taken, examine, take};
use crate::memory::Memory;
use crate::progress::Progress;
use crate::stick::{Bundle, Stick, StickError};

/// What a file system may round a part up by.
const ROUNDING_BYTES: u64 = 32 << 10;

/// Why the work on a stick failed.
#[derive(Debug, Error)]
pub enum CarryError {
    /// The medium.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// Nothing was written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// What is known of bundles cannot be kept.
    #[error("the bundle's number cannot be kept")]
    Memory(#[from] FileError),
    /// One at a time.
    #[error("another bundle command is at work")]
    Busy,
}

/// Says who is listened to, and gives what a contact with them would be given.
pub trait Door {
    /// Where what is taken goes.
    type Shelf: Shelf;

    /// Admits a sender, or says why not; takes the paper in the head.
    fn admit(&self, letter: &Letter) -> Result<(Self::Shelf, Config), String>;
}

/// A node's work on sticks: one command at a time.
pub struct Carrier {
    key: Arc<NodeKey>,
    memory: Mutex<Memory>,
    one: Mutex<()>,
    progress: Arc<Progress>,
}

/// What became of one bundle on a stick.
#[derive(Debug, Default, Serialize)]
pub struct Line {
    /// Its name there.
    pub bundle: String,
    /// `imported`, `known`, `not_for_us`, `incomplete` or `refused`.
    pub state: &'static str,
    /// Who wrote it.
    pub sender: Option<String>,
    /// Its number among those of its sender.
    pub sequence: Option<u64>,
    /// By its sender's clock.
    pub made_at: Option<u64>,
    /// Revisions that are whole here since.
    pub revisions: u64,
    /// Revisions that were whole here before.
    pub revisions_known: u64,
    /// Records that were new.
    pub records: u64,
    /// Bytes of images it brought.
    pub bytes: u64,
    /// Why it is not, or not all, imported.
    pub reasons: Vec<String>,
    /// It was taken off the stick.
    pub removed: bool,
}

impl Line {
    /// Whether somebody has to do something about it.
    pub fn is_trouble(&self) -> bool {
        ["incomplete", "refused"].contains(&self.state)
    }
}

/// One bundle that was written.
#[derive(Debug, Serialize)]
pub struct WrittenLine {
    /// Its name on the stick.
    pub bundle: String,
    /// Whom it is for.
    pub recipient: String,
    /// In how many files.
    pub files: usize,
    /// Its bytes.
    pub bytes: u64,
    /// Revisions in it.
    pub revisions: usize,
    /// Records in it.
    pub records: u64,
    /// Whether the fleet document is in it.
    pub fleet_document: bool,
    /// What did not fit or could not be read.
    pub left_out: Vec<LeftOutLine>,
}

/// A revision that stays behind.
#[derive(Debug, Serialize)]
pub struct LeftOutLine {
    /// Its study.
    pub study_instance_uid: String,
    /// Its number.
    pub revision: u32,
    /// Its class.
    pub priority: Priority,
    /// Why.
    pub reason: &'static str,
}

impl Carrier {
    /// For a node whose folder's lock is held.
    pub fn new(folder: &Path, key: Arc<NodeKey>) -> Self {
        Self {
            key,
            memory: Mutex::new(Memory::open(folder)),
            one: Mutex::default(),
            progress: Progress::of_this_program(),
        }
    }

    /// What is known of bundles.
    pub fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // It is whole between any two statements that change it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a bundle for the peer of `config`, if there is anything to write. Blocks.
    pub fn export<S: Shelf>(
        &self,
        (shelf, runtime): (&S, &Handle),
        (config, paper): (Config, Option<Vec<u8>>),
        items: Vec<Item>,
        (stick, part_bytes): (&Stick, u64),
    ) -> Result<Option<WrittenLine>, CarryError> {
        let _one = self.alone()?;
        let recipient = config.peer;
        let told = self.memory().told(&recipient);
        if items.is_empty() && !has_news(&config, told) {
            return Ok(None);
        }
        let free_bytes = stick.free_bytes()?;
        let rounding = (free_bytes / part_bytes + 2) * ROUNDING_BYTES;
        let sizes = Sizes {
            bytes_max: free_bytes.saturating_sub(rounding),
            part_bytes,
        };
        let load = Load {
            config,
            sequence: self.memory().next_sequence(recipient)?,
            told,
            paper,
        };
        let on = (stick, sizes);
        let written = export((shelf, runtime), &self.key, load, items, on, &self.progress)?;
        Ok(written.map(|written| written_line(written, recipient.to_string())))
    }

    /// Takes every bundle on a stick that is for this node; gives one line for each. Blocks.
    pub fn import<D: Door>(
        &self,
        door: &D,
        runtime: &Handle,
        (stick, remove): (&Stick, bool),
    ) -> Result<Vec<Line>, CarryError> {
        let _one = self.alone()?;
        let bundles = stick.bundles()?;
        // Each is read twice; what is not for us costs its first bytes only.
        let bytes: u64 = bundles.iter().filter_map(|b| b.bytes().ok()).sum();
        self.progress.begin(bytes.saturating_mul(2));
        let mut lines = Vec::new();
        for bundle in &bundles {
            let mut line = self.import_one(door, runtime, bundle);
            if remove && ["imported", "known"].contains(&line.state) {
                stick.remove(bundle)?;
                line.removed = true;
            }
            lines.push(line);
        }
        Ok(lines)
    }

    fn import_one<D: Door>(&self, door: &D, runtime: &Handle, bundle: &Bundle) -> Line {
        let name = bundle.name.to_string();
        let mut line = match self.attempt(door, runtime, bundle) {
            Ok(line) => line,
            Err(Attempt::Refused(Refusal::NotForUs | Refusal::NotABundle)) => Line {
                state: "not_for_us",
                ..Line::default()
            },
            Err(error) => Line {
                state: "refused",
                reasons: vec![error.words()],
                ..Line::default()
            },
        };
        line.bundle = name;
        line
    }

    fn attempt<D: Door>(
        &self,
        door: &D,
        runtime: &Handle,
        bundle: &Bundle,
    ) -> Result<Line, Attempt> {
        let fingerprint = bundle.fingerprint()?;
        if self.memory().was_taken(&fingerprint) {
            return Ok(Line {
                state: "known",
                ..Line::default()
            });
        }
        let letter = examine(&self.key, bundle, &self.progress)?;
        let (shelf, config) = door.admit(&letter).map_err(Attempt::Unwanted)?;
        let ours = config.journals.iter().map(|(journal, _)| *journal);
        let told: Option<JournalId> = ours.clone().find(|journal| journal.author == config.me);
        let told = told.map_or(0, |journal| letter.holds(&journal));
        let what = (bundle, &letter);
        let taken = take((&shelf, runtime), &self.key, config, what, &self.progress)?;
        if taken.is_done() {
            let from = (letter.head.sender, letter.head.sequence);
            let said = (told, letter.fleet_version);
            self.memory().note_taken(fingerprint, from, said)?;
        }
        Ok(taken_line(&letter, taken))
    }

    fn alone(&self) -> Result<std::sync::MutexGuard<'_, ()>, CarryError> {
        match self.one.try_lock() {
            Ok(alone) => Ok(alone),
            Err(TryLockError::Poisoned(alone)) => Ok(alone.into_inner()),
            Err(TryLockError::WouldBlock) => Err(CarryError::Busy),
        }
    }
}

/// Why one bundle was not imported.
#[derive(Debug, Error)]
enum Attempt {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Unwanted(String),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("it is imported, but that cannot be kept")]
    Memory(#[from] FileError),
}

impl Attempt {
    /// The chain of causes in words.
    fn words(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }
}

fn taken_line(letter: &Letter, taken: Taken) -> Line {
    let mut line = Line {
        state: if taken.is_done() {
            "imported"
        } else {
            "incomplete"
        },
        sender: Some(letter.head.sender.to_string()),
        sequence: Some(letter.head.sequence),
        made_at: Some(letter.head.made_at_ms),
        revisions: taken.revisions,
        revisions_known: taken.known,
        records: taken.records,
        bytes: taken.bytes,
        ..Line::default()
    };
    if taken.records_ahead {
        let words = "records before those in it have not come: import the older bundles first";
        line.reasons.push(words.to_owned());
    }
    if taken.diverged {
        let words = "its journal and the one held here contradict each other";
        line.reasons.push(words.to_owned());
    }
    line.reasons.extend(taken.put_off);
    line.reasons.extend(taken.refused);
    line
}

fn written_line(written: Written, recipient: String) -> WrittenLine {
    let left_out = written.left_out.into_iter().map(|left| LeftOutLine {
        study_instance_uid: left.study.to_string(),
        revision: left.revision,
        priority: left.class,
        reason: left.reason,
    });
    WrittenLine {
        bundle: written.name.to_string(),
        recipient,
        files: written.parts,
        bytes: written.bytes,
        revisions: written.revisions,
        records: written.records,
        fleet_document: written.fleet,
        left_out: left_out.collect(),
    }
}
