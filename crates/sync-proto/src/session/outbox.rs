//! What waits to be taken by the edge, and how much of it the transport has not taken yet.

use std::collections::VecDeque;

use crate::frame::Frame;
use crate::io::{Event, Lane, Output};

/// Control frames not taken by the transport, above which only what must be said is said.
const CONTROL_FRAMES_EASY: usize = 16;
/// Above this many, nothing new is read from item lanes.
const CONTROL_FRAMES_HIGH: usize = 256;
/// Above this many the peer is not reading, and the session ends.
const CONTROL_FRAMES_MAX: usize = 4096;

/// The session's outputs in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Output>,
    control_frames: usize,
}

impl Outbox {
    /// Sends on the control lane.
    pub(super) fn control(&mut self, frame: Frame) {
        self.control_frames += 1;
        self.queue.push_back(Output::Send {
            lane: Lane::Control,
            frame,
        });
    }

    /// Sends on an item's lane; the sender counts those itself.
    pub(super) fn on_lane(&mut self, item: u32, frame: Frame) {
        self.queue.push_back(Output::Send {
            lane: Lane::Item(item),
            frame,
        });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    pub(super) fn control_taken(&mut self) {
        self.control_frames = self.control_frames.saturating_sub(1);
    }

    /// Whether the control lane has room for what can wait and be merged.
    pub(super) fn control_is_easy(&self) -> bool {
        self.control_frames < CONTROL_FRAMES_EASY
    }

    /// Whether so many answers wait that nothing new should be asked for.
    pub(super) fn control_is_high(&self) -> bool {
        self.control_frames >= CONTROL_FRAMES_HIGH
    }

    /// Whether more answers wait than any peer that reads leaves unread.
    pub(super) fn control_is_over(&self) -> bool {
        self.control_frames > CONTROL_FRAMES_MAX
    }
}
