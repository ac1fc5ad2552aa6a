//! Fleet: which units belong to this hub, by the fleet document and by the grants given here.
//!
//! In: fleet documents from the operator, enrolment requests from boxes. Out: yes or no to a
//! caller, the document for those who hold an older one, each unit's site and store key.
//! Invariant: the document only goes forward; a voucher is bound to the first key that brought it,
//! and that is on disk before the grant leaves.
//! May not: mint vouchers or credentials, talk to a box.

mod calls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use identity::files::{self, FileError};
use identity::{
    EnrolRefusal, EnrolReply, EnrolRequest, FLEET_BYTES_MAX, FleetDocument, FleetError, Grant,
    NodeId, NodeKey, Standing, StoreKeyId, StorePublicKey, SupersedeError, VoucherId,
};
use journal::{Divergence, Enrolled, Fact, FleetApplied, JournalId};
use serde::Serialize;
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use store::{Readers, WriteError, Writer};
use thiserror::Error;
use tokio::sync::watch;

use crate::db::{self, int, uint};
use crate::ledger::{self, Ledger, LedgerError};
use calls::Calls;
use clock::{count_ms, wall_ms};

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
    /// The store key here is not the one that the fleet seals to.
    #[error(
        "it says that boxes seal to this hub's store key {named}, and the store key here is {ours}: \
         put the right store key back from its copy; nothing that boxes send could be read with this one"
    )]
    OtherStoreKey {
        /// The key that the document names.
        named: StoreKeyId,
        /// The key in this hub's file.
        ours: StoreKeyId,
    },
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
    /// Of the unit's own journal: `ok`, `set_back` or `forked`.
    pub journal: &'static str,
    /// Of this hub's journal for the unit.
    pub hub_journal: &'static str,
    /// How often of late a call of it took the place of a live one, if that is often.
    pub doubled_calls: usize,
    /// What a person should do.
    pub advice: Option<&'static str>,
}

impl UnitLine {
    /// What a person should do about a unit that is not what it seems.
    fn advise(&mut self) {
        self.advice = if self.journal != "ok" {
            Some("this box's disk was set back or cloned: quarantine it")
        } else if self.doubled_calls > 0 {
            Some("two machines call with this box's key: its disk was cloned, quarantine it")
        } else if self.hub_journal != "ok" {
            Some("this hub's disk was set back or its key is used twice: do not trust its receipts")
        } else {
            None
        };
    }
}

fn word(divergence: Option<Divergence>) -> &'static str {
    match divergence {
        None => "ok",
        Some(Divergence::SetBack) => "set_back",
        Some(Divergence::Forked) => "forked",
    }
}

/// Why nothing can be sent to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum UnitError {
    /// It has no grant of this hub.
    #[error("unit {} is not enrolled at this hub", .0.short())]
    Unknown(NodeId),
    /// It is no part of the fleet any more.
    #[error("unit {} was revoked", .0.short())]
    Revoked(NodeId),
}

/// What a unit's newest grant says of it.
#[derive(Debug, Clone, Copy)]
struct Member {
    voucher: VoucherId,
    store: StorePublicKey,
}

/// The room.
pub(crate) struct Fleet {
    file: PathBuf,
    key: Arc<NodeKey>,
    store: StorePublicKey,
    ledger: Arc<Ledger>,
    writer: Writer,
    readers: Arc<Readers>,
    document: watch::Sender<Arc<FleetDocument>>,
    units: RwLock<BTreeMap<NodeId, Member>>,
    calls: Calls,
    /// Held while a document is taken in: two at once could go back.
    applying: tokio::sync::Mutex<()>,
}

