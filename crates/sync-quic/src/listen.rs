//! The listening side: the hub takes calls of boxes it knows, and of boxes that want to enrol.
//!
//! In: connections of anyone, over either road. Out: [`Call`]s of admitted peers.
//! Invariant: admission is asked on every connection, after the peer has proved its key and
//! before a frame is read; a peer whose admission ends is cut off at [`Listener::recheck`]. One
//! peer has one session: the newest over both roads, and it is handed on only when the older one's link was
//! dropped, so that no disk work of an older session runs beside a newer one.
//! May not: decide who is admitted.

mod tcp;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::{NodeId, NodeKey};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Incoming, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::close::{self, Code};
use crate::endpoint;
use crate::enrol::EnrolCall;
use crate::gate::{Gate, HANDSHAKES_MAX, Verdict};
use crate::line::Line;
use crate::link::Link;
use crate::profile::LinkProfile;
use crate::tls::{self, Purpose};

/// How many admitted calls may wait to be taken.
const CALLS_WAITING_MAX: usize = 64;
/// How long a handshake may take, client's retries included.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How many bytes one caller may send before it is listened to; its first flight is one or two
/// datagrams.
const INCOMING_BYTES_MAX: u64 = 64 << 10;
/// The same for all callers together.
const INCOMING_BYTES_MAX_ALL: u64 = 4 << 20;

/// Says in plain words why a peer is not admitted; the words are sent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Decides who may talk to us. Asked on every connection, so it must be quick.
pub trait Admission: Send + Sync + 'static {
    /// Whether `peer` may open a session.
    fn admit(&self, peer: &NodeId) -> Result<(), Refusal>;

    /// Whether `peer`, which may be unknown, may try to enrol.
    fn admit_enrolment(&self, peer: &NodeId) -> Result<(), Refusal>;
}

/// An admitted peer on the line.
#[derive(Debug)]
pub enum Call {
    /// A unit of the fleet; give its link to [`crate::run`].
    Session(Link),
    /// A box that wants to enrol.
    Enrol(EnrolCall),
}

/// Takes calls at one address.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    calls: tokio::sync::Mutex<mpsc::Receiver<Call>>,
    door: Arc<Door>,
    /// Turns true when the listener is closed; every TLS connection holds a receiver.
    stop: watch::Sender<bool>,
}

impl Listener {
    /// Binds a UDP socket at `local` (port 0: any) and takes calls. Needs a tokio runtime.
    pub fn bind(
        local: SocketAddr,
        key: &NodeKey,
        profile: &LinkProfile,
        admission: Arc<dyn Admission>,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind(local)?;
        let endpoint = endpoint::open(socket, key, Some(Self::config(key, profile)))?;
        Ok(Self::on(endpoint, admission))
    }

    /// What QUIC needs to answer.
    pub(crate) fn config(key: &NodeKey, profile: &LinkProfile) -> ServerConfig {
        let mut config = ServerConfig::with_crypto(Arc::new(tls::quic_server(key)));
        // What idling may cost on its link only the caller knows.
        let frugal = LinkProfile {
            metered: true,
            ..profile.clone()
        };
        config
            .transport_config(Arc::new(frugal.transport()))
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES_MAX_ALL)
            .max_incoming(HANDSHAKES_MAX);
        config
    }

    /// Takes calls at an endpoint.
    pub(crate) fn on(endpoint: quinn::Endpoint, admission: Arc<dyn Admission>) -> Self {
        let (calls, taken) = mpsc::channel(CALLS_WAITING_MAX);
        let door = Arc::new(Door {
            admission,
            live: Mutex::default(),
            calls,
        });
        tokio::spawn(answer(endpoint.clone(), Arc::clone(&door)));
        Self {
            endpoint,
            calls: tokio::sync::Mutex::new(taken),
            door,
            stop: watch::Sender::new(false),
        }
    }

    /// Takes calls by TLS over TCP as well, at `local` (port 0: any). Returns the address.
    pub async fn bind_tls(
        &self,
        local: SocketAddr,
        key: &NodeKey,
        profile: &LinkProfile,
    ) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(local).await?;
        let bound = listener.local_addr()?;
        let entrance = tcp::Entrance {
            door: Arc::clone(&self.door),
            acceptor: tls::tcp_server(key),
            profile: LinkProfile {
                metered: true,
                ..profile.clone()
            },
            stop: self.stop.subscribe(),
        };
        tokio::spawn(tcp::answer(listener, entrance));
        Ok(bound)
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next call; none after [`Listener::close`].
    pub async fn accept(&self) -> Option<Call> {
        let mut calls = self.calls.lock().await;
        tokio::select! {
            call = calls.recv() => call,
            () = self.door.calls.closed() => None,
        }
    }

    /// Asks admission again for every live session and cuts off those who lost it.
    ///
    /// To be called whenever the allow-list has changed. Returns who was cut off.
    pub fn recheck(&self) -> Vec<NodeId> {
        let mut cut = Vec::new();
        self.door
            .live()
            .retain(|peer, live| match self.door.admission.admit(peer) {
                Ok(()) => true,
                Err(Refusal(text)) => {
                    live.line.close(Code::Refused, &text);
                    cut.push(*peer);
                    false
                }
            });
        cut
    }

    /// Who has a live session.
    pub fn live(&self) -> Vec<NodeId> {
        self.door.live().keys().copied().collect()
    }

    /// Closes all sessions, takes no more calls and waits until the peers have heard of it (3 s
    /// at most).
    pub async fn close(&self) {
        self.calls.lock().await.close();
        endpoint::close(&self.endpoint, &self.stop).await;
    }
}

