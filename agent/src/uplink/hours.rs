//! When an uplink may be used: hours of the day, and passes of a satellite.

use identity::calendar::end_of_day;
use thiserror::Error;

pub(super) const MINUTE_MS: u64 = 60_000;
pub(super) const DAY_MS: u64 = 86_400_000;
/// The longest contact plan that is read.
pub const PLAN_BYTES_MAX: u64 = 1 << 20;

/// Says why hours or a plan cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HoursError {
    /// Not a span of hours.
    #[error("`{0}` is not written like `22:00-06:00`")]
    Window(String),
    /// Not an offset.
    #[error("`{0}` is not written like `+03:00`, from -14:00 to +14:00")]
    Offset(String),
    /// Not a pass.
    #[error(
        "line {line} is not written like `2026-11-22T03:10:00Z 2026-11-22T03:21:30Z`, with the end \
         after the start"
    )]
    Pass {
        /// Which line, from 1.
        line: usize,
    },
}

/// How far the local time is from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offset {
    minutes: u16,
    is_west: bool,
}

impl Offset {
    /// Reads `+03:00` or `-05:30`.
    pub fn parse(text: &str) -> Result<Self, HoursError> {
        let wrong = || HoursError::Offset(text.to_owned());
        let (sign, rest) = text.split_at_checked(1).ok_or_else(wrong)?;
        let minutes = minute_of_day(rest).ok_or_else(wrong)?;
        if minutes > 14 * 60 || !["+", "-"].contains(&sign) {
            return Err(wrong());
        }
        Ok(Self {
            minutes,
            is_west: sign == "-",
        })
    }

    /// The local time, as milliseconds of an epoch of its own.
    pub fn local_ms(self, wall_ms: u64) -> u64 {
        let offset_ms = u64::from(self.minutes) * MINUTE_MS;
        if self.is_west {
            wall_ms.saturating_sub(offset_ms)
        } else {
            wall_ms.saturating_add(offset_ms)
        }
    }
}

/// Hours of the local day; one that ends before it begins goes over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from_minute: u16,
    to_minute: u16,
}

impl Window {
    /// Reads `22:00-06:00`.
    pub fn parse(text: &str) -> Result<Self, HoursError> {
        let ends = text.split_once('-');
        let window = ends.and_then(|(from, to)| {
            Some(Self {
                from_minute: minute_of_day(from)?,
                to_minute: minute_of_day(to)?,
            })
        });
        window
            .filter(|window| window.from_minute != window.to_minute)
            .ok_or_else(|| HoursError::Window(text.to_owned()))
    }

    /// How long until this window opens, if `local_ms` is not in it.
    fn opens_in_ms(self, local_ms: u64) -> Option<u64> {
        let at = local_ms % DAY_MS;
        let (from, to) = (
            u64::from(self.from_minute) * MINUTE_MS,
            u64::from(self.to_minute) * MINUTE_MS,
        );
        let is_in = if from < to {
            (from..to).contains(&at)
        } else {
            at >= from || at < to
        };
        (!is_in).then(|| (from + DAY_MS - at) % DAY_MS)
    }
}

/// How long until one of the windows opens; none when one is open, or when there are none.
pub(super) fn windows_open_in_ms(windows: &[Window], local_ms: u64) -> Option<u64> {
    let waits: Option<Vec<u64>> = windows.iter().map(|w| w.opens_in_ms(local_ms)).collect();
    waits?.into_iter().min()
}

/// A satellite's passes: when there can be a contact at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passes(Vec<(u64, u64)>);

/// What a contact plan says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sky {
    /// A pass, which may be used until this wall time.
    Pass {
        /// Its end, without the guard time.
        until_ms: u64,
    },
    /// None now; the next one may be used from this wall time on, if the plan knows one.
    Wait {
        /// Its start, after the guard time.
        next_ms: Option<u64>,
    },
}

