//! One uplink: what is known of it, what may cross it now, and why not more.

use study::Priority;

use super::budget::{Account, Cover, Renewal, Room};
use super::chooser::LOOK_MS;
use super::hours::{Passes, Sky, windows_open_in_ms};
use super::settings::Uplink;
use super::words::{Order, Pause, Still};

/// Bytes that a call costs at most which nobody answers.
pub(super) const CALL_BYTES: u64 = 16 << 10;
/// Bytes that a look may miss, whatever the rate.
const AHEAD_BYTES: u64 = 4096;
/// The least that the disk is told of ahead.
const LEASE_BYTES: u64 = 64 << 10;
/// The first wait after a call that was not answered; it doubles from there.
const REDIAL_MS: u64 = 500;
/// How long an uplink that failed comes after the others; doubles when it fails again soon.
const SETTLE_MS: u64 = 60_000;
const SETTLE_DOUBLINGS_MAX: u32 = 4;
/// How long before the end of a pass nothing more is begun, and four round trips.
const WIND_DOWN_MS: u64 = 2000;

/// Whether an uplink may be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may, up to a class; `less` says why not for everything.
    Open {
        ceiling: Option<Priority>,
        less: Option<(Still, u64)>,
    },
    /// It may not, for so long.
    Closed { still: Still, in_ms: u64 },
}

/// One uplink and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) uplink: Uplink,
    pub(super) account: Account,
    /// Its contact plan; none: it is there always.
    pub(super) passes: Option<Passes>,
    /// What it was last seen to deliver, in kbit/s, and its round trip; 0 until known.
    pub(super) rate_kbits: u64,
    pub(super) rtt_ms: u64,
    /// When that was, by the latest time of the clock that was believed.
    pub(super) seen_ms: u64,
    /// Bytes that crossed between the last two looks.
    pub(super) last_look_bytes: u64,
    pub(super) failures: u32,
    pub(super) retry_at_ms: u64,
    pub(super) flaps: u32,
    pub(super) settled_at_ms: u64,
}

impl Line {
    pub(super) fn new(uplink: Uplink, account: Account) -> Self {
        Self {
            uplink,
            account,
            passes: None,
            rate_kbits: 0,
            rtt_ms: 0,
            seen_ms: 0,
            last_look_bytes: 0,
            failures: 0,
            retry_at_ms: 0,
            flaps: 0,
            settled_at_ms: 0,
        }
    }

    /// The most that can cross before it is looked again.
    pub(super) fn ahead_max(&self) -> u64 {
        AHEAD_BYTES + self.rate_kbits * LOOK_MS / 8
    }

    /// What is likely to cross before it is looked again: as much as before.
    fn ahead(&self) -> u64 {
        AHEAD_BYTES + self.last_look_bytes
    }

    /// What the disk is told of ahead: a second of the link, for which a power cut counts as used.
    pub(super) fn cover(&self) -> Cover {
        let lease = LEASE_BYTES.max(CALL_BYTES + 4 * self.ahead_max());
        self.account.cover(lease, self.uplink.limits.price)
    }

    pub(super) fn is_covered(&self, bytes: u64) -> bool {
        !self.uplink.limits.bind() || self.account.is_covered(bytes)
    }

    fn wind_down_ms(&self) -> u64 {
        WIND_DOWN_MS + 4 * self.rtt_ms
    }

    /// It comes after the others for a while.
    pub(super) fn unsettle(&mut self, now_ms: u64) {
        self.settled_at_ms = now_ms + (SETTLE_MS << self.flaps.min(SETTLE_DOUBLINGS_MAX));
        self.flaps += 1;
    }

    /// It is called again after a while.
    pub(super) fn back_off(&mut self, now_ms: u64, most_ms: u64) {
        let wait_ms = (REDIAL_MS << self.failures.min(20)).min(most_ms);
        self.failures += 1;
        // Some earlier than others, so that the boxes of a fleet do not all call at one moment.
        self.retry_at_ms = now_ms + wait_ms - now_ms % (wait_ms / 4 + 1);
    }

    /// Whether an uplink may be used, by what a person has said, by its plan, its budget and its
    /// hours. Where no clock is believed, plan and hours hold nothing back: the budget does.
    pub(super) fn verdict(&self, order: &Order, wall_ms: Option<u64>) -> Verdict {
        let uplink = &self.uplink;
        let at_ms = |in_ms: u64| wall_ms.map(|ms| ms.saturating_add(in_ms));
        let closed = |still, in_ms| Verdict::Closed { still, in_ms };
        if order.pause == Pause::All {
            return closed(Still::Paused, u64::MAX);
        }
        if order.only.as_ref().is_some_and(|only| *only != uplink.name) {
            return closed(Still::NotChosen, u64::MAX);
        }
        let mut limit = Limited::default();
        if let (Some(passes), Some(ms)) = (&self.passes, wall_ms) {
            match passes.sky(ms, uplink.guard_ms) {
                Sky::Wait { next_ms } => {
                    let in_ms = next_ms.map_or(u64::MAX, |next| next - ms);
                    return closed(Still::WaitingForContact { at_ms: next_ms }, in_ms);
                }
                Sky::Pass { until_ms } if until_ms - ms <= self.wind_down_ms() => {
                    let still = Still::WaitingForContact { at_ms: None };
                    limit.to(None, still, until_ms - ms);
                }
                Sky::Pass { .. } => {}
            }
        }
        let local_ms = wall_ms.map(|ms| uplink.offset.local_ms(ms));
        match self.account.room(&uplink.limits, self.ahead(), local_ms) {
            Room::All => {}
            Room::Reserve(Renewal { in_ms }) => {
                let until_ms = at_ms(in_ms);
                limit.to(
                    Some(Priority::Stat),
                    Still::BudgetReserved { until_ms },
                    in_ms,
                );
            }
            Room::None(Renewal { in_ms }) => {
                let until_ms = at_ms(in_ms);
                return closed(Still::BudgetUsed { until_ms }, in_ms);
            }
        }
        if let Some(in_ms) = local_ms.and_then(|ms| windows_open_in_ms(&uplink.windows, ms)) {
            let still = Still::OutsideWindow {
                until_ms: at_ms(in_ms),
            };
            match uplink.outside {
                Some(outside) => limit.to(Some(outside), still, in_ms),
                None => return closed(still, in_ms),
            }
        }
        if order.pause == Pause::ExceptStat {
            limit.to(Some(Priority::Stat), Still::PausedExceptStat, u64::MAX);
        }
        Verdict::Open {
            ceiling: limit.ceiling,
            less: limit.less,
        }
    }
}

/// How far an uplink is open: the narrowest of its limits.
struct Limited {
    ceiling: Option<Priority>,
    less: Option<(Still, u64)>,
}

impl Default for Limited {
    fn default() -> Self {
        Self {
            ceiling: Some(Priority::Bulk),
            less: None,
        }
    }
}

impl Limited {
    fn to(&mut self, ceiling: Option<Priority>, still: Still, in_ms: u64) {
        // `None` is less than any class, and the most urgent class is the narrowest.
        if ceiling < self.ceiling {
            self.ceiling = ceiling;
            self.less = Some((still, in_ms));
        }
    }
}

pub(super) fn ceiling_of(verdict: &Verdict) -> Option<Priority> {
    match verdict {
        Verdict::Open { ceiling, .. } => *ceiling,
        Verdict::Closed { .. } => None,
    }
}
