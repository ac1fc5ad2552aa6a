//! Pace: how fast this box packs, how small, and what its processors have left.
//!
//! What was packed before tells it; until then the figures of a small computer stand in.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use codec::Tier;
use rustix::time::{ClockId, clock_gettime};

use super::tier::{Conditions, PerTier, Power, choose};
use crate::vault::Backlog;

/// Bytes of files that a small processor packs in a second.
const SPEED_GUESS: PerTier<u64> = PerTier {
    fast: 45_000_000,
    link: 7_000_000,
    archive: 1_100_000,
};
/// What CT packs to, in thousandths.
const SIZE_GUESS: PerTier<u64> = PerTier {
    fast: 480,
    link: 450,
    archive: 425,
};
/// Less than this tells more of what surrounds the pixels than of them.
const SAMPLE_BYTES_MIN: u64 = 1 << 20;
/// The processors' counters are read this far apart, or further.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What a piece of packing took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) tier: Tier,
    /// Bytes of the files.
    pub(super) file_bytes: u64,
    /// Bytes of the units.
    pub(super) packed_bytes: u64,
    /// What the thread spent of a processor.
    pub(super) spent: Duration,
}

/// What the present thread has spent of a processor.
pub(super) fn spent() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime)
        .try_into()
        .unwrap_or_default()
}

/// Learns from what was packed.
pub(super) struct Pace {
    threads: usize,
    power: Power,
    measured: PerTier<Option<Measured>>,
    processors: Processors,
}

impl Pace {
    pub(super) fn new(threads: usize, power: Power) -> Self {
        Self {
            threads,
            power,
            measured: PerTier::default(),
            processors: Processors::default(),
        }
    }

    /// Takes in what a piece of packing took.
    pub(super) fn learn(&mut self, work: Work) {
        let spent_us = u64::try_from(work.spent.as_micros()).unwrap_or(u64::MAX);
        if work.file_bytes < SAMPLE_BYTES_MIN || spent_us == 0 {
            return;
        }
        let bytes_s = work.file_bytes.saturating_mul(1_000_000) / spent_us;
        let permille = work.packed_bytes.saturating_mul(1000) / work.file_bytes;
        let new = Measured { bytes_s, permille };
        let known = self.measured.of_mut(work.tier);
        *known = Some(known.map_or(new, |old| old.blend(new)));
    }

    /// Chooses the tier for what is packed next.
    pub(super) fn tier(&mut self, link_bytes_s: Option<u64>, backlog: Backlog) -> Tier {
        let processors_percent = self.free_percent();
        let conditions = self.conditions(link_bytes_s, backlog, processors_percent);
        let tier = choose(&conditions);
        tracing::debug!(?tier, ?conditions, "chose a tier");
        tier
    }

    /// What the processors have left for packing, in percent of one.
    pub(super) fn free_percent(&mut self) -> u64 {
        self.processors.free_percent(self.threads)
    }

    fn conditions(
        &self,
        link_bytes_s: Option<u64>,
        backlog: Backlog,
        processors_percent: u64,
    ) -> Conditions {
        Conditions {
            link_bytes_s,
            waiting_bytes: backlog.waiting_bytes,
            unpacked_bytes: backlog.unpacked_bytes,
            bytes_s: self.figures(SPEED_GUESS, |measured| measured.bytes_s),
            packed_permille: self.figures(SIZE_GUESS, |measured| measured.permille),
            processors_percent,
            power: self.power,
        }
    }

    /// What was measured; of a tier that was not used, the guess, as far off as that of another was.
    fn figures(&self, guess: PerTier<u64>, figure: impl Fn(&Measured) -> u64) -> PerTier<u64> {
        let measured = |tier| self.measured.of(tier).as_ref().map(&figure);
        let known = [Tier::Link, Tier::Fast, Tier::Archive]
            .into_iter()
            .find_map(|tier| Some((measured(tier)?, *guess.of(tier))));
        PerTier::from_fn(|tier| {
            let guess = *guess.of(tier);
            match (measured(tier), known) {
                (Some(measured), _) => measured,
                (None, Some((known, guessed))) => guess.saturating_mul(known) / guessed.max(1),
                (None, None) => guess,
            }
        })
    }
}

/// What packing in a tier has shown.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Bytes of files that one processor packs in a second.
    bytes_s: u64,
    /// What they packed to, in thousandths.
    permille: u64,
}

