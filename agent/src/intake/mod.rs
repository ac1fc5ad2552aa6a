//! Intake: takes instances from scanners and hands each to the vault.
//!
//! In: associations of any scanner (C-ECHO, C-STORE). Out: arrivals to `vault`, each a DICOM file
//! whose data set is exactly what came.
//! Invariant: success is answered only after the vault holds the instance.
//! May not: change a data set, touch the disk, say anything of a patient.

mod status;
mod visit;

use std::sync::Arc;
use std::time::Duration;

use dimse::scp::{ContextRefusal, Contexts, Ending, Peer, Rejection, ScpConfig, Services};
use study::{AeTitle, AeTitleError, SopClassUid};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::IntakeConfig;
use crate::vault::Vault;
use visit::Visit;

/// How long running stores may take after a stop; the program as a whole has a second more.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How many long data sets are read at once.
const LONG_READS_MAX: usize = 2;

/// Says why the acceptor cannot run.
#[derive(Debug, Error)]
pub(crate) enum IntakeError {
    /// The configured title is none.
    #[error("{title} cannot be our AE title")]
    AeTitle {
        /// What is configured.
        title: String,
        /// What is wrong with it.
        #[source]
        source: AeTitleError,
    },
}

/// Serves associations until `stop`; running stores are finished first, for a while.
pub(crate) async fn run(
    listener: TcpListener,
    vault: Vault,
    config: IntakeConfig,
    stop: CancellationToken,
) -> Result<(), IntakeError> {
    let ae_title = AeTitle::parse(&config.ae_title).map_err(|source| IntakeError::AeTitle {
        title: config.ae_title.clone(),
        source,
    })?;
    let scp = ScpConfig {
        accept_any_called: config.accept_any_called_ae,
        associations_max: usize::try_from(config.associations_max).unwrap_or(usize::MAX),
        instance_bytes_max: config.instance_bytes_max.get(),
        memory_bytes_max: config.memory.get(),
        artim_timeout: config.artim_timeout.duration(),
        idle_timeout: config.idle_timeout.duration(),
        write_timeout: config.write_timeout.duration(),
        stop_timeout: STOP_TIMEOUT,
        ..ScpConfig::new(ae_title.clone())
    };
    let intake = Arc::new(Intake::new(vault, ae_title));
    dimse::scp::serve(listener, scp, intake, stop.cancelled()).await;
    Ok(())
}

struct Intake {
    vault: Vault,
    ae_title: AeTitle,
    /// One turn for each long read of a data set; a deflated one takes memory of its own.
    reading: Arc<Semaphore>,
}

impl Services for Intake {
    type Visit = Visit;

    fn opened(&self, peer: &Peer, contexts: &Contexts) -> Visit {
        tracing::info!(
            association = peer.id,
            ae = calling(peer),
            peer = %peer.address,
            contexts = contexts.accepted,
            "association opened"
        );
        if !contexts.refused.is_empty() {
            tracing::info!(
                association = peer.id,
                reason = in_words(&contexts.refused),
                "presentation contexts refused"
            );
        }
        Visit::new(self.vault.clone(), peer.clone(), Arc::clone(&self.reading))
    }

    fn rejected(&self, peer: &Peer, reason: &Rejection) {
        tracing::warn!(
            association = peer.id,
            ae = calling(peer),
            peer = %peer.address,
            reason = self.explain(peer, reason),
            "association rejected"
        );
    }

    fn failed(&self, peer: &Peer, ending: &Ending) {
        let (association, address, reason) = (peer.id, peer.address, ending);
        match ending {
            // A port probe, or a scanner that was switched off: nothing to do.
            Ending::ConnectionLost | Ending::AbortedByPeer | Ending::Stopped | Ending::Released => {
                tracing::debug!(association, peer = %address, %reason, "connection without association");
            }
            Ending::TimedOut(_) | Ending::ProtocolFault(_) => {
                tracing::warn!(association, peer = %address, %reason, "connection without association");
            }
        }
    }
}

impl Intake {
    fn new(vault: Vault, ae_title: AeTitle) -> Self {
        Self {
            vault,
            ae_title,
            reading: Arc::new(Semaphore::new(LONG_READS_MAX)),
        }
    }

    /// Says in plain words why an association was rejected, and what to do about it.
    fn explain(&self, peer: &Peer, reason: &Rejection) -> String {
        match reason {
            Rejection::CalledTitle => format!(
                "it calls {}, this box is {}: set the called AE title at the scanner, or accept any \
                 title here (intake.accept-any-called-ae)",
                peer.called
                    .as_ref()
                    .map_or("something that is no AE title", AeTitle::as_str),
                self.ae_title
            ),
            Rejection::LocalLimit(open) => format!(
                "{open} associations are open already; the scanner may try again, or allow more here \
                 (intake.associations-max)"
            ),
            Rejection::ApplicationContext | Rejection::ProtocolVersion => {
                format!("{reason}: it does not speak the DICOM that is in use since 1993")
            }
        }
    }
}

fn in_words(refused: &[(Option<SopClassUid>, ContextRefusal)]) -> String {
    let one = |(sop_class, reason): &(Option<SopClassUid>, ContextRefusal)| {
        let sop_class = sop_class.as_ref().map_or("not a UID", SopClassUid::as_str);
        format!("{sop_class}: {reason}")
    };
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn calling(peer: &Peer) -> &str {
    peer.calling.as_ref().map_or("", AeTitle::as_str)
}

#[cfg(test)]
mod tests;
