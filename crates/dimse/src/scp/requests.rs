//! Requests with small data sets on an open association, and events to the peer.

use study::dataset::Encoding;
use study::{SopClassUid, SopInstanceUid};
use tokio::time::Instant;

use super::association::{Association, Told};
use super::{Event, Matches, Operation, OperationKind, RequestFault, Visit};
use crate::command::{CommandSet, element, field};
use crate::data_set::PARSED_FACTOR;
use crate::negotiate::Accepted;
use crate::wire::{Received, WireFault, breach};
use crate::{Answer, DataSet, Service, Status};

/// The largest data set of these services: a commitment for some ten thousand instances.
const DATA_SET_BYTES_MAX: usize = 2 << 20;

/// A request's command, and where it came.
pub(super) struct Request {
    /// The presentation context's ID.
    pub(super) id: u8,
    pub(super) context: Accepted,
    pub(super) command: CommandSet,
    pub(super) command_field: u16,
    pub(super) message_id: u16,
}

impl Request {
    pub(super) fn response(&self, answer: &Answer) -> CommandSet {
        CommandSet::response_to(&self.command, self.command_field, self.message_id, answer)
    }

    fn encoding(&self) -> Encoding {
        Encoding::of(&self.context.transfer_syntax)
    }

    /// What kind of operation it is, if its context allows it; none when it is a C-FIND.
    fn kind(&self) -> Result<Option<OperationKind>, RequestFault> {
        match (self.context.service, self.command_field) {
            (Service::Worklist, field::C_FIND_RQ) => Ok(None),
            (Service::Commitment, field::N_ACTION_RQ) => {
                let action = self.command.u16(element::ACTION_TYPE);
                let action = action.ok_or(RequestFault::NoActionType)?;
                Ok(Some(OperationKind::Action(action)))
            }
            (Service::PerformedStep, field::N_CREATE_RQ) => Ok(Some(OperationKind::Create)),
            (Service::PerformedStep, field::N_SET_RQ) => Ok(Some(OperationKind::Set)),
            _ => Err(RequestFault::NotServed(self.context.sop_class.clone())),
        }
    }

    /// Checks what the command says of its class and instance.
    fn named(&self, kind: OperationKind) -> Result<SopInstanceUid, RequestFault> {
        let (class, instance) = match kind {
            OperationKind::Create => (element::AFFECTED_SOP_CLASS, element::AFFECTED_SOP_INSTANCE),
            OperationKind::Action(_) | OperationKind::Set => (
                element::REQUESTED_SOP_CLASS,
                element::REQUESTED_SOP_INSTANCE,
            ),
        };
        let text = |element| self.command.text(element).unwrap_or_default();
        if SopClassUid::parse(text(class)).ok().as_ref() != Some(&self.context.sop_class) {
            return Err(RequestFault::ClassNotNegotiated);
        }
        SopInstanceUid::parse(text(instance)).map_err(|_| RequestFault::BadUid)
    }
}

