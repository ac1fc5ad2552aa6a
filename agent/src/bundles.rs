//! Bundles: the road to the hub and back on a stick.
//!
//! In: what goes next, from `outbox`; the hub's key, from `membership`; a mounted stick. Out: bundles
//! on the stick; records and papers that the hub's bundles bring, to the rooms that keep them.
//! Invariant: what may not leave by a link does not leave by a stick; a stick that left is no custody;
//! only the hub of this box is listened to.
//! May not: change what is due, open what it carries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bundle::{Carrier, Door, Item, LeftOutLine, Letter, Progress, Stick};
use journal::SignedManifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use study::Digest;
use sync_proto::{Config, Event};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::commands::{self, Failure, Request, say};
use crate::contact::{self, BoxShelf};
use crate::membership::Membership;
use crate::outbox;
use crate::vault::Vault;

/// Why the vault does not let something leave that was due a moment ago.
const NOT_NOW: &str = "it has changed just now, or this box's disk is full: export again";

/// What can be asked of the road by stick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bundle", rename_all = "kebab-case")]
pub enum BundleRequest {
    /// Writes what the hub does not have onto a stick.
    Export {
        /// Where it is mounted.
        path: PathBuf,
        /// The most bytes in a file.
        part_bytes: u64,
    },
    /// Takes the hub's bundles from a stick.
    Import {
        /// Where it is mounted.
        path: PathBuf,
        /// Takes those off it that are imported.
        remove_imported: bool,
    },
    /// How far the work has come.
    Look,
}

/// The room.
#[derive(Clone)]
pub struct Bundles {
    folder: PathBuf,
    vault: Vault,
    membership: Arc<Membership>,
    carrier: Arc<Carrier>,
}

impl Bundles {
    pub(crate) fn new(folder: &Path, vault: Vault, membership: Arc<Membership>) -> Self {
        let carrier = Arc::new(Carrier::new(folder, membership.key()));
        Self {
            folder: folder.to_owned(),
            vault,
            membership,
            carrier,
        }
    }

    /// Does what is asked, on a thread that may block.
    pub(crate) async fn execute(&self, request: BundleRequest) -> anyhow::Result<Value> {
        let (bundles, runtime) = (self.clone(), Handle::current());
        let work = move || match request {
            BundleRequest::Export { path, part_bytes } => {
                bundles.export(&path, part_bytes, &runtime)
            }
            BundleRequest::Import {
                path,
                remove_imported,
            } => bundles.import(&path, remove_imported, &runtime),
            BundleRequest::Look => Ok(bundle::at_work(&Progress::of_this_program())),
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.context("the work was interrupted")?
    }

    fn export(&self, path: &Path, part_bytes: u64, runtime: &Handle) -> anyhow::Result<Value> {
        let hub = self.membership.hub();
        let hub = hub.ok_or_else(|| anyhow!("this box has no voucher yet: there is no hub"))?;
        let stick = Stick::at(path)?;
        let (items, behind) = runtime.block_on(self.let_leave())?;
        let config = contact::session_config(&self.vault, &self.membership, hub.key)?;
        let paper = match self.membership.is_enrolled() {
            true => None,
            false => {
                let store = self.vault.keys().public_key();
                Some(self.membership.enrol_request(&store)?)
            }
        };
        let (shelf, _events) = self.shelf();
        let shelf = (&shelf, runtime);
        let on = (&stick, part_bytes);
        let mut written = self.carrier.export(shelf, (config, paper), items, on)?;
        match &mut written {
            Some(line) => line.left_out.extend(behind),
            None if behind.is_empty() => {}
            None => return Err(anyhow!("nothing can be exported: {NOT_NOW}")),
        }
        let own_disk = stick.is_the_disk_of(&self.folder);
        Ok(bundle::exported(&stick, own_disk, written.as_slice()))
    }

    /// Lets all that is due leave: it is packed no more, and the hub may come to hold any of it,
    /// whatever this program lives to see. Gives it in its order, and what stays behind.
    async fn let_leave(&self) -> anyhow::Result<(Vec<Item>, Vec<LeftOutLine>)> {
        let due = outbox::due(&self.vault)?;
        let names = due.iter().map(|revision| revision.manifest_digest);
        let given = self.vault.offer(names.collect()).await?.into_inner();
        let given = given.into_iter().map(|signed| (signed.digest(), signed));
        let mut given: BTreeMap<Digest, SignedManifest> = given.collect();
        self.vault.note_left_otherwise(given.keys().copied());
        let (mut items, mut behind) = (Vec::with_capacity(due.len()), Vec::new());
        for revision in due {
            let class = revision.priority;
            match given.remove(&revision.manifest_digest) {
                Some(manifest) => items.push(Item { manifest, class }),
                None => behind.push(LeftOutLine {
                    study_instance_uid: revision.study.to_string(),
                    revision: revision.revision,
                    priority: class,
                    reason: NOT_NOW,
                }),
            }
        }
        Ok((items, behind))
    }

    fn import(&self, path: &Path, remove: bool, runtime: &Handle) -> anyhow::Result<Value> {
        let stick = Stick::at(path)?;
        let (events, mut heard) = mpsc::unbounded_channel();
        let door = HubDoor {
            bundles: self,
            events,
        };
        let lines = self.carrier.import(&door, runtime, (&stick, remove))?;
        drop(door);
        let _runtime = runtime.enter();
        while let Ok(event) = heard.try_recv() {
            if let Event::Diverged {
                journal,
                ours,
                theirs,
                kind,
            } = event
            {
                contact::note_divergence(&self.vault, journal, (ours, theirs), kind);
            }
        }
        Ok(bundle::imported(&stick, &lines))
    }

    fn shelf(&self) -> (BoxShelf, mpsc::UnboundedReceiver<Event>) {
        let (events, heard) = mpsc::unbounded_channel();
        (self.shelf_with(events), heard)
    }

    fn shelf_with(&self, events: mpsc::UnboundedSender<Event>) -> BoxShelf {
        BoxShelf::new(self.vault.clone(), Arc::clone(&self.membership), events)
    }
}

/// Lets the hub of this box in, and nobody else.
struct HubDoor<'a> {
    bundles: &'a Bundles,
    events: mpsc::UnboundedSender<Event>,
}

