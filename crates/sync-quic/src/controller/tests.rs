//! The controller against a link in virtual time: packets, a rate, a queue, losses, outages.

use std::collections::VecDeque;

use super::*;

const DATAGRAM: u64 = 1200;

/// A sender that always has data, a bottleneck with a tail-drop queue, a receiver that
/// acknowledges every second packet.
struct Link {
    rate_kbits: u64,
    one_way: Duration,
    queue_bytes: u64,
    loss_percent: u64,
    /// From when until when nothing passes, in seconds.
    outage: Option<(f64, f64)>,
    seed: u64,
}

#[derive(Default)]
struct Tally {
    delivered: u64,
    sent: u64,
    dropped_by_queue: u64,
    rtt_last: Duration,
}

struct Packet {
    sent: Instant,
    /// When its acknowledgement is back; none if it was lost.
    back: Option<Instant>,
    known_by: Instant,
}

const GEO: Link = Link {
    rate_kbits: 2000,
    one_way: Duration::from_millis(300),
    queue_bytes: 150_000,
    loss_percent: 0,
    outage: None,
    seed: 7,
};

impl Link {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    /// Runs `steady` over the link from `from` to `until` seconds after `epoch`.
    fn run(&mut self, steady: &mut Steady, epoch: Instant, from: f64, until: f64) -> Tally {
        let at = |seconds: f64| epoch + Duration::from_secs_f64(seconds);
        let (mut now, end) = (at(from), at(until));
        let mut flying: VecDeque<Packet> = VecDeque::new();
        let mut in_flight = 0;
        let mut queue_free = now;
        let mut next_send = now;
        let mut smoothed: Option<Duration> = None;
        let mut tally = Tally::default();
        while now < end {
            // Acknowledgements and losses that have become known.
            let mut acked = false;
            let mut lost = 0;
            let mut lost_sent = now;
            while flying.front().is_some_and(|p| p.known_by <= now) {
                let packet = flying.pop_front().unwrap();
                in_flight -= DATAGRAM;
                match packet.back {
                    Some(back) => {
                        let rtt = back - packet.sent;
                        tally.rtt_last = rtt;
                        let shown = smoothed.unwrap_or(Duration::from_millis(700));
                        steady.acked(now, packet.sent, DATAGRAM, false, shown);
                        smoothed = Some(smoothed.map_or(rtt, |s| (7 * s + rtt) / 8));
                        tally.delivered += DATAGRAM;
                        acked = true;
                    }
                    None => {
                        lost += DATAGRAM;
                        lost_sent = packet.sent;
                    }
                }
            }
            if acked {
                steady.batch_acked(now, in_flight, false);
            }
            if lost > 0 {
                steady.on_congestion_event(now, lost_sent, false, lost);
            }
            while in_flight + DATAGRAM < steady.window() && next_send <= now {
                let rtt = smoothed.unwrap_or(Duration::from_millis(700));
                let pace = rtt.mul_f64(DATAGRAM as f64 / (steady.window() as f64 * 1.25));
                next_send = next_send.max(now - Duration::from_millis(2)) + pace;
                steady.on_sent(now, DATAGRAM, 0);
                in_flight += DATAGRAM;
                tally.sent += DATAGRAM;
                flying.push_back(self.carry(now, epoch, &mut queue_free, &mut tally, rtt));
            }
            now += Duration::from_millis(1);
        }
        tally
    }

    fn carry(
        &mut self,
        now: Instant,
        epoch: Instant,
        queue_free: &mut Instant,
        tally: &mut Tally,
        rtt: Duration,
    ) -> Packet {
        let serial = Duration::from_secs_f64(DATAGRAM as f64 / (self.rate_kbits as f64 * 125.0));
        let waiting = queue_free.saturating_duration_since(now).as_secs_f64();
        let full = waiting * self.rate_kbits as f64 * 125.0 > self.queue_bytes as f64;
        if full {
            tally.dropped_by_queue += DATAGRAM;
        } else {
            *queue_free = (*queue_free).max(now) + serial;
        }
        let arrives = *queue_free + self.one_way;
        let since = |instant: Instant| (instant - epoch).as_secs_f64();
        let away = self
            .outage
            .is_some_and(|(from, to)| (from..to).contains(&since(arrives)));
        let lost = full || away || self.random(100) < self.loss_percent;
        let back = arrives + self.one_way;
        // A loss is known by the packets after it, about when its own acknowledgement was due; in
        // an outage by the first packet that passes again.
        let known_by = match self.outage {
            Some((_, to)) if away => epoch + Duration::from_secs_f64(to) + rtt,
            _ => back + Duration::from_millis(5),
        };
        Packet {
            sent: now,
            back: (!lost).then_some(back),
            known_by,
        }
    }
}

fn steady() -> Steady {
    Steady::new(START_BYTES, None, 1200)
}

fn share_of_link(link: &Link, tally: &Tally, seconds: f64) -> f64 {
    tally.delivered as f64 / (link.rate_kbits as f64 * 125.0 * seconds)
}

