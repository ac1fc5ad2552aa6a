//! Fault file system: a real, mounted file system in memory; its power can be cut at any operation.
//!
//! In: what the kernel asks on behalf of programs, and when the power is to go. Out: what a disk
//! may hold after the cut.
//! Invariant: bytes survive that were synced by `fsync` or `fdatasync` of their file, and names that
//! were synced by `fsync` of their folder; anything else may be gone, each page and each name by
//! itself, as the seed has it.
//! May not: be kinder than POSIX, and make a name durable because its file was synced.
//!
//! Needs root and `/dev/fuse`. The process that mounts it serves it, and so must never map a file of
//! it into its memory, as SQLite does: it would wait for itself, and not even a kill would end it.
//! Whoever has a file open when the power goes gets `EIO` for all it asks from there on; it has to be
//! ended before the power is given back.

mod disk;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use fuser::{BackgroundSession, Config, MountOption};

use crate::process::finish;
use disk::Disk;
pub use disk::Operation;
use server::Server;

const DEADLINE: Duration = Duration::from_secs(60);

/// What a power cut takes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// Some of it: each name and each page of 4 KiB may be there or not.
    Torn {
        /// The same seed loses the same of the same.
        seed: u64,
    },
}

/// A mounted file system in memory. Dropping it unmounts it, whoever uses it.
pub struct FaultFs {
    disk: Arc<Mutex<Disk>>,
    mounted: PathBuf,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Mounts an empty one on a folder.
    pub fn mount(folder: &Path) -> anyhow::Result<Self> {
        let mut fault_fs = Self {
            disk: Arc::new(Mutex::new(Disk::new())),
            mounted: folder.to_owned(),
            session: None,
        };
        fault_fs.plug_in()?;
        Ok(fault_fs)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// How many operations have changed something or made it durable so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations()
    }

    /// The same by their kind.
    pub fn counts(&self) -> BTreeMap<Operation, u64> {
        self.disk().counts()
    }

    /// Cuts the power at the `operations`-th such operation from here on, counted from 1. It may be
    /// done in part, and is answered with `EIO` like all that come after it.
    pub fn cut_after(&self, operations: u64) {
        self.disk().cut_after(operations);
    }

    /// Cuts the power now.
    pub fn power_cut(&self) {
        self.disk().cut_now();
    }

    /// Whether the power is cut.
    pub fn is_dark(&self) -> bool {
        self.disk().is_dark()
    }

    /// Answers from here on that files and folders with this in their names are synced, and syncs none.
    pub fn ignore_syncs_of(&self, part: &str) {
        self.disk().ignore_syncs_of(part);
    }

    /// Makes durable all that is there; a `sync` that reaches the medium.
    pub fn sync_all(&self) {
        self.disk().sync_all();
    }

    /// Gives the power back: what was not synced is lost as told, and the kernel remembers nothing.
    /// Cuts it before if it is not.
    pub fn power_on(&mut self, loss: Loss) -> anyhow::Result<()> {
        self.power_cut();
        self.pull_out()?;
        self.disk().power_on(loss);
        self.plug_in()
    }

    fn plug_in(&mut self) -> anyhow::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("fault-fs".to_owned()),
            MountOption::DefaultPermissions,
        ];
        let server = Server(Arc::clone(&self.disk));
        let session = fuser::spawn_mount(server, &self.mounted, &config);
        self.session = Some(session.context("cannot mount the fault file system")?);
        Ok(())
    }

    fn pull_out(&mut self) -> anyhow::Result<()> {
        unmount(&self.mounted, &[]).context("somebody still uses the fault file system")?;
        let session = self.session.take().context("it is not mounted")?;
        Ok(session.join()?)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        if self.session.is_some() {
            // Lazily, as a program may still be ending when a test has failed. Who waits for an
            // answer gets one.
            let _ = unmount(&self.mounted, &["--lazy"]);
        }
    }
}

fn unmount(folder: &Path, options: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("umount");
    command.args(options).arg(folder);
    finish(command, DEADLINE)?.success().map(drop)
}
