//! Orders with a vault on a real disk.

use dimse::scp::OperationKind;
use dimse::{DataSet, PERFORMED_STEP, Status, tag};
use study::dataset::{Encoding, InstanceHead};
use study::part10::compose_meta;
use study::{SopClassUid, SopInstanceUid, TransferSyntaxUid};

use super::findings::FindingKind;
use super::*;
use crate::vault::Arrival;
use crate::vault::tests::{open_vault, segment_paths};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

struct World {
    folder: tempfile::TempDir,
    vault: Vault,
    orders: Orders,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = open_vault(folder.path()).await;
        Self {
            folder,
            orders: Orders::new(vault.clone()),
            vault,
        }
    }

    async fn add(&self, json: &str) -> Taken {
        let form = OrderForm::from_json(json.as_bytes()).unwrap();
        self.orders.add(form).await.unwrap()
    }

    /// What a query finds.
    fn find(&self, query: &DataSet) -> Vec<DataSet> {
        self.orders.worklist(query).unwrap().collect()
    }

    /// Takes an instance in.
    async fn hold(&self, data_set: &DataSet) {
        let transfer_syntax = TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap();
        let data_set = data_set.encode(Encoding::ExplicitLittle);
        let head = InstanceHead::read(&data_set, &transfer_syntax).unwrap();
        let mut file = compose_meta(&head.sop_class, &head.sop, &transfer_syntax, None);
        let data_set_at = file.len();
        file.extend(data_set);
        let arrival = Arrival {
            head,
            transfer_syntax,
            file,
            data_set_at,
        };
        self.vault.hold(arrival).await.unwrap();
    }

    async fn operate(&self, sop: &str, kind: OperationKind, data_set: DataSet) -> Answer {
        let operation = Operation {
            sop_class: SopClassUid::parse(PERFORMED_STEP).unwrap(),
            sop: SopInstanceUid::parse(sop).unwrap(),
            kind,
            data_set,
        };
        self.orders
            .performed(operation, Some("CT1".to_owned()))
            .await
    }

    /// Looks as `reconcile` does; with what is to be looked at again.
    async fn look(&self, watched: &mut std::collections::BTreeSet<StudyUid>) -> Vec<FindingKind> {
        self.orders.look(watched).await.unwrap();
        let mut kinds = Vec::new();
        for (name, _) in self.vault.documents(Drawer::Findings).unwrap() {
            let study = StudyUid::parse(&name).unwrap();
            let found = self.orders.findings(&study).unwrap();
            kinds.extend(found.iter().map(|finding| finding.kind));
        }
        kinds
    }

    /// Locks the vault for good, as far as this test goes.
    fn lock(&self) {
        let keys = self.vault.keys();
        keys.set_pin(None, &sealing::Pin::new("correct horse battery").unwrap())
            .unwrap();
        keys.lock().unwrap();
    }
}

fn instance(study: &StudyUid, sop: &str) -> DataSet {
    DataSet::default()
        .with(study::dataset::Tag(8, 0x16), CT)
        .with(study::dataset::Tag(8, 0x18), sop)
        .with(tag::STUDY_INSTANCE, study.as_str())
        .with(tag::SERIES_INSTANCE, "1.2.3.4")
}

fn all() -> DataSet {
    DataSet::default()
        .with(tag::PATIENT_NAME, "")
        .with(tag::STUDY_INSTANCE, "")
        .with_items(tag::SCHEDULED_STEPS, Vec::new())
}

fn begun(study: &StudyUid) -> DataSet {
    let scheduled = DataSet::default().with(tag::STUDY_INSTANCE, study.as_str());
    DataSet::default()
        .with(tag::PERFORMED_STATUS, "IN PROGRESS")
        .with(tag::PATIENT_NAME, "CANARY^NAME")
        .with_items(tag::SCHEDULED_ATTRIBUTES, vec![scheduled])
}