/// What the answering tasks share.
struct Door {
    admission: Arc<dyn Admission>,
    live: Mutex<BTreeMap<NodeId, Live>>,
    calls: mpsc::Sender<Call>,
}

/// The newest session of a peer.
struct Live {
    line: Line,
    /// Closed when the session's link is dropped.
    turn: watch::Receiver<()>,
}

/// A caller that was admitted.
enum Admitted {
    Session { link: Link, older: Option<Live> },
    Enrol(EnrolCall),
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("live", &self.live().len())
            .finish_non_exhaustive()
    }
}

impl Door {
    fn live(&self) -> MutexGuard<'_, BTreeMap<NodeId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one caller from its first datagram through the door, or refuses it.
    async fn welcome(&self, incoming: Incoming) -> Option<Admitted> {
        let remote = incoming.remote_address();
        let connection = match tokio::time::timeout(HANDSHAKE, incoming).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%remote, %error, "handshake failed");
                return None;
            }
            Err(_) => {
                tracing::debug!(%remote, "handshake took too long");
                return None;
            }
        };
        let Some(peer) = tls::peer_of(&connection) else {
            close::close(&connection, Code::PeerFault, "no ed25519 key was shown");
            return None;
        };
        let Some(purpose) = Purpose::of_quic(protocol_of(&connection).as_deref()) else {
            close::close(&connection, Code::PeerFault, "no protocol was agreed on");
            return None;
        };
        let admitted = match purpose {
            Purpose::Enrol => self
                .admission
                .admit_enrolment(&peer)
                .map(|()| Admitted::Enrol(EnrolCall::by_quic(connection.clone(), peer))),
            Purpose::Session => self.enter(peer, &Line::Quic(connection.clone())),
        };
        match admitted {
            Ok(admitted) => Some(admitted),
            Err(Refusal(text)) => {
                note_refused(peer, remote, &text);
                close::close(&connection, Code::Refused, &text);
                None
            }
        }
    }

    /// Admits `peer` and makes this its one live connection.
    fn enter(&self, peer: NodeId, line: &Line) -> Result<Admitted, Refusal> {
        // The lock is held over the question, so that a recheck sees either the old answer's
        // connection or asks anew: no session slips through a revocation.
        let mut live = self.live();
        self.admission.admit(&peer)?;
        let (turn, ended) = watch::channel(());
        let older = live.insert(
            peer,
            Live {
                line: line.clone(),
                turn: ended,
            },
        );
        let took_over = older.as_ref().is_some_and(|older| !older.line.is_lost());
        if let Some(older) = &older {
            let reason = "a newer connection of this unit took over";
            older.line.close(Code::Replaced, reason);
        }
        Ok(Admitted::Session {
            link: Link::answered(line.clone(), peer, turn, took_over),
            older,
        })
    }

    fn leave(&self, peer: NodeId, line: &Line) {
        let mut live = self.live();
        if live.get(&peer).is_some_and(|live| live.line.is(line)) {
            live.remove(&peer);
        }
    }

    /// Gives the caller to whoever accepts; a session stays in the book of live ones until it ends.
    async fn hand_on(&self, admitted: Admitted) {
        // Sending fails only when the listener is being closed, which closes the connection as well.
        match admitted {
            Admitted::Enrol(call) => {
                let _ = self.calls.send(Call::Enrol(call)).await;
            }
            Admitted::Session { link, older } => {
                let (peer, line) = (link.peer(), link.line().clone());
                if let Some(mut older) = older {
                    // Nothing is ever sent: this waits for the older link to be dropped.
                    let _ = older.turn.changed().await;
                }
                let _ = self.calls.send(Call::Session(link)).await;
                line.closed().await;
                self.leave(peer, &line);
            }
        }
    }
}

fn note_refused(peer: NodeId, remote: SocketAddr, text: &str) {
    tracing::info!(peer = %peer.short(), %remote, reason = %text, "caller refused");
}

fn protocol_of(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

/// Answers until the endpoint is closed. The slot of a handshake is free again when it is over.
async fn answer(endpoint: quinn::Endpoint, door: Arc<Door>) {
    let gate = Gate::default();
    while let Some(incoming) = endpoint.accept().await {
        let proven = incoming.remote_address_validated();
        let slot = match gate.judge(incoming.remote_address().ip(), proven) {
            Verdict::Answer(slot) => slot,
            Verdict::Prove => {
                // Fails only for an address that is proven already.
                let _ = incoming.retry();
                continue;
            }
            Verdict::Ignore => {
                incoming.ignore();
                continue;
            }
        };
        let door = Arc::clone(&door);
        tokio::spawn(async move {
            let admitted = door.welcome(incoming).await;
            drop(slot);
            if let Some(admitted) = admitted {
                door.hand_on(admitted).await;
            }
        });
    }
}
