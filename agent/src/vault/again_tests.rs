//! Packing anew what waits: smaller, to the byte, and never once it may have left.

use std::collections::BTreeSet;
use std::path::Path;

use codec::{Source, Tier, Unit, encode_group};
use journal::{ConsentBasis, Fact, JournalId, SignedManifest, read_signed};
use sealing::Pin;
use store::rusqlite::Connection;
use study::{Digest, GroupForm, StudyUid};

use super::tests::{World, arrival, due, hold, later, pack, segment_paths, sop};
use super::*;

const STUDY: &str = "1.2";
const INDEX: [&str; 3] = ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"];

/// Words that zstd makes the smaller the longer it searches.
fn words(number: usize) -> String {
    (0..4000)
        .map(|n| format!("{} ", (n * n + number) % 97 * 31))
        .collect()
}

/// A study of two revisions, packed as fast as can be.
async fn packed(world: &World) -> (Vault, Vec<(String, Vec<u8>)>) {
    let vault = world.open().await;
    let mut files = Vec::new();
    for number in 1..=6 {
        let name = format!("1.2.{number}");
        let (_, file) = hold(&vault, STUDY, &name, &words(number)).await;
        files.push((name, file));
    }
    let (first, second) = (pack(&vault, later()).await, pack(&vault, later()).await);
    assert!(!first.closed && second.closed);
    (vault, files)
}

async fn consent(vault: &Vault) {
    let study = StudyUid::parse(STUDY).unwrap();
    let given = vault.record_consent(study, ConsentBasis::Spoken, None);
    given.await.unwrap();
}

fn pack_again(vault: &Vault) -> Vec<Repacked> {
    let waiting = vault.waiting(Tier::Archive, &BTreeSet::new()).unwrap();
    let repack = |waiting: Waiting| {
        let files = vault.waiting_files(&waiting).unwrap();
        let names: Vec<String> = waiting.names().map(str::to_owned).collect();
        let named = names.iter().zip(&files);
        let sources: Vec<Source<'_>> = named.map(|(name, bytes)| Source { name, bytes }).collect();
        let units = encode_group(&sources, Tier::Archive).unwrap();
        let units = units.into_iter().map(Unit::into_bytes).collect();
        vault.seal_again(waiting, Tier::Archive, units).unwrap()
    };
    waiting.into_iter().map(repack).collect()
}

/// The manifests of the study, each the next one after the one before.
fn chain(vault: &Vault) -> Vec<SignedManifest> {
    let mut offerable = vault.offerable().unwrap();
    offerable.sort_by_key(|o| o.revision);
    let open = |o: &Offerable| SignedManifest::open(&vault.manifest(&o.manifest_digest).unwrap());
    let chain: Vec<SignedManifest> = offerable.iter().map(|o| open(o).unwrap()).collect();
    let mut previous = None;
    for (number, signed) in (1..).zip(&chain) {
        assert_eq!(signed.manifest().revision, number);
        assert_eq!(signed.manifest().previous, previous);
        previous = Some(signed.digest());
    }
    chain
}

fn bytes_to_cross(vault: &Vault) -> u64 {
    vault.studies().unwrap()[0].bytes_to_cross
}

fn all_are_there(vault: &Vault, files: &[(String, Vec<u8>)]) {
    for (name, file) in files {
        assert_eq!(vault.file(&sop(name), 1).unwrap().bytes, *file, "{name}");
    }
}

