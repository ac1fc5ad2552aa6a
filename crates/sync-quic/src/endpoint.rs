//! One UDP socket that speaks QUIC: what dialling and listening share.
//!
//! In: a socket, the node key. Out: a quinn endpoint.
//! Invariant: the stateless reset key follows from the node key, so that a peer whose connection
//! we forgot in a crash or a power cut learns it with the first packet it sends, instead of
//! waiting out its idle timeout.
//! May not: hold connections or know what is said on them.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use identity::NodeKey;
use quinn::{AsyncUdpSocket, EndpointConfig, Runtime as _, ServerConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use tokio::sync::watch;

use crate::close::Code;

/// How long a close may take to reach the peers when a program stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Starts the endpoint's driver on `socket`.
pub(crate) fn open(
    socket: UdpSocket,
    key: &NodeKey,
    server: Option<ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    let socket = TokioRuntime.wrap_udp_socket(socket)?;
    over(socket, key, server)
}

/// Starts the endpoint's driver over a socket.
pub(crate) fn over(
    socket: Arc<dyn AsyncUdpSocket>,
    key: &NodeKey,
    server: Option<ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    let reset = ResetKey::of(key);
    let ids = u64::from_le_bytes(*reset.0.first_chunk().expect("32 bytes hold 8"));
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

/// Closes all that is open on either road, and waits until the peers have heard that we are gone,
/// but not for long.
pub(crate) async fn close(endpoint: &quinn::Endpoint, lines: &watch::Sender<bool>) {
    endpoint.close(Code::Stopping.varint(), b"stopping");
    lines.send_replace(true);
    let gone = async { tokio::join!(endpoint.wait_idle(), lines.closed()) };
    if tokio::time::timeout(FAREWELL, gone).await.is_err() {
        tracing::debug!("some peers did not hear the close");
    }
}

/// The key of stateless reset tokens (RFC 9000 10.3.2), the same in each run of one node.
struct ResetKey([u8; 32]);

impl ResetKey {
    fn of(key: &NodeKey) -> Self {
        // ed25519 signatures are deterministic; a TLS or COSE message never begins like this one.
        let seed = key.sign(b"chasqui/stateless-reset/1");
        Self(blake3::derive_key(
            "chasqui sync-quic stateless reset 1",
            &seed,
        ))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0)
            .update(data)
            .finalize_xof()
            .fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = blake3::Hash::from_slice(signature).map_err(|_| CryptoError)?;
        // `Hash` compares in constant time.
        (blake3::keyed_hash(&self.0, data) == signature)
            .then_some(())
            .ok_or(CryptoError)
    }
}
