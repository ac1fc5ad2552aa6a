//! How far the work on a stick has come, for those who look on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long those who look on wait between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Counted by whoever works, read by whoever looks on.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    bundles: AtomicU64,
}

impl Progress {
    /// How often it is worth looking.
    pub const LOOK_INTERVAL: Duration = LOOK_INTERVAL;

    /// The one that the program's work is counted in.
    pub fn of_this_program() -> Arc<Self> {
        static PROGRESS: OnceLock<Arc<Progress>> = OnceLock::new();
        Arc::clone(PROGRESS.get_or_init(Arc::default))
    }

    /// Begins with so many bytes to write or read; what was counted before is forgotten.
    pub fn begin(&self, bytes_total: u64) {
        self.bundles.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.bytes_total.store(bytes_total, Ordering::Relaxed);
    }

    /// A bundle is done.
    pub fn add_bundle(&self) {
        self.bundles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bundles done, bytes done, bytes in all.
    pub fn read(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            read(&self.bundles),
            read(&self.bytes),
            read(&self.bytes_total),
        )
    }
}
