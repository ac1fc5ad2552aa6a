//! Disks for tests: one that loses power, fills up and lies about syncs, but never touches a real file.
//!
//! In: operations of a [`Disk`], and what is to go wrong. Out: what a real disk may hold afterwards.
//! Invariant: what was synced, bytes and names, survives every power cut; what was not may be gone, whole or torn.
//! May not: be kinder than a disk.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};

const PAGE_BYTES: u64 = 4096;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct CrashDisk(Arc<Mutex<State>>);

/// What a power cut takes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// Some of it: each name, each write may be there, be gone, or be there in part; the seed decides.
    Torn {
        /// The same seed loses the same.
        seed: u64,
    },
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    /// Handles from before a power cut are dead.
    boots: u64,
    operations: u64,
    syncs: u64,
    cut_at: Option<u64>,
    fail_sync: bool,
    free_bytes: Option<u64>,
}

#[derive(Default)]
struct Inode {
    /// What programs see.
    live: Vec<u8>,
    /// What the medium holds.
    durable: Vec<u8>,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
    unreadable: Vec<u64>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { bytes: usize },
}

impl CrashDisk {
    /// An empty disk with no fault.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power at the `n`-th changing operation from here on, counted from 1: a write is done in part, anything
    /// else not at all, and every later operation fails.
    pub fn cut_at(&self, n: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + n);
    }

    /// How many changing operations (create, write, truncate, remove, sync) were asked for since the disk was made.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many of them were syncs, of bytes or names.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Takes the power away and gives it back: open files are dead, what was not synced is lost as told.
    pub fn power_cycle(&self, loss: Loss) {
        let mut state = self.state();
        let mut dice = Dice(match loss {
            Loss::Everything => 0,
            Loss::Torn { seed } => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        });
        state.boots += 1;
        state.cut_at = None;
        state.fail_sync = false;
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.pending) {
                change.land(&mut inode.durable, &mut dice);
            }
            inode.live = inode.durable.clone();
        }
        let (live, durable) = (state.live.clone(), state.durable.clone());
        for name in live.keys().chain(durable.keys()) {
            if live.get(name) != durable.get(name) && dice.roll(2) == 1 {
                match live.get(name) {
                    Some(inode) => state.durable.insert(name.clone(), *inode),
                    None => state.durable.remove(name),
                };
            }
        }
        state.live = state.durable.clone();
    }

    /// Makes the next sync of bytes fail as a kernel does: what was written stays visible, is taken for clean,
    /// and is not on the medium.
    pub fn fail_next_sync(&self) {
        self.state().fail_sync = true;
    }

    /// Lets only so many bytes more be written; `None`: no limit.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.state().free_bytes = bytes;
    }

    /// Turns one bit of a file over, on the medium and in memory.
    pub fn rot(&self, name: &str, offset: usize) {
        self.alter(name, |bytes| bytes[offset] ^= 1);
    }

    /// Turns one bit of a file over on the medium alone; who reads it sees so only after [`DiskFile::forget_cached`].
    pub fn rot_medium(&self, name: &str, offset: usize) {
        let mut state = self.state();
        let inode = state.live[name];
        state.inodes[inode].durable[offset] ^= 1;
    }

    /// Makes a page of 4 KiB unreadable: a read that touches it fails.
    pub fn make_unreadable(&self, name: &str, page: u64) {
        let mut state = self.state();
        let inode = state.live[name];
        state.inodes[inode].unreadable.push(page);
    }

    /// Whether the medium holds these bytes anywhere, in files that were removed as well.
    pub fn medium_has(&self, bytes: &[u8]) -> bool {
        let state = self.state();
        let mut files = state.inodes.iter().map(|inode| &inode.durable);
        files.any(|file| file.windows(bytes.len()).any(|window| window == bytes))
    }

    /// Changes a file on the medium and in memory.
    pub fn alter(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.live[name];
        change(&mut state.inodes[inode].live);
        change(&mut state.inodes[inode].durable);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, inode: usize, boots: u64) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile {
            disk: self.clone(),
            inode,
            boots,
        })
    }
}

