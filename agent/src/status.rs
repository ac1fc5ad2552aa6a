//! Status: what the box says of itself, as one document for scripts and a table for people.
//!
//! In: facts from `vault`, `membership` and `reports`, the state of the link. Out: JSON (cli.md),
//! text.
//! Invariant: nothing that identifies a patient is in it; nothing is estimated where a fact is
//! meant.
//! May not: change anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use report::VerifiedReport;
use serde_json::{Value, json};
use study::StudyUid;

use crate::commands::Rooms;
use crate::reports::JudgedReport;
use crate::vault::{Custody, StudyOverview, VaultError};

/// What a byte that is not packed yet will cost on the link, in percent, until the codec has said.
const PACKED_PERCENT_GUESS: u64 = 50;

/// How the road to the hub is, kept by `contact` and read by `status`.
#[derive(Debug, Default)]
pub struct LinkStatus(Mutex<LinkView>);

/// The road to the hub as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkView {
    /// A contact is up.
    pub connected: bool,
    /// Why nothing moves, in plain words.
    pub trouble: Option<String>,
    /// When the hub was last heard, milliseconds of the Unix epoch.
    pub last_contact_ms: Option<u64>,
    /// The rate that the link delivers, in kbit/s; 0 until known.
    pub rate_kbits: u64,
    /// The round trip, in milliseconds.
    pub rtt_ms: u64,
    /// UDP payload bytes sent in this contact, or the last one.
    pub bytes_sent: u64,
    /// UDP payload bytes received in this contact, or the last one.
    pub bytes_received: u64,
}

