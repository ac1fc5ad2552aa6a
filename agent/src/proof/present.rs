//! Presenting a judgement: as text for people, as JSON for scripts.

use std::fmt::Write as _;

use journal::{ClockQuality, Record};
use serde_json::{Value, json};

use super::images::FolderCheck;
use super::judge::{Judgement, time};

/// How many images of one sort are named in the text; JSON names all.
const NAMED_MAX: usize = 50;

/// All that was found.
pub(super) struct Findings<'a> {
    pub(super) judgement: &'a Judgement,
    /// The fleet was demanded by its name.
    pub(super) fleet_demanded: bool,
    /// A folder of images was given.
    pub(super) folder_given: bool,
    /// What is in it, if it was looked through.
    pub(super) folder: Option<&'a FolderCheck>,
}

impl Findings<'_> {
    /// Everything that was given holds, and no image is missing.
    pub(super) fn hold(&self) -> bool {
        self.judgement.faults.is_empty() && self.folder.is_none_or(FolderCheck::holds)
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        self.put_papers(&mut text);
        for filed in &self.judgement.reports {
            text.push('\n');
            text.push_str(&report::to_text(&filed.report));
        }
        text.push('\n');
        for missing in &self.judgement.not_shown {
            line(&mut text, "not shown", missing);
        }
        match self.folder {
            Some(folder) => put_folder(&mut text, folder),
            None if self.folder_given => line(
                &mut text,
                "folder",
                "NOT CHECKED: the papers do not say which images are right",
            ),
            None => line(
                &mut text,
                "folder",
                "NOT CHECKED: none was given, only the papers were looked at",
            ),
        }
        for fault in &self.judgement.faults {
            line(&mut text, "WRONG", &fault.to_string());
        }
        text.push_str(match (self.hold(), self.folder) {
            (false, _) => "THE PROOF DOES NOT HOLD\n",
            (true, Some(_)) => "the proof holds: papers and images are unaltered\n",
            (true, None) => "the papers hold\n",
        });
        text
    }

    fn put_papers(&self, text: &mut String) {
        let found = self.judgement;
        if let Some(newest) = found.newest() {
            line(text, "study", newest.study.as_str());
        }
        if let Some(fleet) = &found.fleet {
            line(text, "fleet", &fleet.fleet().to_string());
            let (version, at) = (fleet.version(), time(fleet.body().made_at_ms));
            line(
                text,
                "",
                &format!("as of its document {version}, made at {at} (its own clock)"),
            );
            line(
                text,
                "",
                if self.fleet_demanded {
                    "the one that was demanded"
                } else {
                    "compare it with the name you have from the fleet itself, or use --fleet"
                },
            );
        }
        if let Some(unit) = &found.unit {
            let grant = &unit.grant;
            line(text, "box", &grant.unit.to_string());
            let (site, hub) = (grant.site.as_str(), unit.hub.name.as_str());
            let at = time(grant.made_at_ms);
            let granted = format!("of site {site:?}, granted by hub {hub:?} at {at} (hub's clock)");
            line(text, "", &granted);
        }
        self.put_times(text);
    }

    /// Who said what when, and by whose clock.
    fn put_times(&self, text: &mut String) {
        let found = self.judgement;
        if let Some(newest) = found.newest() {
            let (count, revision) = (newest.instances, newest.revision);
            let signed = format!("{count} images, signed by the box as revision {revision}");
            line(text, "images", &signed);
            let at = time(newest.received_at_ms);
            line(
                text,
                "",
                &format!("the first was held at {at} (box's clock)"),
            );
        }
        for receipt in &found.receipts {
            let (revision, at) = (receipt.revision, hub_time(&receipt.record));
            line(
                text,
                "receipt",
                &format!("the hub took over revision {revision} at {at}"),
            );
        }
        for (number, filed) in (1..).zip(&found.reports) {
            let (document, signer) = (&filed.report.document, &filed.report.credential);
            let signed = time(document.signed_at_ms);
            line(
                text,
                "report",
                &format!(
                    "no. {number}, {}, signed by {}, licence {}, at {signed} (signer's clock)",
                    document.status, signer.name, signer.licence
                ),
            );
            let (at, revision) = (hub_time(&filed.record), filed.revision);
            line(
                text,
                "",
                &format!("of revision {revision}; filed by the hub at {at}"),
            );
        }
        if let Some(seal) = &found.seal {
            let (at, clock) = (time(seal.wall_ms), clock_words(seal.clock));
            line(
                text,
                "sealed",
                &format!("by the box at {at} (box's clock, {clock})"),
            );
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let found = self.judgement;
        let newest = found.newest();
        let faults = found.faults.iter();
        json!({
            "holds": self.hold(),
            "fleet": found.fleet.as_ref().map(|fleet| fleet.fleet().to_string()),
            "fleet_version": found.fleet.as_ref().map(|fleet| fleet.version()),
            "fleet_demanded": self.fleet_demanded,
            "unit": found.unit.as_ref().map(|unit| json!({
                "key": unit.grant.unit.to_string(),
                "site": unit.grant.site.as_str(),
                "hub": unit.hub.name.as_str(),
                "hub_key": unit.hub.key.to_string(),
                "granted_at_ms": unit.grant.made_at_ms,
            })),
            "study_instance_uid": newest.map(|m| &m.study),
            "revision": newest.map(|m| m.revision),
            "closed": newest.map(|m| m.closed),
            "instances": newest.map(|m| m.instances),
            "root": newest.map(|m| m.root.digest().to_string()),
            "received_at_ms": newest.map(|m| m.received_at_ms),
            "receipts": found.receipts.iter().map(|receipt| json!({
                "revision": receipt.revision,
                "at_ms": receipt.record.wall_ms,
                "clock": clock_words(receipt.record.clock),
            })).collect::<Vec<_>>(),
            "reports": found.reports.iter().map(|filed| json!({
                "report": filed.report.to_json(),
                "revision": filed.revision,
                "filed_at_ms": filed.record.wall_ms,
                "clock": clock_words(filed.record.clock),
            })).collect::<Vec<_>>(),
            "sealed_at_ms": found.seal.as_ref().map(|seal| seal.wall_ms),
            "not_shown": found.not_shown,
            "faults": faults.map(|fault| json!({
                "document": fault.document.to_string(),
                "reason": fault.reason,
            })).collect::<Vec<_>>(),
            "folder": self.folder.map(folder_json),
        })
    }
}

