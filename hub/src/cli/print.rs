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
    for unit in output["units_in_doubt"].as_array().into_iter().flatten() {
        let (node, site) = (text(&unit["unit"]), text(&unit["site"]));
        line(&format!("UNIT {node} ({site}): {}", text(&unit["advice"])))?;
    }
    Ok(())
}

/// Writes what a scrub found, as comments before the configuration.
pub(super) fn at_rest(found: &Value) -> Result<(), Failure> {
    let (chunks, bytes) = (&found["chunks"], &found["bytes"]);
    line(&format!(
        "# read again at rest: {chunks} chunks, {bytes} bytes"
    ))?;
    for study in found["damaged"].as_array().into_iter().flatten() {
        line(&format!(
            "# DAMAGED study {} of unit {}",
            text(&study["study_instance_uid"]),
            text(&study["unit"]),
        ))?;
        for (count, words) in [
            (
                "lost",
                "chunks with a receipt: what is in them is not given out",
            ),
            (
                "forgotten",
                "chunks without a receipt: the unit sends them again",
            ),
            (
                "unreadable",
                "chunks that the disk does not give now: look at the disk, then check again",
            ),
            (
                "keys",
                "data keys that do not open: what they seal is not given out",
            ),
            ("reports", "reports that do not open"),
        ] {
            if study[count] != 0 {
                line(&format!("#   {} {words}", study[count]))?;
            }
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
