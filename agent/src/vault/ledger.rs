//! The ledger's rules, without a disk: what an arrival is, when a study closes, who has custody.
//!
//! In: facts read from the index. Out: decisions.
//! Invariant: custody is at the hub only when a receipt for a closed revision is there and nothing
//! has come since.
//! May not: do I/O or read a clock.

use serde::{Deserialize, Serialize};
use study::InstanceDigest;

/// What an arriving instance is to the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldAs {
    /// No instance with this SOP Instance UID was held before.
    New,
    /// The same bytes are held already; nothing is written.
    Known,
    /// Other bytes are held under the same SOP Instance UID; both are kept.
    Conflict,
    /// The same bytes were taken in before but could not be packed, or have rotted since: these
    /// take their place.
    Mended,
}

/// One instance held under a SOP Instance UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its digest when it was taken in.
    pub(super) digest: InstanceDigest,
    /// It could not be packed, or what is stored is damaged, and no other node has it.
    pub(super) useless: bool,
    /// The hub has it, and this box does not any more.
    pub(super) let_go: bool,
    /// Its bytes were erased here.
    pub(super) erased: bool,
}

/// Decides what an arrival is, given what is held under its SOP Instance UID.
pub(super) fn held_as(kept: &[Kept], arriving: InstanceDigest) -> HeldAs {
    match kept.iter().find(|kept| kept.digest == arriving) {
        Some(Kept { erased: true, .. }) => HeldAs::New,
        Some(Kept { useless: true, .. }) => HeldAs::Mended,
        Some(_) => HeldAs::Known,
        None if kept.is_empty() => HeldAs::New,
        None => HeldAs::Conflict,
    }
}

/// On what basis a study may leave the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsentState {
    /// Nobody has said anything yet: nothing leaves the box.
    Waiting,
    /// A person has recorded a basis.
    Given,
    /// The site's policy stands in: "emergency basis, not confirmed by a person".
    SitePolicy,
}

impl ConsentState {
    /// The number that stands for the state in the index.
    pub const fn code(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Given => 1,
            Self::SitePolicy => 2,
        }
    }

    /// The state with this number; what is unknown waits.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Given,
            2 => Self::SitePolicy,
            _ => Self::Waiting,
        }
    }
}

/// Where the duty to keep a study lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Custody {
    /// Held in the box, nothing of it durably at the hub.
    InBox,
    /// Held in the box, and may not leave before consent is recorded.
    WaitingConsent,
    /// Partly at the hub.
    Crossing,
    /// The hub's receipt for the closed revision has been verified, and the hub has not said since
    /// that it lost something.
    AtHub,
    /// Erased in the box before the hub had all of it: nobody has it.
    Erased,
}

/// What the ledger knows of one study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StudyFacts {
    /// All instances were erased in the box.
    pub(super) erased: bool,
    /// Whether it may leave.
    pub(super) consent: ConsentState,
    /// Instances held but in no revision.
    pub(super) unpacked: u64,
    /// Whether the newest revision is closed; none when there is no revision.
    pub(super) newest_closed: Option<bool>,
    /// Whether the newest revision has its receipt.
    pub(super) newest_receipted: bool,
    /// The hub has said since that it has lost something of it.
    pub(super) lost_at_hub: bool,
    /// Bytes that the hub has said it durably holds.
    pub(super) bytes_at_hub: u64,
    /// Bytes of all revisions.
    pub(super) bytes_to_cross: u64,
}

impl StudyFacts {
    /// Where custody of the whole study lies.
    pub(super) fn custody(&self) -> Custody {
        let complete = self.unpacked == 0 && self.newest_closed == Some(true);
        if complete && self.newest_receipted && !self.lost_at_hub {
            Custody::AtHub
        } else if self.erased {
            Custody::Erased
        } else if self.consent == ConsentState::Waiting {
            Custody::WaitingConsent
        } else if self.bytes_at_hub > 0 {
            Custody::Crossing
        } else {
            Custody::InBox
        }
    }

    /// The part that the hub durably holds, in percent; 100 only when custody is at the hub.
    pub(super) fn percent_at_hub(&self) -> u8 {
        if self.custody() == Custody::AtHub {
            return 100;
        }
        let percent = (self.bytes_at_hub * 100)
            .checked_div(self.bytes_to_cross)
            .unwrap_or(0);
        u8::try_from(percent.min(99)).expect("at most 99")
    }
}

/// What decides whether a study's revision is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stability {
    /// When the last instance arrived or the last association that brought one closed, on a clock
    /// that does not jump.
    pub last_sign_ms: u64,
    /// Associations open that have brought instances of the study.
    pub attending: u32,
    /// The modality has said what it made, all of it is held, and nothing has come since.
    pub concluded: bool,
    /// How long it must be quiet.
    pub quiet_period_ms: u64,
}