impl LinkStatus {
    /// The last view.
    pub fn view(&self) -> LinkView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes the view.
    pub fn update(&self, change: impl FnOnce(&mut LinkView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The whole document.
pub(crate) fn document(rooms: &Rooms) -> Result<Value, VaultError> {
    let link = rooms.link.as_ref().map(|link| link.view());
    Ok(json!({
        "unit": rooms.vault.unit().to_string(),
        "site": rooms.membership.site(),
        "enrolled": rooms.membership.is_enrolled(),
        "vault": "open_no_pin",
        "protection": "no PIN is set: not protected against theft",
        "consent_policy": rooms.membership.consent_policy().as_str(),
        "clock_ms": clock::wall_ms(),
        "power": "no supervisor board",
        "free_bytes": rooms.vault.free_bytes(),
        "running": link.is_some(),
        "link": link.as_ref().map(link_document),
        "studies": studies(rooms)?,
    }))
}

fn link_document(link: &LinkView) -> Value {
    json!({
        "connected": link.connected,
        "trouble": link.trouble,
        "last_contact_ms": link.last_contact_ms,
        "rate_kbits": link.rate_kbits,
        "rtt_ms": link.rtt_ms,
        "bytes_sent": link.bytes_sent,
        "bytes_received": link.bytes_received,
    })
}

fn studies(rooms: &Rooms) -> Result<Vec<Value>, VaultError> {
    let studies = rooms.vault.studies()?;
    let link = rooms
        .link
        .as_ref()
        .map(|link| link.view())
        .unwrap_or_default();
    let eta = if link.connected {
        seconds_left(&studies, link.rate_kbits)
    } else {
        BTreeMap::new()
    };
    let mut reports = BTreeMap::new();
    for StudyOverview { study, .. } in &studies {
        if let Some(VerifiedReport { document, .. }) = rooms.reports.newest(study)? {
            reports.insert(study.clone(), (document.status, document.critical));
        }
    }
    Ok(studies.iter().map(|study| {
        let report = reports.get(&study.study);
        json!({
            "study_instance_uid": study.study,
            "priority": study.priority,
            "instances": study.instances,
            "conflicts": study.conflicts,
            "set_aside": study.set_aside,
            "revision": study.revision,
            "bytes_original": study.bytes_original,
            "bytes_held": study.bytes_held,
            "bytes_to_cross": study.bytes_to_cross,
            "bytes_at_hub": study.bytes_at_hub,
            "custody": study.custody,
            "consent": study.consent,
            "percent_at_hub": study.percent_at_hub,
            "readable": study.readable,
            "refused": study.refused,
            "report": report.map_or("none", |(status, _)| status.as_str()),
            "critical": report.map_or("none", |(_, level)| if level.level() > 0 { "open" } else { "none" }),
            "received_at": study.received_at_ms,
            "eta_seconds": eta.get(&study.study),
        })
    }).collect())
}

/// Seconds until each study that may leave has crossed, at the rate that the link now delivers;
/// of one that cannot cross as it is, nobody can say.
fn seconds_left(studies: &[StudyOverview], rate_kbits: u64) -> BTreeMap<StudyUid, u64> {
    let mut crossing: Vec<_> = studies
        .iter()
        .filter(|study| matches!(study.custody, Custody::InBox | Custody::Crossing))
        .filter(|study| study.refused.is_none() && study.set_aside == 0)
        .collect();
    // They come in the order of their arrival, and the sort keeps it.
    crossing.sort_by_key(|study| study.priority);
    let mut ahead_bytes = 0;
    let mut left = BTreeMap::new();
    for study in crossing {
        ahead_bytes += study.bytes_to_cross.saturating_sub(study.bytes_at_hub);
        ahead_bytes += study.bytes_unpacked * PACKED_PERCENT_GUESS / 100;
        if let Some(seconds) = (ahead_bytes * 8).checked_div(rate_kbits * 1000) {
            left.insert(study.study.clone(), seconds);
        }
    }
    left
}

/// The reports, with the verdict on each.
pub(crate) fn reports(reports: &[JudgedReport]) -> Value {
    let reports: Vec<Value> = reports.iter().map(report).collect();
    json!({ "reports": reports })
}

fn report(report: &JudgedReport) -> Value {
    let study = &report.stored.study;
    match &report.verdict {
        Ok(verified) => json!({
            "study_instance_uid": study,
            "valid": true,
            "status": verified.document.status.as_str(),
            "critical": verified.document.critical.level(),
            "signed_by": verified.credential.name.as_str(),
            "licence": verified.credential.licence.as_str(),
            "signed_at": verified.document.signed_at_ms,
        }),
        Err(refusal) => json!({
            "study_instance_uid": study,
            "valid": false,
            "refused": refusal.to_string(),
        }),
    }
}

/// `status` for people.
pub(crate) fn table(document: &Value) -> String {
    let mut text = String::new();
    let link = &document["link"];
    let road = match (link["connected"].as_bool(), link["trouble"].as_str()) {
        (Some(true), _) => format!("up, {} kbit/s, {} ms", link["rate_kbits"], link["rtt_ms"]),
        (Some(false), Some(trouble)) => format!("down: {trouble}"),
        (Some(false), None) => "down".to_owned(),
        (None, _) => "the box's program is not running".to_owned(),
    };
    let enrolled = document["enrolled"].as_bool() == Some(true);
    let standing = if enrolled {
        "enrolled"
    } else {
        "not enrolled yet"
    };
    write_line(
        &mut text,
        format_args!("{standing}; vault open, no PIN: not protected against theft"),
    );
    write_line(&mut text, format_args!("road to the hub: {road}"));
    for study in document["studies"].as_array().into_iter().flatten() {
        let word = |key: &str| study[key].as_str().unwrap_or("-").to_owned();
        let eta = study["eta_seconds"]
            .as_u64()
            .map_or("-".to_owned(), |s| format!("{s} s"));
        write_line(
            &mut text,
            format_args!(
                "{}  {}  {} instances  {}  {} % at the hub  eta {}  report {}",
                word("study_instance_uid"),
                word("priority"),
                study["instances"],
                word("custody"),
                study["percent_at_hub"],
                eta,
                word("report"),
            ),
        );
        if let Some(reason) = study["refused"].as_str() {
            write_line(&mut text, format_args!("    REFUSED by the hub: {reason}"));
        }
        if let Some(count) = study["set_aside"].as_u64().filter(|count| *count > 0) {
            let what = "cannot be packed: send the study again, or keep the scanner's copy";
            write_line(&mut text, format_args!("    {count} instance(s) {what}"));
        }
    }
    text
}

/// `report list` for people.
pub(crate) fn report_table(document: &Value) -> String {
    let mut text = String::new();
    for report in document["reports"].as_array().into_iter().flatten() {
        let word = |key: &str| report[key].as_str().unwrap_or("-").to_owned();
        let study = word("study_instance_uid");
        if report["valid"].as_bool() == Some(true) {
            let (status, name, licence) = (word("status"), word("signed_by"), word("licence"));
            write_line(
                &mut text,
                format_args!("{study}  {status}  signed by {name} ({licence})"),
            );
        } else {
            write_line(
                &mut text,
                format_args!("{study}  REFUSED: {}", word("refused")),
            );
        }
    }
    text
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String does not fail");
}
