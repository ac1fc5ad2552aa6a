//! The provider role: accepts associations, answers C-ECHO, hands every other request to a service.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use study::{AeTitle, SopClassUid, SopInstanceUid, TransferSyntaxUid};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use crate::memory::Budget;
use crate::{Answer, DataSet, DataSetError, Service, Status};

mod association;
mod requests;

pub(crate) use requests::event_command;

/// What the provider accepts, and its limits.
#[derive(Debug, Clone)]
pub struct ScpConfig {
    /// Our application entity title.
    pub ae_title: AeTitle,
    /// Takes associations whatever title they call; else another title is rejected.
    pub accept_any_called: bool,
    /// Private SOP classes that are stored as well as the standard ones.
    pub private_classes: Vec<SopClassUid>,
    /// What is served beside verification and storage.
    pub services: Vec<Service>,
    /// How many associations may be open at once; one more is rejected as transient.
    pub associations_max: usize,
    /// The largest data set that is taken, in bytes.
    pub instance_bytes_max: u64,
    /// Memory for data sets on their way, over all associations, beyond a small share of each one's own.
    pub memory_bytes_max: u64,
    /// The largest P-DATA-TF that peers are told to send, in bytes.
    pub pdu_bytes_max: u32,
    /// How long a new connection may take until its A-ASSOCIATE-RQ is complete (ARTIM, PS3.8 9.1.5).
    pub artim_timeout: Duration,
    /// How long an association may be silent between two messages.
    pub idle_timeout: Duration,
    /// How long the rest of a PDU, or the next PDU of a message, may take.
    pub read_timeout: Duration,
    /// How long a PDU of ours may take until the peer's system has taken it.
    pub write_timeout: Duration,
    /// How long running stores may take after a stop was asked for.
    pub stop_timeout: Duration,
}

impl ScpConfig {
    /// The defaults for a node of this title.
    pub fn new(ae_title: AeTitle) -> Self {
        Self {
            ae_title,
            accept_any_called: false,
            private_classes: Vec::new(),
            services: Vec::new(),
            associations_max: 64,
            instance_bytes_max: 1 << 30,
            memory_bytes_max: 1 << 30,
            pdu_bytes_max: 131_072,
            artim_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(4),
        }
    }
}

/// The other end of an association.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Counts connections since the start; names the association in logs.
    pub id: u64,
    /// Where it calls from.
    pub address: SocketAddr,
    /// The title it gives itself; none before it said so, or when it is no AE title.
    pub calling: Option<AeTitle>,
    /// The title it called; none before it said so, or when it is no AE title.
    pub called: Option<AeTitle>,
}

/// A C-STORE-RQ's command, before its data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCommand {
    /// Affected SOP Class UID (0000,0002).
    pub sop_class: SopClassUid,
    /// Affected SOP Instance UID (0000,1000).
    pub sop: SopInstanceUid,
    /// The transfer syntax of the presentation context.
    pub transfer_syntax: TransferSyntaxUid,
}

/// A C-STORE-RQ with its data set.
#[derive(Debug)]
pub struct StoreRequest {
    /// The command.
    pub command: StoreCommand,
    /// What [`Visit::admit`] gave, and after it the data set exactly as it came.
    pub file: Vec<u8>,
    /// Where in `file` the data set begins.
    pub data_set_at: usize,
}

/// What a peer asks for in one of the services that have small data sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The SOP class.
    pub sop_class: SopClassUid,
    /// The SOP instance.
    pub sop: SopInstanceUid,
    /// What is to be done with it.
    pub kind: OperationKind,
    /// The data set; empty when none came.
    pub data_set: DataSet,
}

/// What is to be done with a SOP instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// N-ACTION with this Action Type ID.
    Action(u16),
    /// N-CREATE.
    Create,
    /// N-SET.
    Set,
}

/// What a query matches, made while it is sent.
pub type Matches = Box<dyn Iterator<Item = DataSet> + Send>;

/// What the service has to tell the peer by N-EVENT-REPORT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The SOP class; a presentation context of it must be open.
    pub sop_class: SopClassUid,
    /// The SOP instance.
    pub sop: SopInstanceUid,
    /// Event Type ID (0000,1002).
    pub event_type: u16,
    /// The event's information.
    pub data_set: DataSet,
}

