//! Box and hub on a file system that forgets, at any operation, what was not synced, bytes and names:
//! what the campaigns share.
//!
//! `CHASQUI_CAMPAIGN=N` makes the campaigns N times as long (20: the figures of the promise),
//! `CHASQUI_SEED=S` lets them begin with another seed.

use kit::fault_fs::{FaultFs, Loss};
use kit::seeded::Seeded;

use crate::lone::{campaign_seed, report};

/// Rounds of a campaign of length 1, all of one box or hub.
pub(crate) const ROUNDS: u64 = 5;

/// What the promise counts (issue 3), reached by a campaign of length 20.
const LONG_CAMPAIGN: u64 = 20;
const PROMISED_ROUNDS: u64 = 100;

/// Lives without syncs of which one must lose something.
const DEAF_LIVES: u64 = 5;

/// The index's log: without its syncs nothing that SQLite commits is durable, as with
/// `synchronous=OFF`.
pub(crate) const INDEX_LOG: &str = "index.sqlite-wal";
/// The segments of what was taken in and is not packed yet.
pub(crate) const INTAKE: &str = "intake-";
/// The folder in which segments are made.
pub(crate) const SEGMENTS: &str = "segments";

/// What a campaign came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    /// Rounds in which the power went at an operation, and not after everything was done.
    pub(crate) at_operation: u64,
    /// Of those, while the program was starting.
    pub(crate) at_start: u64,
    /// In all rounds.
    pub(crate) operations: u64,
    /// Instances by a box, studies by a hub, before the power went.
    pub(crate) acknowledged: u64,
    pub(crate) looked_at: u64,
}

impl Tally {
    pub(crate) fn keeps_the_promise(&self, length: u64) {
        assert!(self.at_operation > 0, "{self:?}");
        assert!(self.acknowledged > 0, "{self:?}");
        if length >= LONG_CAMPAIGN {
            assert!(self.at_operation * 3 > self.rounds, "{self:?}");
            assert!(self.rounds >= PROMISED_ROUNDS, "{self:?}");
        }
    }
}

/// What a power cut leaves: mostly something of what was not synced, and now and then nothing.
pub(crate) fn loss(dice: &mut Seeded) -> Loss {
    match dice.below(4) {
        0 => Loss::Everything,
        _ => Loss::Torn {
            seed: dice.next_u64(),
        },
    }
}

/// Plays lives without these syncs until one loses something, which is said in one of these words.
pub(crate) fn seen_to_lose(
    what: &str,
    in_words: &[&str],
    mut life: impl FnMut(u64) -> anyhow::Result<()>,
) {
    let first = campaign_seed();
    let lost = (first..first + DEAF_LIVES).find_map(|seed| {
        let error = life(seed).err()?;
        Some(format!("seed {seed}: {error:#}"))
    });
    let lost = lost.expect("the fault file system shows what is not synced");
    report(&format!("fault fs, {what}: {lost}"));
    assert!(in_words.iter().any(|words| lost.contains(words)), "{lost}");
}

/// What is missed while the power is cut may be there when it is back; the next look tells.
pub(crate) fn unless_dark(disk: &FaultFs, looked: anyhow::Result<()>) -> anyhow::Result<()> {
    looked.or_else(|error| if disk.is_dark() { Ok(()) } else { Err(error) })
}
