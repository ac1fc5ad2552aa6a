//! Seeded campaigns over the virtual-time pair; `CHASQUI_CAMPAIGN` multiplies their length.

#![expect(clippy::print_stdout, reason = "a campaign says what it did")]

use sync_proto::testing::{Lie, Tally, Violation, campaign, flaps};

/// How many seeds one run takes when `CHASQUI_CAMPAIGN` is 1.
const SEEDS: u64 = 150;
/// How often the link flaps in the same.
const FLAPS: u32 = 2_500;

fn setting(name: &str, default: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn kinds(frames: &Tally) -> usize {
    frames.frames.len()
}

#[test]
fn whatever_happens_nothing_is_lost_sent_again_or_claimed_too_early() {
    let first = setting("CHASQUI_SEED", 0);
    let seeds = first..first + SEEDS * setting("CHASQUI_CAMPAIGN", 1);
    println!("campaign over seeds {seeds:?}");
    let mut crossed = Tally::default();
    for seed in seeds {
        let tally = campaign(seed, None).unwrap_or_else(|violation| {
            panic!("seed {seed}: {violation} (replay: CHASQUI_SEED={seed})")
        });
        crossed.add(&tally);
    }
    println!("crossed, none of it held durably before: {crossed:?}");
    // Nobody says goodbye in a campaign; every other frame must have been tried.
    assert_eq!(kinds(&crossed), 17, "{crossed:?}");
}

#[test]
fn a_link_that_flaps_and_flaps_loses_nothing_and_repeats_nothing() {
    let times = u32::try_from(setting("CHASQUI_CAMPAIGN", 1)).unwrap();
    let crossed = flaps(setting("CHASQUI_SEED", 0), FLAPS * times.min(4)).unwrap();
    println!(
        "flaps: {}, crossed, none of it held durably before: {crossed:?}",
        FLAPS * times.min(4)
    );
}

/// What the watch says of both ends lying, over so many seeds.
fn caught(lie: Lie, seeds: u64) -> Vec<Violation> {
    let seeds = 0..seeds;
    let caught = seeds.filter_map(|seed| campaign(seed, Some(lie)).err());
    caught.collect()
}

#[test]
fn progress_said_before_the_sync_is_caught() {
    let caught = caught(Lie::HeldBeforeSync, 20);
    assert!(
        caught.contains(&Violation::FalseClaim("held")),
        "{caught:?}"
    );
}

#[test]
fn a_receipt_before_the_sync_is_caught() {
    let caught = caught(Lie::ReceiptBeforeSync, 20);
    assert!(
        caught.contains(&Violation::FalseClaim("records")),
        "{caught:?}"
    );
}

#[test]
fn records_acknowledged_before_the_sync_are_caught() {
    let caught = caught(Lie::RecordsBeforeSync, 20);
    let claim = Violation::FalseClaim("records-held");
    assert!(caught.contains(&claim), "{caught:?}");
}

#[test]
fn a_lost_bitmap_is_caught_at_either_end() {
    for lie in [Lie::ForgottenHave, Lie::ForgottenBegun] {
        let caught = caught(lie, 40);
        let again = |violation: &Violation| matches!(violation, Violation::SentAgain { .. });
        assert!(caught.iter().any(again), "{lie:?}: {caught:?}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        for lie in [None, Some(Lie::HeldBeforeSync)] {
            assert_eq!(campaign(seed, lie), campaign(seed, lie));
        }
    }
    let [one, other] = [1, 2].map(|seed| campaign(seed, None).unwrap());
    assert_ne!(one.trace, other.trace);
}
