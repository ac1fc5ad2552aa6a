//! Any bytes and any frames: errors, never a panic.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use journal::{ClockQuality, Head, JournalId, NodeId, NodeKey};
use proptest::prelude::*;
use study::{Digest, GroupForm, Priority};
use sync_proto::{
    ByeCode, Class, Config, Frame, Holding, JournalHeld, Lane, Loaded, Millis, Output, Partial,
    Progress, RefusalCode, Session, Stored,
};

fn node(n: u8) -> NodeId {
    NodeKey::from_seed(&[n; 32]).id()
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0_u32..4, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn journal() -> impl Strategy<Value = JournalId> {
    (1_u8..4, 1_u8..4).prop_map(|(a, s)| JournalId {
        author: node(a),
        stream: node(s),
    })
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(vec![0; 600]),
        Just(vec![0; 40_000])
    ]
}

fn partials() -> impl Strategy<Value = Vec<Partial>> {
    prop::collection::vec((small(), small()), 0..4).prop_map(|all| {
        all.into_iter()
            .map(|(chunk, upto)| Partial { chunk, upto })
            .collect()
    })
}

fn held(journal: JournalId, seq: u64) -> JournalHeld {
    JournalHeld {
        journal,
        seq,
        digest: (seq > 0).then(|| Digest::of(&seq.to_be_bytes())),
    }
}

/// Frames with small numbers, so that they hit each other's state.
fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![1 => of_the_session(), 3 => of_a_sender(), 3 => of_a_receiver()]
}

fn of_the_session() -> impl Strategy<Value = Frame> {
    prop_oneof![
        prop::collection::vec((journal(), 0_u64..5), 0..3).prop_map(|heads| Frame::Hello {
            protocol: 1,
            software: String::new(),
            fleet_version: 9,
            wall_ms: 0,
            clock: ClockQuality::Unknown,
            journals: heads
                .into_iter()
                .map(|(journal, seq)| held(journal, seq))
                .collect(),
        }),
        (any::<u64>(), bytes()).prop_map(|(version, b)| Frame::Fleet {
            version,
            document: b.into()
        }),
        any::<u64>().prop_map(|version| Frame::FleetHeld { version }),
        (journal(), bytes()).prop_map(|(journal, b)| Frame::Contradiction {
            journal,
            record: b.into()
        }),
        (
            journal(),
            any::<u64>(),
            prop::collection::vec(bytes(), 0..3)
        )
            .prop_map(|(journal, from_seq, all)| Frame::Records {
                journal,
                from_seq,
                records: all.into_iter().map(Into::into).collect(),
            }),
        (journal(), any::<u64>()).prop_map(|(journal, seq)| Frame::RecordsHeld { journal, seq }),
    ]
}

fn of_a_sender() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (small(), class(), prop::sample::select(vec![0_usize, 1, 2])).prop_map(
            |(item, class, which)| Frame::Offer {
                item,
                class,
                manifest: fixtures::manifest(2, which).bytes().to_vec().into(),
            }
        ),
        (small(), class(), bytes()).prop_map(|(item, class, b)| Frame::Offer {
            item,
            class,
            manifest: b.into()
        }),
        (small(), class(), 0_usize..4).prop_map(|(item, class, which)| Frame::Resume {
            item,
            class,
            manifest: fixtures::manifest(2, which).digest(),
        }),
        (
            small(),
            small(),
            prop_oneof![Just(0_u32), Just(600), any::<u32>()],
            bytes()
        )
            .prop_map(|(item, chunk, offset, b)| Frame::Data {
                item,
                chunk,
                offset,
                bytes: b.into()
            }),
        (small(), class()).prop_map(|(item, class)| Frame::Class { item, class }),
        small().prop_map(|item| Frame::Withdraw { item }),
    ]
}

fn of_a_receiver() -> impl Strategy<Value = Frame> {
    prop_oneof![
        small().prop_map(|item| Frame::Want { item }),
        (small(), prop::collection::vec(0_u32..5, 0..4), partials()).prop_map(
            |(item, whole, partial)| Frame::Have {
                item,
                whole: whole.into_iter().collect(),
                partial,
            }
        ),
        small().prop_map(|item| Frame::Complete { item }),
        prop::collection::vec((small(), small(), small()), 0..3).prop_map(|all| Frame::Held {
            progress: all
                .into_iter()
                .map(|(item, chunk, upto)| Progress { item, chunk, upto })
                .collect(),
        }),
        (small(), small()).prop_map(|(item, chunk)| Frame::Damaged { item, chunk }),
        small().prop_map(|item| Frame::Refused {
            item,
            code: RefusalCode::NoRoom,
            text: String::new(),
        }),
        small().prop_map(|item| Frame::Withdrawn { item }),
        Just(Frame::Bye {
            code: ByeCode::Done,
            text: String::new()
        }),
    ]
}

/// Does the edge's part: a disk that holds nothing and stores everything, mostly.
fn play_edge(session: &mut Session, now: Millis, damaged: bool) {
    while let Some(output) = session.poll_output() {
        if let Output::Send { lane, .. } = &output {
            session.handle_sent(now, *lane);
        } else if let Output::SendData { item, .. } = &output {
            session.handle_sent(now, Lane::Item(*item));
        } else if let Output::LoadRecords {
            journal, from_seq, ..
        } = output
        {
            let records = vec![vec![1]];
            session.handle_loaded(
                now,
                Loaded::Records {
                    journal,
                    from_seq,
                    records,
                },
            );
        } else if let Output::LoadFleet = output {
            session.handle_loaded(
                now,
                Loaded::Fleet {
                    version: 3,
                    document: vec![1],
                },
            );
        } else if let Some(stored) = store(output, damaged) {
            let outcome = session.handle_stored(now, stored);
            assert!(outcome.is_ok() || session.ended());
        }
    }
}

