use identity::NodeKey;
use journal::{Fact, SignedManifest};
use sealing::{DataKey, StoreKey};
use settings::Bytes;
use study::{SopInstanceUid, StudyRoot, StudyUid};
use sync_proto::Partial;
use sync_quic::Kept;

use super::{Pending, Standing};
use crate::archive::{Custody, RevisionState};
use crate::bench::{Bench, Revision, STUDY, envelope, file, reference, rot, wait};
use crate::config::Config;
use crate::db::ManifestId;
use crate::ledger::LedgerError;

const RECEIPT: u16 = 8;
const REFUSAL: u16 = 9;

pub(super) fn sop(text: &str) -> SopInstanceUid {
    SopInstanceUid::parse(text).unwrap()
}

pub(super) fn states(bench: &Bench) -> Vec<RevisionState> {
    let study = StudyUid::parse(STUDY).unwrap();
    let detail = bench.rooms.archive.show(&study).unwrap().remove(0);
    detail
        .revisions
        .iter()
        .map(|revision| revision.state)
        .collect()
}

#[tokio::test]
async fn an_instance_is_readable_while_the_rest_is_on_its_way() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let files: [(&str, &[u8]); 2] = [("1.2.3.4.1.1", &a), ("1.2.3.4.1.2", &b)];
    let revision = bench.sender().revise(&unit, &files, true, |_| {});
    let last = revision.chunks.len() - 1;
    bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    for number in 0..last {
        bench.send_chunk(&revision, number).await;
    }
    wait(|| bench.rooms.archive.list().unwrap()[0].instances_readable == 1);
    assert_eq!(
        bench
            .rooms
            .archive
            .file(&sop("1.2.3.4.1.1"), 1)
            .unwrap()
            .bytes,
        a
    );
    let summary = bench.rooms.archive.list().unwrap().remove(0);
    assert!(summary.readable && summary.instances == 2);
    assert_eq!(summary.custody, Custody::Crossing);
    assert_eq!(bench.said(&unit, RECEIPT), 0);

    bench.send_chunk(&revision, last).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    assert_eq!(
        bench
            .rooms
            .archive
            .file(&sop("1.2.3.4.1.2"), 1)
            .unwrap()
            .bytes,
        b
    );
    let summary = bench.rooms.archive.list().unwrap().remove(0);
    assert_eq!(
        (summary.custody, summary.percent_at_hub),
        (Custody::AtHub, 100)
    );
    assert_eq!(bench.said(&unit, RECEIPT), 1);
}

#[tokio::test]
async fn the_same_manifest_again_is_complete_and_gets_no_second_receipt() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    let again = bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    assert_eq!(again, Standing::Complete);
    assert_eq!(bench.said(&unit, RECEIPT), 1);
}

#[tokio::test]
async fn a_revision_that_only_closes_is_judged_at_once() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let mut sender = bench.sender();
    let open = sender.revise(&unit, &[("1.2.3.4.1.1", &bytes)], false, |_| {});
    let closing = sender.revise(&unit, &[], true, |_| {});
    bench.send(&unit, &open).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].custody,
        Custody::Crossing
    );
    bench.send(&unit, &closing).await;
    assert_eq!(states(&bench), [RevisionState::Accepted; 2]);
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].custody,
        Custody::AtHub
    );
}

#[tokio::test]
async fn a_later_revision_waits_for_the_one_before() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let mut sender = bench.sender();
    let first = sender.revise(&unit, &[("1.2.3.4.1.1", &a)], false, |_| {});
    let second = sender.revise(&unit, &[("1.2.3.4.1.2", &b)], true, |_| {});
    bench.send(&unit, &second).await;
    wait(|| states(&bench) == [RevisionState::Decoded]);
    assert_eq!(bench.said(&unit, RECEIPT), 0);
    bench.send(&unit, &first).await;
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    assert_eq!(bench.said(&unit, RECEIPT), 2);
}

