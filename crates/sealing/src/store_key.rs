//! The secret half of a store key of a box or a hub.

use std::fmt;

use identity::StorePublicKey;
use zeroize::Zeroizing;

use crate::base;

/// An X25519 secret key; it is wiped from memory when dropped and never printed.
pub struct StoreKey {
    // On the heap, so that a move leaves no copy behind.
    secret: Box<Zeroizing<[u8; 32]>>,
    public: StorePublicKey,
}

impl StoreKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing can be trusted then.
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the operating system gives randomness");
        Self::from_secret(&secret)
    }

    /// Takes 32 secret bytes; clamped when used (RFC 7748 5).
    pub(crate) fn from_secret(secret: &[u8; 32]) -> Self {
        Self {
            public: StorePublicKey::from_bytes(base::public_of(secret))
                .expect("the public half of a clamped secret is never of small order"),
            secret: Box::new(Zeroizing::new(*secret)),
        }
    }

    /// The public half.
    pub const fn public_key(&self) -> &StorePublicKey {
        &self.public
    }

    /// The secret, for opening and for key files.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey(*** of {})", self.public.id())
    }
}
