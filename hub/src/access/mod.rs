//! Access: who may ask the hub for what.
//!
//! In: a role and a span of hours from the command line; bearer tokens from requests. Out: a new
//! token, or the role that a token stands for.
//! Invariant: a token is shown once and kept nowhere; its digest is, until it expires. What is not
//! allowed is refused.
//! May not: serve HTTP.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use journal::{Fact, JournalId, TokenIssued};
use serde::{Deserialize, Serialize};
use store::rusqlite::{self, OptionalExtension as _, params};
use store::{Readers, WriteError, Writer};
use study::Digest;
use thiserror::Error;

use crate::db::int;
use crate::ledger::{Ledger, LedgerError};
use clock::wall_ms;

/// Why no token could be made or read.
#[derive(Debug, Error)]
pub(crate) enum AccessError {
    /// The store refused.
    #[error("the token could not be recorded")]
    Write(#[from] WriteError<LedgerError>),
    /// The index could not be read.
    #[error("the tokens cannot be read")]
    Read(#[from] rusqlite::Error),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// What a person or a script may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads studies.
    Radiologist,
    /// Looks after the fleet and the worklist.
    Operator,
    /// Makes users.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Radiologist, Self::Operator, Self::Admin];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Radiologist => "radiologist",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a role is one of radiologist, operator, admin")]
pub(crate) struct RoleError;

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(RoleError)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The room.
#[derive(Clone)]
pub(crate) struct Access {
    writer: Writer,
    readers: Arc<Readers>,
    ledger: Arc<Ledger>,
}

impl Access {
    pub(crate) fn new(writer: Writer, readers: Arc<Readers>, ledger: Arc<Ledger>) -> Self {
        Self {
            writer,
            readers,
            ledger,
        }
    }

    /// Makes a bearer token that is good for `hours`, and says so in the hub's own journal.
    pub(crate) async fn token(&self, role: Role, hours: u32) -> Result<String, AccessError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(AccessError::Randomness)?;
        let token = Digest::from_bytes(secret).to_string();
        let digest = Digest::of(token.as_bytes());
        let now_ms = wall_ms();
        let expires_ms = now_ms + u64::from(hours) * HOUR_MS;
        let ledger = Arc::clone(&self.ledger);
        let issued = Fact::TokenIssued(TokenIssued {
            token: digest,
            role: role.as_str().to_owned(),
            not_after_ms: expires_ms,
        });
        self.writer
            .run(move |work| -> Result<(), LedgerError> {
                work.sql()
                    .execute("DELETE FROM token WHERE expires_ms < ?1", [int(now_ms)])?;
                work.sql().execute(
                    "INSERT INTO token (digest, role, expires_ms) VALUES (?1, ?2, ?3)",
                    params![digest.as_bytes(), role.as_str(), int(expires_ms)],
                )?;
                let own = JournalId::own(ledger.hub());
                ledger.say(work.sql(), own, &issued)?;
                Ok(())
            })
            .await?;
        tracing::info!(%role, hours, "bearer token made");
        Ok(token)
    }

    /// The role that a token stands for; none when it is unknown or has expired.
    pub(crate) fn role_of(&self, token: &str) -> Result<Option<Role>, AccessError> {
        let digest = Digest::of(token.as_bytes());
        let role: Option<String> = self.readers.with(|sql| {
            sql.query_row(
                "SELECT role FROM token WHERE digest = ?1 AND expires_ms > ?2",
                params![digest.as_bytes(), int(wall_ms())],
                |row| row.get(0),
            )
            .optional()
        })?;
        Ok(role.and_then(|role| role.parse().ok()))
    }
}

const HOUR_MS: u64 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;

    #[tokio::test]
    async fn a_token_stands_for_its_role_until_it_expires() {
        let bench = Bench::new();
        let access = &bench.rooms.access;
        let token = access.token(Role::Operator, 1).await.unwrap();
        assert_eq!(access.role_of(&token).unwrap(), Some(Role::Operator));
        assert_eq!(access.role_of("").unwrap(), None);
        let expired = access.token(Role::Admin, 0).await.unwrap();
        assert_eq!(access.role_of(&expired).unwrap(), None);
    }
}
