//! HPKE base mode (RFC 9180), single shot, with the one suite of this crate.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{CryptoRng, UnwrapErr};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use identity::{StoreKeyId, StorePublicKey};
use thiserror::Error;

use crate::store_key::StoreKey;

/// The encapsulated key and the tag.
pub(crate) const BASE_OVERHEAD_BYTES: usize = ENCAPSULATED_BYTES + 16;
const ENCAPSULATED_BYTES: usize = 32;

/// Says why something sealed to a store key does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnsealError {
    /// Shorter than anything sealed.
    #[error("the sealed bytes are cut short")]
    Truncated,
    /// Sealed by a later program.
    #[error("sealed in format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// Sealed to somebody else.
    #[error("sealed to store key {sealed_to}, not to {ours}")]
    OtherRecipient {
        /// Who could open it.
        sealed_to: StoreKeyId,
        /// Who tried.
        ours: StoreKeyId,
    },
    /// Altered, or sealed for another purpose, study or domain: these cannot be told apart.
    #[error("the sealed bytes were altered or belong elsewhere")]
    Altered,
}

/// The operating system's randomness.
///
/// # Panics
/// Its user panics when there is none to give: nothing can be trusted then.
pub(crate) fn system_randomness() -> impl CryptoRng {
    UnwrapErr(getrandom::SysRng)
}

/// Seals to a store key: encapsulated key, ciphertext, tag.
pub(crate) fn seal(
    recipient: &StorePublicKey,
    info: &[u8],
    associated: &[u8],
    body: &[u8],
    randomness: &mut impl CryptoRng,
) -> Vec<u8> {
    let public = public(recipient.as_bytes());
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<
        ChaCha20Poly1305,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &public, info, body, associated, randomness)
    .expect("the point was checked when the key was made, and the body fits in memory");
    [&encapsulated.to_bytes()[..], &sealed].concat()
}

/// Opens what [`seal`] made.
pub(crate) fn open(
    key: &StoreKey,
    info: &[u8],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, UnsealError> {
    let (encapsulated, sealed) = sealed
        .split_at_checked(ENCAPSULATED_BYTES)
        .ok_or(UnsealError::Truncated)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated)
        .map_err(|_| UnsealError::Truncated)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret(key.expose()),
        &encapsulated,
        info,
        sealed,
        associated,
    )
    .map_err(|_| UnsealError::Altered)
}

/// The public key of a secret.
pub(crate) fn public_of(secret_bytes: &[u8; 32]) -> [u8; 32] {
    X25519HkdfSha256::sk_to_pk(&secret(secret_bytes))
        .to_bytes()
        .into()
}

fn secret(bytes: &[u8; 32]) -> <X25519HkdfSha256 as Kem>::PrivateKey {
    Deserializable::from_bytes(bytes).expect("32 bytes are a secret key")
}

fn public(bytes: &[u8; 32]) -> <X25519HkdfSha256 as Kem>::PublicKey {
    Deserializable::from_bytes(bytes).expect("32 bytes are a public key")
}
