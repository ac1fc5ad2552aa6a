//! Reports: what came back from the hub, and what it is worth.
//!
//! In: signed reports from `vault`, the fleet document from `membership`. Out: verified reports for
//! the screen and the paper; a confirmation in our journal for each.
//! Invariant: a report is shown as a radiologist's only when their own signature and credential
//! hold; what does not hold is shown as refused, with the reason.
//! May not: change a report.

use std::sync::Arc;
use std::time::Duration;

use journal::ReportStatus;
use report::{ReportRefusal, VerifiedReport};
use study::StudyUid;
use tokio_util::sync::CancellationToken;

use crate::keys::Locked;
use crate::membership::Membership;
use crate::vault::{ReportFault, StoredReport, Vault, VaultError};

/// How long confirming waits after a failure before it tries again.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// A report with the verdict on its signature.
#[derive(Debug)]
pub struct JudgedReport {
    /// The report as it came.
    pub stored: StoredReport,
    /// What it says and who signed it, or why it is refused.
    pub verdict: Result<VerifiedReport, Refusal>,
}

/// Why a report is not shown as a radiologist's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be opened.
    #[error(transparent)]
    Fault(#[from] ReportFault),
    /// Signature or credential do not hold.
    #[error(transparent)]
    Report(#[from] ReportRefusal),
    /// The hub's record and the signed report name different studies.
    #[error("the report was signed for another study")]
    OtherStudy,
    /// No fleet document has come yet, so nobody's credential can be checked.
    #[error("no fleet document is here yet to check the signer's credential")]
    NoFleet,
}

/// What is known of a report without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `preliminary`, `final` or `addendum`.
    pub status: &'static str,
    /// How critical its finding is, 0 to 3.
    pub critical: u8,
    /// Signature and credential were checked, now or when it came; else it is the hub's word.
    pub verified: bool,
}

/// Says why no report can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody has given the PIN.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// There was one.
    #[error("the report of study {0} was erased here, with the study")]
    Erased(StudyUid),
    /// The vault cannot be read.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// The reports of the box, judged against the newest fleet document.
#[derive(Clone)]
pub struct Reports {
    vault: Vault,
    membership: Arc<Membership>,
}

impl Reports {
    /// Reads reports from `vault` and judges them by `membership`.
    pub fn new(vault: Vault, membership: Arc<Membership>) -> Self {
        Self { vault, membership }
    }

    /// All reports, the oldest first.
    pub fn all(&self) -> Result<Vec<JudgedReport>, VaultError> {
        let judge = |stored: StoredReport| JudgedReport {
            verdict: self.judge(&stored),
            stored,
        };
        let stored = self.vault.reports_after(0)?;
        Ok(stored.into_iter().map(judge).collect())
    }

    /// The newest report of a study that holds; an error on a locked vault.
    pub fn read(&self, study: &StudyUid) -> Result<Option<VerifiedReport>, ReadError> {
        self.vault.keys().readable()?;
        let stored = self.vault.reports_of(study)?;
        let newest = stored.iter().find_map(|report| self.judge(report).ok());
        if newest.is_none() && stored.iter().any(|report| report.sealed.is_empty()) {
            return Err(ReadError::Erased(study.clone()));
        }
        Ok(newest)
    }

    /// What is known of the newest report of a study that is not refused; on a locked vault the
    /// hub's word has to do.
    pub fn standing(&self, study: &StudyUid) -> Result<Option<Standing>, VaultError> {
        let stored = self.vault.reports_of(study)?;
        Ok(stored.iter().find_map(|report| match self.judge(report) {
            Ok(verified) => Some(Standing {
                status: verified.document.status.as_str(),
                critical: verified.document.critical.level(),
                verified: true,
            }),
            Err(Refusal::Fault(ReportFault::Locked(_) | ReportFault::Erased)) => Some(Standing {
                status: word(report.status),
                critical: report.critical,
                verified: report.confirmed,
            }),
            Err(_) => None,
        }))
    }

    fn judge(&self, stored: &StoredReport) -> Result<VerifiedReport, Refusal> {
        let fleet = self.membership.fleet().ok_or(Refusal::NoFleet)?;
        let signed = self.vault.open_report(stored)?;
        let verified = report::verify(&signed, &fleet)?;
        if verified.document.study != stored.study {
            return Err(Refusal::OtherStudy);
        }
        Ok(verified)
    }

    /// Confirms reports after `judged_upto` that hold; returns the number of the last one judged.
    async fn confirm_new(&self, judged_upto: u64) -> Result<u64, VaultError> {
        let mut last = judged_upto;
        for stored in self.vault.reports_after(judged_upto)? {
            last = stored.seq;
            if stored.confirmed {
                continue;
            }
            let study = &stored.study;
            match self.judge(&stored) {
                Ok(_) => {
                    self.vault.confirm_report(&stored).await?;
                    tracing::info!(%study, "a report came and was verified");
                }
                // It is confirmed once somebody has given the PIN.
                Err(Refusal::Fault(ReportFault::Locked(_))) => return Ok(last - 1),
                Err(Refusal::Fault(ReportFault::Erased)) => {}
                Err(refusal) => {
                    let reason = &refusal as &dyn std::error::Error;
                    tracing::warn!(%study, reason, "a report came and is refused");
                }
            }
        }
        Ok(last)
    }
}

/// The word for a report's status in JSON and tables.
pub(crate) fn word(status: ReportStatus) -> &'static str {
    match status {
        ReportStatus::Preliminary => "preliminary",
        ReportStatus::Final => "final",
        ReportStatus::Addendum => "addendum",
    }
}

/// Confirms each report that came and holds, until it is told to stop.
pub async fn run(reports: Reports, stop: CancellationToken) {
    let mut came = reports.vault.watch();
    let mut fleet_changed = reports.membership.watch();
    let mut judged_upto = 0;
    loop {
        came.mark_unchanged();
        let confirmed = reports.confirm_new(judged_upto).await;
        match &confirmed {
            Ok(last) => judged_upto = *last,
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::error!(error, "cannot confirm a report");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_DELAY), if confirmed.is_err() => {}
            changed = came.changed() => if changed.is_err() { return },
            changed = fleet_changed.changed() => {
                if changed.is_err() { return }
                // A credential may have come, or gone.
                judged_upto = 0;
            }
        }
    }
}
