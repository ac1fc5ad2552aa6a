//! Duplicates: many associations bring the same SOP Instance UID at the same moment.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

use dimse::Answer;
use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::wait::until;
use serde_json::Value;

use crate::lone::Lone;
use crate::programs;

const ASSOCIATIONS: usize = 16;

const DEADLINE: Duration = Duration::from_secs(60);

const SETTINGS: [(&str, &str); 3] = [
    ("AGENT__PACK__BATCH_INSTANCES", "4"),
    ("AGENT__PACK__BATCH_DELAY", "500ms"),
    ("AGENT__INTAKE__QUIET_PERIOD", "1s"),
];

/// Every association stores its instance at the same moment, twice each.
fn race(unit: &mut Lone, instances: &[Instance]) -> Vec<Answer> {
    let address = unit.dicom();
    let start = Barrier::new(instances.len());
    let store = |instance: &Instance| {
        let modality = Modality::new(address).unwrap();
        let twice = [instance.clone(), instance.clone()];
        start.wait();
        let sending = modality.send(&twice);
        assert!(sending.broken.is_none(), "{:?}", sending.broken);
        sending.answers
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = instances.iter().map(|i| scope.spawn(|| store(i))).collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect()
    })
}

/// Instances of one UID, `kinds` of them different.
fn of_one_uid(seed: u64, kinds: usize) -> Vec<Instance> {
    let first = Phantom::small(seed).slice(5);
    (0..ASSOCIATIONS)
        .map(|number| {
            let mut other = first.clone();
            // The last byte is one of a pixel.
            *other.file.last_mut().unwrap() ^= u8::try_from(number % kinds).unwrap();
            other
        })
        .collect()
}

fn only_study(unit: &Lone) -> Value {
    let status = unit.status();
    assert_eq!(status["studies"].as_array().unwrap().len(), 1, "{status}");
    status["studies"][0].clone()
}

/// The box holds each of the different ones once, and says so.
fn holds_each_once(unit: &Lone, sent: &[Instance]) {
    let wanted: BTreeSet<_> = sent.iter().map(Instance::data_set).collect();
    let study = only_study(unit);
    assert_eq!(study["instances"], wanted.len(), "{study}");
    assert_eq!(study["conflicts"], wanted.len() - 1, "{study}");
    let got = unit.copies(&sent[0].sop, wanted.len());
    let got: BTreeSet<_> = got.iter().map(Instance::data_set).collect();
    assert!(got == wanted, "each copy is one that was sent");
}

fn raced_with(seed: u64, kinds: usize) {
    let place = tempfile::tempdir().unwrap();
    let mut unit = Lone::new(programs(), place.path(), place.path(), &SETTINGS);
    unit.start().unwrap();
    let sent = of_one_uid(seed, kinds);
    let answers = race(&mut unit, &sent);
    assert_eq!(answers.len(), 2 * ASSOCIATIONS);
    assert!(answers.iter().all(|a| a.status.is_success()), "{answers:?}");
    holds_each_once(&unit, &sent);

    until(DEADLINE, "packing", || {
        let study = only_study(&unit);
        (study["bytes_held"] == study["bytes_to_cross"]).then_some(())
    })
    .unwrap();
    holds_each_once(&unit, &sent);

    unit.kill();
    unit.start().unwrap();
    holds_each_once(&unit, &sent);
    // Once more, packed as they are now.
    let answers = race(&mut unit, &sent);
    assert!(answers.iter().all(|a| a.status.is_success()), "{answers:?}");
    holds_each_once(&unit, &sent);
    unit.stop();
}

#[test]
fn sixteen_associations_with_the_same_bytes_leave_one_copy() {
    raced_with(1, 1);
}

#[test]
fn sixteen_associations_with_other_bytes_under_one_uid_leave_every_version() {
    raced_with(2, ASSOCIATIONS);
}

#[test]
fn sixteen_associations_with_four_versions_of_one_uid_leave_four() {
    raced_with(3, 4);
}
