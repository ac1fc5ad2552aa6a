//! Performed procedure steps: what a modality says it does, and has done (PS3.4 F.7).
//!
//! What it said is kept sealed, each data set as it came; in clear are the UIDs that say when a study is
//! whole. So a locked box takes steps as well.

use dimse::scp::{Operation, OperationKind};
use dimse::{Answer, DataSet, Status, tag};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use study::dataset::Encoding;
use study::{SeriesUid, SopInstanceUid, StudyUid};
use thiserror::Error;

use crate::vault::{Change, Document, Drawer, STEP_ENDED, Vault, VaultError};

/// What one step may say in all, in bytes: some thousands of images named a few times over.
const STEP_BYTES_MAX: usize = 16 << 20;
/// "Performed Procedure Step Object may no longer be updated" (PS3.4 F.7.2.2.2).
const ERROR_NO_LONGER_UPDATED: u16 = 0xA710;

/// How far a step is; the numbers are at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepState {
    InProgress,
    Completed,
    Discontinued,
}

impl StepState {
    const fn code(self) -> u8 {
        match self {
            Self::InProgress => 1,
            Self::Completed => STEP_ENDED,
            Self::Discontinued => STEP_ENDED + 1,
        }
    }

    /// What is unknown has ended: it is not waited for.
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::InProgress,
            STEP_ENDED => Self::Completed,
            _ => Self::Discontinued,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "IN PROGRESS" => Self::InProgress,
            "COMPLETED" => Self::Completed,
            "DISCONTINUED" => Self::Discontinued,
            _ => return None,
        })
    }
}

/// A series as the modality made it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PerformedSeries {
    #[n(0)]
    pub(super) series: SeriesUid,
    #[n(1)]
    pub(super) instances: Vec<SopInstanceUid>,
}

/// A step as it is filed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct FiledStep {
    /// Who performs it.
    #[n(0)]
    station: Option<String>,
    #[n(1)]
    series: Vec<PerformedSeries>,
    /// What it said, sealed, in the order in which it came.
    #[n(2)]
    said: Vec<ByteVec>,
}

/// A step, as far as it is in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PerformedStep {
    pub(super) state: StepState,
    pub(super) series: Vec<PerformedSeries>,
}

