//! Small texts sealed to a store key: patient data in a column, a record's body.

use identity::{StoreKeyId, StorePublicKey};

use crate::base::{self, BASE_OVERHEAD_BYTES, UnsealError};
use crate::id::ID_BYTES;
use crate::store_key::StoreKey;

/// How many bytes a sealed document has more than the text.
pub const DOCUMENT_OVERHEAD_BYTES: usize = 1 + ID_BYTES + BASE_OVERHEAD_BYTES;

const VERSION: u8 = 1;
const PURPOSE: &str = "chasqui/document/1";

/// Seals a text so that only `recipient` opens it, and only under the same domain.
///
/// The domain says what the text is and where it belongs, for instance `order/1.2.840.99`: a text
/// under its own domain cannot be passed off as that of another row.
///
/// ```
/// use sealing::{StoreKey, open_with, seal_to};
/// let key = StoreKey::generate();
/// let sealed = seal_to(key.public_key(), "order/1.2.840.99", b"a name");
/// assert_eq!(open_with(&key, "order/1.2.840.99", &sealed).unwrap()[..], b"a name"[..]);
/// assert!(open_with(&key, "order/1.2.840.98", &sealed).is_err());
/// ```
///
/// # Panics
/// When the operating system has no randomness to give.
pub fn seal_to(recipient: &StorePublicKey, domain: &str, text: &[u8]) -> Vec<u8> {
    seal_by(recipient, domain, text, &mut base::system_randomness())
}

/// Opens what [`seal_to`] made for this key under this domain.
pub fn open_with(key: &StoreKey, domain: &str, sealed: &[u8]) -> Result<Vec<u8>, UnsealError> {
    let (version, rest) = sealed.split_first().ok_or(UnsealError::Truncated)?;
    if *version != VERSION {
        return Err(UnsealError::UnknownVersion(*version));
    }
    let (recipient, rest) = rest.split_first_chunk().ok_or(UnsealError::Truncated)?;
    if rest.len() < BASE_OVERHEAD_BYTES {
        return Err(UnsealError::Truncated);
    }
    let sealed_to = StoreKeyId::from_bytes(*recipient);
    let ours = key.public_key().id();
    if sealed_to != ours {
        return Err(UnsealError::OtherRecipient { sealed_to, ours });
    }
    base::open(key, &info(domain), &head(ours), rest)
}

pub(crate) fn seal_by(
    recipient: &StorePublicKey,
    domain: &str,
    text: &[u8],
    randomness: &mut impl hpke::rand_core::CryptoRng,
) -> Vec<u8> {
    let head = head(recipient.id());
    let sealed = base::seal(recipient, &info(domain), &head, text, randomness);
    [&head[..], &sealed].concat()
}

fn head(recipient: StoreKeyId) -> Vec<u8> {
    [&[VERSION], &recipient.as_bytes()[..]].concat()
}

fn info(domain: &str) -> Vec<u8> {
    [PURPOSE.as_bytes(), &[0], domain.as_bytes()].concat()
}
