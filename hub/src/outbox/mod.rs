//! Outbox: tells each open contact what has grown for its unit.
//!
//! In: word from rooms that a unit's stream has grown or the fleet document has changed. Out: the
//! newest state to the unit's contact, if one is open; else nothing, as the next contact begins
//! with what its unit lacks.
//! Invariant: a contact hears of its own unit's stream only, and only of what is durable.
//! May not: read records, open sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::NodeId;
use journal::Head;
use store::Readers;
use store::rusqlite;
use tokio::sync::watch;

use crate::ledger::{self, Ledger};

/// What is new for a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    /// The end of the hub's stream for the unit.
    pub head: Head,
    /// The version of the fleet document in force.
    pub fleet_version: u64,
    /// How often the unit has asked for chunks back in this contact.
    pub asked: u64,
}

/// The room.
pub(crate) struct Outbox {
    readers: Arc<Readers>,
    ledger: Arc<Ledger>,
    contacts: Mutex<BTreeMap<NodeId, watch::Sender<News>>>,
    acknowledged: Mutex<BTreeMap<NodeId, u64>>,
}

impl Outbox {
    pub(crate) fn new(readers: Arc<Readers>, ledger: Arc<Ledger>) -> Self {
        Self {
            readers,
            ledger,
            contacts: Mutex::default(),
            acknowledged: Mutex::default(),
        }
    }

    /// Opens a contact's ear; an older contact of the same unit hears nothing more.
    pub(crate) fn open(
        &self,
        unit: NodeId,
        fleet_version: impl FnOnce() -> u64,
    ) -> rusqlite::Result<watch::Receiver<News>> {
        // The lock is held over the reading, so that no change falls between it and the entry.
        let mut contacts = self.contacts();
        let sender = watch::Sender::new(News {
            head: self.head(unit)?,
            fleet_version: fleet_version(),
            asked: 0,
        });
        let receiver = sender.subscribe();
        contacts.insert(unit, sender);
        Ok(receiver)
    }

    /// The unit's stream has grown durably.
    pub(crate) fn grown(&self, unit: NodeId) -> rusqlite::Result<()> {
        let contacts = self.contacts();
        if let Some(contact) = contacts.get(&unit) {
            let head = self.head(unit)?;
            contact.send_modify(|news| news.head = head);
        }
        Ok(())
    }

    /// The unit wants chunks of its own back.
    pub(crate) fn asked(&self, unit: NodeId) {
        if let Some(contact) = self.contacts().get(&unit) {
            contact.send_modify(|news| news.asked += 1);
        }
    }

    /// A unit has said how much it holds of the hub's stream for it.
    pub(crate) fn note_acknowledged(&self, unit: NodeId, seq: u64) {
        self.heard().insert(unit, seq);
    }

    /// How much a unit holds of its stream, if it has said so since the program started.
    pub(crate) fn acknowledged(&self, unit: &NodeId) -> Option<u64> {
        self.heard().get(unit).copied()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        let heard = self.acknowledged.lock();
        heard.unwrap_or_else(PoisonError::into_inner)
    }

    /// Another fleet document is in force.
    pub(crate) fn fleet_changed(&self, version: u64) {
        for contact in self.contacts().values() {
            contact.send_modify(|news| news.fleet_version = version);
        }
    }

    /// How many contacts are open.
    pub(crate) fn open_contacts(&self) -> usize {
        let mut contacts = self.contacts();
        contacts.retain(|_, contact| !contact.is_closed());
        contacts.len()
    }

    fn head(&self, unit: NodeId) -> rusqlite::Result<Head> {
        self.readers
            .with(|sql| ledger::head(sql, &self.ledger.stream(unit)))
    }

    fn contacts(&self) -> MutexGuard<'_, BTreeMap<NodeId, watch::Sender<News>>> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
