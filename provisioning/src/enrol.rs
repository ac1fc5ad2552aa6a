//! Hubs and vouchers: who may join the fleet.
//!
//! In: an open authority, what the operator wants. Out: a hub's folder; a voucher file.
//! Invariant: what is given out stands in the fleet document before its file exists.
//! May not: know which box uses a voucher; that is the hub's to bind.

use std::fs;
use std::path::{Path, PathBuf};

use identity::files::{self, FileError};
use identity::{
    ConsentPolicy, HubAddress, HubEntry, KeyError, Label, NodeId, NodeKey, Voucher, VoucherEntry,
    VoucherId, VoucherTerms,
};
use sealing::{KeyFile, KeyFileError};
use thiserror::Error;

use crate::authority::{Authority, AuthorityError, FLEET_FILE};

/// The hub's key, in its folder.
const HUB_KEY_FILE: &str = "node.key";
/// The hub's store key, in its folder.
const HUB_STORE_KEY_FILE: &str = "store.key";

/// Says why a hub or a voucher was not made.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The fleet's folder.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A hub's store key could not be made.
    #[error(transparent)]
    StoreKey(#[from] KeyFileError),
    /// Another hub has the name.
    #[error("the fleet has a hub named {0} already")]
    HubExists(Label),
    /// There is nothing to call.
    #[error("the fleet has no hub yet: make one with `hub`")]
    NoHub,
    /// It is not clear which hub is meant.
    #[error("the fleet has {0} hubs: say which with --hub NAME")]
    WhichHub(usize),
    /// No hub has the name.
    #[error("the fleet has no hub named {0}")]
    UnknownHub(Label),
    /// Listed, but not written.
    #[error(
        "the fleet lists {id} already, but its file was not written: revoke it and start again"
    )]
    Unwritten {
        /// What is listed.
        id: VoucherId,
        /// Why it was not written.
        #[source]
        source: FileError,
    },
}

/// What the operator wants of a voucher.
#[derive(Debug, Clone)]
pub struct VoucherOrder {
    /// The site that the box will stand at.
    pub site: Label,
    /// The site's consent policy.
    pub consent: ConsentPolicy,
    /// The hub's name, where there are several.
    pub hub: Option<Label>,
    /// Until when the hub redeems it, milliseconds of the Unix epoch.
    pub not_after_ms: u64,
}

/// Makes a hub's two keys in a folder of its own, lists the hub, and puts the fleet document beside them.
///
/// Nothing in the folder is ever overwritten: with a store key goes all that was sealed to it.
pub fn add_hub(
    authority: &mut Authority,
    (name, address): (Label, HubAddress),
    folder: &Path,
    now_ms: u64,
) -> Result<HubEntry, EnrolError> {
    if authority.document().hubs().any(|hub| hub.name == name) {
        return Err(EnrolError::HubExists(name));
    }
    let [key_file, store_key_file, fleet_file] =
        [HUB_KEY_FILE, HUB_STORE_KEY_FILE, FLEET_FILE].map(|name| folder.join(name));
    refuse_existing(&[&key_file, &store_key_file, &fleet_file])?;
    files::create_private_directory(folder)?;
    // From here on what is removed again is what was made here.
    let key = NodeKey::create(&key_file)?;
    let listed = list_hub(
        authority,
        (name, address, key.id()),
        &store_key_file,
        now_ms,
    );
    if listed.is_err() {
        // A key that no document names is of no use and would bar the next try.
        let _ = fs::remove_file(&key_file);
    }
    let hub = listed?;
    files::create_private(&fleet_file, authority.document().signed())?;
    Ok(hub)
}

/// Makes the store key and lists the hub, or does neither.
fn list_hub(
    authority: &mut Authority,
    (name, address, key): (Label, HubAddress, NodeId),
    store_key_file: &Path,
    now_ms: u64,
) -> Result<HubEntry, EnrolError> {
    let store = *KeyFile::create(store_key_file)?.public_key();
    let hub = HubEntry {
        name,
        address,
        key,
        store,
    };
    if let Err(error) = authority.publish(now_ms, |body| body.hubs.push(hub.clone())) {
        let _ = fs::remove_file(store_key_file);
        return Err(error.into());
    }
    Ok(hub)
}

/// Makes a voucher for one box, lists it, and writes its file.
pub fn add_unit(
    authority: &mut Authority,
    order: VoucherOrder,
    output: &Path,
    now_ms: u64,
) -> Result<VoucherEntry, EnrolError> {
    let hub = choose_hub(authority, order.hub)?;
    refuse_existing(&[output])?;
    let one_time = NodeKey::generate();
    let terms = VoucherTerms {
        format: VoucherTerms::FORMAT,
        fleet: authority.document().fleet(),
        id: VoucherId::new(one_time.id()),
        hub,
        site: order.site,
        consent: order.consent,
        made_at_ms: now_ms,
        not_after_ms: order.not_after_ms,
        root: authority.document().root().signed().to_vec(),
    };
    let entry = VoucherEntry {
        id: terms.id,
        site: terms.site.clone(),
        consent: terms.consent,
        hub: terms.hub.key,
        made_at_ms: terms.made_at_ms,
        not_after_ms: terms.not_after_ms,
    };
    authority.publish(now_ms, |body| body.vouchers.push(entry.clone()))?;
    let bytes = Voucher::issue(&terms, authority.issuing(), &one_time);
    files::create_private(output, &bytes).map_err(|source| EnrolError::Unwritten {
        id: entry.id,
        source,
    })?;
    Ok(entry)
}

/// Refuses before anything is changed what could not be written afterwards.
pub(crate) fn refuse_existing(paths: &[&Path]) -> Result<(), FileError> {
    match paths.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Err(FileError::Exists(PathBuf::from(path))),
        None => Ok(()),
    }
}

fn choose_hub(authority: &Authority, name: Option<Label>) -> Result<HubEntry, EnrolError> {
    let hubs: Vec<_> = authority.document().hubs().collect();
    match (name, hubs.as_slice()) {
        (None, []) => Err(EnrolError::NoHub),
        (None, [hub]) => Ok((*hub).clone()),
        (None, several) => Err(EnrolError::WhichHub(several.len())),
        (Some(name), hubs) => match hubs.iter().find(|hub| hub.name == name) {
            Some(hub) => Ok((*hub).clone()),
            None => Err(EnrolError::UnknownHub(name)),
        },
    }
}
