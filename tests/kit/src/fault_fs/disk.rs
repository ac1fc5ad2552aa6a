//! What the file system holds: as programs see it, and as the medium has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::Errno;

use super::Loss;
use crate::seeded::Seeded;

pub(super) const ROOT: u64 = 1;

/// What a medium writes at once; a write that was not synced may survive in any of these.
const PAGE_BYTES: usize = 4096;

/// How large it says to be. Nothing keeps a program from writing more.
pub(super) const CAPACITY_BYTES: u64 = 4 << 30;

/// An operation that changes something or makes it durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Of bytes, at any place.
    Write,
    /// Also to a greater length, and `fallocate`.
    Truncate,
    /// Of a file.
    Fsync,
    /// Of a file.
    Fdatasync,
    /// Of a folder.
    FsyncDir,
    /// Of a file, a folder or a socket.
    Create,
    /// Of anything.
    Rename,
    /// Of a file, a folder or a socket.
    Unlink,
}

/// What programs see of a node besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What is at a place in the tree.
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) meta: Meta,
    pub(super) modified: SystemTime,
    durable_meta: Meta,
    /// Under which it was last seen.
    name: OsString,
}

pub(super) enum Body {
    File(Content),
    Folder(Entries),
    Socket,
}

/// The bytes of a file.
#[derive(Default)]
pub(super) struct Content {
    pub(super) seen: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

/// The entries of a folder.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) seen: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    /// What was done since the last sync, in order; a rename within the folder is one step.
    pending: Vec<Step>,
}

type Step = Vec<(OsString, Option<u64>)>;

/// Whether an operation is the one at which the power goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Goes,
}

impl Power {
    /// Who asked hears nothing good of the last operation, though it may have been done.
    fn answer<T>(self, done: T) -> Result<T, Errno> {
        match self {
            Self::On => Ok(done),
            Self::Goes => Err(Errno::EIO),
        }
    }
}

