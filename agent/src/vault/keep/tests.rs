//! What leaves the box, what does not, and what is known of it afterwards.

use std::collections::BTreeSet;
use std::path::Path;

use journal::{
    Chain, ConsentBasis, Fact, Head, JournalId, LegalHold, Moment, Receipt, Report, ReportStatus,
    SignedManifest,
};
use sealing::KeyEnvelopes;
use settings::Bytes;
use study::{InstanceDigest, SopInstanceUid, StudyRoot};

use super::super::ledger::{Custody, HeldAs};
use super::super::tests::{
    World, arrival, due, hold, later, pack, segment_paths, segments_of, sop,
};
use super::super::{Absorbed, Due, FetchError, ReportFault, sealed};
use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;
const FAMILIES: [&str; 3] = ["intake", "packed", "keys"];

fn uid(text: &str) -> StudyUid {
    StudyUid::parse(text).unwrap()
}

/// A box with its vault, and the hub's journal for it.
struct Clinic {
    world: World,
    vault: Vault,
    head: Head,
    now: Moment,
}

impl Clinic {
    async fn new() -> Self {
        let world = World::new();
        let vault = open(&world, VaultConfig::default()).await;
        Self {
            world,
            vault,
            head: Head::EMPTY,
            now: Moment::default(),
        }
    }

    /// As after a power cut or an orderly stop.
    async fn restart(self) -> Self {
        let Self {
            world, vault, head, ..
        } = self;
        drop(vault);
        let vault = open(&world, VaultConfig::default()).await;
        Self {
            world,
            vault,
            head,
            now: Moment::default(),
        }
    }

    async fn rebuild(self) -> (Self, Absorbed) {
        let Self {
            world, vault, head, ..
        } = self;
        drop(vault);
        Vault::put_index_aside(world.folder.path()).unwrap();
        let (vault, absorbed) = world.rebuild().await;
        let now = Moment::default();
        let clinic = Self {
            world,
            vault,
            head,
            now,
        };
        (clinic, absorbed)
    }

    async fn consent(&self, study: &str) {
        let basis = ConsentBasis::SitePolicy;
        let said = self.vault.record_consent(uid(study), basis, None).await;
        said.unwrap();
    }

    async fn hear(&mut self, fact: Fact) {
        let mut chain = Chain::resume(self.world.hub_journal(), self.head);
        let record = chain.append(&self.world.hub, self.now, &fact).unwrap();
        self.head = record.head;
        let journal = self.world.hub_journal();
        let kept = self.vault.accept_records(journal, vec![record.bytes]).await;
        kept.unwrap();
    }

    fn newest(&self, study: &str) -> SignedManifest {
        let papers = self.vault.papers(&uid(study)).unwrap().unwrap();
        SignedManifest::open(papers.manifests.last().unwrap()).unwrap()
    }

    async fn receipt(&mut self, study: &str) {
        let signed = self.newest(study);
        let said = signed.manifest();
        self.hear(Fact::Receipt(Receipt {
            study: said.study.clone(),
            revision: said.revision,
            root: said.root,
            instances: said.instances,
            manifest: signed.digest(),
        }))
        .await;
    }

    async fn report(&mut self, study: &str, status: ReportStatus) {
        let signed = format!("signed report of {study}");
        let domain = journal::report_domain(&uid(study));
        let public = self.vault.keys().public_key();
        self.hear(Fact::Report(Report {
            study: uid(study),
            report: Digest::of(signed.as_bytes()),
            status,
            critical: 0,
            sealed: sealing::seal_to(&public, &domain, signed.as_bytes()),
        }))
        .await;
    }

    async fn confirm(&self, study: &str) {
        let report = self.vault.reports_of(&uid(study)).unwrap().remove(0);
        self.vault.confirm_report(&report).await.unwrap();
    }

    /// As if the box had been running so long.
    async fn run_for(&self, ms: u64) {
        let turned = self
            .vault
            .0
            .writer
            .run(move |work| turn_odometer(work.sql(), ms));
        turned.await.unwrap();
    }

    /// A study of one instance, packed, that the hub has given its receipt for.
    async fn study_at_hub(&mut self, study: &str) -> Vec<u8> {
        let (_, file) = hold(&self.vault, study, &format!("{study}.1"), "one").await;
        self.consent(study).await;
        assert!(pack(&self.vault, later()).await.closed);
        self.receipt(study).await;
        file
    }

    /// A study that is at the hub and read, but not yet for long.
    async fn read_study(&mut self, study: &str) -> Vec<u8> {
        let file = self.study_at_hub(study).await;
        self.report(study, ReportStatus::Final).await;
        self.confirm(study).await;
        file
    }

