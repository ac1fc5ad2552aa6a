//! The order form: what people write of an examination that is to be done.

use std::fmt;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime};
use serde::{Deserialize, Serialize};
use study::{AeTitle, Priority, StudyUid};
use thiserror::Error;

use super::identifiers;

/// The longest text that the worklist can say (LT).
const TEXT_CHARS_MAX: usize = 10_240;
/// LO, and each group of components of a PN.
const LINE_CHARS_MAX: usize = 64;
/// SH and CS.
const SHORT_CHARS_MAX: usize = 16;
/// What is scanned when nothing is said.
const MODALITY: &str = "CT";

/// Says what of a form cannot be used; never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormError {
    /// It is no JSON object of the known fields.
    #[error("it is not a form: {0}")]
    Json(String),
    /// A field that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field is longer than DICOM lets it be.
    #[error("`{field}` is longer than {max} characters")]
    TooLong {
        /// Which.
        field: &'static str,
        /// What is allowed.
        max: usize,
    },
    /// A backslash or a control character, which DICOM takes for something else.
    #[error("`{0}` has a backslash or a control character")]
    BadCharacter(&'static str),
    /// A field is none of the values that it can have.
    #[error("`{field}` must be {wanted}")]
    BadValue {
        /// Which.
        field: &'static str,
        /// What it can be.
        wanted: &'static str,
    },
}

/// Yes, no, or words.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    Flag(bool),
    Words(String),
}

/// An order as people write it (cli.md); all but `procedure` may be missing.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrderForm {
    patient_name: Option<String>,
    patient_id: Option<String>,
    birth_date: Option<String>,
    sex: Option<String>,
    accession_number: Option<String>,
    scheduled_at: Option<String>,
    station_aet: Option<String>,
    modality: Option<String>,
    procedure: Option<String>,
    body_region: Option<String>,
    question: Option<String>,
    symptoms: Option<String>,
    pregnancy: Option<Said>,
    contrast: Option<Said>,
    priority: Option<Priority>,
    technician: Option<String>,
}

impl fmt::Debug for OrderForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrderForm(***)")
    }
}

impl OrderForm {
    /// Reads a form; the complaint names fields, and says nothing of what stands there.
    pub fn from_json(text: &[u8]) -> Result<Self, FormError> {
        serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            FormError::Json(match error.classify() {
                serde_json::error::Category::Data if error.to_string().starts_with("unknown") => {
                    format!("line {line}, column {column}: a field is unknown")
                }
                serde_json::error::Category::Data => {
                    format!("line {line}, column {column}: a field is of another type")
                }
                serde_json::error::Category::Io
                | serde_json::error::Category::Syntax
                | serde_json::error::Category::Eof => {
                    format!("line {line}, column {column}: no JSON")
                }
            })
        })
    }
}

/// Whether the patient is pregnant (PS3.3 C.2.2, Pregnancy Status).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pregnancy {
    No,
    Possible,
    Yes,
    Unknown,
}

impl Pregnancy {
    /// The value of Pregnancy Status (0010,21C0).
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::No => 1,
            Self::Possible => 2,
            Self::Yes => 3,
            Self::Unknown => 4,
        }
    }
}

/// An order, checked, with what was made here. No Debug: nearly all of it is a patient's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) study: StudyUid,
    pub(super) priority: Priority,
    pub(super) accession_number: String,
    pub(super) patient_name: String,
    pub(super) patient_id: String,
    /// Nobody knows who it is: name and ID are a tag.
    pub(super) unknown_patient: bool,
    /// YYYYMMDD, or empty.
    pub(super) birth_date: String,
    pub(super) sex: String,
    /// YYYYMMDD, as the clinic's clock shows it.
    pub(super) date: String,
    /// HHMMSS.
    pub(super) time: String,
    /// Empty: any station.
    pub(super) station_aet: String,
    pub(super) modality: String,
    pub(super) procedure: String,
    pub(super) body_region: String,
    pub(super) question: String,
    pub(super) symptoms: String,
    pub(super) pregnancy: Option<Pregnancy>,
    pub(super) contrast: String,
    pub(super) technician: String,
}

