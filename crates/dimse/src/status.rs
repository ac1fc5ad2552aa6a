//! Status codes of DIMSE responses (PS3.7 annex C, PS3.4 B.2.3).

use std::fmt;

/// A status code (0000,0900).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

impl Status {
    /// Done, and kept.
    pub const SUCCESS: Self = Self(0x0000);
    /// An attribute has a value that it may not have.
    pub const INVALID_ATTRIBUTE_VALUE: Self = Self(0x0106);
    /// The node failed.
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    /// An instance with this UID is there already.
    pub const DUPLICATE_SOP_INSTANCE: Self = Self(0x0111);
    /// No instance with this UID is there.
    pub const NO_SUCH_SOP_INSTANCE: Self = Self(0x0112);
    /// The argument is none that the operation takes.
    pub const INVALID_ARGUMENT_VALUE: Self = Self(0x0115);
    /// An instance UID is missing, or breaks the rules of UIDs.
    pub const INVALID_SOP_INSTANCE: Self = Self(0x0117);
    /// The class of the instance is another one; in commitments only (PS3.3 C.14.1.1).
    pub const CLASS_INSTANCE_CONFLICT: Self = Self(0x0119);
    /// A required attribute is missing.
    pub const MISSING_ATTRIBUTE: Self = Self(0x0120);
    /// The SOP class isn't served.
    pub const SOP_CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    /// The action is none that is served.
    pub const NO_SUCH_ACTION: Self = Self(0x0123);
    /// The Transaction UID stands for another request (PS3.3 C.14.1.1).
    pub const DUPLICATE_TRANSACTION: Self = Self(0x0131);
    /// The command field isn't one that is served.
    pub const UNRECOGNIZED_OPERATION: Self = Self(0x0211);
    /// A limit of the node is reached.
    pub const RESOURCE_LIMITATION: Self = Self(0x0213);
    /// A match of a query, and more may follow (PS3.4 K.4.1.1.4).
    pub const PENDING: Self = Self(0xFF00);
    /// The query ended because the peer cancelled it.
    pub const CANCELLED: Self = Self(0xFE00);
    /// Refused: out of resources (PS3.4 B.2.3, K.4.1.1.4).
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
    /// Error ID (0000,0903): which failure of those with this status.
    pub error_id: Option<u16>,
}

impl Answer {
    /// Success without a comment.
    pub const fn success() -> Self {
        Self {
            status: Status::SUCCESS,
            comment: None,
            error_id: None,
        }
    }

    /// A failure and its reason in plain words, without patient data.
    pub fn failure(status: Status, comment: impl Into<String>) -> Self {
        Self {
            status,
            comment: Some(comment.into()),
            error_id: None,
        }
    }
}
