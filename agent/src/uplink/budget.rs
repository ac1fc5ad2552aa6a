//! What an uplink has used of its budget, in bytes and in money, by the day and by the month.
//!
//! A new day begins with a later day of a clock that is believed, or after 24 hours of running: a
//! clock that goes back gives no day a second time, and one that nobody believes gives no day at
//! all. Bytes are used only up to what the disk has been told beforehand; what was told and not used
//! counts as used when the program did not end in order.

use identity::calendar::{end_of_day, format_date};

use super::hours::DAY_MS;
use super::money::Money;

/// A month of running time, when no clock is believed.
const MONTH_RUN_MS: u64 = 31 * DAY_MS;

/// What may be used in a day or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Bytes; none: any number.
    pub bytes: Option<u64>,
    /// Money; none: any amount.
    pub money: Option<Money>,
}

/// What may be used of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// In a day.
    pub day: Limit,
    /// In a month.
    pub month: Limit,
    /// What a mebibyte costs.
    pub price: Money,
    /// Part of each limit that is kept for receipts, reports and STAT.
    pub reserve_percent: u8,
}

impl Limits {
    /// Whether there is any limit.
    pub fn bind(&self) -> bool {
        *self
            != Self {
                day: Limit::default(),
                month: Limit::default(),
                ..*self
            }
    }
}

/// What was used in a day or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// The number of the local day or month; none while no clock is believed.
    pub number: Option<u64>,
    /// How long the program ran in it.
    pub run_ms: u64,
    /// Bytes on the link, both ways.
    pub bytes: u64,
    /// What they cost, in the unit of [`Money::cost_of`].
    pub cost: u64,
}

impl Period {
    /// A new period where one is due, or the number of this one where that was not known.
    fn roll(&mut self, number: Option<u64>, run_ms_max: u64) -> bool {
        let has_run = self.run_ms >= run_ms_max;
        match (self.number, number) {
            (Some(ours), Some(number)) if number == ours => return false,
            (Some(ours), Some(number)) if number > ours => {}
            (None, Some(_)) if !has_run => {
                self.number = number;
                return false;
            }
            _ if !has_run => return false,
            _ => {}
        }
        *self = Self {
            number,
            ..Self::default()
        };
        true
    }

    fn spend(&mut self, bytes: u64, price: Money) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.cost = self.cost.saturating_add(price.cost_of(bytes));
    }

    /// Whether so many bytes more would go over a part of a limit.
    fn is_over(&self, limit: &Limit, ahead: u64, price: Money, percent: u8) -> bool {
        let part =
            |whole: u64| whole / 100 * u64::from(percent) + whole % 100 * u64::from(percent) / 100;
        let bytes = self.bytes.saturating_add(ahead);
        let cost = self.cost.saturating_add(price.cost_of(ahead));
        limit.bytes.is_some_and(|limit| bytes > part(limit))
            || limit
                .money
                .is_some_and(|limit| cost > part(limit.as_cost()))
    }
}

/// When a budget is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Renewal {
    /// In how many milliseconds, at the latest, if the program keeps running.
    pub(super) in_ms: u64,
}

/// What a budget has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Anything.
    All,
    /// Receipts, reports and STAT.
    Reserve(Renewal),
    /// Nothing.
    None(Renewal),
}

/// What is told to the disk before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cover {
    pub(super) day: Period,
    pub(super) month: Period,
    /// Which day and month it is told of.
    rolls: u64,
}

/// What was used of one uplink.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) day: Period,
    pub(super) month: Period,
    rolls: u64,
    /// Bytes of this day up to which the disk has been told; from an earlier day, none.
    covered: u64,
}

impl Account {
    /// Goes on from what the disk was told.
    pub(super) fn new(day: Period, month: Period) -> Self {
        Self {
            day,
            month,
            rolls: 0,
            covered: day.bytes,
        }
    }

    /// Begins a new day or month where one is due, after the program ran for so long.
    pub(super) fn roll(&mut self, local_ms: Option<u64>, ran_ms: u64) {
        self.day.run_ms = self.day.run_ms.saturating_add(ran_ms);
        self.month.run_ms = self.month.run_ms.saturating_add(ran_ms);
        let is_new_day = self.day.roll(local_ms.map(|ms| ms / DAY_MS), DAY_MS);
        let is_new_month = self.month.roll(local_ms.map(month_number), MONTH_RUN_MS);
        if is_new_day || is_new_month {
            self.rolls += 1;
            self.covered = 0;
        }
    }

    pub(super) fn spend(&mut self, bytes: u64, price: Money) {
        self.day.spend(bytes, price);
        self.month.spend(bytes, price);
    }

    /// What the limits have room for, if so many bytes more are surely used.
    pub(super) fn room(&self, limits: &Limits, ahead: u64, local_ms: Option<u64>) -> Room {
        let over = |percent| {
            let is_over =
                |period: &Period, limit| period.is_over(limit, ahead, limits.price, percent);
            let day = is_over(&self.day, &limits.day).then(|| self.day_ends(local_ms));
            let month = is_over(&self.month, &limits.month).then(|| self.month_ends(local_ms));
            day.max(month)
        };
        match (over(100), over(100 - limits.reserve_percent.min(100))) {
            (Some(renewal), _) => Room::None(renewal),
            (None, Some(renewal)) => Room::Reserve(renewal),
            (None, None) => Room::All,
        }
    }

    fn day_ends(&self, local_ms: Option<u64>) -> Renewal {
        let by_run = DAY_MS.saturating_sub(self.day.run_ms);
        let in_ms = match (self.day.number, local_ms) {
            (Some(day), Some(ms)) if ms / DAY_MS == day => DAY_MS - ms % DAY_MS,
            _ => by_run,
        };
        Renewal { in_ms }
    }

