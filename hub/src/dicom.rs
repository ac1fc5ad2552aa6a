//! The hub's DICOM port: answers C-ECHO, so that a hospital's peer can be set up against it.
//!
//! In: associations. Out: echoes.
//! Invariant: nothing is stored here; instances come over the link only.
//! May not: look at a data set.

use std::sync::Arc;

use dimse::scp::{self, Contexts, Ending, Peer, Rejection, ScpConfig, Services};
use dimse::scp::{StoreCommand, StoreFault, StoreRequest, Tally, Visit};
use dimse::{Answer, Status};
use study::AeTitle;
use tokio::net::TcpListener;

use crate::config;

/// How many associations may be open: enough to answer echoes.
const ASSOCIATIONS_MAX: usize = 16;

/// Answers until `stop` is ready.
pub(crate) async fn serve(
    listener: TcpListener,
    config: config::Dicom,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let title = AeTitle::parse(&config.ae_title).expect("the configuration was checked");
    let config = ScpConfig {
        associations_max: ASSOCIATIONS_MAX,
        ..ScpConfig::new(title)
    };
    scp::serve(listener, config, Arc::new(EchoOnly), stop).await;
}

struct EchoOnly;

impl Services for EchoOnly {
    type Visit = Echo;

    fn opened(&self, peer: &Peer, contexts: &Contexts) -> Echo {
        let refused = contexts.refused.len();
        tracing::debug!(association = peer.id, refused, "association opened");
        Echo(peer.clone())
    }

    fn rejected(&self, peer: &Peer, reason: &Rejection) {
        tracing::warn!(association = peer.id, peer = %peer.address, %reason, "association rejected");
    }

    fn failed(&self, peer: &Peer, ending: &Ending) {
        tracing::debug!(association = peer.id, peer = %peer.address, %ending, "no association");
    }
}

/// One association; whatever it wants to store is refused.
struct Echo(Peer);

impl Echo {
    fn refusal() -> Answer {
        Answer::failure(
            Status::SOP_CLASS_NOT_SUPPORTED,
            "the hub takes studies from boxes only",
        )
    }
}

impl Visit for Echo {
    fn admit(&mut self, _: &StoreCommand) -> Result<Vec<u8>, Answer> {
        Err(Self::refusal())
    }

    async fn store(&mut self, _: StoreRequest) -> Answer {
        Self::refusal()
    }

    fn refuse(&mut self, _: &StoreFault) -> Answer {
        Self::refusal()
    }

    fn closed(self, ending: &Ending, tally: &Tally) {
        let Self(peer) = self;
        let echoes = tally.echoes;
        tracing::info!(association = peer.id, peer = %peer.address, %ending, echoes, "association closed");
    }
}
