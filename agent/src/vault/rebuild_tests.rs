//! An index that is lost, old or made anew: what the segments hold comes back from them alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use journal::{
    Chain, ConsentBasis, Fact, Head, JournalId, Moment, ReceiptRefused, Report, ReportStatus,
    SignedManifest, report_domain,
};
use sealing::Pin;
use study::{Digest, InstanceDigest, Priority, SopInstanceUid};

use super::tests::{
    World, adopt, arrival, due, hold, later, pack, segment_paths, segments_of, sop,
};
use super::*;

const INDEX: [&str; 3] = ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"];

fn study(text: &str) -> StudyUid {
    StudyUid::parse(text).unwrap()
}

/// An instance of so many bytes.
fn large(of: &str, sop: &str, bytes: usize) -> Arrival {
    let mut arrival = arrival(of, sop, "large");
    let length = u32::try_from(bytes).unwrap().to_le_bytes();
    arrival.file.extend([0xe0, 0x7f, 0x10, 0]);
    arrival.file.extend(b"OB\0\0");
    arrival.file.extend(length);
    let noise = (0..u32::try_from(bytes).unwrap()).map(|n| n.wrapping_mul(2_654_435_761) >> 24);
    arrival.file.extend(noise.map(|n| u8::try_from(n).unwrap()));
    arrival
}

/// The hub at the other end, as far as its journal for the box goes.
struct Hub {
    chain: Chain,
}

impl Hub {
    fn new(world: &World) -> Self {
        let chain = Chain::resume(world.hub_journal(), Head::EMPTY);
        Self { chain }
    }

    async fn say(&mut self, world: &World, vault: &Vault, fact: Fact) {
        let now = Moment::default();
        let signed = self.chain.append(&world.hub, now, &fact).unwrap();
        let records = vec![signed.bytes];
        let journal = self.chain.id();
        vault.accept_records(journal, records).await.unwrap();
    }

    async fn receipt(&mut self, world: &World, vault: &Vault, of: &Revision) {
        let manifest = SignedManifest::open(&vault.manifest(&of.manifest_digest).unwrap()).unwrap();
        let record = world.receipt(self.chain.head(), &manifest);
        let head = vault.accept_records(self.chain.id(), vec![record]).await;
        self.chain = Chain::resume(self.chain.id(), head.unwrap().into_inner());
    }

    async fn report(&mut self, world: &World, vault: &Vault, of: &str, text: &[u8]) {
        let of = study(of);
        let sealed = sealing::seal_to(&vault.keys().public_key(), &report_domain(&of), text);
        let report = Report {
            study: of,
            report: Digest::of(text),
            status: ReportStatus::Final,
            critical: 2,
            sealed,
        };
        self.say(world, vault, Fact::Report(report)).await;
    }
}

/// A box with one of everything that it can hold.
async fn filled() -> (World, Hub) {
    let world = World::new();
    let mut hub = Hub::new(&world);
    hold_what_the_hub_answered(&world, &mut hub).await;
    // After a start its key is another one.
    hold_what_waits(&world.open().await).await;
    (world, hub)
}

async fn hold_what_the_hub_answered(world: &World, hub: &mut Hub) {
    let vault = world.open().await;
    // Receipted, reported on, and urgent before it might be named.
    for n in 0..5 {
        hold(&vault, "1.5", &format!("1.5.{n}"), "slice").await;
    }
    let (urgent, spoken) = (Priority::Urgent, ConsentBasis::Spoken);
    vault.set_priority(study("1.5"), urgent).await.unwrap();
    let by = || Some("AB".to_owned());
    vault
        .record_consent(study("1.5"), spoken, by())
        .await
        .unwrap();
    for revision in [pack(&vault, later()).await, pack(&vault, later()).await] {
        hub.receipt(world, &vault, &revision).await;
    }
    hub.report(world, &vault, "1.5", b"the first").await;
    hub.report(world, &vault, "1.5", b"the second").await;
    let reports = vault.reports_of(&study("1.5")).unwrap();
    vault.confirm_report(&reports[1]).await.unwrap();

    // Two instances of one name, one of them in another revision; on legal hold; refused.
    hold(&vault, "1.4", "1.4.1", "one").await;
    let refused = pack(&vault, later()).await;
    hold(&vault, "1.4", "1.4.1", "other").await;
    hold(&vault, "1.4", "1.4.2", "two").await;
    pack(&vault, later()).await;
    let policy = ConsentBasis::SitePolicy;
    vault
        .record_consent(study("1.4"), policy, None)
        .await
        .unwrap();
    vault
        .set_legal_hold(study("1.4"), true, "AB".into())
        .await
        .unwrap();
    let refusal = Fact::ReceiptRefused(ReceiptRefused {
        manifest: refused.manifest_digest,
        reason: "no".into(),
    });
    hub.say(world, &vault, refusal).await;
}