impl Stability {
    /// How long it is still to be quiet from `now_ms` on, if nothing comes; none while an
    /// association is open, 0 when no more instances are expected.
    pub fn quiet_left_ms(&self, now_ms: u64) -> Option<u64> {
        if self.concluded {
            return Some(0);
        }
        let quiet_ms = now_ms.saturating_sub(self.last_sign_ms);
        let left_ms = self.quiet_period_ms.saturating_sub(quiet_ms);
        (self.attending == 0).then_some(left_ms)
    }
}

#[cfg(test)]
mod tests {
    use study::{Digest, InstanceDigest};

    use super::*;

    fn digest(text: &[u8]) -> InstanceDigest {
        InstanceDigest::from_digest(Digest::of(text))
    }

    #[test]
    fn the_same_bytes_are_known_and_other_bytes_conflict() {
        let kept = |text: &[u8]| Kept {
            digest: digest(text),
            useless: false,
            let_go: false,
            erased: false,
        };
        assert_eq!(held_as(&[], digest(b"a")), HeldAs::New);
        assert_eq!(held_as(&[kept(b"a")], digest(b"a")), HeldAs::Known);
        assert_eq!(held_as(&[kept(b"a")], digest(b"b")), HeldAs::Conflict);
        let both = [kept(b"a"), kept(b"b")];
        assert_eq!(held_as(&both, digest(b"b")), HeldAs::Known);
        let useless = Kept {
            useless: true,
            ..kept(b"a")
        };
        assert_eq!(held_as(&[useless], digest(b"a")), HeldAs::Mended);
        assert_eq!(held_as(&[useless], digest(b"b")), HeldAs::Conflict);
        let erased = Kept {
            erased: true,
            ..kept(b"a")
        };
        assert_eq!(held_as(&[erased], digest(b"a")), HeldAs::New);
    }

    fn crossing() -> StudyFacts {
        StudyFacts {
            erased: false,
            consent: ConsentState::Given,
            unpacked: 0,
            newest_closed: Some(true),
            newest_receipted: false,
            lost_at_hub: false,
            bytes_at_hub: 1000,
            bytes_to_cross: 1000,
        }
    }

    #[test]
    fn all_bytes_at_the_hub_are_not_custody() {
        assert_eq!(crossing().custody(), Custody::Crossing);
        assert_eq!(crossing().percent_at_hub(), 99);
    }

    #[test]
    fn custody_is_at_the_hub_by_the_receipt_of_a_closed_revision_only() {
        let done = StudyFacts {
            newest_receipted: true,
            ..crossing()
        };
        assert_eq!(
            (done.custody(), done.percent_at_hub()),
            (Custody::AtHub, 100)
        );
        let open = StudyFacts {
            newest_closed: Some(false),
            ..done
        };
        assert_eq!(open.custody(), Custody::Crossing);
        let late = StudyFacts {
            unpacked: 1,
            ..done
        };
        assert_eq!(
            (late.custody(), late.percent_at_hub()),
            (Custody::Crossing, 99)
        );
        let lost = StudyFacts {
            lost_at_hub: true,
            ..done
        };
        assert_eq!(
            (lost.custody(), lost.percent_at_hub()),
            (Custody::Crossing, 99)
        );
    }

    #[test]
    fn what_was_erased_is_at_the_hub_or_nowhere() {
        let erased = StudyFacts {
            erased: true,
            ..crossing()
        };
        assert_eq!(erased.custody(), Custody::Erased);
        let at_hub = StudyFacts {
            newest_receipted: true,
            ..erased
        };
        assert_eq!(at_hub.custody(), Custody::AtHub);
    }

    #[test]
    fn without_consent_it_waits() {
        let waiting = StudyFacts {
            consent: ConsentState::Waiting,
            bytes_at_hub: 0,
            ..crossing()
        };
        assert_eq!(waiting.custody(), Custody::WaitingConsent);
    }

    #[test]
    fn a_study_is_stable_after_quiet_without_an_attending_association() {
        let stability = Stability {
            last_sign_ms: 1000,
            attending: 0,
            concluded: false,
            quiet_period_ms: 500,
        };
        assert_eq!(stability.quiet_left_ms(1400), Some(100));
        assert_eq!(stability.quiet_left_ms(1500), Some(0));
        let attended = Stability {
            attending: 1,
            ..stability
        };
        assert_eq!(attended.quiet_left_ms(9000), None);
    }
}
