//! The user role: opens an association, echoes, stores, queries, acts; and tells events as a provider.

use std::io;
use std::time::Duration;

use dicom_ul::Pdu;
use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRQ, PresentationContextProposed,
    PresentationContextResult, PresentationContextResultReason, RequestorRoles, UserVariableItem,
};
use study::dataset::Encoding;
use study::{AeTitle, SopClassUid, SopInstanceUid, TransferSyntaxUid};
use thiserror::Error;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

use crate::command::{CommandSet, DATA_SET_FOLLOWS, NO_DATA_SET, element, field};
use crate::data_set::DataSet;
use crate::negotiate::{APPLICATION_CONTEXT, pdu_max, user_variables};
use crate::scp::{Event, Operation, OperationKind, event_command};
use crate::wire::{Received, Timeouts, Wire, WireFault};
use crate::{Answer, Status, VERIFICATION};

/// Titles, limits and timeouts of an association that we open.
#[derive(Debug, Clone)]
pub struct ScuConfig {
    /// Our title.
    pub calling: AeTitle,
    /// The peer's title.
    pub called: AeTitle,
    /// How long connecting and the peer's answer to A-ASSOCIATE-RQ may take, each.
    pub connect_timeout: Duration,
    /// How long an answer to a request may take.
    pub answer_timeout: Duration,
    /// The largest P-DATA-TF that is received, in bytes.
    pub pdu_bytes_max: u32,
    /// SOP classes that we are the provider of, though we open the association (PS3.7 D.3.3.4).
    pub provides: Vec<SopClassUid>,
}

impl ScuConfig {
    /// The defaults between these two titles.
    pub fn new(calling: AeTitle, called: AeTitle) -> Self {
        Self {
            calling,
            called,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            pdu_bytes_max: 131_072,
            provides: Vec::new(),
        }
    }
}

/// One presentation context to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The SOP class.
    pub sop_class: SopClassUid,
    /// Transfer syntaxes, the preferred one first.
    pub transfer_syntaxes: Vec<TransferSyntaxUid>,
}

/// An instance to send; the data set goes out as it is.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// SOP Class UID.
    pub sop_class: &'a SopClassUid,
    /// SOP Instance UID.
    pub sop: &'a SopInstanceUid,
    /// The data set's transfer syntax.
    pub transfer_syntax: &'a TransferSyntaxUid,
    /// The data set's bytes.
    pub data_set: &'a [u8],
}

/// Says what went wrong on an association that we opened.
#[derive(Debug, Error)]
pub enum ScuError {
    /// No TCP connection.
    #[error("cannot connect to the peer")]
    Connect(#[source] io::Error),
    /// The peer rejected the association; says why.
    #[error("the association was rejected: {0}")]
    Rejected(String),
    /// More than 128 presentation contexts, or none.
    #[error("{0} presentation contexts, 1 to 128 can be proposed")]
    Proposals(usize),
    /// No accepted presentation context fits the instance.
    #[error(
        "the peer accepted no presentation context for SOP class {sop_class} in {transfer_syntax}"
    )]
    NoContext {
        /// The SOP class.
        sop_class: String,
        /// The transfer syntax.
        transfer_syntax: String,
    },
    /// The peer sent an A-ABORT.
    #[error("the peer aborted the association")]
    Aborted,
    /// The connection broke.
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The peer didn't answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

/// An open association in the user role.
#[derive(Debug)]
pub struct Association {
    wire: Wire,
    contexts: Vec<Agreed>,
    peer_pdu_max: u32,
    answer_timeout: Duration,
    last_message_id: u16,
}

/// A presentation context that the peer accepted.
#[derive(Debug)]
struct Agreed {
    id: u8,
    sop_class: SopClassUid,
    transfer_syntax: TransferSyntaxUid,
}

impl Association {
    /// Connects and negotiates.
    pub async fn open(
        address: impl ToSocketAddrs,
        config: ScuConfig,
        proposals: &[Proposal],
    ) -> Result<Self, ScuError> {
        let request = request(&config, proposals)?;
        let connecting = timeout(config.connect_timeout, TcpStream::connect(address));
        let stream = connecting
            .await
            .map_err(|_| ScuError::TimedOut)?
            .map_err(ScuError::Connect)?;
        let timeouts = Timeouts {
            read: config.answer_timeout,
            write: config.answer_timeout,
        };
        let mut wire = Wire::new(stream, timeouts).map_err(ScuError::Connect)?;
        wire.send_pdu(&Pdu::AssociationRQ(request)).await?;
        let answer = wire
            .associate_pdu(config.connect_timeout, "the answer to our request")
            .await?;
        if let Pdu::AssociationRJ(reject) = answer {
            wire.close().await;
            return Err(ScuError::Rejected(reject.source.to_string()));
        }
        let Pdu::AssociationAC(accept) = answer else {
            return Err(ScuError::Protocol("an unexpected answer to our request"));
        };
        Ok(Self {
            wire,
            contexts: agreed(proposals, &accept),
            peer_pdu_max: pdu_max(&accept.user_variables),
            answer_timeout: config.answer_timeout,
            last_message_id: 0,
        })
    }

