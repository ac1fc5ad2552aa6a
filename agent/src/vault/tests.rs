//! The vault through its public face, on a real disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use codec::{Source, Tier, Unit};
use identity::NodeKey;
use journal::{Chain, Fact, Head, JournalId, Moment, Receipt, SignedManifest};
use sealing::StoreKey;
use study::dataset::InstanceHead;
use study::part10::compose_meta;
use study::{Priority, SopInstanceUid, StudyUid, TransferSyntaxUid};

use super::*;

const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
const RULE: BatchRule = BatchRule {
    instances: 4,
    bytes: 1 << 20,
    delay_ms: 2000,
    quiet_period_ms: 15_000,
};

/// A vault in its own folder, with the key of its box and of its hub.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) unit: Arc<NodeKey>,
    pub(super) hub: NodeKey,
    pub(super) hub_store: StoreKey,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            unit: Arc::new(NodeKey::generate()),
            hub: NodeKey::generate(),
            hub_store: StoreKey::generate(),
        }
    }

    /// The box's keys, as they are after a start.
    pub(super) fn keys(&self) -> Keys {
        let keys = Keys::open_or_found(self.folder.path(), None).unwrap();
        keys.set_hub(Some(*self.hub_store.public_key()));
        keys
    }

    pub(super) async fn open(&self) -> Vault {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Vault, OpenError> {
        let (folder, unit) = (self.folder.path().to_owned(), Arc::clone(&self.unit));
        let config = VaultConfig {
            reserve_percent: 0,
            ..Default::default()
        };
        let keys = self.keys();
        let opened = tokio::task::spawn_blocking(move || Vault::open(&folder, unit, keys, config));
        opened.await.unwrap()
    }

    /// Makes the index anew, which must have been put aside.
    pub(super) async fn rebuild(&self) -> (Vault, Absorbed) {
        let (folder, unit) = (self.folder.path().to_owned(), Arc::clone(&self.unit));
        let keys = self.keys();
        let config = VaultConfig::default();
        let made = tokio::task::spawn_blocking(move || Vault::rebuild(&folder, unit, keys, config));
        made.await.unwrap().unwrap()
    }

    /// Flips a byte at the end of the only intake record.
    fn damage_intake(&self) {
        let segment = segment_paths(self.folder.path(), "intake").remove(0);
        let mut bytes = std::fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&segment, bytes).unwrap();
    }

    /// The hub's journal for this box.
    pub(super) fn hub_journal(&self) -> JournalId {
        JournalId {
            author: self.hub.id(),
            stream: self.unit.id(),
        }
    }

    /// The hub's receipt for a revision, as the next record of its journal.
    pub(super) fn receipt(&self, head: Head, manifest: &SignedManifest) -> Vec<u8> {
        let said = manifest.manifest();
        let fact = Fact::Receipt(Receipt {
            study: said.study.clone(),
            revision: said.revision,
            root: said.root,
            instances: said.instances,
            manifest: manifest.digest(),
        });
        let mut chain = Chain::resume(self.hub_journal(), head);
        chain
            .append(&self.hub, Moment::default(), &fact)
            .unwrap()
            .bytes
    }
}

impl Vault {
    /// The signed manifest of a revision, which does not leave by this.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare("SELECT manifest FROM revision WHERE manifest_digest = ?1")?
                .query_row([digest.as_bytes()], |row| row.get(0))
        })?)
    }

    /// The first revision that an instance is in.
    pub(crate) fn revision_of(&self, sop: &SopInstanceUid) -> u32 {
        let revision = self.0.readers.with(|sql| {
            sql.prepare("SELECT revision FROM instance WHERE sop_uid = ?1")?
                .query_row([sop.as_str()], |row| row.get(0))
        });
        revision.unwrap()
    }
}

fn element(tag: [u8; 4], vr: &[u8; 2], value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    let length = u16::try_from(value.len()).unwrap().to_le_bytes();
    [&tag[..], vr, &length, &value].concat()
}

/// A data set that has what the vault needs, and some words that make it differ.
pub(crate) fn arrival(study: &str, sop: &str, words: &str) -> Arrival {
    let class = "1.2.840.10008.5.1.4.1.1.2";
    let data_set = [
        element([8, 0, 0x16, 0], b"UI", class),
        element([8, 0, 0x18, 0], b"UI", sop),
        element([0x20, 0, 0x0d, 0], b"UI", study),
        element([0x20, 0, 0x0e, 0], b"UI", "1.2.3.4"),
        element([0x20, 0, 0x00, 0x40], b"LT", words),
    ]
    .concat();
    let transfer_syntax = TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap();
    let head = InstanceHead::read(&data_set, &transfer_syntax).unwrap();
    let mut file = compose_meta(&head.sop_class, &head.sop, &transfer_syntax, None);
    let data_set_at = file.len();
    file.extend(data_set);
    Arrival {
        head,
        transfer_syntax,
        file,
        data_set_at,
    }
}

