//! The controller for networks that others use as well: what the delay brake allows, but never more
//! than cubic and never less than half of that.
//!
//! In: what quinn reports. Out: a window between half of cubic's and all of it.
//! Invariant: a flow of cubic's kind beside it has at least what it would have beside another one.
//! May not: tell the two apart; each sees all that happens.
//!
//! Cubic alone fills the modem's queue and, over a satellite, keeps for minutes what it took before
//! another flow began. The delay brake alone would go on where loss makes cubic yield, and would yield
//! all that it has to a flow that keeps the queue full.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, CubicConfig};

use super::{Steady, SteadyConfig};

/// Makes careful controllers for the connections of one link.
#[derive(Debug)]
pub(crate) struct CarefulConfig(pub(crate) Arc<SteadyConfig>);

impl ControllerFactory for CarefulConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Careful {
            cubic: Arc::new(CubicConfig::default()).build(now, mtu),
            steady: self.0.steady(mtu),
        })
    }
}

/// The controller of one connection.
pub(crate) struct Careful {
    cubic: Box<dyn Controller>,
    pub(super) steady: Steady,
}

impl Controller for Careful {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
        self.steady.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        self.steady.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let largest = largest_packet_num_acked;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
        self.steady
            .on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let persistent = is_persistent_congestion;
        self.cubic
            .on_congestion_event(now, sent, persistent, lost_bytes);
        self.steady
            .on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.steady.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let cubic = self.cubic.window();
        self.steady.window().clamp(cubic / 2, cubic)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            steady: self.steady.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic
            .initial_window()
            .min(self.steady.initial_window())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
