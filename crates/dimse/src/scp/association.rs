//! One association in the provider role, from its first byte to its last.

use std::sync::Arc;

use dicom_ul::Pdu;
use dicom_ul::pdu::{AbortRQSource, AssociationRQ};
use study::{AeTitle, SopClassUid, SopInstanceUid};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::requests::Request;
use super::{
    Ending, Event, Peer, Rejection, ScpConfig, Services, Shared, StoreCommand, StoreFault,
    StoreRequest, Tally, Visit,
};
use crate::command::{CommandSet, element, field};
use crate::memory::{Budget, Lease};
use crate::negotiate::{self, Accepted, Agreement};
use crate::wire::{Breach, Received, Timeouts, Value, Wire, WireFault, breach};
use crate::{Answer, Service};

/// Data sets are read in steps of this size, so that memory is asked for as bytes come.
const STEP_BYTES: usize = 256 * 1024;
/// By how much the buffer of a data set grows.
const GROWTH_BYTES: usize = 1 << 20;

/// Serves one connection.
pub(super) async fn run<S: Services>(
    stream: TcpStream,
    mut peer: Peer,
    shared: Arc<Shared<S>>,
    stopped: watch::Receiver<bool>,
) {
    let timeouts = Timeouts {
        read: shared.config.read_timeout,
        write: shared.config.write_timeout,
    };
    let mut wire = match Wire::new(stream, timeouts) {
        Ok(wire) => wire,
        Err(error) => {
            let ending = Ending::from(&WireFault::Lost(error));
            return shared.services.failed(&peer, &ending);
        }
    };
    match open(&mut wire, &mut peer, &shared, stopped.clone()).await {
        Ok(Opened::Rejected(rejection)) => shared.services.rejected(&peer, &rejection),
        Ok(Opened::Stopped) => shared.services.failed(&peer, &Ending::Stopped),
        Ok(Opened::Accepted(agreement, slot)) => {
            let mut visit = shared.services.opened(&peer, &agreement.summary);
            let mut tally = Tally::default();
            let mut association = Association {
                wire: &mut wire,
                config: &shared.config,
                budget: &shared.budget,
                visit: &mut visit,
                agreement,
                tally: &mut tally,
                told: None,
                last_event_id: 0,
            };
            let ending = match association.serve(stopped).await {
                Ok(ending) => ending,
                Err(fault) => end(&mut wire, &fault).await,
            };
            drop(slot);
            visit.closed(&ending, &tally);
        }
        Err(fault) => {
            let ending = end(&mut wire, &fault).await;
            shared.services.failed(&peer, &ending);
        }
    }
    wire.close().await;
}

enum Opened {
    Accepted(Agreement, OwnedSemaphorePermit),
    Rejected(Rejection),
    /// This node is stopping.
    Stopped,
}

/// Waits for the request and answers it.
async fn open<S: Services>(
    wire: &mut Wire,
    peer: &mut Peer,
    shared: &Shared<S>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Opened, WireFault> {
    let request = tokio::select! {
        biased;
        () = stop(&mut stopped) => return Ok(Opened::Stopped),
        pdu = wire.associate_pdu(shared.config.artim_timeout, "an association request") => pdu?,
    };
    let Pdu::AssociationRQ(request) = request else {
        return Err(breach::unexpected(
            "an A-ASSOCIATE answer that nothing asked for",
        ));
    };
    peer.calling = AeTitle::parse(&request.calling_ae_title).ok();
    peer.called = AeTitle::parse(&request.called_ae_title).ok();
    match accept(&request, peer, shared) {
        Ok((pdu, agreement, slot)) => {
            wire.send_pdu(&pdu).await?;
            Ok(Opened::Accepted(agreement, slot))
        }
        Err(rejection) => {
            wire.send_pdu(&Pdu::AssociationRJ(negotiate::reject(&rejection)))
                .await?;
            Ok(Opened::Rejected(rejection))
        }
    }
}

/// Waits until this node is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error says that nobody is left who could ask for it otherwise.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn accept<S: Services>(
    request: &AssociationRQ,
    peer: &Peer,
    shared: &Shared<S>,
) -> Result<(Pdu, Agreement, OwnedSemaphorePermit), Rejection> {
    let (pdu, agreement) = negotiate::answer(request, &shared.config)?;
    if !shared.services.admits(peer) {
        return Err(Rejection::CallingTitle);
    }
    let slot = Arc::clone(&shared.slots)
        .try_acquire_owned()
        .map_err(|_| Rejection::LocalLimit(shared.config.associations_max))?;
    Ok((Pdu::AssociationAC(pdu), agreement, slot))
}

