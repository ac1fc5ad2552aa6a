//! Delivery rate: what arrived between the sending of a packet and its acknowledgement.
//!
//! In: packets sent and acknowledged, in quinn's instants. Out: rate samples, the best of them.
//! Invariant: a sample spans at least the time the sending took and the time the acknowledgements
//! took, so that neither a burst nor a bundle of acknowledgements looks like a fast link.
//! May not: decide anything.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ROUNDS_KEPT;

/// A send of fewer bytes than this carries acknowledgements only.
const ACK_BYTES_MAX: u64 = 100;

/// What was known when a packet left. Packets that left together share one.
#[derive(Debug, Clone, Copy)]
struct Flight {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes per second.
    pub(super) rate: u64,
    /// All bytes delivered so far.
    pub(super) delivered: u64,
    /// What had been delivered when the newest acknowledged packet left.
    pub(super) delivered_when_sent: u64,
    /// How long nothing had been acknowledged before.
    pub(super) silence: Duration,
}

/// Measures the delivery rate.
#[derive(Debug, Clone, Default)]
pub(super) struct Sampler {
    delivered: u64,
    delivered_at: Option<Instant>,
    /// When the packet left that was the newest acknowledged one at the last sample.
    first_sent: Option<Instant>,
    flights: VecDeque<Flight>,
    /// The newest packet of the acknowledgement under way.
    newest: Option<Flight>,
    idle: bool,
    sampled: bool,
}

impl Sampler {
    pub(super) fn has_samples(&self) -> bool {
        self.sampled
    }

    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        if bytes < ACK_BYTES_MAX && self.idle {
            return;
        }
        if self.idle || self.delivered_at.is_none() {
            // Time without anything in flight must not count as slow delivery.
            self.delivered_at = Some(now);
            self.first_sent = Some(now);
            self.idle = false;
        }
        if self.flights.back().is_some_and(|last| last.sent >= now) {
            return;
        }
        self.flights.push_back(Flight {
            sent: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            first_sent: self.first_sent.unwrap_or(now),
        });
    }

    pub(super) fn acked(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        let Ok(at) = self
            .flights
            .binary_search_by_key(&sent, |flight| flight.sent)
        else {
            return;
        };
        let flight = self.flights[at];
        if self.newest.is_none_or(|newest| newest.sent < flight.sent) {
            self.newest = Some(flight);
        }
    }

    /// Ends a batch of acknowledgements.
    pub(super) fn sample(&mut self, now: Instant, in_flight: u64) -> Option<Sample> {
        self.idle = in_flight == 0;
        let flight = self.newest.take()?;
        // Whatever left earlier and is still to come gives no sample any more.
        let passed = self
            .flights
            .partition_point(|other| other.sent < flight.sent);
        self.flights.drain(..passed);
        let silence = now.saturating_duration_since(self.delivered_at.unwrap_or(now));
        self.first_sent = Some(flight.sent);
        self.delivered_at = Some(now);
        self.sampled = true;
        let sending = flight.sent.saturating_duration_since(flight.first_sent);
        let acking = now.saturating_duration_since(flight.delivered_at);
        let span = sending.max(acking).max(Duration::from_micros(100));
        let bytes = u128::from(self.delivered - flight.delivered);
        Some(Sample {
            rate: u64::try_from(bytes * 1_000_000 / span.as_micros()).unwrap_or(u64::MAX),
            delivered: self.delivered,
            delivered_when_sent: flight.delivered,
            silence,
        })
    }
}

/// The best rate of the last rounds and the one under way.
#[derive(Debug, Clone, Default)]
pub(super) struct BestOf {
    ended: VecDeque<u64>,
    running: u64,
}

impl BestOf {
    pub(super) fn offer(&mut self, rate: u64) {
        self.running = self.running.max(rate);
    }

    pub(super) fn best(&self) -> u64 {
        self.ended.iter().copied().fold(self.running, u64::max)
    }

    pub(super) fn end_round(&mut self) {
        if self.ended.len() == ROUNDS_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(std::mem::take(&mut self.running));
    }

    /// Keeps the round under way only.
    pub(super) fn forget(&mut self) {
        self.ended.clear();
    }
}
