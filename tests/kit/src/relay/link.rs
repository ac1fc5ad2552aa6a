//! The link itself, as arithmetic: when a datagram leaves, when it arrives, whether it is lost.
//!
//! Times are durations since the relay's start, so that the model runs in virtual time as well.
//! A datagram waits for those before it, takes its share of the rate, flies for the one-way delay
//! and may be lost on the way. What the modem's queue cannot hold is dropped at the tail.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::seeded::{mix, unit};

/// Bytes of the IPv4 and UDP headers, which take link capacity too.
pub const HEADER_BYTES: u64 = 28;

/// The least queue, so that a slow, near link still holds a few full datagrams.
const QUEUE_BYTES_MIN: u64 = 6_000;

/// How one direction loses datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Nothing is lost.
    None,
    /// Each datagram is lost on its own.
    Random {
        /// Lost share, 0..1.
        share: f64,
    },
    /// Everything sent during a burst is lost. Bursts are spans of time, not counts of datagrams:
    /// a sender that falls silent does not stretch them.
    Bursts {
        /// Share of the time that is lost, 0..1.
        share: f64,
        /// How long a burst lasts.
        length: Duration,
    },
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Road {
    /// Rate in kilobits per second, IP headers included; `None` is without limit.
    pub rate_kbit: Option<u32>,
    /// One-way delay.
    pub delay: Duration,
    /// Loss on the air, after the queue.
    pub loss: Loss,
}

impl Road {
    /// How long `wire_bytes` take to leave.
    pub fn serialisation(&self, wire_bytes: u64) -> Duration {
        match self.rate_kbit {
            None => Duration::ZERO,
            Some(rate) => Duration::from_nanos(wire_bytes * 8_000_000 / u64::from(rate.max(1))),
        }
    }

    /// The modem's queue: one product of rate and round trip.
    pub fn queue_bytes(&self) -> Option<u64> {
        let rate = u64::from(self.rate_kbit?);
        let round_trip_us = u64::try_from(self.delay.as_micros()).unwrap_or(u64::MAX) * 2;
        Some((rate * round_trip_us / 8_000).max(QUEUE_BYTES_MIN))
    }
}

/// A regular pattern of contact and silence, which starts with contact.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gaps {
    /// How long the link is up.
    pub up: Duration,
    /// How long it is then down.
    pub down: Duration,
}

/// Both directions of a link and what they share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// From the box to the hub.
    pub up: Road,
    /// From the hub to the box.
    pub down: Road,
    /// Silences that come again and again.
    pub gaps: Option<Gaps>,
}

impl Profile {
    /// A link with this rate, one-way delay and random loss, without gaps.
    pub fn steady(up_kbit: u32, down_kbit: u32, delay_ms: u64, loss_share: f64) -> Self {
        let loss = if loss_share > 0.0 {
            Loss::Random { share: loss_share }
        } else {
            Loss::None
        };
        let road = |kbit| Road {
            rate_kbit: Some(kbit),
            delay: Duration::from_millis(delay_ms),
            loss,
        };
        Self {
            up: road(up_kbit),
            down: road(down_kbit),
            gaps: None,
        }
    }

    /// Geostationary satellite, clear sky.
    pub fn geo() -> Self {
        Self::steady(2_000, 8_000, 300, 0.0)
    }

    /// Geostationary satellite in the rain.
    pub fn geo_rain() -> Self {
        Self::steady(1_000, 4_000, 300, 0.03)
    }

    /// A portable L-band terminal at a bad spot.
    pub fn bgan() -> Self {
        Self::steady(256, 384, 450, 0.05)
    }

    /// Low orbit: fast, bursts of loss, two seconds of silence in every fifteen.
    pub fn leo() -> Self {
        let mut profile = Self::steady(10_000, 50_000, 30, 0.0);
        let bursts = Loss::Bursts {
            share: 0.01,
            length: Duration::from_millis(10),
        };
        profile.up.loss = bursts;
        profile.down.loss = bursts;
        profile.gaps = Some(Gaps {
            up: Duration::from_secs(13),
            down: Duration::from_secs(2),
        });
        profile
    }

