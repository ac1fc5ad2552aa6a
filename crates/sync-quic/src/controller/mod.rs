//! The loss-tolerant congestion controller: fills a link that loses packets, brakes on delay.
//!
//! In: what quinn reports of packets sent, acknowledged and lost. Out: a window.
//! Invariant: loss alone never shrinks the window; only a lower delivery rate, a growing round
//! trip or extreme loss does. A silence of the link teaches nothing.
//! May not: read a clock; quinn's instants are the only time.
//!
//! The window is `rate x least round trip x gain`. The rate is the best delivery rate of the last
//! [`ROUNDS_KEPT`] round trips, so it follows a link within seconds but not a lost packet. The gain
//! keeps the link's queue just not empty; a probing round tries more now and then, a draining
//! round lets the queue run empty, so that the least round trip stays the link's own.

mod careful;
mod sampler;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use self::careful::Careful;
pub(crate) use self::careful::CarefulConfig;
use self::sampler::{BestOf, Sample, Sampler};
use crate::profile::Hint;
use crate::recent::Recent;
use crate::wake::Wakeful;

/// Over how many round trips the best delivery rate is taken.
const ROUNDS_KEPT: usize = 8;
/// After how many round trips the least round trip is sought anew.
const ROUNDS_PER_CYCLE: u32 = 128;
/// Every so many round trips one tries whether there is more.
const ROUNDS_PER_PROBE: u32 = 8;
/// After braking for so many round trips in vain, a long round trip is taken for the link's own.
const ROUNDS_LATE_MAX: u32 = 16;
/// A round never counts as shorter than this, so that a timer's slack is not taken for a link's.
const ROUND_LEAST: Duration = Duration::from_millis(20);
/// The window at the start when nothing is known: about a bandwidth-delay product of the slowest
/// satellite link, sent over a round trip and not in a burst.
const START_BYTES: u64 = 32 * 1200;
/// At the start the window may be so many times what the link was seen to carry. Twice would fill
/// a queue of one bandwidth-delay product to the brim before the first late acknowledgement.
const START_GAIN: f64 = 1.8;
/// The window never goes below so many datagrams.
const DATAGRAMS_LEAST: u64 = 4;
/// Above this share of loss in a round the past says nothing about the link any more.
const LOSS_EXTREME: f64 = 0.5;
/// The same when the round trip grows as well: then the queue overflows.
const LOSS_WITH_DELAY: f64 = 0.2;

/// Makes controllers for the connections of one link.
#[derive(Debug)]
pub(crate) struct SteadyConfig {
    window_start: u64,
    rate_max: Option<u64>,
    hint: Option<Hint>,
}

impl SteadyConfig {
    /// Starts as `hint` says if the link is like it, and never sends more than `rate_kbits_max`.
    pub(crate) fn new(
        rtt_expected: Duration,
        hint: Option<Hint>,
        rate_kbits_max: Option<u32>,
    ) -> Self {
        let rate_max = rate_kbits_max.map(|kbits| u64::from(kbits) * 125);
        let product = |rate| scaled(rate, rtt_expected.as_secs_f64());
        let window_start = rate_max.map_or(START_BYTES, |rate| {
            START_BYTES.min(product(rate).max(2 * 1200))
        });
        Self {
            window_start,
            rate_max,
            hint,
        }
    }
}

impl SteadyConfig {
    fn steady(&self, mtu: u16) -> Steady {
        Steady {
            hint: self.hint,
            ..Steady::new(self.window_start, self.rate_max, mtu)
        }
    }
}

impl ControllerFactory for SteadyConfig {
    fn build(self: Arc<Self>, _: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(self.steady(mtu))
    }
}

/// The rate that `connection`'s link delivers in bytes per second, if our controller drives it.
pub(crate) fn rate_of(connection: &quinn::Connection) -> Option<u64> {
    steady_of(connection).map(|steady| steady.rates.best())
}

/// What our controller, should it drive `connection`, has learned of its link.
pub(crate) fn learned(connection: &quinn::Connection) -> Option<Hint> {
    let steady = steady_of(connection)?;
    let rate_kbits = u32::try_from(steady.rates.best() / 125).unwrap_or(u32::MAX);
    let rtt = steady.rtt.least()?;
    (rate_kbits > 0).then_some(Hint {
        rate_kbits,
        rtt,
        age: Duration::ZERO,
    })
}

