//! What a link is like: rate, delay, queue, and everything that it does to packets on the way.
//!
//! Times are durations since the emulator's start.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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

/// What happens to packets on the way besides loss; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// Share of packets that are held back while later ones overtake, 0..1.
    pub reorder_share: f64,
    /// How long they are held back.
    pub reorder_by: Duration,
    /// Share of packets of which one to three bits are flipped, 0..1.
    pub corrupt_share: f64,
    /// Share of packets that arrive twice, 0..1.
    pub duplicate_share: f64,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Road {
    /// Rate in kilobits per second, IP headers included; `None` is without limit.
    pub rate_kbit: Option<u32>,
    /// One-way delay.
    pub delay: Duration,
    /// The most that a packet takes longer than the delay. The order is kept.
    pub jitter: Duration,
    /// Loss on the air, after the queue.
    pub loss: Loss,
    /// Bytes that the modem's queue holds; `None` is one product of rate and round trip.
    pub queue: Option<u64>,
    /// Bytes of the largest packet that passes, IP header included. Larger ones vanish without a
    /// word, as behind a tunnel whose errors are filtered.
    pub mtu: Option<u16>,
    /// What else happens on the way.
    pub faults: Faults,
}

impl Road {
    /// How long `wire_bytes` take to leave.
    pub fn serialisation(&self, wire_bytes: u64) -> Duration {
        match self.rate_kbit {
            None => Duration::ZERO,
            Some(rate) => Duration::from_nanos(wire_bytes * 8_000_000 / u64::from(rate.max(1))),
        }
    }

    /// A road of this rate, delay and loss, and nothing else in the way.
    pub fn plain(rate_kbit: Option<u32>, delay: Duration, loss: Loss) -> Self {
        Self {
            rate_kbit,
            delay,
            jitter: Duration::ZERO,
            loss,
            queue: None,
            mtu: None,
            faults: Faults::default(),
        }
    }

    /// What the modem's queue holds; `None` when there is no queue, as nothing ever waits.
    pub fn queue_bytes(&self) -> Option<u64> {
        if self.queue.is_some() {
            return self.queue;
        }
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

/// A silence that is known beforehand, counted from the emulator's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it begins.
    pub after: Duration,
    /// How long it lasts.
    pub length: Duration,
}

/// A change of both rates that is known beforehand, counted from the emulator's start. The queues
/// stay as large as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub after: Duration,
    /// The rate from then on, from the box to the hub.
    pub up_kbit: u32,
    /// The rate from then on, from the hub to the box.
    pub down_kbit: u32,
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
        let road = |kbit| Road::plain(Some(kbit), Duration::from_millis(delay_ms), loss);
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

    /// Geostationary satellite with a little rain, as it is before and after a long outage.
    pub fn geo_drop() -> Self {
        Self::steady(1_000, 4_000, 300, 0.01)
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
        let road = Road::plain(None, Duration::ZERO, Loss::None);
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
