//! A hub in a temporary folder and a box's side of the story, for the rooms' tests.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use codec::{Source, Tier, encode_group};
use identity::testing::TestFleet;
use identity::{ConsentPolicy, EnrolReply, EnrolRequest, NodeKey, Voucher};
use journal::SignedManifest;
use store::rusqlite;
use study::part10::compose_meta;
use study::{
    ChunkRef, Digest, Group, InstanceDigest, Manifest, Priority, SopClassUid, SopInstanceUid,
    StudyRoot, StudyUid, TransferSyntaxUid,
};
use sync_quic::Arrival;

use crate::config::Config;
use crate::run::Rooms;

pub(crate) const STUDY: &str = "1.2.3.4";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// A hub in a temporary folder.
pub(crate) struct Bench {
    pub folder: tempfile::TempDir,
    pub fleet: TestFleet,
    pub rooms: Arc<Rooms>,
    pub doctor: NodeKey,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    pub(crate) fn with(config: &Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = TestFleet::new();
        let hub = fleet.add_hub("127.0.0.1:4433");
        let doctor = fleet.add_radiologist("Dr. A. Reader");
        fleet.body.credentials[0].valid_until_ms = u64::MAX >> 1;
        hub.save(&folder.path().join("node.key")).unwrap();
        std::fs::write(folder.path().join("fleet.cose"), fleet.document().signed()).unwrap();
        let rooms = open(folder.path(), config);
        Self {
            folder,
            fleet,
            rooms,
            doctor,
        }
    }

    /// Closes the hub and opens it anew, as after a restart.
    pub(crate) fn reopen(self) -> Self {
        let Self {
            folder,
            fleet,
            rooms,
            doctor,
        } = self;
        rooms.inbox.stop();
        let writer = Arc::downgrade(&rooms);
        drop(rooms);
        wait(|| writer.upgrade().is_none());
        let rooms = open(folder.path(), &Config::default());
        Self {
            folder,
            fleet,
            rooms,
            doctor,
        }
    }

    /// A voucher that the hub knows and that is good today.
    pub(crate) async fn voucher(&mut self) -> Voucher {
        let voucher = self.fleet.add_voucher("Clinic A", ConsentPolicy::Ask);
        for entry in &mut self.fleet.body.vouchers {
            entry.not_after_ms = u64::MAX >> 1;
        }
        let document = self.fleet.document();
        self.rooms.fleet.apply(document.signed()).await.unwrap();
        voucher
    }

    /// A box that is enrolled.
    pub(crate) async fn unit(&mut self) -> NodeKey {
        let unit = NodeKey::generate();
        let request = EnrolRequest::sign(&self.voucher().await, &unit, 0);
        let reply = self.rooms.fleet.enrol(unit.id(), &request).await.unwrap();
        assert!(matches!(reply, EnrolReply::Granted(_)), "{reply:?}");
        unit
    }

    /// Offers a revision and sends all of its chunks.
    pub(crate) async fn send(&self, unit: &NodeKey, revision: &Revision) {
        let taken = self
            .rooms
            .inbox
            .take_manifest(unit.id(), revision.signed.clone())
            .await;
        taken.unwrap();
        for number in 0..revision.chunks.len() {
            self.send_chunk(revision, number).await;
        }
    }

    pub(crate) async fn send_chunk(&self, revision: &Revision, number: usize) {
        let arrival = revision.arrival(number, 0, revision.chunks[number].len());
        self.rooms.inbox.take_data(vec![arrival]).await.unwrap();
    }

    /// How many facts of this kind the hub has said to a unit.
    pub(crate) fn said(&self, unit: &NodeKey, kind: u16) -> usize {
        let stream = self.rooms.ledger.stream(unit.id());
        let index = self.folder.path().join("index.sqlite");
        let readers = store::Readers::open(&index).unwrap();
        let count = readers.with(|sql| -> rusqlite::Result<i64> {
            sql.query_row(
                "SELECT count(*) FROM record WHERE author = ?1 AND stream = ?2 AND kind = ?3",
                rusqlite::params![stream.author.as_bytes(), stream.stream.as_bytes(), kind],
                |row| row.get(0),
            )
        });
        usize::try_from(count.unwrap()).unwrap()
    }
}

fn open(folder: &Path, config: &Config) -> Arc<Rooms> {
    let rooms = Arc::new(Rooms::open(folder, config).unwrap());
    rooms.inbox.start().unwrap();
    rooms
}

