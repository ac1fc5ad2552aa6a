//! When to probe a connection of which nothing is answered.
//!
//! In: the time, what is in flight and what was acknowledged, the peer's probes. Out: when to look
//! again, and how many probes to send.
//! Invariant: no probe is sent before an answer is overdue; pauses grow with the silence.
//! May not: read a clock, send.
//!
//! QUIC's probe timeout doubles without a limit, so after two minutes of outage the next probe
//! may be a minute away. A side that has sent something, or is in the midst of receiving, therefore
//! sends a tiny datagram every so often while nothing of its own is acknowledged. To be heard is
//! not enough: quinn sends no acknowledgement while data waits for room in a full window, so two
//! sides that hear each other could both wait for a timer that takes the outage for a round trip.
//! The first probe to be acknowledged tells quinn that the lost flight is lost, and bulk moves
//! again within a round trip.

use std::time::{Duration, Instant};

/// The first probes of a silence come as three packets: should it be no outage, but the last
/// packets of a flight that were lost, then three later ones make quinn see it (RFC 9002 6.1.1).
const PROBES_FIRST: u64 = 3;
/// The least pause between two probes.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
/// The longest pause of a side with little to send, whose probes are some sixty bytes.
const PAUSE_SMALL: Duration = Duration::from_millis(400);
/// The longest pause of a side with a full window. quinn fills its probes with data, which an
/// outage swallows; it is enough that they keep a name translator's entry alive, as the side with
/// little to send will be heard as soon as the link is back.
const PAUSE_FULL: Duration = Duration::from_secs(2);

/// What a watch sees of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The round trip of the moment.
    pub(crate) rtt: Duration,
    /// When something of ours was last acknowledged.
    pub(crate) acked: Option<Instant>,
    /// When the newest packet that was acknowledged had been sent.
    pub(crate) acked_sent: Option<Instant>,
    /// Whether anything is in flight.
    pub(crate) flying: bool,
    /// Whether the window is full, so that a probe takes a whole datagram of data with it.
    pub(crate) full: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: all that was sent was answered.
    Done,
    /// Look again at this moment.
    Wait(Instant),
    /// Send so many probes and look again at this moment.
    Probe(u64, Instant),
}

/// The watch over one silence after another, until all is answered.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    probed: Option<Instant>,
    next: Instant,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            probed: None,
            next: now,
        }
    }

    /// It is time to look.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> Step {
        if !seen.flying && seen.acked.is_some_and(|acked| acked > self.begun) {
            return Step::Done;
        }
        let silent_from = self.silent_from(seen);
        let patient_until = silent_from + patience(seen.rtt);
        if now < patient_until {
            return Step::Wait(patient_until);
        }
        if now < self.next {
            return Step::Wait(self.next);
        }
        let silence = now.saturating_duration_since(silent_from);
        let first = self.probed.is_none_or(|probed| probed < silent_from);
        self.probed = Some(now);
        self.next = now + pause(silence, seen);
        // Where nothing flies, the peer was heard and then fell silent; one word settles it.
        let probes = if first && seen.flying {
            PROBES_FIRST
        } else {
            1
        };
        Step::Probe(probes, self.next)
    }

    /// The peer's own probe came: if nothing of ours is answered, all of it was lost and the link
    /// is back.
    pub(crate) fn hear(&mut self, now: Instant, seen: Seen) -> Step {
        let waited = now.saturating_duration_since(self.silent_from(seen));
        let asked = self.probed.is_some_and(|probed| now < probed + seen.rtt);
        if seen.flying && waited >= patience(seen.rtt) && !asked {
            self.probed = None;
            self.next = now;
        }
        self.look(now, seen)
    }

    /// Since when answers are due. After an outage the first thing to come may be the lost answer
    /// to what was sent before it, which says nothing of what was sent since.
    fn silent_from(&self, seen: Seen) -> Instant {
        let answered = seen.acked_sent.map(|sent| sent + seen.rtt);
        answered.map_or(self.begun, |answered| answered.max(self.begun))
    }
}