    fn month_ends(&self, local_ms: Option<u64>) -> Renewal {
        let by_run = MONTH_RUN_MS.saturating_sub(self.month.run_ms);
        let in_ms = match (self.month.number, local_ms) {
            (Some(month), Some(ms)) if month_number(ms) == month => {
                month_start(month + 1).saturating_sub(ms)
            }
            _ => by_run,
        };
        Renewal { in_ms }
    }

    /// Whether the next bytes would be more than the disk was told of.
    pub(super) fn is_covered(&self, ahead: u64) -> bool {
        self.day.bytes.saturating_add(ahead) <= self.covered
    }

    /// What to tell the disk so that so many bytes more may be used.
    pub(super) fn cover(&self, lease: u64, price: Money) -> Cover {
        let (mut day, mut month) = (self.day, self.month);
        day.spend(lease, price);
        month.spend(lease, price);
        Cover {
            day,
            month,
            rolls: self.rolls,
        }
    }

    /// The disk is going to be told what was used, and nothing ahead.
    pub(super) fn settle(&mut self) -> Cover {
        self.covered = self.day.bytes;
        self.cover(0, Money::default())
    }

    /// The disk has been told.
    pub(super) fn handle_covered(&mut self, cover: &Cover) {
        if cover.rolls == self.rolls {
            self.covered = self.covered.max(cover.day.bytes);
        }
    }
}

/// Counts the months of the local calendar.
fn month_number(local_ms: u64) -> u64 {
    let date = format_date(local_ms);
    let mut parts = date.split('-').map_while(|part| part.parse::<u64>().ok());
    let (year, month) = (parts.next().unwrap_or(0), parts.next().unwrap_or(1));
    year * 12 + month - 1
}

/// When a month begins in the local calendar.
fn month_start(number: u64) -> u64 {
    let first = format!("{:04}-{:02}-01", number / 12, number % 12 + 1);
    end_of_day(&first).map_or(u64::MAX, |ms| ms + 1 - DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon of 2026-11-22.
    const NOON: u64 = 1_795_348_800_000;
    const HOUR: u64 = 3_600_000;

    fn limits(day: u64) -> Limits {
        Limits {
            day: Limit {
                bytes: Some(day),
                money: None,
            },
            reserve_percent: 10,
            ..Limits::default()
        }
    }

    fn account() -> Account {
        let mut account = Account::default();
        account.roll(Some(NOON), 0);
        account
    }

    #[test]
    fn the_last_part_is_kept_and_then_nothing_is_left() {
        let mut account = account();
        let room = |account: &Account| account.room(&limits(1000), 0, Some(NOON));
        account.spend(900, Money::default());
        assert_eq!(room(&account), Room::All);
        account.spend(1, Money::default());
        let renewal = Renewal { in_ms: 12 * HOUR };
        assert_eq!(room(&account), Room::Reserve(renewal));
        account.spend(100, Money::default());
        assert_eq!(room(&account), Room::None(renewal));
        account.roll(Some(NOON + 12 * HOUR), 12 * HOUR);
        assert_eq!(room(&account), Room::All);
    }

    #[test]
    fn money_is_a_limit_like_bytes() {
        let mut account = account();
        let limits = Limits {
            month: Limit {
                bytes: None,
                money: Some("10".parse().unwrap()),
            },
            price: "5".parse().unwrap(),
            ..Limits::default()
        };
        account.spend(2 << 20, limits.price);
        assert_eq!(account.room(&limits, 0, Some(NOON)), Room::All);
        account.spend(1, limits.price);
        // Eight days and a half to December.
        let renewal = Renewal {
            in_ms: 8 * DAY_MS + 12 * HOUR,
        };
        assert_eq!(account.room(&limits, 0, Some(NOON)), Room::None(renewal));
    }

    #[test]
    fn no_clock_gives_a_day_twice() {
        let mut account = account();
        account.spend(1001, Money::default());
        for local_ms in [Some(NOON - 2 * DAY_MS), None, Some(NOON), Some(NOON + HOUR)] {
            account.roll(local_ms, HOUR);
            assert_eq!(account.day.bytes, 1001, "{local_ms:?}");
        }
        account.roll(None, 20 * HOUR);
        assert_eq!((account.day.number, account.day.bytes), (None, 0));
        // Which day it is comes out later: that is no new one.
        account.spend(7, Money::default());
        account.roll(Some(NOON + DAY_MS), HOUR);
        assert_eq!(account.day.number, Some((NOON + DAY_MS) / DAY_MS));
        assert_eq!(account.day.bytes, 7);
    }

    #[test]
    fn what_the_disk_was_not_told_of_is_not_used() {
        let mut account = account();
        assert!(!account.is_covered(1));
        let cover = account.cover(100, Money::default());
        account.handle_covered(&cover);
        account.spend(60, Money::default());
        assert!(account.is_covered(40) && !account.is_covered(41));

        // A power cut: all that was covered counts as used.
        let after = Account::new(cover.day, cover.month);
        assert_eq!(after.day.bytes, 100);

        // What was told of yesterday covers nothing today.
        account.roll(Some(NOON + DAY_MS), HOUR);
        account.handle_covered(&cover);
        assert!(!account.is_covered(1));
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let first = |number| format_date(month_start(number));
        let november = month_number(NOON);
        assert_eq!(first(november), "2026-11-01");
        assert_eq!(first(november + 2), "2027-01-01");
    }
}