/// Why this crate refuses a request other than C-STORE by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestFault {
    /// The presentation context isn't for that.
    #[error("this operation is not served in a presentation context of {0}")]
    NotServed(SopClassUid),
    /// The data set can't be read.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    /// The data set is larger than any of these services needs.
    #[error("the data set is larger than the {bytes_max} bytes allowed")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// Memory for data sets on their way stayed used up.
    #[error("no memory for the data set while others are being received")]
    NoMemory,
    /// A request that needs a data set has none.
    #[error("the command announces no data set")]
    NoDataSet,
    /// The SOP class isn't that of the presentation context.
    #[error("the SOP class is not that of the presentation context")]
    ClassNotNegotiated,
    /// The command has no usable SOP Instance UID.
    #[error("the command has no valid SOP Instance UID")]
    BadUid,
    /// An N-ACTION without Action Type ID.
    #[error("the command has no action type")]
    NoActionType,
}

impl RequestFault {
    /// The status that says so (PS3.7 annex C).
    pub fn answer(&self) -> Answer {
        let status = match self {
            Self::NotServed(_) => Status::UNRECOGNIZED_OPERATION,
            Self::DataSet(_) => Status::CANNOT_UNDERSTAND,
            Self::TooLarge { .. } | Self::NoMemory => Status::RESOURCE_LIMITATION,
            Self::NoDataSet => Status::MISSING_ATTRIBUTE,
            Self::ClassNotNegotiated => Status::SOP_CLASS_NOT_SUPPORTED,
            Self::BadUid => Status::INVALID_SOP_INSTANCE,
            Self::NoActionType => Status::NO_SUCH_ACTION,
        };
        Answer::failure(status, self.to_string())
    }
}

/// Why this crate refuses a C-STORE by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreFault {
    /// The data set is over the limit of one instance.
    #[error("the data set is larger than the {bytes_max} bytes allowed")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// Memory for data sets on their way stayed used up.
    #[error("no memory for the data set while others are being received")]
    NoMemory,
    /// The SOP class isn't that of the presentation context, so it wasn't negotiated.
    #[error("SOP class {given} in a presentation context of {negotiated}")]
    ClassNotNegotiated {
        /// What the command says.
        given: SopClassUid,
        /// What the context is for.
        negotiated: SopClassUid,
    },
    /// The command has no usable SOP class or SOP instance UID.
    #[error("the command has no valid {0}")]
    BadUid(&'static str),
    /// The command says that no data set follows.
    #[error("the command announces no data set")]
    NoDataSet,
}

/// What stands behind the provider; hears of every connection.
pub trait Services: Send + Sync + 'static {
    /// What is kept for the time of one association.
    type Visit: Visit;

    /// Whether a peer that calls us by the right title may open an association.
    fn admits(&self, peer: &Peer) -> bool {
        let _ = peer;
        true
    }

    /// An association was accepted.
    fn opened(&self, peer: &Peer, contexts: &Contexts) -> Self::Visit;

    /// An association was rejected.
    fn rejected(&self, peer: &Peer, reason: &Rejection);

    /// A connection ended before it was an association.
    fn failed(&self, peer: &Peer, ending: &Ending);
}

/// One association, as the service behind it sees it.
pub trait Visit: Send {
    /// Decides before the data set is read, and gives the bytes that shall stand before it.
    fn admit(&mut self, command: &StoreCommand) -> Result<Vec<u8>, Answer>;

    /// Keeps an instance; what this says is answered to the peer at once.
    fn store(&mut self, request: StoreRequest) -> impl Future<Output = Answer> + Send;

    /// Translates a refusal that this crate decided into the answer for the peer.
    fn refuse(&mut self, fault: &StoreFault) -> Answer;

    /// Says what matches a C-FIND's identifier, or why nothing is said.
    ///
    /// Only asked in contexts of [`ScpConfig::services`], like all that follows.
    fn find(
        &mut self,
        identifier: DataSet,
    ) -> impl Future<Output = Result<Matches, Answer>> + Send {
        drop(identifier);
        std::future::ready(Err(not_served()))
    }

    /// Does what an N-ACTION, N-CREATE or N-SET asks; what this says is answered to the peer at once.
    fn operate(&mut self, operation: Operation) -> impl Future<Output = Answer> + Send {
        drop(operation);
        std::future::ready(not_served())
    }

    /// Notes that a request was refused by this crate; its answer is [`RequestFault::answer`].
    fn refused(&mut self, fault: &RequestFault) {
        tracing::debug!(%fault, "request refused");
    }

    /// The next thing to tell the peer. Waited for between two messages, and given up for each of them.
    fn event(&mut self) -> impl Future<Output = Event> + Send {
        std::future::pending()
    }

