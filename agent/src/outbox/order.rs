//! The order of sending: most urgent first, then the study that came first.

use study::Priority;
use sync_proto::{Class, Rank};

use crate::vault::Offerable;

/// Sorts revisions into the order in which they are to be offered.
///
/// Revisions of one study stay in their order, as each builds on the one before; those that a
/// reader waits for are before the rest.
pub(super) fn sort(revisions: &mut [Offerable]) {
    revisions.sort_by_cached_key(|revision| {
        let Rank { class, turn, first } = rank(revision);
        (class, turn, first.is_empty(), revision.revision)
    });
}

/// When a revision goes. Those of one study share a turn, so that a whole volume can be looked
/// through before any part of it is complete.
pub(super) fn rank(revision: &Offerable) -> Rank {
    let called = revision.called && revision.priority == Priority::Bulk;
    let turn = if called {
        // Before all that nobody asked for; among themselves as they came.
        revision.came.saturating_sub(i64::MAX)
    } else {
        revision.came
    };
    Rank {
        class: Class::from(revision.priority),
        turn,
        first: revision.first.clone(),
    }
}

#[cfg(test)]
mod tests {
    use study::{Digest, StudyUid};
    use sync_proto::Runs;

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
            called: false,
            first: Runs::new(),
        }
    }

    fn sorted(mut revisions: Vec<Offerable>) -> Vec<(String, u32)> {
        sort(&mut revisions);
        let order = revisions.iter();
        order
            .map(|o| (o.study.as_str().to_owned(), o.revision))
            .collect()
    }

    fn names(order: &[(&str, u32)]) -> Vec<(String, u32)> {
        let order = order.iter();
        order.map(|(s, r)| ((*s).to_owned(), *r)).collect()
    }

    #[test]
    fn urgency_goes_before_age_and_age_before_revision() {
        let order = sorted(vec![
            offerable("1.2", 2, Priority::Routine, 10),
            offerable("1.1", 1, Priority::Routine, 20),
            offerable("1.2", 1, Priority::Routine, 10),
            offerable("1.3", 1, Priority::Stat, 30),
        ]);
        let expected = [("1.3", 1), ("1.2", 1), ("1.2", 2), ("1.1", 1)];
        assert_eq!(order, names(&expected));
    }

    #[test]
    fn a_prior_that_was_asked_for_goes_before_bulk_and_before_nothing_else() {
        let called = |study, priority, came| Offerable {
            called: true,
            ..offerable(study, 1, priority, came)
        };
        let order = sorted(vec![
            offerable("1.1", 1, Priority::Bulk, 1),
            called("1.2", Priority::Bulk, 20),
            called("1.3", Priority::Bulk, 10),
            offerable("1.4", 1, Priority::Routine, 30),
            called("1.5", Priority::Routine, 40),
        ]);
        let expected = [("1.4", 1), ("1.5", 1), ("1.3", 1), ("1.2", 1), ("1.1", 1)];
        assert_eq!(order, names(&expected));
    }

    #[test]
    fn what_a_reader_waits_for_goes_before_the_rest_of_its_study() {
        let waited_for = Offerable {
            first: Runs::full(3),
            ..offerable("1.2", 7, Priority::Routine, 10)
        };
        let order = sorted(vec![
            offerable("1.2", 1, Priority::Routine, 10),
            waited_for,
            offerable("1.1", 1, Priority::Routine, 5),
        ]);
        assert_eq!(order, names(&[("1.1", 1), ("1.2", 7), ("1.2", 1)]));
    }
}
