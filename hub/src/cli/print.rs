//! What commands write to stdout.

use std::io::Write as _;

use serde_json::Value;

use super::Failure;

/// Writes one line, or several.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::request)
}

/// Writes one JSON document.
pub(super) fn json(value: &Value) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).expect("a value is plain JSON"))
}

/// Writes studies as a table.
pub(super) fn studies(output: &Value) -> Result<(), Failure> {
    line(&format!(
        "{:<8} {:<10} {:>4} {:>9} {:<11} {:<20} {:<20} STUDY",
        "PRIORITY", "CUSTODY", "%", "INSTANCES", "REPORT", "RECEIVED", "SITE"
    ))?;
    for study in output["studies"].as_array().into_iter().flatten() {
        line(&format!(
            "{:<8} {:<10} {:>4} {:>9} {:<11} {:<20} {:<20} {}",
            text(&study["priority"]),
            text(&study["custody"]),
            study["percent_at_hub"],
            format!("{}/{}", study["instances_readable"], study["instances"]),
            text(&study["report"]),
            identity::calendar::format_utc(study["received_at"].as_u64().unwrap_or(0)),
            text(&study["site"]),
            text(&study["study_instance_uid"]),
        ))?;
        for instance in study["instance_list"].as_array().into_iter().flatten() {
            let conflict = if instance["conflict"] == true {
                "  conflict"
            } else {
                ""
            };
            line(&format!(
                "  {:>9} bytes  {}{conflict}",
                instance["bytes"],
                text(&instance["sop_instance_uid"]),
            ))?;
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