pub(super) struct Disk {
    nodes: BTreeMap<u64, Node>,
    last_number: u64,
    counts: BTreeMap<Operation, u64>,
    operations: u64,
    cut_at: Option<u64>,
    dark: bool,
    /// Of files and folders with this in their names, syncs are said to be done, and are not.
    deaf: Vec<String>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Node::new(
            Body::Folder(Entries::default()),
            0o700,
            (0, 0),
            OsStr::new(""),
        );
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            last_number: ROOT,
            counts: BTreeMap::new(),
            operations: 0,
            cut_at: None,
            dark: false,
            deaf: Vec::new(),
        }
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn counts(&self) -> BTreeMap<Operation, u64> {
        self.counts.clone()
    }

    pub(super) fn cut_after(&mut self, operations: u64) {
        self.cut_at = Some(self.operations + operations);
    }

    pub(super) fn cut_now(&mut self) {
        self.dark = true;
    }

    pub(super) fn is_dark(&self) -> bool {
        self.dark
    }

    pub(super) fn ignore_syncs_of(&mut self, part: &str) {
        self.deaf.push(part.to_owned());
    }

    pub(super) fn lit(&self) -> Result<(), Errno> {
        if self.dark { Err(Errno::EIO) } else { Ok(()) }
    }

    pub(super) fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.lit()?;
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    pub(super) fn folder(&self, number: u64) -> Result<&Entries, Errno> {
        match &self.node(number)?.body {
            Body::Folder(entries) => Ok(entries),
            Body::File(_) | Body::Socket => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn file(&self, number: u64) -> Result<&Content, Errno> {
        match &self.node(number)?.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(Errno::EISDIR),
            Body::Socket => Err(Errno::EINVAL),
        }
    }

    pub(super) fn entry(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        let number = self.folder(folder)?.seen.get(name);
        number.copied().ok_or(Errno::ENOENT)
    }

    /// How many bytes all files have.
    pub(super) fn used_bytes(&self) -> u64 {
        let bytes = |node: &Node| match &node.body {
            Body::File(content) => content.seen.len() as u64,
            Body::Folder(_) | Body::Socket => 0,
        };
        self.nodes.values().map(bytes).sum()
    }

    pub(super) fn create(
        &mut self,
        folder: u64,
        name: &OsStr,
        body: Body,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<u64, Errno> {
        if self.folder(folder)?.seen.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let power = self.operate(Operation::Create)?;
        self.last_number += 1;
        let number = self.last_number;
        self.nodes
            .insert(number, Node::new(body, mode, owner, name));
        self.folder_mut(folder)?
            .step(vec![(name.to_owned(), Some(number))]);
        power.answer(number)
    }

    pub(super) fn write(&mut self, file: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file(file)?;
        let power = self.operate(Operation::Write)?;
        let (offset, bytes) = (in_memory(offset)?, bytes.to_vec());
        self.content_mut(file)?
            .change(Change::Write { offset, bytes });
        power.answer(())
    }

    pub(super) fn resize(&mut self, file: u64, bytes: u64) -> Result<(), Errno> {
        self.file(file)?;
        let power = self.operate(Operation::Truncate)?;
        self.content_mut(file)?
            .change(Change::Resize(in_memory(bytes)?));
        power.answer(())
    }

    pub(super) fn set_meta(&mut self, number: u64, meta: Meta) -> Result<(), Errno> {
        self.node_mut(number)?.meta = meta;
        Ok(())
    }

    /// Of the two kinds of sync of a file, both make its length durable, and neither its name.
    pub(super) fn sync(&mut self, file: u64, data_only: bool) -> Result<(), Errno> {
        let kind = if data_only {
            Operation::Fdatasync
        } else {
            Operation::Fsync
        };
        self.file(file)?;
        if self.operate(kind)? == Power::Goes {
            return Err(Errno::EIO);
        }
        if !self.is_deaf(file) {
            self.node_mut(file)?.make_durable();
        }
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, folder: u64) -> Result<(), Errno> {
        self.folder(folder)?;
        if self.operate(Operation::FsyncDir)? == Power::Goes {
            return Err(Errno::EIO);
        }
        if !self.is_deaf(folder) {
            self.node_mut(folder)?.make_durable();
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let number = self.entry(folder, name)?;
        if matches!(self.node(number)?.body, Body::Folder(_)) {
            return Err(Errno::EISDIR);
        }
        self.remove(folder, name)
    }

    pub(super) fn remove_folder(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let number = self.entry(folder, name)?;
        if !self.folder(number)?.seen.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(folder, name)
    }

    fn remove(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let power = self.operate(Operation::Unlink)?;
        self.folder_mut(folder)?.step(vec![(name.to_owned(), None)]);
        power.answer(())
    }

    pub(super) fn rename(
        &mut self,
        (folder, name): (u64, &OsStr),
        (new_folder, new_name): (u64, &OsStr),
        replace: bool,
    ) -> Result<(), Errno> {
        let number = self.entry(folder, name)?;
        if let Some(replaced) = self.folder(new_folder)?.seen.get(new_name) {
            if !replace {
                return Err(Errno::EEXIST);
            }
            if let Body::Folder(entries) = &self.node(*replaced)?.body
                && !entries.seen.is_empty()
            {
                return Err(Errno::ENOTEMPTY);
            }
        }
        let power = self.operate(Operation::Rename)?;
        let (gone, come) = ((name.to_owned(), None), (new_name.to_owned(), Some(number)));
        if folder == new_folder {
            self.folder_mut(folder)?.step(vec![gone, come]);
        } else {
            // Each of the two folders becomes durable by itself.
            self.folder_mut(folder)?.step(vec![gone]);
            self.folder_mut(new_folder)?.step(vec![come]);
        }
        self.node_mut(number)?.name = new_name.to_owned();
        power.answer(())
    }

    /// Makes all durable that is there.
    pub(super) fn sync_all(&mut self) {
        self.nodes.values_mut().for_each(Node::make_durable);
    }

    /// Gives the power back; what was not synced is lost as told.
    pub(super) fn power_on(&mut self, loss: Loss) {
        let mut dice = match loss {
            Loss::Everything => None,
            Loss::Torn { seed } => Some(Seeded::new(seed)),
        };
        for node in self.nodes.values_mut() {
            node.lose(dice.as_mut());
        }
        let reached = self.reached();
        self.nodes.retain(|number, _| reached.contains(number));
        self.dark = false;
        self.cut_at = None;
    }

    fn reached(&self) -> BTreeSet<u64> {
        let mut reached = BTreeSet::new();
        let mut ahead = vec![ROOT];
        while let Some(number) = ahead.pop() {
            if reached.insert(number)
                && let Some(Body::Folder(entries)) = self.nodes.get(&number).map(|node| &node.body)
            {
                ahead.extend(entries.seen.values());
            }
        }
        reached
    }

    fn operate(&mut self, operation: Operation) -> Result<Power, Errno> {
        self.lit()?;
        self.operations += 1;
        *self.counts.entry(operation).or_default() += 1;
        if self.cut_at.is_some_and(|at| self.operations >= at) {
            self.dark = true;
            return Ok(Power::Goes);
        }
        Ok(Power::On)
    }

    fn is_deaf(&self, number: u64) -> bool {
        let name = self.nodes[&number].name.to_string_lossy();
        self.deaf.iter().any(|part| name.contains(part))
    }

    // What is being changed may be so in the moment of the cut.
    fn node_mut(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number).ok_or(Errno::ENOENT)
    }

    fn folder_mut(&mut self, number: u64) -> Result<&mut Entries, Errno> {
        match &mut self.node_mut(number)?.body {
            Body::Folder(entries) => Ok(entries),
            Body::File(_) | Body::Socket => Err(Errno::ENOTDIR),
        }
    }

    fn content_mut(&mut self, number: u64) -> Result<&mut Content, Errno> {
        let node = self.node_mut(number)?;
        node.modified = SystemTime::now();
        match &mut node.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) | Body::Socket => Err(Errno::EINVAL),
        }
    }
}

