//! Waking a connection after an outage: room in the window for one small packet now and then, and
//! a pacer that is not slowed down by what the outage did to the round trip.
//!
//! In: any congestion controller; the driver's word that something was written or came in. Out: the
//! same controller, which lets a probe pass although its window is full; the probes.
//! Invariant: a probe adds one datagram to what is in flight; otherwise what may be in flight is
//! what the controller says.
//! May not: judge the link; when to probe is said by [`crate::watch`].

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::ConnectionError;
use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use crate::recent::Recent;
use crate::watch::{Seen, Step, Watch};

/// Two data frames, so that one can be read from the disk while the other leaves.
const SEND_WINDOW_BYTES_LEAST: u64 = 64 << 10;
/// Three bandwidth-delay products of 50 Mbit/s over 900 ms, rounded down.
const SEND_WINDOW_BYTES_MAX: u64 = 16 << 20;

/// A window with less room than this is full.
const DATAGRAM_BYTES: u64 = 1452;

/// Two probes must not fit in one packet.
const PROBES_APART: Duration = Duration::from_millis(3);

/// What the driver of a connection and its controller tell each other.
#[derive(Debug)]
pub(crate) struct Pulse {
    epoch: Instant,
    /// When something was last acknowledged, in microseconds since the epoch; 0 until then.
    acked_us: AtomicU64,
    /// When the newest packet that was acknowledged had been sent, in the same way.
    acked_sent_us: AtomicU64,
    /// Bytes in flight, as of the last acknowledgement plus what was sent since.
    in_flight: AtomicU64,
    /// The window, as of the last acknowledgement; 0 until then.
    window: AtomicU64,
    /// So many datagrams may pass as probes.
    probes: AtomicU64,
    /// The round trip of the moment in microseconds; 0 until known.
    rtt_us: AtomicU64,
    /// The connection moved to another uplink, of which nothing is known.
    moved: AtomicBool,
}

impl Pulse {
    fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            acked_us: AtomicU64::default(),
            acked_sent_us: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            window: AtomicU64::default(),
            probes: AtomicU64::default(),
            rtt_us: AtomicU64::default(),
            moved: AtomicBool::default(),
        }
    }

    /// Says that the connection leaves by another uplink from here on.
    pub(crate) fn moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// Whether something is in flight, and when something was last acknowledged: if the one is and
    /// the other stays, the peer does not hear us, whatever we hear of it.
    pub(crate) fn standing(&self) -> (bool, u64) {
        let in_flight = self.in_flight.load(Ordering::Relaxed) > 0;
        (in_flight, self.acked_us.load(Ordering::Relaxed))
    }

    fn seen(&self, rtt: Duration) -> Seen {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let window = self.window.load(Ordering::Relaxed);
        let known = |figure: &AtomicU64| match figure.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        };
        Seen {
            rtt: known(&self.rtt_us).unwrap_or(rtt),
            acked: known(&self.acked_us).map(|acked| self.epoch + acked),
            acked_sent: known(&self.acked_sent_us).map(|sent| self.epoch + sent),
            flying: in_flight > 0,
            full: window > 0 && in_flight + DATAGRAM_BYTES >= window,
        }
    }
}

/// Makes wakeful controllers out of those of another factory.
pub(crate) struct WakefulConfig(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for WakefulConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.0).build(now, mtu);
        Box::new(Wakeful {
            inner,
            factory: Arc::clone(&self.0),
            moved_at: None,
            datagram: mtu.into(),
            pulse: Arc::new(Pulse::new(now)),
            recent: Recent::default(),
            smoothed: Duration::ZERO,
        })
    }
}

/// A controller that lets probes pass.
pub(crate) struct Wakeful {
    inner: Box<dyn Controller>,
    /// Makes another one for another uplink.
    factory: Arc<dyn ControllerFactory + Send + Sync>,
    /// What was sent before says nothing of this uplink.
    moved_at: Option<Instant>,
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

