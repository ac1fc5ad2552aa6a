//! Waking a connection after an outage: room in the window for one small packet now and then, and
//! a pacer that is not slowed down by what the outage did to the round trip.
//!
//! In: any congestion controller; the driver's word that nothing has been heard. Out: the same
//! controller, which lets a probe pass although its window is full.
//! Invariant: probes add one datagram to what is in flight, the first ones three; otherwise what may be in
//! flight is what the controller says.
//! May not: judge the link.
//!
//! QUIC's probe timeout doubles without a limit, so after two minutes of outage the next probe
//! may be a minute away. The driver therefore sends a tiny datagram every so often while nothing
//! is heard. The first one to be acknowledged tells quinn that the lost flight is lost, and bulk
//! moves again within a round trip.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use crate::recent::Recent;

/// Two data frames, so that one can be read from the disk while the other leaves.
const SEND_WINDOW_BYTES_LEAST: u64 = 64 << 10;
/// Three bandwidth-delay products of 50 Mbit/s over 900 ms, rounded down.
const SEND_WINDOW_BYTES_MAX: u64 = 16 << 20;

/// The first probes of a silence come as three packets: should it be no outage, but the last
/// packets of a flight that were lost, then three later ones make quinn see it (RFC 9002 6.1.1).
const PROBES_FIRST: u64 = 3;
/// Who hears the other first after an outage is misled about the round trip (see
/// [`crate::recent`]). The dialling side has the bulk to send, so it should speak first.
const LISTENER_LEISURE: u32 = 4;
/// What a probe carries; nobody reads it.
static PROBE: [u8; 1024] = [0; 1024];

/// What the driver of a connection and its controller tell each other.
#[derive(Debug, Default)]
struct Pulse {
    /// Bytes in flight, as of the last acknowledgement plus what was sent since.
    in_flight: AtomicU64,
    /// The window, as of the last acknowledgement; 0 until then.
    window: AtomicU64,
    /// So many datagrams may pass as probes.
    probes: AtomicU64,
    /// The round trip of the moment in microseconds; 0 until known.
    rtt_us: AtomicU64,
}

/// Makes wakeful controllers out of those of another factory.
pub(crate) struct WakefulConfig(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for WakefulConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.0).build(now, mtu);
        Box::new(Wakeful {
            inner,
            datagram: mtu.into(),
            pulse: Arc::default(),
            recent: Recent::default(),
            smoothed: Duration::ZERO,
        })
    }
}

/// A controller that lets probes pass.
pub(crate) struct Wakeful {
    inner: Box<dyn Controller>,
    datagram: u64,
    pulse: Arc<Pulse>,
    recent: Recent,
    /// The round trip that quinn paces by.
    smoothed: Duration,
}

impl Wakeful {
    pub(crate) fn into_inner(self) -> Box<dyn Controller> {
        self.inner
    }

    /// The window that makes quinn's pacer send `window` per round trip of the moment. quinn sends
    /// a window per smoothed round trip, and after an outage that may be far too long.
    fn paced(&self, window: u64) -> u64 {
        match self.recent.least() {
            Some(rtt) if self.smoothed > rtt * 2 => {
                let times = self.smoothed.as_micros() / rtt.as_micros().max(1);
                window.saturating_mul(u64::try_from(times).unwrap_or(u64::MAX))
            }
            Some(_) | None => window,
        }
    }
}