/// Sends the A-ABORT that a fault calls for, and says how the association ended.
async fn end(wire: &mut Wire, fault: &WireFault) -> Ending {
    match fault {
        WireFault::Breach(Breach { reason, .. }) => {
            wire.abort(AbortRQSource::ServiceProvider(reason.clone()))
                .await;
        }
        WireFault::TimedOut(_) => wire.abort(AbortRQSource::ServiceUser).await,
        WireFault::Lost(_) | WireFault::Aborted => {}
    }
    Ending::from(fault)
}

impl From<&WireFault> for Ending {
    fn from(fault: &WireFault) -> Self {
        match fault {
            WireFault::Lost(_) => Self::ConnectionLost,
            WireFault::TimedOut(what) => Self::TimedOut(what),
            WireFault::Aborted => Self::AbortedByPeer,
            WireFault::Breach(breach) => Self::ProtocolFault(breach.text),
        }
    }
}

/// One association that is open. Requests with small data sets are in `requests`.
pub(super) struct Association<'a, V> {
    pub(super) wire: &'a mut Wire,
    pub(super) config: &'a ScpConfig,
    pub(super) budget: &'a Budget,
    pub(super) visit: &'a mut V,
    pub(super) agreement: Agreement,
    pub(super) tally: &'a mut Tally,
    /// The event that the peer hasn't answered yet.
    pub(super) told: Option<Told>,
    pub(super) last_event_id: u16,
}

/// An event on its way.
pub(super) struct Told {
    pub(super) message_id: u16,
    /// Until when it is waited for an answer.
    pub(super) until: Instant,
}

/// What an association waits for between two messages.
enum Next {
    Stop,
    Coming,
    Tell(Event),
    Unanswered,
}

