//! Status: what the box says of itself, as one document for scripts and a table for people.
//!
//! In: facts from `vault`, `membership` and `reports`, the state of the link. Out: JSON (cli.md),
//! text.
//! Invariant: nothing that identifies a patient is in it; nothing is estimated where a fact is
//! meant.
//! May not: change anything.

mod crossing;
mod metrics;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use journal::JournalId;
use serde::Deserialize as _;
use serde_json::{Value, json};
use sync_quic::Road;

use crate::commands::Rooms;
use crate::orders::Finding;
use crate::reports::{JudgedReport, Refusal, word};
use crate::uplink::Still;
use crate::vault::{JournalState, ReportFault, StudyOverview, VaultError};
use crossing::Crossing;

pub(crate) use metrics::metrics;

/// How the road to the hub is, kept by `contact` and read by `status`.
#[derive(Debug, Default)]
pub struct LinkStatus(Mutex<LinkView>);

/// The road to the hub as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkView {
    /// A contact is up.
    pub connected: bool,
    /// The road that the contact takes; none without a contact.
    pub road: Option<Road>,
    /// What went wrong last, in plain words.
    pub trouble: Option<String>,
    /// Why there is no contact.
    pub why: Option<Still>,
    /// The uplink of this contact, or of the last one.
    pub uplink: Option<String>,
    /// When the hub was last heard, milliseconds of the Unix epoch.
    pub last_contact_ms: Option<u64>,
    /// The rate that the link delivers, in kbit/s; 0 until known.
    pub rate_kbits: u64,
    /// The round trip, in milliseconds.
    pub rtt_ms: u64,
    /// Payload bytes of UDP or TCP sent in this contact, or the last one.
    pub bytes_sent: u64,
    /// Payload bytes of UDP or TCP received in this contact, or the last one.
    pub bytes_received: u64,
    /// Bytes that were sent and lost in this contact, or the last one.
    pub bytes_lost: u64,
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

impl LinkView {
    /// There is no contact any more.
    pub fn note_down(&mut self) {
        self.connected = false;
        self.road = None;
    }
}

/// The whole document.
pub(crate) fn document(rooms: &Rooms) -> Result<Value, VaultError> {
    let link = rooms.link.as_ref().map(|link| link.view());
    let state = rooms.vault.keys().state();
    let studies = rooms.vault.studies()?;
    let uplinks = rooms.uplinks.view();
    let view = link.clone().unwrap_or_default();
    let crossing = Crossing::of(&studies, &view, &uplinks, clock::wall_ms());
    let order = rooms.uplinks.order();
    Ok(json!({
        "unit": rooms.vault.unit().to_string(),
        "site": rooms.membership.site(),
        "enrolled": rooms.membership.is_enrolled(),
        "vault": state,
        "protection": state.protection(),
        "journal": rooms.vault.journal_state(&JournalId::own(rooms.vault.unit()))?,
        "hub_journal": hub_journal(rooms)?,
        "consent_policy": rooms.membership.consent_policy().as_str(),
        "clock_ms": clock::wall_ms(),
        "power": "no supervisor board",
        "free_bytes": rooms.vault.free_bytes(),
        "disk": rooms.vault.disk_room()?,
        "running": link.is_some(),
        "link": link.as_ref().map(link_document),
        "pause": order.pause,
        "only_uplink": order.only,
        "uplinks": uplinks,
        "queued_bytes": crossing.queued(),
        "studies": study_documents(rooms, &studies, &crossing)?,
    }))
}

/// What is known of the hub's journal for this box.
fn hub_journal(rooms: &Rooms) -> Result<JournalState, VaultError> {
    let Some(hub) = rooms.membership.hub() else {
        return Ok(JournalState::Ok);
    };
    let journal = JournalId {
        author: hub.key,
        stream: rooms.vault.unit(),
    };
    rooms.vault.journal_state(&journal)
}

fn link_document(link: &LinkView) -> Value {
    json!({
        "connected": link.connected,
        "road": link.road.map(Road::as_str),
        "trouble": link.trouble,
        "why": link.why,
        "uplink": link.uplink,
        "last_contact_ms": link.last_contact_ms,
        "rate_kbits": link.rate_kbits,
        "rtt_ms": link.rtt_ms,
        "bytes_sent": link.bytes_sent,
        "bytes_received": link.bytes_received,
        "bytes_lost": link.bytes_lost,
    })
}