    /// What the peer answered to the event given last; none when it didn't, or could not be told.
    fn event_answered(&mut self, status: Option<Status>) {
        tracing::debug!(?status, "an event was answered");
    }

    /// The association ended. Not called for one that is cut off after the time to stop.
    fn closed(self, ending: &Ending, tally: &Tally);
}

fn not_served() -> Answer {
    Answer::failure(Status::UNRECOGNIZED_OPERATION, "operation not served")
}

/// What was negotiated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contexts {
    /// How many presentation contexts were accepted.
    pub accepted: usize,
    /// The SOP classes of contexts that were refused, if they were UIDs at all, and why.
    pub refused: Vec<(Option<SopClassUid>, ContextRefusal)>,
}

/// Why a presentation context was refused (PS3.8 table 9-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContextRefusal {
    /// Result 3.
    #[error("the SOP class is not supported")]
    AbstractSyntax,
    /// Result 4.
    #[error("none of the transfer syntaxes is supported")]
    TransferSyntaxes,
}

/// Why an association was rejected (PS3.8 table 9-21).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// It called another application entity.
    #[error("called AE title not recognized")]
    CalledTitle,
    /// It is not one of those that may call.
    #[error("calling AE title not recognized")]
    CallingTitle,
    /// It wants another application context than DICOM's.
    #[error("application context name not supported")]
    ApplicationContext,
    /// It wants a version of the upper layer protocol other than 1.
    #[error("protocol version not supported")]
    ProtocolVersion,
    /// As many associations as allowed are open.
    #[error("local limit exceeded: {0} associations are open")]
    LocalLimit(usize),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Ending {
    /// The peer released the association.
    #[error("released")]
    Released,
    /// The peer aborted.
    #[error("aborted by the peer")]
    AbortedByPeer,
    /// The connection was closed or broke without release.
    #[error("the connection was closed without release")]
    ConnectionLost,
    /// The peer was silent for too long.
    #[error("no answer from the peer in time: {0}")]
    TimedOut(&'static str),
    /// The peer broke the protocol; it was sent an A-ABORT.
    #[error("the peer broke the protocol: {0}")]
    ProtocolFault(&'static str),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopped,
}

/// What went over one association.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// C-STORE requests answered with success.
    pub stored: u64,
    /// C-STORE requests answered otherwise.
    pub refused: u64,
    /// C-ECHO requests.
    pub echoes: u64,
    /// C-FIND, N-ACTION, N-CREATE and N-SET requests, however they were answered.
    pub requests: u64,
    /// Bytes of data sets received.
    pub bytes: u64,
}

/// Serves associations on `listener` until `stop` is ready, then lets running stores finish.
///
/// Returns when every association has ended, at the latest `stop_timeout` after the stop.
pub async fn serve<S: Services>(
    listener: TcpListener,
    config: ScpConfig,
    services: Arc<S>,
    stop: impl Future<Output = ()> + Send,
) {
    let stop_timeout = config.stop_timeout;
    let associations_max = config.associations_max;
    let shared = Arc::new(Shared {
        budget: Budget::new(config.memory_bytes_max, MEMORY_WAIT),
        slots: Arc::new(Semaphore::new(associations_max)),
        config,
        services,
    });
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut last_id = 0;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                // More than this are only connections that haven't asked for an association.
                Ok((_, address)) if connections.len() >= associations_max + CONNECTIONS_WAITING_MAX => {
                    tracing::debug!(peer = %address, "dropped a connection: too many are waiting");
                }
                Ok((stream, address)) => {
                    last_id += 1;
                    let peer = Peer { id: last_id, address, calling: None, called: None };
                    connections.spawn(association::run(stream, peer, Arc::clone(&shared), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a DICOM connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop(listener);
    // Nobody listens when no connection is open.
    let _ = stopping.send(true);
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(stop_timeout, rest).await.is_err() {
        tracing::warn!(
            associations = connections.len(),
            "cut off associations that did not end in time"
        );
    }
    connections.shutdown().await;
}

/// How long one data set waits for the memory that others hold.
const MEMORY_WAIT: Duration = Duration::from_secs(5);
/// How many connections may be between TCP's handshake and an association, or closing.
const CONNECTIONS_WAITING_MAX: usize = 256;
/// How long accepting rests when the system is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What all associations of one provider share.
struct Shared<S> {
    config: ScpConfig,
    services: Arc<S>,
    budget: Budget,
    slots: Arc<Semaphore>,
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an association's task ended in a fault of ours");
    }
}