#[tokio::test]
async fn a_root_that_is_not_so_is_refused_and_the_images_stay_readable() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let lie = |manifest: &mut study::Manifest| {
        manifest.root = StudyRoot::over(&std::collections::BTreeSet::new());
    };
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, lie);
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Refused]);
    assert_eq!(
        (bench.said(&unit, RECEIPT), bench.said(&unit, REFUSAL)),
        (0, 1)
    );
    assert_eq!(
        bench
            .rooms
            .archive
            .file(&sop("1.2.3.4.1.1"), 1)
            .unwrap()
            .bytes,
        bytes
    );
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].custody,
        Custody::Crossing
    );
}

#[tokio::test]
async fn an_instance_of_another_study_is_refused() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file("9.9.9", "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Refused]);
    assert!(bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).is_err());
}

#[tokio::test]
async fn other_bytes_under_a_known_uid_are_kept_beside_the_first() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.1", 2));
    let mut sender = bench.sender();
    let first = sender.revise(&unit, &[("1.2.3.4.1.1", &a)], false, |_| {});
    let second = sender.revise(&unit, &[("1.2.3.4.1.1", &b)], true, |_| {});
    bench.send(&unit, &first).await;
    bench.send(&unit, &second).await;
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    let get = |copy| bench.rooms.archive.file(&sop("1.2.3.4.1.1"), copy).unwrap();
    assert_eq!((get(1).bytes, get(2).bytes, get(1).copies), (a, b, 2));
    let detail = bench
        .rooms
        .archive
        .show(&StudyUid::parse(STUDY).unwrap())
        .unwrap()
        .remove(0);
    assert_eq!(detail.summary.conflicts, 1);
    assert!(
        detail
            .instance_list
            .iter()
            .all(|instance| instance.conflict)
    );
}

#[tokio::test]
async fn what_was_durable_of_a_chunk_survives_a_restart_and_is_said_so() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let last = revision.chunks.len() - 1;
    let half = revision.chunks[last].len() / 2;
    bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let third = half / 2;
    for (from, to) in [(0, third), (third, half)] {
        let arrival = revision.arrival(last, from, to);
        assert_eq!(
            bench.rooms.inbox.take_data(vec![arrival]).await.unwrap(),
            [Kept::Durable]
        );
    }
    let bench = bench.reopen();
    let (_, standing) = bench
        .rooms
        .inbox
        .find(unit.id(), &revision.signed.digest())
        .unwrap()
        .unwrap();
    let Standing::Held(holding) = standing else {
        panic!("{standing:?}")
    };
    let (chunk, upto) = (u32::try_from(last).unwrap(), u32::try_from(half).unwrap());
    assert_eq!(holding.partial, [Partial { chunk, upto }]);
    assert!(holding.whole.is_empty());
    let rest = revision.arrival(last, half, revision.chunks[last].len());
    assert_eq!(
        bench.rooms.inbox.take_data(vec![rest]).await.unwrap(),
        [Kept::Durable]
    );
    for number in 0..last {
        bench.send_chunk(&revision, number).await;
    }
    wait(|| states(&bench) == [RevisionState::Accepted]);
    assert_eq!(
        bench
            .rooms
            .archive
            .file(&sop("1.2.3.4.1.1"), 1)
            .unwrap()
            .bytes,
        bytes
    );
}

#[tokio::test]
async fn a_chunk_with_a_flipped_bit_is_forgotten_and_can_come_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let half = revision.chunks[0].len() / 2;
    let mut first = revision.arrival(0, 0, half);
    first.bytes[0] ^= 1;
    let rest = revision.arrival(0, half, revision.chunks[0].len());
    bench.rooms.inbox.take_data(vec![first]).await.unwrap();
    assert_eq!(
        bench.rooms.inbox.take_data(vec![rest]).await.unwrap(),
        [Kept::Damaged]
    );
    let (_, standing) = bench
        .rooms
        .inbox
        .find(unit.id(), &revision.signed.digest())
        .unwrap()
        .unwrap();
    assert_eq!(standing, Standing::Held(sync_proto::Holding::default()));
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

