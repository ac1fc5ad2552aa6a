//! The bytes of protocol 1, frame by frame: they never change.

use journal::{ClockQuality, JournalId, NodeId};
use study::Digest;
use sync_proto::{ByeCode, Class, Frame, JournalHeld, Partial, Progress, RefusalCode};

fn of_the_session() -> Vec<Frame> {
    let node = |n| NodeId::from_bytes([n; 32]);
    let journal = JournalId {
        author: node(1),
        stream: node(2),
    };
    let text = "why".to_owned();
    let bytes = || vec![1, 2, 3].into();
    vec![
        Frame::Hello {
            protocol: 1,
            software: "box 1".to_owned(),
            fleet_version: 300,
            wall_ms: 1_700_000_000_000,
            clock: ClockQuality::Kept,
            journals: vec![
                JournalHeld {
                    journal,
                    seq: 7,
                    digest: Some(Digest::from_bytes([4; 32])),
                },
                JournalHeld {
                    journal,
                    seq: 0,
                    digest: None,
                },
            ],
        },
        Frame::Bye {
            code: ByeCode::Done,
            text,
        },
        Frame::Fleet {
            version: 4,
            document: bytes(),
        },
        Frame::FleetHeld { version: 4 },
        Frame::Records {
            journal,
            from_seq: 8,
            records: vec![bytes(), bytes()],
        },
        Frame::RecordsHeld { journal, seq: 9 },
    ]
}

fn of_items() -> Vec<Frame> {
    let class = Class::Urgent;
    let text = "why".to_owned();
    let bytes = || vec![1, 2, 3].into();
    vec![
        Frame::Offer {
            item: 0,
            class,
            manifest: bytes(),
        },
        Frame::Resume {
            item: 1,
            class,
            manifest: Digest::from_bytes([3; 32]),
        },
        Frame::Data {
            item: 0,
            chunk: 2,
            offset: 32_768,
            bytes: bytes(),
        },
        Frame::Class { item: 0, class },
        Frame::Withdraw { item: 1 },
        Frame::Want { item: 1 },
        Frame::Have {
            item: 0,
            whole: [0, 1, 2, 5].into_iter().collect(),
            partial: vec![Partial {
                chunk: 3,
                upto: 1000,
            }],
        },
        Frame::Complete { item: 1 },
        Frame::Held {
            progress: vec![Progress {
                item: 0,
                chunk: 2,
                upto: 32_771,
            }],
        },
        Frame::Damaged { item: 0, chunk: 2 },
        Frame::Refused {
            item: 0,
            code: RefusalCode::NoRoom,
            text,
        },
        Frame::Withdrawn { item: 1 },
        Frame::Contradiction {
            journal: JournalId::own(NodeId::from_bytes([1; 32])),
            record: bytes(),
        },
    ]
}

fn frames() -> Vec<Frame> {
    [of_the_session(), of_items()].concat()
}

#[test]
fn every_frame_has_the_bytes_it_always_had() {
    let golden: Vec<&str> = GOLDEN.trim().lines().collect();
    let found: Vec<String> = frames().iter().map(|frame| hex(&frame.encode())).collect();
    assert_eq!(found, golden, "\n{}", found.join("\n"));
    for frame in frames() {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const GOLDEN: &str = "
87000165626f78203119012c1b0000018bcfe5680001828382582001010101010101010101010101010101010101010101010101010101010101015820020202020202020202020202020202020202020202020202020202020202020207582004040404040404040404040404040404040404040404040404040404040404048282582001010101010101010101010101010101010101010101010101010101010101015820020202020202020202020202020202020202020202020202020202020202020200
83010063776879
83020443010203
820304
840482582001010101010101010101010101010101010101010101010101010101010101015820020202020202020202020202020202020202020202020202020202020202020208824301020343010203
830582582001010101010101010101010101010101010101010101010101010101010101015820020202020202020202020202020202020202020202020202020202020202020209
8406000243010203
8407010258200303030303030303030303030303030303030303030303030303030303030303
8508000219800043010203
83090002
820a01
820b01
840c0084000305018182031903e8
820d01
820e81830002198003
830f0002
8410000163776879
821101
831282582001010101010101010101010101010101010101010101010101010101010101015820010101010101010101010101010101010101010101010101010101010101010143010203
";