impl<V: Visit> Association<'_, V> {
    /// Answers messages until the association ends; a stop takes effect between two messages.
    async fn serve(&mut self, mut stopped: watch::Receiver<bool>) -> Result<Ending, WireFault> {
        let ending = self.attend(&mut stopped).await;
        if self.told.take().is_some() {
            self.visit.event_answered(None);
        }
        ending
    }

    async fn attend(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<Ending, WireFault> {
        let idle = self.config.idle_timeout;
        loop {
            let received = match self.next(stopped).await? {
                Next::Stop => {
                    self.wire.abort(AbortRQSource::ServiceUser).await;
                    return Ok(Ending::Stopped);
                }
                Next::Coming => self.wire.receive(idle, "the next message").await?,
                Next::Tell(event) => {
                    self.tell(event).await?;
                    continue;
                }
                Next::Unanswered => {
                    self.told = None;
                    self.visit.event_answered(None);
                    continue;
                }
            };
            match received {
                Received::Value(first) => self.message(first).await?,
                Received::ReleaseRequest => {
                    self.wire.send_pdu(&Pdu::ReleaseRP).await?;
                    return Ok(Ending::Released);
                }
                Received::ReleaseReply => {
                    return Err(breach::unexpected("an A-RELEASE-RP that nothing asked for"));
                }
            }
        }
    }

    async fn next(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<Next, WireFault> {
        let until = self.told.as_ref().map(|told| told.until);
        let idle = self.config.idle_timeout;
        Ok(tokio::select! {
            biased;
            () = stop(stopped) => Next::Stop,
            coming = self.wire.coming(idle, "the next message") => {
                coming?;
                Next::Coming
            }
            // One event at a time (PS3.7 D.3.3.3: no asynchronous operations).
            event = self.visit.event(), if until.is_none() => Next::Tell(event),
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Next::Unanswered,
        })
    }

    async fn message(&mut self, first: Value) -> Result<(), WireFault> {
        let Some(context) = self.agreement.contexts.get(&first.context).cloned() else {
            return Err(breach::invalid(
                "a presentation context that was not accepted",
            ));
        };
        let command = self.wire.command(first, self.config.read_timeout).await?;
        let Some(command_field) = command.u16(element::COMMAND_FIELD) else {
            return Err(breach::invalid("a command without command field"));
        };
        if command_field == field::C_CANCEL_RQ {
            // Nothing is under way that could be cancelled.
            return Ok(());
        }
        if command_field == field::N_EVENT_REPORT_RQ | field::RESPONSE {
            return self.event_answer(first.context, &command).await;
        }
        if command_field & field::RESPONSE != 0 {
            return Err(breach::invalid("a response that nothing asked for"));
        }
        let Some(message_id) = command.u16(element::MESSAGE_ID) else {
            return Err(breach::invalid("a request without message ID"));
        };
        let request = Request {
            id: first.context,
            context,
            command,
            command_field,
            message_id,
        };
        let answer = self.answer(&request).await?;
        self.respond(&request, &answer).await
    }

    async fn answer(&mut self, request: &Request) -> Result<Answer, WireFault> {
        match request.command_field {
            field::C_ECHO_RQ => {
                self.tally.echoes += 1;
                Ok(Answer::success())
            }
            field::C_STORE_RQ => {
                let answer = self
                    .store(request.id, &request.context, &request.command)
                    .await?;
                if answer.status.is_success() {
                    self.tally.stored += 1;
                } else {
                    self.tally.refused += 1;
                }
                Ok(answer)
            }
            _ => {
                self.tally.requests += 1;
                self.request(request).await
            }
        }
    }

    pub(super) async fn respond(
        &mut self,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), WireFault> {
        let response = request.response(answer).encode();
        self.send(request.id, true, &response).await
    }

    pub(super) async fn send(
        &mut self,
        id: u8,
        is_command: bool,
        bytes: &[u8],
    ) -> Result<(), WireFault> {
        let peer_max = self.agreement.peer_pdu_max;
        self.wire
            .send_message(id, is_command, bytes, peer_max)
            .await
    }

    async fn store(
        &mut self,
        id: u8,
        context: &Accepted,
        command: &CommandSet,
    ) -> Result<Answer, WireFault> {
        let admitted = match store_command(context, command) {
            Ok(store) => self.visit.admit(&store).map(|head| (head, store)),
            Err(fault) => Err(self.visit.refuse(&fault)),
        };
        let (head, store) = match admitted {
            Ok(admitted) => admitted,
            Err(answer) => return self.refuse(id, command, answer).await,
        };
        let data_set_at = head.len();
        let coming = Coming {
            file: head,
            lease: self.budget.lease(),
        };
        let bytes_max = self.config.instance_bytes_max;
        match self.data_set(id, bytes_max, Ok(coming)).await? {
            // The lease is given back when the service has answered, not before.
            Ok(Coming {
                file,
                lease: _lease,
            }) => {
                let request = StoreRequest {
                    command: store,
                    file,
                    data_set_at,
                };
                Ok(self.visit.store(request).await)
            }
            Err(answer) => Ok(answer),
        }
    }

    /// Reads past the data set of a message that isn't taken.
    pub(super) async fn refuse(
        &mut self,
        id: u8,
        command: &CommandSet,
        answer: Answer,
    ) -> Result<Answer, WireFault> {
        if command.has_data_set() {
            let bytes_max = self.config.instance_bytes_max;
            drop(self.data_set(id, bytes_max, Err(answer.clone())).await?);
        }
        Ok(answer)
    }

    /// Reads a data set to its end, into `coming` for as long as nothing speaks against it.
    async fn data_set(
        &mut self,
        id: u8,
        bytes_max: u64,
        mut coming: Result<Coming, Answer>,
    ) -> Result<Result<Coming, Answer>, WireFault> {
        let mut bytes: u64 = 0;
        loop {
            let value = self.data_value(id).await?;
            bytes += self.wire.value_rest() as u64;
            let fault = match &mut coming {
                Ok(_) if bytes > bytes_max => Some(StoreFault::TooLarge { bytes_max }),
                Ok(coming) => coming.take_value(self.wire).await?.err(),
                // Who sends that much more into the void won't come to an end.
                Err(_) if bytes > bytes_max.saturating_mul(2) => {
                    return Err(breach::invalid("a refused data set without end"));
                }
                Err(_) => None,
            };
            if let Some(fault) = fault {
                coming = Err(self.visit.refuse(&fault));
            }
            if value.is_last {
                self.wire.skip_value().await?;
                self.tally.bytes += bytes;
                return Ok(coming);
            }
        }
    }

    pub(super) async fn data_value(&mut self, id: u8) -> Result<Value, WireFault> {
        let wait = self.config.read_timeout;
        match self.wire.receive(wait, "the rest of a data set").await? {
            Received::Value(value) if value.is_command => {
                Err(breach::invalid("a command within a data set"))
            }
            Received::Value(value) if value.context != id => Err(breach::invalid(
                "a data set that changes its presentation context",
            )),
            Received::Value(value) => Ok(value),
            Received::ReleaseRequest | Received::ReleaseReply => {
                Err(breach::unexpected("a release within a message"))
            }
        }
    }
}

/// A data set on its way, behind the bytes that the service wants before it.
struct Coming {
    file: Vec<u8>,
    lease: Lease,
}

impl Coming {
    /// Appends what is left of the current value.
    async fn take_value(&mut self, wire: &mut Wire) -> Result<Result<(), StoreFault>, WireFault> {
        while wire.value_rest() > 0 {
            let step = wire.value_rest().min(STEP_BYTES);
            let covered = self.lease.cover(self.file.len() + step).await;
            // If the peer had to wait for memory, then not at its own expense.
            wire.restart_deadline();
            if covered.is_err() {
                return Ok(Err(StoreFault::NoMemory));
            }
            if self.file.capacity() - self.file.len() < step {
                self.file.reserve_exact(GROWTH_BYTES);
            }
            wire.take(step, &mut self.file).await?;
        }
        Ok(Ok(()))
    }
}

/// Reads what a C-STORE-RQ's command says, as far as it can be wrong without its data set.
fn store_command(context: &Accepted, command: &CommandSet) -> Result<StoreCommand, StoreFault> {
    let text = |element| command.text(element).unwrap_or_default();
    let sop_class = SopClassUid::parse(text(element::AFFECTED_SOP_CLASS))
        .map_err(|_| StoreFault::BadUid("Affected SOP Class UID"))?;
    let sop = SopInstanceUid::parse(text(element::AFFECTED_SOP_INSTANCE))
        .map_err(|_| StoreFault::BadUid("Affected SOP Instance UID"))?;
    if sop_class != context.sop_class || context.service != Service::Storage {
        let negotiated = context.sop_class.clone();
        return Err(StoreFault::ClassNotNegotiated {
            given: sop_class,
            negotiated,
        });
    }
    if !command.has_data_set() {
        return Err(StoreFault::NoDataSet);
    }
    Ok(StoreCommand {
        sop_class,
        sop,
        transfer_syntax: context.transfer_syntax.clone(),
    })
}
