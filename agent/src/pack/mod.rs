//! Pack: compresses held instances, proves the round trip, makes revisions of them.
//!
//! In: batches of held instances from `vault`. Out: packed units that take their place in `vault`.
//! Invariant: an intake record is let go only after its packed form was decoded and compared; one
//! that cannot be packed holds up nothing but the closing of its own study.
//! May not: decide what is sent or when, or keep anything of its own.

mod squeeze;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use codec::Tier;
use sealing::KeyringError;
use study::StudyUid;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::vault::{
    Batch, BatchItem, BatchRule, Due, FetchError, Now, Packed, Revision, Vault, VaultError,
};
use squeeze::SqueezeError;

/// Bytes of files that make a batch full, whatever their number.
const BATCH_BYTES_MAX: u64 = 32 << 20;
/// How long arrivals are let gather before they are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long packing waits when the vault takes nothing.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How long a study is passed over whose batch could not be packed.
const PASSED_OVER: Duration = Duration::from_secs(60);
/// By how much the codec is nicer than the rest of the program: what scanners and the hub wait for goes first.
const NICE: i32 = 10;

/// What packing is told by the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Instances that make a batch full.
    pub batch_instances: u32,
    /// How long the first instance waits for others.
    pub batch_delay_ms: u64,
    /// How long a study must be quiet to count as stable.
    pub quiet_period_ms: u64,
    /// How much work the codec does.
    pub tier: Tier,
}

/// Says why a batch was not packed; its instances stay as they came in.
#[derive(Debug, Error)]
pub enum PackError {
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
pub enum Unpackable {
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

/// Packs what is due until it is told to stop.
pub async fn run(vault: Vault, settings: Settings, stop: CancellationToken) {
    let packer = Packer {
        vault,
        settings,
        passed_over: BTreeMap::new(),
    };
    // A batch that is being packed when the program stops is packed again at its next start.
    tokio::select! {
        () = stop.cancelled() => {}
        () = packer.run() => {}
    }
}

struct Packer {
    vault: Vault,
    settings: Settings,
    /// Studies whose last batch could not be packed, and when they are looked at again.
    passed_over: BTreeMap<StudyUid, Instant>,
}

enum Next {
    Again,
    After(Duration),
    OnArrival,
}

impl Packer {
    async fn run(mut self) {
        let mut arrived = self.vault.arrivals();
        loop {
            arrived.mark_unchanged();
            let next = match self.pack_next().await {
                Ok(next) => next,
                Err(error) => self.cope_with(error).await,
            };
            let pause = match next {
                Next::Again => continue,
                Next::After(pause) => pause,
                Next::OnArrival => Duration::MAX,
            };
            tokio::select! {
                arrived = arrived.changed() => {
                    if arrived.is_err() { return }
                    // A scanner sends hundreds a second; looking at each would be work for nothing.
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn pack_next(&mut self) -> Result<Next, PackError> {
        let Settings {
            batch_instances,
            batch_delay_ms,
            quiet_period_ms,
            tier,
        } = self.settings;
        let rule = BatchRule {
            instances: batch_instances,
            bytes: BATCH_BYTES_MAX,
            delay_ms: batch_delay_ms,
            quiet_period_ms,
        };
        let now = Instant::now();
        self.passed_over.retain(|_, until| *until > now);
        let passed_over = self.passed_over.keys().cloned().collect();
        let batch = match self.vault.next_batch(rule, Now::read(), &passed_over)? {
            Due::Batch(batch) => batch,
            Due::After(wait_ms) => return Ok(self.wait(now, Some(Duration::from_millis(wait_ms)))),
            Due::Nothing => return Ok(self.wait(now, None)),
        };
        let vault = self.vault.clone();
        let packed = in_background(move || pack(&vault, batch, tier)).await?;
        let instances = packed.batch().items.len();
        let (bytes_packed, packed_study) = (packed.bytes(), packed.batch().study.clone());
        let Revision {
            study,
            revision,
            closed,
            ..
        } = match self.vault.adopt(packed).await {
            // Nobody can seal its key to the hub now: what else there is goes on.
            Err(VaultError::Key(source)) => {
                let source = Box::new(Unpackable::Key(source));
                let study = packed_study;
                return Err(PackError::Batch { study, source });
            }
            adopted => adopted?.into_inner(),
        };
        tracing::info!(%study, revision, instances, bytes_packed, closed, "made a revision");
        Ok(Next::Again)
    }

    /// Waits for the earlier of what is due and what was passed over.
    fn wait(&self, now: Instant, due: Option<Duration>) -> Next {
        let again = self.passed_over.values().min().map(|until| *until - now);
        let earlier = due.into_iter().chain(again).min();
        earlier.map_or(Next::OnArrival, Next::After)
    }

    /// Sees to it that what failed holds up nothing else.
    async fn cope_with(&mut self, error: PackError) -> Next {
        log(&error, "cannot pack");
        match error {
            PackError::Instance { item, .. } => {
                match self.vault.set_aside(item.instance_id).await {
                    Ok(()) => return Next::Again,
                    Err(error) => log(&error, "cannot set an instance aside"),
                }
            }
            PackError::Batch { study, .. } => {
                self.passed_over.insert(study, Instant::now() + PASSED_OVER);
                return Next::Again;
            }
            PackError::Vault(_) => {}
        }
        // Arrivals don't cut this short: the work would be done again for nothing.
        tokio::time::sleep(RETRY_DELAY).await;
        Next::Again
    }
}

/// Does the work on a thread of its own, with what the processors have to spare and a small share in any case.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, done) = oneshot::channel();
    let worker = thread::Builder::new().name("pack".to_owned());
    let started = worker.spawn(move || {
        // On Linux this is of the calling thread alone. A system that refuses lets packing slow intake down, no more.
        let _ = rustix::process::nice(NICE);
        // Nobody waits for it any more when the program stops.
        let _ = tell.send(work());
    });
    started.expect("the system has a thread left");
    done.await.expect("packing does not panic")
}

fn log(error: &(dyn std::error::Error + 'static), what: &str) {
    tracing::error!(error, "{what}");
}

/// Reads a batch and packs it; when it cannot be packed, finds the instance that is the cause.
fn pack(vault: &Vault, batch: Batch, tier: Tier) -> Result<Packed, PackError> {
    let mut files = Vec::with_capacity(batch.items.len());
    for item in &batch.items {
        match vault.intake_file(item) {
            Ok(file) => files.push(file),
            // Its key has left memory before it was packed: it crosses as it was taken in.
            Err(FetchError::Locked(_)) => {
                let study = batch.study.clone();
                return vault
                    .as_taken_in(batch)
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
    match squeeze::squeeze(&named, tier) {
        Ok(units) => {
            let study = batch.study.clone();
            vault
                .seal_units(batch, units)
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

#[cfg(test)]
mod tests;