    /// No limit, no delay, no loss.
    pub fn none() -> Self {
        let road = Road {
            rate_kbit: None,
            delay: Duration::ZERO,
            loss: Loss::None,
        };
        Self {
            up: road,
            down: road,
            gaps: None,
        }
    }

    /// The profile that a command line calls by this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "geo" => Some(Self::geo()),
            "geo-rain" => Some(Self::geo_rain()),
            "bgan" => Some(Self::bgan()),
            "leo" => Some(Self::leo()),
            "none" => Some(Self::none()),
            _ => None,
        }
    }
}

/// A datagram that left and is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    /// When its last bit left; the state of the air at this moment decides its fate.
    pub(super) sent_at: Duration,
    /// When it arrives, if it does.
    pub(super) due: Duration,
    number: u64,
}

/// One direction at work.
#[derive(Debug)]
pub(super) struct Carrier {
    road: Road,
    seed: u64,
    free_at: Duration,
    sent: u64,
}

impl Carrier {
    pub(super) fn new(road: Road, seed: u64) -> Self {
        Self {
            road,
            seed,
            free_at: Duration::ZERO,
            sent: 0,
        }
    }

    /// Queues a datagram of `payload_bytes`; `None` when the queue is full.
    pub(super) fn offer(&mut self, now: Duration, payload_bytes: usize) -> Option<Flight> {
        let takes = self.road.serialisation(payload_bytes as u64 + HEADER_BYTES);
        let start = self.free_at.max(now);
        if let Some(queue_bytes) = self.road.queue_bytes()
            && start - now + takes > self.road.serialisation(queue_bytes)
        {
            return None;
        }
        self.free_at = start + takes;
        self.sent += 1;
        Some(Flight {
            sent_at: self.free_at,
            due: self.free_at + self.road.delay,
            number: self.sent,
        })
    }

    /// Whether the air lets this datagram through. The answer depends on the seed alone.
    pub(super) fn arrives(&self, flight: &Flight) -> bool {
        match self.road.loss {
            Loss::None => true,
            Loss::Random { share } => self.draw(flight.number) >= share,
            Loss::Bursts { share, length } => {
                let slot = flight.sent_at.as_nanos() / length.as_nanos().max(1);
                self.draw(u64::try_from(slot).unwrap_or(u64::MAX)) >= share
            }
        }
    }

    fn draw(&self, event: u64) -> f64 {
        unit(mix(self.seed ^ mix(event)))
    }
}

/// When the link is silent.
#[derive(Debug, Default)]
pub(super) struct Silence {
    gaps: Option<Gaps>,
    planned: Vec<Outage>,
    switched: Vec<(Duration, Option<Duration>)>,
}

/// A silence that is known beforehand, counted from the relay's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it begins.
    pub after: Duration,
    /// How long it lasts.
    pub length: Duration,
}

impl Silence {
    pub(super) fn new(gaps: Option<Gaps>, planned: Vec<Outage>) -> Self {
        Self {
            gaps,
            planned,
            switched: Vec::new(),
        }
    }

    /// Puts the link down or up from `now` on, over all that was planned.
    pub(super) fn switch(&mut self, now: Duration, up: bool) {
        let open = self
            .switched
            .last_mut()
            .filter(|(_, until)| until.is_none());
        match (open, up) {
            (Some((_, until)), true) => *until = Some(now),
            (None, false) => self.switched.push((now, None)),
            (Some(_), false) | (None, true) => {}
        }
    }

