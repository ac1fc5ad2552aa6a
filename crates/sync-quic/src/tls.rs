//! TLS 1.3 with raw ed25519 public keys (RFC 7250), pinned both ways.
//!
//! In: our node key and, when dialling, the key that the peer must have. Out: rustls configurations.
//! Invariant: no certificate, no date, no name and no shared secret takes part; a session that
//! passes has proved possession of exactly one ed25519 key. Tickets and 0-RTT are off, because a
//! resumed session would not ask who the peer is.
//! May not: decide which boxes are allowed; that is asked after the handshake, on every connection.

use std::sync::{Arc, Mutex, PoisonError};

use identity::{NodeId, NodeKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureAlgorithm, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A session.
    Session,
    /// An enrolment.
    Enrol,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Session, Self::Enrol];

    /// Its name in the handshake of QUIC (RFC 7301).
    fn alpn_quic(self) -> &'static [u8] {
        match self {
            Self::Session => b"chasqui/1",
            Self::Enrol => b"chasqui-enrol/1",
        }
    }

    /// Its name in the handshake of TLS over TCP, where frames are laid out differently.
    fn alpn_tcp(self) -> &'static [u8] {
        match self {
            Self::Session => b"chasqui-tcp/1",
            Self::Enrol => b"chasqui-enrol-tcp/1",
        }
    }

    /// What the handshake of a QUIC connection was for.
    pub(crate) fn of_quic(alpn: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|p| alpn == Some(p.alpn_quic()))
    }

    /// What the handshake over TCP was for.
    pub(crate) fn of_tcp(alpn: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|p| alpn == Some(p.alpn_tcp()))
    }
}

/// The key that a peer has shown, kept aside so that a refusal can name it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Option<NodeId>>>);

impl Shown {
    /// The key that the peer has shown, if it came so far.
    pub(crate) fn key(&self) -> Option<NodeId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: NodeId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

/// The dialling side over QUIC: proves `key`, accepts nobody but `expected`.
pub(crate) fn quic_client(
    key: &NodeKey,
    expected: NodeId,
    purpose: Purpose,
) -> (QuicClientConfig, Shown) {
    let (config, shown) = client(key, expected, purpose.alpn_quic());
    let config = QuicClientConfig::try_from(config);
    (config.expect("ring has the initial cipher suite"), shown)
}

/// The dialling side over TCP.
pub(crate) fn tcp_client(
    key: &NodeKey,
    expected: NodeId,
    purpose: Purpose,
) -> (TlsConnector, Shown) {
    let (config, shown) = client(key, expected, purpose.alpn_tcp());
    (Arc::new(config).into(), shown)
}

/// The listening side over QUIC: proves `key`, takes any peer that proves an ed25519 key of its own.
pub(crate) fn quic_server(key: &NodeKey) -> QuicServerConfig {
    let config = server(key, Purpose::alpn_quic);
    QuicServerConfig::try_from(config).expect("ring has the initial cipher suite")
}

/// The listening side over TCP.
pub(crate) fn tcp_server(key: &NodeKey) -> TlsAcceptor {
    Arc::new(server(key, Purpose::alpn_tcp)).into()
}

fn client(key: &NodeKey, expected: NodeId, alpn: &[u8]) -> (rustls::ClientConfig, Shown) {
    let shown = Shown::default();
    let verifier = Pinned {
        expected,
        shown: shown.clone(),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(
            key,
        ))));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    (config, shown)
}

fn server(key: &NodeKey, alpn: fn(Purpose) -> &'static [u8]) -> rustls::ServerConfig {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(Arc::new(AnyNode))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(
            key,
        ))));
    config.alpn_protocols = Purpose::ALL.map(|purpose| alpn(purpose).to_vec()).into();
    config.send_tls13_tickets = 0;
    config
}

/// Reads the node id out of what quinn says of the peer.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<NodeId> {
    let keys = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    peer_among(&keys)
}

/// Reads the node id out of the keys that a peer has shown.
pub(crate) fn peer_among(keys: &[CertificateDer<'_>]) -> Option<NodeId> {
    node_of(keys.first()?)
}

fn node_of(spki: &CertificateDer<'_>) -> Option<NodeId> {
    NodeId::from_spki_der(spki).ok()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certified(key: &NodeKey) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(key.id().to_spki_der().to_vec());
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(TlsKey(key.clone()))))
}

/// Lets rustls sign with a node key without ever seeing its secret.
#[derive(Debug, Clone)]
struct TlsKey(NodeKey);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Accepts one server key and no other.
#[derive(Debug)]
struct Pinned {
    expected: NodeId,
    shown: Shown,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let node = node_of(end_entity).ok_or(CertificateError::BadEncoding)?;
        self.shown.note(node);
        if node != self.expected {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts every client that proves an ed25519 key.
#[derive(Debug)]
struct AnyNode;

impl ClientCertVerifier for AnyNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        node_of(end_entity).ok_or(CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Checks the signature of a handshake by the same strict rule as that of a document.
fn verify_signature(
    message: &[u8],
    spki: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let node = node_of(spki).ok_or(CertificateError::BadEncoding)?;
    let signature = <&[u8; 64]>::try_from(dss.signature());
    match signature {
        Ok(signature)
            if dss.scheme == SignatureScheme::ED25519 && node.verifies(message, signature) =>
        {
            Ok(HandshakeSignatureValid::assertion())
        }
        Ok(_) | Err(_) => Err(CertificateError::BadSignature.into()),
    }
}