async fn hold_what_waits(vault: &Vault) {
    let by = || Some("AB".to_owned());
    // What a locked box sends: files as they were taken in.
    vault.hold(large("1.3", "1.3.1", 3 << 20)).await.unwrap();
    hold(vault, "1.3", "1.3.2", "small").await;
    for _ in 0..2 {
        let Due::Batch(batch) = due(vault, later()) else {
            panic!("a batch is due");
        };
        let packed = vault.as_taken_in(batch).unwrap();
        vault.adopt(packed).await.unwrap();
    }
    let emergency = ConsentBasis::Emergency;
    vault
        .record_consent(study("1.3"), emergency, by())
        .await
        .unwrap();

    // Still growing, one part packed; on hold and urgent, and nobody has said that it may leave.
    let attendance = vault.attend(&study("1.2"));
    for n in 0..4 {
        hold(vault, "1.2", &format!("1.2.{n}"), "slice").await;
    }
    assert!(!pack(vault, Now::read()).await.closed);
    drop(attendance);
    vault.hold(large("1.2", "1.2.9", 5 << 19)).await.unwrap();
    vault
        .set_priority(study("1.2"), Priority::Stat)
        .await
        .unwrap();
    vault
        .set_legal_hold(study("1.2"), true, "CD".into())
        .await
        .unwrap();
    hold(vault, "1.5", "1.5.9", "late").await;
}

/// Everything that the vault says of itself.
#[derive(Debug, PartialEq)]
struct Picture {
    studies: Vec<StudyOverview>,
    papers: Vec<Papers>,
    files: BTreeMap<(SopInstanceUid, u32), Vec<u8>>,
    heads: Vec<Head>,
    offerable: Vec<Offerable>,
    reports: Vec<StoredReport>,
}

#[derive(Debug, PartialEq)]
struct Papers {
    may_leave: bool,
    manifests: Vec<Vec<u8>>,
    images: BTreeSet<(SopInstanceUid, InstanceDigest)>,
    receipts: Vec<Vec<u8>>,
    reports: Vec<Vec<u8>>,
}

/// Reads everything, and every byte.
fn picture(world: &World, vault: &Vault) -> Picture {
    let mut picture = outline(world, vault);
    let images: BTreeSet<_> = picture
        .papers
        .iter()
        .flat_map(|papers| papers.images.iter().map(|(sop, _)| sop.clone()))
        .chain(["1.2.9", "1.5.9"].map(sop))
        .collect();
    for sop in images {
        let versions = vault.file(&sop, 1).unwrap().versions;
        for version in 1..=u32::try_from(versions).unwrap() {
            let file = vault.file(&sop, version).unwrap();
            picture.files.insert((sop.clone(), version), file.bytes);
        }
    }
    picture
}

