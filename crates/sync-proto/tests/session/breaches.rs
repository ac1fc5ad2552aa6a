//! Peers that break the protocol.

use journal::JournalId;
use study::Digest;
use sync_proto::{Begun, ByeCode, Class, Frame, Holding, Output, PeerFault, Stored};

use crate::hand::{
    NOW, bytes_frame, drain, have, held, hello, key, manifest, offer, offer_frame, session,
};

#[test]
fn every_breach_has_its_name_and_ends_the_session() {
    let m = manifest(2, 1, &[600, 2000]);
    let open = || vec![offer_frame(0, &m)];
    let mut forged = m.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let forged = Frame::Offer {
        item: 0,
        class: Class::Stat,
        manifest: forged.into(),
    };
    let class = Class::Routine;
    let resume = |item, n: u32| Frame::Resume {
        item,
        class,
        manifest: Digest::of(&n.to_be_bytes()),
    };
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("greeted twice", vec![hello(0, &[])]),
        ("not accepted", vec![forged]),
        ("a third key", vec![offer_frame(0, &manifest(3, 1, &[600]))]),
        ("a second time", [open(), open()].concat()),
        ("a second time", vec![resume(0, 1), resume(1, 1)]),
        ("more than 128", (0..129).map(|n| resume(n, n)).collect()),
        ("never opened", vec![bytes_frame(9, 0, 0, 600)]),
        ("never opened", vec![Frame::Withdraw { item: 9 }]),
        ("never opened", vec![have(0, &[], &[])]),
        ("beyond its limits", vec![bytes_frame(0, 0, 0, 0)]),
        (
            "beyond its limits",
            vec![Frame::Held {
                progress: Vec::new(),
            }],
        ),
        ("answers nothing", vec![Frame::FleetHeld { version: 1 }]),
        (
            "not exchanged with it",
            vec![Frame::Records {
                journal: JournalId::own(key(1).id()),
                from_seq: 1,
                records: vec![],
            }],
        ),
        (
            "do not continue",
            vec![Frame::Records {
                journal: JournalId::own(key(2).id()),
                from_seq: 1,
                records: vec![vec![0].into()],
            }],
        ),
    ];
    for (words, frames) in cases {
        let mut session = session();
        let fault = frames
            .into_iter()
            .find_map(|f| session.handle_frame(NOW, f).err())
            .unwrap();
        assert!(fault.to_string().contains(words), "{words}: {fault}");
        assert!(session.ended());
        let out = drain(&mut session);
        assert!(matches!(
            out.last(),
            Some(Output::Send {
                frame: Frame::Bye {
                    code: ByeCode::PeerFault,
                    ..
                },
                ..
            })
        ));
    }
}

#[test]
fn data_outside_of_its_manifest_is_a_breach() {
    let cases = [
        (bytes_frame(0, 2, 0, 600), "outside of chunk 2"),
        (bytes_frame(0, 0, 1, 600), "outside of chunk 0"),
        (bytes_frame(0, 1, 600, 600), "left out bytes"),
        (bytes_frame(0, 1, 0, 100), "too few bytes"),
    ];
    for (frame, words) in cases {
        let mut session = session();
        session
            .handle_frame(NOW, offer_frame(0, &manifest(2, 1, &[600, 2000])))
            .unwrap();
        let holding = Holding::default();
        session
            .handle_stored(NOW, Stored::Manifest { item: 0, holding })
            .unwrap();
        let fault = session.handle_frame(NOW, frame).unwrap_err();
        assert!(fault.to_string().contains(words), "{words}: {fault}");
    }
}

#[test]
fn claims_about_what_was_never_sent_are_breaches() {
    let cases = [
        (vec![held(0, 0, 10)], "out of turn"),
        (vec![have(0, &[], &[]), held(0, 0, 3001)], "which cannot be"),
        (
            vec![have(0, &[], &[]), held(0, 0, 10), held(0, 0, 9)],
            "which cannot be",
        ),
        (vec![have(0, &[], &[]), have(0, &[], &[])], "out of turn"),
        (vec![have(0, &[7], &[])], "outside of chunk"),
        (vec![have(0, &[], &[(0, 5000)])], "outside of chunk"),
        (vec![have(0, &[], &[(1, 5), (0, 5)])], "outside of chunk"),
        (vec![Frame::Want { item: 0 }], "out of turn"),
        (
            vec![have(0, &[], &[]), Frame::Damaged { item: 0, chunk: 0 }],
            "out of turn",
        ),
        (vec![Frame::Withdrawn { item: 0 }], "out of turn"),
    ];
    for (frames, words) in cases {
        let mut session = session();
        offer(
            &mut session,
            &manifest(1, 1, &[5000, 5000]),
            Class::Routine,
            Begun::Never,
        );
        let first = session.poll_output();
        assert_eq!(
            first,
            Some(Output::OpenLane {
                item: 0,
                class: Class::Routine
            })
        );
        let fault = frames
            .into_iter()
            .find_map(|f| session.handle_frame(NOW, f).err());
        let fault = fault.unwrap_or_else(|| panic!("no fault, {words} expected"));
        assert!(fault.to_string().contains(words), "{words}: {fault}");
    }
}

#[test]
fn a_peer_that_never_reads_is_left() {
    let mut session = session();
    let fault = (0..10_000_u32).find_map(|n| {
        let manifest = Digest::of(&n.to_be_bytes());
        let opened = Frame::Resume {
            item: n,
            class: Class::Bulk,
            manifest,
        };
        let opened = session.handle_frame(NOW, opened);
        opened
            .and_then(|()| session.handle_frame(NOW, Frame::Withdraw { item: n }))
            .err()
    });
    assert_eq!(fault, Some(PeerFault::Deaf));
}