/// How long a working link may leave what was sent unanswered: an acknowledgement comes after a
/// round trip, and QUIC lets it wait for 25 ms.
fn patience(rtt: Duration) -> Duration {
    rtt + rtt / 2 + Duration::from_millis(50)
}

/// The time between two probes: short at first, as most outages are, then less and less often.
fn pause(silence: Duration, seen: Seen) -> Duration {
    let most = if seen.full { PAUSE_FULL } else { PAUSE_SMALL };
    (silence / 8).max(seen.rtt / 2).clamp(PAUSE_LEAST, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn seen(full: bool) -> Seen {
        Seen {
            rtt: 600 * MS,
            acked: None,
            acked_sent: None,
            flying: true,
            full,
        }
    }

    /// What a watch sends in so much silence, and the last pause.
    fn probes_in(silence: Duration, seen: Seen) -> (u64, Duration) {
        let begun = Instant::now();
        let (mut watch, mut now) = (Watch::new(begun), begun);
        let (mut sent, mut pause) = (0, Duration::ZERO);
        while now < begun + silence {
            let until = match watch.look(now, seen) {
                Step::Probe(probes, until) => {
                    sent += probes;
                    until
                }
                Step::Wait(until) => until,
                Step::Done => panic!("nothing was answered"),
            };
            pause = until - now;
            now = until;
        }
        (sent, pause)
    }

    #[test]
    fn full_datagrams_probe_seldom_in_a_long_silence_and_small_ones_often() {
        assert_eq!(probes_in(950 * MS, seen(true)), (0, 950 * MS));
        assert_eq!(probes_in(960 * MS, seen(true)), (3, 300 * MS));
        let (probes, pause) = probes_in(Duration::from_secs(120), seen(true));
        assert!(probes < 90 && pause == PAUSE_FULL, "{probes} {pause:?}");
        let (probes, pause) = probes_in(Duration::from_secs(120), seen(false));
        assert!(probes < 310 && pause == PAUSE_SMALL, "{probes} {pause:?}");
    }

    #[test]
    fn the_peers_probe_is_answered_at_once_but_only_once_a_round_trip() {
        let begun = Instant::now();
        let mut watch = Watch::new(begun);
        let soon = begun + 500 * MS;
        assert_eq!(watch.hear(soon, seen(true)), Step::Wait(begun + 950 * MS));
        watch.look(begun + 950 * MS, seen(true));
        let late = begun + Duration::from_secs(60);
        assert!(matches!(
            watch.hear(late, seen(true)),
            Step::Probe(PROBES_FIRST, _)
        ));
        assert!(matches!(
            watch.hear(late + 100 * MS, seen(true)),
            Step::Wait(_)
        ));
    }

    #[test]
    fn a_late_answer_to_what_left_before_an_outage_answers_nothing_since() {
        let begun = Instant::now();
        let mut watch = Watch::new(begun);
        watch.look(begun + 950 * MS, seen(true));
        let back = begun + Duration::from_secs(120);
        let late = Seen {
            acked: Some(back),
            acked_sent: Some(begun),
            ..seen(true)
        };
        assert!(matches!(
            watch.hear(back, late),
            Step::Probe(PROBES_FIRST, _)
        ));
    }

    #[test]
    fn a_watch_ends_when_all_is_acknowledged_and_not_before() {
        let begun = Instant::now();
        let mut watch = Watch::new(begun);
        let idle = Seen {
            flying: false,
            ..seen(false)
        };
        let late = begun + 950 * MS;
        assert!(matches!(watch.look(late, idle), Step::Probe(1, _)));
        let (acked, acked_sent) = (Some(late + 600 * MS), Some(late));
        assert!(matches!(
            watch.look(
                late + 600 * MS,
                Seen {
                    acked,
                    acked_sent,
                    ..seen(false)
                }
            ),
            Step::Wait(_)
        ));
        assert_eq!(
            watch.look(
                late + 600 * MS,
                Seen {
                    acked,
                    acked_sent,
                    ..idle
                }
            ),
            Step::Done
        );
    }
}
