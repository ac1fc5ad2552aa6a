//! Report: what a radiologist says about a study, signed by the radiologist's own key.
//!
//! In: a draft (JSON), the case it speaks of, a key; or signed bytes and the fleet's credentials.
//! Out: signed bytes; a verified report, as text and as JSON.
//! Invariant: a `VerifiedReport` was signed by a key that had a valid credential at that time.
//! May not: do I/O, read a clock, overwrite what was said before, show a report's text in Debug.
//!
//! A signed report is a `COSE_Sign1` (RFC 9052), domain `chasqui/report/1`, over the deterministic
//! CBOR of [`ReportDocument`]. Reports of one study form a chain: each names the digest of the one
//! before it, and its status follows from that one (preliminary, then final, then addenda).

#![forbid(unsafe_code)]

mod document;
mod draft;
mod present;
mod verify;

pub use document::{
    Critical, Language, REPORT_BYTES_MAX, ReportDocument, ReportStatus, SECTION_BYTES_MAX,
    SectionText, Sections, WordError,
};
pub use draft::{Case, Draft, DraftError, RuleError};
pub use present::to_text;
pub use verify::{ReportRefusal, VerifiedReport, sign, verify};

#[cfg(test)]
mod tests;
