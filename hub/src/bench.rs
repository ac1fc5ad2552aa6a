//! A hub in a temporary folder and a box's side of the story, for the rooms' tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use codec::{Source, Tier, encode_group};
use identity::testing::TestFleet;
use identity::{ConsentPolicy, EnrolReply, EnrolRequest, NodeId, NodeKey, StorePublicKey, Voucher};
use journal::{Fact, Head, SignedManifest, verify_next};
use sealing::{DataKey, Envelope, KeyEnvelope, KeyFile, StoreKey};
use study::part10::compose_meta;
use study::{
    ChunkRef, Digest, Group, GroupForm, InstanceDigest, Manifest, Priority, SopClassUid,
    SopInstanceUid, StudyRoot, StudyUid, TransferSyntaxUid,
};
use sync_quic::Arrival;

use crate::config::Config;
use crate::ledger;
use crate::run::Rooms;

pub(crate) const STUDY: &str = "1.2.3.4";
/// Stands in everything here that is of a patient, and must not be found on a disk or in a log.
pub(crate) const CANARY: &str = "CANARY";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// A hub in a temporary folder.
pub(crate) struct Bench {
    pub folder: tempfile::TempDir,
    pub fleet: TestFleet,
    pub rooms: Arc<Rooms>,
    pub doctor: NodeKey,
    /// The public half of the hub's store key.
    pub store: StorePublicKey,
    /// The store keys of the units.
    pub stores: BTreeMap<NodeId, StoreKey>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    pub(crate) fn with(config: &Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = TestFleet::new();
        let store_key = KeyFile::create(&folder.path().join("store.key")).unwrap();
        let store = *store_key.public_key();
        let hub = fleet.add_hub_with("127.0.0.1:4433", store);
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
            store,
            stores: BTreeMap::new(),
        }
    }

    /// What a box has that seals to this hub.
    pub(crate) fn sender(&self) -> Sender {
        Sender {
            hub: self.store,
            pairs: BTreeSet::new(),
            revision: 0,
            previous: None,
        }
    }

    /// Closes the hub and opens it anew, as after a restart.
    pub(crate) fn reopen(self) -> Self {
        close(self.rooms);
        let rooms = open(self.folder.path(), &Config::default());
        Self { rooms, ..self }
    }

    /// Closes the hub for good; gives its folder.
    pub(crate) fn close(self) -> tempfile::TempDir {
        close(self.rooms);
        self.folder
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
        let (unit, store) = (NodeKey::generate(), StoreKey::generate());
        let voucher = self.voucher().await;
        let request = EnrolRequest::sign(&voucher, &unit, store.public_key(), 0);
        self.stores.insert(unit.id(), store);
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
        let facts = self.facts(unit);
        facts.iter().filter(|fact| fact.kind() == kind).count()
    }

    /// All that the hub has said to a unit.
    pub(crate) fn facts(&self, unit: &NodeKey) -> Vec<Fact> {
        let stream = self.rooms.ledger.stream(unit.id());
        let index = self.folder.path().join("index.sqlite");
        let readers = store::Readers::open(&index).unwrap();
        let records = readers.with(|sql| ledger::records(sql, &stream, 1, usize::MAX));
        let mut head = Head::EMPTY;
        let next = |bytes: Vec<u8>| {
            let signed = verify_next(&stream, &head, &bytes).unwrap();
            head = signed.head;
            signed.record.fact().unwrap()
        };
        records.unwrap().into_iter().map(next).collect()
    }
}

fn close(rooms: Arc<Rooms>) {
    rooms.inbox.stop();
    let left = Arc::downgrade(&rooms);
    drop(rooms);
    wait(|| left.upgrade().is_none());
}

fn open(folder: &Path, config: &Config) -> Arc<Rooms> {
    let rooms = Arc::new(Rooms::open(folder, config).unwrap());
    rooms.inbox.start().unwrap();
    rooms
}

/// Flips a bit in the middle of each segment of a family.
pub(crate) fn rot(folder: &Path, family: &str) {
    for entry in std::fs::read_dir(folder.join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with(family) {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path);
            let (file, mut byte) = (file.unwrap(), [0]);
            let middle = file.metadata().unwrap().len() / 2;
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, middle).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 1], middle).unwrap();
        }
    }
}

/// Waits for something that another thread brings about.
pub(crate) fn wait(done: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < end, "waited in vain");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A text as 16-bit units in one order of bytes or the other.
pub(crate) fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

/// A DICOM file whose pixels follow from `seed`.
pub(crate) fn file(study: &str, sop: &str, seed: u8) -> Vec<u8> {
    let mut pixels = vec![0; 40_000];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut pixels);
    image(study, sop, 1, (100, 200), &pixels)
}

