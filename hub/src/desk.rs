//! The desk: answers commands, whether they come over the socket or from the program itself.

use std::sync::Arc;

use control::Reply;
use identity::{NodeId, Standing};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use study::{Priority, SeriesUid, SopInstanceUid, StudyUid};
use tokio::runtime::Handle;

use crate::access::Role;
use crate::bundles::BundleRequest;
use crate::inbox::{self, First};
use crate::run::Rooms;

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Put a fleet document in force; its bytes in hexadecimal digits.
    FleetApply { document: String },
    /// List all studies.
    StudyList,
    /// Show one study.
    StudyShow { study: StudyUid },
    /// Tell the unit of a study what is wanted of it.
    Wish { whose: Whose, wish: Wish },
    /// Give an instance's bytes.
    Get { sop: SopInstanceUid, copy: u32 },
    /// Say what a report of a study would speak of.
    ReportCase {
        study: StudyUid,
        unit: Option<String>,
    },
    /// Keep a signed report; its bytes in hexadecimal digits.
    ReportFile {
        unit: String,
        signed: String,
        incomplete: bool,
    },
    /// Make a bearer token.
    Token { role: Role, hours: u32 },
    /// Read every chunk at rest again.
    Scrub,
    /// Figures for a support request.
    Diagnose,
    /// The road by stick.
    Bundle(BundleRequest),
}

/// A study, and which unit's where several have sent it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Whose {
    pub study: StudyUid,
    pub unit: Option<String>,
}

/// What is wanted of a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wish {
    /// So urgent.
    Priority(Priority),
    /// A series first.
    SeriesFirst(SeriesUid),
    /// These instances first; none: nothing any more.
    InstancesFirst(Vec<SopInstanceUid>),
    /// The patient's other studies.
    Priors,
}

/// Done, or not done and why: in words, and whether the fault is ours.
type Answer = Result<(Value, Vec<u8>), Refusal>;

/// Why a request was not done.
struct Refusal(String);

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(crate::chain(&error))
    }
}

/// Answers one request.
pub(crate) async fn answer(rooms: Arc<Rooms>, request: Request) -> Reply {
    match work(rooms, request).await {
        Ok((output, body)) => Reply {
            exit: 0,
            output,
            error: None,
            body,
        },
        Err(Refusal(error)) => Reply {
            exit: 1,
            output: Value::Null,
            error: Some(error),
            body: Vec::new(),
        },
    }
}

/// Answers one request that came as JSON over the socket.
pub(crate) async fn answer_json(rooms: Arc<Rooms>, request: Value) -> Reply {
    match serde_json::from_value(request) {
        Ok(request) => answer(rooms, request).await,
        Err(error) => {
            let error = Some(format!(
                "the running hub does not know this command: {error}"
            ));
            Reply {
                exit: 1,
                output: Value::Null,
                error,
                body: Vec::new(),
            }
        }
    }
}

async fn work(rooms: Arc<Rooms>, request: Request) -> Answer {
    match request {
        Request::FleetApply { document } => fleet_apply(&rooms, &document).await,
        Request::StudyList => {
            blocking(rooms, |rooms| {
                let (studies, doubts) = (rooms.archive.list()?, rooms.fleet.in_doubt()?);
                let output = json!({ "studies": studies, "units_in_doubt": doubts });
                Ok((output, Vec::new()))
            })
            .await
        }
        Request::StudyShow { study } => {
            blocking(rooms, move |rooms| {
                Ok((
                    json!({ "studies": rooms.archive.show(&study)? }),
                    Vec::new(),
                ))
            })
            .await
        }
        Request::Wish { whose, wish } => wish_of(&rooms, whose, wish).await,
        Request::Get { sop, copy } => {
            blocking(rooms, move |rooms| {
                let file = rooms.archive.file(&sop, copy)?;
                Ok((json!({ "copies": file.copies }), file.bytes))
            })
            .await
        }
        Request::ReportCase { study, unit } => {
            blocking(rooms, move |rooms| {
                report_case(rooms, &study, unit.as_deref())
            })
            .await
        }
        Request::ReportFile {
            unit,
            signed,
            incomplete,
        } => {
            let (unit, signed) = (unit.parse::<NodeId>()?, unhex(&signed)?);
            let report = rooms.reports.file(Some(unit), signed, incomplete).await?;
            let output = json!({
                "study_instance_uid": report.document.study,
                "report": report.document.status.as_str(),
                "digest": report.digest().to_string(),
            });
            Ok((output, Vec::new()))
        }
        Request::Token { role, hours } => {
            let token = rooms.access.token(role, hours).await?;
            Ok((
                json!({ "token": token, "role": role, "hours": hours }),
                Vec::new(),
            ))
        }
        Request::Scrub => {
            blocking(rooms, |rooms| Ok((json!(rooms.inbox.scrub()?), Vec::new()))).await
        }
        Request::Bundle(request) => {
            let runtime = Handle::current();
            blocking(rooms, move |rooms| {
                Ok((rooms.bundles.execute(&request, &runtime)?, Vec::new()))
            })
            .await
        }
        Request::Diagnose => blocking(rooms, |rooms| Ok((diagnose(rooms)?, Vec::new()))).await,
    }
}