impl State {
    fn powered(&self) -> io::Result<()> {
        if self.cut_at.is_some_and(|n| self.operations >= n) {
            Err(io::Error::other("the power is cut"))
        } else {
            Ok(())
        }
    }

    /// Counts a changing operation, and fails if the power is cut at it or was cut before.
    fn operate(&mut self) -> io::Result<()> {
        self.powered()?;
        self.operations += 1;
        self.powered()
    }
}

impl Disk for CrashDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.operate()?;
        if state.live.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.live.insert(name.to_owned(), inode);
        Ok(self.handle(inode, state.boots))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.powered()?;
        let inode = state.live.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(*inode, state.boots))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state
            .live
            .remove(name)
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.powered()?;
        Ok(state.live.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.syncs += 1;
        state.durable = state.live.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free_bytes.unwrap_or(u64::MAX))
    }
}

struct CrashFile {
    disk: CrashDisk,
    inode: usize,
    boots: u64,
}

impl CrashFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.boots == self.boots {
            Ok(state)
        } else {
            Err(io::Error::other("opened before the power cut"))
        }
    }
}

impl DiskFile for CrashFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.powered()?;
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut outcome = state.operate();
        if outcome.is_err() {
            bytes.truncate(bytes.len() / 2);
        } else if let Some(free) = state.free_bytes {
            if free < bytes.len() as u64 {
                bytes.truncate(at(free));
                outcome = Err(io::ErrorKind::StorageFull.into());
            }
            state.free_bytes = Some(free - bytes.len() as u64);
        }
        state.inodes[self.inode].change(Change::Write {
            offset: at(offset),
            bytes,
        });
        outcome
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state()?;
        state.powered()?;
        let Inode {
            live, unreadable, ..
        } = &state.inodes[self.inode];
        let touched = offset..offset + buffer.len() as u64;
        let hit =
            |page: &u64| touched.start < (page + 1) * PAGE_BYTES && page * PAGE_BYTES < touched.end;
        if unreadable.iter().any(hit) {
            return Err(io::Error::other("the medium does not give it back"));
        }
        let found = live
            .get(at(offset)..at(offset) + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let state = self.state()?;
        state.powered()?;
        Ok(state.inodes[self.inode].live.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.operate()?;
        let freed = state.inodes[self.inode]
            .live
            .len()
            .saturating_sub(at(bytes)) as u64;
        state.free_bytes = state.free_bytes.map(|free| free + freed);
        state.inodes[self.inode].change(Change::Truncate { bytes: at(bytes) });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.operate()?;
        state.syncs += 1;
        let failed = std::mem::take(&mut state.fail_sync);
        let inode = &mut state.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        if failed {
            return Err(io::Error::other("the medium did not take it"));
        }
        for change in pending {
            change.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn forget_cached(&self, _: Range<u64>) -> io::Result<()> {
        let mut state = self.state()?;
        let inode = &mut state.inodes[self.inode];
        let mut seen = inode.durable.clone();
        for change in &inode.pending {
            change.apply(&mut seen);
        }
        inode.live = seen;
        Ok(())
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                file.resize(file.len().max(end), 0);
                file[*offset..end].copy_from_slice(bytes);
            }
            Self::Truncate { bytes } => file.truncate(*bytes),
        }
    }

    /// Reaches the medium or not, as the dice will; bytes that were to be there may come out as zeros.
    fn land(self, medium: &mut Vec<u8>, dice: &mut Dice) {
        match (dice.roll(4), self) {
            (0, _) => {}
            (1, Self::Write { offset, mut bytes }) => {
                bytes.truncate(dice.roll(bytes.len() + 1));
                Self::Write { offset, bytes }.apply(medium);
            }
            (2, Self::Write { offset, mut bytes }) => {
                let kept = dice.roll(bytes.len() + 1);
                bytes[kept..].fill(0);
                Self::Write { offset, bytes }.apply(medium);
            }
            (_, change) => change.apply(medium),
        }
    }
}

/// A xorshift; once 0, it rolls 0 for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        at((self.0 >> 11) % sides as u64)
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a disk in memory is no larger than memory")
}
