//! What waits, what a person has said, and why nothing moves: the words that other rooms use too.

use serde::{Deserialize, Serialize};
use study::Priority;

/// What waits to leave the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// The most urgent of what may leave and has no receipt.
    pub most_urgent: Option<Priority>,
}

/// Whether anything may be sent at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// It may.
    #[default]
    No,
    /// Nothing is sent, and the hub is not called.
    All,
    /// The hub is called for STAT, and for nothing else.
    ExceptStat,
}

/// What a person has said about the uplinks; it holds until they say something else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Order {
    /// The only uplink that is used.
    pub only: Option<String>,
    /// Whether anything may be sent.
    pub pause: Pause,
}

/// Why nothing moves, or not everything that waits. Times are the box's own, where its clock is
/// believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Still {
    /// The box belongs to no fleet yet.
    NoVoucher,
    /// The hub does not want this box.
    HubRefuses,
    /// A person has said that nothing is sent.
    Paused,
    /// A person has said that only STAT is sent.
    PausedExceptStat,
    /// The budget is used up.
    BudgetUsed {
        /// Until then.
        until_ms: Option<u64>,
    },
    /// Only the reserve of the budget is left.
    BudgetReserved {
        /// Until then.
        until_ms: Option<u64>,
    },
    /// It is not the hour for what waits.
    OutsideWindow {
        /// Until then.
        until_ms: Option<u64>,
    },
    /// No satellite is in sight.
    WaitingForContact {
        /// The next pass; none when the plan knows none.
        at_ms: Option<u64>,
    },
    /// The last call was not answered, or the contact was lost.
    NoAnswer {
        /// When the hub is called again.
        next_call_ms: Option<u64>,
    },
    /// There is nothing to send.
    NothingToSend {
        /// When the hub is called all the same.
        next_call_ms: Option<u64>,
    },
    /// Another uplink is used because a person has said so.
    NotChosen,
    /// The hub is being called.
    Calling,
}

impl Still {
    /// When it ends, where that is known.
    pub fn until_ms(&self) -> Option<u64> {
        match self {
            Self::BudgetUsed { until_ms }
            | Self::BudgetReserved { until_ms }
            | Self::OutsideWindow { until_ms } => *until_ms,
            Self::WaitingForContact { at_ms } => *at_ms,
            Self::NoVoucher
            | Self::HubRefuses
            | Self::Paused
            | Self::PausedExceptStat
            | Self::NoAnswer { .. }
            | Self::NothingToSend { .. }
            | Self::NotChosen
            | Self::Calling => None,
        }
    }
}
