//! The memory that data sets on their way may take, over all associations.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What each association may hold without asking: a CT slice fits, so that peers that use up the common
/// memory with huge or slow instances don't keep a scanner from delivering.
pub(crate) const SHARE_BYTES: usize = 1 << 20;
/// The common memory is handed out in blocks of this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// The common memory.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    blocks: Arc<Semaphore>,
    wait: Duration,
}

impl Budget {
    /// A budget of `bytes`; who finds it used up waits at most `wait`.
    pub(crate) fn new(bytes: u64, wait: Duration) -> Self {
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
        Self {
            blocks: Arc::new(Semaphore::new(blocks.min(Semaphore::MAX_PERMITS))),
            wait,
        }
    }

    /// A lease for one data set, empty at first.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            budget: self.clone(),
            held: None,
        }
    }
}

/// Says that the common memory stayed used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp;

/// The part of the common memory that one data set holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Makes the lease cover a data set of `bytes`; waits for others to give back when it must.
    ///
    /// Waiting can't lock up: each waiter gives up after a while, and then gives back what it holds.
    pub(crate) async fn cover(&mut self, bytes: usize) -> Result<(), UsedUp> {
        let needed = bytes.saturating_sub(SHARE_BYTES).div_ceil(BLOCK_BYTES);
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(missing) = u32::try_from(needed.saturating_sub(held)) else {
            return Err(UsedUp);
        };
        if missing == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.budget.blocks).acquire_many_owned(missing);
        match tokio::time::timeout(self.budget.wait, more).await {
            Ok(Ok(permit)) => match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            },
            Ok(Err(_)) | Err(_) => return Err(UsedUp),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_share_is_free_the_rest_is_bounded_and_comes_back() {
        let budget = Budget::new(4 * BLOCK_BYTES as u64, Duration::from_secs(5));
        let (mut a, mut b) = (budget.lease(), budget.lease());
        assert_eq!(a.cover(SHARE_BYTES + 3 * BLOCK_BYTES).await, Ok(()));
        assert_eq!(b.cover(SHARE_BYTES).await, Ok(()));
        assert_eq!(b.cover(SHARE_BYTES + 2 * BLOCK_BYTES).await, Err(UsedUp));
        drop(a);
        assert_eq!(b.cover(SHARE_BYTES + 4 * BLOCK_BYTES).await, Ok(()));
    }
}
