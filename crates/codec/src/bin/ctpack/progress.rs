//! A bar of progress on the terminal; nothing when standard error is not one.

use std::io::{IsTerminal, Write};

/// Counts, and rewrites one line per percent.
pub(crate) struct Progress {
    verb: &'static str,
    total: u64,
    done: u64,
    shown: Option<u64>,
    terminal: bool,
}

/// How many signs the bar has.
const WIDTH: usize = 40;

impl Progress {
    /// `total` in the same measure that [`Progress::add`] counts in.
    pub(crate) fn new(verb: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            verb,
            total: total.max(1),
            done: 0,
            shown: None,
            terminal,
        }
    }

    pub(crate) fn add(&mut self, amount: u64) {
        self.done = self.done.saturating_add(amount);
        let percent = self.done.min(self.total).saturating_mul(100) / self.total;
        if self.terminal && self.shown != Some(percent) {
            self.shown = Some(percent);
            // Progress that cannot be shown is no reason to stop.
            let done = usize::try_from(percent).map_or(WIDTH, |percent| percent * WIDTH / 100);
            let (done, open) = ("#".repeat(done), ".".repeat(WIDTH - done));
            let _ = write!(
                std::io::stderr(),
                "\r{} [{done}{open}] {percent:3} %",
                self.verb
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
