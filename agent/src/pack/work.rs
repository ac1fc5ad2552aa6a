//! The work on one batch: read, packed, decoded again, compared, sealed.

use std::thread;

use codec::Tier;
use sealing::KeyringError;
use study::StudyUid;
use thiserror::Error;
use tokio::sync::oneshot;

use super::pace::{self, Work};
use super::squeeze::{self, SqueezeError};
use crate::vault::{Batch, BatchItem, FetchError, Packed, Vault, VaultError};

/// Says why a batch was not packed; its instances stay as they came in.
#[derive(Debug, Error)]
pub(super) enum PackError {
    /// One instance is lost or defeats the codec; the others of its batch may do.
    #[error("instance {} cannot be packed", item.sop)]
    Instance {
        /// The instance.
        item: Box<BatchItem>,
        /// Why.
        #[source]
        source: Box<Unpackable>,
    },
    /// The batch as a whole cannot be packed now.
    #[error("a batch of study {study} cannot be packed")]
    Batch {
        /// The study.
        study: StudyUid,
        /// Why.
        #[source]
        source: Box<Unpackable>,
    },
    /// The vault refused the packed form, or could not say what to pack.
    #[error("the vault did not take a packed batch")]
    Vault(#[from] VaultError),
}

/// Says why instances cannot be packed.
#[derive(Debug, Error)]
pub(super) enum Unpackable {
    /// They cannot be read back.
    #[error("cannot read an instance back")]
    Fetch(#[from] FetchError),
    /// The codec refused, or gave other bytes back.
    #[error(transparent)]
    Squeeze(#[from] SqueezeError),
    /// What it was sealed with cannot be given to the hub.
    #[error("its data key cannot be sealed to the hub")]
    Key(#[from] KeyringError),
}

/// Does the work on a thread of its own, with what the processors have to spare and a small share in any case.
pub(super) async fn in_background<T: Send + 'static>(
    nice: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, done) = oneshot::channel();
    let worker = thread::Builder::new().name("pack".to_owned());
    let started = worker.spawn(move || {
        // On Linux this is of the calling thread alone. A system that refuses lets packing slow intake down, no more.
        let _ = rustix::process::nice(nice);
        // Nobody waits for it any more when the program stops.
        let _ = tell.send(work());
    });
    started.expect("the system has a thread left");
    done.await.expect("packing does not panic")
}

/// What came of a batch: its packed form, and what the codec's work took where there was any.
pub(super) type Tried = Result<(Packed, Option<Work>), PackError>;

/// Reads a batch and packs it; when it cannot be packed, finds the instance that is the cause.
pub(super) fn pack(vault: &Vault, batch: Batch, tier: Tier) -> Tried {
    let mut files = Vec::with_capacity(batch.items.len());
    for item in &batch.items {
        match vault.intake_file(item) {
            Ok(file) => files.push(file),
            // Its key has left memory before it was packed: it crosses as it was taken in.
            Err(FetchError::Locked(_)) => {
                let study = batch.study.clone();
                let as_it_is = vault.as_taken_in(batch);
                return as_it_is
                    .map(|packed| (packed, None))
                    .map_err(|error| batch_error(study, error));
            }
            Err(error) if error.is_loss() => return Err(instance(item, error)),
            Err(error) => return Err(batch_error(batch.study, error)),
        }
    }
    let named: Vec<(&str, &[u8])> = batch
        .items
        .iter()
        .zip(&files)
        .map(|(item, file)| (item.sop.as_str(), file.as_slice()))
        .collect();
    let began = pace::spent();
    match squeeze::squeeze(&named, tier) {
        Ok(units) => {
            let work = Work {
                tier,
                file_bytes: files.iter().map(|file| file.len() as u64).sum(),
                packed_bytes: units.iter().map(|unit| unit.len() as u64).sum(),
                spent: pace::spent().saturating_sub(began),
            };
            let study = batch.study.clone();
            vault
                .seal_units(batch, units)
                .map(|packed| (packed, Some(work)))
                .map_err(|error| batch_error(study, error))
        }
        Err(error) => {
            for (item, alone) in batch.items.iter().zip(&named) {
                if let Err(error) = squeeze::squeeze(&[*alone], tier) {
                    return Err(instance(item, error));
                }
            }
            Err(batch_error(batch.study, error))
        }
    }
}

fn instance(item: &BatchItem, source: impl Into<Unpackable>) -> PackError {
    PackError::Instance {
        item: Box::new(item.clone()),
        source: Box::new(source.into()),
    }
}

fn batch_error(study: StudyUid, source: impl Into<Unpackable>) -> PackError {
    PackError::Batch {
        study,
        source: Box::new(source.into()),
    }
}