impl Controller for Wakeful {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.pulse.in_flight.fetch_add(bytes, Ordering::Relaxed);
        self.pulse.probes.store(0, Ordering::Relaxed);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.recent.acked(sent);
        self.smoothed = rtt.get();
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.pulse.in_flight.store(in_flight, Ordering::Relaxed);
        self.pulse
            .window
            .store(self.inner.window(), Ordering::Relaxed);
        self.recent.end_batch(now);
        if let Some(rtt) = self.recent.least() {
            let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            self.pulse.rtt_us.store(rtt_us, Ordering::Relaxed);
        }
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let left = self
            .pulse
            .in_flight
            .load(Ordering::Relaxed)
            .saturating_sub(lost_bytes);
        self.pulse.in_flight.store(left, Ordering::Relaxed);
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.datagram = new_mtu.into();
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window();
        let in_flight = self.pulse.in_flight.load(Ordering::Relaxed);
        let probes = self.pulse.probes.load(Ordering::Relaxed);
        if probes > 0 {
            // quinn wants room for a whole datagram each, and one byte more.
            window.max(in_flight + probes * self.datagram + 1)
        } else if in_flight < window {
            self.paced(window)
        } else {
            window
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            datagram: self.datagram,
            pulse: Arc::clone(&self.pulse),
            recent: self.recent.clone(),
            smoothed: self.smoothed,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Notices that nothing is heard of a connection, and sends probes while that is so.
pub(crate) struct Waker {
    connection: quinn::Connection,
    pulse: Arc<Pulse>,
    datagrams_heard: u64,
    heard_at: Instant,
    /// A probe was sent since something was heard.
    probed: bool,
    /// How much longer than the dialling side this side waits between probes.
    leisure: u32,
}

impl Waker {
    pub(crate) fn new(connection: quinn::Connection, dialled: bool, now: Instant) -> Self {
        let wakeful = connection
            .congestion_state()
            .into_any()
            .downcast::<Wakeful>();
        let wakeful = wakeful.expect("every link profile installs this controller");
        let pulse = Arc::clone(&wakeful.pulse);
        Self {
            connection,
            pulse,
            datagrams_heard: 0,
            heard_at: now,
            probed: false,
            leisure: if dialled { 1 } else { LISTENER_LEISURE },
        }
    }

    /// Something was written: from now on silence means something. Returns when to look.
    pub(crate) fn arm(&mut self, now: Instant) -> Instant {
        self.heard_at = now;
        now + patience(self.rtt())
    }

    /// Lets quinn hold four windows of data.
    ///
    /// quinn counts what came after a lost packet until that packet has been sent again and
    /// acknowledged, which takes two round trips, or three. With less room a lost packet would
    /// stop the flow; more would only be memory.
    pub(crate) fn keep_send_window(&self) {
        let window = self.pulse.window.load(Ordering::Relaxed);
        if window > 0 {
            let windows = window.saturating_mul(4);
            self.connection
                .set_send_window(windows.clamp(SEND_WINDOW_BYTES_LEAST, SEND_WINDOW_BYTES_MAX));
        }
    }

    /// Looks whether something was heard, sends a probe if not; returns when to look again, none
    /// when nothing is in flight.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Instant> {
        let datagrams_heard = self.connection.stats().udp_rx.datagrams;
        if datagrams_heard != self.datagrams_heard {
            self.datagrams_heard = datagrams_heard;
            self.heard_at = now;
            self.probed = false;
        }
        if self.pulse.in_flight.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let rtt = self.rtt();
        let silence = now.saturating_duration_since(self.heard_at);
        let patience = patience(rtt);
        if silence < patience {
            return Some(self.heard_at + patience);
        }
        let probes = if self.probed { 1 } else { PROBES_FIRST };
        self.probed = true;
        self.pulse.probes.store(probes, Ordering::Relaxed);
        // Two of them must not fit in one packet.
        let length = match probes {
            1 => 1,
            _ => self.connection.max_datagram_size().unwrap_or(1) * 2 / 3,
        };
        for _ in 0..probes {
            // An error means that the peer takes none or is gone; then QUIC's own timers must do.
            let _ = self
                .connection
                .send_datagram(Bytes::from_static(&PROBE[..length.min(PROBE.len())]));
        }
        Some(now + pause(silence, rtt) * self.leisure)
    }

    fn rtt(&self) -> Duration {
        match self.pulse.rtt_us.load(Ordering::Relaxed) {
            0 => self.connection.rtt(),
            rtt_us => Duration::from_micros(rtt_us),
        }
    }
}

/// How long a working link may be silent while something is in flight: an acknowledgement comes
/// after a round trip, and QUIC lets it wait for 25 ms.
fn patience(rtt: Duration) -> Duration {
    rtt + rtt / 2 + Duration::from_millis(50)
}

/// The time between two probes: short at first, as most outages are, then less and less often.
fn pause(silence: Duration, rtt: Duration) -> Duration {
    (silence / 8)
        .max(rtt / 2)
        .clamp(Duration::from_millis(100), Duration::from_millis(750))
}

#[cfg(test)]
mod tests {
    use quinn_proto::congestion::NewRenoConfig;

    use super::*;

    #[test]
    fn a_full_window_lets_one_probe_pass_and_no_more() {
        let now = Instant::now();
        let factory = Arc::new(WakefulConfig(Arc::new(NewRenoConfig::default())));
        let mut wakeful = factory
            .build(now, 1200)
            .into_any()
            .downcast::<Wakeful>()
            .unwrap();
        let window = wakeful.window();
        wakeful.on_sent(now, window, 1);
        assert_eq!(wakeful.window(), window);
        wakeful.pulse.probes.store(1, Ordering::Relaxed);
        assert_eq!(wakeful.window(), window + 1201);
        wakeful.on_sent(now, 1200, 2);
        assert_eq!(wakeful.window(), window);
    }

    #[test]
    fn an_outage_taken_for_a_round_trip_does_not_slow_the_pacer() {
        let now = Instant::now();
        let factory = Arc::new(WakefulConfig(Arc::new(NewRenoConfig::default())));
        let mut wakeful = factory
            .build(now, 1200)
            .into_any()
            .downcast::<Wakeful>()
            .unwrap();
        let window = wakeful.window();
        wakeful.recent.acked(now);
        wakeful.recent.end_batch(now + Duration::from_millis(600));
        wakeful.smoothed = Duration::from_secs(15);
        assert_eq!(wakeful.window(), window * 25);
        wakeful.on_sent(now, window, 1);
        assert_eq!(
            wakeful.window(),
            window,
            "what may be in flight is the same as ever"
        );
    }

    #[test]
    fn probes_come_quickly_after_a_short_silence_and_seldom_in_a_long_one() {
        let leo = Duration::from_millis(60);
        assert_eq!(
            pause(Duration::from_millis(140), leo),
            Duration::from_millis(100)
        );
        assert_eq!(
            pause(Duration::from_secs(120), leo),
            Duration::from_millis(750)
        );
        let geo = Duration::from_millis(600);
        assert_eq!(
            pause(Duration::from_secs(1), geo),
            Duration::from_millis(300)
        );
    }
}
