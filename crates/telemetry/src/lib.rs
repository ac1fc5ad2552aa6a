//! Tracing set-up for every program, and the names that log fields share.
//!
//! In: the program's name, `CHASQUI_LOG` (a filter, default `info`) and `CHASQUI_LOG_FORMAT` (`plain` or `json`).
//! Out: log lines on stderr.
//! Invariant: stdout is never written to: it belongs to what scripts read.
//! May not: name a field that could hold patient data.

#![forbid(unsafe_code)]

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;

pub mod fields;

/// Sends logs to stderr from here on; to be called once, first thing in `main`.
///
/// A filter that cannot be parsed is said so on stderr and `info` is taken: a typing error in an
/// environment variable must not keep a field box from starting.
pub fn init(program: &'static str) {
    let (filter, refused) = filter_from(env::var("CHASQUI_LOG").ok().as_deref());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let taken = match env::var("CHASQUI_LOG_FORMAT").as_deref() {
        Ok("json") => lines.json().flatten_event(true).try_init(),
        _ => lines.with_ansi(false).try_init(),
    };
    if taken.is_err() {
        tracing::debug!("another subscriber was set before");
    }
    if let Some(reason) = refused {
        tracing::warn!(reason, "CHASQUI_LOG is not a filter, logging at info");
    }
    tracing::debug!(program, "logging");
}

fn filter_from(text: Option<&str>) -> (EnvFilter, Option<String>) {
    let text = text.filter(|t| !t.trim().is_empty()).unwrap_or("info");
    match EnvFilter::try_new(text) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_falls_back_to_info_and_says_so() {
        assert_eq!(filter_from(None).0.to_string(), "info");
        assert_eq!(filter_from(Some(" ")).0.to_string(), "info");
        assert_eq!(
            filter_from(Some("quinn=warn,debug")).0.to_string(),
            "quinn=warn,debug"
        );
        let (filter, refused) = filter_from(Some("store=loud"));
        assert_eq!(filter.to_string(), "info");
        assert!(refused.is_some());
    }
}
