use identity::NodeKey;
use journal::{Chain, ChunksWanted, Fact, Head, JournalId, Moment, Signed};
use study::Digest;
use sync_proto::Command;

use super::GivingError;
use crate::archive::RevisionState;
use crate::bench::{Bench, Revision, STUDY, file, rot, wait};
use crate::inbox::tests::states;

fn wanted(manifest: Digest, chunks: &[u32]) -> Fact {
    Fact::ChunksWanted(ChunksWanted {
        manifest,
        chunks: chunks.to_vec(),
    })
}

/// What a unit says, as the next record of its journal.
fn say(unit: &NodeKey, head: Head, fact: &Fact) -> Signed {
    let mut chain = Chain::resume(JournalId::own(unit.id()), head);
    chain.append(unit, Moment::default(), fact).unwrap()
}

/// The manifests that a unit is offered back.
fn offers(bench: &Bench, unit: &NodeKey) -> Vec<Digest> {
    let commands = bench.rooms.inbox.offers_back(unit.id());
    let digests = commands.iter().map(|command| {
        let Command::Offer(offer) = command else {
            panic!("{command:?}")
        };
        offer.manifest.digest()
    });
    digests.collect()
}

async fn at_hub(bench: &Bench, unit: &NodeKey) -> Revision {
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
    let revision = bench.sender().revise(unit, &files, true, |_| {});
    bench.send(unit, &revision).await;
    wait(|| states(bench) == [RevisionState::Accepted]);
    revision
}

#[tokio::test]
async fn a_unit_is_offered_what_it_wants_back_until_it_wants_no_more() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let revision = at_hub(&bench, &unit).await;
    let manifest = revision.signed.digest();
    assert!(offers(&bench, &unit).is_empty());

    let inbox = &bench.rooms.inbox;
    let asks = say(&unit, Head::EMPTY, &wanted(manifest, &[0]));
    inbox
        .take_records(unit.id(), vec![asks.clone()])
        .await
        .unwrap();
    assert_eq!(offers(&bench, &unit), [manifest]);
    for (number, chunk) in (0..).zip(&revision.chunks) {
        let read = inbox.chunk_of(unit.id(), &manifest, number).unwrap();
        assert_eq!(read, *chunk);
    }

    let bench = bench.reopen();
    assert_eq!(offers(&bench, &unit), [manifest]);
    let has_all = say(&unit, asks.head, &wanted(manifest, &[]));
    let inbox = &bench.rooms.inbox;
    inbox.take_records(unit.id(), vec![has_all]).await.unwrap();
    assert!(offers(&bench, &unit).is_empty());
}

#[tokio::test]
async fn nobody_is_given_what_another_unit_has_sent() {
    let mut bench = Bench::new();
    let (unit, other) = (bench.unit().await, bench.unit().await);
    let manifest = at_hub(&bench, &unit).await.signed.digest();
    let asks = say(&other, Head::EMPTY, &wanted(manifest, &[0]));
    let inbox = &bench.rooms.inbox;
    inbox.take_records(other.id(), vec![asks]).await.unwrap();
    assert!(offers(&bench, &other).is_empty());
    assert!(offers(&bench, &unit).is_empty());
    let refused = inbox.chunk_of(other.id(), &manifest, 0);
    assert!(matches!(refused, Err(GivingError::NotItsOwn)));
}

#[tokio::test]
async fn what_has_rotted_here_as_well_is_not_given_back() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let revision = at_hub(&bench, &unit).await;
    rot(bench.folder.path(), "packed");
    let read: Vec<_> = (0..)
        .zip(&revision.chunks)
        .map(|(number, _)| {
            let manifest = revision.signed.digest();
            bench.rooms.inbox.chunk_of(unit.id(), &manifest, number)
        })
        .collect();
    assert!(read.iter().any(Result::is_err));
}
