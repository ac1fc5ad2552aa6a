//! Chunks that do not open, and files that come in pieces.

use super::*;

/// What the hub said of the revisions that it could not accept.
fn refusals(bench: &Bench, unit: &NodeKey) -> Vec<String> {
    let refused = |fact| {
        let Fact::ReceiptRefused(refused) = fact else {
            return None;
        };
        Some(refused.reason)
    };
    bench.facts(unit).into_iter().filter_map(refused).collect()
}

#[tokio::test]
async fn chunks_that_are_not_sealed_to_this_hub_are_refused_before_they_cross() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let (key, stranger) = (DataKey::generate(), StoreKey::generate());
    let envelopes = [
        None,
        Some(vec![0xa0; 16]),
        Some(envelope(&key, STUDY, stranger.public_key())),
        Some(envelope(&key, "9.9.9", &bench.store)),
    ];
    for envelope in envelopes {
        let bend = |manifest: &mut study::Manifest| manifest.envelope = envelope;
        let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
        let revision = bench.sender().revise(&unit, &files, true, bend);
        let taken = bench.rooms.inbox.take_manifest(unit.id(), revision.signed);
        let Standing::Refused(reason) = taken.await.unwrap() else {
            panic!("it was taken")
        };
        assert!(reason.contains("not sealed to this hub"), "{reason}");
    }
    assert!(bench.rooms.archive.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_group_that_does_not_open_is_refused_by_its_number() {
    type Change = fn(&mut Revision, &mut study::Manifest, &Bench);
    let changes: [(Change, &str); 3] = [
        (
            |_, manifest, bench| {
                manifest.envelope = Some(envelope(&DataKey::generate(), STUDY, &bench.store));
            },
            "group 0 cannot be opened: the body is sealed with data key",
        ),
        (
            |revision, _, _| *revision.chunks[0].last_mut().unwrap() ^= 1,
            "group 0 cannot be opened: the sealed body was altered",
        ),
        (
            |revision, _, _| revision.chunks[0] = revision.data_key.seal(b"no unit of the codec"),
            "group 0 cannot be decoded",
        ),
    ];
    for (change, words) in changes {
        let mut bench = Bench::new();
        let unit = bench.unit().await;
        let bytes = file(STUDY, "1.2.3.4.1.1", 1);
        let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
        let mut revision = bench.sender().revise(&unit, &files, true, |_| {});
        let mut manifest = revision.signed.manifest().clone();
        change(&mut revision, &mut manifest, &bench);
        manifest.groups[0].chunks[0] = reference(&revision.chunks[0]);
        revision.signed = SignedManifest::sign(&unit, manifest);
        bench.send(&unit, &revision).await;
        wait(|| states(&bench) == [RevisionState::Refused]);
        let said = refusals(&bench, &unit);
        assert!(said[0].starts_with(words), "{said:?}");
        assert!(bench.rooms.archive.file(&sop("1.2.3.4.1.1"), 1).is_err());
    }
}

#[tokio::test]
async fn a_file_in_pieces_is_given_back_whatever_the_order_of_its_pieces() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let mut sender = bench.sender();
    let packed = sender.revise(&unit, &[("1.2.3.4.1.1", &a)], false, |_| {});
    let pieces = sender.revise_as_file(&unit, ("1.2.3.4.1.2", &b), 12_345, |_| {});
    assert_eq!(pieces.chunks.len(), 4);
    bench.send(&unit, &packed).await;
    let taken = bench
        .rooms
        .inbox
        .take_manifest(unit.id(), pieces.signed.clone());
    taken.await.unwrap();
    for number in (1..pieces.chunks.len()).rev() {
        bench.send_chunk(&pieces, number).await;
    }
    assert!(bench.rooms.archive.file(&sop("1.2.3.4.1.2"), 1).is_err());
    bench.send_chunk(&pieces, 0).await;
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    let bench = bench.reopen();
    let get = |uid| bench.rooms.archive.file(&sop(uid), 1).unwrap().bytes;
    assert_eq!((get("1.2.3.4.1.2"), get("1.2.3.4.1.1")), (b, a));
}

#[tokio::test]
async fn a_file_in_pieces_has_the_length_that_was_said_and_is_a_dicom_file() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let whole = ("1.2.3.4.1.1", &bytes[..]);
    let lies: [fn(&mut study::Manifest); 2] = [
        |manifest| manifest.groups[0].bytes_original -= 1,
        |manifest| manifest.groups[0].bytes_original = 1 << 20,
    ];
    for lie in lies {
        let revision = bench.sender().revise_as_file(&unit, whole, 9999, lie);
        let taken = bench.rooms.inbox.take_manifest(unit.id(), revision.signed);
        let standing = taken.await.unwrap();
        assert!(
            matches!(&standing, Standing::Refused(reason) if reason.contains("pieces")),
            "{standing:?}"
        );
    }
    let mut revision = bench.sender().revise_as_file(&unit, whole, 1 << 20, |_| {});
    let mut manifest = revision.signed.manifest().clone();
    revision.chunks[0] = revision.data_key.seal(&vec![0; bytes.len()]);
    manifest.groups[0].chunks[0] = reference(&revision.chunks[0]);
    revision.signed = SignedManifest::sign(&unit, manifest);
    bench.send(&unit, &revision).await;
    wait(|| states(&bench) == [RevisionState::Refused]);
    let said = refusals(&bench, &unit);
    assert!(said[0].contains("is no DICOM file"), "{said:?}");
}
