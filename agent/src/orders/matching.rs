//! Matching: whether an entry is what a query asks for (PS3.4 C.2.2.2, K.6.1.2.2).
//!
//! In: an identifier and an entry, both as text. Out: yes, no, or that the identifier makes no sense.
//! Invariant: time is linear in the entry for each key; a key that entries don't have is not matched.
//! May not: know where entries come from.

use dimse::{DataSet, tag, vr_of};
use study::charset::CharacterSet;
use study::dataset::Tag;
use thiserror::Error;

/// Says that a key's value cannot be matched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the value of {0} is no date, time or range")]
pub(super) struct BadKey(Tag);

/// Whether `entry`, whose texts are UTF-8, is what `query` asks for.
pub(super) fn matches(
    query: &DataSet,
    set: &CharacterSet,
    entry: &DataSet,
) -> Result<bool, BadKey> {
    for tag in query.tags() {
        if !key_matches(tag, query, set, entry)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn key_matches(
    tag: Tag,
    query: &DataSet,
    set: &CharacterSet,
    entry: &DataSet,
) -> Result<bool, BadKey> {
    if tag == tag::SPECIFIC_CHARACTER_SET || !entry.has(tag) {
        return Ok(true);
    }
    if let Some(items) = entry.items(tag) {
        let Some(wanted) = query.item(tag) else {
            return Ok(true);
        };
        for item in items {
            if matches(wanted, set, item)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let Some(wanted) = query.text(tag, set) else {
        return Ok(true);
    };
    let has = entry.text(tag, &CharacterSet::utf8()).unwrap_or_default();
    Ok(match &vr_of(tag) {
        b"DA" if tag == tag::STEP_START_DATE => {
            let time = query.text(tag::STEP_START_TIME, set);
            let at = entry.ascii(tag::STEP_START_TIME).unwrap_or_default();
            date_and_time(&wanted, time.as_deref(), &has, at)?
        }
        b"DA" => range(&wanted, &has, tag, date)?,
        b"TM" if tag == tag::STEP_START_TIME && query.text(tag::STEP_START_DATE, set).is_some() => {
            // It was matched together with the date.
            true
        }
        b"TM" => range(&wanted, &has, tag, time)?,
        b"UI" => wanted
            .split('\\')
            .any(|uid| uid.trim_matches([' ', '\0']) == has),
        b"AE" if has.is_empty() => true,
        b"US" => query.u16(tag) == entry.u16(tag),
        b"PN" => wildcard(&name(&wanted), &name(&has)),
        _ => wildcard(&wanted, &has),
    })
}

/// Matches date and time together where one of them is a range: the range goes from the first date at
/// the first time to the last date at the last time.
fn date_and_time(
    wanted: &str,
    time_wanted: Option<&str>,
    has: &str,
    at: &str,
) -> Result<bool, BadKey> {
    let is_range = wanted.contains('-') || time_wanted.is_some_and(|time| time.contains('-'));
    let Some(time_wanted) = time_wanted.filter(|_| is_range) else {
        let on_date = range(wanted, has, tag::STEP_START_DATE, date)?;
        let at_time = match time_wanted {
            Some(wanted) => range(wanted, at, tag::STEP_START_TIME, time)?,
            None => true,
        };
        return Ok(on_date && at_time);
    };
    let (first, last) = bounds(wanted, tag::STEP_START_DATE, date)?;
    let (from, to) = bounds(time_wanted, tag::STEP_START_TIME, time)?;
    let moment = (has.to_owned(), at.to_owned());
    let after = first.is_none_or(|date| (date, from.unwrap_or_default()) <= moment);
    let end = || to.clone().unwrap_or_else(|| "235959".to_owned());
    let before = last.is_none_or(|date| moment <= (date, end()));
    Ok(after && before && !has.is_empty())
}

/// Reads one end of a range; the flag says that it is the end.
type Bound = fn(&str, bool) -> Option<String>;

fn range(wanted: &str, has: &str, tag: Tag, bound: Bound) -> Result<bool, BadKey> {
    let (first, last) = bounds(wanted, tag, bound)?;
    let after = first.is_none_or(|first| first.as_str() <= has);
    let before = last.is_none_or(|last| has <= last.as_str());
    Ok(after && before && !has.is_empty())
}

fn bounds(
    wanted: &str,
    tag: Tag,
    bound: Bound,
) -> Result<(Option<String>, Option<String>), BadKey> {
    let (first, last) = wanted.split_once('-').unwrap_or((wanted, wanted));
    let read = |text: &str, is_end| {
        let text = text.trim();
        match text.is_empty() {
            true => Ok(None),
            false => bound(text, is_end).map(Some).ok_or(BadKey(tag)),
        }
    };
    let ends = (read(first, false)?, read(last, true)?);
    if ends == (None, None) {
        return Err(BadKey(tag));
    }
    Ok(ends)
}

/// YYYYMMDD, also in the old form with dots (PS3.5 6.2).
fn date(text: &str, _: bool) -> Option<String> {
    let digits = text.replace('.', "");
    is_digits(&digits, 8).then_some(digits)
}

/// HH, HHMM, HHMMSS, with a fraction or colons, as six digits: the first or the last moment of it.
fn time(text: &str, is_end: bool) -> Option<String> {
    let whole = text.split('.').next().unwrap_or_default().replace(':', "");
    let is_time = [2, 4, 6].iter().any(|length| is_digits(&whole, *length));
    let filled = if is_end { "235959" } else { "000000" };
    is_time.then(|| format!("{whole}{}", filled.get(whole.len()..).unwrap_or_default()))
}

fn is_digits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Names are compared without regard to case, empty components at the end, and what spelling allows:
/// a query that has one group of components matches any of an entry's groups in `wildcard`.
fn name(text: &str) -> String {
    text.trim_end_matches(['^', '=', ' ']).to_lowercase()
}

/// `*` stands for any characters, `?` for one. Goes back to the last star only, so that no pattern is
/// slow.
fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> DataSet {
        let step = DataSet::default()
            .with(tag::STATION_AE_TITLE, "CT1")
            .with(tag::STEP_START_DATE, "20261122")
            .with(tag::STEP_START_TIME, "083000")
            .with(tag::MODALITY, "CT");
        DataSet::default()
            .with(tag::PATIENT_NAME, "Doe^Jane")
            .with(tag::PATIENT_ID, "P1")
            .with(tag::STUDY_INSTANCE, "1.2.3")
            .with(tag::BIRTH_DATE, "")
            .with_items(tag::SCHEDULED_STEPS, vec![step])
    }

    fn asks(query: &DataSet) -> Result<bool, BadKey> {
        matches(query, &CharacterSet::of(b""), &entry())
    }

    fn key(tag: Tag, value: &str) -> DataSet {
        DataSet::default().with(tag, value)
    }

    fn step(keys: &[(Tag, &str)]) -> DataSet {
        let item = keys.iter().fold(DataSet::default(), |item, (tag, value)| {
            item.with(*tag, value)
        });
        DataSet::default().with_items(tag::SCHEDULED_STEPS, vec![item])
    }

    #[test]
    fn single_values_wildcards_lists_and_nothing_at_all() {
        for (query, expected) in [
            (DataSet::default(), true),
            (key(tag::PATIENT_NAME, ""), true),
            (key(tag::PATIENT_NAME, "DOE^JANE"), true),
            (key(tag::PATIENT_NAME, "doe*"), true),
            (key(tag::PATIENT_NAME, "*o?^j*"), true),
            (key(tag::PATIENT_NAME, "Doe^J"), false),
            (key(tag::PATIENT_ID, "p1"), false),
            (key(tag::PATIENT_ID, "P?"), true),
            (key(tag::STUDY_INSTANCE, "1.2\\1.2.3"), true),
            (key(tag::STUDY_INSTANCE, "1.2"), false),
            (key(tag::BIRTH_DATE, "19800101"), false),
            // Entries don't have it: not matched.
            (key(tag::ACCESSION_NUMBER, "A"), true),
            (
                step(&[(tag::MODALITY, "CT"), (tag::STATION_AE_TITLE, "CT1")]),
                true,
            ),
            (step(&[(tag::MODALITY, "MR")]), false),
            (
                DataSet::default().with_items(tag::SCHEDULED_STEPS, Vec::new()),
                true,
            ),
        ] {
            assert_eq!(asks(&query), Ok(expected), "{query:?}");
        }
    }

    #[test]
    fn dates_and_times_alone_in_ranges_and_together() {
        let (date, time) = (tag::STEP_START_DATE, tag::STEP_START_TIME);
        for (keys, expected) in [
            (vec![(date, "20261122")], true),
            (vec![(date, "2026.11.22")], true),
            (vec![(date, "20261123")], false),
            (vec![(date, "20261101-20261122")], true),
            (vec![(date, "-20261121")], false),
            (vec![(date, "20261122-")], true),
            (vec![(time, "0830")], true),
            (vec![(time, "08")], true),
            (vec![(time, "0831")], false),
            (vec![(time, "0800-0900")], true),
            (vec![(time, "-0829")], false),
            (vec![(date, "20261122"), (time, "083000")], true),
            (vec![(date, "20261122"), (time, "0900")], false),
            // From the 21st at 18:00 to the 22nd at 08:00, and not each day from 18:00 to 08:00.
            (
                vec![(date, "20261121-20261122"), (time, "1800-0800")],
                false,
            ),
            (vec![(date, "20261121-20261122"), (time, "1800-0900")], true),
            (
                vec![(date, "20261122-20261123"), (time, "0900-0800")],
                false,
            ),
            (vec![(date, "20261122"), (time, "0800-0900")], true),
            (vec![(date, "20261122"), (time, "0900-")], false),
        ] {
            assert_eq!(asks(&step(&keys)), Ok(expected), "{keys:?}");
        }
        for wrong in ["2026", "-", "20261122-x", "yesterday"] {
            assert_eq!(asks(&step(&[(date, wrong)])), Err(BadKey(date)), "{wrong}");
        }
    }

    #[test]
    fn no_pattern_is_slow() {
        let text = "a".repeat(10_000);
        assert!(!wildcard(&format!("{}b", "*a".repeat(100)), &text));
        assert!(wildcard("", ""));
        assert!(wildcard("**", ""));
        assert!(!wildcard("?", ""));
    }
}
