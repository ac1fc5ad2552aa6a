//! The clocks of a program: wall time for people, a count that never goes back for order.
//!
//! In: the system's clocks. Out: milliseconds.
//! Invariant: the count never decreases while the program runs, whatever happens to the wall clock.
//! May not: be used in a core; cores are given the time.

#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds of the Unix epoch; 0 when the clock stands before it.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since this process first asked.
pub fn count_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_never_goes_back() {
        let first = count_ms();
        assert!(count_ms() >= first);
    }
}