    /// Says whether an instance of this class and transfer syntax can be sent.
    pub fn accepts(&self, sop_class: &SopClassUid, transfer_syntax: &TransferSyntaxUid) -> bool {
        self.context(sop_class.as_str(), Some(transfer_syntax))
            .is_some()
    }

    /// Sends a C-ECHO-RQ; the verification class must have been proposed.
    pub async fn echo(&mut self) -> Result<Status, ScuError> {
        let context = self
            .context(VERIFICATION, None)
            .ok_or_else(|| ScuError::NoContext {
                sop_class: VERIFICATION.to_string(),
                transfer_syntax: "any transfer syntax".to_string(),
            })?;
        let command = self
            .request(field::C_ECHO_RQ)
            .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
            .with_uid(element::AFFECTED_SOP_CLASS, VERIFICATION);
        self.send(context, true, &command.encode()).await?;
        Ok(self.answer().await?.status)
    }

    /// Sends a C-STORE-RQ with its data set and waits for the answer.
    pub async fn store(&mut self, instance: Instance<'_>) -> Result<Answer, ScuError> {
        let class = instance.sop_class.as_str();
        let context = self
            .context(class, Some(instance.transfer_syntax))
            .ok_or_else(|| ScuError::NoContext {
                sop_class: class.to_string(),
                transfer_syntax: instance.transfer_syntax.to_string(),
            })?;
        let command = self
            .request(field::C_STORE_RQ)
            .with_u16(element::DATA_SET_TYPE, DATA_SET_FOLLOWS)
            .with_u16(element::PRIORITY, PRIORITY_MEDIUM)
            .with_uid(element::AFFECTED_SOP_CLASS, class)
            .with_uid(element::AFFECTED_SOP_INSTANCE, instance.sop.as_str());
        self.send(context, true, &command.encode()).await?;
        self.send(context, false, instance.data_set).await?;
        self.answer().await
    }

    /// Sends a C-FIND-RQ and collects the matches, at most `matches_max`: then it is cancelled.
    pub async fn find(
        &mut self,
        sop_class: &SopClassUid,
        identifier: &DataSet,
        matches_max: usize,
    ) -> Result<(Vec<DataSet>, Answer), ScuError> {
        let (context, encoding) = self.parsed_context(sop_class)?;
        let command = self
            .request(field::C_FIND_RQ)
            .with_u16(element::PRIORITY, PRIORITY_MEDIUM)
            .with_uid(element::AFFECTED_SOP_CLASS, sop_class.as_str())
            .announcing_data_set();
        self.send(context, true, &command.encode()).await?;
        self.send(context, false, &identifier.encode(encoding))
            .await?;
        let mut found = Vec::new();
        loop {
            let response = self.response().await?;
            if response.u16(element::STATUS) != Some(Status::PENDING.0) {
                return Ok((found, self.answer_of(&response)?));
            }
            let bytes = self.data_set().await?;
            let Ok(identifier) = DataSet::parse(&bytes, encoding) else {
                return Err(ScuError::Protocol("a match that cannot be read"));
            };
            found.push(identifier);
            if found.len() == matches_max {
                let cancel = CommandSet::default()
                    .with_u16(element::COMMAND_FIELD, field::C_CANCEL_RQ)
                    .with_u16(element::RESPONDED_MESSAGE_ID, self.last_message_id)
                    .with_u16(element::DATA_SET_TYPE, NO_DATA_SET);
                self.send(context, true, &cancel.encode()).await?;
            }
        }
    }

    /// Sends an N-ACTION, N-CREATE or N-SET and waits for the answer.
    pub async fn operate(&mut self, operation: &Operation) -> Result<Answer, ScuError> {
        let (context, encoding) = self.parsed_context(&operation.sop_class)?;
        let (class, sop) = (operation.sop_class.as_str(), operation.sop.as_str());
        let requested = |command: CommandSet| {
            command
                .with_uid(element::REQUESTED_SOP_CLASS, class)
                .with_uid(element::REQUESTED_SOP_INSTANCE, sop)
        };
        let command = match operation.kind {
            OperationKind::Action(action) => {
                requested(self.request(field::N_ACTION_RQ)).with_u16(element::ACTION_TYPE, action)
            }
            OperationKind::Set => requested(self.request(field::N_SET_RQ)),
            OperationKind::Create => self
                .request(field::N_CREATE_RQ)
                .with_uid(element::AFFECTED_SOP_CLASS, class)
                .with_uid(element::AFFECTED_SOP_INSTANCE, sop),
        };
        let command = command.announcing_data_set();
        self.send(context, true, &command.encode()).await?;
        let data_set = operation.data_set.encode(encoding);
        self.send(context, false, &data_set).await?;
        self.answer().await
    }

