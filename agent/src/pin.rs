//! PIN: protects the vault, opens it and closes it.
//!
//! In: PINs, from a file or the standard input. Out: the state of `keys`.
//! Invariant: a PIN is in no log, no error and no argument list.
//! May not: read anything that is sealed.

use std::fmt;
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, anyhow};
use identity::files;
use sealing::Pin;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::commands::{self, Failure, Request, say};
use crate::keys::{Keys, VaultState};

/// The largest file that a PIN is read from.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// What a person types, on its way to the running program; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secret {
    fn pin(&self) -> anyhow::Result<Pin> {
        Ok(Pin::new(&self.0)?)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What can be asked of the vault's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum PinRequest {
    /// Sets the PIN, or exchanges it.
    Set {
        /// The PIN that is set now.
        old: Option<Secret>,
        /// The PIN from now on.
        new: Secret,
    },
    /// Opens the vault.
    Unlock {
        /// The PIN.
        pin: Secret,
    },
    /// Closes the vault.
    Lock,
}

/// Does what was asked; gives the state after it. Computes for a part of a second.
pub(crate) fn execute(keys: &Keys, request: &PinRequest) -> anyhow::Result<VaultState> {
    match request {
        PinRequest::Set { old, new } => {
            let old = old.as_ref().map(Secret::pin).transpose()?;
            keys.set_pin(old.as_ref(), &new.pin()?)?;
        }
        PinRequest::Unlock { pin } => keys.unlock(&pin.pin()?)?,
        PinRequest::Lock => keys.lock()?,
    }
    tracing::info!(state = ?keys.state(), "the vault's lock was used");
    Ok(keys.state())
}

/// `pin set`
pub(crate) fn set(folder: &Path, old: Option<&Path>, new: Option<&Path>) -> Result<(), Failure> {
    let old = old.map(|file| secret(Some(file))).transpose()?;
    let new = secret(new)?;
    // What cannot be a PIN is told here, and does not count as an attempt.
    new.pin().context("this cannot be a PIN")?;
    ask(folder, PinRequest::Set { old, new })?;
    say("the PIN is set; without a supervisor board only a long one protects a stolen disk\n")
}

/// `pin unlock`
pub(crate) fn unlock(folder: &Path, file: Option<&Path>) -> Result<(), Failure> {
    let pin = secret(file)?;
    pin.pin().context("this cannot be the PIN")?;
    ask(folder, PinRequest::Unlock { pin })
}

/// `pin lock`
pub(crate) fn lock(folder: &Path) -> Result<(), Failure> {
    ask(folder, PinRequest::Lock)
}

fn ask(folder: &Path, request: PinRequest) -> Result<(), Failure> {
    commands::ask(folder, &Request::Pin(request)).map(drop)
}

/// Reads a PIN from a file.
pub(crate) fn read(file: &Path) -> Result<Pin, Failure> {
    let pin = secret(Some(file))?.pin();
    Ok(pin.with_context(|| format!("{} holds no PIN", file.display()))?)
}

/// Reads the first line of a file, or of the standard input.
fn secret(file: Option<&Path>) -> Result<Secret, Failure> {
    let mut line = Zeroizing::new(String::new());
    match file {
        Some(file) => {
            let unreadable = || format!("cannot read the PIN from {}", file.display());
            let bytes = Zeroizing::new(files::read(file, FILE_BYTES_MAX).with_context(unreadable)?);
            let text = std::str::from_utf8(&bytes).with_context(unreadable)?;
            line.push_str(text.lines().next().unwrap_or_default());
        }
        None => {
            let read = std::io::stdin().lock().read_line(&mut line);
            read.context("cannot read the PIN from the standard input")?;
        }
    }
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(anyhow!("no PIN was given").into());
    }
    Ok(Secret(text.to_owned()))
}