#[test]
fn a_clean_satellite_link_is_filled_within_seconds_and_its_queue_does_not_overflow() {
    let (mut steady, mut link, epoch) = (steady(), GEO, Instant::now());
    let tally = link.run(&mut steady, epoch, 0.0, 60.0);
    let share = share_of_link(&link, &tally, 60.0);
    assert!(share > 0.95, "used {share:.3} of the link");
    assert!(
        tally.dropped_by_queue * 50 < tally.sent,
        "{} dropped",
        tally.dropped_by_queue
    );
    assert!(
        tally.rtt_last < Duration::from_millis(600 * 3 / 2),
        "{:?}",
        tally.rtt_last
    );
}

#[test]
fn random_loss_does_not_slow_it_down() {
    for seed in 1..=5 {
        let mut link = Link {
            rate_kbits: 256,
            one_way: Duration::from_millis(450),
            queue_bytes: 28_800,
            loss_percent: 5,
            seed,
            ..GEO
        };
        let mut steady = steady();
        let tally = link.run(&mut steady, Instant::now(), 0.0, 120.0);
        let share = share_of_link(&link, &tally, 120.0);
        assert!(share > 0.91, "seed {seed}: used {share:.3} of the link");
        assert!(
            tally.dropped_by_queue * 50 < tally.sent,
            "{} dropped",
            tally.dropped_by_queue
        );
    }
}

#[test]
fn an_outage_teaches_it_nothing() {
    let epoch = Instant::now();
    let (mut steady, mut link) = (
        steady(),
        Link {
            outage: Some((30.0, 150.0)),
            ..GEO
        },
    );
    link.run(&mut steady, epoch, 0.0, 29.0);
    let before = steady.window();
    let mut link = Link {
        outage: Some((30.0, 150.0)),
        ..GEO
    };
    let tally = link.run(&mut steady, epoch, 29.0, 160.0);
    let after = steady.window();
    assert!(
        after > before * 7 / 10 && after < before * 13 / 10,
        "{before} became {after}"
    );
    assert!(
        tally.delivered > 2000 * 125 * 8,
        "{} in the 11 s of link",
        tally.delivered
    );
}

#[test]
fn it_follows_a_link_that_becomes_slower_and_faster_again() {
    let (mut steady, epoch) = (steady(), Instant::now());
    let mut link = GEO;
    link.run(&mut steady, epoch, 0.0, 20.0);
    link.rate_kbits = 500;
    link.run(&mut steady, epoch, 20.0, 40.0);
    let slow = link.run(&mut steady, epoch, 40.0, 60.0);
    let share = share_of_link(&link, &slow, 20.0);
    assert!(share > 0.9, "used {share:.3} of the slow link");
    assert!(
        slow.dropped_by_queue * 20 < slow.sent,
        "{} dropped",
        slow.dropped_by_queue
    );
    link.rate_kbits = 2000;
    link.run(&mut steady, epoch, 60.0, 80.0);
    let fast = link.run(&mut steady, epoch, 80.0, 100.0);
    let share = share_of_link(&link, &fast, 20.0);
    assert!(share > 0.9, "used {share:.3} of the fast link");
}

#[test]
fn it_follows_a_path_that_becomes_longer() {
    let (mut steady, epoch) = (steady(), Instant::now());
    let mut link = Link {
        one_way: Duration::from_millis(30),
        queue_bytes: 1_000_000,
        ..GEO
    };
    link.run(&mut steady, epoch, 0.0, 20.0);
    link.one_way = Duration::from_millis(300);
    link.run(&mut steady, epoch, 20.0, 50.0);
    let tally = link.run(&mut steady, epoch, 50.0, 70.0);
    let share = share_of_link(&link, &tally, 20.0);
    assert!(share > 0.9, "used {share:.3} of the longer link");
}

#[test]
fn a_configured_rate_is_not_exceeded() {
    let mut steady = Steady::new(START_BYTES, Some(1000 * 125), 1200);
    let (mut link, epoch) = (GEO, Instant::now());
    link.run(&mut steady, epoch, 0.0, 10.0);
    let tally = link.run(&mut steady, epoch, 10.0, 40.0);
    let share = tally.sent as f64 / (1000.0 * 125.0 * 30.0);
    assert!(
        (0.9..1.02).contains(&share),
        "sent {share:.3} of what is allowed"
    );
}

#[test]
fn a_hint_is_bounded_and_ages() {
    let day = Duration::from_secs(86_400);
    let hint = Hint {
        rate_kbits: 8000,
        rtt: Duration::from_millis(600),
        age: Duration::ZERO,
    };
    assert_eq!(hint.window(), Some(300_000));
    let aged = |age| Hint { age, ..hint }.window();
    assert_eq!((aged(day * 7), aged(day * 31)), (Some(150_000), None));
    let absurd = Hint {
        rate_kbits: u32::MAX,
        rtt: Duration::MAX,
        age: Duration::ZERO,
    };
    assert_eq!(absurd.window(), Some(4 << 20));
    assert!(hint.is_like(Duration::from_millis(900)) && !hint.is_like(Duration::from_millis(60)));
}

#[test]
fn a_configured_rate_bounds_the_start() {
    let rtt = Duration::from_millis(600);
    assert_eq!(SteadyConfig::new(rtt, None, None).window_start, START_BYTES);
    assert_eq!(SteadyConfig::new(rtt, None, Some(64)).window_start, 4800);
}
