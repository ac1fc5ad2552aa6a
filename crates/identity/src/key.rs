//! Ed25519 keys: what names a node, a person or an authority, and the secret behind the name.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// What stands before the 64 hexadecimal digits in a key file.
const KEY_FILE_TAG: &str = "chasqui-key-1 ";
/// The longest key file that is read.
const KEY_FILE_BYTES_MAX: u64 = 4096;
/// DER of a SubjectPublicKeyInfo for Ed25519, up to the key (RFC 8410 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// DER of a version 1 PrivateKeyInfo for Ed25519, up to the seed (RFC 8410 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Says that a text or bytes are not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NodeIdError {
    /// The text is not 64 hexadecimal digits.
    #[error("a key is written as 64 hexadecimal digits")]
    NotHex,
    /// The DER is not that of an Ed25519 public key.
    #[error("the public key is not an Ed25519 key")]
    NotEd25519,
}

/// An Ed25519 public key: the name of a node, a person or an authority.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct NodeId(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl NodeId {
    /// Takes the 32 bytes of a public key; whether they are a point shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for logs.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }

    /// The key as DER SubjectPublicKeyInfo (RFC 8410), as TLS raw public keys carry it.
    pub fn to_spki_der(&self) -> [u8; 44] {
        let mut der = [0; 44];
        der[..12].copy_from_slice(&SPKI_PREFIX);
        der[12..].copy_from_slice(&self.0);
        der
    }

    /// Reads a DER SubjectPublicKeyInfo (RFC 8410).
    pub fn from_spki_der(der: &[u8]) -> Result<Self, NodeIdError> {
        let key = der
            .strip_prefix(&SPKI_PREFIX)
            .ok_or(NodeIdError::NotEd25519)?;
        key.try_into()
            .map(Self)
            .map_err(|_| NodeIdError::NotEd25519)
    }

    /// Checks a signature over `message`: strictly, so that one message has one signature (RFC 8032 5.1.7).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
            .is_ok()
    }

    /// The key's X25519 form (RFC 7748 4.1), to which can be sealed what only this node opens; none
    /// when the bytes are no point that has a secret behind it.
    pub fn to_x25519(&self) -> Option<[u8; 32]> {
        let point = VerifyingKey::from_bytes(&self.0).ok()?;
        (!point.is_weak()).then(|| point.to_montgomery().to_bytes())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        unhex(text).map(Self).ok_or(NodeIdError::NotHex)
    }
}

/// Says why a key file could not be made or read.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("the key file cannot be used")]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{0} is not a key file")]
    Malformed(String),
}

/// An Ed25519 secret key; it is wiped from memory when dropped and never printed.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing can be trusted then.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).expect("the operating system gives randomness");
        Self::from_seed(&seed)
    }

    /// Takes a 32-byte seed (RFC 8032 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for sealing and for transport inside a voucher.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Makes a new key and keeps it in a new, owner-only file that is on disk when this returns.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate();
        key.save(path)?;
        Ok(key)
    }

    /// Keeps the key in a new, owner-only file that is on disk when this returns.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let text = Zeroizing::new(format!(
            "{KEY_FILE_TAG}{}\n",
            *Zeroizing::new(hex(&*self.seed()))
        ));
        Ok(files::create_private(path, text.as_bytes())?)
    }

    /// Reads a key file; refuses one that others than its owner may read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let bytes = files::read_private(path, KEY_FILE_BYTES_MAX)?;
        let seed = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim_end().strip_prefix(KEY_FILE_TAG))
            .and_then(unhex)
            .map(Zeroizing::new)
            .ok_or_else(|| KeyError::Malformed(path.display().to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// The public key.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`. Documents are signed by [`crate::cose`], which adds their domain.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The secret half of [`NodeId::to_x25519`]; clamped when used (RFC 7748 5).
    pub fn x25519_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    /// The key as DER PrivateKeyInfo (RFC 8410, version 1), as TLS libraries take it.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &self.seed()[..]].concat())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(*** of {})", self.id().short())
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads exactly 64 hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|h| *h.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn both_halves_have_an_x25519_form_and_weak_points_have_none() {
        let key = NodeKey::generate();
        let public =
            x25519_dalek::x25519(*key.x25519_secret(), x25519_dalek::X25519_BASEPOINT_BYTES);
        assert_eq!(key.id().to_x25519(), Some(public));
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(NodeId::from_bytes(neutral).to_x25519(), None);
    }

    #[test]
    fn a_key_file_is_owner_only_and_gives_the_same_key_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = NodeKey::create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(NodeKey::load(&path).unwrap().id(), key.id());
    }

    #[test]
    fn a_key_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = NodeKey::create(&path).unwrap();
        let refused = NodeKey::create(&path).unwrap_err();
        assert!(
            matches!(refused, KeyError::File(FileError::Exists(_))),
            "{refused:?}"
        );
        assert_eq!(NodeKey::load(&path).unwrap().id(), key.id());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        NodeKey::create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let refused = NodeKey::load(&path).unwrap_err();
        assert!(
            matches!(refused, KeyError::File(FileError::NotPrivate(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn what_is_no_key_file_is_refused_by_name_and_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        for content in [
            "",
            "chasqui-key-1 ",
            "chasqui-key-1 00ff\n",
            "chasqui-key-2 secret",
        ] {
            let _ = fs::remove_file(&path);
            files::create_private(&path, content.as_bytes()).unwrap();
            let refused = NodeKey::load(&path).unwrap_err();
            assert!(
                matches!(refused, KeyError::Malformed(_)),
                "{content}: {refused:?}"
            );
            assert!(!format!("{refused}{refused:?}").contains("secret"));
        }
    }

    #[test]
    fn hex_and_der_go_there_and_back() {
        let id = NodeKey::from_seed(&[7; 32]).id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(NodeId::from_spki_der(&id.to_spki_der()), Ok(id));
        assert_eq!("xy".parse::<NodeId>(), Err(NodeIdError::NotHex));
        assert_eq!(
            NodeId::from_spki_der(&id.to_spki_der()[1..]),
            Err(NodeIdError::NotEd25519)
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = NodeKey::from_seed(&[0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }

    // RFC 8032 7.1, test 2.
    #[test]
    fn signatures_are_those_of_rfc_8032() {
        let seed =
            unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = NodeKey::from_seed(&seed);
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(key.id().to_string(), public);
        let signature = key.sign(&[0x72]);
        assert!(hex(&signature).starts_with("92a009a9f0d4cab8720e820b5f642540"));
        assert!(key.id().verifies(&[0x72], &signature));
        assert!(!key.id().verifies(&[0x73], &signature));
    }

    // The neutral element as a key lets one signature fit every message, unless checked strictly.
    #[test]
    fn a_weak_key_verifies_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!NodeId::from_bytes(neutral).verifies(b"anything", &signature));
    }
}