/// Why a step is not taken.
#[derive(Debug, Error)]
enum StepFault {
    #[error("missing: {0}")]
    Missing(&'static str),
    #[error("not allowed: {0}")]
    BadValue(&'static str),
    #[error("this performed procedure step is known already")]
    Duplicate,
    #[error("no such performed procedure step")]
    Unknown,
    #[error("a performed procedure step that has ended may no longer be updated")]
    Ended,
    #[error("the performed procedure step says too much")]
    TooLong,
    #[error("the box could not keep it")]
    Vault(#[from] VaultError),
}

impl StepFault {
    /// PS3.4 F.7.2 and PS3.7 10.1.
    fn answer(&self) -> Answer {
        let status = match self {
            Self::Missing(_) => Status::MISSING_ATTRIBUTE,
            Self::BadValue(_) => Status::INVALID_ATTRIBUTE_VALUE,
            Self::Duplicate => Status::DUPLICATE_SOP_INSTANCE,
            Self::Unknown => Status::NO_SUCH_SOP_INSTANCE,
            Self::TooLong | Self::Vault(VaultError::NoRoom(_)) => Status::RESOURCE_LIMITATION,
            Self::Ended | Self::Vault(_) => Status::PROCESSING_FAILURE,
        };
        let error_id = matches!(self, Self::Ended).then_some(ERROR_NO_LONGER_UPDATED);
        Answer {
            error_id,
            ..Answer::failure(status, self.to_string())
        }
    }
}

/// Takes an N-CREATE or N-SET; success is answered when it is on the disk.
pub(super) async fn take(vault: &Vault, operation: Operation, calling: Option<String>) -> Answer {
    let sop = operation.sop.clone();
    let taken = match operation.kind {
        OperationKind::Create => create(vault, &operation, calling).await,
        OperationKind::Set => set(vault, &operation).await,
        OperationKind::Action(_) => Err(StepFault::BadValue("an action")),
    };
    match taken {
        Ok(state) => {
            tracing::info!(step = %sop, ?state, "performed procedure step");
            Answer::success()
        }
        Err(fault) => {
            let reason = &fault as &dyn std::error::Error;
            tracing::warn!(step = %sop, reason, "performed procedure step refused");
            fault.answer()
        }
    }
}

async fn create(
    vault: &Vault,
    operation: &Operation,
    calling: Option<String>,
) -> Result<StepState, StepFault> {
    let data_set = &operation.data_set;
    let state = state_of(data_set)?.ok_or(StepFault::Missing("Performed Procedure Step Status"))?;
    if state != StepState::InProgress {
        return Err(StepFault::BadValue("a step begins with IN PROGRESS"));
    }
    let scheduled = data_set.item(tag::SCHEDULED_ATTRIBUTES);
    let study = scheduled.and_then(|item| item.ascii(tag::STUDY_INSTANCE));
    let study = study.ok_or(StepFault::Missing("Study Instance UID"))?;
    let study = StudyUid::parse(study).map_err(|_| StepFault::BadValue("Study Instance UID"))?;
    let filed = FiledStep {
        station: calling,
        series: series_of(data_set)?.unwrap_or_default(),
        said: vec![sealed(vault, operation).into()],
    };
    let document = document(Some(study), state, &filed);
    let decide = |found: Option<Document>| match found {
        None => Ok(Change::File(document)),
        Some(_) => Err(StepFault::Duplicate),
    };
    let name = operation.sop.as_str().to_owned();
    let drawer = Drawer::PerformedSteps;
    vault.change_document(drawer, name, decide).await?;
    Ok(state)
}

async fn set(vault: &Vault, operation: &Operation) -> Result<StepState, StepFault> {
    let next = state_of(&operation.data_set)?;
    let series = series_of(&operation.data_set)?;
    let said = sealed(vault, operation);
    let decide = move |found: Option<Document>| {
        let found = found.ok_or(StepFault::Unknown)?;
        if StepState::from_code(found.state) != StepState::InProgress {
            return Err(StepFault::Ended);
        }
        let filed = minicbor::decode::<FiledStep>(&found.body);
        // What we wrote ourselves and cannot read any more is like what is not there.
        let mut filed = filed.map_err(|_| StepFault::Unknown)?;
        let bytes: usize = filed.said.iter().map(|said| said.len()).sum();
        if bytes + said.len() > STEP_BYTES_MAX {
            return Err(StepFault::TooLong);
        }
        filed.said.push(said.into());
        // N-SET gives attributes anew, sequences as a whole (PS3.4 F.7.2.2.2).
        filed.series = series.unwrap_or(filed.series);
        let state = next.unwrap_or(StepState::InProgress);
        Ok(Change::File(document(found.study, state, &filed)))
    };
    let name = operation.sop.as_str().to_owned();
    let drawer = Drawer::PerformedSteps;
    vault.change_document(drawer, name, decide).await?;
    Ok(next.unwrap_or(StepState::InProgress))
}

/// The steps of a study, as far as they are in clear.
pub(super) fn steps_of(vault: &Vault, study: &StudyUid) -> Result<Vec<PerformedStep>, VaultError> {
    let documents = vault.documents_of(Drawer::PerformedSteps, study)?;
    let read = |(_, document): (String, Document)| {
        let filed: FiledStep = minicbor::decode(&document.body).ok()?;
        Some(PerformedStep {
            state: StepState::from_code(document.state),
            series: filed.series,
        })
    };
    Ok(documents.into_iter().filter_map(read).collect())
}

fn document(study: Option<StudyUid>, state: StepState, filed: &FiledStep) -> Document {
    Document {
        study,
        state: state.code(),
        body: minicbor::to_vec(filed).expect("writing to a Vec does not fail"),
    }
}

fn sealed(vault: &Vault, operation: &Operation) -> Vec<u8> {
    let domain = format!("performed-step/{}", operation.sop);
    let text = operation.data_set.encode(Encoding::ExplicitLittle);
    sealing::seal_to(&vault.keys().public_key(), &domain, &text)
}

fn state_of(data_set: &DataSet) -> Result<Option<StepState>, StepFault> {
    let Some(text) = data_set.ascii(tag::PERFORMED_STATUS) else {
        return Ok(None);
    };
    let state = StepState::parse(text);
    let state = state.ok_or(StepFault::BadValue("Performed Procedure Step Status"))?;
    Ok(Some(state))
}

/// What was made, by series; none when the data set doesn't say.
fn series_of(data_set: &DataSet) -> Result<Option<Vec<PerformedSeries>>, StepFault> {
    let Some(items) = data_set.items(tag::PERFORMED_SERIES) else {
        return Ok(None);
    };
    let series = items.iter().map(|item| {
        let series = item.ascii(tag::SERIES_INSTANCE).unwrap_or_default();
        let series = SeriesUid::parse(series);
        let instances = [tag::REFERENCED_IMAGES, tag::REFERENCED_NON_IMAGES]
            .into_iter()
            .flat_map(|tag| item.items(tag).unwrap_or_default())
            .map(|reference| {
                let uid = reference.ascii(tag::REFERENCED_SOP_INSTANCE);
                SopInstanceUid::parse(uid.unwrap_or_default())
            })
            .collect::<Result<_, _>>();
        Ok(PerformedSeries {
            series: series.map_err(|_| StepFault::BadValue("Series Instance UID"))?,
            instances: instances.map_err(|_| StepFault::BadValue("Referenced SOP Instance UID"))?,
        })
    });
    series.collect::<Result<_, _>>().map(Some)
}