fn store(output: Output, damaged: bool) -> Option<Stored> {
    let holding = Holding::default();
    Some(match output {
        Output::StoreManifest { item, .. } => Stored::Manifest { item, holding },
        Output::FindManifest { item, manifest, .. } => {
            let mut known = (0..3).map(|which| fixtures::manifest(2, which));
            match known.find(|known| damaged && known.digest() == manifest) {
                Some(manifest) => Stored::Found {
                    item,
                    manifest: Box::new(manifest),
                    holding,
                },
                None => Stored::Unknown { item },
            }
        }
        Output::StoreData {
            item,
            chunk,
            last: true,
            ..
        } if damaged => Stored::Damaged { item, chunk },
        Output::StoreData {
            item,
            chunk,
            offset,
            bytes,
            ..
        } => {
            let upto = offset + u32::try_from(bytes.len()).unwrap();
            Stored::Data { item, chunk, upto }
        }
        Output::StoreRecords { journal, records } => {
            let seq = records.last()?.head.seq;
            Stored::Records { journal, seq }
        }
        Output::StoreFleet { .. } => Stored::FleetRefused,
        Output::Send { .. }
        | Output::SendData { .. }
        | Output::LoadRecords { .. }
        | Output::LoadFleet
        | Output::OpenLane { .. }
        | Output::SetClass { .. }
        | Output::CloseLane { .. }
        | Output::Event(_) => return None,
    })
}

mod fixtures {
    use std::sync::OnceLock;

    use journal::SignedManifest;
    use study::{ChunkRef, Group, Manifest, StudyRoot, StudyUid};

    use super::*;

    /// One of four manifests of a node, the first without chunks.
    pub(super) fn manifest(signer: u8, which: usize) -> SignedManifest {
        static ALL: OnceLock<Vec<SignedManifest>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            (1..3)
                .flat_map(|n| (0..4).map(move |w| make(n, w)))
                .collect()
        });
        all[(usize::from(signer) - 1) * 4 + which].clone()
    }

    fn make(signer: u8, which: u32) -> SignedManifest {
        let chunks = (0..which).map(|n| ChunkRef {
            digest: Digest::of(&n.to_be_bytes()),
            bytes: [600, 5, 1200][n as usize % 3],
        });
        let group = Group {
            chunks: chunks.collect(),
            instances: 1,
            bytes_original: 1,
            form: GroupForm::Codec,
        };
        let manifest = Manifest {
            version: 1,
            study: StudyUid::parse("1.2").unwrap(),
            revision: which + 1,
            root: StudyRoot::from_digest(Digest::of(b"")),
            instances: 1,
            previous: None,
            closed: true,
            priority: Priority::Routine,
            received_at_ms: 0,
            groups: vec![group],
            envelope: None,
        };
        SignedManifest::sign(&NodeKey::from_seed(&[signer; 32]), manifest)
    }
}

fn session() -> Session {
    let (me, peer) = (node(1), node(2));
    let mut session = Session::new(Config {
        me,
        peer,
        software: String::new(),
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        fleet_version: 3,
        journals: vec![
            (
                JournalId::own(me),
                Head {
                    seq: 3,
                    ..Head::EMPTY
                },
            ),
            (JournalId::own(peer), Head::EMPTY),
        ],
        data_bytes: 512,
    });
    for (which, begun) in [
        (1, sync_proto::Begun::Never),
        (2, sync_proto::Begun::Perhaps),
        (
            3,
            sync_proto::Begun::Known {
                sent: sync_proto::Runs::full(1),
            },
        ),
    ] {
        let offer = sync_proto::Offer {
            manifest: fixtures::manifest(1, which),
            rank: sync_proto::Rank::new(Class::Routine, 0),
            begun,
        };
        session
            .handle_command(Millis(0), sync_proto::Command::Offer(Box::new(offer)))
            .unwrap();
    }
    session
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_an_error(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        number in 0_u8..20,
    ) {
        let _ = Frame::decode(&bytes);
        // More often past the first step: an array that begins with a frame's number.
        bytes.splice(0..0, [0x82 + number % 6, number]);
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn a_frame_has_one_encoding_and_no_shorter_or_longer_one(frame in frame()) {
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
        prop_assert!(Frame::decode(&bytes[..bytes.len() - 1]).is_err());
        prop_assert!(Frame::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn any_frames_in_any_order_end_in_a_fault_at_worst(
        frames in prop::collection::vec((frame(), any::<bool>()), 0..60),
        greets in any::<bool>(),
    ) {
        let mut session = session();
        play_edge(&mut session, Millis(0), false);
        if greets {
            let hello = Frame::Hello {
                protocol: 1,
                software: String::new(),
                fleet_version: 2,
                wall_ms: 0,
                clock: ClockQuality::Kept,
                journals: vec![held(JournalId::own(node(1)), 1)],
            };
            session.handle_frame(Millis(0), hello).unwrap();
        }
        for (step, (frame, damaged)) in (0..).zip(frames) {
            let now = Millis(step * 70);
            let fault = session.handle_frame(now, frame).is_err();
            prop_assert!(!fault || session.ended());
            play_edge(&mut session, now, damaged);
            session.handle_timeout(now);
        }
        let _ = session.unfinished();
    }
}
