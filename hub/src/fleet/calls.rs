//! Calls that take the place of a live one: now and then a unit lost its link, again and again two
//! machines have its key.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use identity::NodeId;

/// How long a call counts.
const WINDOW_MS: u64 = 600_000;
/// So many of them in that time are not one machine with a bad link: a lost link is noticed by its
/// unit only after a minute or two.
const MANY: usize = 5;
/// More are not remembered.
const REMEMBERED_MAX: usize = 64;

/// The latest of these calls, by a count that does not jump.
#[derive(Default)]
pub(super) struct Calls(Mutex<BTreeMap<NodeId, VecDeque<u64>>>);

impl Calls {
    /// Notes that a call of `unit` took the place of a live one; says whether they are many.
    pub(super) fn note(&self, unit: NodeId, now_ms: u64) -> bool {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.entry(unit).or_default();
        if calls.len() == REMEMBERED_MAX {
            calls.pop_front();
        }
        calls.push_back(now_ms);
        recent(calls, now_ms) >= MANY
    }

    /// How many there were of late, if these are many; else 0.
    pub(super) fn doubled(&self, unit: &NodeId, now_ms: u64) -> usize {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.get(unit).map_or(0, |calls| recent(calls, now_ms));
        if count >= MANY { count } else { 0 }
    }
}

fn recent(calls: &VecDeque<u64>, now_ms: u64) -> usize {
    let is_recent = |at: &&u64| now_ms.saturating_sub(**at) < WINDOW_MS;
    calls.iter().filter(is_recent).count()
}

#[cfg(test)]
mod tests {
    use identity::NodeKey;

    use super::*;

    #[test]
    fn a_unit_that_lost_its_link_is_not_two_machines() {
        let (calls, unit) = (Calls::default(), NodeKey::generate().id());
        for n in 0..20 {
            let now_ms = n * WINDOW_MS / 3;
            assert!(!calls.note(unit, now_ms), "{n}");
            assert_eq!(calls.doubled(&unit, now_ms), 0);
        }
    }

    #[test]
    fn two_machines_with_one_key_are_noticed_until_they_stop() {
        let (calls, unit) = (Calls::default(), NodeKey::generate().id());
        let many: Vec<bool> = (0..200).map(|n| calls.note(unit, n * 1000)).collect();
        assert_eq!(many.iter().position(|many| *many), Some(MANY - 1));
        assert_eq!(calls.doubled(&unit, 200_000), REMEMBERED_MAX);
        assert_eq!(calls.doubled(&unit, 200_000 + WINDOW_MS), 0);
        assert_eq!(calls.doubled(&NodeKey::generate().id(), 200_000), 0);
    }
}
