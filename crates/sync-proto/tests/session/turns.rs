//! The order inside a class: studies, their revisions side by side, and what a reader waits for.

use journal::SignedManifest;
use study::{Group, GroupForm, Manifest};
use sync_proto::{Begun, Class, Command, Frame, Lane, Offer, Output, Rank, Runs, Session};

use crate::hand::{NOW, data, drain, flow, have, held, key, manifest, sent, session};

/// A group of 16 slices as the codec packs it: a table, then the slices in its order of sending.
const GROUP: [u32; 17] = [600; 17];

fn offer(session: &mut Session, manifest: &SignedManifest, rank: Rank) {
    let offer = Offer {
        manifest: manifest.clone(),
        rank,
        begun: Begun::Never,
    };
    let command = Command::Offer(Box::new(offer));
    session.handle_command(NOW, command).unwrap();
}

/// (item, chunk), in the order of sending.
fn order(outputs: &[Output]) -> Vec<(u32, u32)> {
    let data = data(outputs).into_iter();
    data.map(|(item, chunk, ..)| (item, chunk)).collect()
}

#[test]
fn the_overview_of_a_whole_study_goes_before_its_gaps() {
    let mut session = session();
    for revision in 1..=4 {
        offer(
            &mut session,
            &manifest(1, revision, &GROUP),
            Rank::new(Class::Routine, 7),
        );
    }
    let localiser = manifest(1, 5, &[600; 4]);
    offer(&mut session, &localiser, Rank::new(Class::Routine, 7));
    let other_study = manifest(1, 6, &[600]);
    offer(&mut session, &other_study, Rank::new(Class::Routine, 8));
    let order = order(&flow(&mut session));
    // Table, slices 0 and 8 of each group, and the localiser whole; then 4 and 12 of each.
    let overview = (0..4).flat_map(|item| (0..3).map(move |chunk| (item, chunk)));
    let localiser = (0..4).map(|chunk| (4, chunk));
    let quarter = (0..4).flat_map(|item| (3..5).map(move |chunk| (item, chunk)));
    let expected: Vec<_> = overview.chain(localiser).chain(quarter).collect();
    assert_eq!(order[..expected.len()], expected);
    assert_eq!(
        order.last(),
        Some(&(5, 0)),
        "another study comes after all of it"
    );
    assert_eq!(order.len(), 4 * 17 + 4 + 1);
}

#[test]
fn files_that_cross_as_they_were_taken_in_are_spread_too() {
    let mut session = session();
    let one = manifest(1, 1, &[600, 600]);
    let group = Group {
        form: GroupForm::File,
        ..one.manifest().groups[0].clone()
    };
    let nine = Manifest {
        groups: vec![group; 9],
        ..one.manifest().clone()
    };
    let nine = SignedManifest::sign(&key(1), nine);
    offer(&mut session, &nine, Rank::new(Class::Routine, 0));
    let files: Vec<u32> = order(&flow(&mut session))
        .into_iter()
        .map(|(_, chunk)| chunk / 2)
        .collect();
    assert_eq!(
        files,
        [0, 0, 8, 8, 4, 4, 2, 2, 6, 6, 1, 1, 3, 3, 5, 5, 7, 7]
    );
}

#[test]
fn what_a_reader_waits_for_goes_next_in_the_middle_of_a_transfer() {
    let mut session = session();
    let both = [manifest(1, 1, &GROUP), manifest(1, 2, &GROUP)];
    for manifest in &both {
        offer(&mut session, manifest, Rank::new(Class::Routine, 7));
    }
    let begun = order(&drain(&mut session));
    assert!(begun.len() < 5);
    let rank = Rank {
        first: Runs::full(17),
        ..Rank::new(Class::Routine, 7)
    };
    let manifest = both[1].digest();
    session
        .handle_command(NOW, Command::Rank { manifest, rank })
        .unwrap();
    for _ in 0..=begun.len() {
        session.handle_sent(NOW, Lane::Item(0));
    }
    let next = order(&flow(&mut session));
    assert!(next[..17].iter().all(|(item, _)| *item == 1), "{next:?}");
    assert_eq!(begun.len() + next.len(), 34);
}

#[test]
fn a_study_of_an_earlier_turn_goes_first_whenever_it_is_offered() {
    let mut session = session();
    offer(
        &mut session,
        &manifest(1, 1, &GROUP),
        Rank::new(Class::Bulk, 7),
    );
    let begun = drain(&mut session);
    offer(
        &mut session,
        &manifest(1, 2, &[600; 3]),
        Rank::new(Class::Bulk, -7),
    );
    for _ in 0..=order(&begun).len() {
        session.handle_sent(NOW, Lane::Item(0));
    }
    let next = order(&flow(&mut session));
    assert_eq!(next[..3], [(1, 0), (1, 1), (1, 2)]);
}

#[test]
fn a_chunk_that_is_overdue_goes_with_the_class_that_passes_it_and_no_further() {
    let mut session = session();
    let routine = manifest(1, 1, &[1000, 1000]);
    offer(
        &mut session,
        &manifest(1, 2, &[1000; 60]),
        Rank::new(Class::Urgent, 0),
    );
    offer(&mut session, &routine, Rank::new(Class::Routine, 0));
    let out = flow(&mut session);
    let chunks = order(&out);
    let first = chunks.iter().position(|(item, _)| *item == 1).unwrap();
    let opened = Output::OpenLane {
        item: 1,
        class: Class::Urgent,
    };
    assert!(out.contains(&opened));
    assert!((15..25).contains(&first), "{chunks:?}");
    // Its second chunk waits until the first is there, and for its own class.
    assert_eq!(chunks.last(), Some(&(0, 59)));
    session.handle_frame(NOW, have(1, &[], &[])).unwrap();
    session.handle_frame(NOW, held(1, 0, 1000)).unwrap();
    let out = flow(&mut session);
    let class = Class::Routine;
    assert!(out.contains(&Output::SetClass { item: 1, class }));
    assert!(sent(&out).contains(&&Frame::Class { item: 1, class }));
    assert_eq!(order(&out), [(1, 1)]);
}
