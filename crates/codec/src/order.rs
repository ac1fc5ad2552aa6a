//! The order in which slices are sent, and what each is predicted from.
//!
//! In: stacks of slices. Out: for each slice its turn and its references.
//! Invariant: references come before what is predicted from them; the order is a thin spread over
//! every stack first, then the gaps: every 8th slice, every 4th, every 2nd, the rest.
//! May not: look at pixels.

use crate::format::REFS_MAX;

/// How far apart the slices are that go first.
const SPREAD: usize = 8;
/// A stack of no more slices goes whole before all spreads: localisers, dose pages.
const SMALL: usize = 3;

/// In which order slices are coded and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A thin spread over every stack first, then the gaps.
    Spread,
    /// From one end of every stack to the other: what a spread costs is told against it.
    Sequence,
}

/// A slice's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which slice, by the numbers given.
    pub(crate) slice: usize,
    /// The slices it is predicted from, the nearest first.
    pub(crate) references: Vec<usize>,
}

/// Orders stacks of slices; each stack lists its slices from one end to the other.
pub(crate) fn order(stacks: &[Vec<usize>], order: Order) -> Vec<Turn> {
    let mut turns = Vec::new();
    let (small, large): (Vec<_>, Vec<_>) = stacks
        .iter()
        .partition(|s| s.len() <= SMALL || order == Order::Sequence);
    for stack in small {
        for place in 0..stack.len() {
            turns.push(turn(stack, place, |other| other < place));
        }
    }
    let mut step = SPREAD;
    while step > 0 {
        for stack in &large {
            for place in (0..stack.len()).step_by(step) {
                // What the wider steps took.
                let taken = |other: usize| step < SPREAD && other.is_multiple_of(2 * step);
                if !taken(place) {
                    let known =
                        |other: usize| taken(other) || other < place && other.is_multiple_of(step);
                    turns.push(turn(stack, place, known));
                }
            }
        }
        step /= 2;
    }
    turns
}

/// The nearest known slices: one on either side, or else two on one.
fn turn(stack: &[usize], place: usize, known: impl Fn(usize) -> bool) -> Turn {
    let near = 2 * SPREAD;
    let before = (place.saturating_sub(near)..place).rev();
    let before: Vec<usize> = before.filter(|p| known(*p)).take(REFS_MAX).collect();
    let after = (place + 1..stack.len().min(place + near)).find(|p| known(*p));
    let mut places: Vec<usize> = match after {
        Some(after) => before.iter().take(1).copied().chain([after]).collect(),
        None => before,
    };
    places.sort_by_key(|p| p.abs_diff(place));
    Turn {
        slice: stack[place],
        references: places.into_iter().map(|p| stack[p]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_spread_goes_first_and_references_before_what_needs_them() {
        for count in 0..40 {
            let turns = order(&[vec![7, 8], (100..100 + count).collect()], Order::Spread);
            let slices: Vec<usize> = turns.iter().map(|turn| turn.slice).collect();
            assert_eq!(slices[..2], [7, 8]);
            let mut sorted = slices.clone();
            sorted.sort_unstable();
            let all: Vec<usize> = [7, 8].into_iter().chain(100..100 + count).collect();
            assert_eq!(sorted, all);
            for (at, turn) in turns.iter().enumerate() {
                assert!(turn.references.len() <= REFS_MAX);
                assert!(turn.references.iter().all(|r| slices[..at].contains(r)));
            }
        }
        let turns = order(&[(0..17).collect()], Order::Spread);
        let slices: Vec<usize> = turns.iter().map(|turn| turn.slice).collect();
        assert_eq!(
            slices,
            [0, 8, 16, 4, 12, 2, 6, 10, 14, 1, 3, 5, 7, 9, 11, 13, 15]
        );
        assert_eq!(turns[3].references, [0, 8]);
        assert_eq!(turns[12].references, [6, 8]);
        // At the end of a stack both references lie on one side.
        let turns = order(&[(0..6).collect()], Order::Spread);
        assert_eq!(turns[5].slice, 5);
        assert_eq!(turns[5].references, [4, 3]);
        let turns = order(&[(0..9).collect()], Order::Sequence);
        assert!(turns.iter().map(|turn| turn.slice).eq(0..9));
        assert_eq!(turns[5].references, [4, 3]);
    }
}
