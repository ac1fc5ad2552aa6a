//! The choice of uplinks, case by case.

use super::chooser::{Crossed, Decision};
use super::*;

const WALL: u64 = 1_795_348_800_000;
const MINUTE: u64 = 60_000;

/// A chooser with the uplinks of this configuration.
fn chooser(text: &str) -> Chooser {
    let config: Config = toml::from_str(text).unwrap();
    let mut chooser = Chooser::new(Order::default(), Calendar::new(0));
    let uplinks = Uplink::all(&config).unwrap().into_iter();
    let known = uplinks.map(|uplink| (uplink, Account::default()));
    chooser.handle_settings(known.collect(), 30_000);
    chooser
}

fn at(count_ms: u64) -> Now {
    Now {
        count_ms,
        wall_ms: WALL + count_ms,
    }
}

const NOTHING: Work = Work { most_urgent: None };
const ROUTINE: Work = Work {
    most_urgent: Some(Priority::Routine),
};
const STAT: Work = Work {
    most_urgent: Some(Priority::Stat),
};
const ALL: Decision = Decision::Stay {
    ceiling: Some(Priority::Bulk),
};

const TWO: &str = "[[uplinks]]\nname = \"vsat\"\npriority = 1\n\
                   [[uplinks]]\nname = \"mobile\"\npriority = 2\n";

fn heard(bytes: u64) -> Crossed {
    Crossed {
        bytes,
        has_heard: bytes > 0,
        rate_kbits: 1000,
        rtt_ms: 600,
    }
}

#[test]
fn a_failed_uplink_gives_way_at_once_and_is_tried_again_beside_the_other() {
    let mut chooser = chooser(TWO);
    assert_eq!(chooser.decide(at(0), ROUTINE), Decision::Call(0));
    chooser.handle_failed(at(30_000), 0);
    assert_eq!(chooser.decide(at(30_000), ROUTINE), Decision::Call(1));
    chooser.handle_up(at(31_000), 1);
    chooser.handle_traffic(at(31_000), heard(100));
    assert_eq!(chooser.decide(at(31_000), ROUTINE), ALL);
    chooser.handle_traffic(at(89_000), heard(100));
    assert_eq!(chooser.decide(at(89_000), ROUTINE), ALL);
    let ceiling = Some(Priority::Bulk);
    chooser.handle_traffic(at(90_000), heard(100));
    let to_vsat = Decision::Move { to: 0, ceiling };
    assert_eq!(chooser.decide(at(90_000), ROUTINE), to_vsat);
    chooser.handle_down(at(92_000), 1, Ended::Moved);
    chooser.handle_up(at(92_000), 0);
    assert_eq!(chooser.decide(at(92_000), ROUTINE), ALL);
}

#[test]
fn an_uplink_that_comes_and_goes_is_left_alone_longer_and_longer() {
    let mut chooser = chooser(TWO);
    let (mut moves, mut now_ms) = (Vec::new(), 0);
    // The better one works for 40 s whenever it is called, and is silent then.
    let mut good_until_ms = 0;
    while now_ms < 6 * 60 * MINUTE {
        let now = at(now_ms);
        if let Some(current) = chooser.current() {
            let works = current == 1 || now_ms < good_until_ms;
            chooser.handle_traffic(now, heard(if works { 1000 } else { 0 }));
        }
        match chooser.decide(now, ROUTINE) {
            Decision::Call(line) | Decision::Move { to: line, .. } => {
                if let Some(current) = chooser.current() {
                    chooser.handle_down(now, current, Ended::Moved);
                }
                chooser.handle_up(now, line);
                good_until_ms = now_ms + 40_000;
                moves.push(now_ms);
            }
            Decision::Stay { .. } => {}
            other @ (Decision::Cover(_) | Decision::Hold { .. }) => panic!("{other:?}"),
        }
        now_ms += 1000;
    }
    assert!((20..60).contains(&moves.len()), "{moves:?}");
    // The hub takes five in ten minutes for two machines.
    let is_calm = |five: &[u64]| five[4] - five[0] >= 10 * MINUTE;
    assert!(moves.windows(5).all(is_calm), "{moves:?}");
}

