//! What a scanner asks for, and how it is filed.

use dimse::scp::{Operation, OperationKind};
use dimse::{Answer, COMMITMENT_INSTANCE, Status, tag};
use minicbor::{Decode, Encode};
use study::{SopClassUid, SopInstanceUid, TransactionUid};
use thiserror::Error;

use crate::vault::VaultError;

/// Request Storage Commitment (PS3.4 J.3.2.1).
const REQUEST: u16 = 1;

/// Why a request is not taken.
#[derive(Debug, Error)]
pub(in crate::intake) enum RequestFault {
    #[error("action {0} is none of storage commitment")]
    Action(u16),
    #[error("not the storage commitment instance")]
    Instance,
    #[error("the Transaction UID is missing or no UID")]
    Transaction,
    #[error("the Referenced SOP Sequence is missing or empty")]
    NoReferences,
    #[error("a reference has no valid SOP class and instance UID")]
    Reference,
    #[error("this Transaction UID stands for another request")]
    Duplicate,
    #[error("too many commitments are owed already")]
    TooMany,
    #[error("the calling AE title is none: nobody could be told")]
    NoTitle,
    #[error("the box could not keep it")]
    Vault(#[from] VaultError),
}

impl RequestFault {
    /// The status for the scanner (PS3.7 10.1.4, PS3.3 C.14.1.1).
    pub(in crate::intake) fn answer(&self) -> Answer {
        let status = match self {
            Self::Action(_) => Status::NO_SUCH_ACTION,
            Self::Instance => Status::NO_SUCH_SOP_INSTANCE,
            Self::Transaction | Self::NoReferences | Self::Reference | Self::NoTitle => {
                Status::INVALID_ARGUMENT_VALUE
            }
            Self::Duplicate => Status::DUPLICATE_TRANSACTION,
            Self::TooMany | Self::Vault(VaultError::NoRoom(_)) => Status::RESOURCE_LIMITATION,
            Self::Vault(_) => Status::PROCESSING_FAILURE,
        };
        Answer::failure(status, self.to_string())
    }
}

/// A request as it came.
pub(super) struct Request {
    pub(super) transaction: TransactionUid,
    pub(super) instances: Vec<(SopClassUid, SopInstanceUid)>,
}

impl Request {
    pub(super) fn read(operation: &Operation) -> Result<Self, RequestFault> {
        match operation.kind {
            OperationKind::Action(REQUEST) => {}
            OperationKind::Action(other) => return Err(RequestFault::Action(other)),
            OperationKind::Create | OperationKind::Set => return Err(RequestFault::Action(0)),
        }
        if operation.sop.as_str() != COMMITMENT_INSTANCE {
            return Err(RequestFault::Instance);
        }
        let transaction = operation.data_set.ascii(tag::TRANSACTION);
        let transaction = transaction.and_then(|uid| TransactionUid::parse(uid).ok());
        let references = operation.data_set.items(tag::REFERENCED_SOPS);
        let references = references.filter(|items| !items.is_empty());
        let references = references.ok_or(RequestFault::NoReferences)?;
        let instances = references.iter().map(|reference| {
            let class = SopClassUid::parse(reference.ascii(tag::REFERENCED_SOP_CLASS)?).ok()?;
            let sop = SopInstanceUid::parse(reference.ascii(tag::REFERENCED_SOP_INSTANCE)?).ok()?;
            Some((class, sop))
        });
        Ok(Self {
            transaction: transaction.ok_or(RequestFault::Transaction)?,
            instances: instances
                .collect::<Option<_>>()
                .ok_or(RequestFault::Reference)?,
        })
    }
}

/// A request as it is filed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Owed {
    #[n(0)]
    pub(super) transaction: TransactionUid,
    /// Who asked.
    #[n(1)]
    pub(super) requester: String,
    /// From where.
    #[n(2)]
    pub(super) host: String,
    #[n(3)]
    pub(super) instances: Vec<(SopClassUid, SopInstanceUid)>,
    /// What the odometer showed.
    #[n(4)]
    pub(super) asked_run_ms: u64,
}

impl Owed {
    /// Whether a filed request asks for the same.
    pub(super) fn is_asked_in(&self, body: &[u8]) -> bool {
        let filed: Result<Self, _> = minicbor::decode(body);
        filed.is_ok_and(|filed| {
            filed.instances == self.instances && filed.requester == self.requester
        })
    }
}
