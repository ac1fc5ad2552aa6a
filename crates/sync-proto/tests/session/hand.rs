//! A session whose peer, disk and transport are played by hand.

use journal::{ClockQuality, Head, JournalId, NodeKey, SignedManifest};
use study::{ChunkRef, Digest, Group, GroupForm, Manifest, Priority, StudyRoot, StudyUid};
use sync_proto::{
    Begun, Class, Command, Config, Event, Frame, JournalHeld, Lane, Millis, Offer, Output, Partial,
    Progress, Rank, Session,
};

pub(crate) const NOW: Millis = Millis(0);

pub(crate) fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

pub(crate) fn manifest(signer: u8, revision: u32, chunks: &[u32]) -> SignedManifest {
    let chunks = chunks.iter().enumerate().map(|(i, bytes)| ChunkRef {
        digest: Digest::of(&[u8::try_from(i).unwrap()]),
        bytes: *bytes,
    });
    let group = Group {
        chunks: chunks.collect(),
        instances: 1,
        bytes_original: 1,
        form: GroupForm::Codec,
    };
    SignedManifest::sign(
        &key(signer),
        Manifest {
            version: 1,
            study: StudyUid::parse("1.2.3").unwrap(),
            revision,
            root: StudyRoot::from_digest(Digest::of(b"root")),
            instances: 1,
            previous: None,
            closed: true,
            priority: Priority::Routine,
            received_at_ms: 0,
            groups: vec![group],
            envelope: None,
        },
    )
}

/// A session of node 1 with node 2.
pub(crate) fn session() -> Session {
    let mut session = quiet();
    session.handle_frame(NOW, hello(3, &[])).unwrap();
    drain(&mut session);
    session
}

/// The same before the peer's greeting.
pub(crate) fn quiet() -> Session {
    quiet_with(Head::EMPTY, Head::EMPTY)
}

/// The same, with something in its own journal and in the peer's.
pub(crate) fn quiet_with(mine: Head, theirs: Head) -> Session {
    let own = |n| JournalId::own(key(n).id());
    session_of(1, 2, &[(own(1), mine), (own(2), theirs)])
}

/// A session of one node with another, with these journals, before the peer's greeting.
pub(crate) fn session_of(me: u8, peer: u8, journals: &[(JournalId, Head)]) -> Session {
    let mut session = Session::new(Config {
        me: key(me).id(),
        peer: key(peer).id(),
        software: "test 1".to_owned(),
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        fleet_version: 3,
        journals: journals.to_vec(),
        data_bytes: 1000,
    });
    assert!(matches!(
        &drain(&mut session)[..],
        [Output::Send { lane: Lane::Control, frame: Frame::Hello { protocol: 1, journals: said, .. } }]
            if said.len() == journals.len()
    ));
    session
}

pub(crate) fn hello(fleet_version: u64, journals: &[(JournalId, Head)]) -> Frame {
    Frame::Hello {
        protocol: 1,
        software: "peer 1".to_owned(),
        fleet_version,
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        journals: journals
            .iter()
            .map(|(journal, head)| JournalHeld {
                journal: *journal,
                seq: head.seq,
                digest: head.digest,
            })
            .collect(),
    }
}

pub(crate) fn drain(session: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

/// Offers a manifest.
pub(crate) fn offer(session: &mut Session, manifest: &SignedManifest, class: Class, begun: Begun) {
    let offer = Offer {
        manifest: manifest.clone(),
        rank: Rank::new(class, 0),
        begun,
    };
    session
        .handle_command(NOW, Command::Offer(Box::new(offer)))
        .unwrap();
}

/// Drains with a transport that takes every item frame at once.
pub(crate) fn flow(session: &mut Session) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::Send { lane, .. } = &output {
            session.handle_sent(NOW, *lane);
        } else if let Output::SendData { item, .. } = &output {
            session.handle_sent(NOW, Lane::Item(*item));
        }
        all.push(output);
    }
    all
}

/// The data ordered: (item, chunk, offset, len).
pub(crate) fn data(outputs: &[Output]) -> Vec<(u32, u32, u32, u32)> {
    let mut all = Vec::new();
    for output in outputs {
        if let Output::SendData {
            item,
            chunk,
            offset,
            len,
            ..
        } = output
        {
            all.push((*item, *chunk, *offset, *len));
        }
    }
    all
}

pub(crate) fn sent(outputs: &[Output]) -> Vec<&Frame> {
    let mut all = Vec::new();
    for output in outputs {
        if let Output::Send { frame, .. } = output {
            all.push(frame);
        }
    }
    all
}

pub(crate) fn events(outputs: &[Output]) -> Vec<&Event> {
    let mut all = Vec::new();
    for output in outputs {
        if let Output::Event(event) = output {
            all.push(event);
        }
    }
    all
}

pub(crate) fn have(item: u32, whole: &[u32], partial: &[(u32, u32)]) -> Frame {
    Frame::Have {
        item,
        whole: whole.iter().copied().collect(),
        partial: partial
            .iter()
            .map(|&(chunk, upto)| Partial { chunk, upto })
            .collect(),
    }
}

pub(crate) fn held(item: u32, chunk: u32, upto: u32) -> Frame {
    Frame::Held {
        progress: vec![Progress { item, chunk, upto }],
    }
}

pub(crate) fn bytes_frame(item: u32, chunk: u32, offset: u32, len: usize) -> Frame {
    Frame::Data {
        item,
        chunk,
        offset,
        bytes: vec![0; len].into(),
    }
}

pub(crate) fn offer_frame(item: u32, manifest: &SignedManifest) -> Frame {
    let manifest = manifest.bytes().to_vec().into();
    Frame::Offer {
        item,
        class: Class::Routine,
        manifest,
    }
}