#[test]
fn a_silent_uplink_is_left_for_another_while_something_is_owed() {
    let mut chooser = chooser(TWO);
    chooser.decide(at(0), ROUTINE);
    chooser.handle_up(at(0), 0);
    assert_eq!(chooser.decide(at(500), ROUTINE), ALL);
    chooser.handle_traffic(at(1000), heard(1000));
    assert_eq!(chooser.decide(at(9000), ROUTINE), ALL);
    let ceiling = Some(Priority::Bulk);
    let to_mobile = Decision::Move { to: 1, ceiling };
    assert_eq!(chooser.decide(at(11_001), ROUTINE), to_mobile);
    // Nobody owes anything: silence says nothing; nor does that before something was asked.
    assert_eq!(chooser.decide(at(11_002), NOTHING), ALL);
    assert_eq!(chooser.decide(at(60_000), ROUTINE), ALL);
    assert_eq!(chooser.decide(at(70_000), ROUTINE), to_mobile);
}

#[test]
fn a_metered_uplink_is_called_for_work_and_for_news_now_and_then() {
    let mut chooser =
        chooser("[[uplinks]]\nname = \"bgan\"\nmetered = true\npoll-interval = \"1h\"\n");
    assert_eq!(chooser.decide(at(0), NOTHING), Decision::Call(0));
    chooser.handle_up(at(0), 0);
    chooser.handle_traffic(at(500), heard(3000));
    assert_eq!(chooser.decide(at(10_000), NOTHING), ALL);
    let hung_up = chooser.decide(at(10_500), NOTHING);
    assert!(matches!(hung_up, Decision::Hold { .. }), "{hung_up:?}");
    chooser.handle_down(at(10_500), 0, Ended::HungUp);
    let Decision::Hold { still, .. } = chooser.decide(at(11_000), NOTHING) else {
        panic!("there is nothing to call for");
    };
    let next_call_ms = Some(WALL + 10_500 + 60 * MINUTE);
    assert_eq!(still, Still::NothingToSend { next_call_ms });
    assert_eq!(chooser.decide(at(12_000), ROUTINE), Decision::Call(0));
    let later = at(10_500 + 60 * MINUTE);
    assert_eq!(chooser.decide(later, NOTHING), Decision::Call(0));
}

#[test]
fn a_receipt_that_does_not_come_keeps_no_metered_contact_for_ever() {
    let mut chooser = chooser("[[uplinks]]\nname = \"bgan\"\nmetered = true\n");
    chooser.decide(at(0), ROUTINE);
    chooser.handle_up(at(0), 0);
    chooser.handle_traffic(at(1000), heard(3000));
    assert_eq!(chooser.decide(at(120_000), ROUTINE), ALL);
    let hung_up = chooser.decide(at(121_000), ROUTINE);
    assert!(matches!(hung_up, Decision::Hold { .. }), "{hung_up:?}");
    chooser.handle_down(at(121_000), 0, Ended::HungUp);
    let held = chooser.decide(at(121_001), ROUTINE);
    assert!(matches!(held, Decision::Hold { .. }), "{held:?}");
    // What is more urgent is called for at once.
    assert_eq!(chooser.decide(at(121_002), STAT), Decision::Call(0));
}

