//! Outgoing manifests: order, resumption, answers.

use sync_proto::{
    Begun, Class, Command, CommandError, Event, Frame, Lane, OPEN_ITEMS_MAX, Offer, Output, Rank,
    Runs,
};

use crate::hand::{
    NOW, data, drain, events, flow, have, held, manifest, offer, quiet, sent, session,
};

#[test]
fn the_first_flight_carries_manifest_and_data_without_waiting() {
    let mut session = quiet();
    offer(
        &mut session,
        &manifest(1, 1, &[1500, 10]),
        Class::Routine,
        Begun::Never,
    );
    let out = flow(&mut session);
    assert!(matches!(sent(&out)[..], [Frame::Offer { item: 0, .. }]));
    assert_eq!(
        data(&out),
        [(0, 0, 0, 1000), (0, 0, 1000, 500), (0, 1, 0, 10)]
    );
}

#[test]
fn what_may_have_left_waits_for_the_peer_and_resumes_at_the_byte() {
    let mut session = session();
    let m = manifest(1, 1, &[1500, 1500, 1500]);
    offer(&mut session, &m, Class::Routine, Begun::Perhaps);
    let out = flow(&mut session);
    assert!(matches!(sent(&out)[..], [Frame::Resume { item: 0, .. }]));
    assert_eq!(data(&out), []);
    session
        .handle_frame(NOW, have(0, &[0], &[(2, 700)]))
        .unwrap();
    assert_eq!(
        data(&flow(&mut session)),
        [(0, 1, 0, 1000), (0, 1, 1000, 500), (0, 2, 700, 800)]
    );
}

#[test]
fn chunks_that_never_left_do_not_wait() {
    let mut session = session();
    let sent = Runs::from_iter([0]);
    let m = manifest(1, 1, &[600, 600]);
    offer(&mut session, &m, Class::Routine, Begun::Known { sent });
    assert_eq!(data(&flow(&mut session)), [(0, 1, 0, 600)]);
    session.handle_frame(NOW, have(0, &[], &[])).unwrap();
    assert_eq!(data(&flow(&mut session)), [(0, 0, 0, 600)]);
}

#[test]
fn a_manifest_the_peer_lost_is_offered_and_sent_from_its_beginning() {
    let mut session = session();
    let sent_before = Runs::from_iter([0]);
    let m = manifest(1, 1, &[600, 600]);
    offer(
        &mut session,
        &m,
        Class::Routine,
        Begun::Known { sent: sent_before },
    );
    flow(&mut session);
    session.handle_frame(NOW, Frame::Want { item: 0 }).unwrap();
    let out = flow(&mut session);
    assert!(matches!(sent(&out)[..], [Frame::Offer { item: 0, .. }]));
    assert_eq!(data(&out), [(0, 0, 0, 600), (0, 1, 0, 600)]);
}

#[test]
fn a_completed_manifest_is_delivered_without_a_byte() {
    for answer in [have(0, &[0, 1], &[]), Frame::Complete { item: 0 }] {
        let mut session = session();
        let m = manifest(1, 1, &[600, 600]);
        offer(&mut session, &m, Class::Routine, Begun::Perhaps);
        flow(&mut session);
        session.handle_frame(NOW, answer).unwrap();
        let out = flow(&mut session);
        assert_eq!(
            events(&out).last(),
            Some(&&Event::Delivered {
                manifest: m.digest()
            })
        );
        assert_eq!(session.counters().sent_bytes, 0);
        assert!(session.is_idle() && session.unfinished().is_empty());
    }
}

#[test]
fn delivered_is_said_only_when_the_last_byte_is_held() {
    let mut session = session();
    let m = manifest(1, 1, &[600]);
    offer(&mut session, &m, Class::Routine, Begun::Never);
    flow(&mut session);
    session.handle_frame(NOW, have(0, &[], &[])).unwrap();
    session.handle_frame(NOW, held(0, 0, 599)).unwrap();
    assert!(!events(&flow(&mut session)).contains(&&Event::Delivered {
        manifest: m.digest()
    }));
    session.handle_frame(NOW, held(0, 0, 600)).unwrap();
    let out = flow(&mut session);
    assert!(events(&out).contains(&&Event::Delivered {
        manifest: m.digest()
    }));
    assert!(out.contains(&Output::CloseLane { item: 0 }));
}

#[test]
fn an_urgent_study_overtakes_within_one_frame() {
    let mut session = session();
    let bulk = manifest(1, 1, &[1 << 20]);
    offer(&mut session, &bulk, Class::Bulk, Begun::Never);
    let before = drain(&mut session);
    assert!(
        data(&before).len() < 5,
        "the transport took nothing, so little is ordered"
    );
    let stat = manifest(1, 2, &[2500]);
    offer(&mut session, &stat, Class::Stat, Begun::Never);
    assert_eq!(
        data(&drain(&mut session)),
        [(1, 0, 0, 1000), (1, 0, 1000, 1000), (1, 0, 2000, 500)]
    );
    session.handle_sent(NOW, Lane::Item(1));
    session.handle_sent(NOW, Lane::Item(0));
    assert_eq!(data(&drain(&mut session)).len(), 1, "then the bulk goes on");
}