impl Order {
    /// Checks a form and makes what it leaves open.
    pub(super) fn from_form(form: OrderForm) -> Result<Self, FormError> {
        let tag = identifiers::patient_tag();
        let given_name = line("patient_name", form.patient_name, LINE_CHARS_MAX)?;
        let given_id = line("patient_id", form.patient_id, LINE_CHARS_MAX)?;
        let procedure = line("procedure", form.procedure, LINE_CHARS_MAX)?;
        if procedure.is_empty() {
            return Err(FormError::Missing("procedure"));
        }
        let accession = line("accession_number", form.accession_number, SHORT_CHARS_MAX)?;
        let modality = line("modality", form.modality, SHORT_CHARS_MAX)?.to_uppercase();
        let (date, time) = scheduled(form.scheduled_at.as_deref())?;
        Ok(Self {
            study: identifiers::study_uid(),
            priority: form.priority.unwrap_or_default(),
            accession_number: or_else(accession, identifiers::accession_number),
            unknown_patient: given_name.is_empty() && given_id.is_empty(),
            patient_name: or_else(given_name, || format!("UNKNOWN^{tag}")),
            patient_id: or_else(given_id, || tag.clone()),
            birth_date: birth_date(form.birth_date.as_deref())?,
            sex: sex(form.sex)?,
            date,
            time,
            station_aet: station(form.station_aet)?,
            modality: or_else(modality, || MODALITY.to_owned()),
            procedure,
            body_region: line("body_region", form.body_region, LINE_CHARS_MAX)?,
            question: text("question", form.question)?,
            symptoms: text("symptoms", form.symptoms)?,
            pregnancy: pregnancy(form.pregnancy)?,
            contrast: contrast(form.contrast)?,
            technician: line("technician", form.technician, SHORT_CHARS_MAX)?,
        })
    }
}

fn or_else(given: String, made: impl FnOnce() -> String) -> String {
    if given.is_empty() { made() } else { given }
}

fn line(field: &'static str, value: Option<String>, max: usize) -> Result<String, FormError> {
    checked(field, value, max, |_| false)
}

/// A text may have lines.
fn text(field: &'static str, value: Option<String>) -> Result<String, FormError> {
    checked(field, value, TEXT_CHARS_MAX, |c| c == '\n' || c == '\r')
}

fn checked(
    field: &'static str,
    value: Option<String>,
    max: usize,
    allowed: impl Fn(char) -> bool,
) -> Result<String, FormError> {
    let value = value.unwrap_or_default();
    let value = value.trim();
    if value.chars().count() > max {
        return Err(FormError::TooLong { field, max });
    }
    if value
        .chars()
        .any(|c| c == '\\' || c.is_control() && !allowed(c))
    {
        return Err(FormError::BadCharacter(field));
    }
    Ok(value.to_owned())
}

fn station(value: Option<String>) -> Result<String, FormError> {
    let field = "station_aet";
    let value = line(field, value, SHORT_CHARS_MAX)?;
    if value.is_empty() {
        return Ok(value);
    }
    let wanted = "an AE title";
    let title = AeTitle::parse(&value).map_err(|_| FormError::BadValue { field, wanted })?;
    Ok(title.as_str().to_owned())
}

fn sex(value: Option<String>) -> Result<String, FormError> {
    let value = line("sex", value, SHORT_CHARS_MAX)?.to_uppercase();
    Ok(match value.as_str() {
        "" => String::new(),
        "M" | "MALE" => "M".to_owned(),
        "F" | "FEMALE" => "F".to_owned(),
        "O" | "OTHER" => "O".to_owned(),
        _ => {
            let (field, wanted) = ("sex", "M, F or O");
            return Err(FormError::BadValue { field, wanted });
        }
    })
}

fn birth_date(value: Option<&str>) -> Result<String, FormError> {
    let (field, wanted) = ("birth_date", "a date as 1980-01-31");
    match value.map(str::trim) {
        None | Some("") => Ok(String::new()),
        Some(text) => {
            let date = date(text).ok_or(FormError::BadValue { field, wanted })?;
            Ok(date.format("%Y%m%d").to_string())
        }
    }
}

fn date(text: &str) -> Option<NaiveDate> {
    let forms = ["%Y-%m-%d", "%Y%m%d"];
    let mut dates = forms
        .iter()
        .filter_map(|form| NaiveDate::parse_from_str(text, form).ok());
    dates.next()
}

/// When it is to be done, as the clinic's clock shows it; now, when nothing is said.
///
/// A time with an offset is brought to this box's time zone: scanners ask by the date on the wall.
fn scheduled(value: Option<&str>) -> Result<(String, String), FormError> {
    let (field, wanted) = ("scheduled_at", "a date and time as 2026-11-22T08:30");
    let at = match value.map(str::trim) {
        None | Some("") => Local::now().naive_local(),
        Some(text) => moment(text).ok_or(FormError::BadValue { field, wanted })?,
    };
    Ok((
        at.format("%Y%m%d").to_string(),
        at.format("%H%M%S").to_string(),
    ))
}

