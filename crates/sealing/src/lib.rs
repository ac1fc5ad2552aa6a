//! Sealing: what is at rest can be read by those who hold a key, and by nobody else.
//!
//! In: bodies, texts, keys, PINs. Out: sealed bytes, envelopes, key files, and all of that opened again.
//! Invariant: no secret leaves in clear but to an owner-only key file, and none is printed.
//! May not: open sockets, read a clock, decide when a vault is locked.
//!
//! # Keys
//!
//! A *store key* is an X25519 key pair of a box or a hub. A *data key* is 32 random bytes that seal the
//! bodies of one study; it is kept only in *envelopes*, each sealed to one store key.
//!
//! Ids are names, safe to publish: the first 8 bytes of BLAKE3 in key derivation mode, in text 16
//! hexadecimal digits.
//!
//! | id | context | input |
//! |---|---|---|
//! | data key | `chasqui data key id 1` | the 32 bytes of the data key |
//! | store key | `chasqui store key id 1` | the 32 bytes of the public key |
//!
//! # A sealed body
//!
//! XChaCha20-Poly1305 under a data key; [`OVERHEAD_BYTES`] = 49 bytes more than the body.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 8 | id of the data key |
//! | 9 | 24 | nonce, random |
//! | 33 | N | ciphertext |
//! | 33 + N | 16 | tag |
//!
//! Associated data: `chasqui/sealed-body/1`, then bytes 0 to 8 as stored.
//!
//! # HPKE
//!
//! RFC 9180 in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305 (0x0020, 0x0001,
//! 0x0003), single shot. `HPKE(info, associated data, text)` below is the encapsulated key (32), the
//! ciphertext and the tag (16), joined. Base mode doesn't say who sealed: a signature around it does.
//! A public key is refused when it is not the one way to write its point, or of small order.
//!
//! # Envelopes
//!
//! Deterministic CBOR; any other way to write the same is refused. A box keeps `key-envelopes`, at most
//! [`KEY_ENVELOPES_BYTES_MAX`] = 195 bytes; with the study, signed, travels the hub's `key-envelope`,
//! [`KEY_ENVELOPE_BYTES`] = 103 bytes.
//!
//! ```text
//! key-envelopes = [1, bstr .size 8      ; id of the data key
//!                 , envelope            ; to the box that took the study in
//!                 , envelope / null]    ; to the hub; null while no hub is known
//! key-envelope  = [1, bstr .size 8      ; id of the data key
//!                 , envelope]
//! envelope      = [bstr .size 8         ; id of the recipient's store key
//!                 , bstr .size 80]      ; HPKE(info, empty, data key)
//! info          = "chasqui/data-key/1" 0x00 study-instance-uid 0x00 data-key-id
//! ```
//!
//! The key that comes out must have the id that stands beside its envelope.
//!
//! # A sealed document
//!
//! Patient data in a column, a record's body: [`DOCUMENT_OVERHEAD_BYTES`] = 57 bytes more than the text.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 8 | id of the recipient's store key |
//! | 9 | 48 + N | HPKE(`chasqui/document/1` 0x00 domain, bytes 0 to 8, text) |
//!
//! # Key files
//!
//! Mode 0600, replaced at once or not at all. Without a PIN, one line:
//! `chasqui-store-key-1 SECRET PUBLIC`, each 64 hexadecimal digits; the public key shows damage.
//!
//! With a PIN: the line `chasqui-wrapped-store-key-1`, then the CBOR `[head, bstr .size 48]`, then 32
//! bytes: BLAKE3 of all before, which tells damage from a wrong PIN without one.
//!
//! ```text
//! head = [bstr .size 32                 ; public key
//!        , [memory-kib, passes, lanes]  ; Argon2id, at most 262144, 16, 4
//!        , bstr .size 16                ; salt
//!        , bool                         ; a share is needed
//!        , bstr .size 24]               ; nonce
//! ```
//!
//! Wrapping key: Argon2id 1.3 (RFC 9106) over the PIN and the salt, with the 32-byte share, if any, as
//! its secret value K. The 48 bytes are the secret under XChaCha20-Poly1305; associated data: the first
//! line with its line feed, then the head as stored.
//!
//! # What a PIN is worth
//!
//! Without a share, whoever has the disk tries PINs as fast as their machines compute Argon2id. At the
//! written cost (64 MiB, 3 passes) a small computer takes a third of a second for one: four digits fall
//! within the hour, six within days, to many machines sooner; ten random letters and digits hold. With
//! a share, nobody who lacks the supervisor can try at all. Setting a PIN overwrites the plain file's
//! old blocks, but flash and copy-on-write file systems may keep a copy, and a power cut between
//! replacing and overwriting leaves one: set the PIN before the first patient.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod base;
mod data_key;
mod document;
mod envelope;
mod id;
mod key_file;
mod keyring;
mod store_key;
mod wrapped;

pub use base::UnsealError;
pub use data_key::{DataKey, OVERHEAD_BYTES, OpenError};
pub use document::{DOCUMENT_OVERHEAD_BYTES, open_with, seal_to};
pub use envelope::{
    Envelope, EnvelopeError, KEY_ENVELOPE_BYTES, KEY_ENVELOPES_BYTES_MAX, KeyEnvelope, KeyEnvelopes,
};
pub use id::KeyId;
pub use identity::{StoreKeyId, StorePublicKey, StorePublicKeyError};
pub use key_file::{KeyFile, KeyFileError, change_pin, remove_pin, set_pin};
pub use keyring::{HELD_KEYS_MAX, Keyring, KeyringError};
pub use store_key::StoreKey;
pub use wrapped::{Lock, Pin, PinError, Share, UnwrapError, WrappedStoreKey};

#[cfg(test)]
mod tests;
