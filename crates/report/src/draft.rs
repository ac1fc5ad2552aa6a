//! From what a reader writes to a document that may be signed.

use serde::Deserialize;
use study::{Digest, StudyRoot, StudyUid};
use thiserror::Error;

use crate::document::{
    Critical, Language, ReportDocument, ReportStatus, SectionText, Sections, WordError,
};
use crate::verify::VerifiedReport;

/// The longest draft that is read.
const DRAFT_BYTES_MAX: usize = 1 << 20;

/// Says why a draft is not accepted; it never quotes the draft.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DraftError {
    /// Longer than any report.
    #[error("the report has {0} bytes, {DRAFT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not the JSON of a report.
    #[error(
        "line {line}, column {column}: not a report; its fields are status, exam, technique, \
         comparison, findings, impression, recommendation, critical, language"
    )]
    Json {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// A field cannot hold what it holds.
    #[error("the field {field} is not right")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        #[source]
        source: WordError,
    },
}

/// Says why a report may not be made at this point of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RuleError {
    /// A report that says nothing.
    #[error("a report needs findings or an impression")]
    Empty,
    /// After a final report there are only addenda.
    #[error("the study has a final report already; correct it by an addendum")]
    AfterFinal,
    /// An addendum to nothing.
    #[error("an addendum needs a final report before it")]
    NothingToAdd,
    /// The counts contradict each other.
    #[error("the report was read on {seen} images of {total}")]
    Counts {
        /// How many images the reader had.
        seen: u32,
        /// How many there are.
        total: u32,
    },
    /// It does not name the report before it.
    #[error("the report does not follow the last report of this study")]
    NotNext,
    /// The report before it is about another study.
    #[error("the report before this one is about another study")]
    OtherStudy,
}

/// What a reader wrote: the JSON that `report file` takes, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// How far the report goes.
    pub status: ReportStatus,
    /// The text.
    pub sections: Sections,
    /// The most critical finding.
    pub critical: Critical,
    /// The language of the text.
    pub language: Language,
}

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The study.
    pub study: StudyUid,
    /// The root of the revision that was read.
    pub root: StudyRoot,
    /// How many images the reader had.
    pub instances_seen: u32,
    /// How many images are known to exist.
    pub instances_total: u32,
}

impl Draft {
    /// Reads the report JSON of the command line: every field but `status` may be missing.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DraftError> {
        if bytes.len() > DRAFT_BYTES_MAX {
            return Err(DraftError::TooLong(bytes.len()));
        }
        let raw: RawDraft = serde_json::from_slice(bytes).map_err(|e| DraftError::Json {
            line: e.line(),
            column: e.column(),
        })?;
        let section = |field, text: &str| SectionText::parse(text).map_err(in_field(field));
        Ok(Self {
            status: ReportStatus::parse(&raw.status).map_err(in_field("status"))?,
            sections: Sections {
                exam: section("exam", &raw.exam)?,
                technique: section("technique", &raw.technique)?,
                comparison: section("comparison", &raw.comparison)?,
                findings: section("findings", &raw.findings)?,
                impression: section("impression", &raw.impression)?,
                recommendation: section("recommendation", &raw.recommendation)?,
            },
            critical: Critical::new(raw.critical).map_err(in_field("critical"))?,
            language: match raw.language.as_deref() {
                None => Language::parse("en"),
                Some(tag) => Language::parse(tag),
            }
            .map_err(in_field("language"))?,
        })
    }

    /// Makes the document that is then signed; `previous` is the study's last report.
    pub fn complete(
        self,
        case: Case,
        previous: Option<&VerifiedReport>,
        signed_at_ms: u64,
    ) -> Result<ReportDocument, RuleError> {
        let document = ReportDocument {
            format: ReportDocument::FORMAT,
            study: case.study,
            status: self.status,
            sections: self.sections,
            critical: self.critical,
            language: self.language,
            signed_at_ms,
            root: case.root,
            instances_seen: case.instances_seen,
            instances_total: case.instances_total,
            previous: previous.map(VerifiedReport::digest),
        };
        document.check_content()?;
        document.check_follows(previous)?;
        Ok(document)
    }
}

impl ReportDocument {
    /// Checks what a report must say whatever came before it.
    pub fn check_content(&self) -> Result<(), RuleError> {
        if self.sections.findings.is_empty() && self.sections.impression.is_empty() {
            return Err(RuleError::Empty);
        }
        let (seen, total) = (self.instances_seen, self.instances_total);
        if seen > total {
            Err(RuleError::Counts { seen, total })
        } else {
            Ok(())
        }
    }

    /// Checks that this report may come after `previous`, the study's last one.
    pub fn check_follows(&self, previous: Option<&VerifiedReport>) -> Result<(), RuleError> {
        if previous.is_some_and(|p| p.document.study != self.study) {
            return Err(RuleError::OtherStudy);
        }
        let before: Option<Digest> = previous.map(VerifiedReport::digest);
        if self.previous != before {
            return Err(RuleError::NotNext);
        }
        match (previous.map(|p| p.document.status), self.status) {
            (
                None | Some(ReportStatus::Preliminary),
                ReportStatus::Preliminary | ReportStatus::Final,
            )
            | (Some(ReportStatus::Final | ReportStatus::Addendum), ReportStatus::Addendum) => {
                Ok(())
            }
            (None | Some(ReportStatus::Preliminary), ReportStatus::Addendum) => {
                Err(RuleError::NothingToAdd)
            }
            (
                Some(ReportStatus::Final | ReportStatus::Addendum),
                ReportStatus::Preliminary | ReportStatus::Final,
            ) => Err(RuleError::AfterFinal),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDraft {
    status: String,
    #[serde(default)]
    exam: String,
    #[serde(default)]
    technique: String,
    #[serde(default)]
    comparison: String,
    #[serde(default)]
    findings: String,
    #[serde(default)]
    impression: String,
    #[serde(default)]
    recommendation: String,
    #[serde(default)]
    critical: u8,
    language: Option<String>,
}

fn in_field(field: &'static str) -> impl FnOnce(WordError) -> DraftError {
    move |source| DraftError::Field { field, source }
}
