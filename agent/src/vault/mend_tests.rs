//! What is damaged is found, never given out, and mended with what the hub gives back.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use journal::{ChunksWanted, Damaged, Fact, Head, JournalId, SignedManifest};
use study::{Digest, GroupForm, SopInstanceUid};

use super::tests::{World, hold, later, pack, segment_paths, sop};
use super::*;

const STUDY: &str = "1.2";

fn study() -> StudyUid {
    StudyUid::parse(STUDY).unwrap()
}

/// Turns one bit over, where the file lies.
fn flip(file: &Path, at: u64) {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_data().unwrap();
}

fn only_segment(world: &World, family: &str) -> PathBuf {
    let mut paths = segment_paths(world.folder.path(), family);
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.remove(0)
}

async fn on_disk<T: Send + 'static>(
    vault: &Vault,
    ask: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
) -> T {
    let vault = vault.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&vault));
    asked.await.unwrap().unwrap()
}

async fn scrub(vault: &Vault) -> Scrubbed {
    on_disk(vault, Vault::scrub).await
}

/// What our own journal says of damage, in order.
fn said(vault: &Vault) -> Vec<Fact> {
    let own = JournalId::own(vault.unit());
    let records = vault.records(&own, 1, usize::MAX).unwrap();
    let facts = records
        .iter()
        .map(|bytes| journal::read_record(bytes).unwrap().fact().unwrap());
    facts
        .filter(|fact| matches!(fact, Fact::Damaged(_) | Fact::ChunksWanted(_)))
        .collect()
}

fn damaged(records: u32) -> Fact {
    Fact::Damaged(Damaged {
        study: study(),
        records,
    })
}

fn wanted(manifest: Digest, chunks: &[u32]) -> Fact {
    Fact::ChunksWanted(ChunksWanted {
        manifest,
        chunks: chunks.to_vec(),
    })
}

/// Packs what is due as a box does that has been locked since it was taken in.
async fn pack_as_taken_in(vault: &Vault) -> Revision {
    let Due::Batch(batch) = tests::due(vault, later()) else {
        panic!("a batch is due");
    };
    let packed = vault.as_taken_in(batch).unwrap();
    vault.adopt(packed).await.unwrap().into_inner()
}

/// A study of three instances that is packed and may leave.
struct Packed {
    world: World,
    vault: Vault,
    files: Vec<(SopInstanceUid, Vec<u8>)>,
    manifest: SignedManifest,
    chunks: Vec<Vec<u8>>,
    /// Where the chunks lie.
    family: &'static str,
}

impl Packed {
    /// As units of the codec, which are so few of instances so small that it is one.
    async fn new() -> Self {
        Self::with(GroupForm::Codec).await
    }

    async fn with(form: GroupForm) -> Self {
        let world = World::new();
        let vault = world.open().await;
        let mut files = Vec::new();
        for n in 1..=3 {
            let name = format!("1.2.{n}");
            let (_, file) = hold(&vault, STUDY, &name, &format!("slice {n}")).await;
            files.push((sop(&name), file));
        }
        let basis = journal::ConsentBasis::Emergency;
        vault.record_consent(study(), basis, None).await.unwrap();
        let revision = match form {
            GroupForm::Codec => pack(&vault, later()).await,
            GroupForm::File => pack_as_taken_in(&vault).await,
        };
        let signed = vault.manifest(&revision.manifest_digest).unwrap();
        let manifest = SignedManifest::open(&signed).unwrap();
        let chunks = (0..).zip(manifest.manifest().chunks());
        let chunks = chunks.map(|(number, _)| {
            let chunk = vault.chunk(&manifest.digest(), number).unwrap();
            chunk.to_vec()
        });
        let chunks = chunks.collect();
        // What is appended from here on lies in segments of its own.
        drop(vault);
        Self {
            chunks,
            files,
            manifest,
            vault: world.open().await,
            world,
            family: match form {
                GroupForm::Codec => "packed",
                GroupForm::File => "intake",
            },
        }
    }

    /// The same, and the hub has given its receipt.
    async fn at_hub(form: GroupForm) -> Self {
        let packed = Self::with(form).await;
        packed.take_receipt().await;
        packed
    }

