//! What the hub's readers ask for, and what the box makes of it.

use journal::{Chain, Fact, Head, InstancesFirst, JournalId, Moment, PrioritySet, PriorsWanted};
use sealing::Pin;
use store::rusqlite;
use study::Priority;

use super::tests::{World, arrival, hold, later, pack, sop};
use super::*;
use crate::keys::Locked;

/// Facts as the next records of the hub's journal.
fn said(world: &World, vault: &Vault, facts: &[Fact]) -> Vec<Vec<u8>> {
    let head = vault.head(&world.hub_journal()).unwrap();
    let mut chain = Chain::resume(world.hub_journal(), head);
    let records = facts.iter().map(|fact| {
        let signed = chain.append(&world.hub, Moment::default(), fact).unwrap();
        signed.bytes
    });
    records.collect()
}

async fn hear(world: &World, vault: &Vault, fact: Fact) {
    let records = said(world, vault, &[fact]);
    vault
        .accept_records(world.hub_journal(), records)
        .await
        .unwrap();
}

async fn consent(vault: &Vault, study: &StudyUid) {
    let basis = journal::ConsentBasis::Spoken;
    vault
        .record_consent(study.clone(), basis, None)
        .await
        .unwrap();
}

/// What our own journal says of priorities.
fn priorities_said(vault: &Vault) -> Vec<Priority> {
    let own = JournalId::own(vault.unit());
    let records = vault.records(&own, 1, usize::MAX).unwrap();
    let mut at = Head::EMPTY;
    let mut said = Vec::new();
    for bytes in records {
        let signed = journal::verify_next(&own, &at, &bytes).unwrap();
        if let Ok(Fact::PrioritySet(set)) = signed.record.fact() {
            said.push(set.priority);
        }
        at = signed.head;
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_word_on_urgency_is_obeyed_said_again_once_and_survives_a_rebuild() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    pack(&vault, later()).await;
    let study = StudyUid::parse("1.2").unwrap();
    consent(&vault, &study).await;
    let set = |priority| {
        Fact::PrioritySet(PrioritySet {
            study: study.clone(),
            priority,
        })
    };
    hear(&world, &vault, set(Priority::Stat)).await;
    hear(&world, &vault, set(Priority::Stat)).await;
    assert_eq!(vault.offerable().unwrap()[0].priority, Priority::Stat);
    assert_eq!(priorities_said(&vault), [Priority::Stat]);
    // Of a study that is not here nothing is said, and the journal goes on.
    let unknown = Fact::PrioritySet(PrioritySet {
        study: StudyUid::parse("9.9").unwrap(),
        priority: Priority::Bulk,
    });
    hear(&world, &vault, unknown).await;
    let bulk = Priority::Bulk;
    vault.set_priority(study.clone(), bulk).await.unwrap();
    drop(vault);
    Vault::put_index_aside(world.folder.path()).unwrap();
    let (vault, _) = world.rebuild().await;
    assert_eq!(vault.offerable().unwrap()[0].priority, bulk);
    assert_eq!(priorities_said(&vault), [Priority::Stat, bulk]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_of_an_instance_that_is_waited_for_goes_first_until_another_is() {
    let world = World::new();
    let vault = world.open().await;
    for batch in 0..2 {
        for slice in 0..4 {
            let sop = format!("1.2.{batch}.{slice}");
            hold(&vault, "1.2", &sop, &sop).await;
        }
        pack(&vault, later()).await;
    }
    let study = StudyUid::parse("1.2").unwrap();
    consent(&vault, &study).await;
    let first = |instances: &[&str]| {
        Fact::InstancesFirst(InstancesFirst {
            study: study.clone(),
            instances: instances.iter().map(|uid| sop(uid)).collect(),
        })
    };
    let waited_for = |vault: &Vault| {
        let mut due = vault.offerable().unwrap();
        due.sort_by_key(|revision| revision.revision);
        let due = due.into_iter();
        due.filter(|revision| revision.revision <= 2)
            .map(|revision| !revision.first.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(waited_for(&vault), [false, false]);
    hear(&world, &vault, first(&["1.2.1.3", "9.9"])).await;
    assert_eq!(waited_for(&vault), [false, true]);
    hear(&world, &vault, first(&["1.2.0.0"])).await;
    assert_eq!(waited_for(&vault), [true, false]);
    hear(&world, &vault, first(&[])).await;
    assert_eq!(waited_for(&vault), [false, false]);
}

/// Holds one instance of a study, of this patient.
async fn hold_of(vault: &Vault, study: &str, patient: &str) -> StudyUid {
    let mut arrival = arrival(study, &format!("{study}.1"), "one");
    let mut id = patient.as_bytes().to_vec();
    id.resize(id.len().next_multiple_of(2), b' ');
    let length = u16::try_from(id.len()).unwrap().to_le_bytes();
    let element = [&[0x10, 0, 0x20, 0][..], b"LO", &length, &id].concat();
    // In the order of tags: behind (0008,xxxx), before (0020,xxxx).
    let tail = arrival.file.len() - tail_bytes(&arrival.file);
    arrival.file.splice(tail..tail, element);
    vault.hold(arrival).await.unwrap();
    pack(vault, later()).await;
    let study = StudyUid::parse(study).unwrap();
    consent(vault, &study).await;
    vault
        .set_priority(study.clone(), Priority::Bulk)
        .await
        .unwrap();
    study
}

/// How many bytes the elements from (0020,000D) on have.
fn tail_bytes(file: &[u8]) -> usize {
    let tag = [0x20, 0, 0x0d, 0];
    let at = file.windows(4).rposition(|window| window == tag).unwrap();
    file.len() - at
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_studies_of_the_patient_are_called_and_nobody_elses() {
    let world = World::new();
    let vault = world.open().await;
    let asked = hold_of(&vault, "1.1", "P-7").await;
    let prior = hold_of(&vault, "1.2", "P-7 ").await;
    let other = hold_of(&vault, "1.3", "P-70").await;
    hear(
        &world,
        &vault,
        Fact::PriorsWanted(PriorsWanted {
            study: asked.clone(),
        }),
    )
    .await;
    assert_eq!(vault.priors_wanted().unwrap(), std::slice::from_ref(&asked));

    // A box that is locked does not know whose they are; it waits for its PIN.
    let pin = Pin::new("a long enough pin").unwrap();
    vault.keys().set_pin(None, &pin).unwrap();
    vault.keys().lock().unwrap();
    assert!(matches!(
        vault.find_priors(&asked),
        Err(FetchError::Locked(Locked))
    ));
    vault.keys().unlock(&pin).unwrap();
    let found = vault.find_priors(&asked).unwrap();
    assert_eq!(found, std::slice::from_ref(&prior));
    vault.call_priors(asked, found).await.unwrap();
    assert!(vault.priors_wanted().unwrap().is_empty());
    let called = vault.offerable().unwrap().into_iter();
    let called: Vec<_> = called.filter(|o| o.called).map(|o| o.study).collect();
    assert_eq!(called, [prior]);
    assert!(!called.contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_is_not_here_has_no_priors() {
    let world = World::new();
    let vault = world.open().await;
    let nowhere = StudyUid::parse("9.9").unwrap();
    let refused = vault.want_priors(nowhere.clone()).await;
    assert!(matches!(refused, Err(VaultError::UnknownStudy(_))));
    let wanted = Fact::PriorsWanted(PriorsWanted { study: nowhere });
    hear(&world, &vault, wanted).await;
    assert!(vault.priors_wanted().unwrap().is_empty());
}

#[test]
fn an_index_of_before_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    let old = store::open_database(&path, &schema::MIGRATIONS[..1]).unwrap();
    old.execute(
        "INSERT INTO study (study_uid, priority, consent, received_at_ms, open)
         VALUES ('1.2', 3, 1, 7, 0)",
        [],
    )
    .unwrap();
    drop(old);
    let new = store::open_database(&path, schema::MIGRATIONS).unwrap();
    let called: rusqlite::Result<(u8, u64)> = new.query_row(
        "SELECT called, (SELECT count(*) FROM priors_wanted) FROM study",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    );
    assert_eq!(called.unwrap(), (0, 0));
}