#[test]
fn a_raised_class_takes_the_open_lane_with_it() {
    let mut session = session();
    let (first, second) = (manifest(1, 1, &[1 << 20]), manifest(1, 2, &[1 << 20]));
    offer(&mut session, &first, Class::Routine, Begun::Never);
    offer(&mut session, &second, Class::Bulk, Begun::Perhaps);
    drain(&mut session);
    session.handle_frame(NOW, have(1, &[], &[])).unwrap();
    drain(&mut session);
    let class = Class::Stat;
    session
        .handle_command(
            NOW,
            Command::Rank {
                manifest: second.digest(),
                rank: Rank::new(class, 0),
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert!(out.contains(&Output::SetClass { item: 1, class }));
    assert!(sent(&out).contains(&&Frame::Class { item: 1, class }));
    assert!(!data(&out).is_empty() && data(&out).iter().all(|(item, ..)| *item == 1));
}

#[test]
fn a_manifest_raised_while_it_waits_is_opened_first() {
    let mut session = session();
    let waiting: Vec<_> = (0..4).map(|n| manifest(1, n, &[1 << 20])).collect();
    for m in &waiting {
        offer(&mut session, m, Class::Routine, Begun::Never);
    }
    drain(&mut session);
    let (manifest, class) = (waiting[3].digest(), Class::Urgent);
    session
        .handle_command(
            NOW,
            Command::Rank {
                manifest,
                rank: Rank::new(class, 0),
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert!(out.contains(&Output::OpenLane { item: 1, class }));
    assert!(!data(&out).is_empty() && data(&out).iter().all(|(item, ..)| *item == 1));
}

#[test]
fn a_crowd_stays_in_the_window_and_leaves_room_for_the_urgent() {
    let mut session = session();
    for revision in 0..200 {
        offer(
            &mut session,
            &manifest(1, revision, &[10]),
            Class::Routine,
            Begun::Never,
        );
    }
    let opened = |outputs: &[Output]| {
        outputs
            .iter()
            .filter(|output| matches!(output, Output::OpenLane { .. }))
            .count()
    };
    let crowd = opened(&flow(&mut session));
    assert!(crowd < OPEN_ITEMS_MAX, "{crowd}");
    offer(
        &mut session,
        &manifest(1, 200, &[10]),
        Class::Stat,
        Begun::Never,
    );
    assert_eq!(opened(&flow(&mut session)), 1);
    session.handle_frame(NOW, have(0, &[0], &[])).unwrap();
    session.handle_frame(NOW, have(1, &[0], &[])).unwrap();
    assert_eq!(
        opened(&flow(&mut session)),
        1,
        "what was delivered makes room"
    );
}

#[test]
fn a_withdrawn_item_keeps_its_place_until_the_peer_confirms() {
    let mut session = session();
    let m = manifest(1, 1, &[1 << 20]);
    offer(&mut session, &m, Class::Routine, Begun::Never);
    drain(&mut session);
    session
        .handle_command(
            NOW,
            Command::Withdraw {
                manifest: m.digest(),
            },
        )
        .unwrap();
    assert!(sent(&drain(&mut session)).contains(&&Frame::Withdraw { item: 0 }));
    let again = Offer {
        manifest: m.clone(),
        rank: Rank::new(Class::Routine, 0),
        begun: Begun::Perhaps,
    };
    let again = Command::Offer(Box::new(again));
    assert_eq!(
        session.handle_command(NOW, again.clone()),
        Err(CommandError::OfferedAlready)
    );
    session.handle_frame(NOW, have(0, &[], &[])).unwrap();
    session
        .handle_frame(NOW, Frame::Withdrawn { item: 0 })
        .unwrap();
    let out = drain(&mut session);
    assert_eq!(
        events(&out).last(),
        Some(&&Event::TakenBack {
            manifest: m.digest()
        })
    );
    assert_eq!(session.handle_command(NOW, again), Ok(()));
}

#[test]
fn a_chunk_that_arrived_damaged_goes_again() {
    let mut session = session();
    let m = manifest(1, 1, &[600, 600]);
    offer(&mut session, &m, Class::Routine, Begun::Never);
    flow(&mut session);
    session.handle_frame(NOW, have(0, &[], &[])).unwrap();
    session.handle_frame(NOW, held(0, 0, 100)).unwrap();
    session
        .handle_frame(NOW, Frame::Damaged { item: 0, chunk: 0 })
        .unwrap();
    let out = flow(&mut session);
    assert_eq!(data(&out), [(0, 0, 0, 600)]);
    let manifest = m.digest();
    assert!(events(&out).contains(&&Event::ChunkDamaged { manifest, chunk: 0 }));
    session.handle_frame(NOW, held(0, 0, 600)).unwrap();
    session.handle_frame(NOW, held(0, 1, 600)).unwrap();
    assert!(events(&flow(&mut session)).contains(&&Event::Delivered { manifest }));
}

#[test]
fn what_the_peer_has_signed_is_given_back_to_it_and_a_third_keys_goes_to_nobody() {
    let mut session = session();
    let theirs = manifest(2, 1, &[600, 600]);
    offer(&mut session, &theirs, Class::Bulk, Begun::Perhaps);
    flow(&mut session);
    session.handle_frame(NOW, have(0, &[0], &[])).unwrap();
    assert_eq!(data(&flow(&mut session)), [(0, 1, 0, 600)]);
    let foreign = Command::Offer(Box::new(Offer {
        manifest: manifest(3, 1, &[600]),
        rank: Rank::new(Class::Bulk, 0),
        begun: Begun::Perhaps,
    }));
    let refused = session.handle_command(NOW, foreign);
    assert_eq!(refused, Err(CommandError::NotOurs));
}
