//! Seeded campaigns over the virtual-time pair; `CHASQUI_CAMPAIGN` multiplies their length.

#![expect(clippy::print_stdout, reason = "a campaign says what it did")]

use std::collections::BTreeMap;

use sync_proto::testing::{Lie, Violation, campaign};

/// How many seeds one run takes when `CHASQUI_CAMPAIGN` is 1.
const SEEDS: u64 = 200;

#[test]
fn whatever_happens_nothing_is_lost_sent_again_or_claimed_too_early() {
    let times = std::env::var("CHASQUI_CAMPAIGN")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let first: u64 = std::env::var("CHASQUI_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let seeds = first..first + SEEDS * times;
    println!("campaign over seeds {seeds:?}");
    let mut crossed: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let frames = campaign(seed, None).unwrap_or_else(|violation| {
            panic!("seed {seed}: {violation} (replay: CHASQUI_SEED={seed})")
        });
        for (name, count) in frames {
            *crossed.entry(name).or_default() += count;
        }
    }
    println!("frames that crossed: {crossed:?}");
    // Nobody says goodbye in a campaign; every other frame must have been tried.
    assert_eq!(crossed.len(), 17, "{crossed:?}");
}

#[test]
fn progress_said_before_the_sync_is_caught() {
    let caught = (0..20).filter_map(|seed| campaign(seed, Some(Lie::HeldBeforeSync)).err());
    let caught: Vec<Violation> = caught.collect();
    assert!(
        caught.contains(&Violation::FalseClaim("held")),
        "{caught:?}"
    );
}

#[test]
fn a_forgotten_have_is_caught() {
    let caught = (0..40).filter_map(|seed| campaign(seed, Some(Lie::ForgottenHave)).err());
    assert!(
        caught
            .into_iter()
            .any(|violation| matches!(violation, Violation::SentAgain { .. }))
    );
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        let lie = Some(Lie::HeldBeforeSync);
        assert_eq!(campaign(seed, lie), campaign(seed, lie));
    }
}