impl Fleet {
    /// Takes up the document and the grants in the hub's folder; `store` is the hub's store key.
    pub(crate) fn open(
        folder: &Path,
        key: Arc<NodeKey>,
        store: StorePublicKey,
        ledger: Arc<Ledger>,
        writer: Writer,
        readers: Arc<Readers>,
    ) -> Result<Self, RoomError> {
        let document = read(folder, &key.id(), &store)?;
        let units = readers.with(granted)?;
        let file = folder.join(FILE);
        let (document, units) = (watch::Sender::new(Arc::new(document)), RwLock::new(units));
        let applying = tokio::sync::Mutex::default();
        Ok(Self {
            file,
            key,
            store,
            ledger,
            writer,
            readers,
            document,
            units,
            calls: Calls::default(),
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
            let named = listed_store(&offered, &self.key.id())?;
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
            if named != self.store {
                // It is the fleet's word and in force; but this hub does not start again with it.
                let (named, ours) = (named.id(), self.store.id());
                tracing::error!(
                    %named, %ours, version,
                    "the fleet document names another store key for this hub: put that key in place; \
                     what boxes seal from now on cannot be read here"
                );
            }
        }
        Ok((version, standing))
    }

    /// Whether a caller is one of ours; says why not in words that it is told.
    pub(crate) fn admit(&self, unit: &NodeId) -> Result<(), String> {
        self.member(unit)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// The store key of a unit that is one of ours: what is sent to it is sealed to this.
    pub(crate) fn store_key_of(&self, unit: &NodeId) -> Result<StorePublicKey, UnitError> {
        Ok(self.member(unit)?.store)
    }

    fn member(&self, unit: &NodeId) -> Result<Member, UnitError> {
        let member = self.units().get(unit).copied();
        let member = member.ok_or(UnitError::Unknown(*unit))?;
        if self
            .document
            .borrow()
            .unit_is_revoked(unit, &member.voucher)
        {
            return Err(UnitError::Revoked(*unit));
        }
        Ok(member)
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
        let member = Member {
            voucher,
            store: *request.store(),
        };
        let signed = Grant::to_request(&request, wall_ms()).sign(&self.key);
        let ledger = Arc::clone(&self.ledger);
        let granted = self
            .writer
            .run(move |work| bind(work.sql(), &ledger, caller, member, site.as_str(), &signed))
            .await?
            .into_inner();
        match granted {
            Bound::Now(grant) => {
                self.units_mut().insert(caller, member);
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

    /// Notes that a call of a unit took the place of a live one.
    pub(crate) fn took_over(&self, unit: NodeId) {
        if self.calls.note(unit, count_ms()) {
            let node = unit.short();
            tracing::error!(
                node,
                "two machines call with this box's key: its disk was cloned"
            );
        }
    }

    /// The units that a person should do something about.
    pub(crate) fn in_doubt(&self) -> Result<Vec<UnitLine>, RoomError> {
        let mut units = self.list()?;
        units.retain(|unit| unit.advice.is_some());
        Ok(units)
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
                    let stream = self.ledger.stream(unit);
                    let mut line = UnitLine {
                        unit: unit.to_string(),
                        site: row.get(2)?,
                        enrolled_at: uint(row, 3)?,
                        last_contact_at: last,
                        revoked: document.unit_is_revoked(&unit, &voucher),
                        journal: word(ledger::divergence(sql, &JournalId::own(unit))?),
                        hub_journal: word(ledger::divergence(sql, &stream)?),
                        doubled_calls: self.calls.doubled(&unit, count_ms()),
                        advice: None,
                    };
                    line.advise();
                    Ok(line)
                })?
                .collect()
            })?)
    }

    /// The units that are one of ours now, each with its signed grant.
    pub(crate) fn grants(&self) -> Result<Vec<(NodeId, Vec<u8>)>, RoomError> {
        let mut granted = self
            .readers
            .with(|sql| -> rusqlite::Result<Vec<(NodeId, Vec<u8>)>> {
                sql.prepare(
                    "SELECT u.node, r.signed_grant FROM unit u JOIN redeemed r ON r.voucher = u.voucher
                     ORDER BY u.enrolled_ms",
                )?
                .query_map([], |row| Ok((NodeId::from_bytes(row.get(0)?), row.get(1)?)))?
                .collect()
            })?;
        granted.retain(|(unit, _)| self.member(unit).is_ok());
        Ok(granted)
    }

