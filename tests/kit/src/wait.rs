//! Waiting for something that can be seen, with a deadline. The tests sleep nowhere else.

use std::time::{Duration, Instant};

/// How long to leave the processor to others between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` sees something; an error that names `what` after `deadline`.
pub fn until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if begun.elapsed() > deadline {
            anyhow::bail!("waited {deadline:?} in vain for {what}");
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
