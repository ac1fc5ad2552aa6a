//! How a scanner is told: on the association that asked, or on a new one.

use dimse::scp::Event;
use dimse::scu::{Association, Proposal, ScuConfig, ScuError};
use dimse::{COMMITMENT, COMMITMENT_INSTANCE, DataSet, Status, tag};
use study::{AeTitle, AeTitleError, SopClassUid, SopInstanceUid, TransferSyntaxUid};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::request::Owed;

/// Request Successful, and Complete - Failures Exist (PS3.4 J.3.3.1).
const ALL_COMMITTED: u16 = 1;
const SOME_FAILED: u16 = 2;
/// Implicit and explicit VR, little endian.
const TRANSFER_SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"];

/// Committed, or Failure Reason (0008,1197).
pub(super) type Verdict = Result<(), Status>;

/// Where events for an open association go.
pub(in crate::intake) type Line = mpsc::Sender<Tell>;

/// An event for an open association.
#[derive(Debug)]
pub(in crate::intake) struct Tell {
    pub(super) event: Event,
    /// What the scanner answered; none when it didn't.
    pub(super) answered: oneshot::Sender<Option<Status>>,
}

/// Why a scanner was not told.
#[derive(Debug, Error)]
pub(super) enum Told {
    #[error("its AE title cannot be called")]
    Title(#[from] AeTitleError),
    #[error("could not tell it what is committed, at {host}:{port}: {source}")]
    Call {
        host: String,
        port: u16,
        #[source]
        source: ScuError,
    },
    #[error("it answered {0} when it was told what is committed")]
    Refused(Status),
}

/// The event that says what is committed.
pub(super) fn event(owed: &Owed, verdicts: &[Verdict]) -> Event {
    let (mut committed, mut failed) = (Vec::new(), Vec::new());
    for ((class, sop), verdict) in owed.instances.iter().zip(verdicts) {
        let reference = DataSet::default()
            .with(tag::REFERENCED_SOP_CLASS, class.as_str())
            .with(tag::REFERENCED_SOP_INSTANCE, sop.as_str());
        match verdict {
            Ok(()) => committed.push(reference),
            Err(reason) => failed.push(reference.with_u16(tag::FAILURE_REASON, reason.0)),
        }
    }
    let mut data_set = DataSet::default().with(tag::TRANSACTION, owed.transaction.as_str());
    let event_type = if failed.is_empty() {
        ALL_COMMITTED
    } else {
        data_set.put_items(tag::FAILED_SOPS, failed);
        SOME_FAILED
    };
    if !committed.is_empty() {
        data_set.put_items(tag::REFERENCED_SOPS, committed);
    }
    Event {
        sop_class: class(),
        sop: SopInstanceUid::parse(COMMITMENT_INSTANCE).expect("a UID of the standard"),
        event_type,
        data_set,
    }
}

/// Tells on the association that asked; none when it is gone or does not answer.
pub(super) async fn on_line(line: &Line, event: Event) -> Option<Status> {
    let (answered, answer) = oneshot::channel();
    line.send(Tell { event, answered }).await.ok()?;
    answer.await.ok().flatten()
}

/// Tells on an association that we open, as the provider that we are.
pub(super) async fn on_new_association(
    our_title: &AeTitle,
    owed: &Owed,
    (host, port): (String, u16),
    event: Event,
) -> Result<(), Told> {
    let config = ScuConfig {
        provides: vec![class()],
        ..ScuConfig::new(our_title.clone(), AeTitle::parse(&owed.requester)?)
    };
    let told = async {
        let mut association =
            Association::open((host.as_str(), port), config, &[proposal()]).await?;
        let answer = association.tell(&event).await?;
        // It has heard, however it takes leave.
        drop(association.release().await);
        Ok(answer.status)
    };
    match told.await {
        Ok(Status::SUCCESS) => Ok(()),
        Ok(other) => Err(Told::Refused(other)),
        Err(source) => Err(Told::Call { host, port, source }),
    }
}

fn proposal() -> Proposal {
    let syntax = |uid| TransferSyntaxUid::parse(uid).expect("a UID of the standard");
    Proposal {
        sop_class: class(),
        transfer_syntaxes: TRANSFER_SYNTAXES.map(syntax).to_vec(),
    }
}

fn class() -> SopClassUid {
    SopClassUid::parse(COMMITMENT).expect("a UID of the standard")
}