async fn wish_of(rooms: &Rooms, whose: Whose, wish: Wish) -> Answer {
    let unit = whose.unit.map(|unit| unit.parse::<NodeId>()).transpose()?;
    let (inbox, study) = (&rooms.inbox, whose.study);
    let whose = inbox::Whose { study, unit };
    let output = match wish {
        Wish::Priority(priority) => json!(inbox.wish_priority(whose, priority).await?),
        Wish::SeriesFirst(series) => {
            let groups = inbox.wish_first(whose, First::Series(series)).await?;
            json!({ "groups": groups })
        }
        Wish::InstancesFirst(instances) => {
            let groups = inbox.wish_first(whose, First::Instances(instances)).await?;
            json!({ "groups": groups })
        }
        Wish::Priors => json!(inbox.wish_priors(whose).await?),
    };
    Ok((output, Vec::new()))
}

/// Runs what reads the disk off the runtime's own threads.
async fn blocking(
    rooms: Arc<Rooms>,
    work: impl FnOnce(&Rooms) -> Answer + Send + 'static,
) -> Answer {
    tokio::task::spawn_blocking(move || work(&rooms))
        .await
        .expect("a room does not panic")
}

async fn fleet_apply(rooms: &Rooms, document: &str) -> Answer {
    let (version, standing) = rooms.fleet.apply(&unhex(document)?).await?;
    let applied = standing == Standing::Newer;
    Ok((
        json!({ "version": version, "applied": applied }),
        Vec::new(),
    ))
}

/// What a signer needs: the case as JSON, the report before it as the body.
fn report_case(rooms: &Rooms, study: &StudyUid, unit: Option<&str>) -> Answer {
    let unit = unit.map(str::parse::<NodeId>).transpose()?;
    let open = rooms.reports.open_case(study, unit)?;
    let output = json!({
        "unit": open.unit.to_string(),
        "root": open.case.root.digest().to_string(),
        "instances_seen": open.case.instances_seen,
        "instances_total": open.case.instances_total,
        "complete": open.complete,
        "has_previous": open.previous.is_some(),
    });
    Ok((output, open.previous.unwrap_or_default()))
}

/// Figures and states; nothing of patients, and no study's UID.
fn diagnose(rooms: &Rooms) -> Result<Value, Refusal> {
    let figures = rooms.archive.figures()?;
    Ok(json!({
        "software": crate::SOFTWARE,
        "hub": rooms.ledger.hub().to_string(),
        "fleet_version": rooms.fleet.document().version(),
        "units": rooms.fleet.list()?,
        "contacts_open": rooms.outbox.open_contacts(),
        "studies": figures.studies,
        "studies_at_hub": figures.studies_at_hub,
        "instances_readable": figures.instances_readable,
        "conflicts": figures.conflicts,
        "bytes_held": figures.bytes_held,
        "free_bytes": rooms.writer.segments().free_bytes()?,
    }))
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, Refusal> {
    let wrong = || Refusal("not hexadecimal digits".to_owned());
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits
        .filter(|digits| digits.len() % 2 == 0)
        .ok_or_else(wrong)?;
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}
