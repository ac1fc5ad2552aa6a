//! Why an instance is refused, and the only table of which DIMSE status says so (PS3.4 B.2.3).

use dimse::scp::StoreFault;
use dimse::{Answer, Status};
use study::dataset::DatasetError;
use study::{SopClassUid, SopInstanceUid};
use thiserror::Error;

use crate::vault::{HoldError, NoRoom};

/// Why an instance is not taken.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    /// The acceptor could not take it.
    #[error(transparent)]
    Acceptor(#[from] StoreFault),
    /// There is no room before it has even come.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The data set cannot be read, or lacks what every instance has.
    #[error(transparent)]
    DataSet(#[from] DatasetError),
    /// The data set is of another SOP class than the command says.
    #[error("the command says SOP class {command}, the data set {data_set}")]
    ClassDiffers {
        /// What the command says.
        command: SopClassUid,
        /// What the data set says.
        data_set: SopClassUid,
    },
    /// The data set is of another instance than the command says.
    #[error("the command says SOP instance {command}, the data set {data_set}")]
    InstanceDiffers {
        /// What the command says.
        command: SopInstanceUid,
        /// What the data set says.
        data_set: SopInstanceUid,
    },
    /// The vault did not hold it.
    #[error(transparent)]
    Hold(#[from] HoldError),
}

impl Refusal {
    /// The answer to the scanner; the comment has 64 characters.
    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Acceptor(fault) => acceptor(fault),
            Self::NoRoom(_) | Self::Hold(HoldError::NoRoom(_) | HoldError::DiskFull) => {
                Answer::failure(Status::OUT_OF_RESOURCES, "no room in the box")
            }
            Self::Hold(HoldError::Vault(_)) => {
                Answer::failure(Status::PROCESSING_FAILURE, "the box could not store it")
            }
            Self::DataSet(error) => Answer::failure(Status::CANNOT_UNDERSTAND, error.to_string()),
            Self::ClassDiffers { .. } => Answer::failure(
                Status::DATA_SET_MISMATCH,
                "SOP Class UID differs in command and data set",
            ),
            Self::InstanceDiffers { .. } => Answer::failure(
                Status::DATA_SET_MISMATCH,
                "SOP Instance UID differs in command and data set",
            ),
        }
    }

    /// What a person is told, and what to do.
    pub(super) fn advice(&self) -> String {
        match self {
            Self::NoRoom(_) | Self::Hold(HoldError::NoRoom(_) | HoldError::DiskFull) => {
                "the box's disk is full: let studies cross to the hub, then send again".to_owned()
            }
            Self::Hold(HoldError::Vault(_)) => {
                "the box could not store an instance: look at its log; keep the scanner's copy"
                    .to_owned()
            }
            Self::DataSet(error) => format!(
                "it sent an instance that cannot be read ({error}): send it again; if that does not \
                 help, its maker must"
            ),
            Self::ClassDiffers { .. } | Self::InstanceDiffers { .. } => {
                "it sent an instance that is not the one it announced: its maker must mend that"
                    .to_owned()
            }
            Self::Acceptor(fault) => format!("an instance was not taken: {fault}"),
        }
    }

    /// Says whether a person at the box must act, rather than at the scanner.
    pub(super) const fn is_ours(&self) -> bool {
        match self {
            Self::NoRoom(_) | Self::Hold(_) => true,
            Self::Acceptor(_)
            | Self::DataSet(_)
            | Self::ClassDiffers { .. }
            | Self::InstanceDiffers { .. } => false,
        }
    }
}

fn acceptor(fault: &StoreFault) -> Answer {
    let status = match fault {
        StoreFault::TooLarge { .. } | StoreFault::NoMemory => Status::OUT_OF_RESOURCES,
        StoreFault::ClassNotNegotiated { .. } => Status::SOP_CLASS_NOT_SUPPORTED,
        StoreFault::BadUid(_) | StoreFault::NoDataSet => Status::CANNOT_UNDERSTAND,
    };
    Answer::failure(status, fault.to_string())
}
