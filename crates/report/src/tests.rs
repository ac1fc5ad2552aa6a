//! A report's way: draft, document, signature, verification, paper.

use std::collections::BTreeSet;

use identity::cose::{self, CoseError};
use identity::testing::{MADE_AT_MS, TestFleet, VALID_UNTIL_MS};
use identity::{CredentialFault, NodeKey};
use proptest::prelude::*;
use study::{Digest, StudyRoot, StudyUid};

use crate::*;

const NOW: u64 = MADE_AT_MS + 1000;
const JSON: &str = r#"{
    "status": "final",
    "exam": "CT head without contrast",
    "findings": "Hyperdense collection over the left convexity.\nMidline shift 8 mm.",
    "impression": "Acute subdural haematoma.",
    "recommendation": "Neurosurgical referral now.",
    "critical": 1
}"#;

fn draft(status: ReportStatus) -> Draft {
    Draft {
        status,
        ..Draft::from_json(JSON.as_bytes()).unwrap()
    }
}

fn case() -> Case {
    Case {
        study: StudyUid::parse("1.2.3").unwrap(),
        root: StudyRoot::over(&BTreeSet::new()),
        instances_seen: 120,
        instances_total: 120,
    }
}

fn signed_final(key: &NodeKey, at_ms: u64) -> Vec<u8> {
    sign(
        &draft(ReportStatus::Final)
            .complete(case(), None, at_ms)
            .unwrap(),
        key,
    )
}

#[test]
fn a_report_goes_from_json_to_paper() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let signed = signed_final(&doctor, NOW);
    let report = verify(&signed, &fleet.document()).unwrap();
    assert_eq!(report.document.status, ReportStatus::Final);
    assert_eq!(report.credential.key, doctor.id());
    assert_eq!(report.digest(), Digest::of(&signed));
    let text = to_text(&report);
    for expected in [
        "RADIOLOGY REPORT - FINAL\n",
        "Study      1.2.3\n",
        "Images     read on all 120 images\n",
        "Critical   CRITICAL FINDING, LEVEL 1\n",
        "Signed by  Dr. A. Reader, licence L-1\n",
        "Signed at  2026-11-18 11:06 UTC\n",
        "\nFINDINGS\n  Hyperdense collection over the left convexity.\n  Midline shift 8 mm.\n",
        "\nIMPRESSION\n  Acute subdural haematoma.\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert!(!text.contains("COMPARISON"), "an empty section is left out");
    let json = report.to_json();
    assert_eq!(json["impression"], "Acute subdural haematoma.");
    assert_eq!(json["critical"], 1);
    assert_eq!(json["signer"]["name"], "Dr. A. Reader");
}

#[test]
fn a_report_on_part_of_the_images_says_so() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let partial = Case {
        instances_seen: 100,
        ..case()
    };
    let document = draft(ReportStatus::Final)
        .complete(partial, None, NOW)
        .unwrap();
    let text = to_text(&verify(&sign(&document, &doctor), &fleet.document()).unwrap());
    assert!(text.contains("READ ON 100 OF 120 IMAGES"), "{text}");
    let absurd = Case {
        instances_seen: 121,
        ..case()
    };
    let refused = draft(ReportStatus::Final).complete(absurd, None, NOW);
    assert_eq!(
        refused.unwrap_err(),
        RuleError::Counts {
            seen: 121,
            total: 120
        }
    );
}

#[test]
fn a_long_line_is_broken_at_blanks() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let mut long = draft(ReportStatus::Final);
    long.sections.findings = SectionText::parse(&"word ".repeat(100)).unwrap();
    let document = long.complete(case(), None, NOW).unwrap();
    let text = to_text(&verify(&sign(&document, &doctor), &fleet.document()).unwrap());
    assert!(
        text.lines().all(|line| line.chars().count() <= 78),
        "{text}"
    );
    assert_eq!(text.matches("word").count(), 100);
}

#[test]
fn a_signer_without_a_credential_is_refused() {
    let mut fleet = TestFleet::new();
    fleet.add_radiologist("Dr. A. Reader");
    let mallory = NodeKey::generate();
    let refused = verify(&signed_final(&mallory, NOW), &fleet.document()).unwrap_err();
    assert_eq!(
        refused,
        ReportRefusal::NotAllowed(CredentialFault::None(mallory.id()))
    );
    // A radiologist of another fleet, with the right to sign there.
    let mut other = TestFleet::new();
    let stranger = other.add_radiologist("Dr. Elsewhere");
    let refused = verify(&signed_final(&stranger, NOW), &fleet.document()).unwrap_err();
    assert_eq!(
        refused,
        ReportRefusal::NotAllowed(CredentialFault::None(stranger.id()))
    );
}

