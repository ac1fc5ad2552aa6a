//! Dates as people write them, for milliseconds of the Unix epoch; always UTC, Gregorian.

const DAY_MS: u64 = 86_400_000;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;
/// Days in 400 years.
const ERA_DAYS: u64 = 146_097;

/// Writes a moment as `2026-11-21 19:41 UTC`.
pub fn format_utc(ms: u64) -> String {
    let minutes = ms % DAY_MS / 60_000;
    format!(
        "{} {:02}:{:02} UTC",
        format_date(ms),
        minutes / 60,
        minutes % 60
    )
}

/// Writes the day of a moment as `2026-11-21`.
pub fn format_date(ms: u64) -> String {
    // Years that begin in March end with the leap day; from Hinnant, "chrono-compatible low-level
    // date algorithms", civil_from_days.
    let days = ms / DAY_MS + EPOCH_DAYS;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Reads a day from 1970-01-01 to 9999-12-31 and gives its last millisecond.
pub fn end_of_day(date: &str) -> Option<u64> {
    let (year, rest) = date.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    let number = |text: &str, digits| {
        let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let (march_year, march_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let days =
        march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year;
    let start = (days - EPOCH_DAYS) * DAY_MS;
    // A day that its month does not have comes out as another date.
    (format_date(start) == date).then_some(start + DAY_MS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(format_utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(format_utc(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(format_utc(1_795_290_060_000), "2026-11-21 19:41 UTC");
        assert_eq!(end_of_day("1970-01-01"), Some(86_399_999));
        assert_eq!(
            format_utc(end_of_day("2027-12-31").unwrap()),
            "2027-12-31 23:59 UTC"
        );
    }

    #[test]
    fn what_is_no_day_is_none() {
        for text in [
            "",
            "2027",
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-00",
            "2027-1-1",
            "+027-01-01",
            "1969-12-31",
            "2027-04-31",
            "2027-01-01 ",
            "x027-01-01",
        ] {
            assert_eq!(end_of_day(text), None, "{text}");
        }
    }

    #[test]
    fn no_moment_is_too_late_to_print() {
        assert!(format_utc(u64::MAX).ends_with("UTC"));
    }

    proptest! {
        #[test]
        fn each_day_comes_back(day in 0_u64..2_932_897) {
            let end = (day + 1) * DAY_MS - 1;
            prop_assert_eq!(end_of_day(&format_date(end)), Some(end));
            prop_assert_eq!(format_date(end), format_date(day * DAY_MS));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = end_of_day(&text);
        }
    }
}
