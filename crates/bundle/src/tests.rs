//! Bundles between two shelves in memory, and everything that can happen to one on its way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::{NodeId, NodeKey};
use journal::{
    Chain, ClockQuality, Divergence, Fact, Head, JournalId, Moment, Opened, Signed, SignedManifest,
};
use proptest::prelude::*;
use study::Priority;
use sync_proto::{Class, Config, Event, Frame};
use sync_quic::testing::MemoryShelf;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::format::Writer;
use crate::*;

const CHUNK_BYTES: u32 = 100_000;

/// A node with a shelf and a journal of its own.
struct Node {
    key: NodeKey,
    shelf: MemoryShelf,
    events: UnboundedReceiver<Event>,
    head: Head,
    runtime: Runtime,
}

impl Node {
    fn new() -> Self {
        let (shelf, events) = MemoryShelf::new(Duration::ZERO);
        // A worker of its own drives the clock that the shelf's syncs take.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        Self {
            key: NodeKey::generate(),
            shelf,
            events,
            head: Head::EMPTY,
            runtime,
        }
    }

    fn id(&self) -> NodeId {
        self.key.id()
    }

    /// Says something in its own journal.
    fn say(&mut self, text: &str) -> Signed {
        let mut chain = Chain::resume(JournalId::own(self.id()), self.head);
        let fact = Fact::Opened(Opened {
            software: text.to_owned(),
        });
        let signed = chain.append(&self.key, Moment::default(), &fact).unwrap();
        self.head = signed.head;
        self.shelf.keep_record(&signed);
        signed
    }

    /// As for a session with `peer` whose journal is held up to `held`.
    fn config(&self, peer: &NodeId, held: Head) -> Config {
        Config {
            me: self.id(),
            peer: *peer,
            software: "test".to_owned(),
            wall_ms: 1,
            clock: ClockQuality::Unknown,
            fleet_version: 0,
            journals: vec![
                (JournalId::own(self.id()), self.head),
                (JournalId::own(*peer), held),
            ],
            data_bytes: sync_proto::DATA_BYTES_MAX,
        }
    }

    fn export_to(
        &self,
        peer: &NodeId,
        stick: &Path,
        items: Vec<SignedManifest>,
        sizes: Sizes,
    ) -> Result<Option<Written>, ExportError> {
        let load = Load {
            config: self.config(peer, Head::EMPTY),
            sequence: 1,
            told: (0, 0),
            paper: None,
        };
        let items = items.into_iter().map(|manifest| Item {
            manifest,
            class: Priority::Routine,
        });
        let stick = Stick::at(stick)?;
        export(
            (&self.shelf, self.runtime.handle()),
            &self.key,
            load,
            items.collect(),
            (&stick, sizes),
            &Arc::default(),
        )
    }

    fn examine(&self, stick: &Path) -> Result<(Bundle, Letter), Refusal> {
        let bundles = Stick::at(stick).unwrap().bundles().unwrap();
        let [bundle] = &bundles[..] else {
            panic!("{} bundles", bundles.len());
        };
        let letter = examine(&self.key, bundle, &Arc::default())?;
        Ok((bundle.clone(), letter))
    }

    /// Takes the one bundle that is on a stick, holding its sender's journal up to `held`.
    fn take_from(&self, stick: &Path, held: Head) -> Taken {
        let (bundle, letter) = self.examine(stick).unwrap();
        self.take(&bundle, &letter, held).unwrap()
    }

    fn take(&self, bundle: &Bundle, letter: &Letter, held: Head) -> Result<Taken, TakeError> {
        take(
            (&self.shelf, self.runtime.handle()),
            &self.key,
            self.config(&letter.head.sender, held),
            (bundle, letter),
            &Arc::default(),
        )
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

const SIZES: Sizes = Sizes {
    bytes_max: 64 << 20,
    part_bytes: PART_BYTES_MIN,
};

/// A box with a study of three chunks and two records, its hub, and a stick with its bundle.
fn carried() -> (Node, Node, tempfile::TempDir, SignedManifest, Written) {
    let (mut unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    unit.say("one");
    unit.say("two");
    let study = unit.shelf.study(&unit.key, "1.2.3", 3, CHUNK_BYTES);
    let written = unit.export_to(&hub.id(), stick.path(), vec![study.clone()], SIZES);
    let written = written.unwrap().unwrap();
    (unit, hub, stick, study, written)
}

fn files(stick: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(stick.join("CHASQUI")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found.sort();
    found
}

#[test]
fn a_bundle_carries_studies_and_records_and_counts_once() {
    let (unit, hub, stick, study, written) = carried();
    assert_eq!((written.revisions, written.records), (1, 2));
    assert!(written.left_out.is_empty());

    let taken = hub.take_from(stick.path(), Head::EMPTY);
    assert_eq!((taken.revisions, taken.records), (1, 2));
    assert!(taken.is_done());
    assert!(hub.shelf.is_whole(&study.digest()));
    assert_eq!(hub.shelf.records(&JournalId::own(unit.id())), 2);

    // The second time, nothing of it is new.
    let again = hub.take_from(stick.path(), unit.head);
    assert_eq!(again.records, 0);
    assert_eq!(hub.shelf.stored_bytes(), 3 * u64::from(CHUNK_BYTES));
}

#[test]
fn it_is_split_into_files_that_together_are_one() {
    let (_unit, hub, stick, _study, written) = carried();
    let parts = files(stick.path());
    assert_eq!(parts.len(), written.parts);
    assert!(parts.len() > 3);
    let sizes: Vec<u64> = parts
        .iter()
        .map(|part| part.metadata().unwrap().len())
        .collect();
    assert!(sizes.iter().all(|bytes| *bytes <= PART_BYTES_MIN));
    assert_eq!(sizes.iter().sum::<u64>(), written.bytes);
    for part in &parts {
        let name = part.file_name().unwrap().to_str().unwrap();
        let (stem, extension) = name.split_once('.').unwrap();
        assert!(stem.len() <= 8 && extension.len() <= 3, "{name}");
    }
    assert!(hub.examine(stick.path()).is_ok());
}

#[test]
fn who_it_is_not_for_leaves_it_alone() {
    let (unit, hub, stick, ..) = carried();
    let other = Node::new();
    assert!(matches!(
        other.examine(stick.path()),
        Err(Refusal::NotForUs)
    ));
    // Not even its sender opens it.
    assert!(matches!(unit.examine(stick.path()), Err(Refusal::NotForUs)));
    assert!(hub.examine(stick.path()).is_ok());
}

#[test]
fn a_part_that_is_missing_or_cut_is_named() {
    let (_unit, hub, stick, ..) = carried();
    let parts = files(stick.path());
    let last = parts.last().unwrap();
    let bytes = fs::read(last).unwrap();
    fs::remove_file(last).unwrap();
    let refused = hub.examine(stick.path()).unwrap_err().to_string();
    assert!(
        refused.contains("torn") || refused.contains("damaged"),
        "{refused}"
    );
    fs::write(last, bytes).unwrap();
    fs::remove_file(&parts[1]).unwrap();
    let refused = hub.examine(stick.path()).unwrap_err().to_string();
    assert_eq!(refused, "it is torn: part 2 is missing");
}

#[test]
fn another_key_cannot_sign_for_a_sender() {
    let (unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    let forger = NodeKey::generate();
    let draft = Stick::at(stick.path())
        .unwrap()
        .draft(&unit.id(), 1 << 20, Arc::default());
    let sealed = seal::to(&hub.id(), draft.unwrap()).unwrap().unwrap();
    let head = crate::Head::new((unit.id(), hub.id()), 1, 1, None);
    let mut writer = Writer::begin(sealed, &head).unwrap();
    writer.frame(&hello()).unwrap();
    writer.frame(&goodbye()).unwrap();
    let sealed = writer.finish(&forger).unwrap();
    sealed.finish().unwrap().complete().unwrap();
    assert!(matches!(
        hub.examine(stick.path()),
        Err(Refusal::NotSigned(None))
    ));
}

#[test]
fn what_was_sealed_on_by_its_reader_is_refused() {
    let (unit, hub, third) = (Node::new(), Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    let draft = Stick::at(stick.path())
        .unwrap()
        .draft(&unit.id(), 1 << 20, Arc::default());
    let sealed = seal::to(&third.id(), draft.unwrap()).unwrap().unwrap();
    let head = crate::Head::new((unit.id(), hub.id()), 1, 1, None);
    let mut writer = Writer::begin(sealed, &head).unwrap();
    writer.frame(&hello()).unwrap();
    writer.frame(&goodbye()).unwrap();
    let sealed = writer.finish(&unit.key).unwrap();
    sealed.finish().unwrap().complete().unwrap();
    assert!(
        matches!(third.examine(stick.path()), Err(Refusal::OtherRecipient(to)) if to == hub.id())
    );
}

fn hello() -> Frame {
    Frame::Hello {
        protocol: sync_proto::PROTOCOL,
        software: String::new(),
        fleet_version: 0,
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        journals: Vec::new(),
    }
}

fn goodbye() -> Frame {
    Frame::Bye {
        code: sync_proto::ByeCode::Done,
        text: String::new(),
    }
}

#[test]
fn an_old_bundle_is_no_sign_of_a_disk_that_was_set_back_but_another_journal_is() {
    let (mut unit, mut hub, stick, ..) = carried();
    // The hub has heard more since, by another road.
    for text in ["three", "four"] {
        unit.say(text);
    }
    let journal = JournalId::own(unit.id());
    let records = unit.runtime.block_on(sync_quic::Shelf::load_records(
        &unit.shelf,
        journal,
        1,
        usize::MAX,
    ));
    for bytes in records.unwrap() {
        hub.shelf
            .keep_record(&journal::read_signed(&bytes).unwrap());
    }
    let taken = hub.take_from(stick.path(), unit.head);
    assert!(!taken.diverged && taken.is_done());
    let parted = |event: &Event| matches!(event, Event::Diverged { .. });
    assert!(!hub.events().iter().any(parted));

    // The same key, but another journal.
    let mut clone = Node::new();
    clone.key = unit.key.clone();
    clone.say("another past");
    let stick = tempfile::tempdir().unwrap();
    clone
        .export_to(&hub.id(), stick.path(), Vec::new(), SIZES)
        .unwrap();
    let taken = hub.take_from(stick.path(), unit.head);
    assert!(taken.diverged && !taken.is_done());
    let forked = |event: &Event| matches!(event, Event::Diverged { kind, .. } if *kind == Divergence::Forked);
    assert!(hub.events().iter().any(forked));
}

#[test]
fn records_with_a_gap_before_them_wait_and_the_rest_is_taken() {
    let (mut unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    for text in ["one", "two", "three"] {
        unit.say(text);
    }
    let study = unit.shelf.study(&unit.key, "1.2.3", 1, CHUNK_BYTES);
    let load = Load {
        config: unit.config(&hub.id(), Head::EMPTY),
        sequence: 9,
        told: (2, 0),
        paper: None,
    };
    let item = Item {
        manifest: study.clone(),
        class: Priority::Stat,
    };
    let medium = Stick::at(stick.path()).unwrap();
    let shelf = (&unit.shelf, unit.runtime.handle());
    let written = export(
        shelf,
        &unit.key,
        load,
        vec![item],
        (&medium, SIZES),
        &Arc::default(),
    );
    assert_eq!(written.unwrap().unwrap().records, 1);
    let taken = hub.take_from(stick.path(), Head::EMPTY);
    assert!(taken.records_ahead && !taken.is_done());
    assert_eq!((taken.records, taken.revisions), (0, 1));
    assert!(hub.shelf.is_whole(&study.digest()));
}

#[test]
fn nothing_to_say_writes_nothing() {
    let (unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    let written = unit.export_to(&hub.id(), stick.path(), Vec::new(), SIZES);
    assert!(written.unwrap().is_none());
    assert_eq!(fs::read_dir(stick.path()).unwrap().count(), 0);
}

#[test]
fn what_does_not_fit_is_named_and_the_rest_is_a_bundle() {
    let (mut unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    unit.say("one");
    let large = unit.shelf.study(&unit.key, "1.2.3", 9, CHUNK_BYTES);
    let small = unit.shelf.study(&unit.key, "1.2.4", 1, CHUNK_BYTES);
    let sizes = Sizes {
        bytes_max: 600_000,
        ..SIZES
    };
    let studies = vec![large.clone(), small.clone()];
    let written = unit
        .export_to(&hub.id(), stick.path(), studies, sizes)
        .unwrap()
        .unwrap();
    assert!(written.bytes <= 600_000);
    let [left_out] = &written.left_out[..] else {
        panic!("{:?}", written.left_out);
    };
    assert_eq!(left_out.study, large.manifest().study);
    let taken = hub.take_from(stick.path(), Head::EMPTY);
    assert_eq!(taken.revisions, 1);
    assert!(hub.shelf.is_whole(&small.digest()));

    let none = Sizes {
        bytes_max: 1000,
        ..SIZES
    };
    let full = unit.export_to(&hub.id(), stick.path(), vec![large], none);
    assert!(matches!(full, Err(ExportError::Stick(StickError::Full(_)))));
}

#[test]
fn an_attempt_that_was_cut_off_is_tidied_by_its_own_sender_only() {
    let (mut unit, other, hub) = (Node::new(), Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    let medium = Stick::at(stick.path()).unwrap();
    let cut_off = |sender: &Node| {
        let draft = medium.draft(&sender.id(), 1 << 20, Arc::default()).unwrap();
        let path = draft.path().to_owned();
        // As when the stick is pulled out: nobody tidies up.
        std::mem::forget(draft);
        fs::write(path.join("PART0001.AGE"), b"half").unwrap();
        path
    };
    let (own, others) = (cut_off(&unit), cut_off(&other));
    unit.say("one");
    unit.export_to(&hub.id(), stick.path(), Vec::new(), SIZES)
        .unwrap()
        .unwrap();
    assert!(!own.exists());
    assert!(others.exists());
    assert!(
        hub.examine(stick.path()).is_ok(),
        "what is not finished is no bundle"
    );
}

#[test]
fn places_that_are_no_sticks_are_named() {
    let place = tempfile::tempdir().unwrap();
    let missing = Stick::at(&place.path().join("nothing"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("is the stick plugged in"), "{missing}");
    fs::write(place.path().join("file"), b"x").unwrap();
    let file = Stick::at(&place.path().join("file"));
    assert!(matches!(file, Err(StickError::NotAFolder(_))));
    let stick = Stick::at(place.path()).unwrap();
    assert!(stick.is_the_disk_of(place.path()));
    assert!(!stick.is_the_disk_of(Path::new("/proc")));
    assert!(stick.bundles().unwrap().is_empty());
}

#[test]
fn a_bundle_is_known_by_its_first_bytes_and_can_be_taken_off() {
    let (_unit, hub, stick, ..) = carried();
    let (bundle, letter) = hub.examine(stick.path()).unwrap();
    assert_eq!(bundle.fingerprint().unwrap(), letter.fingerprint);
    Stick::at(stick.path()).unwrap().remove(&bundle).unwrap();
    assert!(files(stick.path()).is_empty());
}

/// A small bundle's bytes, and who may read it.
fn small() -> (Node, Vec<u8>) {
    let (mut unit, hub) = (Node::new(), Node::new());
    let stick = tempfile::tempdir().unwrap();
    unit.say("one");
    let study = unit.shelf.study(&unit.key, "1.2.3", 1, 600);
    unit.export_to(&hub.id(), stick.path(), vec![study], SIZES)
        .unwrap()
        .unwrap();
    let [file] = &files(stick.path())[..] else {
        panic!("it is one file");
    };
    (hub, fs::read(file).unwrap())
}

fn put(stick: &Path, bytes: &[u8]) {
    let folder = stick.join("CHASQUI/0A1B2C3D");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("part0001.age"), bytes).unwrap();
}

#[test]
fn every_byte_flipped_and_every_cut_is_refused() {
    let (hub, bytes) = small();
    let stick = tempfile::tempdir().unwrap();
    put(stick.path(), &bytes);
    assert!(hub.examine(stick.path()).is_ok());
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1 << (at % 8);
        put(stick.path(), &other);
        assert!(hub.examine(stick.path()).is_err(), "byte {at} flipped");
        put(stick.path(), &bytes[..at]);
        assert!(hub.examine(stick.path()).is_err(), "cut at {at}");
    }
    put(stick.path(), &[&bytes[..], b"more"].concat());
    assert!(hub.examine(stick.path()).is_err(), "something added");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands inside a seal that is right: it is refused or harmless, and nobody panics.
    #[test]
    fn any_content_under_a_right_seal_is_refused_or_harmless(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let (unit, hub) = (Node::new(), Node::new());
        let study = unit.shelf.study(&unit.key, "1.2.3", 2, 600);
        let offer = Frame::Offer {
            item: 0,
            class: Class::Routine,
            manifest: study.bytes().to_vec().into(),
        };
        let data = |chunk| Frame::Data { item: 0, chunk, offset: 0, bytes: vec![7; 600].into() };
        let mut frames: Vec<Vec<u8>> =
            [hello(), offer, data(0), data(1)].iter().map(Frame::encode).collect();
        for (at, value) in flips {
            let all: usize = frames.iter().map(Vec::len).sum();
            let mut at = at.index(all);
            for frame in &mut frames {
                if at < frame.len() {
                    frame[at] = value;
                    break;
                }
                at -= frame.len();
            }
        }
        if cuts {
            let last = frames.last_mut().unwrap();
            let upto = cut.index(last.len());
            last.truncate(upto);
        }
        let sealed = seal::to(&hub.id(), Vec::new()).unwrap().unwrap();
        let head = crate::Head::new((unit.id(), hub.id()), 1, 1, None);
        let mut writer = Writer::begin(sealed, &head).unwrap();
        for frame in &frames {
            writer.put(frame).unwrap();
        }
        writer.frame(&goodbye()).unwrap();
        let stick = tempfile::tempdir().unwrap();
        put(stick.path(), &writer.finish(&unit.key).unwrap().finish().unwrap());
        if let Ok((bundle, letter)) = hub.examine(stick.path()) {
            let _ = hub.take(&bundle, &letter, Head::EMPTY);
            prop_assert!(!hub.shelf.is_whole(&study.digest()));
        }
    }
}