    /// Begins anew when the connection has moved to another uplink.
    fn begin_anew_if_moved(&mut self, now: Instant) {
        if self.pulse.moved.swap(false, Ordering::Relaxed) {
            let mtu = u16::try_from(self.datagram).unwrap_or(u16::MAX);
            self.inner = Arc::clone(&self.factory).build(now, mtu);
            self.recent = Recent::default();
            self.moved_at = Some(now);
            self.pulse.window.store(0, Ordering::Relaxed);
            self.pulse.rtt_us.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a packet left by the uplink of now.
    fn is_of_this_uplink(&self, sent: Instant) -> bool {
        self.moved_at.is_none_or(|moved_at| sent >= moved_at)
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
        self.begin_anew_if_moved(now);
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
        let since = micros(sent.saturating_duration_since(self.pulse.epoch));
        self.pulse.acked_sent_us.fetch_max(since, Ordering::Relaxed);
        self.smoothed = rtt.get();
        if self.is_of_this_uplink(sent) {
            self.recent.acked(sent);
            self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let acked = now.saturating_duration_since(self.pulse.epoch);
        self.pulse.acked_us.store(micros(acked), Ordering::Relaxed);
        self.pulse.in_flight.store(in_flight, Ordering::Relaxed);
        self.pulse
            .window
            .store(self.inner.window(), Ordering::Relaxed);
        self.recent.end_batch(now);
        if let Some(rtt) = self.recent.least() {
            self.pulse.rtt_us.store(micros(rtt), Ordering::Relaxed);
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
        if self.is_of_this_uplink(sent) {
            self.inner
                .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
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
            factory: Arc::clone(&self.factory),
            moved_at: self.moved_at,
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

/// Watches over a connection, and sends probes while what it sent stays unanswered.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connection: quinn::Connection,
    /// Something was written or came in.
    stirred: Notify,
    /// Where the peer is, and the pulse of the path to it.
    path: Mutex<(SocketAddr, Arc<Pulse>)>,
}

impl Waker {
    pub(crate) fn new(connection: quinn::Connection) -> Self {
        let path = (connection.remote_address(), pulse_of(&connection));
        Self(Arc::new(Shared {
            connection,
            stirred: Notify::new(),
            path: Mutex::new(path),
        }))
    }

    /// Something was written or came in: from now on silence means something.
    pub(crate) fn stir(&self) {
        self.0.stirred.notify_one();
    }

    /// Lets quinn hold four windows of data.
    ///
    /// quinn counts what came after a lost packet until that packet has been sent again and
    /// acknowledged, which takes two round trips, or three. With less room a lost packet would
    /// stop the flow; more would only be memory.
    pub(crate) fn keep_send_window(&self) {
        let window = self.0.pulse().window.load(Ordering::Relaxed);
        if window > 0 {
            let windows = window.saturating_mul(4);
            self.0
                .connection
                .set_send_window(windows.clamp(SEND_WINDOW_BYTES_LEAST, SEND_WINDOW_BYTES_MAX));
        }
    }

    /// Watches until the connection ends.
    pub(crate) async fn watch(self) {
        // Both fail with the connection only.
        while self.0.has_stirred().await.is_ok() && self.0.is_answered().await.is_ok() {}
    }
}

impl Shared {
    /// The pulse of the path of the moment: when the peer calls from another address, quinn makes
    /// a new controller.
    fn pulse(&self) -> Arc<Pulse> {
        let remote = self.connection.remote_address();
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if path.0 != remote {
            *path = (remote, pulse_of(&self.connection));
        }
        Arc::clone(&path.1)
    }

    /// Waits until something is written or comes in.
    async fn has_stirred(&self) -> Result<(), ConnectionError> {
        loop {
            tokio::select! {
                () = self.stirred.notified() => return Ok(()),
                // A probe of the peer while nothing of ours waits for an answer.
                probe = self.connection.read_datagram() => drop(probe?),
            }
        }
    }

    /// Waits until all that was sent is acknowledged, and sends probes while nothing is.
    async fn is_answered(&self) -> Result<(), ConnectionError> {
        let mut look = tokio::time::Instant::now();
        let mut watch = Watch::new(look.into_std());
        loop {
            let heard = tokio::select! {
                () = sleep_until(look) => false,
                probe = self.connection.read_datagram() => probe.map(|_| true)?,
            };
            let seen = self.pulse().seen(self.connection.rtt());
            let now = tokio::time::Instant::now().into_std();
            let step = match heard {
                true => watch.hear(now, seen),
                false => watch.look(now, seen),
            };
            match step {
                Step::Done => return Ok(()),
                Step::Wait(until) => look = until.into(),
                Step::Probe(probes, until) => {
                    self.probe(probes).await;
                    look = until.into();
                }
            }
        }
    }

    async fn probe(&self, probes: u64) {
        for number in 0..probes {
            if number > 0 {
                sleep(PROBES_APART).await;
            }
            self.pulse().probes.store(1, Ordering::Relaxed);
            // An error means that the peer takes none; then QUIC's own timers must do.
            let _ = self.connection.send_datagram(Bytes::from_static(&[0]));
        }
    }
}

/// What the controller of a connection shares with its driver.
pub(crate) fn pulse_of(connection: &quinn::Connection) -> Arc<Pulse> {
    let wakeful = connection
        .congestion_state()
        .into_any()
        .downcast::<Wakeful>();
    let wakeful = wakeful.expect("every link profile installs this controller");
    Arc::clone(&wakeful.pulse)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
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
    fn another_uplink_begins_anew_and_what_left_before_says_nothing_of_it() {
        let now = Instant::now();
        let factory = Arc::new(WakefulConfig(Arc::new(NewRenoConfig::default())));
        let mut wakeful = factory
            .build(now, 1200)
            .into_any()
            .downcast::<Wakeful>()
            .unwrap();
        let fresh = wakeful.window();
        let lose = |wakeful: &mut Wakeful, sent| {
            wakeful.on_congestion_event(sent, sent, false, 1200);
            wakeful.window()
        };
        let [first, second, third] = [1, 2, 3].map(|s| now + Duration::from_secs(s));
        assert!(lose(&mut wakeful, first) < fresh);
        wakeful.pulse.moved();
        wakeful.on_sent(second, 1200, 1);
        assert_eq!(wakeful.window(), fresh);
        assert_eq!(
            lose(&mut wakeful, first),
            fresh,
            "that was the uplink before"
        );
        assert!(lose(&mut wakeful, third) < fresh);
    }
}
