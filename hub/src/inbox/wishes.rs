//! Wishes: what readers want of a unit: how urgent a study is, which images first, the priors.
//!
//! A wish is a record in the unit's stream. The unit is the judge of what it can do, and says what
//! it has done in its own journal.

use identity::NodeId;
use journal::{Fact, INSTANCES_FIRST_MAX, InstancesFirst, PrioritySet, PriorsWanted};
use store::WriteError;
use store::rusqlite::{self, Connection, params};
use study::{Priority, SeriesUid, SopInstanceUid, StudyUid};
use thiserror::Error;

use super::Inbox;
use crate::archive::{RevisionState, index};
use crate::db::{self, StudyId};
use crate::ledger::LedgerError;

/// Why a wish was not said.
#[derive(Debug, Error)]
pub(crate) enum WishError {
    /// No unit, or not this one, has sent anything of such a study.
    #[error("nothing of study {0} is at the hub")]
    UnknownStudy(StudyUid),
    /// More than one unit has sent it.
    #[error("several units have sent study {0}: choose one with --unit")]
    SeveralUnits(StudyUid),
    /// More instances than a wish may name.
    #[error("{0} instances are named, {INSTANCES_FIRST_MAX} may be")]
    TooMany(usize),
    /// The index cannot be read.
    #[error("the index cannot be read")]
    Index(#[from] rusqlite::Error),
    /// The record cannot be kept.
    #[error("the wish cannot be kept")]
    Write(#[from] WriteError<LedgerError>),
}

/// A study of one unit.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    pub study: StudyUid,
    /// None where only one unit has sent it.
    pub unit: Option<NodeId>,
}

/// What of a study is wanted first.
#[derive(Debug, Clone)]
pub(crate) enum First {
    /// What is missing of a series, as far as the hub knows where it lies.
    Series(SeriesUid),
    /// These instances, and what is packed with them; none: nothing any more.
    Instances(Vec<SopInstanceUid>),
}

impl Inbox {
    /// Tells the unit how urgent a study is. Here it counts at once; the unit's word is the last.
    pub(crate) async fn wish_priority(
        &self,
        whose: Whose,
        priority: Priority,
    ) -> Result<(), WishError> {
        let unit = self.unit_of(&whose)?;
        let study = whose.study;
        let set = PrioritySet { study, priority };
        let effect = move |sql: &Connection, fact: &Fact| super::fold(sql, unit, fact);
        self.wish(unit, Fact::PrioritySet(set), effect).await
    }

    /// Tells the unit which images of a study somebody waits for; says how many groups that is.
    pub(crate) async fn wish_first(&self, whose: Whose, first: First) -> Result<usize, WishError> {
        let (id, unit) = self.resolve(&whose)?;
        let instances = match first {
            First::Series(series) => self.readers.with(|sql| missing_of(sql, id, &series))?,
            First::Instances(instances) if instances.len() > INSTANCES_FIRST_MAX => {
                return Err(WishError::TooMany(instances.len()));
            }
            First::Instances(instances) => instances,
        };
        let (study, count) = (whose.study, instances.len());
        let fact = Fact::InstancesFirst(InstancesFirst { study, instances });
        self.wish(unit, fact, |_, _| Ok(())).await?;
        Ok(count)
    }

    /// Tells the unit that the other studies of a study's patient are wanted.
    pub(crate) async fn wish_priors(&self, whose: Whose) -> Result<(), WishError> {
        let unit = self.unit_of(&whose)?;
        let study = whose.study;
        let fact = Fact::PriorsWanted(PriorsWanted { study });
        self.wish(unit, fact, |_, _| Ok(())).await
    }

    async fn wish(
        &self,
        unit: NodeId,
        fact: Fact,
        effect: impl FnOnce(&Connection, &Fact) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), WishError> {
        let ledger = std::sync::Arc::clone(&self.ledger);
        let job = move |work: &mut store::Work<'_>| -> Result<(), LedgerError> {
            effect(work.sql(), &fact)?;
            ledger.say(work.sql(), ledger.stream(unit), &fact).map(drop)
        };
        self.writer.run(job).await?;
        Ok(self.outbox.grown(unit)?)
    }

    /// Whom a study concerns; a unit that is named may have one of which nothing has come yet.
    fn unit_of(&self, whose: &Whose) -> Result<NodeId, WishError> {
        match self.resolve(whose) {
            Err(WishError::UnknownStudy(study)) => whose.unit.ok_or(WishError::UnknownStudy(study)),
            resolved => resolved.map(|(_, unit)| unit),
        }
    }

    fn resolve(&self, whose: &Whose) -> Result<(StudyId, NodeId), WishError> {
        let mut found = self
            .readers
            .with(|sql| index::units_of(sql, &whose.study))?;
        found.retain(|(_, unit)| whose.unit.is_none_or(|wanted| wanted == *unit));
        match found.len() {
            0 => Err(WishError::UnknownStudy(whose.study.clone())),
            1 => Ok(found.remove(0)),
            _ => Err(WishError::SeveralUnits(whose.study.clone())),
        }
    }
}

/// One readable instance of each group of which something is missing.
fn missing_of(
    sql: &Connection,
    study: StudyId,
    series: &SeriesUid,
) -> rusqlite::Result<Vec<SopInstanceUid>> {
    sql.prepare_cached(
        "SELECT min(i.sop) FROM instance i JOIN manifest m ON m.id = i.manifest
             JOIN chunk_group g ON g.manifest = i.manifest AND g.number = i.chunk_group
         WHERE i.study = ?1 AND i.series = ?2 AND m.state = ?3 AND NOT g.decoded
         GROUP BY g.manifest, g.number ORDER BY g.manifest, g.number LIMIT ?4",
    )?
    .query_map(
        params![
            study,
            series.as_str(),
            RevisionState::Arriving.code(),
            INSTANCES_FIRST_MAX
        ],
        |row| db::parsed(row, 0),
    )?
    .collect()
}

#[cfg(test)]
mod tests;
