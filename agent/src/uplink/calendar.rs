//! What the wall clock is worth: it is believed as long as nothing contradicts it.
//!
//! A box has no supervisor's clock to ask, its battery may be flat, and people set clocks. So a time
//! before this program was made is not believed; nor one that lies before a time that was believed
//! earlier; nor one that a running box sees leap. The hub's clock, where both agree, settles it.

/// A clock that shows less has never been set: 2026-01-01.
const MADE_MS: u64 = 1_767_225_600_000;
/// How far a clock may be off, or be set, without anybody minding.
const SLACK_MS: u64 = 5 * 60_000;

/// What the clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds that never go back while the program runs.
    pub count_ms: u64,
    /// Milliseconds of the Unix epoch, as the clock says.
    pub wall_ms: u64,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        Self {
            count_ms: clock::count_ms(),
            wall_ms: clock::wall_ms(),
        }
    }
}

/// Judges the wall clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Calendar {
    /// The latest time that was believed.
    newest_ms: u64,
    last: Option<Now>,
    is_doubted: bool,
}

impl Calendar {
    /// Goes on from the latest time that was believed before the program started.
    pub(super) fn new(newest_ms: u64) -> Self {
        Self {
            newest_ms,
            ..Self::default()
        }
    }

    pub(super) const fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// The wall time, if it is believed.
    pub(super) fn look(&mut self, now: Now) -> Option<u64> {
        if let Some(last) = self.last.replace(now) {
            let ran_ms = now.count_ms.saturating_sub(last.count_ms);
            let expected_ms = last.wall_ms.saturating_add(ran_ms);
            // One that was never set, and is set, has not leapt.
            if last.wall_ms >= MADE_MS && now.wall_ms > expected_ms.saturating_add(SLACK_MS) {
                self.is_doubted = true;
            }
        }
        let is_back = now.wall_ms.saturating_add(SLACK_MS) < self.newest_ms;
        if now.wall_ms < MADE_MS || is_back || self.is_doubted {
            return None;
        }
        self.newest_ms = self.newest_ms.max(now.wall_ms);
        Some(now.wall_ms)
    }

    /// The hub says what time it is: where that agrees with our clock, ours is right, whatever was
    /// believed before.
    pub(super) fn compare(&mut self, now: Now, hub_wall_ms: u64) {
        if now.wall_ms >= MADE_MS && now.wall_ms.abs_diff(hub_wall_ms) <= SLACK_MS {
            self.is_doubted = false;
            self.newest_ms = now.wall_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn now(count_ms: u64, wall_ms: u64) -> Now {
        Now { count_ms, wall_ms }
    }

    #[test]
    fn a_clock_that_was_never_set_is_not_believed_and_may_be_set_once() {
        let mut calendar = Calendar::new(0);
        assert_eq!(calendar.look(now(0, 1000)), None);
        assert_eq!(calendar.look(now(1000, MADE_MS + DAY)), Some(MADE_MS + DAY));
    }

    #[test]
    fn a_clock_that_goes_back_is_not_believed_before_it_has_caught_up() {
        let mut calendar = Calendar::new(MADE_MS + DAY);
        assert_eq!(calendar.look(now(0, MADE_MS)), None);
        assert!(calendar.look(now(DAY, MADE_MS + DAY)).is_some());
    }

    #[test]
    fn a_leap_is_not_believed_before_the_hub_agrees() {
        let mut calendar = Calendar::new(0);
        assert!(calendar.look(now(0, MADE_MS)).is_some());
        assert_eq!(calendar.look(now(1000, MADE_MS + 9 * DAY)), None);
        assert_eq!(calendar.look(now(2000, MADE_MS + 1000)), None);
        calendar.compare(now(2000, MADE_MS + 9 * DAY), MADE_MS);
        assert_eq!(calendar.look(now(2000, MADE_MS + 9 * DAY)), None);
        calendar.compare(now(3000, MADE_MS), MADE_MS + 1000);
        assert!(calendar.look(now(3000, MADE_MS)).is_some());
    }
}