impl Passes {
    /// Reads a plan: one pass a line, its start and its end in UTC; `#` begins a remark.
    pub fn parse(text: &str) -> Result<Self, HoursError> {
        let mut passes = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(start) = words.next() else {
                continue;
            };
            let ends = words.next().filter(|_| words.next().is_none());
            let pass = utc_ms(start).zip(ends.and_then(utc_ms));
            let pass = pass.filter(|(start, end)| start < end);
            passes.push(pass.ok_or(HoursError::Pass { line: number })?);
        }
        passes.sort_unstable();
        Ok(Self(passes))
    }

    /// What the plan says of `wall_ms`, with so much left out at both ends of each pass.
    pub(super) fn sky(&self, wall_ms: u64, guard_ms: u64) -> Sky {
        let usable = self.0.iter().filter_map(|(start, end)| {
            let (start, end) = (start + guard_ms, end.saturating_sub(guard_ms));
            (start < end && wall_ms < end).then_some((start, end))
        });
        let mut next_ms: Option<u64> = None;
        let mut until_ms: Option<u64> = None;
        for (start, end) in usable {
            if start <= wall_ms {
                until_ms = until_ms.max(Some(end));
            } else {
                next_ms = Some(next_ms.map_or(start, |next| next.min(start)));
            }
        }
        match until_ms {
            Some(until_ms) => Sky::Pass { until_ms },
            None => Sky::Wait { next_ms },
        }
    }
}

/// Reads `2026-11-22T03:10:00Z`.
fn utc_ms(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (minute, second) = time.split_at_checked(5)?;
    let second: u64 = two_digits(second.strip_prefix(':')?)?.into();
    let day_ms = (end_of_day(date)? + 1).checked_sub(DAY_MS)?;
    let minute = u64::from(minute_of_day(minute)?);
    (second < 60).then(|| day_ms + minute * MINUTE_MS + second * 1000)
}

/// Reads `22:00` as minutes since midnight.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

fn two_digits(text: &str) -> Option<u16> {
    let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        utc_ms(text).unwrap()
    }

    #[test]
    fn a_window_over_midnight_is_open_on_both_sides_of_it() {
        let night = [Window::parse("22:00-06:00").unwrap()];
        let open_in = |text: &str| windows_open_in_ms(&night, at(text));
        assert_eq!(open_in("2026-11-22T23:59:00Z"), None);
        assert_eq!(open_in("2026-11-22T05:59:59Z"), None);
        assert_eq!(open_in("2026-11-22T06:00:00Z"), Some(16 * 60 * MINUTE_MS));
        assert_eq!(windows_open_in_ms(&[], 0), None);
    }

    #[test]
    fn of_several_windows_the_next_one_counts() {
        let windows = ["01:00-02:00", "12:30-13:00"].map(|text| Window::parse(text).unwrap());
        let wait = windows_open_in_ms(&windows, at("2026-11-22T12:00:00Z"));
        assert_eq!(wait, Some(30 * MINUTE_MS));
        assert_eq!(
            windows_open_in_ms(&windows, at("2026-11-22T01:30:00Z")),
            None
        );
    }

    #[test]
    fn local_time_is_before_or_after_utc() {
        let east = Offset::parse("+05:30").unwrap();
        let west = Offset::parse("-03:00").unwrap();
        let noon = at("2026-11-22T12:00:00Z");
        assert_eq!(east.local_ms(noon), at("2026-11-22T17:30:00Z"));
        assert_eq!(west.local_ms(noon), at("2026-11-22T09:00:00Z"));
        for text in ["", "3", "+3:00", "+15:00", "03:00", "+03:60"] {
            assert!(Offset::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pass_is_used_between_its_guard_times() {
        let text = "# a satellite\n2026-11-22T05:00:00Z 2026-11-22T05:10:00Z # low\n\n\
                    2026-11-22T03:00:00Z 2026-11-22T03:10:00Z\n";
        let passes = Passes::parse(text).unwrap();
        let sky = |text| passes.sky(at(text), 30_000);
        let wait = |text| Sky::Wait {
            next_ms: Some(at(text)),
        };
        assert_eq!(sky("2026-11-22T03:00:29Z"), wait("2026-11-22T03:00:30Z"));
        let until_ms = at("2026-11-22T03:09:30Z");
        assert_eq!(sky("2026-11-22T03:00:30Z"), Sky::Pass { until_ms });
        assert_eq!(sky("2026-11-22T03:09:30Z"), wait("2026-11-22T05:00:30Z"));
        assert_eq!(sky("2026-11-22T06:00:00Z"), Sky::Wait { next_ms: None });
    }

    #[test]
    fn a_wrong_line_of_a_plan_is_named() {
        for text in [
            "\n2026-11-22T03:00:00Z",
            "\n2026-11-22T03:00:00Z 2026-11-22T03:00:00Z",
            "\n2026-11-22T03:00:00Z 2026-11-22T04:00:00Z 1",
            "\n2026-11-22T03:00:00 2026-11-22T04:00:00",
            "\n2026-02-30T03:00:00Z 2026-11-22T04:00:00Z",
        ] {
            assert_eq!(Passes::parse(text), Err(HoursError::Pass { line: 2 }));
        }
    }
}