impl Door for HubDoor<'_> {
    type Shelf = BoxShelf;

    fn admit(&self, letter: &Letter) -> Result<(BoxShelf, Config), String> {
        let Bundles {
            vault, membership, ..
        } = self.bundles;
        let sender = letter.head.sender;
        if membership.hub().is_none_or(|hub| hub.key != sender) {
            return Err(format!("node {} is not this box's hub", sender.short()));
        }
        let fleet = membership.fleet();
        if fleet.is_some_and(|fleet| fleet.revocation(&sender).is_some()) {
            return Err(format!("hub {} was revoked", sender.short()));
        }
        if let Some(grant) = letter
            .head
            .paper
            .as_ref()
            .filter(|_| !membership.is_enrolled())
        {
            let taken = membership.take_grant(grant, &vault.keys().public_key());
            taken.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
            tracing::info!("enrolled, by stick");
        }
        let config = contact::session_config(vault, membership, sender);
        let config = config.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        Ok((self.bundles.shelf_with(self.events.clone()), config))
    }
}

/// `bundle export`
pub(crate) fn export(
    folder: &Path,
    stick: &Path,
    part_bytes: u64,
    json: bool,
) -> Result<(), Failure> {
    let output = ask(
        folder,
        BundleRequest::Export {
            path: whole(stick)?,
            part_bytes,
        },
    )?;
    if let Some(warning) = bundle::export_warning(&output) {
        eprintln!("warning: {warning}");
    }
    say(&shown(&output, json, bundle::export_text))
}

/// `bundle import`
pub(crate) fn import(
    folder: &Path,
    stick: &Path,
    remove_imported: bool,
    json: bool,
) -> Result<(), Failure> {
    let output = ask(
        folder,
        BundleRequest::Import {
            path: whole(stick)?,
            remove_imported,
        },
    )?;
    say(&shown(&output, json, bundle::import_text))?;
    match output["failed"].as_u64() {
        Some(0) | None => Ok(()),
        Some(count) => Err(anyhow!("{count} bundle(s) could not be imported").into()),
    }
}

/// Asks, and says how far the work has come while it goes on.
fn ask(folder: &Path, request: BundleRequest) -> Result<Value, Failure> {
    let request = Request::Bundle(request);
    let look = || {
        let look = serde_json::to_value(Request::Bundle(BundleRequest::Look)).ok()?;
        match control::ask(folder, &look).ok()? {
            Some(reply) => Some(reply.output),
            None => Some(bundle::at_work(&Progress::of_this_program())),
        }
    };
    let tell = |text: &str| eprintln!("{text}");
    let reply = bundle::with_progress(|| commands::ask(folder, &request), look, tell)?;
    Ok(reply.output)
}

/// The running program may stand in another folder.
fn whole(stick: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(stick);
    Ok(path.with_context(|| format!("cannot look at {}", stick.display()))?)
}

fn shown(output: &Value, json: bool, words: fn(&Value) -> String) -> String {
    match json {
        true => format!("{output:#}\n"),
        false => words(output),
    }
}

#[cfg(test)]
mod tests;
