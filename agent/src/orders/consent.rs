//! Consent: on what basis a study may leave the box.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use identity::ConsentPolicy;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::membership::Membership;
use crate::vault::{Vault, VaultError};

/// How long recording waits after a failure before it tries again.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// On what basis a person lets a study leave the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsentBasis {
    /// The patient said so.
    Spoken,
    /// The patient signed.
    Written,
    /// A guardian agreed.
    Guardian,
    /// The patient cannot be asked.
    Emergency,
}

impl From<ConsentBasis> for journal::ConsentBasis {
    fn from(basis: ConsentBasis) -> Self {
        match basis {
            ConsentBasis::Spoken => Self::Spoken,
            ConsentBasis::Written => Self::Written,
            ConsentBasis::Guardian => Self::Guardian,
            ConsentBasis::Emergency => Self::Emergency,
        }
    }
}

/// Records the site's policy for each new study, where the policy is to let studies leave.
pub async fn run(vault: Vault, membership: Arc<Membership>, stop: CancellationToken) {
    let mut studies_changed = vault.watch();
    let mut policy_changed = membership.watch();
    loop {
        studies_changed.mark_unchanged();
        policy_changed.mark_unchanged();
        let applied = apply_policy(&vault, membership.consent_policy()).await;
        if let Err(error) = &applied {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, "cannot record consent");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_DELAY), if applied.is_err() => {}
            changed = studies_changed.changed() => if changed.is_err() { return },
            changed = policy_changed.changed() => if changed.is_err() { return },
        }
    }
}

async fn apply_policy(vault: &Vault, policy: ConsentPolicy) -> Result<(), VaultError> {
    match policy {
        ConsentPolicy::Ask => Ok(()),
        ConsentPolicy::Emergency => {
            for study in vault.awaiting_consent()? {
                let basis = journal::ConsentBasis::SitePolicy;
                vault.record_consent(study, basis, None).await?;
            }
            Ok(())
        }
    }
}