/// A vault of a new box in a new folder, with a hub that nobody has the key of.
pub(crate) async fn open_vault(folder: &Path) -> Vault {
    let config = VaultConfig {
        reserve_percent: 0,
        ..VaultConfig::default()
    };
    open_vault_with(folder, config).await
}

pub(crate) async fn open_vault_with(folder: &Path, config: VaultConfig) -> Vault {
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let keys = Keys::open_or_found(&folder, None).unwrap();
        keys.set_hub(Some(*StoreKey::generate().public_key()));
        Vault::open(&folder, Arc::new(NodeKey::generate()), keys, config).unwrap()
    });
    opened.await.unwrap()
}

pub(super) fn sop(text: &str) -> SopInstanceUid {
    SopInstanceUid::parse(text).unwrap()
}

pub(crate) async fn hold(vault: &Vault, study: &str, sop: &str, words: &str) -> (HeldAs, Vec<u8>) {
    let arrival = arrival(study, sop, words);
    let file = arrival.file.clone();
    (*vault.hold(arrival).await.unwrap().get(), file)
}

/// Packs the next batch as `pack` does.
pub(crate) async fn pack(vault: &Vault, now: Now) -> Revision {
    let Due::Batch(batch) = due(vault, now) else {
        panic!("a batch is due");
    };
    adopt(vault, batch).await
}

pub(super) fn due(vault: &Vault, now: Now) -> Due {
    vault.next_batch(RULE, now, &Skipped::default()).unwrap()
}

pub(super) async fn adopt(vault: &Vault, batch: Batch) -> Revision {
    let files: Vec<Vec<u8>> = batch
        .items
        .iter()
        .map(|item| vault.intake_file(item).unwrap())
        .collect();
    let named = batch.items.iter().zip(&files);
    let sources: Vec<Source<'_>> = named
        .map(|(item, bytes)| Source {
            name: item.sop.as_str(),
            bytes,
        })
        .collect();
    let units = if sources.is_empty() {
        Vec::new()
    } else {
        codec::encode_group(&sources, Tier::Fast).unwrap()
    };
    let units = units.into_iter().map(Unit::into_bytes).collect();
    vault
        .adopt(vault.seal_units(batch, units).unwrap())
        .await
        .unwrap()
        .into_inner()
}

pub(crate) fn segment_paths(folder: &Path, family: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("segments")).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(family))
        .map(|entry| entry.path())
        .collect()
}

pub(super) fn segments_of(folder: &Path, family: &str) -> usize {
    segment_paths(folder, family).len()
}

