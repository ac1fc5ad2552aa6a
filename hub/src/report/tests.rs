use identity::NodeKey;
use report::{Draft, RuleError};
use study::StudyUid;

use super::{OpenCase, ReportError};
use crate::archive::ReportState;
use crate::bench::{Bench, Revision, STUDY, Sender, file, wait};
use clock::wall_ms;

const REPORT: u16 = 10;

fn signed(open: &OpenCase, status: &str, key: &NodeKey, bench: &Bench) -> Vec<u8> {
    let draft = format!(r#"{{"status": "{status}", "findings": "none"}}"#);
    let fleet = bench.rooms.fleet.document();
    let previous = open
        .previous
        .as_deref()
        .map(|p| report::verify(p, &fleet).unwrap());
    let document = Draft::from_json(draft.as_bytes())
        .unwrap()
        .complete(open.case.clone(), previous.as_ref(), wall_ms())
        .unwrap();
    report::sign(&document, key)
}

fn study() -> StudyUid {
    StudyUid::parse(STUDY).unwrap()
}

fn one_image(unit: &NodeKey) -> Revision {
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    Sender::default().revise(unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {})
}

async fn bench_with_a_study() -> (Bench, NodeKey) {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    bench.send(&unit, &one_image(&unit)).await;
    wait(|| bench.said(&unit, 8) == 1);
    (bench, unit)
}

#[tokio::test]
async fn a_report_goes_into_the_stream_of_the_unit_that_sent_the_study() {
    let (mut bench, unit) = bench_with_a_study().await;
    let other = bench.unit().await;
    let mut news = bench.rooms.outbox.open(unit.id(), || 1).unwrap();
    let before = news.borrow_and_update().head.seq;
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    assert!(open.complete && open.unit == unit.id());
    let report = signed(&open, "preliminary", &bench.doctor, &bench);
    bench.rooms.reports.file(None, report, false).await.unwrap();
    assert!(news.has_changed().unwrap());
    assert_eq!(news.borrow_and_update().head.seq, before + 1);
    assert_eq!(
        (bench.said(&unit, REPORT), bench.said(&other, REPORT)),
        (1, 0)
    );
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].report,
        ReportState::Preliminary
    );

    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    let report = signed(&open, "final", &bench.doctor, &bench);
    bench
        .rooms
        .reports
        .file(None, report.clone(), false)
        .await
        .unwrap();
    let again = bench.rooms.reports.file(None, report, false).await;
    assert!(
        matches!(again, Err(ReportError::Rule(RuleError::NotNext))),
        "{again:?}"
    );
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].report,
        ReportState::Final
    );
}

#[tokio::test]
async fn a_signer_without_a_credential_is_refused() {
    let (bench, unit) = bench_with_a_study().await;
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    let report = signed(&open, "final", &NodeKey::generate(), &bench);
    let refused = bench.rooms.reports.file(None, report, false).await;
    assert!(
        matches!(refused, Err(ReportError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(bench.said(&unit, REPORT), 0);
}

#[tokio::test]
async fn a_revoked_signer_may_not_sign_back_in_time() {
    let (mut bench, unit) = bench_with_a_study().await;
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    let report = signed(&open, "final", &bench.doctor, &bench);
    // The revocation comes after the time that the report names.
    bench.fleet.revoke(bench.doctor.id(), wall_ms() + 1);
    let document = bench.fleet.document();
    bench.rooms.fleet.apply(document.signed()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let refused = bench.rooms.reports.file(None, report, false).await;
    assert!(
        matches!(refused, Err(ReportError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(bench.said(&unit, REPORT), 0);
}

#[tokio::test]
async fn final_on_an_incomplete_study_must_be_meant() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let revision = one_image(&unit);
    bench
        .rooms
        .inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    assert!(!open.complete);
    let report = signed(&open, "final", &bench.doctor, &bench);
    let refused = bench.rooms.reports.file(None, report.clone(), false).await;
    assert!(matches!(
        refused,
        Err(ReportError::Incomplete {
            readable: 0,
            total: 1,
            ..
        })
    ));
    let filed = bench.rooms.reports.file(None, report, true).await.unwrap();
    let said = filed.document;
    assert_eq!((said.instances_seen, said.instances_total), (0, 1));
}

#[tokio::test]
async fn a_study_of_two_units_needs_the_unit_named() {
    let (mut bench, unit) = bench_with_a_study().await;
    let other = bench.unit().await;
    bench.send(&other, &one_image(&other)).await;
    let unclear = bench.rooms.reports.open_case(&study(), None);
    assert!(matches!(unclear, Err(ReportError::SeveralUnits(_))));
    let open = bench
        .rooms
        .reports
        .open_case(&study(), Some(unit.id()))
        .unwrap();
    assert_eq!(open.unit, unit.id());
}
