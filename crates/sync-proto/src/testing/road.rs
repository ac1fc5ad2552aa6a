//! One direction of the virtual link: lanes by priority over a serial wire with delay.

use std::collections::{BTreeMap, VecDeque};

use super::dice::Dice;
use crate::class::Class;
use crate::io::{Lane, Millis};

/// What a link is like.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// One-way delay, milliseconds.
    pub delay_ms: u64,
    /// Up to this much more, by chance, per frame; frames of one lane stay in order.
    pub jitter_ms: u64,
    /// Bytes per second.
    pub bytes_per_s: u64,
}

#[derive(Debug, Default)]
struct LaneState {
    /// 0 is the control lane's.
    rank: u8,
    waiting: VecDeque<Vec<u8>>,
    travelling: VecDeque<(Millis, Vec<u8>)>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Road {
    conditions: Conditions,
    lanes: BTreeMap<Lane, LaneState>,
    busy_until: Millis,
}

impl Road {
    pub(super) const fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            lanes: BTreeMap::new(),
            busy_until: Millis(0),
        }
    }

    pub(super) fn set_class(&mut self, item: u32, class: Class) {
        self.lanes.entry(Lane::Item(item)).or_default().rank = 1 + class as u8;
    }

    pub(super) fn put(&mut self, lane: Lane, bytes: Vec<u8>) {
        self.lanes.entry(lane).or_default().waiting.push_back(bytes);
    }

    /// Puts the next frame on the wire when that is free; says whose it was.
    pub(super) fn transmit(&mut self, now: Millis, dice: &mut Dice) -> Option<Lane> {
        if self.busy_until > now {
            return None;
        }
        let waiting = self
            .lanes
            .iter_mut()
            .filter(|(_, state)| !state.waiting.is_empty());
        let (lane, state) = waiting.min_by_key(|(lane, state)| (state.rank, **lane))?;
        let bytes = state.waiting.pop_front()?;
        let Conditions {
            delay_ms,
            jitter_ms,
            bytes_per_s,
        } = self.conditions;
        self.busy_until = Millis(now.0 + bytes.len() as u64 * 1000 / bytes_per_s);
        let arrival = self.busy_until.0 + delay_ms + dice.below(jitter_ms + 1);
        let arrival = state
            .travelling
            .back()
            .map_or(arrival, |(last, _)| last.0.max(arrival));
        state.travelling.push_back((Millis(arrival), bytes));
        Some(*lane)
    }

    /// Takes a frame that has arrived; of item lanes only if they are read.
    pub(super) fn arrive(&mut self, now: Millis, read_items: bool) -> Option<(Lane, Vec<u8>)> {
        let (lane, state) = self.lanes.iter_mut().find(|(lane, state)| {
            (read_items || **lane == Lane::Control)
                && state.travelling.front().is_some_and(|(due, _)| *due <= now)
        })?;
        let (_, bytes) = state.travelling.pop_front()?;
        let lane = *lane;
        Some((lane, bytes))
    }

    /// When something happens here next, if nobody acts.
    pub(super) fn due(&self, read_items: bool) -> Option<Millis> {
        let idle = self.lanes.values().all(|state| state.waiting.is_empty());
        let wire = (!idle).then_some(self.busy_until);
        let lanes = self
            .lanes
            .iter()
            .filter(|(lane, _)| read_items || **lane == Lane::Control);
        let arrivals = lanes.filter_map(|(_, state)| state.travelling.front().map(|(due, _)| *due));
        arrivals.chain(wire).min()
    }
}