#[tokio::test]
async fn a_manifest_of_one_unit_does_not_exist_for_another() {
    let mut bench = Bench::new();
    let (unit, other) = (bench.unit().await, bench.unit().await);
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench.send(&unit, &revision).await;
    assert!(
        bench
            .rooms
            .inbox
            .find(other.id(), &revision.signed.digest())
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn another_content_of_a_known_revision_is_refused() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let first = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &a)], true, |_| {});
    let second = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.2", &b)], true, |_| {});
    bench.send(&unit, &first).await;
    let standing = bench
        .rooms
        .inbox
        .take_manifest(unit.id(), second.signed)
        .await
        .unwrap();
    assert!(matches!(standing, Standing::Refused(_)), "{standing:?}");
}

#[tokio::test]
async fn pieces_of_several_chunks_may_come_between_each_other() {
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
    let half = |number: usize| revision.chunks[number].len() / 2;
    let mut arrivals = Vec::new();
    for number in 0..revision.chunks.len() {
        arrivals.push(revision.arrival(number, 0, half(number)));
    }
    for number in 0..revision.chunks.len() {
        arrivals.push(revision.arrival(number, half(number), revision.chunks[number].len()));
    }
    let count = arrivals.len();
    arrivals[count - 1].bytes[0] ^= 1;
    let kept = inbox.take_data(arrivals).await.unwrap();
    assert!(kept[..count - 1].iter().all(|kept| *kept == Kept::Durable));
    assert_eq!(kept[count - 1], Kept::Damaged);
    bench.send_chunk(&revision, revision.chunks.len() - 1).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

#[tokio::test]
async fn below_the_reserve_nothing_is_taken_in_and_nothing_breaks() {
    let mut config = Config::default();
    config.inbox.reserve = Bytes::new(u64::MAX >> 1);
    let mut bench = Bench::with(&config);
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let refused = bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await;
    assert!(refused.unwrap_err().is_full());
    let bench = bench.reopen();
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

pub(super) async fn change(bench: &Bench, statement: &'static str) {
    let job = move |work: &mut store::Work<'_>| -> Result<(), LedgerError> {
        Ok(work.sql().execute_batch(statement)?)
    };
    bench.rooms.writer.run(job).await.unwrap();
}

#[tokio::test]
async fn a_part_that_rots_here_is_sent_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let last = revision.chunks.len() - 1;
    let half = revision.chunks[last].len() / 2;
    let inbox = &bench.rooms.inbox;
    inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let first = revision.arrival(last, 0, half);
    inbox.take_data(vec![first]).await.unwrap();
    rot(bench.folder.path(), "spool");
    let rest = revision.arrival(last, half, revision.chunks[last].len());
    assert_eq!(inbox.take_data(vec![rest]).await.unwrap(), [Kept::Damaged]);
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

#[tokio::test]
async fn a_chunk_that_rots_before_it_is_decoded_is_taken_in_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let inbox = &bench.rooms.inbox;
    inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let last = revision.chunks.len() - 1;
    bench.send_chunk(&revision, last).await;
    rot(bench.folder.path(), "packed");
    for number in 0..last {
        bench.send_chunk(&revision, number).await;
    }
    let whole = sync_proto::Runs::from_iter(0..u32::try_from(last).unwrap());
    let partial = Vec::new();
    let lacking = Standing::Held(sync_proto::Holding { whole, partial });
    let digest = revision.signed.digest();
    wait(|| inbox.find(unit.id(), &digest).unwrap().unwrap().1 == lacking);
    assert_eq!(bench.said(&unit, RECEIPT), 0);
    bench.send_chunk(&revision, last).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    let summary = bench.rooms.archive.list().unwrap().remove(0);
    assert_eq!(summary.bytes_held, summary.bytes_to_cross);
}