fn ended(status: &str, instances: &[&str]) -> DataSet {
    let references = instances.iter().map(|sop| {
        DataSet::default()
            .with(tag::REFERENCED_SOP_CLASS, CT)
            .with(tag::REFERENCED_SOP_INSTANCE, *sop)
    });
    let series = DataSet::default()
        .with(tag::SERIES_INSTANCE, "1.2.3.4")
        .with_items(tag::REFERENCED_IMAGES, references.collect());
    DataSet::default()
        .with(tag::PERFORMED_STATUS, status)
        .with_items(tag::PERFORMED_SERIES, vec![series])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_on_the_worklist_until_it_is_cancelled_and_sealed_at_rest() {
    let world = World::new().await;
    let json = r#"{"procedure": "CT head", "patient_name": "CANARY^NAME", "priority": "urgent"}"#;
    let taken = world.add(json).await;
    let urgent = world.find(&all());
    world.add(r#"{"procedure": "CT knee"}"#).await;
    assert_eq!(urgent.len(), 1);
    let name = urgent[0].ascii(tag::PATIENT_NAME);
    assert_eq!(name, Some("CANARY^NAME"));
    let study = urgent[0].ascii(tag::STUDY_INSTANCE);
    assert_eq!(study, Some(taken.study_instance_uid.as_str()));
    // The urgent one first.
    assert_eq!(world.find(&all())[0], urgent[0]);
    for path in segment_paths(world.folder.path(), "") {
        let bytes = std::fs::read(path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"CANARY"));
    }
    world
        .orders
        .cancel(taken.study_instance_uid.clone())
        .await
        .unwrap();
    assert_eq!(world.find(&all()).len(), 1);
    let again = world.orders.cancel(taken.study_instance_uid).await;
    assert!(matches!(again, Err(OrderError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_box_takes_orders_and_steps_and_shows_none() {
    let world = World::new().await;
    world.add(r#"{"procedure": "CT head"}"#).await;
    assert_eq!(world.find(&all()).len(), 1);
    world.lock();
    let taken = world.add(r#"{"procedure": "CT knee"}"#).await;
    let Err(refused) = world.orders.worklist(&all()) else {
        panic!("a locked box answered a query")
    };
    assert_eq!(refused.status, Status::OUT_OF_RESOURCES);
    assert_eq!(refused.comment.as_deref(), Some("vault locked"));
    let listed = world.orders.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|order| order.order.is_none()));
    let step = begun(&taken.study_instance_uid);
    let answer = world.operate("1.2.3.5", OperationKind::Create, step).await;
    assert_eq!(answer, Answer::success());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_in_the_character_set_that_was_asked_in_if_they_fit() {
    let world = World::new().await;
    let yamada = "\u{5c71}\u{7530}^\u{592a}\u{90ce}";
    let json = serde_json::json!({ "procedure": "CT head", "patient_name": yamada });
    world.add(&json.to_string()).await;
    let ivanov = "\u{418}\u{432}\u{430}\u{43d}\u{43e}\u{432}";
    let json = serde_json::json!({ "procedure": "CT head", "patient_name": ivanov });
    world.add(&json.to_string()).await;
    for (asked, name, expected) in [
        ("\\ISO 2022 IR 87", yamada, "\\ISO 2022 IR 87"),
        ("ISO_IR 144", ivanov, "ISO_IR 144"),
        ("ISO_IR 192", ivanov, "ISO_IR 192"),
        // Neither fits into Latin-1.
        ("ISO_IR 100", yamada, "ISO_IR 192"),
    ] {
        let set = study::charset::CharacterSet::of(asked.as_bytes());
        let wanted = set.write(name).unwrap_or_default();
        let query = all()
            .with(tag::SPECIFIC_CHARACTER_SET, asked)
            .with(tag::PATIENT_NAME, wanted);
        let found = world.find(&query);
        let is_named = |found: &DataSet| {
            let term = found.ascii(tag::SPECIFIC_CHARACTER_SET);
            let said = found.text(tag::PATIENT_NAME, &found.character_set());
            term == Some(expected) && said.as_deref() == Some(name)
        };
        assert!(found.iter().any(is_named), "{asked}");
        assert_eq!(
            found.len(),
            if asked == "ISO_IR 100" { 2 } else { 1 },
            "{asked}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_is_answered_and_any_station_is_the_one_that_asks() {
    let world = World::new().await;
    world
        .add(r#"{"procedure": "CT head", "patient_id": "P1"}"#)
        .await;
    let step = DataSet::default()
        .with(tag::STATION_AE_TITLE, "CT1")
        .with(tag::STEP_START_DATE, "");
    let query = DataSet::default()
        .with(tag::PATIENT_ID, "")
        // Nobody knows the weight.
        .with(study::dataset::Tag(0x0010, 0x1030), "")
        .with_items(tag::SCHEDULED_STEPS, vec![step]);
    let found = world.find(&query);
    assert_eq!(found.len(), 1);
    let tags: Vec<_> = found[0].tags().collect();
    assert_eq!(
        tags,
        [
            tag::PATIENT_ID,
            study::dataset::Tag(0x0010, 0x1030),
            tag::SCHEDULED_STEPS
        ]
    );
    let step = found[0].item(tag::SCHEDULED_STEPS).unwrap();
    assert_eq!(step.ascii(tag::STATION_AE_TITLE), Some("CT1"));
    let wrong = DataSet::default().with(tag::STEP_START_DATE, "today");
    let wrong = DataSet::default().with_items(tag::SCHEDULED_STEPS, vec![wrong]);
    let Err(refused) = world.orders.worklist(&wrong) else {
        panic!("a date that is none was matched")
    };
    assert_eq!(refused.status, Status::DATA_SET_MISMATCH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_goes_through_its_states_and_no_others() {
    let world = World::new().await;
    let study = StudyUid::parse("1.2.3").unwrap();
    let (create, set) = (OperationKind::Create, OperationKind::Set);
    let step = || begun(&study);
    for (kind, data_set, expected) in [
        (set, ended("COMPLETED", &[]), Status::NO_SUCH_SOP_INSTANCE),
        (create, DataSet::default(), Status::MISSING_ATTRIBUTE),
        (
            create,
            ended("COMPLETED", &[]),
            Status::INVALID_ATTRIBUTE_VALUE,
        ),
        (
            create,
            DataSet::default().with(tag::PERFORMED_STATUS, "IN PROGRESS"),
            Status::MISSING_ATTRIBUTE,
        ),
        (create, step(), Status::SUCCESS),
        (create, step(), Status::DUPLICATE_SOP_INSTANCE),
        (set, ended("FINISHED", &[]), Status::INVALID_ATTRIBUTE_VALUE),
        (set, ended("IN PROGRESS", &["1.2.3.1"]), Status::SUCCESS),
        (
            set,
            ended("COMPLETED", &["1.2.3.1", "x"]),
            Status::INVALID_ATTRIBUTE_VALUE,
        ),
        (set, ended("COMPLETED", &["1.2.3.1"]), Status::SUCCESS),
        (
            set,
            ended("COMPLETED", &["1.2.3.1"]),
            Status::PROCESSING_FAILURE,
        ),
    ] {
        let told = format!("{kind:?} {data_set:?}");
        let answer = world.operate("1.2.9", kind, data_set).await;
        assert_eq!(answer.status, expected, "{told}");
        let is_ended = expected == Status::PROCESSING_FAILURE;
        assert_eq!(answer.error_id, is_ended.then_some(0xA710), "{told}");
    }
    for path in segment_paths(world.folder.path(), "") {
        let bytes = std::fs::read(path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"CANARY"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_step_closes_the_study_when_all_of_it_has_come() {
    let world = World::new().await;
    let study = StudyUid::parse("1.2.3").unwrap();
    let mut watched = Default::default();
    world
        .operate("1.2.9", OperationKind::Create, begun(&study))
        .await;
    world.hold(&instance(&study, "1.2.3.1")).await;
    let rule = crate::vault::BatchRule {
        instances: 16,
        bytes: 1 << 20,
        delay_ms: 1_000_000,
        quiet_period_ms: 1_000_000,
    };
    let closes = || {
        let now = crate::vault::Now::read();
        let due = world
            .vault
            .next_batch(rule, now, &Default::default())
            .unwrap();
        matches!(due, crate::vault::Due::Batch(batch) if batch.closes)
    };
    world.look(&mut watched).await;
    assert!(!closes(), "the step goes on");
    let completed = ended("COMPLETED", &["1.2.3.1", "1.2.3.2"]);
    world.operate("1.2.9", OperationKind::Set, completed).await;
    world.look(&mut watched).await;
    assert!(!closes(), "one has not come");
    // However many associations are open.
    let _attendance = world.vault.attend(&study);
    world.hold(&instance(&study, "1.2.3.2")).await;
    assert!(!closes(), "nobody has looked");
    world.look(&mut watched).await;
    assert!(closes());
    world.hold(&instance(&study, "1.2.3.3")).await;
    assert!(!closes(), "something came after that");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_somebody_else_are_found_and_the_orders_urgency_is_the_studys() {
    let world = World::new().await;
    let json = r#"{"procedure": "CT head", "patient_name": "DOE^JANE", "patient_id": "P1",
                   "accession_number": "A1", "priority": "stat"}"#;
    let taken = world.add(json).await;
    let study = &taken.study_instance_uid;
    let mut watched = Default::default();
    let right = instance(study, "1.2.3.1")
        .with(tag::PATIENT_NAME, "Doe^Jane")
        .with(tag::PATIENT_ID, "P1");
    world.hold(&right).await;
    assert_eq!(world.look(&mut watched).await, []);
    let overview = &world.vault.studies().unwrap()[0];
    assert_eq!(overview.priority, Priority::Stat);
    // What a person says later counts.
    let changed = world.vault.set_priority(study.clone(), Priority::Bulk);
    changed.await.unwrap();
    world.look(&mut watched).await;
    assert_eq!(world.vault.studies().unwrap()[0].priority, Priority::Bulk);

    let other = world.add(json.replace("A1", "A2").as_str()).await;
    let wrong = instance(&other.study_instance_uid, "1.2.4.1")
        .with(tag::ACCESSION_NUMBER, "A9")
        .with(tag::PATIENT_ID, "P2");
    world.hold(&wrong).await;
    let found = world.look(&mut watched).await;
    assert_eq!(
        found,
        [FindingKind::PatientDiffers, FindingKind::AccessionDiffers]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accession_number_alone_binds_nothing_and_is_said() {
    let world = World::new().await;
    world
        .add(r#"{"procedure": "CT head", "accession_number": "A1"}"#)
        .await;
    let study = StudyUid::parse("1.2.3").unwrap();
    let by_hand = instance(&study, "1.2.3.1").with(tag::ACCESSION_NUMBER, "A1");
    world.hold(&by_hand).await;
    let found = world.look(&mut Default::default()).await;
    assert_eq!(found, [FindingKind::OrderElsewhere]);
    assert_eq!(world.find(&all()).len(), 1, "it is still to be done");
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_a_study_shreds_its_order() {
    let world = World::new().await;
    let taken = world.add(r#"{"procedure": "CT head"}"#).await;
    let study = taken.study_instance_uid;
    world.hold(&instance(&study, "1.2.3.1")).await;
    let cancelled = world.orders.cancel(study.clone()).await;
    assert!(matches!(cancelled, Err(OrderError::Begun(_))));
    assert_eq!(segment_paths(world.folder.path(), "document-").len(), 1);
    let erased = world.vault.erase(study, "AB".to_owned(), true);
    erased.await.unwrap();
    assert_eq!(segment_paths(world.folder.path(), "document-").len(), 0);
    assert_eq!(world.orders.list().unwrap().len(), 0);
}