fn put_folder(text: &mut String, folder: &FolderCheck) {
    let count = folder.unaltered;
    line(
        text,
        "folder",
        &format!("{count} images of the study are there, unaltered"),
    );
    // Names come from whoever filled the folder: quoted, they cannot pass for lines of ours.
    let altered = folder.altered.iter();
    put_all(
        text,
        "ALTERED",
        altered.map(|a| format!("{} in {:?}: {}", a.sop, a.file, a.what)),
    );
    let missing = folder.missing.iter();
    put_all(text, "MISSING", missing.map(|(sop, _)| sop.to_string()));
    let foreign = folder.foreign.iter();
    put_all(
        text,
        "FOREIGN",
        foreign.map(|f| format!("{f:?} is not part of this study")),
    );
    let unreadable = folder.unreadable.iter();
    put_all(
        text,
        "UNREADABLE",
        unreadable.map(|(f, why)| format!("{f:?}: {why}")),
    );
    let not_covered = folder.not_covered.iter();
    put_all(
        text,
        "not covered",
        not_covered.map(|f| format!("{f:?} is no image")),
    );
}

fn put_all(text: &mut String, name: &str, all: impl ExactSizeIterator<Item = String>) {
    let rest = all.len().saturating_sub(NAMED_MAX);
    all.take(NAMED_MAX).for_each(|one| line(text, name, &one));
    if rest > 0 {
        line(text, name, &format!("and {rest} more; --json names all"));
    }
}

fn folder_json(folder: &FolderCheck) -> Value {
    json!({
        "unaltered": folder.unaltered,
        "altered": folder.altered.iter().map(|altered| json!({
            "sop_instance_uid": altered.sop,
            "file": altered.file.to_string_lossy(),
            "what": altered.what,
        })).collect::<Vec<_>>(),
        "missing": folder.missing.iter().map(|(sop, digest)| json!({
            "sop_instance_uid": sop,
            "digest": digest.digest().to_string(),
        })).collect::<Vec<_>>(),
        "foreign": folder.foreign.iter().map(|f| f.to_string_lossy()).collect::<Vec<_>>(),
        "unreadable": folder.unreadable.iter().map(|(file, why)| json!({
            "file": file.to_string_lossy(),
            "what": why,
        })).collect::<Vec<_>>(),
        "not_covered": folder.not_covered.iter().map(|f| f.to_string_lossy()).collect::<Vec<_>>(),
    })
}

fn line(text: &mut String, name: &str, value: &str) {
    writeln!(text, "{name:<12}{value}").expect("writing to a String does not fail");
}

fn hub_time(record: &Record) -> String {
    let (at, clock) = (time(record.wall_ms), clock_words(record.clock));
    format!("{at} (hub's clock, {clock})")
}

fn clock_words(clock: ClockQuality) -> &'static str {
    match clock {
        ClockQuality::Unknown => "nobody knows how right",
        ClockQuality::Kept => "kept by a battery or set by a person",
        ClockQuality::Synchronised => "synchronised",
    }
}