impl Measured {
    /// Gives what is new a quarter of the weight.
    fn blend(self, new: Self) -> Self {
        let blend = |old: u64, new: u64| (old.saturating_mul(3).saturating_add(new)) / 4;
        Self {
            bytes_s: blend(self.bytes_s, new.bytes_s),
            permille: blend(self.permille, new.permille),
        }
    }
}

/// What the processors were seen doing.
#[derive(Debug, Default)]
struct Processors {
    read_at: Option<Instant>,
    counted: Ticks,
    free_percent: Option<u64>,
}

impl Processors {
    /// What packing may take of them, in percent of one: all that nobody takes who is less nice.
    fn free_percent(&mut self, threads: usize) -> u64 {
        if self.read_at.is_none_or(|at| at.elapsed() >= LOAD_INTERVAL) {
            let counted = fs::read_to_string("/proc/stat").ok();
            if let Some(counted) = counted.as_deref().and_then(Ticks::parse) {
                self.free_percent = counted.free_percent_since(&self.counted);
                self.counted = counted;
            }
            self.read_at = Some(Instant::now());
        }
        // A system that does not tell counts as idle.
        let free = self.free_percent.unwrap_or(100);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let usable = threads.min(processors) as u64 * 100;
        usable.min(processors as u64 * free)
    }
}

/// The first line of `/proc/stat`: what all processors have done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    /// For programs that are nice, ours of packing among them, or for nobody.
    free: u64,
    all: u64,
}

impl Ticks {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.lines().next()?.split_whitespace();
        if words.next() != Some("cpu") {
            return None;
        }
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice.
        let [_, nice, _, idle, iowait, ..] = ticks[..] else {
            return None;
        };
        Some(Self {
            free: nice + idle + iowait,
            all: ticks.iter().take(8).sum(),
        })
    }

    /// Which part was free since then, in percent; none when nothing was counted since.
    fn free_percent_since(&self, before: &Self) -> Option<u64> {
        let all = self.all.checked_sub(before.all)?;
        let free = self.free.saturating_sub(before.free).min(all);
        (free * 100).checked_div(all)
    }
}

#[cfg(test)]
impl Pace {
    /// Of a machine that does nothing else, whatever this one does.
    pub(super) fn of_idle_machine(threads: usize) -> Self {
        let mut pace = Self::new(threads, Power::Unknown);
        pace.processors.free_percent = Some(100);
        pace.processors.read_at = Some(Instant::now() + Duration::from_secs(3600));
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nice_and_idle_time_is_free_for_packing() {
        let before = "cpu  100 50 30 800 20 0 0 0 0 0\ncpu0 1 2 3 4 5\n";
        let after = "cpu  160 70 40 805 25 0 0 0 0 0\n";
        let (before, after) = (Ticks::parse(before).unwrap(), Ticks::parse(after).unwrap());
        assert_eq!(after.free_percent_since(&before), Some(30));
        assert_eq!(after.free_percent_since(&after), None);
        for odd in ["", "cpu", "cpu a b", "intr 1 2 3 4 5 6"] {
            assert_eq!(Ticks::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_one_tier_shows_says_something_of_the_others() {
        let mut pace = Pace::new(2, Power::Unknown);
        let backlog = Backlog {
            unpacked_bytes: 250 << 20,
            waiting_bytes: 4 << 20,
        };
        let tier = |pace: &Pace| choose(&pace.conditions(Some(125_000), backlog, 200));
        assert_eq!(tier(&pace), Tier::Archive);
        // A processor of a tenth: archive cannot keep up with the same link any more.
        let slow = Work {
            tier: Tier::Link,
            file_bytes: 7_000_000,
            packed_bytes: 3_150_000,
            spent: Duration::from_secs(10),
        };
        pace.learn(slow);
        assert_eq!(pace.figures(SPEED_GUESS, |m| m.bytes_s).archive, 110_000);
        assert_eq!(tier(&pace), Tier::Link);
        // One odd file changes little, a note nothing.
        pace.learn(Work {
            spent: Duration::from_secs(1),
            ..slow
        });
        assert_eq!(pace.figures(SPEED_GUESS, |m| m.bytes_s).link, 2_275_000);
        pace.learn(Work {
            file_bytes: 100,
            ..slow
        });
        assert_eq!(pace.figures(SPEED_GUESS, |m| m.bytes_s).link, 2_275_000);
    }

    #[test]
    fn a_thread_counts_its_own_work_only() {
        let before = spent();
        let other = thread::spawn(|| {
            let began = spent();
            while spent() - began < Duration::from_millis(50) {}
        });
        other.join().unwrap();
        assert!(spent() - before < Duration::from_millis(50));
    }
}
