//! Which tier to pack in: the one with which all that waits is at the hub the soonest.
//!
//! In: what is known of link, processors, power and backlog. Out: a tier.
//! Invariant: the same conditions give the same tier; no clock, no I/O.
//! May not: measure anything.

use codec::Tier;

/// What the processors run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The grid, or as good as that.
    Mains,
    /// What has been spent on packing is missing in the night.
    Battery,
    /// Nobody says.
    Unknown,
}

/// A figure for each tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PerTier<T> {
    pub(super) fast: T,
    pub(super) link: T,
    pub(super) archive: T,
}

impl<T> PerTier<T> {
    pub(super) fn of(&self, tier: Tier) -> &T {
        match tier {
            Tier::Fast => &self.fast,
            Tier::Link => &self.link,
            Tier::Archive => &self.archive,
        }
    }

    pub(super) fn of_mut(&mut self, tier: Tier) -> &mut T {
        match tier {
            Tier::Fast => &mut self.fast,
            Tier::Link => &mut self.link,
            Tier::Archive => &mut self.archive,
        }
    }

    pub(super) fn from_fn(figure: impl Fn(Tier) -> T) -> Self {
        Self {
            fast: figure(Tier::Fast),
            link: figure(Tier::Link),
            archive: figure(Tier::Archive),
        }
    }
}

/// What a tier is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    /// What the link carries towards the hub, as far as anybody knows.
    pub(super) link_bytes_s: Option<u64>,
    /// Packed bytes that cross before what is packed next.
    pub(super) waiting_bytes: u64,
    /// Bytes of files that are to be packed.
    pub(super) unpacked_bytes: u64,
    /// Bytes of files that one processor packs, decodes and compares in a second.
    pub(super) bytes_s: PerTier<u64>,
    /// What a file packs to, in thousandths of its size.
    pub(super) packed_permille: PerTier<u64>,
    /// What the processors have left for packing, in percent of one.
    pub(super) processors_percent: u64,
    /// What they run on.
    pub(super) power: Power,
}

/// Below this share of one processor somebody waits for the box: an intake runs.
const BUSY_PERCENT: u64 = 50;
/// What is packed before the first of it can cross.
const BATCH_BYTES: u64 = 8 << 20;

/// Chooses the tier.
///
/// Packing and sending overlap, so that the slower of them counts, and of two tiers that the link
/// holds back the smaller one wins. On a battery `archive` is not worth its work.
pub(super) fn choose(conditions: &Conditions) -> Tier {
    let Some(link_bytes_s) = conditions.link_bytes_s.filter(|rate| *rate > 0) else {
        return match conditions.processors_percent {
            0..BUSY_PERCENT => Tier::Fast,
            _ => Tier::Link,
        };
    };
    let candidates = match conditions.power {
        Power::Mains | Power::Unknown => &[Tier::Archive, Tier::Link, Tier::Fast][..],
        Power::Battery => &[Tier::Link, Tier::Fast],
    };
    let soonest = candidates
        .iter()
        .min_by_key(|tier| ready_ms(conditions, **tier, link_bytes_s));
    soonest.copied().unwrap_or(Tier::Link)
}

/// When everything is at the hub if what is unpacked is packed in this tier.
fn ready_ms(conditions: &Conditions, tier: Tier, link_bytes_s: u64) -> u64 {
    let processors = conditions.processors_percent.max(1);
    let bytes_s = (*conditions.bytes_s.of(tier)).max(1);
    let unpacked = conditions.unpacked_bytes.max(BATCH_BYTES);
    let pack_ms = unpacked.saturating_mul(100_000) / bytes_s.saturating_mul(processors).max(1);
    // One batch is packed by one processor.
    let alone = processors.min(100);
    let first_ms = BATCH_BYTES * 100_000 / bytes_s.saturating_mul(alone).max(1);
    let send_ms = |bytes: u64| bytes.saturating_mul(1000) / link_bytes_s;
    let packed = unpacked / 1000 * conditions.packed_permille.of(tier);
    let sent_ms = first_ms
        .max(send_ms(conditions.waiting_bytes))
        .saturating_add(send_ms(packed));
    // Estimates of speed err; a link that waits costs more than a few bytes.
    sent_ms.max(pack_ms.saturating_add(pack_ms / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box with two free processors and a study of 500 slices, some of it packed.
    const IDLE: Conditions = Conditions {
        link_bytes_s: None,
        waiting_bytes: 4 << 20,
        unpacked_bytes: 250 << 20,
        bytes_s: PerTier {
            fast: 50_000_000,
            link: 7_000_000,
            archive: 1_100_000,
        },
        packed_permille: PerTier {
            fast: 480,
            link: 450,
            archive: 420,
        },
        processors_percent: 200,
        power: Power::Unknown,
    };

    fn at(kbit_s: u64, conditions: Conditions) -> Tier {
        choose(&Conditions {
            link_bytes_s: Some(kbit_s * 125),
            ..conditions
        })
    }

    #[test]
    fn a_thin_link_gets_the_fewest_bytes() {
        for kbit_s in [64, 256, 384, 1000, 2000] {
            assert_eq!(at(kbit_s, IDLE), Tier::Archive, "{kbit_s}");
        }
    }

    #[test]
    fn a_wide_link_does_not_wait_for_the_encoder() {
        assert_eq!(at(10_000, IDLE), Tier::Link);
        assert_eq!(at(25_000, IDLE), Tier::Link);
        // 14 MB/s of files can be packed in `link`, which is just what would cross.
        assert_eq!(at(50_000, IDLE), Tier::Fast);
    }

    #[test]
    fn processors_that_are_busy_pack_fast_first() {
        let busy = Conditions {
            processors_percent: 20,
            ..IDLE
        };
        assert_eq!(at(10_000, busy), Tier::Fast);
        assert_eq!(choose(&busy), Tier::Fast);
        // However busy they are: on the thinnest link it is bytes that count.
        assert_eq!(at(64, busy), Tier::Archive);
    }

    #[test]
    fn an_unknown_link_gets_what_crosses_by_default() {
        assert_eq!(choose(&IDLE), Tier::Link);
        assert_eq!(at(0, IDLE), Tier::Link);
    }

    #[test]
    fn a_battery_is_not_spent_on_the_last_bytes() {
        let on_battery = Conditions {
            power: Power::Battery,
            ..IDLE
        };
        assert_eq!(at(256, on_battery), Tier::Link);
        let on_mains = Conditions {
            power: Power::Mains,
            ..IDLE
        };
        assert_eq!(at(256, on_mains), Tier::Archive);
    }

    #[test]
    fn a_link_that_stands_idle_is_fed_soon_and_a_busy_one_well() {
        // One batch and nothing on the way: archive would let the link wait for seven seconds.
        let first = Conditions {
            waiting_bytes: 0,
            unpacked_bytes: 8 << 20,
            ..IDLE
        };
        assert_eq!(at(1000, first), Tier::Link);
        let behind_others = Conditions {
            waiting_bytes: 2 << 20,
            ..first
        };
        assert_eq!(at(1000, behind_others), Tier::Archive);
    }

    #[test]
    fn nothing_is_divided_by_zero_and_nothing_overflows() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX];
        for number in extremes {
            for other in extremes {
                let all = |n| PerTier::from_fn(|_| n);
                choose(&Conditions {
                    link_bytes_s: Some(number),
                    waiting_bytes: other,
                    unpacked_bytes: number,
                    bytes_s: all(other),
                    packed_permille: all(number.min(1000)),
                    processors_percent: other,
                    power: Power::Mains,
                });
            }
        }
    }
}
