//! Again: what waits for the link is packed smaller while nobody needs the processors.

use std::collections::BTreeSet;
use std::time::Duration;

use codec::Tier;
use study::{Digest, Priority};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pace::Pace;
use super::squeeze::{self, SqueezeError};
use super::tier::Power;
use super::work::in_background;
use super::{Settings, log};
use crate::keys::VaultState;
use crate::vault::{Backlog, FetchError, Repacked, Vault, VaultError, Waiting};

/// By how much this is nicer than the rest of the program: packing what comes in goes first.
const NICE: i32 = 19;
/// What the processors must have left, in percent of one.
const FREE_PERCENT_MIN: u64 = 50;
/// How often it is looked whether there is anything to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Packs anew what has not left, a few revisions at a time.
pub(super) struct Repacker {
    vault: Vault,
    worker: JoinSet<Round>,
    looked: Option<Instant>,
    /// What could not be packed anew.
    passed_over: BTreeSet<Digest>,
}

/// What came of a few revisions of one study.
pub(super) struct Round {
    repacked: Vec<Repacked>,
    failed: Vec<(Digest, AgainError)>,
}

/// Says why a revision was not packed anew; it stays as it is.
#[derive(Debug, thiserror::Error)]
enum AgainError {
    /// It cannot be read back.
    #[error("cannot read a packed revision back")]
    Fetch(#[from] FetchError),
    /// The codec refused, or gave other bytes back.
    #[error(transparent)]
    Squeeze(#[from] SqueezeError),
}

impl Repacker {
    pub(super) fn new(vault: Vault) -> Self {
        Self {
            vault,
            worker: JoinSet::new(),
            looked: None,
            passed_over: BTreeSet::new(),
        }
    }

    /// Begins a round if nothing is being packed and there is something to win; says when to ask again.
    pub(super) fn begin(
        &mut self,
        settings: &Settings,
        pace: &mut Pace,
    ) -> Result<Duration, VaultError> {
        let now = Instant::now();
        let next = self.looked.map(|looked| looked + LOOK_INTERVAL);
        if let Some(left) = next.and_then(|next| next.checked_duration_since(now)) {
            return Ok(left);
        }
        self.looked = Some(now);
        if !self.is_idle() || self.is_locked() {
            return Ok(LOOK_INTERVAL);
        }
        let Some(tier) = self.wanted(settings, pace)? else {
            return Ok(LOOK_INTERVAL);
        };
        let waiting = self.vault.waiting(tier, &self.passed_over)?;
        if !waiting.is_empty() {
            let vault = self.vault.clone();
            let round = in_background(NICE, move || pack_again(&vault, waiting, tier));
            self.worker.spawn(round);
        }
        Ok(LOOK_INTERVAL)
    }

    /// Whether nothing is being packed anew.
    pub(super) fn is_idle(&self) -> bool {
        self.worker.is_empty()
    }

    /// Whether nothing can be read back.
    fn is_locked(&self) -> bool {
        match self.vault.keys().state() {
            VaultState::OpenNoPin | VaultState::Unlocked => false,
            VaultState::Locked | VaultState::Zeroised => true,
        }
    }

    /// The tier in which what waits is worth packing anew, if any is.
    fn wanted(&self, settings: &Settings, pace: &mut Pace) -> Result<Option<Tier>, VaultError> {
        let may_spend = match settings.power {
            Power::Mains | Power::Unknown => settings.tier.is_none(),
            Power::Battery => false,
        };
        if !may_spend || pace.free_percent() < FREE_PERCENT_MIN {
            return Ok(None);
        }
        let link = (settings.link)();
        if !link.is_up {
            return Ok(Some(Tier::Archive));
        }
        let waiting_bytes = self.vault.backlog(Priority::Bulk)?.waiting_bytes;
        // Half of it crosses meanwhile; packed it is about half of what it was.
        let behind = Backlog {
            unpacked_bytes: waiting_bytes,
            waiting_bytes: waiting_bytes / 2,
        };
        Ok(Some(pace.tier(link.bytes_s, behind)))
    }

    /// Waits for a round to end, and puts it in its place; for ever when there is none.
    pub(super) async fn settle(&mut self) {
        let Some(round) = self.worker.join_next().await else {
            return std::future::pending().await;
        };
        let Round { repacked, failed } = round.expect("packing does not panic");
        for (manifest, error) in failed {
            log(&error, "cannot pack a revision anew");
            self.passed_over.insert(manifest);
        }
        let revisions = repacked.len();
        match self.vault.replace(repacked).await {
            Ok(_) if revisions == 0 => {}
            Ok(saved) => {
                let bytes_saved = *saved.get();
                tracing::info!(revisions, bytes_saved, "packed what waits anew");
                // There may be more of it.
                self.looked = None;
            }
            // It has left, or more has come, or there is no room: it crosses as it is.
            Err(error @ (VaultError::Overtaken(_) | VaultError::NoRoom(_))) => {
                tracing::debug!(%error, "what was packed anew is dropped");
            }
            Err(error) => log(&error, "cannot keep what was packed anew"),
        }
    }
}

/// Packs revisions anew, one after the other, each decoded and compared.
fn pack_again(vault: &Vault, waiting: Vec<Waiting>, tier: Tier) -> Round {
    let mut round = Round {
        repacked: Vec::with_capacity(waiting.len()),
        failed: Vec::new(),
    };
    for revision in waiting {
        let manifest = revision.manifest;
        match pack_one(vault, revision, tier) {
            Ok(repacked) => round.repacked.push(repacked),
            // Whoever unlocked the vault has locked it again.
            Err(AgainError::Fetch(FetchError::Locked(_))) => break,
            Err(error) => round.failed.push((manifest, error)),
        }
    }
    round
}

fn pack_one(vault: &Vault, waiting: Waiting, tier: Tier) -> Result<Repacked, AgainError> {
    let files = vault.waiting_files(&waiting)?;
    let named: Vec<(&str, &[u8])> = waiting
        .names()
        .zip(&files)
        .map(|(name, file)| (name, file.as_slice()))
        .collect();
    let units = squeeze::squeeze(&named, tier)?;
    Ok(vault.seal_again(waiting, tier, units)?)
}
