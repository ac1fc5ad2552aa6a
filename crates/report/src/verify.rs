//! Signing a report, and accepting one.

use identity::cose::{self, CoseError};
use identity::{Credential, CredentialFault, FleetDocument, NodeId, NodeKey};
use minicbor::Decode;
use study::Digest;
use thiserror::Error;

use crate::document::{REPORT_BYTES_MAX, ReportDocument};
use crate::draft::RuleError;

const DOMAIN: &str = "chasqui/report/1";

/// Says why a signed report is not accepted; it never quotes the report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportRefusal {
    /// Longer than [`REPORT_BYTES_MAX`].
    #[error("the report has {0} bytes, {REPORT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The signature does not hold.
    #[error("the report is not signed as it must be")]
    Signature(#[source] CoseError),
    /// The content is not a report.
    #[error("the report cannot be read: at byte {at}")]
    Malformed {
        /// Where in the content reading failed.
        at: usize,
    },
    /// A format of a later program.
    #[error("the report has format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// The report contradicts itself.
    #[error("the report is not complete")]
    Incomplete(#[source] RuleError),
    /// The signer had no valid credential when it was signed.
    #[error("the report's signer was not allowed to sign it")]
    NotAllowed(#[source] CredentialFault),
}

/// A report whose signature and whose signer's credential were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReport {
    /// What it says.
    pub document: ReportDocument,
    /// Who signed, under which licence.
    pub credential: Credential,
    // Private, so that only `verify` makes one.
    digest: Digest,
}

impl VerifiedReport {
    /// BLAKE3 of the signed report: its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Signs a report with the radiologist's own key.
pub fn sign(document: &ReportDocument, key: &NodeKey) -> Vec<u8> {
    let payload = minicbor::to_vec(document).expect("writing to a Vec does not fail");
    cose::sign1(key, DOMAIN, &payload)
}

/// Accepts a signed report: its signature, its content, and its signer's credential at the time
/// that the report names.
///
/// That time is the signer's own word. Where a report is filed, the clock there is asked too
/// ([`FleetDocument::credential_at`] with the present time), so that a withdrawn key cannot sign
/// back into its past.
pub fn verify(signed: &[u8], fleet: &FleetDocument) -> Result<VerifiedReport, ReportRefusal> {
    let (signer, document) = open(signed)?;
    let credential = fleet
        .credential_at(&signer, document.signed_at_ms)
        .map_err(ReportRefusal::NotAllowed)?
        .clone();
    Ok(VerifiedReport {
        document,
        credential,
        digest: Digest::of(signed),
    })
}

fn open(signed: &[u8]) -> Result<(NodeId, ReportDocument), ReportRefusal> {
    if signed.len() > REPORT_BYTES_MAX {
        return Err(ReportRefusal::TooLong(signed.len()));
    }
    let verified = cose::verify1(signed, DOMAIN).map_err(ReportRefusal::Signature)?;
    let malformed = |at| ReportRefusal::Malformed { at };
    let head: Head = minicbor::decode(&verified.payload).map_err(|_| malformed(0))?;
    if head.format != ReportDocument::FORMAT {
        return Err(ReportRefusal::UnknownVersion(head.format));
    }
    let mut decoder = minicbor::Decoder::new(&verified.payload);
    let document: Result<ReportDocument, _> = decoder.decode();
    let at = decoder.position();
    let document = document.map_err(|_| malformed(at))?;
    if at != verified.payload.len() {
        return Err(malformed(at));
    }
    document
        .check_content()
        .map_err(ReportRefusal::Incomplete)?;
    Ok((verified.signer, document))
}

#[derive(Decode)]
struct Head {
    #[n(0)]
    format: u8,
}