/// Reads what a locked box can say.
fn outline(world: &World, vault: &Vault) -> Picture {
    let studies = vault.studies().unwrap();
    let papers = studies.iter().map(|overview| {
        let papers = vault.papers(&overview.study).unwrap().unwrap();
        Papers {
            may_leave: papers.may_leave,
            manifests: papers.manifests,
            images: papers.images,
            receipts: papers.receipts,
            reports: papers.reports.into_iter().map(|(r, _)| r).collect(),
        }
    });
    let journals = [JournalId::own(vault.unit()), world.hub_journal()];
    let mut offerable = vault.offerable().unwrap();
    offerable.sort_by_key(|offerable| (offerable.came, offerable.revision));
    // Which place it has is told by the order; the number itself says nothing.
    let order: BTreeSet<i64> = offerable.iter().map(|offerable| offerable.came).collect();
    for offerable in &mut offerable {
        let place = order.iter().position(|came| *came == offerable.came);
        offerable.came = i64::try_from(place.unwrap()).unwrap();
        // Of what an index made anew names, anything may have left.
        offerable.offered = true;
    }
    Picture {
        papers: papers.collect(),
        files: BTreeMap::new(),
        heads: journals.map(|id| vault.head(&id).unwrap()).to_vec(),
        offerable,
        reports: vault.reports_after(0).unwrap(),
        studies,
    }
}

