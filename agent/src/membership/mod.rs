//! Membership: what the box knows of the fleet it belongs to.
//!
//! In: a voucher from provisioning, a grant and fleet documents from the hub. Out: the hub to call
//! and its key, the site's consent policy, the document that reports are verified against.
//! Invariant: a document is taken only when its signatures lead to the voucher's root, and never an
//! older one; a document in use is on the disk.
//! May not: open sockets, stop capture or upload for any date.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use identity::files::{self, FileError};
use identity::{
    Anchor, ConsentPolicy, EnrolRequest, FLEET_BYTES_MAX, FleetDocument, FleetError, Grant,
    GrantError, HubEntry, KeyError, NodeId, NodeKey, Standing, StorePublicKey, SupersedeError,
    Voucher, VoucherError,
};
use thiserror::Error;
use tokio::sync::watch;

/// The largest voucher or grant file that is read.
const DOCUMENT_BYTES_MAX: u64 = 256 << 10;

/// Says why the box's standing in its fleet cannot be read or changed.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The box's own key cannot be read or made.
    #[error("the box's own key cannot be used")]
    Key(#[from] KeyError),
    /// The voucher is not right.
    #[error("the voucher is refused")]
    Voucher(#[from] VoucherError),
    /// The grant is not right.
    #[error("the grant is refused")]
    Grant(#[from] GrantError),
    /// The fleet document is not right.
    #[error("the fleet document is refused")]
    Fleet(#[from] FleetError),
    /// The fleet document is older than the one in use, or contradicts it.
    #[error("the fleet document is refused")]
    Supersede(#[from] SupersedeError),
    /// Another voucher was redeemed before.
    #[error("this box is enrolled at site {0} already; use a fresh folder for another voucher")]
    OtherVoucher(String),
    /// The folder is no box's, or the box's key was lost.
    #[error("there is no node.key in {}", .0.display())]
    NoKey(PathBuf),
    /// A box worked here, and what it holds goes with its key: another key is no help.
    #[error("node.key is missing in {}, but a box has worked there: put the key back", .0.display())]
    KeyLost(PathBuf),
    /// There is no voucher.
    #[error("this box has no voucher; run `chasqui-agent enrol` first")]
    NoVoucher,
}

/// The box's standing in its fleet; shared by the rooms that need it.
pub struct Membership {
    folder: PathBuf,
    key: Arc<NodeKey>,
    papers: Mutex<Papers>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Papers {
    voucher: Option<Arc<Voucher>>,
    grant: Option<Grant>,
    fleet: Option<Arc<FleetDocument>>,
}

impl Membership {
    /// Reads what a box's folder holds.
    ///
    /// A paper that cannot be used is left out and logged: the hub gives grants and fleet documents
    /// again, and capture goes on without any of them.
    pub fn open(folder: &Path) -> Result<Self, MembershipError> {
        let key = load_key(folder)?;
        let (papers, faults) = Papers::read(folder, &key.id());
        for fault in &faults {
            let fault = fault as &dyn std::error::Error;
            tracing::error!(fault, "one of the box's papers cannot be used");
        }
        Ok(Self {
            folder: folder.to_owned(),
            key: Arc::new(key),
            papers: Mutex::new(papers),
            changed: watch::Sender::new(()),
        })
    }

    /// Does what [`Membership::open`] does; makes folder and key where no box has worked before.
    /// The caller holds the folder's lock.
    pub fn open_or_found(folder: &Path) -> Result<Self, MembershipError> {
        match Self::open(folder) {
            Err(MembershipError::NoKey(_)) => {
                NodeKey::create(&folder.join("node.key"))?;
                Self::open(folder)
            }
            opened => opened,
        }
    }

    /// Says what is wrong with the key or the papers in a folder; changes nothing.
    pub fn check(folder: &Path) -> Result<(), MembershipError> {
        let key = load_key(folder)?;
        let (_, faults) = Papers::read(folder, &key.id());
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    /// The box's own key.
    pub fn key(&self) -> Arc<NodeKey> {
        Arc::clone(&self.key)
    }

    /// Tells of every change of the box's standing.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The hub's keys and address, as the fleet document or else the voucher says.
    pub fn hub(&self) -> Option<HubEntry> {
        let papers = self.papers();
        let promised = &papers.voucher.as_ref()?.terms().hub;
        let listed = papers
            .fleet
            .as_ref()
            .and_then(|fleet| fleet.hub(&promised.key));
        Some(listed.unwrap_or(promised).clone())
    }

    /// The box's store key as the hub's grant names it.
    pub fn granted_store_key(&self) -> Option<StorePublicKey> {
        Some(self.papers().grant.as_ref()?.store)
    }

    /// The hub has granted what the voucher promises.
    pub fn is_enrolled(&self) -> bool {
        self.papers().grant.is_some()
    }

    /// The site's name.
    pub fn site(&self) -> Option<String> {
        Some(
            self.papers()
                .voucher
                .as_ref()?
                .terms()
                .site
                .as_str()
                .to_owned(),
        )
    }

    /// What lets a study leave this site; without a voucher a person must say so.
    pub fn consent_policy(&self) -> ConsentPolicy {
        let papers = self.papers();
        papers
            .voucher
            .as_ref()
            .map_or(ConsentPolicy::Ask, |voucher| voucher.terms().consent)
    }

    /// The newest fleet document.
    pub fn fleet(&self) -> Option<Arc<FleetDocument>> {
        self.papers().fleet.clone()
    }

    /// Takes a voucher, to be redeemed at the hub that it names; the same one again is fine.
    pub fn take_voucher(&self, bytes: &[u8]) -> Result<(), MembershipError> {
        let voucher = Voucher::parse(bytes)?;
        let mut papers = self.papers();
        if let Some(held) = &papers.voucher {
            if held.terms().id == voucher.terms().id {
                return Ok(());
            }
            if papers.grant.is_some() {
                return Err(MembershipError::OtherVoucher(held.terms().site.to_string()));
            }
        }
        files::replace(&self.folder.join("voucher.cose"), bytes)?;
        papers.voucher = Some(Arc::new(voucher));
        drop(papers);
        self.changed.send_replace(());
        Ok(())
    }

    /// The signed request with which the voucher is redeemed; it names the box's store key.
    pub fn enrol_request(&self, store: &StorePublicKey) -> Result<Vec<u8>, MembershipError> {
        let voucher = self
            .papers()
            .voucher
            .clone()
            .ok_or(MembershipError::NoVoucher)?;
        Ok(EnrolRequest::sign(
            &voucher,
            &self.key,
            store,
            clock::wall_ms(),
        ))
    }

    /// Takes the hub's grant, which must name the box's store key.
    pub fn take_grant(&self, bytes: &[u8], store: &StorePublicKey) -> Result<(), MembershipError> {
        let mut papers = self.papers();
        let voucher = papers.voucher.clone().ok_or(MembershipError::NoVoucher)?;
        let grant = Grant::verify_for(bytes, &voucher, &self.key.id())?;
        grant.check_store(store)?;
        files::replace(&self.folder.join("grant.cose"), bytes)?;
        papers.grant = Some(grant);
        drop(papers);
        self.changed.send_replace(());
        Ok(())
    }

    /// Takes a newer fleet document; the one that is in use already changes nothing.
    pub fn take_fleet(&self, bytes: &[u8]) -> Result<(), MembershipError> {
        let mut papers = self.papers();
        let voucher = papers.voucher.clone().ok_or(MembershipError::NoVoucher)?;
        let fleet = FleetDocument::parse(bytes, &anchor(&voucher))?;
        if let Some(held) = &papers.fleet {
            match fleet.supersedes(held)? {
                Standing::Newer => {}
                Standing::Same => return Ok(()),
            }
        }
        files::replace(&self.folder.join("fleet.cose"), bytes)?;
        tracing::info!(version = fleet.version(), "took a fleet document");
        papers.fleet = Some(Arc::new(fleet));
        drop(papers);
        self.changed.send_replace(());
        Ok(())
    }

    fn papers(&self) -> std::sync::MutexGuard<'_, Papers> {
        // Each paper is replaced whole, so that a poisoned lock guards nothing half made.
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Papers {
    /// Reads each paper that is there, and says of those that cannot be used why.
    fn read(folder: &Path, unit: &NodeId) -> (Self, Vec<MembershipError>) {
        let mut papers = Self::default();
        let mut faults = Vec::new();
        papers.voucher = used(&folder.join("voucher.cose"), &mut faults, |bytes| {
            Ok(Arc::new(Voucher::parse(bytes)?))
        });
        let Some(voucher) = papers.voucher.clone() else {
            return (papers, faults);
        };
        papers.grant = used(&folder.join("grant.cose"), &mut faults, |bytes| {
            Ok(Grant::verify_for(bytes, &voucher, unit)?)
        });
        papers.fleet = used(&folder.join("fleet.cose"), &mut faults, |bytes| {
            Ok(Arc::new(FleetDocument::parse(bytes, &anchor(&voucher))?))
        });
        (papers, faults)
    }
}

fn used<T>(
    path: &Path,
    faults: &mut Vec<MembershipError>,
    parse: impl FnOnce(&[u8]) -> Result<T, MembershipError>,
) -> Option<T> {
    let bytes = read(path).map_err(MembershipError::from).transpose()?;
    bytes
        .and_then(|bytes| parse(&bytes))
        .map_err(|fault| faults.push(fault))
        .ok()
}

fn load_key(folder: &Path) -> Result<NodeKey, MembershipError> {
    let path = folder.join("node.key");
    if path.exists() {
        return Ok(NodeKey::load(&path)?);
    }
    let has_worked = ["index.sqlite", "grant.cose"]
        .iter()
        .any(|name| folder.join(name).exists());
    Err(if has_worked {
        MembershipError::KeyLost(folder.into())
    } else {
        MembershipError::NoKey(folder.into())
    })
}

/// The root that everything of the fleet is verified against.
fn anchor(voucher: &Voucher) -> Anchor {
    voucher.root().anchor()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes_max = DOCUMENT_BYTES_MAX.max(FLEET_BYTES_MAX as u64);
    files::read(path, bytes_max).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_never_in_the_place_of_a_lost_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(matches!(
            Membership::open(folder),
            Err(MembershipError::NoKey(_))
        ));
        let made = Membership::open_or_found(folder).unwrap().key().id();
        assert_eq!(Membership::open_or_found(folder).unwrap().key().id(), made);

        std::fs::write(folder.join("index.sqlite"), b"").unwrap();
        std::fs::remove_file(folder.join("node.key")).unwrap();
        assert!(matches!(
            Membership::open_or_found(folder),
            Err(MembershipError::KeyLost(_))
        ));
        assert!(!folder.join("node.key").exists());
    }

    #[test]
    fn a_damaged_paper_is_told_by_check_and_does_not_stop_the_box() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        drop(Membership::open_or_found(folder).unwrap());
        assert!(Membership::check(folder).is_ok());
        std::fs::write(folder.join("voucher.cose"), b"rot").unwrap();
        let membership = Membership::open(folder).unwrap();
        assert!(membership.hub().is_none());
        assert_eq!(membership.consent_policy(), ConsentPolicy::Ask);
        assert!(matches!(
            Membership::check(folder),
            Err(MembershipError::Voucher(_))
        ));
    }
}
