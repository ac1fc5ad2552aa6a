use std::sync::Arc;

use identity::NodeKey;
use journal::Fact;

use super::Scrubbed;
use crate::archive::{Custody, RevisionState};
use crate::bench::{Bench, STUDY, file, rot, wait};
use crate::inbox::Standing;
use crate::inbox::tests::{change, sop, states};

const RECEIPT: u16 = 8;
const WANTED: u16 = 16;

async fn scrub(bench: &Bench) -> Scrubbed {
    let inbox = Arc::clone(&bench.rooms.inbox);
    let scrubbed = tokio::task::spawn_blocking(move || inbox.scrub().unwrap());
    scrubbed.await.unwrap()
}

#[tokio::test]
async fn a_scrub_finds_what_rotted_after_its_receipt_and_it_is_never_given_out() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    let whole = scrub(&bench).await;
    let chunks = revision.chunks.len() as u64;
    let total: usize = revision.chunks.iter().map(Vec::len).sum();
    assert_eq!((whole.chunks, whole.bytes), (chunks, total as u64));
    assert!(whole.damaged.is_empty());

    let bench = bench.reopen();
    rot(bench.folder.path(), "packed");
    let found = scrub(&bench).await;
    let [damaged] = &found.damaged[..] else {
        panic!("{found:?}")
    };
    assert_eq!(damaged.study_instance_uid.as_str(), STUDY);
    assert_eq!(damaged.unit, unit.id().to_string());
    assert_eq!(
        (damaged.lost, damaged.forgotten, damaged.unreadable),
        (1, 0, 0)
    );
    assert_eq!(states(&bench), [RevisionState::Accepted]);
    // Nor is it said to be here: nobody is to let go of the last copy for that.
    let custody = |bench: &Bench| {
        let summary = bench.rooms.archive.list().unwrap().remove(0);
        let figures = bench.rooms.archive.figures().unwrap();
        (summary.custody, figures.studies_at_hub)
    };
    assert_eq!(custody(&bench), (Custody::Crossing, 0));
    assert!(bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).is_err());
    let (_, standing) = bench
        .rooms
        .inbox
        .find(unit.id(), &revision.signed.digest())
        .unwrap()
        .unwrap();
    let Standing::Held(holding) = standing else {
        panic!("{standing:?}")
    };
    assert_eq!(holding.whole.iter().count(), revision.chunks.len() - 1);
    // Once is enough.
    assert_eq!(scrub(&bench).await.damaged[0].lost, 1);
    assert_eq!(bench.said(&unit, WANTED), 1);
    let Some(Fact::ChunksWanted(wanted)) = bench.facts(&unit).pop() else {
        panic!("the unit is asked for it")
    };
    assert_eq!(wanted.manifest, revision.signed.digest());
    let [lost] = wanted.chunks[..] else {
        panic!("{wanted:?}")
    };

    let lost = usize::try_from(lost).unwrap();
    bench.send_chunk(&revision, lost).await;
    let file = bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).unwrap();
    assert_eq!(file.bytes, bytes);
    assert!(scrub(&bench).await.damaged.is_empty());
    let Some(Fact::ChunksWanted(wanted)) = bench.facts(&unit).pop() else {
        panic!("the unit is told that it is here")
    };
    assert!(wanted.chunks.is_empty());
    assert_eq!(bench.said(&unit, RECEIPT), 1, "it was given before");
    assert_eq!(custody(&bench), (Custody::AtHub, 1));
    assert_eq!(states(&bench), [RevisionState::Accepted]);
}

#[tokio::test]
async fn a_scrub_has_what_rotted_without_a_receipt_sent_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let mut sender = bench.sender();
    let first = sender.revise(&unit, &[("1.2.3.4.1.1", &a)], false, |_| {});
    let second = sender.revise(&unit, &[("1.2.3.4.1.2", &b)], true, |_| {});
    bench.send(&unit, &second).await;
    wait(|| states(&bench) == [RevisionState::Decoded]);
    rot(bench.folder.path(), "packed");
    let found = scrub(&bench).await;
    assert_eq!((found.damaged[0].lost, found.damaged[0].forgotten), (0, 1));
    assert_eq!(states(&bench), [RevisionState::Arriving]);
    assert!(scrub(&bench).await.damaged.is_empty());

    // The revision before it gets its receipt; the damaged one waits for its chunk.
    bench.send(&unit, &first).await;
    let halfway = [RevisionState::Accepted, RevisionState::Arriving];
    wait(|| states(&bench) == halfway);
    let digest = second.signed.digest();
    let standing = bench
        .rooms
        .inbox
        .find(unit.id(), &digest)
        .unwrap()
        .unwrap()
        .1;
    assert!(matches!(standing, Standing::Held(_)), "{standing:?}");
    assert_eq!(bench.said(&unit, RECEIPT), 1);
    bench.send(&unit, &second).await;
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    let summary = bench.rooms.archive.list().unwrap().remove(0);
    assert_eq!(summary.bytes_held, summary.bytes_to_cross);
    assert_eq!(
        bench
            .rooms
            .archive
            .file(&sop("1.2.3.4.1.2"), 1)
            .unwrap()
            .bytes,
        b
    );
}

