//! Intake: takes instances from scanners and hands each to the vault; answers for the services that
//! scanners expect beside storage.
//!
//! In: associations of any scanner. Out: arrivals to `vault`, each a DICOM file whose data set is
//! exactly what came; queries and performed steps to `orders`; commitments to scanners.
//! Invariant: success is answered only after the vault holds what it is said of.
//! May not: change a data set, touch the disk, say anything of a patient.

pub(crate) mod command;
mod commitment;
mod modalities;
mod status;
mod visit;

use std::sync::Arc;
use std::time::Duration;

use dimse::Service;
use dimse::scp::{ContextRefusal, Contexts, Ending, Peer, Rejection, ScpConfig, Services};
use study::{AeTitle, AeTitleError, SopClassUid};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::IntakeConfig;
use crate::orders::Orders;
use crate::vault::{Vault, VaultError};
pub use command::ModalityRequest;
use commitment::Commitments;
pub use modalities::{Modalities, Modality, ModalityError};
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
    /// What is owed to scanners cannot be read.
    #[error("cannot read what is owed to scanners")]
    Vault(#[from] VaultError),
}

/// What intake works with.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) vault: Vault,
    pub(crate) orders: Orders,
    pub(crate) modalities: Modalities,
}

/// Serves associations until `stop`; running stores are finished first, for a while.
pub(crate) async fn run(
    listener: TcpListener,
    desk: Desk,
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
        private_classes: config.sop_classes_extra.clone(),
        services: vec![
            Service::Worklist,
            Service::PerformedStep,
            Service::Commitment,
        ],
        artim_timeout: config.artim_timeout.duration(),
        idle_timeout: config.idle_timeout.duration(),
        read_timeout: config.read_timeout.duration(),
        write_timeout: config.write_timeout.duration(),
        stop_timeout: STOP_TIMEOUT,
        ..ScpConfig::new(ae_title.clone())
    };
    let commitments = Commitments::new(
        desk.vault.clone(),
        desk.modalities.clone(),
        &config,
        ae_title.clone(),
    )?;
    let intake = Intake::new(desk.clone(), commitments.clone(), &config, ae_title);
    let intake = Arc::new(intake);
    tokio::join!(
        dimse::scp::serve(listener, scp, intake, stop.cancelled()),
        commitment::run(commitments, stop.clone()),
        modalities::run(desk.modalities, stop.clone()),
    );
    Ok(())
}

struct Intake {
    desk: Desk,
    commitments: Commitments,
    ae_title: AeTitle,
    /// Scanners that nobody has accepted are rejected.
    known_only: bool,
    /// One turn for each long read of a data set; a deflated one takes memory of its own.
    reading: Arc<Semaphore>,
}

impl Services for Intake {
    type Visit = Visit;

    fn admits(&self, peer: &Peer) -> bool {
        !self.known_only || self.desk.modalities.is_accepted(calling(peer))
    }

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
        if let Some(title) = &peer.calling
            && self.desk.modalities.seen(title, peer.address)
        {
            tracing::warn!(
                ae = %title,
                peer = %peer.address,
                "a modality calls that nobody has accepted: it is taken in; `modality accept`"
            );
        }
        if !contexts.refused.is_empty() && contexts.accepted == 0 {
            let words = "it offers only kinds of objects that this box does not take: look at what it \
                         is set to send";
            self.desk.modalities.failed(calling(peer), words);
        }
        let (desk, commitments) = (self.desk.clone(), self.commitments.clone());
        Visit::new(desk, commitments, peer.clone(), Arc::clone(&self.reading))
    }

    fn rejected(&self, peer: &Peer, reason: &Rejection) {
        if let Some(title) = &peer.calling {
            self.desk.modalities.seen(title, peer.address);
        }
        self.desk
            .modalities
            .failed(calling(peer), &self.explain(peer, reason));
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
    fn new(desk: Desk, commitments: Commitments, config: &IntakeConfig, ae_title: AeTitle) -> Self {
        Self {
            desk,
            commitments,
            ae_title,
            known_only: config.known_only,
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
            Rejection::CallingTitle => {
                "nobody has accepted it, and only known modalities may call \
                 (intake.known-only): `chasqui-agent modality accept --ae` it, if it is yours"
                    .to_owned()
            }
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
mod services_tests;
#[cfg(test)]
mod tests;
