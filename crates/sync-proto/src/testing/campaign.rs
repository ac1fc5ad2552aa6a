//! One run of chance: work, cuts, reboots, delays, changes of class; then a quiet link.

use std::collections::BTreeMap;

use study::{Digest, Priority};

use super::dice::Dice;
use super::road::Conditions;
use super::{End, Lie, Pair, Violation};

/// How long a quiet link may take to bring the ends level, milliseconds of virtual time.
const QUIET_MS: u64 = 600_000;

/// Runs one seed to its end; the same seed does exactly the same again.
///
/// Gives how many frames of each name crossed.
pub fn campaign(seed: u64, lie: Option<Lie>) -> Result<BTreeMap<&'static str, u64>, Violation> {
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
    pair.set_mishaps(false);
    pair.connect();
    for _ in 0..QUIET_MS / 1_000 {
        pair.run_for(1_000)?;
        pair.offer_again(End::Box);
        pair.offer_again(End::Hub);
        if pair.is_level() {
            return Ok(pair.frames());
        }
    }
    Err(Violation::NotLevel(QUIET_MS))
}

/// Does one thing that happens to boxes and hubs.
fn disturb(pair: &mut Pair, dice: &mut Dice) {
    let end = if dice.once_in(4) { End::Hub } else { End::Box };
    match dice.below(20) {
        0 | 1 => pair.cut(),
        2 => pair.reboot(end),
        3..=5 => pair.connect(),
        6..=10 => offer(pair, dice, end),
        11 | 12 => pair.say(end),
        13 => pair.publish(end),
        14 | 15 => {
            if let Some(manifest) = any(pair, dice, end) {
                pair.change_class(end, manifest, class(dice));
            }
        }
        16 => {
            if let Some(manifest) = any(pair, dice, end) {
                pair.withdraw(end, manifest);
            }
        }
        17 => pair.offer_again(end),
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

fn class(dice: &mut Dice) -> Priority {
    Priority::ALL[dice.index(Priority::ALL.len())]
}
