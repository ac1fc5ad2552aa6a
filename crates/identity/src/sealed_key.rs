//! A person's secret key in a file: sealed by a passphrase (Argon2id, XChaCha20-Poly1305).

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use minicbor::{Decode, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::key::{NodeId, NodeKey};
use crate::wire::{self, DocumentError, FORMAT};

/// What the content of a sealed key file begins with, so that a wrong file is told from a wrong passphrase.
const MAGIC: &str = "chasqui-sealed-key";
/// The longest sealed key file, and the longest passphrase file.
const FILE_BYTES_MAX: u64 = 4096;
/// Argon2id's cost, the second recommendation of RFC 9106 4 with one lane: memory in KiB, passes.
const COST: Cost = Cost {
    memory_kib: 65_536,
    passes: 3,
    lanes: 1,
};
/// What a file may demand of the machine that opens it.
const COST_MAX: Cost = Cost {
    memory_kib: 1 << 20,
    passes: 16,
    lanes: 8,
};

/// Says why a sealed key could not be opened.
#[derive(Debug, Error)]
pub enum SealedKeyError {
    /// The file could not be read.
    #[error("the key file cannot be used")]
    File(#[from] FileError),
    /// The bytes are not a sealed key.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The file demands more memory or time than is given.
    #[error("the sealed key demands more memory or time than is allowed")]
    TooCostly,
    /// The passphrase is wrong, or the file was altered: the two cannot be told apart.
    #[error("the passphrase is wrong or the key file was altered")]
    WrongPassphrase,
    /// The passphrase file is empty or not text.
    #[error("{0} holds no passphrase")]
    NoPassphrase(String),
}

/// Seals a key under a passphrase; the result is the content of a key file.
///
/// # Panics
/// When the operating system has no randomness to give.
pub fn seal_key(key: &NodeKey, passphrase: &[u8]) -> Vec<u8> {
    let mut salt = [0; 16];
    let mut nonce = [0; 24];
    getrandom::fill(&mut salt).expect("the operating system gives randomness");
    getrandom::fill(&mut nonce).expect("the operating system gives randomness");
    let head = SealHead {
        format: FORMAT,
        magic: MAGIC.into(),
        id: key.id(),
        cost: COST,
        salt,
        nonce,
    };
    let cipher = head
        .cipher(passphrase)
        .expect("our own cost is a valid one");
    let seed = key.seed();
    let payload = Payload {
        msg: &seed[..],
        aad: &wire::encode(&head),
    };
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), payload)
        .expect("32 bytes can be sealed");
    wire::encode(&SealedKey {
        format: FORMAT,
        head,
        sealed,
    })
}

/// Opens what [`seal_key`] made.
pub fn open_sealed_key(bytes: &[u8], passphrase: &[u8]) -> Result<NodeKey, SealedKeyError> {
    let SealedKey { head, sealed, .. } = wire::decode("sealed key", bytes)?;
    if head.magic != MAGIC {
        let reason = "another kind of file".into();
        return Err(DocumentError::Malformed {
            what: "sealed key",
            reason,
        }
        .into());
    }
    wire::check_format("sealed key", head.format)?;
    let cipher = head.cipher(passphrase)?;
    let payload = Payload {
        msg: &sealed[..],
        aad: &wire::encode(&head),
    };
    let seed = cipher
        .decrypt(&XNonce::from(head.nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| SealedKeyError::WrongPassphrase)?;
    let seed: &[u8; 32] = seed[..]
        .try_into()
        .map_err(|_| SealedKeyError::WrongPassphrase)?;
    let key = NodeKey::from_seed(seed);
    if key.id() == head.id {
        Ok(key)
    } else {
        Err(SealedKeyError::WrongPassphrase)
    }
}

/// Opens a sealed key file with the passphrase of another file.
pub fn load_sealed_key(path: &Path, passphrase: &[u8]) -> Result<NodeKey, SealedKeyError> {
    open_sealed_key(&files::read_private(path, FILE_BYTES_MAX)?, passphrase)
}

/// Reads a passphrase file: its first line.
pub fn read_passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, SealedKeyError> {
    let bytes = Zeroizing::new(files::read(path, FILE_BYTES_MAX)?);
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(SealedKeyError::NoPassphrase(path.display().to_string()));
    }
    Ok(Zeroizing::new(line.to_vec()))
}