/// Long after everything, so that a study is stable.
pub(crate) fn later() -> Now {
    let now = Now::read();
    Now {
        wall_ms: now.wall_ms + 1_000_000,
        count_ms: now.count_ms + 1_000_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_comes_back_to_the_byte_before_and_after_packing() {
    let world = World::new();
    let vault = world.open().await;
    let (held_as, file) = hold(&vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::New);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    assert_eq!(segments_of(world.folder.path(), "intake"), 1);

    let offered = pack(&vault, later()).await;
    assert_eq!(offered.revision, 1);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    assert_eq!(segments_of(world.folder.path(), "intake"), 0);

    drop(vault);
    let vault = world.open().await;
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_cost_nothing_and_other_bytes_are_kept_beside() {
    let world = World::new();
    let vault = world.open().await;
    let (_, first) = hold(&vault, "1.2", "1.2.1", "one").await;
    let before = vault.studies().unwrap()[0].bytes_held;
    assert_eq!(hold(&vault, "1.2", "1.2.1", "one").await.0, HeldAs::Known);
    assert_eq!(vault.studies().unwrap()[0].bytes_held, before);
    let (held_as, second) = hold(&vault, "1.2", "1.2.1", "two").await;
    assert_eq!(held_as, HeldAs::Conflict);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, first);
    assert_eq!(vault.file(&sop("1.2.1"), 2).unwrap().bytes, second);
    assert!(matches!(
        vault.file(&sop("1.2.1"), 3),
        Err(FetchError::NoSuchVersion { .. })
    ));
    let study = &vault.studies().unwrap()[0];
    assert_eq!((study.instances, study.conflicts), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_offered_without_consent() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    pack(&vault, later()).await;
    assert_eq!(vault.studies().unwrap()[0].custody, Custody::WaitingConsent);
    assert!(vault.offerable().unwrap().is_empty());
    let study = StudyUid::parse("1.2").unwrap();
    vault
        .set_priority(study.clone(), Priority::Stat)
        .await
        .unwrap();
    // The journal crosses whatever else does: until then it says nothing of the study.
    let own = JournalId::own(vault.unit());
    assert_eq!(vault.head(&own).unwrap().seq, 1);
    let basis = journal::ConsentBasis::Spoken;
    vault
        .record_consent(study, basis, Some("AB".into()))
        .await
        .unwrap();
    assert_eq!(vault.offerable().unwrap().len(), 1);
    // Opened, consent, urgency; and the revision when it is offered, once.
    assert_eq!(vault.head(&own).unwrap().seq, 3);
    let due = vault.offerable().unwrap()[0].manifest_digest;
    for _ in 0..2 {
        assert_eq!(vault.offer(vec![due]).await.unwrap().get().len(), 1);
        assert_eq!(vault.head(&own).unwrap().seq, 4);
    }
    let unknown = StudyUid::parse("9.9").unwrap();
    let refused = vault.record_consent(unknown, basis, None).await;
    assert!(matches!(refused, Err(VaultError::UnknownStudy(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_is_packed_before_the_study_is_stable_and_then_it_is_closed() {
    let world = World::new();
    let vault = world.open().await;
    let study = StudyUid::parse("1.2").unwrap();
    let attendance = vault.attend(&study);
    for n in 0..4 {
        hold(&vault, "1.2", &format!("1.2.{n}"), "slice").await;
    }
    let opened = pack(&vault, Now::read()).await;
    let manifest = SignedManifest::open(&vault.manifest(&opened.manifest_digest).unwrap()).unwrap();
    assert!(!manifest.manifest().closed);
    assert_eq!(manifest.manifest().instances, 4);

    // The association is open still: the study may grow.
    assert!(matches!(due(&vault, later()), Due::Nothing | Due::After(_)));
    drop(attendance);
    let closed = pack(&vault, later()).await;
    let last = SignedManifest::open(&vault.manifest(&closed.manifest_digest).unwrap()).unwrap();
    assert!(last.manifest().closed);
    assert_eq!(last.manifest().revision, 2);
    assert_eq!(last.manifest().root, manifest.manifest().root);
    assert_eq!(last.manifest().previous, Some(manifest.digest()));
    assert!(matches!(due(&vault, later()), Due::Nothing));

    // A late instance opens the study again.
    hold(&vault, "1.2", "1.2.9", "late").await;
    assert_eq!(pack(&vault, later()).await.revision, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_passes_by_the_hubs_receipt_and_by_nothing_else() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let study = StudyUid::parse("1.2").unwrap();
    let basis = journal::ConsentBasis::SitePolicy;
    vault.record_consent(study, basis, None).await.unwrap();
    let offered = pack(&vault, later()).await;
    let manifest =
        SignedManifest::open(&vault.manifest(&offered.manifest_digest).unwrap()).unwrap();

    // All bytes are there, says the hub: that is no custody.
    let bytes = manifest.manifest().bytes_to_cross();
    vault
        .note_progress(vec![(manifest.digest(), bytes)])
        .await
        .unwrap();
    assert_eq!(vault.studies().unwrap()[0].custody, Custody::Crossing);
    assert_eq!(vault.studies().unwrap()[0].percent_at_hub, 99);

    // A receipt by somebody else's key is no record of the hub's.
    let journal = world.hub_journal();
    let stranger = World {
        hub: NodeKey::generate(),
        ..World::new()
    };
    let forged = stranger.receipt(Head::EMPTY, &manifest);
    assert!(vault.accept_records(journal, vec![forged]).await.is_err());
    assert_eq!(vault.studies().unwrap()[0].custody, Custody::Crossing);

    let receipt = world.receipt(Head::EMPTY, &manifest);
    let head = vault
        .accept_records(journal, vec![receipt.clone()])
        .await
        .unwrap()
        .into_inner();
    assert_eq!(head.seq, 1);
    let overview = &vault.studies().unwrap()[0];
    assert_eq!(
        (overview.custody, overview.percent_at_hub),
        (Custody::AtHub, 100)
    );
    assert!(overview.readable);
    assert!(vault.offerable().unwrap().is_empty());

    // The same record again is what a lost acknowledgement looks like.
    let again = vault
        .accept_records(journal, vec![receipt])
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_for_another_root_changes_nothing() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let offered = pack(&vault, later()).await;
    let signed = SignedManifest::open(&vault.manifest(&offered.manifest_digest).unwrap()).unwrap();
    let other = study::StudyRoot::over(&Default::default());
    let fact = Fact::Receipt(Receipt {
        study: signed.manifest().study.clone(),
        revision: 1,
        root: other,
        instances: 1,
        manifest: signed.digest(),
    });
    let mut chain = Chain::resume(world.hub_journal(), Head::EMPTY);
    let record = chain
        .append(&world.hub, Moment::default(), &fact)
        .unwrap()
        .bytes;
    vault
        .accept_records(world.hub_journal(), vec![record])
        .await
        .unwrap();
    assert_ne!(vault.studies().unwrap()[0].custody, Custody::AtHub);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_is_taken_in() {
    let world = World::new();
    let config = VaultConfig {
        free_space_assumed: Some(settings::Bytes::new(100)),
        ..VaultConfig::default()
    };
    let (folder, unit) = (world.folder.path().to_owned(), Arc::clone(&world.unit));
    let keys = world.keys();
    let opened = tokio::task::spawn_blocking(move || Vault::open(&folder, unit, keys, config));
    let vault = opened.await.unwrap().unwrap();
    let refused = vault.hold(arrival("1.2", "1.2.1", "one")).await;
    assert!(matches!(refused, Err(HoldError::NoRoom(_))));
    assert!(vault.studies().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_last_batch_is_packed_keeps_the_study_open() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    assert!(batch.closes);
    hold(&vault, "1.2", "1.2.2", "in between").await;
    assert!(!adopt(&vault, batch).await.closed);

    let last = pack(&vault, later()).await;
    assert!(last.closed);
    let manifest = SignedManifest::open(&vault.manifest(&last.manifest_digest).unwrap()).unwrap();
    assert_eq!(manifest.manifest().instances, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_neither_closes_a_study_nor_keeps_it_open() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let now = Now::read();

    // Set to 1970: the batch is due all the same, and closes nothing before its time.
    let set_back = Now { wall_ms: 0, ..now };
    assert!(!pack(&vault, set_back).await.closed);
    // Set to 2099: the quiet period is as long as before.
    let set_ahead = Now {
        wall_ms: 4_070_908_800_000,
        ..now
    };
    assert!(matches!(due(&vault, set_ahead), Due::After(ms) if ms <= RULE.quiet_period_ms));
    let quiet = Now {
        count_ms: later().count_ms,
        ..set_back
    };
    assert!(pack(&vault, quiet).await.closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_urgent_study_is_packed_first_and_sent_in_the_order_they_came() {
    let world = World::new();
    let vault = world.open().await;
    for study in ["1.7", "1.5", "1.6"] {
        hold(&vault, study, &format!("{study}.1"), "one").await;
        let basis = journal::ConsentBasis::Emergency;
        let study = StudyUid::parse(study).unwrap();
        vault.record_consent(study, basis, None).await.unwrap();
    }
    let urgent = StudyUid::parse("1.6").unwrap();
    let stat = Priority::Stat;
    vault.set_priority(urgent, stat).await.unwrap();
    let mut packed = Vec::new();
    for _ in 0..3 {
        packed.push(pack(&vault, later()).await.study.to_string());
    }
    assert_eq!(packed, ["1.6", "1.7", "1.5"]);
    let mut due = vault.offerable().unwrap();
    due.sort_by_key(|offerable| offerable.came);
    let came: Vec<&str> = due.iter().map(|o| o.study.as_str()).collect();
    assert_eq!(came, ["1.7", "1.5", "1.6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_instance_holds_up_its_own_study_only_until_it_comes_again() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    world.damage_intake();
    hold(&vault, "1.3", "1.3.1", "other").await;
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    let error = vault.intake_file(&batch.items[0]).unwrap_err();
    assert!(error.is_loss());
    vault.set_aside(batch.items[0].instance_id).await.unwrap();

    assert_eq!(pack(&vault, later()).await.study.as_str(), "1.3");
    assert!(matches!(due(&vault, later()), Due::Nothing));
    // Another instance of the study is packed, and does not close it.
    hold(&vault, "1.2", "1.2.2", "two").await;
    assert!(!pack(&vault, later()).await.closed);
    assert_eq!(vault.studies().unwrap()[0].set_aside, 1);

    let (held_as, file) = hold(&vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::Mended);
    assert!(pack(&vault, later()).await.closed);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    let study = &vault.studies().unwrap()[1];
    assert_eq!((study.instances, study.set_aside), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_its_memory_lets_no_segment_go() {
    let world = World::new();
    let vault = world.open().await;
    let (_, file) = hold(&vault, "1.2", "1.2.1", "one").await;
    drop(vault);
    let index = world.folder.path().join("index.sqlite");
    let kept = world.folder.path().join("kept");
    std::fs::rename(&index, &kept).unwrap();
    for companion in ["index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(world.folder.path().join(companion));
    }
    let refused = world.try_open().await;
    assert!(matches!(
        refused.err().unwrap(),
        OpenError::IndexLost { .. }
    ));
    assert_eq!(segments_of(world.folder.path(), "intake"), 1);

    std::fs::rename(&kept, &index).unwrap();
    let vault = world.open().await;
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_does_not_open_the_index() {
    let mut world = World::new();
    drop(world.open().await);
    world.unit = Arc::new(NodeKey::generate());
    let refused = world.try_open().await;
    assert!(matches!(refused.err().unwrap(), OpenError::OtherKey { .. }));
    // Nor does it make it anew: nothing that the other has signed would be in it.
    Vault::put_index_aside(world.folder.path()).unwrap();
    let (folder, unit) = (world.folder.path().to_owned(), Arc::clone(&world.unit));
    let (keys, config) = (world.keys(), VaultConfig::default());
    let made = tokio::task::spawn_blocking(move || Vault::rebuild(&folder, unit, keys, config));
    let refused = made.await.unwrap().err().unwrap();
    assert!(matches!(refused, OpenError::OtherKey { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sites_policy_never_replaces_a_persons_word() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let study = || StudyUid::parse("1.2").unwrap();
    let spoken = journal::ConsentBasis::Spoken;
    let by = Some("AB".to_owned());
    vault.record_consent(study(), spoken, by).await.unwrap();
    let own = JournalId::own(world.unit.id());
    let said = vault.head(&own).unwrap();
    let policy = journal::ConsentBasis::SitePolicy;
    vault.record_consent(study(), policy, None).await.unwrap();
    assert_eq!(vault.studies().unwrap()[0].consent, ConsentState::Given);
    assert_eq!(vault.head(&own).unwrap(), said);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_what_the_hub_says_now_and_never_more_than_there_is() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let study = StudyUid::parse("1.2").unwrap();
    let basis = journal::ConsentBasis::Emergency;
    vault.record_consent(study, basis, None).await.unwrap();
    let manifest = pack(&vault, later()).await.manifest_digest;
    let at_hub = async |bytes| {
        vault.note_progress(vec![(manifest, bytes)]).await.unwrap();
        let study = vault.studies().unwrap().remove(0);
        (study.bytes_at_hub, study.bytes_to_cross)
    };
    let (held, all) = at_hub(u64::MAX).await;
    assert_eq!(held, all);
    // Its disk failed it: the hub holds nothing any more.
    assert_eq!(at_hub(0).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_leads_to_another_instance_is_not_believed() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    let (_, second) = hold(&vault, "1.2", "1.2.2", "two").await;
    pack(&vault, later()).await;
    drop(vault);
    let index = world.folder.path().join("index.sqlite");
    let sql = store::rusqlite::Connection::open(index).unwrap();
    sql.execute(
        "UPDATE instance SET file_number = 1 WHERE sop_uid = '1.2.1'",
        [],
    )
    .unwrap();
    drop(sql);
    let vault = world.open().await;
    let other = vault.file(&sop("1.2.1"), 1);
    assert!(matches!(other, Err(FetchError::Other(_))), "{other:?}");
    assert_eq!(vault.file(&sop("1.2.2"), 1).unwrap().bytes, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_and_unknown_to_the_index_is_taken_in_again() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    drop(vault);
    let index = world.folder.path().join("index.sqlite");
    let before = std::fs::read(&index).unwrap();
    let vault = world.open().await;
    let (_, late) = hold(&vault, "1.2", "1.2.2", "two").await;
    let (_, other) = hold(&vault, "1.3", "1.3.1", "three").await;
    drop(vault);

    // The index has lost its last commits; the segments have everything.
    std::fs::write(&index, before).unwrap();
    let vault = world.open().await;
    assert_eq!(vault.file(&sop("1.2.2"), 1).unwrap().bytes, late);
    assert_eq!(vault.file(&sop("1.3.1"), 1).unwrap().bytes, other);
    assert_eq!(vault.studies().unwrap().len(), 2);
    drop(vault);
    let vault = world.open().await;
    assert_eq!(vault.file(&sop("1.3.1"), 1).unwrap().bytes, other);
}