fn steady_of(connection: &quinn::Connection) -> Option<Steady> {
    let wakeful = connection
        .congestion_state()
        .into_any()
        .downcast::<Wakeful>()
        .ok()?;
    match wakeful.into_inner().into_any().downcast::<Steady>() {
        Ok(steady) => Some(*steady),
        Err(other) => Some(other.downcast::<Careful>().ok()?.steady),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling, until the round trip grows or the rate does not.
    Starting,
    /// Following the link.
    Cruising,
}

/// The controller of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    datagram: u64,
    rate_max: Option<u64>,
    phase: Phase,
    window: u64,
    window_start: u64,
    sampler: Sampler,
    recent: Recent,
    rates: BestOf,
    rtt: Rtt,
    round: Round,
    /// Rounds since the least round trip was last sought.
    rounds: u32,
    /// The best rate when it last grew by a quarter, and for how many rounds it has not.
    plateau: (u64, u32),
    /// Packets sent before this went into an outage: their loss says nothing.
    outage_until: Option<Instant>,
    /// What a contact before taught; none any more once it was tried or found to be another link.
    hint: Option<Hint>,
    /// The window that the hint brought and since when, until a packet sent since is acknowledged.
    jump: Option<(u64, Instant)>,
}

/// The round under way.
#[derive(Debug, Clone, Default)]
struct Round {
    began: Option<Instant>,
    /// What had been delivered when it began; it ends when a packet sent after that is acknowledged.
    delivered_at_end: u64,
    bytes_acked: u64,
    bytes_lost: u64,
    limited: bool,
}

/// The smoothed round trip, and the least of it in this cycle and the one before.
#[derive(Debug, Clone, Default)]
struct Rtt {
    now: Option<Duration>,
    least: Option<Duration>,
    least_before: Option<Duration>,
    late_rounds: u32,
}

impl Rtt {
    fn update(&mut self, smoothed: Duration) {
        self.now = Some(smoothed);
        self.least = Some(self.least.map_or(smoothed, |least| least.min(smoothed)));
    }

    fn least(&self) -> Option<Duration> {
        match (self.least, self.least_before) {
            (Some(now), Some(before)) => Some(now.min(before)),
            (one, other) => one.or(other),
        }
    }

    /// Seeks the least anew; the old one counts for one more cycle.
    fn turn(&mut self) {
        self.least_before = self.least.take();
    }

    /// Braking makes the queue drain. If the round trip stays long all the same, the path is long.
    fn end_round(&mut self) {
        self.late_rounds = if self.late(1.5) {
            self.late_rounds + 1
        } else {
            0
        };
        if self.late_rounds >= ROUNDS_LATE_MAX {
            *self = Self {
                now: self.now,
                least: self.now,
                least_before: None,
                late_rounds: 0,
            };
        }
    }

    /// Whether the round trip is over `factor` times the least, with some slack for busy machines.
    fn late(&self, factor: f64) -> bool {
        self.now.is_some_and(|now| self.is_late(now, factor))
    }

    fn is_late(&self, rtt: Duration, factor: f64) -> bool {
        self.least()
            .is_some_and(|least| rtt > least.mul_f64(factor) + Duration::from_millis(10))
    }
}

impl Steady {
    fn new(window_start: u64, rate_max: Option<u64>, mtu: u16) -> Self {
        Self {
            datagram: mtu.into(),
            rate_max,
            phase: Phase::Starting,
            window: window_start,
            window_start,
            sampler: Sampler::default(),
            recent: Recent::default(),
            rates: BestOf::default(),
            rtt: Rtt::default(),
            round: Round::default(),
            rounds: 0,
            plateau: (0, 0),
            outage_until: None,
            hint: None,
            jump: None,
        }
    }

    fn acked(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        smoothed: Duration,
    ) {
        // The first acknowledgement comes before the first sample, when quinn still says what was
        // configured.
        if self.sampler.has_samples() {
            let sane = self
                .recent
                .least()
                .map_or(smoothed, |recent| smoothed.min(recent * 2));
            self.rtt.update(sane);
        }
        self.recent.acked(sent);
        self.sampler.acked(sent, bytes);
        self.round.bytes_acked += bytes;
        if self.phase == Phase::Starting {
            let rtt = now.saturating_duration_since(sent);
            self.follow_hint(now, sent, rtt);
            if !app_limited {
                self.window = (self.window + bytes).min(self.window_max());
            }
            if self.rtt.is_late(rtt, 1.25) {
                self.phase = Phase::Cruising;
            }
        }
    }

    /// Takes the hint when the first round trip is as it says.
    fn follow_hint(&mut self, now: Instant, sent: Instant, rtt: Duration) {
        if let Some(hint) = self.hint.take()
            && hint.is_like(rtt)
            && let Some(window) = hint.window()
        {
            self.window = self.window.max(window);
            self.jump = Some((window, now));
        }
        self.jump = self.jump.filter(|(_, since)| sent < *since);
    }

