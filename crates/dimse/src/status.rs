//! Status codes of DIMSE responses (PS3.7 annex C, PS3.4 B.2.3).

use std::fmt;

/// A status code (0000,0900).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

impl Status {
    /// Done, and kept.
    pub const SUCCESS: Self = Self(0x0000);
    /// The node failed.
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    /// The SOP class isn't served.
    pub const SOP_CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    /// The command field isn't one that is served.
    pub const UNRECOGNIZED_OPERATION: Self = Self(0x0211);
    /// Refused: out of resources (PS3.4 B.2.3).
    pub const OUT_OF_RESOURCES: Self = Self(0xA700);
    /// Error: the data set doesn't match its SOP class or what the command said of it (PS3.4 B.2.3).
    pub const DATA_SET_MISMATCH: Self = Self(0xA900);
    /// Error: cannot understand (PS3.4 B.2.3).
    pub const CANNOT_UNDERSTAND: Self = Self(0xC000);

    /// Says whether this is success and nothing else.
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.0)
    }
}

/// What a response says: its status and, for failures, a comment in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: Status,
    /// Error Comment (0000,0902); at most 64 characters go out.
    pub comment: Option<String>,
}

impl Answer {
    /// Success without a comment.
    pub const fn success() -> Self {
        Self {
            status: Status::SUCCESS,
            comment: None,
        }
    }

    /// A failure and its reason in plain words, without patient data.
    pub fn failure(status: Status, comment: impl Into<String>) -> Self {
        Self {
            status,
            comment: Some(comment.into()),
        }
    }
}
