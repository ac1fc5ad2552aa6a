//! Urgency of a study, as the reading worklist and the link know it.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Says that a text names no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a priority is one of stat, urgent, routine, bulk")]
pub struct PriorityError;

/// How urgent a study is; the lesser value goes first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Encode,
    Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Priority {
    /// Overtakes everything (DICOM's STAT).
    #[n(1)]
    Stat,
    /// Before routine work.
    #[n(2)]
    Urgent,
    /// The default.
    #[default]
    #[n(3)]
    Routine,
    /// Priors and whatever can wait for days.
    #[n(4)]
    Bulk,
}

impl Priority {
    /// All priorities, most urgent first.
    pub const ALL: [Self; 4] = [Self::Stat, Self::Urgent, Self::Routine, Self::Bulk];

    /// The word used in commands and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Urgent => "urgent",
            Self::Routine => "routine",
            Self::Bulk => "bulk",
        }
    }
}

impl Priority {
    /// The number that stands for the priority in records and indexes: 1 (STAT) to 4 (bulk).
    pub const fn code(self) -> u8 {
        match self {
            Self::Stat => 1,
            Self::Urgent => 2,
            Self::Routine => 3,
            Self::Bulk => 4,
        }
    }

    /// The priority with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.code() == code)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = PriorityError;
    fn from_str(text: &str) -> Result<Self, PriorityError> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or(PriorityError)
    }
}
