//! The round trip of the moment, robust against what an outage does to quinn's own figure.
//!
//! In: packets acknowledged. Out: the least of the last few round trips.
//! Invariant: one outlier changes nothing; a path that really became longer shows after
//! [`SAMPLES_KEPT`] acknowledgements.
//! May not: be used where the noise of single packets would matter.
//!
//! The acknowledgement of a packet that arrived just before an outage may itself arrive only after
//! it. quinn takes that for a round trip as long as the outage, and paces by its smoothed round
//! trip: a minute of outage is followed by a minute of trickle.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many acknowledgements are looked back at.
const SAMPLES_KEPT: usize = 8;

/// The last few round trips.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    samples: VecDeque<Duration>,
    /// When the newest packet of the acknowledgement under way was sent.
    newest: Option<Instant>,
}

impl Recent {
    /// A packet sent at `sent` was acknowledged.
    pub(crate) fn acked(&mut self, sent: Instant) {
        self.newest = self.newest.max(Some(sent));
    }

    /// The acknowledgement is complete.
    pub(crate) fn end_batch(&mut self, now: Instant) {
        let Some(sent) = self.newest.take() else {
            return;
        };
        if self.samples.len() == SAMPLES_KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(now.saturating_duration_since(sent));
    }

    /// The least of the last few round trips; none before the first.
    pub(crate) fn least(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_no_round_trip_but_a_longer_path_is() {
        let start = Instant::now();
        let (short, long) = (Duration::from_millis(60), Duration::from_secs(120));
        let mut recent = Recent::default();
        let mut take = |rtt: Duration| {
            recent.acked(start);
            recent.end_batch(start + rtt);
            recent.least()
        };
        assert_eq!(take(short), Some(short));
        assert_eq!(take(long), Some(short));
        for _ in 0..6 {
            assert_eq!(take(short * 5), Some(short));
        }
        assert_eq!(take(short * 5), Some(short * 5));
    }
}
