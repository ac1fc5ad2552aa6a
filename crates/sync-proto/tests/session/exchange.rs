//! Journals, the fleet document, goodbyes.

use journal::{Chain, Fact, Head, JournalId, Moment, Opened};
use sync_proto::{ByeCode, Command, CommandError, Event, Frame, Loaded, Output, PeerFault, Stored};

use crate::checkpoints::{journal_of, loaded};
use crate::hand::{NOW, bytes_frame, drain, hello, key, quiet, quiet_with, sent, session};

fn record(chain: &mut Chain, signer: u8) -> Vec<u8> {
    let moment = Moment::default();
    let fact = Fact::Opened(Opened {
        software: "x".to_owned(),
    });
    chain.append(&key(signer), moment, &fact).unwrap().bytes
}

#[test]
fn records_cross_from_what_the_peer_holds() {
    let mine = JournalId::own(key(1).id());
    let records = journal_of(1, 5);
    let mut session = quiet_with(records[4].1, Head::EMPTY);
    session
        .handle_frame(NOW, hello(3, &[(mine, records[1].1)]))
        .unwrap();
    drain(&mut session);
    session.handle_loaded(NOW, loaded(mine, 2, &records[1]));
    let out = drain(&mut session);
    let Some(Output::LoadRecords {
        journal,
        from_seq: 3,
        ..
    }) = out.last()
    else {
        panic!("{out:?}");
    };
    assert_eq!(*journal, mine);
    let records = vec![vec![1], vec![2], vec![3]];
    session.handle_loaded(
        NOW,
        Loaded::Records {
            journal: mine,
            from_seq: 3,
            records,
        },
    );
    assert!(matches!(
        sent(&drain(&mut session))[..],
        [Frame::Records { from_seq: 3, .. }]
    ));
    assert!(!session.is_idle());
    session
        .handle_frame(
            NOW,
            Frame::RecordsHeld {
                journal: mine,
                seq: 5,
            },
        )
        .unwrap();
    assert!(session.is_idle());
    let claim = Frame::RecordsHeld {
        journal: mine,
        seq: 6,
    };
    assert_eq!(
        session.handle_frame(NOW, claim),
        Err(PeerFault::FalseRecords { seq: 6 })
    );
}

#[test]
fn records_are_acknowledged_after_the_sync() {
    let theirs = JournalId::own(key(2).id());
    let mut session = session();
    let mut chain = Chain::resume(theirs, Head::EMPTY);
    let records = vec![record(&mut chain, 2).into(), record(&mut chain, 2).into()];
    session
        .handle_frame(
            NOW,
            Frame::Records {
                journal: theirs,
                from_seq: 1,
                records,
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert!(matches!(&out[..], [Output::StoreRecords { records, .. }] if records.len() == 2));
    session
        .handle_stored(
            NOW,
            Stored::Records {
                journal: theirs,
                seq: 2,
            },
        )
        .unwrap();
    assert_eq!(
        sent(&drain(&mut session)),
        [&Frame::RecordsHeld {
            journal: theirs,
            seq: 2
        }]
    );
    assert!(session.is_idle());
}

#[test]
fn records_that_came_by_another_road_are_skipped() {
    let theirs = JournalId::own(key(2).id());
    let mut session = session();
    let mut chain = Chain::resume(theirs, Head::EMPTY);
    let first = record(&mut chain, 2);
    let head = chain.head();
    let second = record(&mut chain, 2);
    session
        .handle_command(
            NOW,
            Command::Records {
                journal: theirs,
                head,
            },
        )
        .unwrap();
    let records = vec![first.clone().into(), second.into()];
    session
        .handle_frame(
            NOW,
            Frame::Records {
                journal: theirs,
                from_seq: 1,
                records,
            },
        )
        .unwrap();
    let out = drain(&mut session);
    assert!(matches!(&out[..], [Output::StoreRecords { records, .. }] if records[0].head.seq == 2));
    session
        .handle_stored(
            NOW,
            Stored::Records {
                journal: theirs,
                seq: 2,
            },
        )
        .unwrap();
    drain(&mut session);
    let records = vec![first.into()];
    session
        .handle_frame(
            NOW,
            Frame::Records {
                journal: theirs,
                from_seq: 1,
                records,
            },
        )
        .unwrap();
    assert_eq!(
        sent(&drain(&mut session)),
        [&Frame::RecordsHeld {
            journal: theirs,
            seq: 2
        }]
    );
}

#[test]
fn a_newer_fleet_document_is_pushed_once_and_a_refused_one_is_not_repeated() {
    let mut session = quiet();
    session.handle_frame(NOW, hello(2, &[])).unwrap();
    assert!(drain(&mut session).contains(&Output::LoadFleet));
    session.handle_loaded(
        NOW,
        Loaded::Fleet {
            version: 3,
            document: vec![9],
        },
    );
    assert!(matches!(
        sent(&drain(&mut session))[..],
        [Frame::Fleet { version: 3, .. }]
    ));
    session
        .handle_frame(NOW, Frame::FleetHeld { version: 2 })
        .unwrap();
    assert_eq!(
        drain(&mut session),
        [Output::Event(Event::FleetNotTaken { version: 2 })]
    );
    session
        .handle_command(NOW, Command::Fleet { version: 4 })
        .unwrap();
    assert_eq!(
        drain(&mut session),
        [Output::LoadFleet],
        "a newer one is another matter"
    );
}

#[test]
fn goodbyes_end_a_session_both_ways() {
    let mut ours = session();
    let (code, text) = (ByeCode::Done, "window closed".to_owned());
    ours.handle_command(
        NOW,
        Command::Close {
            code,
            text: text.clone(),
        },
    )
    .unwrap();
    let out = drain(&mut ours);
    assert_eq!(
        sent(&out),
        [&Frame::Bye {
            code,
            text: text.clone()
        }]
    );
    let mut theirs = session();
    theirs
        .handle_frame(
            NOW,
            Frame::Bye {
                code,
                text: text.clone(),
            },
        )
        .unwrap();
    assert_eq!(
        drain(&mut theirs),
        [Output::Event(Event::Bye { code, text })]
    );
    for mut session in [ours, theirs] {
        assert!(session.ended());
        assert_eq!(session.handle_frame(NOW, bytes_frame(9, 9, 9, 9)), Ok(()));
        let command = Command::Fleet { version: 9 };
        assert_eq!(
            session.handle_command(NOW, command),
            Err(CommandError::Ended)
        );
    }
}
