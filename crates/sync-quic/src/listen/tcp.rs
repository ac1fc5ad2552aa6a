//! The second door: callers who come by TLS over TCP because no UDP passes where they are.
//!
//! In: TCP connections of anyone. Out: what [`super::Door`] lets in.
//! Invariant: until it is admitted a connection holds one of few places, of which one address has
//! only some, and none longer than a deadline; one too many is closed unread.
//! May not: admit; the one [`super::Door`] does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Admitted, Door, Refusal};
use crate::close::Code;
use crate::enrol::EnrolCall;
use crate::gate::{Gate, Slot, Verdict};
use crate::line::Line;
use crate::profile::LinkProfile;
use crate::tcp::{self, Counted, Counts, Secured, TcpLine};
use crate::tls::{self, Purpose};

/// How long a handshake may take: three round trips of the slowest link, with losses.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long to wait when the kernel has no descriptor left.
const BREATH: Duration = Duration::from_millis(200);

/// What answering takes.
pub(super) struct Entrance {
    pub(super) door: Arc<Door>,
    pub(super) acceptor: TlsAcceptor,
    pub(super) profile: LinkProfile,
    pub(super) stop: watch::Receiver<bool>,
}

/// Answers until the listener is closed.
pub(super) async fn answer(listener: TcpListener, entrance: Entrance) {
    let entrance = Arc::new(entrance);
    let gate = Gate::default();
    let mut stop = entrance.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error says that the listener is gone, which is a stop too.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a call by TCP");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        // Whoever has finished TCP's own handshake has proved its address.
        let place = match gate.judge(remote.ip(), true) {
            Verdict::Answer(place) => place,
            Verdict::Prove | Verdict::Ignore => {
                tracing::debug!(%remote, "too many callers by TCP");
                continue;
            }
        };
        let entrance = Arc::clone(&entrance);
        tokio::spawn(async move {
            if let Some(admitted) = entrance.welcome(stream, remote, place).await {
                entrance.door.hand_on(admitted).await;
            }
        });
    }
}

impl Entrance {
    /// Takes one caller through handshake and door, or refuses it.
    async fn welcome(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        place: Slot,
    ) -> Option<Admitted> {
        let handshake = tokio::time::timeout(HANDSHAKE, self.secure(stream, remote));
        let (secured, peer, purpose) = match handshake.await {
            Ok(Ok(secured)) => secured,
            Ok(Err(error)) => {
                tracing::debug!(%remote, %error, "handshake by TCP failed");
                return None;
            }
            Err(_) => {
                tracing::debug!(%remote, "handshake by TCP took too long");
                return None;
            }
        };
        // Asked before the connection is anything but a place; entering asks again.
        let asked = match purpose {
            Purpose::Session => self.door.admission.admit(&peer),
            Purpose::Enrol => self.door.admission.admit_enrolment(&peer),
        };
        if let Err(Refusal(text)) = asked {
            super::note_refused(peer, remote, &text);
            secured.part(Code::Refused, &text).await;
            return None;
        }
        if purpose == Purpose::Enrol {
            let call = EnrolCall::by_tcp(secured, peer, place);
            return Some(Admitted::Enrol(call));
        }
        let line = Line::Tcp(TcpLine::start(secured));
        match self.door.enter(peer, &line) {
            Ok(admitted) => Some(admitted),
            Err(Refusal(text)) => {
                line.close(Code::Refused, &text);
                None
            }
        }
    }

    async fn secure(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> io::Result<(Secured, NodeId, Purpose)> {
        tcp::prepare(&stream, false, &self.profile)?;
        let counts = Arc::new(Counts::default());
        let counted = Counted {
            stream,
            counts: Arc::clone(&counts),
        };
        let stream = self.acceptor.accept(counted).await?;
        let (_, session) = stream.get_ref();
        let peer = session.peer_certificates().and_then(tls::peer_among);
        let peer = peer.ok_or_else(|| io::Error::other("no ed25519 key was shown"))?;
        let purpose = Purpose::of_tcp(session.alpn_protocol());
        let purpose = purpose.ok_or_else(|| io::Error::other("no protocol was agreed on"))?;
        let secured = Secured {
            stream: Box::new(stream.into()),
            remote,
            counts,
            stop: self.stop.clone(),
        };
        Ok((secured, peer, purpose))
    }
}
