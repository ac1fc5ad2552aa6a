//! Bundles: the road to boxes and back on a stick.
//!
//! In: a mounted stick with what boxes have written; the hub's streams and what boxes want back. Out:
//! what the bundles bring, through `inbox` as from a contact; bundles for boxes on the stick.
//! Invariant: who would not be let in on the link is not listened to on a stick; nothing is receipted
//! because a stick brought it: `inbox` decides that.
//! May not: open what it carries, call a box.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::{Carrier, CarryError, Door, Item, Letter, Progress, Stick, StickError};
use identity::{EnrolReply, NodeId, NodeKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use study::Priority;
use sync_proto::Config;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::fleet::{Fleet, RoomError};
use crate::inbox::{self, HubShelf, Inbox};

/// What can be asked of the road by stick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bundle", rename_all = "kebab-case")]
pub(crate) enum BundleRequest {
    /// Writes what boxes do not have onto a stick.
    Export { path: PathBuf, part_bytes: u64 },
    /// Takes the boxes' bundles from a stick.
    Import {
        path: PathBuf,
        remove_imported: bool,
    },
    /// How far the work has come.
    Look,
}

/// Why nothing was carried.
#[derive(Debug, Error)]
pub(crate) enum BundleError {
    /// The medium, or the work on it.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// The index cannot be read.
    #[error("the hub's index cannot be read")]
    Index(#[from] store::rusqlite::Error),
    /// The fleet's index cannot be read.
    #[error(transparent)]
    Fleet(#[from] RoomError),
}

impl From<StickError> for BundleError {
    fn from(error: StickError) -> Self {
        CarryError::from(error).into()
    }
}

/// The room.
pub(crate) struct Bundles {
    folder: PathBuf,
    inbox: Arc<Inbox>,
    fleet: Arc<Fleet>,
    carrier: Carrier,
}

impl Bundles {
    pub(crate) fn new(
        folder: &Path,
        key: Arc<NodeKey>,
        inbox: Arc<Inbox>,
        fleet: Arc<Fleet>,
    ) -> Self {
        Self {
            folder: folder.to_owned(),
            inbox,
            fleet,
            carrier: Carrier::new(folder, key),
        }
    }

    /// Does what is asked. Blocks; not from async code.
    pub(crate) fn execute(
        &self,
        request: &BundleRequest,
        runtime: &Handle,
    ) -> Result<Value, BundleError> {
        match request {
            BundleRequest::Export { path, part_bytes } => self.export(path, *part_bytes, runtime),
            BundleRequest::Import {
                path,
                remove_imported,
            } => self.import(path, *remove_imported, runtime),
            BundleRequest::Look => Ok(bundle::at_work(&Progress::of_this_program())),
        }
    }

    /// A bundle for each box that there is something for.
    fn export(&self, path: &Path, part_bytes: u64, runtime: &Handle) -> Result<Value, BundleError> {
        let stick = Stick::at(path)?;
        // What was imported a moment ago is judged first: its receipts go with this stick.
        self.inbox.wait_until_judged();
        let mut written = Vec::new();
        for (unit, grant) in self.fleet.grants()? {
            if let Some(seq) = self.inbox.acknowledged(&unit) {
                self.carrier.memory().note_acknowledged(unit, seq);
            }
            let config = inbox::session_config(&self.inbox, unit, self.fleet.document().version())?;
            // A box takes back only what it has lost, and says by its records that it has not any more.
            let items = self
                .inbox
                .wanted_back(unit)
                .into_iter()
                .map(|manifest| Item {
                    manifest,
                    class: Priority::Bulk,
                });
            let shelf = HubShelf::new(Arc::clone(&self.inbox), Arc::clone(&self.fleet), unit);
            let (with, on) = ((&shelf, runtime), (&stick, part_bytes));
            let items = items.collect();
            written.extend(
                self.carrier
                    .export(with, (config, Some(grant)), items, on)?,
            );
        }
        let own_disk = stick.is_the_disk_of(&self.folder);
        Ok(bundle::exported(&stick, own_disk, &written))
    }

    fn import(&self, path: &Path, remove: bool, runtime: &Handle) -> Result<Value, BundleError> {
        let stick = Stick::at(path)?;
        let door = UnitDoor {
            bundles: self,
            runtime,
        };
        let lines = self.carrier.import(&door, runtime, (&stick, remove))?;
        self.inbox.wait_until_judged();
        Ok(bundle::imported(&stick, &lines))
    }
}

/// Lets in who would be let in on the link, and who brings a voucher that is good.
struct UnitDoor<'a> {
    bundles: &'a Bundles,
    runtime: &'a Handle,
}

impl Door for UnitDoor<'_> {
    type Shelf = HubShelf;

    fn admit(&self, letter: &Letter) -> Result<(HubShelf, Config), String> {
        let Bundles { inbox, fleet, .. } = self.bundles;
        let unit = letter.head.sender;
        if let Err(reason) = fleet.admit(&unit) {
            self.enrol(unit, letter.head.paper.as_deref(), reason)?;
        }
        let config = inbox::session_config(inbox, unit, fleet.document().version());
        let config = config.map_err(|error| crate::chain(&error))?;
        let shelf = HubShelf::new(Arc::clone(inbox), Arc::clone(fleet), unit);
        Ok((shelf, config))
    }
}

impl UnitDoor<'_> {
    fn enrol(&self, unit: NodeId, request: Option<&[u8]>, reason: String) -> Result<(), String> {
        let request = request.ok_or(reason)?;
        let fleet = &self.bundles.fleet;
        match self.runtime.block_on(fleet.enrol(unit, request)) {
            // A box that was revoked since keeps the grant it had; it is not let in for it.
            Ok(EnrolReply::Granted(_)) => fleet.admit(&unit),
            Ok(EnrolReply::Refused(reason)) => Err(reason),
            Err(error) => Err(crate::chain(&error)),
        }
    }
}
