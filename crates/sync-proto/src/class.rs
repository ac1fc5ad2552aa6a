//! Classes of what crosses, and the place of one manifest among others.

use minicbor::{Decode, Encode};
use study::Priority;

use crate::runs::Runs;

/// The class of an item on the link; the lesser value goes first. Class 0 is the control lane:
/// records, reports, receipts, fleet documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Class {
    /// Overtakes everything but the control lane, for as long as there is any of it.
    #[n(1)]
    Stat,
    /// Before routine work.
    #[n(2)]
    Urgent,
    /// The default.
    #[n(3)]
    Routine,
    /// Priors, and whatever can wait for days.
    #[n(4)]
    Bulk,
    /// Software and firmware: yields to all that is clinical.
    #[n(5)]
    Software,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 5] = [
        Self::Stat,
        Self::Urgent,
        Self::Routine,
        Self::Bulk,
        Self::Software,
    ];
}

impl From<Priority> for Class {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Stat => Self::Stat,
            Priority::Urgent => Self::Urgent,
            Priority::Routine => Self::Routine,
            Priority::Bulk => Self::Bulk,
        }
    }
}

/// When a manifest goes, among all that one side offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// Its class.
    pub class: Class,
    /// In its class the lesser goes first. Manifests with the same turn, as the revisions of one
    /// study have, go side by side: first what gives an overview of each, then the gaps.
    pub turn: i64,
    /// Chunks that go before all others of this turn: a reader waits for them.
    pub first: Runs,
}

impl Rank {
    /// In this class and turn, with no chunk before the others.
    pub const fn new(class: Class, turn: i64) -> Self {
        Self {
            class,
            turn,
            first: Runs::new(),
        }
    }
}