    async fn take_receipt(&self) {
        let receipt = self.world.receipt(Head::EMPTY, &self.manifest);
        let journal = self.world.hub_journal();
        let taken = self.vault.accept_records(journal, vec![receipt]).await;
        taken.unwrap();
    }

    /// Damages a chunk at its last byte.
    fn damage(&self, chunk: usize) {
        let path = only_segment(&self.world, self.family);
        let bytes = std::fs::read(&path).unwrap();
        let body = &self.chunks[chunk];
        let mut windows = bytes.windows(body.len());
        let at = windows.position(|window| window == body).unwrap();
        flip(&path, (at + body.len() - 1) as u64);
    }

    async fn mend(&self, chunk: usize, body: Vec<u8>) -> Mended {
        let number = u32::try_from(chunk).unwrap();
        let mended = self.vault.mend(self.manifest.digest(), number, body).await;
        mended.unwrap()
    }

    fn gives_all(&self, vault: &Vault) {
        for (sop, file) in &self.files {
            assert_eq!(vault.file(sop, 1).unwrap().bytes, *file);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_over_is_found_wherever_it_is() {
    let packed = Packed::at_hub(GroupForm::Codec).await;
    let vault = &packed.vault;
    hold(vault, "1.3", "1.3.1", "as it was taken in").await;
    assert_eq!(scrub(vault).await.damaged, 0);
    let folder = packed.world.folder.path();
    for family in ["intake", "packed", "journal", "keys"] {
        let path = segment_paths(folder, family).remove(0);
        let bytes = path.metadata().unwrap().len();
        for at in (0..bytes).step_by(23) {
            flip(&path, at);
            let found = scrub(vault).await;
            assert!(found.damaged > 0, "byte {at} of {}", path.display());
            flip(&path, at);
        }
    }
    // What was marked is whole again, and counts as that.
    assert_eq!(scrub(vault).await.damaged, 0);
    assert!(vault.studies().unwrap().iter().all(|s| s.damaged == 0));
    packed.gives_all(vault);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_asked_for_and_what_comes_back_takes_its_place() {
    comes_back(Packed::at_hub(GroupForm::Codec).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_files_that_cross_as_they_were_taken_in_come_back_too() {
    comes_back(Packed::at_hub(GroupForm::File).await).await;
}

async fn comes_back(packed: Packed) {
    let (vault, manifest) = (&packed.vault, packed.manifest.digest());
    let old = only_segment(&packed.world, packed.family);
    let every: Vec<u32> = (0..).zip(&packed.chunks).map(|(n, _)| n).collect();
    let count = u32::try_from(every.len()).unwrap();
    for chunk in 0..packed.chunks.len() {
        packed.damage(chunk);
    }
    let found = scrub(vault).await;
    assert_eq!(found.damaged, u64::from(count));
    assert_eq!(vault.studies().unwrap()[0].damaged, u64::from(count));
    assert!(vault.file(&packed.files[0].0, 1).is_err());
    assert!(vault.chunk(&manifest, 0).is_err());
    let mut facts = vec![damaged(count), wanted(manifest, &every)];
    assert_eq!(said(vault), facts);
    // Once is enough.
    scrub(vault).await;
    assert_eq!(said(vault), facts);

    let (_, holding) = vault.given_back(&manifest).unwrap().unwrap();
    assert_eq!(holding.whole.iter().count(), 0);
    assert_eq!(
        packed.mend(0, b"something else".to_vec()).await,
        Mended::Other
    );
    for (chunk, body) in packed.chunks.iter().enumerate() {
        assert_eq!(packed.mend(chunk, body.clone()).await, Mended::Whole);
        assert_eq!(packed.mend(chunk, body.clone()).await, Mended::NotWanted);
    }
    packed.gives_all(vault);
    facts.extend((0..count).rev().map(damaged));
    facts.push(wanted(manifest, &[]));
    assert_eq!(said(vault), facts);
    assert_eq!(vault.studies().unwrap()[0].damaged, 0);
    assert!(!old.exists(), "nothing that is held lies there any more");
    assert_eq!(scrub(vault).await.damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_made_anew_from_what_was_mended() {
    made_anew(Packed::at_hub(GroupForm::Codec).await).await;
    made_anew(Packed::at_hub(GroupForm::File).await).await;
}

async fn made_anew(packed: Packed) {
    packed.damage(0);
    scrub(&packed.vault).await;
    assert_eq!(
        packed.mend(0, packed.chunks[0].clone()).await,
        Mended::Whole
    );
    let found = scrub(&packed.vault).await;
    assert_eq!(found.damaged, 0);
    let facts = said(&packed.vault);
    let Packed {
        world,
        vault,
        files,
        ..
    } = packed;
    drop(vault);
    Vault::put_index_aside(world.folder.path()).unwrap();
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!(absorbed.incomplete, 0);
    for (sop, file) in &files {
        assert_eq!(vault.file(sop, 1).unwrap().bytes, *file);
    }
    on_disk(&vault, Vault::say_damage).await;
    assert_eq!(said(&vault), facts, "it has been said before");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_custody_has_passed_damage_is_an_alarm_and_nothing_is_asked_for() {
    let packed = Packed::new().await;
    let vault = &packed.vault;
    packed.damage(0);
    scrub(vault).await;
    assert_eq!(said(vault), [damaged(1)]);
    let chunk = vault.chunk(&packed.manifest.digest(), 0);
    assert!(chunk.unwrap_err().is_loss());
    // The hub had it all the same: what it has a receipt for it can be asked for.
    packed.take_receipt().await;
    on_disk(vault, Vault::say_damage).await;
    let asked = wanted(packed.manifest.digest(), &[0]);
    assert_eq!(said(vault), [damaged(1), asked]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_cannot_be_read_to_be_sent_shows() {
    let packed = Packed::new().await;
    packed.damage(0);
    let manifest = packed.manifest.digest();
    assert!(packed.vault.chunk(&manifest, 0).is_err());
    on_disk(&packed.vault, move |vault| vault.doubt_chunk(&manifest, 0)).await;
    assert_eq!(packed.vault.studies().unwrap()[0].damaged, 1);
    assert_eq!(said(&packed.vault), [damaged(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_packing_waits_for_the_scanner_to_send_again() {
    let world = World::new();
    let vault = world.open().await;
    let (_, file) = hold(&vault, STUDY, "1.2.1", "one").await;
    let basis = journal::ConsentBasis::Emergency;
    vault.record_consent(study(), basis, None).await.unwrap();
    let path = only_segment(&world, "intake");
    flip(&path, path.metadata().unwrap().len() - 1);
    let found = scrub(&vault).await;
    assert_eq!((found.damaged, found.studies.len()), (1, 1));
    let overview = vault.studies().unwrap().remove(0);
    assert_eq!((overview.damaged, overview.set_aside), (1, 1));
    assert!(vault.file(&sop("1.2.1"), 1).is_err());

    assert_eq!(hold(&vault, STUDY, "1.2.1", "one").await.0, HeldAs::Mended);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    on_disk(&vault, Vault::say_damage).await;
    assert_eq!(said(&vault), [damaged(1), damaged(0)]);
    let found = scrub(&vault).await;
    assert_eq!((found.damaged, found.stray), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_sees_every_page_of_the_index_and_goes_on_where_it_was() {
    let world = World::new();
    let vault = world.open().await;
    for n in 0..300 {
        hold(&vault, STUDY, &format!("1.2.{n}"), "slice").await;
    }
    // Each start begins another segment.
    drop(vault);
    let vault = world.open().await;
    hold(&vault, "1.3", "1.3.1", "other").await;
    let paths = segment_paths(world.folder.path(), "intake");
    let mut names: Vec<String> = paths
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    for path in &paths {
        flip(path, path.metadata().unwrap().len() - 1);
    }
    let first = names[0].parse().unwrap();
    let rest = on_disk(&vault, move |vault| {
        let mut found = Scrubbed::default();
        let mut pass = vault.pass(Some(&first))?;
        while let Some(slice) = pass.next_slice()? {
            found.add(slice.found);
        }
        Ok(found)
    });
    assert_eq!(rest.await.damaged, 1);
    let found = scrub(&vault).await;
    assert_eq!((found.damaged, found.studies.len()), (2, 2));
    assert!(found.records > 301);
}