impl Node {
    fn new(body: Body, mode: u32, (uid, gid): (u32, u32), name: &OsStr) -> Self {
        let meta = Meta { mode, uid, gid };
        Self {
            body,
            meta,
            modified: SystemTime::now(),
            durable_meta: meta,
            name: name.to_owned(),
        }
    }

    fn make_durable(&mut self) {
        self.durable_meta = self.meta;
        match &mut self.body {
            Body::File(content) => {
                for change in std::mem::take(&mut content.pending) {
                    change.apply(&mut content.durable);
                }
            }
            Body::Folder(entries) => {
                for step in std::mem::take(&mut entries.pending) {
                    take_step(&mut entries.durable, step);
                }
            }
            Body::Socket => {}
        }
    }

    fn lose(&mut self, dice: Option<&mut Seeded>) {
        if let Some(dice) = dice {
            match &mut self.body {
                Body::File(content) => content.keep_some(dice),
                Body::Folder(entries) => entries.keep_some(dice),
                Body::Socket => {}
            }
        }
        self.meta = self.durable_meta;
        match &mut self.body {
            Body::File(content) => {
                content.pending.clear();
                content.seen.clone_from(&content.durable);
            }
            Body::Folder(entries) => {
                entries.pending.clear();
                entries.seen.clone_from(&entries.durable);
            }
            Body::Socket => {}
        }
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    /// Of a file none, all or any pages may have been on their way to the medium.
    fn keep_some(&mut self, dice: &mut Seeded) {
        let odds = match dice.below(4) {
            0 => return,
            1 => Odds::ALL,
            2 => Odds { lost: 1, of: 2 },
            _ => Odds { lost: 1, of: 8 },
        };
        for change in std::mem::take(&mut self.pending) {
            change.land(&mut self.durable, odds, dice);
        }
    }
}

impl Entries {
    fn step(&mut self, step: Step) {
        take_step(&mut self.seen, step.clone());
        self.pending.push(step);
    }

    /// Any subset, in the order in which it was done.
    fn keep_some(&mut self, dice: &mut Seeded) {
        for step in std::mem::take(&mut self.pending) {
            if dice.below(2) == 0 {
                take_step(&mut self.durable, step);
            }
        }
    }
}

fn take_step(entries: &mut BTreeMap<OsString, u64>, step: Step) {
    for (name, number) in step {
        match number {
            Some(number) => entries.insert(name, number),
            None => entries.remove(&name),
        };
    }
}

/// How likely a page that was not synced is lost.
#[derive(Clone, Copy)]
struct Odds {
    lost: u64,
    of: u64,
}

impl Odds {
    const ALL: Self = Self { lost: 0, of: 1 };

    fn lost(self, dice: &mut Seeded) -> bool {
        dice.below(self.of) < self.lost
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(file, *offset, bytes),
            Self::Resize(bytes) => file.resize(*bytes, 0),
        }
    }

    /// Reaches the medium page by page or not; of a page that doesn't, the length may.
    fn land(self, medium: &mut Vec<u8>, odds: Odds, dice: &mut Seeded) {
        match self {
            Self::Write { mut offset, bytes } => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let in_page = PAGE_BYTES - offset % PAGE_BYTES;
                    let (page, behind) = rest.split_at(in_page.min(rest.len()));
                    if !odds.lost(dice) {
                        put(medium, offset, page);
                    } else if dice.below(4) == 0 && medium.len() < offset + page.len() {
                        medium.resize(offset + page.len(), 0);
                    }
                    offset += page.len();
                    rest = behind;
                }
            }
            resize @ Self::Resize(_) => {
                if !odds.lost(dice) {
                    resize.apply(medium);
                }
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset..end].copy_from_slice(bytes);
}

/// A place in a file that lies in memory.
fn in_memory(place: u64) -> Result<usize, Errno> {
    if place > CAPACITY_BYTES {
        return Err(Errno::EFBIG);
    }
    usize::try_from(place).map_err(|_| Errno::EFBIG)
}