    /// Tells an event, and waits for the answer; the class is one of [`ScuConfig::provides`].
    pub async fn tell(&mut self, event: &Event) -> Result<Answer, ScuError> {
        let (context, encoding) = self.parsed_context(&event.sop_class)?;
        self.last_message_id = self.last_message_id.wrapping_add(1);
        let command = event_command(event, self.last_message_id);
        self.send(context, true, &command.encode()).await?;
        let data_set = event.data_set.encode(encoding);
        self.send(context, false, &data_set).await?;
        self.answer().await
    }

    /// Waits for an event of a class that the peer provides, and answers that it was heard.
    pub async fn event(&mut self) -> Result<Event, ScuError> {
        let received = self.wire.receive(self.answer_timeout, "an event").await?;
        let Received::Value(first) = received else {
            return Err(ScuError::Protocol("a release instead of an event"));
        };
        let command = self.wire.command(first, self.answer_timeout).await?;
        let context = self.contexts.iter().find(|c| c.id == first.context);
        let (Some(context), Some(message_id)) = (context, command.u16(element::MESSAGE_ID)) else {
            return Err(ScuError::Protocol("an event without context or message ID"));
        };
        let encoding = Encoding::of(&context.transfer_syntax);
        let sop_class = context.sop_class.clone();
        let bytes = self.data_set().await?;
        let sop = command.text(element::AFFECTED_SOP_INSTANCE);
        let sop = sop.and_then(|uid| SopInstanceUid::parse(uid).ok());
        let (Some(sop), Ok(data_set)) = (sop, DataSet::parse(&bytes, encoding)) else {
            return Err(ScuError::Protocol("an event that cannot be read"));
        };
        let event_type = command.u16(element::EVENT_TYPE).unwrap_or_default();
        let answer = Answer::success();
        let response =
            CommandSet::response_to(&command, field::N_EVENT_REPORT_RQ, message_id, &answer);
        self.send(first.context, true, &response.encode()).await?;
        Ok(Event {
            sop_class,
            sop,
            event_type,
            data_set,
        })
    }

    /// Releases the association.
    pub async fn release(mut self) -> Result<(), ScuError> {
        self.wire.send_pdu(&Pdu::ReleaseRQ).await?;
        match self
            .wire
            .receive(self.answer_timeout, "the answer to our release")
            .await?
        {
            Received::ReleaseReply => {
                self.wire.close().await;
                Ok(())
            }
            Received::Value(_) | Received::ReleaseRequest => {
                Err(ScuError::Protocol("an unexpected answer to our release"))
            }
        }
    }

    /// Aborts the association.
    pub async fn abort(mut self) {
        self.wire.abort(AbortRQSource::ServiceUser).await;
        self.wire.close().await;
    }

    fn context(&self, sop_class: &str, transfer_syntax: Option<&TransferSyntaxUid>) -> Option<u8> {
        let fits = |c: &&Agreed| {
            c.sop_class.as_str() == sop_class
                && transfer_syntax.is_none_or(|wanted| *wanted == c.transfer_syntax)
        };
        self.contexts.iter().find(fits).map(|c| c.id)
    }

    fn request(&mut self, command_field: u16) -> CommandSet {
        self.last_message_id = self.last_message_id.wrapping_add(1);
        CommandSet::default()
            .with_u16(element::COMMAND_FIELD, command_field)
            .with_u16(element::MESSAGE_ID, self.last_message_id)
    }

    async fn send(&mut self, context: u8, is_command: bool, bytes: &[u8]) -> Result<(), ScuError> {
        Ok(self
            .wire
            .send_message(context, is_command, bytes, self.peer_pdu_max)
            .await?)
    }

    /// The context of a class whose data sets are parsed, and how they are encoded in it.
    fn parsed_context(&self, sop_class: &SopClassUid) -> Result<(u8, Encoding), ScuError> {
        let context = self.contexts.iter().find(|c| c.sop_class == *sop_class);
        let context = context.ok_or_else(|| ScuError::NoContext {
            sop_class: sop_class.to_string(),
            transfer_syntax: "implicit or explicit VR little endian".to_string(),
        })?;
        Ok((context.id, Encoding::of(&context.transfer_syntax)))
    }

