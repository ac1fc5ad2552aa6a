//! A store key behind a PIN: Argon2id, with a share where there is one, then XChaCha20-Poly1305.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use identity::StorePublicKey;
use minicbor::{Decode, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::store_key::StoreKey;

/// The first line of a wrapped key file.
pub(crate) const WRAPPED_TAG: &[u8] = b"chasqui-wrapped-store-key-1\n";
/// How long a PIN is, in bytes.
const PIN_BYTES: std::ops::RangeInclusive<usize> = 4..=128;
/// The secret and its tag.
const SEALED_BYTES: usize = 32 + 16;
/// Argon2id's cost, the second recommendation of RFC 9106 4 with one lane.
const COST: Cost = Cost {
    memory_kib: 65_536,
    passes: 3,
    lanes: 1,
};
/// What a file may demand of the box that opens it.
const COST_MAX: Cost = Cost {
    memory_kib: 256 << 10,
    passes: 16,
    lanes: 4,
};

/// Says why a text is not a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PinError {
    /// Shorter or longer than a PIN may be.
    #[error("a PIN has 4 to 128 bytes")]
    Length,
}

/// What a person types to unlock; wiped from memory when dropped and never printed.
pub struct Pin(Zeroizing<Vec<u8>>);

impl Pin {
    /// Takes 4 to 128 bytes as typed.
    pub fn new(text: &str) -> Result<Self, PinError> {
        if PIN_BYTES.contains(&text.len()) {
            Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
        } else {
            Err(PinError::Length)
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(***)")
    }
}

/// The 32 bytes that the supervisor gives out; wiped from memory when dropped and never printed.
pub struct Share(Zeroizing<[u8; 32]>);

impl Share {
    /// Takes the 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share(***)")
    }
}

/// What a wrapped key opens with.
#[derive(Debug, Clone, Copy)]
pub struct Lock<'a> {
    /// What a person knows.
    pub pin: &'a Pin,
    /// What the supervisor holds, where there is one.
    pub share: Option<&'a Share>,
}

/// Says why a wrapped key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// The PIN is wrong, or the share is that of another box: these cannot be told apart.
    #[error("the PIN is wrong")]
    WrongPin,
    /// The key was wrapped with a share.
    #[error("the store key needs the supervisor's share")]
    ShareNeeded,
    /// The key was wrapped without a share.
    #[error("the store key was wrapped without a share")]
    ShareNotUsed,
    /// The file demands more memory or time than is given.
    #[error("the wrapped store key demands more memory or time than is allowed")]
    TooCostly,
    /// The machine has not the memory that the PIN's check takes.
    #[error("not enough memory to check the PIN")]
    NoMemory,
}

/// A store key that opens with a PIN; its public half is readable without.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct WrappedStoreKey {
    #[n(0)]
    head: Head,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    sealed: [u8; SEALED_BYTES],
}

impl WrappedStoreKey {
    /// Wraps a key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn wrap(key: &StoreKey, lock: Lock<'_>) -> Result<Self, UnwrapError> {
        let mut salt = [0; 16];
        let mut nonce = [0; 24];
        getrandom::fill(&mut salt).expect("the operating system gives randomness");
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        Self::wrap_by(
            key,
            lock,
            Chance {
                cost: COST,
                salt,
                nonce,
            },
        )
    }

    /// Opens it; takes a part of a second on purpose.
    pub fn open(&self, lock: Lock<'_>) -> Result<StoreKey, UnwrapError> {
        match (self.head.with_share, lock.share) {
            (true, None) => return Err(UnwrapError::ShareNeeded),
            (false, Some(_)) => return Err(UnwrapError::ShareNotUsed),
            (true, Some(_)) | (false, None) => {}
        }
        let payload = Payload {
            msg: &self.sealed[..],
            aad: &self.head.associated(),
        };
        let secret = self
            .head
            .cipher(lock)?
            .decrypt(&XNonce::from(self.head.nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| UnwrapError::WrongPin)?;
        let secret: &[u8; 32] = secret[..].try_into().map_err(|_| UnwrapError::WrongPin)?;
        let key = StoreKey::from_secret(secret);
        if *key.public_key() == self.head.public {
            Ok(key)
        } else {
            Err(UnwrapError::WrongPin)
        }
    }

    /// The public half, to which a locked box seals.
    pub const fn public_key(&self) -> &StorePublicKey {
        &self.head.public
    }

    /// Whether the PIN alone does not open it.
    pub const fn needs_share(&self) -> bool {
        self.head.with_share
    }

    pub(crate) fn wrap_by(
        key: &StoreKey,
        lock: Lock<'_>,
        chance: Chance,
    ) -> Result<Self, UnwrapError> {
        let head = Head {
            public: *key.public_key(),
            cost: chance.cost,
            salt: chance.salt,
            with_share: lock.share.is_some(),
            nonce: chance.nonce,
        };
        let payload = Payload {
            msg: &key.expose()[..],
            aad: &head.associated(),
        };
        let sealed = head
            .cipher(lock)?
            .encrypt(&XNonce::from(head.nonce), payload)
            .expect("32 bytes can be sealed");
        let sealed = sealed[..].try_into().expect("32 bytes and a tag");
        Ok(Self { head, sealed })
    }
}

impl fmt::Debug for WrappedStoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedStoreKey(*** of {})", self.head.public.id())
    }
}

/// What of a wrapping is not given by key and PIN.
pub(crate) struct Chance {
    pub(crate) cost: Cost,
    pub(crate) salt: [u8; 16],
    pub(crate) nonce: [u8; 24],
}

#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Cost {
    #[n(0)]
    pub(crate) memory_kib: u32,
    #[n(1)]
    pub(crate) passes: u32,
    #[n(2)]
    pub(crate) lanes: u32,
}

/// All but the ciphertext; authenticated with it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
struct Head {
    #[n(0)]
    public: StorePublicKey,
    #[n(1)]
    cost: Cost,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    salt: [u8; 16],
    #[n(3)]
    with_share: bool,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    nonce: [u8; 24],
}

impl Head {
    fn associated(&self) -> Vec<u8> {
        let head = minicbor::to_vec(self).expect("writing to a Vec does not fail");
        [WRAPPED_TAG, &head].concat()
    }

    fn cipher(&self, lock: Lock<'_>) -> Result<XChaCha20Poly1305, UnwrapError> {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        if memory_kib > COST_MAX.memory_kib || passes > COST_MAX.passes || lanes > COST_MAX.lanes {
            return Err(UnwrapError::TooCostly);
        }
        let params =
            Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| UnwrapError::TooCostly)?;
        let mut memory = Zeroizing::new(Vec::new());
        memory
            .try_reserve_exact(params.block_count())
            .map_err(|_| UnwrapError::NoMemory)?;
        memory.resize(params.block_count(), Block::default());
        let argon2 = match lock.share {
            Some(share) => {
                Argon2::new_with_secret(&share.0[..], Algorithm::Argon2id, Version::V0x13, params)
                    .map_err(|_| UnwrapError::TooCostly)?
            }
            None => Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
        };
        let mut key = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into_with_memory(
                &lock.pin.0,
                &self.salt,
                &mut *key,
                memory.as_mut_slice(),
            )
            .map_err(|_| UnwrapError::TooCostly)?;
        Ok(XChaCha20Poly1305::new((&*key).into()))
    }
}
