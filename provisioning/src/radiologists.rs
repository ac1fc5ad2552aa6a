//! Radiologists: their keys and the credentials under which they sign.
//!
//! In: an open authority, a public key, a name and a licence. Out: a credential, listed and as a file.
//! Invariant: a secret key is written sealed by its owner's passphrase or not at all.
//! May not: keep or learn a radiologist's secret key.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use identity::files::{self, FileError};
use identity::{
    Credential, Label, NodeId, NodeIdError, NodeKey, SealedKeyError, read_passphrase, seal_key,
};
use thiserror::Error;

use crate::authority::{Authority, AuthorityError};
use crate::enrol::refuse_existing;

/// The longest public key file.
const PUBLIC_KEY_BYTES_MAX: u64 = 1024;
/// A credential counts from a day before it was made: clocks differ.
const CLOCK_TOLERANCE_MS: u64 = 86_400_000;

/// Says why a credential was not given.
#[derive(Debug, Error)]
pub enum RadiologistError {
    /// The fleet's folder.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The passphrase could not be read.
    #[error("the passphrase cannot be used")]
    Passphrase(#[source] SealedKeyError),
    /// The file holds no public key.
    #[error("{} holds no public key", path.display())]
    PublicKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: NodeIdError,
    },
    /// The end lies in the past.
    #[error("the credential would have expired before it is given")]
    AlreadyOver,
    /// The key is known.
    #[error("key {} has a credential already: prolong it with `renew`", .0.short())]
    KnownKey(NodeId),
    /// The key was withdrawn.
    #[error("key {} was revoked: a new key is needed", .0.short())]
    RevokedKey(NodeId),
    /// Listed, but not written.
    #[error("the fleet lists the credential of key {} already, but its file was not written", key.short())]
    Unwritten {
        /// The radiologist's key.
        key: NodeId,
        /// Why it was not written.
        #[source]
        source: FileError,
    },
}

/// Who gets a credential, and until when.
#[derive(Debug, Clone)]
pub struct CredentialOrder {
    /// The radiologist's name, as it stands under a report.
    pub name: Label,
    /// The licence to practise.
    pub licence: Label,
    /// The last moment it is valid, milliseconds of the Unix epoch.
    pub valid_until_ms: u64,
    /// Where the radiologist's key is, or comes to be.
    pub key: KeySource,
}

/// Where a radiologist's public key comes from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The radiologist made the key elsewhere and gives its public half.
    Public(PathBuf),
    /// The key is made here, for the radiologist to take away.
    New {
        /// The sealed key file to write.
        key_file: PathBuf,
        /// The file whose first line is the radiologist's passphrase.
        passphrase_file: PathBuf,
    },
}

/// Gives a credential: lists it, then writes its file.
pub fn add_radiologist(
    authority: &mut Authority,
    order: CredentialOrder,
    output: &Path,
    now_ms: u64,
) -> Result<Credential, RadiologistError> {
    if order.valid_until_ms <= now_ms {
        return Err(RadiologistError::AlreadyOver);
    }
    refuse_existing(&[output])?;
    let key = match &order.key {
        KeySource::Public(path) => read_public_key(path)?,
        KeySource::New {
            key_file,
            passphrase_file,
        } => new_key(key_file, passphrase_file)?,
    };
    if authority.document().revocation(&key).is_some() {
        return Err(RadiologistError::RevokedKey(key));
    }
    if authority
        .document()
        .body()
        .credentials
        .iter()
        .any(|c| c.key == key)
    {
        return Err(RadiologistError::KnownKey(key));
    }
    let credential = Credential {
        format: Credential::FORMAT,
        fleet: authority.document().fleet(),
        key,
        name: order.name,
        licence: order.licence,
        valid_from_ms: now_ms.saturating_sub(CLOCK_TOLERANCE_MS),
        valid_until_ms: order.valid_until_ms,
    };
    give(authority, credential, Some(output), now_ms)
}

/// Gives a further credential to a radiologist; the ones before keep counting for the reports of their time.
pub(crate) fn prolong(
    authority: &mut Authority,
    last: &Credential,
    valid_until_ms: u64,
    (output, now_ms): (Option<&Path>, u64),
) -> Result<Credential, RadiologistError> {
    if valid_until_ms <= now_ms {
        return Err(RadiologistError::AlreadyOver);
    }
    refuse_existing(output.as_slice())?;
    let valid_from_ms = now_ms.saturating_sub(CLOCK_TOLERANCE_MS);
    let credential = Credential {
        valid_from_ms,
        valid_until_ms,
        ..last.clone()
    };
    give(authority, credential, output, now_ms)
}

fn give(
    authority: &mut Authority,
    credential: Credential,
    output: Option<&Path>,
    now_ms: u64,
) -> Result<Credential, RadiologistError> {
    authority.publish(now_ms, |body| body.credentials.push(credential.clone()))?;
    if let Some(output) = output {
        let key = credential.key;
        files::create_public(output, &credential.sign(authority.issuing()))
            .map_err(|source| RadiologistError::Unwritten { key, source })?;
    }
    Ok(credential)
}

/// Makes a radiologist's key: `KEYFILE`, sealed by the passphrase, and `KEYFILE.pub` for the authority.
pub fn new_key(key_file: &Path, passphrase_file: &Path) -> Result<NodeId, RadiologistError> {
    let passphrase = read_passphrase(passphrase_file).map_err(RadiologistError::Passphrase)?;
    let mut public_file = OsString::from(key_file);
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    refuse_existing(&[key_file, &public_file])?;
    let key = NodeKey::generate();
    files::create_private(key_file, &seal_key(&key, &passphrase))?;
    files::create_public(&public_file, format!("{}\n", key.id()).as_bytes())?;
    Ok(key.id())
}

fn read_public_key(path: &Path) -> Result<NodeId, RadiologistError> {
    let bytes = files::read(path, PUBLIC_KEY_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim()
        .parse()
        .map_err(|source| RadiologistError::PublicKey {
            path: path.into(),
            source,
        })
}
