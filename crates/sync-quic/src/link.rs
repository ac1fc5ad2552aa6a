//! One connection to one proven peer.
//!
//! In: a finished handshake. Out: who the peer is, what has crossed, a way to close.
//! Invariant: a `Link` exists only when the peer has proved its key.
//! May not: read or write frames.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use tokio::sync::watch;

use crate::close::{Code, End};
use crate::controller;
use crate::line::Line;
use crate::profile::Hint;

/// The way that a connection takes through the networks between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP, where no UDP passes.
    Tls,
}

impl Road {
    /// Its name in status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

/// What has crossed a connection, counted on the UDP layer or on that of TLS over TCP, and how the
/// link does. The kernel keeps to itself what TCP lost and sent again; how many segments there were
/// is an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Payload bytes of UDP, or of TCP, sent.
    pub bytes_sent: u64,
    /// The same, received.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes of packets that were declared lost.
    pub bytes_lost: u64,
    /// The smoothed round trip, over TCP that of the handshake, in milliseconds; 0 when unknown.
    pub rtt_ms: u64,
    /// The rate that the link has been seen to deliver, in kbit/s; 0 until known.
    pub rate_kbits: u64,
}

/// One connection to one proven peer. Clones are the same link; when the last one is dropped, the
/// connection is closed.
#[derive(Debug, Clone)]
pub struct Link(Arc<Held>);

#[derive(Debug)]
struct Held {
    line: Line,
    peer: NodeId,
    dialled: bool,
    took_over: bool,
    /// Dropped with the link; the peer's next one waits for that.
    #[expect(dead_code, reason = "held for its drop")]
    turn: Option<watch::Sender<()>>,
}

impl Link {
    pub(crate) fn dialled(line: Line, peer: NodeId) -> Self {
        Self(Arc::new(Held {
            line,
            peer,
            dialled: true,
            took_over: false,
            turn: None,
        }))
    }

    pub(crate) fn answered(
        line: Line,
        peer: NodeId,
        turn: watch::Sender<()>,
        took_over: bool,
    ) -> Self {
        Self(Arc::new(Held {
            line,
            peer,
            dialled: false,
            took_over,
            turn: Some(turn),
        }))
    }

    pub(crate) fn line(&self) -> &Line {
        &self.0.line
    }

    pub(crate) fn is_dialled(&self) -> bool {
        self.0.dialled
    }

    /// The peer's key, which it has proved to hold.
    pub fn peer(&self) -> NodeId {
        self.0.peer
    }

    /// Whether the peer had another link when it made this one, which was closed for it, and had
    /// not obviously lost it. Now and
    /// then this is a peer that lost its link; again and again it is two machines with one key.
    pub fn took_over(&self) -> bool {
        self.0.took_over
    }

    /// The road that it takes.
    pub fn road(&self) -> Road {
        self.0.line.road()
    }

    /// Where the peer is; changes when it moves to another uplink.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.line.remote_address()
    }

    /// What has crossed so far.
    pub fn traffic(&self) -> Traffic {
        self.0.line.traffic()
    }

    /// What this contact has learned of the link so far, to be given to the next one; over TCP that
    /// is the kernel's business.
    pub fn hint(&self) -> Option<Hint> {
        match &self.0.line {
            Line::Quic(connection) => controller::learned(connection),
            Line::Tcp(_) => None,
        }
    }

    /// Closes the connection because this program is stopping.
    pub fn close(&self) {
        self.0.line.close(Code::Stopping, "stopping");
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> End {
        self.0.line.closed().await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.line.close(Code::Done, "");
    }
}

pub(crate) fn traffic(connection: &quinn::Connection) -> Traffic {
    let stats = connection.stats();
    let rate = controller::rate_of(connection).unwrap_or_else(|| {
        // Cubic knows no rate; a window per round trip is what it sends.
        let rtt = stats.path.rtt.max(Duration::from_millis(1));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a rate fits 64 bits by far"
        )]
        let rate = (u128::from(stats.path.cwnd) * 1_000_000 / rtt.as_micros()) as u64;
        rate
    });
    Traffic {
        bytes_sent: stats.udp_tx.bytes,
        bytes_received: stats.udp_rx.bytes,
        datagrams_sent: stats.udp_tx.datagrams,
        datagrams_received: stats.udp_rx.datagrams,
        bytes_lost: stats.path.lost_bytes,
        rtt_ms: u64::try_from(stats.path.rtt.as_millis()).unwrap_or(u64::MAX),
        rate_kbits: rate / 125,
    }
}
