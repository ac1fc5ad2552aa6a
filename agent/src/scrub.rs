//! Scrub: lets the vault re-read all that it holds, on schedule and without being in the way.
//!
//! In: the schedule, from the configuration; how long the box has been running, from `vault`. Out:
//! orders to `vault` to read on, to mark, and to say what is damaged.
//! Invariant: a pass begins when the box has run so long since the last one began, whatever its
//! clock says, and goes on where it was when the program was ended; it reads no faster than it may.
//! May not: repair, or judge what is damaged.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::VaultConfig;
use crate::vault::{Pass, ScrubState, Scrubbed, Vault, VaultError};

/// How often it is looked whether a pass is due, and whether something is to be said.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is noted how far a pass has come.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a pass rests when the vault cannot be read or written.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// When and how fast passes go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How much the box runs between the beginnings of two passes.
    interval_ms: u64,
    /// Bytes in a second.
    rate: u64,
}

impl Settings {
    pub(crate) fn of(config: &VaultConfig) -> Self {
        Self {
            interval_ms: config.scrub_interval.as_millis(),
            rate: config.scrub_rate.get(),
        }
    }

    /// How long reading so much has to take.
    fn pace(self, bytes: u64) -> Duration {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.rate.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn is_due(self, state: &ScrubState, ran_ms: u64) -> bool {
        let since_ms = ran_ms.saturating_sub(state.began_run_ms.unwrap_or(0));
        state.after.is_some() || since_ms >= self.interval_ms
    }
}

/// Scrubs when it is due until it is told to stop.
pub(crate) async fn run(vault: Vault, settings: Settings, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = scrub(vault, settings) => {}
    }
}

async fn scrub(vault: Vault, settings: Settings) {
    loop {
        let rest = match look(&vault, settings).await {
            Ok(()) => LOOK_INTERVAL,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot re-read what is held now");
                RETRY_DELAY
            }
        };
        tokio::time::sleep(rest).await;
    }
}

/// Says what is to be said, and makes a pass if one is due.
async fn look(vault: &Vault, settings: Settings) -> Result<(), VaultError> {
    let state = blocking(vault, |vault| {
        vault.say_damage()?;
        Ok((vault.scrub_state()?, vault.ran_ms()?))
    });
    let (state, ran_ms) = state.await?;
    if settings.is_due(&state, ran_ms) {
        let began_ms = match (&state.after, state.began_run_ms) {
            (Some(_), Some(began_ms)) => began_ms,
            (Some(_) | None, _) => ran_ms,
        };
        let found = pass(vault, settings, state, began_ms).await?;
        tracing::info!(?found, "re-read all that is held");
    }
    Ok(())
}

/// Makes a pass, or what is left of one.
async fn pass(
    vault: &Vault,
    settings: Settings,
    state: ScrubState,
    began_ms: u64,
) -> Result<Scrubbed, VaultError> {
    let mut pass = blocking(vault, move |vault| vault.pass(state.after.as_ref())).await?;
    let mut found = Scrubbed::default();
    let mut noted = Instant::now();
    loop {
        let since = Instant::now();
        let (read, slice) = slice(vault, pass).await?;
        pass = read;
        let Some((what, through)) = slice else { break };
        let pace = settings.pace(what.bytes);
        found.add(what);
        if let Some(through) = through.filter(|_| noted.elapsed() >= NOTE_INTERVAL) {
            noted = Instant::now();
            blocking(vault, move |vault| {
                vault.note_scrub(Some(through), began_ms)
            })
            .await?;
        }
        tokio::time::sleep(pace.saturating_sub(since.elapsed())).await;
    }
    blocking(vault, move |vault| vault.note_scrub(None, began_ms)).await?;
    Ok(found)
}

type Read = Option<(Scrubbed, Option<store::SegmentName>)>;

/// Reads a slice, and lets what it has found be marked and said.
async fn slice(vault: &Vault, mut pass: Pass) -> Result<(Pass, Read), VaultError> {
    blocking(vault, move |vault| {
        let Some(slice) = pass.next_slice()? else {
            return Ok((pass, None));
        };
        vault.mark(&slice)?;
        if slice.found.damaged > 0 {
            vault.say_damage()?;
        }
        Ok((pass, Some((slice.found, slice.through))))
    })
    .await
}

/// Runs something on a thread that may block.
async fn blocking<T: Send + 'static>(
    vault: &Vault,
    job: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let vault = vault.clone();
    let done = tokio::task::spawn_blocking(move || job(&vault));
    done.await.expect("re-reading does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        interval_ms: 1000,
        rate: 1 << 20,
    };

    fn state(after: Option<&str>, began_run_ms: Option<u64>) -> ScrubState {
        ScrubState {
            after: after.map(|name| name.parse().unwrap()),
            began_run_ms,
        }
    }

    #[test]
    fn a_pass_is_due_after_so_much_running_or_when_one_was_interrupted() {
        assert!(!SETTINGS.is_due(&state(None, None), 999));
        assert!(SETTINGS.is_due(&state(None, None), 1000));
        assert!(!SETTINGS.is_due(&state(None, Some(500)), 1499));
        assert!(SETTINGS.is_due(&state(None, Some(500)), 1500));
        assert!(SETTINGS.is_due(&state(Some("journal-00000001"), Some(500)), 501));
    }

    #[test]
    fn a_pass_reads_no_faster_than_it_may() {
        assert_eq!(SETTINGS.pace(1 << 19), Duration::from_millis(500));
    }
}
