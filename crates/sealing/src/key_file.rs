//! The file in which a store key is kept: plain, or behind a PIN.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use identity::StorePublicKey;
use identity::files::{self, FileError};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::store_key::StoreKey;
use crate::wrapped::{Lock, UnwrapError, WRAPPED_TAG, WrappedStoreKey};

/// What stands before the digits in a plain file.
const PLAIN_TAG: &str = "chasqui-store-key-1 ";
/// The tags without their format's number.
const FAMILIES: [&[u8]; 2] = [b"chasqui-store-key-", b"chasqui-wrapped-store-key-"];
/// The longest key file that is read.
const FILE_BYTES_MAX: u64 = 4096;
const CHECK_BYTES: usize = 32;

/// Says why a store key's file could not be made, read or changed.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file could not be read or written.
    #[error("the store key's file cannot be used")]
    File(#[from] FileError),
    /// The plain file's old bytes could not be wiped after the PIN was set; the PIN counts.
    #[error("the PIN is set, but the unprotected key could not be wiped from the disk")]
    NotWiped(#[source] io::Error),
    /// The file holds something else.
    #[error("this is not a store key's file")]
    Malformed,
    /// A file of a later program.
    #[error("the store key's file has a format that this program does not know")]
    UnknownVersion,
    /// A store key's file of which a bit was changed.
    #[error("the store key's file is damaged")]
    Damaged,
    /// The wrapped key does not open.
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
    /// A PIN can be set only where there is none.
    #[error("the store key has a PIN already")]
    HasPin,
    /// There is no PIN to change or to remove.
    #[error("the store key has no PIN")]
    HasNoPin,
}

/// What a store key's file holds.
#[derive(Debug)]
pub enum KeyFile {
    /// The key itself: whoever has the file has the key.
    Plain(StoreKey),
    /// The key behind a PIN.
    Wrapped(WrappedStoreKey),
}

impl KeyFile {
    /// Makes a new key without a PIN, in a new, owner-only file that is on disk when this returns.
    pub fn create(path: &Path) -> Result<StoreKey, KeyFileError> {
        let key = StoreKey::generate();
        files::create_private(path, &plain_bytes(&key))?;
        Ok(key)
    }

    /// Reads a file; refuses one that others than its owner may read.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        Self::from_bytes(&files::read_private(path, FILE_BYTES_MAX)?)
    }

    /// Reads the content of a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyFileError> {
        if let Some(keys) = bytes.strip_prefix(PLAIN_TAG.as_bytes()) {
            return plain_key(keys).map(Self::Plain);
        }
        if bytes.starts_with(WRAPPED_TAG) {
            return wrapped_key(bytes).map(Self::Wrapped);
        }
        Err(match FAMILIES.iter().any(|f| bytes.starts_with(f)) {
            true => KeyFileError::UnknownVersion,
            false => KeyFileError::Malformed,
        })
    }

    /// The public half, readable with or without a PIN.
    pub const fn public_key(&self) -> &StorePublicKey {
        match self {
            Self::Plain(key) => key.public_key(),
            Self::Wrapped(wrapped) => wrapped.public_key(),
        }
    }
}

/// Puts a plain key behind a PIN, and overwrites the plain file's old bytes as well as a disk lets it.
///
/// After a power cut the file is the old one or the new one. An error but
/// [`KeyFileError::NotWiped`] leaves the old one.
pub fn set_pin(path: &Path, lock: Lock<'_>) -> Result<(), KeyFileError> {
    let KeyFile::Plain(key) = KeyFile::load(path)? else {
        return Err(KeyFileError::HasPin);
    };
    let mut old = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|source| FileError::Io {
            action: "open for writing",
            path: path.into(),
            source,
        })?;
    replace_wrapped(path, &key, lock)?;
    wipe(&mut old).map_err(KeyFileError::NotWiped)
}

