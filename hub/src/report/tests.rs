use std::sync::Arc;

use identity::NodeKey;
use journal::Fact;
use journal::ReportStatus::Preliminary;
use report::{Draft, RuleError};
use sealing::open_with;
use study::{Digest, StudyUid};

use super::{OpenCase, ReportError};
use crate::archive::ReportState;
use crate::bench::{Bench, Revision, STUDY, file, wait};
use crate::ledger::LedgerError;
use clock::wall_ms;

const REPORT: u16 = 10;

fn signed(open: &OpenCase, status: &str, key: &NodeKey, bench: &Bench) -> Vec<u8> {
    let draft = format!(r#"{{"status": "{status}", "findings": "none", "critical": 2}}"#);
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

fn one_image(bench: &Bench, unit: &NodeKey) -> Revision {
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    bench
        .sender()
        .revise(unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {})
}

async fn bench_with_a_study() -> (Bench, NodeKey) {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    bench.send(&unit, &one_image(&bench, &unit)).await;
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
    let revision = one_image(&bench, &unit);
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
    bench.send(&other, &one_image(&bench, &other)).await;
    let unclear = bench.rooms.reports.open_case(&study(), None);
    assert!(matches!(unclear, Err(ReportError::SeveralUnits(_))));
    let open = bench
        .rooms
        .reports
        .open_case(&study(), Some(unit.id()))
        .unwrap();
    assert_eq!(open.unit, unit.id());
}

#[tokio::test]
async fn a_report_crosses_sealed_to_its_unit_and_says_what_it_is() {
    let (mut bench, unit) = bench_with_a_study().await;
    let other = bench.unit().await;
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    let report = signed(&open, "preliminary", &bench.doctor, &bench);
    let filed = bench.rooms.reports.file(None, report.clone(), false);
    filed.await.unwrap();
    let facts = bench.facts(&unit);
    let Some(Fact::Report(fact)) = facts.last() else {
        panic!("{facts:?}")
    };
    assert_eq!(fact.report, Digest::of(&report));
    assert_eq!((fact.status, fact.critical), (Preliminary, 2));
    let with =
        |node: &NodeKey| open_with(&bench.stores[&node.id()], "report/1.2.3.4", &fact.sealed);
    assert_eq!(with(&unit).unwrap(), report);
    assert!(with(&other).is_err());

    // The hub's own copy is there for the report after it, also after a restart.
    let bench = bench.reopen();
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    assert_eq!(open.previous, Some(report));

    let inbox = Arc::clone(&bench.rooms.inbox);
    assert!(inbox.scrub().unwrap().damaged.is_empty());
    let rot = |work: &mut store::Work<'_>| -> Result<usize, LedgerError> {
        let rot = "UPDATE report SET sealed = CAST(substr(sealed, 1, 80) || x'00' AS BLOB)";
        Ok(work.sql().execute(rot, [])?)
    };
    bench.rooms.writer.run(rot).await.unwrap();
    assert_eq!(inbox.scrub().unwrap().damaged[0].reports, 1);
    let unopened = bench.rooms.reports.open_case(&study(), None).unwrap_err();
    assert!(
        crate::chain(&unopened).contains("cannot be opened"),
        "{unopened}"
    );
}

#[tokio::test]
async fn a_report_for_a_revoked_unit_is_refused_in_plain_words() {
    let (mut bench, unit) = bench_with_a_study().await;
    bench.fleet.revoke(unit.id(), 1);
    let document = bench.fleet.document();
    bench.rooms.fleet.apply(document.signed()).await.unwrap();
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    let report = signed(&open, "final", &bench.doctor, &bench);
    let refused = bench.rooms.reports.file(None, report, false).await;
    let words = crate::chain(&refused.unwrap_err());
    assert!(words.contains("was revoked"), "{words}");
    assert_eq!(bench.said(&unit, REPORT), 0);
    let open = bench.rooms.reports.open_case(&study(), None).unwrap();
    assert_eq!(open.previous, None);
}