#[tokio::test]
async fn a_scrub_opens_data_keys() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
    let revision = bench.sender().revise(&unit, &files, true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    change(&bench, "UPDATE manifest SET envelope = zeroblob(103)").await;
    let found = scrub(&bench).await;
    assert_eq!((found.damaged[0].keys, found.damaged[0].lost), (1, 0));
    let unopened = bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1);
    let unopened = crate::chain(&unopened.unwrap_err());
    assert!(unopened.contains("cannot be opened"), "{unopened}");
}

#[tokio::test]
async fn no_receipt_is_given_for_a_chunk_that_was_forgotten_after_it_was_read() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let files: [(&str, &[u8]); 2] = [("1.2.3.4.1.1", &a), ("1.2.3.4.1.2", &b)];
    let revision = bench.sender().revise(&unit, &files, true, |_| {});
    let inbox = &bench.rooms.inbox;
    inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let last = revision.chunks.len() - 1;
    for number in 0..last {
        bench.send_chunk(&revision, number).await;
    }
    let readable = || bench.rooms.archive.list().unwrap()[0].instances_readable;
    wait(|| readable() == 1);
    rot(bench.folder.path(), "packed");
    assert_eq!(scrub(&bench).await.damaged[0].forgotten, 1);
    // What was read before it rotted is still in memory, and the group whole with this chunk.
    bench.send_chunk(&revision, last).await;
    wait(|| readable() == 2);
    assert_eq!(states(&bench), [RevisionState::Arriving]);
    assert_eq!(bench.said(&unit, RECEIPT), 0);
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

/// A study whose first revision was refused for its root, its image readable all the same.
async fn refused_at_first(bench: &mut Bench, sender: &mut crate::bench::Sender) -> NodeKey {
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let lie = |manifest: &mut study::Manifest| {
        manifest.root = study::StudyRoot::over(&std::collections::BTreeSet::new());
    };
    let first = sender.revise(&unit, &[("1.2.3.4.1.1", &bytes)], false, lie);
    bench.send(&unit, &first).await;
    wait(|| states(bench) == [RevisionState::Refused]);
    unit
}

#[tokio::test]
async fn no_receipt_is_given_over_what_was_refused_and_has_rotted() {
    let mut bench = Bench::new();
    let mut sender = bench.sender();
    let unit = refused_at_first(&mut bench, &mut sender).await;
    rot(bench.folder.path(), "packed");
    assert_eq!(scrub(&bench).await.damaged[0].forgotten, 1);
    let bytes = file(STUDY, "1.2.3.4.1.2", 2);
    let second = sender.revise(&unit, &[("1.2.3.4.1.2", &bytes)], true, |_| {});
    bench.send(&unit, &second).await;
    wait(|| states(&bench) == [RevisionState::Refused; 2]);
    assert_eq!(bench.said(&unit, RECEIPT), 0);
}

#[tokio::test]
async fn what_a_later_receipt_speaks_of_is_asked_for_though_it_came_with_a_refused_revision() {
    let mut bench = Bench::new();
    let mut sender = bench.sender();
    let unit = refused_at_first(&mut bench, &mut sender).await;
    let closing = sender.revise(&unit, &[], true, |_| {});
    bench.send(&unit, &closing).await;
    wait(|| states(&bench) == [RevisionState::Refused, RevisionState::Accepted]);
    rot(bench.folder.path(), "packed");
    let found = scrub(&bench).await;
    assert_eq!((found.damaged[0].lost, found.damaged[0].forgotten), (1, 0));
    assert_eq!(bench.said(&unit, WANTED), 1);
}

#[tokio::test]
async fn what_has_rotted_and_comes_again_in_another_revision_is_given_out() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let mut sender = bench.sender();
    let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
    let first = sender.revise(&unit, &files, true, |_| {});
    bench.send(&unit, &first).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    let mut bench = bench.reopen();
    rot(bench.folder.path(), "packed");
    assert_eq!(scrub(&bench).await.damaged[0].lost, 1);
    assert!(bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).is_err());
    let again = sender.revise(&unit, &files, true, |_| {});
    bench.send(&unit, &again).await;
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    bench = bench.reopen();
    let file = bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).unwrap();
    assert_eq!(file.bytes, bytes);
}
