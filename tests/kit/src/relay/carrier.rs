//! The link at work, as arithmetic: when a packet leaves, when it arrives, and what becomes of it.
//!
//! Times are durations since the emulator's start, so that the model runs in virtual time as well.
//! A packet waits for those before it, takes its share of the rate, flies for the one-way delay
//! and may be lost, spoilt, doubled or overtaken on the way. What the modem's queue cannot hold is
//! dropped at the tail. Every fate follows from the seed and the packet's number.

use std::time::Duration;

use super::link::{Gaps, Loss, Outage, Road, Step};
use crate::seeded::{mix, unit};

/// Nanoseconds that one bit takes at a rate of one kilobit per second.
const NANOS_PER_BIT: u64 = 1_000_000;

/// The most bits that are flipped in one packet.
const FLIPS_MAX: u64 = 3;

/// What a draw decides; each decision has draws of its own.
#[derive(Debug, Clone, Copy)]
enum Dice {
    Loss = 0,
    Jitter,
    Reorder,
    Corrupt,
    FlipFirst,
    FlipSpread,
    Duplicate,
}

/// A packet that left and is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flight {
    /// When it arrives, if it does.
    pub(super) due: Duration,
    pub(super) number: u64,
    /// When its last bit left; the state of the air at this moment decides its fate.
    pub(super) sent_at: Duration,
    /// Whether later packets may overtake it.
    pub(super) held_back: bool,
}

/// Why a packet did not even leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The queue is full.
    Full,
    /// It is larger than what passes.
    TooBig,
}

/// One direction at work.
#[derive(Debug)]
pub(super) struct Carrier {
    road: Road,
    /// When the rate changes, and to what, in the order of time.
    rates: Vec<(Duration, u32)>,
    seed: u64,
    free_at: Duration,
    last_due: Duration,
    sent: u64,
}

impl Carrier {
    pub(super) fn new(road: Road, mut rates: Vec<(Duration, u32)>, seed: u64) -> Self {
        rates.sort_unstable();
        Self {
            road,
            rates,
            seed,
            free_at: Duration::ZERO,
            last_due: Duration::ZERO,
            sent: 0,
        }
    }

    pub(super) fn road(&self) -> &Road {
        &self.road
    }

    /// Queues a packet that takes `wire_bytes` of the link.
    pub(super) fn offer(&mut self, now: Duration, wire_bytes: u64) -> Result<Flight, Refused> {
        if self.road.mtu.is_some_and(|mtu| wire_bytes > mtu.into()) {
            return Err(Refused::TooBig);
        }
        let start = self.free_at.max(now);
        if let Some(queue_bytes) = self.road.queue_bytes()
            && self.bits_between(now, start).div_ceil(8) + wire_bytes > queue_bytes
        {
            return Err(Refused::Full);
        }
        self.free_at = self.leaves(start, wire_bytes * 8);
        self.sent += 1;
        let number = self.sent;
        let held_back = self.happens(Dice::Reorder, number, self.road.faults.reorder_share);
        let jitter = self.road.jitter.mul_f64(self.draw(Dice::Jitter, number));
        let mut due = (self.free_at + self.road.delay + jitter).max(self.last_due);
        if held_back {
            due += self.road.faults.reorder_by;
        } else {
            self.last_due = due;
        }
        Ok(Flight {
            due,
            number,
            sent_at: self.free_at,
            held_back,
        })
    }

    /// Whether the air lets this packet through.
    pub(super) fn arrives(&self, flight: &Flight) -> bool {
        match self.road.loss {
            Loss::None => true,
            Loss::Random { share } => !self.happens(Dice::Loss, flight.number, share),
            Loss::Bursts { share, length } => {
                let slot = flight.sent_at.as_nanos() / length.as_nanos().max(1);
                !self.happens(Dice::Loss, u64::try_from(slot).unwrap_or(u64::MAX), share)
            }
        }
    }

    /// Whether the packet arrives twice.
    pub(super) fn doubles(&self, flight: &Flight) -> bool {
        let share = self.road.faults.duplicate_share;
        self.happens(Dice::Duplicate, flight.number, share)
    }

