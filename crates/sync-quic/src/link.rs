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

use crate::close::{self, Code, End};
use crate::controller;
use crate::profile::Hint;

/// What has crossed a connection, counted on the UDP layer, and how the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// UDP payload bytes received.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes of packets that were declared lost.
    pub bytes_lost: u64,
    /// The smoothed round trip, in milliseconds.
    pub rtt_ms: u64,
    /// The rate that the link has been seen to deliver, in kbit/s; 0 until known.
    pub rate_kbits: u64,
}

/// One connection to one proven peer. Clones are the same link; when the last one is dropped, the
/// connection is closed.
#[derive(Debug, Clone)]
pub struct Link(Arc<Line>);

#[derive(Debug)]
struct Line {
    connection: quinn::Connection,
    peer: NodeId,
    dialled: bool,
    took_over: bool,
    /// Dropped with the line; the peer's next one waits for that.
    #[expect(dead_code, reason = "held for its drop")]
    turn: Option<watch::Sender<()>>,
}

impl Link {
    pub(crate) fn dialled(connection: quinn::Connection, peer: NodeId) -> Self {
        Self(Arc::new(Line {
            connection,
            peer,
            dialled: true,
            took_over: false,
            turn: None,
        }))
    }

    pub(crate) fn answered(
        connection: quinn::Connection,
        peer: NodeId,
        turn: watch::Sender<()>,
        took_over: bool,
    ) -> Self {
        Self(Arc::new(Line {
            connection,
            peer,
            dialled: false,
            took_over,
            turn: Some(turn),
        }))
    }

    pub(crate) fn connection(&self) -> &quinn::Connection {
        &self.0.connection
    }

    pub(crate) fn is_dialled(&self) -> bool {
        self.0.dialled
    }

    /// The peer's key, which it has proved to hold.
    pub fn peer(&self) -> NodeId {
        self.0.peer
    }

    /// Whether the peer had another link when it made this one, which was closed for it. Now and
    /// then this is a peer that lost its link; again and again it is two machines with one key.
    pub fn took_over(&self) -> bool {
        self.0.took_over
    }

    /// Where the peer is; changes when it moves to another uplink.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// What has crossed so far.
    pub fn traffic(&self) -> Traffic {
        traffic(&self.0.connection)
    }

    /// What this contact has learned of the link so far, to be given to the next one.
    pub fn hint(&self) -> Option<Hint> {
        controller::learned(&self.0.connection)
    }

    /// Closes the connection because this program is stopping.
    pub fn close(&self) {
        close::close(&self.0.connection, Code::Stopping, "stopping");
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> End {
        self.0.connection.closed().await.into()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        close::close(&self.connection, Code::Done, "");
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
