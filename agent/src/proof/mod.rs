//! Proof: one file with which a stranger checks, offline, that images and reports are unaltered.
//!
//! In: what the box holds on paper (fleet document, grant, manifests, receipts, reports) and its
//! index; at the other end a proof file and a folder of DICOM files. Out: a sealed proof file; a
//! judgement that names each document and each image that does not hold.
//! Invariant: checking needs nothing but the file and the fleet's name; a document counts only
//! after its signature was followed up to the fleet's first root; an image counts only after its
//! bytes were digested.
//! May not: change anything in the box, let out a study without consent, say that something holds
//! which was not looked at.

mod format;
mod images;
mod judge;
mod present;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::files::{self, FileError};
use journal::{ClockQuality, Moment};
use study::StudyUid;
use thiserror::Error;

use crate::keys::Locked;
use crate::membership::Membership;
use crate::vault::{Vault, VaultError};

pub use format::{PROOF_BYTES_MAX, Papers, Proof, ProofError, ReportPaper};
pub use images::{Altered, FolderCheck, FolderError, check_folder};
pub use judge::{Document, Fault, Filed, Judgement, Receipted, Unit, judge};
pub(crate) use verify::verify;

/// The largest grant file that is read.
const GRANT_BYTES_MAX: u64 = 64 << 10;

/// Says why no proof of a study is made.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Nobody has given the PIN.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// No such study is held.
    #[error("no study {0} is held in this box")]
    UnknownStudy(StudyUid),
    /// Nothing of the study may leave.
    #[error("study {0} waits for consent: nothing of it leaves the box before")]
    NoConsent(StudyUid),
    /// Nothing of the study was signed.
    #[error("no instance of study {0} is packed and signed yet: try again in some seconds")]
    NoRevision(StudyUid),
    /// Nobody vouches for the box.
    #[error("the box has no grant yet: a proof needs the hub's word on whose box this is")]
    NoGrant,
    /// Nothing leads to the fleet's root.
    #[error("no fleet document is here yet: a proof needs it to lead to the fleet's root")]
    NoFleet,
    /// The grant cannot be read.
    #[error("the box's grant cannot be read")]
    Grant(#[source] FileError),
    /// The index cannot be read.
    #[error("the vault's index cannot be read")]
    Index(#[source] VaultError),
    /// The study is larger than a proof may be.
    #[error("the proof would have {0} bytes, {PROOF_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// What is held here does not prove anything.
    #[error("what is held here does not hold together: {0}")]
    DoesNotHold(Fault),
}

/// A proof that was made.
#[derive(Debug)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// What it does not show, in plain words.
    pub not_shown: Vec<String>,
}

/// Makes proofs of what the box holds.
#[derive(Clone)]
pub struct Proofs(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    vault: Vault,
    membership: Arc<Membership>,
}

impl Proofs {
    /// Reads the papers in `vault` and the grant in the box's `folder`.
    pub fn new(folder: &Path, vault: Vault, membership: Arc<Membership>) -> Self {
        Self(Arc::new(Inner {
            folder: folder.to_owned(),
            vault,
            membership,
        }))
    }

    /// Makes the proof of a study as it is held. Blocks on the disk.
    ///
    /// What is not there yet, such as the hub's receipt, is said and is no reason to refuse. What
    /// is there and does not hold is, but for a report: the file carries it, and it is named.
    pub fn export(&self, study: &StudyUid) -> Result<Exported, ExportError> {
        let Inner {
            folder,
            vault,
            membership,
        } = &*self.0;
        vault.keys().readable()?;
        let key = membership.key();
        let held = vault.papers(study).map_err(ExportError::Index)?;
        let held = held.ok_or_else(|| ExportError::UnknownStudy(study.clone()))?;
        if !held.may_leave {
            return Err(ExportError::NoConsent(study.clone()));
        }
        if held.manifests.is_empty() {
            return Err(ExportError::NoRevision(study.clone()));
        }
        if !membership.is_enrolled() {
            return Err(ExportError::NoGrant);
        }
        let grant = files::read(&folder.join("grant.cose"), GRANT_BYTES_MAX);
        let fleet = membership.fleet().ok_or(ExportError::NoFleet)?;
        let (mut reports, mut not_shown) = (Vec::new(), Vec::new());
        for (number, (record, stored)) in (1..).zip(held.reports) {
            match vault.open_report(&stored) {
                Ok(signed) => reports.push(ReportPaper { record, signed }),
                Err(fault) => not_shown.push(format!("report no. {number}: {fault}")),
            }
        }
        let papers = Papers {
            fleet: fleet.signed().to_vec(),
            grant: grant.map_err(ExportError::Grant)?,
            manifests: held.manifests,
            images: held.images,
            receipts: held.receipts,
            reports,
        };
        let now = Moment {
            count_ms: clock::count_ms(),
            wall_ms: clock::wall_ms(),
            clock: ClockQuality::Unknown,
        };
        let proof = papers.seal(&key, now);
        if proof.bytes().len() > PROOF_BYTES_MAX {
            return Err(ExportError::TooLong(proof.bytes().len()));
        }
        let judgement = judge(&proof, None);
        not_shown.extend(judgement.not_shown);
        if held.unsigned > 0 {
            let count = held.unsigned;
            not_shown.push(format!("{count} image(s) held here are in no revision yet"));
        }
        for fault in judgement.faults {
            match fault.document {
                Document::Report(_) => not_shown.push(format!("DOES NOT HOLD: {fault}")),
                Document::File
                | Document::Fleet
                | Document::Grant
                | Document::Manifest(_)
                | Document::Images
                | Document::Receipt(_)
                | Document::Seal => return Err(ExportError::DoesNotHold(fault)),
            }
        }
        Ok(Exported {
            bytes: proof.into_bytes(),
            not_shown,
        })
    }
}

#[cfg(test)]
mod tests;
