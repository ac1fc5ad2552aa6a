//! What is known of a link before it is used, and the transport parameters that follow from it.
//!
//! In: the operator's configuration or a remembered contact. Out: a quinn transport configuration.
//! Invariant: an idle timeout is never under 120 s, so that an outage of that length does not kill
//! a connection; send buffers stay near a few bandwidth-delay products, so that STAT overtakes.
//! May not: measure anything; what a link turns out to be is the controller's business.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{ControllerFactory, CubicConfig};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::controller::{CarefulConfig, SteadyConfig};
use crate::wake::WakefulConfig;

/// The least idle timeout; a shorter one in a profile is raised to it.
const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(120);
/// The most that a peer may have in flight towards us: 50 Mbit/s over 900 ms, rounded up.
const RECEIVE_WINDOW_BYTES: u32 = 8 << 20;

/// Room for the probes of [`crate::wake`].
const PROBES_BYTES: usize = 1024;
/// How many item lanes a peer may have open: those of its items, and some that are just ending.
const ITEM_LANES_MAX: u32 = 160;

/// How the sending rate is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Control {
    /// Our own controller: keeps its rate under random loss, brakes on delay. For links with a
    /// known owner.
    #[default]
    LossTolerant,
    /// Our own, but never more than cubic would take and never less than half of it. For shared
    /// networks.
    Shared,
    /// Plain cubic.
    Cubic,
}

/// What a contact has learned of its link, for the next one (RFC 9959).
///
/// It is used only when the first round trip of the next contact is like the one remembered, and
/// only in part: half of the rate on the day itself, a quarter within a month, then not at all.
/// Whatever was wrong about it is corrected by what the first flight measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The rate that was delivered, in kbit/s.
    pub rate_kbits: u32,
    /// The least round trip.
    pub rtt: Duration,
    /// How long ago that was.
    pub age: Duration,
}

impl Hint {
    /// How much may be sent in the second round trip, should the first be as remembered.
    pub(crate) fn window(&self) -> Option<u64> {
        const DAY: Duration = Duration::from_secs(86_400);
        let part = match self.age {
            age if age <= DAY => 2,
            age if age <= DAY * 30 => 4,
            _ => return None,
        };
        let rtt_ms = self.rtt.min(RTT_MAX).as_millis();
        let product = u64::try_from(u128::from(self.rate_kbits) * rtt_ms / 8).unwrap_or(u64::MAX);
        Some(product.min(u64::from(RECEIVE_WINDOW_BYTES)) / part)
    }

    /// Whether a round trip can be that of the link that was remembered.
    pub(crate) fn is_like(&self, rtt: Duration) -> bool {
        rtt >= self.rtt / 2 && rtt <= self.rtt * 2
    }
}

/// A longer round trip is no link's own.
const RTT_MAX: Duration = Duration::from_secs(5);

/// What is known of a link before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkProfile {
    /// How the sending rate is found.
    pub control: Control,
    /// The round trip to expect until the first is measured; too small a value sends the
    /// handshake twice.
    pub rtt_expected: Duration,
    /// The most to send, in kbit/s of UDP payload; none when the link sets the limit.
    pub rate_kbits_max: Option<u32>,
    /// What a contact before taught of this link, to start from.
    pub hint: Option<Hint>,
    /// How long nothing may be heard before the connection is given up; at least 120 s.
    pub idle_timeout: Duration,
    /// How often an idle connection says that it is alive; never on a metered link.
    pub keep_alive: Option<Duration>,
    /// Whether idle bytes cost money: no keep-alive, and no search for larger datagrams.
    pub metered: bool,
    /// The UDP payload that surely passes, 1200 to 1452 bytes; more is found out by probing.
    pub datagram_bytes: u16,
    /// Whether several datagrams may be handed to the kernel as one; some mobile paths drop such
    /// bursts.
    pub segmentation_offload: bool,
}

impl Default for LinkProfile {
    /// A link of which nothing is known; the round trip is that of a geostationary satellite.
    fn default() -> Self {
        Self {
            control: Control::LossTolerant,
            rtt_expected: Duration::from_millis(700),
            rate_kbits_max: None,
            hint: None,
            idle_timeout: Duration::from_secs(180),
            keep_alive: Some(Duration::from_secs(20)),
            metered: false,
            datagram_bytes: 1200,
            segmentation_offload: true,
        }
    }
}

impl LinkProfile {
    pub(crate) fn transport(&self) -> TransportConfig {
        let mut transport = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle_timeout.max(IDLE_TIMEOUT_MIN))
            .unwrap_or(IdleTimeout::from(VarInt::MAX));
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.interval(Duration::from_secs(600))
            .black_hole_cooldown(Duration::from_secs(60));
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive.filter(|_| !self.metered))
            .initial_rtt(self.rtt_expected)
            .initial_mtu(self.datagram_bytes.clamp(1200, 1452))
            .mtu_discovery_config((!self.metered).then_some(mtu))
            .enable_segmentation_offload(self.segmentation_offload)
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(ITEM_LANES_MAX))
            .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES_START)
            // Without fairness quinn finishes the stream that it has begun before it looks at
            // priorities again: nothing would overtake.
            .send_fairness(true)
            // Probes are datagrams; nobody reads them, so little room is enough.
            .datagram_receive_buffer_size(Some(PROBES_BYTES))
            .datagram_send_buffer_size(PROBES_BYTES);
        let steady = SteadyConfig::new(self.rtt_expected, self.hint, self.rate_kbits_max);
        let controller: Arc<dyn ControllerFactory + Send + Sync> = match self.control {
            Control::LossTolerant => Arc::new(steady),
            Control::Shared => Arc::new(CarefulConfig(Arc::new(steady))),
            Control::Cubic => Arc::new(CubicConfig::default()),
        };
        transport.congestion_controller_factory(Arc::new(WakefulConfig(controller)));
        transport
    }
}

/// What quinn may hold unacknowledged before the link's bandwidth-delay product is known.
pub(crate) const SEND_WINDOW_BYTES_START: u64 = 128 << 10;
