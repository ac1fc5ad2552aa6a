//! The order of sending: most urgent first, then the study that came first.

use crate::vault::Offerable;

/// Sorts revisions into the order in which they are to cross.
///
/// Revisions of one study stay in their order, as each builds on the one before.
pub(super) fn sort(revisions: &mut [Offerable]) {
    revisions.sort_by_key(|revision| (revision.priority, revision.came, revision.revision));
}

#[cfg(test)]
mod tests {
    use study::{Digest, Priority, StudyUid};

    use super::*;

    fn offerable(study: &str, revision: u32, priority: Priority, came: i64) -> Offerable {
        Offerable {
            study: StudyUid::parse(study).unwrap(),
            revision,
            priority,
            came,
            manifest_digest: Digest::of(study.as_bytes()),
            was_at_hub: false,
            offered: false,
            waiting_bytes: 0,
        }
    }

    #[test]
    fn urgency_goes_before_age_and_age_before_revision() {
        let mut revisions = vec![
            offerable("1.2", 2, Priority::Routine, 10),
            offerable("1.1", 1, Priority::Routine, 20),
            offerable("1.2", 1, Priority::Routine, 10),
            offerable("1.3", 1, Priority::Stat, 30),
        ];
        sort(&mut revisions);
        let order: Vec<_> = revisions
            .iter()
            .map(|o| (o.study.as_str(), o.revision))
            .collect();
        assert_eq!(order, [("1.3", 1), ("1.2", 1), ("1.2", 2), ("1.1", 1)]);
    }
}
