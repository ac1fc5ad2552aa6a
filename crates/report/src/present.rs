//! A verified report for people (plain text) and for programs (JSON).

use identity::calendar::format_utc;
use serde_json::{Value, json};

use crate::document::{ReportDocument, ReportStatus};
use crate::verify::VerifiedReport;

/// The width of a printed line, in characters.
const LINE_CHARS: usize = 78;
/// Before the text of a section.
const INDENT: &str = "  ";

/// Prints a report as plain text, with who signed it and on how many images it was read.
pub fn to_text(report: &VerifiedReport) -> String {
    let (document, credential) = (&report.document, &report.credential);
    let mut text = format!("RADIOLOGY REPORT - {}\n", heading(document.status));
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    line("Study", document.study.to_string());
    line("Images", images(document));
    if document.critical.level() > 0 {
        line(
            "Critical",
            format!("CRITICAL FINDING, LEVEL {}", document.critical.level()),
        );
    }
    line("Language", document.language.as_str().to_string());
    line(
        "Signed by",
        format!("{}, licence {}", credential.name, credential.licence),
    );
    line("Key", credential.key.to_string());
    line("Signed at", format_utc(document.signed_at_ms));
    line("Report", report.digest().to_string());
    if let Some(previous) = document.previous {
        line("Follows", previous.to_string());
    }
    for (name, section) in document
        .sections
        .iter()
        .into_iter()
        .filter(|(_, s)| !s.is_empty())
    {
        text.push_str(&format!("\n{}\n", name.to_uppercase()));
        section
            .as_str()
            .lines()
            .for_each(|line| wrap(line, &mut text));
    }
    text
}

impl VerifiedReport {
    /// Gives a report as JSON, with the field names of the draft and who signed it.
    pub fn to_json(&self) -> Value {
        let (document, credential) = (&self.document, &self.credential);
        let mut value = json!({
            "study_instance_uid": document.study,
            "status": document.status.as_str(),
            "critical": document.critical.level(),
            "language": document.language.as_str(),
            "signed_at_ms": document.signed_at_ms,
            "instances_seen": document.instances_seen,
            "instances_total": document.instances_total,
            "root": document.root.digest().to_string(),
            "digest": self.digest().to_string(),
            "previous": document.previous.map(|p| p.to_string()),
            "signer": {
                "name": credential.name.as_str(),
                "licence": credential.licence.as_str(),
                "key": credential.key.to_string(),
            },
        });
        for (name, section) in document.sections.iter() {
            value[name] = json!(section.as_str());
        }
        value
    }
}

fn heading(status: ReportStatus) -> &'static str {
    match status {
        ReportStatus::Preliminary => "PRELIMINARY, another report follows",
        ReportStatus::Final => "FINAL",
        ReportStatus::Addendum => "ADDENDUM to the final report",
    }
}

fn images(document: &ReportDocument) -> String {
    let (seen, total) = (document.instances_seen, document.instances_total);
    if seen == total {
        format!("read on all {total} images")
    } else {
        format!("READ ON {seen} OF {total} IMAGES, the others had not arrived")
    }
}

/// Breaks a line at blanks; a word that is longer than a line stays whole.
fn wrap(line: &str, text: &mut String) {
    let mut width = 0;
    for word in line.split_whitespace() {
        let chars = word.chars().count();
        if width > 0 && width + 1 + chars > LINE_CHARS {
            text.push('\n');
            width = 0;
        }
        let before = if width == 0 { INDENT } else { " " };
        text.push_str(before);
        text.push_str(word);
        width += before.len() + chars;
    }
    text.push('\n');
}