    fn batch_acked(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.recent.end_batch(now);
        let Some(sample) = self.sampler.sample(now, in_flight) else {
            return;
        };
        if self.is_outage(&sample) {
            self.outage_until = Some(now);
            self.round = Round {
                delivered_at_end: sample.delivered,
                ..Round::default()
            };
            return;
        }
        self.round.limited |= app_limited;
        // A side that never had enough to send has not learned what the link carries.
        let best = self.rates.best();
        if !app_limited || (best > 0 && sample.rate > best) {
            self.rates.offer(sample.rate);
        }
        if sample.delivered_when_sent >= self.round.delivered_at_end {
            self.end_round(now, sample.delivered);
        }
        if self.phase == Phase::Cruising {
            self.window = self.target();
        }
    }

    /// Nothing came for much longer than a round trip: the link was away, it was not slow.
    fn is_outage(&self, sample: &Sample) -> bool {
        self.rtt
            .now
            .is_some_and(|rtt| sample.silence > rtt + rtt / 2 + Duration::from_millis(50))
    }

    fn end_round(&mut self, now: Instant, delivered: u64) {
        let began = *self.round.began.get_or_insert(now);
        if now.saturating_duration_since(began) < ROUND_LEAST && self.round.bytes_acked > 0 {
            return;
        }
        let carried = self.round.bytes_acked + self.round.bytes_lost;
        let loss = share(self.round.bytes_lost, carried);
        if loss > LOSS_EXTREME || (loss > LOSS_WITH_DELAY && self.rtt.late(1.5)) {
            self.rates.forget();
        }
        self.rtt.end_round();
        if !self.round.limited {
            self.rates.end_round();
            self.rounds += 1;
            self.seek_plateau();
        }
        if self.rounds >= ROUNDS_PER_CYCLE {
            self.rounds = 0;
            self.rtt.turn();
        }
        self.round = Round {
            began: Some(now),
            delivered_at_end: delivered,
            ..Round::default()
        };
    }

    /// Ends the start when three rounds have brought no quarter more.
    fn seek_plateau(&mut self) {
        if self.phase != Phase::Starting {
            return;
        }
        let (grown_to, rounds) = self.plateau;
        let best = self.rates.best();
        self.plateau = match best > grown_to + grown_to / 4 {
            true => (best, 0),
            false => (grown_to, rounds + 1),
        };
        if self.plateau.1 >= 3 {
            self.phase = Phase::Cruising;
        }
    }

    /// The most at the start: what a configured rate allows, and not much more than what was
    /// delivered so far, so that the modem's queue takes what is too much.
    fn window_max(&self) -> u64 {
        let Some(least) = self.rtt.least() else {
            return self.window;
        };
        let least = least.as_secs_f64();
        let begun = self
            .jump
            .map_or(0, |(window, _)| window)
            .max(self.window_start);
        let best = self.rates.best();
        let seen = scaled(best, least * START_GAIN).max(begun);
        let max = self.rate_max.map_or(u64::MAX, |max| scaled(max, least));
        seen.min(max.max(DATAGRAMS_LEAST * self.datagram))
    }

    fn target(&self) -> u64 {
        let (Some(least), Some(rtt)) = (self.rtt.least(), self.rtt.now) else {
            return self.window;
        };
        let best = self.rates.best();
        if best == 0 {
            return self.window;
        }
        let capped = self.rate_max.filter(|max| *max <= best);
        let least = least.as_secs_f64();
        let probing = self.rounds % ROUNDS_PER_PROBE == ROUNDS_PER_PROBE - 1;
        let product = match (capped, self.rounds) {
            (Some(max), _) => scaled(max, least),
            (None, 0) => scaled(best, least * 0.8),
            (None, _) if self.rtt.late(2.0) => scaled(best, least * 0.8),
            (None, _) if self.rtt.late(1.5) => scaled(best, least),
            // Against the round trip of the moment: should the link itself have become longer, a
            // window for the old one would starve it.
            (None, _) if probing => scaled(best, rtt.as_secs_f64() * 1.2),
            (None, _) => scaled(best, least * 1.2),
        };
        product.max(DATAGRAMS_LEAST * self.datagram)
    }
}

impl Controller for Steady {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.sampler.sent(now, bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acked(now, sent, bytes, app_limited, rtt.get());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.batch_acked(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _: Instant, sent: Instant, _: bool, lost_bytes: u64) {
        if self.outage_until.is_none_or(|until| sent > until) {
            self.round.bytes_lost += lost_bytes;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.datagram = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.pacing_rate = Some(self.rates.best() * 8);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window_start
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "rates and windows are positive and far below 2^52"
)]
fn scaled(rate: u64, seconds: f64) -> u64 {
    (rate as f64 * seconds) as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "byte counts of one round are far below 2^52"
)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