fn study_documents(
    rooms: &Rooms,
    studies: &[StudyOverview],
    crossing: &Crossing,
) -> Result<Vec<Value>, VaultError> {
    let mut reports = BTreeMap::new();
    for StudyOverview { study, .. } in studies {
        if let Some(standing) = rooms.reports.standing(study)? {
            reports.insert(study.clone(), standing);
        }
    }
    let mut findings = BTreeMap::new();
    for StudyOverview { study, .. } in studies {
        let found = rooms.orders.findings(study)?;
        let found: Vec<Value> = found.into_iter().map(Finding::to_json).collect();
        findings.insert(study.clone(), found);
    }
    Ok(studies.iter().map(|study| {
        let report = reports.get(&study.study);
        let eta = crossing.eta.get(&study.study);
        json!({
            "study_instance_uid": study.study,
            "priority": study.priority,
            "instances": study.instances,
            "conflicts": study.conflicts,
            "let_go": study.let_go,
            "erased": study.erased,
            "legal_hold": study.legal_hold,
            "set_aside": study.set_aside,
            "damaged": study.damaged,
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
            "findings": findings.get(&study.study),
            "report": report.map_or("none", |report| report.status),
            "report_verified": report.is_some_and(|report| report.verified),
            "critical": report.map_or("none", |report| if report.critical > 0 { "open" } else { "none" }),
            "received_at": study.received_at_ms,
            "eta_seconds": eta.map(|eta| eta.seconds),
            "eta_low_seconds": eta.map(|eta| eta.low),
            "eta_high_seconds": eta.map(|eta| eta.high),
            "why": crossing.halts.get(&study.study),
        })
    }).collect())
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
        // Nothing is known of its signature yet; what there is, is the hub's word.
        Err(Refusal::Fault(ReportFault::Locked(_))) => json!({
            "study_instance_uid": study,
            "valid": Value::Null,
            "status": word(report.stored.status),
            "critical": report.stored.critical,
            "sealed": true,
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
    let road = road_words(link);
    let enrolled = document["enrolled"].as_bool() == Some(true);
    let standing = if enrolled {
        "enrolled"
    } else {
        "not enrolled yet"
    };
    let protection = document["protection"].as_str().unwrap_or("-");
    write_line(&mut text, format_args!("{standing}; vault: {protection}"));
    write_line(&mut text, format_args!("road to the hub: {road}"));
    let disk = disk_words(&document["disk"]);
    write_line(&mut text, format_args!("disk: {disk}"));
    for (journal, what) in [
        (
            "journal",
            "THIS BOX'S DISK WAS SET BACK OR CLONED: put it aside and tell the hub",
        ),
        (
            "hub_journal",
            "THE HUB HAS LOST OR DOUBLED ITS JOURNAL: tell the hub",
        ),
    ] {
        if document[journal]
            .as_str()
            .is_some_and(|state| state != "ok")
        {
            write_line(&mut text, format_args!("{what}"));
        }
    }
    for study in document["studies"].as_array().into_iter().flatten() {
        let word = |key: &str| study[key].as_str().unwrap_or("-").to_owned();
        let eta = eta_words(study);
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
        if let Some(why) = why_words(&study["why"]) {
            write_line(&mut text, format_args!("    not moving: {why}"));
        }
        write_keeping(&mut text, study);
        write_findings(&mut text, study);
        if let Some(reason) = study["refused"].as_str() {
            write_line(&mut text, format_args!("    REFUSED by the hub: {reason}"));
        }
        if let Some(count) = study["set_aside"].as_u64().filter(|count| *count > 0) {
            let what = "cannot be packed: send the study again, or keep the scanner's copy";
            write_line(&mut text, format_args!("    {count} instance(s) {what}"));
        }
        if let Some(count) = study["damaged"].as_u64().filter(|count| *count > 0) {
            let what =
                "DAMAGED on this disk, not given out; what is at the hub comes back by itself";
            write_line(&mut text, format_args!("    {count} record(s) {what}"));
        }
    }
    text
}

/// How the road to the hub is, in words.
fn road_words(link: &Value) -> String {
    let why = why_words(&link["why"]);
    match (link["connected"].as_bool(), link["trouble"].as_str()) {
        (Some(true), _) => {
            let lost = (link["bytes_lost"].as_u64().unwrap_or(0) * 100)
                .checked_div(link["bytes_sent"].as_u64().unwrap_or(0))
                .unwrap_or(0);
            format!(
                "up over {} by {}, {} kbit/s, {} ms, {lost} % lost",
                link["uplink"].as_str().unwrap_or("-"),
                link["road"].as_str().unwrap_or("-"),
                link["rate_kbits"],
                link["rtt_ms"]
            )
        }
        (Some(false), Some(trouble)) => match why {
            Some(why) => format!("down: {why} ({trouble})"),
            None => format!("down: {trouble}"),
        },
        (Some(false), None) => why.map_or("down".to_owned(), |why| format!("down: {why}")),
        (None, _) => "the box's program is not running".to_owned(),
    }
}

/// When a study will be at the hub, in words.
fn eta_words(study: &Value) -> String {
    let seconds = |key: &str| study[key].as_u64();
    match (
        seconds("eta_seconds"),
        seconds("eta_low_seconds"),
        seconds("eta_high_seconds"),
    ) {
        (Some(eta), Some(low), Some(high)) => format!("{eta} s ({low} to {high})"),
        (Some(eta), _, _) => format!("{eta} s or later"),
        (None, _, _) => "-".to_owned(),
    }
}

/// Why something does not move, in words.
fn why_words(why: &Value) -> Option<String> {
    if let Ok(still) = Still::deserialize(why) {
        return Some(still.to_string());
    }
    let words = match why["reason"].as_str()? {
        "consent" => "nobody has recorded consent",
        "set_aside" => "something of it cannot be packed",
        "refused_by_hub" => "the hub does not take a part of it",
        "packing" => "it is still being packed",
        "receipt_due" => "all of it is at the hub, the receipt has not come yet",
        "behind_others" => "others go first",
        other => other,
    };
    Some(words.to_owned())
}

/// How full the disk is, in words.
fn disk_words(disk: &Value) -> String {
    let bytes = |key: &str| disk[key].as_u64().unwrap_or(0);
    let free = format!(
        "{} of {} free",
        size(bytes("free_bytes")),
        size(bytes("total_bytes"))
    );
    let can_go = match bytes("evictable_bytes") {
        0 => "nothing may be let go yet".to_owned(),
        bytes => format!("{} may be let go, at the hub and read", size(bytes)),
    };
    match disk["state"].as_str() {
        Some("full") => format!("FULL, {free}: nothing more is taken in; {can_go}"),
        Some("low") => format!("LOW, {free}; {can_go}"),
        _ => free,
    }
}

/// An amount that people can read.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(bits, _)| bytes >> bits > 0);
    unit.map_or(format!("{bytes} B"), |(bits, name)| {
        let tenths = (u128::from(bytes) * 10) >> bits;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    })
}

/// What is wrong with a study.
fn write_findings(text: &mut String, study: &Value) {
    for finding in study["findings"].as_array().into_iter().flatten() {
        let severity = finding["severity"].as_str().unwrap_or("-").to_uppercase();
        let what = finding["text"].as_str().unwrap_or("-");
        write_line(text, format_args!("    {severity}: {what}"));
    }
}

/// What has become of a study in the box, where it is not simply held.
fn write_keeping(text: &mut String, study: &Value) {
    if study["legal_hold"].as_bool() == Some(true) {
        write_line(
            text,
            format_args!("    on legal hold: neither let go nor erased"),
        );
    }
    let some = |key: &str| study[key].as_u64().filter(|count| *count > 0);
    if let Some(count) = some("let_go") {
        let why = "let go: the hub has them, this box does not any more";
        write_line(text, format_args!("    {count} instance(s) {why}"));
    }
    if let Some(count) = some("erased") {
        write_line(text, format_args!("    {count} instance(s) erased here"));
    }
}

/// `erase` for people.
pub(crate) fn erase_text(erased: &Value) -> String {
    let mut text = String::new();
    let (instances, reports) = (&erased["instances"], &erased["reports"]);
    write_line(
        &mut text,
        format_args!("erased {instances} instance(s) and {reports} report(s)"),
    );
    if let Some(lost) = erased["lost"].as_u64().filter(|lost| *lost > 0) {
        write_line(
            &mut text,
            format_args!("{lost} of them were not at the hub"),
        );
    }
    if erased["log_emptied"].as_bool() == Some(false) {
        let when =
            "the index's log holds the sealed keys until it is emptied, soon or at the next start";
        write_line(&mut text, format_args!("{when}"));
    }
    for name in erased["aside"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or("-");
        let what = "an old index that was put aside; it may hold the sealed keys: delete it";
        write_line(&mut text, format_args!("{name}: {what}"));
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
        } else if report["sealed"].as_bool() == Some(true) {
            let status = word("status");
            write_line(
                &mut text,
                format_args!(
                    "{study}  {status} (the hub's word)  sealed: give the PIN to check who signed it"
                ),
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

/// `scrub` for people.
pub(crate) fn scrub_text(found: &Value) -> String {
    let mut text = String::new();
    write_line(
        &mut text,
        format_args!(
            "{} record(s), {} bytes read again: {} damaged",
            found["records"], found["bytes"], found["damaged"]
        ),
    );
    for study in found["studies"].as_array().into_iter().flatten() {
        let study = study.as_str().unwrap_or("-");
        write_line(
            &mut text,
            format_args!("DAMAGED: something of study {study}"),
        );
    }
    if let Some(count) = found["stray"].as_u64().filter(|count| *count > 0) {
        let what = "with nothing held in them are damaged: no harm, but look at this disk";
        write_line(&mut text, format_args!("{count} place(s) {what}"));
    }
    text
}

/// `scrub --rebuild` for people.
pub(crate) fn rebuild_text(found: &Value) -> String {
    let mut text = String::new();
    let (instances, revisions) = (&found["instances"], &found["revisions"]);
    write_line(
        &mut text,
        format_args!(
            "made the index anew: {revisions} revision(s), {instances} instance(s) not packed yet, \
             {} record(s) of journals",
            found["records"]
        ),
    );
    if let Some(count) = found["incomplete"].as_u64().filter(|count| *count > 0) {
        write_line(
            &mut text,
            format_args!("{count} group(s) of images are not whole: see `scrub`"),
        );
    }
    if let Some(count) = found["damaged"].as_u64().filter(|count| *count > 0) {
        let what = "DAMAGED: they are not what was stored, see `status`";
        write_line(&mut text, format_args!("{count} record(s) {what}"));
    }
    if let Some(bytes) = found["cut_bytes"].as_u64().filter(|bytes| *bytes > 0) {
        let what = "at the ends of segments were no records and are gone: what a power cut leaves \
                    looks so, and so does a last record that has rotted";
        write_line(&mut text, format_args!("{bytes} byte(s) {what}"));
    }
    text
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(state: &str, evictable_bytes: u64) -> Value {
        json!({
            "state": state,
            "free_bytes": 3_u64 << 29,
            "total_bytes": 100_u64 << 30,
            "evictable_bytes": evictable_bytes,
        })
    }

    #[test]
    fn people_are_told_in_words_how_full_the_disk_is() {
        assert_eq!(
            disk_words(&disk("ok", 1 << 20)),
            "1.5 GiB of 100.0 GiB free"
        );
        let low = disk_words(&disk("low", 5 << 20));
        assert!(low.starts_with("LOW, 1.5 GiB"), "{low}");
        assert!(
            low.ends_with("5.0 MiB may be let go, at the hub and read"),
            "{low}"
        );
        let full = disk_words(&disk("full", 0));
        assert!(full.contains("nothing more is taken in"), "{full}");
        assert!(full.ends_with("nothing may be let go yet"), "{full}");
    }

    #[test]
    fn people_are_told_what_has_left_the_box() {
        let study = json!({ "legal_hold": true, "let_go": 12, "erased": 0 });
        let mut text = String::new();
        write_keeping(&mut text, &study);
        assert!(text.contains("on legal hold"), "{text}");
        assert!(text.contains("12 instance(s) let go"), "{text}");
        assert!(!text.contains("erased here"), "{text}");
    }
}
