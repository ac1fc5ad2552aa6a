//! Priors: finds the other studies of a patient when they are wanted at the hub.
//!
//! In: studies whose priors are wanted, noted in `vault` by the hub's word or a person's here. Out:
//! the studies found, which go before the rest of their class.
//! Invariant: who a study is of is read while the vault may be read, and kept nowhere; what is
//! wanted of a locked box waits for its PIN.
//! May not: raise a study's class, or let one leave without consent.

use std::path::Path;
use std::time::Duration;

use study::StudyUid;
use tokio_util::sync::CancellationToken;

use crate::commands::{self, Failure, Request};
use crate::vault::{FetchError, Vault, VaultError};

/// How long looking waits when the vault cannot be read or written.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// `priors STUDY`
pub(crate) fn command(folder: &Path, study: &StudyUid) -> Result<(), Failure> {
    let study = study.clone();
    commands::ask(folder, &Request::Priors { study }).map(drop)
}

/// Looks for what is wanted until it is told to stop.
pub(crate) async fn run(vault: Vault, stop: CancellationToken) {
    let mut changed = vault.watch();
    loop {
        changed.mark_unchanged();
        let looked = look(&vault).await;
        if let Err(error) = &looked {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, "cannot note which priors are wanted");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_DELAY), if looked.is_err() => {}
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

async fn look(vault: &Vault) -> Result<(), VaultError> {
    for study in vault.priors_wanted()? {
        let (reading, wanted) = (vault.clone(), study.clone());
        let found = tokio::task::spawn_blocking(move || reading.find_priors(&wanted)).await;
        let found = found.expect("reading does not panic");
        if let Some(priors) = judge(&study, found) {
            vault.call_priors(study, priors).await?;
        }
    }
    Ok(())
}

/// What has been found out; none when it is to be tried again.
fn judge(study: &StudyUid, found: Result<Vec<StudyUid>, FetchError>) -> Option<Vec<StudyUid>> {
    match found {
        Ok(priors) => {
            tracing::info!(%study, priors = priors.len(), "priors that are wanted go first");
            Some(priors)
        }
        Err(FetchError::Locked(_)) => {
            tracing::debug!(%study, "priors are wanted; they wait for the PIN");
            None
        }
        Err(error) => {
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(%study, error = cause, "cannot tell whose priors are wanted");
            error.is_loss().then(Vec::new)
        }
    }
}