#[test]
fn the_hub_cannot_sign_a_report() {
    let mut fleet = TestFleet::new();
    let hub = fleet.add_hub("hub.example.org:4433");
    let refused = verify(&signed_final(&hub, NOW), &fleet.document()).unwrap_err();
    assert_eq!(
        refused,
        ReportRefusal::NotAllowed(CredentialFault::None(hub.id()))
    );
}

#[test]
fn a_credential_out_of_its_time_is_refused() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let (key, until_ms, from_ms) = (doctor.id(), VALID_UNTIL_MS, MADE_AT_MS);
    let document = fleet.document();
    let late = verify(&signed_final(&doctor, VALID_UNTIL_MS + 1), &document).unwrap_err();
    assert_eq!(
        late,
        ReportRefusal::NotAllowed(CredentialFault::Expired { key, until_ms })
    );
    let early = verify(&signed_final(&doctor, MADE_AT_MS - 1), &document).unwrap_err();
    assert_eq!(
        early,
        ReportRefusal::NotAllowed(CredentialFault::NotYet { key, from_ms })
    );
}

#[test]
fn revocation_ends_signing_and_leaves_what_was_signed_before() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let (before, after) = (signed_final(&doctor, NOW - 1), signed_final(&doctor, NOW));
    fleet.revoke(doctor.id(), NOW);
    let document = fleet.document();
    assert!(verify(&before, &document).is_ok());
    let (key, at_ms) = (doctor.id(), NOW);
    let refused = verify(&after, &document).unwrap_err();
    assert_eq!(
        refused,
        ReportRefusal::NotAllowed(CredentialFault::Revoked { key, at_ms })
    );
}

#[test]
fn an_altered_report_is_refused() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let signed = signed_final(&doctor, NOW);
    let document = fleet.document();
    for at in 0..signed.len() {
        let mut altered = signed.clone();
        altered[at] ^= 1;
        let refused = verify(&altered, &document).unwrap_err();
        assert!(
            matches!(refused, ReportRefusal::Signature(_)),
            "byte {at}: {refused:?}"
        );
    }
    let huge = vec![0; REPORT_BYTES_MAX + 1];
    assert_eq!(
        verify(&huge, &document),
        Err(ReportRefusal::TooLong(huge.len()))
    );
}

#[test]
fn another_kind_of_document_is_no_report() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let document = draft(ReportStatus::Final)
        .complete(case(), None, NOW)
        .unwrap();
    let payload = minicbor::to_vec(&document).unwrap();
    let bytes = cose::sign1(&doctor, "chasqui/manifest/1", &payload);
    let wrong = CoseError::WrongSignature(doctor.id());
    assert_eq!(
        verify(&bytes, &fleet.document()),
        Err(ReportRefusal::Signature(wrong))
    );
    let later = ReportDocument {
        format: 2,
        ..document
    };
    let refused = verify(&sign(&later, &doctor), &fleet.document());
    assert_eq!(refused, Err(ReportRefusal::UnknownVersion(2)));
}

#[test]
fn reports_follow_each_other_and_overwrite_nothing() {
    use ReportStatus::{Addendum, Final, Preliminary};
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let fleet = fleet.document();
    let complete =
        |status, previous: Option<&VerifiedReport>| draft(status).complete(case(), previous, NOW);
    let file = |status, previous: Option<&VerifiedReport>| {
        verify(&sign(&complete(status, previous).unwrap(), &doctor), &fleet).unwrap()
    };
    assert_eq!(
        complete(Addendum, None).unwrap_err(),
        RuleError::NothingToAdd
    );
    let first = file(Preliminary, None);
    assert_eq!(
        complete(Addendum, Some(&first)).unwrap_err(),
        RuleError::NothingToAdd
    );
    let second = file(Preliminary, Some(&first));
    let last = file(Final, Some(&second));
    assert_eq!(
        complete(Final, Some(&last)).unwrap_err(),
        RuleError::AfterFinal
    );
    assert_eq!(
        complete(Preliminary, Some(&last)).unwrap_err(),
        RuleError::AfterFinal
    );
    let addendum = file(Addendum, Some(&last));
    let another = file(Addendum, Some(&addendum));
    assert_eq!(
        complete(Final, Some(&another)).unwrap_err(),
        RuleError::AfterFinal
    );
    assert_eq!(another.document.previous, Some(addendum.digest()));
    // What a receiver checks: the chain names each report before.
    assert_eq!(another.document.check_follows(Some(&addendum)), Ok(()));
    assert_eq!(
        another.document.check_follows(Some(&last)),
        Err(RuleError::NotNext)
    );
    assert_eq!(
        first.document.check_follows(Some(&last)),
        Err(RuleError::NotNext)
    );
    let elsewhere = Case {
        study: StudyUid::parse("1.2.4").unwrap(),
        ..case()
    };
    let refused = draft(Addendum).complete(elsewhere, Some(&last), NOW);
    assert_eq!(refused.unwrap_err(), RuleError::OtherStudy);
}

