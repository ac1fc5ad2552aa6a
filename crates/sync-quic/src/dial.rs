//! The dialling side: a box calls its hub and accepts no other.
//!
//! In: the hub's address and key. Out: a [`Link`], or a plain reason why not.
//! Invariant: nothing but the handshake crosses before the hub has proved the expected key.
//! May not: retry; when to call again is the caller's decision ([`Backoff`] helps).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{NodeId, NodeKey};
use quinn::{ClientConfig, ConnectError, ConnectionError};
use thiserror::Error;

use crate::close::{Code, End};
use crate::link::Link;
use crate::profile::LinkProfile;
use crate::{endpoint, tls};

/// The server name that quinn wants; never sent, as SNI is off.
const NO_NAME: &str = "chasqui";
/// A handshake takes one round trip; this allows for several lost flights on a slow link.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Says why a call did not come through.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address cannot be called.
    #[error("cannot call {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: ConnectError,
    },
    /// Somebody else answers at the hub's address.
    #[error(
        "{address} answers with key {shown}, but the hub's key is {expected}; nothing was sent"
    )]
    WrongKey {
        /// The address.
        address: SocketAddr,
        /// The key that the hub must have.
        expected: NodeId,
        /// The key that was shown.
        shown: NodeId,
    },
    /// Nobody answers.
    #[error("no answer from {address} in {} s", .waited.as_secs())]
    NoAnswer {
        /// The address.
        address: SocketAddr,
        /// How long we waited.
        waited: Duration,
    },
    /// The handshake failed for another reason.
    #[error("the handshake with {address} failed: {end}")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// Why.
        end: End,
    },
}

/// Calls hubs from one local address.
#[derive(Debug)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    key: NodeKey,
}

impl Dialer {
    /// Binds a UDP socket at `local` (port 0: any) to call from. Needs a tokio runtime.
    pub fn bind(local: SocketAddr, key: &NodeKey) -> io::Result<Self> {
        Ok(Self::on(endpoint::open(local, key, None)?, key))
    }

    /// Calls from an endpoint.
    pub(crate) fn on(endpoint: quinn::Endpoint, key: &NodeKey) -> Self {
        Self {
            endpoint,
            key: key.clone(),
        }
    }

    /// Calls the hub at `address`, which must prove the key `expected`.
    ///
    /// A hub that does not know this box lets the handshake finish and then refuses: the reason
    /// comes out of [`crate::run`] as [`End::Refused`].
    pub async fn dial(
        &self,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
    ) -> Result<Link, DialError> {
        let connection = self
            .connect(address, expected, profile, tls::ALPN_SESSION)
            .await?;
        Ok(Link::dialled(connection, expected))
    }

    /// Moves all live connections to another local address, without a new handshake.
    pub fn rebind(&self, local: SocketAddr) -> io::Result<()> {
        self.endpoint.rebind(std::net::UdpSocket::bind(local)?)
    }

    /// Closes all connections and waits until the peers have heard of it (3 s at most).
    pub async fn close(&self) {
        self.endpoint.close(Code::Stopping.varint(), b"stopping");
        endpoint::farewell(&self.endpoint).await;
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
        alpn: &[u8],
    ) -> Result<quinn::Connection, DialError> {
        let (crypto, shown) = tls::client(&self.key, expected, alpn);
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(profile.transport()));
        let connecting = self
            .endpoint
            .connect_with(config, address, NO_NAME)
            .map_err(|source| DialError::Address { address, source })?;
        let waited = HANDSHAKE.max(profile.rtt_expected * 10);
        let no_answer = DialError::NoAnswer { address, waited };
        match tokio::time::timeout(waited, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => Err(no_answer),
            Ok(Err(error)) => match shown.key() {
                Some(shown) if shown != expected => Err(DialError::WrongKey {
                    address,
                    expected,
                    shown,
                }),
                Some(_) | None => Err(DialError::Handshake {
                    address,
                    end: error.into(),
                }),
            },
        }
    }
}

/// How long to wait before the next call: doubles up to a ceiling, starts again after success.
///
/// Reconnecting never gives up, so there is no last attempt.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    least: Duration,
    most: Duration,
}

impl Backoff {
    /// Waits `least` at first and never longer than `most`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self {
            next: least,
            least,
            most: most.max(least),
        }
    }

    /// The time to wait before the next call.
    ///
    /// `spread` (any number, best a random one) shortens the wait by up to a quarter, so that the
    /// boxes of a fleet do not all call at the same moment after their hub was away.
    pub fn wait(&mut self, spread: u64) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.most);
        let quarter_ms = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX);
        wait - Duration::from_millis(spread % quarter_ms.saturating_add(1))
    }

    /// A call came through: the next wait is the least one again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<u64> = (0..4).map(|_| backoff.wait(0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5]);
        backoff.reset();
        assert_eq!(backoff.wait(0).as_secs(), 1);
        assert!(backoff.wait(u64::MAX) >= Duration::from_millis(1500));
    }
}
