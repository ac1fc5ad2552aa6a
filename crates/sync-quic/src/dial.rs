//! The dialling side: a box calls its hub and accepts no other.
//!
//! In: the hub's address and key, the road to take. Out: a [`Link`], or a plain reason why not.
//! Invariant: nothing but the handshake crosses before the hub has proved the expected key.
//! May not: retry; when to call again is the caller's decision ([`Backoff`] helps).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use identity::{NodeId, NodeKey};
use quinn::{ClientConfig, ConnectError, ConnectionError};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::sync::watch;

use crate::close::End;
use crate::endpoint;
use crate::line::Line;
use crate::link::{Link, Road};
use crate::local::{Local, LocalError};
use crate::profile::LinkProfile;
use crate::tcp::{self, Counted, Counts, Secured, TcpLine};
use crate::tls::{self, Purpose, Shown};
use crate::wake::{self, Pulse};

/// The server name that the libraries want; never sent, as SNI is off.
const NO_NAME: &str = "chasqui";
/// A handshake takes few round trips; this allows for several lost flights on a slow link.
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
    /// No call can leave from the uplink.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// No TCP connection comes about.
    #[error("no TCP connection to {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        #[source]
        source: io::Error,
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

/// Calls hubs from one uplink.
#[derive(Debug)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    key: NodeKey,
    local: Mutex<Local>,
    /// The controllers of the connections that were made.
    pulses: Mutex<Vec<Weak<Pulse>>>,
    /// Turns true when the program stops; every TLS connection holds a receiver.
    stop: watch::Sender<bool>,
}

/// Somebody who answered and proved the expected key.
#[derive(Debug)]
pub(crate) enum Called {
    Quic(quinn::Connection),
    Tcp(Secured),
}

impl Called {
    pub(crate) fn into_link(self, peer: NodeId) -> Link {
        let line = match self {
            Self::Quic(connection) => Line::Quic(connection),
            Self::Tcp(secured) => Line::Tcp(TcpLine::start(secured)),
        };
        Link::dialled(line, peer)
    }
}

impl Dialer {
    /// Opens a UDP socket at `local` to call from; calls by TCP leave from there too. Needs a tokio
    /// runtime.
    pub fn bind(local: &Local, key: &NodeKey) -> Result<Self, LocalError> {
        let opened = endpoint::open(local.udp()?, key, None).map_err(local.failed())?;
        Ok(Self::on(opened, local, key))
    }

    /// Calls from an endpoint, and by TCP from `local`.
    pub(crate) fn on(endpoint: quinn::Endpoint, local: &Local, key: &NodeKey) -> Self {
        Self {
            endpoint,
            key: key.clone(),
            local: Mutex::new(local.clone()),
            pulses: Mutex::default(),
            stop: watch::Sender::new(false),
        }
    }

    /// Calls the hub at `address` over `road`; it must prove the key `expected`.
    ///
    /// A hub that does not know this box lets the handshake finish and then refuses: the reason
    /// comes out of [`crate::run`] as [`End::Refused`].
    pub async fn dial(
        &self,
        road: Road,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
    ) -> Result<Link, DialError> {
        let called = self.connect(road, address, expected, profile, Purpose::Session);
        Ok(called.await?.into_link(expected))
    }

    /// Moves all live QUIC connections to another uplink, without a new handshake: the hub checks
    /// that it reaches the box there, and the sending rate is found anew. Connections over TCP
    /// cannot move. Later calls leave from there too.
    pub fn rebind(&self, local: &Local) -> Result<(), LocalError> {
        let socket = local.udp()?;
        self.endpoint.rebind(socket).map_err(local.failed())?;
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = local.clone();
        for pulse in self.pulses().iter().filter_map(Weak::upgrade) {
            pulse.moved();
        }
        Ok(())
    }

    /// Closes all connections and waits until the peers have heard of it (3 s at most).
    pub async fn close(&self) {
        endpoint::close(&self.endpoint, &self.stop).await;
    }

    pub(crate) async fn connect(
        &self,
        road: Road,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
        purpose: Purpose,
    ) -> Result<Called, DialError> {
        let waited = HANDSHAKE.max(profile.rtt_expected * 10);
        let answer = tokio::time::timeout(waited, async {
            match road {
                Road::Quic => self
                    .connect_quic(address, expected, profile, purpose)
                    .await
                    .map(Called::Quic),
                Road::Tls => self
                    .connect_tcp(address, expected, profile, purpose)
                    .await
                    .map(Called::Tcp),
            }
        });
        match answer.await {
            Ok(Ok(called)) => Ok(called),
            Err(_) | Ok(Err(Failed::Silence)) => Err(DialError::NoAnswer { address, waited }),
            Ok(Err(Failed::Local(error))) => Err(error.into()),
            Ok(Err(Failed::Call(source))) => Err(DialError::Address { address, source }),
            Ok(Err(Failed::Tcp(source))) => Err(DialError::Tcp { address, source }),
            Ok(Err(Failed::Handshake(end, shown))) => match shown.key() {
                Some(shown) if shown != expected => Err(DialError::WrongKey {
                    address,
                    expected,
                    shown,
                }),
                Some(_) | None => Err(DialError::Handshake { address, end }),
            },
        }
    }

    async fn connect_quic(
        &self,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
        purpose: Purpose,
    ) -> Result<quinn::Connection, Failed> {
        let (crypto, shown) = tls::quic_client(&self.key, expected, purpose);
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(profile.transport()));
        let connecting = self.endpoint.connect_with(config, address, NO_NAME);
        match connecting.map_err(Failed::Call)?.await {
            Ok(connection) => {
                let mut pulses = self.pulses();
                pulses.retain(|pulse| pulse.strong_count() > 0);
                pulses.push(Arc::downgrade(&wake::pulse_of(&connection)));
                Ok(connection)
            }
            Err(ConnectionError::TimedOut) => Err(Failed::Silence),
            Err(error) => Err(Failed::Handshake(error.into(), shown)),
        }
    }

    async fn connect_tcp(
        &self,
        address: SocketAddr,
        expected: NodeId,
        profile: &LinkProfile,
        purpose: Purpose,
    ) -> Result<Secured, Failed> {
        let (connector, shown) = tls::tcp_client(&self.key, expected, purpose);
        let socket = self
            .local
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tcp(address)
            .map_err(Failed::Local)?;
        let begun = Instant::now();
        let stream = socket.connect(address).await.map_err(Failed::Tcp)?;
        let counts = Arc::new(Counts::default());
        counts.note_round_trip(begun.elapsed());
        tcp::prepare(&stream, true, profile).map_err(Failed::Tcp)?;
        let counted = Counted {
            stream,
            counts: Arc::clone(&counts),
        };
        let name = ServerName::try_from(NO_NAME).expect("this is a name");
        match connector.connect(name, counted).await {
            Ok(stream) => Ok(Secured {
                stream: Box::new(stream.into()),
                remote: address,
                counts,
                stop: self.stop.subscribe(),
            }),
            Err(error) => Err(Failed::Handshake(tcp::end_of(&error), shown)),
        }
    }

    fn pulses(&self) -> MutexGuard<'_, Vec<Weak<Pulse>>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call failed.
enum Failed {
    Silence,
    Local(LocalError),
    Call(ConnectError),
    Tcp(io::Error),
    Handshake(End, Shown),
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
