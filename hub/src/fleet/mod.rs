//! Fleet: which units belong to this hub, by the fleet document and by the grants given here.
//!
//! In: fleet documents from the operator, enrolment requests from boxes. Out: yes or no to a
//! caller, the document for those who hold an older one, each unit's site.
//! Invariant: the document only goes forward; a voucher is bound to the first key that brought it,
//! and that is on disk before the grant leaves.
//! May not: mint vouchers or credentials, talk to a box.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use identity::files::{self, FileError};
use identity::{
    EnrolRefusal, EnrolReply, EnrolRequest, FLEET_BYTES_MAX, FleetDocument, FleetError, Grant,
    NodeId, NodeKey, Standing, SupersedeError, VoucherId,
};
use journal::{Enrolled, Fact, FleetApplied, JournalId};
use serde::Serialize;
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use store::{Readers, WriteError, Writer};
use thiserror::Error;
use tokio::sync::watch;

use crate::db::{int, uint};
use crate::ledger::{Ledger, LedgerError};
use clock::wall_ms;

/// The fleet document's file in the hub's folder.
const FILE: &str = "fleet.cose";

/// Why the fleet's affairs could not be settled.
#[derive(Debug, Error)]
pub(crate) enum RoomError {
    /// The document's file cannot be read or written.
    #[error("the fleet document's file cannot be used")]
    File(#[from] FileError),
    /// The document is not one that is trusted here.
    #[error("the fleet document is not accepted")]
    Document(#[from] FleetError),
    /// The document would take the fleet back.
    #[error("the fleet document is not accepted")]
    Supersede(#[from] SupersedeError),
    /// The document does not know this hub.
    #[error("the fleet document does not list this hub, {}", .0.short())]
    NotThisHub(NodeId),
    /// The index cannot be read.
    #[error("the fleet's index cannot be read")]
    Index(#[from] rusqlite::Error),
    /// The index or the journal cannot be written.
    #[error("the fleet's index cannot be written")]
    Write(#[from] WriteError<LedgerError>),
}

/// One unit, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnitLine {
    pub unit: String,
    pub site: String,
    /// Milliseconds of the Unix epoch, as all times here.
    pub enrolled_at: u64,
    pub last_contact_at: Option<u64>,
    pub revoked: bool,
}

/// The room.
pub(crate) struct Fleet {
    file: PathBuf,
    key: Arc<NodeKey>,
    ledger: Arc<Ledger>,
    writer: Writer,
    readers: Arc<Readers>,
    document: watch::Sender<Arc<FleetDocument>>,
    units: RwLock<BTreeMap<NodeId, VoucherId>>,
    /// Held while a document is taken in: two at once could go back.
    applying: tokio::sync::Mutex<()>,
}

impl Fleet {
    /// Takes up the document and the grants in the hub's folder.
    pub(crate) fn open(
        folder: &Path,
        key: Arc<NodeKey>,
        ledger: Arc<Ledger>,
        writer: Writer,
        readers: Arc<Readers>,
    ) -> Result<Self, RoomError> {
        let document = read(folder, &key.id())?;
        let units = readers.with(granted)?;
        let file = folder.join(FILE);
        let (document, units) = (watch::Sender::new(Arc::new(document)), RwLock::new(units));
        let applying = tokio::sync::Mutex::default();
        Ok(Self {
            file,
            key,
            ledger,
            writer,
            readers,
            document,
            units,
            applying,
        })
    }

    /// The document in force.
    pub(crate) fn document(&self) -> Arc<FleetDocument> {
        Arc::clone(&self.document.borrow())
    }

    /// Says when another document is in force.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<FleetDocument>> {
        self.document.subscribe()
    }

    /// Puts a newer document in force: on disk first, then in the journal, then for all.
    pub(crate) async fn apply(&self, bytes: &[u8]) -> Result<(u64, Standing), RoomError> {
        let _turn = self.applying.lock().await;
        let held = self.document();
        let offered = FleetDocument::parse(bytes, &held.anchor())?;
        let version = offered.version();
        let standing = offered.supersedes(&held)?;
        if standing == Standing::Newer {
            check_listed(&offered, &self.key.id())?;
            files::replace(&self.file, bytes)?;
            let ledger = Arc::clone(&self.ledger);
            self.writer
                .run(move |work| -> Result<_, LedgerError> {
                    let own = JournalId::own(ledger.hub());
                    ledger.say(
                        work.sql(),
                        own,
                        &Fact::FleetApplied(FleetApplied { version }),
                    )
                })
                .await?;
            self.document.send_replace(Arc::new(offered));
            tracing::info!(version, "fleet document in force");
        }
        Ok((version, standing))
    }

    /// Whether a caller is one of ours; says why not in words that it is told.
    pub(crate) fn admit(&self, unit: &NodeId) -> Result<(), String> {
        let Some(voucher) = self.units().get(unit).copied() else {
            return Err(format!("unit {} is not enrolled at this hub", unit.short()));
        };
        if self.document.borrow().unit_is_revoked(unit, &voucher) {
            return Err(format!("unit {} was revoked", unit.short()));
        }
        Ok(())
    }

    /// Whether a caller that may be unknown may ask to enrol.
    pub(crate) fn admit_enrolment(&self, unit: &NodeId) -> Result<(), String> {
        match self.document.borrow().revocation(unit) {
            Some(_) => Err(format!("unit {} was revoked", unit.short())),
            None => Ok(()),
        }
    }

    /// Redeems a voucher: once, for the key that asks first; the same key gets the same grant.
    pub(crate) async fn enrol(
        &self,
        caller: NodeId,
        request: &[u8],
    ) -> Result<EnrolReply, RoomError> {
        let verified =
            EnrolRequest::verify(request, &self.document(), &self.ledger.hub(), wall_ms());
        let request = match verified {
            // Whoever carries the request by stick calls with another key; on the link they agree.
            Ok(request) if *request.unit() == caller => request,
            Ok(_) => return Ok(refused(caller, &EnrolRefusal::WrongSigners)),
            Err(refusal) => return Ok(refused(caller, &refusal)),
        };
        let (voucher, site) = (request.terms().id, request.terms().site.clone());
        let signed = Grant::to_request(&request, wall_ms()).sign(&self.key);
        let ledger = Arc::clone(&self.ledger);
        let granted = self
            .writer
            .run(move |work| bind(work.sql(), &ledger, caller, voucher, site.as_str(), &signed))
            .await?
            .into_inner();
        match granted {
            Bound::Now(grant) => {
                self.units_mut().insert(caller, voucher);
                let site = request.terms().site.as_str();
                tracing::info!(node = %caller.short(), site, "unit enrolled");
                Ok(EnrolReply::Granted(grant))
            }
            // It stands as it stood: an older voucher does not bring a unit back behind a newer
            // one that was revoked.
            Bound::Before(grant) => Ok(EnrolReply::Granted(grant)),
            Bound::ToAnother => Ok(refused(caller, &EnrolRefusal::Used)),
        }
    }

    /// Notes that a unit was heard of.
    pub(crate) async fn heard(&self, unit: NodeId) -> Result<(), RoomError> {
        let now_ms = wall_ms();
        self.writer
            .run(move |work| -> Result<(), LedgerError> {
                work.sql().execute(
                    "UPDATE unit SET last_contact_ms = ?2 WHERE node = ?1",
                    params![unit.as_bytes(), int(now_ms)],
                )?;
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// All units that were ever enrolled here.
    pub(crate) fn list(&self) -> Result<Vec<UnitLine>, RoomError> {
        let document = self.document();
        Ok(self
            .readers
            .with(|sql| -> rusqlite::Result<Vec<UnitLine>> {
                sql.prepare(
                    "SELECT node, voucher, site, enrolled_ms, last_contact_ms FROM unit
                 ORDER BY enrolled_ms",
                )?
                .query_map([], |row| {
                    let unit = NodeId::from_bytes(row.get(0)?);
                    let voucher = VoucherId::new(NodeId::from_bytes(row.get(1)?));
                    let last = row
                        .get::<_, Option<i64>>(4)?
                        .map(|_| uint(row, 4))
                        .transpose()?;
                    Ok(UnitLine {
                        unit: unit.to_string(),
                        site: row.get(2)?,
                        enrolled_at: uint(row, 3)?,
                        last_contact_at: last,
                        revoked: document.unit_is_revoked(&unit, &voucher),
                    })
                })?
                .collect()
            })?)
    }

    fn units(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, VoucherId>> {
        self.units.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn units_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<NodeId, VoucherId>> {
        self.units.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the document in a hub's folder and checks that it is for this hub.
pub(crate) fn read(folder: &Path, hub: &NodeId) -> Result<FleetDocument, RoomError> {
    let bytes = files::read(&folder.join(FILE), FLEET_BYTES_MAX as u64)?;
    let document = FleetDocument::parse_own(&bytes)?;
    check_listed(&document, hub)?;
    Ok(document)
}

fn check_listed(document: &FleetDocument, hub: &NodeId) -> Result<(), RoomError> {
    document
        .hub(hub)
        .map(drop)
        .ok_or(RoomError::NotThisHub(*hub))
}

fn refused(caller: NodeId, refusal: &EnrolRefusal) -> EnrolReply {
    tracing::warn!(node = %caller.short(), reason = %refusal, "enrolment refused");
    EnrolReply::refused(refusal)
}

fn granted(sql: &Connection) -> rusqlite::Result<BTreeMap<NodeId, VoucherId>> {
    sql.prepare("SELECT node, voucher FROM unit")?
        .query_map([], |row| {
            let voucher = VoucherId::new(NodeId::from_bytes(row.get(1)?));
            Ok((NodeId::from_bytes(row.get(0)?), voucher))
        })?
        .collect()
}

/// Whose a voucher is, with the grant that stands.
enum Bound {
    /// The caller's from this moment on.
    Now(Vec<u8>),
    /// The caller's since an earlier request.
    Before(Vec<u8>),
    /// Another unit was first.
    ToAnother,
}

/// Binds a voucher to a unit.
///
/// A unit may come again with a second voucher: a box that moves to another site. The first one
/// stays bound to it.
fn bind(
    sql: &Connection,
    ledger: &Ledger,
    unit: NodeId,
    voucher: VoucherId,
    site: &str,
    grant: &[u8],
) -> Result<Bound, LedgerError> {
    let bound: Option<([u8; 32], Vec<u8>)> = sql
        .query_row(
            "SELECT node, signed_grant FROM redeemed WHERE voucher = ?1",
            [voucher.key().as_bytes()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    if let Some((node, grant)) = bound {
        return Ok(match node == *unit.as_bytes() {
            true => Bound::Before(grant),
            false => Bound::ToAnother,
        });
    }
    sql.execute(
        "INSERT INTO redeemed (voucher, node, signed_grant) VALUES (?1, ?2, ?3)",
        params![voucher.key().as_bytes(), unit.as_bytes(), grant],
    )?;
    sql.execute(
        "INSERT INTO unit (node, voucher, site, enrolled_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (node) DO UPDATE SET voucher = excluded.voucher, site = excluded.site",
        params![
            unit.as_bytes(),
            voucher.key().as_bytes(),
            site,
            int(wall_ms())
        ],
    )?;
    let fact = Fact::Enrolled(Enrolled {
        unit,
        grant: grant.to_vec(),
    });
    ledger.say(sql, ledger.stream(unit), &fact)?;
    Ok(Bound::Now(grant.to_vec()))
}

#[cfg(test)]
mod tests {
    use crate::bench::Bench;

    use super::*;

    #[tokio::test]
    async fn a_voucher_is_bound_to_the_first_key_and_the_grant_is_the_same_again() {
        let mut bench = Bench::new();
        let voucher = bench.voucher().await;
        let (first, second) = (NodeKey::generate(), NodeKey::generate());
        let fleet = &bench.rooms.fleet;
        assert!(fleet.admit(&first.id()).is_err());
        let request = EnrolRequest::sign(&voucher, &first, 1);
        let granted = fleet.enrol(first.id(), &request).await.unwrap();
        let EnrolReply::Granted(grant) = &granted else {
            panic!("{granted:?}")
        };
        Grant::verify_for(grant, &voucher, &first.id()).unwrap();
        assert_eq!(fleet.enrol(first.id(), &request).await.unwrap(), granted);
        assert_eq!(fleet.admit(&first.id()), Ok(()));
        assert_eq!(bench.said(&first, 7), 1);

        let request = EnrolRequest::sign(&voucher, &second, 1);
        let refused = bench
            .rooms
            .fleet
            .enrol(second.id(), &request)
            .await
            .unwrap();
        assert!(matches!(refused, EnrolReply::Refused(_)), "{refused:?}");
        assert!(bench.rooms.fleet.admit(&second.id()).is_err());

        let bench = bench.reopen();
        assert_eq!(bench.rooms.fleet.admit(&first.id()), Ok(()));
    }

    #[tokio::test]
    async fn a_request_carried_by_another_key_is_refused() {
        let mut bench = Bench::new();
        let request = EnrolRequest::sign(&bench.voucher().await, &NodeKey::generate(), 1);
        let thief = NodeKey::generate().id();
        let reply = bench.rooms.fleet.enrol(thief, &request).await.unwrap();
        assert!(matches!(reply, EnrolReply::Refused(_)), "{reply:?}");
    }

    #[tokio::test]
    async fn a_revoked_unit_is_turned_away_from_the_next_document_on() {
        let mut bench = Bench::new();
        let unit = bench.unit().await;
        bench.fleet.revoke(unit.id(), 1);
        let document = bench.fleet.document();
        bench.rooms.fleet.apply(document.signed()).await.unwrap();
        assert!(
            bench
                .rooms
                .fleet
                .admit(&unit.id())
                .unwrap_err()
                .contains("revoked")
        );
    }

    #[tokio::test]
    async fn an_older_voucher_does_not_bring_a_unit_back() {
        let mut bench = Bench::new();
        let unit = NodeKey::generate();
        let older = bench.voucher().await;
        let newer = bench.voucher().await;
        for voucher in [&older, &newer] {
            let request = EnrolRequest::sign(voucher, &unit, 1);
            bench.rooms.fleet.enrol(unit.id(), &request).await.unwrap();
        }
        bench.fleet.revoke(*newer.terms().id.key(), 1);
        let document = bench.fleet.document();
        bench.rooms.fleet.apply(document.signed()).await.unwrap();
        assert!(bench.rooms.fleet.admit(&unit.id()).is_err());
        let again = EnrolRequest::sign(&older, &unit, 1);
        drop(bench.rooms.fleet.enrol(unit.id(), &again).await.unwrap());
        assert!(bench.rooms.fleet.admit(&unit.id()).is_err());
    }

    #[tokio::test]
    async fn the_document_goes_forward_only_and_is_on_disk() {
        let mut bench = Bench::new();
        let (older, newer) = (bench.fleet.document(), bench.fleet.document());
        let applied = bench.rooms.fleet.apply(newer.signed()).await.unwrap();
        assert_eq!(applied, (newer.version(), Standing::Newer));
        let back = bench.rooms.fleet.apply(older.signed()).await;
        assert!(matches!(
            back,
            Err(RoomError::Supersede(SupersedeError::Older { .. }))
        ));
        let bench = bench.reopen();
        assert_eq!(bench.rooms.fleet.document().version(), newer.version());
    }
}
