//! The enrolment exchange: one request, one reply, on a connection of its own protocol.
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
use crate::dial::{DialError, Dialer};
use crate::profile::LinkProfile;
use crate::tls;

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

impl Dialer {
    /// Sends `request` to the hub at `address` and waits for its reply.
    pub async fn enrol(
        &self,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
        request: &[u8],
    ) -> Result<Vec<u8>, EnrolError> {
        if request.len() > ENROL_BYTES_MAX {
            return Err(EnrolError::TooLong);
        }
        let connection = self
            .connect(address, expected, profile, tls::ALPN_ENROL)
            .await?;
        let reply = tokio::time::timeout(EXCHANGE, ask(&connection, request))
            .await
            .unwrap_or(Err(EnrolError::Broken(End::TimedOut)));
        close::close(&connection, Code::Done, "");
        reply
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
    connection: quinn::Connection,
    peer: NodeId,
    reply: Option<SendStream>,
}

impl EnrolCall {
    pub(crate) fn new(connection: quinn::Connection, peer: NodeId) -> Self {
        Self {
            connection,
            peer,
            reply: None,
        }
    }

    /// The caller's key, which it has proved to hold.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the caller is.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Reads the request.
    pub async fn request(&mut self) -> Result<Vec<u8>, EnrolError> {
        let read = async {
            let (send, mut receive) = self.connection.accept_bi().await.map_err(broken)?;
            self.reply = Some(send);
            read_request(&mut receive, &self.connection).await
        };
        tokio::time::timeout(EXCHANGE, read)
            .await
            .unwrap_or(Err(EnrolError::Broken(End::TimedOut)))
    }

    /// Sends the reply and waits until the caller has it, or is gone.
    pub async fn answer(mut self, reply: &[u8]) -> Result<(), EnrolError> {
        if reply.len() > ENROL_BYTES_MAX {
            return Err(EnrolError::TooLong);
        }
        let Some(mut send) = self.reply.take() else {
            return Err(EnrolError::Broken(End::Closed));
        };
        if send.write_all(reply).await.is_err() || send.finish().is_err() {
            return Err(broken(self.connection.closed().await));
        }
        // The caller closes when it has read the reply.
        match tokio::time::timeout(EXCHANGE, self.connection.closed()).await {
            Ok(error) if End::from(error.clone()) == End::Done => Ok(()),
            Ok(error) => Err(broken(error)),
            Err(_) => Err(EnrolError::Broken(End::TimedOut)),
        }
    }

    /// Says no, in words that the technician at the box will read.
    pub fn refuse(self, text: &str) {
        close::close(&self.connection, Code::Refused, text);
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
