use identity::NodeKey;
use study::StudyUid;

use super::*;
use crate::archive::RevisionState;
use crate::bench::{Bench, Revision, STUDY, file, wait};
use crate::inbox::tests::states;

/// The series of the bench's files.
fn series(bench: &Bench) -> SeriesUid {
    let study = StudyUid::parse(STUDY).unwrap();
    let shown = bench.rooms.archive.show(&study).unwrap().remove(0);
    shown.instance_list[0].series_instance_uid.clone()
}

fn whose(unit: Option<&NodeKey>) -> Whose {
    Whose {
        study: StudyUid::parse(STUDY).unwrap(),
        unit: unit.map(NodeKey::id),
    }
}

/// A hub with one whole group of a study, and one of which the last chunk is missing.
async fn half_here(bench: &mut Bench) -> (NodeKey, Revision) {
    let unit = bench.unit().await;
    let mut sender = bench.sender();
    let files: Vec<(String, Vec<u8>)> = (1..=3)
        .map(|n| {
            let sop = format!("1.2.3.4.1.{n}");
            let bytes = file(STUDY, &sop, n);
            (sop, bytes)
        })
        .collect();
    let named: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(sop, bytes)| (sop.as_str(), bytes.as_slice()))
        .collect();
    let whole = sender.revise(&unit, &named[..1], false, |_| {});
    bench.send(&unit, &whole).await;
    wait(|| states(bench) == [RevisionState::Accepted]);
    let other = sender.revise(&unit, &named[1..], true, |_| {});
    (unit, other)
}

#[tokio::test]
async fn how_urgent_a_study_is_counts_here_at_once_and_is_said_to_its_unit() {
    let mut bench = Bench::new();
    let (unit, _) = half_here(&mut bench).await;
    let inbox = &bench.rooms.inbox;
    inbox
        .wish_priority(whose(None), Priority::Stat)
        .await
        .unwrap();
    let shown = bench.rooms.archive.list().unwrap();
    assert_eq!(shown[0].priority, Priority::Stat);
    let study = StudyUid::parse(STUDY).unwrap();
    let said = Fact::PrioritySet(PrioritySet {
        study: study.clone(),
        priority: Priority::Stat,
    });
    assert_eq!(bench.facts(&unit).last(), Some(&said));

    // Of a study that nobody has sent, somebody has to say whose it is.
    let unknown = |unit| Whose {
        study: StudyUid::parse("9.9").unwrap(),
        unit,
    };
    let refused = inbox.wish_priority(unknown(None), Priority::Stat).await;
    assert!(matches!(refused, Err(WishError::UnknownStudy(_))));
    let named = unknown(Some(unit.id()));
    inbox.wish_priority(named, Priority::Stat).await.unwrap();
    assert_eq!(bench.said(&unit, 4), 2);
}

#[tokio::test]
async fn a_series_is_asked_for_by_one_image_of_each_group_that_lacks_something() {
    let mut bench = Bench::new();
    let (unit, other) = half_here(&mut bench).await;
    let inbox = &bench.rooms.inbox;
    let first = First::Series(series(&bench));
    let asked = inbox.wish_first(whose(None), first.clone()).await.unwrap();
    assert_eq!(asked, 0, "all that is known of it is here");

    inbox
        .take_manifest(unit.id(), other.signed.clone())
        .await
        .unwrap();
    for number in 0..other.chunks.len() - 1 {
        bench.send_chunk(&other, number).await;
    }
    wait(|| bench.rooms.archive.list().unwrap()[0].instances_readable >= 2);
    assert_eq!(inbox.wish_first(whose(None), first).await.unwrap(), 1);
    let Some(Fact::InstancesFirst(said)) = bench.facts(&unit).pop() else {
        panic!("the unit is asked");
    };
    assert_eq!(said.instances.len(), 1);
    assert_ne!(said.instances[0].as_str(), "1.2.3.4.1.1");

    let many = vec![said.instances[0].clone(); INSTANCES_FIRST_MAX + 1];
    let refused = inbox.wish_first(whose(None), First::Instances(many)).await;
    assert!(matches!(refused, Err(WishError::TooMany(_))));
}

#[tokio::test]
async fn where_two_units_sent_a_study_one_is_chosen() {
    let mut bench = Bench::new();
    let (unit, _) = half_here(&mut bench).await;
    let second = bench.unit().await;
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
    let revision = bench.sender().revise(&second, &files, true, |_| {});
    bench.send(&second, &revision).await;
    let inbox = &bench.rooms.inbox;
    let refused = inbox.wish_priors(whose(None)).await;
    assert!(matches!(refused, Err(WishError::SeveralUnits(_))));
    inbox.wish_priors(whose(Some(&second))).await.unwrap();
    assert_eq!((bench.said(&unit, 19), bench.said(&second, 19)), (0, 1));
}