/// The index as it is on the disk, of a vault that is closed.
fn take_index(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = INDEX.map(|name| world.folder.path().join(name));
    let held = paths.into_iter().filter(|path| path.exists());
    held.map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn put_index(world: &World, index: &[(PathBuf, Vec<u8>)]) {
    lose_index(world);
    for (path, bytes) in index {
        std::fs::write(path, bytes).unwrap();
    }
}

fn lose_index(world: &World) {
    for name in INDEX {
        let _ = std::fs::remove_file(world.folder.path().join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_lost_its_index_has_everything_again() {
    let (world, _) = filled().await;
    let vault = world.open().await;
    let before = picture(&world, &vault);
    assert_eq!((before.studies.len(), before.files.len()), (4, 16));
    drop(vault);
    // Twice: what was made anew is as good as what was there at first.
    for _ in 0..2 {
        lose_index(&world);
        let (vault, absorbed) = world.rebuild().await;
        assert_eq!((absorbed.incomplete, absorbed.damaged), (0, 0));
        assert_eq!(picture(&world, &vault), before);
        drop(vault);
        // And an ordinary start finds nothing that the index does not know.
        let vault = world.open().await;
        assert_eq!(picture(&world, &vault), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_box_goes_on_as_if_nothing_had_been() {
    let (world, mut hub) = filled().await;
    lose_index(&world);
    let (vault, _) = world.rebuild().await;
    let own = JournalId::own(vault.unit());
    let before = vault.head(&own).unwrap();
    // Its journal goes on where it ended, and does not fork.
    let spoken = ConsentBasis::Spoken;
    vault
        .record_consent(study("1.2"), spoken, None)
        .await
        .unwrap();
    let mut head = before;
    for record in vault.records(&own, before.seq + 1, usize::MAX).unwrap() {
        head = journal::verify_next(&own, &head, &record).unwrap().head;
    }
    assert!(head.seq > before.seq);
    assert_eq!(head, vault.head(&own).unwrap());
    // What waited to be said of the study is said; its revision is named when it is offered.
    let said: Vec<u16> = vault
        .records(&own, before.seq + 1, usize::MAX)
        .unwrap()
        .iter()
        .map(|record| journal::read_record(record).unwrap().kind)
        .collect();
    assert_eq!(said, [3, 4, 13]);
    // What is left is packed, each study is closed, and the hub's receipts count.
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    assert_eq!(batch.study.as_str(), "1.2", "it is STAT");
    let revision = adopt(&vault, batch).await;
    assert!(revision.closed);
    hub.receipt(&world, &vault, &revision).await;
    let overview = vault.studies().unwrap().remove(3);
    assert_eq!(overview.study.as_str(), "1.2");
    assert_eq!(overview.custody, Custody::AtHub);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_box_makes_its_index_anew_without_a_pin() {
    let (world, _) = filled().await;
    let vault = world.open().await;
    let before = picture(&world, &vault);
    let pin = Pin::new("a long enough pin").unwrap();
    vault.keys().set_pin(None, &pin).unwrap();
    drop(vault);
    lose_index(&world);
    let (vault, _) = world.rebuild().await;
    assert!(matches!(
        vault.file(&sop("1.5.1"), 1),
        Err(FetchError::Locked(_))
    ));
    let locked = outline(&world, &vault);
    assert_eq!(locked.studies, before.studies);
    vault.keys().unlock(&pin).unwrap();
    assert_eq!(picture(&world, &vault), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_index_takes_in_what_it_does_not_know() {
    let (world, mut hub) = filled().await;
    let old = take_index(&world);
    let vault = world.open().await;
    // What was there as it was taken in is packed since, and its segments are gone.
    let mut revisions = Vec::new();
    while let Due::Batch(batch) = due(&vault, later()) {
        revisions.push(adopt(&vault, batch).await);
    }
    hub.receipt(&world, &vault, &revisions[0]).await;
    hub.report(&world, &vault, "1.5", b"the third").await;
    hold(&vault, "1.9", "1.9.1", "new").await;
    hold(&vault, "1.4", "1.4.3", "late").await;
    let routine = Priority::Routine;
    vault.set_priority(study("1.2"), routine).await.unwrap();
    let spoken = ConsentBasis::Spoken;
    vault
        .record_consent(study("1.2"), spoken, None)
        .await
        .unwrap();
    let before = picture(&world, &vault);
    drop(vault);
    put_index(&world, &old);
    let vault = world.open().await;
    assert_eq!(picture(&world, &vault), before);
    assert_eq!(vault.file(&sop("1.9.1"), 1).unwrap().versions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_left_of_a_record_is_not_taken_in() {
    let (world, _) = filled().await;
    let vault = world.open().await;
    let before = picture(&world, &vault);
    let half = large("1.7", "1.7.1", 3 << 20);
    vault.hold(half).await.unwrap();
    drop(vault);
    // Of the last file the first pieces are on the disk, and a part of the next one.
    let newest = newest_segment(&world, "intake");
    let bytes = std::fs::metadata(&newest).unwrap().len();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&newest)
        .unwrap();
    file.set_len(bytes - (1 << 20)).unwrap();
    lose_index(&world);
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!((absorbed.damaged, absorbed.incomplete), (0, 0));
    assert_eq!(picture(&world, &vault), before);
    assert!(vault.papers(&study("1.7")).unwrap().is_none());
}

fn newest_segment(world: &World, family: &str) -> PathBuf {
    let number = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.rsplit_once('-').unwrap().1.to_owned()
    };
    let paths = segment_paths(world.folder.path(), family);
    paths.into_iter().max_by_key(number).unwrap()
}

/// Flips a byte so far from the beginning of a segment.
fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_images_keep_their_names_and_their_place() {
    let world = World::new();
    let vault = world.open().await;
    let (_, whole) = hold(&vault, "1.1", "1.1.1", "one").await;
    hold(&vault, "1.2", "1.2.1", "two").await;
    let spoken = ConsentBasis::Spoken;
    vault
        .record_consent(study("1.2"), spoken, None)
        .await
        .unwrap();
    pack(&vault, later()).await;
    pack(&vault, later()).await;
    // Pieces of a file, the second of which is damaged, and an instance behind it.
    vault.hold(large("1.3", "1.3.1", 3 << 20)).await.unwrap();
    let (_, behind) = hold(&vault, "1.3", "1.3.2", "behind").await;
    let before = outline(&world, &vault);
    drop(vault);
    let packed = newest_segment(&world, "packed");
    let end = usize::try_from(std::fs::metadata(&packed).unwrap().len()).unwrap();
    flip(&packed, end - 1);
    flip(&newest_segment(&world, "intake"), 3 << 19);
    lose_index(&world);

    let (vault, absorbed) = world.rebuild().await;
    assert_eq!((absorbed.damaged, absorbed.incomplete), (2, 0));
    let after = outline(&world, &vault);
    // The roots that follow speak of the same images.
    assert_eq!(
        (after.papers, after.heads, after.offerable),
        (before.papers, before.heads, before.offerable)
    );
    let damaged = vault.file(&sop("1.2.1"), 1).unwrap_err();
    assert!(damaged.is_loss(), "{damaged}");
    assert!(vault.file(&sop("1.3.1"), 1).unwrap_err().is_loss());
    assert_eq!(vault.file(&sop("1.1.1"), 1).unwrap().bytes, whole);
    assert_eq!(vault.file(&sop("1.3.2"), 1).unwrap().bytes, behind);
    // The study does not close over the gap, and the scanner can fill it.
    let of_damaged = vault.studies().unwrap().remove(2);
    assert_eq!((of_damaged.set_aside, of_damaged.instances), (1, 2));
    let again = vault.hold(large("1.3", "1.3.1", 3 << 20)).await.unwrap();
    assert_eq!(*again.get(), HeldAs::Mended);
    assert!(!pack(&vault, later()).await.closed);
    assert!(pack(&vault, later()).await.closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_destroyed_takes_nothing_else_along() {
    let world = World::new();
    let vault = world.open().await;
    for n in 1..4 {
        hold(&vault, "1.1", &format!("1.1.{n}"), "slice").await;
    }
    drop(vault);
    let path = newest_segment(&world, "intake");
    let third = std::fs::metadata(&path).unwrap().len() / 3;
    flip(&path, usize::try_from(third).unwrap() + 2);
    lose_index(&world);
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!(absorbed.instances, 2);
    for n in [1, 3] {
        assert!(vault.file(&sop(&format!("1.1.{n}")), 1).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_with_a_damaged_record_goes_on_behind_it() {
    let (world, mut hub) = filled().await;
    let vault = world.open().await;
    let own = JournalId::own(vault.unit());
    let before = vault.head(&own).unwrap();
    let lost = vault.records(&own, 2, 1).unwrap().remove(0);
    let hubs_lost = vault.records(&world.hub_journal(), 2, 1).unwrap().remove(0);
    drop(vault);
    for record in [&lost, &hubs_lost] {
        for path in segment_paths(world.folder.path(), "journal") {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(record.len()).position(|w| w == &record[..]);
            if let Some(at) = at {
                flip(&path, at + 20);
            }
        }
    }
    lose_index(&world);
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!(absorbed.damaged, 2);
    // Ours ends where it ended: a number is not signed twice.
    assert_eq!(vault.head(&own).unwrap(), before);
    // What is lost is not sent, and nothing is sent in its place.
    assert!(vault.records(&own, 2, usize::MAX).unwrap().is_empty());
    let behind = vault.records(&own, 3, usize::MAX).unwrap();
    assert_eq!(behind.len() as u64, before.seq - 2);
    // The hub's is taken again from where it is whole.
    assert_eq!(vault.head(&world.hub_journal()).unwrap().seq, 1);
    hub.chain = Chain::resume(hub.chain.id(), vault.head(&world.hub_journal()).unwrap());
    hub.report(&world, &vault, "1.5", b"again").await;
    assert_eq!(vault.reports_of(&study("1.5")).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn intake_records_that_were_packed_before_a_power_cut_are_let_go() {
    let world = World::new();
    let vault = world.open().await;
    let (_, file) = hold(&vault, "1.1", "1.1.1", "one").await;
    drop(vault);
    let kept: Vec<_> = segment_paths(world.folder.path(), "intake")
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    let vault = world.open().await;
    pack(&vault, later()).await;
    drop(vault);
    for (path, bytes) in kept {
        std::fs::write(path, bytes).unwrap();
    }
    lose_index(&world);
    let (vault, absorbed) = world.rebuild().await;
    assert_eq!((absorbed.instances, absorbed.revisions), (0, 1));
    assert_eq!(segments_of(world.folder.path(), "intake"), 0);
    assert_eq!(vault.file(&sop("1.1.1"), 1).unwrap().bytes, file);
    assert_eq!(vault.file(&sop("1.1.1"), 1).unwrap().versions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_there_is_not_made_anew_over() {
    let (world, _) = filled().await;
    let vault = world.open().await;
    let before = picture(&world, &vault);
    drop(vault);
    let (vault, absorbed) = world.rebuild().await;
    assert!(absorbed.is_nothing(), "{absorbed:?}");
    assert_eq!(picture(&world, &vault), before);
}
