//! How our types lie in SQLite's columns.

use codec::Tier;
use store::rusqlite::Row;
use study::{GroupForm, Priority};

/// A count or a time for an INTEGER column; SQLite has 63 bits, which neither ever fills.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number that stands for a form in the index.
pub(super) const fn form_code(form: GroupForm) -> u8 {
    match form {
        GroupForm::Codec => 0,
        GroupForm::File => 1,
    }
}

/// The number that stands for a tier in the index: the more work, the greater.
pub(super) const fn tier_code(tier: Tier) -> u8 {
    match tier {
        Tier::Fast => 0,
        Tier::Link => 1,
        Tier::Archive => 2,
    }
}

/// Reads a form column.
pub(super) fn form(row: &Row<'_>, column: usize) -> store::rusqlite::Result<GroupForm> {
    match row.get::<_, u8>(column)? {
        0 => Ok(GroupForm::Codec),
        1 => Ok(GroupForm::File),
        other => Err(store::rusqlite::Error::IntegralValueOutOfRange(
            column,
            other.into(),
        )),
    }
}

/// Reads a UID column; the index holds only what was parsed before, so a bad one is damage.
pub(super) fn uid<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> store::rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?).map_err(|error| {
        let kind = store::rusqlite::types::Type::Text;
        store::rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}

/// Reads a priority column.
pub(super) fn priority(row: &Row<'_>, column: usize) -> store::rusqlite::Result<Priority> {
    let code: u8 = row.get(column)?;
    Priority::from_code(code)
        .ok_or_else(|| store::rusqlite::Error::IntegralValueOutOfRange(column, code.into()))
}
