//! How our types lie in SQLite's columns.

use identity::StorePublicKey;
use store::rusqlite::types::{
    FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef,
};
use store::rusqlite::{self, Row};
use study::{Digest, InstanceDigest, StudyRoot};

/// Schema changes in order, forward only.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001.sql")];

/// A count or a time for an INTEGER column; SQLite has 63 bits, which neither ever fills.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a count or a time.
pub(crate) fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Reads a text that was parsed before it was written.
pub(crate) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|e: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e))
    })
}

/// Reads a digest.
pub(crate) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

/// Reads an instance digest.
pub(crate) fn instance_digest(row: &Row<'_>, column: usize) -> rusqlite::Result<InstanceDigest> {
    digest(row, column).map(InstanceDigest::from_digest)
}

/// Reads a unit's store key, which was checked before it was written.
pub(crate) fn store_key(row: &Row<'_>, column: usize) -> rusqlite::Result<StorePublicKey> {
    StorePublicKey::from_bytes(row.get(column)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(e)))
}

/// Reads a study root.
pub(crate) fn root(row: &Row<'_>, column: usize) -> rusqlite::Result<StudyRoot> {
    digest(row, column).map(StudyRoot::from_digest)
}

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub(crate) i64);

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_i64().map(Self).map_err(|_| FromSqlError::InvalidType)
            }
        }
    };
}

row_id! {
    /// A row of `study`.
    StudyId
}
row_id! {
    /// A row of `manifest`.
    ManifestId
}
