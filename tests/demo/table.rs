//! The demo's result, for people and for scripts.

use std::io::Write as _;
use std::time::Duration;

use kit::relay::Profile;
use serde_json::{Value, json};

use crate::progress::megabytes;

/// One study at the end of its way.
pub(crate) struct Row {
    study: Value,
    seconds: f64,
    seconds_ideal: Option<f64>,
}

impl Row {
    /// What the box says of the study, and how long its crossing took on this link.
    pub(crate) fn new(study: &Value, link: &Profile, crossing: Duration) -> Self {
        Self {
            seconds: crossing.as_secs_f64(),
            seconds_ideal: ideal(study["bytes_to_cross"].as_u64().unwrap_or(0), link),
            study: study.clone(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut row = self.study.clone();
        row["crossing_seconds"] = json!(self.seconds);
        row["ideal_seconds"] = json!(self.seconds_ideal);
        row
    }

    pub(crate) fn to_text(&self) -> String {
        let bytes = |key: &str| self.study[key].as_u64().unwrap_or(0);
        let (raw, crossed) = (bytes("bytes_original"), bytes("bytes_to_cross"));
        let word = |key: &str| self.study[key].as_str().unwrap_or("-");
        let time = match self.seconds_ideal {
            Some(ideal) => format!(
                "{:.1} s, ideal for this link {ideal:.1} s (ratio {:.2})",
                self.seconds,
                self.seconds / ideal
            ),
            None => format!("{:.1} s, the link has no limit", self.seconds),
        };
        format!(
            "\nstudy     {}\nslices    {}\nraw       {:.1} MB\nheld      {:.1} MB in the box\n\
             crossed   {:.1} MB ({:.0} % of raw)\ntime      {time}\ncustody   {}\nreport    {}\n",
            word("study_instance_uid"),
            self.study["instances"],
            megabytes(raw),
            megabytes(bytes("bytes_held")),
            megabytes(crossed),
            100.0 * megabytes(crossed) / megabytes(raw).max(f64::MIN_POSITIVE),
            word("custody"),
            word("report"),
        )
    }
}

/// The least time on this link: the bytes at its rate, and one way there and back.
#[expect(clippy::cast_precision_loss, reason = "an estimate of seconds")]
fn ideal(bytes: u64, link: &Profile) -> Option<f64> {
    let rate_kbit = f64::from(link.up.rate_kbit?);
    let flight = link.up.delay + link.down.delay;
    Some(bytes as f64 * 8.0 / (rate_kbit * 1000.0) + flight.as_secs_f64())
}

/// Writes to the standard output.
pub(crate) fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
