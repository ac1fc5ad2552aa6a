//! What a session needs of a connection, whichever road it takes: lanes, an order of urgency, an
//! end with a reason.
//!
//! In: a QUIC connection, or a TLS connection over TCP. Out: the same things of either.
//! Invariant: whoever uses a line cannot tell which one it is, but by its speed.
//! May not: know what is said.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::WriteError;

use crate::close::{self, Code, End};
use crate::link::{self, Road, Traffic};
use crate::tcp::{TcpLine, TcpReceiver, TcpSender};

/// A connection over TCP that has been silent for so long may have been given up by its peer.
const LOST: Duration = Duration::from_secs(10);

/// One connection. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    /// Each lane is a stream.
    Quic(quinn::Connection),
    /// The frames of all lanes follow each other.
    Tcp(TcpLine),
}

/// The sending side of a lane. Dropping an item's finishes it.
#[derive(Debug)]
pub(crate) enum LaneSender {
    Quic(quinn::SendStream),
    Tcp(TcpSender),
}

/// The receiving side of a lane; over TCP one stands for all item lanes.
#[derive(Debug)]
pub(crate) enum LaneReceiver {
    Quic(quinn::RecvStream),
    Tcp(TcpReceiver),
}

/// Why nothing can be written on a lane.
#[derive(Debug)]
pub(crate) enum LaneError {
    /// The peer does not want it, which breaks the protocol.
    Stopped,
    /// The connection is gone, which is told elsewhere.
    Gone,
}

impl Line {
    pub(crate) fn road(&self) -> Road {
        match self {
            Self::Quic(_) => Road::Quic,
            Self::Tcp(_) => Road::Tls,
        }
    }

    /// Opens the control lane.
    pub(crate) async fn open_control(&self) -> Result<(LaneSender, LaneReceiver), End> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.open_bi().await?;
                Ok((LaneSender::Quic(send), LaneReceiver::Quic(receive)))
            }
            Self::Tcp(line) => control_of(line),
        }
    }

    /// Waits for the peer to open the control lane.
    pub(crate) async fn accept_control(&self) -> Result<(LaneSender, LaneReceiver), End> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.accept_bi().await?;
                Ok((LaneSender::Quic(send), LaneReceiver::Quic(receive)))
            }
            // It is there from the beginning; that the peer says nothing is noticed all the same.
            Self::Tcp(line) => control_of(line),
        }
    }

    /// Opens an item lane; none when the connection is gone.
    pub(crate) async fn open_item(&self) -> Option<LaneSender> {
        match self {
            Self::Quic(connection) => Some(LaneSender::Quic(connection.open_uni().await.ok()?)),
            Self::Tcp(line) => Some(LaneSender::Tcp(line.item())),
        }
    }

    /// Waits for the peer to open an item lane; none when the connection is gone.
    pub(crate) async fn accept_item(&self) -> Option<LaneReceiver> {
        match self {
            Self::Quic(connection) => Some(LaneReceiver::Quic(connection.accept_uni().await.ok()?)),
            Self::Tcp(line) => match line.items() {
                Some(items) => Some(LaneReceiver::Tcp(items)),
                None => {
                    line.closed().await;
                    None
                }
            },
        }
    }

    /// Waits until the connection has ended, and says why.
    pub(crate) async fn closed(&self) -> End {
        match self {
            Self::Quic(connection) => connection.closed().await.into(),
            Self::Tcp(line) => line.closed().await,
        }
    }

    /// Closes the connection; a second close changes nothing.
    pub(crate) fn close(&self, code: Code, reason: &str) {
        match self {
            Self::Quic(connection) => close::close(connection, code, reason),
            Self::Tcp(line) => line.close(code, reason),
        }
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote_address(),
            Self::Tcp(line) => line.remote_address(),
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        match self {
            Self::Quic(connection) => link::traffic(connection),
            Self::Tcp(line) => line.traffic(),
        }
    }

    /// Whether the peer is known to have lost this connection, or is likely to.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            // Its peer does not leave it for a silence that is shorter than a minute or two.
            Self::Quic(_) => false,
            Self::Tcp(line) => line.silence() > LOST,
        }
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quic(one), Self::Quic(other)) => one.stable_id() == other.stable_id(),
            (Self::Tcp(one), Self::Tcp(other)) => one.is(other),
            (Self::Quic(_), Self::Tcp(_)) | (Self::Tcp(_), Self::Quic(_)) => false,
        }
    }
}

fn control_of(line: &TcpLine) -> Result<(LaneSender, LaneReceiver), End> {
    let (send, receive) = line.control().ok_or(End::Closed)?;
    Ok((LaneSender::Tcp(send), LaneReceiver::Tcp(receive)))
}

impl LaneSender {
    /// Sets how urgent the lane is on the wire. Over TCP there is nothing to set: what was handed
    /// over has left, or is just leaving.
    pub(crate) fn set_priority(&self, priority: i32) {
        match self {
            // Fails only when the connection is gone, which the next write finds.
            Self::Quic(stream) => drop(stream.set_priority(priority)),
            Self::Tcp(_) => {}
        }
    }

    /// Hands over as much of `bytes` as there is room for, and takes it off; to cancel this loses
    /// nothing. `bytes` begins with a frame.
    pub(crate) async fn write(&mut self, bytes: &mut Bytes) -> Result<(), LaneError> {
        match self {
            Self::Quic(stream) => {
                let written = stream.write(bytes).await.map_err(|error| match error {
                    WriteError::Stopped(_) => LaneError::Stopped,
                    WriteError::ConnectionLost(_)
                    | WriteError::ClosedStream
                    | WriteError::ZeroRttRejected => LaneError::Gone,
                })?;
                bytes.advance(written);
                Ok(())
            }
            Self::Tcp(lane) => lane.write(bytes).await.ok_or(LaneError::Gone),
        }
    }

    /// Finishes the lane and waits until the peer has all of it, or is sure to get it before it
    /// hears of the end.
    pub(crate) async fn finish(mut self) {
        match &mut self {
            Self::Quic(stream) => {
                // Fails only when it was finished or the connection is gone.
                let _ = stream.finish();
                let _ = stream.stopped().await;
            }
            Self::Tcp(lane) => lane.finish().await,
        }
    }
}