    async fn let_all_go(&self) -> Vec<String> {
        let gone = self.vault.let_go(u64::MAX).await.unwrap();
        gone.studies.iter().map(ToString::to_string).collect()
    }

    fn overview(&self, study: &str) -> super::super::StudyOverview {
        let studies = self.vault.studies().unwrap();
        studies.into_iter().find(|s| s.study == uid(study)).unwrap()
    }

    /// What our own journal says, in order.
    fn said(&self) -> Vec<Fact> {
        let own = JournalId::own(self.vault.unit());
        let records = self.vault.records(&own, 1, usize::MAX).unwrap();
        let fact = |bytes: &Vec<u8>| journal::read_record(bytes).unwrap().fact().unwrap();
        records.iter().map(fact).collect()
    }

    fn folder(&self) -> &Path {
        self.world.folder.path()
    }

    fn has_segments(&self) -> bool {
        let folder = self.folder();
        FAMILIES
            .iter()
            .any(|family| segments_of(folder, family) > 0)
    }

    /// The envelopes of the only data key.
    fn envelopes(&self) -> KeyEnvelopes {
        let bytes: Vec<u8> = self
            .vault
            .0
            .readers
            .with(|sql| sql.query_row("SELECT envelopes FROM data_key", [], |row| row.get(0)))
            .unwrap();
        KeyEnvelopes::from_cbor(&bytes).unwrap()
    }
}

async fn open(world: &World, config: VaultConfig) -> Vault {
    let config = VaultConfig {
        reserve_percent: 0,
        ..config
    };
    let (folder, unit) = (world.folder.path().to_owned(), Arc::clone(&world.unit));
    let keys = world.keys();
    let opened = tokio::task::spawn_blocking(move || Vault::open(&folder, unit, keys, config));
    opened.await.unwrap().unwrap()
}

/// Every file of a folder, with those in folders below.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found
}

/// The files that have these bytes somewhere.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let all = files(folder).into_iter();
    all.filter(|(_, bytes)| has(bytes))
        .map(|(name, _)| name)
        .collect()
}

/// What cannot be anything else but this envelope.
fn trace(envelope: &sealing::Envelope) -> Vec<u8> {
    let bytes = minicbor::to_vec(envelope).unwrap();
    bytes[bytes.len() - 48..].to_vec()
}

