//! Findings: what is wrong with a study, for people to see while the patient still lies there.

use minicbor::{Decode, Encode};
use serde::Serialize;
use study::StudyUid;

use crate::vault::{Change, Document, Drawer, Vault, VaultError};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Notice,
    /// Somebody should look.
    Warning,
    /// Somebody must look before the patient leaves.
    Alarm,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Encode, Decode)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The modality made instances that have not come.
    #[n(1)]
    InstancesMissing,
    /// Instances came that the modality didn't say it made.
    #[n(2)]
    InstancesUnannounced,
    /// The modality broke the examination off.
    #[n(3)]
    Discontinued,
    /// Name, ID or birth date in the images are not those of the order.
    #[n(4)]
    PatientDiffers,
    /// The accession number in the images is not that of the order.
    #[n(5)]
    AccessionDiffers,
    /// The accession number is that of an order for another study.
    #[n(6)]
    OrderElsewhere,
}

impl FindingKind {
    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Self::InstancesMissing | Self::PatientDiffers => Severity::Alarm,
            Self::AccessionDiffers | Self::OrderElsewhere | Self::Discontinued => Severity::Warning,
            Self::InstancesUnannounced => Severity::Notice,
        }
    }

    /// What a person is told, and what to do.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InstancesMissing => {
                "the scanner made images that have not come: send the study again from the scanner"
            }
            Self::InstancesUnannounced => {
                "images came that the scanner did not list: look whether they belong here"
            }
            Self::Discontinued => {
                "the examination was broken off at the scanner: look whether it is to be repeated"
            }
            Self::PatientDiffers => {
                "the images name another patient than the order: stop and look who was scanned"
            }
            Self::AccessionDiffers => {
                "the images have another accession number than the order: look which order was scanned"
            }
            Self::OrderElsewhere => {
                "the images have the accession number of an order, but are another study: the scanner \
                 did not take the study from the worklist"
            }
        }
    }
}

/// One finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Finding {
    /// What.
    #[n(0)]
    pub kind: FindingKind,
    /// Of how many instances; 0 where it is of the study as a whole.
    #[n(1)]
    pub instances: u64,
}

impl Finding {
    /// The finding as `status --json` shows it.
    pub fn to_json(self) -> serde_json::Value {
        serde_json::json!({
            "kind": self.kind,
            "severity": self.kind.severity(),
            "instances": self.instances,
            "text": self.kind.text(),
        })
    }
}

/// What is filed of a study.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Findings {
    /// Whether the images were compared with the order; not while the vault is locked.
    #[n(0)]
    pub(super) compared: bool,
    /// Sorted.
    #[n(1)]
    pub(super) list: Vec<Finding>,
}

/// What is filed of a study; nothing of most.
pub(super) fn of(vault: &Vault, study: &StudyUid) -> Result<Findings, VaultError> {
    let document = vault.document(Drawer::Findings, study.as_str())?;
    let read = |document: Document| minicbor::decode(&document.body).ok();
    Ok(document.and_then(read).unwrap_or_default())
}

/// Files what was found, in the place of what was found before.
pub(super) async fn file(
    vault: &Vault,
    study: &StudyUid,
    findings: Findings,
) -> Result<(), VaultError> {
    let document = Document {
        study: Some(study.clone()),
        state: 1,
        body: minicbor::to_vec(&findings).expect("writing to a Vec does not fail"),
    };
    let name = study.as_str().to_owned();
    let decide = |_| Ok::<_, VaultError>(Change::File(document));
    vault
        .change_document(Drawer::Findings, name, decide)
        .await?;
    for finding in &findings.list {
        let (kind, instances) = (finding.kind, finding.instances);
        tracing::warn!(%study, ?kind, instances, "finding on a study");
    }
    Ok(())
}
