//! The report document and its words.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::Serialize;
use study::{Digest, StudyRoot, StudyUid};
use thiserror::Error;

/// The longest section, in bytes of UTF-8.
pub const SECTION_BYTES_MAX: usize = 32 << 10;
/// The longest signed report; six full sections fit, and it fits into one journal record.
pub const REPORT_BYTES_MAX: usize = 200 << 10;
/// The longest language tag (RFC 5646 4.4.1).
const LANGUAGE_BYTES_MAX: usize = 35;

/// Says why a part of a report is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WordError {
    /// A section is too long.
    #[error("a section has {0} bytes, {SECTION_BYTES_MAX} are allowed")]
    SectionTooLong(usize),
    /// A section holds what does not print.
    #[error("a section has control characters")]
    SectionUnprintable,
    /// The level does not exist.
    #[error("critical is {0}, it goes from 0 (none) to 3")]
    Critical(u8),
    /// Not a language tag.
    #[error("a language is a tag such as en, fr or pt-BR")]
    Language,
    /// Not a status.
    #[error("a status is preliminary, final or addendum")]
    Status,
}

/// How far a report goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ReportStatus {
    /// A first reading; another report follows.
    #[n(1)]
    Preliminary,
    /// The report.
    #[n(2)]
    Final,
    /// Something added to, or corrected in, a final report.
    #[n(3)]
    Addendum,
}

impl ReportStatus {
    /// The word used in commands and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preliminary => "preliminary",
            Self::Final => "final",
            Self::Addendum => "addendum",
        }
    }

    /// Reads the word used in commands and JSON.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        [Self::Preliminary, Self::Final, Self::Addendum]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or(WordError::Status)
    }
}

impl fmt::Display for ReportStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How critical a finding is: 0 none, 1 to 3 a level of the critical results policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Critical(u8);

impl Critical {
    /// Takes a level from 0 to 3.
    pub const fn new(level: u8) -> Result<Self, WordError> {
        if level > 3 {
            Err(WordError::Critical(level))
        } else {
            Ok(Self(level))
        }
    }

    /// The level.
    pub const fn level(self) -> u8 {
        self.0
    }
}

/// The language that a report is written in, as a tag of RFC 5646.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Language(Box<str>);

impl Language {
    /// Takes a tag.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let part_is_fine = |part: &str| {
            (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        if text.len() <= LANGUAGE_BYTES_MAX && text.split('-').all(part_is_fine) {
            Ok(Self(text.into()))
        } else {
            Err(WordError::Language)
        }
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of one section; clinical, so Debug does not show it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SectionText(String);

impl SectionText {
    /// Takes a text: lines of any script, tabs, no other control characters, blanks around it cut.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let text = text.trim().replace("\r\n", "\n");
        if text.len() > SECTION_BYTES_MAX {
            return Err(WordError::SectionTooLong(text.len()));
        }
        if text
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t')
        {
            return Err(WordError::SectionUnprintable);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SectionText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The sections, each of which may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Sections {
    /// What was done.
    #[n(0)]
    pub exam: SectionText,
    /// How it was done.
    #[n(1)]
    pub technique: SectionText,
    /// What it was compared with.
    #[n(2)]
    pub comparison: SectionText,
    /// What was seen.
    #[n(3)]
    pub findings: SectionText,
    /// What it means.
    #[n(4)]
    pub impression: SectionText,
    /// What to do.
    #[n(5)]
    pub recommendation: SectionText,
}

impl Sections {
    /// All sections with their names, in reading order.
    pub fn iter(&self) -> [(&'static str, &SectionText); 6] {
        [
            ("exam", &self.exam),
            ("technique", &self.technique),
            ("comparison", &self.comparison),
            ("findings", &self.findings),
            ("impression", &self.impression),
            ("recommendation", &self.recommendation),
        ]
    }
}

/// What a radiologist signs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReportDocument {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The study.
    #[n(1)]
    pub study: StudyUid,
    /// How far this report goes.
    #[n(2)]
    pub status: ReportStatus,
    /// The text.
    #[n(3)]
    pub sections: Sections,
    /// The most critical finding.
    #[n(4)]
    pub critical: Critical,
    /// The language of the text.
    #[n(5)]
    pub language: Language,
    /// When it was signed, milliseconds of the Unix epoch, by the signer's clock.
    #[n(6)]
    pub signed_at_ms: u64,
    /// The root of the revision that was read.
    #[n(7)]
    pub root: StudyRoot,
    /// How many images the reader had.
    #[n(8)]
    pub instances_seen: u32,
    /// How many images were known to exist.
    #[n(9)]
    pub instances_total: u32,
    /// BLAKE3 of the signed report of this study before this one.
    #[n(10)]
    pub previous: Option<Digest>,
}

impl ReportDocument {
    /// The format version that this program writes.
    pub const FORMAT: u8 = 1;
}

impl<C> Encode<C> for Critical {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u8(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Critical {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        Self::new(d.u8()?).map_err(|e| minicbor::decode::Error::message(e).at(at))
    }
}

macro_rules! text_on_the_wire {
    ($name:ident) => {
        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::parse(d.str()?).map_err(|e| minicbor::decode::Error::message(e).at(at))
            }
        }
    };
}

text_on_the_wire!(Language);
text_on_the_wire!(SectionText);
