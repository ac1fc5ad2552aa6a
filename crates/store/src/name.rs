//! Names of segments, and places in them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use thiserror::Error;

const FAMILY_CHARACTERS_MAX: usize = 64;

/// The name of a segment: its family and its number, `packed-00000007`.
///
/// A name can hold nothing that leads out of the folder of segments.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName(Arc<str>);

/// Says that a text is not a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a segment's name is a family, a hyphen and a number of eight digits")]
pub struct SegmentNameError;

impl SegmentName {
    pub(crate) fn new(family: &str, number: u32) -> Self {
        debug_assert!(is_family(family), "checked by who makes segments");
        Self(format!("{family}-{number:08}").into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the number.
    pub fn family(&self) -> &str {
        self.0.rsplit_once('-').map_or("", |(family, _)| family)
    }

    /// The number in it: numbers count up over all families of a folder.
    pub fn number(&self) -> u32 {
        self.0
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse().ok())
            .unwrap_or(0)
    }
}

pub(crate) fn is_family(text: &str) -> bool {
    (1..=FAMILY_CHARACTERS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl FromStr for SegmentName {
    type Err = SegmentNameError;

    fn from_str(text: &str) -> Result<Self, SegmentNameError> {
        let (family, number) = text.rsplit_once('-').ok_or(SegmentNameError)?;
        if !is_family(family) {
            return Err(SegmentNameError);
        }
        let name = Self::new(family, number.parse().map_err(|_| SegmentNameError)?);
        // One number has one spelling: no sign, no other padding.
        if name.as_str() == text {
            Ok(name)
        } else {
            Err(SegmentNameError)
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentName({})", self.0)
    }
}

impl ToSql for SegmentName {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for SegmentName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value
            .as_str()?
            .parse()
            .map_err(|e: SegmentNameError| FromSqlError::Other(Box::new(e)))
    }
}

/// Where a record is: segment, first byte, length of the whole record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The segment.
    pub segment: SegmentName,
    /// The first byte of the record's header.
    pub offset: u64,
    /// Header and body.
    pub bytes: u64,
}

impl Location {
    /// The place as three columns: TEXT, INTEGER, INTEGER.
    pub fn to_columns(&self) -> (&SegmentName, i64, i64) {
        // No file is longer than i64::MAX bytes.
        (
            &self.segment,
            self.offset.cast_signed(),
            self.bytes.cast_signed(),
        )
    }

    /// Reads the three columns from number `first` on.
    pub fn from_row(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let unsigned = |column| {
            let value: i64 = row.get(column)?;
            u64::try_from(value)
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
        };
        Ok(Self {
            segment: row.get(first)?,
            offset: unsigned(first + 1)?,
            bytes: unsigned(first + 2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling_and_stays_in_its_folder() {
        let name: SegmentName = "intake-3f-00000012".parse().unwrap();
        assert_eq!((name.family(), name.number()), ("intake-3f", 12));
        assert_eq!(
            SegmentName::new("packed", 123_456_789).to_string().parse(),
            Ok(SegmentName::new("packed", 123_456_789))
        );
        for bad in [
            "",
            "-00000001",
            "packed",
            "packed-1",
            "packed-+0000001",
            "../x-00000001",
            "Packed-00000001",
            "a/b-00000001",
            "packed-99999999999",
            "packed-000000001",
        ] {
            assert_eq!(bad.parse::<SegmentName>(), Err(SegmentNameError), "{bad}");
        }
        assert!(
            format!("{}-00000001", "x".repeat(65))
                .parse::<SegmentName>()
                .is_err()
        );
    }
}