    /// Reads the answer to the request that was sent last.
    async fn answer(&mut self) -> Result<Answer, ScuError> {
        let response = self.response().await?;
        if response.has_data_set() {
            self.data_set().await?;
        }
        self.answer_of(&response)
    }

    fn answer_of(&self, response: &CommandSet) -> Result<Answer, ScuError> {
        let status = response
            .u16(element::STATUS)
            .ok_or(ScuError::Protocol("an answer without status"))?;
        let comment = response
            .text(element::ERROR_COMMENT)
            .map(|c| c.trim().to_string());
        Ok(Answer {
            status: Status(status),
            comment,
            error_id: response.u16(element::ERROR_ID),
        })
    }

    /// Reads a response to the request that was sent last.
    async fn response(&mut self) -> Result<CommandSet, ScuError> {
        let received = self
            .wire
            .receive(self.answer_timeout, "the answer to our request")
            .await?;
        let Received::Value(first) = received else {
            return Err(ScuError::Protocol("a release instead of an answer"));
        };
        let response = self.wire.command(first, self.answer_timeout).await?;
        if response.u16(element::RESPONDED_MESSAGE_ID) != Some(self.last_message_id) {
            return Err(ScuError::Protocol("an answer to another request"));
        }
        Ok(response)
    }

    /// Reads the data set behind a command.
    async fn data_set(&mut self) -> Result<Vec<u8>, ScuError> {
        let mut bytes = Vec::new();
        loop {
            let received = self
                .wire
                .receive(self.answer_timeout, "the rest of a data set")
                .await?;
            let Received::Value(value) = received else {
                return Err(ScuError::Protocol("a release within a message"));
            };
            let more = self.wire.value_rest();
            if value.is_command || bytes.len() + more > DATA_SET_BYTES_MAX {
                return Err(ScuError::Protocol("no data set, or an absurdly long one"));
            }
            self.wire.take(more, &mut bytes).await?;
            if value.is_last {
                return Ok(bytes);
            }
        }
    }
}

/// The largest data set that is taken as an answer.
const DATA_SET_BYTES_MAX: usize = 2 << 20;
/// Value of Priority (0000,0700); storage providers don't act on it.
const PRIORITY_MEDIUM: u16 = 0;
/// Context IDs are the odd numbers of one byte.
const CONTEXTS_MAX: usize = 128;

fn request(config: &ScuConfig, proposals: &[Proposal]) -> Result<AssociationRQ, ScuError> {
    if proposals.is_empty() || proposals.len() > CONTEXTS_MAX {
        return Err(ScuError::Proposals(proposals.len()));
    }
    let mut variables = user_variables(config.pdu_bytes_max);
    variables.extend(config.provides.iter().map(|sop_class| {
        let roles = RequestorRoles {
            scu: false,
            scp: true,
        };
        UserVariableItem::ScuScpRoleSelectionSubItem(sop_class.to_string(), roles)
    }));
    Ok(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: config.calling.as_str().to_string(),
        called_ae_title: config.called.as_str().to_string(),
        application_context_name: APPLICATION_CONTEXT.to_string(),
        presentation_contexts: (1..=u8::MAX)
            .step_by(2)
            .zip(proposals)
            .map(|(id, proposal)| PresentationContextProposed {
                id,
                abstract_syntax: proposal.sop_class.to_string(),
                transfer_syntaxes: proposal
                    .transfer_syntaxes
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            })
            .collect(),
        user_variables: variables,
    })
}

/// Finds which proposals were accepted; an answer to something that wasn't proposed is passed over.
fn agreed(proposals: &[Proposal], accept: &AssociationAC) -> Vec<Agreed> {
    let result = |context: &PresentationContextResult| {
        if context.reason != PresentationContextResultReason::Acceptance
            || context.id.is_multiple_of(2)
        {
            return None;
        }
        let proposal = proposals.get(usize::from(context.id / 2))?;
        let transfer_syntax = TransferSyntaxUid::parse(&context.transfer_syntax).ok()?;
        let sop_class = proposal.sop_class.clone();
        proposal
            .transfer_syntaxes
            .contains(&transfer_syntax)
            .then_some(Agreed {
                id: context.id,
                sop_class,
                transfer_syntax,
            })
    };
    accept
        .presentation_contexts
        .iter()
        .filter_map(result)
        .collect()
}

impl From<WireFault> for ScuError {
    fn from(fault: WireFault) -> Self {
        match fault {
            WireFault::Lost(error) => Self::Lost(error),
            WireFault::TimedOut(_) => Self::TimedOut,
            WireFault::Aborted => Self::Aborted,
            WireFault::Breach(breach) => Self::Protocol(breach.text),
        }
    }
}