/// Puts a wrapped key behind another PIN, or another share; the old file stays if anything fails.
pub fn change_pin(path: &Path, old: Lock<'_>, new: Lock<'_>) -> Result<(), KeyFileError> {
    let key = open_wrapped(path, old)?;
    replace_wrapped(path, &key, new)
}

/// Takes the PIN away: the file holds the plain key then. The old file stays if anything fails.
pub fn remove_pin(path: &Path, lock: Lock<'_>) -> Result<(), KeyFileError> {
    let key = open_wrapped(path, lock)?;
    Ok(files::replace(path, &plain_bytes(&key))?)
}

fn open_wrapped(path: &Path, lock: Lock<'_>) -> Result<StoreKey, KeyFileError> {
    let KeyFile::Wrapped(wrapped) = KeyFile::load(path)? else {
        return Err(KeyFileError::HasNoPin);
    };
    Ok(wrapped.open(lock)?)
}

fn replace_wrapped(path: &Path, key: &StoreKey, lock: Lock<'_>) -> Result<(), KeyFileError> {
    let bytes = wrapped_bytes(&WrappedStoreKey::wrap(key, lock)?);
    // The old file is the only way to what was sealed: it goes after the new bytes were seen to open.
    let KeyFile::Wrapped(again) = KeyFile::from_bytes(&bytes)? else {
        return Err(KeyFileError::Damaged);
    };
    again.open(lock)?;
    Ok(files::replace(path, &bytes)?)
}

pub(crate) fn plain_bytes(key: &StoreKey) -> Zeroizing<Vec<u8>> {
    // Room for all of it: a Vec that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(PLAIN_TAG.len() + 2 * 65));
    text.extend_from_slice(PLAIN_TAG.as_bytes());
    for (half, end) in [(key.expose(), b' '), (key.public_key().as_bytes(), b'\n')] {
        for byte in half {
            write!(text, "{byte:02x}").expect("writing to a Vec does not fail");
        }
        text.push(end);
    }
    text
}

fn plain_key(keys: &[u8]) -> Result<StoreKey, KeyFileError> {
    let (secret, public) = std::str::from_utf8(keys)
        .ok()
        .and_then(|text| text.trim_ascii_end().split_once(' '))
        .and_then(|(secret, public)| Some((Zeroizing::new(unhex(secret)?), unhex(public)?)))
        .ok_or(KeyFileError::Damaged)?;
    let key = StoreKey::from_secret(&secret);
    if *key.public_key().as_bytes() == public {
        Ok(key)
    } else {
        Err(KeyFileError::Damaged)
    }
}

/// Reads exactly 64 hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|h| *h.as_bytes())
}

pub(crate) fn wrapped_bytes(wrapped: &WrappedStoreKey) -> Vec<u8> {
    let mut bytes = WRAPPED_TAG.to_vec();
    minicbor::encode(wrapped, &mut bytes).expect("writing to a Vec does not fail");
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn wrapped_key(bytes: &[u8]) -> Result<WrappedStoreKey, KeyFileError> {
    let (content, check) = bytes
        .split_last_chunk::<CHECK_BYTES>()
        .ok_or(KeyFileError::Damaged)?;
    if blake3::hash(content) != *check {
        return Err(KeyFileError::Damaged);
    }
    let body = content
        .strip_prefix(WRAPPED_TAG)
        .ok_or(KeyFileError::Damaged)?;
    let wrapped = minicbor::decode(body).map_err(|_| KeyFileError::Malformed)?;
    if wrapped_bytes(&wrapped) == bytes {
        Ok(wrapped)
    } else {
        Err(KeyFileError::Malformed)
    }
}

/// Overwrites a file that has no name any more, where the file system writes in place.
fn wipe(file: &mut File) -> io::Result<()> {
    let bytes = usize::try_from(file.metadata()?.len().min(FILE_BYTES_MAX)).unwrap_or_default();
    file.write_all(&vec![0; bytes])?;
    file.sync_all()
}
