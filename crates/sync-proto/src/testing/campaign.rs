//! Runs of chance: work, cuts, reboots, delays, budgets, windows, changes of rank; then a quiet
//! link.

use study::Digest;

use super::dice::Dice;
use super::road::Conditions;
use super::{End, Lie, Pair, Tally, Violation};
use crate::class::{Class, Rank};

/// How long a quiet link may take to bring the ends level, milliseconds of virtual time.
const QUIET_MS: u64 = 600_000;

/// Runs one seed to its end; the same seed does exactly the same again.
///
/// Gives what crossed.
pub fn campaign(seed: u64, lie: Option<Lie>) -> Result<Tally, Violation> {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let conditions = Conditions {
        delay_ms: [1, 30, 300, 700][dice.index(4)],
        jitter_ms: [0, 5, 200][dice.index(3)],
        bytes_per_s: [8_000, 50_000, 1_000_000][dice.index(3)],
    };
    let mut pair = Pair::new(seed, conditions).with_lie(lie);
    pair.set_mishaps(true);
    for _ in 0..20 + dice.below(60) {
        disturb(&mut pair, &mut dice);
        let pause_ms = [0, 20, 400, 3_000][dice.index(4)];
        pair.run_for(dice.below(pause_ms + 1))?;
    }
    come_to_rest(&mut pair)?;
    Ok(pair.tally())
}

/// Lets a link flap so many times, while there is always something to send; then it stays up.
///
/// Gives what crossed.
pub fn flaps(seed: u64, count: u32) -> Result<Tally, Violation> {
    let mut dice = Dice::new(seed ^ 0xf1a9);
    let mut pair = Pair::new(
        seed,
        Conditions {
            delay_ms: 30,
            jitter_ms: 5,
            bytes_per_s: 50_000,
        },
    );
    for _ in 0..count {
        for end in [End::Box, End::Hub] {
            if pair.undelivered(end).len() < 3 {
                let sizes: Vec<usize> = (0..1 + dice.index(3))
                    .map(|_| 1 + dice.index(6_000))
                    .collect();
                pair.offer(end, &sizes, class(&mut dice));
            }
        }
        pair.connect();
        let up_ms = [70, 200, 900][dice.index(3)];
        pair.run_for(dice.below(up_ms))?;
        pair.cut();
        pair.run_for(dice.below(200))?;
    }
    come_to_rest(&mut pair)?;
    Ok(pair.tally())
}

/// Lets a quiet link bring the ends level.
fn come_to_rest(pair: &mut Pair) -> Result<(), Violation> {
    pair.set_mishaps(false);
    for end in [End::Box, End::Hub] {
        pair.allow(end, Some(Class::Software));
    }
    pair.connect();
    for _ in 0..QUIET_MS / 1_000 {
        pair.run_for(1_000)?;
        pair.offer_again(End::Box);
        pair.offer_again(End::Hub);
        if pair.is_level() {
            return Ok(());
        }
    }
    Err(Violation::NotLevel(QUIET_MS))
}

/// Does one thing that happens to boxes and hubs.
fn disturb(pair: &mut Pair, dice: &mut Dice) {
    let end = if dice.once_in(4) { End::Hub } else { End::Box };
    match dice.below(22) {
        0 | 1 => pair.cut(),
        2 => pair.reboot(end),
        3..=5 => pair.connect(),
        6..=10 => offer(pair, dice, end),
        11 | 12 => pair.say(end),
        13 => pair.publish(end),
        14 | 15 => {
            if let Some(manifest) = any(pair, dice, end) {
                pair.change_rank(end, manifest, rank(dice));
            }
        }
        16 => {
            if let Some(manifest) = any(pair, dice, end) {
                pair.withdraw(end, manifest);
            }
        }
        17 => pair.offer_again(end),
        // A budget runs out, a window closes, a person pauses; or all is let go again.
        18 => {
            let least = [None, Some(Class::Stat), Some(class(dice))];
            pair.allow(end, least[dice.index(3)]);
        }
        19 => pair.allow(end, Some(Class::Software)),
        _ if !pair.is_connected() => pair.connect(),
        _ => {}
    }
}

/// Offers one manifest, or a crowd of small ones that does not fit on the wire at once.
fn offer(pair: &mut Pair, dice: &mut Dice, end: End) {
    let count = if dice.once_in(12) { 90 } else { 1 };
    for _ in 0..count {
        let chunks = if count > 1 {
            dice.index(2)
        } else {
            dice.index(6)
        };
        let sizes: Vec<usize> = (0..chunks)
            .map(|_| {
                if dice.once_in(3) {
                    1 + dice.index(600)
                } else {
                    1 + dice.index(8_000)
                }
            })
            .collect();
        pair.offer(end, &sizes, class(dice));
    }
}

fn any(pair: &Pair, dice: &mut Dice, end: End) -> Option<Digest> {
    let all = pair.undelivered(end);
    (!all.is_empty()).then(|| all[dice.index(all.len())])
}

fn class(dice: &mut Dice) -> Class {
    Class::ALL[dice.index(Class::ALL.len())]
}

/// Another class and turn, and a few chunks that somebody waits for.
fn rank(dice: &mut Dice) -> Rank {
    let turn = i64::try_from(dice.below(8)).unwrap_or_default();
    Rank {
        first: (0..dice.below(4))
            .filter_map(|_| u32::try_from(dice.below(8)).ok())
            .collect(),
        ..Rank::new(class(dice), turn)
    }
}