fn root_over(instances: &[(&str, &[u8])]) -> StudyRoot {
    let pair = |(name, file): &(&str, &[u8])| -> (SopInstanceUid, InstanceDigest) {
        let parts = study::part10::Part10::parse(file).unwrap();
        let data_set = &file[parts.data_set.clone()];
        (
            sop(name),
            InstanceDigest::of(&parts.transfer_syntax, data_set),
        )
    };
    StudyRoot::over(&instances.iter().map(pair).collect::<BTreeSet<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_leaves_nothing_but_its_name() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    let envelopes = clinic.envelopes();
    let box_trace = trace(&envelopes.to_box);
    assert!(!files_with(clinic.folder(), &box_trace).is_empty());
    let room = clinic.vault.disk_room().unwrap();
    assert!(room.evictable_bytes > 0);

    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    assert!(!clinic.has_segments());
    assert_eq!(
        files_with(clinic.folder(), &box_trace),
        Vec::<String>::new()
    );
    assert!(clinic.vault.keys().in_hand(envelopes.key).is_none());
    let gone = clinic.vault.file(&sop("1.2.1"), 1);
    assert!(matches!(&gone, Err(FetchError::Gone(_))), "{gone:?}");
    let text = gone.unwrap_err().to_string();
    assert!(text.ends_with("not in this box any more"), "{text}");
    let overview = clinic.overview("1.2");
    assert_eq!((overview.instances, overview.let_go), (1, 1));
    assert_eq!((overview.custody, overview.bytes_held), (Custody::AtHub, 0));
    let root = clinic.newest("1.2").manifest().root;
    let study = uid("1.2");
    let released = Fact::Released(journal::Released { study, root });
    assert_eq!(clinic.said().last(), Some(&released));
    assert_eq!(clinic.vault.disk_room().unwrap().evictable_bytes, 0);

    // The same bytes again cost nothing, and there is nothing more to let go or to send.
    assert_eq!(
        hold(&clinic.vault, "1.2", "1.2.1", "one").await.0,
        HeldAs::Known
    );
    assert!(clinic.let_all_go().await.is_empty());
    assert!(matches!(due(&clinic.vault, later()), Due::Nothing));
    let clinic = clinic.restart().await;
    let gone = clinic.vault.file(&sop("1.2.1"), 1);
    assert!(matches!(gone, Err(FetchError::Gone(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_let_go_that_is_unread_unsent_held_or_young() {
    let mut clinic = Clinic::new().await;
    let vault = clinic.vault.clone();
    // Unread.
    clinic.study_at_hub("1.1").await;
    // Read for now only.
    clinic.study_at_hub("1.2").await;
    clinic.report("1.2", ReportStatus::Preliminary).await;
    clinic.confirm("1.2").await;
    // A report that nobody could verify.
    clinic.study_at_hub("1.3").await;
    clinic.report("1.3", ReportStatus::Final).await;
    // On hold.
    clinic.read_study("1.4").await;
    vault
        .set_legal_hold(uid("1.4"), true, "AB".into())
        .await
        .unwrap();
    // Something is damaged.
    clinic.read_study("1.7").await;
    vault
        .0
        .writer
        .run(|work| {
            let sql = work.sql();
            sql.execute("UPDATE chunk SET damaged = 1 WHERE study_uid = '1.7'", [])
        })
        .await
        .unwrap();
    clinic.run_for(8 * DAY_MS).await;
    // Not for long.
    clinic.read_study("1.9").await;
    // Another instance has come, or other bytes under the same UID.
    clinic.read_study("1.5").await;
    clinic.read_study("1.6").await;
    clinic.run_for(6 * DAY_MS).await;
    hold(&vault, "1.5", "1.5.2", "late").await;
    hold(&vault, "1.6", "1.6.1", "other").await;
    // Not at the hub.
    hold(&vault, "1.8", "1.8.1", "one").await;
    assert_eq!(clinic.let_all_go().await, Vec::<String>::new());

    // Each of them can be, once what was missing is there.
    clinic.report("1.1", ReportStatus::Addendum).await;
    clinic.confirm("1.1").await;
    assert_eq!(clinic.let_all_go().await, ["1.1"]);
    vault
        .set_legal_hold(uid("1.4"), false, "AB".into())
        .await
        .unwrap();
    assert_eq!(clinic.let_all_go().await, ["1.4"]);
    clinic.run_for(DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_let_go_while_the_hubs_journal_is_in_doubt() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    let journal = clinic.world.hub_journal();
    let found = journal::Diverged {
        author: journal.author,
        stream: journal.stream,
        ours: 9,
        theirs: 4,
        kind: journal::Divergence::SetBack,
    };
    assert!(clinic.vault.disk_room().unwrap().evictable_bytes > 0);
    clinic.vault.note_divergence(found).await.unwrap();
    assert_eq!(clinic.let_all_go().await, [""; 0]);
    assert_eq!(clinic.vault.disk_room().unwrap().evictable_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_came_after_the_report_keep_a_study_here() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    hold(&clinic.vault, "1.2", "1.2.2", "late").await;
    assert!(pack(&clinic.vault, later()).await.closed);
    clinic.run_for(8 * DAY_MS).await;
    assert!(clinic.let_all_go().await.is_empty(), "it is not at the hub");
    clinic.receipt("1.2").await;
    assert!(
        clinic.let_all_go().await.is_empty(),
        "custody of all has just passed"
    );
    clinic.run_for(8 * DAY_MS).await;
    assert!(
        clinic.let_all_go().await.is_empty(),
        "nobody has read the late one"
    );
    clinic.report("1.2", ReportStatus::Addendum).await;
    clinic.confirm("1.2").await;
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_at_the_hub_goes_first_and_no_more_than_is_needed() {
    let mut clinic = Clinic::new().await;
    for study in ["1.2", "1.3", "1.4"] {
        hold(&clinic.vault, study, &format!("{study}.1"), "one").await;
        clinic.consent(study).await;
        pack(&clinic.vault, later()).await;
    }
    for study in ["1.4", "1.2", "1.3"] {
        clinic.receipt(study).await;
    }
    for study in ["1.2", "1.3", "1.4"] {
        clinic.report(study, ReportStatus::Final).await;
        clinic.confirm(study).await;
    }
    clinic.run_for(8 * DAY_MS).await;
    let gone = clinic.vault.let_go(1).await.unwrap();
    assert_eq!(gone.studies, [uid("1.4")]);
    assert!(gone.bytes > 0);
    assert_eq!(clinic.let_all_go().await, ["1.2", "1.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_time_that_the_box_has_run_counts() {
    let mut clinic = Clinic::new().await;
    // The hub's clock, and so all that the box hears of time, is of no account.
    for (study, wall_ms) in [("1.2", 0), ("1.3", 4_070_908_800_000)] {
        clinic.now.wall_ms = wall_ms;
        clinic.read_study(study).await;
    }
    clinic.run_for(6 * DAY_MS).await;
    // The time between two runs does not count, what was counted before does.
    clinic.vault.count_running().await.unwrap();
    let mut clinic = clinic.restart().await;
    assert!(clinic.let_all_go().await.is_empty());
    clinic.run_for(DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.2", "1.3"]);

    let before = odometer(&clinic.vault);
    tokio::time::sleep(Duration::from_millis(20)).await;
    clinic.vault.count_running().await.unwrap();
    let after = odometer(&clinic.vault);
    assert!((20..60_000).contains(&(after - before)), "{before} {after}");
    clinic.now = Moment::default();
}

fn odometer(vault: &Vault) -> u64 {
    let shown = |sql: &Connection| sql.query_row("SELECT run_ms FROM odometer", [], |r| r.get(0));
    vault.0.readers.with(shown).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_instance_makes_a_revision_that_speaks_of_what_has_gone() {
    let mut clinic = Clinic::new().await;
    let first = clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    for rebuilt in [false, true] {
        if rebuilt {
            clinic = clinic.rebuild().await.0;
        }
        let name = if rebuilt { "1.2.3" } else { "1.2.2" };
        let (held_as, late) = hold(&clinic.vault, "1.2", name, "late").await;
        assert_eq!(held_as, HeldAs::New);
        let revision = pack(&clinic.vault, later()).await;
        assert!(revision.closed);
        assert_eq!(clinic.vault.file(&sop(name), 1).unwrap().bytes, late);
        let signed = clinic.newest("1.2");
        let said = signed.manifest();
        if rebuilt {
            assert_eq!((said.revision, said.instances), (3, 3));
        } else {
            assert_eq!((said.revision, said.instances), (2, 2));
            assert_eq!(said.root, root_over(&[("1.2.1", &first), (name, &late)]));
        }
        let overview = clinic.overview("1.2");
        assert_eq!(overview.let_go, 1);
        assert_ne!(overview.custody, Custody::AtHub);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_before_the_files_are_gone_changes_nothing() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    let segments: Vec<_> = FAMILIES
        .iter()
        .flat_map(|family| segment_paths(clinic.folder(), family))
        .map(|path| (std::fs::read(&path).unwrap(), path))
        .collect();
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    // The job is committed; the disk has forgotten that the files were unlinked.
    let Clinic {
        world, vault, head, ..
    } = clinic;
    drop(vault);
    for (bytes, path) in segments {
        std::fs::write(path, bytes).unwrap();
    }
    let vault = open(&world, VaultConfig::default()).await;
    let now = Moment::default();
    let clinic = Clinic {
        world,
        vault,
        head,
        now,
    };
    assert!(!clinic.has_segments());
    let gone = clinic.vault.file(&sop("1.2.1"), 1);
    assert!(matches!(gone, Err(FetchError::Gone(_))));
    assert_eq!(clinic.overview("1.2").custody, Custody::AtHub);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_its_last_commits_brings_no_key_back() {
    for erase in [false, true] {
        let mut clinic = Clinic::new().await;
        clinic.read_study("1.2").await;
        clinic.run_for(8 * DAY_MS).await;
        let trace = trace(&clinic.envelopes().to_box);
        let Clinic {
            world, vault, head, ..
        } = clinic;
        drop(vault);
        let index = world.folder.path().join("index.sqlite");
        // Opening has put all of the log into it.
        let vault = open(&world, VaultConfig::default()).await;
        let before = std::fs::read(&index).unwrap();
        let now = Moment::default();
        let clinic = Clinic {
            world,
            vault,
            head,
            now,
        };
        if erase {
            clinic
                .vault
                .erase(uid("1.2"), "AB".into(), false)
                .await
                .unwrap();
        } else {
            assert_eq!(clinic.let_all_go().await, ["1.2"]);
        }
        let Clinic { world, vault, .. } = clinic;
        drop(vault);
        std::fs::write(&index, before).unwrap();
        for part in ["index.sqlite-wal", "index.sqlite-shm"] {
            let _ = std::fs::remove_file(world.folder.path().join(part));
        }
        // What was said of it is in the segments, and takes effect again.
        let vault = open(&world, VaultConfig::default()).await;
        let gone = vault.file(&sop("1.2.1"), 1);
        assert!(matches!(gone, Err(FetchError::Gone(_))), "{gone:?}");
        let overview = vault.studies().unwrap().remove(0);
        assert_eq!(
            (overview.let_go, overview.erased),
            if erase { (0, 1) } else { (1, 0) }
        );
        assert_eq!(overview.custody, Custody::AtHub);
        drop(vault);
        drop(open(&world, VaultConfig::default()).await);
        assert_eq!(
            files_with(world.folder.path(), &trace),
            Vec::<String>::new()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_gone_is_known_to_an_index_made_anew() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    let kept = clinic.read_study("1.3").await;
    clinic
        .vault
        .set_legal_hold(uid("1.3"), true, "AB".into())
        .await
        .unwrap();
    clinic.run_for(8 * DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    let root = clinic.newest("1.2").manifest().root;

    let (clinic, absorbed) = clinic.rebuild().await;
    assert_eq!(absorbed.incomplete, 0);
    let gone = clinic.overview("1.2");
    assert_eq!((gone.let_go, gone.custody), (1, Custody::AtHub));
    assert_eq!(clinic.newest("1.2").manifest().root, root);
    assert_eq!(
        hold(&clinic.vault, "1.2", "1.2.1", "one").await.0,
        HeldAs::Known
    );
    assert!(matches!(due(&clinic.vault, later()), Due::Nothing));
    let held = clinic.overview("1.3");
    assert!(held.legal_hold);
    assert_eq!(clinic.vault.file(&sop("1.3.1"), 1).unwrap().bytes, kept);
    // The odometer begins anew, so that nothing goes too early.
    clinic.run_for(6 * DAY_MS).await;
    clinic
        .vault
        .set_legal_hold(uid("1.3"), false, "AB".into())
        .await
        .unwrap();
    assert!(clinic.let_all_go().await.is_empty());
    clinic.run_for(2 * DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn studies_go_when_the_disk_is_fuller_than_it_should_be() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    let Clinic { world, vault, .. } = clinic;
    drop(vault);
    let assumed = |free: u64| VaultConfig {
        free_space_assumed: Some(Bytes::new(free)),
        ..VaultConfig::default()
    };
    let vault = open(&world, assumed(u64::MAX)).await;
    assert_eq!(vault.disk_room().unwrap().state, RoomState::Ok);
    assert!(vault.look_after_room().await.unwrap().studies.is_empty());
    drop(vault);
    let vault = open(&world, assumed(1 << 20)).await;
    assert_eq!(vault.disk_room().unwrap().state, RoomState::Low);
    assert_eq!(vault.look_after_room().await.unwrap().studies, [uid("1.2")]);
    assert!(world.folder.path().join("ballast").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_looks_by_itself_and_writes_down_how_long_it_ran() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    let Clinic { world, vault, .. } = clinic;
    drop(vault);
    let config = VaultConfig {
        free_space_assumed: Some(Bytes::new(1 << 20)),
        ballast: Bytes::new(0),
        ..VaultConfig::default()
    };
    let vault = open(&world, config).await;
    let stop = CancellationToken::new();
    let room = tokio::spawn(run(vault.clone(), stop.clone()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while vault.studies().unwrap()[0].let_go == 0 {
        assert!(Instant::now() < deadline, "nothing is let go");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = odometer(&vault);
    tokio::time::sleep(Duration::from_millis(20)).await;
    stop.cancel();
    room.await.unwrap();
    assert!(odometer(&vault) >= before + 20);
    assert!(!world.folder.path().join("ballast").exists());
}

#[test]
fn the_marks_are_parts_of_the_whole() {
    let config = VaultConfig::default();
    let whole = 100 << 30;
    let percent = |free: u64| state(free << 30, whole, &config);
    assert_eq!(percent(15), RoomState::Ok);
    assert_eq!(percent(14), RoomState::Low);
    assert_eq!(percent(5), RoomState::Low);
    assert_eq!(percent(4), RoomState::Full);
}

#[test]
fn a_full_disk_is_given_the_room_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = VaultConfig::default();
    let keeping = Keeping::new(folder.path(), &config);
    let ballast = folder.path().join("ballast");
    let full = || {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(StoreError::Io {
            action: "write",
            name: "index".into(),
            source,
        })
    };
    let open = || if ballast.exists() { full() } else { Ok(()) };
    keeping.ballast.ensure().unwrap();
    assert_eq!(ballast.metadata().unwrap().len(), config.ballast.get());
    keeping.give_way(open).unwrap();
    assert!(!ballast.exists());
    // There is nothing more to give.
    let nothing: Result<(), _> = keeping.give_way(full);
    assert!(nothing.unwrap_err().is_full());
}

mod attacks;
mod erasing;