#[tokio::test]
async fn a_whole_manifest_without_an_answer_gets_one_when_it_is_offered_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    // As if nothing had come of the first attempt.
    let undo = "UPDATE manifest SET state = 0; UPDATE chunk_group SET decoded = 0";
    change(&bench, undo).await;
    let (digest, inbox) = (revision.signed.digest(), &bench.rooms.inbox);
    let (_, standing) = inbox.find(unit.id(), &digest).unwrap().unwrap();
    assert_eq!(standing, Standing::Complete);
    wait(|| states(&bench) == [RevisionState::Accepted]);
    change(&bench, undo).await;
    let again = inbox.take_manifest(unit.id(), revision.signed.clone());
    assert_eq!(again.await.unwrap(), Standing::Complete);
    wait(|| states(&bench) == [RevisionState::Accepted]);
}

#[tokio::test]
async fn bytes_that_came_before_do_not_shorten_what_is_durable() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(&unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let inbox = &bench.rooms.inbox;
    inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let last = revision.chunks.len() - 1;
    let half = revision.chunks[last].len() / 2;
    for upto in [half, half / 2] {
        let arrival = revision.arrival(last, 0, upto);
        inbox.take_data(vec![arrival]).await.unwrap();
    }
    let digest = revision.signed.digest();
    let (_, standing) = inbox.find(unit.id(), &digest).unwrap().unwrap();
    let (chunk, upto) = (u32::try_from(last).unwrap(), u32::try_from(half).unwrap());
    let Standing::Held(holding) = standing else {
        panic!("{standing:?}")
    };
    assert_eq!(holding.partial, [Partial { chunk, upto }]);
}

#[tokio::test]
async fn absurd_counts_are_refused_before_anything_is_kept() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bends: [fn(&mut study::Manifest); 3] = [
        |manifest| manifest.revision = 0,
        |manifest| manifest.revision = u32::MAX,
        |manifest| manifest.instances = u32::MAX,
    ];
    for bend in bends {
        let revision = bench.sender().revise(&unit, &[], true, bend);
        let taken = bench.rooms.inbox.take_manifest(unit.id(), revision.signed);
        let standing = taken.await.unwrap();
        assert!(matches!(standing, Standing::Refused(_)), "{standing:?}");
    }
    assert!(bench.rooms.archive.list().unwrap().is_empty());
}

#[tokio::test]
async fn journals_do_not_fill_the_disk_either() {
    let mut config = Config::default();
    config.inbox.reserve = Bytes::new(u64::MAX >> 1);
    let mut bench = Bench::with(&config);
    let unit = bench.unit().await;
    let refused = bench.rooms.inbox.take_records(unit.id(), Vec::new()).await;
    assert!(refused.unwrap_err().is_full());
}

#[test]
fn no_group_waits_for_one_that_always_has_more() {
    let pending = Pending::default();
    let (busy, patient) = ((ManifestId(1), 0), (ManifestId(2), 0));
    pending.add(vec![busy, patient, busy]);
    assert_eq!(pending.next(), Some(busy));
    pending.add(vec![busy]);
    assert_eq!(pending.next(), Some(patient));
    assert_eq!(pending.next(), Some(busy));
    pending.stop();
    assert_eq!(pending.next(), None);
}

#[tokio::test]
async fn nothing_but_the_instance_itself_is_given_out() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let files: [(&str, &[u8]); 2] = [("1.2.3.4.1.1", &a), ("1.2.3.4.1.2", &b)];
    let revision = bench.sender().revise(&unit, &files, true, |_| {});
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Accepted]);
    let get = || bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1);
    change(&bench, "UPDATE instance SET file = 1 - file").await;
    let other = crate::chain(&get().unwrap_err());
    assert!(other.contains("not instance 1.2.3.4.1.1"), "{other}");
    change(&bench, "UPDATE instance SET file = 1 - file").await;
    assert_eq!(get().unwrap().bytes, a);

    let bench = bench.reopen();
    rot(bench.folder.path(), "packed");
    let damaged = bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1);
    let damaged = damaged.and(bench.rooms.archive.file(&sop("1.2.3.4.1.2"), 1));
    let damaged = crate::chain(&damaged.unwrap_err());
    assert!(damaged.contains("damaged"), "{damaged}");
}

mod sealed;
