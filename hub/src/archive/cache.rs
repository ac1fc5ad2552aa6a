//! Groups that were read lately, decoded as far as they were read; in memory only.
//!
//! Whoever reads one slice mostly reads its neighbours next, and what those are predicted from is
//! here then. The groups that were not read for the longest time go first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::{GroupKey, OpenGroup};

/// The groups, the one that was read last in front; together they have no more bytes than they may.
pub(super) struct Cache {
    bytes_max: u64,
    groups: Mutex<Vec<Cached>>,
}

struct Cached {
    key: GroupKey,
    group: Arc<Mutex<OpenGroup>>,
    bytes: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            groups: Mutex::default(),
        }
    }

    /// The group, if it is here.
    pub(super) fn find(&self, key: GroupKey) -> Option<Arc<Mutex<OpenGroup>>> {
        let groups = lock(&self.groups);
        let cached = groups.iter().find(|cached| cached.key == key)?;
        Some(Arc::clone(&cached.group))
    }

    /// Keeps a group that was read, at the cost of those that were not read for longer.
    pub(super) fn keep(&self, key: GroupKey, group: Arc<Mutex<OpenGroup>>, bytes: u64) {
        let mut groups = lock(&self.groups);
        groups.retain(|cached| cached.key != key);
        groups.insert(0, Cached { key, group, bytes });
        let mut room = self.bytes_max;
        groups.retain(|cached| match room.checked_sub(cached.bytes) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        });
    }

    /// Lets go of a group that could not be read.
    pub(super) fn forget(&self, key: GroupKey) {
        lock(&self.groups).retain(|cached| cached.key != key);
    }
}

/// Nothing panics while it holds one of these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