    fn units(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, Member>> {
        self.units.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn units_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<NodeId, Member>> {
        self.units.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the document in a hub's folder and checks that it is for this hub with this store key.
pub(crate) fn read(
    folder: &Path,
    hub: &NodeId,
    store: &StorePublicKey,
) -> Result<FleetDocument, RoomError> {
    let bytes = files::read(&folder.join(FILE), FLEET_BYTES_MAX as u64)?;
    let document = FleetDocument::parse_own(&bytes)?;
    let named = listed_store(&document, hub)?;
    if named != *store {
        return Err(RoomError::OtherStoreKey {
            named: named.id(),
            ours: store.id(),
        });
    }
    Ok(document)
}

/// The store key that a document names for this hub.
fn listed_store(document: &FleetDocument, hub: &NodeId) -> Result<StorePublicKey, RoomError> {
    let entry = document.hub(hub).ok_or(RoomError::NotThisHub(*hub))?;
    Ok(entry.store)
}

fn refused(caller: NodeId, refusal: &EnrolRefusal) -> EnrolReply {
    tracing::warn!(node = %caller.short(), reason = %refusal, "enrolment refused");
    EnrolReply::refused(refusal)
}

fn granted(sql: &Connection) -> rusqlite::Result<BTreeMap<NodeId, Member>> {
    sql.prepare("SELECT node, voucher, store FROM unit")?
        .query_map([], |row| {
            let member = Member {
                voucher: VoucherId::new(NodeId::from_bytes(row.get(1)?)),
                store: db::store_key(row, 2)?,
            };
            Ok((NodeId::from_bytes(row.get(0)?), member))
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
    Member { voucher, store }: Member,
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
        "INSERT INTO unit (node, voucher, site, store, enrolled_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (node) DO UPDATE SET voucher = excluded.voucher, site = excluded.site,
                                          store = excluded.store",
        params![
            unit.as_bytes(),
            voucher.key().as_bytes(),
            site,
            store.as_bytes(),
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
    use identity::testing::store_key;

    use super::*;
    use crate::bench::Bench;

    #[tokio::test]
    async fn a_voucher_is_bound_to_the_first_key_and_the_grant_is_the_same_again() {
        let mut bench = Bench::new();
        let voucher = bench.voucher().await;
        let (first, second) = (NodeKey::generate(), NodeKey::generate());
        let fleet = &bench.rooms.fleet;
        assert!(fleet.admit(&first.id()).is_err());
        let request = EnrolRequest::sign(&voucher, &first, &store_key(), 1);
        let granted = fleet.enrol(first.id(), &request).await.unwrap();
        let EnrolReply::Granted(grant) = &granted else {
            panic!("{granted:?}")
        };
        Grant::verify_for(grant, &voucher, &first.id()).unwrap();
        assert_eq!(fleet.enrol(first.id(), &request).await.unwrap(), granted);
        assert_eq!(fleet.admit(&first.id()), Ok(()));
        assert_eq!(bench.said(&first, 7), 1);

        let request = EnrolRequest::sign(&voucher, &second, &store_key(), 1);
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
        let voucher = bench.voucher().await;
        let request = EnrolRequest::sign(&voucher, &NodeKey::generate(), &store_key(), 1);
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
            let request = EnrolRequest::sign(voucher, &unit, &store_key(), 1);
            bench.rooms.fleet.enrol(unit.id(), &request).await.unwrap();
        }
        bench.fleet.revoke(*newer.terms().id.key(), 1);
        let document = bench.fleet.document();
        bench.rooms.fleet.apply(document.signed()).await.unwrap();
        assert!(bench.rooms.fleet.admit(&unit.id()).is_err());
        let again = EnrolRequest::sign(&older, &unit, &store_key(), 1);
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

    #[tokio::test]
    async fn what_is_sent_to_a_unit_is_sealed_as_its_newest_grant_says() {
        let mut bench = Bench::new();
        let unit = NodeKey::generate();
        let (first, second) = (store_key(), store_key());
        let known = |bench: &Bench| bench.rooms.fleet.store_key_of(&unit.id());
        assert_eq!(known(&bench), Err(UnitError::Unknown(unit.id())));
        for store in [first, second] {
            let request = EnrolRequest::sign(&bench.voucher().await, &unit, &store, 1);
            bench.rooms.fleet.enrol(unit.id(), &request).await.unwrap();
            assert_eq!(known(&bench), Ok(store));
        }
        let mut bench = bench.reopen();
        assert_eq!(known(&bench), Ok(second));
        bench.fleet.revoke(unit.id(), 1);
        let document = bench.fleet.document();
        bench.rooms.fleet.apply(document.signed()).await.unwrap();
        assert_eq!(known(&bench), Err(UnitError::Revoked(unit.id())));
    }

    #[tokio::test]
    async fn a_document_with_another_store_key_is_in_force_and_is_refused_at_the_next_start() {
        let mut bench = Bench::new();
        bench.fleet.body.hubs[0].store = store_key();
        let document = bench.fleet.document();
        let applied = bench.rooms.fleet.apply(document.signed()).await.unwrap();
        assert_eq!(applied.1, Standing::Newer);
        let hub = bench.rooms.ledger.hub();
        let refused = read(bench.folder.path(), &hub, &bench.store).unwrap_err();
        assert!(
            matches!(&refused, RoomError::OtherStoreKey { ours, .. } if *ours == bench.store.id()),
            "{refused}"
        );
    }
}