fn moment(text: &str) -> Option<NaiveDateTime> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Local).naive_local());
    }
    let forms = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%d %H:%M",
        "%Y%m%d%H%M%S",
        "%Y%m%d%H%M",
    ];
    let mut moments = forms
        .iter()
        .filter_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    moments.next().or_else(|| date(text)?.and_hms_opt(0, 0, 0))
}

fn pregnancy(value: Option<Said>) -> Result<Option<Pregnancy>, FormError> {
    let said = match value {
        None => return Ok(None),
        Some(Said::Flag(true)) => return Ok(Some(Pregnancy::Yes)),
        Some(Said::Flag(false)) => return Ok(Some(Pregnancy::No)),
        Some(Said::Words(words)) => words.trim().to_lowercase(),
    };
    match said.as_str() {
        "" => Ok(None),
        "no" | "none" | "not pregnant" => Ok(Some(Pregnancy::No)),
        "possible" | "possibly" => Ok(Some(Pregnancy::Possible)),
        "yes" | "pregnant" => Ok(Some(Pregnancy::Yes)),
        "unknown" => Ok(Some(Pregnancy::Unknown)),
        _ => {
            let (field, wanted) = ("pregnancy", "no, possible, yes or unknown");
            Err(FormError::BadValue { field, wanted })
        }
    }
}

fn contrast(value: Option<Said>) -> Result<String, FormError> {
    match value {
        None | Some(Said::Flag(false)) => Ok(String::new()),
        Some(Said::Flag(true)) => Ok("yes".to_owned()),
        Some(Said::Words(words)) => line("contrast", Some(words), LINE_CHARS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<Order, FormError> {
        OrderForm::from_json(json.as_bytes()).and_then(Order::from_form)
    }

    fn complaint(json: &str) -> String {
        match order(json) {
            Ok(_) => panic!("{json} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_whole_form_is_taken() {
        let order = order(
            r#"{"patient_name": "DOE^JANE", "patient_id": "P1", "birth_date": "1980-01-31", "sex": "f",
                "accession_number": "A1", "scheduled_at": "2026-11-22T08:30", "station_aet": "CT1",
                "modality": "ct", "procedure": "CT head", "body_region": "head",
                "question": "bleeding?\nfracture?", "symptoms": "headache", "pregnancy": "no",
                "contrast": true, "priority": "stat", "technician": "AB"}"#,
        )
        .map_err(|error| error.to_string())
        .unwrap();
        assert_eq!(order.birth_date, "19800131");
        assert_eq!(
            (order.date.as_str(), order.time.as_str()),
            ("20261122", "083000")
        );
        assert_eq!((order.sex.as_str(), order.modality.as_str()), ("F", "CT"));
        assert_eq!(order.pregnancy.map(Pregnancy::code), Some(1));
        assert_eq!(order.priority, Priority::Stat);
        assert!(!order.unknown_patient);
    }

    #[test]
    fn a_procedure_alone_is_an_order_for_a_patient_whom_nobody_knows() {
        let Ok(order) = order(r#"{"procedure": "CT head"}"#) else {
            panic!("a procedure is enough")
        };
        assert!(order.unknown_patient);
        assert_eq!(order.patient_name, format!("UNKNOWN^{}", order.patient_id));
        assert_eq!(order.accession_number.len(), 12);
        assert_eq!(order.date.len(), 8);
    }

    #[test]
    fn what_cannot_be_an_order_is_refused_and_nothing_of_it_is_said_again() {
        for (json, expected) in [
            (
                "3",
                "it is not a form: line 1, column 1: a field is of another type",
            ),
            (
                "{\"secret\": 1}",
                "it is not a form: line 1, column 9: a field is unknown",
            ),
            ("{", "it is not a form: line 1, column 1: no JSON"),
            ("{}", "`procedure` is missing"),
            (
                r#"{"procedure": "a\\b"}"#,
                "`procedure` has a backslash or a control character",
            ),
            (
                r#"{"procedure": "a", "sex": "secret"}"#,
                "`sex` must be M, F or O",
            ),
            (
                r#"{"procedure": "a", "accession_number": "12345678901234567"}"#,
                "`accession_number` is longer than 16 characters",
            ),
            (
                r#"{"procedure": "a", "birth_date": "1980-02-31"}"#,
                "`birth_date` must be a date as 1980-01-31",
            ),
            (
                r#"{"procedure": "a", "scheduled_at": "tomorrow"}"#,
                "`scheduled_at` must be a date and time as 2026-11-22T08:30",
            ),
        ] {
            let said = complaint(json);
            assert_eq!(said, expected);
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_form() {
        let form = OrderForm::from_json(br#"{"procedure": "a", "patient_name": "DOE"}"#).unwrap();
        assert_eq!(format!("{form:?}"), "OrderForm(***)");
    }
}