/// Waits for something that another thread brings about.
pub(crate) fn wait(done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < end, "waited in vain");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A DICOM file whose pixels follow from `seed`.
pub(crate) fn file(study: &str, sop: &str, seed: u8) -> Vec<u8> {
    let (class, ts) = (SopClassUid::parse(CT).unwrap(), ts());
    let sop_uid = SopInstanceUid::parse(sop).unwrap();
    let mut file = compose_meta(&class, &sop_uid, &ts, None);
    element(&mut file, (0x0008, 0x0016), *b"UI", CT.as_bytes());
    element(&mut file, (0x0008, 0x0018), *b"UI", sop.as_bytes());
    element(&mut file, (0x0010, 0x0010), *b"PN", b"CANARY^JANE");
    element(&mut file, (0x0020, 0x000d), *b"UI", study.as_bytes());
    element(&mut file, (0x0020, 0x000e), *b"UI", b"1.2.3.4.1");
    element(&mut file, (0x0020, 0x0013), *b"IS", b"1");
    for (number, value) in [
        (0x0002, 1),
        (0x0010, 100),
        (0x0011, 200),
        (0x0100, 16),
        (0x0101, 16),
        (0x0102, 15),
        (0x0103, 0),
    ] {
        element(
            &mut file,
            (0x0028, number),
            *b"US",
            &u16::to_le_bytes(value),
        );
    }
    let mut pixels = vec![0; 40_000];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut pixels);
    element(&mut file, (0x7fe0, 0x0010), *b"OW", &pixels);
    file
}

fn ts() -> TransferSyntaxUid {
    TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap()
}

fn element(file: &mut Vec<u8>, tag: (u16, u16), vr: [u8; 2], value: &[u8]) {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if &vr == b"UI" { 0 } else { b' ' });
    }
    file.extend_from_slice(&tag.0.to_le_bytes());
    file.extend_from_slice(&tag.1.to_le_bytes());
    file.extend_from_slice(&vr);
    if &vr == b"OW" {
        file.extend_from_slice(&[0, 0]);
        file.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
    } else {
        file.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
    }
    file.extend_from_slice(&value);
}

/// What a box keeps of a study, as far as it has been offered.
#[derive(Default)]
pub(crate) struct Sender {
    pairs: BTreeSet<(SopInstanceUid, InstanceDigest)>,
    revision: u32,
    previous: Option<Digest>,
}

/// One revision as a box offers it.
#[derive(Clone)]
pub(crate) struct Revision {
    pub signed: SignedManifest,
    pub chunks: Vec<Vec<u8>>,
}

impl Sender {
    /// Packs files as one group of the next revision.
    pub(crate) fn revise(
        &mut self,
        unit: &NodeKey,
        files: &[(&str, &[u8])],
        closed: bool,
        bend: impl FnOnce(&mut Manifest),
    ) -> Revision {
        for (sop, file) in files {
            let at = study::part10::Part10::parse(file).unwrap().data_set.start;
            let digest = InstanceDigest::of(&ts(), &file[at..]);
            self.pairs
                .insert((SopInstanceUid::parse(sop).unwrap(), digest));
        }
        let sources: Vec<_> = files
            .iter()
            .map(|(name, bytes)| Source { name, bytes })
            .collect();
        let chunks: Vec<Vec<u8>> = match sources.is_empty() {
            true => Vec::new(),
            false => encode_group(&sources, Tier::Fast)
                .unwrap()
                .iter()
                .map(|unit| unit.as_bytes().to_vec())
                .collect(),
        };
        let group = Group {
            chunks: chunks
                .iter()
                .map(|c| ChunkRef {
                    digest: Digest::of(c),
                    bytes: u32::try_from(c.len()).unwrap(),
                })
                .collect(),
            instances: u32::try_from(files.len()).unwrap(),
            bytes_original: files.iter().map(|(_, f)| f.len() as u64).sum(),
        };
        self.revision += 1;
        let mut manifest = Manifest {
            version: Manifest::VERSION,
            study: StudyUid::parse(STUDY).unwrap(),
            revision: self.revision,
            root: StudyRoot::over(&self.pairs),
            instances: u32::try_from(self.pairs.len()).unwrap(),
            previous: self.previous,
            closed,
            priority: Priority::Urgent,
            received_at_ms: 1_795_000_000_000,
            groups: if files.is_empty() {
                Vec::new()
            } else {
                vec![group]
            },
            envelope: None,
        };
        bend(&mut manifest);
        let signed = SignedManifest::sign(unit, manifest);
        self.previous = Some(signed.digest());
        Revision { signed, chunks }
    }
}

impl Revision {
    pub(crate) fn arrival(&self, number: usize, from: usize, to: usize) -> Arrival {
        let chunk = &self.chunks[number];
        Arrival {
            manifest: self.signed.digest(),
            chunk: u32::try_from(number).unwrap(),
            digest: Digest::of(chunk),
            offset: u32::try_from(from).unwrap(),
            bytes: chunk[from..to].to_vec(),
            last: to == chunk.len(),
        }
    }
}
