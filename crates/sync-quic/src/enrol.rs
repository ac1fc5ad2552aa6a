//! The enrolment exchange: one request, one reply, on a connection of its own protocol, over
//! either road.
//!
//! In: a signed request as opaque bytes. Out: the reply as opaque bytes, or the hub's refusal in
//! plain words.
//! Invariant: neither side reads more than [`ENROL_BYTES_MAX`].
//! May not: read what is inside; `identity` makes and verifies requests and replies.

use std::net::SocketAddr;
use std::time::Duration;

use identity::NodeId;
use quinn::{ReadToEndError, RecvStream, SendStream};
use thiserror::Error;

use crate::close::{self, Code, End};
use crate::dial::{Called, DialError};
use crate::gate::Slot;
use crate::tcp::Secured;

/// The longest request and the longest reply.
pub const ENROL_BYTES_MAX: usize = 64 << 10;

/// How long one side waits for the other's words.
const EXCHANGE: Duration = Duration::from_secs(120);

/// Says why an enrolment did not come about.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The call did not come through.
    #[error("the hub cannot be reached")]
    Dial(#[from] DialError),
    /// The hub said no; its own words say why.
    #[error("the hub refuses: {0}")]
    Refused(String),
    /// The exchange broke before the reply was there; the same request may be made again.
    #[error("the exchange broke: {0}")]
    Broken(End),
    /// The request or the reply is over the limit.
    #[error("an enrolment message has at most {ENROL_BYTES_MAX} bytes")]
    TooLong,
}

/// Sends `request` to a hub that has answered, and waits for its reply.
pub(crate) async fn exchange(called: Called, request: &[u8]) -> Result<Vec<u8>, EnrolError> {
    let late = Err(EnrolError::Broken(End::TimedOut));
    match called {
        Called::Quic(connection) => {
            let reply = tokio::time::timeout(EXCHANGE, ask(&connection, request)).await;
            close::close(&connection, Code::Done, "");
            reply.unwrap_or(late)
        }
        Called::Tcp(mut secured) => {
            let reply = tokio::time::timeout(EXCHANGE, ask_by_tcp(&mut secured, request)).await;
            secured.part(Code::Done, "").await;
            reply.unwrap_or(late)
        }
    }
}

async fn ask_by_tcp(secured: &mut Secured, request: &[u8]) -> Result<Vec<u8>, EnrolError> {
    // A hub that refuses hangs up; it has said why before.
    let _ = secured.say(request).await;
    match secured.hear(ENROL_BYTES_MAX).await {
        Ok(reply) => Ok(reply),
        Err(End::Refused(text)) => Err(EnrolError::Refused(text)),
        Err(End::PeerFault(_)) => Err(EnrolError::TooLong),
        Err(end) => Err(EnrolError::Broken(end)),
    }
}

async fn ask(connection: &quinn::Connection, request: &[u8]) -> Result<Vec<u8>, EnrolError> {
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(request).await.ok()?;
        send.finish().ok()?;
        Some(receive.read_to_end(ENROL_BYTES_MAX).await)
    };
    match exchange.await {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(ReadToEndError::TooLong)) => Err(EnrolError::TooLong),
        Some(Err(ReadToEndError::Read(_))) | None => {
            let end = End::from(connection.closed().await);
            if let End::Refused(text) = end {
                return Err(EnrolError::Refused(text));
            }
            Err(EnrolError::Broken(end))
        }
    }
}

/// A box on the line that wants to enrol.
#[derive(Debug)]
pub struct EnrolCall {
    caller: Caller,
    peer: NodeId,
}

#[derive(Debug)]
enum Caller {
    Quic {
        connection: quinn::Connection,
        reply: Option<SendStream>,
    },
    Tcp {
        secured: Secured,
        /// Anybody may ask, so it counts as long as it lasts.
        _place: Slot,
    },
}

impl EnrolCall {
    pub(crate) fn by_quic(connection: quinn::Connection, peer: NodeId) -> Self {
        let reply = None;
        let caller = Caller::Quic { connection, reply };
        Self { caller, peer }
    }

    pub(crate) fn by_tcp(secured: Secured, peer: NodeId, place: Slot) -> Self {
        let caller = Caller::Tcp {
            secured,
            _place: place,
        };
        Self { caller, peer }
    }

    /// The caller's key, which it has proved to hold.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the caller is.
    pub fn remote_address(&self) -> SocketAddr {
        match &self.caller {
            Caller::Quic { connection, .. } => connection.remote_address(),
            Caller::Tcp { secured, .. } => secured.remote,
        }
    }

    /// Reads the request.
    pub async fn request(&mut self) -> Result<Vec<u8>, EnrolError> {
        let read = async {
            match &mut self.caller {
                Caller::Quic { connection, reply } => {
                    let (send, mut receive) = connection.accept_bi().await.map_err(broken)?;
                    *reply = Some(send);
                    read_request(&mut receive, connection).await
                }
                Caller::Tcp { secured, .. } => match secured.hear(ENROL_BYTES_MAX).await {
                    Ok(request) => Ok(request),
                    Err(End::PeerFault(_)) => Err(EnrolError::TooLong),
                    Err(end) => Err(EnrolError::Broken(end)),
                },
            }
        };
        tokio::time::timeout(EXCHANGE, read)
            .await
            .unwrap_or(Err(EnrolError::Broken(End::TimedOut)))
    }

    /// Sends the reply and waits until the caller has it, or is gone.
    pub async fn answer(self, reply: &[u8]) -> Result<(), EnrolError> {
        if reply.len() > ENROL_BYTES_MAX {
            return Err(EnrolError::TooLong);
        }
        // The caller closes when it has read the reply.
        let answered = async {
            match self.caller {
                Caller::Quic {
                    connection,
                    reply: Some(mut send),
                } => {
                    if send.write_all(reply).await.is_ok() {
                        // Fails only when the connection is gone.
                        let _ = send.finish();
                    }
                    connection.closed().await.into()
                }
                Caller::Quic { reply: None, .. } => End::Closed,
                Caller::Tcp { mut secured, .. } => {
                    if secured.say(reply).await.is_err() {
                        return End::PeerStopped;
                    }
                    secured.hear(0).await.err().unwrap_or(End::Closed)
                }
            }
        };
        match tokio::time::timeout(EXCHANGE, answered).await {
            Ok(End::Done) => Ok(()),
            Ok(end) => Err(EnrolError::Broken(end)),
            Err(_) => Err(EnrolError::Broken(End::TimedOut)),
        }
    }

    /// Says no, in words that the technician at the box will read.
    pub async fn refuse(self, text: &str) {
        match self.caller {
            Caller::Quic { connection, .. } => close::close(&connection, Code::Refused, text),
            Caller::Tcp { secured, .. } => secured.part(Code::Refused, text).await,
        }
    }
}

async fn read_request(
    receive: &mut RecvStream,
    connection: &quinn::Connection,
) -> Result<Vec<u8>, EnrolError> {
    match receive.read_to_end(ENROL_BYTES_MAX).await {
        Ok(request) => Ok(request),
        Err(ReadToEndError::TooLong) => {
            close::close(connection, Code::PeerFault, "the request is too long");
            Err(EnrolError::TooLong)
        }
        Err(ReadToEndError::Read(_)) => Err(broken(connection.closed().await)),
    }
}

fn broken(error: quinn::ConnectionError) -> EnrolError {
    EnrolError::Broken(error.into())
}