    /// Flips bits of the packet if that is its fate; whether it did.
    pub(super) fn spoils(&self, flight: &Flight, bytes: &mut [u8]) -> bool {
        let share = self.road.faults.corrupt_share;
        let bits = bytes.len() as u64 * 8;
        if bits == 0 || !self.happens(Dice::Corrupt, flight.number, share) {
            return false;
        }
        let first = self.number(Dice::FlipFirst, flight.number);
        let spread = self.number(Dice::FlipSpread, flight.number);
        // Never the same bit twice, which would undo it.
        let step = 1 + spread % ((bits - 1) / FLIPS_MAX).max(1);
        for flip in 0..1 + first % FLIPS_MAX {
            let bit = (first / FLIPS_MAX % bits + flip * step) % bits;
            if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|i| bytes.get_mut(i)) {
                *byte ^= 1 << (bit % 8);
            }
        }
        true
    }

    /// The rate at a moment and until when it holds.
    fn rate_at(&self, at: Duration) -> (Option<u64>, Option<Duration>) {
        let begun = self.rates.partition_point(|(after, _)| *after <= at);
        let rate = match begun {
            0 => self.road.rate_kbit,
            _ => Some(self.rates[begun - 1].1),
        };
        let until = self.rates.get(begun).map(|(after, _)| *after);
        (rate.map(|kbit| u64::from(kbit.max(1))), until)
    }

    /// When bits that begin to leave at `start` have left.
    fn leaves(&self, start: Duration, bits: u64) -> Duration {
        // Bits times a million, so that nothing is lost to rounding where the rate changes.
        let (mut at, mut left) = (start, bits * NANOS_PER_BIT);
        loop {
            let (Some(rate), until) = self.rate_at(at) else {
                return at;
            };
            let end = at + Duration::from_nanos(left / rate);
            match until {
                Some(until) if until < end => {
                    left -= nanos(until - at) * rate;
                    at = until;
                }
                Some(_) | None => return end,
            }
        }
    }

    /// What the link carries in a span of time, in bits.
    fn bits_between(&self, from: Duration, to: Duration) -> u64 {
        let (mut at, mut carried) = (from, 0);
        while at < to {
            let (rate, until) = self.rate_at(at);
            let end = until.map_or(to, |until| until.min(to));
            carried += nanos(end - at) * rate.unwrap_or_default();
            at = end;
        }
        carried / NANOS_PER_BIT
    }

    fn happens(&self, dice: Dice, event: u64, share: f64) -> bool {
        self.draw(dice, event) < share
    }

    fn draw(&self, dice: Dice, event: u64) -> f64 {
        unit(self.number(dice, event))
    }

    fn number(&self, dice: Dice, event: u64) -> u64 {
        mix(self.seed ^ mix(event) ^ ((dice as u64) << 56))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The changes of the rate from the box to the hub, and of the rate back.
pub(super) fn rates(steps: &[Step]) -> [Vec<(Duration, u32)>; 2] {
    [
        steps
            .iter()
            .map(|step| (step.after, step.up_kbit))
            .collect(),
        steps
            .iter()
            .map(|step| (step.after, step.down_kbit))
            .collect(),
    ]
}

/// When the link is silent.
#[derive(Debug, Default)]
pub(super) struct Silence {
    gaps: Option<Gaps>,
    planned: Vec<Outage>,
    switched: Vec<(Duration, Option<Duration>)>,
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
    use super::super::link::{Faults, Profile};
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// A full datagram, headers included.
    const WIRE: u64 = 1_200;

    /// Offers a datagram every `gap` for `span`; returns the flights and the drops at the queue.
    fn pour(carrier: &mut Carrier, gap: Duration, span: Duration) -> (Vec<Flight>, u64) {
        let (mut flights, mut dropped, mut now) = (Vec::new(), 0, Duration::ZERO);
        while now < span {
            match carrier.offer(now, WIRE) {
                Ok(flight) => flights.push(flight),
                Err(_) => dropped += 1,
            }
            now += gap;
        }
        (flights, dropped)
    }

    #[test]
    fn a_full_link_carries_exactly_its_rate() {
        let mut carrier = Carrier::new(Profile::geo().up, Vec::new(), 1);
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
        let mut carrier = Carrier::new(Profile::bgan().up, Vec::new(), 1);
        let flight = carrier.offer(Duration::from_secs(5), WIRE).unwrap();
        assert_eq!(
            flight.due,
            Duration::from_secs(5) + Duration::from_micros(37_500) + 450 * MS
        );
    }

    #[test]
    fn the_queue_holds_one_product_of_rate_and_round_trip() {
        let road = Profile::geo_rain().up;
        assert_eq!(road.queue_bytes(), Some(75_000));
        let mut carrier = Carrier::new(road, Vec::new(), 1);
        let taken = (0..500)
            .filter(|_| carrier.offer(Duration::ZERO, WIRE).is_ok())
            .count();
        assert_eq!(taken, 62); // 62 x 1,200 bytes fit in 75,000
        let again = carrier.offer(road.serialisation(1_200), WIRE);
        assert!(again.is_ok(), "one datagram left, one fits");
    }

    #[test]
    fn random_loss_has_its_share_and_follows_the_seed() {
        let fates = |seed| {
            let mut carrier =
                Carrier::new(Profile::steady(1_000, 1_000, 10, 0.05).up, Vec::new(), seed);
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
        let mut carrier = Carrier::new(Profile::leo().up, Vec::new(), 3);
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
    fn a_rate_step_changes_the_rate_from_its_moment_on() {
        let steps = vec![(20 * MS, 500), (40 * MS, 2_000)];
        let mut carrier = Carrier::new(Profile::geo_rain().up, steps, 1);
        let left: Vec<_> = (0..4)
            .map(|_| carrier.offer(Duration::ZERO, WIRE).unwrap().sent_at)
            .collect();
        // 9.6 ms each at first; the third has 800 bits left at 20 ms and takes twice as long for
        // the rest, the fourth has the slow and the fast rate.
        let micros = Duration::from_micros;
        let slow_end = micros(20_000 + 2 * 8_800);
        let fast_end = micros(40_000) + micros((9_600 - 1_200) / 2);
        assert_eq!(left, [micros(9_600), micros(19_200), slow_end, fast_end]);
    }

    #[test]
    fn the_queue_keeps_its_bytes_when_the_rate_falls() {
        let mut carrier = Carrier::new(Profile::geo_rain().up, vec![(MS, 100)], 1);
        let taken = (0..500)
            .filter(|_| carrier.offer(10 * MS, WIRE).is_ok())
            .count();
        assert_eq!(taken, 62);
    }

    #[test]
    fn a_queue_of_a_chosen_size_and_a_largest_packet_are_kept() {
        let mut road = Profile::geo_rain().up;
        (road.queue, road.mtu) = (Some(12_000), Some(1_280));
        let mut carrier = Carrier::new(road, Vec::new(), 1);
        let offered: Vec<_> = (0..11).map(|_| carrier.offer(MS, WIRE)).collect();
        assert!(offered[..10].iter().all(Result::is_ok));
        assert_eq!(offered[10], Err(Refused::Full));
        assert_eq!(carrier.offer(MS, 1_281), Err(Refused::TooBig));
        assert!(carrier.offer(Duration::from_secs(1), 1_280).is_ok());
    }

    #[test]
    fn jitter_delays_by_up_to_its_length_and_keeps_the_order() {
        let mut road = Profile::geo().up;
        road.jitter = 40 * MS;
        let mut carrier = Carrier::new(road, Vec::new(), 5);
        let (flights, _) = pour(&mut carrier, 10 * MS, Duration::from_secs(100));
        assert!(flights.is_sorted_by_key(|f| f.due));
        let late: Vec<_> = flights
            .iter()
            .map(|f| f.due - f.sent_at - road.delay)
            .collect();
        assert!(late.iter().all(|late| *late <= road.jitter));
        assert!(late.iter().any(|late| *late < 5 * MS) && late.iter().any(|late| *late > 35 * MS));
    }

    #[test]
    fn faults_have_their_shares_and_follow_the_seed() {
        let mut road = Profile::geo().up;
        road.faults = Faults {
            reorder_share: 0.02,
            reorder_by: 30 * MS,
            corrupt_share: 0.03,
            duplicate_share: 0.04,
        };
        let play = |seed| {
            let mut carrier = Carrier::new(road, Vec::new(), seed);
            let (flights, _) = pour(&mut carrier, 10 * MS, Duration::from_secs(200));
            let fates = flights.iter().map(|flight| {
                let mut bytes = [0; 150];
                let spoilt = carrier.spoils(flight, &mut bytes);
                assert_eq!(spoilt, bytes != [0; 150]);
                (flight.held_back, spoilt, carrier.doubles(flight), bytes)
            });
            fates.collect::<Vec<_>>()
        };
        let fates = play(9);
        let held_back = fates.iter().filter(|fate| fate.0).count();
        let spoilt = fates.iter().filter(|fate| fate.1).count();
        let doubled = fates.iter().filter(|fate| fate.2).count();
        let counts = [held_back, spoilt, doubled];
        for (count, aim) in counts.into_iter().zip([400, 600, 800]) {
            assert!(
                count.abs_diff(aim) < aim / 5,
                "{counts:?} of {}",
                fates.len()
            );
        }
        assert_eq!(fates, play(9));
        assert_ne!(fates, play(10));
    }

    #[test]
    fn a_packet_held_back_is_overtaken() {
        let mut road = Profile::geo().up;
        (road.faults.reorder_share, road.faults.reorder_by) = (0.1, 30 * MS);
        let mut carrier = Carrier::new(road, Vec::new(), 2);
        let (flights, _) = pour(&mut carrier, 10 * MS, Duration::from_secs(10));
        for pair in flights.windows(2) {
            let overtaken = pair[1].due < pair[0].due;
            assert_eq!(overtaken, pair[0].held_back && !pair[1].held_back);
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