/// A DICOM file with these pixels of 16 bits, in rows and columns.
pub(crate) fn image(
    study: &str,
    sop: &str,
    number: u16,
    (rows, columns): (u16, u16),
    pixels: &[u8],
) -> Vec<u8> {
    let (class, ts) = (SopClassUid::parse(CT).unwrap(), ts());
    let sop_uid = SopInstanceUid::parse(sop).unwrap();
    let mut file = compose_meta(&class, &sop_uid, &ts, None);
    element(&mut file, (0x0008, 0x0016), *b"UI", CT.as_bytes());
    element(&mut file, (0x0008, 0x0018), *b"UI", sop.as_bytes());
    element(&mut file, (0x0009, 0x0010), *b"LO", b"CHASQUI TEST");
    element(
        &mut file,
        (0x0009, 0x1001),
        *b"UT",
        &utf16(CANARY, u16::to_le_bytes),
    );
    element(
        &mut file,
        (0x0009, 0x1002),
        *b"UT",
        &utf16(CANARY, u16::to_be_bytes),
    );
    element(
        &mut file,
        (0x0010, 0x0010),
        *b"PN",
        format!("{CANARY}^JANE").as_bytes(),
    );
    element(
        &mut file,
        (0x0010, 0x0020),
        *b"LO",
        format!("{CANARY}-4711").as_bytes(),
    );
    element(&mut file, (0x0020, 0x000d), *b"UI", study.as_bytes());
    element(&mut file, (0x0020, 0x000e), *b"UI", b"1.2.3.4.1");
    let number = number.to_string();
    element(&mut file, (0x0020, 0x0013), *b"IS", number.as_bytes());
    for (number, value) in [
        (0x0002, 1),
        (0x0010, rows),
        (0x0011, columns),
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
    element(&mut file, (0x7fe0, 0x0010), *b"OW", pixels);
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
    if matches!(&vr, b"OW" | b"UT") {
        file.extend_from_slice(&[0, 0]);
        file.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
    } else {
        file.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
    }
    file.extend_from_slice(&value);
}

/// What a box keeps of a study, as far as it has been offered.
pub(crate) struct Sender {
    hub: StorePublicKey,
    pairs: BTreeSet<(SopInstanceUid, InstanceDigest)>,
    revision: u32,
    previous: Option<Digest>,
}

/// One revision as a box offers it.
pub(crate) struct Revision {
    pub signed: SignedManifest,
    pub chunks: Vec<Vec<u8>>,
    /// What the chunks are sealed with.
    pub data_key: DataKey,
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
        self.revise_in(Tier::Fast, unit, files, closed, bend)
    }

    /// Packs files in a tier as one group of the next revision.
    pub(crate) fn revise_in(
        &mut self,
        tier: Tier,
        unit: &NodeKey,
        files: &[(&str, &[u8])],
        closed: bool,
        bend: impl FnOnce(&mut Manifest),
    ) -> Revision {
        let sources: Vec<_> = files
            .iter()
            .map(|(name, bytes)| Source { name, bytes })
            .collect();
        let units: Vec<Vec<u8>> = match sources.is_empty() {
            true => Vec::new(),
            false => encode_group(&sources, tier)
                .unwrap()
                .iter()
                .map(|unit| unit.as_bytes().to_vec())
                .collect(),
        };
        self.offer(unit, files, &units, GroupForm::Codec, closed, bend)
    }

    /// Cuts a file into pieces of this length, as one group of the next revision.
    pub(crate) fn revise_as_file(
        &mut self,
        unit: &NodeKey,
        file: (&str, &[u8]),
        piece: usize,
        bend: impl FnOnce(&mut Manifest),
    ) -> Revision {
        let pieces: Vec<Vec<u8>> = file.1.chunks(piece).map(<[u8]>::to_vec).collect();
        self.offer(unit, &[file], &pieces, GroupForm::File, true, bend)
    }

    fn offer(
        &mut self,
        unit: &NodeKey,
        files: &[(&str, &[u8])],
        bodies: &[Vec<u8>],
        form: GroupForm,
        closed: bool,
        bend: impl FnOnce(&mut Manifest),
    ) -> Revision {
        for (sop, file) in files {
            let at = study::part10::Part10::parse(file).unwrap().data_set.start;
            let digest = InstanceDigest::of(&ts(), &file[at..]);
            self.pairs
                .insert((SopInstanceUid::parse(sop).unwrap(), digest));
        }
        let data_key = DataKey::generate();
        let chunks: Vec<Vec<u8>> = bodies.iter().map(|body| data_key.seal(body)).collect();
        let group = Group {
            chunks: chunks.iter().map(|chunk| reference(chunk)).collect(),
            instances: u32::try_from(files.len()).unwrap(),
            bytes_original: files.iter().map(|(_, f)| f.len() as u64).sum(),
            form,
        };
        let groups = Vec::from_iter((!files.is_empty()).then_some(group));
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
            envelope: (!groups.is_empty()).then(|| envelope(&data_key, STUDY, &self.hub)),
            groups,
        };
        bend(&mut manifest);
        let signed = SignedManifest::sign(unit, manifest);
        self.previous = Some(signed.digest());
        Revision {
            signed,
            chunks,
            data_key,
        }
    }
}

/// How a manifest names a chunk.
pub(crate) fn reference(chunk: &[u8]) -> ChunkRef {
    ChunkRef {
        digest: Digest::of(chunk),
        bytes: u32::try_from(chunk.len()).unwrap(),
    }
}

/// A data key as it travels in a manifest.
pub(crate) fn envelope(key: &DataKey, study: &str, hub: &StorePublicKey) -> Vec<u8> {
    let envelope = Envelope::seal(key, study, hub);
    KeyEnvelope {
        key: key.id(),
        envelope,
    }
    .to_cbor()
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
