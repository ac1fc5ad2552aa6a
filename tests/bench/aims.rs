//! The links that are measured, what is to be reached on each, and how a run is judged.

use std::time::Duration;

use kit::relay::{Gaps, Outage, Profile, WayCounters};

/// The most that the modem's queue may drop.
const QUEUE_DROPS: f64 = 0.02;

/// How long the link is gone in the profiles named after it.
const DROP: Duration = Duration::from_secs(120);

/// A link, and what is to be reached on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) profile: Profile,
    /// An outage in the midst of the transfer.
    pub(crate) outage: Option<Duration>,
    /// The least share of the link that carries payload.
    efficiency: Option<f64>,
    /// The most time over that of a transfer which is as good as it can be.
    over_ideal: Option<f64>,
    /// What headers, loss and handshake leave for payload at best.
    pub(crate) ceiling: f64,
}

impl Trial {
    /// The names that [`Self::named`] knows.
    pub(crate) const NAMES: [&str; 6] = [
        "geo-clean",
        "geo-rain",
        "bgan-bad",
        "leo",
        "geo-drop",
        "leo-drop",
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        let steady = |profile, efficiency, ceiling| Self {
            profile,
            outage: None,
            efficiency: Some(efficiency),
            over_ideal: None,
            ceiling,
        };
        let drop = |profile, over_ideal, ceiling| Self {
            profile,
            outage: Some(DROP),
            efficiency: None,
            over_ideal: Some(over_ideal),
            ceiling,
        };
        match name {
            "geo" | "geo-clean" => Some(steady(Profile::geo(), 0.91, 0.93)),
            "geo-rain" => Some(steady(Profile::geo_rain(), 0.89, 0.91)),
            "bgan" | "bgan-bad" => Some(steady(Profile::bgan(), 0.86, 0.88)),
            "leo" => Some(steady(Profile::leo(), 0.91, 0.94)),
            "geo-drop" => Some(drop(Profile::geo_drop(), 1.03, 0.92)),
            "leo-drop" => Some(drop(Profile::leo(), 1.05, 0.94)),
            _ => None,
        }
    }

    /// How long so many bytes take on the open link if it carries nothing else.
    pub(crate) fn at_full_rate(&self, bytes: u64) -> Duration {
        let kbit = self.profile.up.rate_kbit.unwrap_or(u32::MAX);
        Duration::from_secs_f64(bytes as f64 / (f64::from(kbit) * 125.0))
    }

    /// When the outage begins, so that it meets the transfer in its midst.
    pub(crate) fn outage_after(&self, payload: u64) -> Duration {
        self.at_full_rate(payload).mul_f64(0.4)
    }
}

/// What one transfer came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) payload: u64,
    /// From the first call until the sender knew that all is stored.
    pub(crate) took: Duration,
    /// How much of that the link was open.
    pub(crate) open: Duration,
    pub(crate) up: WayCounters,
}

impl Figures {
    /// Payload over what the open link could have carried.
    pub(crate) fn efficiency(&self, trial: &Trial) -> f64 {
        trial.at_full_rate(self.payload).as_secs_f64() / self.open.as_secs_f64()
    }

    /// Time over that of a transfer at the ceiling, silences included in both.
    pub(crate) fn over_ideal(&self, trial: &Trial) -> f64 {
        let ideal = trial.at_full_rate(self.payload).div_f64(trial.ceiling);
        let silent = self.took.saturating_sub(self.open);
        self.took.as_secs_f64() / (ideal + silent).as_secs_f64()
    }

    /// What the sender put onto the wire, over its payload.
    pub(crate) fn wire(&self) -> f64 {
        self.up.offered_bytes as f64 / self.payload as f64
    }

    pub(crate) fn loss(&self) -> f64 {
        share(self.up.lost, self.up.offered - self.up.dropped_queue)
    }

    pub(crate) fn queue_drops(&self) -> f64 {
        share(self.up.dropped_queue, self.up.offered)
    }

    /// The figures that have an aim, each beside it.
    pub(crate) fn judged(&self, trial: &Trial) -> String {
        let least = |name: &str, value: f64, aim: Option<f64>| match aim {
            Some(aim) if value < aim => format!("{name} {value:.3} (MISSED {aim:.2})"),
            Some(aim) => format!("{name} {value:.3} (aim {aim:.2})"),
            None => format!("{name} {value:.3}"),
        };
        let most = |name: &str, value: f64, aim: f64| {
            let word = if value > aim { "MISSED" } else { "aim" };
            format!("{name} {value:.3} ({word} {aim:.3})")
        };
        let mut said = vec![
            least("efficiency", self.efficiency(trial), trial.efficiency),
            most(
                "wire/payload",
                self.wire(),
                1.05 / (1.0 - self.loss()) + 0.02,
            ),
            most("queue drops", self.queue_drops(), QUEUE_DROPS),
        ];
        if let Some(aim) = trial.over_ideal {
            said.push(most("time over ideal", self.over_ideal(trial), aim));
        }
        said.join(", ")
    }
}

/// How much of a span of time the link was open.
pub(crate) fn open_time(
    gaps: Option<Gaps>,
    outages: &[Outage],
    from: Duration,
    to: Duration,
) -> Duration {
    const STEP: Duration = Duration::from_millis(5);
    let open = |at: &Duration| {
        let gap = gaps.is_some_and(|gaps| {
            at.as_nanos() % (gaps.up + gaps.down).as_nanos() >= gaps.up.as_nanos()
        });
        let out = |outage: &Outage| *at >= outage.after && *at < outage.after + outage.length;
        !gap && !outages.iter().any(out)
    };
    let moments = std::iter::successors(Some(from), |at| Some(*at + STEP));
    moments
        .take_while(|at| *at < to)
        .filter(open)
        .map(|_| STEP)
        .sum()
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
