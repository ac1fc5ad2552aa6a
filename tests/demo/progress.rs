//! What the demo shows while it runs.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;
use study::StudyUid;

/// Writes lines, and one line that is written over, to the standard error.
pub(crate) struct Progress {
    quiet: bool,
    terminal: bool,
    /// What stands in the line that is written over.
    shown: String,
    /// When each study's crossing began: when its first bytes were packed.
    crossing_since: BTreeMap<StudyUid, Instant>,
}

impl Progress {
    /// With `quiet`, nothing is written.
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            quiet,
            terminal,
            shown: String::new(),
            crossing_since: BTreeMap::new(),
        }
    }

    /// Writes a line.
    pub(crate) fn say(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        let clear = if self.terminal && !self.shown.is_empty() {
            "\r\x1b[2K"
        } else {
            ""
        };
        self.shown.clear();
        eprintln!("{clear}{line}");
    }

    /// Shows how far the box is; returns what it shows.
    pub(crate) fn look(&mut self, status: &Value, sent: usize, scanned: bool) -> String {
        let studies = status["studies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let sum = |key: &str| studies.iter().filter_map(|s| s[key].as_u64()).sum::<u64>();
        for study in studies
            .iter()
            .filter(|s| s["bytes_to_cross"].as_u64() > Some(0))
        {
            if let Ok(uid) = StudyUid::parse(study["study_instance_uid"].as_str().unwrap_or("")) {
                self.crossing_since.entry(uid).or_insert_with(Instant::now);
            }
        }
        let eta = studies
            .iter()
            .filter_map(|s| s["eta_seconds"].as_u64())
            .max();
        let (crossed, to_cross) = (sum("bytes_at_hub"), sum("bytes_to_cross"));
        let left = match eta {
            Some(seconds) if scanned => format!("about {} left", minutes(seconds)),
            Some(_) | None => "no estimate yet".to_owned(),
        };
        let line = format!(
            "in the box {}/{sent} slices   at the hub {:.1} of {:.1} MB   {} kbit/s   {left}",
            sum("instances"),
            megabytes(crossed),
            megabytes(to_cross),
            status["link"]["rate_kbits"],
        );
        self.show(&line);
        line
    }

    /// How long a study has been crossing.
    pub(crate) fn crossing(&self, study: &StudyUid) -> Option<Duration> {
        self.crossing_since.get(study).map(Instant::elapsed)
    }

    fn show(&mut self, line: &str) {
        if self.quiet || self.shown == line {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[2K{line}");
            // A terminal that cannot be written to shows nothing, which is no fault of the demo.
            drop(std::io::stderr().flush());
        } else {
            eprintln!("{line}");
        }
        line.clone_into(&mut self.shown);
    }
}

/// Bytes as decimal megabytes.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn minutes(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}