#[test]
fn a_report_that_says_nothing_is_refused() {
    let empty = Draft::from_json(br#"{"status": "final", "exam": "CT head", "findings": "  "}"#);
    let refused = empty.unwrap().complete(case(), None, NOW);
    assert_eq!(refused.unwrap_err(), RuleError::Empty);
    // The receiver does not rely on the sender's having looked.
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader");
    let mut document = draft(ReportStatus::Final)
        .complete(case(), None, NOW)
        .unwrap();
    document.sections = Sections::default();
    let refused = verify(&sign(&document, &doctor), &fleet.document());
    assert_eq!(refused, Err(ReportRefusal::Incomplete(RuleError::Empty)));
}

#[test]
fn a_draft_that_is_not_right_is_refused_with_its_field() {
    let field = |json: &str| match Draft::from_json(json.as_bytes()) {
        Err(DraftError::Field { field, source }) => (field, source),
        other => panic!("{other:?}"),
    };
    assert_eq!(field(r#"{"status":"done"}"#), ("status", WordError::Status));
    assert_eq!(
        field(r#"{"status":"final","critical":4}"#),
        ("critical", WordError::Critical(4))
    );
    let language = field(r#"{"status":"final","language":"en_US; x"}"#);
    assert_eq!(language, ("language", WordError::Language));
    let escape = field(r#"{"status":"final","findings":"a\u001b[2Jb"}"#);
    assert_eq!(escape, ("findings", WordError::SectionUnprintable));
    let long = format!(
        r#"{{"status":"final","exam":"{}"}}"#,
        "x".repeat(SECTION_BYTES_MAX + 1)
    );
    let length = SECTION_BYTES_MAX + 1;
    assert_eq!(field(&long), ("exam", WordError::SectionTooLong(length)));
}

#[test]
fn what_is_no_report_json_is_refused_without_quoting_it() {
    for json in [
        "",
        "[]",
        "{",
        r#"{"findings":"x"}"#,
        r#"{"status":"final","patient":"DOE^JANE"}"#,
    ] {
        let refused = Draft::from_json(json.as_bytes()).unwrap_err();
        assert!(
            matches!(refused, DraftError::Json { .. }),
            "{json}: {refused:?}"
        );
        assert!(!format!("{refused}{refused:?}").contains("DOE"));
    }
}

#[test]
fn debug_shows_nothing_clinical() {
    let document = draft(ReportStatus::Final)
        .complete(case(), None, NOW)
        .unwrap();
    assert!(!format!("{document:?}").contains("haematoma"));
}

#[test]
fn six_full_sections_fit() {
    let full = || SectionText::parse(&"x".repeat(SECTION_BYTES_MAX)).unwrap();
    let mut largest = draft(ReportStatus::Final);
    largest.sections = Sections {
        exam: full(),
        technique: full(),
        comparison: full(),
        findings: full(),
        impression: full(),
        recommendation: full(),
    };
    let document = largest.complete(case(), None, u64::MAX).unwrap();
    assert!(sign(&document, &NodeKey::generate()).len() <= REPORT_BYTES_MAX);
}

// A change of a single byte on the wire shows here.
#[test]
fn the_format_is_fixed() {
    let signed = signed_final(&NodeKey::from_seed(&[1; 32]), 7);
    assert_eq!(signed.len(), 316);
    assert!(
        Digest::of(&signed)
            .to_string()
            .starts_with("813a891be345f89a")
    );
}

proptest! {
    #[test]
    fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut fleet = TestFleet::new();
        let doctor = fleet.add_radiologist("Dr. A. Reader");
        let document = fleet.document();
        prop_assert!(verify(&content, &document).is_err());
        let signed = cose::sign1(&doctor, "chasqui/report/1", &content);
        prop_assert!(verify(&signed, &document).is_err());
        let _ = Draft::from_json(&content);
    }

    #[test]
    fn any_text_comes_back_as_it_was(text in "[^\\p{Cc}]{1,500}") {
        prop_assume!(!text.trim().is_empty());
        let section = SectionText::parse(&text).unwrap();
        prop_assert_eq!(section.as_str(), text.trim());
        let bytes = minicbor::to_vec(&section).unwrap();
        prop_assert_eq!(minicbor::decode::<SectionText>(&bytes).unwrap(), section);
    }
}
