//! Incoming manifests: what is asked of the disk, and what is said when.

use journal::SignedManifest;
use study::Manifest;
use sync_proto::{
    Class, Event, Frame, Holding, Millis, Output, Partial, PeerFault, RefusalCode, Runs, Stored,
    UNSTORED_BYTES_MAX,
};

use crate::hand::{
    NOW, bytes_frame, drain, events, have, held, key, manifest, offer_frame, sent, session,
};

#[test]
fn nothing_is_said_before_the_manifest_is_synced() {
    let mut session = session();
    let m = manifest(2, 1, &[600, 600]);
    session.handle_frame(NOW, offer_frame(0, &m)).unwrap();
    session
        .handle_frame(NOW, bytes_frame(0, 0, 0, 600))
        .unwrap();
    let out = drain(&mut session);
    assert!(
        matches!(&out[..], [Output::StoreManifest { item: 0, .. }]),
        "{out:?}"
    );
    session
        .handle_stored(
            NOW,
            Stored::Manifest {
                item: 0,
                holding: Holding::default(),
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert_eq!(sent(&out), [&have(0, &[], &[])]);
    assert!(matches!(
        out[1],
        Output::StoreData {
            chunk: 0,
            offset: 0,
            last: true,
            ..
        }
    ));
    session.handle_timeout(Millis(10_000));
    assert_eq!(drain(&mut session), [], "the disk has not answered");
}

#[test]
fn progress_is_announced_after_the_sync_and_never_before() {
    let mut session = session();
    let m = manifest(2, 1, &[600, 600]);
    session.handle_frame(NOW, offer_frame(0, &m)).unwrap();
    session
        .handle_stored(
            NOW,
            Stored::Manifest {
                item: 0,
                holding: Holding::default(),
            },
        )
        .unwrap();
    session
        .handle_frame(NOW, bytes_frame(0, 0, 0, 600))
        .unwrap();
    drain(&mut session);
    session
        .handle_stored(
            NOW,
            Stored::Data {
                item: 0,
                chunk: 0,
                upto: 550,
            },
        )
        .unwrap();
    assert_eq!(
        drain(&mut session),
        [],
        "progress inside a chunk waits for company"
    );
    session.handle_timeout(session.poll_timeout().unwrap());
    assert_eq!(sent(&drain(&mut session)), [&held(0, 0, 550)]);
    session
        .handle_stored(
            NOW,
            Stored::Data {
                item: 0,
                chunk: 0,
                upto: 600,
            },
        )
        .unwrap();
    assert_eq!(
        sent(&drain(&mut session)),
        [&held(0, 0, 600)],
        "a whole chunk does not wait"
    );
    session
        .handle_frame(NOW, bytes_frame(0, 1, 0, 600))
        .unwrap();
    session
        .handle_stored(
            NOW,
            Stored::Data {
                item: 0,
                chunk: 1,
                upto: 600,
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert_eq!(
        events(&out),
        [&Event::Received {
            manifest: m.digest()
        }]
    );
    assert_eq!(sent(&out), [&held(0, 1, 600)]);
}

#[test]
fn a_named_manifest_that_is_unknown_is_asked_for() {
    let mut session = session();
    let m = manifest(2, 1, &[600]);
    let class = Class::Routine;
    session
        .handle_frame(
            NOW,
            Frame::Resume {
                item: 4,
                class,
                manifest: m.digest(),
            },
        )
        .unwrap();
    session
        .handle_frame(NOW, bytes_frame(4, 0, 0, 600))
        .unwrap();
    drain(&mut session);
    session
        .handle_stored(NOW, Stored::Unknown { item: 4 })
        .unwrap();
    assert_eq!(sent(&drain(&mut session)), [&Frame::Want { item: 4 }]);
    session.handle_frame(NOW, offer_frame(4, &m)).unwrap();
    assert!(matches!(
        &drain(&mut session)[..],
        [Output::StoreManifest { item: 4, .. }]
    ));
}

#[test]
fn bytes_that_are_here_already_are_not_stored_again() {
    let mut session = session();
    session
        .handle_frame(NOW, offer_frame(0, &manifest(2, 1, &[600, 800])))
        .unwrap();
    let partial = vec![Partial {
        chunk: 1,
        upto: 300,
    }];
    let holding = Holding {
        whole: Runs::full(1),
        partial,
    };
    session
        .handle_stored(NOW, Stored::Manifest { item: 0, holding })
        .unwrap();
    drain(&mut session);
    session
        .handle_frame(NOW, bytes_frame(0, 0, 0, 600))
        .unwrap();
    session
        .handle_frame(NOW, bytes_frame(0, 1, 0, 800))
        .unwrap();
    let out = drain(&mut session);
    assert!(
        matches!(&out[..], [Output::StoreData { chunk: 1, offset: 300, bytes, .. }] if bytes.len() == 500)
    );
    assert_eq!(session.counters().repeated_bytes, 900);
}

#[test]
fn data_is_not_wanted_while_the_disk_is_behind() {
    let mut session = session();
    session
        .handle_frame(NOW, offer_frame(0, &manifest(2, 1, &[1 << 20, 1 << 20])))
        .unwrap();
    session
        .handle_stored(
            NOW,
            Stored::Manifest {
                item: 0,
                holding: Holding::default(),
            },
        )
        .unwrap();
    let mut offset = 0;
    while session.wants_data() {
        session
            .handle_frame(NOW, bytes_frame(0, 0, offset, 32 << 10))
            .unwrap();
        offset += 32 << 10;
    }
    assert_eq!(offset as usize, UNSTORED_BYTES_MAX);
    session
        .handle_stored(
            NOW,
            Stored::Data {
                item: 0,
                chunk: 0,
                upto: 32 << 10,
            },
        )
        .unwrap();
    assert!(session.wants_data());
}

#[test]
fn a_refusal_concerns_one_item_and_later_data_of_it_is_ignored() {
    let mut session = session();
    session
        .handle_frame(NOW, offer_frame(0, &manifest(2, 1, &[600, 600])))
        .unwrap();
    drain(&mut session);
    let (item, code, text) = (0, RefusalCode::NoRoom, "x".repeat(300));
    session
        .handle_stored(NOW, Stored::Refused { item, code, text })
        .unwrap();
    let out = drain(&mut session);
    assert!(matches!(sent(&out)[..], [Frame::Refused { text, .. }] if text.len() == 200));
    session
        .handle_frame(NOW, bytes_frame(0, 0, 0, 600))
        .unwrap();
    assert_eq!(drain(&mut session), []);
    assert!(session.is_idle() && session.wants_data());
}

#[test]
fn a_manifest_of_a_later_version_is_refused_without_ending_the_session() {
    let mut session = session();
    let later = manifest(2, 1, &[600]).manifest().clone();
    let later = SignedManifest::sign(
        &key(2),
        Manifest {
            version: 2,
            ..later
        },
    );
    session.handle_frame(NOW, offer_frame(0, &later)).unwrap();
    let out = drain(&mut session);
    assert!(matches!(
        sent(&out)[..],
        [Frame::Refused {
            code: RefusalCode::NotSupported,
            ..
        }]
    ));
}

#[test]
fn damage_is_sent_again_and_too_much_of_it_ends_the_session() {
    let mut session = session();
    session
        .handle_frame(NOW, offer_frame(0, &manifest(2, 1, &[600])))
        .unwrap();
    session
        .handle_stored(
            NOW,
            Stored::Manifest {
                item: 0,
                holding: Holding::default(),
            },
        )
        .unwrap();
    for round in 0..9 {
        drain(&mut session);
        session
            .handle_frame(NOW, bytes_frame(0, 0, 0, 600))
            .unwrap();
        let outcome = session.handle_stored(NOW, Stored::Damaged { item: 0, chunk: 0 });
        assert!(sent(&drain(&mut session)).contains(&&Frame::Damaged { item: 0, chunk: 0 }));
        assert_eq!(
            outcome,
            if round < 8 {
                Ok(())
            } else {
                Err(PeerFault::TooMuchDamage)
            }
        );
    }
    assert!(session.ended());
}

#[test]
fn our_own_manifest_is_taken_back_for_what_the_disk_lacks_of_it() {
    let mut session = session();
    let ours = manifest(1, 1, &[600, 600]);
    let named = Frame::Resume {
        item: 0,
        class: Class::Bulk,
        manifest: ours.digest(),
    };
    session.handle_frame(NOW, named).unwrap();
    drain(&mut session);
    let holding = Holding {
        whole: [0].into_iter().collect(),
        partial: Vec::new(),
    };
    let found = Stored::Found {
        item: 0,
        manifest: Box::new(ours),
        holding,
    };
    session.handle_stored(NOW, found).unwrap();
    assert_eq!(sent(&drain(&mut session)), [&have(0, &[0], &[])]);
    session
        .handle_frame(NOW, bytes_frame(0, 1, 0, 600))
        .unwrap();
    assert!(matches!(
        drain(&mut session)[..],
        [Output::StoreData {
            chunk: 1,
            last: true,
            ..
        }]
    ));
}