#[test]
fn the_last_of_a_budget_is_for_stat_and_the_rest_waits_for_the_day() {
    let mut chooser =
        chooser("[[uplinks]]\nname = \"bgan\"\nbudget-day = \"1 MiB\"\nreserve-percent = 20\n");
    assert_eq!(chooser.decide(at(0), ROUTINE), Decision::Cover(0));
    let cover = |chooser: &mut Chooser| {
        let cover = chooser.lines()[0].cover();
        chooser.line_mut(0).unwrap().account.handle_covered(&cover);
    };
    cover(&mut chooser);
    assert_eq!(chooser.decide(at(0), ROUTINE), Decision::Call(0));
    chooser.handle_up(at(0), 0);
    for look in 0..21 {
        chooser.handle_traffic(at(250 * look), heard(40_000));
        if chooser.decide(at(250 * look), ROUTINE) == Decision::Cover(0) {
            cover(&mut chooser);
        }
    }
    let ceiling = Some(Priority::Stat);
    assert_eq!(
        chooser.decide(at(5250), ROUTINE),
        Decision::Stay { ceiling }
    );
    chooser.handle_traffic(at(6000), heard(200_000));
    let until_ms = Some(WALL + 12 * 60 * MINUTE);
    let Decision::Hold { still, .. } = chooser.decide(at(6000), STAT) else {
        panic!("nothing is left");
    };
    assert_eq!(still, Still::BudgetUsed { until_ms });
}

#[test]
fn what_may_not_go_now_says_why() {
    let mut chooser =
        chooser("[[uplinks]]\nname = \"vsat\"\nmetered = true\nwindows = [\"22:00-06:00\"]\n");
    chooser.decide(at(0), NOTHING);
    chooser.handle_up(at(0), 0);
    chooser.handle_down(at(1000), 0, Ended::HungUp);
    let until_ms = Some(WALL + 10 * 60 * MINUTE);
    let Decision::Hold { still, .. } = chooser.decide(at(2000), ROUTINE) else {
        panic!("it is noon");
    };
    assert_eq!(still, Still::OutsideWindow { until_ms });
    assert_eq!(chooser.decide(at(3000), STAT), Decision::Call(0));
}

#[test]
fn a_pause_holds_everything_or_all_but_stat() {
    let mut chooser = chooser(TWO);
    let pause = |pause| Order { only: None, pause };
    chooser.handle_order(pause(Pause::All));
    let held =
        |decision| matches!(decision, Decision::Hold { still, .. } if still == Still::Paused);
    assert!(held(chooser.decide(at(0), STAT)));
    chooser.handle_order(pause(Pause::ExceptStat));
    let held = chooser.decide(at(0), ROUTINE);
    assert!(
        matches!(&held, Decision::Hold { still, .. } if *still == Still::PausedExceptStat),
        "{held:?}"
    );
    assert_eq!(chooser.decide(at(0), STAT), Decision::Call(0));
    chooser.handle_up(at(0), 0);
    let ceiling = Some(Priority::Stat);
    assert_eq!(chooser.decide(at(1000), STAT), Decision::Stay { ceiling });
    // STAT is through: nobody stays on the line.
    let held = chooser.decide(at(12_000), ROUTINE);
    assert!(matches!(held, Decision::Hold { .. }), "{held:?}");
}

#[test]
fn a_contact_goes_on_through_new_settings_where_its_uplink_is_the_same() {
    let mut chooser = chooser(TWO);
    chooser.decide(at(0), ROUTINE);
    chooser.handle_up(at(0), 0);
    let again = |chooser: &mut Chooser, text: &str| {
        let config: Config = toml::from_str(text).unwrap();
        let uplinks = Uplink::all(&config).unwrap().into_iter();
        chooser.handle_settings(uplinks.map(|u| (u, Account::default())).collect(), 30_000);
    };
    let more = format!("[[uplinks]]\nname = \"leo\"\npriority = 3\n{TWO}");
    again(&mut chooser, &more);
    assert_eq!(chooser.current(), Some(1));
    assert_eq!(chooser.decide(at(1000), ROUTINE), ALL);
    again(
        &mut chooser,
        "[[uplinks]]\nname = \"vsat\"\nrate-kbit = 64\n",
    );
    let held = chooser.decide(at(2000), ROUTINE);
    assert!(
        matches!(held, Decision::Hold { look_in_ms: 0, .. }),
        "{held:?}"
    );
    assert_eq!(chooser.decide(at(2000), ROUTINE), Decision::Call(0));
}
