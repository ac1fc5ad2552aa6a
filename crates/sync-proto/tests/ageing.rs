//! Classes over a link in virtual time: STAT keeps it, and below STAT nothing starves.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use study::Digest;
use sync_proto::Class;
use sync_proto::testing::{Conditions, End, Pair};

const LINK: Conditions = Conditions {
    delay_ms: 300,
    jitter_ms: 0,
    bytes_per_s: 32_000,
};
/// Twice what the link carries in a second.
const FLOOD: [usize; 4] = [16_000; 4];

/// Lets more of a class come in each second than the link carries, for a minute.
fn flood(pair: &mut Pair, class: Class) {
    for _ in 0..60 {
        pair.offer(End::Box, &FLOOD, class);
        pair.run_for(1_000).unwrap();
    }
}

/// Of the data frames that were ordered, in percent.
fn share(frames: &[Class], class: Class) -> usize {
    frames.iter().filter(|sent| **sent == class).count() * 100 / frames.len()
}

/// A box with several chunks of each of these classes, which has sent some of them.
fn crossing(classes: &[Class]) -> (Pair, Vec<Digest>) {
    let mut pair = Pair::new(1, LINK);
    pair.connect();
    let offered = classes
        .iter()
        .map(|class| pair.offer(End::Box, &[8_000; 60], *class))
        .collect();
    pair.run_for(2_000).unwrap();
    (pair, offered)
}

#[test]
fn a_steady_stream_of_stat_keeps_the_link() {
    let (mut pair, others) = crossing(&[Class::Urgent, Class::Bulk, Class::Software]);
    let before = pair.sent_classes(End::Box).len();
    flood(&mut pair, Class::Stat);
    let since = &pair.sent_classes(End::Box)[before..];
    assert_eq!(share(since, Class::Stat), 100);
    pair.run_for(180_000).unwrap();
    assert!(others.iter().all(|o| pair.is_delivered(End::Box, *o)));
}

#[test]
fn a_flood_of_urgent_studies_starves_no_class() {
    let lesser = [Class::Routine, Class::Bulk, Class::Software];
    let (mut pair, waiting) = crossing(&lesser);
    let before = pair.sent_classes(End::Box).len();
    flood(&mut pair, Class::Urgent);
    let since = &pair.sent_classes(End::Box)[before..];
    assert!(share(since, Class::Urgent) >= 75);
    for class in lesser {
        assert!(
            (3..=8).contains(&share(since, class)),
            "{class:?} {since:?}"
        );
    }
    // While it goes on, all of them come to their end.
    let arrived = |pair: &Pair| waiting.iter().all(|o| pair.is_delivered(End::Box, *o));
    let more = (0..10).find(|_| {
        flood(&mut pair, Class::Urgent);
        arrived(&pair)
    });
    assert!(more.is_some());
}

#[test]
fn bulk_gets_its_floor_among_routine() {
    let (mut pair, _) = crossing(&[Class::Bulk]);
    let before = pair.sent_classes(End::Box).len();
    flood(&mut pair, Class::Routine);
    let since = &pair.sent_classes(End::Box)[before..];
    assert!((3..=8).contains(&share(since, Class::Bulk)));
}

#[test]
fn what_waits_gets_nothing_for_time_in_which_nothing_went_before_it() {
    let (mut pair, _) = crossing(&[Class::Bulk]);
    pair.cut();
    pair.run_for(10 * 24 * 3_600_000).unwrap();
    pair.offer(End::Box, &FLOOD, Class::Urgent);
    let before = pair.sent_classes(End::Box).len();
    pair.connect();
    pair.run_for(1_500).unwrap();
    // A few frames were with the transport before the urgent study was offered.
    let since = &pair.sent_classes(End::Box)[before + 4..];
    assert_eq!(share(since, Class::Urgent), 100);
}

#[test]
fn the_same_offers_go_in_the_same_order() {
    let run = || {
        let (mut pair, _) = crossing(&[Class::Routine, Class::Bulk]);
        flood(&mut pair, Class::Urgent);
        pair.sent_classes(End::Box).to_vec()
    };
    assert_eq!(run(), run());
}