/// What our own journal says was offered.
fn offered(vault: &Vault) -> Vec<Digest> {
    let journal = JournalId::own(vault.unit());
    let records = vault.records(&journal, 1, usize::MAX).unwrap();
    let facts = records
        .iter()
        .map(|bytes| read_signed(bytes).unwrap().record.fact().unwrap());
    facts
        .filter_map(|fact| {
            let Fact::Offered(said) = fact else {
                return None;
            };
            Some(said.manifest)
        })
        .collect()
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_packed_smaller_and_the_old_is_let_go() {
    let world = World::new();
    let (vault, files) = packed(&world).await;
    consent(&vault).await;
    let (before, old) = (bytes_to_cross(&vault), chain(&vault));
    assert!(offered(&vault).is_empty());

    let saved = *vault.replace(pack_again(&vault)).await.unwrap().get();
    assert!(saved > 0);
    assert_eq!(bytes_to_cross(&vault), before - saved);
    assert_eq!(segment_paths(world.folder.path(), "packed").len(), 0);
    let new = chain(&vault);
    for (old, new) in old.iter().zip(&new) {
        assert_ne!(old.digest(), new.digest());
        assert_eq!(old.manifest().root, new.manifest().root);
        assert_eq!(old.manifest().envelope, new.manifest().envelope);
        assert_eq!(old.manifest().closed, new.manifest().closed);
    }
    all_are_there(&vault, &files);
    // It is done with, and what was never offered is not found by its name.
    assert!(
        vault
            .waiting(Tier::Archive, &BTreeSet::new())
            .unwrap()
            .is_empty()
    );
    let gone = vault.offer(vec![old[0].digest()]).await.unwrap();
    assert!(gone.get().is_empty());

    let digests: Vec<Digest> = new.iter().map(SignedManifest::digest).collect();
    let given = vault.offer(digests.clone()).await.unwrap().into_inner();
    assert_eq!(given, new);
    assert_eq!(offered(&vault), digests);
    drop(vault);
    all_are_there(&world.open().await, &files);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_left_stays_as_it_is() {
    let world = World::new();
    let (vault, files) = packed(&world).await;
    let repacked = pack_again(&vault);
    // Without consent nothing is given out, and so nothing is settled.
    let all = |vault: &Vault| vault.waiting(Tier::Archive, &BTreeSet::new()).unwrap();
    let newest = all(&vault)[0].manifest;
    assert!(vault.offer(vec![newest]).await.unwrap().get().is_empty());
    assert_eq!(all(&vault).len(), 2);
    consent(&vault).await;
    let old = chain(&vault);
    vault.offer(vec![newest]).await.unwrap();

    let refused = vault.replace(repacked).await;
    assert!(matches!(refused, Err(VaultError::Overtaken(_))));
    // What comes before it is named by it.
    assert!(all(&vault).is_empty());
    assert_eq!(chain(&vault), old);
    all_are_there(&vault, &files);
    drop(vault);
    let vault = world.open().await;
    assert!(all(&vault).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_made_anew_knows_what_was_replaced() {
    let world = World::new();
    let (vault, files) = packed(&world).await;
    consent(&vault).await;
    vault.replace(pack_again(&vault)).await.unwrap();
    let new = chain(&vault);
    drop(vault);
    Vault::put_index_aside(world.folder.path()).unwrap();
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!((absorbed.revisions, absorbed.incomplete), (2, 0));
    assert_eq!(chain(&vault), new);
    all_are_there(&vault, &files);
    // What such an index does not know is whether any of it has left.
    assert!(
        vault
            .waiting(Tier::Archive, &BTreeSet::new())
            .unwrap()
            .is_empty()
    );
}

/// A power cut before the commit: the index is that from before, the segments have more or less of
/// what the job wrote.
#[tokio::test(flavor = "multi_thread")]
async fn cut_short_it_is_the_old_or_the_new_and_both_are_whole() {
    for cut in ["nothing", "the last record", "the units"] {
        let world = World::new();
        let (vault, files) = packed(&world).await;
        consent(&vault).await;
        let old = chain(&vault);
        drop(vault);
        let aside = tempfile::tempdir().unwrap();
        let folder = world.folder.path();
        copy(folder, aside.path(), &INDEX);
        let packed_segments = segment_paths(folder, "packed");
        for segment in &packed_segments {
            std::fs::copy(segment, aside.path().join(segment.file_name().unwrap())).unwrap();
        }

        let vault = world.open().await;
        vault.replace(pack_again(&vault)).await.unwrap();
        let new = chain(&vault);
        drop(vault);
        for name in INDEX {
            drop(std::fs::remove_file(folder.join(name)));
        }
        copy(aside.path(), folder, &INDEX);
        for segment in &packed_segments {
            std::fs::copy(aside.path().join(segment.file_name().unwrap()), segment).unwrap();
        }
        let torn = match cut {
            "the last record" => Some("journal"),
            "the units" => Some("again"),
            _ => None,
        };
        if let Some(family) = torn {
            let mut paths = segment_paths(folder, family);
            paths.sort();
            let last = std::fs::OpenOptions::new()
                .write(true)
                .open(paths.last().unwrap());
            let last = last.unwrap();
            last.set_len(last.metadata().unwrap().len() - 1).unwrap();
        }

        let expected = if torn.is_some() { &old } else { &new };
        for _ in 0..2 {
            let vault = world.open().await;
            assert_eq!(chain(&vault), *expected, "without {cut}");
            all_are_there(&vault, &files);
        }
        // From the segments alone it is the same.
        Vault::put_index_aside(folder).unwrap();
        let (vault, _) = world.rebuild().await;
        assert_eq!(chain(&vault), *expected, "rebuilt without {cut}");
        all_are_there(&vault, &files);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_locked_box_could_not_pack_is_packed_when_it_is_unlocked() {
    let world = World::new();
    let vault = world.open().await;
    let pin = Pin::new("a long enough pin").unwrap();
    vault.keys().set_pin(None, &pin).unwrap();
    let mut files = Vec::new();
    for number in 1..=3 {
        let arrival = arrival(STUDY, &format!("1.2.{number}"), &words(number));
        files.push((format!("1.2.{number}"), arrival.file.clone()));
        vault.hold(arrival).await.unwrap();
    }
    drop(vault);

    let vault = world.open().await;
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    vault
        .adopt(vault.as_taken_in(batch).unwrap())
        .await
        .unwrap();
    consent(&vault).await;
    let waiting = vault.waiting(Tier::Archive, &BTreeSet::new()).unwrap();
    assert!(matches!(
        vault.waiting_files(&waiting[0]),
        Err(FetchError::Locked(_))
    ));

    vault.keys().unlock(&pin).unwrap();
    assert_eq!(chain(&vault)[0].manifest().groups.len(), 3);
    vault.replace(pack_again(&vault)).await.unwrap();
    let manifest = chain(&vault).remove(0);
    assert_eq!(manifest.manifest().groups.len(), 1);
    assert_eq!(manifest.manifest().groups[0].form, GroupForm::Codec);
    assert_eq!(segment_paths(world.folder.path(), "intake").len(), 0);
    all_are_there(&vault, &files);
}

/// An index from before revisions could wait: what may leave counts as having left.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_older_index_only_what_has_no_consent_waits() {
    let world = World::new();
    let (vault, _) = packed(&world).await;
    hold(&vault, "1.3", "1.3.1", &words(1)).await;
    pack(&vault, later()).await;
    consent(&vault).await;
    drop(vault);
    let sql = Connection::open(world.folder.path().join("index.sqlite")).unwrap();
    sql.execute_batch(
        "DROP INDEX revision_unoffered; ALTER TABLE revision DROP COLUMN offered;
         ALTER TABLE pack_group DROP COLUMN tier;
         ALTER TABLE study DROP COLUMN called; DROP INDEX pack_group_waited_for;
         ALTER TABLE pack_group DROP COLUMN waited_for; DROP TABLE priors_wanted;
         ALTER TABLE instance DROP COLUMN sop_class; DROP TABLE document;
         DROP TABLE uplink; DROP TABLE airtime;
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(sql);
    let vault = world.open().await;
    let waiting = vault.waiting(Tier::Archive, &BTreeSet::new()).unwrap();
    let studies: Vec<&str> = waiting.iter().map(|w| w.study.as_str()).collect();
    assert_eq!(studies, ["1.3"]);
    assert!(vault.offerable().unwrap().iter().all(|o| o.offered));
}
