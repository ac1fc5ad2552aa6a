//! Divergence: what was found of journals whose copy at the hub is another one.
//!
//! A journal that is set back or forked is not mended by what comes later: the finding stays in the
//! index until the box gets another key, or the disk that the journal was written on.

use std::sync::Arc;

use journal::{Diverged, Divergence, Fact, JournalId};
use serde::{Deserialize, Serialize};
use store::rusqlite::{Connection, OptionalExtension, params};

use super::{Vault, VaultError, records};

/// What is known of a journal beside what is held of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalState {
    /// Nothing contradicts it.
    Ok,
    /// Its author has less of it than the other side: the author's disk was set back.
    SetBack,
    /// Two records have one number: a disk was set back or cloned, and both copies were written to.
    Forked,
}

impl JournalState {
    const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::SetBack => 1,
            Self::Forked => 2,
        }
    }

    /// The state with this number; what is unknown is as bad as can be.
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::SetBack,
            _ => Self::Forked,
        }
    }
}

impl From<Divergence> for JournalState {
    fn from(kind: Divergence) -> Self {
        match kind {
            Divergence::SetBack => Self::SetBack,
            Divergence::Forked => Self::Forked,
        }
    }
}

impl Vault {
    /// Keeps a finding about a journal, once, and says it in our own journal, unless it is that
    /// one: a history that is in doubt is no witness for itself.
    pub async fn note_divergence(&self, found: Diverged) -> Result<(), VaultError> {
        let key = Arc::clone(&self.0.key);
        self.room_to_write(0)?;
        let noted = self.0.writer.run(move |work| -> Result<bool, VaultError> {
            let (author, stream) = (found.author, found.stream);
            let journal = JournalId { author, stream };
            let found_as = JournalState::from(found.kind).code();
            if found_as <= state(work.sql(), &journal)?.code() {
                return Ok(false);
            }
            work.sql().execute(
                "INSERT INTO divergence (author, stream, state) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET state = excluded.state",
                params![author.as_bytes(), stream.as_bytes(), found_as],
            )?;
            if journal != JournalId::own(key.id()) {
                records::append(work, &key, &Fact::Diverged(found))?;
            }
            Ok(true)
        });
        let noted = noted.await?;
        if *noted.get() {
            self.note_change(noted);
        }
        Ok(())
    }

    /// What is known of a journal beside what is held of it.
    pub fn journal_state(&self, journal: &JournalId) -> Result<JournalState, VaultError> {
        Ok(self.0.readers.with(|sql| state(sql, journal))?)
    }
}

fn state(sql: &Connection, journal: &JournalId) -> store::rusqlite::Result<JournalState> {
    sql.prepare_cached("SELECT state FROM divergence WHERE author = ?1 AND stream = ?2")?
        .query_row(
            params![journal.author.as_bytes(), journal.stream.as_bytes()],
            |row| row.get(0),
        )
        .optional()
        .map(|code| code.map_or(JournalState::Ok, JournalState::from_code))
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;

    fn found(journal: JournalId, kind: Divergence) -> Diverged {
        Diverged {
            author: journal.author,
            stream: journal.stream,
            ours: 4,
            theirs: 9,
            kind,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_finding_stays_and_is_said_once_and_once_more_when_it_is_worse() {
        let world = World::new();
        let vault = world.open().await;
        let (own, hubs) = (JournalId::own(vault.unit()), world.hub_journal());
        let mut said = Vec::new();
        for kind in [Divergence::SetBack, Divergence::SetBack, Divergence::Forked] {
            vault.note_divergence(found(hubs, kind)).await.unwrap();
            said.push(vault.head(&own).unwrap().seq);
        }
        assert_eq!(said, [2, 2, 3]);
        let known = |vault: &Vault, journal| vault.journal_state(journal).unwrap();
        assert_eq!(known(&vault, &hubs), JournalState::Forked);
        assert_eq!(known(&vault, &own), JournalState::Ok);
        drop(vault);
        assert_eq!(known(&world.open().await, &hubs), JournalState::Forked);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_journal_in_doubt_does_not_speak_of_itself() {
        let world = World::new();
        let vault = world.open().await;
        let own = JournalId::own(vault.unit());
        let before = vault.head(&own).unwrap();
        let set_back = found(own, Divergence::SetBack);
        vault.note_divergence(set_back).await.unwrap();
        assert_eq!(vault.journal_state(&own).unwrap(), JournalState::SetBack);
        assert_eq!(vault.head(&own).unwrap(), before);
    }
}