    pub(super) fn covers(&self, at: Duration) -> bool {
        let gap = self.gaps.is_some_and(|gaps| {
            let cycle = (gaps.up + gaps.down).as_nanos().max(1);
            at.as_nanos() % cycle >= gaps.up.as_nanos()
        });
        gap || self
            .planned
            .iter()
            .any(|o| at >= o.after && at < o.after + o.length)
            || self
                .switched
                .iter()
                .any(|(from, until)| at >= *from && until.is_none_or(|until| at < until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PAYLOAD: usize = 1_172;

    /// Offers a datagram every `gap` for `span`; returns the flights and the drops at the queue.
    fn pour(carrier: &mut Carrier, gap: Duration, span: Duration) -> (Vec<Flight>, u64) {
        let (mut flights, mut dropped, mut now) = (Vec::new(), 0, Duration::ZERO);
        while now < span {
            match carrier.offer(now, PAYLOAD) {
                Some(flight) => flights.push(flight),
                None => dropped += 1,
            }
            now += gap;
        }
        (flights, dropped)
    }

    #[test]
    fn a_full_link_carries_exactly_its_rate() {
        let mut carrier = Carrier::new(Profile::geo().up, 1);
        let (flights, dropped) = pour(&mut carrier, MS, Duration::from_secs(60));
        let within = flights
            .iter()
            .filter(|f| f.sent_at <= Duration::from_secs(60))
            .count();
        // 2 Mbit/s for 60 s are 12,500 datagrams of 1,200 bytes.
        assert_eq!(within, 12_500);
        assert!(dropped > 0);
    }

    #[test]
    fn a_lone_datagram_takes_its_own_bits_and_the_delay() {
        let mut carrier = Carrier::new(Profile::bgan().up, 1);
        let flight = carrier.offer(Duration::from_secs(5), PAYLOAD).unwrap();
        assert_eq!(
            flight.due,
            Duration::from_secs(5) + Duration::from_micros(37_500) + 450 * MS
        );
    }

    #[test]
    fn the_queue_holds_one_product_of_rate_and_round_trip() {
        let road = Profile::geo_rain().up;
        assert_eq!(road.queue_bytes(), Some(75_000));
        let mut carrier = Carrier::new(road, 1);
        let taken = (0..500)
            .filter(|_| carrier.offer(Duration::ZERO, PAYLOAD).is_some())
            .count();
        assert_eq!(taken, 62); // 62 x 1,200 bytes fit in 75,000
        let again = carrier.offer(road.serialisation(1_200), PAYLOAD);
        assert!(again.is_some(), "one datagram left, one fits");
    }

    #[test]
    fn random_loss_has_its_share_and_follows_the_seed() {
        let fates = |seed| {
            let mut carrier = Carrier::new(Profile::steady(1_000, 1_000, 10, 0.05).up, seed);
            let (flights, _) = pour(&mut carrier, 10 * MS, Duration::from_secs(1_000));
            flights
                .iter()
                .map(|f| carrier.arrives(f))
                .collect::<Vec<_>>()
        };
        let first = fates(7);
        let lost = first.iter().filter(|arrived| !**arrived).count();
        assert!(
            (4_600..5_400).contains(&lost),
            "{lost} of {} lost",
            first.len()
        );
        assert_eq!(first, fates(7));
        assert_ne!(first, fates(8));
    }

    #[test]
    fn bursts_are_spans_of_time() {
        let mut carrier = Carrier::new(Profile::leo().up, 3);
        let (flights, _) = pour(&mut carrier, MS, Duration::from_secs(200));
        let lost: Vec<_> = flights.iter().filter(|f| !carrier.arrives(f)).collect();
        let share = lost.len() as f64 / flights.len() as f64;
        assert!((0.007..0.013).contains(&share), "{share} lost");
        // All that leaves in the same 10 ms shares its fate.
        for pair in flights.windows(2) {
            if pair[0].sent_at.as_millis() / 10 == pair[1].sent_at.as_millis() / 10 {
                assert_eq!(carrier.arrives(&pair[0]), carrier.arrives(&pair[1]));
            }
        }
    }

    #[test]
    fn silence_is_periodic_planned_or_switched() {
        let s = Duration::from_secs;
        let planned = vec![Outage {
            after: s(100),
            length: s(20),
        }];
        let mut silence = Silence::new(Profile::leo().gaps, planned);
        assert!(!silence.covers(s(12)) && silence.covers(s(13)) && !silence.covers(s(15)));
        assert!(!silence.covers(s(99)) && silence.covers(s(108)) && !silence.covers(s(120)));
        silence.switch(s(60), false);
        assert!(silence.covers(s(70)));
        silence.switch(s(66), true);
        assert!(silence.covers(s(65)) && !silence.covers(s(66)));
    }
}