#[derive(Clone, Copy, Encode, Decode)]
struct Cost {
    #[n(0)]
    memory_kib: u32,
    #[n(1)]
    passes: u32,
    #[n(2)]
    lanes: u32,
}

/// All but the ciphertext; authenticated with it.
#[derive(Encode, Decode)]
struct SealHead {
    #[n(0)]
    format: u8,
    #[n(1)]
    magic: String,
    #[n(2)]
    id: NodeId,
    #[n(3)]
    cost: Cost,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    salt: [u8; 16],
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    nonce: [u8; 24],
}

#[derive(Encode, Decode)]
struct SealedKey {
    #[n(0)]
    format: u8,
    #[n(1)]
    head: SealHead,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    sealed: Vec<u8>,
}

impl SealHead {
    fn cipher(&self, passphrase: &[u8]) -> Result<XChaCha20Poly1305, SealedKeyError> {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        if memory_kib > COST_MAX.memory_kib || passes > COST_MAX.passes || lanes > COST_MAX.lanes {
            return Err(SealedKeyError::TooCostly);
        }
        let params = Params::new(memory_kib, passes, lanes, Some(32))
            .map_err(|_| SealedKeyError::TooCostly)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, &self.salt, &mut *key)
            .map_err(|_| SealedKeyError::TooCostly)?;
        Ok(XChaCha20Poly1305::new((&*key).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (NodeKey, Vec<u8>) {
        let key = NodeKey::generate();
        let bytes = seal_key(&key, b"correct horse");
        (key, bytes)
    }

    #[test]
    fn only_the_passphrase_opens_it() {
        let (key, bytes) = sealed();
        assert_eq!(
            open_sealed_key(&bytes, b"correct horse").unwrap().id(),
            key.id()
        );
        let refused = open_sealed_key(&bytes, b"battery staple").unwrap_err();
        assert!(
            matches!(refused, SealedKeyError::WrongPassphrase),
            "{refused:?}"
        );
        assert!(
            !bytes.windows(32).any(|w| w == &key.seed()[..]),
            "the seed is not in the file"
        );
    }

    #[test]
    fn an_altered_file_is_refused() {
        let (key, bytes) = sealed();
        // The name of the key, a byte of the nonce, of the ciphertext, of its tag.
        let id_at = bytes
            .windows(32)
            .position(|w| w == key.id().as_bytes())
            .unwrap();
        for at in [id_at, bytes.len() - 60, bytes.len() - 40, bytes.len() - 1] {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(
                open_sealed_key(&altered, b"correct horse").is_err(),
                "byte {at}"
            );
        }
        for length in [0, 1, 20, bytes.len() - 1] {
            let torn = open_sealed_key(&bytes[..length], b"correct horse").unwrap_err();
            assert!(matches!(torn, SealedKeyError::Document(_)), "{torn:?}");
        }
    }

    #[test]
    fn a_file_cannot_demand_the_machines_memory() {
        let (_, bytes) = sealed();
        let SealedKey {
            mut head, sealed, ..
        } = wire::decode("sealed key", &bytes).unwrap();
        head.cost.memory_kib = u32::MAX;
        let greedy = wire::encode(&SealedKey {
            format: FORMAT,
            head,
            sealed,
        });
        let refused = open_sealed_key(&greedy, b"correct horse").unwrap_err();
        assert!(matches!(refused, SealedKeyError::TooCostly), "{refused:?}");
    }

    #[test]
    fn the_passphrase_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        for content in ["correct horse", "correct horse\n", "correct horse\r\nnotes"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(&read_passphrase(&path).unwrap()[..], b"correct horse");
        }
        std::fs::write(&path, "\n").unwrap();
        let refused = read_passphrase(&path).unwrap_err();
        assert!(
            matches!(refused, SealedKeyError::NoPassphrase(_)),
            "{refused:?}"
        );
    }
}