impl<V: Visit> Association<'_, V> {
    /// Takes a request's data set and has it answered.
    pub(super) async fn request(&mut self, request: &Request) -> Result<Answer, WireFault> {
        let named = request.kind().and_then(|kind| {
            let sop = kind.map(|kind| request.named(kind)).transpose()?;
            Ok(kind.zip(sop))
        });
        let data_set = match &named {
            Ok(_) => self.small_data_set(request).await?,
            Err(fault) => Err(fault.clone()),
        };
        match (named, data_set) {
            (Ok(None), Ok(identifier)) => match self.visit.find(identifier).await {
                Ok(matches) => self.send_matches(request, matches).await,
                Err(answer) => Ok(answer),
            },
            (Ok(Some((kind, sop))), Ok(data_set)) => {
                let sop_class = request.context.sop_class.clone();
                let operation = Operation {
                    sop_class,
                    sop,
                    kind,
                    data_set,
                };
                Ok(self.visit.operate(operation).await)
            }
            (Err(fault), _) => {
                self.visit.refused(&fault);
                self.refuse(request.id, &request.command, fault.answer())
                    .await
            }
            // Its data set has been read past already.
            (Ok(_), Err(fault)) => {
                self.visit.refused(&fault);
                Ok(fault.answer())
            }
        }
    }

    /// Reads and parses the data set of a request; one that isn't taken is read past.
    async fn small_data_set(
        &mut self,
        request: &Request,
    ) -> Result<Result<DataSet, RequestFault>, WireFault> {
        if !request.command.has_data_set() {
            return Ok(Err(RequestFault::NoDataSet));
        }
        let mut bytes = Vec::new();
        let mut lease = self.budget.lease();
        let mut fault = None;
        let mut past: u64 = 0;
        loop {
            let value = self.data_value(request.id).await?;
            let more = self.wire.value_rest();
            if fault.is_none() && bytes.len() + more > DATA_SET_BYTES_MAX {
                let bytes_max = DATA_SET_BYTES_MAX as u64;
                fault = Some(RequestFault::TooLarge { bytes_max });
            }
            if fault.is_none()
                && lease
                    .cover((bytes.len() + more) * PARSED_FACTOR)
                    .await
                    .is_err()
            {
                fault = Some(RequestFault::NoMemory);
            }
            // If the peer had to wait for memory, then not at its own expense.
            self.wire.restart_deadline();
            if fault.is_none() {
                self.wire.take(more, &mut bytes).await?;
            } else {
                past += more as u64;
                self.wire.skip_value().await?;
            }
            if past > self.config.instance_bytes_max {
                return Err(breach::invalid("a refused data set without end"));
            }
            if value.is_last {
                break;
            }
        }
        self.tally.bytes += bytes.len() as u64 + past;
        if let Some(fault) = fault {
            return Ok(Err(fault));
        }
        Ok(DataSet::parse(&bytes, request.encoding()).map_err(RequestFault::from))
    }

    /// Sends matches one by one, until there are no more or the peer cancels.
    async fn send_matches(
        &mut self,
        request: &Request,
        matches: Matches,
    ) -> Result<Answer, WireFault> {
        let pending = Answer {
            status: Status::PENDING,
            ..Answer::success()
        };
        let command = request.response(&pending).announcing_data_set().encode();
        for found in matches {
            if self.is_cancelled(request).await? {
                return Ok(Answer {
                    status: Status::CANCELLED,
                    ..Answer::success()
                });
            }
            self.send(request.id, true, &command).await?;
            let found = found.encode(request.encoding());
            self.send(request.id, false, &found).await?;
        }
        Ok(Answer::success())
    }

    /// Says whether the peer has cancelled a query that is being answered.
    async fn is_cancelled(&mut self, request: &Request) -> Result<bool, WireFault> {
        let wait = self.config.read_timeout;
        while self.wire.has_come() {
            let received = self.wire.receive(wait, "the rest of a message").await?;
            let Received::Value(first) = received else {
                return Err(breach::unexpected("a release while a query is answered"));
            };
            let command = self.wire.command(first, wait).await?;
            if command.u16(element::COMMAND_FIELD) != Some(field::C_CANCEL_RQ) {
                // Asynchronous operations weren't negotiated.
                return Err(breach::unexpected("a request while another is answered"));
            }
            // One for a query that has been answered comes too late, and is no harm.
            if command.u16(element::RESPONDED_MESSAGE_ID) == Some(request.message_id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends an event; where the peer has no context for it, it counts as not answered.
    pub(super) async fn tell(&mut self, event: Event) -> Result<(), WireFault> {
        let context = self
            .agreement
            .contexts
            .iter()
            .find(|(_, context)| context.sop_class == event.sop_class);
        let Some((id, context)) = context else {
            self.visit.event_answered(None);
            return Ok(());
        };
        let (id, encoding) = (*id, Encoding::of(&context.transfer_syntax));
        self.last_event_id = self.last_event_id.wrapping_add(1);
        let message_id = self.last_event_id;
        self.told = Some(Told {
            message_id,
            until: Instant::now() + self.config.read_timeout,
        });
        let command = event_command(&event, message_id).encode();
        self.send(id, true, &command).await?;
        self.send(id, false, &event.data_set.encode(encoding)).await
    }

    /// Takes the answer to an event; one that comes late is passed over.
    pub(super) async fn event_answer(
        &mut self,
        id: u8,
        command: &CommandSet,
    ) -> Result<(), WireFault> {
        if self.last_event_id == 0 {
            return Err(breach::invalid("a response that nothing asked for"));
        }
        self.refuse(id, command, Answer::success()).await?;
        let answers = command.u16(element::RESPONDED_MESSAGE_ID);
        if self.told.as_ref().map(|told| told.message_id) == answers {
            self.told = None;
            self.visit
                .event_answered(command.u16(element::STATUS).map(Status));
        }
        Ok(())
    }
}

/// The command of an N-EVENT-REPORT-RQ.
pub(crate) fn event_command(event: &Event, message_id: u16) -> CommandSet {
    CommandSet::default()
        .with_u16(element::COMMAND_FIELD, field::N_EVENT_REPORT_RQ)
        .with_u16(element::MESSAGE_ID, message_id)
        .with_uid(element::AFFECTED_SOP_CLASS, event.sop_class.as_str())
        .with_uid(element::AFFECTED_SOP_INSTANCE, event.sop.as_str())
        .with_u16(element::EVENT_TYPE, event.event_type)
        .announcing_data_set()
}
